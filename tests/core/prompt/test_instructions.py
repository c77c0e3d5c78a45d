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
    Json,
    assistant,
    by_name,
    conversation,
    counter,
    examples,
    parse,
    tool,
    tool_json,
    tools,
    user,
    write_calls,
)
from hypothesis import given

from claude_proxy.core.calls.call import Call
from claude_proxy.core.messages.content import Tool, ToolUse
from claude_proxy.core.prompt.instructions import describe_output, describe_tool, describe_tools, remind
from claude_proxy.core.reply.read import read_reply


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


def test_examples_of_inputs_stand_beside_the_schema() -> None:
    described = json.loads(describe_tool(Tool("a", {"type": "object"}, input_examples=({"x": 1}, {}))))
    assert list(described) == ["name", "description", "input_schema", "input_examples"]
    assert described["input_examples"] == [{"x": 1}, {}]


def test_the_form_of_an_answer_shows_the_tag_and_the_schema() -> None:
    described = describe_output({"type": "object", "properties": {"é": STRING}})
    assert described.endswith('<schema>\n{"type":"object","properties":{"é":{"type":"string"}}}\n</schema>')
    assert "<output>\n{\n" in described


# --- the reminder -----------------------------------------------------------------------------------------------------

REMINDERS: list[tuple[Json, list[str], list[str]]] = [
    # tool_choice, words that are there, words that are not
    ({"type": "auto"}, ["<function_calls>", "plain text"], ["must", "single"]),
    ({"type": "auto", "disable_parallel_tool_use": True}, ["single <invoke>", "plain text"], ["must"]),
    ({"type": "any"}, ["must", "<function_calls>"], ["plain text", "single"]),
    ({"type": "any", "disable_parallel_tool_use": True}, ["must", "single <invoke>"], ["plain text"]),
    ({"type": "tool", "name": "Read"}, ["must", "Read", "<function_calls>"], ["plain text"]),
    ({"type": "none"}, ["plain text"], ["<function_calls>", "must"]),
]


@pytest.mark.parametrize(("choice", "there", "not_there"), REMINDERS, ids=[str(choice) for choice, *_ in REMINDERS])
def test_the_reminder_says_how_free_the_model_is(choice: Json, there: list[str], not_there: list[str]) -> None:
    reminder = remind(parse(tools=[tool_json("Read")], tool_choice=choice))
    assert "\n" not in reminder
    assert len(reminder) < 200
    assert [word for word in there if word not in reminder] == []
    assert [word for word in not_there if word in reminder] == []


def test_where_there_is_nothing_to_remind_of_there_is_no_reminder() -> None:
    assert remind(parse()) == ""


def test_each_matter_has_a_line_of_its_own() -> None:
    config = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    tools_line, output_line = remind(parse(tools=[tool_json("Read")], output_config=config)).splitlines()
    assert "<function_calls>" in tools_line
    assert "<output>" in output_line
    assert "<continuation>" in remind(conversation(user("a"), assistant("b")))
