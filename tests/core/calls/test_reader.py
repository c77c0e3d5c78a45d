"""Reading calls in the canonical notation: which tag closes what, and what a value stands for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core_samples import (
    BASH,
    BOOLEAN,
    INTEGER,
    STRING,
    WRITE,
    Json,
    by_name,
    counter,
    tool,
)

from claude_proxy.core.calls.call import Call
from claude_proxy.core.messages.content import Tool, ToolUse
from claude_proxy.core.reply.read import read_reply


def calls_in(text: str, offered: dict[str, Tool], *, cut: bool = False) -> list[Call]:
    reply = read_reply(text, offered, counter(), cut=cut)
    return [Call(block.name, block.input) for block in reply.content if isinstance(block, ToolUse)]


def block(*invokes: str) -> str:
    return "\n".join(["<function_calls>", *invokes, "</function_calls>"])


def exactly(calls: list[Call]) -> str:
    """Calls in a form in which 1, 1.0 and true differ."""
    return json.dumps([[call.name, call.arguments] for call in calls], indent=1)


CLOSING: list[tuple[str, str, Json]] = [
    (
        "a closing tag before text is part of the value",
        '<invoke name="Write">\n<parameter name="content">a</parameter> b</parameter>\n</invoke>',
        {"content": "a</parameter> b"},
    ),
    (
        "so it is with text between it and a known next parameter",
        '<invoke name="Write">\n<parameter name="content">a</parameter> b <parameter name="file_path">c</parameter>\n'
        "</invoke>",
        {"content": 'a</parameter> b <parameter name="file_path">c'},
    ),
    (
        "a parameter that the tool does not know is one on a line of its own",
        '<invoke name="Write">\n<parameter name="content">a</parameter>\n<parameter name="zip">b</parameter></invoke>',
        {"content": "a", "zip": "b"},
    ),
    (
        "but part of a text of several lines",
        '<invoke name="Write">\n<parameter name="content">\na</parameter>\n<parameter name="z">b</parameter></invoke>',
        {"content": 'a</parameter>\n<parameter name="z">b'},
    ),
    (
        "a parameter that was given already is given anew",
        '<invoke name="Write">\n<parameter name="file_path">/a</parameter>\n<parameter name="content">b</parameter>\n'
        '<parameter name="file_path">c</parameter>\n</invoke>',
        {"file_path": "c", "content": "b"},
    ),
    (
        "an invoke that closes before text is part of the value",
        '<invoke name="Write">\n<parameter name="content">a</parameter>\n</invoke>\nb</parameter>\n</invoke>',
        {"content": "a</parameter>\n</invoke>\nb"},
    ),
    (
        "tags may stand on one line",
        '<invoke name="Write"><parameter name="content">a</parameter> <parameter name="file_path">/</parameter>'
        "</invoke>",
        {"content": "a", "file_path": "/"},
    ),
    (
        "a value marked as JSON",
        '<invoke name="Write">\n<parameter name="content" encoding="json">"a\\n\\u003cb>"</parameter>\n</invoke>',
        {"content": "a\n<b>"},
    ),
    (
        "a value marked as JSON that is none",
        '<invoke name="Write">\n<parameter name="content" encoding="json">a</parameter>\n</invoke>',
        {"content": "a"},
    ),
]


@pytest.mark.parametrize(("invoke", "arguments"), [each[1:] for each in CLOSING], ids=[each[0] for each in CLOSING])
def test_a_tag_closes_only_what_makes_sense(invoke: str, arguments: Json) -> None:
    assert calls_in(block(invoke), by_name(WRITE)) == [Call("Write", arguments)]


def test_several_parameters_that_no_tool_has_are_not_swallowed() -> None:
    invoke = """\
<invoke name="Bash">
<parameter name="command">ls</parameter>
<parameter name="reason">to look</parameter>
<parameter name="mood">curious</parameter>
</invoke>"""
    arguments = {"command": "ls", "reason": "to look", "mood": "curious"}
    assert calls_in(block(invoke), by_name(BASH)) == [Call("Bash", arguments)]


VALUES: list[tuple[Json, str, Any]] = [
    (STRING, "true", "true"),
    (STRING, '"quoted"', '"quoted"'),
    (STRING, " 5 ", " 5 "),
    (INTEGER, "5", 5),
    (INTEGER, "\n5\n", 5),
    (INTEGER, "five", "five"),
    (BOOLEAN, "true", True),
    ({"type": "array"}, '["a", {"b": 1}]', ["a", {"b": 1}]),
    ({"type": "object"}, '{\n  "a": 1\n}', {"a": 1}),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "null"]}, "5", "5"),
    ({"type": ["string", "null"]}, '"null"', "null"),
    ({}, "plain words", "plain words"),
    ({}, "[1]", [1]),
]


@pytest.mark.parametrize(("schema", "written", "value"), VALUES, ids=[f"{s} {w!r}" for s, w, _ in VALUES])
def test_a_value_is_raw_where_only_a_string_may_stand_else_json_if_it_is_any(
    schema: Json, written: str, value: Any
) -> None:
    text = block(f'<invoke name="T">\n<parameter name="v">{written}</parameter>\n</invoke>')
    assert exactly(calls_in(text, by_name(tool("T", {"v": schema})))) == exactly([Call("T", {"v": value})])


def strict_json(arguments: Any) -> str:
    return json.dumps(arguments, allow_nan=False)


@pytest.mark.parametrize("written", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("schema", [{"type": "number"}, {"type": "array"}, {}], ids=str)
def test_numbers_that_json_does_not_allow_are_text(schema: Json, written: str) -> None:
    value = f"[{written}]" if schema.get("type") == "array" else written
    text = block(f'<invoke name="T">\n<parameter name="v">{value}</parameter>\n</invoke>')
    for call in calls_in(text, by_name(tool("T", {"v": schema}))):
        strict_json(call.arguments)


def test_deep_nesting_does_not_make_the_reader_fail() -> None:
    deep = "[" * 100_000
    text = block(f'<invoke name="T">\n<parameter name="v">{deep}</parameter>\n</invoke>')
    assert calls_in(text, by_name(tool("T", {"v": {"type": "array"}})))[0].arguments["v"] in (deep, [deep])
