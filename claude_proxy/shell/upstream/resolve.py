"""Looking up the address of one name without holding up anything else.

`getaddrinfo` cannot be interrupted and may take as long as the name servers like. So it runs in a thread of its own,
while the request that needs the answer waits as it does for any socket: a look-up is over when the other end of its
socket pair closes. Requests share the look-up that is running; one that hangs is joined by at most three more.
"""

from __future__ import annotations

import socket
import threading
import time

from claude_proxy.shell.upstream.stream import Address, Network
from claude_proxy.shell.wait.waiter import READ, Waiter

MOST_THREADS = 4


class Resolver:
    """Finds the addresses of one host and port."""

    def __init__(self, host: str, port: int, *, patience: float, network: Network | None = None) -> None:
        """Prepare.

        Args:
            host: a name or an IP address.
            port: the port.
            patience: seconds after which a look-up is taken to hang, and another may be started beside it.
            network: whom to ask; by default the machine's.
        """
        self._host = host
        self._port = port
        self._patience = patience
        self._network = network or Network()
        self._lock = threading.Lock()
        self._running: list[_LookUp] = []

    def addresses(self, waiter: Waiter) -> list[Address]:
        """The addresses, best first.

        Raises:
            socket.gaierror, UnicodeError: there is no such name, or no name server answers.
            OSError: no look-up can be started.
            OutOfTime, ClientGone: as the waiter finds.
        """
        try:
            return self._ask(numeric=True)  # an IP address needs no asking
        except (socket.gaierror, UnicodeError):
            pass
        look_up = self._join()
        try:
            waiter.wait(look_up.over, READ)
            return look_up.result()
        finally:
            self._leave(look_up)

    def _ask(self, *, numeric: bool = False) -> list[Address]:
        return self._network.look_up(self._host, self._port, numeric=numeric)

    def _join(self) -> _LookUp:
        """The look-up that is running, or a new one."""
        with self._lock:
            newest = self._running[-1] if self._running else None
            hangs = newest is not None and newest.age >= self._patience
            if newest is not None and (not hangs or len(self._running) >= MOST_THREADS):
                newest.users += 1
                return newest
            look_up = _LookUp()
            try:
                threading.Thread(target=self._run, args=(look_up,), name="look-up", daemon=True).start()
            except RuntimeError as error:
                look_up.close()
                raise OSError("no thread can be started") from error
            self._running.append(look_up)
            return look_up

    def _run(self, look_up: _LookUp) -> None:
        try:
            look_up.found = self._ask()
        except (OSError, UnicodeError) as error:
            look_up.failure = error.with_traceback(None)
        finally:
            with self._lock:
                self._running.remove(look_up)
            look_up.end()
            self._leave(look_up)

    def _leave(self, look_up: _LookUp) -> None:
        with self._lock:
            look_up.users -= 1
            if look_up.users == 0:
                look_up.close()


class _LookUp:
    """One question to the name servers, and who waits for its answer."""

    def __init__(self) -> None:
        self.over, self._running = socket.socketpair()  # `over` is readable from when the other end is shut down
        self.users = 2  # the thread, and the request that began it
        self.found: list[Address] = []
        self.failure: OSError | UnicodeError | None = None
        self._since = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._since

    def end(self) -> None:
        """Wake those who wait."""
        self._running.close()

    def result(self) -> list[Address]:
        """The addresses.

        Raises:
            OSError, UnicodeError: the look-up failed.
        """
        if self.failure:
            raise self.failure
        return self.found

    def close(self) -> None:
        self.over.close()
        self._running.close()
