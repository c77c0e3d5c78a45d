"""Looking up the address of one name without holding up anything else.

`getaddrinfo` cannot be interrupted and may take as long as the name servers like. So it runs in a thread of its own,
while the request that needs the answer waits as it does for any socket. Requests share the look-up that is running; one
that hangs is joined by at most three more.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field

from claude_proxy.shell.upstream.stream import Address, Network
from claude_proxy.shell.wait.signal import Signal
from claude_proxy.shell.wait.waiter import Waiter

MOST_THREADS = 4


class Resolver:
    """Finds the addresses of one host and port."""

    def __init__(self, host: str, port: int, *, patience: float, network: Network) -> None:
        """Prepare; a look-up is taken to hang after `patience` seconds, and then another may be started beside it."""
        self._host = host
        self._port = port
        self._patience = patience
        self._network = network
        self._lock = threading.Lock()
        self._running: list[_LookUp] = []

    def addresses(self, waiter: Waiter) -> list[Address]:
        """The addresses, best first.

        Raises:
            socket.gaierror, UnicodeError: there is no such name, or no name server answers.
            OSError: no look-up can be started.
            OutOfTime, ClientGone: as the waiter finds.
        """
        with suppress(ValueError):
            ipaddress.ip_address(self._host)
            return self._ask()  # at once: no name server has to be asked
        with closing(Signal()) as over:
            look_up = self._join(over)
            over.wait(waiter)
        if look_up.failure:
            raise look_up.failure
        return look_up.found

    def _ask(self) -> list[Address]:
        return self._network.look_up(self._host, self._port)

    def _join(self, over: Signal) -> _LookUp:
        """The look-up that is running, or a new one; `over` will tell when it has ended."""
        with self._lock:
            newest = self._running[-1] if self._running else None
            if newest and (time.monotonic() - newest.since < self._patience or len(self._running) >= MOST_THREADS):
                newest.waiting.append(over)
                return newest
            look_up = _LookUp([over])
            try:
                threading.Thread(target=self._run, args=(look_up,), name="look-up", daemon=True).start()
            except RuntimeError as error:
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
            for signal in look_up.waiting:  # nobody joins any more
                signal.give()


@dataclass(eq=False)
class _LookUp:
    """One question to the name servers, and its answer."""

    waiting: list[Signal]
    found: list[Address] = field(default_factory=list)
    failure: OSError | UnicodeError | None = None
    since: float = field(default_factory=time.monotonic)
