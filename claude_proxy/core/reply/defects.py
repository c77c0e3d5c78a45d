"""What is wrong with a reply that plainly meant a call, in a sentence that the model can mend it by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from claude_proxy.core.messages.content import Tool

EMPTY = "the reply is empty"
UNREADABLE = "it could not be read"


def unknown_tool(name: str, tools: Mapping[str, Tool]) -> str:
    """A tool is called that is not offered."""
    shown = ", ".join(tool.name for tool in tools.values() if not tool.defer_loading)
    return f"there is no tool named {name!r}; the tools are {shown}"


def missing_arguments(tool: Tool, missing: Iterable[str]) -> str:
    """A call lacks arguments that its tool requires."""
    return f"the call of {tool.name} lacks {', '.join(sorted(missing))}"
