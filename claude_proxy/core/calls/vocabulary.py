"""What the tools of a request call their parameters, and what models may call them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from claude_proxy.core.calls.arguments import Parameters
from claude_proxy.core.json_schema.types import properties
from claude_proxy.core.messages.content import Tool


class Vocabulary:
    """The parameters of tools, by the tools' names: with their schemas, and as what models may call them."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.known = {name: properties(tool.input_schema) for name, tool in tools.items()}
        self.meant = {name: Parameters(known) for name, known in self.known.items()}

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all parameters."""
        return frozenset(name for known in self.known.values() for name in known)

    @cached_property
    def elements(self) -> frozenset[str]:
        """The names, in lower case, that may be tags of their own: those of the tools and of their parameters."""
        return frozenset(name.lower() for name in (*self.parameters, *self.known))
