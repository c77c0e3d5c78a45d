"""One POST to REDCap, over connections that are kept for the next.

How a connection is made, and what is said of failures, stands in `route`; what goes over it in `connection`.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from claude_proxy import __version__
from claude_proxy.core.http1.answer import MAX_BODY, HttpAnswer
from claude_proxy.core.http1.grammar import Malformed
from claude_proxy.settings.table import Settings
from claude_proxy.shell.upstream import forward_proxy
from claude_proxy.shell.upstream.connection import Connection, RequestParts
from claude_proxy.shell.upstream.route import Route
from claude_proxy.shell.upstream.stream import Network
from claude_proxy.shell.wait.waiter import OutOfTime, Waiter

_WITH_HEAD = 64 * 1024  # bytes of a body that go out with the head: a small request takes one call, and one packet


class Upstream:
    """Posts to one address, over connections that are kept for the next call."""

    def __init__(
        self,
        settings: Settings,
        network: Network | None = None,
        *,
        idle_seconds: float = 30.0,
        most_idle: int = 32,
        stale_seconds: float = 5.0,
        max_answer: int = MAX_BODY,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            settings: where REDCap is, and how to get there.
            network: as for `Route`.
            idle_seconds: how long a connection is kept for the next call.
            most_idle: how many are kept.
            stale_seconds: a failure this soon means that the server had closed a kept connection; after that it may be
                at work on the request.
            max_answer: bytes of an answer's body.

        Raises:
            OSError, SettingsError: as for `Route`.
        """
        self.route = route = Route(settings, network)
        self._idle = IdleConnections(idle_seconds, most_idle)
        self._stale_seconds = stale_seconds
        self._max_answer = max_answer
        # A proxy that is asked for an http address is handed all of it, and has to be told every time who asks.
        self._asked = None if route.secured else route.proxy
        target, introduction = route.path, ""
        if self._asked:
            target, introduction = f"http://{route.authority}{route.path}", self._asked.header
        self._head_begins = (
            f"POST {target} HTTP/1.1\r\nHost: {route.authority}\r\nUser-Agent: claude-proxy/{__version__}\r\n"
            f"Accept: application/json\r\nAccept-Encoding: identity\r\n{introduction}"
        )

    def post(
        self, content_type: str, write: Callable[[], bytes], waiter: Waiter, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Post a body and return the answer, whatever its status.

        Args:
            content_type: of the body.
            write: makes the body, and makes it again if a kept connection turns out to be closed; so the body takes no
                memory while the model thinks.
            waiter: waits for the connection, within the call's limits.
            headers: further ones.

        Raises:
            UpstreamUnreachable: the address cannot be reached, or the connection broke.
            UpstreamMisconfigured: what is there cannot be talked to.
            UpstreamTimeout: a time limit has passed.
            ClientGone: the client has gone.
        """
        further = "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())

        def parts() -> Iterator[bytes | memoryview]:
            body = write()
            head = f"{self._head_begins}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{further}\r\n"
            yield head.encode() + body[:_WITH_HEAD]
            yield memoryview(body)[_WITH_HEAD:]

        if kept := self._idle.take():
            with contextlib.suppress(_StaleConnection):
                return self._exchange(kept, parts(), waiter, was_kept=True)
        return self._exchange(self.route.connect(waiter), parts(), waiter)

    @property
    def kept(self) -> int:
        """How many connections wait for the next call."""
        return len(self._idle)

    def close(self) -> None:
        """Close the connections that are kept, and keep none from now on."""
        self._idle.close()

    def _exchange(
        self, connection: Connection, request: RequestParts, waiter: Waiter, *, was_kept: bool = False
    ) -> HttpAnswer:
        reusable = False
        try:
            silence = self.route.settings.silence_timeout
            answer, reusable = connection.exchange(request, waiter, silence=silence, max_body=self._max_answer)
        except (OutOfTime, OSError, Malformed) as error:
            if was_kept and not isinstance(error, OutOfTime) and connection.failed_within(self._stale_seconds):
                raise _StaleConnection from None
            raise self.route.explain_exchange(error, waiter, has_answered=connection.has_answered) from None
        finally:
            if reusable:
                self._idle.give_back(connection)
            else:
                connection.close()
        if answer.status == 407 and self._asked:
            raise forward_proxy.refusal(self._asked, 407, self.route.where)
        return answer


class _StaleConnection(Exception):
    """A kept connection had been closed by the server before it took the request."""


class IdleConnections:
    """Connections that wait for the next call. Any thread may take one, or give one back."""

    def __init__(self, seconds: float, most: int) -> None:
        """Keep each connection for so many seconds, and no more than `most`."""
        self._seconds = seconds
        self._most = most
        self._kept: list[tuple[float, Connection]] = []  # when each was given back; the most recent is the last
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> Connection | None:
        """The most recent one that is still open."""
        while True:
            with self._lock:
                if not self._kept:
                    return None
                since, connection = self._kept.pop()
            if time.monotonic() - since < self._seconds and connection.is_open():
                return connection
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keep one, and close those that are too old, or too many."""
        now = time.monotonic()
        with self._lock:
            self._kept.append((now, connection))
        self._drop(now - self._seconds)

    def close(self) -> None:
        """Close all, and keep none from now on."""
        self._most = 0
        self._drop(math.inf)

    def _drop(self, until: float) -> None:
        """Close those that were given back before then, and the oldest of those that are too many."""
        with self._lock:
            old = sum(since <= until for since, _ in self._kept)
            surplus = max(len(self._kept) - self._most, old)
            dropped, self._kept[:surplus] = self._kept[:surplus], []
        for _, each in dropped:
            each.close()
