"""The network, as far as one call needs it: `Network` makes `Stream`s. `fake_stream` plays both without a network.

Nothing here waits. What cannot go on raises `NotReady`, and `attempt` goes on when it can.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from claude_proxy.shell.wait.waiter import READ, WRITE, Waiter

T = TypeVar("T")

Address: TypeAlias = tuple[int, int, int, str, tuple[object, ...]]
"""As `socket.getaddrinfo` returns them."""

_PIECE = 65536  # bytes
_BUSY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NotReady(Exception):
    """A step cannot go on before an event: `READ`, `WRITE`. TLS may want to read in order to write, and the reverse."""

    def __init__(self, event: int, reason: BaseException | None = None) -> None:
        super().__init__()
        wanted: dict[type, int] = {ssl.SSLWantReadError: READ, ssl.SSLWantWriteError: WRITE}
        self.event = wanted.get(type(reason), event)


class Stream:
    """A connection. All but `wait` return at once, or raise `NotReady`; what fails raises `OSError`."""

    def __init__(self, address: Address) -> None:
        family, kind, protocol, _, self._place = address
        self._begun = False
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        _tune(self._socket)

    def connect(self) -> None:
        """Connect; to be called again when it can go on."""
        if self._begun:
            if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            return
        self._begun = True
        try:
            self._socket.connect(self._place)
        except BlockingIOError:
            raise NotReady(WRITE) from None

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Secure all that follows; to be called again when it can go on.

        Raises:
            ValueError: TLS refuses to ask for this host.
        """
        if not isinstance(self._socket, ssl.SSLSocket):
            self._raise_if_broken()
            self._socket = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        try:
            self._socket.do_handshake()
        except _BUSY as reason:
            raise NotReady(READ, reason) from None

    def _raise_if_broken(self) -> None:
        """Raise where `wrap_socket` would: it forgets to close what it has made."""
        try:
            self._socket.getpeername()
        except OSError:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None

    def certificate(self) -> tuple[Mapping[str, Any], str]:
        """The other side's certificate, as `ssl.SSLSocket.getpeercert` returns it, and the version of TLS."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return {}, ""
        return self._socket.getpeercert() or {}, self._socket.version() or "TLS"

    def send(self, data: memoryview) -> int:
        """Send some of the data; how many bytes."""
        try:
            return self._socket.send(data)
        except _BUSY as reason:
            raise NotReady(WRITE, reason) from None

    def receive(self) -> bytes:
        """What has come; nothing at the end."""
        try:
            return self._socket.recv(_PIECE)
        except _BUSY as reason:
            raise NotReady(READ, reason) from None

    def wait(self, waiter: Waiter, event: int, *, until: float = math.inf) -> None:
        """Let a waiter wait for this connection."""
        waiter.wait(self._socket, event, until=until)

    def close(self) -> None:
        """Give it up."""
        self._socket.close()


class Network:
    """The network of this machine."""

    def look_up(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, which may take long, unless it is an IP address."""
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    def open(self, address: Address) -> Stream:
        """A connection to an address, still to be made."""
        return Stream(address)


def attempt(step: Callable[[], T], stream: Stream, waiter: Waiter, *, silence: float = math.inf) -> T:
    """Do a step as soon as the stream is ready for it, which must be within so many seconds of silence.

    Raises:
        OutOfTime: a limit has passed.
        ClientGone: the client has closed its connection.
        OSError: the step failed.
    """
    while True:
        waiter.attend()
        try:
            return step()
        except NotReady as reason:
            stream.wait(waiter, reason.event, until=waiter.elapsed + silence)


def _tune(sock: socket.socket) -> None:
    """No delay for small packets, and probes while nothing else moves.

    So gateways on the way do not forget a connection that is silent while the model thinks, and a server that has
    vanished is noticed within about a minute.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}.items():
        if number := getattr(socket, option, None):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, number, value)
