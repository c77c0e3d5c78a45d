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

from claude_proxy.core.http1.grammar import REQUEST
from claude_proxy.core.http1.reader import Reader
from claude_proxy.errors import ClientGone, RequestTimeout
from claude_proxy.shell.wait.waiter import READ, is_ready

_PIECE = 65536  # bytes
_DISCARDED = 64  # pieces at most; nobody may keep us busy by sending without end


def discard_what_came(connection: socket.socket) -> bool:
    """Read and forget what has come already on a connection that does not block; whether it has ended."""
    try:
        for _ in range(_DISCARDED):
            if not connection.recv(_PIECE):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


class Incoming(Reader):
    """What comes on a connection. What was received and not yet read waits here for the next request.

    Whatever reads from it may raise `RequestTimeout`, when the time has run out, and `ClientGone`, when the connection
    has broken.
    """

    def __init__(self, connection: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        """Read from a connection, which does not block; `clock` gives seconds, from any start."""
        super().__init__(self._receive, REQUEST)
        self._connection = connection
        self._clock = clock
        self._deadline = self._slack = math.inf
        self._rate = math.inf

    def await_request(self, seconds: float) -> bool:
        """Wait for the first byte of a request.

        Returns:
            False when the client has closed the connection, or sent nothing for so many seconds.
        """
        self.allow(seconds)
        with contextlib.suppress(RequestTimeout, ClientGone):
            return bool(len(self)) or self.fill()
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

    def discard(self, most: int) -> None:
        """Read and forget until the client hangs up, the time runs out or `most` bytes have come."""
        self.forget()
        with contextlib.suppress(RequestTimeout, ClientGone):
            while most > 0 and (data := self._receive()):
                most -= len(data)

    def _receive(self) -> bytes:
        """Take what has come, or wait for it; nothing at the end."""
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
        self._deadline += len(data) / self._rate
        return data

    def _receive_within(self, seconds: float) -> bytes:
        while True:
            try:
                return self._connection.recv(_PIECE)
            except BlockingIOError:
                if not is_ready(self._connection, READ, seconds):
                    raise TimeoutError from None
