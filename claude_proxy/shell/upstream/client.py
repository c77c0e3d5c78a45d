"""One POST to REDCap, over connections that are kept for the next.

A connection is opened in stages: look-up, connecting, the tunnel of a forward proxy, TLS. It is used in stages, too:
sending, waiting, reading. Each stage waits by means of a `Waiter` and fails with a sentence of its own. What is read
stands in `http_answer`, the sentences of TLS and of forward proxies in their own files, all others here.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Self, TypeAlias
from urllib.parse import urlsplit

from claude_proxy import __version__
from claude_proxy.errors import ProxyError, UpstreamMisconfigured, UpstreamTimeout, UpstreamUnreachable
from claude_proxy.settings.table import Settings
from claude_proxy.shell.upstream import forward_proxy, tls
from claude_proxy.shell.upstream.forward_proxy import ForwardProxy
from claude_proxy.shell.upstream.http_answer import MAX_HEAD, BadAnswer, HttpAnswer, Inbox, read_answer
from claude_proxy.shell.upstream.resolve import Address, Resolver
from claude_proxy.shell.wait.waiter import NOT_READY, READ, WRITE, OutOfTime, Waiter, attempt, wanted

__all__ = ["HttpAnswer", "Upstream", "Waiter"]

_IDLE_SECONDS = 30.0  # how long a connection is kept for the next call
_IDLE_CONNECTIONS = 32
_STALE_SECONDS = 5.0  # a server that had closed a kept connection lets us know at once; later it may be at work
_SLICE = 256 * 1024  # bytes handed to the socket at a time
_WITH_HEAD = 64 * 1024  # bytes of a body that go out with the head: a small request takes one call, and one packet

_Request: TypeAlias = Iterator[bytes | memoryview]  # in parts, so that what is large is not copied


class Upstream:
    """Posts to one address, over connections that are kept for the next call."""

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float,
        silence_timeout: float = 60.0,
        ca_bundle: str | None = None,
        tls_minimum: str = "1.2",
        proxy: ForwardProxy | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: `http://` or `https://` address.
            connect_timeout: seconds for the look-up, connecting, the tunnel and the TLS handshake together.
            silence_timeout: seconds in which at least a byte must go out while sending, or come in once the answer
                has begun. How long the answer takes to begin is limited by the waiter only: the model is thinking.
            ca_bundle: a PEM file of authorities to trust besides the machine's own.
            tls_minimum: `1.2` or `1.3`.
            proxy: the way out, where there is no direct one.

        Raises:
            OSError: the CA bundle cannot be used.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._authority = parts.netloc
        self._tls = tls.client_context(ca_bundle, tls_minimum) if parts.scheme == "https" else None
        self._tls_minimum = tls_minimum
        self._proxy = proxy
        self._tunnelled = proxy is not None and self._tls is not None
        path = parts.path or "/"
        # A proxy that is asked for an http address is handed all of it, and has to be told every time who asks.
        self._target = f"http://{parts.netloc}{path}" if proxy and not self._tls else path
        self._introduction = proxy.header if proxy and not self._tls else ""
        peer = (proxy.host, proxy.port) if proxy else (self._host, self._port)
        self._resolver = Resolver(*peer, patience=connect_timeout)
        self._connect_timeout = connect_timeout
        self._silence_timeout = silence_timeout
        self._idle: list[tuple[float, _Connection]] = []
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Prepare what the settings say.

        Raises:
            SettingsError: the forward proxy that is to be used has an address that cannot be.
        """
        return cls(
            settings.redcap_api_url,
            connect_timeout=settings.connect_timeout,
            silence_timeout=settings.silence_timeout,
            ca_bundle=settings.redcap_ca_bundle,
            tls_minimum=settings.redcap_tls_minimum,
            proxy=forward_proxy.choose(
                settings.redcap_api_url,
                https_proxy=settings.https_proxy,
                http_proxy=settings.http_proxy,
                no_proxy=settings.no_proxy,
            ),
        )

    def post(
        self, content_type: str, write: Callable[[], bytes], waiter: Waiter, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Post a body and return the answer, whatever its status.

        Args:
            content_type: of the body.
            write: makes the body, and makes it again where a kept connection turns out to be closed: so it takes no
                memory while the model thinks.
            waiter: who waits.
            headers: further ones.

        Raises:
            UpstreamUnreachable: the address cannot be reached, or the connection broke.
            UpstreamMisconfigured: what is there cannot be talked to.
            UpstreamTimeout: a time limit has passed.
            ClientGone: the client has gone.
        """
        further = "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())

        def parts() -> Iterator[bytes | memoryview]:
            body = write()
            yield self._head(content_type, len(body), further) + body[:_WITH_HEAD]
            yield memoryview(body)[_WITH_HEAD:]

        answer = None
        with contextlib.suppress(_StaleConnection):
            answer = self._exchange(self._take() or self._connect(waiter), parts(), waiter)
        if answer is None:
            answer = self._exchange(self._connect(waiter), parts(), waiter)
        if answer.status == 407 and self._proxy and not self._tls:
            raise forward_proxy.refusal(self._proxy, 407, self._where)
        return answer

    def _head(self, content_type: str, length: int, further: str) -> bytes:
        return (
            f"POST {self._target} HTTP/1.1\r\nHost: {self._authority}\r\nUser-Agent: claude-proxy/{__version__}\r\n"
            f"Accept: application/json\r\nAccept-Encoding: identity\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {length}\r\n{further}{self._introduction}\r\n"
        ).encode()

    def close(self) -> None:
        """Close the connections that are kept, and keep none from now on."""
        self._closed = True
        while connection := self._take():
            connection.close()

    def _exchange(self, connection: _Connection, request: _Request, waiter: Waiter) -> HttpAnswer:
        reusable = False
        try:
            answer, reusable = connection.exchange(request, waiter, self._silence_timeout)
        except (OutOfTime, OSError, BadAnswer) as error:
            if connection.is_stale and not isinstance(error, OutOfTime):
                raise _StaleConnection from None
            raise self._explain_exchange(error, connection, waiter) from None
        finally:
            if reusable:
                self._give_back(connection)
            else:
                connection.close()
        return answer

    # --- kept connections ---------------------------------------------------------------------------------------------

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
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, connection))
            # The most recent is taken first, so those that are too old, or too many, are at the front.
            most = 0 if self._closed else _IDLE_CONNECTIONS
            surplus = max(len(self._idle) - most, sum(now - since >= _IDLE_SECONDS for since, _ in self._idle))
            dropped, self._idle[:surplus] = self._idle[:surplus], []
        for _, each in dropped:
            each.close()

    # --- connecting ---------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def _peer(self) -> str:
        """Whom a connection is made to: REDCap, or the proxy before it."""
        return str(self._proxy) if self._proxy else self._where

    @property
    def _peer_settings(self) -> str:
        return self._proxy.variable if self._proxy else "REDCAP_API_URL"

    def _connect(self, waiter: Waiter) -> _Connection:
        limit = waiter.elapsed + self._connect_timeout
        failure: Exception = OSError("no address")
        addresses = self._look_up(waiter, limit)
        for tried, address in enumerate(addresses):
            share = (limit - waiter.elapsed) / (len(addresses) - tried)  # a filtered address leaves time for the next
            try:
                return _Connection(self._open(address, waiter, waiter.elapsed + share))
            except OutOfTime as error:
                if error.whole_call:
                    raise self._explain_limit(waiter) from None
                failure = error
            except (OSError, ValueError) as error:  # ValueError: a host name that TLS refuses to ask for
                failure = error
        raise self._explain_connect(failure)

    def _look_up(self, waiter: Waiter, limit: float) -> list[Address]:
        host = self._proxy.host if self._proxy else self._host
        name = f"{host} (the proxy of {self._proxy.variable})" if self._proxy else host
        try:
            return self._resolver.addresses(waiter, until=limit)
        except (socket.gaierror, UnicodeError) as error:
            silent = getattr(error, "errno", None) == socket.EAI_AGAIN
            why = "no name server gave an answer" if silent else "there is no such name"
            raise UpstreamUnreachable(
                f"The name {name} cannot be resolved: {why}. Check {self._peer_settings}, and the network or VPN."
            ) from None
        except OutOfTime as error:
            if error.whole_call:
                raise self._explain_limit(waiter) from None
            raise UpstreamUnreachable(
                f"The name {name} could not be resolved within {self._connect_timeout:g} s. Check the network or VPN; "
                "CONNECT_TIMEOUT sets the limit."
            ) from None
        except OSError as error:
            raise self._explain_connect(error) from None

    def _open(self, address: Address, waiter: Waiter, limit: float) -> socket.socket:
        """A connection that is ready for requests; none is left over where that fails."""
        family, kind, protocol, _, place = address
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            _tune(sock)
            with contextlib.suppress(BlockingIOError):
                sock.connect(place)
            waiter.wait(sock, WRITE, until=limit)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            if self._proxy and self._tunnelled:
                self._tunnel(sock, self._proxy, waiter, limit)
            if not self._tls:
                return sock
            secured = self._tls.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
        except BaseException:
            sock.close()
            raise
        try:
            attempt(secured.do_handshake, secured, waiter, READ, until=limit)
        except BaseException:
            secured.close()
            raise
        return secured

    def _tunnel(self, sock: socket.socket, proxy: ForwardProxy, waiter: Waiter, limit: float) -> None:
        rest = forward_proxy.connect_request(proxy, self._host, self._port)
        while rest:
            rest = rest[attempt(partial(sock.send, rest), sock, waiter, WRITE, until=limit) :]
        receive = partial(sock.recv, 4096)
        inbox = Inbox(lambda: attempt(receive, sock, waiter, READ, until=limit))
        forward_proxy.read_connected(proxy, inbox, self._where)

    # --- what is said -------------------------------------------------------------------------------------------------

    def _explain_connect(self, error: Exception) -> ProxyError:
        peer = self._peer[0].upper() + self._peer[1:] if self._proxy else self._peer
        if isinstance(error, ssl.SSLError):
            return tls.explain(error, self._where, self._tls_minimum)
        if isinstance(error, OutOfTime):
            return UpstreamUnreachable(
                f"{peer} could not be reached within {self._connect_timeout:g} s. Check {self._peer_settings}, and the "
                "network or VPN; CONNECT_TIMEOUT sets the limit."
            )
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return UpstreamUnreachable(
                "This machine allows the proxy no more connections (too many open files). Raise the limit with "
                "ulimit -n, or send fewer requests at a time."
            )
        return UpstreamUnreachable(
            f"{peer} could not be reached ({_reason(error)}). Check {self._peer_settings}, and the network or VPN."
        )

    def _explain_exchange(self, error: Exception, connection: _Connection, waiter: Waiter) -> ProxyError:
        often = "Try again; if it happens often, ask whoever runs REDCap for the time limits of the gateways before it."
        match error:
            case OutOfTime(whole_call=True):
                return self._explain_limit(waiter)
            case OutOfTime():
                what = (
                    "stopped in the middle of its answer" if connection.has_answered else "takes no more of the request"
                )
                return UpstreamTimeout(
                    f"{self._host} {what}: nothing moved for {self._silence_timeout:g} s. Try again; SILENCE_TIMEOUT "
                    "sets the limit."
                )
            case BadAnswer(lasting=True):
                return UpstreamMisconfigured(
                    f"The answer of {self._where} {error.what}. Check REDCAP_API_URL: its scheme, host, port and path."
                )
            case ssl.SSLError() if tls.wants_client_certificate(error):
                return tls.explain(error, self._where, self._tls_minimum)
        if not connection.has_answered and not self._tls:
            often += " If that port speaks TLS, REDCAP_API_URL must begin with https://."
        what = error.what if isinstance(error, BadAnswer) else f"broke off ({_reason(error)})"
        return UpstreamUnreachable(f"The answer of {self._host} {what}. {often}")

    def _explain_limit(self, waiter: Waiter) -> ProxyError:
        return UpstreamTimeout(
            f"{self._host} did not answer within {waiter.elapsed:.0f} s. The model may need longer: raise "
            "UPSTREAM_TIMEOUT, or choose a faster model."
        )


class _StaleConnection(Exception):
    """A kept connection had been closed by the server before it took the request."""


class _Connection:
    """A connected socket that does not block, with the HTTP on it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._uses = 0
        self._sent_at: float | None = None
        self.has_answered = False  # whether anything has come since the request began

    @property
    def is_stale(self) -> bool:
        """Whether a failure just now means that the server had closed a kept connection: no byte of an answer came."""
        at_once = self._sent_at is None or time.monotonic() - self._sent_at < _STALE_SECONDS
        return self._uses > 1 and not self.has_answered and at_once

    def is_open(self) -> bool:
        """Whether the other side has neither closed nor sent anything while the connection was idle."""
        try:
            self._sock.recv(1)
        except NOT_READY:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self._sock.close()

    def exchange(self, request: _Request, waiter: Waiter, silence: float) -> tuple[HttpAnswer, bool]:
        """Send a request and read the response: the answer, and whether the connection can be used again.

        Raises:
            OutOfTime, ClientGone: as the waiter finds; a silence counts as out of time.
            OSError: the connection broke.
            BadAnswer: what came is no answer.
        """
        self._uses += 1
        self.has_answered, self._sent_at = False, None
        inbox = Inbox(lambda: self._receive(inbox, waiter, silence))
        whole = all(self._send(part, inbox, waiter, silence) for part in request)
        self._sent_at = time.monotonic()
        answer, reusable = read_answer(inbox)
        return answer, reusable and whole

    def _send(self, part: bytes | memoryview, inbox: Inbox, waiter: Waiter, silence: float) -> bool:
        """Send a part of the request. False: an answer came before it was all gone, so nobody wants the rest.

        A server that finds a request too large says so, reads no further, and closes. Whoever goes on sending never
        reads it.
        """
        rest = memoryview(part)
        while rest:
            waiter.attend()
            try:
                rest = rest[self._sock.send(rest[:_SLICE]) :]
            except NOT_READY as reason:
                event = wanted(reason, WRITE)
                waiter.wait(self._sock, event | READ, until=waiter.elapsed + silence)
                if self._heard(inbox):
                    return False
            except OSError:
                if self._heard(inbox):
                    return False
                raise
        return True

    def _heard(self, inbox: Inbox) -> bool:
        """Whether an answer has begun, or none will ever come; without waiting."""
        try:
            data = self._sock.recv(65536)
            self.has_answered = self.has_answered or bool(data)
            inbox.put(data)
        except OSError as error:  # sending will say what is wrong, unless a server tells of it in TLS
            if isinstance(error, ssl.SSLError) and tls.wants_client_certificate(error):
                raise
        return inbox.starts_an_answer or inbox.ended or len(inbox) > MAX_HEAD

    def _receive(self, inbox: Inbox, waiter: Waiter, silence: float) -> bytes:
        until = waiter.elapsed + silence if inbox.starts_an_answer else math.inf  # before that the model is thinking
        if not isinstance(self._sock, ssl.SSLSocket):  # which may hold what has come already
            waiter.wait(self._sock, READ, until=until)
        data = attempt(partial(self._sock.recv, 65536), self._sock, waiter, READ, until=until)
        self.has_answered = self.has_answered or bool(data)
        return data


def _tune(sock: socket.socket) -> None:
    """No delay for small packets, and probes while nothing else moves.

    So gateways on the way do not forget a connection that is silent while the model thinks, and a server that has
    vanished is noticed within about a minute.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}.items():
        if number := getattr(socket, option, None):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, number, value)


def _reason(error: Exception) -> str:
    """A few words on a failure that hold nothing of what was sent or received."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno:
        return (error.strerror or type(error).__name__).lower()
    return "no address" if isinstance(error, OSError) else "the host name cannot be used"
