"""Bytes to a client: on the wire when a call returns, without waiting unless the client is slower than we are.

A socket with a time-out asks the system before each write whether it may write. A stream is many small writes, and with
other requests at work each call of the system costs Python a change of threads. So the socket is written to at once,
and waited for only if it is full.
"""

from __future__ import annotations

import io
import socket
import time

from claude_proxy.shell.wait.waiter import WRITE, is_ready


class Outgoing(io.BufferedIOBase):
    """Writes to a connection that does not block, without a buffer."""

    def __init__(self, connection: socket.socket, patience: float) -> None:
        """Write to a connection; a client that does not take one write within `patience` seconds is given up."""
        self._connection = connection
        self._patience = patience

    def writable(self) -> bool:
        """Whether it can be written to: always."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Send all of it.

        Raises:
            OSError: the connection broke, or the client is too slow.
        """
        until = time.monotonic() + self._patience
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except BlockingIOError:
                if not is_ready(self._connection, WRITE, max(until - time.monotonic(), 0.0)):
                    raise TimeoutError from None
        return len(data)
