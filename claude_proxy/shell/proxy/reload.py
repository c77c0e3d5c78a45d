"""Reads the settings again while the proxy runs: when it is asked to, and when `claude-proxy.toml` has changed.

One thread looks at the file every few seconds; modification time, size and inode tell whether it has changed, and it is
read once two looks have seen the same, for it may be half written. What can be changed while requests run is handed to
the server, which goes by it from the next request on. What cannot keeps the value it had at the start, and a line of
the journal asks for a restart. Settings that are refused leave everything as it was, and the journal says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from claude_proxy.errors import SettingsError
from claude_proxy.settings.table import Settings
from claude_proxy.shell.observe.journal import Journal

FIXED = ("listen_host", "listen_port", "max_connections", "log_format")
"""What stays as it was at the start: the socket, its open files, and the form of a log that may be half read."""

_LOOK = 2.0  # seconds between looks at the file
_Stamp: TypeAlias = tuple[int, int, int] | None


class Reloader:
    """Keeps the running proxy in step with what the settings say."""

    def __init__(
        self,
        path: Path,
        loaded: Settings,
        running: Settings,
        *,
        load: Callable[[], Settings],
        adopt: Callable[[Settings], None],
        journal: Journal,
        look: float = _LOOK,
    ) -> None:
        """Take note of what holds now.

        Args:
            path: the file to watch; there need not be one.
            loaded: the settings as they were read.
            running: the settings as they are in use, which may have been fitted to the machine.
            load: reads them again.
            adopt: makes the proxy go by new ones; raises, and changes nothing, where they cannot be used.
            journal: where it is said what has happened.
            look: seconds between looks at the file.
        """
        self._path = path
        self._first = self._loaded = loaded
        self._fixed = {name: getattr(running, name) for name in FIXED}
        self._waiting: list[str] = []
        self._load = load
        self._adopt = adopt
        self._journal = journal
        self._look = look
        self._stamp = self._seen = _stamp(path)
        self._orders: SimpleQueue[bool] = SimpleQueue()

    def start(self) -> None:
        """Begin to watch, in a thread that ends with the process or on `stop`."""
        threading.Thread(target=self._watch, name="reload", daemon=True).start()

    def ask(self) -> None:
        """Have the settings read again now; may be called by a signal handler, in whatever it interrupts."""
        self._orders.put(True)

    def stop(self) -> None:
        """Watch no longer."""
        self._orders.put(False)

    def _watch(self) -> None:
        while True:
            try:
                go_on = self._orders.get(timeout=self._look)
            except Empty:
                if self._has_changed():
                    self.reload()
            else:
                if not go_on:
                    return
                self._stamp = self._seen = _stamp(self._path)
                self.reload()

    def _has_changed(self) -> bool:
        """Whether the file is another than when it was last read, and has been so for two looks."""
        stamp = _stamp(self._path)
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._stamp:
            return False
        self._stamp = stamp
        return True

    def reload(self) -> None:
        """Read the settings again and go by them; where they are refused, all stays as it was."""
        try:
            loaded = self._load()
            self._adopt(replace(loaded, **self._fixed))
        except (SettingsError, OSError) as error:
            self._journal.notice("error", "settings refused, the old ones stay", reason=str(error))
            return
        changed = [name for name in _differences(self._loaded, loaded) if name not in FIXED]
        waiting = [name for name in _differences(self._first, loaded) if name in FIXED]
        warnings = set(loaded.warnings) - set(self._loaded.warnings)
        is_news, self._loaded, self._waiting = waiting != self._waiting, loaded, waiting
        self._journal.notice("info", "settings read again", changed=_names(changed) or "nothing")
        if waiting and is_news:
            self._journal.notice(
                "warning", "restart the proxy for these settings to take effect", needed=_names(waiting)
            )
        for sentence in sorted(warnings):
            self._journal.notice("warning", sentence)


def _differences(before: Settings, after: Settings) -> list[str]:
    return [each.name for each in fields(Settings) if getattr(before, each.name) != getattr(after, each.name)]


_TABLES = {"model_servers": "[models]", "alias_facts": "[aliases]", "servers": "[servers]", "exposed_file": ""}


def _names(names: list[str]) -> str:
    """Settings as their reader knows them; never their values."""
    return ", ".join(dict.fromkeys(filter(None, (_TABLES.get(name, name.upper()) for name in names))))


def _stamp(path: Path) -> _Stamp:
    """What differs when a file has been changed or replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
