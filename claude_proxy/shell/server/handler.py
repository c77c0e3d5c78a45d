"""HTTP/1.1 on `http.server`: reads a request within limits, hands it to the application, writes without a buffer.

Knows nothing of what is asked; `Application` is all it talks to. Nothing is held back on the way out: no write buffer,
a flush after every event, TCP_NODELAY on and TCP_CORK off.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, NoReturn, Protocol, cast

from claude_proxy import __version__
from claude_proxy.core.http1.request import RequestHead, check_length, read_body, read_head
from claude_proxy.errors import ClientGone, ProxyError, ProxyOverloaded, ShuttingDown
from claude_proxy.settings.table import Settings
from claude_proxy.shell.server.connections import Budget, Connections, ConnectionState, Parting
from claude_proxy.shell.server.incoming import Incoming, discard_what_came
from claude_proxy.shell.server.listening import open_listeners
from claude_proxy.shell.server.outgoing import Outgoing

_BODY_RATE = 32 * 1024  # bytes that give a client a second more
_DRAIN_SECONDS, _DRAIN_RATE = 5.0, 1024**2
_DRAIN_BYTES = 256 * 1024 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SELECTOR = getattr(selectors, "PollSelector", selectors.SelectSelector)  # which Windows has alone
_BREATH = 0.1  # seconds before the next try when the system has no room for a connection
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request", 529: "Overloaded"}


@dataclass
class HttpRequest:
    """A request that was read whole.

    Attributes:
        method: as sent; methods are case-sensitive.
        path: the target without its query.
        headers: names in lower case; of a repeated one the first.
        body: unpacked; whoever has read it may empty it, so that it takes no memory meanwhile.
        connection: the client's socket, to see whether it is still there.
        query: the target's query, without the question mark.
        raise_if_stopped: to be called every second or so of waiting; raises `ShuttingDown` when time has run out.
        is_stopping: whether the proxy is being stopped; what would never end by itself ends now.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    connection: socket.socket | None = None
    query: str = ""
    raise_if_stopped: Callable[[], None] = lambda: None
    is_stopping: Callable[[], bool] = lambda: False

    @property
    def peer(self) -> str:
        """The client's IP address; "" where it has none."""
        try:
            name = self.connection.getpeername() if self.connection else ""
        except OSError:  # it has gone
            return ""
        return str(name[0]) if isinstance(name, tuple) else ""


class ResponseWriter(Protocol):
    """Where an application writes its response: one body, or a stream."""

    started: bool
    """Whether the head has been sent."""

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""

    def start_stream(self, headers: Mapping[str, str], event: bytes = b"") -> None:
        """Send the head of a 200 response that streams, and its first event if there is one already."""

    def send(self, event: bytes) -> None:
        """Send one event of the stream, at once."""

    def end_stream(self, event: bytes = b"") -> None:
        """Send the last event, if one is left, and end the stream."""


class Application(Protocol):
    """What the server serves."""

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        """Answer a request; never raises anything but `ClientGone`."""

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        """Answer what could not be read as a request."""

    def adopt(self, settings: Settings) -> None:
        """Use new settings from the next request on; if they cannot be used, raise and change nothing."""

    def tend(self) -> None:
        """Do what is due; called about twice a second."""

    def report(self, failure: BaseException) -> None:
        """Take note of a failure that nobody caught."""


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of a response, with what every one of ours has."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", f"server: claude-proxy/{__version__}"]
    lines.append(f"date: {_date(int(time.time()))}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    written = "".join(lines)
    if "\r" in written or "\n" in written:
        raise ValueError("a header of a response holds an end of line")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")


@lru_cache(maxsize=1)  # all responses of a second have the same
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class UnbufferedHTTPRequestHandler(BaseHTTPRequestHandler):
    """One connection. What is written is on the wire when the call returns."""

    server: ProxyServer
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    rbufsize = 0  # `Incoming` is the buffer
    disable_nagle_algorithm = True  # sets TCP_NODELAY

    def setup(self) -> None:
        """Prepare the socket."""
        super().setup()
        if cork := getattr(socket, "TCP_CORK", None):
            self.connection.setsockopt(socket.IPPROTO_TCP, cork, 0)
        self.connection.setblocking(False)
        self._incoming = Incoming(self.connection)
        self.wfile = Outgoing(self.connection, self.server.limits.write_seconds)
        self._head: RequestHead | None = None
        self.started = False

    # --- requests -----------------------------------------------------------------------------------------------------

    def handle_one_request(self) -> None:
        """Wait for a request, read it and have it answered; `close_connection` says whether it was the last."""
        self.close_connection = True
        self._head, self.started = None, False
        connections, settings = self.server.connections, self.server.settings
        if not connections.set_state(self.connection, ConnectionState.IDLE):
            return
        if not self._incoming.await_request(settings.idle_timeout):
            return
        if connections.set_state(self.connection, ConnectionState.READING):
            self._serve_request()

    def _serve_request(self) -> None:
        connections = self.server.connections
        with self.server.bodies.share() as taken:
            try:
                request = self._read(taken)
            except ProxyError as error:
                self._refuse(ShuttingDown() if connections.out_of_time else error)
                return
            except ClientGone:
                return
            self._answer(request)

    def _read(self, taken: Callable[[int], None]) -> HttpRequest:
        settings = self.server.settings
        self._incoming.allow(settings.head_timeout)
        head = read_head(self._incoming, max_bytes=settings.max_head_kb * 1024, max_headers=settings.max_headers)
        self._head = head
        max_body = settings.max_body_mb * 1024**2
        check_length(head.length or 0, max_body)
        if head.expects_continue:
            self._write(_CONTINUE)
        self._incoming.allow(settings.body_timeout, _BODY_RATE)
        body = read_body(self._incoming, head, max_bytes=max_body, taken=taken)
        connections = self.server.connections
        connections.set_state(self.connection, ConnectionState.ANSWERING)
        stop = connections.raise_if_stopped
        stop()
        return HttpRequest(
            head.method, head.path, head.headers, body, self.connection, head.query, stop, lambda: connections.stopping
        )

    def _answer(self, request: HttpRequest) -> None:
        self.close_connection = self._head is None or not self._head.keeps_alive or self.server.connections.stopping
        try:
            self.server.application(request, self)
        except ClientGone:
            self.close_connection = True

    def _refuse(self, error: ProxyError) -> None:
        """Answer a request that was not read to its end."""
        with contextlib.suppress(ClientGone):
            self.server.application.refuse(error, self)
        # What the client still sends is read: closing at once would reset the connection and lose the response.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        self._incoming.allow(_DRAIN_SECONDS, _DRAIN_RATE)
        self._incoming.discard(_DRAIN_BYTES)

    # --- responses ----------------------------------------------------------------------------------------------------

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        head = self._begin(status, {**headers, "content-length": str(len(body))})
        self._write(head if self._head and self._head.method == "HEAD" else head + body)

    def start_stream(self, headers: Mapping[str, str], event: bytes = b"") -> None:
        """Send the head of a stream: chunked, or for HTTP/1.0 one that ends with the connection."""
        self._chunked = self._head is not None and self._head.minor_version > 0
        self.close_connection = self.close_connection or not self._chunked
        framing = {"transfer-encoding": "chunked"} if self._chunked else {}
        self._write(self._begin(200, {**headers, **framing}) + self._chunk(event))

    def send(self, event: bytes) -> None:
        """Send one event as one chunk."""
        self._write(self._chunk(event))

    def end_stream(self, event: bytes = b"") -> None:
        """Send the last event, and the chunk that says that it is the last."""
        self._write(self._chunk(event) + (b"0\r\n\r\n" if self._chunked else b""))

    def _chunk(self, event: bytes) -> bytes:
        """An event as it goes over the wire; an empty chunk would end the stream."""
        return b"%x\r\n%b\r\n" % (len(event), event) if self._chunked and event else event

    def _begin(self, status: int, headers: Mapping[str, str]) -> bytes:
        """The head of the response, which begins with it."""
        self.close_connection = self.close_connection or self.server.connections.stopping
        is_old = self._head is not None and self._head.minor_version == 0
        connection = "close" if self.close_connection else "keep-alive" if is_old else ""
        head = response_head(status, {**headers, "connection": connection} if connection else headers)
        self.started = True
        return head

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError as error:
            self.close_connection = True
            raise ClientGone from error

    def finish(self) -> None:
        """Close; what has come already is read before, so that the last response is not lost to a reset."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        discard_what_came(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        """Say nothing: the journal does."""


class _LastWord:
    """Takes down the one response to a connection that is not let in."""

    started = False

    def __init__(self) -> None:
        self.data = b""

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        framing = {"content-length": str(len(body)), "connection": "close"}
        self.data = response_head(status, {**headers, **framing}) + body

    def _never(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("a refusal is never streamed")

    start_stream = send = end_stream = _never


def _bytes_of_bodies(settings: Settings) -> int:
    return max(settings.max_bodies_mb, settings.max_body_mb) * 1024**2


class ServerLimits(NamedTuple):
    """Limits that no setting changes.

    Attributes:
        write_seconds: for one write to a client.
        farewell_seconds: for the last words when the server stops and the time of grace is over.
        most_parting: connections that were turned away and are still reading why.
    """

    write_seconds: float = 120.0
    farewell_seconds: float = 5.0
    most_parting: int = 256


USUAL_LIMITS = ServerLimits()


class ProxyServer(ThreadingHTTPServer):
    """A thread for each connection, and no more of them than there may be."""

    daemon_threads = True

    def __init__(self, settings: Settings, application: Application, limits: ServerLimits = USUAL_LIMITS) -> None:
        """Listen; raises `OSError` if the address cannot be listened on."""
        self.application = application
        self.settings = settings
        self.limits = limits
        self.connections = Connections(settings.max_connections, limits.farewell_seconds)
        self.bodies = Budget(_bytes_of_bodies(settings))
        self._parting = Parting(limits.most_parting)
        self._listeners = open_listeners(settings.listen_host, settings.listen_port)
        self._ending, self._ended = threading.Event(), threading.Event()
        super().__init__(self._listeners[0].getsockname(), UnbufferedHTTPRequestHandler, bind_and_activate=False)
        self.socket.close()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def adopt(self, settings: Settings) -> None:
        """Use new settings from the next request on; where to listen and MAX_CONNECTIONS stay as they are.

        Raises:
            SettingsError, OSError: they cannot be used; then nothing has changed.
        """
        self.application.adopt(settings)
        self.settings = settings
        self.bodies.most = _bytes_of_bodies(settings)

    @property
    def url(self) -> str:
        """The address to give to clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_name, self.server_name)  # noqa: S104
        return f"http://[{host}]:{self.server_port}" if ":" in host else f"http://{host}:{self.server_port}"

    def stop(self, grace: float) -> int:
        """Stop listening, and end all connections as `Connections.stop` does; not for the thread that serves."""
        self.shutdown()
        self.server_close()
        return self.connections.stop(grace)

    # --- the accepting thread: it must never wait for a client --------------------------------------------------------

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept at all addresses until `shutdown`; the base class has one socket only."""
        with _SELECTOR() as selector:
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while not self._ending.is_set():
                for key, _ in selector.select(poll_interval):
                    self.socket = cast("socket.socket", key.fileobj)  # from which `get_request` accepts
                    self._handle_request_noblock()  # type: ignore[attr-defined]
                self.service_actions()
        self._ended.set()

    def shutdown(self) -> None:
        """Have `serve_forever` end, and wait until it has."""
        self._ending.set()
        self._ended.wait()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_FILES:  # it stays in the queue, and without a pause the loop would spin
                self.connections.make_room()
                time.sleep(_BREATH)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or turn it away."""
        if not self.connections.let_in(request):
            limit = self.settings.max_connections
            self._turn_away(
                request, f"The proxy has its {limit} connections (MAX_CONNECTIONS) open. Try again in a few seconds."
            )
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self.connections.leave(request)
            self._turn_away(request, "The system gives the proxy no further thread. Try again in a few seconds.")

    def _turn_away(self, connection: socket.socket, message: str) -> None:
        last_word = _LastWord()
        self.application.refuse(ProxyOverloaded(message), last_word)
        self._parting.add(connection, last_word.data)

    def service_actions(self) -> None:
        """Do what is due; called about twice a second, and after every connection."""
        self._parting.work()
        self.application.tend()

    def server_close(self) -> None:
        """Stop listening."""
        super().server_close()
        for listener in self._listeners:
            listener.close()
        self._parting.close()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection whose thread ends."""
        super().shutdown_request(request)
        self.connections.leave(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Report a failure that nobody caught, unless it is a broken connection."""
        failure = sys.exception()
        if failure and not isinstance(failure, OSError | ClientGone):
            self.application.report(failure)
