"""CallQueue: a bound on what runs, a bound on what waits, fairness between credentials, and nothing left behind."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import PATIENCE, Gate, Redcap, StartProxy, eventually

from claude_proxy.errors import ClientGone, ProxyOverloaded
from claude_proxy.shell.upstream.call_queue import CallQueue
from claude_proxy.shell.wait.waiter import Waiter


class Queue:
    """Threads that take turns, and the order in which they got them."""

    def __init__(self, turns: CallQueue) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.failures: list[Exception] = []
        self.threads: list[threading.Thread] = []
        self.go = threading.Event()

    def join(self, name: str, credential: str, waiter: Waiter | None = None) -> None:
        """Queue up, and see that the place in the line is taken before anybody else comes."""
        before = self.turns.waiting
        thread = threading.Thread(target=self._work, args=(name, credential, waiter or Waiter(limit=PATIENCE)))
        thread.start()
        self.threads.append(thread)
        eventually(lambda: self.turns.waiting > before or not thread.is_alive())

    def _work(self, name: str, credential: str, waiter: Waiter) -> None:
        try:
            with self.turns.take(credential, waiter):
                self.served.append(name)
        except (ProxyOverloaded, ClientGone) as failure:
            self.failures.append(failure)

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def taken() -> Iterator[tuple[CallQueue, ExitStack]]:
    """CallQueue of which the only one is taken, until the stack is closed."""
    turns = CallQueue(1, 5)
    with ExitStack() as stack:
        stack.enter_context(turns.take("busy", Waiter(limit=PATIENCE)))
        yield turns, stack


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_free_turn_is_granted_at_once_and_comes_back() -> None:
    turns = CallQueue(2, 0)
    for _ in range(3):
        with turns.take("a", Waiter(limit=0)), turns.take("a", Waiter(limit=0)):
            assert turns.waiting == 0
            with (
                pytest.raises(ProxyOverloaded, match="MAX_CALLS and MAX_WAITING"),
                turns.take("b", Waiter(limit=PATIENCE)),
            ):
                pytest.fail("a third turn was granted")


def test_it_comes_back_after_a_failure() -> None:
    turns = CallQueue(1, 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), turns.take("a", Waiter(limit=PATIENCE)):
            raise ZeroDivisionError


def test_credentials_are_served_in_turn(taken: tuple[CallQueue, ExitStack]) -> None:
    turns, stack = taken
    queue = Queue(turns)
    for name in ("a1", "a2", "a3", "b1", "c1"):
        queue.join(name, name[0])
    stack.close()
    queue.finish()
    assert queue.served == ["a1", "b1", "c1", "a2", "a3"]
    assert turns.waiting == 0


def test_who_waits_too_long_is_told_to_try_again(taken: tuple[CallQueue, ExitStack]) -> None:
    turns, _ = taken
    with pytest.raises(ProxyOverloaded, match="MAX_CALLS") as failure, turns.take("a", Waiter(limit=0.01)):
        pytest.fail("a turn was granted")
    assert failure.value.status == 529
    assert 1 <= (failure.value.retry_after or 0) <= 60
    assert turns.waiting == 0


def test_signs_of_life_go_on_while_waiting(taken: tuple[CallQueue, ExitStack]) -> None:
    ticks: list[float] = []

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        if len(ticks) > 2:
            raise ClientGone
        return elapsed + 0.01

    with pytest.raises(ClientGone), taken[0].take("a", Waiter(limit=PATIENCE, tick=tick)):
        pytest.fail("a turn was granted")


def test_a_client_that_goes_away_gives_its_place_up(taken: tuple[CallQueue, ExitStack]) -> None:
    turns, stack = taken
    before = files()
    queue = Queue(turns)
    near, far = socket.socketpair()
    queue.join("gone", "a", Waiter(limit=PATIENCE, client=near))
    queue.join("stays", "a")
    far.close()
    eventually(lambda: turns.waiting == 1)
    stack.close()
    queue.finish()
    near.close()
    assert queue.served == ["stays"]
    assert [type(failure) for failure in queue.failures] == [ClientGone]
    assert files() == before


def test_a_turn_that_comes_as_its_owner_leaves_is_passed_on() -> None:
    """The grant and the client's leaving may cross; whichever wins, no turn is lost."""
    turns = CallQueue(1, 50)
    for _ in range(50):
        queue = Queue(turns)
        with turns.take("busy", Waiter(limit=PATIENCE)):
            near, far = socket.socketpair()
            queue.join("gone", "a", Waiter(limit=PATIENCE, client=near))
            thread = threading.Thread(target=far.close)
            thread.start()
        queue.finish()
        thread.join()
        near.close()
    with turns.take("a", Waiter(limit=0, tick=lambda _: math.inf)):
        assert turns.waiting == 0


def test_requests_beyond_both_bounds_are_told_to_try_again(redcap: Redcap, start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_calls=1, max_waiting=1, stream_delay=60.0)
    gate = Gate("First.")
    redcap.queue(gate, "Second.")
    with proxy.stream() as first:
        assert gate.reached.wait(PATIENCE)
        with proxy.stream() as second:
            eventually(lambda: b"claude_proxy_requests_waiting 1" in proxy.get("/metrics").body)
            assert proxy.post().error[:2] == (529, "overloaded_error")
            gate.open()
            texts = [wire.read_response().message["content"][0]["text"] for wire in (first, second)]
    assert texts == ["First.", "Second."]


# --- bounds that change -----------------------------------------------------------------------------------------------


def test_more_turns_are_granted_to_those_who_wait(taken: tuple[CallQueue, ExitStack]) -> None:
    turns, _ = taken
    queue = Queue(turns)
    for name in ("one", "two"):
        queue.join(name, name)
    assert queue.served == []
    turns.allow(2, 5)
    queue.finish()
    assert queue.served == ["one", "two"]


def test_fewer_turns_take_none_away_and_grant_none_before_enough_came_back() -> None:
    turns = CallQueue(2, 5)
    queue = Queue(turns)
    with ExitStack() as second:
        with turns.take("a", Waiter(limit=PATIENCE)):
            second.enter_context(turns.take("b", Waiter(limit=PATIENCE)))
            turns.allow(1, 5)
            queue.join("c", "c")
        assert (queue.served, turns.waiting) == ([], 1), "one is still taken, and there may be one"
    queue.finish()
    assert queue.served == ["c"]
    with turns.take("a", Waiter(limit=PATIENCE)):
        turns.allow(1, 0)
        with pytest.raises(ProxyOverloaded), turns.take("b", Waiter(limit=PATIENCE)):
            pytest.fail("a second turn was granted")
