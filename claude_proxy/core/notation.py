r"""Tools and calls as text: how they are shown to the model, and how its calls are read back.

    <function_calls>
    <invoke name="Write">
    <parameter name="file_path">/a.py</parameter>
    <parameter name="content">
    raw text, over as many lines as needed, nothing escaped
    </parameter>
    </invoke>
    </function_calls>

Where a parameter may only be a string, its value stands raw; any other value is JSON, and so is a string that would be
taken for one. A value that starts on the line after its tag loses that first newline and the one before the closing
tag; any other value is taken exactly as it stands.

Nothing is escaped, so a value may hold these very tags. A tag therefore closes something only where what follows makes
sense: `</parameter>` before a known next parameter or `</invoke>`; `</invoke>` before another invoke, the end of the
block or the end of the reply; and of the readings that are left, the one that leaves no tag without its partner, then
the earliest. Where even that would misread a value, the writer says so: `encoding="json"` marks a value as JSON,
whose `<` are written `\u003c`.

Writer and reader stand side by side here; whoever changes one changes the other. Writing then reading gives every
input back exactly, provided that parameter names match `[A-Za-z0-9_.-]+`, as the Messages API demands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from claude_proxy.core import schema as json_schema
from claude_proxy.core.content import Tool, ToolChoice
from claude_proxy.core.schema import Schema

BLOCK_TAG = "<function_calls>"


@dataclass(frozen=True)
class Call:
    """One call as it stands in a text: the tool's name and its arguments, not yet checked against the tool."""

    name: str
    arguments: Mapping[str, Any]


# --- what the model is told -------------------------------------------------------------------------------------------

_HOW_TO_CALL = """\
To call tools, end your reply with one block in exactly this form:

<function_calls>
<invoke name="TOOL_NAME">
<parameter name="PARAMETER_NAME">value</parameter>
</invoke>
</function_calls>

- Write string values raw: no quotes around them, nothing escaped. Write numbers, booleans, arrays and objects as JSON.
- A value of several lines starts on the line after its opening tag and ends on the line before its closing tag.
- For calls that do not depend on each other, put several <invoke> elements into the same block.
- Write the block as plain text, never inside a code fence, and write nothing after it. The results come in the next
  message, inside <tool_result> tags; never write results yourself.
- Only the tools listed above exist. When no tool is needed, answer in plain text without a block.

For illustration only, with tools that may not exist here, a file written and then two independent calls:

I'll create the script.
<function_calls>
<invoke name="save_file">
<parameter name="path">/tmp/greet.py</parameter>
<parameter name="text">
import sys

if len(sys.argv) < 2:
    print("usage: greet \\"NAME\\" & more")
</parameter>
<parameter name="executable">true</parameter>
</invoke>
</function_calls>

Both files matter, so I'll look at them together.
<function_calls>
<invoke name="show_file">
<parameter name="path">/tmp/a.txt</parameter>
</invoke>
<invoke name="show_file">
<parameter name="path">/tmp/b.txt</parameter>
<parameter name="lines">[1, 20]</parameter>
</invoke>
</function_calls>"""


def describe_tools(tools: Iterable[Tool]) -> str:
    """The part of the system text that presents the tools and the notation."""
    catalogue = "\n".join(describe_tool(tool) for tool in tools)
    return (
        "# Tools\n\nYou act through tools. They are, one JSON object a line:\n\n"
        f"<tools>\n{catalogue}\n</tools>\n\n{_HOW_TO_CALL}"
    )


def describe_tool(tool: Tool) -> str:
    """One tool as compact JSON on one line."""
    schema = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    return _json({"name": tool.name, "description": tool.description, "input_schema": schema})


def remind(choice: ToolChoice) -> str:
    """The one line that ends the last user message."""
    if choice.type == "none":
        return "[Answer in plain text; no tool can be called now.]"
    single = " with a single <invoke>" if choice.disable_parallel_tool_use else ""
    block = f"one <function_calls> block{single} at the end of your reply"
    if choice.type == "tool":
        return f"[You must now call the tool {choice.name}, in {block}.]"
    if choice.type == "any":
        return f"[You must now call a tool, in {block}.]"
    return f"[To call tools, write {block}, in the form described under Tools. To answer, write plain text.]"


# --- the writer -------------------------------------------------------------------------------------------------------


def write_calls(calls: Sequence[Call], tools: Mapping[str, Tool]) -> str:
    """Write calls as one block. Calls of tools that are not offered any more are written as if they took anything."""
    return "\n".join([BLOCK_TAG, *(_write_call(call, tools) for call in calls), "</function_calls>"])


def _write_call(call: Call, tools: Mapping[str, Tool]) -> str:
    written = _write_invoke(call, tools, encoded=False)
    block = Reader(f"{BLOCK_TAG}\n{written}\n</function_calls>", tools).read(0)
    return written if block.calls == (call,) else _write_invoke(call, tools, encoded=True)


def _write_invoke(call: Call, tools: Mapping[str, Tool], *, encoded: bool) -> str:
    lines = [f'<invoke name="{call.name}">']
    for name, value in call.arguments.items():
        if encoded:
            text = _json(value).replace("<", "\\u003c")
            lines.append(f'<parameter name="{name}" encoding="json">{text}</parameter>')
        else:
            text = _write_value(value, *_schema_of(call.name, name, tools))
            lines.append(f'<parameter name="{name}">{text}</parameter>')
    return "\n".join([*lines, "</invoke>"])


def _write_value(value: Any, schema: Schema, root: Schema) -> str:
    if not isinstance(value, str):
        return _json(value)
    if _read_value(value, schema, root) != value:
        return _json(value)
    return f"\n{value}\n" if "\n" in value else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _schema_of(tool: str, parameter: str, tools: Mapping[str, Tool]) -> tuple[Schema, Schema]:
    """The schema of a parameter, and the document that its references point into."""
    root = tools[tool].input_schema if tool in tools else True
    return json_schema.properties(root).get(parameter, True), root


# --- the reader -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallBlock:
    """What was read from a block.

    Attributes:
        calls: the calls that are whole, in their order.
        start: where the block starts in the text.
        end: where it ends.
        truncated: whether the text ends inside a call.
    """

    calls: tuple[Call, ...]
    start: int
    end: int
    truncated: bool


class _Tag(NamedTuple):
    start: int
    end: int
    kind: str  # "function_calls", "invoke" or "parameter", after "/" where it closes
    name: str
    encoded: bool


_TAG = re.compile(r'<(/?(?:function_calls|invoke|parameter))(?:\s+name="([^"]*)")?(\s+encoding="json")?\s*>')


class _Outlook(IntEnum):
    """How the rest of a text reads at best, from a given tag on."""

    TRUNCATED = 0  # the text ends inside a call
    LEFTOVER = 1  # a tag is left over that nothing opened or closed
    LIKELY_TRUNCATED = 2  # the text ends inside a call, and is known to have been cut off
    WHOLE = 3


class Reader:
    """Reads the blocks of calls in a reply.

    Outlooks are computed once, from the last tag to the first, for each state that reading can be in before a tag:
    outside any block, inside a block, inside an invoke, inside a value. With them the reader need not try and go back:
    at each tag that could close a value it sees whether closing here lets the rest be read as well as it can be. So
    reading takes time in proportion to the text.
    """

    def __init__(self, text: str, tools: Mapping[str, Tool], *, cut: bool = False) -> None:
        """Look the tags of a reply over.

        Args:
            text: the reply, as it came out of the module, which has decoded its entities.
            tools: the tools that may be called, by name.
            cut: whether the reply is known to have been cut off.
        """
        self.text = text
        self.tools = tools
        self.cut = cut
        self.tags = [
            _Tag(match.start(), match.end(), match[1], match[2] or "", match[3] is not None)
            for match in _TAG.finditer(text)
        ]
        ends = [tag.start for tag in self.tags[1:]] + [len(text)] * bool(self.tags)
        # Whether nothing but white space stands between a tag and the next one, or the end.
        self.adjacent = [not text[tag.end : end].strip() for tag, end in zip(self.tags, ends, strict=True)]
        self._look_ahead(_Outlook.LIKELY_TRUNCATED if cut else _Outlook.TRUNCATED)

    def _look_ahead(self, truncated: _Outlook) -> None:
        count = len(self.tags)
        self.outside = [_Outlook.WHOLE] * (count + 1)
        self.in_block = [_Outlook.WHOLE] * (count + 1)
        self.in_invoke = [truncated] * (count + 1)
        self.in_value = [truncated] * (count + 1)
        for index in range(count - 1, -1, -1):
            kind, following = self.tags[index].kind, index + 1
            opened = {"function_calls": self.in_block, "invoke": self.in_invoke}.get(kind)
            self.outside[index] = opened[following] if opened else _Outlook.LEFTOVER
            ended = kind == "/function_calls"
            self.in_block[index] = self.outside[following] if ended else self.outside[index]
            self.in_invoke[index] = {
                "parameter": self.in_value[following],
                "/invoke": self.in_block[following] if self._may_end_invoke(index) else _Outlook.LEFTOVER,
            }.get(kind, _Outlook.LEFTOVER)
            swallowed = self.in_value[following]
            may_close = self._may_end_value(index)
            self.in_value[index] = max(swallowed, self.in_invoke[following]) if may_close else swallowed

    def _may_end_value(self, index: int) -> bool:
        """Whether a tag is a `</parameter>` with a parameter or the end of the invoke right behind it."""
        following = self._kind(index + 1)
        return self._kind(index) == "/parameter" and self.adjacent[index] and following in {"parameter", "/invoke"}

    def _may_end_invoke(self, index: int) -> bool:
        """Whether a tag is an `</invoke>` with another invoke, the end of the block or of the text right behind it."""
        following = self._kind(index + 1)
        return (
            self._kind(index) == "/invoke" and self.adjacent[index] and following in {"invoke", "/function_calls", None}
        )

    def _kind(self, index: int) -> str | None:
        return self.tags[index].kind if index < len(self.tags) else None

    def openings(self) -> list[int]:
        """The tags, by index, that may open a block: `<invoke>`, and `<function_calls>` before one or at the end."""
        return [index for index in range(len(self.tags)) if self._opens(index)]

    def _opens(self, index: int) -> bool:
        if self._kind(index) == "function_calls":
            return self.adjacent[index] and self._kind(index + 1) in {"invoke", None}
        return self._kind(index) == "invoke"

    def is_whole(self, opening: int) -> bool:
        """Whether the block that a tag opens can be read without a tag too many or too few to the end of the text."""
        return self.outside[opening] == _Outlook.WHOLE

    def read(self, opening: int) -> CallBlock:
        """Read the block that a tag opens, until it ends, or the text."""
        start = self.tags[opening].start
        calls: list[Call] = []
        index = opening + (self._kind(opening) == "function_calls")
        while self._kind(index) == "invoke":
            call, index = self._read_invoke(index)
            if call is None:
                return CallBlock(tuple(calls), start, len(self.text), truncated=True)
            calls.append(call)
        if self._kind(index) == "/function_calls":
            return CallBlock(tuple(calls), start, self.tags[index].end, truncated=False)
        end = self.tags[index - 1].end if calls else len(self.text)
        return CallBlock(tuple(calls), start, end, truncated=not calls)

    def _read_invoke(self, index: int) -> tuple[Call | None, int]:
        """Read the call whose tag is at `index`: the call, or None if it is cut, and the index behind it."""
        name = self.tags[index].name
        known = json_schema.properties(self.tools[name].input_schema) if name in self.tools else {}
        arguments: dict[str, Any] = {}
        index += 1
        while self._kind(index) == "parameter":
            opening = self.tags[index]
            given = {*arguments, opening.name}
            closing = self._find_value_end(index + 1, known, given)
            if closing is None:
                return None, len(self.tags)
            raw = self.text[opening.end : self.tags[closing].start]
            arguments[opening.name] = self._value(raw, opening, name)
            index = closing + 1
        return (Call(name, arguments), index + 1) if self._kind(index) == "/invoke" else (None, len(self.tags))

    def _find_value_end(self, index: int, known: Collection[str], given: Container[str]) -> int | None:
        """The index of the tag that closes the value which begins before tag `index`.

        Behind it the invoke ends, or a parameter begins that the tool knows and that has not been given yet.
        """
        best = self.in_value[index]
        for closing in range(index, len(self.tags)):
            if (
                self._may_end_value(closing)
                and self.in_invoke[closing + 1] == best
                and (self._kind(closing + 1) == "/invoke" or self._is_next(closing + 1, known, given))
            ):
                return closing
        return None

    def _is_next(self, index: int, known: Collection[str], given: Container[str]) -> bool:
        name = self.tags[index].name
        return name not in given and (not known or name in known)

    def _value(self, raw: str, tag: _Tag, tool: str) -> Any:
        schema, root = _schema_of(tool, tag.name, self.tools)
        if tag.encoded:
            return _parse_json(raw, json_schema.ALL_TYPES, otherwise=raw)
        return _read_value(_unframe(raw), schema, root)


def _unframe(raw: str) -> str:
    """Drop the newline behind the opening tag and the one before the closing tag of a value on lines of its own."""
    return raw[1:].removesuffix("\n") if raw.startswith("\n") else raw


def _read_value(text: str, schema: Schema, root: Schema) -> Any:
    """The value that a parameter's text stands for: raw where only strings are allowed, else JSON if it is any."""
    allowed = json_schema.types(schema, root)
    return text if allowed == {"string"} else _parse_json(text, allowed, otherwise=text)


def _parse_json(text: str, allowed: frozenset[str], *, otherwise: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
    return value if json_schema.type_of(value) in allowed else otherwise
