"""What the model is told about tools: the catalogue, the notation, examples that can be read, and the reminder."""

from __future__ import annotations

import json
import re

import pytest
from core_samples import (
    BASH,
    READ,
    STRING,
    WRITE,
    by_name,
    counter,
    examples,
    tool,
    tools,
)
from hypothesis import given

from claude_proxy.core.content import Tool, ToolChoice, ToolUse
from claude_proxy.core.instructions import describe_tool, describe_tools, remind
from claude_proxy.core.notation import Call, write_calls
from claude_proxy.core.reply import read_reply


def calls_in(text: str, offered: dict[str, Tool], *, cut: bool = False) -> list[Call]:
    reply = read_reply(text, offered, counter(), cut=cut)
    return [Call(block.name, block.input) for block in reply.content if isinstance(block, ToolUse)]


def test_a_tool_is_compact_json_on_one_line() -> None:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"é": STRING}}
    assert describe_tool(Tool("Read", schema, "Reads\na file.")) == (
        '{"name":"Read","description":"Reads\\na file.",'
        '"input_schema":{"type":"object","properties":{"é":{"type":"string"}}}}'
    )


def test_tools_are_listed_once_and_in_their_order() -> None:
    text = describe_tools([WRITE, READ])
    listed = text[text.index("<tools>\n") + 8 : text.index("\n</tools>")].splitlines()
    assert listed == [describe_tool(WRITE), describe_tool(READ)]
    assert [json.loads(line)["name"] for line in listed] == ["Write", "Read"]


def worked_examples(*offered: Tool) -> list[list[Call]]:
    """The calls of the examples behind the description of some tools."""
    _, _, behind = describe_tools(offered).partition("For example")
    written = re.findall(r"<function_calls>\n.*?\n</function_calls>", behind, re.DOTALL)
    found = [calls_in(example, by_name(*offered)) for example in written]
    assert [write_calls(calls, by_name(*offered)) for calls in found] == written
    return found


def test_the_worked_examples_call_the_offered_tools_with_what_they_require() -> None:
    file, pair = worked_examples(READ, WRITE, BASH, tool("List"))
    assert [call.name for call in file] == ["Write"]
    assert len(pair) == 2
    assert any("\n" in value for value in file[0].arguments.values())
    for call in (*file, *pair):
        assert set(call.arguments) == set(by_name(READ, WRITE, BASH)[call.name].input_schema["required"])


@examples(40)
@given(tools("Write"), tools("a"))
def test_the_worked_examples_are_read_as_they_are_written(one: Tool, other: Tool) -> None:
    for calls in worked_examples(one, other):
        assert {call.name for call in calls} <= {"Write", "a"}


REMINDERS: list[tuple[ToolChoice, list[str], list[str]]] = [
    # choice, words that are there, words that are not
    (ToolChoice("auto"), ["<function_calls>", "plain text"], ["must", "single"]),
    (ToolChoice("auto", disable_parallel_tool_use=True), ["single <invoke>", "plain text"], ["must"]),
    (ToolChoice("any"), ["must", "<function_calls>"], ["plain text", "single"]),
    (ToolChoice("any", disable_parallel_tool_use=True), ["must", "single <invoke>"], ["plain text"]),
    (ToolChoice("tool", "Read"), ["must", "Read", "<function_calls>"], ["plain text"]),
    (ToolChoice("none"), ["plain text"], ["<function_calls>", "must"]),
]


@pytest.mark.parametrize(("choice", "there", "not_there"), REMINDERS, ids=[str(choice) for choice, *_ in REMINDERS])
def test_the_reminder_says_how_free_the_model_is(choice: ToolChoice, there: list[str], not_there: list[str]) -> None:
    reminder = remind(choice)
    assert "\n" not in reminder
    assert len(reminder) < 200
    assert [word for word in there if word not in reminder] == []
    assert [word for word in not_there if word in reminder] == []
