"""The right to call REDCap: so many calls at once, the others wait for their turn.

Turns go round the credentials that wait, so that one person's twenty subagents do not hold up everybody else. Waiting
goes through the `Waiter`, so signs of life go on and a client that has gone gives its place up.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from claude_proxy.errors import ProxyOverloaded
from claude_proxy.shell.wait.signal import Signal
from claude_proxy.shell.wait.waiter import OutOfTime, Waiter


class CallQueue:
    """Grants turns, a bounded number at once; any thread may take one.

    Attributes:
        waiting: how many wait.
    """

    def __init__(self, at_once: int, most_waiting: int) -> None:
        """Let `at_once` turns be taken at once and `most_waiting` requests wait; further ones are refused."""
        self._at_once = self._free = at_once  # below 0 while more turns are taken than are now allowed
        self._most_waiting = most_waiting
        self._queues: dict[str, deque[Signal]] = {}  # by credential; the next to get a turn is the first
        self.waiting = 0
        self._lock = threading.Lock()

    def allow(self, at_once: int, most_waiting: int) -> None:
        """Change the bounds. Turns that are taken stay taken; requests that wait go on waiting, or get a turn now."""
        with self._lock:
            self._free += at_once - self._at_once
            self._at_once, self._most_waiting = at_once, most_waiting
            self._grant_free_turns()

    @contextlib.contextmanager
    def take(self, credential: str, waiter: Waiter) -> Iterator[None]:
        """Wait for a turn, and give it back at the end.

        Raises:
            ProxyOverloaded: too many wait already, or the turn did not come in time.
            ClientGone: the client has gone.
        """
        if ticket := self._enter(credential):
            self._wait(credential, ticket, waiter)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, credential: str) -> Signal | None:
        """Take a free turn, or a place in the queue."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return None
            if self.waiting >= self._most_waiting:
                raise ProxyOverloaded(
                    f"The proxy has reached its limits: all calls to REDCap that it may make are running, and "
                    f"{self.waiting} requests wait. Try again; MAX_CALLS and MAX_WAITING set the limits."
                )
            try:
                ticket = Signal()
            except OSError:
                raise ProxyOverloaded("The proxy has no files left to let requests wait. Try again.") from None
            self._queues.setdefault(credential, deque()).append(ticket)
            self.waiting += 1
            return ticket

    def _wait(self, credential: str, ticket: Signal, waiter: Waiter) -> None:
        try:
            ticket.wait(waiter)
        except BaseException as reason:
            if not self._give_up(credential, ticket):
                self._leave()  # the turn came at the same moment
            if isinstance(reason, OutOfTime):
                raise ProxyOverloaded(
                    "All calls to REDCap that the proxy may make at once were running all the time. Try again; "
                    "MAX_CALLS sets how many there may be."
                ) from None
            raise
        finally:
            ticket.close()

    def _give_up(self, credential: str, ticket: Signal) -> bool:
        """Leave the queue; False if the turn has come already."""
        with self._lock:
            queue = self._queues.get(credential)
            if not queue or ticket not in queue:
                return False
            queue.remove(ticket)
            self.waiting -= 1
            if not queue:
                del self._queues[credential]
            return True

    def _leave(self) -> None:
        """Give a turn back."""
        with self._lock:
            self._free += 1
            self._grant_free_turns()

    def _grant_free_turns(self) -> None:
        """Grant each to the request that has waited for longest under the next credential."""
        while self._free > 0 and self._queues:
            self._free -= 1
            self.waiting -= 1
            credential = next(iter(self._queues))
            queue = self._queues.pop(credential)
            queue.popleft().give()
            if queue:
                self._queues[credential] = queue  # at the end of the line
