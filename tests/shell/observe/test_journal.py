"""The journal: one line for each request, whatever its fields hold, and never content."""

from __future__ import annotations

import io
import json
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields
from datetime import datetime
from itertools import pairwise

import pytest
from conftest import Proxy, Redcap

from claude_proxy.shell.observe.journal import (
    BUCKETS,
    KEPT,
    MESSAGES,
    MINUTES,
    UNMAPPED,
    Histogram,
    Journal,
    Level,
    Record,
)

NASTY = 'a b"c\\d\n2026-01-01T00:00:00 ERROR forged=1\r\x1b[31m\u2028é\0'


def written(record: Record, *, level: str = "debug", form: str = "text") -> str:
    out = io.StringIO()
    Journal(level, form, out).request(record)
    return out.getvalue()


def finished(**changes: object) -> Record:
    record = Record("req_1", route=MESSAGES, status=200, alias="claude", stream=True, seconds=1.23456)
    for name, value in changes.items():
        setattr(record, name, value)
    return record


# --- Forms ------------------------------------------------------------------------------------------------------------


def test_a_line_of_text() -> None:
    line = written(finished(input_tokens=7, error="UpstreamTimeout", first_byte=0.1))
    time, rest = line.split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo is not None
    assert rest == (
        'INFO request request_id=req_1 route="POST /v1/messages" status=200 alias=claude stream=True '
        "input_tokens=7 error=UpstreamTimeout first_byte=0.1 seconds=1.235\n"
    )


def test_a_line_of_json() -> None:
    line = json.loads(written(finished(output_tokens=0), form="json"))
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "req_1",
        "route": "POST /v1/messages",
        "status": 200,
        "alias": "claude",
        "stream": True,
        "output_tokens": 0,
        "seconds": 1.235,
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_can_forge_a_line(form: str) -> None:
    line = written(finished(alias=NASTY), form=form)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert line.isascii()
    if form == "json":
        assert json.loads(line)["alias"] == NASTY


@pytest.mark.parametrize("value", ["", " ", "a=b", "it's", '"', "\\", "status=500"])
def test_a_value_that_could_be_taken_for_more_than_one_field_is_quoted(value: str) -> None:
    assert f" alias={json.dumps(value)} " in written(finished(alias=value))


def test_a_notice() -> None:
    out = io.StringIO()
    Journal("info", "text", out).notice("error", "internal error", kind="ValueError", seconds=0.5)
    assert out.getvalue().endswith(" ERROR internal error kind=ValueError seconds=0.5\n")


# --- Levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "status", "level"),
    [
        ("GET /health", 200, "debug"),
        ("HEAD /", 200, "debug"),
        ("GET /v1/models", 401, "info"),
        ("POST /v1/messages", 200, "info"),
        ("POST /v1/messages", 400, "info"),
        ("POST /v1/messages", 499, "info"),
        ("POST /v1/messages", 502, "warning"),
        ("POST /v1/messages", 529, "warning"),
        ("-", 404, "info"),
    ],
)
def test_the_level_of_a_request(route: str, status: int, level: str) -> None:
    assert f" {level.upper()} request " in written(finished(route=route, status=status))


def test_what_is_below_the_level_is_not_written() -> None:
    levels: tuple[Level, ...] = typing.get_args(Level)
    for least in levels:
        out = io.StringIO()
        journal = Journal(least, "text", out)
        for level in levels:
            journal.notice(level, "event")
        assert len(out.getvalue().splitlines()) == len(levels) - levels.index(least)


# --- Content ----------------------------------------------------------------------------------------------------------


def test_a_record_has_no_field_that_could_hold_content() -> None:
    """Every text in it is a word of the proxy's own: an id, a route, an alias, a stop reason, a class."""
    texts = {f.name for f in fields(Record) if "str" in str(f.type)}
    ids = {"request_id", "session", "agent", "trace_id", "client"}  # of a form that is checked
    assert texts == {*ids, "route", "model", "alias", "stop_reason", "error", "second_ask_error"}


def test_nothing_can_be_put_into_a_record_that_has_no_field() -> None:
    with pytest.raises(AttributeError):
        Record("req_1").prompt = "content"  # type: ignore[attr-defined]


# --- What is remembered -----------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0 - 1_700_000_000.0 % 60

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(clock: Clock) -> Journal:
    return Journal("error", "text", io.StringIO(), clock=clock)


def test_a_running_request_is_seen_until_it_is_finished(journal: Journal, clock: Clock) -> None:
    record = Record("req_1", route=MESSAGES)
    journal.begin(record)
    (first,) = journal.activity().running
    assert first == (clock.now, Record("req_1", route=MESSAGES), "preparing")

    record.model, record.alias, record.stream = "claude-sonnet-4", "claude", True
    journal.set_phase("req_1", "waiting for a turn")
    seen = journal.activity()
    assert seen.running == ((clock.now, record, "waiting for a turn"),)
    assert first.record.alias is None, "what was seen stays as it was"
    assert seen.waiting == 1

    journal.set_phase("req_1", "asking")
    assert journal.activity().waiting == 0
    journal.request(record)
    assert journal.activity().running == ()


def test_a_turn_of_a_request_that_has_ended_is_nothing(journal: Journal) -> None:
    journal.set_phase("req_1", "asking")
    assert journal.activity().running == ()


def test_the_last_hundred_are_kept_the_newest_first(journal: Journal) -> None:
    for number in range(KEPT + 50):
        journal.request(finished(request_id=f"req_{number}"))
    kept = journal.activity().finished
    assert [each.record.request_id for each in kept] == [f"req_{number}" for number in reversed(range(50, KEPT + 50))]


@pytest.mark.parametrize("route", ["GET /metrics", "GET /health", "HEAD /", "GET /v1/models"])
def test_who_only_looks_does_not_push_out_what_is_looked_at(journal: Journal, route: str) -> None:
    journal.request(finished(route=route, alias=None))
    after = journal.activity()
    assert (after.finished, dict(after.totals.durations)) == ((), {})
    assert after.totals.requests == {(route, 200, ""): 1}


def test_a_snapshot_stays_as_it_was(journal: Journal) -> None:
    before = journal.activity()
    journal.begin(Record("req_2"))
    journal.request(finished(input_tokens=5, calls=1))
    assert (before.running, before.finished, dict(before.totals.requests)) == ((), (), {})
    assert sum(minute.requests for minute in before.minutes) == 0
    with pytest.raises(FrozenInstanceError):
        before.now = 7  # type: ignore[misc]


def test_an_hour_of_minutes(journal: Journal, clock: Clock) -> None:
    journal.request(finished(seconds=2.0, input_tokens=10, output_tokens=1))
    journal.request(finished(seconds=4.0, input_tokens=20, output_tokens=2))
    clock.now += 61
    journal.request(finished(status=502, error="UpstreamTimeout", seconds=600.0))
    journal.request(finished(status=499, error="ClientGone", seconds=100.0))
    journal.request(finished(status=200, error="UpstreamTimeout", seconds=600.0))
    journal.request(finished(route="POST /v1/messages/count_tokens"))
    clock.now += 180
    minutes = journal.activity().minutes
    assert len(minutes) == MINUTES
    assert [b.begins - a.begins for a, b in pairwise(minutes)] == [60.0] * (MINUTES - 1)
    assert minutes[-1].begins <= clock.now < minutes[-1].begins + 60
    first, second = minutes[-5], minutes[-4]
    assert (first.requests, first.answered, first.failures, first.average, first.longest) == (2, 2, 0, 3.0, 4.0)
    assert (first.input_tokens, first.output_tokens) == (30, 3)
    assert (second.requests, second.answered, second.failures, second.longest) == (3, 0, 2, 0.0)
    assert not any(minute.requests for minute in minutes[:-5] + minutes[-3:])

    clock.now += 3600
    assert not any(minute.requests for minute in journal.activity().minutes)


def test_a_clock_that_is_put_back_loses_nothing(journal: Journal, clock: Clock) -> None:
    journal.request(finished())
    clock.now -= 120
    journal.request(finished())
    clock.now += 120
    assert sum(minute.requests for minute in journal.activity().minutes) == 2


def test_the_sums(journal: Journal) -> None:
    journal.request(finished(input_tokens=100, output_tokens=7, calls=2, repairs=1, first_byte=0.5, seconds=3.0))
    journal.request(finished(input_tokens=50, mended_edits=1, continuations=3, second_ask_error="UpstreamTimeout"))
    journal.request(finished(alias=UNMAPPED, status=529, error="ModelOverloaded"))
    journal.request(finished(alias=None, status=401, error="AuthenticationFailed"))
    journal.request(finished(status=499, error="ClientGone"))
    totals = journal.activity().totals
    assert totals.requests == {
        (MESSAGES, 200, "claude"): 2,
        (MESSAGES, 529, "other"): 1,
        (MESSAGES, 401, ""): 1,
        (MESSAGES, 499, "claude"): 1,
    }
    assert (totals.input_tokens, totals.output_tokens) == ({"claude": 150}, {"claude": 7})
    assert (totals.calls, totals.repairs) == ({"claude": 2}, {"claude": 1})
    assert (totals.continuations, totals.mended_edits) == ({"claude": 3}, {"claude": 1})
    assert totals.disconnects == 1
    failures = {name: count for name, count in totals.upstream_failures.items() if count}
    assert failures == {"UpstreamTimeout": 1, "ModelOverloaded": 1}, "a client's wrong token is none of REDCap's"
    assert sum(totals.durations[MESSAGES, "claude"].counts) == 3
    assert totals.first_bytes[MESSAGES, "claude"].total == 0.5


def test_a_histogram() -> None:
    histogram = Histogram() + 0.1 + 0.100001 + 59.0 + 5000.0
    assert histogram.total == pytest.approx(5059.200001)
    assert histogram.counts[0] == 1, "a bound belongs to its bucket"
    assert histogram.counts[1] == 1
    assert histogram.counts[BUCKETS.index(60.0)] == 1
    assert histogram.counts[-1] == 1


def test_the_number_of_labels_is_bounded() -> None:
    journal = Journal("error", out=io.StringIO(), most_aliases=3)
    for number in range(10):
        journal.request(finished(alias=f"alias-{number}", input_tokens=1))
    assert journal.activity().totals.input_tokens == {"alias-0": 1, "alias-1": 1, "alias-2": 1, "other": 7}


def test_many_threads_at_once(journal: Journal) -> None:
    def work(number: int) -> None:
        for each in range(100):
            record = finished(request_id=f"req_{number}_{each}", input_tokens=1)
            journal.begin(record)
            journal.set_phase(record.request_id, "asking")
            journal.activity()
            journal.request(record)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    seen = journal.activity()
    assert seen.running == ()
    assert seen.totals.requests == {(MESSAGES, 200, "claude"): 800}
    assert sum(minute.input_tokens for minute in seen.minutes) == 800


# --- What clients say of themselves -----------------------------------------------------------------------------------

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_the_ids_of_claude_code_and_the_trace_are_fields(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.")
    ids = {"x-claude-code-session-id": "6c1b-A_9", "X-Claude-Code-Agent-Id": "agent-2", "traceparent": TRACEPARENT}
    assert proxy.post(headers={**proxy.credential, **ids}).status == 200
    assert proxy.journal_line("session=6c1b-A_9", "agent=agent-2", f"trace_id={TRACE}")
    assert redcap.requests[-1].headers["traceparent"] == TRACEPARENT


NO_IDS = ("", "a b", "a" * 65, "ä", "a/b", "a.b", "a=b", '"')
NO_TRACES = (
    *("", "x", TRACEPARENT.upper(), f"{TRACEPARENT}-x", TRACEPARENT.replace("00-", "01-", 1), f" {TRACEPARENT[1:]}"),
    *(TRACEPARENT.replace(TRACE, "0" * 32), TRACEPARENT.replace("b7ad6b7169203331", "0" * 16)),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("x-claude-code-session-id", text) for text in NO_IDS),
        *(("x-claude-code-agent-id", text) for text in NO_IDS),
        *(("traceparent", text) for text in NO_TRACES),
    ],
)
def test_what_does_not_look_like_an_id_is_dropped(redcap: Redcap, proxy: Proxy, name: str, text: str) -> None:
    redcap.queue("Yes.")
    assert proxy.post(headers={**proxy.credential, name: text}).status == 200
    line = proxy.journal_line(" request ")
    assert not [field for field in ("session=", "agent=", "trace_id=") if field in line]
    assert "traceparent" not in redcap.requests[-1].headers
