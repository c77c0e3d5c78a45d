"""`Message` -> the SSE event sequence, and what is sent before there is a message.

The backend never streams, so the sequence is derived from the finished message, and folding it back gives the message
exactly. While the model thinks, a client must be held. What holds Claude Code was measured with 2.1.330: before the
first byte it waits 360 s; `ping`s alone hold it for 600 s; empty deltas in an open block hold it for more than 900 s.
Hence the timeline, in seconds since the waiting began:

    0 to `delay`        silence: what fails by then fails with a true HTTP status
    `delay`             message_start, and where thinking is allowed, a thinking block is opened
    every `interval`    an empty delta in the open block; without one a ping, and after `PINGS_SUFFICE` a text block is
                        opened to hold empty deltas

Nothing here reads a clock or writes to a socket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import SIGNATURE, Message, Text, Thinking, ToolUse, Usage
from claude_proxy.core.messages.response import block_json, error_json, message_json, to_bytes
from claude_proxy.errors import ProxyError

PINGS_SUFFICE = 300.0  # seconds
DELTA_CHARACTERS = 1024

_EMPTY_THINKING = Thinking("", SIGNATURE)
_EMPTY_TEXT = Text("")


class EventStream:
    """The events of one response, in order: `wait` as long as there is no message, then `finish`."""

    def __init__(self, opening: Message, *, thinking: bool, delay: float, interval: float) -> None:
        """Begin.

        Args:
            opening: the message as it stands before the model has answered: no content, usage estimated.
            thinking: whether the response may hold a thinking block.
            delay: seconds of silence.
            interval: seconds between signs of life.
        """
        self._opening = opening
        self._thinking = thinking
        self._interval = interval
        self._open_block: Text | Thinking | None = None
        self.started = False
        self.next_due = delay  # when `events_due` has something to send next, in seconds since the waiting began

    def events_due(self, elapsed: float) -> Iterator[bytes]:
        """The events that are due when so many seconds have passed since the request came."""
        if elapsed < self.next_due:
            return
        self.next_due = elapsed + self._interval
        if not self.started:
            yield self._start()
            if self._thinking:
                yield self._open(_EMPTY_THINKING)
        elif self._open_block is None and elapsed < PINGS_SUFFICE:
            yield event("ping", {})
        else:
            if self._open_block is None:
                yield self._open(_EMPTY_TEXT)
            yield _delta(0, "thinking" if self._thinking else "text", "")

    def complete(self, message: Message) -> Message:
        """The message as the client will have it: with the thinking or text block that was opened while waiting."""
        first = message.content[0] if message.content else None
        if self._open_block is None or isinstance(first, type(self._open_block)):
            return message
        return replace(message, content=(self._open_block, *message.content))

    def finish(self, message: Message) -> Iterator[bytes]:
        """All events that are left, given the message."""
        message = self.complete(message)
        if not self.started:
            yield self._start()
        for index, block in enumerate(message.content):
            if index > 0 or self._open_block is None:
                yield _block_start(index, block)
            yield from _deltas(index, block)
            yield event("content_block_stop", {"index": index})
        yield event(
            "message_delta",
            {
                "delta": {
                    "stop_reason": message.stop_reason,
                    "stop_sequence": message.stop_sequence,
                    "stop_details": None,
                },
                "usage": {
                    "input_tokens": message.usage.input_tokens,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": message.usage.output_tokens,
                },
                **message.extras,
            },
        )
        yield event("message_stop", {})

    def _start(self) -> bytes:
        self.started = True
        opening = message_json(self._opening) | {"stop_reason": None}
        return event("message_start", {"message": opening})

    def _open(self, block: Text | Thinking) -> bytes:
        self._open_block = block
        return _block_start(0, block)


def opening_message(message_id: str, model: str, input_tokens: int, extras: Mapping[str, Any] | None = None) -> Message:
    """The message before the model has answered; clients want to see one output token."""
    return Message(message_id, model, (), "end_turn", Usage(input_tokens, 1), extras=extras or {})


def error_event(error: ProxyError, request_id: str) -> bytes:
    """The event that ends a stream which has begun. No block is complete then, so the client can start over."""
    body = error_json(error, request_id)
    body["error"]["type"] = error.stream_type
    return event("error", body)


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event, complete with the empty line that ends it."""
    return b"event: " + name.encode() + b"\ndata: " + to_bytes({"type": name} | data) + b"\n\n"


def _block_start(index: int, block: Text | Thinking | ToolUse) -> bytes:
    """The start of a block: as it will be, but empty, for it is filled by deltas."""
    empty = {"text": "", "thinking": "", "signature": "", "input": {}}
    content_block = {key: empty.get(key, value) for key, value in block_json(block).items()}
    return event("content_block_start", {"index": index, "content_block": content_block})


def _deltas(index: int, block: Text | Thinking | ToolUse) -> Iterator[bytes]:
    match block:
        case Text(text):
            for piece in _pieces(text):
                yield _delta(index, "text", piece)
        case Thinking(thinking, signature):
            for piece in _pieces(thinking):
                yield _delta(index, "thinking", piece)
            yield _delta(index, "signature", signature)
        case ToolUse(input=arguments):
            for piece in _pieces(to_json(dict(arguments))):
                yield _delta(index, "input_json", piece)


def _delta(index: int, kind: str, value: str) -> bytes:
    field = {"input_json": "partial_json"}.get(kind, kind)
    return event("content_block_delta", {"index": index, "delta": {"type": f"{kind}_delta", field: value}})


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), DELTA_CHARACTERS):
        yield text[start : start + DELTA_CHARACTERS]
