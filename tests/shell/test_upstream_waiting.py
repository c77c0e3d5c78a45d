"""While a call to REDCap waits: signs of life go out on time, and a client that goes ends the call, at every stage."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TypeAlias

import faults
import pytest
import trustme
from conftest import PATIENCE, eventually
from faults import OK, Peer, Server, post

from claude_proxy.errors import ClientGone, ProxyError, UpstreamUnreachable
from claude_proxy.settings import Secret
from claude_proxy.shell import forward_proxy
from claude_proxy.shell.dns import Resolver
from claude_proxy.shell.upstream import Upstream, Waiter
from claude_proxy.shell.waiter import READ, WRITE, OutOfTime

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


Stage: TypeAlias = "Callable[[pytest.MonkeyPatch, trustme.CA], AbstractContextManager[Upstream]]"


@contextmanager
def resolving(monkeypatch: pytest.MonkeyPatch, _: trustme.CA) -> Iterator[Upstream]:
    """The name servers do not answer."""
    over, ask = threading.Event(), socket.getaddrinfo

    def hang(host: str, port: int, *, type: int, flags: int) -> object:  # noqa: A002
        if not flags & socket.AI_NUMERICHOST:
            over.wait(PATIENCE)
        return ask(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with faults.posting_to("http://redcap.test/api/") as upstream:
        yield upstream
    over.set()
    eventually(lambda: not any(thread.name == "look-up" for thread in threading.enumerate()))


@contextmanager
def connecting(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with faults.black_hole() as port, faults.posting_to(f"http://127.0.0.1:{port}/") as upstream:
        yield upstream


@contextmanager
def asking_for_a_tunnel(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with Server(faults.stall) as server:
        proxy = forward_proxy.choose(
            "https://redcap.test/", https_proxy=Secret(f"http://127.0.0.1:{server.port}"), http_proxy=None, no_proxy=""
        )
        with faults.posting_to("https://redcap.test/", proxy=proxy) as upstream:
            yield upstream


@contextmanager
def shaking_hands(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.stall, scheme="https") as (upstream, _server):
        yield upstream


@contextmanager
def sending(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.stall) as (upstream, _server):
        yield upstream


@contextmanager
def waiting(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.take_and_be_silent) as (upstream, _server):
        yield upstream


@contextmanager
def reading(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
    with faults.served(faults.answering(OK[:-1], then=Peer.be_silent)) as (upstream, _server):
        yield upstream


@contextmanager
def reading_without_a_pause(_: pytest.MonkeyPatch, __: trustme.CA) -> Iterator[Upstream]:
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
def waiting_in_tls(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA) -> Iterator[Upstream]:
    with authority.cert_pem.tempfile() as bundle:
        served = faults.served(faults.take_and_be_silent, tls=faults.certified(authority), ca_bundle=bundle)
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
    monkeypatch: pytest.MonkeyPatch,
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
    with faults.nothing_left_over(), stage(monkeypatch, authority) as upstream:
        leaving = threading.Thread(target=go)
        leaving.start()
        with pytest.raises(ClientGone):
            post(upstream, bytes(size), client=client[1])
        seconds = time.monotonic() - left[0]
        leaving.join()
        assert not upstream._idle
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
def test_signs_of_life_go_out_at_every_stage(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, stage: Stage
) -> None:
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
    with stage(monkeypatch, authority) as upstream, pytest.raises(ClientGone):
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


def test_where_there_is_no_poll_select_does_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")
    with faults.served(faults.keep_answering) as (upstream, _):
        assert post(upstream, bytes(1024 * 1024), client=client[1]).body == b"ok"
    with faults.served(faults.take_and_be_silent) as (upstream, _):
        client[0].close()
        with pytest.raises(ClientGone):
            post(upstream, client=client[1])


# --- Names ------------------------------------------------------------------------------------------------------------


def test_an_ip_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        pytest.fail("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for host in ("127.0.0.1", "::1"):
        assert Resolver(host, 80, patience=PATIENCE).addresses(Waiter(limit=PATIENCE), until=PATIENCE)


def looked_up(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Upstream:
    def fail(*_: object, flags: int = 0, **__: object) -> None:
        raise error if not flags else socket.gaierror(socket.EAI_NONAME, "")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return Upstream("https://redcap.test/api/", connect_timeout=PATIENCE)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "redcap.test cannot be resolved: there is no such name"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "redcap.test cannot be resolved: no name server gave an answer"),
        (UnicodeError("label too long"), "redcap.test cannot be resolved: there is no such name"),
    ],
    ids=["no such name", "no answer", "no name at all"],
)
def test_a_name_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    with faults.nothing_left_over(), pytest.raises(UpstreamUnreachable) as caught:
        post(looked_up(monkeypatch, error))
    assert words in caught.value.message
    assert "Check REDCAP_API_URL, and the network or VPN." in caught.value.message


def test_a_look_up_has_the_limit_of_connecting(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA) -> None:
    with (
        resolving(monkeypatch, authority),
        faults.posting_to("http://redcap.test/", connect_timeout=0.1) as upstream,
        pytest.raises(UpstreamUnreachable, match=r"resolved within 0\.1 s.*CONNECT_TIMEOUT"),
    ):
        post(upstream)


def look_ups() -> int:
    return sum(thread.name == "look-up" for thread in threading.enumerate())


def test_requests_share_a_look_up_and_few_are_begun_beside_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    """A hundred requests while the name servers are down must not make a hundred threads."""
    with faults.nothing_left_over(), resolving(monkeypatch, authority) as patient:
        askers: list[threading.Thread] = []

        def ask(upstream: Upstream) -> None:
            with suppress(ProxyError):
                post(upstream, limit=0.3)

        for upstream, most in ((patient, 1), (Upstream("http://redcap.test/", connect_timeout=0.001), 1 + 4)):
            for _ in range(20):
                askers.append(threading.Thread(target=ask, args=(upstream,)))
                askers[-1].start()
                time.sleep(0.002)
            assert 1 <= look_ups() <= most
        for asker in askers:
            asker.join(PATIENCE)
        # What hangs is asked again by later requests, within bounds, and is forgotten when it ends.
        assert look_ups() <= 5


def test_no_thread_to_be_had_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with faults.nothing_left_over(), faults.posting_to("http://localhost:9/") as upstream:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UpstreamUnreachable, match="could not be reached"):
            post(upstream)
        monkeypatch.undo()
