"""What tests of the shell and of whole sessions stand on.

`redcap` is the pretend REDCap with a model behind it that says what the test has queued; `proxy` is the proxy before
it, on a port of its own; a `Wire` is one client's connection, of which every byte can be seen. Both fixtures check at
the end what must hold in every test: no reply left over or missing, and no credential, no content and no internal
error in the journal.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import debian
import pytest
import trustme
from skips import pytest_addoption, pytest_make_collect_report, pytest_runtest_makereport

from claude_proxy.demo.model import Model, ModelFailure, ModelRequest
from claude_proxy.demo.module import ATTEMPTS
from claude_proxy.demo.simulator import ModelReply, Simulator
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.proxy.app import App
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.handler import ProxyServer
from claude_proxy.shell.upstream.client import Upstream

__all__ = ["pytest_addoption", "pytest_make_collect_report", "pytest_runtest_makereport"]

TOKEN = "0123456789ABCDEF0123456789ABCDEF"
COLLEAGUES_TOKEN = "FEDCBA9876543210FEDCBA9876543210"
TOKENS = (TOKEN, COLLEAGUES_TOKEN)
"""The API tokens that the pretend REDCap knows."""

PROMPT = "Is the patient in bed 7 better?"
"""What the messages of these tests ask: content, which no log may hold."""

PATIENCE = 60.0
"""Seconds after which a test gives up waiting for something that should happen at once."""

NOTHING: Mapping[str, str] = {}


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


NEEDS_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this never came about"
        time.sleep(0.005)


def find_program(name: str) -> Path:
    """A program that is installed, or Debian's, unpacked by scripts/debian.py; without either the test is skipped."""
    try:
        return debian.find(name)
    except debian.Missing as reason:
        pytest.skip(str(reason))


# --- The limit of each test -------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Make each worker, with what its tests start, a group of processes."""
    if hasattr(config, "workerinput") and hasattr(os, "setpgid"):
        os.setpgid(0, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    """Learn a worker's number while it can still say it."""
    node.gateway._rinfo()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Let nothing outlive a worker that was ended because of a test beyond its limit."""
    if error and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(node.gateway._rinfo().pid, signal.SIGKILL)


# --- Threads ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_thread_goes_on() -> Iterator[None]:
    """Wait for all threads that a test and its fixtures have started: they must not meddle with the next test."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + PATIENCE
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, f"these threads go on when the test is over: {left}"
        time.sleep(0.001)


# --- Processes and their signals --------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def signals_as_at_a_terminal() -> Iterator[None]:
    """Let what the tests start be interrupted, even where they themselves were started in the background or by `nohup`.

    That a signal is ignored is inherited; that it is handled is not. So the tests go on ignoring it, by a handler.
    """
    signals = (getattr(signal, name, None) for name in ("SIGINT", "SIGQUIT", "SIGHUP"))
    ignored = [number for number in signals if number and signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


_Text = TypeVar("_Text", str, bytes)


@contextmanager
def ending(process: subprocess.Popen[_Text], *, politely: bool = False) -> Iterator[subprocess.Popen[_Text]]:
    """A process that does not outlive a block, however the block ends; `Popen` alone would wait for it for ever."""
    with process:
        try:
            yield process
        finally:
            if politely:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            process.kill()


# --- The pretend REDCap -----------------------------------------------------------------------------------------------

Answer: TypeAlias = "str | ModelReply | Callable[[ModelRequest], str | ModelReply]"


class Redcap(Simulator):
    """A simulator whose model says what was queued, in order, and keeps what it was asked in `asked`."""

    def __init__(self) -> None:
        super().__init__(self._next_answer, tokens=set(TOKENS))
        self.asked: list[ModelRequest] = []
        self.unexpected: list[ModelRequest] = []
        self._answers: deque[Answer] = deque()
        self._gates: list[Gate] = []
        self._own_model: Model | None = None

    def queue(self, *answers: Answer) -> None:
        """Let the model say these next. A function is called with the request, and may take its time or fail."""
        self._answers.extend(answers)
        self._gates += [answer for answer in answers if isinstance(answer, Gate)]

    def close(self) -> None:
        """Stop, and let nobody go on waiting at a gate."""
        super().close()  # first, or what waits would still be answered
        for gate in self._gates:
            gate.open()

    def let_answer(self, model: Model) -> None:
        """Let a model of the test's own answer, in place of the queue."""
        self._own_model = model

    def queue_failure(self) -> None:
        """Let the model fail once: the module tries it three times, and then apologizes."""
        self.queue(*[_fail] * ATTEMPTS)

    @property
    def left_over(self) -> int:
        return len(self._answers)

    def _next_answer(self, request: ModelRequest) -> str | ModelReply:
        self.asked.append(request)
        if self._own_model:
            return self._own_model(request)
        try:
            answer = self._answers.popleft()
        except IndexError:
            self.unexpected.append(request)
            raise ModelFailure("the test has queued no reply for this request") from None
        return answer(request) if callable(answer) else answer


def _fail(_: ModelRequest) -> str:
    raise ModelFailure("it is down")


class Gate:
    """A model's answer that does not come before the test opens the gate."""

    def __init__(self, answer: str | ModelReply | None) -> None:
        """Keep an answer back; None is a failure."""
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._answer = answer

    def __call__(self, _: ModelRequest) -> str | ModelReply:
        self.reached.set()
        self._opened.wait(PATIENCE)
        if self._answer is None:
            raise ModelFailure("it gave up")
        return self._answer

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def redcap() -> Iterator[Redcap]:
    redcap = Redcap()
    redcap.start(look=0.005)
    yield redcap
    redcap.close()
    assert not redcap.unexpected, "the model was asked more often than the test has queued replies"
    assert not redcap.left_over, "the model was asked less often than the test has queued replies"


# --- A client's connection --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """A response, or, with an empty body, the head of one. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, type and message of a failure, if it has the form that every failure must have."""
        envelope = self.json
        assert self.headers["content-type"] == "application/json"
        assert envelope == {
            "type": "error",
            "error": {"type": envelope["error"]["type"], "message": envelope["error"]["message"]},
            "request_id": self.headers["request-id"],
        }
        assert envelope["request_id"].startswith("req_")
        return self.status, envelope["error"]["type"], envelope["error"]["message"]

    @property
    def retries(self) -> tuple[str | None, str | None]:
        """What the headers say of trying again: `x-should-retry` and `retry-after`."""
        return self.headers.get("x-should-retry"), self.headers.get("retry-after")

    @property
    def events(self) -> list[Event]:
        return read_events(self.body)

    @property
    def message(self) -> dict[str, Any]:
        """The message, whether it came whole or as a stream."""
        assert self.status == 200, self.body
        message: dict[str, Any] = self.json if self.headers["content-type"] == "application/json" else fold(self.events)
        return message


class Wire:
    """One connection of a client: what goes out is written by the test, what comes in is seen as it came."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self.socket.makefile("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def reset(self) -> None:
        """Leave without a good-bye: the other side gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = NOTHING,
        *,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send a request."""
        lines = [f"{method} {path} {version}", "host: proxy", *(f"{name}: {text}" for name, text in headers.items())]
        if body:
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def read_line(self) -> bytes:
        return self._file.readline()

    def read_head(self) -> Response:
        status_line = self.read_line()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        assert status_line.endswith(b"\r\n")
        headers: dict[str, str] = {}
        while (line := self.read_line()) != b"\r\n":
            name, colon, text = line.decode("latin-1").partition(":")
            assert colon, line
            assert name.lower() not in headers, f"two headers {name}"
            headers[name.lower()] = text.strip()
        return Response(int(status_line.split()[1]), headers)

    def read_bytes(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more
        assert len(data) == count, data
        return data

    def read_chunk(self) -> bytes:
        """Read one chunk of a chunked body; the last one is empty."""
        size = int(self.read_line(), 16)
        chunk = self.read_bytes(size)
        assert self.read_line() == b"\r\n"
        return chunk

    def read_events(self) -> Iterator[Event]:
        """Read the events of a stream one by one, as they come."""
        while chunk := self.read_chunk():
            (event,) = read_events(chunk)
            yield event

    def read_to_end(self) -> bytes:
        data = b""
        while more := self._file.read(65536):
            data += more
        return data

    def read_response(self, *, to: str = "GET") -> Response:
        """Read a whole response to a method."""
        head = self.read_head()
        if to == "HEAD":
            return head
        if head.headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        elif "content-length" in head.headers:
            body = self.read_bytes(int(head.headers["content-length"]))
        else:
            body = self.read_to_end()
        return Response(head.status, head.headers, body)

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long, not even the end."""
        return not select.select([self.socket], [], [], seconds)[0]


def is_listening(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    try:
        Wire(port).close()
    except OSError:
        return False
    return True


# --- The proxy --------------------------------------------------------------------------------------------------------


@dataclass
class Proxy:
    """A running proxy, and a client's usual ways to use it."""

    server: ProxyServer
    out: io.StringIO
    credential: Mapping[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {TOKEN}"})

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def journal(self) -> str:
        return self.out.getvalue()

    def journal_line(self, *words: str) -> str:
        """Wait for the line that holds these words: it is written when the client already has its response."""

        def find() -> str | None:
            return next((line for line in self.journal.splitlines() if all(word in line for word in words)), None)

        eventually(find)
        return find() or ""

    def connect(self) -> Wire:
        return Wire(self.server.server_port)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, **options: Any
    ) -> Response:
        """Send one request, by default with the right credential, and read the response."""
        with self.connect() as wire:
            wire.ask(method, path, body, self.credential if headers is None else headers, **options)
            response = wire.read_response(to=method)
        assert not any(token.encode() in response.body for token in TOKENS), "a response shows a token"
        return response

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return self.ask("GET", path, headers=headers)

    def post(
        self,
        changes: Mapping[str, Any] = NOTHING,
        *,
        path: str = "/v1/messages",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Ask for a message; `changes` are fields that differ from a plain request."""
        return self.ask("POST", path, message_request(changes), headers)

    def stream(self, changes: Mapping[str, Any] = NOTHING) -> Wire:
        """Ask for a stream and return the connection at once."""
        wire = self.connect()
        wire.ask("POST", "/v1/messages?beta=true", message_request({"stream": True, **changes}), self.credential)
        return wire


class StartProxy(Protocol):
    def __call__(self, **changes: Any) -> Proxy:
        """Start a proxy before `redcap`; `changes` are settings that differ from a test's usual ones."""


@pytest.fixture
def start_proxy(redcap: Redcap) -> Iterator[StartProxy]:
    with ExitStack() as stack:
        proxies: list[Proxy] = []

        def start(**changes: Any) -> Proxy:
            usual: dict[str, Any] = {"redcap_api_url": redcap.url, "redcap_api_token": Secret(TOKEN), "listen_port": 0}
            proxies.append(stack.enter_context(running_proxy(Settings(**{**usual, "log_level": "debug", **changes}))))
            return proxies[-1]

        yield start
    for proxy in proxies:
        for word in (*TOKENS, PROMPT, "internal error"):
            assert word not in proxy.journal


@pytest.fixture
def proxy(start_proxy: StartProxy) -> Proxy:
    return start_proxy()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody else knows."""
    return trustme.CA()


@pytest.fixture(scope="session")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the authority's certificate, as an institution hands it out."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@contextmanager
def running_proxy(settings: Settings, **of_app: Any) -> Iterator[Proxy]:
    out = io.StringIO()
    exchange = Exchange(settings, Upstream(settings))
    app = App(exchange, Journal(settings.log_level, settings.log_format, out), **of_app)
    with closing(exchange), running(ProxyServer(settings, app)) as server:
        yield Proxy(server, out)


@contextmanager
def running(server: ProxyServer) -> Iterator[ProxyServer]:
    """Let a server serve in a thread for the length of a `with` block."""
    with server:
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        try:
            yield server
        finally:
            server.stop(0)


def message_request(changes: Mapping[str, Any] = NOTHING) -> bytes:
    """The body of a plain request, with changes; a field that becomes None is left out."""
    body = {
        "model": "claude-sonnet-4",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": PROMPT}],
        **changes,
    }
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


# --- Events -----------------------------------------------------------------------------------------------------------

Event: TypeAlias = dict[str, Any]


def read_events(stream: bytes) -> list[Event]:
    """Read server-sent events: each has its name, one line of data of the same type, and an empty line."""
    assert stream.endswith(b"\n\n"), stream
    events: list[Event] = []
    for text in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def fold(events: list[Event]) -> dict[str, Any]:
    """Put the message together again, and insist on the order of the events."""
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    message: dict[str, Any] = {**events[0]["message"], "content": []}
    blocks: list[dict[str, Any]] = message["content"]
    is_open = False
    for event in events[1:]:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert not is_open
                assert index == len(blocks)
                blocks.append({**block, "input": ""} if block["type"] == "tool_use" else dict(block))
                is_open = True
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert is_open
                assert index == len(blocks) - 1
                key = {"input_json_delta": "input"}.get(delta["type"], delta["type"].removesuffix("_delta"))
                blocks[-1][key] += delta.get("partial_json", delta.get(key))
            case {"type": "content_block_stop", "index": index}:
                assert is_open
                assert index == len(blocks) - 1
                is_open = False
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = json.loads(blocks[-1]["input"] or "{}")
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                assert not is_open
                message |= delta
                message["usage"] = message["usage"] | usage
    return message
