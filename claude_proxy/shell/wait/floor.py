"""The floor: of all requests one works at a time, and the others wait or are waited for.

Python runs one thread at a time anyway. But it changes threads at any call of the system, and with sixteen requests at
work it does so dozens of times for each, from one processor to another. So a thread that works takes the floor, and
leaves it where it has to wait for a socket: `docs/performance.md` says what that brings.

Nothing depends on it but speed. Who has waited for a tenth of a second does without it from then on, so that a huge
request holds up nobody for longer. Where Python runs threads side by side, there is no floor.
"""

from __future__ import annotations

import sys
import threading

_PATIENCE = 0.1  # seconds; sixteen requests of a session that goes on take a quarter of that
_IS_NEEDED = getattr(sys, "_is_gil_enabled", lambda: True)()


class _State(threading.local):
    """Of a thread: whether it works, so that it wants the floor; how deep in waits it is; whether it has the floor."""

    works = has = False
    waits = 0

    def take(self) -> None:
        if self.works and not self.waits and not self.has:
            self.works = self.has = _floor.acquire(timeout=_PATIENCE)

    def leave(self) -> None:
        if self.has:
            self.has = False
            _floor.release()


class _Working:
    """Within it, the thread has the floor, but for the stretches of `waiting`. Not to be nested."""

    def __enter__(self) -> None:
        _mine.works = _IS_NEEDED
        _mine.take()

    def __exit__(self, *_: object) -> None:
        _mine.leave()
        _mine.works = False


class _Waiting:
    """Within it, others may work. What waits may do so by waiting for this and that."""

    def __enter__(self) -> None:
        _mine.waits += 1
        _mine.leave()

    def __exit__(self, *_: object) -> None:
        _mine.waits -= 1
        _mine.take()


_floor = threading.Lock()
_mine = _State()
working, waiting = _Working(), _Waiting()
