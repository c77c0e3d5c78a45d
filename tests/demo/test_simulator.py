"""The simulator's faults, each by itself: what PHP, REDCap, the module and the vendors do to a request and a reply."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from contextlib import contextmanager
from html.entities import name2codepoint
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from claude_proxy.demo import simulator as sim
from claude_proxy.demo.simulator import (
    NETWORK_APOLOGY,
    REPHRASE_APOLOGY,
    CannedResponse,
    ModelFailure,
    ModelReply,
    ModelRequest,
    Received,
    Simulator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = {
    "token": "0123456789ABCDEF0123456789ABCDEF",
    "content": "externalModule",
    "prefix": "secure_chat_ai",
    "format": "json",
    "returnFormat": "json",
    "action": "messages",
    "model": "gpt-4o",
    "system": "Be brief.",
    "messages": '[{"role":"user","content":"hello"}]',
}
NOT_GIVEN: dict[str, Any] = {}


class Script:
    """A model that keeps what it was asked, and answers what it was told to."""

    def __init__(self, reply: ModelReply | str | Exception = "hi") -> None:
        self.reply = reply
        self.asked: list[ModelRequest] = []

    def __call__(self, request: ModelRequest) -> ModelReply | str:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


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
    assert call(model=model, messages=turns(PARTS), system="") == sim.FATAL
    assert call(model=model, messages=turns(PARTS), without="system") == sim.FATAL
    assert text(model=model, messages=turns("a", "b", PARTS), system="") == "hi"
    assert text(model=model, messages=turns(PARTS)) == "hi"
    assert (sim.FATAL.status, sim.FATAL.body) == (500, "")


def test_a_system_field_that_is_no_string_is_fatal() -> None:
    assert Simulator(Script()).answer(Received(FIELDS, {"system": ["a", "b"]})) == sim.FATAL


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
    simulator = Simulator(Script(), aliases=["mine"])
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
    assert all(len(sim.html_entity_decode(name)) == 1 for name in names)


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
    assert call(written, model="claude") == sim.FATAL
    assert call(f"```json\n{written}\n```", model="gpt-4o") == sim.FATAL
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


# --- HTTP -------------------------------------------------------------------------------------------------------------

TEXTS = ["plain", "", "a\r\n--b\r\n\r\nc\r\n", "&amp;=+%20 é 😀\n", "\r\n\r\n", '"quoted"; name="x"']


def multipart(fields: dict[str, str], boundary: str = "b0undary") -> tuple[str, bytes]:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    body = "".join(parts) + f"--{boundary}--\r\n"
    return f'multipart/form-data; boundary="{boundary}"', body.encode()


def urlencoded(fields: dict[str, str]) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", urllib.parse.urlencode(fields).encode()


@pytest.mark.parametrize("encode", [multipart, urlencoded])
@pytest.mark.parametrize("value", TEXTS)
def test_forms_carry_text_whole(encode: Any, value: str) -> None:
    fields = {"before": "1", "text": value, "after": "2"}
    assert dict(sim.read_form(*encode(fields))) == fields


def test_forms_as_other_clients_write_them() -> None:
    body = (
        b"preamble\r\n--B\r\ncontent-type: text/plain; charset=utf-8\r\nCONTENT-DISPOSITION: form-data; name=a\r\n\r\n"
        b'1\r\n--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nupload\r\n'
        b'--B\r\nContent-Disposition: form-data; name="bad"\r\n\r\n\xff\r\n--B--\r\nepilogue'
    )
    assert list(sim.read_form("Multipart/Form-Data; charset=utf-8; boundary=B", body)) == [
        ("a", "1"),
        ("bad", "\udcff"),
    ]
    assert list(sim.read_form("application/json", b'{"token":"x"}')) == []
    assert list(sim.read_form("multipart/form-data", body)) == []
    assert list(sim.read_form("", b"a=1")) == []


@contextmanager
def connected(simulator: Simulator) -> Iterator[http.client.HTTPConnection]:
    with simulator:
        url = urllib.parse.urlsplit(simulator.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=10)
        try:
            yield connection
        finally:
            connection.close()


def post(connection: http.client.HTTPConnection, content_type: str, body: bytes, path: str = "/api/") -> Any:
    connection.request("POST", path, body, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type"), response.read().decode()


@pytest.mark.parametrize("encode", [multipart, urlencoded])
def test_a_connection_is_kept_and_requests_are_recorded(encode: Any) -> None:
    simulator = Simulator(Script("é"))
    with connected(simulator) as connection:
        for _ in range(3):
            status, content_type, body = post(connection, *encode(FIELDS))
            assert (status, content_type) == (200, "application/json")
            assert json.loads(body)["content"][0]["text"] == "é"
            assert connection.sock is not None
    assert [received.fields for received in simulator.requests] == [FIELDS] * 3
    assert simulator.requests[0].headers["content-type"].startswith(encode(FIELDS)[0].split(";")[0])


def test_array_fields_over_the_wire() -> None:
    script = Script()
    body = urllib.parse.urlencode([*FIELDS.items(), ("stop[]", "A"), ("stop[]", "B")]).encode()
    with connected(Simulator(script)) as connection:
        post(connection, "application/x-www-form-urlencoded", body)
    assert script.asked[0].stop == ("A", "B")


def test_a_body_over_the_limit_loses_its_fields_and_so_does_json() -> None:
    simulator = Simulator(Script(), post_max_size=2000)
    with connected(simulator) as connection:
        assert post(connection, *multipart(FIELDS))[0] == 200
        for content_type, body in (multipart(FIELDS | {"system": "x" * 2000}), ("application/json", b"{}")):
            status, kind, answer = post(connection, content_type, body)
            assert (status, kind) == (400, "text/xml; charset=UTF-8")
            assert "content" in answer
            assert simulator.requests[-1].fields == {}


def test_the_missing_slash_is_answered_with_a_redirect() -> None:
    simulator = Simulator(Script())
    with connected(simulator) as connection:
        content_type, body = multipart(FIELDS)
        connection.request("POST", "/api", body, {"Content-Type": content_type})
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (301, simulator.url)
        assert response.read().startswith(b"<!DOCTYPE html>")
        assert post(connection, content_type, body, path="/elsewhere/")[0] == 404
        connection.request("GET", "/api/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, str(sim.LOGIN_PAGE.body).encode())
        connection.request("HEAD", "/api/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")


def test_interception() -> None:
    answers = iter([sim.SINGLE_SIGN_ON, CannedResponse(503, b"\xff", "x/y", {"Retry-After": "5"}), None])
    with connected(Simulator(Script(), intercept=lambda _: next(answers))) as connection:
        connection.request("POST", "/api/", b"")
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (302, "https://login.example.org/idp/sso")
        response.read()
        connection.request("POST", "/api/", b"")
        response = connection.getresponse()
        assert (response.status, response.getheader("Retry-After"), response.read()) == (503, "5", b"\xff")
        assert post(connection, *multipart(FIELDS))[0] == 200


def test_the_firewall_refuses_tags_and_commands() -> None:
    simulator = Simulator(Script(), intercept=sim.web_application_firewall)
    for text_, status in (("if a < b: pass", 200), ("<invoke name=", 403), ("</p>", 403), ("then rm -rf /", 403)):
        assert simulator.answer(Received(FIELDS | {"system": text_})).status == status


def test_requests_are_answered_in_parallel() -> None:
    barrier = threading.Barrier(8)

    def wait_for_all(_: ModelRequest) -> str:
        barrier.wait(10)
        return "hi"

    statuses: list[int] = []

    def client(simulator: Simulator) -> None:
        url = urllib.parse.urlsplit(simulator.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=10)
        statuses.append(post(connection, *multipart(FIELDS))[0])
        connection.close()

    with Simulator(wait_for_all) as simulator:
        threads = [threading.Thread(target=client, args=(simulator,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 8


def test_closing_cuts_open_connections() -> None:
    simulator = Simulator(Script())
    with connected(simulator) as connection:
        post(connection, *multipart(FIELDS))
        simulator.close()
        connection.auto_open = 0
        with pytest.raises((http.client.HTTPException, OSError)):
            post(connection, *multipart(FIELDS))


# --- An OpenAI-compatible backend -------------------------------------------------------------------------------------


@contextmanager
def openai_server(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    seen: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


COMPLETION = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def test_openai_backend() -> None:
    with openai_server(200, json.dumps(COMPLETION).encode()) as (url, seen):
        request = asked(temperature="0.5")
        for address in (url, f"{url}/", f"{url}/v1", f"{url}/v1/"):
            assert sim.openai_backend(address)(request) == ModelReply("hi", 7, 2)
        sim.openai_backend(url, model="small")(asked(model="claude"))
    assert {path for path, _ in seen} == {"/v1/chat/completions"}
    assert seen[0][1] == {
        "model": "gpt-4o",
        "messages": request.messages,
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.0,
        "stream": False,
    }
    assert (seen[-1][1]["model"], seen[-1][1]["max_tokens"]) == ("small", 8192)


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"no json"), (200, b"{}"), (200, b"[]")])
def test_failures_of_the_openai_backend(status: int, body: bytes) -> None:
    with openai_server(status, body) as (url, _), pytest.raises(ModelFailure, match="/v1/chat/completions"):
        sim.openai_backend(url)(asked())


def test_the_openai_backend_out_of_reach() -> None:
    with pytest.raises(ModelFailure):
        sim.openai_backend("http://127.0.0.1:9", timeout=2)(asked())
    with pytest.raises(ValueError, match="http://"):
        sim.openai_backend("file:///etc/passwd")
