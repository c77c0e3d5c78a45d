"""One POST to REDCap, and the waiting for its answer.

`http.client` cannot go on after a read that timed out, and a TLS socket can be readable without holding a byte of the
answer. So sockets here never block: every step (connecting, the TLS handshake, sending, reading) tries, and where the
socket is not ready, hands over to a `Waiter`, which sends signs of life to the client, notices that it has gone, and
keeps the time limit.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from claude_proxy import __version__
from claude_proxy.errors import ClientGone, ProxyError, UpstreamMisconfigured, UpstreamTimeout, UpstreamUnreachable

T = TypeVar("T")

_MAX_BODY = 64 * 1024 * 1024  # bytes; far beyond any model's longest reply
_IDLE_SECONDS = 30.0  # how long a connection is kept for the next call
_IDLE_CONNECTIONS = 32

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Waiter:
    """Waits for sockets on behalf of one request, and watches its client meanwhile."""

    def __init__(
        self,
        *,
        limit: float,
        client: socket.socket | None = None,
        tick: Callable[[float], float] = lambda _: math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count the time.

        Args:
            limit: seconds for the whole call.
            client: the client's connection; while it is open, the call goes on.
            tick: called with the seconds since the beginning; sends what is due, and tells when it wants to be called
                again, in the same terms.
            clock: seconds, from any start.
        """
        self._limit = limit
        self._client = client
        self._tick = tick
        self._clock = clock
        self._start = clock()

    def renew(self, limit: float) -> None:
        """Give a further call a time limit of its own, in seconds from now."""
        self._limit = self.elapsed + limit

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    def wait(self, sock: socket.socket, event: int, *, limit: float = math.inf) -> None:
        """Return when a socket is ready.

        Args:
            sock: the socket, which does not block.
            event: `EVENT_READ` or `EVENT_WRITE` of `selectors`.
            limit: an earlier limit than the call's, in seconds since the beginning.

        Raises:
            TimeoutError: a limit has passed.
            ClientGone: the client has closed its connection.
        """
        limit = min(limit, self._limit)
        with _Selector() as selector:
            selector.register(sock, event)
            if self._client:
                selector.register(self._client, _READ)
            while True:
                due = self._tick(self.elapsed)
                timeout = min(due, limit) - self.elapsed
                ready = {key.fileobj for key, _ in selector.select(max(timeout, 0.0))}
                if self._client in ready:
                    self._listen(selector)
                if sock in ready:
                    return
                if self.elapsed >= limit:
                    raise TimeoutError

    def _listen(self, selector: selectors.BaseSelector) -> None:
        """See whether the client has gone. If it has sent something instead, it cannot be watched any further."""
        client = cast("socket.socket", self._client)
        with contextlib.suppress(*_NOT_READY):
            try:
                data = client.recv(1, socket.MSG_PEEK)
            except OSError as error:
                raise ClientGone from error
            if not data:
                raise ClientGone
            selector.unregister(client)
            self._client = None


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP response: status, headers with lower-case names, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Upstream:
    """Posts to one address, over connections that are kept for the next call."""

    def __init__(self, url: str, *, connect_timeout: float) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: `http://` or `https://` address.
            connect_timeout: seconds for connecting and the TLS handshake together.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path or "/"
        self._authority = parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_timeout = connect_timeout
        self._idle: list[tuple[float, _Connection]] = []
        self._lock = threading.Lock()

    def post(self, content_type: str, body: bytes, waiter: Waiter) -> HttpAnswer:
        """Post a body and return the answer, whatever its status.

        Raises:
            UpstreamUnreachable: the address cannot be reached, or the connection broke.
            UpstreamMisconfigured: what is there cannot be talked to.
            UpstreamTimeout: the time limit has passed.
            ClientGone: the client has gone.
        """
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._authority}\r\nUser-Agent: claude-proxy/{__version__}\r\n"
            f"Accept: application/json\r\nAccept-Encoding: identity\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection = self._take() or self._connect(waiter)
        try:
            return self._exchange(connection, head.encode() + body, waiter)
        except _StaleConnection:
            return self._exchange(self._connect(waiter), head.encode() + body, waiter)

    def _exchange(self, connection: _Connection, request: bytes, waiter: Waiter) -> HttpAnswer:
        try:
            answer, reusable = connection.exchange(request, waiter)
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._host} did not answer within {waiter.elapsed:.0f} s. The model may need longer: raise "
                "UPSTREAM_TIMEOUT, or choose a faster model."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if connection.is_stale:
                raise _StaleConnection from None
            raise UpstreamUnreachable(
                f"The connection to {self._host} broke before its answer was complete ({_reason(error)}). Try again; "
                "if it happens often, ask whoever runs REDCap for the time limits of the gateways before it."
            ) from None
        finally:
            if not connection.is_idle:
                connection.close()
        if reusable:
            self._give_back(connection)
        else:
            connection.close()
        return answer

    # --- connections --------------------------------------------------------------------------------------------------

    def _take(self) -> _Connection | None:
        """A kept connection that is still open."""
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                since, connection = self._idle.pop()
            if now - since < _IDLE_SECONDS and connection.is_open():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _connect(self, waiter: Waiter) -> _Connection:
        limit = waiter.elapsed + self._connect_timeout
        try:
            addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UpstreamUnreachable(
                f"The name {self._host} cannot be resolved. Check REDCAP_API_URL, and the network or VPN."
            ) from None
        failure: OSError = OSError("no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            share = (limit - waiter.elapsed) / (len(addresses) - tried)  # a filtered address leaves time for the next
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # such as IPv6 on a machine without it
                failure = error
                continue
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Connection(self._open(sock, address, waiter, waiter.elapsed + share))
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise self._explain(failure)

    def _open(self, sock: socket.socket, address: tuple[object, ...], waiter: Waiter, limit: float) -> socket.socket:
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
        waiter.wait(sock, _WRITE, limit=limit)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        if not self._tls:
            return sock
        secured = self._tls.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            _retry(secured.do_handshake, secured, waiter, _READ, limit=limit)
        except BaseException:
            secured.close()
            raise
        return secured

    def _explain(self, error: OSError) -> ProxyError:
        where = f"{self._host}:{self._port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return UpstreamMisconfigured(
                f"The certificate of {where} cannot be trusted: {error.verify_message}. If your institution has a "
                "certificate authority of its own, set SSL_CERT_FILE to its bundle; otherwise check REDCAP_API_URL."
            )
        if isinstance(error, ssl.SSLError):
            return UpstreamMisconfigured(
                f"{where} does not speak TLS as expected ({_reason(error)}). Check REDCAP_API_URL: its scheme and port."
            )
        if isinstance(error, TimeoutError):
            return UpstreamUnreachable(
                f"{where} could not be reached within {self._connect_timeout:g} s. Check REDCAP_API_URL, and the "
                "network or VPN; CONNECT_TIMEOUT sets the limit."
            )
        return UpstreamUnreachable(
            f"{where} could not be reached ({_reason(error)}). Check REDCAP_API_URL, and the network or VPN."
        )


class _StaleConnection(Exception):
    """A kept connection had been closed by the server before it took the request."""


class _Connection:
    """A connected socket that does not block, with the HTTP on it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._uses = 0
        self.is_idle = True
        self._received = self._ended = False

    @property
    def is_stale(self) -> bool:
        """Whether a failure just now means that the server had closed a kept connection: no byte of an answer came."""
        return self._uses > 1 and not self._received

    def is_open(self) -> bool:
        """Whether the other side has neither closed nor sent anything while the connection was idle."""
        try:
            self._sock.recv(1)
        except _NOT_READY:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self._sock.close()

    def exchange(self, request: bytes, waiter: Waiter) -> tuple[HttpAnswer, bool]:
        """Send a request and read the response: the answer, and whether the connection can be used again."""
        self._uses += 1
        self.is_idle = self._received = self._ended = False
        rest = memoryview(request)
        while rest:
            rest = rest[_retry(partial(self._sock.send, rest), self._sock, waiter, _WRITE) :]
        with http.client.HTTPResponse(cast("socket.socket", _Readable(self, waiter)), method="POST") as response:
            response.begin()
            if self._ended:
                raise http.client.HTTPException("its head was cut short")
            body = response.read(_MAX_BODY + 1)
            if len(body) > _MAX_BODY:
                raise http.client.HTTPException("the answer is too long")
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = HttpAnswer(response.status, headers, body)
            self.is_idle = True
            return answer, not response.will_close

    def receive_into(self, buffer: Any, waiter: Waiter) -> int:
        count = _retry(lambda: self._sock.recv_into(buffer), self._sock, waiter, _READ)
        self._received = self._received or count > 0
        self._ended = count == 0
        return count


class _Readable(io.RawIOBase):
    """What `http.client` reads a response from: it takes it for a socket and asks it for a file."""

    def __init__(self, connection: _Connection, waiter: Waiter) -> None:
        self._connection = connection
        self._waiter = waiter

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, 65536)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.receive_into(buffer, self._waiter)


def _retry(step: Callable[[], T], sock: socket.socket, waiter: Waiter, event: int, *, limit: float = math.inf) -> T:
    """Do a step as soon as the socket is ready for it. TLS may want to read in order to write, and the reverse."""
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            waiter.wait(sock, _READ, limit=limit)
        except ssl.SSLWantWriteError:
            waiter.wait(sock, _WRITE, limit=limit)
        except BlockingIOError:
            waiter.wait(sock, event, limit=limit)


def _reason(error: Exception) -> str:
    """A few words on a failure that hold nothing of what was sent or received."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS error"
    if isinstance(error, OSError) and error.errno:
        return (error.strerror or type(error).__name__).lower()
    return {"RemoteDisconnected": "it closed the connection", "IncompleteRead": "it was cut short"}.get(
        type(error).__name__, type(error).__name__
    )
