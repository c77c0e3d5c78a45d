"""A server whose every move is the test's, and the faults it can be made to show.

A `Script` is what happens on one connection: reads, writes, silences, and how it ends. A `Server` plays one for each
connection. `nothing_left_over` tells whether what was tested has kept a thread or a file descriptor.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import trustme
from conftest import PATIENCE, eventually

from claude_proxy.core.http1.answer import HttpAnswer
from claude_proxy.settings.table import Settings
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.upstream.stream import Address, Network
from claude_proxy.shell.wait.waiter import Waiter

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self._over = over
        sock.settimeout(PATIENCE)

    def read_head(self) -> bytes:
        """Read the head of a request, and not a byte more."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += self._receive(1)
        return data

    def read_request(self) -> tuple[bytes, bytes]:
        """Read one request: its head and its body."""
        head = self.read_head().removesuffix(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        body = bytearray()
        while len(body) < length:
            body += self._receive(min(65536, length - len(body)))
        return head, bytes(body)

    def _receive(self, count: int) -> bytes:
        data = self.sock.recv(count)
        if not data:
            raise EOFError
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send byte by byte, each in a packet of its own."""
        for number in range(len(data)):
            self.send(data[number : number + 1])
            time.sleep(0)

    def flood(self, data: bytes) -> None:
        """Send the same again and again, until nobody takes it."""
        block = data * (65536 // len(data))
        while not self._over.is_set():
            self.send(block)

    def read_a_little(self) -> None:
        """Read some of what has come, whatever it is."""
        self._receive(1000)

    def be_silent(self) -> None:
        """Do nothing until the other side goes, or the test is over."""
        while not self._over.is_set() and not self.saw_the_end(0.02):
            pass

    def saw_the_end(self, patience: float = PATIENCE) -> bool:
        """Wait for the other side to close, and say whether it did; what it still sends is thrown away."""
        self.sock.settimeout(patience)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def reset(self) -> None:
        """Break the connection off; the other side gets a reset instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


Script: TypeAlias = Callable[[Peer], object]


class Server:
    """Plays one script for each connection, in order, the last one again and again; closes when a script ends."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None, sleep: float = 0) -> None:
        """Prepare; every connection sleeps before anything else happens on it."""
        self.connections = 0
        self.errors: list[BaseException] = []
        self._sleep = sleep
        self._scripts = scripts
        self._tls = tls
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def play(self, *scripts: Script) -> None:
        """Let further connections have other scripts."""
        self._scripts, self.connections = scripts, 0

    @property
    def playing(self) -> list[threading.Thread]:
        """The threads that play scripts, and the one that waits for connections."""
        return [thread for thread in self._threads if thread.is_alive()]

    def speak(self, tls: ssl.SSLContext | None) -> None:
        """Let further connections be secured, or not."""
        self._tls = tls

    def close_door(self) -> None:
        """Let nobody listen at the port any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def open_door(self) -> None:
        """Listen again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        """End everything; what a script was not prepared for is raised here."""
        self._over.set()
        self.close_door()
        for thread in self._threads:
            thread.join(PATIENCE)
        for error in self.errors:
            raise error

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads = self.playing
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        listener = self._listener
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                # Or what is sent just before a close is held back, and lost with it.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                script = self._scripts[min(self.connections, len(self._scripts) - 1)]
                self.connections += 1
                self._start(self._play, script, sock)

    def _play(self, script: Script, sock: socket.socket) -> None:
        try:
            with sock, suppress(EOFError, OSError):
                sock.settimeout(PATIENCE)
                time.sleep(self._sleep)
                if self._tls is None:
                    script(Peer(sock, self._over))
                    return
                with self._tls.wrap_socket(sock, server_side=True) as secured:
                    script(Peer(secured, self._over))
        except Exception as error:  # noqa: BLE001 - shown to whoever runs the test
            self.errors.append(error)


# --- what servers do --------------------------------------------------------------------------------------------------


def keep_answering(peer: Peer) -> None:
    while True:
        peer.read_request()
        peer.send(OK)


def answer_once(peer: Peer) -> None:
    """Answer, and close without having said so: what servers do to connections that were idle for too long."""
    peer.read_request()
    peer.send(OK)


def take_and_close(peer: Peer) -> None:
    peer.read_request()


def take_and_reset(peer: Peer) -> None:
    peer.read_request()
    peer.reset()


def reset_at_once(peer: Peer) -> None:
    peer.reset()


def close_at_once(_: Peer) -> None:
    pass


def stall(peer: Peer) -> None:
    """Neither read nor answer: what comes stays in the buffers of the kernel."""
    peer._over.wait(PATIENCE)


def take_and_be_silent(peer: Peer) -> None:
    peer.read_request()
    peer.be_silent()


def sends(data: bytes) -> Script:
    return lambda peer: peer.send(data)


def in_turn(*steps: Script) -> Script:
    """One thing after the other."""

    def script(peer: Peer) -> None:
        for step in steps:
            step(peer)

    return script


def answering(response: bytes, *, then: Script = close_at_once) -> Script:
    """Answer every request on a connection with the same bytes, then do something else."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(response)
        then(peer)

    return script


# --- TLS --------------------------------------------------------------------------------------------------------------


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """What a server needs to speak TLS, with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("localhost",))).configure_cert(context)
    return context


# --- what may be left over --------------------------------------------------------------------------------------------


def open_files() -> set[tuple[str, str]]:
    """What this process has open, sockets included: each descriptor, and what it leads to."""
    folder = Path("/proc/self/fd")
    found: set[tuple[str, str]] = set()
    for file in folder.iterdir() if folder.exists() else ():
        with suppress(OSError):  # it is closed by now, as that of this very listing
            found.add((file.name, str(file.readlink())))
    return found


@contextmanager
def nothing_left_over() -> Iterator[None]:
    """What runs inside must not leave a thread or an open file behind; it may take a moment to go."""
    threads, files = set(threading.enumerate()), open_files()
    yield
    eventually(lambda: not set(threading.enumerate()) - threads)
    eventually(lambda: not open_files() - files)


# --- the proxy's side -------------------------------------------------------------------------------------------------

SECRET = b"token=0123456789ABCDEF"
"""What is posted; no message may show it."""


@contextmanager
def served(
    *scripts: Script, tls: ssl.SSLContext | None = None, scheme: str | None = None, **options: Any
) -> Iterator[tuple[Upstream, Server]]:
    """A server that plays scripts, and an `Upstream` that posts to it."""
    scheme = scheme or ("https" if tls else "http")
    with Server(*scripts, tls=tls) as server, posting_to(f"{scheme}://localhost:{server.port}/api/", **options) as up:
        yield up, server


_OF_UPSTREAM = {"network", "idle_seconds", "most_idle", "stale_seconds", "max_answer"}


@contextmanager
def posting_to(url: str, **options: Any) -> Iterator[Upstream]:
    """An `Upstream` with so much patience that no limit is met unless the test wants it; options also of `Settings`."""
    its = {name: options.pop(name) for name in _OF_UPSTREAM & options.keys()}
    settings = Settings(url, **{"connect_timeout": PATIENCE, "silence_timeout": PATIENCE} | options)
    upstream = Upstream(settings, **its)
    try:
        yield upstream
    finally:
        upstream.close()


def post(upstream: Upstream, body: bytes = SECRET, **options: Any) -> HttpAnswer:
    """Post a body; the options are those of a `Waiter`."""
    return upstream.post("text/plain", lambda: body, Waiter(**{"limit": PATIENCE, **options}))


@contextmanager
def black_hole() -> Iterator[int]:
    """A port where connections are never accepted and never refused, as behind a firewall: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Resolving(Network):
    """The network of this machine, but every name has the same addresses, or needs an event to be looked up."""

    def __init__(self, *ports: int, after: threading.Event | None = None) -> None:
        self._addresses: list[Address] = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports
        ]
        self._after = after

    def look_up(self, host: str, port: int) -> list[Address]:
        if self._after:
            self._after.wait(PATIENCE)
        return self._addresses or super().look_up(host, port)
