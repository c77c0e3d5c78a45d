"""A network without a network: it plays what a test has written, and keeps what it was sent.

A script holds what comes, in order: bytes; `b""` for the end of the connection; an exception that is raised. When all
has been played, nothing more comes, and whoever waits is out of time at once.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Sequence

from claude_proxy.shell.upstream.stream import Address, Network, NotReady, Stream
from claude_proxy.shell.wait.waiter import READ, OutOfTime, Waiter


class FakeStream(Stream):
    """One connection that plays a script; `failure` is why it cannot be made, if it cannot."""

    def __init__(self, *script: bytes | Exception, failure: OSError | None = None) -> None:
        self.sent = bytearray()
        self.secured_for = ""
        self.closed = False
        self._script = list(script)
        self._failure = failure

    def connect(self) -> None:
        if self._failure:
            raise self._failure

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        self.secured_for = host

    def send(self, data: memoryview) -> int:
        self.sent += data
        return len(data)

    def receive(self) -> bytes:
        if not self._script:
            raise NotReady(READ)
        following = self._script.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    def wait(self, waiter: Waiter, event: int, *, until: float = math.inf) -> None:
        waiter.attend()
        if not self._script:
            raise OutOfTime(whole_call=until == math.inf)

    def close(self) -> None:
        self.closed = True


class FakeNetwork(Network):
    """Gives out streams in their order. Every look-up finds, or fails with, what was given."""

    def __init__(self, *streams: Stream, look_up: Sequence[Address] | Exception = ()) -> None:
        self._streams = list(streams)
        self._found = look_up or [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]

    def look_up(self, host: str, port: int) -> list[Address]:
        if isinstance(self._found, Exception):
            raise self._found
        return list(self._found)

    def open(self, address: Address) -> Stream:
        return self._streams.pop(0)
