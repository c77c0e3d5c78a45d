"""Anthropic JSON -> Request: what is read, what is let pass, and the exact words for what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from core_samples import (
    ABSENT,
    IMAGE,
    PDF,
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
    tool_json,
    user,
)
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.content import (
    MessageParam,
    Omitted,
    Request,
    Text,
    Tool,
    ToolChoice,
    ToolReference,
    ToolResult,
    ToolUse,
)
from claude_proxy.core.request import parse_request
from claude_proxy.errors import InvalidRequest

PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."
TOOL_NAME = "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'"
SYSTEM_HOLDS_TEXT = "role 'system' supports text blocks only"
BLOCK_TAGS = "'text', 'image', 'document', 'search_result', 'tool_use', 'tool_result', 'tool_reference'"


def first(*content: Any) -> Json:
    """Fields with one user message of this content."""
    return {"messages": [{"role": "user", "content": list(content)}]}


def tools(*items: Any) -> Json:
    return {"tools": list(items)}


def fault_of(fields: Json) -> InvalidRequest | None:
    try:
        parse(**fields)
    except InvalidRequest as fault:
        return fault
    return None


# --- faults -----------------------------------------------------------------------------------------------------------

FAULTS: list[tuple[Json, str]] = [
    # top level
    ({"model": ABSENT}, "model: Field required"),
    ({"model": None}, "model: Field required"),
    ({"model": 4}, "model: Input should be a valid string"),
    ({"model": ""}, "model: String should have at least 1 character"),
    ({"max_tokens": ABSENT}, "max_tokens: Field required"),
    ({"max_tokens": "100"}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": 1.5}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
    ({"stream": "true"}, "stream: Input should be a valid boolean"),
    ({"stream": 1}, "stream: Input should be a valid boolean"),
    ({"temperature": "1"}, "temperature: Input should be a valid number"),
    ({"temperature": True}, "temperature: Input should be a valid number"),
    ({"temperature": 1.01}, "temperature: Input should be between 0 and 1"),
    ({"top_p": -0.1}, "top_p: Input should be between 0 and 1"),
    ({"thinking": True}, "thinking: Input should be a valid dictionary"),
    ({"thinking": {}}, "thinking.type: Field required"),
    ({"thinking": {"type": 1}}, "thinking.type: Input should be a valid string"),
    # system
    ({"system": 5}, "system: Input should be a valid list"),
    ({"system": ["text"]}, "system.0: Input should be a valid dictionary"),
    ({"system": [{"type": "text", "text": "a"}, {"text": "b"}]}, "system.1.type: Field required"),
    ({"system": [{"type": "text"}]}, "system.0.text: Field required"),
    ({"system": [{"type": "text", "text": 5}]}, "system.0.text: Input should be a valid string"),
    # messages
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
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: Field required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid list"),
    ({"messages": [user("a"), assistant("b")]}, PREFILL),
    # content blocks
    (first("text"), "messages.0.content.0: Input should be a valid dictionary"),
    (first({"text": "a"}), "messages.0.content.0.type: Field required"),
    (first({"type": None}), "messages.0.content.0.type: Field required"),
    (
        first({"type": "text", "text": "a"}, {"type": "video"}),
        "messages.0.content.1: Input tag 'video' found using 'type' does not match any of the expected tags: "
        + BLOCK_TAGS,
    ),
    (first({"type": "text"}), "messages.0.content.0.text.text: Field required"),
    (first({"type": "text", "text": ["a"]}), "messages.0.content.0.text.text: Input should be a valid string"),
    (first({"type": "image"}), "messages.0.content.0.image.source: Field required"),
    (
        first({"type": "document", "source": "a"}),
        "messages.0.content.0.document.source: Input should be a valid dictionary",
    ),
    (
        first({"type": "document", "source": {"type": "text"}}),
        "messages.0.content.0.document.source.data: Field required",
    ),
    (first({"type": "search_result"}), "messages.0.content.0.search_result.content: Field required"),
    # calls and results
    (first({"type": "tool_result"}), "messages.0.content.0.tool_result.tool_use_id: Field required"),
    (first(result("a", 5)), "messages.0.content.0.tool_result.content: Input should be a valid list"),
    (
        first(result("a", [{"type": "text", "text": 5}])),
        "messages.0.content.0.tool_result.content.0.text.text: Input should be a valid string",
    ),
    (first(result("a", is_error="no")), "messages.0.content.0.tool_result.is_error: Input should be a valid boolean"),
    (
        first(result("a", [result("b")])),
        "messages.0.content.0.tool_result.content.0: a tool_result holds no calls or results",
    ),
    (
        first(result("a", [{"type": "audio"}])),
        "messages.0.content.0.tool_result.content.0: Input tag 'audio' found using 'type' does not match any of the "
        f"expected tags: {BLOCK_TAGS}",
    ),
    (first(call("a", "Read")), "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages"),
    (
        {"messages": [user("a"), assistant("b", result("a")), user("c")]},
        "messages.1.content.1: `tool_result` blocks can only be in `user` messages",
    ),
    *(
        ({"messages": [user("a"), system(block)]}, f"messages.1.content.0: {SYSTEM_HOLDS_TEXT}")
        for block in (IMAGE, PDF, result("a"), call("a", "Read"))
    ),
    (
        {"messages": [user("a"), assistant({"type": "tool_use", "name": "Read", "input": {}}), user("c")]},
        "messages.1.content.0.tool_use.id: Field required",
    ),
    (
        {"messages": [user("a"), assistant({"type": "tool_use", "id": "i", "input": {}}), user("c")]},
        "messages.1.content.0.tool_use.name: Field required",
    ),
    (
        {"messages": [user("a"), assistant({"type": "tool_use", "id": "i", "name": "n", "input": "{}"}), user("c")]},
        "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
    ),
    (
        first(result("a", [{"type": "tool_reference"}])),
        "messages.0.content.0.tool_result.content.0.tool_reference.tool_name: Field required",
    ),
    # tools
    ({"tools": {}}, "tools: Input should be a valid list"),
    (tools("Read"), "tools.0: Input should be a valid dictionary"),
    (tools({"input_schema": {}}), "tools.0.custom.name: Field required"),
    (tools({"name": "a b", "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}"),
    (tools({"name": "", "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}"),
    (tools({"name": "a" * 129, "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}"),
    (tools({"name": 'a"', "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}"),
    (tools({"name": "Read\n", "input_schema": {}}), f"tools.0.custom.name: {TOOL_NAME}"),
    (tools(tool_json("a"), {"name": "b"}), "tools.1.custom.input_schema: Field required"),
    (tools({"name": "b", "input_schema": "{}"}), "tools.0.custom.input_schema: Input should be a valid dictionary"),
    (tools(tool_json("a", description=5)), "tools.0.custom.description: Input should be a valid string"),
    (tools(tool_json("a", defer_loading="yes")), "tools.0.custom.defer_loading: Input should be a valid boolean"),
    (tools(tool_json("a"), tool_json("a")), "tools: Tool names must be unique."),
    (tools(tool_json("a", type=5)), "tools.0.type: Input should be a valid string"),
    # tool_choice
    ({"tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
    ({"tool_choice": {}}, "tool_choice.type: Field required"),
    ({"tool_choice": {"type": "all"}}, "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name: Field required"),
    (
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}},
        "tool_choice.disable_parallel_tool_use: Input should be a valid boolean",
    ),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[message[:70] for _, message in FAULTS])
def test_a_fault_names_the_field(fields: Json, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.message == message
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")


def test_a_system_block_that_is_no_text() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(system=[IMAGE])
    assert caught.value.message == "system.0.type: Input should be 'text'"


@pytest.mark.parametrize("kind", ["web_search_20250305", "computer_20250124", "mcp_toolset", "bash_20250124"])
def test_tools_that_anthropic_runs_or_defines_are_refused_by_type(kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(tools=[tool_json("a"), {"type": kind, "name": "x"}])
    assert caught.value.message.startswith(f"tools.1: this server does not support tool types: {kind}.")
    assert "leave this one out" in caught.value.message


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
    pytest.param(b'{"a":' + b"[" * 100_000, NO_JSON + "it is nested too deeply", id="nested too deeply"),
    pytest.param(b'{"a":' + b"1" * 5_000 + b"}", NO_JSON + "a number has too many digits", id="too many digits"),
]


@pytest.mark.parametrize(("data", "message"), BAD_BODIES)
def test_a_body_that_is_no_json(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(data)
    assert caught.value.message == message


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


@examples(150)
@given(
    field=st.sampled_from(["model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "stream"]),
    value=json_values,
)
def test_whatever_comes_it_is_read_or_refused_with_a_path(field: str, value: Any) -> None:
    fault = fault_of({field: value})
    assert fault is None or fault.message.startswith(field)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_small_request() -> None:
    assert parse() == Request("claude-sonnet-4", (MessageParam("user", (Text("hello"),)),), max_tokens=100)


def test_a_request_with_everything() -> None:
    request = conversation(
        user("Look.", IMAGE, PDF),
        system("Be quick."),
        assistant("I will.", call("t1", "Read", file_path="/a")),
        user(result("t1", [{"type": "text", "text": "b"}, IMAGE, reference("Edit")], is_error=True), "And now?"),
        system=[{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
        tools=[tool_json("Read"), {**tool_json("Edit", defer_loading=True), "type": "custom"}],
        tool_choice={"type": "tool", "name": "Read", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive", "display": "updates"},
        stream=True,
        temperature=0.5,
        top_p=1,
    )
    empty = {"type": "object", "properties": {}}
    assert request == Request(
        model="claude-sonnet-4",
        messages=(
            MessageParam("user", (Text("Look."), Omitted("image (image/png)"), Omitted("document (application/pdf)"))),
            MessageParam("system", (Text("Be quick."),)),
            MessageParam("assistant", (Text("I will."), ToolUse("t1", "Read", {"file_path": "/a"}))),
            MessageParam(
                "user",
                (
                    ToolResult("t1", (Text("b"), Omitted("image (image/png)"), ToolReference("Edit")), is_error=True),
                    Text("And now?"),
                ),
            ),
        ),
        max_tokens=100,
        system=("One.", "Two."),
        tools=(Tool("Read", empty, "Use Read."), Tool("Edit", empty, "Use Edit.", defer_loading=True)),
        tool_choice=ToolChoice("tool", "Read", disable_parallel_tool_use=True),
        thinking=True,
        stream=True,
        temperature=0.5,
        top_p=1,
    )


def test_a_string_is_one_text_block() -> None:
    as_string = {"role": "user", "content": "hello"}
    assert conversation(as_string) == conversation(user("hello"))
    assert conversation(user(result("a", "b"))) == conversation(user(result("a", [{"type": "text", "text": "b"}])))
    assert parse(system="a") == parse(system=[{"type": "text", "text": "a"}])


LENIENT: list[tuple[str, Json]] = [
    ("fields nobody knows", {"safeguards": [{"type": "new"}], "context_management": {"edits": []}, "x": 1}),
    ("fields without an effect here", {"metadata": {"user_id": "{}"}, "service_tier": "auto", "stop_sequences": []}),
    ("nulls for what may be absent", dict.fromkeys(("system", "tools", "tool_choice", "thinking", "stream", "top_p"))),
    ("no tools", {"tools": []}),
    ("a whole float", {"max_tokens": 100.0}),
    ("thinking disabled", {"thinking": {"type": "disabled"}}),
    ("thinking of a kind nobody knows", {"thinking": {"type": "between_tools", "x": 1}}),
    ("keys nobody knows", {"messages": [{**user("hello"), "output_config": {"effort": "low"}}]}),
    (
        "cache marks",
        first({"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}, "citations": None}),
    ),
]


@pytest.mark.parametrize("fields", [fields for _, fields in LENIENT], ids=[name for name, _ in LENIENT])
def test_what_loses_nothing_is_let_pass(fields: Json) -> None:
    assert parse(**fields) == parse()


@pytest.mark.parametrize("kind", ["enabled", "adaptive"])
def test_a_request_that_allows_thinking(kind: str) -> None:
    assert parse(thinking={"type": kind, "budget_tokens": 1024}).thinking


def test_count_tokens_has_no_max_tokens() -> None:
    assert parse_request(body(max_tokens=ABSENT), count_only=True).max_tokens is None
    assert parse_request(body(max_tokens="ignored"), count_only=True).max_tokens is None


DROPPED: list[Json] = [
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "redacted_thinking", "data": "x"},
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    {"type": "tool_search_tool_result", "tool_use_id": "s", "content": {}},
    {"type": "mcp_tool_use", "id": "m", "name": "n", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
]


@pytest.mark.parametrize("block", DROPPED, ids=lambda block: str(block["type"]))
def test_what_says_nothing_to_a_text_only_model_is_dropped(block: Json) -> None:
    request = conversation(user("a"), assistant(block, "b"), user("c"))
    assert request.messages[1].content == (Text("b"),)


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_texts_are_dropped(blank: str) -> None:
    assert conversation(user(blank, "a")).messages[0].content == (Text("a"),)
    assert conversation({"role": "user", "content": blank}).messages[0].content == ()


def test_white_space_around_a_text_is_kept() -> None:
    assert conversation(user("\n a \n")).messages[0].content == (Text("\n a \n"),)


@pytest.mark.parametrize("content", ["", [], [DROPPED[0]], [{"type": "text", "text": ""}]])
def test_a_last_assistant_message_that_says_nothing_is_no_prefill(content: Any) -> None:
    request = conversation(user("a"), {"role": "assistant", "content": content})
    assert request.messages[1].content == ()


def test_a_system_message_may_hold_nothing_but_an_effort() -> None:
    request = conversation(user("a"), {"role": "system", "content": [], "output_config": {"effort": "low"}})
    assert request.messages[1] == MessageParam("system", ())


def test_a_result_may_be_empty() -> None:
    for empty in (None, "", [], [{"type": "text", "text": " "}]):
        assert conversation(user(result("a", empty))).messages[0].content == (ToolResult("a"),)


def test_calls_and_results_may_come_with_the_extras_of_an_echo() -> None:
    echoed = {**call("t", "Read"), "caller": {"type": "direct"}, "toolset_name": None}
    request = conversation(user("a"), assistant(echoed), user(result("t", toolset_name=None, cache_control=None)))
    assert request.messages[1].content == (ToolUse("t", "Read", {}),)


@pytest.mark.parametrize(
    ("block", "read"),
    [
        pytest.param(
            {"type": "image", "source": {"type": "url", "url": "https://h"}}, Omitted("image"), id="by address"
        ),
        pytest.param({**PDF, "title": "T"}, Omitted("document 'T' (application/pdf)"), id="with a title"),
        pytest.param(
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
            Text("<document>\nplain\n</document>"),
            id="of plain text",
        ),
        pytest.param(
            {"type": "search_result", "source": "https://h", "title": "T", "content": [{"type": "text", "text": "a"}]},
            Text("T (https://h)\na"),
            id="search result",
        ),
    ],
)
def test_documents_become_text_where_they_can(block: Json, read: Text | Omitted) -> None:
    assert conversation(user(block)).messages[0].content == (read,)


def test_tool_choice_none_leaves_nothing_to_call() -> None:
    offered = [tool_json("Read")]
    assert [tool.name for tool in parse(tools=offered).callable_tools] == ["Read"]
    assert parse(tools=offered, tool_choice={"type": "none"}).callable_tools == ()
