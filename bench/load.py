#!/usr/bin/env python3
"""How fast the proxy is beside bare nginx and its peers, in one run on one machine; writes docs/performance.md.

    python -m pip install --group bench     once, in an environment of its own, for the charts
    python bench/load.py                   everything; an hour with the peers, on a machine that rests
    python bench/load.py --peers           installs claude-code-router and LiteLLM into `.venv-peers` first
    python bench/load.py --quick           short runs, which print the table and write no file
    python bench/load.py --before FOLDER   measures the proxy of another checkout as well

An nginx that answers at once plays REDCap (and the OpenAI-compatible servers that the peers want); it reads a request
to its end first. `wrk` drives each server alone, with bodies like Claude Code's (`workload.py`) of which no two are
alike. A round takes every server in turn with the same body; rounds are repeated, and the median and the range of the
rounds are shown. What a server adds is its median latency over one connection less that of bare nginx.

Every server is one process, with its default settings but for the limit on calls at once. nginx and wrk come from
Debian's packages; they are unpacked into `.venv`, not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "scripts")]

import debian
import workload

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers"
REPORT = ROOT / "docs" / "performance.md"
CCR, LITELLM = "@musistudio/claude-code-router@2.0.0", "litellm[proxy]==1.106.2"
OURS, NGINX = "claude-proxy", "nginx alone"

KEY = "sk-benchmark"
REPLY = 4096  # characters of the larger answer
PATIENCE = 90.0  # seconds for a server to start
CONNECTIONS = (1, 16, 256)
_SETTLE = 0.5  # seconds


# --- the upstream -----------------------------------------------------------------------------------------------------

# Two servers: the front reads the body to its end, the back gives a file. Without the front, nginx would answer before
# it has read anything.
_NGINX = """\
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000; keepalive_timeout 600;
  client_max_body_size 64m; client_body_buffer_size 16m; client_body_temp_path {folder}/t;
  proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  open_file_cache max=10;
  upstream back {{ server unix:{folder}/back; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_method GET; proxy_pass_request_body off; proxy_pass_request_headers off;
      proxy_set_header Content-Length ""; proxy_set_header Connection ""; proxy_http_version 1.1;
      proxy_pass http://back;
    }}
  }}
  server {{
    listen unix:{folder}/back; root {folder}/www;
    location / {{ default_type application/json; }}
    location /openai/sse/ {{ default_type text/event-stream; }}
    location /openai/sse4k/ {{ default_type text/event-stream; }}
  }}
}}
"""


def _openai(text: str, *, stream: bool) -> bytes:
    """The same answer as an OpenAI-compatible server gives it."""
    common: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": workload.MODEL}
    usage = {"prompt_tokens": 12_000, "completion_tokens": len(text) // 4, "total_tokens": 12_000 + len(text) // 4}
    if not stream:
        said = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
        return json.dumps(common | {"object": "chat.completion", "choices": choices, "usage": usage}).encode()
    pieces = [text[start : start + 1024] for start in range(0, len(text), 1024)]
    deltas: list[dict[str, Any]] = [
        {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None} for piece in pieces
    ]
    deltas.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunks = [common | {"object": "chat.completion.chunk", "choices": [delta]} for delta in deltas]
    chunks[-1]["usage"] = usage
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[int]:
    """An nginx that answers everything at once; its port."""
    port = free_port()
    small, large = workload.reply(30), workload.reply(REPLY)
    files = {"small": workload.answer(small), "4k": workload.answer(large)}
    for kind in ("json", "sse"):
        files[f"openai/{kind}/chat/completions"] = _openai(small, stream=kind == "sse")
    for name, content in files.items():
        path = folder / "www" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port))
    folder.chmod(0o755)
    program = str(debian.find("nginx"))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]
    process = subprocess.Popen(command)
    try:
        wait_for(port, process)
        yield port
    finally:
        end(process)


# --- the servers under test -------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server under test.

    Attributes:
        name: as in the table.
        command: starts it; PORT stands for the port.
        env: its environment, besides the path.
        path: where messages are posted.
        models: the model to name in a request that does not stream, and in one that does.
        version: of what runs.
        start: seconds until the first request was accepted, one for each start.
        idle, loaded: MB of resident memory, at rest after the first request and at most under load.
    """

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/messages"
    models: tuple[str, str] = (workload.MODEL, workload.MODEL)
    version: str = ""
    start: list[float] = field(default_factory=list)
    idle: float = 0.0
    loaded: float = 0.0

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """Start it, note how long that took, and end it."""
        port = free_port()
        command = [part.replace("PORT", str(port)) for part in self.command]
        env = {"PATH": os.environ["PATH"], "HOME": str(folder)} | self.env
        env = {key: text.replace("PORT", str(port)) for key, text in env.items()}
        self.prepare(folder, port)
        with (folder / "log").open("ab") as log:
            began = time.monotonic()
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            self._await_answer(port, process, folder)
            self.start.append(time.monotonic() - began)
            self.idle = self.idle or resident(process.pid)
            yield port, process
        finally:
            end(process, group=True)

    def prepare(self, folder: Path, port: int) -> None:
        """Write the files that it needs."""

    def rest(self, port: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until nothing of an earlier load is left, which some work on when nobody waits for it any more."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = used(process.pid)
            post(port, self.path, workload.body(1_000, model=self.models[0]))
            time.sleep(_SETTLE)
            if used(process.pid) - before < _SETTLE / 5:
                return

    def _await_answer(self, port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
        body = workload.body(1_000, model=self.models[0])
        deadline = time.monotonic() + PATIENCE
        while post(port, self.path, body) != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} gives no answer:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.005)


def ours(root: Path, upstream_port: int, name: str = OURS) -> Server:
    """The proxy of a checkout, in front of the upstream."""
    version = (root / "claude_proxy" / "__init__.py").read_text().partition('__version__ = "')[2].partition('"')[0]
    env = {
        "REDCAP_API_URL": f"http://127.0.0.1:{upstream_port}/small",
        "LISTEN_PORT": "PORT",
        "MAX_CALLS": "1000",
        "MAX_WAITING": "1000",
    }
    return Server(name, [sys.executable, str(root / "claude_api_proxy.py")], env, version=version)


class _Router(Server):
    def prepare(self, folder: Path, port: int) -> None:
        home = folder / ".claude-code-router"
        home.mkdir(exist_ok=True)
        upstream_port = self.env["UPSTREAM"]
        providers = [
            {
                "name": kind,
                "api_base_url": f"http://127.0.0.1:{upstream_port}/openai/{kind}/chat/completions",
                "api_key": "k",
                "models": [workload.MODEL],
            }
            for kind in ("json", "sse")
        ]
        config = {
            "PORT": port,
            "LOG": False,
            "NON_INTERACTIVE_MODE": True,
            "Providers": providers,
            "Router": {"default": f"json,{workload.MODEL}"},
        }
        (home / "config.json").write_text(json.dumps(config))


class _LiteLlm(Server):
    def prepare(self, folder: Path, port: int) -> None:  # noqa: ARG002 - the port is given on the command line
        models = [
            {
                "model_name": kind,
                "litellm_params": {
                    "model": f"openai/{workload.MODEL}",
                    "api_base": f"http://127.0.0.1:{self.env['UPSTREAM']}/openai/{kind}",
                    "api_key": "k",
                },
            }
            for kind in ("json", "sse")
        ]
        (folder / "litellm.yaml").write_text(json.dumps({"model_list": models}))  # JSON is YAML


def peers(upstream_port: int) -> list[Server]:
    """The peers that are installed."""
    found: list[Server] = []
    env = {"UPSTREAM": str(upstream_port)}
    router = PEERS / "claude-code-router" / "node_modules" / "@musistudio" / "claude-code-router"
    if router.exists() and (node := shutil.which("node")):
        version = json.loads((router / "package.json").read_text())["version"]
        models = (f"json,{workload.MODEL}", f"sse,{workload.MODEL}")
        command = [node, str(router / "dist" / "cli.js"), "start"]
        found.append(_Router("claude-code-router", command, env, models=models, version=version))
    litellm = PEERS / "litellm" / "bin"
    if (litellm / "litellm").exists():
        asked = [str(litellm / "python"), "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
        version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        command = [str(litellm / "litellm"), "--config", "litellm.yaml", "--port", "PORT", "--host", "127.0.0.1"]
        env |= {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        env |= {"LITELLM_USE_CHAT_COMPLETIONS_URL_FOR_ANTHROPIC_MESSAGES": "true"}  # as the other peer does
        env |= {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
        found.append(_LiteLlm("LiteLLM", command, env, models=("json", "sse"), version=version))
    return found


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is not installed")
    return found


def install_peers() -> None:
    """Install the peers, each in an environment of its own."""
    folder = PEERS / "claude-code-router"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([_program("npm"), "install", "--no-fund", "--no-audit", "--prefix", str(folder), CCR], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS / "litellm")], check=True)
    subprocess.run([str(PEERS / "litellm" / "bin" / "pip"), "install", "--quiet", LITELLM], check=True)


# --- small tools ------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when a process listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise SystemExit(f"{process.args!r} does not listen")


def post(port: int, path: str, body: bytes) -> int:
    """The status of the answer to a body; 0 where there is none."""
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "content-type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return response.status


def end(process: subprocess.Popen[bytes], *, group: bool = False) -> None:
    """End a process that was started here, with what it has started where it leads a group."""
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, 15)
        else:
            process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def resident(pid: int) -> float:
    """MB of memory that a process and its children hold."""
    total = 0.0
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS"):
            total = int(line.split()[1]) / 1024
    children = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(str(task)).split()]
    return total + sum(resident(int(child)) for child in children)


def used(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """The median and the range."""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 or low == high else f"{middle} ({low} to {high})"


# --- driving ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What is sent, and over how many connections at once."""

    size: str
    stream: bool
    connections: int
    fresh: bool = False  # every request as of another session

    def __str__(self) -> str:
        stream = ", streaming" if self.stream else ""
        return f"{self.size}{stream}{', no session twice' if self.fresh else ''}"


LOADS = (
    *(Load("small", stream, connections) for stream in (False, True) for connections in CONNECTIONS),
    *(Load("52 kB", stream, connections) for stream in (False, True) for connections in CONNECTIONS),
    *(Load("740 kB", stream, connections) for stream in (False, True) for connections in (1, 16)),
    Load("52 kB", stream=True, connections=1, fresh=True),
    Load("740 kB", stream=True, connections=1, fresh=True),
)

Results = dict[tuple[str, Load], list[Mapping[str, float]]]


def drive(address: str, body: bytes, load: Load, seconds: float, folder: Path) -> Mapping[str, float]:
    """Let wrk send a body again and again; its figures, latencies in milliseconds."""
    (folder / "body.json").write_bytes(body)
    command = [
        str(debian.find("wrk")),
        "-t1",
        f"-c{load.connections}",
        f"-d{max(1, round(seconds * (2 if load.connections > 16 else 1)))}s",
        "--timeout",
        "60s",
    ]
    command += ["-s", str(Path(__file__).with_name("post.lua")), f"http://127.0.0.1:{address}"]
    env = {"PATH": os.environ["PATH"], "BODY": str(folder / "body.json")}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    figures: Mapping[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def measure(servers: Sequence[Server], loads: Sequence[Load], seconds: float, upstream_port: int, top: Path) -> Results:
    """Every server under every load, one server at a time."""
    results: Results = {}
    for load in loads:
        body = _body(load, workload.MODEL)
        figures = drive(f"{upstream_port}/small", body, load, seconds, top)
        results.setdefault((NGINX, load), []).append(figures)
    for server in servers:
        folder = Path(tempfile.mkdtemp(dir=top))
        with server.running(folder) as (port, process):
            for load in loads:
                body = _body(load, server.models[load.stream])
                drive(f"{port}{server.path}", body, load, 1, folder)  # warm
                server.rest(port, process)
                with _watching(server, process.pid):
                    figures = drive(f"{port}{server.path}", body, load, seconds, folder)
                server.rest(port, process)
                results.setdefault((server.name, load), []).append(figures)
                rate = figures["requests"] / figures["seconds"]
                told = f"{server.name:20} {load!s:40} x{load.connections:<4} {figures['p50']:9.2f} ms {rate:9.1f}/s"
                errors = f" {figures['errors']:g} errors" if figures["errors"] else ""
                print(told + errors, file=sys.stderr, flush=True)
    return results


def _body(load: Load, model: str) -> bytes:
    return workload.marked_body(workload.SIZES[load.size], stream=load.stream, model=model, everywhere=load.fresh)


@contextlib.contextmanager
def _watching(server: Server, pid: int) -> Iterator[None]:
    """Note the most memory that a server holds meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            server.loaded = max(server.loaded, resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


# --- the proxy alone --------------------------------------------------------------------------------------------------


def last_bytes(root: Path, folder: Path, count: int) -> list[float]:
    """Milliseconds from the upstream's last byte to the client's last byte, for streams of a 4 kB reply."""
    answer = workload.answer(workload.reply(REPLY))
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n".encode()
    sent = 0.0

    def serve(listener: socket.socket) -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as incoming:
            while line := incoming.readline():
                length = 0
                while line != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = incoming.readline()
                incoming.read(length)
                time.sleep(0.02)  # the model thinks
                connection.sendall(head + answer)
                sent = time.monotonic()

    took: list[float] = []
    body = workload.body(workload.SIZES["52 kB"], stream=True)
    request = (
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        server = ours(root, listener.getsockname()[1])
        with server.running(folder) as (port, _), socket.create_connection(("127.0.0.1", port)) as client:
            for _ in range(count):
                client.sendall(request + body)
                came = b""
                while not came.endswith(b"\r\n0\r\n\r\n"):
                    came = came[-16:] + client.recv(65536)
                took.append((time.monotonic() - sent) * 1000)
    return took[count // 10 :]


LINEAR = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)  # bytes


def linearity(root: Path, upstream_port: int, folder: Path, seconds: float) -> list[tuple[int, float, float, float]]:
    """For bodies of each size: ms of a request of no known session, of one that goes on, and of bare nginx."""
    (folder / "claude-proxy.toml").write_text(
        f'[aliases."{workload.MODEL}"]\nwindow = 100_000_000\n', encoding="utf-8"
    )  # no model's window holds 10 MB
    rows = []
    server = ours(root, upstream_port)
    server.env["CACHE_MB"] = "256"  # nor does the usual memory
    with server.running(folder) as (port, _):
        for size in LINEAR:
            load = Load("", stream=False, connections=1)
            fresh = workload.marked_body(size, everywhere=True)
            known = workload.marked_body(size)
            drive(f"{port}/v1/messages", known, load, 1, folder)  # its first request is one of no known session
            figures = [drive(f"{port}/v1/messages", body, load, seconds, folder) for body in (known, fresh)]
            figures.append(drive(f"{upstream_port}/small", known, load, seconds, folder))
            if any(each["errors"] or not each["requests"] for each in figures):
                raise SystemExit(f"errors with a body of {size} bytes: {figures}")
            known_ms, fresh_ms, bare_ms = (each["p50"] for each in figures)
            rows.append((size, fresh_ms, known_ms, bare_ms))
            print(f"{size:>10} bytes:", *(f"{each['p50']:.2f} ms" for each in figures), file=sys.stderr, flush=True)
    return rows


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """All that was measured."""

    servers: list[Server]
    results: Results
    tails: list[float]
    linear: list[tuple[int, float, float, float]]
    rounds: int
    seconds: float

    def medians(self, name: str, load: Load) -> list[float]:
        """The median latency of each round, in ms."""
        return [figures["p50"] for figures in self.results[name, load]]

    def added(self, name: str, load: Load) -> list[float]:
        """What a server adds to bare nginx in each round, in ms."""
        return [p50 - bare for p50, bare in zip(self.medians(name, load), self.medians(NGINX, load), strict=True)]

    def rates(self, name: str, load: Load) -> list[float]:
        """Requests answered per second in each round, without those that failed."""
        return [(each["requests"] - each["errors"]) / each["seconds"] for each in self.results[name, load]]

    @property
    def loads(self) -> list[Load]:
        """What was measured, in its order."""
        return list(dict.fromkeys(load for _, load in self.results))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first hold figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def report(found: Findings) -> str:
    """The page."""
    names = [server.name for server in found.servers]
    singles = [load for load in found.loads if load.connections == 1]
    many = [load for load in found.loads if load.connections > 1]
    latency = [
        [str(load), spread(found.medians(NGINX, load), "{:.2f}")]
        + [spread(found.added(name, load), "{:.2f}") for name in names]
        for load in singles
    ]
    rates = [
        [f"{load}, {load.connections} connections", *(_rate(found, name, load) for name in (NGINX, *names))]
        for load in many
    ]
    footprint = [
        [f"{each.name} {each.version}", spread(each.start, "{:.2f}"), f"{each.idle:.0f}", f"{each.loaded:.0f}"]
        for each in found.servers
    ]
    linear = [
        [f"{size / 1000:,.0f} kB", f"{fresh:.2f}", f"{known:.2f}", f"{bare:.2f}", f"{(known - bare) * 1e6 / size:.1f}"]
        for size, fresh, known, bare in found.linear
    ]
    at = statistics.quantiles(found.tails, n=100)
    sections = [
        "# Performance",
        _ABOUT.format(machine=_machine(), rounds=found.rounds, seconds=found.seconds),
        "## Goals\n\n" + table(["goal", "measured", "met"], _goals(found)),
        "## Added latency\n\n" + _LATENCY + "\n\n" + table(["body", NGINX, *names], latency),
        "![Added latency](images/performance-latency.svg)",
        "## Throughput\n\nRequests answered per second; the median of the rounds, and their range.\n\n"
        + table(["body", NGINX, *names], rates),
        "![Throughput](images/performance-throughput.svg)",
        "## Start and memory\n\nSeconds from the start of the process to the first request that was answered; MB of "
        "resident memory after that request, and at most under all of these loads.\n\n"
        + table(["server", "start, s", "idle, MB", "under load, MB"], footprint),
        "## The end of a reply\n\nFrom the upstream's last byte to the client's last byte, for a streamed reply of "
        f"4 kB with a call, {len(found.tails)} times: {at[49]:.2f} ms at the median, {at[89]:.2f} ms for 90 of 100, "
        f"{at[98]:.2f} ms for 99.",
        "## Size\n\nMilliseconds for a whole request over one connection, and what the proxy adds per MB (known "
        "session; `CACHE_MB=256`, so that the largest fits in).\n\n"
        + table(["body", "new session", "known session", NGINX, "added ms/MB"], linear),
        "![Growth with the size of the body](images/performance-size.svg)",
    ]
    notes = REPORT.read_text().partition(_NOTES)[2] if REPORT.exists() else ""
    return "\n\n".join(sections) + "\n" + (f"\n{_NOTES}{notes}" if notes else "")


_NOTES = "<!-- What stands below is written by hand; bench/load.py leaves it as it is. -->\n"

_ABOUT = """\
Written by `python bench/load.py`, which anyone can run again. It measured on {machine}

Each server ran alone, as one process with its default settings, in front of an nginx that answers at once; `wrk` sent \
bodies like Claude Code's. There were {rounds} rounds of {seconds:g} s for each figure: given are the median of the \
rounds and their range. Absolute figures are this machine's; compare the ratios."""

_LATENCY = """\
Milliseconds at the median, over one connection: what bare nginx takes for the body, and what each server adds to \
that. No two requests are alike: the last message differs, as in a session that goes on. With "no session twice" every \
message differs, as if every request were the first that a server sees of a long session."""


def _rate(found: Findings, name: str, load: Load) -> str:
    errors = sum(figures["errors"] for figures in found.results[name, load])
    return spread(found.rates(name, load), "{:.0f}") + (f", {errors:.0f} errors" if errors else "")


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line]
    model = names[0] if names else platform.machine()
    nginx = subprocess.run([str(debian.find("nginx")), "-v"], capture_output=True, text=True, check=True).stderr
    node = shutil.which("node")
    node = subprocess.run([node, "-v"], capture_output=True, text=True, check=True).stdout if node else ""
    parts = [
        f"{os.cpu_count()} cores of {model}",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        *([f"Node.js {node.strip().removeprefix('v')}"] if node else []),
        f"nginx {nginx.strip().rpartition('/')[2].partition(' ')[0]}",
    ]
    return ", ".join(parts) + "."


def _goals(found: Findings) -> list[list[str]]:
    """Each goal of which everything was measured, what came, and whether that is enough."""
    ours_, rows = found.servers[0], []

    def add(goal: str, value: float, form: str, met: bool) -> None:
        rows.append([goal, form.format(value), "yes" if met else "no"])

    def ratio(pick: Callable[[str, Load], list[float]], load: Load, *, less: bool) -> float:
        mine, theirs = (statistics.median(pick(name, load)) for name in (OURS, "claude-code-router"))
        return theirs / max(mine, 1e-9) if less else mine / max(theirs, 1e-9)

    if any(server.name == "claude-code-router" for server in found.servers):
        for size, wanted in (("52 kB", 8), ("740 kB", 10)):
            for stream in (False, True):
                load = Load(size, stream, 1)
                if (OURS, load) in found.results:
                    value = ratio(found.added, load, less=True)
                    goal = f"{load}: at least {wanted} times less added latency than claude-code-router"
                    add(goal, value, "{:.1f} times", value >= wanted)
        for stream in (False, True):
            load = Load("52 kB", stream, 16)
            if (OURS, load) in found.results:
                value = ratio(found.rates, load, less=False)
                add(f"{load}: at least 10 times its throughput", value, "{:.1f} times", value >= 10)
    start, tail = statistics.median(ours_.start), statistics.median(found.tails)
    add("start to first accepted request under 0.25 s", start, "{:.2f} s", start < 0.25)
    add("under 40 MB idle", ours_.idle, "{:.0f} MB", ours_.idle < 40)
    add("upstream's last byte to client's last byte under 3 ms, for a 4 kB reply", tail, "{:.2f} ms", tail < 3)
    if found.linear:
        costs = [(known - bare) / size for size, _, known, bare in found.linear if size >= 100_000]
        value = max(costs) / min(costs)
        add("cost linear up to 10 MB: per MB, from 100 kB on, the dearest by the cheapest", value, "{:.1f}", value < 2)
    return rows


def main() -> int:
    """Measure, and write or print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="install the peers first")
    parser.add_argument("--quick", action="store_true", help="short runs; print the page, write no file")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="measure this checkout, too")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured (3)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long each run takes (4)")
    parser.add_argument("--only", default="", metavar="BODY", help="only loads with this in their names, such as 740")
    parser.add_argument("--without-peers", action="store_true", help="do not measure the peers")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all that was started is ended
    if options.peers:
        install_peers()
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (2.0 if options.quick else 4.0)
    loads = [load for load in LOADS if options.only in str(load)]
    results: Results = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with upstream(folder) as port:
            servers = [ours(ROOT, port)]
            if options.before:
                servers.append(ours(options.before.resolve(), port, "before"))
            servers += [] if options.without_peers else peers(port)
            for _ in range(rounds):
                for key, figures in measure(servers, loads, seconds, port, folder).items():
                    results.setdefault(key, []).extend(figures)
            tails = last_bytes(ROOT, Path(tempfile.mkdtemp(dir=folder)), 100 if options.quick else 500)
            linear = linearity(ROOT, port, Path(tempfile.mkdtemp(dir=folder)), max(4.0, seconds))
    found = Findings(servers, results, tails, linear, rounds, seconds)
    if options.quick:
        print(report(found))
        return 0
    REPORT.write_text(report(found), encoding="utf-8")
    subprocess.run([sys.executable, str(Path(__file__).with_name("charts.py"))], check=True)
    print(f"wrote {REPORT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except debian.Missing as missing:
        sys.exit(str(missing))
