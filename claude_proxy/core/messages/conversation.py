"""`messages` of a request -> the conversation as the model is to read it.

Beyond the form of each message there is order: which roles may follow each other, which results belong to which calls,
which `system` messages have been cleared, what a summary has superseded, which tools have come and gone. Lenient rules
mend what can be mended and count it; strict ones refuse it in the real API's words.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, cast

from claude_proxy.core.memo import Memo
from claude_proxy.core.messages.blocks import read_content
from claude_proxy.core.messages.content import MessageParam, Role, Text, Tool, ToolResult, ToolUse
from claude_proxy.core.messages.json_node import Node
from claude_proxy.core.messages.tools import read_tool
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


def read_conversation(field: Node, tools: tuple[Tool, ...], model: str, memo: Memo) -> Conversation:
    """Read the messages.

    Args:
        field: `messages`.
        tools: the tools that the request offers from the beginning.
        model: the model's name, for the sentence that refuses a tool type.
        memo: the messages that were read before.

    Raises:
        InvalidRequest: a message breaks the API's rules.
    """
    entries = field.items()
    if not entries:
        field.fail("at least one message is required")
    messages = [entry.recall(memo, "message", _message) for entry in entries]
    if field.rules.strict:
        _check_placement(entries, messages)
    added, withdrawn = _tool_changes(entries, tools, model, memo)
    if field.rules.strict:
        _check_references(entries, {tool.name for tool in (*tools, *added)})
    start = _start(entries)
    shown, prefill = _split_prefill(field, _without_cleared(entries, messages)[start:])
    pairing = _Pairing(field)
    for index, message in enumerate(shown, start):
        pairing.add(index, message)
    pairing.end_turn()
    return Conversation(tuple(pairing.messages), prefill, added, withdrawn)


def _message(entry: Node) -> MessageParam:
    role = cast("Role", entry.require("role").one_of("user", "assistant", "system"))
    entry.allow("role", "content", *(("clear_at", "output_config") if role == "system" else ()))
    if entry.rules.strict and role == "system":
        _check_directives(entry)
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


def _split_prefill(field: Node, messages: list[MessageParam]) -> tuple[list[MessageParam], str]:
    """The conversation up to the user's last word, and the beginning of the reply that stands behind it."""
    end = max((index + 1 for index, message in enumerate(messages) if message.role != "assistant"), default=0)
    said = [block for message in messages[end:] for block in message.content]
    if not said:
        return messages, ""
    texts = [block.text for block in said if isinstance(block, Text)]
    if field.rules.strict or len(texts) < len(said) or not end:
        raise InvalidRequest(PREFILL_REFUSED)
    return messages[:end], "\n".join(texts)


# --- what only strict rules check -------------------------------------------------------------------------------------


def _check_directives(entry: Node) -> None:
    if config := entry.get("output_config"):
        config.need_beta("mid-conversation-output-config-2026-07-01")
    clear_at = entry.get("clear_at")
    if not clear_at:
        return
    clear_at.need_beta("mid-conversation-system-clear-at-2026-08-21")
    clear_at.one_of("next_user_message", "never")
    content = entry.require("content").value
    if config or (isinstance(content, list) and not all(_is_plain_text(block) for block in content)):
        clear_at.fail("only text can be cleared, without output_config or cache_control")


def _is_plain_text(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "text" and block.get("cache_control") is None


_DIRECTIVE = "the directive-only form (content: [] with output_config) is accepted at any position"


def _check_placement(entries: Sequence[Node], messages: Sequence[MessageParam]) -> None:
    """What the real API demands of the order of messages (its words are of October 2026)."""
    for index, (entry, message) in enumerate(zip(entries, messages, strict=True)):
        if message.role == "system":
            _check_system(entries, index)
        elif not entry.value.get("content") and not (message.role == "assistant" and index == len(messages) - 1):
            entry.fail("all messages must have non-empty content except for the optional final assistant message")


def _check_system(entries: Sequence[Node], index: int) -> None:
    entry = entries[index]
    if entry.value.get("output_config") is not None and not entry.value.get("content"):
        return
    if not entry.value.get("content"):
        entry.fail("system content must contain at least one block")
    if index == 0:
        entry.fail(f"use the top-level 'system' parameter for the initial system prompt; {_DIRECTIVE}")
    before, after = entries[index - 1].value, entries[index + 1].value if index + 1 < len(entries) else None
    if before["role"] == "assistant" and not _ends_in_server_result(before.get("content")):
        entry.fail(
            "role 'system' must follow a 'user' message or an 'assistant' message ending in a server tool result; "
            + _DIRECTIVE
        )
    if after is not None and after["role"] == "user":
        entry.fail(f"role 'system' must precede an 'assistant' message or end the array; {_DIRECTIVE}")


def _ends_in_server_result(content: Any) -> bool:
    last = content[-1] if isinstance(content, list) and content else None
    return isinstance(last, dict) and str(last.get("type")).endswith("_tool_result")


# --- calls and their results ------------------------------------------------------------------------------------------

_NO_RESULT = "No result of this call was recorded."


class _Pairing:
    """Gives every call a result in the user's turn behind it. What is missing or left over is refused or counted."""

    def __init__(self, field: Node) -> None:
        self._field = field
        self.messages: list[MessageParam] = []
        self._behind = 0  # where in `messages` the turn behind the calls begins
        self._open: dict[str, int] = {}  # ids of calls that still want a result, and the index of their message
        self._turn: set[str] = set()  # ids that a result may belong to
        self._ids: set[str] = set()

    def add(self, index: int, message: MessageParam) -> None:
        """Take the next message, which has this index in the request."""
        if message.role == "assistant" and self.messages and self.messages[-1].role != "assistant":
            self.end_turn()
            self._turn = set()
        for position, block in enumerate(message.content):
            path = f"messages.{index}.content.{position}"
            if isinstance(block, ToolUse):
                self._call(block.id, index, path)
            elif isinstance(block, ToolResult):
                self._settle(block.tool_use_id, path)
        self.messages.append(message)
        if message.role == "assistant":
            self._behind = len(self.messages)

    def _call(self, tool_use_id: str, index: int, path: str) -> None:
        if tool_use_id in self._ids:
            self._mend("`tool_use` ids must be unique", path)
        self._ids.add(tool_use_id)
        self._turn.add(tool_use_id)
        self._open[tool_use_id] = index

    def _settle(self, tool_use_id: str, path: str) -> None:
        if tool_use_id in self._open:
            del self._open[tool_use_id]
        elif tool_use_id in self._turn:
            self._mend("each tool_use must have a single result", path)
        else:
            self._mend(
                f"unexpected `tool_use_id` found in `tool_result` blocks: {tool_use_id}. Each `tool_result` block must "
                "have a corresponding `tool_use` block in the previous message.",
                path,
            )

    def end_turn(self) -> None:
        """Give the calls that have been left without a result one that says so."""
        if not self._open:
            return
        self._mend(
            f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(self._open)}. Each "
            "`tool_use` block must have a corresponding `tool_result` block in the next message.",
            f"messages.{next(iter(self._open.values()))}",
            len(self._open),
        )
        results = [ToolResult(tool_use_id, (Text(_NO_RESULT),), is_error=True) for tool_use_id in self._open]
        self._open.clear()
        for place in range(self._behind, len(self.messages)):
            if self.messages[place].role == "user":
                content = (*results, *self.messages[place].content)
                self.messages[place] = replace(self.messages[place], content=content)
                return
        self.messages.insert(self._behind, MessageParam("user", tuple(results)))

    def _mend(self, breach: str, path: str, count: int = 1) -> None:
        if self._field.rules.strict:
            raise InvalidRequest(breach, path)
        self._field.tally.mended += count


# --- tools that come and go -------------------------------------------------------------------------------------------


def _tool_changes(
    entries: Sequence[Node], tools: tuple[Tool, ...], model: str, memo: Memo
) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """The tools that `tool_addition`s define, and the names of those that are withdrawn in the end."""
    added: dict[str, Tool] = {}
    withdrawn: set[str] = set()
    for change in _changes(entries):
        tool = change.require("tool")
        if tool.require("type").string() == "tool_definition":
            if defined := tool.require("definition").recall(memo, "added tool", partial(_added_tool, model=model)):
                added[defined.name] = defined
                withdrawn.discard(defined.name)
            continue
        name = tool.require("name").string()
        if name not in added and name not in {known.name for known in tools}:
            _refuse_reference(name, tool.path)
        if change.value["type"] == "tool_addition":
            withdrawn.discard(name)
        else:
            withdrawn.add(name)
    names = {tool.name for tool in tools}
    return tuple(tool for name, tool in added.items() if name not in names), frozenset(withdrawn)


def _added_tool(definition: Node, model: str) -> Tool | None:
    tool = read_tool(definition, model)
    return tool and replace(tool, defer_loading=True)  # it is shown where it is added


def _refuse_reference(name: str, path: str) -> NoReturn:
    raise InvalidRequest(
        f"Tool reference '{name}' not found in available tools",
        path,
        details={"error_code": "tool_reference_unresolved"},
    )


def _check_references(entries: Sequence[Node], names: Container[str]) -> None:
    """Refuse a `tool_reference` in a result that names no tool; lenient rules leave it to a note."""
    for entry in entries:
        blocks = entry.require("content").items() if isinstance(entry.value.get("content"), list) else []
        for block in blocks:
            content = block.get("content") if block.value["type"] == "tool_result" else None
            for item in content.items() if content and isinstance(content.value, list) else []:
                if item.value["type"] == "tool_reference" and item.value["tool_name"] not in names:
                    _refuse_reference(item.value["tool_name"], item.path)


def _changes(entries: Sequence[Node]) -> Iterable[Node]:
    for entry in entries:
        if entry.value["role"] == "system" and isinstance(entry.value.get("content"), list):
            for block in entry.require("content").items():
                if block.value["type"] in {"tool_addition", "tool_removal"}:
                    yield block.tagged(block.value["type"])
