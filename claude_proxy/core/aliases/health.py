"""The health of an alias, as its answers and failures show it.

SecureChatAI apologises in the same words for a model that is down and for an alias that is not configured. A wrong name
should be reported at once, and a model that is down be tried again: an alias that has answered before is down, one that
never has is suspect. Times are seconds from any start, the same for all calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# Claude Code obeys a `retry-after` from 1 to 60 seconds and gives up at once above (measured with 2.1.330).
SHORTEST_WAIT, LONGEST_WAIT = 5, 60

_WEIGHT = 0.3  # of the newest latency in the average


@dataclass(frozen=True)
class Health:
    """How well an alias has answered of late.

    Attributes:
        answered_at: when it last answered; None if it never has.
        latency: seconds that an answer took, averaged with the weight on the newest.
        failures: how many calls have failed in a row.
    """

    answered_at: float | None = None
    latency: float = 0.0
    failures: int = 0

    @property
    def has_answered(self) -> bool:
        """Whether it has ever answered."""
        return self.answered_at is not None

    def after_answer(self, now: float, seconds: float) -> Health:
        """The health after an answer that took so long."""
        latency = seconds if self.answered_at is None else (1 - _WEIGHT) * self.latency + _WEIGHT * seconds
        return Health(now, latency, 0)

    def after_failure(self) -> Health:
        """The health after a call that failed."""
        return replace(self, failures=self.failures + 1)

    @property
    def retry_after(self) -> int:
        """Seconds to wait before another try: twice as long after each further failure, within what clients obey."""
        doubled = SHORTEST_WAIT * 2 ** min(max(self.failures - 1, 0), 10)
        return int(min(LONGEST_WAIT, doubled))
