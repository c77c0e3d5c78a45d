"""The clients' connections: how many there may be, what each is about, and how all of them end."""

from __future__ import annotations

import contextlib
import enum
import errno
import socket
import threading
import time
from collections.abc import Callable

from claude_proxy.errors import ProxyOverloaded, ShuttingDown
from claude_proxy.shell.server.incoming import discard_what_came

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

_FILES_PER_CONNECTION = 2  # the client's, and REDCap's
_OTHER_FILES = 64
_PARTING_SECONDS = 2.0


class ConnectionState(enum.Enum):
    """What a connection is about."""

    IDLE = enum.auto()
    READING = enum.auto()
    ANSWERING = enum.auto()


class Connections:
    """All connections that were let in, each served by a thread of its own.

    Attributes:
        stopping: whether no further request is taken.
        out_of_time: whether running requests must end now.
    """

    def __init__(self, limit: int, farewell_seconds: float) -> None:
        """Allow `limit` at once; after the time of grace, last words may take `farewell_seconds`."""
        self._limit = limit
        self._farewell_seconds = farewell_seconds
        self._states: dict[socket.socket, ConnectionState] = {}  # in the order of the last change
        self._changed = threading.Condition()
        self.stopping = self.out_of_time = False

    def __len__(self) -> int:
        return len(self._states)

    def let_in(self, connection: socket.socket) -> bool:
        """Take a new connection, if need be in place of the one that has been idle for longest."""
        with self._changed:
            if self.stopping or (len(self._states) >= self._limit and not self._hang_up(most=1)):
                return False
            self._states[connection] = ConnectionState.IDLE
            return True

    def set_state(self, connection: socket.socket, state: ConnectionState) -> bool:
        """Note what a connection is about now; False where it must end instead, without a word."""
        with self._changed:
            if self._states.pop(connection, None) is None:
                return False
            self._states[connection] = state
            return not (self.stopping and state is ConnectionState.IDLE)

    def leave(self, connection: socket.socket) -> None:
        """Forget a connection that is closed."""
        with self._changed:
            self._states.pop(connection, None)
            self._changed.notify_all()

    def make_room(self) -> None:
        """Hang up on the connection that has been idle for longest, if there is one."""
        with self._changed:
            self._hang_up(most=1)

    def raise_if_stopped(self) -> None:
        """Raise `ShuttingDown` when the proxy is being stopped and the time of grace has passed."""
        if self.out_of_time:
            raise ShuttingDown

    def stop(self, grace: float) -> int:
        """End all: the idle at once, the others when they have been answered.

        Args:
            grace: seconds after which those that are still not answered are told so.

        Returns:
            How many were still open then, and are cut.
        """
        with self._changed:
            self.stopping = True
            self._hang_up()
            self._changed.wait_for(lambda: not self._states, grace)
            self.out_of_time = True
            for connection, state in self._states.items():
                if state is ConnectionState.READING:  # wakes its thread, which tells the client
                    _shut(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._states, self._farewell_seconds)
            return len(self._states)

    def _hang_up(self, most: int | None = None) -> int:
        """Wake the threads of idle connections, longest idle first, so that they end; how many."""
        chosen = [connection for connection, its in self._states.items() if its is ConnectionState.IDLE][:most]
        for connection in chosen:
            del self._states[connection]
            _shut(connection, socket.SHUT_RDWR)
        return len(chosen)


class Budget:
    """Memory for the bodies of all requests that are being served; many threads take from it.

    Attributes:
        most: bytes that may be held at once; what is taken already stays taken when it changes.
        taken: bytes that are held at present.
        lock: for whoever changes `taken`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.lock = threading.Lock()

    def share(self) -> Share:
        """What one request takes until the end of its block, by calls with a number of bytes; below 0 gives back."""
        return Share(self)


class Share:
    """One request's share of a `Budget`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> Callable[[int], None]:
        return self._take

    def __exit__(self, *_: object) -> None:
        with self._budget.lock:
            self._budget.taken -= self._taken

    def _take(self, count: int) -> None:
        budget = self._budget
        with budget.lock:
            if count > 0 and budget.taken + count > budget.most:
                raise ProxyOverloaded(
                    "The requests that the proxy serves at present are too large together (MAX_BODIES_MB). Try again "
                    "in a few seconds."
                )
            budget.taken += count
        self._taken += count


class Parting:
    """Connections that were not let in: each has been told why, and has a moment to read it.

    A connection that is closed while unread bytes wait is reset, and the client loses the response. So the accepting
    thread keeps it for a moment, reading what comes, and never waits.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._leaving: dict[socket.socket, float] = {}

    def add(self, connection: socket.socket, last_word: bytes) -> None:
        """Say the last word, and part."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(last_word)  # the buffer of a new connection takes it whole
        _shut(connection, socket.SHUT_WR)
        self._leaving[connection] = time.monotonic() + _PARTING_SECONDS
        if len(self._leaving) > self._most:
            self._close(next(iter(self._leaving)))

    def work(self) -> None:
        """Read what has come, and close what is finished; to be called every now and then."""
        now = time.monotonic()
        for connection, deadline in list(self._leaving.items()):
            if now >= deadline or discard_what_came(connection):
                self._close(connection)

    def close(self) -> None:
        """Close all."""
        for connection in list(self._leaving):
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._leaving[connection]
        connection.close()


def _shut(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(how)


def forbid_core_dumps() -> None:
    """See to it that a crash of the interpreter does not write prompts to disk."""
    if resource is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_files(connections: int) -> int:
    """Raise this process's limit of open files, as far as it may, for so many connections.

    Returns:
        How many connections it is enough for, at most `connections`.
    """
    if resource is None:
        return connections
    wanted = connections * _FILES_PER_CONNECTION + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (soft - _OTHER_FILES) // _FILES_PER_CONNECTION))


def explain_listening(error: Exception) -> str:
    """Why an address cannot be listened on, and what to do."""
    reasons = {
        errno.EADDRINUSE: "another program listens there, perhaps a proxy that is still running. Stop it, or set "
        "LISTEN_PORT to another number",
        errno.EACCES: "ports below 1024 need special rights. Set LISTEN_PORT to a larger number",
    }
    return reasons.get(
        getattr(error, "errno", None) or 0, "the address is not one of this machine. Set LISTEN_HOST=127.0.0.1"
    )
