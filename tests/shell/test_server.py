"""The server by itself, before applications made for the test: limits, framing, and nothing held back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest
from conftest import PATIENCE, Response, Wire, running

from claude_proxy.core.response import error_json, to_bytes
from claude_proxy.errors import ClientGone, ProxyError
from claude_proxy.shell.server import (
    MAX_BODY,
    HttpRequest,
    ProxyServer,
    ResponseWriter,
    UnbufferedHTTPRequestHandler,
)

Answer: TypeAlias = Callable[[HttpRequest, ResponseWriter], None]


class Application:
    """An application that answers as the test wants, and keeps what it was told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []
        self.refusals: list[ProxyError] = []
        self.reports: list[BaseException] = []

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        self.requests.append(request)
        self.answer(request, response)

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        self.refusals.append(error)
        headers = {"content-type": "application/json", "request-id": "req_1"}
        response.respond(error.status, headers, to_bytes(error_json(error, "req_1")))

    def report(self, failure: BaseException) -> None:
        self.reports.append(failure)


class Site:
    """A server with its application."""

    def __init__(self, server: ProxyServer, application: Application) -> None:
        self.server = server
        self.application = application

    def connect(self) -> Wire:
        return Wire(self.server.server_port)

    def exchange(self, data: bytes) -> Response:
        """Send bytes on a connection of their own, read a response, and see the connection close."""
        with self.connect() as wire:
            wire.send(data)
            response = wire.read_response()
            assert wire.read_to_end() == b""
        return response


def echo(request: HttpRequest, response: ResponseWriter) -> None:
    response.respond(200, {"content-type": "text/plain"}, request.body or b"hello")


def stream_three(_: HttpRequest, response: ResponseWriter) -> None:
    response.start_stream({"content-type": "text/event-stream"})
    for event in (b"one", b"two\r\n", b"three"):
        response.send(event)
    response.end_stream()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Site]]:
    with ExitStack() as stack:

        def start(answer: Answer) -> Site:
            application = Application(answer)
            return Site(stack.enter_context(running(ProxyServer("127.0.0.1", 0, application))), application)

        yield start


Serve: TypeAlias = Callable[[Answer], Site]


# --- Nothing is held back ---------------------------------------------------------------------------------------------


def test_the_handler_has_no_write_buffer() -> None:
    assert UnbufferedHTTPRequestHandler.wbufsize == 0


def test_the_socket_sends_at_once(serve: Serve) -> None:
    options: dict[str, int] = {}

    def look(request: HttpRequest, response: ResponseWriter) -> None:
        assert request.connection
        for name in {"TCP_NODELAY", "TCP_CORK"} & set(dir(socket)):
            options[name] = request.connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
        response.respond(200, {}, b"")

    with serve(look).connect() as wire:
        wire.ask("GET", "/")
        wire.read_response()
    assert options.pop("TCP_NODELAY")
    assert options.get("TCP_CORK", 0) == 0


def test_an_event_arrives_as_one_chunk_before_the_next_is_made(serve: Serve) -> None:
    taken = [threading.Event() for _ in range(3)]

    def one_by_one(_: HttpRequest, response: ResponseWriter) -> None:
        response.start_stream({})
        assert taken[0].wait(PATIENCE), "the head did not arrive by itself"
        response.send(b"event: one\n\n")
        assert taken[1].wait(PATIENCE), "the first event did not arrive by itself"
        response.send(b"event: two\n\n" * 10_000)
        assert taken[2].wait(PATIENCE), "the second event did not arrive by itself"
        response.end_stream()

    site = serve(one_by_one)
    with site.connect() as wire:
        wire.ask("POST", "/")
        assert wire.read_head().headers["transfer-encoding"] == "chunked"
        taken[0].set()
        assert wire.read_chunk() == b"event: one\n\n"
        taken[1].set()
        assert wire.read_chunk() == b"event: two\n\n" * 10_000
        taken[2].set()
        assert wire.read_chunk() == b""
    assert not site.application.reports


def test_chunks_on_the_wire(serve: Serve) -> None:
    with serve(stream_three).connect() as wire:
        wire.ask("POST", "/")
        head = wire.read_head()
        assert head.status == 200
        assert "content-length" not in head.headers
        assert "connection" not in head.headers
        body = b"3\r\none\r\n5\r\ntwo\r\n\r\n5\r\nthree\r\n0\r\n\r\n"
        assert wire.read_bytes(len(body)) == body


# --- Connections ------------------------------------------------------------------------------------------------------


def test_a_connection_serves_many_requests(serve: Serve) -> None:
    site = serve(lambda request, response: (stream_three if request.path == "/stream" else echo)(request, response))
    with site.connect() as wire:
        for body in (b"first", b"second" * 100_000):
            wire.ask("POST", "/", body)
            assert wire.read_response().body == body
            wire.ask("POST", "/stream")
            assert wire.read_response().body == b"onetwo\r\nthree"


def test_requests_that_come_before_the_last_response_are_served_in_turn(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        wire.send(b"POST /1 HTTP/1.1\r\nContent-Length: 1\r\n\r\naPOST /2 HTTP/1.1\r\nContent-Length: 1\r\n\r\nb")
        assert [wire.read_response().body for _ in range(2)] == [b"a", b"b"]


def test_http_1_0_gets_no_chunks_and_its_stream_ends_with_the_connection(serve: Serve) -> None:
    with serve(stream_three).connect() as wire:
        wire.ask("POST", "/", version="HTTP/1.0")
        head = wire.read_head()
        assert "transfer-encoding" not in head.headers
        assert head.headers["connection"] == "close"
        assert wire.read_to_end() == b"onetwo\r\nthree"
    with serve(echo).connect() as wire:
        wire.ask("GET", "/", version="HTTP/1.0")
        assert wire.read_response().body == b"hello"
        assert wire.read_to_end() == b""


def test_a_client_that_asks_for_it_is_hung_up_on(serve: Serve) -> None:
    response = serve(echo).exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert response.headers["connection"] == "close"


def test_head_gets_the_head_only(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        wire.ask("HEAD", "/")
        assert wire.read_response(to="HEAD").headers["content-length"] == "5"
        wire.ask("GET", "/")
        assert wire.read_response().body == b"hello"


def test_the_request_as_the_application_sees_it(serve: Serve) -> None:
    site = serve(echo)
    with site.connect() as wire:
        wire.send(b"PUT /a%20b?beta=true&x HTTP/1.1\r\nX-Odd:  Yes\r\nx-odd: no\r\nContent-Length: 3\r\n\r\n\0\xff\n")
        assert wire.read_response().body == b"\0\xff\n"
    request = site.application.requests[0]
    assert (request.method, request.path, request.headers["x-odd"]) == ("PUT", "/a%20b", "Yes")


def test_expect_100_continue(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        wire.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert wire.read_head().status == 100
        wire.send(b"ok")
        assert wire.read_response().body == b"ok"


def test_many_connections_at_once(serve: Serve) -> None:
    """Claude Code opens some 25 at a time: each must be accepted, none may wait for another."""
    together = threading.Barrier(40)

    def wait_for_all(request: HttpRequest, response: ResponseWriter) -> None:
        together.wait(PATIENCE)
        echo(request, response)

    site = serve(wait_for_all)
    with ExitStack() as stack:
        wires = [stack.enter_context(site.connect()) for _ in range(40)]
        for wire in wires:
            wire.ask("GET", "/")
        assert [wire.read_response().status for wire in wires] == [200] * 40


def test_a_client_that_goes_away_ends_its_stream_and_nothing_else(serve: Serve) -> None:
    noticed = threading.Event()

    def for_ever(_: HttpRequest, response: ResponseWriter) -> None:
        response.start_stream({})
        try:
            while True:
                response.send(b"x" * 65536)
        except ClientGone:
            noticed.set()
            raise

    site = serve(for_ever)
    wire = site.connect()
    wire.ask("GET", "/")
    wire.read_head()
    wire.read_chunk()
    wire.reset()
    assert noticed.wait(PATIENCE)
    site.application.answer = echo
    assert site.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").body == b"hello"
    assert not site.application.reports


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
def test_the_url_leads_to_the_server(host: str) -> None:
    try:
        server = ProxyServer(host, 0, Application(echo))
    except OSError as error:
        assert host == "::1"
        pytest.skip(f"no IPv6 here: {error}")
    with running(server):
        name, port = server.url.removeprefix("http://").rsplit(":", 1)
        socket.create_connection((name.strip("[]"), int(port)), PATIENCE).close()


# --- Limits and refusals ----------------------------------------------------------------------------------------------

# What is no request, and the status and words of the refusal.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "Content-Length is no number": (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400, "Content-Length"),
    "Content-Length is negative": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "Content-Length"),
    "Content-Length is a digit of Unicode": ("POST / HTTP/1.1\r\nContent-Length: ²\r\n\r\n".encode(), 400, "Length"),
    "the body is too large": (f"POST / HTTP/1.1\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode(), 413, "32 MB"),
    "the body is absurd": (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, "32 MB"),
    "the body is chunked": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Content-Length"),
    "the request line has four words": (b"GET / of HTTP/1.1\r\n\r\n", 400, "well-formed"),
    "a header line is too long": (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 400, "well-formed"),
    "there are too many headers": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n", 400, "well-formed"),
    "the target is too long": (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n", 400, "well-formed"),
}
# `http.server` takes these for HTTP/0.9, which has no head.
TAKEN_FOR_0_9: dict[str, bytes] = {
    "one word": b"nonsense\r\n\r\n",
    "no version": b"POST /\r\n\r\n",
    "a version that is none": b"GET / HTTP/x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_request_is_refused_in_the_envelope(serve: Serve, fault: str) -> None:
    data, status, words = REFUSED[fault]
    site = serve(echo)
    response = site.exchange(data)
    assert response.error[0] == status
    assert words in response.error[2]
    assert response.headers["connection"] == "close"
    assert not site.application.requests


@pytest.mark.parametrize("fault", TAKEN_FOR_0_9)
def test_a_malformed_request_line_is_refused_in_the_envelope(serve: Serve, fault: str) -> None:
    response = serve(echo).exchange(TAKEN_FOR_0_9[fault])
    assert response.error[:2] == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nContent-Length: patient-7\r\n\r\n",
        b"GET /patient-7 patient-7 HTTP/1.1\r\n\r\n",
        b"patient-7\r\n\r\n",
    ],
)
def test_a_refusal_does_not_quote_the_client(serve: Serve, data: bytes) -> None:
    assert b"patient-7" not in serve(echo).exchange(data).body


def test_a_body_that_is_cut_short_is_refused(serve: Serve) -> None:
    site = serve(echo)
    with site.connect() as wire:
        wire.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        wire.socket.shutdown(socket.SHUT_WR)
        assert "shorter" in wire.read_response().error[2]
    assert not site.application.requests


def test_a_body_of_just_32_mb_is_taken(serve: Serve) -> None:
    sizes: list[int] = []

    def measure(request: HttpRequest, response: ResponseWriter) -> None:
        sizes.append(len(request.body))
        response.respond(200, {}, b"")

    with serve(measure).connect() as wire:
        wire.ask("POST", "/", bytes(MAX_BODY))
        assert wire.read_response().status == 200
    assert sizes == [MAX_BODY]


def test_who_sends_everything_before_reading_gets_the_413(serve: Serve) -> None:
    """A server that closes with unread bytes before it resets the connection, and takes its own response back."""
    with serve(echo).connect() as wire:
        wire.ask("POST", "/", bytes(MAX_BODY + 1))
        assert wire.read_response().error[:2] == (413, "request_too_large")
        assert wire.read_to_end() == b""


def test_who_sends_a_chunked_body_before_reading_gets_the_refusal(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        wire.send(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n800000\r\n" + bytes(0x800000) + b"\r\n0\r\n\r\n"
        )
        assert wire.read_response().error[0] == 400


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_every_method_reaches_the_application(serve: Serve, method: str) -> None:
    site = serve(echo)
    with site.connect() as wire:
        wire.ask(method, "/")
        assert wire.read_response().status == 200
    assert site.application.requests[0].method == method


def test_every_response_names_the_server_and_the_date_once(serve: Serve) -> None:
    response = serve(echo).exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert response.headers["server"].startswith("claude-proxy/")
    assert response.headers["date"].endswith("GMT")


def test_a_failure_that_nobody_caught_is_reported_and_the_server_lives(serve: Serve) -> None:
    def fail(_: HttpRequest, __: ResponseWriter) -> None:
        raise ValueError

    site = serve(fail)
    with site.connect() as wire:
        wire.ask("GET", "/")
        assert wire.read_to_end() == b""
    assert [type(failure) for failure in site.application.reports] == [ValueError]
    site.application.answer = echo
    assert site.exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").status == 200
