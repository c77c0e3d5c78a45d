"""One thread at a time has the floor, and nobody waits for it for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE, eventually, running
from sites import Site, echo, listening

from claude_proxy.shell.wait import floor
from claude_proxy.shell.wait.floor import waiting, working

needed = pytest.mark.skipif(not floor._IS_NEEDED, reason="this Python runs threads side by side")


@pytest.fixture(autouse=True)
def left() -> Iterator[None]:
    """The floor is free after each test."""
    yield
    assert not floor._floor.locked()


def aside(step: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    return thread


@needed
def test_one_works_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_PATIENCE", PATIENCE)
    at_work: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with working:
                at_work.append(number)
                most.append(len(at_work))
                threading.Event().wait(0.0001)
                at_work.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(most) == 1


@needed
def test_who_waits_lets_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_PATIENCE", PATIENCE)
    worked = threading.Event()

    def work() -> None:
        with working:
            worked.set()

    with working:
        with waiting:
            aside(work)
            assert worked.wait(PATIENCE)
        assert floor._floor.locked(), "it is taken again"


@needed
def test_who_has_been_patient_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_PATIENCE", 0.01)
    worked = threading.Event()

    def work() -> None:
        with working, waiting:
            pass
        worked.set()

    with working:
        aside(work)
        assert worked.wait(PATIENCE)
        assert floor._floor.locked(), "what another had not taken it has not given back"


@needed
def test_a_wait_within_a_wait_gives_nothing_back_before_its_time() -> None:
    with working:
        with waiting:
            with waiting:
                pass
            assert not floor._floor.locked()
        assert floor._floor.locked()


@needed
def test_who_did_without_it_once_does_not_wait_for_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_PATIENCE", 0.01)
    floor._floor.acquire()
    with working:
        floor._floor.release()
        with waiting:
            pass
        assert not floor._floor.locked()


def test_a_request_that_is_refused_leaves_it() -> None:
    with running(listening(echo)) as server:
        site = Site(server)
        assert site.exchange(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n").status == 400
        eventually(lambda: not floor._floor.locked())
        assert site.is_well()


def test_who_does_not_work_neither_takes_nor_leaves_it() -> None:
    with waiting:
        assert not floor._floor.locked()
    assert not floor._floor.locked()


def test_a_failure_leaves_it() -> None:
    with pytest.raises(ValueError, match="inside"), working, waiting:
        raise ValueError("inside")


def test_there_is_none_where_threads_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_IS_NEEDED", False)
    with working:
        assert not floor._floor.locked()
