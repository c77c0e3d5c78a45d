"""While a call to REDCap waits: signs of life go out on time, and a client that goes ends the call, at every stage."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

import faults
import pytest
import trustme
from conftest import PATIENCE, eventually
from faults import OK, Peer, Server, post

from claude_proxy.errors import ClientGone, ProxyError, UpstreamUnreachable
from claude_proxy.settings.values import Secret
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.upstream.fake_stream import FakeNetwork
from claude_proxy.shell.upstream.resolve import Resolver
from claude_proxy.shell.upstream.stream import Network
from claude_proxy.shell.wait.waiter import READ, WRITE, OutOfTime, Waiter, ready_by_select

Client: TypeAlias = "tuple[socket.socket, socket.socket]"
BIG = 32 * 1024 * 1024
PROMPTLY = PATIENCE / 2  # by design 0.25 s at most, but the machine may be busy with other things


@pytest.fixture
def client() -> Iterator[Client]:
    """A client's connection: its end, and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        mine = stack.enter_context(socket.create_connection(listener.getsockname()))
        its, _ = listener.accept()
        its.settimeout(PATIENCE)  # as that of the real server
        yield mine, stack.enter_context(its)


# --- A client that goes -----------------------------------------------------------------------------------------------


def close(client: socket.socket) -> None:
    client.close()


def close_half(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def close_after_sending_on(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n")
    time.sleep(0.1)
    client.close()


Stage: TypeAlias = "Callable[[trustme.CA], AbstractContextManager[Upstream]]"


@contextmanager
def resolving(_: trustme.CA | None = None, connect_timeout: float = PATIENCE) -> Iterator[Upstream]:
    """The name servers do not answer."""
    over = threading.Event()
    options: dict[str, Any] = {"connect_timeout": connect_timeout, "network": faults.Resolving(after=over)}
    with faults.posting_to("http://redcap.test/api/", **options) as upstream:
        yield upstream
    over.set()
    eventually(lambda: not any(thread.name == "look-up" for thread in threading.enumerate()))


@contextmanager
def connecting(_: trustme.CA) -> Iterator[Upstream]:
    with faults.black_hole() as port, faults.posting_to(f"http://127.0.0.1:{port}/") as upstream:
        yield upstream


@contextmanager
def asking_for_a_tunnel(_: trustme.CA) -> Iterator[Upstream]:
    with Server(faults.stall) as server:
        proxy = Secret(f"http://127.0.0.1:{server.port}")
        with faults.posting_to("https://redcap.test/", https_proxy=proxy) as upstream:
            yield upstream


@contextmanager
def shaking_hands(_: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.stall, scheme="https") as (upstream, _server):
        yield upstream


@contextmanager
def sending(_: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.stall) as (upstream, _server):
        yield upstream


@contextmanager
def waiting(_: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.take_and_be_silent) as (upstream, _server):
        yield upstream


@contextmanager
def reading(_: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.answering(OK[:-1], then=Peer.be_silent)) as (upstream, _server):
        yield upstream


@contextmanager
def reading_without_a_pause(_: trustme.CA) -> Iterator[Upstream]:
    """There is always something to read, so nothing ever has to wait."""

    def flood(peer: Peer) -> None:
        peer.read_request()
        with suppress(OSError):
            while True:
                peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000)
                time.sleep(0.05)

    with faults.served(flood) as (upstream, _server):
        yield upstream


@contextmanager
def waiting_in_tls(authority: trustme.CA) -> Iterator[Upstream]:
    with authority.cert_pem.tempfile() as bundle:
        served = faults.served(faults.take_and_be_silent, tls=faults.certified(authority), redcap_ca_bundle=bundle)
        with served as (upstream, _server):
            yield upstream


STAGES: list[Stage] = [
    *(resolving, connecting, asking_for_a_tunnel, shaking_hands, sending, waiting, reading, reading_without_a_pause),
    waiting_in_tls,
]


@pytest.mark.parametrize("leave", [close, close_half, reset, close_after_sending_on])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_goes_ends_the_call(
    client: Client,
    authority: trustme.CA,
    stage: Stage,
    leave: Callable[[socket.socket], None],
) -> None:
    if leave is close_after_sending_on and not hasattr(select, "POLLRDHUP"):
        pytest.skip("this system does not tell of a close behind unread bytes")
    left: list[float] = []

    def go() -> None:
        time.sleep(0.15)
        left.append(time.monotonic())
        leave(client[0])

    size = BIG if stage is sending else 10
    with faults.nothing_left_over(), stage(authority) as upstream:
        leaving = threading.Thread(target=go)
        leaving.start()
        with pytest.raises(ClientGone):
            post(upstream, bytes(size), client=client[1])
        seconds = time.monotonic() - left[0]
        leaving.join()
        assert not upstream.kept
    assert seconds < PROMPTLY


def test_a_client_whose_connection_was_closed_on_our_side_is_gone(client: Client) -> None:
    client[1].close()
    with faults.served(faults.keep_answering) as (upstream, _), pytest.raises(ClientGone):
        post(upstream, client=client[1])


def test_a_client_that_sends_on_is_not_gone(client: Client) -> None:
    """It may send its next request early. The bytes must stay for the server to read."""

    def talk(peer: Peer) -> None:
        peer.read_request()
        client[0].sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.05)
        peer.send(OK)

    with faults.served(talk) as (upstream, _):
        assert post(upstream, client=client[1]).body == b"ok"
    assert client[1].recv(100) == b"GET / HTTP/1.1\r\n"


# --- Signs of life ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_signs_of_life_go_out_at_every_stage(authority: trustme.CA, stage: Stage) -> None:
    """Each comes within a moment of when it was due, whatever the server does or does not do."""
    late: list[float] = []
    due = [0.0]

    def tick(elapsed: float) -> float:
        late.append(elapsed - due[0])
        if len(late) >= 10:
            raise ClientGone
        due[0] = elapsed + 0.02
        return due[0]

    size = BIG if stage is sending else 10
    with stage(authority) as upstream, pytest.raises(ClientGone):
        post(upstream, bytes(size), tick=tick)
    assert max(late) < PROMPTLY
    assert min(late) >= 0


def test_a_waiter_sleeps_until_something_is_due(client: Client) -> None:
    """Waiting costs no processor time: it is called when it asked to be, not all the time."""
    ticks: list[float] = []

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        return elapsed + 0.05

    with pytest.raises(OutOfTime) as caught:
        Waiter(limit=0.2, tick=tick).wait(client[0], READ)
    assert caught.value.whole_call
    assert len(ticks) <= 6


def test_a_waiter_returns_when_the_socket_is_ready(client: Client) -> None:
    client[1].sendall(b"x")
    waiter = Waiter(limit=PATIENCE)
    waiter.wait(client[0], READ)
    waiter.wait(client[0], WRITE)
    waiter.wait(client[0], READ | WRITE)
    assert 0 <= waiter.elapsed < PATIENCE


def test_a_step_may_have_a_limit_of_its_own(client: Client) -> None:
    waiter = Waiter(limit=PATIENCE)
    with pytest.raises(OutOfTime) as caught:
        waiter.wait(client[0], READ, until=waiter.elapsed + 0.05)
    assert not caught.value.whole_call
    waiter.renew(0.05)
    with pytest.raises(OutOfTime) as caught:
        waiter.wait(client[0], READ, until=waiter.elapsed + 1)
    assert caught.value.whole_call


def test_the_earliest_of_several_limits_holds_and_only_within(client: Client) -> None:
    now = 0.0
    waiter = Waiter(limit=100, clock=lambda: now)
    with waiter.within(10), waiter.within(20):
        waiter.attend()
        now = 10.0
        for step in (waiter.attend, lambda: waiter.wait(client[0], READ)):
            with pytest.raises(OutOfTime) as caught:
                step()
            assert not caught.value.whole_call
    waiter.attend()
    now = 100.0
    with waiter.within(10), pytest.raises(OutOfTime) as caught:
        waiter.attend()
    assert caught.value.whole_call


def test_where_there_is_no_poll_select_does_it(client: Client) -> None:
    with faults.served(faults.keep_answering) as (upstream, _):
        assert post(upstream, bytes(1024 * 1024), client=client[1], ready=ready_by_select).body == b"ok"
    with faults.served(faults.take_and_be_silent) as (upstream, _):
        client[0].close()
        with pytest.raises(ClientGone):
            post(upstream, client=client[1], ready=ready_by_select)


# --- Names ------------------------------------------------------------------------------------------------------------


def test_an_ip_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        pytest.fail("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for host in ("127.0.0.1", "::1"):
        assert Resolver(host, 80, patience=PATIENCE, network=Network()).addresses(Waiter(limit=PATIENCE))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "redcap.test cannot be resolved: there is no such name"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "redcap.test cannot be resolved: no name server gave an answer"),
        (UnicodeError("label too long"), "redcap.test cannot be resolved: there is no such name"),
    ],
    ids=["no such name", "no answer", "no name at all"],
)
def test_a_name_that_cannot_be_resolved(error: Exception, words: str) -> None:
    with (
        faults.nothing_left_over(),
        faults.posting_to("https://redcap.test/api/", network=FakeNetwork(look_up=error)) as upstream,
        pytest.raises(UpstreamUnreachable) as caught,
    ):
        post(upstream)
    assert words in caught.value.message
    assert "Check REDCAP_API_URL, and the network or VPN." in caught.value.message


def test_a_look_up_has_the_limit_of_connecting() -> None:
    with (
        resolving(connect_timeout=0.1) as upstream,
        pytest.raises(UpstreamUnreachable, match=r"resolved within 0\.1 s.*CONNECT_TIMEOUT"),
    ):
        post(upstream)


def look_ups() -> int:
    return sum(thread.name == "look-up" for thread in threading.enumerate())


def test_requests_share_a_look_up_and_few_are_begun_beside_one_that_hangs() -> None:
    """A hundred requests while the name servers are down must not make a hundred threads."""
    over, url = threading.Event(), "http://redcap.test/"
    network = faults.Resolving(after=over)
    with (
        faults.nothing_left_over(),
        faults.posting_to(url, network=network) as patient,
        faults.posting_to(url, network=network, connect_timeout=0.001) as hasty,
    ):
        askers: list[threading.Thread] = []

        def ask(upstream: Upstream) -> None:
            with suppress(ProxyError):
                post(upstream, limit=0.3)

        for upstream, most in ((patient, 1), (hasty, 1 + 4)):
            for _ in range(20):
                askers.append(threading.Thread(target=ask, args=(upstream,)))
                askers[-1].start()
                time.sleep(0.002)
            assert 1 <= look_ups() <= most
        for asker in askers:
            asker.join(PATIENCE)
        # What hangs is asked again by later requests, within bounds, and is forgotten when it ends.
        assert look_ups() <= 5
        over.set()


def test_no_thread_to_be_had_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with faults.nothing_left_over(), faults.posting_to("http://localhost:9/") as upstream:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UpstreamUnreachable, match="could not be reached"):
            post(upstream)
        monkeypatch.undo()
