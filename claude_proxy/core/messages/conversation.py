"""`messages` of a request -> the conversation as the model is to read it.

Beyond the form of each message there is order: which roles may follow each other, which results belong to which calls,
which `system` messages have been cleared, what a summary has superseded, which tools have come and gone. What can be
mended is mended and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from claude_proxy.core.messages.blocks import read_content
from claude_proxy.core.messages.content import MessageParam, Role, Text, Tool, ToolResult, ToolUse
from claude_proxy.core.messages.json_node import Node, Read, Tally, read_apart, run_reading
from claude_proxy.core.messages.tools import read_tool
from claude_proxy.core.steps import Json, Runner
from claude_proxy.errors import InvalidRequest

PREFILL_REFUSED = (
    "This model does not support assistant message prefill. The conversation must end with a user message."
)


@dataclass(frozen=True)
class Conversation:
    """What was read from `messages`."""

    messages: tuple[MessageParam, ...]
    prefill: str
    added: tuple[Tool, ...]
    withdrawn: frozenset[str]


def read_conversation(field: Node, tools: tuple[Tool, ...], model: str, run: Runner) -> Conversation:
    """Read `messages`, given the tools that the request offers from the beginning.

    Raises:
        InvalidRequest: a message breaks the API's rules.
    """
    entries = field.items()
    if not entries:
        field.fail("at least one message is required")
    messages = [run_reading(run, read_message, entry) for entry in entries]
    added, withdrawn = _tool_changes(entries, tools, model)
    start = _start(entries)
    shown, prefill = _split_prefill(_without_cleared(entries, messages)[start:])
    pairing = _Pairing(field.tally)
    for message in shown:
        pairing.add(message)
    pairing.end_turn()
    return Conversation(tuple(pairing.messages), prefill, added, withdrawn)


def read_message(entry: Json, version: str) -> Read[MessageParam]:
    """Read one message: a step.

    Raises:
        InvalidRequest: it breaks the rules of this API version.
    """
    return read_apart(entry, version, _message)


def _message(entry: Node) -> MessageParam:
    role = cast("Role", entry.require("role").one_of("user", "assistant", "system"))
    entry.allow("role", "content", *(("clear_at", "output_config") if role == "system" else ()))
    if role == "system" and entry.get("content") is None and entry.get("output_config"):
        return MessageParam(role, ())  # a directive only
    return MessageParam(role, tuple(read_content(entry.require("content"), role)))


def _without_cleared(entries: Sequence[Node], messages: Sequence[MessageParam]) -> list[MessageParam]:
    """Empty the `system` messages that a later user message has cleared."""
    last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    return [
        replace(message, content=())
        if message.role == "system" and index < last_user and entry.object().get("clear_at") == "next_user_message"
        else message
        for index, (entry, message) in enumerate(zip(entries, messages, strict=True))
    ]


def _start(entries: Sequence[Node]) -> int:
    """The index of the last message that holds a summary, which stands for everything before it; 0 without one."""
    for index in range(len(entries) - 1, 0, -1):
        content = entries[index].object().get("content")
        if isinstance(content, list) and any(_is_summary(block) for block in content):
            return index
    return 0


def _is_summary(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "compaction" and block.get("content") is not None


def _split_prefill(messages: list[MessageParam]) -> tuple[list[MessageParam], str]:
    """The conversation up to the user's last word, and the beginning of the reply that stands behind it."""
    end = max((index + 1 for index, message in enumerate(messages) if message.role != "assistant"), default=0)
    said = [block for message in messages[end:] for block in message.content]
    if not said:
        return messages, ""
    texts = [block.text for block in said if isinstance(block, Text)]
    if len(texts) < len(said) or not end:
        raise InvalidRequest(PREFILL_REFUSED)
    return messages[:end], "\n".join(texts)


# --- calls and their results ------------------------------------------------------------------------------------------

_NO_RESULT = "No result of this call was recorded."


class _Pairing:
    """Gives every call a result in the user's turn behind it. What is missing or left over is counted."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.messages: list[MessageParam] = []
        self._behind = 0  # where in `messages` the turn behind the calls begins
        self._open: dict[str, None] = {}  # ids of calls that still want a result, in their order
        self._ids: set[str] = set()

    def add(self, message: MessageParam) -> None:
        """Take the next message."""
        if message.role == "assistant" and self.messages and self.messages[-1].role != "assistant":
            self.end_turn()
        for block in message.content:
            if isinstance(block, ToolUse):
                self._tally.mended += block.id in self._ids
                self._ids.add(block.id)
                self._open[block.id] = None
            elif isinstance(block, ToolResult):
                self._tally.mended += block.tool_use_id not in self._open
                self._open.pop(block.tool_use_id, None)
        self.messages.append(message)
        if message.role == "assistant":
            self._behind = len(self.messages)

    def end_turn(self) -> None:
        """Give the calls that have been left without a result one that says so."""
        if not self._open:
            return
        self._tally.mended += len(self._open)
        results = [ToolResult(tool_use_id, (Text(_NO_RESULT),), is_error=True) for tool_use_id in self._open]
        self._open.clear()
        for place in range(self._behind, len(self.messages)):
            if self.messages[place].role == "user":
                content = (*results, *self.messages[place].content)
                self.messages[place] = replace(self.messages[place], content=content)
                return
        self.messages.insert(self._behind, MessageParam("user", tuple(results)))


# --- tools that come and go -------------------------------------------------------------------------------------------


def _tool_changes(
    entries: Sequence[Node], tools: tuple[Tool, ...], model: str
) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """The tools that `tool_addition`s define, and the names of those that are withdrawn in the end."""
    added: dict[str, Tool] = {}
    withdrawn: set[str] = set()
    for change in _changes(entries):
        tool = change.require("tool")
        if tool.require("type").string() == "tool_definition":
            definition = tool.require("definition")
            definition.limit_depth()
            if defined := read_tool(definition, model):
                added[defined.name] = replace(defined, defer_loading=True)  # it is shown where it is added
                withdrawn.discard(defined.name)
            continue
        name = tool.require("name").string()
        if name not in added and name not in {known.name for known in tools}:
            raise InvalidRequest(
                f"Tool reference '{name}' not found in available tools",
                tool.path,
                details={"error_code": "tool_reference_unresolved"},
            )
        if change.value["type"] == "tool_addition":
            withdrawn.discard(name)
        else:
            withdrawn.add(name)
    names = {tool.name for tool in tools}
    return tuple(tool for name, tool in added.items() if name not in names), frozenset(withdrawn)


def _changes(entries: Sequence[Node]) -> Iterable[Node]:
    for entry in entries:
        if entry.value["role"] == "system" and isinstance(entry.value.get("content"), list):
            for block in entry.require("content").items():
                if block.value["type"] in {"tool_addition", "tool_removal"}:
                    yield block.tagged(block.value["type"])
