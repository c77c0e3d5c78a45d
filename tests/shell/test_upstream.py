"""The one POST to REDCap, before servers that do what servers do: keep, close, cut, stall, and speak TLS or not."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import pytest
import trustme
from conftest import PATIENCE

from claude_proxy.errors import ClientGone, UpstreamMisconfigured, UpstreamTimeout, UpstreamUnreachable
from claude_proxy.shell import upstream as upstream_module
from claude_proxy.shell.upstream import HttpAnswer, Upstream, Waiter

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
SECRET = b"token=0123456789ABCDEF"


# --- A server whose every move is the test's --------------------------------------------------------------------------


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    def read_request(self) -> tuple[bytes, bytes]:
        """Read one request: its head and its body."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        while len(body) < int(length.partition(b":")[2]):
            body += self._receive()
        return head, body

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def saw_the_end(self) -> bool:
        """Wait for the other side to close, and say whether it did."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


Script: TypeAlias = Callable[[Peer], None]


class Server:
    """Plays one script for each connection, in order, the last one again and again; closes when a script ends."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None, sleep: float = 0) -> None:
        """Prepare; every connection sleeps before anything else happens on it."""
        self.connections = 0
        self._sleep = sleep
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                script = self._scripts[min(self.connections, len(self._scripts) - 1)]
                self.connections += 1
                threading.Thread(target=self._play, args=(script, sock), daemon=True).start()

    def _play(self, script: Script, sock: socket.socket) -> None:
        with sock, suppress(EOFError, OSError):
            time.sleep(self._sleep)
            if self._tls is None:
                script(Peer(sock))
                return
            with self._tls.wrap_socket(sock, server_side=True) as secured:
                script(Peer(secured))


def keep_answering(peer: Peer) -> None:
    while True:
        peer.read_request()
        peer.send(OK)


def answer_once(peer: Peer) -> None:
    """Answer, and close without having said so: what servers do to connections that were idle for too long."""
    peer.read_request()
    peer.send(OK)


def take_and_close(peer: Peer) -> None:
    peer.read_request()


def answering(response: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(response)

    return script


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stall(stack: ExitStack) -> Script:
    """A script that neither reads nor answers until the test is over."""
    over = threading.Event()
    stack.callback(over.set)

    def script(_: Peer) -> None:
        over.wait(PATIENCE)

    return script


Serve: TypeAlias = "Callable[..., tuple[Upstream, Server]]"


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    """Start a server that plays scripts, and point an `Upstream` at it."""

    def start(*scripts: Script, tls: ssl.SSLContext | None = None, scheme: str = "http") -> tuple[Upstream, Server]:
        server = stack.enter_context(Server(*scripts, tls=tls))
        return upstream_to(stack, f"{scheme}://localhost:{server.port}/api/"), server

    return start


def upstream_to(stack: ExitStack, url: str, connect_timeout: float = PATIENCE) -> Upstream:
    upstream = Upstream(url, connect_timeout=connect_timeout)
    stack.callback(close_idle, upstream)
    return upstream


def close_idle(upstream: Upstream) -> None:
    for _, connection in upstream._idle:
        connection.close()


def post(upstream: Upstream, body: bytes = SECRET, **options: Any) -> HttpAnswer:
    return upstream.post("text/plain", body, Waiter(**{"limit": PATIENCE, **options}))


# --- One call ---------------------------------------------------------------------------------------------------------


def test_the_request_on_the_wire(serve: Serve) -> None:
    requests: list[tuple[bytes, bytes]] = []

    def look(peer: Peer) -> None:
        requests.append(peer.read_request())
        peer.send(OK)

    upstream, server = serve(look)
    assert post(upstream) == HttpAnswer(200, {"content-type": "text/plain", "content-length": "2"}, b"ok")
    head, body = requests[0]
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /api/ HTTP/1.1"
    assert f"Host: localhost:{server.port}" in lines
    assert "Content-Type: text/plain" in lines
    assert "Accept-Encoding: identity" in lines
    assert body == SECRET


# Framing of the response, and whether the connection can be used again.
FRAMED: dict[str, tuple[bytes, bool]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", True),
    "to the end": (b"HTTP/1.1 200 OK\r\n\r\nok", False),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "after a 100": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
}


@pytest.mark.parametrize("framing", FRAMED)
def test_the_response_is_read_whole_however_it_is_framed(serve: Serve, framing: str) -> None:
    response, reusable = FRAMED[framing]
    done = threading.Event()

    def byte_by_byte(peer: Peer) -> None:
        peer.read_request()
        for number in range(len(response)):
            peer.send(response[number : number + 1])
        if reusable:
            done.wait(PATIENCE)

    upstream, _ = serve(byte_by_byte)
    answer = post(upstream)
    done.set()
    assert (answer.status, answer.body) == (200, b"ok")
    assert len(upstream._idle) == reusable


@pytest.mark.parametrize("status", [302, 400, 403, 500, 503])
def test_any_status_is_an_answer(serve: Serve, status: int) -> None:
    upstream, server = serve(answering(b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status))
    assert post(upstream).status == status
    assert server.connections == 1


def test_megabytes_in_both_directions(serve: Serve) -> None:
    """Far more than the buffers of the kernel hold: sending must wait for the other side, and go on."""
    size = 16 * 1024 * 1024
    sizes: list[int] = []

    def swallow(peer: Peer) -> None:
        sizes.append(len(peer.read_request()[1]))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream, _ = serve(swallow)
    assert len(post(upstream, bytes(size)).body) == size
    assert sizes == [size]


def test_an_answer_without_end_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "_MAX_BODY", 100_000)
    upstream, _ = serve(answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_001)))
    with pytest.raises(UpstreamUnreachable):
        post(upstream)


# --- Kept connections -------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_call(serve: Serve) -> None:
    upstream, server = serve(keep_answering)
    for _ in range(5):
        assert post(upstream).body == b"ok"
    assert server.connections == 1


def test_calls_at_the_same_time_have_a_connection_each(serve: Serve) -> None:
    together = threading.Barrier(8)

    def all_at_once(peer: Peer) -> None:
        while True:
            peer.read_request()
            together.wait(PATIENCE)
            peer.send(OK)

    upstream, server = serve(all_at_once)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert [answer.body for answer in pool.map(post, [upstream] * 8)] == [b"ok"] * 8
    assert server.connections == 8


def test_a_connection_that_the_server_has_closed_is_replaced(serve: Serve) -> None:
    upstream, server = serve(answer_once)
    for _ in range(3):
        assert post(upstream).body == b"ok"
    assert server.connections == 3


def test_a_connection_that_dies_as_the_request_comes_is_replaced_once(serve: Serve) -> None:
    """The server decides to close at the same moment: it takes the request and answers not a byte."""

    def die_at_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_request()

    upstream, server = serve(die_at_the_second, keep_answering)
    assert post(upstream).body == b"ok"
    assert post(upstream).body == b"ok"
    assert server.connections == 2


def test_a_new_connection_that_dies_is_not_tried_again(serve: Serve) -> None:
    """The module may be at work on the request: asking twice could make the model work twice."""
    upstream, server = serve(take_and_close, keep_answering)
    with pytest.raises(UpstreamUnreachable, match="it closed the connection"):
        post(upstream)
    assert server.connections == 1


def test_a_kept_connection_that_dies_in_the_answer_is_not_tried_again(serve: Serve) -> None:
    def die_in_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_request()
        peer.send(b"H")

    upstream, server = serve(die_in_the_second, keep_answering)
    assert post(upstream).body == b"ok"
    with pytest.raises(UpstreamUnreachable):
        post(upstream)
    assert server.connections == 1


def test_the_replacement_of_a_dead_connection_is_not_replaced(serve: Serve) -> None:
    def die_at_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_request()

    upstream, server = serve(die_at_the_second, take_and_close, keep_answering)
    post(upstream)
    with pytest.raises(UpstreamUnreachable):
        post(upstream)
    assert server.connections == 2


def test_what_comes_on_an_idle_connection_makes_it_useless(serve: Serve) -> None:
    answered, sent = threading.Event(), threading.Event()

    def say_good_bye(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        answered.wait(PATIENCE)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        sent.set()
        peer.saw_the_end()

    upstream, server = serve(say_good_bye, keep_answering)
    post(upstream)
    answered.set()
    assert sent.wait(PATIENCE)
    assert post(upstream).status == 200
    assert server.connections == 2


def test_a_connection_is_not_kept_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "_IDLE_SECONDS", 0.0)
    upstream, server = serve(keep_answering)
    post(upstream)
    post(upstream)
    assert server.connections == 2


# --- What fails -------------------------------------------------------------------------------------------------------

# A response that is none or not whole, and what the message says of it.
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
    "a chunk too few": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_answer_that_breaks_off_may_be_tried_again(serve: Serve, what: str) -> None:
    upstream, _ = serve(answering(BROKEN[what]))
    with pytest.raises(UpstreamUnreachable, match="broke before its answer was complete") as failure:
        post(upstream)
    assert failure.value.status == 502
    assert failure.value.should_retry is None
    assert not upstream._idle
    assert "SSH" not in failure.value.message


def test_a_head_that_breaks_off_is_no_answer(serve: Serve) -> None:
    upstream, _ = serve(answering(b"HTTP/1.1 200 OK\r\nContent-Type: application/js"))
    with pytest.raises(UpstreamUnreachable):
        post(upstream)


def test_a_reset(serve: Serve) -> None:
    def reset(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    with pytest.raises(UpstreamUnreachable, match="connection reset"):
        post(serve(reset)[0])


def test_a_port_where_nobody_listens(stack: ExitStack, closed_port: int) -> None:
    with pytest.raises(UpstreamUnreachable, match=rf"127\.0\.0\.1:{closed_port} could not .*REDCAP_API_URL"):
        post(upstream_to(stack, f"http://127.0.0.1:{closed_port}/"))


def test_the_message_says_why_connecting_failed(stack: ExitStack, closed_port: int) -> None:
    with pytest.raises(UpstreamUnreachable, match="refused"):
        post(upstream_to(stack, f"http://127.0.0.1:{closed_port}/"))


def test_a_name_that_nobody_has(stack: ExitStack) -> None:
    with pytest.raises(UpstreamUnreachable, match=r"redcap\.invalid cannot be resolved.*REDCAP_API_URL"):
        post(upstream_to(stack, "https://redcap.invalid/api/"))


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port where connections are never accepted and never refused, as behind a firewall: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


def test_an_address_that_does_not_answer(stack: ExitStack, black_hole: int) -> None:
    with pytest.raises(UpstreamUnreachable, match=r"within 0\.2 s.*VPN; CONNECT_TIMEOUT"):
        post(upstream_to(stack, f"http://127.0.0.1:{black_hole}/", connect_timeout=0.2))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have several addresses."""
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)


def test_an_address_that_refuses_gives_way_to_the_next(
    serve: Serve, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, server = serve(keep_answering)
    resolve_to(monkeypatch, closed_port, server.port)
    assert post(upstream).body == b"ok"


def test_the_time_limit_holds_for_the_whole_call(serve: Serve) -> None:
    """An answer that drips keeps no call alive beyond its limit."""
    stopped = threading.Event()

    def drip(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                peer.send(b"x")
                time.sleep(0.01)
        finally:
            stopped.set()

    upstream, _ = serve(drip)
    with pytest.raises(UpstreamTimeout, match=r"did not answer within .*UPSTREAM_TIMEOUT") as failure:
        post(upstream, limit=0.3)
    assert failure.value.status == 504
    assert stopped.wait(PATIENCE), "the connection was left open"


def test_a_server_that_reads_nothing_runs_into_the_time_limit(serve: Serve, stall: Script) -> None:
    upstream, _ = serve(stall)
    with pytest.raises(UpstreamTimeout):
        post(upstream, bytes(32 * 1024 * 1024), limit=0.3)


# --- The client, meanwhile --------------------------------------------------------------------------------------------


@pytest.fixture
def client(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A client's connection: its end, and the server's."""
    ends = socket.socketpair()
    for end in ends:
        stack.enter_context(end)
    return ends


@pytest.mark.parametrize("stage", ["connecting", "before the answer", "in the answer"])
def test_a_client_that_goes_ends_the_call(
    serve: Serve, stack: ExitStack, client: tuple[socket.socket, socket.socket], black_hole: int, stage: str
) -> None:
    ended = threading.Event()

    def wait_for_the_end(peer: Peer) -> None:
        peer.read_request()
        if stage == "in the answer":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        client[0].close()
        if peer.saw_the_end():
            ended.set()

    upstream, _ = serve(wait_for_the_end)
    if stage == "connecting":
        upstream = upstream_to(stack, f"http://127.0.0.1:{black_hole}/")
        client[0].close()
        ended.set()
    with pytest.raises(ClientGone):
        post(upstream, client=client[1])
    assert ended.wait(PATIENCE), "the call goes on without a client"


def test_a_client_that_sends_on_is_not_gone(serve: Serve, client: tuple[socket.socket, socket.socket]) -> None:
    """It may send its next request early. The bytes must stay for the server to read."""

    def talk(peer: Peer) -> None:
        peer.read_request()
        client[0].sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.05)
        peer.send(OK)

    upstream, _ = serve(talk)
    assert post(upstream, client=client[1]).body == b"ok"
    assert client[1].recv(100) == b"GET / HTTP/1.1\r\n"


def test_signs_of_life_go_on_while_the_answer_does_not_come(serve: Serve) -> None:
    ticks: list[float] = []
    enough = threading.Event()

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        if len(ticks) >= 5:
            enough.set()
        return elapsed + 0.01

    def wait_for_ticks(peer: Peer) -> None:
        peer.read_request()
        enough.wait(PATIENCE)
        peer.send(OK)

    upstream, _ = serve(wait_for_ticks)
    assert post(upstream, tick=tick).body == b"ok"
    assert ticks == sorted(ticks)


def test_a_waiter_sleeps_until_something_is_due(client: tuple[socket.socket, socket.socket]) -> None:
    """Waiting costs no processor time: it is called when it asked to be, not all the time."""
    ticks: list[float] = []

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        return elapsed + 0.05

    with pytest.raises(TimeoutError):
        Waiter(limit=0.2, tick=tick).wait(client[0], selectors.EVENT_READ)
    assert len(ticks) <= 6


def test_a_waiter_returns_when_the_socket_is_ready(
    client: tuple[socket.socket, socket.socket],
) -> None:
    client[1].sendall(b"x")
    waiter = Waiter(limit=PATIENCE)
    waiter.wait(client[0], selectors.EVENT_READ)
    waiter.wait(client[0], selectors.EVENT_WRITE)
    assert 0 <= waiter.elapsed < PATIENCE


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def secured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ssl.SSLSocket]]:
    """The TLS sockets that were made; those that are left are closed when the test is over."""
    made: list[ssl.SSLSocket] = []
    wrap = ssl.SSLContext.wrap_socket

    def note(*arguments: Any, **options: Any) -> ssl.SSLSocket:
        made.append(wrap(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", note)
    yield made
    for sock in made:
        sock.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process trust the authority, as an institution's users do."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def certified(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.usefixtures("trusted")
def test_tls_with_an_authority_of_ones_own(serve: Serve, authority: trustme.CA) -> None:
    size = 4 * 1024 * 1024

    def answer(peer: Peer) -> None:
        for _ in range(3):
            assert len(peer.read_request()[1]) == size
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream, server = serve(answer, tls=certified(authority), scheme="https")
    for _ in range(3):
        assert len(post(upstream, bytes(size)).body) == size
    assert server.connections == 1


@pytest.mark.usefixtures("trusted")
def test_tls_waits_and_watches_the_client_too(
    serve: Serve, authority: trustme.CA, client: tuple[socket.socket, socket.socket]
) -> None:
    ticks: list[float] = []
    enough = threading.Event()

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        if len(ticks) >= 20:
            enough.set()
        return elapsed + 0.01

    ended = threading.Event()

    def hold(peer: Peer) -> None:
        peer.read_request()
        enough.wait(PATIENCE)
        client[0].close()
        if peer.saw_the_end():
            ended.set()

    upstream, _ = serve(hold, tls=certified(authority), scheme="https")
    with pytest.raises(ClientGone):
        post(upstream, client=client[1], tick=tick)
    assert ended.wait(PATIENCE)


@pytest.mark.usefixtures("trusted")
def test_a_kept_tls_connection_that_dies_is_replaced(serve: Serve, authority: trustme.CA) -> None:
    upstream, server = serve(answer_once, tls=certified(authority), scheme="https")
    for _ in range(3):
        assert post(upstream).body == b"ok"
    assert server.connections == 3


@pytest.mark.usefixtures("trusted")
def test_an_address_that_does_not_answer_gives_way_to_the_next(
    stack: ExitStack, authority: trustme.CA, black_hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with an IPv6 address that is filtered on the way, and an IPv4 address that works."""
    server = stack.enter_context(Server(keep_answering, tls=certified(authority), sleep=0.1))
    upstream = upstream_to(stack, f"https://localhost:{server.port}/", connect_timeout=0.5)
    resolve_to(monkeypatch, black_hole, server.port)
    assert post(upstream).body == b"ok"


def refused(upstream: Upstream) -> str:
    """What is said of a server that cannot be talked to; trying again would not help, and nothing was sent."""
    with pytest.raises(UpstreamMisconfigured) as failure:
        post(upstream)
    assert failure.value.status == 502
    assert failure.value.should_retry is False
    return failure.value.message


def test_an_unknown_authority(serve: Serve, authority: trustme.CA) -> None:
    received: list[bytes] = []

    def listen(peer: Peer) -> None:
        received.append(peer.sock.recv(1))

    message = refused(serve(listen, tls=certified(authority), scheme="https")[0])
    assert "certificate of localhost" in message
    assert "SSL_CERT_FILE" in message
    assert not any(received), "the token went to a server that nobody vouches for"


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name(serve: Serve, authority: trustme.CA) -> None:
    message = refused(serve(keep_answering, tls=certified(authority, "other.example.org"), scheme="https")[0])
    assert "certificate of localhost" in message


def test_tls_to_a_port_that_speaks_plain_http(serve: Serve) -> None:
    def complain(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    message = refused(serve(complain, scheme="https")[0])
    assert "does not speak TLS" in message
    assert "REDCAP_API_URL" in message


def test_plain_http_to_a_port_that_speaks_tls(serve: Serve, authority: trustme.CA) -> None:
    upstream, _ = serve(keep_answering, tls=certified(authority))
    with pytest.raises(UpstreamUnreachable, match=r"REDCAP_API_URL|broke before"):
        post(upstream)


@pytest.mark.usefixtures("trusted")
def test_a_handshake_that_does_not_come_to_an_end(stack: ExitStack, stall: Script) -> None:
    server = stack.enter_context(Server(stall))
    upstream = upstream_to(stack, f"https://localhost:{server.port}/", connect_timeout=0.2)
    with pytest.raises(UpstreamUnreachable, match="CONNECT_TIMEOUT"):
        post(upstream)


def test_a_connection_whose_handshake_failed_is_closed(
    serve: Serve, authority: trustme.CA, secured: list[ssl.SSLSocket]
) -> None:
    refused(serve(keep_answering, tls=certified(authority), scheme="https")[0])
    assert [sock for sock in secured if not sock.server_side and sock.fileno() != -1] == []
