"""The event stream: folding it gives the JSON body exactly, whenever it began; and how a client is held meanwhile.

The folder below is written from the protocol: it accepts nothing that an SDK would stumble over.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from core_samples import Json, examples, json_values
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.messages.content import Message, StopReason, Text, Thinking, ToolUse, Usage
from claude_proxy.core.messages.events import (
    DELTA_CHARACTERS,
    PINGS_SUFFICE,
    EventStream,
    error_event,
    event,
    opening_message,
)
from claude_proxy.core.messages.response import message_json, to_bytes
from claude_proxy.errors import (
    InvalidRequest,
    ModelNeverAnswered,
    ModelOverloaded,
    ProxyError,
    RateLimited,
    UpstreamMisconfigured,
    UpstreamTimeout,
    UpstreamUnreachable,
)

DELAY, INTERVAL = 15.0, 10.0


# --- reading a stream back --------------------------------------------------------------------------------------------


def parse_events(data: bytes) -> list[Json]:
    """The events of a stream; each is one event line, one data line and an empty line, and says its name twice."""
    assert data.endswith(b"\n\n") or not data
    events = []
    for chunk in data.split(b"\n\n")[:-1]:
        name, line = chunk.split(b"\n")
        assert name.startswith(b"event: ")
        assert line.startswith(b"data: ")
        decoded = json.loads(line[6:], parse_constant=pytest.fail)
        assert decoded["type"] == name[7:].decode()
        events.append(decoded)
    return events


_OF_BLOCK = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


class Folder:
    """Builds a message from events as a strict client does."""

    def __init__(self) -> None:
        self.message: Json = {}
        self.block: Json | None = None  # the open one
        self.partial = ""
        self.state = "before"

    def message_start(self, message: Json) -> None:
        assert self.state == "before"
        assert message["content"] == []
        assert message["stop_reason"] is None
        self.state, self.message = "started", copy.deepcopy(message)

    def content_block_start(self, index: int, content_block: Json) -> None:
        assert self.state == "started"
        assert self.block is None
        assert index == len(self.message["content"])
        assert not any(content_block.get(key) for key in ("text", "thinking", "signature", "input"))
        self.block, self.partial = copy.deepcopy(content_block), ""
        self.message["content"].append(self.block)

    def content_block_delta(self, index: int, delta: Json) -> None:
        assert self.block is not None
        assert index == len(self.message["content"]) - 1
        assert delta["type"] in _OF_BLOCK[self.block["type"]]
        if delta["type"] == "input_json_delta":
            self.partial += delta["partial_json"]
        else:
            field = delta["type"].removesuffix("_delta")
            self.block[field] += delta[field]

    def content_block_stop(self, index: int) -> None:
        assert self.block is not None
        assert index == len(self.message["content"]) - 1
        if self.block["type"] == "tool_use":
            self.block["input"] = json.loads(self.partial, parse_constant=pytest.fail)
        self.block = None

    def message_delta(self, delta: Json, usage: Json, **extras: Any) -> None:
        assert self.state == "started"
        assert self.block is None
        self.state = "closing"
        self.message |= delta | extras
        self.message["usage"] |= {key: value for key, value in usage.items() if value is not None}

    def message_stop(self) -> None:
        assert self.state == "closing"
        self.state = "stopped"

    def ping(self) -> None:
        assert self.state == "started"


def fold(events: Iterable[Json]) -> Json:
    """The message that a client has at the end of the stream."""
    folder = Folder()
    for each in events:
        getattr(folder, each["type"])(**{key: value for key, value in each.items() if key != "type"})
    assert folder.state == "stopped"
    return folder.message


def stream_of(
    message: Message, *, thinking: bool = False, waits: Iterable[float] = ()
) -> tuple[EventStream, list[Json]]:
    """A whole response: the events sent at the given moments, then those of the finished message."""
    opening = opening_message(message.id, message.model, 7)
    stream = EventStream(opening, thinking=thinking, delay=DELAY, interval=INTERVAL)
    data = b"".join(piece for elapsed in waits for piece in stream.events_due(elapsed))
    return stream, parse_events(data + b"".join(stream.finish(message)))


texts = st.text(max_size=30) | st.integers(0, 3 * DELTA_CHARACTERS).map("é&\n".__mul__)
tool_uses = st.builds(
    ToolUse,
    st.integers(0, 99).map("toolu_{}".format),
    st.sampled_from(["Read", "mcp__a__b"]),
    st.dictionaries(st.text(max_size=5), json_values, max_size=4),
)
messages = st.builds(
    Message,
    id=st.just("msg_1"),
    model=st.text(max_size=10),
    content=st.lists(st.builds(Text, texts.filter(bool)) | tool_uses, max_size=4).map(tuple),
    stop_reason=st.sampled_from(
        ["end_turn", "tool_use", "max_tokens", "stop_sequence", "model_context_window_exceeded"]
    ),
    usage=st.builds(Usage, st.integers(0, 10**6), st.integers(1, 10**6)),
    stop_sequence=st.none() | st.just("END"),
    extras=st.sampled_from([{}, {"context_management": {"applied_edits": []}}, {"input_transformations": []}]),
)
waiting = st.lists(st.floats(0, 1_000), max_size=12).map(sorted)
"""Moments at which somebody looked whether something is due."""


@examples(120)
@given(messages, st.booleans(), waiting)
def test_folding_the_stream_gives_the_json_body_exactly(message: Message, thinking: bool, waits: list[float]) -> None:
    stream, events = stream_of(message, thinking=thinking, waits=waits)
    body = json.loads(to_bytes(message_json(stream.complete(message))))
    assert fold(events) == body


@examples(120)
@given(messages, st.booleans(), waiting)
def test_no_text_block_is_empty_unless_it_had_to_hold_the_client(
    message: Message, thinking: bool, waits: list[float]
) -> None:
    _, events = stream_of(message, thinking=thinking, waits=waits)
    empty = [
        index for index, block in enumerate(fold(events)["content"]) if block["type"] == "text" and not block["text"]
    ]
    needed = not thinking and any(elapsed >= PINGS_SUFFICE for elapsed in waits)
    assert empty in ([], [0] if needed else [])


@examples(100)
@given(messages, waiting)
def test_a_thinking_block_comes_first_only_where_it_is_allowed_and_the_client_had_to_wait(
    message: Message, waits: list[float]
) -> None:
    for thinking in (True, False):
        _, events = stream_of(message, thinking=thinking, waits=waits)
        kinds = [block["type"] for block in fold(events)["content"]]
        waited = any(elapsed >= DELAY for elapsed in waits)
        assert ("thinking" in kinds) == (thinking and waited)
        assert "thinking" not in kinds[1:]


# --- the finished message ---------------------------------------------------------------------------------------------


def message(*content: Text | Thinking | ToolUse, stop_reason: StopReason = "end_turn") -> Message:
    return Message("msg_1", "m", content, stop_reason, Usage(12, 34))


def names(events: list[Json]) -> list[str]:
    return [each["type"] for each in events]


def test_the_six_events_of_a_short_text() -> None:
    _, events = stream_of(message(Text("Hello.")))
    assert events[0]["message"]["usage"] | {"input_tokens": 7, "output_tokens": 1} == events[0]["message"]["usage"]
    assert events[1:] == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None},
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 34,
            },
        },
        {"type": "message_stop"},
    ]


def test_what_the_request_asked_about_stands_beside_the_delta() -> None:
    extras = {"context_management": {"applied_edits": []}, "input_transformations": []}
    _, events = stream_of(Message("msg_1", "m", (Text("a"),), "end_turn", Usage(1, 1), extras=extras))
    assert {key: events[-2][key] for key in extras} == extras
    assert not set(extras) & set(events[-2]["delta"])


def test_the_opening_is_a_message_without_content() -> None:
    _, (start, *_) = stream_of(message(Text("a")))
    body = start["message"]
    assert (body["id"], body["type"], body["role"], body["model"]) == ("msg_1", "message", "assistant", "m")
    assert (body["content"], body["stop_reason"], body["stop_sequence"]) == ([], None, None)


def test_an_empty_message_has_no_blocks() -> None:
    _, events = stream_of(message())
    assert names(events) == ["message_start", "message_delta", "message_stop"]


def test_arguments_come_in_deltas_only() -> None:
    _, events = stream_of(message(ToolUse("toolu_1", "Read", {"file_path": "/é"}), stop_reason="tool_use"))
    assert events[1]["content_block"] == {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    assert [each["delta"] for each in events if each["type"] == "content_block_delta"] == [
        {"type": "input_json_delta", "partial_json": '{"file_path":"/é"}'}
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    _, events = stream_of(message(ToolUse("toolu_1", "Stop", {})))
    assert events[2]["delta"] == {"type": "input_json_delta", "partial_json": "{}"}


@pytest.mark.parametrize("length", [1, DELTA_CHARACTERS, DELTA_CHARACTERS + 1, 3 * DELTA_CHARACTERS])
def test_long_texts_come_in_pieces(length: int) -> None:
    text = "".join(itertools.islice(itertools.cycle("aé😀\n"), length))
    _, events = stream_of(message(Text(text)))
    pieces = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= DELTA_CHARACTERS
    assert all(pieces)
    assert len(pieces) == -(-length // DELTA_CHARACTERS)


def test_a_stream_that_is_opened_twice_starts_once() -> None:
    stream, events = stream_of(message(Text("a")), waits=[20])
    assert stream.started
    assert names(events).count("message_start") == 1


# --- the timeline -----------------------------------------------------------------------------------------------------


def timeline(
    *, thinking: bool, until: float, delay: float = DELAY, interval: float = INTERVAL
) -> list[tuple[float, str]]:
    """What is sent when, if somebody looks every half second."""
    stream = EventStream(opening_message("msg_1", "m", 7), thinking=thinking, delay=delay, interval=interval)
    sent: list[tuple[float, str]] = []
    for half_seconds in range(int(until * 2) + 1):
        elapsed = half_seconds / 2
        for each in parse_events(b"".join(stream.events_due(elapsed))):
            inner: Json = each.get("delta") or each.get("content_block") or each
            sent.append((elapsed, inner["type"]))
    return sent


def test_while_thinking_is_allowed_empty_deltas_in_a_thinking_block_hold_the_client() -> None:
    assert timeline(thinking=True, until=46) == [
        (15.0, "message_start"),
        (15.0, "thinking"),
        (25.0, "thinking_delta"),
        (35.0, "thinking_delta"),
        (45.0, "thinking_delta"),
    ]


def test_else_pings_for_five_minutes_then_empty_deltas_in_a_text_block() -> None:
    sent = timeline(thinking=False, until=325)
    assert sent[0] == (15.0, "message_start")
    assert sent[1:29] == [(25.0 + 10 * number, "ping") for number in range(28)]
    assert sent[29:] == [(305.0, "text"), (305.0, "text_delta"), (315.0, "text_delta"), (325.0, "text_delta")]


def test_the_client_is_never_left_without_a_sign_of_life() -> None:
    # Claude Code gives up after 600 s of nothing but pings, and after 300 s of silence.
    for thinking in (True, False):
        sent = timeline(thinking=thinking, until=1_000)
        moments = [0.0, *(elapsed for elapsed, _ in sent)]
        assert max(later - earlier for earlier, later in itertools.pairwise(moments)) <= DELAY
        held = [0.0, *(elapsed for elapsed, what in sent if what != "ping")]
        assert max(later - earlier for earlier, later in itertools.pairwise(held)) < 400


def test_nothing_is_sent_before_the_delay() -> None:
    assert timeline(thinking=True, until=14.5) == []
    assert timeline(thinking=True, until=2, delay=2) == [(2.0, "message_start"), (2.0, "thinking")]
    assert timeline(thinking=False, until=0, delay=0) == [(0.0, "message_start")]


def test_what_is_due_says_when_to_look_again() -> None:
    stream = EventStream(opening_message("msg_1", "m", 7), thinking=True, delay=DELAY, interval=INTERVAL)
    assert (stream.next_due, stream.started) == (15.0, False)
    assert list(stream.events_due(14.9)) == []
    assert list(stream.events_due(17.0)) != []
    assert (stream.next_due, stream.started) == (27.0, True)
    assert list(stream.events_due(26.9)) == []


def test_a_text_that_comes_after_five_minutes_fills_the_block_that_is_open() -> None:
    stream, events = stream_of(message(Text("Done.")), waits=[15, 300, 310])
    assert names(events).count("content_block_start") == 1
    assert fold(events)["content"] == [{"type": "text", "text": "Done.", "citations": None}]
    assert stream.complete(message(Text("Done."))).content == (Text("Done."),)


def test_a_call_that_comes_after_five_minutes_stands_behind_an_empty_text() -> None:
    _, events = stream_of(message(ToolUse("toolu_1", "Read", {})), waits=[15, 300])
    assert [block["type"] for block in fold(events)["content"]] == ["text", "tool_use"]


def test_a_thinking_block_that_held_the_client_is_closed_with_a_signature() -> None:
    _, events = stream_of(message(Text("Done.")), thinking=True, waits=[15, 25])
    block = fold(events)["content"][0]
    assert (block["type"], block["thinking"]) == ("thinking", "")
    assert block["signature"]


# --- errors -----------------------------------------------------------------------------------------------------------

FAILURES: list[tuple[ProxyError, str]] = [
    (UpstreamUnreachable("x"), "overloaded_error"),
    (UpstreamTimeout("x"), "overloaded_error"),
    (ModelOverloaded("x"), "overloaded_error"),
    (UpstreamMisconfigured("x"), "api_error"),
    (ModelNeverAnswered("x"), "api_error"),
    (RateLimited("x"), "overloaded_error"),
    (InvalidRequest("x"), "invalid_request_error"),
]


@pytest.mark.parametrize(("failure", "kind"), FAILURES, ids=[type(failure).__name__ for failure, _ in FAILURES])
def test_an_error_event_says_overloaded_where_streaming_again_can_help(failure: ProxyError, kind: str) -> None:
    assert parse_events(error_event(failure, "req_1")) == [
        {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "req_1"}
    ]


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("waits", [[15], [15, 25], [15, 290, 310]])
def test_no_block_is_complete_while_waiting_so_an_error_can_still_be_told(thinking: bool, waits: list[float]) -> None:
    stream = EventStream(opening_message("msg_1", "m", 7), thinking=thinking, delay=DELAY, interval=INTERVAL)
    events = parse_events(b"".join(piece for elapsed in waits for piece in stream.events_due(elapsed)))
    assert "content_block_stop" not in names(events)


@examples(100)
@given(st.text())
def test_an_event_is_one_event_line_and_one_data_line_whatever_is_in_it(text: str) -> None:
    written = event("x", {"text": text})
    assert parse_events(written) == [{"type": "x", "text": text}]
    assert written.count(b"\n") == 3
    assert b"\r" not in written


def test_events_can_be_told_apart_even_with_lone_surrogates() -> None:
    data: dict[str, Any] = {"v": "a\ud800b"}
    whole = message(ToolUse("toolu_1", "T", data))
    stream, events = stream_of(whole)
    assert fold(events)["content"] == json.loads(to_bytes(message_json(stream.complete(whole))))["content"]
