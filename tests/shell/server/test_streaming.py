"""A stream while the model thinks: silence first, then signs of life, and how it ends, well or badly.

The model thinks for as long as its gate is closed. Tests open it when they have seen what they wait for, so that no
verdict depends on how fast the machine is.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from conftest import PATIENCE, PROMPT, Event, Gate, Proxy, Redcap, StartProxy, Wire, fold, message_request

from claude_proxy.core.messages import events as events_module

THINKING = {"thinking": {"type": "adaptive", "display": "updates"}}
BASH = {
    "name": "Bash",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
LS = '<function_calls>\n<invoke name="Bash">\n<parameter name="command">ls</parameter>\n</invoke>\n</function_calls>'


@pytest.fixture
def soon(start_proxy: StartProxy) -> Proxy:
    """A proxy that does not let its clients wait for long."""
    return start_proxy(stream_delay=0.1, ping_interval=0.02)


@pytest.fixture
def late(start_proxy: StartProxy) -> Proxy:
    """A proxy whose streams stay silent for longer than any test lasts."""
    return start_proxy(stream_delay=10 * PATIENCE, ping_interval=0.1)


def take(wire: Wire, count: int) -> list[Event]:
    """Read so many events, each of which must come while the model still thinks."""
    return list(itertools.islice(wire.read_events(), count))


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def finish(wire: Wire, begun: list[Event]) -> list[Event]:
    """Read what is left of a stream, and see that its connection can go on."""
    events = begun + list(wire.read_events())
    wire.ask("HEAD", "/")
    assert wire.read_response(to="HEAD").status == 200
    return events


# --- Silence ----------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_delay_has_passed(redcap: Redcap, late: Proxy) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with late.stream(THINKING) as wire:
        assert gate.reached.wait(PATIENCE)
        assert wire.is_silent(0.3)
        gate.open()
        response = wire.read_response()
    assert [block["type"] for block in response.message["content"]] == ["text"]
    assert "ping" not in kinds(response.events)


def test_the_delay_is_kept(redcap: Redcap, soon: Proxy) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    began = time.monotonic()
    with soon.stream() as wire:
        wire.read_head()
        assert time.monotonic() - began >= 0.1
        gate.open()
        list(wire.read_events())


def test_a_failure_before_the_delay_has_its_true_status(redcap: Redcap, late: Proxy) -> None:
    gate = Gate(None)
    redcap.queue(gate, *[gate] * 2)
    with late.stream() as wire:
        assert gate.reached.wait(PATIENCE)
        gate.open()
        response = wire.read_response()
    assert response.error[:2] == (502, "api_error")
    assert response.retries == ("false", None)


def test_what_does_not_stream_gets_no_sign_of_life(redcap: Redcap, soon: Proxy) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with soon.connect() as wire:
        wire.ask("POST", "/v1/messages", message_request(), soon.credential)
        assert gate.reached.wait(PATIENCE)
        assert wire.is_silent(0.3)
        gate.open()
        assert wire.read_response().json["content"][0]["text"] == "Much better."


# --- Signs of life ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thinking", [THINKING["thinking"], {"type": "enabled", "budget_tokens": 1024}])
def test_where_thinking_is_allowed_an_open_thinking_block_holds_the_client(
    redcap: Redcap, soon: Proxy, thinking: dict[str, Any]
) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with soon.stream({"thinking": thinking}) as wire:
        wire.read_head()
        begun = take(wire, 6)
        gate.open()
        events = finish(wire, begun)
    assert kinds(begun) == ["message_start", "content_block_start", *["content_block_delta"] * 4]
    assert begun[1]["content_block"]["type"] == "thinking"
    assert all(event["delta"] == {"type": "thinking_delta", "thinking": ""} for event in begun[2:])
    message = fold(events)
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][0]["thinking"] == ""
    assert message["content"][0]["signature"]
    assert message["content"][1]["text"] == "Much better."
    assert message["stop_reason"] == "end_turn"


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}, {"type": "between_tools"}])
def test_where_thinking_is_not_allowed_pings_hold_the_client(
    redcap: Redcap, soon: Proxy, thinking: dict[str, Any] | None
) -> None:
    gate = Gate(LS)
    redcap.queue(gate)
    with soon.stream({"thinking": thinking, "tools": [BASH]}) as wire:
        wire.read_head()
        begun = take(wire, 5)
        gate.open()
        events = finish(wire, begun)
    assert kinds(begun) == ["message_start", *["ping"] * 4]
    assert all(event == {"type": "ping"} for event in begun[1:])
    message = fold(events)
    assert [block["type"] for block in message["content"]] == ["tool_use"], "no empty text block without need"
    assert message["content"][0]["input"] == {"command": "ls"}
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize(("reply", "content"), [("Better.", ["text"]), (LS, ["text", "tool_use"])])
def test_when_pings_hold_no_longer_an_open_text_block_does(
    redcap: Redcap, soon: Proxy, monkeypatch: pytest.MonkeyPatch, reply: str, content: list[str]
) -> None:
    monkeypatch.setattr(events_module, "PINGS_SUFFICE", 0.3)
    gate = Gate(reply)
    redcap.queue(gate)
    with soon.stream({"tools": [BASH]}) as wire:
        wire.read_head()
        begun: list[Event] = []
        while kinds(begun).count("content_block_delta") < 2:
            begun += take(wire, 1)
        gate.open()
        message = fold(finish(wire, begun))
    signs = [event["type"] for event in begun[1:-3]]
    assert signs == ["ping"] * len(signs)
    assert kinds(begun[-3:]) == ["content_block_start", "content_block_delta", "content_block_delta"]
    assert begun[-1]["delta"] == {"type": "text_delta", "text": ""}
    assert [block["type"] for block in message["content"]] == content


def test_the_usage_is_estimated_first_and_real_at_the_end(redcap: Redcap, soon: Proxy) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with soon.stream(THINKING) as wire:
        wire.read_head()
        (start,) = take(wire, 1)
        gate.open()
        events = finish(wire, [start])
    estimate = soon.post({**THINKING}, path="/v1/messages/count_tokens").json["input_tokens"]
    assert start["message"]["usage"]["input_tokens"] == estimate
    assert events[-2]["usage"]["output_tokens"] == len("Much better.") // 4


# --- A bad end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, THINKING])
@pytest.mark.parametrize(("answered", "kind"), [(False, "api_error"), (True, "overloaded_error")])
def test_a_failure_after_the_delay_is_one_error_event(
    redcap: Redcap, soon: Proxy, changes: dict[str, Any], *, answered: bool, kind: str
) -> None:
    """`overloaded_error` makes the client stream again; any other type makes it ask once more without a stream."""
    if answered:
        redcap.queue("Yes.")
        assert soon.post().status == 200
    gate = Gate(None)
    redcap.queue(gate, gate, gate)
    with soon.stream(changes) as wire:
        head = wire.read_head()
        begun = take(wire, 4)
        gate.open()
        events = finish(wire, begun)
    assert "error" not in kinds(begun)
    assert "content_block_stop" not in kinds(events), "what is complete is kept by the client"
    assert kinds(events).count("error") == 1
    error = events[-1]
    assert error["type"] == "error"
    assert error["error"]["type"] == kind
    assert "'claude'" in error["error"]["message"]
    assert error["request_id"] == head.headers["request-id"]
    assert kind != "overloaded_error" or "error=ModelOverloaded" in soon.journal_line(error["request_id"])


@pytest.mark.slow
def test_a_time_out_after_the_delay_lets_the_client_stream_again(redcap: Redcap, start_proxy: StartProxy) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    with start_proxy(stream_delay=0.0, ping_interval=0.1, upstream_timeout=2.0).stream() as wire:
        wire.read_head()
        events = list(wire.read_events())
    gate.open()
    assert kinds(events)[0] == "message_start"
    assert events[-1]["error"]["type"] == "overloaded_error"
    assert "UPSTREAM_TIMEOUT" in events[-1]["error"]["message"]


@pytest.mark.parametrize("goodbye", ["close", "reset"])
def test_a_client_that_goes_away_ends_the_wait(redcap: Redcap, soon: Proxy, goodbye: str) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    wire = soon.stream(THINKING)
    wire.read_head()
    take(wire, 2)
    wire.close() if goodbye == "close" else wire.reset()
    assert "error=ClientGone" in soon.journal_line("status=499")
    assert PROMPT not in soon.journal
    gate.open()


def test_a_client_that_goes_away_in_the_silence_ends_the_wait(redcap: Redcap, late: Proxy) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    with late.stream(THINKING):
        assert gate.reached.wait(PATIENCE)
    assert "error=ClientGone" in late.journal_line("status=499")
    gate.open()


def test_many_streams_at_once_hold_their_clients(redcap: Redcap, soon: Proxy) -> None:
    gates = [Gate(f"Answer {number}.") for number in range(20)]
    redcap.queue(*gates)
    wires = [soon.stream(THINKING) for _ in gates]
    begun = []
    for wire in wires:
        wire.read_head()
        begun.append(take(wire, 4))
    for gate in gates:
        gate.open()
    messages = [fold(finish(wire, events)) for wire, events in zip(wires, begun, strict=True)]
    for wire in wires:
        wire.close()
    assert {message["content"][1]["text"] for message in messages} == {f"Answer {number}." for number in range(20)}
