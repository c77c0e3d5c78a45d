"""The server under load, before slow and faulty clients, and when it is stopped: no hang, and nothing left over."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from socketserver import TCPServer
from typing import Any, Protocol

import pytest
from conftest import PATIENCE, Wire, eventually, running
from faults import open_files
from sites import MB, Answer, Site, echo, listening

from claude_proxy.errors import ClientGone, ProxyOverloaded, RequestTimeout, ShuttingDown
from claude_proxy.shell.server.connections import Budget, ConnectionState
from claude_proxy.shell.server.handler import HttpRequest, ResponseWriter, ServerLimits, response_head
from claude_proxy.shell.server.incoming import Incoming

GET = b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: 1000\r\n\r\n"


class Serve(Protocol):
    def __call__(self, answer: Answer = echo, **changes: Any) -> Site:
        """Start a server; `changes` are settings that differ from the defaults."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda answer=echo, **changes: Site(stack.enter_context(running(listening(answer, **changes))))


def hurry(site: Site, **limits: float) -> None:
    """Give clients less time from now on; from the start it would not be enough for a test on a busy machine."""
    site.server.settings = replace(site.server.settings, **limits)  # type: ignore[arg-type]


class Waiting:
    """An application's answer that does not come before the test lets it, or the server is stopped."""

    def __init__(self, *, stream: bool = False) -> None:
        self.reached = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._stream = stream

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        if request.path == "/well":
            echo(request, response)
            return
        if self._stream:
            response.start_stream({})
        self.reached.release()
        while not self.go_on.wait(0.01):
            request.raise_if_stopped()
            if self._stream:
                response.send(b": ping\n\n")
        if self._stream:
            response.end_stream()
        else:
            echo(request, response)

    def wait(self, times: int = 1) -> None:
        """Wait until so many requests more have reached it."""
        for _ in range(times):
            assert self.reached.acquire(timeout=PATIENCE)


def connect_and_ask(site: Site, stack: ExitStack, data: bytes = GET) -> Wire:
    wire = stack.enter_context(site.connect())
    wire.send(data)
    return wire


# --- More connections than there may be -------------------------------------------------------------------------------


def test_beyond_the_limit_one_is_told_to_try_again_at_once(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting, max_connections=2)
    with ExitStack() as stack:
        wires = [connect_and_ask(site, stack) for _ in range(2)]
        waiting.wait(2)
        response = site.exchange(GET)
        assert response.error[:2] == (529, "overloaded_error")
        assert "MAX_CONNECTIONS" in response.error[2]
        assert response.retries == (None, "5")
        assert response.headers["connection"] == "close"
        waiting.go_on.set()
        assert [wire.read_response().status for wire in wires] == [200, 200]
    eventually(lambda: len(site.server.connections) == 0)
    assert site.is_well()


def test_who_sends_a_large_body_beyond_the_limit_still_gets_the_answer(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting, max_connections=1)
    with ExitStack() as stack:
        connect_and_ask(site, stack)
        waiting.wait()
        with site.connect() as wire:
            wire.ask("POST", "/", bytes(8 * MB))
            assert wire.read_response().status == 529
        waiting.go_on.set()


def test_a_flood_beyond_the_limit_is_answered_and_nothing_is_left(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting, max_connections=1)
    with ExitStack() as stack:
        connect_and_ask(site, stack)
        waiting.wait()
        before = open_files()
        with ExitStack() as flood:
            wires = [connect_and_ask(site, flood) for _ in range(200)]
            assert {wire.read_response().status for wire in wires} == {529}
        eventually(lambda: not open_files() - before)
        waiting.go_on.set()


def test_more_than_can_be_parted_from_at_once_are_closed(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting, max_connections=1, limits=ServerLimits(most_parting=10))
    with ExitStack() as stack:
        connect_and_ask(site, stack)
        waiting.wait()
        wires = [stack.enter_context(site.connect()) for _ in range(100)]
        assert {wire.read_response().status for wire in wires} == {529}
        waiting.go_on.set()


def test_an_idle_connection_makes_room(serve: Serve) -> None:
    site = serve(max_connections=2)
    with ExitStack() as stack:
        oldest, other, newest = (_served(site, stack) for _ in range(3))
        assert oldest.read_to_end() == b""
        for wire in (other, newest):
            wire.send(GET)
            assert wire.read_response().status == 200


def _served(site: Site, stack: ExitStack) -> Wire:
    wire = connect_and_ask(site, stack)
    assert wire.read_response().status == 200
    eventually(lambda: states(site) == {ConnectionState.IDLE})  # only what has become idle makes room
    return wire


def test_no_thread_to_be_had(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site = serve()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert site.exchange(GET).error[:2] == (529, "overloaded_error")
    assert len(site.server.connections) == 0
    assert site.is_well()


def test_no_file_to_be_had(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site = serve()
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    accept = TCPServer.get_request

    def fail_at_first(server: TCPServer) -> Any:
        for failure in failures:
            raise failure
        return accept(server)

    with site.connect() as idle:
        idle.send(GET)
        idle.read_response()
        monkeypatch.setattr(TCPServer, "get_request", fail_at_first)
        assert site.is_well()
        assert idle.read_to_end() == b"", "an idle connection gives up its file"


@pytest.mark.skipif(os.name == "nt", reason="this system has no such limit")
@pytest.mark.parametrize(
    ("limits", "wanted", "enough_for"), [((100, 100), 1000, 18), ((100, 5000), 1000, 1000), ((5000, 5000), 10, 10)]
)
def test_the_limit_of_open_files_is_raised(limits: tuple[int, int], wanted: int, enough_for: int) -> None:
    code = (
        "import resource; from claude_proxy.shell.server.connections import allow_files;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits});"
        f"print(allow_files({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(2 * {wanted}, {limits[1]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(enough_for), "True"]


# --- More bodies than there is memory for -----------------------------------------------------------------------------


def test_bodies_that_are_too_large_together_are_told_to_wait(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting, max_body_mb=1, max_bodies_mb=1)
    with site.connect() as first, site.connect() as second:
        first.ask("POST", "/", bytes(700_000))
        waiting.wait()
        second.ask("POST", "/", bytes(700_000))
        response = second.read_response()
        assert response.error[:2] == (529, "overloaded_error")
        assert "MAX_BODIES_MB" in response.error[2]
        waiting.go_on.set()
        assert len(first.read_response().body) == 700_000
    eventually(lambda: site.server.bodies.taken == 0)
    assert site.is_well()


def test_what_was_refused_takes_nothing() -> None:
    budget = Budget(10)
    with budget.share() as take:
        take(6)
        with pytest.raises(ProxyOverloaded):
            take(5)
        assert budget.taken == 6
    assert budget.taken == 0


# --- Slow clients -----------------------------------------------------------------------------------------------------


def drip(wire: Wire, data: bytes) -> None:
    """Send data byte by byte without end, until the server has had enough."""
    deadline = time.monotonic() + PATIENCE
    while wire.is_silent(0.02):
        assert time.monotonic() < deadline, "the server takes all the time in the world"
        wire.send(data)


@pytest.mark.parametrize(
    ("begin", "data"),
    [
        (b"G", b"E"),
        (b"GET / HTTP/1.1\r\nx: ", b"y"),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        (POST, b"x"),
        (b"POST / HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_who_drips_gets_a_408(serve: Serve, begin: bytes, data: bytes) -> None:
    site = serve(head_timeout=0.3, body_timeout=0.3, max_headers=10_000)
    with site.connect() as wire:
        wire.send(begin)
        drip(wire, data)
        assert wire.read_response().error[:2] == (408, "timeout_error")
    eventually(lambda: len(site.server.connections) == 0)


@pytest.mark.parametrize("data", [b"G", GET[:-2], POST, POST + b"abc"])
def test_who_falls_silent_gets_a_408(serve: Serve, data: bytes) -> None:
    site = serve(head_timeout=0.2, body_timeout=0.2)
    with site.connect() as wire:
        wire.send(data)
        assert wire.read_response().status == 408


def test_a_connection_that_asks_nothing_is_closed_without_a_word(serve: Serve) -> None:
    site = serve(idle_timeout=0.2)
    with site.connect() as wire:
        assert wire.read_to_end() == b""
    assert not site.application.refusals


def test_a_connection_that_asks_nothing_more_is_closed_without_a_word(serve: Serve) -> None:
    def answer(request: HttpRequest, response: ResponseWriter) -> None:
        hurry(site, idle_timeout=0.2)
        echo(request, response)

    site = serve(answer)
    with site.connect() as wire:
        wire.send(GET)
        wire.read_response()
        assert wire.read_to_end() == b""
    assert not site.application.refusals


class Clock:
    """Time that passes with each look at it."""

    def __init__(self, step: float) -> None:
        self._times = count(0.0, step)

    def __call__(self) -> float:
        return next(self._times)


@pytest.mark.parametrize(("rate", "is_enough"), [(900, True), (1100, False)])
def test_who_keeps_the_least_speed_has_time_and_nobody_else(rate: int, is_enough: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        incoming = Incoming(ours, Clock(1.0))
        incoming.allow(20, rate)

        def receive_1000_bytes_a_second() -> None:
            for _ in range(1000):
                theirs.send(bytes(1000))
                incoming.exactly(1000)

        if is_enough:
            receive_1000_bytes_a_second()
        else:
            with pytest.raises(RequestTimeout):
                receive_1000_bytes_a_second()


# --- Faulty clients ---------------------------------------------------------------------------------------------------


def half_close(wire: Wire) -> None:
    wire.socket.shutdown(socket.SHUT_WR)
    wire.read_to_end()


def fall_silent(wire: Wire) -> None:
    wire.read_to_end()


def send_garbage(wire: Wire) -> None:
    try:
        wire.send(os.urandom(100_000).replace(b"\n", b"") + b"\n")
        half_close(wire)
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        # The server has lost patience before, and hung up.


def drip_to_the_end(wire: Wire) -> None:
    drip(wire, b"x")
    wire.read_to_end()


STAGES: dict[str, tuple[bytes, bool]] = {
    # what was sent before the fault, and whether the response has begun by then
    "before anything": (b"", False),
    "in the request line": (b"POST / HT", False),
    "in the head": (POST[:30], False),
    "in the body": (POST + b"x" * 500, False),
    "in a chunk": (b"POST / HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nx", False),
    "in the response": (GET, True),
}
FAULTS: dict[str, Callable[[Wire], None]] = {
    "reset": Wire.reset,
    "early close": Wire.close,
    "half close": half_close,
    "silence": fall_silent,
    "drip": drip_to_the_end,
    "garbage": send_garbage,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_client_leaves_nothing_behind(serve: Serve, fault: str, stage: str) -> None:
    """Five clients at a time; afterwards no thread, no file, no memory is taken, and the next request is answered."""
    begin, responding = STAGES[stage]
    answer = Waiting(stream=True)
    limits = {"head_timeout": 0.3, "body_timeout": 0.3, "idle_timeout": 0.3}
    site = serve(answer, **({} if responding else limits))
    threads, files = set(threading.enumerate()), open_files()
    with ExitStack() as stack:
        wires = [connect_and_ask(site, stack, begin) for _ in range(5)]
        if responding:
            answer.wait(5)
            for wire in wires:
                wire.read_head()
            hurry(site, **limits)
        if not responding or fault not in {"reset", "early close"}:
            answer.go_on.set()  # garbage may complete a body, and who only stops to send is the application's matter
        for wire in wires:
            FAULTS[fault](wire)
    eventually(lambda: len(site.server.connections) == 0)
    eventually(lambda: not set(threading.enumerate()) - threads)
    eventually(lambda: not open_files() - files)
    eventually(lambda: site.server.bodies.taken == 0)  # a connection may be accepted when its client has gone already
    assert site.is_well()
    assert not site.application.reports


def test_who_reads_nothing_is_given_up(serve: Serve) -> None:
    noticed = threading.Event()

    def send_for_ever(_: HttpRequest, response: ResponseWriter) -> None:
        response.start_stream({})
        try:
            while True:
                response.send(bytes(65536))
        except ClientGone:
            noticed.set()
            raise

    site = serve(send_for_ever, limits=ServerLimits(write_seconds=0.3))
    with site.connect() as wire:
        wire.send(GET)
        assert noticed.wait(PATIENCE)


def test_no_response_can_be_split() -> None:
    with pytest.raises(ValueError, match="end of line"):
        response_head(200, {"x": "y\r\nset-cookie: z"})


# --- The end ----------------------------------------------------------------------------------------------------------


def states(site: Site) -> set[ConnectionState]:
    return set(site.server.connections._states.values())


def stopping(site: Site, grace: float) -> threading.Thread:
    """Begin to stop a server; the thread ends when it is stopped."""
    thread = threading.Thread(target=site.server.stop, args=(grace,), daemon=True)
    thread.start()
    eventually(lambda: site.server.connections.stopping)
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


def test_idle_connections_end_at_once(serve: Serve) -> None:
    site = serve()
    with site.connect() as used, site.connect() as unused:
        used.send(GET)
        used.read_response()
        eventually(lambda: len(site.server.connections) == 2)
        thread = stopping(site, grace=PATIENCE * 10)
        assert used.read_to_end() == unused.read_to_end() == b""
        assert ended(thread)


def test_running_requests_are_answered_and_their_connections_end(serve: Serve) -> None:
    waiting = Waiting()
    site = serve(waiting)
    with site.connect() as wire, site.connect() as sending:
        wire.send(GET * 2)
        sending.send(POST)
        waiting.wait()
        eventually(lambda: states(site) == {ConnectionState.READING, ConnectionState.ANSWERING})
        thread = stopping(site, grace=PATIENCE * 10)
        with pytest.raises(OSError):
            site.is_well()
        sending.send(bytes(1000))
        waiting.wait()
        waiting.go_on.set()
        for each in (wire, sending):
            response = each.read_response()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert each.read_to_end() == b""
        assert ended(thread)


@pytest.mark.parametrize("data", [b"G", POST[:30], POST, POST + b"x" * 999, GET])
def test_when_the_time_is_up_the_others_are_told(serve: Serve, data: bytes) -> None:
    waiting = Waiting()
    site = serve(waiting)
    with site.connect() as wire:
        wire.send(data)
        if data == GET:
            waiting.wait()
        eventually(lambda: states(site) - {ConnectionState.IDLE})
        thread = stopping(site, grace=0.1)
        response = wire.read_response()
        assert response.error == (529, "overloaded_error", ShuttingDown().message)
        assert response.retries == (None, "5")
        assert wire.read_to_end() == b""
        assert ended(thread)


def test_what_hears_nothing_is_counted(serve: Serve) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def deaf(request: HttpRequest, response: ResponseWriter) -> None:
        reached.set()
        go_on.wait(PATIENCE)
        echo(request, response)

    site = serve(deaf, limits=ServerLimits(farewell_seconds=0.1))
    with site.connect() as wire:
        wire.send(GET)
        assert reached.wait(PATIENCE)
        assert site.server.stop(0.1) == 1
        go_on.set()
        assert wire.read_response().status == 200
