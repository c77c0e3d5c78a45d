"""HTTP on one connection: a request goes out, an answer comes in."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TypeAlias

from claude_proxy.core.http1.answer import MAX_HEAD, AnswerReader, HttpAnswer, read_answer, read_head
from claude_proxy.core.http1.grammar import Malformed
from claude_proxy.shell.upstream import tls
from claude_proxy.shell.upstream.stream import NotReady, Stream, attempt
from claude_proxy.shell.wait.waiter import READ, Waiter

_SLICE = 256 * 1024  # bytes handed to the stream at a time

RequestParts: TypeAlias = Iterable[bytes | memoryview]  # so that what is large is not copied


class Connection:
    """A connection that is kept from one request to the next."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.has_answered = False  # whether anything has come since the request began
        self._sent_at: float | None = None

    def failed_within(self, seconds: float) -> bool:
        """Whether a failure just now came so soon after sending, and before any answer, that nobody works on it."""
        soon = self._sent_at is None or time.monotonic() - self._sent_at < seconds
        return soon and not self.has_answered

    def is_open(self) -> bool:
        """Whether the other side has neither closed nor sent anything while the connection was idle."""
        try:
            self.stream.receive()
        except NotReady:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Give it up."""
        self.stream.close()

    def ask_for_tunnel(self, request: bytes, waiter: Waiter) -> int:
        """Send a CONNECT and return the status of the answer; raises what `exchange` does."""
        reader, _ = self._send([request], waiter, math.inf)
        status = read_head(reader).status
        if status < 300 and len(reader):
            raise Malformed("spoke before REDCap did", lasting=True)
        return status

    def exchange(
        self, request: RequestParts, waiter: Waiter, *, silence: float, max_body: int
    ) -> tuple[HttpAnswer, bool]:
        """Send a request and read the answer, and whether the connection can be used again.

        Raises:
            OutOfTime, ClientGone: as the waiter finds; a silence counts as out of time.
            OSError: the connection broke.
            Malformed: what came is not an HTTP answer.
        """
        reader, whole = self._send(request, waiter, silence)
        answer, reusable = read_answer(reader, max_body=max_body)
        return answer, reusable and whole

    def _send(self, request: RequestParts, waiter: Waiter, silence: float) -> tuple[AnswerReader, bool]:
        """Send a request; returns the reader of its answer, and whether the whole request was sent."""
        self.has_answered, self._sent_at = False, None
        reader = AnswerReader(lambda: self._receive(reader, waiter, silence))
        whole = all(self._send_part(part, reader, waiter, silence) for part in request)
        self._sent_at = time.monotonic()
        return reader, whole

    def _send_part(self, part: bytes | memoryview, reader: AnswerReader, waiter: Waiter, silence: float) -> bool:
        """Send a part of the request. False: an answer came before it was all gone, so nobody wants the rest.

        A server that finds a request too large says so, reads no further, and closes. Whoever goes on sending never
        reads it.
        """
        rest = memoryview(part)
        while rest:
            waiter.attend()
            try:
                rest = rest[self.stream.send(rest[:_SLICE]) :]
            except NotReady as reason:
                self.stream.wait(waiter, reason.event | READ, until=waiter.elapsed + silence)
                if self._heard(reader):
                    return False
            except OSError:
                if self._heard(reader):
                    return False
                raise
        return True

    def _heard(self, reader: AnswerReader) -> bool:
        """Whether an answer has begun, or none will ever come; without waiting."""
        try:
            data = self.stream.receive()
            self.has_answered = self.has_answered or bool(data)
            reader.feed(data)
        except NotReady:
            pass
        except OSError as error:  # sending will say what is wrong, unless a server tells of it in TLS
            if tls.wants_client_certificate(error):
                raise
        return reader.starts_an_answer or reader.ended or len(reader) > MAX_HEAD

    def _receive(self, reader: AnswerReader, waiter: Waiter, silence: float) -> bytes:
        if not self.has_answered:  # the model is still thinking, so reading at once would be a wasted call
            self.stream.wait(waiter, READ)
        limit = silence if reader.starts_an_answer else math.inf
        data = attempt(self.stream.receive, self.stream, waiter, silence=limit)
        self.has_answered = self.has_answered or bool(data)
        return data
