"""The tools of a request: a client's own, Anthropic's client tools with their schemas, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from core_samples import BLIND, Json, body, parse, tool_json

from claude_proxy.core.json_schema.validate import faults, schema_fault
from claude_proxy.core.messages.content import Tool, ToolChoice
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.messages.tools import CLIENT_TOOLS
from claude_proxy.core.prompt.render import render
from claude_proxy.errors import InvalidRequest

TOOL_NAME = "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"
EMPTY = {"type": "object", "properties": {}}
UNENFORCEABLE = {"type": "object", "properties": {"a": {"type": "strange"}}}


def tools(*items: Any) -> Json:
    return {"tools": list(items)}


def names(*items: Any) -> list[str]:
    return [tool.name for tool in parse(tools=list(items)).tools]


def fault(fields: Json) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body(**fields))
    return caught.value.message


# --- a client's own tools ---------------------------------------------------------------------------------------------


def test_a_tool_with_everything() -> None:
    (read,) = parse(
        tools=[
            tool_json(
                "Read",
                type="custom",
                strict=True,
                defer_loading=True,
                input_examples=[{"a": 1}],
                cache_control={"type": "ephemeral"},
                eager_input_streaming=True,
                allowed_callers=["direct", "code_execution_20250825"],
            )
        ]
    ).tools
    assert read == Tool("Read", EMPTY, "Use Read.", defer_loading=True, strict=True, input_examples=({"a": 1},))


def test_nulls_are_absent() -> None:
    absent = dict.fromkeys(("type", "description", "strict", "defer_loading", "input_examples", "allowed_callers"))
    assert parse(tools=[{"name": "a", "input_schema": {}, **absent}]).tools == (Tool("a", {}),)


FAULTS: list[tuple[Json, str]] = [
    ({"tools": {}}, "tools: Input should be a valid list"),
    (tools("Read"), "tools.0: Input should be a valid dictionary"),
    (tools({"input_schema": {}}), "tools.0.custom.name: Field required"),
    *(
        (tools({"name": name, "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}")
        for name in ("a b", "", "a" * 129, 'a"', "Read\n", "é")
    ),
    (tools(tool_json("a"), {"name": "b"}), "tools.1.custom.input_schema: Field required"),
    (tools({"name": "b", "input_schema": "{}"}), "tools.0.custom.input_schema: Input should be a valid dictionary"),
    (tools(tool_json("a", description=5)), "tools.0.custom.description: Input should be a valid string"),
    (tools(tool_json("a", defer_loading="yes")), "tools.0.custom.defer_loading: Input should be a valid boolean"),
    (tools(tool_json("a", strict="yes")), "tools.0.custom.strict: Input should be a valid boolean"),
    (tools(tool_json("a", input_examples=[1])), "tools.0.custom.input_examples.0: Input should be a valid dictionary"),
    (tools(tool_json("a", allowed_callers="direct")), "tools.0.allowed_callers: Input should be a valid list"),
    (tools(tool_json("a"), tool_json("a")), "tools: Tool names must be unique."),
    (tools(tool_json("a", type=5)), "tools.0.type: Input should be a valid string"),
    (tools({"type": "bash_20250124"}), "tools.0.bash_20250124.name: Field required"),
    (tools({"type": "bash_20250124", "name": "sh"}), "tools.0.bash_20250124.name: Input should be 'bash'"),
    (tools(tool_json("bash"), {"type": "bash_20250124", "name": "bash"}), "tools: Tool names must be unique."),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[message[:70] for _, message in FAULTS])
def test_a_fault_names_the_tool(fields: Json, message: str) -> None:
    assert fault(fields) == message


LET_PASS: list[tuple[str, Json, int]] = [
    ("an unknown key", tool_json("a", new=1), 1),
    ("a schema without a type", {"name": "a", "input_schema": {}}, 0),
    ("a schema that is no object's", {"name": "a", "input_schema": {"type": "array"}}, 0),
    ("nothing but deferred tools", tool_json("a", defer_loading=True), 0),
]


@pytest.mark.parametrize(("tool", "ignored"), [row[1:] for row in LET_PASS], ids=[row[0] for row in LET_PASS])
def test_what_harms_nobody_is_let_pass(tool: Json, ignored: int) -> None:
    assert parse(tools=[tool]).ignored == ignored


def test_a_strict_tool_whose_schema_cannot_be_enforced() -> None:
    offered = tools({"name": "a", "input_schema": UNENFORCEABLE, "strict": True})
    request = parse(**offered)
    assert not request.tools[0].strict
    assert request.ignored == 1
    assert parse(**tools({"name": "a", "input_schema": UNENFORCEABLE, "strict": False})).ignored == 0


def test_what_is_not_checked_of_a_strict_tools_schema_is_counted() -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}, "pattern": "(?=a)"}}}
    (tool,) = (request := parse(**tools({"name": "a", "input_schema": schema, "strict": True}))).tools
    assert (tool.strict, request.ignored) == (True, 2)
    assert parse(**tools({"name": "a", "input_schema": schema})).ignored == 0


def test_a_tool_that_only_code_may_call_is_hidden() -> None:
    assert names(tool_json("a", allowed_callers=["code_execution_20260120"]), tool_json("b")) == ["b"]
    assert names(tool_json("a", allowed_callers=[])) == []


def test_examples_of_inputs_are_shown() -> None:
    request = parse(tools=[tool_json("a", input_examples=[{"unit": "é"}])])
    assert '"input_examples":[{"unit":"é"}]' in render(request, BLIND, armoured=False).system


# --- Anthropic's tools ------------------------------------------------------------------------------------------------

CLIENT: list[tuple[str, str, Json, Json]] = [
    # type, name, an input that is valid, one that is not
    ("bash_20241022", "bash", {"command": "ls"}, {"command": 1}),
    ("bash_20250124", "bash", {"restart": True}, {"cmd": "ls"}),
    ("text_editor_20241022", "str_replace_editor", {"command": "undo_edit", "path": "/a"}, {"command": "view"}),
    ("text_editor_20250124", "str_replace_editor", {"command": "undo_edit", "path": "/a"}, {"path": "/a"}),
    (
        "text_editor_20250429",
        "str_replace_based_edit_tool",
        {"command": "insert", "path": "/a", "insert_line": 0, "insert_text": "x"},
        {"command": "undo_edit", "path": "/a"},
    ),
    (
        "text_editor_20250728",
        "str_replace_based_edit_tool",
        {"command": "view", "path": "/a", "view_range": [1, -1]},
        {"command": "view", "path": "/a", "view_range": "1"},
    ),
    ("memory_20250818", "memory", {"command": "rename", "old_path": "/a", "new_path": "/b"}, {"command": "list"}),
]


@pytest.mark.parametrize(("kind", "name", "valid", "invalid"), CLIENT, ids=[row[0] for row in CLIENT])
def test_a_client_tool_is_given_its_schema(kind: str, name: str, valid: Json, invalid: Json) -> None:
    (tool,) = parse(tools=[{"type": kind, "name": name, "max_characters": 10_000, "strict": True}]).tools
    assert tool.name == name
    assert tool.description
    assert tool.strict
    assert schema_fault(tool.input_schema) is None
    assert faults(valid, tool.input_schema) == []
    assert faults(invalid, tool.input_schema)


def test_every_client_tool_is_tested() -> None:
    assert {row[0] for row in CLIENT} == set(CLIENT_TOOLS)


SERVER = [
    *("web_search_20250305", "web_search_20260318", "web_fetch_20250910", "code_execution_20260521"),
    *("computer_20250124", "computer_toolset_20260801", "browser_toolset_20260801", "advisor_20260301", "mcp_toolset"),
    *("bash_20991231", "new_20270101"),
]


@pytest.mark.parametrize("kind", SERVER)
def test_what_nobody_here_can_run_is_refused_by_name(kind: str) -> None:
    assert fault({"model": "m", **tools(tool_json("a"), {"type": kind, "name": "x"})}) == (
        f"tools.1: 'm' does not support tool types: {kind}. Did you mean one of custom, {', '.join(CLIENT_TOOLS)}? "
        "SecureChatAI runs no tools of its own: leave this one out."
    )


@pytest.mark.parametrize(
    "kind", ["tool_search_tool_regex_20251119", "tool_search_tool_bm25_20251119", "tool_search_tool_regex"]
)
def test_instead_of_a_search_all_tools_are_shown(kind: str) -> None:
    search = {"type": kind, "name": kind.removesuffix("_20251119")}
    request = parse(tools=[tool_json("a", defer_loading=True), search, tool_json("b", defer_loading=True)])
    assert [(tool.name, tool.defer_loading) for tool in request.tools] == [("a", False), ("b", False)]


# --- tool_choice ------------------------------------------------------------------------------------------------------

CHOICES: list[tuple[Json | None, ToolChoice]] = [
    (None, ToolChoice()),
    ({"type": "auto"}, ToolChoice()),
    ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(disable_parallel_tool_use=True)),
    ({"type": "any"}, ToolChoice("any")),
    ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("any", disable_parallel_tool_use=True)),
    ({"type": "tool", "name": "Read"}, ToolChoice("tool", "Read")),
    ({"type": "none"}, ToolChoice("none")),
]


@pytest.mark.parametrize(("given", "choice"), CHOICES, ids=[str(given) for given, _ in CHOICES])
def test_a_choice(given: Json | None, choice: ToolChoice) -> None:
    assert parse(tools=[tool_json("Read")], tool_choice=given).tool_choice == choice


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_choice_that_forces_nothing_needs_no_tools(kind: str) -> None:
    assert parse(tool_choice={"type": kind}).callable_tools == ()


def test_none_leaves_nothing_to_call() -> None:
    offered = [tool_json("Read")]
    assert [tool.name for tool in parse(tools=offered).callable_tools] == ["Read"]
    assert parse(tools=offered, tool_choice={"type": "none"}).callable_tools == ()


READ = tools(tool_json("Read"))
BAD_CHOICES: list[tuple[Json, str]] = [
    ({"tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
    ({"tool_choice": {}}, "tool_choice.type: Field required"),
    ({"tool_choice": {"type": "all"}}, "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'"),
    ({**READ, "tool_choice": {"type": "tool"}}, "tool_choice.name: Field required"),
    (
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}},
        "tool_choice.disable_parallel_tool_use: Input should be a valid boolean",
    ),
    ({"tool_choice": {"type": "any"}}, "tool_choice: tools must be given to force a call"),
    ({"tools": [], "tool_choice": {"type": "tool", "name": "a"}}, "tool_choice: tools must be given to force a call"),
    (
        {**READ, "tool_choice": {"type": "tool", "name": "read"}},
        "tool_choice: Tool 'read' not found in provided tools",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CHOICES, ids=[message for _, message in BAD_CHOICES])
def test_a_choice_that_cannot_be(fields: Json, message: str) -> None:
    assert fault(fields) == message


def test_an_unknown_key_of_a_choice_is_counted() -> None:
    assert parse(**READ, tool_choice={"type": "any", "new": 1}).ignored == 1
