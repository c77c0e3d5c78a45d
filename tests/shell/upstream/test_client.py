"""The one POST to REDCap, before servers that do what servers do: keep, close, cut, stall, and speak TLS or not."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeAlias

import faults
import pytest
from conftest import PATIENCE
from faults import OK, SECRET, Peer, Script, Server, answer_once, answering, keep_answering, post, take_and_close

from claude_proxy.core.http1.answer import HttpAnswer
from claude_proxy.errors import UpstreamMisconfigured, UpstreamTimeout, UpstreamUnreachable
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.upstream.fake_stream import FakeNetwork, FakeStream

MB = 1024 * 1024

Serve: TypeAlias = "Callable[..., tuple[Upstream, Server]]"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that plays scripts, and point an `Upstream` at it."""
    with ExitStack() as stack:

        def start(*scripts: Script, **options: Any) -> tuple[Upstream, Server]:
            return stack.enter_context(faults.served(*scripts, **options))

        yield start


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
    assert upstream.kept == reusable


@pytest.mark.parametrize("status", [302, 400, 403, 500, 503])
def test_any_status_is_an_answer(serve: Serve, status: int) -> None:
    upstream, server = serve(answering(b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status))
    assert post(upstream).status == status
    assert server.connections == 1


def test_megabytes_in_both_directions(serve: Serve) -> None:
    """Far more than the buffers of the kernel hold: sending must wait for the other side, and go on."""
    size = 16 * MB
    sizes: list[int] = []

    def swallow(peer: Peer) -> None:
        sizes.append(len(peer.read_request()[1]))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream, _ = serve(swallow)
    assert len(post(upstream, bytes(size)).body) == size
    assert sizes == [size]


def test_an_answer_without_end_is_given_up(serve: Serve) -> None:
    upstream, _ = serve(answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_001)), max_answer=100_000)
    with pytest.raises(UpstreamMisconfigured, match="is longer than"):
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
    with pytest.raises(UpstreamUnreachable, match="did not come: the connection was closed"):
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


def test_a_connection_is_not_kept_for_ever(serve: Serve) -> None:
    upstream, server = serve(keep_answering, idle_seconds=0.0)
    post(upstream)
    post(upstream)
    assert server.connections == 2


def test_a_kept_connection_that_resets_as_the_request_comes_is_replaced(serve: Serve) -> None:
    def reset_at_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_head()
        peer.reset()

    upstream, server = serve(reset_at_the_second, keep_answering)
    for _ in range(2):
        assert post(upstream, bytes(4 * MB)).body == b"ok"
    assert server.connections == 2


def test_a_kept_connection_that_fails_much_later_is_not_tried_again(serve: Serve) -> None:
    """Then it was no close that crossed the request: a gateway gave up, and the model may be at work."""

    def die_at_the_second(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        peer.read_request()

    upstream, server = serve(die_at_the_second, keep_answering, stale_seconds=0.0)
    post(upstream)
    with pytest.raises(UpstreamUnreachable, match="did not come"):
        post(upstream)
    assert server.connections == 1


def test_a_silence_on_a_kept_connection_is_not_tried_again(serve: Serve) -> None:
    def fall_silent(peer: Peer) -> None:
        peer.read_request()
        peer.send(OK)
        faults.take_and_be_silent(peer)

    upstream, server = serve(fall_silent, keep_answering)
    post(upstream)
    with pytest.raises(UpstreamTimeout):
        post(upstream, limit=0.2)
    assert server.connections == 1


def test_bytes_beyond_an_answer_end_its_connection(serve: Serve) -> None:
    """They may be the beginning of another person's answer, and are never taken for one."""
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers"
    upstream, server = serve(answering(OK + other, then=Peer.be_silent), keep_answering)
    assert post(upstream).body == b"ok"
    assert not upstream.kept
    assert post(upstream).body == b"ok"
    assert server.connections == 2


def test_no_more_connections_are_kept_than_are_of_use(serve: Serve) -> None:
    together = threading.Barrier(5)

    def all_at_once(peer: Peer) -> None:
        peer.read_request()
        together.wait(PATIENCE)
        peer.send(OK)
        peer.be_silent()

    upstream, _ = serve(all_at_once, most_idle=2)
    with ThreadPoolExecutor(5) as pool:
        assert len(list(pool.map(post, [upstream] * 5))) == 5
    assert upstream.kept == 2


# --- Early answers ----------------------------------------------------------------------------------------------------

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"


def answer_early(peer: Peer, then: Script) -> None:
    """Answer when the head has come, as a gateway does to a body over its limit, and read no more of it."""
    peer.read_head()
    peer.send(TOO_LARGE)
    then(peer)


@pytest.mark.parametrize("then", [faults.close_at_once, faults.stall, Peer.be_silent], ids=["close", "stall", "read"])
def test_an_answer_to_a_request_that_is_not_all_sent_is_read(serve: Serve, then: Script) -> None:
    upstream, _ = serve(lambda peer: answer_early(peer, then))
    assert post(upstream, bytes(32 * MB)).status == 413
    if then is not Peer.be_silent:  # else all of it may have gone out in time
        assert not upstream.kept, "the rest of the request would be taken for another"


def test_an_announcement_while_sending_is_no_answer(serve: Serve) -> None:
    def announce(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 3)
        time.sleep(0.05)
        size = 0
        while size < 32 * MB:
            size += len(peer._receive(65536))
        peer.send(OK)

    assert post(serve(announce)[0], bytes(32 * MB)).body == b"ok"


def test_a_server_that_sends_no_more_gets_no_more(serve: Serve) -> None:
    """It has shut down its side in the midst of the request: no answer can come."""

    def close_half(peer: Peer) -> None:
        peer.read_head()
        peer.sock.shutdown(socket.SHUT_WR)
        faults.stall(peer)

    with pytest.raises(UpstreamUnreachable, match="did not come: the connection was closed"):
        post(serve(close_half)[0], bytes(32 * MB))


# --- Connecting -------------------------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens() -> None:
    port = faults.closed_port()
    with (
        faults.posting_to(f"http://127.0.0.1:{port}/") as upstream,
        pytest.raises(UpstreamUnreachable, match=rf"127\.0\.0\.1:{port} could not .*refused.*REDCAP_API_URL"),
    ):
        post(upstream)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENETUNREACH, "network is unreachable"),
        (errno.EHOSTUNREACH, "no route to host"),
        (errno.EACCES, "permission denied"),
        (errno.EMFILE, "too many open files.*ulimit -n"),
    ],
)
def test_other_reasons_why_connecting_fails(code: int, words: str) -> None:
    stream = FakeStream(failure=OSError(code, os.strerror(code)))
    with (
        faults.posting_to("http://redcap.test/", network=FakeNetwork(stream)) as upstream,
        pytest.raises(UpstreamUnreachable, match=words),
    ):
        post(upstream)
    assert stream.closed


def test_an_address_that_does_not_answer() -> None:
    with (
        faults.black_hole() as port,
        faults.posting_to(f"http://127.0.0.1:{port}/", connect_timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable, match=r"within 0\.2 s.*VPN; CONNECT_TIMEOUT"),
    ):
        post(upstream)


def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)) for host in ("192.0.2.1", "192.0.2.2")]
    streams = FakeStream(failure=ConnectionRefusedError(errno.ECONNREFUSED, "refused")), FakeStream(OK)
    network = FakeNetwork(*streams, look_up=addresses)
    with faults.posting_to("http://redcap.test/", network=network) as upstream:
        assert post(upstream).body == b"ok"
    assert streams[0].closed


# --- Time limits ------------------------------------------------------------------------------------------------------


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


def test_the_time_limit_holds_for_a_server_that_never_pauses(serve: Serve) -> None:
    def flood(peer: Peer) -> None:
        peer.read_request()
        peer.flood(b"HTTP/1.1 100 Continue\r\n\r\n")

    with pytest.raises((UpstreamTimeout, UpstreamMisconfigured)):
        post(serve(flood)[0], limit=0.3)


def test_a_server_that_reads_nothing_runs_into_the_time_limit(serve: Serve) -> None:
    with pytest.raises(UpstreamTimeout, match="UPSTREAM_TIMEOUT"):
        post(serve(faults.stall)[0], bytes(32 * MB), limit=0.3)


def test_a_silence_while_sending_has_a_limit_of_its_own(serve: Serve) -> None:
    upstream, _ = serve(faults.stall, silence_timeout=0.2)
    with pytest.raises(UpstreamTimeout, match=r"takes no more of the request.* 0\.2 s.*SILENCE_TIMEOUT"):
        post(upstream, bytes(32 * MB))


@pytest.mark.parametrize("begun", [b"HTTP/1.1 2", OK[:17], OK[:20], OK[:-1]])
def test_a_silence_in_the_answer_has_a_limit_of_its_own(serve: Serve, begun: bytes) -> None:
    upstream, _ = serve(answering(begun, then=Peer.be_silent), silence_timeout=0.2)
    with pytest.raises(UpstreamTimeout, match=r"in the middle of its answer.* 0\.2 s.*SILENCE_TIMEOUT"):
        post(upstream)


@pytest.mark.parametrize("announced", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"], ids=["silent", "announced"])
def test_a_silence_before_the_answer_is_the_model_thinking(serve: Serve, announced: bytes) -> None:
    def think(peer: Peer) -> None:
        peer.read_request()
        peer.send(announced)
        time.sleep(0.5)
        peer.send(OK)

    assert post(serve(think, silence_timeout=0.1)[0]).body == b"ok"


@pytest.mark.slow
def test_a_drip_is_no_silence(serve: Serve) -> None:
    def drip(peer: Peer) -> None:
        peer.read_request()
        for place in range(0, len(OK), 6):
            peer.send(OK[place : place + 6])
            time.sleep(0.25)

    assert len(OK) / 6 * 0.25 > 2
    assert post(serve(drip, silence_timeout=2.0)[0]).body == b"ok"


def test_a_connection_is_probed_while_it_is_silent(serve: Serve) -> None:
    """Or gateways forget it while the model thinks, and a server that has vanished is never noticed."""
    upstream, _ = serve(keep_answering)
    post(upstream)
    (_, connection), *_ = upstream._idle._kept
    sock = connection.stream._socket
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
