"""Bytes from a client, within limits of time.

A limit for each read would let a client hold a thread for ever with a byte now and then. So a whole piece of a request
has one deadline, which what has come may put off: that is a least speed.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable

from claude_proxy.errors import ClientGone, InvalidRequest, RequestTimeout
from claude_proxy.shell.wait.waiter import READ, is_ready

_PIECE = 65536  # bytes
_DISCARDED = 64  # pieces at most; a client that sends without end is reset


class LineTooLong(Exception):
    """There is no end of the line within its limit."""


class Incoming:
    """What comes on a connection. What was received and not yet read waits here for the next request."""

    def __init__(self, connection: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        """Read from a connection, which does not block; `clock` gives seconds, from any start."""
        self._connection = connection
        self._clock = clock
        self._buffer = bytearray()
        self._deadline = self._slack = math.inf
        self._rate = math.inf

    def await_request(self, seconds: float) -> bool:
        """Wait for the first byte of a request.

        Returns:
            False when the client has closed the connection, or sent nothing for so many seconds.
        """
        self.allow(seconds)
        try:
            return bool(self._buffer) or self._receive()
        except (RequestTimeout, ClientGone):
            return False

    def allow(self, seconds: float, rate: float = math.inf) -> None:
        """Set the limit for what is read from now on.

        Args:
            seconds: time for all of it.
            rate: bytes that, when they have come, give one second more; but never more than `seconds` from then on, so
                that nobody can save time up and then be silent.
        """
        self._slack = seconds
        self._deadline = self._clock() + seconds
        self._rate = rate

    def peek(self) -> int:
        """The next byte, if it is there already; otherwise -1."""
        return self._buffer[0] if self._buffer else -1

    def line(self, limit: int) -> bytes:
        """The next line, without its CRLF.

        Args:
            limit: bytes that the line may have with its end.

        Raises:
            LineTooLong: it has more.
            InvalidRequest: it ends otherwise than with CRLF: a bare LF is an end of line to some readers, and not to
                others, which smugglers use. Or the client hung up before its end.
            RequestTimeout: the time has run out.
            ClientGone: the connection broke.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched, limit)) < 0:
            searched = len(self._buffer)
            if searched >= limit:
                raise LineTooLong
            self._receive_more()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r\n"):
            raise InvalidRequest("This is not a well-formed HTTP request: a line does not end with CRLF.")
        return line[:-2]

    def exactly(self, count: int, taken: Callable[[int], None] = lambda _: None) -> bytes:
        """The next `count` bytes; `taken` is told how many have come each time that some have.

        Raises:
            InvalidRequest: the client hung up before.
            RequestTimeout: the time has run out.
            ClientGone: the connection broke.
        """
        pieces: list[bytes] = []
        left = count
        while left:
            if not self._buffer:
                self._receive_more()
            piece = bytes(self._buffer[:left])
            del self._buffer[: len(piece)]
            taken(len(piece))
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def discard(self, most: int) -> None:
        """Read and forget until the client hangs up, the time runs out or `most` bytes have come."""
        self._buffer.clear()
        with contextlib.suppress(RequestTimeout, ClientGone):
            while most > 0 and self._receive():
                most -= len(self._buffer)
                self._buffer.clear()

    def discard_what_came(self) -> None:
        """Read and forget what is there already."""
        with contextlib.suppress(OSError):
            for _ in range(_DISCARDED):
                if not self._connection.recv(_PIECE):
                    return

    def _receive_more(self) -> None:
        if not self._receive():
            raise InvalidRequest("The request was cut short: it ends before it is complete.")

    def _receive(self) -> bool:
        """Take what has come, or wait for it; False at the end."""
        now = self._clock()
        self._deadline = min(self._deadline, now + self._slack)
        left = self._deadline - now
        try:
            if left <= 0:
                raise TimeoutError
            data = self._receive_within(left)
        except TimeoutError:
            raise RequestTimeout(
                "The request came too slowly: HEAD_TIMEOUT and BODY_TIMEOUT of the proxy set the limits. Try again."
            ) from None
        except OSError as error:
            raise ClientGone from error
        self._buffer += data
        self._deadline += len(data) / self._rate
        return bool(data)

    def _receive_within(self, seconds: float) -> bytes:
        while True:
            try:
                return self._connection.recv(_PIECE)
            except BlockingIOError:
                if not is_ready(self._connection, READ, seconds):
                    raise TimeoutError from None
