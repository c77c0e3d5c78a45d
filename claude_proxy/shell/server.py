"""HTTP/1.1 on `http.server`: reads a request within limits, hands it to the application, writes without a buffer.

Knows nothing of what is asked; `Application` is all it talks to. Nothing is held back on the way out: no write buffer,
a flush after every event, TCP_NODELAY on and TCP_CORK off.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from claude_proxy import __version__
from claude_proxy.errors import ClientGone, InvalidRequest, ProxyError, RequestTooLarge

MAX_BODY = 32 * 1024 * 1024  # bytes, as the real API
_DRAIN_SECONDS = 5.0
_DRAIN_BYTES = 8 * MAX_BODY


@dataclass(frozen=True)
class HttpRequest:
    """A request that was read whole.

    Attributes:
        method: as sent, upper case.
        path: the target without its query.
        headers: names in lower case; of a repeated one the first.
        body: as sent.
        connection: the client's socket, to see whether it is still there.
        query: the target's query, without the question mark.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    connection: socket.socket | None = None
    query: str = ""


class ResponseWriter(Protocol):
    """Where an application writes its response: one body, or a stream."""

    @property
    def started(self) -> bool:
        """Whether the head has been sent."""

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""

    def start_stream(self, headers: Mapping[str, str]) -> None:
        """Send the head of a 200 response that streams."""

    def send(self, event: bytes) -> None:
        """Send one event of the stream, at once."""

    def end_stream(self) -> None:
        """End the stream, and with it the response."""


class Application(Protocol):
    """What the server serves."""

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        """Answer a request; never raises anything but `ClientGone`."""

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        """Answer what could not be read as a request."""

    def report(self, failure: BaseException) -> None:
        """Take note of a failure that nobody caught."""


class UnbufferedHTTPRequestHandler(BaseHTTPRequestHandler):
    """One connection. What is written is on the wire when the call returns."""

    server: ProxyServer
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    timeout = 120.0  # seconds for a read or write on the client's side to make progress
    disable_nagle_algorithm = True  # sets TCP_NODELAY

    def setup(self) -> None:
        """Prepare the socket."""
        super().setup()
        if cork := getattr(socket, "TCP_CORK", None):
            self.connection.setsockopt(socket.IPPROTO_TCP, cork, 0)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self.started = False
        try:
            if self.request_version == "HTTP/0.9":
                raise InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0.")
            body = self._read_body()
        except ProxyError as error:
            self._refuse(error)
            return
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), value)
        path, _, query = self.path.partition("?")
        request = HttpRequest(self.command, path, headers, body, self.connection, query)
        try:
            self.server.application(request, self)
        except ClientGone:
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        """Take every method: which of them a path allows, the application knows."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _read_body(self) -> bytes:
        if self.headers.defects or self.headers.get_payload():
            raise InvalidRequest("A line of the request's head is no header.")
        if "transfer-encoding" in self.headers:
            raise InvalidRequest("This server takes request bodies with a Content-Length only, not chunked ones.")
        lengths = {length.strip() for length in self.headers.get_all("content-length", [])}
        length = lengths.pop() if len(lengths) == 1 else "" if lengths else "0"
        if not length.isascii() or not length.isdigit():
            raise InvalidRequest("The Content-Length header is not one number.")
        if len(length) > 12 or int(length) > MAX_BODY:
            raise RequestTooLarge(
                f"The request body is larger than {MAX_BODY // 1024**2} MB. Compact the conversation, or leave out "
                "large attachments."
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise InvalidRequest("The request body is shorter than its Content-Length says.")
        return body

    def _refuse(self, error: ProxyError) -> None:
        """Answer a request that was not read to its end."""
        self.close_connection = True
        self.request_version = "HTTP/1.1"  # for HTTP/0.9 `http.server` leaves the status line and the headers out
        with contextlib.suppress(ClientGone):
            self.server.application.refuse(error, self)
        self._drain()

    def _drain(self) -> None:
        """Read what the client still sends: closing at once would reset the connection and lose the response."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_DRAIN_SECONDS)
            left, deadline = _DRAIN_BYTES, time.monotonic() + 4 * _DRAIN_SECONDS
            while left > 0 and time.monotonic() < deadline and (data := self.connection.recv(65536)):
                left -= len(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what `http.server` could not parse, in the form of every other error."""
        del message, explain  # they quote the client
        self.started = False
        self.command = self.command or "-"
        phrase = HTTPStatus(code).phrase.lower()
        self._refuse(InvalidRequest(f"This is not a well-formed HTTP request: {phrase}."))

    # --- responses ----------------------------------------------------------------------------------------------------

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        self._send_head(status, {**headers, "content-length": str(len(body))})
        if self.command != "HEAD":
            self._write(body)

    def start_stream(self, headers: Mapping[str, str]) -> None:
        """Send the head of a stream: chunked, or for HTTP/1.0 one that ends with the connection."""
        self._chunked = self.request_version != "HTTP/1.0"
        self.close_connection = self.close_connection or not self._chunked
        framing = {"transfer-encoding": "chunked"} if self._chunked else {}
        self._send_head(200, {**headers, **framing})

    def send(self, event: bytes) -> None:
        """Send one event as one chunk."""
        self._write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)

    def end_stream(self) -> None:
        """Send the last chunk."""
        if self._chunked:
            self._write(b"0\r\n\r\n")

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("connection", "close")
        try:
            self.end_headers()
        except OSError as error:
            raise ClientGone from error

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError as error:
            raise ClientGone from error

    # --- what http.server would say by itself -------------------------------------------------------------------------

    def version_string(self) -> str:
        """The `Server` header."""
        return f"claude-proxy/{__version__}"

    def log_message(self, *_: Any) -> None:
        """Say nothing: the journal does."""


class ProxyServer(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int, application: Application) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        self.application = application
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__((str(address[0]), int(address[1])), UnbufferedHTTPRequestHandler)

    def server_bind(self) -> None:
        """Bind, without the look-up of the machine's own name that `HTTPServer` makes: it can take seconds."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    @property
    def url(self) -> str:
        """The address to give to clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_name, self.server_name)  # noqa: S104
        return f"http://[{host}]:{self.server_port}" if ":" in host else f"http://{host}:{self.server_port}"

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Report a failure that nobody caught; a broken connection is none."""
        failure = sys.exception()
        if failure and not isinstance(failure, OSError | ClientGone):
            self.application.report(failure)
