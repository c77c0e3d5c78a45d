"""What the tools of a request and their parameters are called, and what models may call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property

from claude_proxy.core.json_schema.types import ALL_TYPES, Schema, properties, types
from claude_proxy.core.messages.content import Tool

_CALL_NUMBER = re.compile(r":\d+$")
_NAMESPACE = re.compile(r"^.*[.:/]")


class Vocabulary:
    """The names of tools and of their parameters."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.tools = tools

    @cached_property
    def known(self) -> Mapping[str, Mapping[str, Schema]]:
        """The schemas of the parameters, by the names of tool and parameter."""
        return {name: properties(tool.input_schema) for name, tool in self.tools.items()}

    @cached_property
    def meant(self) -> Mapping[str, Parameters]:
        """The parameters as models may call them, by the tools' names."""
        return {name: Parameters(known) for name, known in self.known.items()}

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all parameters."""
        return frozenset(name for known in self.known.values() for name in known)

    @cached_property
    def elements(self) -> frozenset[str]:
        """The names, in lower case, that may be tags of their own: those of the tools and of their parameters."""
        return frozenset(name.lower() for name in (*self.parameters, *self.known))

    def tool(self, name: str) -> Tool | None:
        """The tool that a model meant by a name."""
        found = _resolve(name.strip(), self.tools)
        return None if found is None else self.tools[found]

    def types(self, tool: Tool | None, parameter: str) -> frozenset[str]:
        """The JSON types that a parameter may have, by the name that a model uses; any that the tool does not have."""
        if tool is None:
            return ALL_TYPES
        schema = self.known[tool.name].get(self.meant[tool.name].meant(parameter), True)
        return types(schema, tool.input_schema)


def _resolve(name: str, tools: Collection[str]) -> str | None:
    """The tool of exactly that name, else by case, else without a namespace, only if unique.

    `functions.Bash`, `default_api.Bash` and `Bash:0` are Bash; `github.create_issue` is `mcp__github__create_issue`.
    """
    if name in tools:
        return name
    bare = _CALL_NUMBER.sub("", name)
    joined = re.sub(r"[.:/]", "__", bare)
    for candidate in (name, bare, joined, f"mcp__{joined}", _NAMESPACE.sub("", bare)):
        found = [tool for tool in tools if tool.lower() == candidate.lower()]
        if candidate and len(found) == 1:
            return found[0]
    return None


class Parameters:
    """The parameters that a tool takes, and which of them a model meant by a name."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)

    def meant(self, name: str) -> str:
        """The one of that name, else by case, else by separators, only if unique; else the name itself."""
        if name in self._known:
            return name
        return self._by_case.get(name.lower()) or self._by_letters.get(_plain(name)) or name

    @cached_property
    def _by_case(self) -> Mapping[str, str | None]:
        return self._by(str.lower)

    @cached_property
    def _by_letters(self) -> Mapping[str, str | None]:
        return self._by(_plain)

    def _by(self, form: Callable[[str], str]) -> Mapping[str, str | None]:
        """The parameters by a form of their names; None for a form that several have."""
        names: dict[str, str | None] = {}
        for name in self._known:
            names[form(name)] = None if form(name) in names else name
        return names


def _plain(name: str) -> str:
    """A parameter's name without case and separators: `filePath`, `file-path` and `file_path` are one."""
    return re.sub(r"[_\s.-]", "", name).lower()
