"""The waiting on behalf of one request: for a socket, within time limits, and with an eye on the client.

Sockets towards REDCap never block. Whatever cannot go on at once (a look-up, connecting, the TLS handshake, sending,
reading) hands over to a `Waiter`, which sends signs of life to the client when they are due, notices that it has gone,
and keeps the limits. What never has to wait calls `attend`, so the limits hold even if the server never pauses.

A client that has shut down its sending side only could, by the letter of HTTP, still wait for its answer. No client of
this API does so; it is how a closed connection looks from here. So it counts as gone.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from claude_proxy.errors import ClientGone

READ, WRITE = 1, 2
_GLANCE = 0.25  # seconds between looks at the client while the upstream side never pauses
# Tells of a close behind bytes that nobody has read yet. Where it is missing, a client that sends on is not watched.
_HANG_UP: int = getattr(select, "POLLRDHUP", 0)


class OutOfTime(Exception):
    """A time limit has passed.

    Attributes:
        whole_call: whether it was that of the whole call, not that of a step.
    """

    def __init__(self, *, whole_call: bool) -> None:
        super().__init__()
        self.whole_call = whole_call


class Waiter:
    """Waits for sockets on behalf of one request, and watches its client meanwhile."""

    def __init__(
        self,
        *,
        limit: float,
        client: socket.socket | None = None,
        tick: Callable[[float], float] = lambda _: math.inf,
        clock: Callable[[], float] = time.monotonic,
        ready: Ready | None = None,
    ) -> None:
        """Begin to count the time.

        Args:
            limit: seconds for the whole call.
            client: the client's connection; while it is open, the call goes on.
            tick: called with the seconds since the beginning; sends what is due, and tells when it wants to be called
                again, in the same terms.
            clock: seconds, from any start.
            ready: asks the system; by default what it has for that.
        """
        self._limit = limit
        self._client = client
        self._client_talks = False
        self._tick = tick
        self._clock = clock
        self._ready = ready or _READY
        self._step_limit = math.inf
        self._start = clock()
        self._due = 0.0
        self._glance = _GLANCE  # the server has just heard from the client

    def renew(self, limit: float) -> None:
        """Give a further call a time limit of its own, in seconds from now."""
        self._limit = self.elapsed + limit

    @contextmanager
    def within(self, until: float) -> Iterator[None]:
        """Let what is done within have an earlier limit than the call's, in seconds since the beginning."""
        before, self._step_limit = self._step_limit, min(self._step_limit, until)
        try:
            yield
        finally:
            self._step_limit = before

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    def attend(self) -> None:
        """Do what is due, without waiting; cheap enough for every step.

        Raises:
            OutOfTime: a limit has passed.
            ClientGone: the client has closed its connection.
        """
        now = self.elapsed
        if now >= self._due:
            self._due = self._tick(now)
        if now >= min(self._limit, self._step_limit):
            raise OutOfTime(whole_call=now >= self._limit)
        if now >= self._glance:
            self._poll(None, 0, 0.0)

    def wait(self, sock: socket.socket, event: int, *, until: float = math.inf) -> None:
        """Return when a socket is ready.

        Args:
            sock: the socket, which does not block.
            event: `READ`, `WRITE` or both.
            until: a further limit, in seconds since the beginning.

        Raises:
            OutOfTime, ClientGone: as for `attend`.
        """
        while True:
            now = self.elapsed
            if now >= self._due:
                self._due = self._tick(now)
            limit = min(self._limit, self._step_limit, until)
            if self._poll(sock, event, max(min(self._due, limit) - self.elapsed, 0.0)):
                return
            if self.elapsed >= limit:
                raise OutOfTime(whole_call=limit == self._limit)

    def _poll(self, sock: socket.socket | None, event: int, timeout: float) -> bool:
        """Whether the socket is ready, now or before the time-out (seconds); looks at the client as well."""
        client = None if self._client_talks and not _HANG_UP else self._client
        if client and client.fileno() < 0:
            raise ClientGone
        ready, news, hung_up = self._ready(sock, event, client, self._client_talks, timeout)
        self._glance = self.elapsed + _GLANCE
        if hung_up:
            raise ClientGone
        if news and client:
            self._listen(client)
        return ready

    def _listen(self, client: socket.socket) -> None:
        """See whether the client has gone. If it has sent something instead, the server will read it later."""
        try:
            data = client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise ClientGone from error
        if not data:
            raise ClientGone
        self._client_talks = True


def is_ready(sock: socket.socket, event: int, timeout: float) -> bool:
    """Whether a socket is ready, now or before so many seconds have passed."""
    return _READY(sock, event, None, False, timeout)[0]


# --- what asks the system ---------------------------------------------------------------------------------------------

Ready: TypeAlias = Callable[[socket.socket | None, int, socket.socket | None, bool, float], tuple[bool, bool, bool]]
"""Whether a socket is ready for an event, whether there is news of the client, and whether it has certainly gone.

Asked of the socket, the event, the client's socket, whether the client has unread bytes, and seconds to wait.
"""

_MOST_SECONDS = 3600.0


def ready_by_poll(
    sock: socket.socket | None, event: int, client: socket.socket | None, client_talks: bool, timeout: float
) -> tuple[bool, bool, bool]:
    """By `poll`, which most systems have."""
    poll = select.poll()
    if sock:
        poll.register(sock, (select.POLLIN if event & READ else 0) | (select.POLLOUT if event & WRITE else 0))
    if client:
        poll.register(client, _HANG_UP if client_talks else select.POLLIN | _HANG_UP)
    found = dict(poll.poll(math.ceil(min(timeout, _MOST_SECONDS) * 1000)))
    of_client = found.get(client.fileno(), 0) if client else 0
    gone = of_client & (_HANG_UP | select.POLLHUP | select.POLLERR | select.POLLNVAL)
    return bool(sock and found.get(sock.fileno())), bool(of_client), bool(gone)


def ready_by_select(
    sock: socket.socket | None, event: int, client: socket.socket | None, _client_talks: bool, timeout: float
) -> tuple[bool, bool, bool]:
    """By `select`, which Windows has; there it tells of a connection that failed as an exceptional condition."""
    reading = [each for each in (sock if event & READ else None, client) if each]
    writing = [sock] if sock and event & WRITE else []
    if not reading and not writing:
        return False, False, False
    found = select.select(reading, writing, writing, min(timeout, _MOST_SECONDS))
    return any(sock in each for each in found), client in found[0], False


_READY: Ready = ready_by_poll if hasattr(select, "poll") else ready_by_select
