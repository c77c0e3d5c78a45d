"""No content anywhere: marked prompts, replies, names and tokens go through the proxy, and nothing of them stays.

Whatever a request or a reply holds bears the `MARK`. All routes, errors, retries, time-outs and crashes of a real
process are gone through, and then everything is searched that outlives a request or is seen by others: the log, the
metrics, the status page with its events, error bodies, files, and what the system shows of the process. The last tests
prove that the search would find something.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from conftest import NOTHING, PATIENCE, Gate, Proxy, Redcap, Response, StartProxy, Wire, eventually, read_events

from claude_proxy.demo.pages import CannedResponse
from claude_proxy.demo.simulator import ModelReply
from claude_proxy.shell.observe.journal import Journal, Record
from claude_proxy.shell.proxy.exchange import Exchange, PreparedRequest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tests" / "shell"))

import faults  # noqa: E402 - the harness of the shell's tests, which is not on the path of these

pytestmark = pytest.mark.e2e

MARK = "Kanarienvogel"
PROMPT, SYSTEM, FILE, RESULT = f"{MARK}Prompt", f"{MARK}System", f"{MARK}File", f"{MARK}Result"
TOOL, MODEL, FIELD, PATH, HEADER = f"{MARK}Tool", f"{MARK}Model", f"{MARK}Field", f"{MARK}Path", f"{MARK}Header"
REPLY, UPSTREAM = f"{MARK}Reply", f"{MARK}Upstream"
TOKEN, OTHER_TOKEN = f"{MARK}TokenA", f"{MARK}TokenB"

ALIEN = (REPLY, UPSTREAM, TOKEN, OTHER_TOKEN, PROMPT, SYSTEM, FILE, RESULT)
"""What no error body may show. A name that the client gave to a model, a tool or a field is its own to be told of."""

BEARER = {"authorization": f"Bearer {TOKEN}"}

CRASHES = '''
"""Makes the proxy fail where the test wants it to; Python runs this at its start."""
from claude_proxy.shell.proxy import app, exchange

prepare, call = exchange.Exchange.prepare, app.App.__call__


def stumble(self, *asked, **more):
    prepared = prepare(self, *asked, **more)
    if "crash" in prepared.request.model:
        raise ValueError(prepared)
    return prepared


def fall(self, request, response):
    if "crash" in request.path:
        raise RuntimeError(request.body)
    call(self, request, response)


exchange.Exchange.prepare, app.App.__call__ = stumble, fall
'''


def get(wire: Wire, path: str, headers: Mapping[str, str]) -> Response:
    """Look at a page as a browser on this machine does."""
    lines = {"host": "localhost", **headers}
    head = "".join(f"{name}: {text}\r\n" for name, text in lines.items())
    wire.send(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    return wire.read_response()


# --- the search -------------------------------------------------------------------------------------------------------


def leaks(places: Mapping[str, str | bytes]) -> list[str]:
    """The places that show the mark, in whatever case."""
    needle = MARK.lower().encode()
    texts = {place: text.encode() if isinstance(text, str) else text for place, text in places.items()}
    return [f"{place}: {text!r}" for place, text in texts.items() if needle in text.lower()]


class Site(Protocol):
    """A running proxy, in whatever process."""

    def connect(self) -> Wire: ...

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response: ...


def views(site: Site) -> dict[str, bytes]:
    """What can be looked at while the proxy runs."""
    pages = {
        "page": site.get("/", {"accept": "text/html", "host": "localhost"}),
        "metrics": site.get("/metrics"),
        "OpenMetrics": site.get("/metrics", {"accept": "application/openmetrics-text"}),
        "health": site.get("/health"),
        "models": site.get("/v1/models", BEARER),
    }
    shown = {name: str(page.headers).encode() + page.body for name, page in pages.items()}
    assert b"claude_proxy_requests_total" in shown["metrics"], "the metrics are not shown"
    assert b"<table" in shown["page"], "the page is not shown"
    with site.connect() as wire:
        wire.send(b"GET /status/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert wire.read_head().status == 200
        shown["events"] = wire.read_chunk()
    return shown


# --- a real process ---------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """`python -m claude_proxy`, in an empty folder and with an empty one for temporary files."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0
    answers: list[Response] = field(default_factory=list)

    @property
    def written(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in ("stdout", "stderr")}

    @property
    def log(self) -> str:
        return self.written["stderr"].decode()

    def connect(self) -> Wire:
        return Wire(self.port)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        with self.connect() as wire:
            return get(wire, path, headers or {})

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = BEARER, **options: Any
    ) -> Response:
        with self.connect() as wire:
            wire.ask(method, path, body, headers, **options)
            self.answers.append(wire.read_response(to=method))
        return self.answers[-1]

    def post(self, changes: Mapping[str, Any] = NOTHING, **options: Any) -> Response:
        return self.ask("POST", "/v1/messages", request(changes), **options)

    def send_raw(self, data: bytes) -> Response:
        with self.connect() as wire:
            wire.send(data)
            self.answers.append(wire.read_response())
        return self.answers[-1]

    @property
    def files(self) -> list[Path]:
        """What the process has made: in its working folder, its home, and the one for temporary files."""
        return [path for name in ("work", "home", "tmp") for path in (self.folder / name).rglob("*")]

    @property
    def system(self) -> dict[str, bytes]:
        """What the system shows of it and of its children to every user, and of the children to their owner."""
        proc = Path(f"/proc/{self.process.pid}")

        def of_threads(name: str) -> bytes:
            found = []
            for path in proc.glob(f"task/*/{name}"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
                    found.append(path.read_bytes())
            return b" ".join(found)

        children = of_threads("children")
        return {
            "arguments": (proc / "cmdline").read_bytes(),
            "title": of_threads("comm"),
            "environments of children": b"".join(
                Path(f"/proc/{number}/environ").read_bytes() for number in children.decode().split()
            ),
        }


@contextmanager
def running(folder: Path, redcap_url: str, **changes: str) -> Iterator[Process]:
    for name in ("work", "home", "tmp", "crashes"):
        (folder / name).mkdir(parents=True)
    (folder / "crashes" / "sitecustomize.py").write_text(CRASHES)
    environ = {
        "PATH": os.defpath,
        "PYTHONPATH": f"{folder / 'crashes'}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "LISTEN_PORT": "0",
        "REDCAP_API_URL": redcap_url,
        "LOG_LEVEL": "debug",
        **changes,
    }
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        command = [sys.executable, "-m", "claude_proxy"]
        process = subprocess.Popen(command, cwd=folder / "work", env=environ, stdout=out, stderr=err)
    killer = threading.Timer(3 * PATIENCE, process.kill)
    killer.start()
    try:
        started = Process(process, folder)
        eventually(lambda: "listens on" in started.log or process.poll() is not None)
        found = re.search(r"listens on http://127\.0\.0\.1:(\d+) ", started.log)
        assert found, started.log
        started.port = int(found[1])
        yield started
    finally:
        killer.cancel()
        process.kill()
        process.wait()


# --- what is sent -----------------------------------------------------------------------------------------------------

TOOLS = [
    {
        "name": TOOL,
        "description": f"{MARK}Description",
        "input_schema": {"type": "object", "properties": {FIELD: {"type": "string"}}, "required": [FIELD]},
    }
]
CALL = (
    f'{REPLY}\n<function_calls>\n<invoke name="{TOOL}">\n<parameter name="{FIELD}">/{FILE}</parameter>\n'
    "</invoke>\n</function_calls>"
)
CONVERSATION = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {FIELD: FILE}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": RESULT}]},
]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "additionalProperties": False}
DEMAND = {
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "messages": CONVERSATION[:1],
    "tools": [],
}


def request(changes: Mapping[str, Any] = NOTHING) -> bytes:
    body = {
        "model": "claude-sonnet-4",
        "max_tokens": 1000,
        "system": SYSTEM,
        "tools": TOOLS,
        "messages": CONVERSATION,
        "metadata": {"user_id": f"{MARK}User"},
        f"{MARK}Unknown": f"{MARK}Value",
    }
    return json.dumps({**body, **changes}).encode()


MARKED_HEADERS = {
    "x-claude-code-session-id": f"{HEADER} with blanks",
    "x-claude-code-agent-id": f"{HEADER}/slash",
    "traceparent": HEADER,
    "anthropic-beta": f"{HEADER},{HEADER}2",
    "anthropic-version": HEADER,
    "user-agent": HEADER,
    "referer": f"https://{HEADER}/",
    "cookie": HEADER,
    "origin": f"https://{HEADER}",
    "x-forwarded-for": HEADER,
    "accept": HEADER,
    "x-app": HEADER,
    f"x-{HEADER}": HEADER,
}

# Requests that are refused before anything is sent upstream.
REFUSED: dict[str, Callable[[Process], Response]] = {
    "no JSON": lambda it: it.ask("POST", "/v1/messages", f'{{"model": {PROMPT}'.encode()),
    "no UTF-8": lambda it: it.ask("POST", "/v1/messages", PROMPT.encode() + b"\xff"),
    "a lone surrogate": lambda it: it.ask("POST", "/v1/messages", b'{"model": "%b\\ud800"}' % PROMPT.encode()),
    "no messages": lambda it: it.post({"messages": PROMPT}),
    "a role that there is not": lambda it: it.post({"messages": [{"role": "user!", "content": PROMPT}]}),
    "a block that there is not": lambda it: it.post(
        {"messages": [{"role": "user", "content": [{"type": "x", "text": PROMPT}]}]}
    ),
    "a prompt that is too long": lambda it: it.post({"system": f"{SYSTEM} " * 300_000}),
    "nothing at this path": lambda it: it.ask("GET", f"/{PATH}?{PATH}={PATH}"),
    "no such model": lambda it: it.ask("GET", f"/v1/models/{PATH}"),
    "another method": lambda it: it.ask("PATCH", f"/v1/models/{PATH}"),
    "no credential": lambda it: it.post(headers=MARKED_HEADERS),
    "a path with a token": lambda it: it.ask("POST", f"/v1/messages/{OTHER_TOKEN}"),
    "a bad request line": lambda it: it.send_raw(f"{PATH} {PATH} {PATH} {PATH}\r\n\r\n".encode()),
    "a bad header": lambda it: it.send_raw(f"GET / HTTP/1.1\r\nhost: a\r\n{HEADER}\r\n\r\n".encode()),
    "a bad length": lambda it: it.send_raw(f"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: {HEADER}\r\n\r\n".encode()),
    "a bad chunk": lambda it: it.send_raw(
        b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + f"{PROMPT}\r\n".encode()
    ),
    "a body that is no gzip": lambda it: it.post(headers={**BEARER, "content-encoding": "gzip"}),
    "a packed body that is no JSON": lambda it: it.ask(
        "POST", "/v1/messages", gzip.compress(PROMPT.encode()), {**BEARER, "content-encoding": "gzip"}
    ),
}

# What stands between the proxy and REDCap, and says something else.
HTML = f"<title>{UPSTREAM}</title>"
PAGES = [
    CannedResponse(200, f'{HTML}<form action="/{UPSTREAM}"><input type="password">', "text/html"),
    CannedResponse(302, HTML, "text/html", {"Location": f"https://{UPSTREAM}.example/?{UPSTREAM}"}),
    CannedResponse(302, HTML, "text/html", {"Location": f"/{UPSTREAM}/login"}),
    CannedResponse(403, f"{HTML}Request Rejected. Your support ID is {UPSTREAM}", "text/html"),
    CannedResponse(503, f"{HTML}maintenance", "text/html", {"Retry-After": UPSTREAM}),
    *(CannedResponse(status, HTML, f"text/html; x={UPSTREAM}") for status in (200, 400, 404, 418, 500, 502, 504)),
    *(CannedResponse(status, json.dumps({"error": UPSTREAM})) for status in (200, 400, 401, 403, 413, 429, 500)),
    CannedResponse(200, f'{{"content": [{{"type": "text", "text": "{UPSTREAM}'),
    CannedResponse(200, json.dumps({"content": [{"type": UPSTREAM, "text": 1}], UPSTREAM: UPSTREAM})),
    CannedResponse(200, json.dumps([UPSTREAM])),
    CannedResponse(200, HTML, f"{UPSTREAM}/{UPSTREAM}"),
]

ANSWER = b'{"content": [{"type": "text", "text": "%b"}]}' % UPSTREAM.encode()
FAULTS: list[faults.Script] = [
    *(faults.close_at_once, faults.reset_at_once, faults.take_and_close, faults.take_and_reset),
    faults.sends(f"{UPSTREAM} is no HTTP\r\n\r\n".encode()),
    *(
        faults.answering(head.replace(b"MARK", UPSTREAM.encode()) + ANSWER)
        for head in (
            b"HTTP/1.1 2OO MARK\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nMARK\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nContent-Length: MARK\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nContent-Length: 999999\r\nX-MARK: MARK\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nTransfer-Encoding: MARK\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nTransfer-Encoding: chunked\r\n\r\nMARK\r\n",
            b"HTTP/1.1 200 MARK\r\nContent-Encoding: MARK\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 200 MARK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 599 MARK\r\nContent-Type: MARK/MARK\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 101 MARK\r\nUpgrade: MARK\r\n\r\n",
        )
    ),
    faults.in_turn(
        lambda peer: peer.read_request(), lambda peer: peer.send(b"HTTP/1.1 200 OK\r\n" + UPSTREAM.encode())
    ),
    faults.take_and_be_silent,
]


# --- the ways -------------------------------------------------------------------------------------------------------


def go_through_answers(process: Process, redcap: Redcap) -> None:
    """All that ends well, or nearly: answers, calls, repairs, continuations, counts, models."""
    for stream in (False, True):
        redcap.queue(REPLY, CALL, CALL.replace(TOOL, f"{TOOL}Wrong"), CALL)
        assert REPLY in process.post({"stream": stream}, headers={**BEARER, **MARKED_HEADERS}).body.decode()
        assert process.post({"stream": stream}).message["stop_reason"] == "tool_use"
        assert process.post({"stream": stream}).message["stop_reason"] == "tool_use", "a repair"
        redcap.queue(ModelReply(CALL[:-60], 9, 8192), ModelReply(CALL[-60:], 9, 20))
        assert process.post({"stream": stream, "max_tokens": 50_000}).status == 200, "a continuation"
        redcap.queue(CALL.replace(TOOL, f"{TOOL}Wrong"))
        redcap.queue_failure()
        assert process.post({"stream": stream}).status == 200, "a repair that fails"
    assert process.ask("POST", "/v1/messages/count_tokens?beta=true", request()).status == 200
    redcap.aliases |= {MODEL.lower(), MODEL}
    redcap.queue(REPLY)
    process.post({"model": MODEL})


def has_failed(answer: Response) -> bool:
    """Whether it is an error, be it in a stream that has begun."""
    return answer.status >= 400 or (b"event:" in answer.body and read_events(answer.body)[-1]["type"] == "error")


def go_through_failures(process: Process, redcap: Redcap) -> None:
    """All that fails: refused, crashed, apologized for, answered by somebody else."""
    for name, refuse in REFUSED.items():
        assert 400 <= refuse(process).status < 500, name
    for stream in (False, True):
        assert process.post({"stream": stream, "model": f"{MODEL}-crash"}).error[0] == 500
        assert has_failed(process.post({"stream": stream, "model": f"{MODEL}-unheard-of"}))
        redcap.queue_failure()
        assert has_failed(process.post({"stream": stream}))
        for page in PAGES:
            redcap.intercept = lambda _, page=page: page
            assert has_failed(process.post({"stream": stream})), page
        redcap.intercept = None
        redcap.queue(REPLY, REPLY)
        assert has_failed(process.post({"stream": stream, **DEMAND})), "no document of the schema"
    redcap.tokens = {OTHER_TOKEN}
    assert process.post().status == 401
    redcap.tokens = {TOKEN, OTHER_TOKEN}
    with process.connect() as wire:
        wire.ask("POST", f"/{PATH}/crash", request(), BEARER)
        assert wire.read_to_end() == b""
    eventually(lambda: "RuntimeError" in process.log)


def go_away(process: Process, redcap: Redcap) -> None:
    """Clients that do not wait for their answers."""
    for leave in (Wire.close, Wire.reset):
        gate = Gate(REPLY)
        redcap.queue(gate)
        wire = process.connect()
        wire.ask("POST", "/v1/messages", request({"stream": True}), BEARER)
        assert gate.reached.wait(PATIENCE)
        leave(wire)
        gate.open()
    eventually(lambda: process.log.count("ClientGone") >= 2)
    with process.connect() as wire:
        wire.send(f"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n{PROMPT}".encode())


def stop_in_flight(process: Process, redcap: Redcap) -> None:
    """SIGTERM while the model thinks: the client is told, the process ends."""
    gate = Gate(REPLY)
    redcap.queue(gate)
    with process.connect() as wire:
        wire.ask("POST", "/v1/messages", request({"stream": True}), BEARER)
        assert gate.reached.wait(PATIENCE)
        process.process.send_signal(signal.SIGTERM)
        told = wire.read_response()
    process.answers.append(told)
    assert has_failed(told)
    assert process.process.wait(PATIENCE) == 0
    gate.open()


def assert_clean(process: Process) -> None:
    """Nothing is left of what was sent, neither in what was written nor in what can be seen."""
    assert leaks({**process.written, **views(process), **process.system}) == []
    assert process.files == []
    for answer in process.answers:
        if has_failed(answer):
            shown = f"{answer.headers}{answer.body!r}"
            assert [word for word in ALIEN if word in shown] == []
            assert str(ROOT) not in shown
    assert "Traceback" not in process.log


@pytest.fixture
def marked_redcap(redcap: Redcap) -> Redcap:
    redcap.tokens = {TOKEN, OTHER_TOKEN}
    return redcap


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("own_token", [False, True])
def test_no_content_is_left_behind(marked_redcap: Redcap, tmp_path: Path, log_format: str, *, own_token: bool) -> None:
    """With a token of the proxy's own, too: it is in its environment and nowhere else."""
    redcap = marked_redcap
    settings = {"LOG_FORMAT": log_format, "SHUTDOWN_GRACE": "0.2", "STREAM_DELAY": "0", "UPSTREAM_TIMEOUT": "20"}
    if own_token:
        settings["REDCAP_API_TOKEN"] = TOKEN
    with running(tmp_path, redcap.url, **settings) as process:
        if own_token:
            assert process.post(headers={"x-api-key": OTHER_TOKEN}).status == 401
            assert process.get("/metrics", {"x-api-key": OTHER_TOKEN, "x-forwarded-for": HEADER}).status == 401
        go_through_answers(process, redcap)
        go_through_failures(process, redcap)
        go_away(process, redcap)
        assert process.log.count("internal error") >= 3, "it has not failed as it should"
        assert_clean(process)
        stop_in_flight(process, redcap)
        assert leaks(process.written) == []
        assert process.files == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_content_is_left_behind_by_faults_of_the_network(tmp_path: Path, log_format: str) -> None:
    scripts = [script for script in FAULTS for _ in range(2)]
    settings = {"LOG_FORMAT": log_format, "UPSTREAM_TIMEOUT": "1.5", "SILENCE_TIMEOUT": "1", "STREAM_DELAY": "0"}
    with (
        faults.Server(*scripts) as server,
        running(tmp_path, f"http://127.0.0.1:{server.port}/api/", **settings) as process,
    ):
        for number in range(len(scripts)):
            answer = process.post({"stream": number % 2 == 1})
            assert has_failed(answer), number // 2
        assert_clean(process)
        for answer in process.answers:
            assert UPSTREAM not in answer.body.decode()


def test_a_document_that_breaks_its_schema_is_not_quoted(marked_redcap: Redcap, start_proxy: StartProxy) -> None:
    """What a model says belongs into a reply: error messages end in the logs of clients."""
    proxy = start_proxy(redcap_api_token=None)
    for document in (f'{{"age": "{REPLY}"}}', f'{{"{REPLY}": 1}}'):
        marked_redcap.queue(document, document)
        with proxy.connect() as wire:
            wire.ask("POST", "/v1/messages", request(DEMAND), BEARER)
            assert REPLY not in wire.read_response().error[2]


def test_nothing_of_a_refused_setting_is_shown_that_is_secret(tmp_path: Path) -> None:
    """Not even where it is the reason why the proxy does not start."""
    proxies = {"REDCAP_API_TOKEN": f"{TOKEN} with a blank", "HTTPS_PROXY": f"http://u:{TOKEN}@h:1\x1b/"}
    for name, text in proxies.items():
        done = subprocess.run(
            [sys.executable, "-m", "claude_proxy"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "REDCAP_API_URL": "https://redcap.example/api/", name: text},
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 2, done
        assert leaks({"stdout": done.stdout, "stderr": done.stderr}) == []
        assert name in done.stderr.decode()


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="needs Linux")
def test_a_crash_of_the_interpreter_writes_no_memory_to_disk(marked_redcap: Redcap, tmp_path: Path) -> None:
    with running(tmp_path, marked_redcap.url) as process:
        limits = Path(f"/proc/{process.process.pid}/limits").read_text()
    found = re.search(r"Max core file size +(\S+) +(\S+)", limits)
    assert found
    assert found.groups() == ("0", "0")


# --- the search itself ------------------------------------------------------------------------------------------------


def marked(redcap: Redcap, proxy: Proxy) -> dict[str, str | bytes]:
    """All that can be seen of a proxy in this process after one marked request."""
    redcap.queue(REPLY)
    body = request()
    with proxy.connect() as wire:
        wire.ask("POST", "/v1/messages", body, BEARER)
        request_id = wire.read_response().headers["request-id"]
    proxy.journal_line(request_id)
    return {"log": proxy.journal, **views(_InProcess(proxy))}


@dataclass
class _InProcess:
    proxy: Proxy

    def connect(self) -> Wire:
        return self.proxy.connect()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        with self.connect() as wire:
            return get(wire, path, headers or {})


def test_a_proxy_that_does_not_leak_shows_nothing(marked_redcap: Redcap, start_proxy: StartProxy) -> None:
    assert leaks(marked(marked_redcap, start_proxy(redcap_api_token=None))) == []


def test_a_journal_that_took_the_clients_word_for_an_alias_would_be_found_out(
    marked_redcap: Redcap, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, the metrics in both forms, the page and its events."""
    write = Journal.request

    def leaky(self: Journal, record: Record) -> None:
        record.alias = MODEL if record.alias else None
        write(self, record)

    monkeypatch.setattr(Journal, "request", leaky)
    found = leaks(marked(marked_redcap, start_proxy(redcap_api_token=None)))
    assert [place.partition(":")[0] for place in found] == ["log", "page", "metrics", "OpenMetrics", "events"]


def test_a_line_with_the_request_in_it_would_be_found_out(
    marked_redcap: Redcap, start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_proxy(redcap_api_token=None)
    prepare = Exchange.prepare

    def leaky(self: Exchange, *asked: Any, **more: Any) -> PreparedRequest:
        prepared = prepare(self, *asked, **more)
        proxy.out.write(f"debug: {prepared.request}\n")
        return prepared

    monkeypatch.setattr(Exchange, "prepare", leaky)
    assert [place.partition(":")[0] for place in leaks(marked(marked_redcap, proxy))] == ["log"]
