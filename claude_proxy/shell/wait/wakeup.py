"""Waiting that no signal slips past.

Python runs the handler of a signal between two of its own steps. A signal that comes after the last step and before a
call that blocks is noted, and nobody looks at the note before that call returns, which it may never do. So the main
thread waits in `select` for whatever it waits for, and beside it for a socket to which every signal writes a byte.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from typing import Self


class Wakeup:
    """Within its block, in the main thread, each wait ends with the next signal that is handled, however early."""

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        self._reader.close()
        self._writer.close()

    def wake(self) -> None:
        """End a wait, now or the next; may be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # it is full, so it will end anyway
            self._writer.send(b"\0")

    def wait(self) -> None:
        """Wait for a signal or `wake`; handlers run meanwhile, and what they raise ends the wait as well."""
        select.select([self._reader], [], [])
        self._reader.recv(4096)

    def wait_to_read(self, file: int) -> None:
        """Wait until a file can be read; handlers run meanwhile, and what they raise ends the wait as well.

        Where a file cannot be waited for, as on Windows, this returns at once.
        """
        with contextlib.suppress(OSError):
            while file not in select.select([self._reader.fileno(), file], [], [])[0]:
                self._reader.recv(4096)
