"""What the tools of a request and their parameters are called, and what models may call them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TypeVar

from claude_proxy.core.json_schema.types import ALL_TYPES, Schema, properties, types
from claude_proxy.core.messages.content import Tool

T = TypeVar("T")

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
        """The tool of exactly that name, else by case, else without a namespace, only if unique.

        `functions.Bash`, `default_api.Bash` and `Bash:0` are Bash; `github.create_issue` is
        `mcp__github__create_issue`.
        """
        name = name.strip()
        if name in self.tools:
            return self.tools[name]
        bare = _CALL_NUMBER.sub("", name)
        joined = re.sub(r"[.:/]", "__", bare)
        for candidate in (name, bare, joined, f"mcp__{joined}", _NAMESPACE.sub("", bare)):
            if found := self._by_case.get(candidate.lower()):
                return found
        return None

    @cached_property
    def _by_case(self) -> Mapping[str, Tool | None]:
        """The tools by their names in lower case; None for a name that several have."""
        return _unique(self.tools.items(), str.lower)

    def types(self, tool: Tool | None, parameter: str) -> frozenset[str]:
        """The JSON types that a parameter may have, by the name that a model uses; any that the tool does not have."""
        if tool is None:
            return ALL_TYPES
        schema = self.known[tool.name].get(self.meant[tool.name].meant(parameter), True)
        return types(schema, tool.input_schema)


def _unique(named: Iterable[tuple[str, T]], form: Callable[[str], str]) -> dict[str, T | None]:
    """What has a name, by a form of that; None for a form that several share."""
    found: dict[str, T | None] = {}
    for name, value in named:
        found[form(name)] = None if form(name) in found else value
    return found


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
        return _unique(zip(self._known, self._known, strict=True), str.lower)

    @cached_property
    def _by_letters(self) -> Mapping[str, str | None]:
        return _unique(zip(self._known, self._known, strict=True), _plain)


def _plain(name: str) -> str:
    """A parameter's name without case and separators: `filePath`, `file-path` and `file_path` are one."""
    return re.sub(r"[_\s.-]", "", name).lower()
