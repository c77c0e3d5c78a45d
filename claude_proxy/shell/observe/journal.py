"""What happened, without content: a line for each request on standard error, and a memory of the last of them.

A `Record` has no field that could hold a prompt, a reply, a file name or a credential, so no line, page or metric made
from it can. Routes are the table's own names, not the client's path; the alias is recorded, and the client's name for
the model only where it is one of the table's. The memory is bounded: what runs, the last hundred, an hour of minutes,
and sums whose labels come from closed sets. To look at it, take an `Activity`: a copy that no longer changes.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TextIO, TypeAlias

from claude_proxy.shell.observe.log import Log

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
_LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

Phase: TypeAlias = Literal["preparing", "waiting for a turn", "asking", "asking again", "answering"]

UNMAPPED = "(unmapped)"
"""The alias of a record whose alias would be the client's own text."""

MESSAGES = "POST /v1/messages"
CLIENT_CLOSED_REQUEST = 499
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
"""Upper bounds of the histograms, in seconds: a model takes from half a second to many minutes."""

KEPT = 100
MINUTES = 60
MOST_CLIENTS = 1000
MOST_ALIASES = 200
"""A configured table has a handful; the bound is for one that is made by a program."""

# Failures that come from REDCap or the model. A refused token and a 413 do only after the alias was chosen.
_UPSTREAM = frozenset(
    {"UpstreamUnreachable", "UpstreamMisconfigured", "UpstreamTimeout", "RateLimited", "ModelOverloaded"}
    | {"ModelNeverAnswered", "InvalidDocument", "AuthenticationFailed", "RequestTooLarge"}
)


@dataclass(slots=True)  # so that nothing can be put into it that has no field
class Record:
    """One request.

    Attributes:
        request_id: as the client was told it.
        session: Claude Code's id of the session, if the client sent one; `agent` is that of the agent within it.
        trace_id: the W3C trace that the request belongs to, likewise.
        client: on a shared proxy a keyed hash of the client's token.
        route: the name of the route, such as `POST /v1/messages`.
        status: the HTTP status; 499 for a client that went away.
        model: the client's name for the model, where it is one of the table's.
        alias: the SecureChatAI alias that was asked.
        repairs: how often a call that could not be read was asked for again.
        continuations: how often a reply that was cut off was continued.
        mended_edits: how many edits had a slip of the pen that was mended.
        ignored: how many fields, keys and betas of the request were let pass unread.
        mended: how many of its calls had no result, or results no call.
        second_ask_error: the class of the failure that ended the asking again; `error` that of the request's.
        first_byte: seconds until the response began; `seconds` until it was complete.
    """

    request_id: str
    session: str | None = None
    agent: str | None = None
    trace_id: str | None = None
    client: str | None = None
    route: str = "-"
    status: int = 0
    model: str | None = None
    alias: str | None = None
    stream: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    calls: int | None = None
    repairs: int | None = None
    continuations: int | None = None
    mended_edits: int | None = None
    ignored: int | None = None
    mended: int | None = None
    second_ask_error: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    first_byte: float | None = None
    seconds: float = 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the client got an error, be it behind a status of 200; one that left has not."""
        return self.status != CLIENT_CLOSED_REQUEST and (self.status >= 400 or self.error is not None)

    @property
    def is_quiet(self) -> bool:
        """Whether it is a probe or a look at the proxy that succeeded: of interest only when debugging."""
        return self.status < 400 and not self.route.startswith("POST")


# --- what can be seen -------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    """A request for a message that is being answered. Times are Unix seconds, here and below."""

    since: float
    record: Record
    phase: Phase = "preparing"


class Finished(NamedTuple):
    """A request that was answered, and when."""

    at: float
    record: Record


@dataclass
class Minute:
    """What ended in one minute. Only requests for messages count, and the seconds only of those that were answered."""

    begins: float
    requests: int = 0
    answered: int = 0
    failures: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, record: Record) -> None:
        """Count a request that has been answered."""
        is_answered = record.error is None and record.status < 400
        seconds = record.seconds if is_answered else 0.0
        self.requests += 1
        self.answered += is_answered
        self.failures += record.has_failed
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        self.input_tokens += record.input_tokens or 0
        self.output_tokens += record.output_tokens or 0

    @property
    def average(self) -> float:
        """Seconds that an answer took on average."""
        return self.seconds / max(self.answered, 1)


@dataclass(frozen=True)
class Histogram:
    """How many values fell up to each bound of `BUCKETS` and above the one before; the last are those above all."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    total: float = 0.0

    def __add__(self, value: float) -> Histogram:
        counts = list(self.counts)
        counts[bisect_left(BUCKETS, value)] += 1
        return Histogram(tuple(counts), self.total + value)


Requests: TypeAlias = tuple[str, int, str]  # route, status, alias; an alias that there is not is ""
Times: TypeAlias = tuple[str, str]  # route, alias


@dataclass
class Totals:
    """Sums since the start: by alias, or by what the name says."""

    requests: Counter[Requests] = field(default_factory=Counter)
    durations: dict[Times, Histogram] = field(default_factory=dict)
    first_bytes: dict[Times, Histogram] = field(default_factory=dict)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    continuations: Counter[str] = field(default_factory=Counter)
    mended_edits: Counter[str] = field(default_factory=Counter)
    upstream_failures: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(sorted(_UPSTREAM), 0)))
    disconnects: int = 0
    client_requests: Counter[str] = field(default_factory=Counter)
    client_tokens: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Totals:
        """The sums of this moment."""
        return Totals(*(copy(getattr(self, each.name)) for each in fields(self)))

    def add(self, record: Record, alias: str) -> None:
        """Count a request that has been answered, under the label of its alias."""
        self.requests[record.route, record.status, alias] += 1
        self.disconnects += record.status == CLIENT_CLOSED_REQUEST
        if not record.is_quiet:
            times = (record.route, alias)
            self.durations[times] = self.durations.get(times, Histogram()) + record.seconds
            if record.first_byte is not None:
                self.first_bytes[times] = self.first_bytes.get(times, Histogram()) + record.first_byte
        for name in ("input_tokens", "output_tokens", "calls", "repairs", "continuations", "mended_edits"):
            if amount := getattr(record, name):
                getattr(self, name)[alias] += amount
        if record.alias is not None:
            self.upstream_failures.update(_UPSTREAM.intersection((record.error, record.second_ask_error)))


@dataclass(frozen=True)
class Activity:
    """What the journal knows at one moment."""

    now: float
    started: float
    running: tuple[Running, ...]
    finished: tuple[Finished, ...]
    minutes: tuple[Minute, ...]
    totals: Totals
    lost_lines: int

    @property
    def waiting(self) -> int:
        """How many requests wait for a turn to call REDCap."""
        return sum(each.phase == "waiting for a turn" for each in self.running)


def _label(name: str, known: set[str], most: int) -> str:
    """A name as a label; beyond the bound, "other"."""
    if name not in known and len(known) >= most:
        return "other"
    known.add(name)
    return name


class Journal:
    """Writes records and notices as lines of text or of JSON, and remembers the last of them.

    `_lock` is held for each change of what is remembered and each look at it, and for nothing that can wait.
    """

    def __init__(
        self,
        level: str = "info",
        form: str = "text",
        out: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.time,
        most_aliases: int = MOST_ALIASES,
    ) -> None:
        """Write to `out` (standard error) what is at least of a level, in `text` or `json` form.

        Args:
            level: `debug`, `info`, `warning` or `error`.
            form: `text` or `json`.
            out: where the lines go.
            clock: Unix seconds.
            most_aliases: how many aliases are labels of their own; the sums of all further ones are one.
        """
        self.set_level(level)
        self._form = form
        self.log = Log(
            out or sys.stderr, lambda count: self._line("warning", "lines of this log were lost", {"lines": count})
        )
        self._clock = clock
        self._started = clock()
        self._most_aliases = most_aliases
        self._running: dict[str, Running] = {}
        self._finished: deque[Finished] = deque(maxlen=KEPT)
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._totals = Totals()
        self._aliases = {""}
        self._clients: set[str] = set()
        self._lock = threading.Lock()

    def set_level(self, level: str) -> None:
        """Write from now on what is at least of a level."""
        self._least = _LEVELS.index(level) if level in _LEVELS else 0

    # --- requests -----------------------------------------------------------------------------------------------------

    def begin(self, record: Record) -> None:
        """Remember that a request for a message is being answered, until its line is written."""
        with self._lock:
            self._running[record.request_id] = Running(self._clock(), record)

    def set_phase(self, request_id: str, phase: Phase) -> None:
        """Note what a running request has come to."""
        with self._lock:
            if found := self._running.get(request_id):
                self._running[request_id] = found._replace(phase=phase)

    def request(self, record: Record) -> None:
        """Write the line of a finished request, and remember it; nobody changes the record any more."""
        with self._lock:
            self._running.pop(record.request_id, None)
            self._remember(record, self._clock())
        level: Level = "warning" if record.status >= 500 else "debug" if record.is_quiet else "info"
        known = {each.name: getattr(record, each.name) for each in fields(record)}
        self._write(level, "request", {name: value for name, value in known.items() if value is not None})

    def _remember(self, record: Record, now: float) -> None:
        alias = "other"
        if record.alias != UNMAPPED:
            alias = _label(record.alias or "", self._aliases, self._most_aliases + 1)
        self._totals.add(record, alias)
        if not record.is_quiet:
            self._finished.appendleft(Finished(now, record))
        if record.route != MESSAGES:
            return
        begins = now - now % 60
        if not self._minutes or begins > self._minutes[-1].begins:
            self._minutes.append(Minute(begins))
        self._minutes[-1].add(record)  # the last one still where the clock was put back
        if record.client is not None:  # only made-up tokens reach the bound
            client = _label(record.client, self._clients, MOST_CLIENTS)
            self._totals.client_requests[client] += 1
            self._totals.client_tokens[client] += (record.input_tokens or 0) + (record.output_tokens or 0)

    def activity(self) -> Activity:
        """What is known now."""
        now = self._clock()
        this_minute = now - now % 60
        with self._lock:
            minutes = {minute.begins: copy(minute) for minute in self._minutes}
            hour = (this_minute - 60 * back for back in reversed(range(MINUTES)))
            return Activity(
                now=now,
                started=self._started,
                running=tuple(each._replace(record=copy(each.record)) for each in self._running.values()),
                finished=tuple(self._finished),
                minutes=tuple(minutes.get(begins) or Minute(begins) for begins in hour),
                totals=self._totals.copy(),
                lost_lines=self.log.lost,
            )

    def close(self) -> None:
        """Write the last lines, if somebody reads them."""
        self.log.close()

    # --- lines --------------------------------------------------------------------------------------------------------

    def notice(self, level: Level, event: str, **fields: str | float) -> None:
        """Write a line that belongs to no request."""
        self._write(level, event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, str | int | float]) -> None:
        if _LEVELS.index(level) >= self._least:
            self.log.write(self._line(level, event, fields))

    def _line(self, level: Level, event: str, fields: dict[str, str | int | float]) -> str:
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in fields.items()}
        if self._form == "json":
            return json.dumps({"time": now, "level": level, "event": event, **shown}) + "\n"
        return " ".join([now, level.upper(), event, *(f"{key}={_text(value)}" for key, value in shown.items())]) + "\n"


_PLAIN = re.compile(r"""[^\x00-\x20\x7f-\U0010ffff"'=\\]+""")


def _text(value: object) -> str:
    """A value in a text line: on one line, in printable ASCII, quoted where it holds blanks or quotes."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
