"""How an alias fares: it has answered or not, how quickly, and how long to wait after failures in a row."""

from __future__ import annotations

import pytest

from claude_proxy.core.aliases.health import LONGEST_WAIT, SHORTEST_WAIT, Health


def failed(times: int, health: Health | None = None) -> Health:
    health = health or Health()
    for _ in range(times):
        health = health.after_failure()
    return health


def test_an_alias_that_nobody_has_asked_has_not_answered() -> None:
    assert Health() == Health(None, 0.0, 0)
    assert not Health().has_answered
    assert not failed(3).has_answered


def test_an_answer_is_remembered_and_ends_a_row_of_failures() -> None:
    health = failed(3).after_answer(now=100.0, seconds=2.0)
    assert health == Health(100.0, 2.0, 0)
    assert failed(2, health) == Health(100.0, 2.0, 2)
    assert failed(2, health).has_answered


def test_latency_follows_the_newest_answers() -> None:
    health = Health()
    for now in range(50):
        health = health.after_answer(float(now), 2.0)
    assert health.latency == pytest.approx(2.0)
    for now in range(50, 70):
        health = health.after_answer(float(now), 10.0)
    assert health.latency == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 5), (1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60), (1000, 60)]
)
def test_the_wait_doubles_within_what_clients_obey(failures: int, seconds: int) -> None:
    assert SHORTEST_WAIT <= failed(failures).retry_after == seconds <= LONGEST_WAIT
