"""The journal: one line for each request, whatever its fields hold, and never content."""

from __future__ import annotations

import io
import json
import typing
from dataclasses import fields
from datetime import datetime

import pytest

from claude_proxy.shell.journal import Journal, Level, Record

NASTY = 'a b"c\\d\n2026-01-01T00:00:00 ERROR forged=1\r\x1b[31m\u2028é\0'


def written(record: Record, *, level: str = "debug", form: str = "text") -> str:
    out = io.StringIO()
    Journal(level, form, out).request(record)
    return out.getvalue()


def finished(**changes: object) -> Record:
    record = Record("req_1", "POST /v1/messages", 200, "claude", stream=True, seconds=1.23456)
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
    assert texts == {"request_id", "route", "alias", "stop_reason", "error", "second_ask_error"}
