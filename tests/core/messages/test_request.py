"""Anthropic JSON -> Request: what is read, what is let pass, and the exact words for what is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from core_samples import (
    ABSENT,
    BLIND,
    CLAUDE,
    IMAGE,
    LENIENT,
    NEW,
    PDF,
    SEEING,
    Json,
    assistant,
    body,
    call,
    conversation,
    examples,
    json_values,
    parse,
    reference,
    result,
    system,
    text,
    tool_json,
    user,
)
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.messages.blocks import DROPPED, READERS
from claude_proxy.core.messages.content import (
    Document,
    Image,
    MessageParam,
    Request,
    Text,
    Tool,
    ToolChoice,
    ToolReference,
    ToolRemoval,
    ToolResult,
    ToolUse,
)
from claude_proxy.core.messages.json_node import NEW_VERSION, OLD_VERSION, Rules
from claude_proxy.core.messages.request import KNOWN_BETAS, choose_rules, parse_request
from claude_proxy.core.prompt.render import render
from claude_proxy.errors import InvalidRequest, NotFound, ProxyError

PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}
READ = tool_json("Read")
EMPTY: list[Any] = ["", []]


def error(fields: Json, rules: Rules = LENIENT) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        parse_request(body(**fields), rules)
    return caught.value


def code(failure: ProxyError) -> str | None:
    return (failure.details or {}).get("error_code")


# --- headers ----------------------------------------------------------------------------------------------------------

HEADERS: list[tuple[Json, Rules]] = [
    ({}, Rules()),
    ({"anthropic-version": OLD_VERSION}, Rules()),
    ({"anthropic-version": NEW_VERSION}, Rules(version=NEW_VERSION)),
    ({"anthropic-version": "2031-01-01"}, Rules(version=NEW_VERSION)),
    ({"anthropic-beta": " a, b,,a "}, Rules(betas=frozenset("ab"))),
]


@pytest.mark.parametrize(("headers", "rules"), HEADERS, ids=[str(headers) for headers, _ in HEADERS])
def test_the_headers_choose_the_rules(headers: Json, rules: Rules) -> None:
    assert choose_rules(headers) == rules


def test_unknown_betas_are_counted() -> None:
    betas = frozenset({"new-2027-01-01", "newer-2027-01-01", *list(KNOWN_BETAS)[:3]})
    assert parse(Rules(betas=betas)).ignored == 2


# --- the body ---------------------------------------------------------------------------------------------------------

NO_JSON = "The request body is not valid JSON: "
BAD_BODIES = [
    pytest.param(b"", NO_JSON + "Expecting value", id="nothing"),
    pytest.param(b"{", NO_JSON + "Expecting property name enclosed in double quotes", id="cut"),
    pytest.param(b"[]", NO_JSON + "it must be an object", id="a list"),
    pytest.param(b'"a"', NO_JSON + "it must be an object", id="a string"),
    pytest.param(b"null", NO_JSON + "it must be an object", id="null"),
    pytest.param(b"{} {}", NO_JSON + "Extra data", id="two objects"),
    pytest.param(b'{"model":"\xff"}', NO_JSON + "it is not UTF-8 text", id="not UTF-8"),
    pytest.param(b'{"model":"caf\xe9"}', NO_JSON + "it is not UTF-8 text", id="Latin-1"),
    pytest.param(b'{"a":NaN}', NO_JSON + "NaN is not a JSON value", id="NaN"),
    pytest.param(b'{"a":[-Infinity]}', NO_JSON + "-Infinity is not a JSON value", id="an infinity"),
    pytest.param(b'{"a":"\\ud800"}', NO_JSON + "it holds a lone surrogate", id="half a pair"),
    pytest.param(b'{"a":{"b":["\\uDFFF\\uD83D"]}}', NO_JSON + "it holds a lone surrogate", id="a pair the wrong way"),
    pytest.param(b'{"\\uDC00":1}', NO_JSON + "it holds a lone surrogate", id="in a key"),
    pytest.param(b'{"a":' + b"[" * 100_000, NO_JSON + "it is nested too deeply", id="nested beyond what can be read"),
    pytest.param(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", NO_JSON + "it is nested too deeply", id="201 levels"),
    pytest.param(
        b'{"a":' + b'[0,{"b":' * 100 + b"1" + b"}]" * 100 + b"}",
        NO_JSON + "it is nested too deeply",
        id="lists and objects",
    ),
    pytest.param(b'{"a":' + b"1" * 5_000 + b"}", NO_JSON + "a number has too many digits", id="too many digits"),
]


@pytest.mark.parametrize(("data", "message"), BAD_BODIES)
def test_a_body_that_is_no_json(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(data)
    assert caught.value.message == message


def test_brackets_in_strings_are_no_levels() -> None:
    assert parse(x=json.loads("[" * 199 + "]" * 199), system="[{" * 1000).system == ("[{" * 1000,)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"\xed\xa0\x80"}]}', id="UTF-8"),
        pytest.param(body(messages=[user("\ud800")]).decode().encode("utf-16"), id="UTF-16"),
    ],
)
def test_a_lone_surrogate_in_raw_bytes_is_refused_before_it_breaks_the_form(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(data)


def test_surrogates_in_pairs_are_a_character() -> None:
    assert parse_request(body(messages=[user("😀")])).messages[0].content == (Text("😀"),)
    assert b"\\ud83d\\ude00" in body(messages=[user("😀")])


# --- faults of fields -------------------------------------------------------------------------------------------------

FAULTS: list[tuple[Json, str]] = [
    ({"model": ABSENT}, "model: Field required"),
    ({"model": None}, "model: Field required"),
    ({"model": 4}, "model: Input should be a valid string"),
    ({"model": ""}, "model: String should have at least 1 character"),
    ({"max_tokens": ABSENT}, "max_tokens: Field required"),
    ({"max_tokens": "100"}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
    ({"stream": "true"}, "stream: Input should be a valid boolean"),
    ({"temperature": "1"}, "temperature: Input should be a valid number"),
    ({"temperature": 1.01}, "temperature: Input should be between 0 and 1"),
    ({"top_p": -0.1}, "top_p: Input should be between 0 and 1"),
    ({"stop_sequences": "END"}, "stop_sequences: Input should be a valid list"),
    ({"stop_sequences": ["a", 1]}, "stop_sequences.1: Input should be a valid string"),
    ({"thinking": True}, "thinking: Input should be a valid dictionary"),
    ({"thinking": {}}, "thinking.type: Field required"),
    ({"thinking": {"type": 1}}, "thinking.type: Input should be a valid string"),
    ({"system": 5}, "system: Input should be a valid list"),
    ({"system": ["text"]}, "system.0: Input should be a valid dictionary"),
    ({"system": [text("a"), {"text": "b"}]}, "system.1.type: Field required"),
    ({"system": [{"type": "text"}]}, "system.0.text: Field required"),
    ({"system": [text(5)]}, "system.0.text: Input should be a valid string"),
    ({"system": [IMAGE]}, "system.0.type: Input should be 'text'"),
    ({"messages": ABSENT}, "messages: Field required"),
    ({"messages": {}}, "messages: Input should be a valid list"),
    ({"messages": []}, "messages: at least one message is required"),
    ({"messages": ["hello"]}, "messages.0: Input should be a valid dictionary"),
    ({"messages": [{"content": "a"}]}, "messages.0.role: Field required"),
    ({"messages": [{"role": 1, "content": "a"}]}, "messages.0.role: Input should be a valid string"),
    (
        {"messages": [user("a"), {"role": "tool", "content": "a"}]},
        "messages.1.role: Input should be 'user', 'assistant' or 'system'",
    ),
    ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid list"),
    ({"output_config": {"format": {}}}, "output_config.format.type: Field required"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type: Input should be 'json_schema'"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: Field required"),
    (
        {"output_config": {"format": SCHEMA}, "output_format": SCHEMA},
        "output_format: give output_config.format only",
    ),
    (
        {"container": "container_1"},
        "container: Container identifier can only be provided when using the code execution tool",
    ),
    ({"container": {}}, "container: Container identifier can only be provided when using the code execution tool"),
    (
        {"mcp_servers": [{"type": "url"}]},
        "mcp_servers: this server connects to no MCP servers; configure them in the client, which then offers their "
        "tools",
    ),
    (
        {"compaction": {"type": "summarize"}},
        "compaction: this server does not summarize by itself; ask for a summary in a message",
    ),
    (
        {"billing_policy": {"type": "billing_policy", "bill_to": "user_profile"}},
        "billing_policy: this server bills nobody; leave this field out",
    ),
    *(
        (
            {"fallback_credit_token": token},
            "fallback_credit_token: this server gives no fallback credit; leave this field out",
        )
        for token in ("t", {"token": "t", "mode": "strict"})
    ),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[message[:70] for _, message in FAULTS])
def test_a_fault_names_the_field(fields: Json, message: str) -> None:
    failure = error(fields)
    assert failure.message == message
    assert (failure.status, failure.type) == (400, "invalid_request_error")


def test_a_schema_that_cannot_be_enforced_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "strange"}}}
    message = error({"output_config": {"format": {"type": "json_schema", "schema": schema}}}).message
    assert message.startswith("output_config.format.schema: properties.a")


def test_what_is_not_checked_of_a_schema_is_counted() -> None:
    schema = {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}
    request = parse(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert (request.output_schema, request.ignored) == (schema, 2)


def test_threads() -> None:
    create, on = error({"thread": {"type": "create"}}), error({"thread": {"type": "continue"}})
    assert (create.status, code(create)) == (400, "thread_unsupported_request")
    assert (on.status, code(on), type(on)) == (404, "thread_not_found", NotFound)


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
def test_the_new_version_has_no_sampling_parameters(field: str) -> None:
    parse(**{field: 1})
    message = f"{field}: this parameter is not supported in API version 2026-10-21; leave it out"
    assert error({field: 1}, NEW).message == message


PREWARM: list[tuple[Json, str]] = [
    ({"stream": True}, "stream"),
    ({"thinking": THINKING}, "thinking.type"),
    ({"tools": [READ], "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"output_config": {"format": SCHEMA}}, "output_config.format"),
]


@pytest.mark.parametrize(("fields", "breach"), PREWARM, ids=[breach for _, breach in PREWARM])
def test_max_tokens_zero_cannot_be_combined(fields: Json, breach: str) -> None:
    assert error({**fields, "max_tokens": 0}).message == f"max_tokens: 0: cannot be combined with {breach}"
    parse(max_tokens=0, thinking={"type": "adaptive"}, tools=[READ], stop_sequences=["x"])


# --- what is let pass ------------------------------------------------------------------------------------------------

LET_PASS: list[tuple[Json, int]] = [
    ({"new": 1}, 1),
    ({"service_tier": "fast"}, 0),
    ({"speed": "slow"}, 0),
    ({"top_k": "1"}, 0),
    ({"inference_geo": 1}, 0),
    ({"metadata": 1}, 0),
    ({"diagnostics": 1}, 0),
    ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, 0),
    ({"stop_sequences": ["END", "\n"]}, 0),
    ({"output_config": {"effort": "huge"}}, 0),
    ({"output_config": {"new": 1}}, 1),
    ({"thinking": {"type": "new"}}, 0),
    ({"thinking": {"type": "enabled"}}, 0),
    ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, 0),
    ({"thinking": THINKING, "max_tokens": 1024}, 0),
    ({"thinking": {"type": "adaptive"}, "temperature": 0.5}, 0),
    ({"thinking": {"type": "adaptive", "display": "all"}}, 0),
    ({"thinking": {"type": "adaptive"}, "tools": [READ], "tool_choice": {"type": "any"}}, 0),
    ({"messages": [{**user("a"), "new": 1}]}, 1),
    ({"messages": [{**user("a"), "output_config": {}}]}, 1),
    *(({"messages": [user("a"), assistant("b"), {"role": "user", "content": empty}]}, 0) for empty in EMPTY),
    ({"messages": [user("a"), {"role": "assistant", "content": ""}, user("b")]}, 0),
    ({"messages": [user("a"), assistant("b")]}, 0),
]


@pytest.mark.parametrize(("fields", "ignored"), LET_PASS, ids=[str(fields)[:80] for fields, _ in LET_PASS])
def test_what_has_no_meaning_here_is_let_pass_and_counted_if_unknown(fields: Json, ignored: int) -> None:
    assert parse(**fields).ignored == ignored


FINE: list[Json] = [
    {},
    {"metadata": {"user_id": "{}"}, "service_tier": "auto", "speed": None, "container": None, "inference_geo": "us"},
    {"thinking": THINKING, "max_tokens": 1025, "temperature": 1},
    {"thinking": {"type": "disabled"}, "temperature": 0},
    {"thinking": {"type": "between_tools", "display": "omitted"}},
    {"stop_sequences": ["a b", " c"], "top_k": 4, "cache_control": {"type": "ephemeral"}},
    {"system": [text("a", cache_control={"type": "ephemeral"})], "diagnostics": {"previous_message_id": None}},
    {"output_config": {"effort": "max", "format": SCHEMA}},
    {"messages": [user("a"), {"role": "assistant", "content": ""}]},
    {"messages": [user("a"), assistant({"type": "redacted_thinking", "data": "x"}), user("b")]},
    {"messages": [user("a"), user("b"), assistant("c"), assistant("d"), user("e")]},
    {"messages": [assistant("a"), user("b")]},
]


@pytest.mark.parametrize("fields", FINE, ids=str)
def test_what_the_real_api_takes_is_taken(fields: Json) -> None:
    request = parse(**fields)
    assert (request.ignored, request.mended) == (0, 0)


BETA_FIELDS: list[Json] = [
    {"context_management": {"edits": []}},
    {"mcp_servers": []},
    {"fallbacks": "default"},
    {"fallback_credit_token": {"token": "t", "mode": "best_effort"}},
    {"billing_policy": {"type": "billing_policy", "bill_to": "self"}},
    {"output_format": SCHEMA},
    {"output_config": {"task_budget": {"type": "tokens", "total": 20_000}}},
    {"thinking": {"type": "adaptive", "display": "updates"}},
    {"thinking": {"type": "adaptive", "block_binding": {}}},
    {"messages": [user("a"), {"role": "system", "content": [], "output_config": {"effort": "low"}}, user("b")]},
    {"messages": [user("a"), {**system("S"), "clear_at": "never"}]},
]


@pytest.mark.parametrize("fields", BETA_FIELDS, ids=str)
def test_a_field_of_a_beta_needs_no_beta(fields: Json) -> None:
    assert parse(**fields).ignored == 0


IGNORED: list[tuple[str, Json, int]] = [
    ("fields nobody knows", {"safeguard": [{"type": "new"}], "x": 1, "y": None}, 2),
    ("fields without an effect here", {"metadata": {"user_id": "{}"}, "service_tier": "auto", "stop_sequences": []}, 0),
    ("nulls", dict.fromkeys(("system", "tools", "tool_choice", "thinking", "stream", "top_p", "thread")), 0),
    ("no tools", {"tools": []}, 0),
    ("a whole float", {"max_tokens": 100.0}, 0),
    ("thinking disabled", {"thinking": {"type": "disabled"}}, 0),
    ("thinking of a kind nobody knows", {"thinking": {"type": "between_tools", "x": 1}}, 1),
    ("keys of a message", {"messages": [{**user("hello"), "output_config": {"effort": "low"}}]}, 1),
    ("cache marks", {"messages": [user(text("hello", cache_control={"type": "ephemeral"}))]}, 0),
    ("an effort", {"output_config": {"effort": "huge", "task_budget": {}}}, 0),
]


@pytest.mark.parametrize(("fields", "count"), [row[1:] for row in IGNORED], ids=[row[0] for row in IGNORED])
def test_what_loses_nothing_is_let_pass_and_counted(fields: Json, count: int) -> None:
    assert parse(**fields) == replace(parse(), ignored=count)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_small_request() -> None:
    assert parse() == Request("claude-sonnet-4", (MessageParam("user", (Text("hello"),)),), max_tokens=100)


def test_a_request_with_everything() -> None:
    request = conversation(
        user("Look.", IMAGE, PDF),
        system("Be quick."),
        assistant("I will.", call("t1", "Read", file_path="/a")),
        user(result("t1", [text("b"), IMAGE, reference("Edit")], is_error=True), "And now?"),
        system=[text("One."), text("Two.")],
        tools=[READ, tool_json("Edit", defer_loading=True, type="custom")],
        tool_choice={"type": "tool", "name": "Read", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive", "display": "omitted"},
        stop_sequences=["END"],
        stream=True,
        temperature=0.5,
        top_p=1,
    )
    empty = {"type": "object", "properties": {}}
    image = Image("image/png", "iVBORw0K")
    assert request == Request(
        model="claude-sonnet-4",
        messages=(
            MessageParam("user", (Text("Look."), image, Document(pdf="JVBERi0="))),
            MessageParam("system", (Text("Be quick."),)),
            MessageParam("assistant", (Text("I will."), ToolUse("t1", "Read", {"file_path": "/a"}))),
            MessageParam(
                "user",
                (ToolResult("t1", (Text("b"), image, ToolReference("Edit")), is_error=True), Text("And now?")),
            ),
        ),
        max_tokens=100,
        system=("One.", "Two."),
        tools=(Tool("Read", empty, "Use Read."), Tool("Edit", empty, "Use Edit.", defer_loading=True)),
        tool_choice=ToolChoice("tool", "Read", disable_parallel_tool_use=True),
        stop_sequences=("END",),
        thinking=True,
        hides_thinking=True,
        stream=True,
        temperature=0.5,
        top_p=1,
    )


THINKING_FORMS: list[tuple[Json | None, bool, bool]] = [
    # thinking, allowed, hidden
    (None, False, False),
    ({"type": "disabled"}, False, False),
    ({"type": "between_tools"}, False, False),
    ({"type": "new"}, False, False),
    (THINKING, True, False),
    ({"type": "adaptive"}, True, False),
    ({"type": "adaptive", "display": "summarized"}, True, False),
    ({"type": "adaptive", "display": "updates"}, True, False),
    ({"type": "adaptive", "display": "omitted"}, True, True),
]


@pytest.mark.parametrize(("thinking", "allowed", "hidden"), THINKING_FORMS, ids=[str(row[0]) for row in THINKING_FORMS])
def test_every_form_of_thinking_is_accepted(thinking: Json | None, allowed: bool, hidden: bool) -> None:
    request = parse(thinking=thinking)
    assert (request.thinking, request.hides_thinking) == (allowed, hidden)


@pytest.mark.parametrize("fields", [{"output_config": {"format": SCHEMA}}, {"output_format": SCHEMA}], ids=str)
def test_the_schema_of_a_structured_output(fields: Json) -> None:
    assert parse(**fields).output_schema == SCHEMA["schema"]
    assert parse(output_config={"format": None}, output_format=None).output_schema is None


def test_blank_stop_sequences() -> None:
    assert parse(stop_sequences=["", "\n\n", "END"]).stop_sequences == ("\n\n", "END")


def test_what_a_response_must_have_because_the_request_asked() -> None:
    assert parse().extras == {}
    assert parse(context_management={}).extras == {"context_management": {"applied_edits": []}}
    binding = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}}
    assert parse(thinking=binding).extras == {"input_transformations": []}


def test_count_tokens_has_no_max_tokens() -> None:
    assert parse_request(body(max_tokens=ABSENT), count_only=True).max_tokens is None
    assert parse_request(body(max_tokens="ignored"), count_only=True).max_tokens is None


# --- prefill ----------------------------------------------------------------------------------------------------------

PREFILLS: list[tuple[str, list[Json], str]] = [
    ("a text", [user("a"), assistant("b ")], "b "),
    ("several texts", [user("a"), assistant("b", "c")], "b\nc"),
    ("several messages", [user("a"), assistant("b"), assistant("c")], "b\nc"),
    ("an empty one behind it", [user("a"), assistant("b"), assistant("")], "b"),
    ("with thinking", [user("a"), assistant({"type": "thinking", "thinking": "x", "signature": "s"}, "b")], "b"),
    ("after a result", [user("a"), assistant(call("t", "R")), user(result("t")), assistant("b")], "b"),
    ("after a system message", [user("a"), system("S"), assistant("b")], "b"),
    ("nothing", [user("a"), assistant("")], ""),
    ("only thinking", [user("a"), assistant({"type": "thinking", "thinking": "x", "signature": "s"})], ""),
]


@pytest.mark.parametrize(("messages", "prefill"), [row[1:] for row in PREFILLS], ids=[row[0] for row in PREFILLS])
def test_the_beginning_of_a_reply(messages: list[Json], prefill: str) -> None:
    request = parse(messages=messages)
    assert request.prefill == prefill
    assert not prefill or request.messages[-1].role != "assistant"


NO_PREFILL: list[tuple[str, Json]] = [
    ("a call in it", {"messages": [user("a"), assistant("b", call("t", "Read"))]}),
    ("a call before it", {"messages": [user("a"), assistant(call("t", "Read")), assistant("b")]}),
    ("nothing before it", {"messages": [assistant("b")]}),
    ("a forced call", {"tools": [READ], "tool_choice": {"type": "any"}}),
    ("a forced tool", {"tools": [READ], "tool_choice": {"type": "tool", "name": "Read"}}),
    ("a structured output", {"output_config": {"format": SCHEMA}}),
]


@pytest.mark.parametrize("fields", [fields for _, fields in NO_PREFILL], ids=[name for name, _ in NO_PREFILL])
def test_a_beginning_that_nobody_can_go_on_with(fields: Json) -> None:
    assert error({"messages": [user("a"), assistant("b")], **fields}).message == PREFILL


# --- calls and their results ------------------------------------------------------------------------------------------


def answered(tool_use_id: str) -> ToolResult:
    """The result that a call is given when it has none."""
    return ToolResult(tool_use_id, (Text("No result of this call was recorded."),), is_error=True)


def done(tool_use_id: str) -> ToolResult:
    return ToolResult(tool_use_id, (Text("done"),))


ONE, TWO, THREE = call("t1", "Read"), call("t2", "Read"), call("t3", "Read")


PAIRED: list[tuple[str, list[Json]]] = [
    ("one call", [user("a"), assistant(ONE), user(result("t1"))]),
    ("parallel calls, in any order", [user("a"), assistant(ONE, TWO), user(result("t2"), result("t1"), "b")]),
    ("calls in merged messages", [user("a"), assistant(ONE), assistant("x", TWO), user(result("t1"), result("t2"))]),
    ("results in merged messages", [user("a"), assistant(ONE, TWO), user(result("t2")), user(result("t1"))]),
    ("a result later in the user's turn", [user("a"), assistant(ONE), user("wait"), user(result("t1"))]),
    (
        "a message of nothing but thinking between",
        [user("a"), assistant(ONE), assistant({"type": "redacted_thinking", "data": "x"}), user(result("t1"))],
    ),
    ("one call after the other", [user("a"), assistant(ONE), user(result("t1")), assistant(TWO), user(result("t2"))]),
    ("an assistant that speaks first", [assistant(ONE), user(result("t1"))]),
]


@pytest.mark.parametrize("messages", [messages for _, messages in PAIRED], ids=[name for name, _ in PAIRED])
def test_calls_that_have_their_results(messages: list[Json]) -> None:
    request = parse(messages=messages)
    assert request.mended == 0
    assert len(request.messages) == len(messages)


def test_a_system_message_may_stand_between_a_call_and_its_result() -> None:
    assert conversation(user("a"), assistant(ONE), system("S"), user(result("t1"))).mended == 0


BROKEN: list[tuple[str, list[Json], list[Any], int]] = [
    # what is wrong, messages, contents of the messages from index 1 on, how many are mended
    (
        "no result at the end of the conversation",
        [user("a"), assistant(ONE), user("b")],
        [ToolUse("t1", "Read", {}), answered("t1"), Text("b")],
        1,
    ),
    (
        "no result before the next turn",
        [user("a"), assistant(ONE), user("b"), assistant("c"), user("d")],
        [ToolUse("t1", "Read", {}), answered("t1"), Text("b"), Text("c"), Text("d")],
        1,
    ),
    (
        "some results of parallel calls are missing",
        [user("a"), assistant(ONE, TWO, THREE), user(result("t2"))],
        [
            *(ToolUse(f"t{number}", "Read", {}) for number in (1, 2, 3)),
            *(answered("t1"), answered("t3"), done("t2")),
        ],
        2,
    ),
    (
        "a result comes after the next turn has begun",
        [user("a"), assistant(ONE), user("b"), assistant("c"), user(result("t1"))],
        [ToolUse("t1", "Read", {}), answered("t1"), Text("b"), Text("c"), done("t1")],
        2,
    ),
    ("a result of no call", [user("a"), user("b", result("t9"))], [Text("b"), done("t9")], 1),
    (
        "a result of an earlier turn's call",
        [user("a"), assistant(ONE), user(result("t1")), assistant("b"), user(result("t1"))],
        [ToolUse("t1", "Read", {}), done("t1"), Text("b"), done("t1")],
        1,
    ),
    (
        "two results of a call",
        [user("a"), assistant(ONE), user(result("t1"), result("t1"))],
        [ToolUse("t1", "Read", {}), done("t1"), done("t1")],
        1,
    ),
    (
        "two calls of an id",
        [user("a"), assistant(ONE), user(result("t1")), assistant(ONE), user(result("t1"))],
        [ToolUse("t1", "Read", {}), done("t1"), ToolUse("t1", "Read", {}), done("t1")],
        1,
    ),
]


@pytest.mark.parametrize(
    ("messages", "contents", "mended"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_calls_and_results_that_do_not_fit(messages: list[Json], contents: list[Any], mended: int) -> None:
    request = parse(messages=messages)
    assert [block for each in request.messages[1:] for block in each.content] == contents
    assert request.mended == mended


def test_results_that_are_missing_stand_behind_their_calls_even_before_system_messages() -> None:
    request = conversation(user("a"), assistant(ONE), system("S"), system("T"), assistant("b"), user("c"))
    assert [message.role for message in request.messages] == ["user", "assistant", "user", *["system"] * 2, *_END]
    assert request.messages[2].content == (answered("t1"),)


_END = ("assistant", "user")


# --- system messages --------------------------------------------------------------------------------------------------

EFFORT: Json = {"role": "system", "content": [], "output_config": {"effort": "low"}}

SEARCHED: list[Json] = [
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
]
PLACED: list[tuple[str, list[Json]]] = [
    ("first", [system("S"), assistant("a"), user("b")]),
    ("after an assistant", [user("a"), assistant("b"), system("S")]),
    ("before a user", [user("a"), system("S"), user("b")]),
    *((f"empty: {empty!r}", [user("a"), {"role": "system", "content": empty}]) for empty in EMPTY),
    ("at the end", [user("a"), system("S")]),
    ("before an assistant", [user("a"), system("S"), assistant("b"), user("c")]),
    ("in a group", [user("a"), system("S"), system("T"), assistant("b"), user("c")]),
    ("after a server tool's result", [user("a"), assistant("b", *SEARCHED), system("S")]),
    ("an effort, first", [EFFORT, user("a")]),
    ("an effort, before a user", [user("a"), assistant("b"), EFFORT, user("c")]),
]


@pytest.mark.parametrize("messages", [messages for _, messages in PLACED], ids=[name for name, _ in PLACED])
def test_a_system_message_may_stand_anywhere(messages: list[Json]) -> None:
    assert [each.role for each in parse(messages=messages).messages] == [each["role"] for each in messages]


def test_a_system_message_may_hold_nothing_but_an_effort() -> None:
    assert conversation(user("a"), EFFORT).messages[1] == MessageParam("system", ())


def cleared(words: str, clear_at: str = "next_user_message") -> Json:
    return {**system(words), "clear_at": clear_at}


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([user("a"), cleared("S")], True),
        ([user("a"), cleared("S"), assistant("b"), assistant("c"), system("T")], True),
        ([user("a"), cleared("S"), assistant("b"), user("c")], False),
        ([user("a"), cleared("S"), assistant(ONE), user(result("t1"))], False),
        ([user("a"), cleared("S", "never"), assistant("b"), user("c")], True),
    ],
    ids=["at the end", "no user since", "a user since", "only a result since", "never cleared"],
)
def test_a_text_that_the_next_user_message_clears(messages: list[Json], kept: bool) -> None:
    assert conversation(*messages).messages[1].content == ((Text("S"),) if kept else ())


# --- summaries --------------------------------------------------------------------------------------------------------


def compaction(content: str | None) -> Json:
    return {"type": "compaction", "content": content, "signature": "s"}


def test_a_summary_stands_for_everything_before_it() -> None:
    request = conversation(
        user("a"), assistant(ONE), user(result("t1")), assistant(compaction("so far"), "b"), user("c")
    )
    assert request.messages == (
        MessageParam("assistant", (Text("so far"), Text("b"))),
        MessageParam("user", (Text("c"),)),
    )


def test_of_several_summaries_the_last_counts_and_an_empty_one_is_none() -> None:
    request = conversation(
        *(user("a"), assistant(compaction("one"), "b"), user("c")),
        *(assistant(compaction("two")), user("d"), assistant(compaction(None), "e"), user("f")),
    )
    assert request.messages[0] == MessageParam("assistant", (Text("two"),))
    assert len(request.messages) == 4


def test_a_summary_at_the_beginning() -> None:
    request = conversation(user(compaction("so far"), "a"))
    assert request.messages[0].content == (Text("so far"), Text("a"))


# --- tools that come and go -------------------------------------------------------------------------------------------


def change(kind: str, name: str) -> Json:
    return {"type": f"tool_{kind}", "tool": {"type": "tool_reference", "name": name}}


def definition(name: str, **more: Any) -> Json:
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool_json(name, **more)}}


CHANGES: list[tuple[str, list[Json], list[str]]] = [
    ("none", [], ["Read", "Edit"]),
    ("a removal", [change("removal", "Read")], ["Edit"]),
    ("a removal taken back", [change("removal", "Read"), change("addition", "Read")], ["Read", "Edit"]),
    ("an addition and its removal", [change("addition", "Edit"), change("removal", "Edit")], ["Read"]),
    ("a definition", [definition("New")], ["Read", "Edit", "New"]),
    ("a definition that is removed", [definition("New"), change("removal", "New")], ["Read", "Edit"]),
    ("defined anew", [definition("New"), change("removal", "New"), definition("New")], ["Read", "Edit", "New"]),
    ("a definition of what is there", [definition("Read")], ["Read", "Edit"]),
]


@pytest.mark.parametrize(("changes", "names"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_tools_that_come_and_go(changes: list[Json], names: list[str]) -> None:
    messages = [user("a"), *(part for each in changes for part in (system(each), assistant("b"), user("c")))]
    fields = {"messages": messages, "tools": [READ, tool_json("Edit", defer_loading=True)]}
    assert [tool.name for tool in parse(**fields).callable_tools] == names


def test_what_a_change_becomes() -> None:
    request = conversation(user("a"), system("S", definition("New"), change("removal", "Read")), tools=[READ])
    assert request.messages[1].content == (Text("S"), ToolReference("New"), ToolRemoval("Read"))
    assert request.tools[1].defer_loading


@pytest.mark.parametrize("kind", ["addition", "removal"])
def test_a_change_of_a_tool_that_is_not_there(kind: str) -> None:
    failure = error({"messages": [user("a"), system("S", change(kind, "Gone"))], "tools": [READ]})
    assert failure.message == (
        f"messages.1.content.1.tool_{kind}.tool: Tool reference 'Gone' not found in available tools"
    )
    assert code(failure) == "tool_reference_unresolved"


def test_a_reference_in_a_result_to_a_tool_that_is_not_there() -> None:
    fields = {"messages": [user("a"), assistant(ONE), user(result("t1", [reference("Gone")]))], "tools": [READ]}
    assert parse(**fields).messages[2].content == (ToolResult("t1", (ToolReference("Gone"),)),)


def test_a_definition_follows_the_rules_for_tools() -> None:
    bad = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "a"}}}
    assert error({"messages": [user("a"), system(bad)]}).message.endswith("custom.input_schema: Field required")


def test_a_tool_that_was_removed_cannot_be_forced() -> None:
    fields = {"messages": [user("a"), system(change("removal", "Read"))], "tools": [READ, tool_json("Edit")]}
    choice = {"type": "tool", "name": "Read"}
    assert error({**fields, "tool_choice": choice}).message == "tool_choice: Tool 'Read' not found in provided tools"
    parse(**fields, tool_choice={"type": "tool", "name": "Edit"})


# --- whatever comes ---------------------------------------------------------------------------------------------------

FIELDS = (
    *("model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p", "top_k"),
    *("metadata", "tools", "tool_choice", "thinking", "output_config", "cache_control", "service_tier", "speed"),
    *("inference_geo", "container", "diagnostics", "context_management", "compaction", "mcp_servers", "fallbacks"),
    *("fallback_credit_token", "thread", "billing_policy", "output_format", "safeguards", "new"),
)
WORDS = (
    *("type", "text", "role", "user", "assistant", "system", "content", "source", "name", "id", "tool", "tool_use_id"),
    *("input", "input_schema", "base64", "url", "data", "media_type", "image/png", "application/pdf", "title"),
    *("auto", "any", "none", "enabled", "adaptive", "display", "omitted", "json_schema", "schema", "format", "object"),
    *("tool_name", "tool_definition", "definition", "custom", "bash_20250124", "bash", "properties", "required"),
    *("tool_reference", "output_config", "clear_at", "next_user_message", "is_error", "cache_control", "ephemeral"),
    *READERS,
    *DROPPED,
)
words = st.sampled_from(WORDS)
likely_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3000) | words | json_values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words, inner, max_size=4)
        | st.builds(lambda kind, rest: {**rest, "type": kind}, words, st.dictionaries(words, inner, max_size=4))
    ),
    max_leaves=12,
)
"""Anything, often something that looks like a part of a request."""

blocks = st.one_of(
    likely_values,
    st.sampled_from([text("a"), IMAGE, PDF, reference("Read"), call("t1", "Read"), result("t1"), compaction("x")]),
    st.builds(result, st.sampled_from(["t1", "t2"]), likely_values),
    st.builds(lambda name: change("removal", name), st.sampled_from(["Read", "Gone"])),
)
some_messages = st.lists(
    st.builds(
        lambda role, content, more: {"role": role, "content": content, **more},
        st.sampled_from(["user", "assistant", "system"]),
        st.lists(blocks, max_size=3) | st.text(max_size=3),
        st.sampled_from([{}, {"clear_at": "next_user_message"}, {"output_config": {}}, {"x": 1}]),
    ),
    max_size=5,
)
likely_fields = st.dictionaries(st.sampled_from(FIELDS), likely_values, max_size=4)
any_rules = st.builds(Rules, st.sampled_from([OLD_VERSION, NEW_VERSION]), st.sampled_from([frozenset(), KNOWN_BETAS]))


def survives(fields: Json, rules: Rules) -> None:
    """What comes is refused as a client's fault, or can be rendered for every family of alias."""
    try:
        request = parse_request(body(**fields), rules)
    except (InvalidRequest, NotFound):
        return
    for alias in (CLAUDE, SEEING, BLIND):
        try:
            prompt = render(request, alias, armoured=True)
        except InvalidRequest:
            if alias is not CLAUDE:  # which alone takes no addresses of images
                raise
        else:
            roles = [turn.role for turn in prompt.turns]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
            assert all(turn.parts for turn in prompt.turns)


@examples(300)
@given(likely_fields, any_rules)
def test_no_field_whatsoever_breaks_anything(fields: Json, rules: Rules) -> None:
    survives(fields, rules)


@examples(400)
@given(some_messages, any_rules)
def test_no_message_whatsoever_breaks_anything(messages: list[Json], rules: Rules) -> None:
    survives({"messages": messages, "tools": [READ, tool_json("Edit", defer_loading=True)]}, rules)


@examples(100)
@given(json_values, any_rules)
def test_no_json_whatsoever_breaks_anything(value: Any, rules: Rules) -> None:
    with contextlib.suppress(InvalidRequest, NotFound):
        parse_request(json.dumps(value).encode(), rules)
