"""The server by itself, before applications made for the test: limits, framing, and nothing held back."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest
from conftest import NEEDS_IPV6, PATIENCE, Gate, Proxy, Redcap, StartProxy, eventually, message_request, running
from sites import Answer, Site, echo, listening, stream_three

from claude_proxy.errors import ClientGone
from claude_proxy.shell.server.handler import HttpRequest, ResponseWriter, UnbufferedHTTPRequestHandler
from claude_proxy.shell.server.listening import open_listeners

Serve: TypeAlias = Callable[[Answer], Site]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda answer: Site(stack.enter_context(running(listening(answer))))


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
        head = b"POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: 1\r\n\r\n"
        wire.send(head + b"a" + head + b"b")
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


def test_http_1_0_keeps_the_connection_only_on_request(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        for _ in range(2):
            wire.ask("GET", "/", headers={"connection": "Keep-Alive"}, version="HTTP/1.0")
            assert wire.read_response().headers["connection"] == "keep-alive"
        wire.ask("GET", "/", version="HTTP/1.0")
        assert wire.read_response().headers["connection"] == "close"
        assert wire.read_to_end() == b""


def test_a_later_1_x_is_taken_for_1_1(serve: Serve) -> None:
    with serve(stream_three).connect() as wire:
        wire.ask("GET", "/", version="HTTP/1.9")
        assert wire.read_response().headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("options", ["close", "Close", "te, close", "keep-alive, close"])
def test_close_may_stand_anywhere_in_the_connection_header(serve: Serve, options: str) -> None:
    assert serve(echo).exchange(
        b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: %b\r\n\r\n" % options.encode()
    ).headers["connection"] == "close"  # fmt: skip


def test_a_client_that_asks_for_it_is_hung_up_on(serve: Serve) -> None:
    response = serve(echo).exchange(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
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
        wire.send(b"PUT /a%20b?beta=true&x HTTP/1.1\r\nHost: proxy\r\nX-Odd:  Yes\r\nx-odd: no\r\n")
        wire.send(b"Content-Length: 3\r\n\r\n\0\xff\n")
        assert wire.read_response().body == b"\0\xff\n"
    request = site.application.requests[0]
    assert (request.method, request.path, request.headers["x-odd"]) == ("PUT", "/a%20b", "Yes")


def test_expect_100_continue(serve: Serve) -> None:
    with serve(echo).connect() as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: proxy\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
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
    assert site.exchange(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").body == b"hello"
    assert not site.application.reports


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
def test_the_url_leads_to_the_server(host: str) -> None:
    try:
        server = listening(echo, listen_host=host)
    except OSError as error:
        assert host == "::1"
        pytest.skip(f"no IPv6 here: {error}")
    with running(server):
        name, port = server.url.removeprefix("http://").rsplit(":", 1)
        socket.create_connection((name.strip("[]"), int(port)), PATIENCE).close()


@pytest.mark.parametrize("taken", ["127.0.0.1", pytest.param("::1", marks=NEEDS_IPV6)])
def test_nobody_else_can_be_taken_for_localhost(taken: str) -> None:
    """Whoever holds one of the two addresses would be sent tokens and prompts by clients that try that one first."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as other, pytest.raises(OSError, match="in use"):
        listening(echo, listen_host="localhost", listen_port=other.getsockname()[1])


@NEEDS_IPV6
def test_localhost_is_both_addresses_until_the_end() -> None:
    with running(listening(echo, listen_host="localhost")) as server:
        places = [(host, server.server_port) for host in ("127.0.0.1", "::1")]
        for place in places:
            with socket.create_connection(place, PATIENCE) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
                assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        assert server.url == f"http://127.0.0.1:{server.server_port}"
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, PATIENCE)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_localhost_is_the_other_one(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class NoIpv6(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, "no IPv6")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", NoIpv6)
    (listener,) = open_listeners("localhost", 0)
    assert listener.getsockname()[0] == "127.0.0.1"
    listener.close()


def test_any_free_port_is_one_that_is_free_at_both_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([True, True, False])

    class Busy(socket.socket):
        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6 and next(busy):
                raise OSError(errno.EADDRINUSE, "in use")
            super().bind(("127.0.0.1", 0) if self.family == socket.AF_INET else address)

    monkeypatch.setattr(socket, "socket", Busy)
    try:
        listeners = open_listeners("localhost", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    assert next(busy, None) is None
    for listener in listeners:
        listener.close()


def test_on_windows_nobody_can_take_the_port_away(monkeypatch: pytest.MonkeyPatch) -> None:
    exclusive = socket.SO_KEEPALIVE  # stands for the option that only Windows has
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", exclusive, raising=False)
    for listener in open_listeners("localhost", 0):
        with listener:
            assert listener.getsockopt(socket.SOL_SOCKET, exclusive)
            assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


# --- What the application gets, and what it is spared -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_every_method_reaches_the_application(serve: Serve, method: str) -> None:
    site = serve(echo)
    with site.connect() as wire:
        wire.ask(method, "/")
        assert wire.read_response().status == 200
    assert site.application.requests[0].method == method


def test_every_response_names_the_server_and_the_date_once(serve: Serve) -> None:
    response = serve(echo).exchange(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
    assert response.headers["server"].startswith("claude-proxy/")
    assert response.headers["date"].endswith("GMT")


def test_the_application_is_tended_though_nobody_asks(serve: Serve) -> None:
    site = serve(echo)
    before = site.application.tended
    eventually(lambda: site.application.tended > before + 1)


def test_a_failure_that_nobody_caught_is_reported_and_the_server_lives(serve: Serve) -> None:
    def fail(_: HttpRequest, __: ResponseWriter) -> None:
        raise ValueError

    site = serve(fail)
    with site.connect() as wire:
        wire.ask("GET", "/")
        assert wire.read_to_end() == b""
    eventually(lambda: [type(failure) for failure in site.application.reports] == [ValueError])
    site.application.answer = echo
    assert site.exchange(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").status == 200


# --- With the real application ----------------------------------------------------------------------------------------


def test_a_further_request_is_no_going_away_and_is_answered_in_turn(redcap: Redcap, proxy: Proxy) -> None:
    gate = Gate("first")
    redcap.queue(gate, "second", "third")
    with proxy.connect() as wire:
        for _ in range(2):  # the second comes with the first …
            wire.ask("POST", "/v1/messages", message_request(), proxy.credential)
        assert gate.reached.wait(PATIENCE)
        wire.ask("POST", "/v1/messages", message_request(), proxy.credential)  # … and the third while it waits
        assert wire.is_silent(0.3)
        gate.open()
        answers = [wire.read_response().message["content"][0]["text"] for _ in range(3)]
    assert answers == ["first", "second", "third"]


FORGERIES = (
    b"GET /\r\n2026-01-01T00:00:00.000+00:00 INFO request status=200\r\n\r\n",
    b"GET /\x1b[2J HTTP/1.1\r\nHost: proxy\r\n\r\n",
    b"\x1b[31mGET / HTTP/1.1\r\nHost: proxy\r\n\r\n",
    b"GET /%0aINFO%20request%1b[2J HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n",
    b"INFO|request /v1/messages HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n",
    b"GET /v1/models/%0aINFO%1b HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\nX-Api-Key: INFO\xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: proxy\r\nX: \x1b[2J\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \xe2\x80\xa8INFO\r\nConnection: close\r\n\r\n",
)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_client_can_forge_a_line_of_the_journal(start_proxy: StartProxy, log_format: str) -> None:
    proxy = start_proxy(log_format=log_format)
    for data in FORGERIES:
        with proxy.connect() as wire:
            wire.send(data)
            wire.read_to_end()
    eventually(lambda: proxy.journal.count("\n") == len(FORGERIES))
    assert all(character.isprintable() and character.isascii() for character in proxy.journal.replace("\n", ""))
    assert not any(word in proxy.journal for word in ("2026-01-01", "INFO|", "INFO%", "[2J", "[31m"))
