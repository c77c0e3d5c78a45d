"""The simulator's faults, each by itself: what PHP, REDCap, the module and the vendors do to a request and a reply."""

from __future__ import annotations

import json
from html.entities import name2codepoint
from typing import Any

import pytest
from simulated import FIELDS, Script

from claude_proxy.demo import pages, php
from claude_proxy.demo.model import ModelFailure, ModelRequest
from claude_proxy.demo.module import NETWORK_APOLOGY, REPHRASE_APOLOGY
from claude_proxy.demo.pages import CannedResponse
from claude_proxy.demo.simulator import ModelReply, Received, Simulator

NOT_GIVEN: dict[str, Any] = {}


def call(reply: ModelReply | str | Exception = "hi", *, without: str = "", **fields: str) -> CannedResponse:
    form = {name: value for name, value in (FIELDS | fields).items() if name not in without.split()}
    return Simulator(Script(reply)).answer(Received(form))


def message(reply: ModelReply | str | Exception = "hi", **fields: str) -> dict[str, Any]:
    response = call(reply, **fields)
    assert response.status == 200
    body: dict[str, Any] = json.loads(response.body)
    return body


def text(reply: ModelReply | str | Exception = "hi", **fields: str) -> str:
    return str(message(reply, **fields)["content"][0]["text"])


def asked(arrays: dict[str, list[str]] = NOT_GIVEN, **fields: str) -> ModelRequest:
    """Return what the model was sent."""
    script = Script()
    simulator = Simulator(script)
    simulator.answer(Received(FIELDS | fields, arrays))
    assert not simulator.refusals
    return script.asked[-1]


def turns(*contents: object) -> str:
    """Return messages as JSON, of alternating roles, of which the user's is the first."""
    return json.dumps([{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)])


# --- Success ----------------------------------------------------------------------------------------------------------


def test_a_message() -> None:
    body = message(ModelReply("hello", 12, 3), model="claude-3-7-sonnet-20250219")
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "hello"}],
        "model": "claude-3-7-sonnet-20250219",
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 3},
    }


def test_tokens_are_estimated_where_the_model_counts_none() -> None:
    assert message("x" * 40, messages=turns("y" * 71))["usage"] == {"input_tokens": 20, "output_tokens": 10}
    assert message("", messages=turns("y"), system="")["usage"] == {"input_tokens": 1, "output_tokens": 1}


def test_bodies_are_encoded_as_php_does() -> None:
    assert r"1\/2 \u00e9 \ud83d\ude00" in str(call("1/2 é 😀").body)


def test_call_ai() -> None:
    body = message(ModelReply("hello", 1, 2), action="callAI", prompt="hi", model="gpt-4-1")
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert body == {"status": "success", "model": "gpt-4-1", "content": "hello", "usage": usage}
    assert message('{"a":"&lt;"}', action="callAI", prompt="hi", model="gpt-4-1")["content"] == {"a": "&lt;"}
    assert message(ModelFailure(), action="callAI", prompt="hi")["content"] == NETWORK_APOLOGY
    assert call(action="callAI").status == call(action="callAI", prompt="0").status == 400
    request = asked(action="callAI", prompt="hi", model="gpt-4-1")
    assert (request.messages, request.temperature) == ([{"role": "user", "content": "hi"}], 0.2)


def test_a_bare_schema_becomes_strict_and_loses_empty_objects_but_for_properties() -> None:
    schema = '{"type":"object","properties":{},"items":{},"anyOf":[{},{"enum":["a"]}]}'
    request = asked(action="callAI", prompt="hi", json_schema=schema, model="gpt-4-1")
    emptied = {"type": "object", "properties": {}, "items": [], "anyOf": [[], {"enum": ["a"]}]}
    assert request.json_schema is not None
    assert (request.json_schema["strict"], request.json_schema["schema"]) == (True, emptied)
    named = '{"name":"n","strict":false,"schema":{"type":"object"}}'
    assert asked(action="callAI", prompt="hi", json_schema=named, model="o3").json_schema == json.loads(named)
    assert asked(action="callAI", prompt="hi", json_schema="no json", model="o3").json_schema is None


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1", "deepseek", "gemini-2.5-pro", "llama3370b", "claude"])
def test_a_schema_is_dropped_where_the_alias_does_not_support_it(model: str) -> None:
    assert asked(action="callAI", prompt="hi", json_schema='{"type":"object"}', model=model).json_schema is None


# --- Into the model ---------------------------------------------------------------------------------------------------

CONVERSATION = '[{"role":"user","content":"a"},{"role":"system","content":"S"},{"role":"user","content":"b"}]'


def test_chat_models_are_sent_messages_as_they_are() -> None:
    request = asked(messages=CONVERSATION, max_tokens="5", temperature="0.5", stop='["A","B"]')
    assert [m["content"] for m in request.messages] == ["Be brief.", "a", "S", "b"]
    assert (request.max_tokens, request.temperature, request.top_p) == (None, 0.5, 0.9)
    assert (request.frequency_penalty, request.presence_penalty) == (0.5, 0.0)
    assert request.stop == ('["A","B"]',)
    assert request.system == "Be brief.\n\nS"
    assert asked().temperature == 0.7
    assert asked({"stop": ["A", "B"]}).stop == ("A", "B")


def test_reasoning_models_are_sent_a_limit_and_nothing_else() -> None:
    request = asked(model="o3-mini", max_tokens="500", temperature="0.5", top_p="1", stop="A")
    assert request == ModelRequest("o3-mini", request.messages, max_tokens=500)
    assert asked(model="gpt-5").max_tokens == 4096


def test_claude_loses_the_place_of_system_messages_and_its_max_tokens() -> None:
    request = asked(model="claude", messages=CONVERSATION, max_tokens="5", temperature="0.5", top_p="0.1", stop="A")
    assert request.messages[0] == {"role": "system", "content": "Be brief.\n\nS"}
    assert [m["content"] for m in request.messages[1:]] == ["a", "b"]
    assert request == ModelRequest("claude", request.messages, max_tokens=8192, temperature=0.5)
    assert asked(model="claude").temperature == 0.7
    opus = asked(model="claude-opus-4-6", temperature="0.5", top_p="0.1")
    assert (opus.temperature, opus.top_p, opus.max_tokens) == (None, None, 16_384)


def test_the_module_maps_two_names() -> None:
    assert asked(model="claude-3-5-sonnet-20241022").alias == "claude"
    assert text(model="claude-3-5-haiku-20241022") == NETWORK_APOLOGY


def test_fields_that_the_module_does_not_know_are_ignored() -> None:
    assert asked(tools="[]", stream="true", thinking="{}", stop_sequences='["x"]') == asked()


PARTS = [{"type": "text", "text": "hello"}]


@pytest.mark.parametrize("model", ["gpt-4o", "claude", "o1"])
def test_an_array_in_the_first_message_is_fatal_unless_a_system_text_stands_before_it(model: str) -> None:
    assert call(model=model, messages=turns(PARTS), system="") == pages.FATAL
    assert call(model=model, messages=turns(PARTS), without="system") == pages.FATAL
    assert text(model=model, messages=turns("a", "b", PARTS), system="") == "hi"
    assert text(model=model, messages=turns(PARTS)) == "hi"
    assert (pages.FATAL.status, pages.FATAL.body) == (500, "")


def test_a_system_field_that_is_no_string_is_fatal() -> None:
    assert Simulator(Script()).answer(Received(FIELDS, {"system": ["a", "b"]})) == pages.FATAL


@pytest.mark.parametrize("messages", ["", "[]", "{}", "null", "5", '"a"', "[", "hello", '["\udcff"]'])
def test_bad_messages(messages: str) -> None:
    response = call(messages=messages)
    error = json.loads(response.body)
    assert (response.status, error["type"], error["error"]["type"]) == (400, "error", "invalid_request_error")


# --- What vendors refuse ----------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, str]]] = [
    ("unknown alias", {"model": "gpt-9"}),
    ("messages that are no objects", {"messages": '["a"]'}),
    ("unknown role", {"messages": '[{"role":"tool","content":"a"}]'}),
    ("no content", {"messages": '[{"role":"user"}]'}),
    ("Anthropic's image for OpenAI", {"messages": turns([{"type": "image", "source": {}}])}),
    ("OpenAI's image for Anthropic", {"model": "claude", "messages": turns([{"type": "image_url"}])}),
    ("empty text block", {"model": "claude", "messages": turns([{"type": "text", "text": ""}])}),
    ("empty content", {"model": "claude", "messages": turns("")}),
    ("empty array", {"model": "claude", "messages": turns([])}),
    ("assistant turn that ends in white space", {"model": "claude", "messages": turns("a", "b\n", "c")}),
    ("prefill, opus 4.7", {"model": "claude-opus-4-7", "messages": turns("a", "b")}),
    ("prefill, sonnet 4.6", {"model": "claude-sonnet-4.6", "messages": turns("a", "b")}),
    ("only system messages", {"model": "claude", "messages": '[{"role":"system","content":"a"}]'}),
    ("window of gpt-4o", {"messages": turns("x" * 4 * 128_001)}),
    ("window of claude", {"model": "claude", "messages": turns("x" * 4 * 200_001)}),
    ("window of o1", {"model": "o1", "messages": turns([{"type": "text", "text": "x" * 4 * 200_001}])}),
    ("limit of o3-mini", {"model": "o3-mini", "max_tokens": "100001"}),
    ("limit of gpt-5", {"model": "gpt-5", "max_tokens": "128001"}),
    ("no tokens at all", {"model": "o1", "max_tokens": "many"}),
]


@pytest.mark.parametrize("fields", [fields for _, fields in REFUSED], ids=[name for name, _ in REFUSED])
def test_refusals_are_apologies(fields: dict[str, str]) -> None:
    script = Script()
    simulator = Simulator(script)
    response = simulator.answer(Received(FIELDS | fields))
    body = json.loads(response.body)
    assert (response.status, body["content"][0]["text"], body["stop_reason"]) == (200, NETWORK_APOLOGY, "end_turn")
    assert body["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert body["model"] == fields.get("model", "gpt-4o")
    assert len(simulator.refusals) == 1
    assert not script.asked


ACCEPTED: list[dict[str, str]] = [
    {"model": "claude-sonnet-4-5", "messages": turns("a", "b")},
    {"model": "claude", "messages": turns("a ", "b", "c\n")},
    {"model": "claude", "messages": turns("a", [{"type": "text", "text": "b"}], [{"type": "image", "source": {}}])},
    {"model": "gpt-4o", "messages": turns("a", "", [{"type": "image_url", "image_url": {"url": "data:"}}])},
    {"model": "gpt-4o", "messages": turns("a", "b ")},
    {"model": "gpt-4o", "messages": turns("x" * 4 * 127_900)},
    {"model": "gpt-4.1", "messages": turns("x" * 4 * 900_000)},
    {"model": "o1", "max_tokens": "100000"},
    {"model": "gpt-5", "max_tokens": "128000"},
    {"model": "gpt-4o", "max_tokens": "999999999"},
]


@pytest.mark.parametrize("fields", ACCEPTED, ids=range(len(ACCEPTED)))
def test_what_vendors_accept(fields: dict[str, str]) -> None:
    assert text(**fields) == "hi"


def test_a_failing_model_is_tried_three_times() -> None:
    script = Script(ModelFailure("rate limit"))
    simulator = Simulator(script)
    body = json.loads(simulator.answer(Received(FIELDS)).body)
    assert body["content"][0]["text"] == NETWORK_APOLOGY
    assert len(script.asked) == 3
    assert list(simulator.refusals) == ["rate limit"]


def test_configured_aliases() -> None:
    simulator = Simulator(Script(), aliases={"mine"})
    for model, expected in (("mine", "hi"), ("gpt-4o", NETWORK_APOLOGY)):
        body = json.loads(simulator.answer(Received(FIELDS | {"model": model})).body)
        assert body["content"][0]["text"] == expected


# --- Out of the model -------------------------------------------------------------------------------------------------

ENTITIES = [
    ("&lt;p&gt; &quot;a&#39;&#x27;&#X27;", "<p> \"a'''"),
    ("&amp;lt; &amp;amp;lt;", "&lt; &amp;lt;"),
    ("int *p = &sum;", "int *p = ∑"),
    ("&nbsp;|&hellip;|&frac12;|&thetasym;|&rang;|&euro;", "\xa0|…|½|ϑ|\u232a|€"),
    ("&apos; &Sum; &NewLine; &sum &; &LT; &#; &#x; &#xg;", None),
    ("&#128; &#159; &#0; &#11; &#127; &#xD800; &#xDFFF; &#x110000; &#99999999999999999999;", None),
    ("&#9;|&#xA0;|&#xd7ff;|&#xE000;|&#x10FFFF;|&#0000065;|&#x000041;", "\t|\xa0|\ud7ff|\ue000|\U0010ffff|A|A"),
    ("&&lt;&foo&gt;&amp", "&<&foo>&amp"),
]


@pytest.mark.parametrize("alias", ["gpt-4o", "claude", "o3"])
@pytest.mark.parametrize(("written", "read"), ENTITIES)
def test_entities_are_decoded_once(written: str, read: str | None, alias: str) -> None:
    assert text(f"|{written}|", model=alias) == f"|{written if read is None else read}|"


def test_the_table_of_entities_is_that_of_html_4() -> None:
    names = [f"&{name};" for name in name2codepoint]
    assert len(names) == 252
    assert all(len(php.html_entity_decode(name)) == 1 for name in names)


def test_decoding_can_be_off() -> None:
    body = json.loads(Simulator(Script("&lt;"), decode_entities=False).answer(Received(FIELDS)).body)
    assert body["content"][0]["text"] == "&lt;"


def test_white_space_is_trimmed() -> None:
    assert text(" \t\r\n\0\x0ba b\n\n") == "a b"
    assert text("\xa0a\u3000") == "\xa0a\u3000"


CLAUDE_JSON = [
    ('{"final_answer":"a &lt; b","content":"c"}', "a < b"),
    ('{"a":1,"content":"c","message":"m"}', "c"),
    ('{"final_answer":null,"message":" m\\n"}', " m\n"),
    ('{\n  "content": "c"\n}', "c"),
    ('{"a": "/é", "b": {}}', '{"a": "/é", "b": {}}'),
    ('```json\n{"content":"c"}\n```', "c"),
    ('```json\n{"a": 1}\n```', '{"a": 1}'),
    ("```json\nno json\n```", "no json"),
    ("```json\nno json", "no json"),
    ("{no json}\n```", "{no json}"),
    ('```\n{"content":"c"}\n```', '```\n{"content":"c"}\n```'),
    ('Words. {"content":"c"}', 'Words. {"content":"c"}'),
    ('[{"content":"c"}]', '[{"content":"c"}]'),
    ('{"tool_call":{"name":"x"}}', REPHRASE_APOLOGY),
    ('{"tool_call":1,"content":"c"}', REPHRASE_APOLOGY),
    ('{"content":"a &quot; b"}', '{"content":"a " b"}'),
]


@pytest.mark.parametrize(("written", "read"), CLAUDE_JSON)
def test_json_of_claude_aliases_is_looked_into(written: str, read: str) -> None:
    assert text(written, model="claude") == read


@pytest.mark.parametrize("written", ['{"content":{"a":1}}', '{"message":["a"]}', '{"content":[{"type":"text"}]}'])
def test_an_extracted_array_that_holds_something_is_fatal(written: str) -> None:
    assert call(written, model="claude") == pages.FATAL
    assert call(f"```json\n{written}\n```", model="gpt-4o") == pages.FATAL
    assert call(written, model="gpt-4o").status == 200


@pytest.mark.parametrize(
    ("value", "read"),
    [("5", "5"), ("1.50", "1.5"), ("true", "true"), ("false", "false"), ("[]", "[]"), ("{}", "[]"), ("1e400", False)],
)
def test_other_extracted_values_come_back_as_text(value: str, read: object) -> None:
    for model, written in (("claude", f'{{"content":{value}}}'), ("gpt-4o", f'```json{{"content":{value}}}```')):
        assert message(written, model=model)["content"][0]["text"] == read


def test_the_apology_of_a_tool_call_has_the_usage_of_the_lost_reply() -> None:
    body = message(ModelReply('{"tool_call":{}}', 12, 3), model="claude", max_tokens="3")
    assert body["content"][0]["text"] == REPHRASE_APOLOGY
    assert (body["usage"], body["stop_reason"]) == ({"input_tokens": 12, "output_tokens": 3}, "max_tokens")


def test_words_beside_a_message_are_lost_and_only_the_usage_tells() -> None:
    lost = '{"message":"Writing it","name":"Write","arguments":{"content":"' + "x" * 4000 + '"}}'
    body = message(lost, model="claude")
    assert (body["content"][0]["text"], body["usage"]["output_tokens"] > 1000) == ("Writing it", True)


OTHER_JSON = [
    ("{}", "[]"),
    ('{"a": {}, "b": [], "c": {"0": 1, "1": 2}, "d": {"1": 2}}', '{"a":[],"b":[],"c":[1,2],"d":{"1":2}}'),
    ('{"url": "http://é😀\\u0001"}', r'{"url":"http:\/\/\u00e9\ud83d\ude00\u0001"}'),
    (
        '{"n": [1, 1.0, 1.50, 1e25, 1e-7, 0.0001, -2.5E+3, true, null]}',
        '{"n":[1,1,1.5,1.0e+25,1.0e-7,0.0001,-2500,true,null]}',
    ),
    (
        '{"n": [12345678901234567890, 9223372036854775807, 1.25e30]}',
        '{"n":[1.2345678901234567e+19,9223372036854775807,1.25e+30]}',
    ),
    ('```json\n{"a": "/"}\n```', '{"a": "/"}'),
    ('```json\n{"content": "c"}\n```', "c"),
    ('{"content": "two\nlines"}', "twolines"),
    ('{"a": "&lt; &amp;lt;"}', '{"a":"&lt; &amp;lt;"}'),
    ('{"a": "&quot;"}', '{"a": """}'),
    ('{"content": "c", "final_answer": "f"}', '{"content":"c","final_answer":"f"}'),
    ('{"tool_call": {}}', '{"tool_call":[]}'),
    ("```json\nno json\n```", "no json"),
    ('{"a": NaN}', '{"a": NaN}'),
    ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
    ('["/"]', '["/"]'),
    ('Words {"a": "/"}', 'Words {"a": "/"}'),
]


@pytest.mark.parametrize("alias", ["gpt-4o", "o3-mini"])
@pytest.mark.parametrize(("written", "read"), OTHER_JSON)
def test_json_objects_of_other_aliases_are_encoded_anew(written: str, read: str, alias: str) -> None:
    assert text(written, model=alias) == read


def test_a_number_beyond_a_double_makes_the_text_false() -> None:
    assert message('{"a": 1e999}')["content"][0]["text"] is False
    assert call('{"a": 1e999}', action="callAI", prompt="hi").body == ""


def test_a_value_written_as_a_json_string_survives_the_backstop() -> None:
    written = r'<parameter name="content" encoding="json">"{\"final_answer\": \"x\"}"</parameter>'
    assert text(written) == text(written, model="claude") == written


def test_white_space_around_the_backstop_is_that_of_ascii() -> None:
    assert text('{\xa0"final_answer": "x"}', model="claude") == '{\xa0"final_answer": "x"}'
    assert text('{"final_answer": "x"}\u2028', model="claude") == 'x"}\u2028'


@pytest.mark.parametrize("alias", ["gpt-4o", "claude"])
def test_the_backstop_deletes_what_stands_before_an_answer(alias: str) -> None:
    assert text('A file:\n{"final_answer": "rest\\n\\"of it\\""}\n', model=alias) == 'rest\n"of it\\'
    assert text('Words. { "final_answer" :"rest, cut off', model=alias) == "rest, cut off"


@pytest.mark.parametrize(
    ("alias", "cap"),
    [
        ("claude", 8_192),
        ("claude-haiku-4.5", 8_192),
        ("claude-sonnet-4", 16_000),
        ("claude-sonnet-4-5", 16_384),
        ("gpt-4o", 16_384),
        ("gpt-4.1", 32_768),
    ],
)
def test_replies_are_cut_at_a_cap_that_nobody_is_told(alias: str, cap: int) -> None:
    body = message("x" * (4 * cap + 1), model=alias, max_tokens=str(cap + 1))
    assert body["content"][0]["text"] == "x" * 4 * cap
    assert (body["usage"]["output_tokens"], body["stop_reason"]) == (cap, "end_turn")


@pytest.mark.parametrize(
    ("alias", "stop_reason"),
    [
        ("o1", "end_turn"),
        ("o3-mini", "end_turn"),
        ("gpt-5", "end_turn"),
        ("o3", "max_tokens"),
        ("o4-mini", "max_tokens"),
    ],
)
def test_reasoning_models_obey_their_limit_and_only_two_of_them_say_so(alias: str, stop_reason: str) -> None:
    body = message("x" * 400, model=alias, max_tokens="50")
    assert body["content"][0]["text"] == "x" * 200
    assert (body["usage"]["output_tokens"], body["stop_reason"]) == (50, stop_reason)


@pytest.mark.parametrize("words", [190_000 * 4, 197_000 * 4])
def test_the_named_caps_leave_room_for_the_first_message(words: int) -> None:
    bounded = asked(model="claude", system="x" * words).max_tokens
    assert bounded == max(1_024, 200_000 - words // 4 - 2_000)
    assert asked(model="claude", system="x", messages=turns("x" * words)).max_tokens == 8_192
    assert asked(model="claude-sonnet-4-6", system="x" * words).max_tokens == 16_384


def test_the_stop_reason_follows_a_limit_that_was_not_applied() -> None:
    for alias in ("gpt-4o", "claude"):
        body = message(ModelReply("whole", 1, 10), model=alias, max_tokens="10")
        assert (body["content"][0]["text"], body["stop_reason"]) == ("whole", "max_tokens")
        assert message(ModelReply("whole", 1, 10), model=alias, max_tokens="11")["stop_reason"] == "end_turn"
        assert message(ModelReply("whole", 1, 4096), model=alias)["stop_reason"] == "max_tokens"


# --- REDCap -----------------------------------------------------------------------------------------------------------


def error(**fields: str) -> tuple[int, Any]:
    response = call(**fields)
    return response.status, json.loads(response.body)


def test_tokens() -> None:
    refusal = {"error": "You do not have permissions to use the API"}
    assert error(token="") == (403, refusal)
    simulator = Simulator(Script(), tokens=["right"])
    assert simulator.answer(Received(FIELDS)).status == 403
    assert simulator.answer(Received(FIELDS | {"token": "right"})).status == 200


def test_prefix_action_and_content() -> None:
    for fields in ({"prefix": "other"}, {"action": "embed"}, {"action": ""}, {"content": "records"}):
        status, body = error(**fields)
        assert (status, list(body)) == (400, ["error"])
    assert Simulator(Script(), prefix="other").answer(Received(FIELDS | {"prefix": "other"})).status == 200


def test_errors_of_redcap_are_xml_unless_json_is_asked_for() -> None:
    response = call(token="", without="format returnFormat")
    assert response.content_type.startswith("text/xml")
    assert str(response.body).endswith("<hash><error>You do not have permissions to use the API</error></hash>")
    assert call(token="", without="format").content_type == call(token="", without="returnFormat").content_type
    assert call(messages="", without="format returnFormat").content_type == "application/json"


def test_framework_actions_need_a_token() -> None:
    info = json.loads(call(action="__info", without="messages").body)
    assert {"name", "redcap-version", "module-version"} <= set(info)
    assert set(info["auth-actions"]) == {"callAI", "messages"}
    assert json.loads(call(action="__version").body)["redcap-version"] == info["redcap-version"]
    assert json.loads(call(action="__actions").body) == {"auth-actions": info["auth-actions"], "no-auth-actions": []}
    assert call(content="version", without="prefix action").body == info["redcap-version"]
    assert call(action="__info", token="").status == 403
    assert call(content="version", token="").status == 403
