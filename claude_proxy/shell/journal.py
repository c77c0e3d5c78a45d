"""What happened, without content: one line for each request on standard error.

A `Record` has no field that could hold a prompt, a reply, a file name or a credential, so no line can. Routes are the
table's own names, not the client's path; the alias is recorded, not the client's model name.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
_LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


@dataclass
class Record:
    """One request.

    Attributes:
        request_id: as the client was told it.
        route: the name of the route, such as `POST /v1/messages`.
        status: the HTTP status; 499 for a client that went away.
        alias: the SecureChatAI alias that was asked.
        stream: whether the response streams.
        input_tokens: as reported to the client.
        output_tokens: as reported to the client.
        calls: how many tool calls the reply made.
        repairs: how often a call that could not be read was asked for again.
        continuations: how often a reply that was cut off was continued.
        slips: in how many edits a slip of the pen was mended.
        second_ask_error: the class of the failure that ended the asking again.
        stop_reason: as reported to the client.
        error: the class of the failure.
        first_byte: seconds until the response began.
        seconds: seconds until it was complete.
    """

    request_id: str
    route: str = "-"
    status: int = 0
    alias: str | None = None
    stream: bool | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    calls: int | None = None
    repairs: int | None = None
    continuations: int | None = None
    slips: int | None = None
    second_ask_error: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    first_byte: float | None = None
    seconds: float = 0.0


class Journal:
    """Writes records and notices as lines of text or of JSON."""

    def __init__(self, level: str = "info", form: str = "text", out: TextIO | None = None) -> None:
        """Write to `out` (standard error) what is at least of a level, in `text` or `json` form."""
        self._least = _LEVELS.index(level) if level in _LEVELS else 0
        self._form = form
        self._out = out or sys.stderr
        self._lock = threading.Lock()

    def request(self, record: Record) -> None:
        """Write the line of a finished request; probes that succeed are of interest only when debugging."""
        quiet = record.status < 400 and not record.route.startswith("POST")
        level: Level = "warning" if record.status >= 500 else "debug" if quiet else "info"
        fields = {key: value for key, value in asdict(record).items() if value is not None}
        self._write(level, "request", fields)

    def notice(self, level: Level, event: str, **fields: str | float) -> None:
        """Write a line that belongs to no request."""
        self._write(level, event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, str | int | float]) -> None:
        if _LEVELS.index(level) < self._least:
            return
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in fields.items()}
        if self._form == "json":
            line = json.dumps({"time": now, "level": level, "event": event, **shown})
        else:
            line = " ".join([now, level.upper(), event, *(f"{key}={_text(value)}" for key, value in shown.items())])
        with self._lock:
            print(line, file=self._out, flush=True)


def _text(value: object) -> str:
    """A value in a text line: on one line, in printable ASCII, quoted where it holds blanks or quotes."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(" \"'=\\")
    return text if plain and text else json.dumps(text)
