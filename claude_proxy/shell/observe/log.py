"""Where the lines of the log go: to a file that may stand still or fail, while whoever writes goes on.

A write to a terminal that is held (Ctrl-S), or to a pipe that nobody reads, waits; one to a full disk, or to a pipe
whose reader has gone, fails. So lines wait in memory for the one thread that writes them, and only so many of them:
what is lost is counted, and a line says so once the file takes lines again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TextIO

MOST_WAITING = 1000
"""Lines; as many again may be on their way into the file."""

_FAREWELL = 1.0  # seconds in which the last lines are written
_RETRY = 0.05  # seconds until the next try


class Log:
    """Takes text for a file; neither waits nor fails.

    Several threads write. They share a queue with the thread that carries it to the file, and under `_lock` the number
    of lines that were lost. Where the file is in memory there is no such thread: it takes all at once.
    """

    def __init__(self, out: TextIO | None, say_lost: Callable[[int], str] = "{} lines were lost.\n".format) -> None:
        """Begin to write to a file.

        Args:
            out: the file; None for nowhere, as Python has it for a standard stream that is closed.
            say_lost: the line that tells of so many lost lines.
        """
        self.lost = 0
        self._out = out
        self._say_lost = say_lost
        self._waiting: SimpleQueue[str] = SimpleQueue()
        self._is_closed = False
        self._lock = threading.Lock()
        try:
            self._file = out.fileno() if out else -1
        except OSError:  # it is in memory
            self._file = -1
        self._writer = threading.Thread(target=self._work, name="log", daemon=True)
        if self._file >= 0:
            self._writer.start()

    def write(self, text: str) -> None:
        """Take whole lines; they are written soon, or lost."""
        if self._file < 0:
            if self._out:
                self._out.write(text)
        elif self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(text)
        else:
            self._lose(text.count("\n"))

    def flush(self) -> None:
        """Nothing to do; Python calls it on a standard stream."""

    def close(self) -> None:
        """Write what is left, if that takes no longer than a moment."""
        self._is_closed = True
        if self._file >= 0:
            self._waiting.put("")
            self._writer.join(_FAREWELL)

    def _lose(self, count: int) -> None:
        with self._lock:
            self.lost += count

    def _work(self) -> None:
        """Carry to the file whatever is there, all of it at once: line by line would be too slow for a busy proxy."""
        told, is_cut = 0, False
        while not self._is_closed or self._waiting.qsize():
            texts = [self._waiting.get()]
            texts += [self._waiting.get() for _ in range(self._waiting.qsize())]
            lost = self.lost
            notice = self._say_lost(lost - told) if lost > told else ""
            data = "".join(["\n" if is_cut else "", *texts, notice]).encode("ascii", errors="backslashreplace")
            begins = int(is_cut)
            written = self._put(data)
            is_cut = data[written - 1 : written] != b"\n" if written else is_cut
            if written == len(data):
                told = lost
            else:
                self._lose(data.count(b"\n", max(written, begins)) - bool(notice))

    def _put(self, data: bytes) -> int:
        """How many bytes the file takes before it fails."""
        written = 0
        with suppress(OSError):
            while written < len(data):
                try:
                    written += os.write(self._file, data[written:])
                except BlockingIOError:  # somebody else who has the file open wants no write to wait
                    time.sleep(_RETRY)
        return written
