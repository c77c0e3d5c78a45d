"""News from another thread, as something that a `Waiter` can wait for like any socket."""

from __future__ import annotations

import socket

from claude_proxy.shell.wait.waiter import READ, Waiter


class Signal:
    """One thread waits for it, another gives it: by closing the other end of a socket pair."""

    def __init__(self) -> None:
        self._mine, self._other = socket.socketpair()

    def give(self) -> None:
        """Wake whoever waits, now or later."""
        self._other.close()

    def wait(self, waiter: Waiter) -> None:
        """Return when the signal has been given; raises what `Waiter.wait` does."""
        waiter.wait(self._mine, READ)

    def close(self) -> None:
        """End it, given or not; for the thread that waits."""
        self._mine.close()
        self._other.close()
