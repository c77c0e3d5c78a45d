"""What the module makes of a request, and what a client hears when it makes nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from claude_proxy.demo import pages
from claude_proxy.demo.form import sort_fields
from claude_proxy.demo.model import ErrorInReply, ModelFailure, ModelRequest
from claude_proxy.demo.module import NETWORK_APOLOGY, PUBLISHED_ALIASES, TECHNICAL_APOLOGY, ServerSettings
from claude_proxy.demo.pages import FATAL, CannedResponse
from claude_proxy.demo.simulator import ModelReply, Received, Simulator

FIELDS = {
    "token": "0123456789ABCDEF0123456789ABCDEF",
    "content": "externalModule",
    "prefix": "secure_chat_ai",
    "returnFormat": "json",
    "action": "messages",
    "model": "gpt-4o",
    "messages": '[{"role":"user","content":"hello"}]',
}
NO_ARRAYS: dict[str, list[str]] = {}


class Site:
    """A simulator with what its model was asked."""

    def __init__(self, failure: Exception | None = None, **options: Any) -> None:
        self.asked: list[ModelRequest] = []
        self.simulator = Simulator(self._answer, **options)
        self._failure = failure

    def _answer(self, request: ModelRequest) -> ModelReply:
        self.asked.append(request)
        if self._failure:
            raise self._failure
        return ModelReply("hi", 11, 7)

    def post(self, arrays: dict[str, list[str]] = NO_ARRAYS, /, **fields: str) -> CannedResponse:
        return self.simulator.answer(Received(FIELDS | fields, arrays))

    def request(self, arrays: dict[str, list[str]] = NO_ARRAYS, /, **fields: str) -> ModelRequest:
        """What the model is sent."""
        response = self.post(arrays, **fields)
        assert (response.status, list(self.simulator.refusals)) == (200, [])
        return self.asked[-1]

    def said(self, **fields: str) -> tuple[str, tuple[int, int]]:
        """Text and usage."""
        body = json.loads(self.post(**fields).body)
        return body["content"][0]["text"], tuple(body["usage"].values())


def conversation(*messages: tuple[str, Any]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in messages])


# --- Sampling ---------------------------------------------------------------------------------------------------------


def test_on_claude_a_temperature_always_goes_and_top_p_never() -> None:
    for fields, temperature in (
        ({}, 0.7),
        ({"temperature": "0"}, 0.0),
        ({"temperature": "0.5", "top_p": "0.1"}, 0.5),
        ({"top_p": "0.1"}, 0.7),
    ):
        request = Site().request(model="claude-sonnet-4-6", **fields)
        assert (request.temperature, request.top_p, request.stop) == (temperature, None, ())
        assert (request.frequency_penalty, request.presence_penalty) == (None, None)


def test_opus_is_sent_neither_temperature_nor_top_p() -> None:
    request = Site().request(model="claude-opus-4-7", temperature="0.5", top_p="0.1")
    assert (request.temperature, request.top_p) == (None, None)


def test_a_chat_alias_is_sent_a_frequency_penalty_that_the_caller_cannot_change() -> None:
    request = Site().request(frequency_penalty="0", presence_penalty="1")
    assert (request.frequency_penalty, request.presence_penalty) == (0.5, 0.0)
    assert (request.temperature, request.top_p) == (0.7, 0.9)


def test_an_administrators_zero_counts_as_not_set() -> None:
    request = Site(settings=ServerSettings(0.0, 0.0, 0.0, 0.0)).request()
    assert (request.temperature, request.top_p, request.frequency_penalty) == (0.7, 0.9, 0.5)


def test_what_an_administrator_sets_goes_where_the_caller_sends_nothing() -> None:
    settings = ServerSettings(0.2, 0.3, 0.01, 0.4)
    request = Site(settings=settings).request()
    assert (request.temperature, request.top_p, request.frequency_penalty, request.presence_penalty) == (
        *(0.2, 0.3, 0.01, 0.4),
    )
    request = Site(settings=settings).request(temperature="0", top_p="1")
    assert (request.temperature, request.top_p) == (0.0, 1.0)
    assert Site(settings=settings).request(model="claude").temperature == 0.2


@pytest.mark.parametrize("model", ["o1", "o3", "o3-mini", "o4-mini", "gpt-5"])
def test_reasoning_aliases_are_sent_the_callers_limit_and_no_sampling(model: str) -> None:
    request = Site().request(model=model, max_tokens="500", temperature="0.5", top_p="1", stop="A")
    assert request == ModelRequest(model, request.messages, max_tokens=500)


# --- System texts on Claude -------------------------------------------------------------------------------------------


def test_system_texts_are_trimmed_and_joined() -> None:
    messages = conversation(("user", "a"), ("system", "\n two \0"), ("system", " "), ("system", 5), ("user", "b"))
    request = Site().request(model="claude", system="  one\n", messages=messages)
    assert request.messages[0] == {"role": "system", "content": "one\n\ntwo\n\n\n\n5"}
    assert [message["content"] for message in request.messages[1:]] == ["a", "b"]


def test_a_system_text_of_nothing_but_blanks_or_zero_is_not_sent() -> None:
    for system in (" \n", " 0"):
        request = Site().request(model="claude", system=system)
        assert request.messages == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("content", [[{"type": "text", "text": "a"}], [], {"a": 1}])
def test_an_array_in_any_system_message_is_fatal_on_claude_alone(content: Any) -> None:
    messages = conversation(("user", "a"), ("system", content), ("user", "b"))
    assert Site().post(model="claude", system="S", messages=messages) == FATAL
    assert Site().post(model="gpt-4o", system="S", messages=messages).status == 200


def test_claude_loses_the_keys_beside_role_and_content_but_keeps_blocks_whole() -> None:
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    messages = json.dumps([{"role": "user", "content": blocks, "name": "ann", "cache_control": {}}])
    sent = Site().request(model="claude", system="S", messages=messages).messages[1]
    assert sent == {"role": "user", "content": blocks}
    assert (
        Site().request(system="S", messages=messages.replace(', "cache_control": {}', "")).messages[1]["name"] == "ann"
    )


def test_a_message_that_is_a_text_is_fatal_on_claude_and_refused_elsewhere() -> None:
    assert Site().post(model="claude", messages='["a"]') == FATAL
    assert Site().said(messages='["a"]') == (NETWORK_APOLOGY, (0, 0))


# --- Messages that are none -------------------------------------------------------------------------------------------


def nested(depth: int) -> str:
    """Messages with arrays and objects within one another, the outermost included."""
    return (
        '[{"role":"user","content":"a"},{"role":"user","content":' + "[" * (depth - 2) + "1" + "]" * (depth - 2) + "}]"
    )


def test_messages_nested_too_deeply_are_a_bad_request() -> None:
    assert Site().said(messages=nested(511)) == (NETWORK_APOLOGY, (0, 0))  # read, and refused by the vendor
    for depth in (512, 513, 5000):
        response = Site().post(messages=nested(depth))
        assert (response.status, json.loads(response.body)["error"]["type"]) == (400, "invalid_request_error")


def test_an_object_of_messages_is_taken_by_claude_and_refused_by_others() -> None:
    messages = '{"a":{"role":"user","content":"hello"}}'
    assert Site().request(model="claude", messages=messages).messages == [{"role": "user", "content": "hello"}]
    assert Site().said(messages=messages) == (NETWORK_APOLOGY, (0, 0))
    numbered = '{"0":{"role":"user","content":"hello"}}'
    assert Site().said(messages=numbered) == Site().said(messages=numbered, system="S") == ("hi", (11, 7))


def test_arrays_in_place_of_other_fields_are_fatal() -> None:
    assert Site().post({"model": ["gpt-4o"]}) == FATAL
    assert Site().post({"system": ["S"]}) == FATAL


# --- Aliases ----------------------------------------------------------------------------------------------------------


def test_an_unknown_alias_is_an_apology_on_one_kind_of_server_and_fatal_on_the_other() -> None:
    assert Site().said(model="gpt-9") == (NETWORK_APOLOGY, (0, 0))
    site = Site(unknown_alias_is_fatal=True)
    assert site.post(model="gpt-9") == site.post(action="callAI", prompt="hi", model="gpt-9") == FATAL
    assert (site.said(), len(site.asked)) == (("hi", (11, 7)), 1)


def test_an_unknown_alias_is_noticed_before_an_array_in_the_first_message() -> None:
    messages = conversation(("user", [{"type": "text", "text": "a"}]))
    assert Site().said(model="gpt-9", messages=messages)[0] == NETWORK_APOLOGY
    assert Site().post(messages=messages) == FATAL


def test_a_server_may_hold_the_published_aliases_alone() -> None:
    site = Site(aliases=PUBLISHED_ALIASES)
    assert site.said(model="gpt-4-1")[0] == "hi"
    assert site.said(model="gpt-4o")[0] == NETWORK_APOLOGY


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_an_error_inside_a_success_is_a_second_apology_after_one_attempt() -> None:
    site = Site(ErrorInReply("overloaded"))
    assert site.said() == (TECHNICAL_APOLOGY, (0, 0))
    assert (len(site.asked), list(site.simulator.refusals)) == (1, ["overloaded"])


def test_an_error_inside_a_success_is_an_empty_text_on_claude() -> None:
    site = Site(ErrorInReply("overloaded"))
    assert site.said(model="claude") == ("", (0, 0))
    assert len(site.asked) == 1


def test_displayed_errors_stand_before_the_json() -> None:
    body = str(Site(display_errors=True).post().body)
    warning, found, _ = body.partition('{"id":"msg_')
    assert found
    assert "<b>Warning</b>" in warning
    assert json.loads(body[len(warning) :])["content"][0]["text"] == "hi"


def test_displayed_errors_give_a_fatal_error_a_body_and_leave_redcaps_own_answers_alone() -> None:
    site = Site(display_errors=True)
    response = site.post({"model": ["a"]})
    assert response.status == 500
    assert "<b>Fatal error</b>" in str(response.body)
    for answer in (site.post(token=""), site.post(action="__version"), site.post(content="version")):
        assert "<b>" not in str(answer.body)


def test_the_refusals_that_are_no_fault_of_the_token_say_other_words() -> None:
    usual = str(Site().post(token="").body)
    for canned, status in ((pages.MODULE_OFF, 400), (pages.MODULE_OFF_403, 403), (pages.ADDRESS_DENIED, 403)):
        response = Site(intercept=lambda _, canned=canned: canned).post()
        assert response.status == status
        assert str(response.body) != usual


# --- The ban ----------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_address_that_exceeds_the_limit_per_minute_is_banned_for_good() -> None:
    clock = Clock()
    site = Site(page_hits_per_minute=3, clock=clock)
    assert [site.post().status for _ in range(4)] == [200, 200, 200, 429]
    clock.now += 3600
    response = site.post(content="version")
    assert (response.status, "has been banned due to suspected abuse" in str(response.body)) == (429, True)
    assert site.simulator.banned == {"127.0.0.1"}
    assert site.simulator.answer(Received(FIELDS, address="10.0.0.1")).status == 200


def test_as_many_requests_as_are_allowed_in_each_minute_go_on_forever() -> None:
    clock = Clock()
    site = Site(page_hits_per_minute=3, clock=clock)
    for _ in range(5):
        assert [site.post().status for _ in range(3)] == [200, 200, 200]
        clock.now += 60
    assert not site.simulator.banned


def test_older_versions_of_redcap_ban_with_the_status_of_success() -> None:
    response = Site(intercept=lambda received: pages.banned(received.address, 200)).post()
    assert (response.status, "(127.0.0.1) has been banned" in str(response.body)) == (200, True)


# --- The form ---------------------------------------------------------------------------------------------------------


def test_names_of_fields_become_names_of_variables() -> None:
    pairs = [
        ("a.b c", "1"),
        (" d", "2"),
        ("e[", "3"),
        ("f[]", "4"),
        ("f[x]", "5"),
        ("g\0h", "6"),
        (" ", "7"),
        ("[i]", "8"),
    ]
    fields, arrays = sort_fields(pairs)
    assert fields == {"a_b_c": "1", "d": "2", "e_": "3", "g": "6"}
    assert arrays == {"f": ["4", "5"]}
    assert sort_fields([("x[a", "1"), ("x]", "2")]) == ({"x_a": "1", "x]": "2"}, {})


def test_the_last_use_of_a_name_counts() -> None:
    assert sort_fields([("a", "1"), ("a", "2")]) == ({"a": "2"}, {})
    assert sort_fields([("a", "1"), ("a[]", "2")]) == ({}, {"a": ["2"]})
    assert sort_fields([("a[]", "1"), ("a", "2")]) == ({"a": "2"}, {})


def test_fields_beyond_the_thousandth_are_lost() -> None:
    fields, _ = sort_fields((f"f{number}", "") for number in range(1001))
    assert list(fields) == [f"f{number}" for number in range(1000)]


def test_a_failing_model_is_asked_three_times_and_apologized_for() -> None:
    site = Site(ModelFailure("rate limit"))
    assert site.said() == (NETWORK_APOLOGY, (0, 0))
    assert len(site.asked) == 3
