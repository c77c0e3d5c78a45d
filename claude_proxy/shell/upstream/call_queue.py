"""The right to call REDCap: so many calls at once, the others wait for their turn.

Who waits is served by credential in turn, so that one person's twenty subagents do not keep everybody else waiting.
Waiting goes through the `Waiter`, so signs of life go on and a client that has gone gives its place up. A turn is
granted by closing the other end of a socket pair, which makes it something to wait for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator

from claude_proxy.errors import ProxyOverloaded
from claude_proxy.shell.wait.waiter import READ, OutOfTime, Waiter


class _Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.mine, self._other = socket.socketpair()

    def grant(self) -> None:
        self._other.close()

    def close(self) -> None:
        self.mine.close()
        self._other.close()


class CallQueue:
    """Grants turns, a bounded number at once."""

    def __init__(self, at_once: int, most_waiting: int) -> None:
        """Begin with all turns free.

        Args:
            at_once: how many turns may be taken at once.
            most_waiting: how many may wait; further ones are refused.
        """
        self._at_once = self._free = at_once  # fewer than none are free while more are taken than there may be now
        self._most_waiting = most_waiting
        self._queues: dict[str, deque[_Ticket]] = {}  # by credential; the next to be served is the first
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    def allow(self, at_once: int, most_waiting: int) -> None:
        """Change the bounds. Who has a turn keeps it, and who waits goes on waiting or gets one now."""
        with self._lock:
            self._free += at_once - self._at_once
            self._at_once, self._most_waiting = at_once, most_waiting
            while self._free > 0 and self._queues:
                self._free -= 1
                self._serve_next()

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

    def _enter(self, credential: str) -> _Ticket | None:
        """Take a free turn, or a place in the queue."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return None
            if self._waiting >= self._most_waiting:
                raise ProxyOverloaded(
                    f"The proxy has reached its limits: all calls to REDCap that it may make are running, and "
                    f"{self._waiting} requests wait. Try again; MAX_CALLS and MAX_WAITING set the limits."
                )
            try:
                ticket = _Ticket()
            except OSError:
                raise ProxyOverloaded("The proxy has no files left to let requests wait. Try again.") from None
            self._queues.setdefault(credential, deque()).append(ticket)
            self._waiting += 1
            return ticket

    def _wait(self, credential: str, ticket: _Ticket, waiter: Waiter) -> None:
        try:
            waiter.wait(ticket.mine, READ)
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

    def _give_up(self, credential: str, ticket: _Ticket) -> bool:
        """Leave the queue; False if the turn has come already."""
        with self._lock:
            queue = self._queues.get(credential)
            if not queue or ticket not in queue:
                return False
            queue.remove(ticket)
            self._waiting -= 1
            if not queue:
                del self._queues[credential]
            return True

    def _leave(self) -> None:
        """Pass the turn on to the first who waits under the next credential."""
        with self._lock:
            if self._queues and self._free >= 0:
                self._serve_next()
            else:
                self._free += 1

    def _serve_next(self) -> None:
        """Grant a turn to the first who waits under the next credential."""
        credential = next(iter(self._queues))
        queue = self._queues.pop(credential)
        queue.popleft().grant()
        self._waiting -= 1
        if queue:
            self._queues[credential] = queue  # at the end of the line
