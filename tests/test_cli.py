"""The commands as users start them: another process, a bare checkout, and whatever may be wrong with the settings."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from conftest import NEEDS_IPV6, NOTHING, PATIENCE, TOKEN, Gate, Redcap, ending, eventually, fold, read_events

from claude_proxy import __version__
from claude_proxy.cli import split_arguments
from claude_proxy.demo.model import ModelRequest, text_of

ROOT = Path(__file__).parent.parent
STARTER = "claude_api_proxy.py"
OK, FAILED, MISUSED = 0, 1, 2


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare checkout: the package and its starter, and nothing else."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "claude_proxy", folder / "claude_proxy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / STARTER, folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


class Starter:
    """Starts the proxy from the bare checkout as `python3 -S claude_api_proxy.py`, in an environment of its own."""

    def __init__(self, checkout: Path, folder: Path, python: str = sys.executable) -> None:
        self.command: Sequence[str] = (python, "-S", "-W", "error::DeprecationWarning", str(checkout / STARTER))
        self.folder = folder

    def environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        home = str(self.folder / "home")  # neither the checkout nor the user's, where a developer may have settings
        return {
            "PATH": "/nowhere",  # a developer's `claude` may stand in any folder where programs are
            "HOME": home,
            "LISTEN_PORT": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLAUDE_PROXY_HOME": home,
            **changes,
        }

    def run(self, *arguments: str, env: Mapping[str, str] = NOTHING) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself."""
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def refuse(self, *arguments: str, env: Mapping[str, str] = NOTHING, code: int = MISUSED) -> str:
        """Run a command that must not start, and return the one sentence that says why."""
        done = self.run(*arguments, env=env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("claude-proxy: ")
        return lines[0]

    @contextmanager
    def running(
        self,
        *arguments: str,
        env: Mapping[str, str] = NOTHING,
        command: Sequence[str] = (),
        stdin: int | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a command that runs until it is stopped."""
        with subprocess.Popen(
            [*(command or self.command), *arguments],
            cwd=self.folder,
            env=self.environment(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            killer = threading.Timer(PATIENCE, process.kill)
            killer.start()
            try:
                yield process
            finally:
                killer.cancel()
                process.kill()


@pytest.fixture
def starter(checkout: Path, folder: Path) -> Starter:
    return Starter(checkout, folder)


def ask(url: str, path: str, body: Mapping[str, Any] | None = None, token: str = TOKEN) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)


def question(text: str) -> dict[str, Any]:
    return {"model": "claude-sonnet-4", "max_tokens": 100, "messages": [{"role": "user", "content": text}]}


def read_until(stream: Any, pattern: str) -> re.Match[str]:
    """Read lines until one matches."""
    for line in stream:
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"the process ended without saying {pattern!r}")


def stopped(process: subprocess.Popen[str], stop: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    """Stop a process, and return what it still wrote to its standard output and error."""
    assert process.stdout
    assert process.stderr
    process.send_signal(stop)
    written = process.stdout.read(), process.stderr.read()
    process.wait()
    return written


# Signals go to a thread that does nothing, so that no call in which the main thread waits is interrupted: what a signal
# does that comes in the moment before such a call.
UNSEEN = """
import signal, sys, threading
sys.path.insert(0, sys.argv.pop(1))
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD])
from claude_proxy.cli import main
sys.exit(main(sys.argv[1:]))
"""


def unseen_signals(checkout: Path) -> Sequence[str]:
    """A command that sees of its signals only what it looks for."""
    return (sys.executable, "-S", "-c", UNSEEN, str(checkout))


# --- serve ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_changed_configuration_takes_effect_and_a_bad_one_is_refused(redcap: Redcap, starter: Starter) -> None:
    path = starter.folder / "claude-proxy.toml"
    path.write_text(f'redcap_api_url = "{redcap.url}"\n[models]\nmine = "o1"\n')
    path.chmod(0o600)
    redcap.queue("Yes.", "Yes.", "Yes.")
    mine = question("x") | {"model": "mine"}
    with starter.running("serve", "--port", "0", "--here") as process:
        url = read_until(process.stderr, r"listens on (\S+)")[1]
        ask(url, "/v1/messages", mine)
        path.write_text(path.read_text().replace("o1", "o3"))
        process.send_signal(signal.SIGHUP)
        assert "changed=MODEL_MAP" in read_until(process.stderr, "settings read again.*")[0]
        ask(url, "/v1/messages", mine)
        path.write_text(path.read_text() + "[alias]\n")  # found by looking at the file
        line = read_until(process.stderr, "settings refused.*")[0]
        assert f"{path}, line 4: 'alias' is no name of a setting. Did you mean aliases?" in line
        ask(url, "/v1/messages", mine)
        stopped(process)
    assert [request.fields["model"] for request in redcap.requests] == ["o1", "o3", "o3"]


# Makes the terminal that is its standard input the one that Ctrl-C and hanging up act upon, and becomes the command.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A terminal of the test's own, with a command at work in it."""

    def __init__(self, starter: Starter, *arguments: str, command: Sequence[str] = ()) -> None:
        if os.name != "posix":
            pytest.skip("there are no such terminals")
        self._seen = bytearray()
        self._file: int | None
        self._file, its = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", TAKE_TERMINAL, *(command or starter.command), *arguments],
            cwd=starter.folder,
            env=starter.environment({"TERM": "xterm"}),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()

    @property
    def shown(self) -> str:
        return self._seen.decode(errors="replace")

    def read_until(self, words: str) -> None:
        """Read until the words are shown."""
        while words not in self.shown:
            assert self._read(), f"the command ended without showing {words!r}: {self.shown}"

    def _read(self) -> bool:
        """Read what is shown next; False at the end."""
        if self._file is None:
            return False
        assert select.select([self._file], [], [], PATIENCE)[0], self.shown
        try:
            data = os.read(self._file, 4096)
        except OSError:  # as Linux says the end
            data = b""
        self._seen += data
        return bool(data)

    def type(self, text: str) -> None:
        assert self._file is not None
        os.write(self._file, text.encode())

    def hang_up(self) -> None:
        """Let there be no terminal any more."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def end(self) -> int:
        """Wait for the command's end; its exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)


def test_a_proxy_ends_with_its_terminal(starter: Starter) -> None:
    (starter.folder / ".env").write_text("REDCAP_API_URL=https://h/api/")
    with Terminal(starter, "--here") as terminal:
        terminal.read_until("claude --permission-mode")
        terminal.process.send_signal(signal.SIGHUP)
        terminal.read_until("settings read again")
        terminal.hang_up()
        assert terminal.end() == -signal.SIGHUP


@pytest.mark.slow
def test_nohup_lets_a_proxy_outlive_its_terminal(starter: Starter) -> None:
    nohup, out = shutil.which("nohup"), starter.folder / "nohup.out"
    if nohup is None:
        pytest.skip("no nohup here")
    (starter.folder / ".env").write_text("REDCAP_API_URL=https://h/api/")
    with Terminal(starter, "--here", command=(nohup, *starter.command)) as terminal:
        eventually(lambda: out.exists() and "claude --permission-mode" in out.read_text())
        terminal.process.send_signal(signal.SIGHUP)
        eventually(lambda: "settings read again" in out.read_text())
        terminal.hang_up()  # which sends SIGHUP, too
        url = re.search(r"listens on (\S+)", out.read_text())
        assert url
        assert ask(url[1], "/health")["status"] == "ok"
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == OK


@pytest.mark.skipif(os.name != "posix", reason="there is no such way to ignore a signal")
def test_a_proxy_in_the_background_of_a_script_ends_by_sigterm_alone(redcap: Redcap, starter: Starter) -> None:
    command = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *starter.command)
    with starter.running(env={"REDCAP_API_URL": redcap.url}, command=command) as process:
        url = read_until(process.stderr, r"listens on (\S+)")[1]
        process.send_signal(signal.SIGINT)
        assert ask(url, "/health")["status"] == "ok"
        stopped(process)
    assert process.returncode == OK


def test_the_command_line_goes_before_the_environment(starter: Starter) -> None:
    (starter.folder / "other.toml").write_text("max_call = 1")
    env = {"REDCAP_API_URL": "https://h/api/", "CLAUDE_PROXY_CONFIG": "none.toml"}
    assert "other.toml, line 1: 'max_call' is no name" in starter.refuse("serve", "--config", "other.toml", env=env)
    assert "none.toml cannot be read" in starter.refuse(env=env)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_starts_serves_and_stops(redcap: Redcap, starter: Starter, stop: signal.Signals) -> None:
    redcap.queue("Much better.")
    env = {"REDCAP_API_URL": redcap.url, "REDCAP_API_TOKEN": TOKEN}
    with starter.running(env=env) as process:
        url = read_until(process.stderr, r"listens on (http://127\.0\.0\.1:\d+) ")[1]
        read_until(process.stderr, f"^export ANTHROPIC_BASE_URL={url}$")
        read_until(process.stderr, "^export ANTHROPIC_AUTH_TOKEN=your-redcap-token$")
        read_until(process.stderr, "^claude --permission-mode default$")
        assert ask(url, "/health") == {"status": "ok", "version": __version__}
        assert ask(url, "/v1/messages", question("Better?"))["content"][0]["text"] == "Much better."
        line = read_until(process.stderr, 'route="POST /v1/messages" status=200').string
        out, errors = stopped(process, stop)
    assert process.returncode == OK
    assert out == ""
    assert re.fullmatch(r"\S+ INFO stopping; a second signal ends at once connections=\d\n", errors)
    assert TOKEN not in line


def test_serve_stops_while_a_client_waits(redcap: Redcap, starter: Starter) -> None:
    with starter.running("serve", env={"REDCAP_API_URL": redcap.url}) as process:
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE):
            ask(url, "/health")
            stopped(process)
    assert process.returncode == OK


def begin(url: str, *, stream: bool) -> socket.socket:
    """Ask for a message, and leave the connection open."""
    body = json.dumps({**question("Better?"), "stream": stream}).encode()
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE)
    head = f"POST /v1/messages HTTP/1.1\r\nhost: proxy\r\nx-api-key: {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def read_all(connection: socket.socket) -> str:
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize("stream", [False, True])
def test_a_running_request_is_answered_before_the_end(redcap: Redcap, starter: Starter, *, stream: bool) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with starter.running(env={"REDCAP_API_URL": redcap.url}) as process:
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        with begin(url, stream=stream) as connection:
            assert gate.reached.wait(PATIENCE)
            process.send_signal(signal.SIGTERM)
            read_until(process.stderr, "stopping")
            gate.open()
            assert "Much better." in read_all(connection)
        assert process.wait() == OK


@pytest.mark.slow
def test_when_the_grace_is_over_the_others_are_told_to_try_again(redcap: Redcap, starter: Starter) -> None:
    gates = [Gate("Too late."), Gate("Too late.")]
    redcap.queue(*gates)
    env = {"REDCAP_API_URL": redcap.url, "STREAM_DELAY": "0", "SHUTDOWN_GRACE": "0.1"}
    with starter.running(env=env) as process:
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        with begin(url, stream=True) as streaming, begin(url, stream=False) as waiting:
            assert all(gate.reached.wait(PATIENCE) for gate in gates)
            begun = streaming.recv(65536).decode()
            process.send_signal(signal.SIGTERM)
            stream, answer = begun + read_all(streaming), read_all(waiting)
        assert process.wait() == OK
        errors = process.stderr.read() if process.stderr else ""
    assert stream.startswith("HTTP/1.1 200 ")
    assert "event: error" in stream
    assert '"overloaded_error"' in stream
    assert stream.endswith("\r\n0\r\n\r\n"), "the stream was cut"
    assert answer.startswith("HTTP/1.1 529 ")
    assert "retry-after: 5" in answer
    assert "The proxy is being stopped" in answer
    assert errors.count("error=ShuttingDown") == 2
    assert "Traceback" not in errors
    for gate in gates:
        gate.open()


@pytest.mark.parametrize("unseen", [False, True])
def test_a_second_signal_ends_at_once(redcap: Redcap, starter: Starter, checkout: Path, *, unseen: bool) -> None:
    gate = Gate("Too late.")
    redcap.queue(gate)
    env = {"REDCAP_API_URL": redcap.url, "SHUTDOWN_GRACE": "3600"}
    with starter.running(env=env, command=unseen_signals(checkout) if unseen else ()) as process:
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        with begin(url, stream=False) as connection:
            assert gate.reached.wait(PATIENCE)
            process.send_signal(signal.SIGTERM)
            read_until(process.stderr, "stopping; a second signal ends at once")
            _, errors = stopped(process)
            assert read_all(connection) == ""
        assert process.returncode == FAILED
    assert "Traceback" not in errors
    gate.open()


WIDE_OPEN = "WARNING LISTEN_HOST=(.*) lets other machines reach this proxy"


def test_listening_to_other_machines_is_warned_of(redcap: Redcap, starter: Starter) -> None:
    with starter.running(env={"REDCAP_API_URL": redcap.url, "LISTEN_HOST": "0.0.0.0"}) as process:
        assert read_until(process.stderr, WIDE_OPEN)[1] == "0.0.0.0"
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        assert ask(url, "/health")["status"] == "ok"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_listening_on_loopback_is_not(redcap: Redcap, starter: Starter, host: str) -> None:
    with starter.running(env={"REDCAP_API_URL": redcap.url, "LISTEN_HOST": host}) as process:
        if host == "::1" and not socket.has_ipv6:
            pytest.skip("no IPv6 here")
        first = process.stderr.readline() if process.stderr else ""
        assert re.match(r"claude-proxy \S+ listens on http://", first), first
        assert ask(first.split()[4], "/health")["status"] == "ok"


def test_in_a_container_the_published_port_decides_who_reaches_it(redcap: Redcap, starter: Starter) -> None:
    env = {"REDCAP_API_URL": redcap.url, "LISTEN_HOST": "0.0.0.0", "CLAUDE_PROXY_CONTAINER": "1"}
    with starter.running(env=env) as process:
        line = read_until(process.stderr, "WARNING LISTEN_HOST=.*")[0]
        _, errors = stopped(process)
    assert "is an address of this container: where its port is published decides who can reach this proxy" in line
    assert "other machines" not in line + errors
    assert "LISTEN_HOST=127.0.0.1" not in line + errors, "which would close the container"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_container_that_cannot_be_reached_says_so(redcap: Redcap, starter: Starter, host: str) -> None:
    env = {"REDCAP_API_URL": redcap.url, "LISTEN_HOST": host, "CLAUDE_PROXY_CONTAINER": "1"}
    with starter.running(env=env) as process:
        line = read_until(process.stderr, f"WARNING LISTEN_HOST={host} .*")[0]
        stopped(process)
    assert "no published port leads there: set LISTEN_HOST=0.0.0.0" in line


def test_fewer_open_files_than_connections_need_are_warned_of(redcap: Redcap, starter: Starter) -> None:
    command = ("/bin/sh", "-c", 'ulimit -n 100 && exec "$@"', "sh", *starter.command)
    with starter.running(env={"REDCAP_API_URL": redcap.url}, command=command) as process:
        read_until(
            process.stderr, r"WARNING MAX_CONNECTIONS=2000 needs more open files .*: 18 connections will be taken"
        )
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        assert ask(url, "/health")["status"] == "ok"


def test_settings_come_from_the_working_folder_on_request(redcap: Redcap, starter: Starter) -> None:
    redcap.queue("Yes.")
    (starter.folder / ".env").write_text(f"REDCAP_API_URL={redcap.url}\nREDCAP_API_TOKEN='{TOKEN}'\nLOG_FORMAT=json\n")
    with starter.running("--here") as process:
        url = read_until(process.stderr, r"listens on (\S+) ")[1]
        assert ask(url, "/v1/messages", question("Better?"))["content"][0]["text"] == "Yes."
        read_until(process.stderr, r'"route": "POST /v1/messages"')


def test_who_shares_a_proxy_is_told_so(redcap: Redcap, starter: Starter) -> None:
    with starter.running(env={"REDCAP_API_URL": redcap.url}) as process:
        read_until(process.stderr, "each client's own REDCap token")


# --- A working folder that somebody else made -------------------------------------------------------------------------

NOWHERE = "http://redcap.invalid/api/"
EVIL_TABLES = """
[servers.evil]
url = "{trap}"
token = "x"
[models]
"*" = {{ alias = "claude", server = "evil" }}
"""
EVIL: Mapping[str, Mapping[str, str]] = {
    "address": {".env": "REDCAP_API_URL={trap}"},
    "proxy": {".env": "HTTP_PROXY={trap}"},
    "file": {"claude-proxy.toml": 'redcap_api_url = "{trap}"'},
    "proxy in the file": {"claude-proxy.toml": 'http_proxy = "{trap}"'},
    "servers": {"claude-proxy.toml": EVIL_TABLES},
    "another file": {".env": "CLAUDE_PROXY_CONFIG=other.toml", "other.toml": EVIL_TABLES},
}


@pytest.fixture
def trap(starter: Starter, redcap: Redcap) -> Iterator[socket.socket]:
    """Where the files of a strange folder lead: it would get the token. The user's own settings lead nowhere."""
    (starter.folder / "home").mkdir()
    (starter.folder / "home" / ".env").write_text(f"REDCAP_API_URL={NOWHERE}\nREDCAP_API_TOKEN={TOKEN}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def lay(trap: socket.socket, folder: Path, *kinds: str) -> None:
    """Write evil files into a folder; of several with one name the lines of all, tables last."""
    for kind in kinds:
        for name, text in EVIL[kind].items():
            with (folder / name).open("a") as file:
                file.write(text.format(trap=f"http://127.0.0.1:{trap.getsockname()[1]}/") + "\n")


def is_sprung(trap: socket.socket) -> bool:
    try:
        trap.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVIL)
def test_every_trap_of_these_tests_works_for_who_asks_for_it(starter: Starter, trap: socket.socket, kind: str) -> None:
    lay(trap, starter.folder, kind)
    with starter.running("doctor", "--here", env={"REDCAP_API_URL": NOWHERE, "REDCAP_API_TOKEN": TOKEN}) as process:
        if kind in {"address", "file"}:  # the environment wins over both
            process.kill()
            with starter.running("doctor", "--here", env={"REDCAP_API_TOKEN": TOKEN}):
                eventually(lambda: is_sprung(trap))
        else:
            eventually(lambda: is_sprung(trap))


@pytest.mark.slow
@pytest.mark.parametrize("token", [{}, {"REDCAP_API_TOKEN": TOKEN}])
def test_no_command_believes_the_folder_it_is_started_in(
    starter: Starter, trap: socket.socket, claude: FakeClaude, redcap: Redcap, token: Mapping[str, str]
) -> None:
    known = {**token, "LISTEN_PORT": "8765"}
    before = {command: starter.run(command, env=known).stdout for command in ("env", "models")}
    assert all(before.values())
    lay(trap, starter.folder, *EVIL)
    with (starter.folder / ".env").open("a") as file:
        file.write("CLAUDE=./claude\n")
    for command, told in before.items():
        assert starter.run(command, env=known).stdout == told
    done = starter.run("doctor", env=token)
    assert re.search(
        r"^warning  settings +The settings in the working folder .* are not read", done.stdout, re.MULTILINE
    )
    assert done.returncode == FAILED
    env = claude.environment(redcap, ASK, REDCAP_API_URL="", **{"REDCAP_API_TOKEN": "", **token})
    assert starter.run("run", "-p", env=env).returncode == OK
    assert claude.said["status"] == 502
    with starter.running(env=token) as process:
        read_until(process.stderr, "WARNING The settings in the working folder .* are not read")
        url = read_until(process.stderr, r"listens on (\S+) for http://redcap\.invalid/")[1]
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url, "/v1/messages", question("Better?"))
        caught.value.close()
    assert not is_sprung(trap)


@pytest.mark.slow
def test_init_gives_the_token_to_nobody_but_the_address_that_was_typed(starter: Starter, trap: socket.socket) -> None:
    lay(trap, starter.folder, *EVIL)
    before = (starter.folder / ".env").read_text()
    with starter.running("init", "--url", NOWHERE, stdin=subprocess.PIPE) as process:
        _, errors = process.communicate(TOKEN)
    assert process.returncode == FAILED
    assert "redcap.invalid" in errors
    assert not is_sprung(trap)
    assert (starter.folder / ".env").read_text() == before


# --- What keeps it from starting --------------------------------------------------------------------------------------

URL = {"REDCAP_API_URL": "https://redcap.example.edu/api/"}


def test_without_an_address_it_says_how_to_give_one(starter: Starter) -> None:
    message = starter.refuse()
    assert "REDCAP_API_URL is not set" in message
    assert ".env" in message


# A setting, a value that it cannot have, and what the message must say.
MALFORMED = (
    ("REDCAP_API_URL", "redcap.example.edu", "REDCAP_API_URL='redcap.example.edu' cannot be used: it must be"),
    ("REDCAP_API_URL", "https://redcap.example.edu:port/", "REDCAP_API_URL="),
    ("REDCAP_API_URL", "http://[::1", "REDCAP_API_URL="),
    ("LISTEN_PORT", "http", "LISTEN_PORT='http' cannot be used: it must be a whole number"),
    ("LISTEN_PORT", "65536", "LISTEN_PORT='65536'"),
    ("UPSTREAM_TIMEOUT", "ten", "UPSTREAM_TIMEOUT='ten' cannot be used: it must be a number of seconds"),
    ("STREAM_DELAY", "nan", "STREAM_DELAY='nan'"),
    ("MODEL_MAP", "{", "MODEL_MAP='{' cannot be used"),
    ("MODEL_MAP", "nowhere.json", "MODEL_MAP='nowhere.json'"),
    ("LOG_LEVEL", "loud", "LOG_LEVEL='loud' cannot be used: it must be one of"),
    ("REDCAP_DECODES_ENTITIES", "maybe", "REDCAP_DECODES_ENTITIES='maybe'"),
)


@pytest.mark.parametrize(("name", "value", "words"), MALFORMED)
def test_a_malformed_setting_is_named(starter: Starter, name: str, value: str, words: str) -> None:
    assert words in starter.refuse(env={**URL, name: value})


def test_a_malformed_token_is_named_but_not_shown(starter: Starter) -> None:
    message = starter.refuse(env={**URL, "REDCAP_API_TOKEN": "0123 4567"})
    assert "REDCAP_API_TOKEN cannot be used" in message
    assert "0123" not in message


def test_a_malformed_file_is_named_with_its_line(starter: Starter) -> None:
    (starter.folder / ".env").write_text("REDCAP_API_URL=https://redcap.example.edu/api/\nnonsense\n")
    message = starter.refuse("--here")
    assert str(starter.folder / ".env") in message
    assert "line 2" in message


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=NEEDS_IPV6)])
def test_a_port_in_use_is_explained(starter: Starter, address: str) -> None:
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        port = str(other.getsockname()[1])
        message = starter.refuse(env={**URL, "LISTEN_PORT": port}, code=FAILED)
    assert f"LISTEN_PORT={port}" in message
    assert "another program listens there" in message


def test_an_address_of_another_machine_is_explained(starter: Starter) -> None:
    message = starter.refuse(env={**URL, "LISTEN_HOST": "192.0.2.1"}, code=FAILED)
    assert "LISTEN_HOST=192.0.2.1" in message


@pytest.mark.parametrize("arguments", [["nonsense"], ["demo", "--port", "x"], ["--nonsense"], ["serve", "extra"]])
def test_wrong_usage_is_refused(starter: Starter, arguments: list[str]) -> None:
    done = starter.run(*arguments, env=URL)
    assert done.returncode == MISUSED
    assert "usage: claude-proxy" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version_are_shown(starter: Starter) -> None:
    assert starter.run("--version").stdout == f"claude-proxy {__version__}\n"
    told = starter.run("--help")
    assert told.returncode == OK
    assert "demo" in told.stdout
    assert "REDCAP_API_URL" in told.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["env"], ["models"], ["models", "--json"], ["doctor", "--offline"], ["run", "--help"]]
)
def test_a_command_whose_reader_leaves_ends_quietly(starter: Starter, arguments: list[str]) -> None:
    done = run_unread(starter, arguments, "stdout")
    assert (done.returncode, done.stderr) == (OK if "--help" in arguments else FAILED, b"")


@pytest.mark.parametrize("arguments", [["env"], ["init"], ["nonsense"], ["serve", "--config", "nowhere"]])
def test_a_command_whose_complaint_nobody_reads_ends_quietly(starter: Starter, arguments: list[str]) -> None:
    done = run_unread(starter, arguments, "stderr", env={"LISTEN_PORT": "0"})
    assert done.stdout == b""
    assert done.returncode in {FAILED, MISUSED}


def run_unread(
    starter: Starter, arguments: list[str], stream: str, env: Mapping[str, str] = NOTHING
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with a reader of one of its streams that has left."""
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    try:
        return subprocess.run(
            [*starter.command, *arguments],
            cwd=starter.folder,
            env=starter.environment(env or OURS),
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
            stdout=streams["stdout"],
            stderr=streams["stderr"],
        )
    finally:
        os.close(writer)


# --- demo -------------------------------------------------------------------------------------------------------------


def exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """The two lines that the demo prints for the user to copy."""
    lines = [read_until(process.stdout, r"^export (ANTHROPIC_\w+)=(\S+)$") for _ in range(2)]
    return {line[1]: line[2] for line in lines}


def test_demo_prints_two_lines_that_work(starter: Starter) -> None:
    """It needs no settings, and those of a real REDCap, even malformed ones, mean nothing to it."""
    (starter.folder / ".env").write_text("REDCAP_API_URL=https://redcap.example.edu/api/\nnonsense\n")
    with starter.running("demo", env={"REDCAP_API_URL": "nonsense", "REDCAP_API_TOKEN": TOKEN}) as process:
        env = exports(process)
        assert set(env) == {"ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"}
        answer = ask(env["ANTHROPIC_BASE_URL"], "/v1/messages", question("Hello!"), env["ANTHROPIC_AUTH_TOKEN"])
        assert "list files" in answer["content"][0]["text"]
        _, errors = stopped(process)
    assert process.returncode == OK
    assert "Traceback" not in errors


def test_demo_serves_though_nobody_reads_what_it_prints(starter: Starter) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    command = [*starter.command, "demo", "--port", str(port)]
    with ending(
        subprocess.Popen(command, cwd=starter.folder, env=starter.environment({}), stdout=writer, stderr=writer)
    ) as process:
        os.close(writer)
        eventually(lambda: is_open(f"http://127.0.0.1:{port}"))
        assert ask(f"http://127.0.0.1:{port}", "/health")["status"] == "ok"
        process.terminate()
        assert process.wait(PATIENCE) == OK


def test_demo_takes_a_port(starter: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"LISTEN_PORT={port}" in starter.refuse("demo", "--port", port, code=FAILED)
    with starter.running("demo", "--port", port) as process:
        assert exports(process)["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_demo_refuses_an_invalid_port(starter: Starter, port: str) -> None:
    with starter.running("demo", "--port", port) as process:
        _, errors = process.communicate()
    assert process.returncode == MISUSED
    assert "65535" in errors


def test_demo_refuses_an_invalid_backend(starter: Starter) -> None:
    done = starter.run("demo", "--backend", "localhost:11434")
    assert done.returncode == MISUSED
    assert "Traceback" not in done.stderr
    assert "'localhost:11434' is not an address" in done.stderr


def test_demo_lets_a_real_model_answer(starter: Starter) -> None:
    asked: list[dict[str, Any]] = []

    class Backend(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps({"choices": [{"message": {"content": "I am real."}}], "usage": {}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Backend) as backend:
        threading.Thread(target=backend.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{backend.server_port}/v1"
        with starter.running("demo", "--backend", url, "--model", "tiny") as process:
            env = exports(process)
            answer = ask(env["ANTHROPIC_BASE_URL"], "/v1/messages", question("Who?"), env["ANTHROPIC_AUTH_TOKEN"])
        backend.shutdown()
    assert answer["content"][0]["text"] == "I am real."
    assert asked[0]["model"] == "tiny"


# --- Nothing but the standard library ---------------------------------------------------------------------------------

# Runs a command, and says at its end which files its modules came from.
CONFESSION = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from claude_proxy.cli import main
code = main(sys.argv[1:])
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print("MODULES", *sorted(f"{name}={file}" for name, file in files.items() if file), sep="\\n")
sys.exit(code)
"""


def test_nothing_outside_the_standard_library_is_imported(starter: Starter, checkout: Path) -> None:
    command = (sys.executable, "-S", "-I", "-c", CONFESSION, str(checkout))
    with starter.running("demo", command=command) as process:
        env = exports(process)
        ask(env["ANTHROPIC_BASE_URL"], "/v1/messages", question("Hello!"), env["ANTHROPIC_AUTH_TOKEN"])
        out, errors = stopped(process)
    assert process.returncode == OK, errors
    files = dict(line.split("=", 1) for line in out.partition("MODULES\n")[2].splitlines())
    assert "claude_proxy.shell.proxy.app" in files
    own = {name for name, file in files.items() if Path(file).is_relative_to(checkout)}
    assert {name.partition(".")[0] for name in own} == {"claude_proxy"}
    foreign = {name for name in files.keys() - own if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == set()
    assert not any("site-packages" in file for file in files.values())


# What `serve` starts without, so that it starts soon: whatever else only other commands need stands behind these.
NOT_SERVED = {
    *(f"claude_proxy.commands.{name}" for name in ("demo", "doctor", "env", "exam", "init", "models", "run")),
    *(f"claude_proxy.tools.{name}" for name in ("claude_environment", "doctor", "exam", "exam_tasks", "init")),
    *(f"claude_proxy.tools.{name}" for name in ("launcher", "model_table", "redcap_checks")),
    *("claude_proxy.demo.simulator", "claude_proxy.demo.scripted_model"),
    *("concurrent.futures", "getpass", "logging", "subprocess", "urllib.request"),
}


def test_a_proxy_imports_nothing_that_only_other_commands_need(
    redcap: Redcap, starter: Starter, checkout: Path
) -> None:
    redcap.queue("Yes.")
    command = (sys.executable, "-S", "-I", "-c", CONFESSION, str(checkout))
    with starter.running("serve", env={"REDCAP_API_URL": redcap.url}, command=command) as process:
        ask(read_until(process.stderr, r"listens on (\S+)")[1], "/v1/messages", question("Hello!"))
        out, errors = stopped(process)
    assert process.returncode == OK, errors
    imported = {line.partition("=")[0] for line in out.partition("MODULES\n")[2].splitlines()}
    assert "claude_proxy.commands.serve" in imported
    assert imported & NOT_SERVED == set()


def test_every_module_of_the_package_is_imported_without_site_packages(checkout: Path) -> None:
    names = [
        ".".join(file.relative_to(checkout).with_suffix("").parts)
        for file in (checkout / "claude_proxy").rglob("*.py")
        if file.name not in ("__main__.py", "__init__.py")
    ]
    code = f"import sys; sys.path.insert(0, {str(checkout)!r}); import {', '.join(names)}"
    subprocess.run([sys.executable, "-S", "-I", "-W", "error", "-c", code], check=True, timeout=PATIENCE)


# --- Older Pythons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [STARTER, "claude_proxy/__main__.py"])
def test_any_old_python_can_read_as_far_as_the_sentence(file: str) -> None:
    ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 0))


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 6, 0), (2, 7, 18)])
@pytest.mark.parametrize("file", [STARTER, "claude_proxy/__main__.py"])
def test_an_older_python_gets_one_sentence(checkout: Path, file: str, version: tuple[int, ...]) -> None:
    """Told to this Python about itself: it must say so before it imports anything of the package."""
    path = str(checkout / file)
    code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({path!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == FAILED

    assert done.stderr.count("\n") == 1
    assert f"needs Python 3.11 or later; this is Python {version[0]}.{version[1]}." in done.stderr


def installed(*versions: str) -> list[Path]:
    """The Pythons of these versions that can be found here, on the path or among pyenv's."""
    pyenv = Path.home() / ".pyenv" / "versions"
    found = [Path(path) for version in versions if (path := shutil.which(f"python{version}"))]
    found += [path for version in versions for path in pyenv.glob(f"{version}.*/bin/python")]
    return [path for path in found if not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode]


@pytest.mark.slow
def test_real_older_pythons_get_one_sentence(checkout: Path) -> None:
    older = installed("2.7", "3.6", "3.7", "3.8", "3.9", "3.10")
    if not older:
        pytest.skip("no older Python is installed here")
    sentence = r"claude-proxy needs Python 3\.11 or later; this is Python \d\.\d+\. Try python3\.11\.\n"
    for python in older:
        done = subprocess.run([python, checkout / STARTER], capture_output=True, text=True, check=False)
        assert done.returncode == FAILED
        assert re.fullmatch(sentence, done.stderr), done.stderr


@pytest.mark.slow
def test_newer_pythons_serve(checkout: Path, folder: Path) -> None:
    newer = installed("3.12", "3.13", "3.14")
    if not newer:
        pytest.skip("no newer Python is installed here")
    for python in newer:
        starter = Starter(checkout, folder, str(python))
        with starter.running("demo") as process:
            env = exports(process)
            body = {**question("Hello!"), "stream": True}
            request = urllib.request.Request(
                f"{env['ANTHROPIC_BASE_URL']}/v1/messages",
                json.dumps(body).encode(),
                {"x-api-key": env["ANTHROPIC_AUTH_TOKEN"]},
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                assert fold(read_events(response.read()))["stop_reason"] == "end_turn"
            _, errors = stopped(process)
        assert process.returncode == OK
        assert "Traceback" not in errors


# --- run --------------------------------------------------------------------------------------------------------------


SPLITS: list[tuple[list[str], list[str], list[str]]] = [
    ([], [], []),
    (["-p", "hi"], [], ["-p", "hi"]),
    (["--log", "f", "-p"], ["--log", "f"], ["-p"]),
    (["--log=f", "--claude", "c", "hello"], ["--log=f", "--claude", "c"], ["hello"]),
    (["--", "--help"], [], ["--help"]),
    (["--log", "f", "--", "--log", "g"], ["--log", "f"], ["--log", "g"]),
    (["hello", "--", "--log", "g"], [], ["hello", "--", "--log", "g"]),
    (["-p", "--log", "g"], [], ["-p", "--log", "g"]),
    (["--", "--"], [], ["--"]),
    (["--help"], ["--help"], []),
    (["--log"], ["--log"], []),
    (["--logs", "x"], [], ["--logs", "x"]),
    ([""], [], [""]),
]


@pytest.mark.parametrize(("arguments", "ours", "claudes"), SPLITS)
def test_our_options_come_first_and_the_rest_is_claudes(
    arguments: list[str], ours: list[str], claudes: list[str]
) -> None:
    assert split_arguments(arguments) == (ours, claudes)


class FakeClaude:
    """A program named `claude` that runs the test's code; `report(...)` in that code tells the test something."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.path = folder / "bin" / "claude"
        self.path.parent.mkdir()
        self._report = folder / "report.json"
        lines = (
            f"#!{sys.executable}",
            "import json, os, signal, sys, time, urllib.request",
            "def report(data):",
            f"    with open({str(self._report) + '.new'!r}, 'w') as file: json.dump(data, file)",
            f"    os.replace({str(self._report) + '.new'!r}, {str(self._report)!r})",
            "exec(os.environ['CODE'])",
        )
        self.path.write_text("\n".join(lines))
        self.path.chmod(0o755)

    def environment(self, redcap: Redcap, code: str, **others: str) -> dict[str, str]:
        return {
            "PATH": str(self.path.parent),
            "HOME": str(self.home),
            "PYTHONIOENCODING": "utf-8",
            "REDCAP_API_URL": redcap.url,
            "REDCAP_API_TOKEN": TOKEN,
            "CODE": code,
            **others,
        }

    @property
    def said(self) -> Any:
        """What it reported, as soon as it has."""
        eventually(self._report.exists)
        return json.loads(self._report.read_text())


@pytest.fixture
def claude(tmp_path: Path) -> FakeClaude:
    return FakeClaude(tmp_path)


TELL_ALL = "report({'arguments': sys.argv[1:], 'env': dict(os.environ), 'stdin': sys.stdin.read()})"
ASK = """
import urllib.error
body = json.dumps({"model": "claude-sonnet-4", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]})
headers = {"authorization": "Bearer " + os.environ["ANTHROPIC_AUTH_TOKEN"]}
url = os.environ["ANTHROPIC_BASE_URL"]
try:
    with urllib.request.urlopen(urllib.request.Request(url + "/v1/messages", body.encode(), headers)) as response:
        report({"url": url, "text": json.load(response)["content"][0]["text"]})
except urllib.error.HTTPError as error:
    with error: report({"url": url, "status": error.code})
"""
LINE = "claude-proxy: claude-opus-5-5 → claude via 127.0.0.1\n"


def is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


@pytest.mark.slow
def test_run_hands_everything_over(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    arguments = ["-p", "two words", "", "--log", "é*", "--", "-x"]
    env = claude.environment(redcap, f"{TELL_ALL}; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    env |= {"ANTHROPIC_API_KEY": "sk-other", "MINE": "yes"}
    done = subprocess.run(
        [*starter.command, "run", *arguments],
        input="from the pipe",
        cwd=starter.folder,
        env=starter.environment(env),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", f"{LINE}err\n")
    assert claude.said["arguments"] == arguments
    assert claude.said["stdin"] == "from the pipe"
    assert claude.said["env"]["MINE"] == "yes"
    assert claude.said["env"]["ANTHROPIC_AUTH_TOKEN"] == TOKEN
    assert "ANTHROPIC_API_KEY" not in claude.said["env"]


@pytest.mark.slow
def test_run_starts_a_proxy_of_its_own_and_asks_nobody_else(
    redcap: Redcap, starter: Starter, claude: FakeClaude
) -> None:
    redcap.queue("Much better.")
    with socket.create_server(("127.0.0.1", 0)) as stranger:  # listens where `serve` would
        stranger.setblocking(False)
        port = str(stranger.getsockname()[1])
        done = starter.run("run", "-p", env=claude.environment(redcap, ASK, LISTEN_PORT=port))
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert (done.returncode, done.stdout, done.stderr) == (OK, "", LINE)
    assert claude.said["text"] == "Much better."
    assert not is_open(claude.said["url"])


@pytest.mark.slow
def test_run_keeps_the_terminal_clean_and_tells_of_failures_afterwards(
    redcap: Redcap, starter: Starter, claude: FakeClaude
) -> None:
    redcap.queue_failure()
    done = starter.run(
        "run", "-p", env=claude.environment(redcap, f"{ASK}\nprint('last', file=sys.stderr, flush=True)")
    )
    assert done.returncode == OK
    assert claude.said["status"] >= 500
    first, last, summary, line = done.stderr.splitlines()
    assert (first + "\n", last) == (LINE, "last")
    assert summary == "claude-proxy: warnings while Claude Code ran: 1. The last of them:"
    assert 'route="POST /v1/messages"' in line


@pytest.mark.slow
def test_run_can_write_a_log(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    redcap.queue("Yes.")
    done = starter.run("run", "--log", "proxy.log", "-p", env=claude.environment(redcap, ASK))
    assert (done.returncode, done.stderr) == (OK, LINE)
    log = starter.folder / "proxy.log"
    assert 'route="POST /v1/messages" status=200' in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "nowhere/x" in starter.refuse("run", "--log", "nowhere/x", env=claude.environment(redcap, ""))


@pytest.mark.slow
def test_run_uses_the_users_own_token(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    redcap.queue("Yes.")
    env = claude.environment(redcap, ASK, REDCAP_API_TOKEN="")
    assert "there is no token" in starter.refuse("run", env=env)
    starter.run("run", "-p", env={**env, "ANTHROPIC_AUTH_TOKEN": TOKEN})
    assert claude.said["text"] == "Yes."


@pytest.mark.slow
def test_run_says_how_to_install_claude(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    env = claude.environment(redcap, "")
    assert "https://claude.ai/install.sh" in starter.refuse("run", env={**env, "PATH": "/nowhere"}, code=127)
    assert "CLAUDE=/nowhere" in starter.refuse("run", env={**env, "CLAUDE": "/nowhere"}, code=127)
    claude.path.write_bytes(b"\x7fELF nonsense")
    done = starter.run("run", "-p", env=env)
    assert done.returncode == 126
    assert "cannot be started: Exec format error" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_run_help_is_ours_and_claudes(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    told = starter.run("run", "--help")
    assert told.returncode == OK
    assert "127 claude was not found" in told.stdout
    starter.run("run", "--", "--help", env=claude.environment(redcap, TELL_ALL))
    assert claude.said["arguments"] == ["--help"]
    assert starter.run("run", "--log").returncode == MISUSED


@pytest.mark.slow
def test_run_chooses_a_permission_mode_and_says_so(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    done = starter.run("run", "--model", "x", env=claude.environment(redcap, TELL_ALL, PYTHONIOENCODING="cp437"))
    assert claude.said["arguments"] == ["--permission-mode", "default", "--model", "x"]
    mode, line = done.stderr.splitlines()
    assert "permission mode default (auto needs verdicts" in mode
    assert line == "claude-proxy: x -> x (no rule maps this name) via 127.0.0.1"


@pytest.mark.slow
def test_run_is_not_led_elsewhere_by_claudes_settings(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    (claude.home / ".claude").mkdir()
    file = claude.home / ".claude" / "settings.json"
    file.write_text(json.dumps({"env": {"ANTHROPIC_BASE_URL": "https://elsewhere.example.edu"}}))
    starter.run("run", "-p", env=claude.environment(redcap, TELL_ALL))
    option, value, last = claude.said["arguments"]
    assert (option, last) == ("--settings", "-p")
    assert json.loads(value) == {"env": {"ANTHROPIC_BASE_URL": claude.said["env"]["ANTHROPIC_BASE_URL"]}}
    file.write_text(json.dumps({"env": {"ANTHROPIC_AUTH_TOKEN": "another"}}))
    assert "ANTHROPIC_AUTH_TOKEN" in starter.refuse("run", "-p", env=claude.environment(redcap, TELL_ALL))


@pytest.mark.slow
def test_run_is_not_led_elsewhere_by_the_folder_it_is_started_in(
    redcap: Redcap, starter: Starter, claude: FakeClaude
) -> None:
    """Whoever clones a repository and starts Claude Code in it must not hand it the token."""
    (starter.folder / ".env").write_text("REDCAP_API_URL=https://elsewhere.example.edu/api/\nCLAUDE=/nowhere/evil\n")
    (starter.folder / "claude-proxy.toml").write_text('redcap_api_url = "https://elsewhere.example.edu/api/"\n')
    own = starter.folder / "home"
    own.mkdir()
    (own / ".env").write_text(f"REDCAP_API_URL={redcap.url}\nREDCAP_API_TOKEN={TOKEN}\n")
    env = claude.environment(redcap, TELL_ALL, REDCAP_API_URL="", REDCAP_API_TOKEN="")
    done = starter.run("run", "-p", env=env)
    assert done.returncode == 0, done.stderr
    assert "elsewhere" not in done.stderr
    assert claude.said["env"]["ANTHROPIC_AUTH_TOKEN"] == TOKEN


WAIT = "report('ready'); time.sleep(60)"
# For who starts it may have blocked some signals, as `UNSEEN` does.
HEAR_ALL = "signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())"


@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (WAIT, 128 + signal.SIGTERM),
        (f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); {WAIT}", 5),
        (f"signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), 9)); {WAIT}", 128 + signal.SIGKILL),
    ],
)
def test_run_passes_sigterm_on_to_claude(
    redcap: Redcap, starter: Starter, checkout: Path, claude: FakeClaude, code: str, exit_code: int, *, unseen: bool
) -> None:
    env = claude.environment(redcap, f"{HEAR_ALL}; {code}")
    with starter.running("run", "-p", env=env, command=unseen_signals(checkout) if unseen else ()) as process:
        assert claude.said == "ready"
        _, errors = stopped(process)
    assert (process.returncode, errors) == (exit_code, LINE)


def test_ctrl_c_is_claudes_own(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    code = """
times = []
def count(*_):
    times.append(1)
    report(len(times))
    if len(times) == 3: sys.exit(4)
signal.signal(signal.SIGINT, count)
report('ready')
while True: time.sleep(0.01)
"""
    process = subprocess.Popen(
        [*starter.command, "run", "-p"],
        cwd=starter.folder,
        env=starter.environment(claude.environment(redcap, code)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with ending(process):
        assert claude.said == "ready"
        for times in (1, 2, 3):
            os.killpg(process.pid, signal.SIGINT)  # as the terminal does: both get it
            eventually(lambda times=times: claude.said == times)  # type: ignore[misc]
        assert process.stderr
        assert process.stderr.read() == LINE
    assert process.returncode == 4


def state_of(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_when_claude_stops_itself_so_do_we(redcap: Redcap, starter: Starter, claude: FakeClaude) -> None:
    code = "report('ready'); os.kill(os.getpid(), signal.SIGSTOP); sys.exit(6)"
    with starter.running("run", "-p", env=claude.environment(redcap, code)) as process:
        eventually(lambda: state_of(process) == "T")
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 6


# --- env --------------------------------------------------------------------------------------------------------------

OURS = {**URL, "REDCAP_API_TOKEN": TOKEN, "LISTEN_PORT": "8765"}


def test_env_prints_lines_for_eval(starter: Starter) -> None:
    script = f'eval "$({shlex.join([*starter.command, "env"])})" && /usr/bin/env -0'
    env = starter.environment({**OURS, "ANTHROPIC_API_KEY": "sk", "NO_PROXY": "a.org"})
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=starter.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    seen = dict(entry.partition("=")[::2] for entry in done.stdout.split("\0"))
    assert seen["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8765"
    assert seen["ANTHROPIC_AUTH_TOKEN"] == TOKEN
    assert seen["NO_PROXY"] == "a.org,127.0.0.1,localhost,::1"
    assert "ANTHROPIC_API_KEY" not in seen
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "shell", "line"),
    [
        ([], "/bin/bash", f"export ANTHROPIC_AUTH_TOKEN={TOKEN}"),
        ([], "/usr/bin/fish", f"set -gx ANTHROPIC_AUTH_TOKEN '{TOKEN}'"),
        (["--shell", "powershell"], "/bin/bash", f"$env:ANTHROPIC_AUTH_TOKEN = '{TOKEN}'"),
        (["--model", "gpt-4.1"], "", "export CLAUDE_CODE_AUTO_COMPACT_WINDOW=1000000"),
    ],
)
def test_env_speaks_the_shells_language(starter: Starter, arguments: list[str], shell: str, line: str) -> None:
    assert line in starter.run("env", *arguments, env={**OURS, "SHELL": shell}).stdout.splitlines()


def test_env_needs_a_port_and_a_token(starter: Starter) -> None:
    assert "LISTEN_PORT=0" in starter.refuse("env", env={**OURS, "LISTEN_PORT": "0"})
    assert "there is no token" in starter.refuse("env", env={**URL, "LISTEN_PORT": "8765"})
    assert "REDCAP_API_URL is not set" in starter.refuse("env")


def test_env_writes_claudes_settings(starter: Starter, tmp_path: Path) -> None:
    env = {**OURS, "HOME": str(tmp_path)}
    file = tmp_path / ".claude" / "settings.json"
    done = starter.run("env", "--settings", env=env)
    assert (done.returncode, done.stdout) == (OK, "")
    assert str(file) in done.stderr
    written = json.loads(file.read_text())
    assert written["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8765"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(starter.run("env", "--settings", "-", env=env).stdout) == written
    assert starter.run("env", "--settings", env={**env, "LISTEN_PORT": "9999"}).returncode == OK
    assert json.loads(file.read_text())["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:9999"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"env": {"ANTHROPIC_BASE_URL": "https://elsewhere"}}',
            "ANTHROPIC_BASE_URL, which claude-proxy did not write",
        ),
        ('{"env": ', "not valid JSON"),
        ('{"env": {"A": 1}}', '"env"'),
    ],
)
def test_env_leaves_a_file_as_it_is(starter: Starter, text: str, words: str) -> None:
    file = starter.folder / "theirs.json"
    file.write_text(text)
    message = starter.refuse("env", "--settings", "theirs.json", env=OURS, code=FAILED)
    assert words in message
    assert "theirs.json was left as it is" in message
    assert file.read_text() == text
    assert [path.name for path in starter.folder.iterdir()] == ["theirs.json"]


def test_env_warns_of_a_repository(starter: Starter) -> None:
    (starter.folder / ".git").mkdir()
    done = starter.run("env", "--settings", ".claude/settings.json", env=OURS)
    assert done.returncode == OK
    assert "do not commit it" in done.stderr


# --- doctor, models, init ---------------------------------------------------------------------------------------------


def obey(request: ModelRequest) -> str:
    """Be a model that calls the tool that it is told to, or repeats the line that it is given."""
    said = text_of(request.messages[-1])
    if "Repeat" in said:
        return said.rpartition("\n")[2]
    return (
        '<function_calls>\n<invoke name="report_status">\n<parameter name="status">ready</parameter>\n</invoke>\n'
        "</function_calls>"
    )


@pytest.mark.slow
def test_doctor_finds_all_well(redcap: Redcap, starter: Starter) -> None:
    redcap.let_answer(obey)
    env = {"REDCAP_API_URL": redcap.url, "REDCAP_API_TOKEN": TOKEN, "HOME": str(starter.folder)}
    done = starter.run("doctor", env=env)
    assert (done.returncode, done.stderr) == (OK, "")
    assert re.search(r"^ok       token +REDCap takes it$", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ checks: \d+ ok, 1 warning, 1 skipped\.$", done.stdout.splitlines()[-1])
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert TOKEN not in done.stdout
    told = json.loads(starter.run("doctor", "--json", env=env).stdout)
    assert told["ok"] is True
    assert {"check": "token", "status": "ok", "message": "REDCap takes it"} in told["checks"]


@pytest.mark.slow
def test_doctor_finds_what_is_wrong(redcap: Redcap, starter: Starter) -> None:
    done = starter.run("doctor", env={"REDCAP_API_URL": redcap.url, "REDCAP_API_TOKEN": "0" * 32})
    assert done.returncode == FAILED
    assert re.search("^failed   token +REDCap refused the token", done.stdout, re.MULTILINE)
    done = starter.run("doctor", "--offline", "--json")
    assert done.returncode == FAILED
    assert json.loads(done.stdout)["ok"] is False
    assert starter.run("doctor", "--offline", env=URL).returncode == OK
    assert starter.run("doctor", "--timeout", "0").returncode == MISUSED


def test_models_shows_the_table_and_explains_a_name(starter: Starter) -> None:
    env = {**URL, "MODEL_MAP": '{"claude-opus-*": "my-\u00f6pus"}'}
    table = starter.run("models", env={**env, "PYTHONIOENCODING": "ascii"})
    assert table.returncode == OK
    assert re.search(r"^claude-opus-5-5 +my-\\xf6pus +128,000 ", table.stdout, re.MULTILINE)
    rows = json.loads(starter.run("models", "--json", env=env).stdout)
    assert {"claude-opus-5-5", "claude-opus-*", "*claude*", "o1"} <= {row["name"] for row in rows}
    assert starter.run("models", "haiku", env=env).stdout.startswith("claude-haiku-5-5 -> gpt-4o\n")
    assert json.loads(starter.run("models", "o1", "--json", env=env).stdout)["window"] == 200_000
    assert "REDCAP_API_URL is not set" in starter.refuse("models")


def exam_env(redcap: Redcap) -> dict[str, str]:
    return {"REDCAP_API_URL": redcap.url, "REDCAP_API_TOKEN": TOKEN}


@pytest.mark.slow
def test_an_exam_is_held_if_that_is_agreed_to(redcap: Redcap, starter: Starter) -> None:
    """Without a terminal it refuses, and says what it would cost; the table holds no content, no host and no token."""
    refusal = starter.refuse("exam", "o1", env=exam_env(redcap))
    assert "12 questions to 1 alias(es)" in refusal
    assert refusal.endswith("add --yes.")
    assert "cannot be prepared" in starter.refuse("exam", "", env=exam_env(redcap))
    assert not redcap.requests
    redcap.let_answer(lambda _: "Paris.")
    done = starter.run("exam", "o1", "--yes", "--per-minute", "100000", env=exam_env(redcap))
    assert done.returncode == OK, done.stderr
    assert re.search(r"^\| o1 +\| no +\| 0 of 9 ", done.stdout, re.MULTILINE)
    assert not any(word in done.stdout + done.stderr for word in ("Paris", TOKEN, "127.0.0.1"))
    shown = starter.run("exam", "o1", "--yes", "--show", "--json", "--per-minute", "100000", env=exam_env(redcap))
    told = json.loads(shown.stdout)
    assert [row["fit"] for row in told["aliases"]] == ["no"]
    assert all("Paris" in json.dumps(answer["content"]) for answer in told["answers"])


@pytest.mark.slow
def test_an_exam_with_a_wrong_token_shows_the_class_of_the_error(redcap: Redcap, starter: Starter) -> None:
    env = exam_env(redcap) | {"REDCAP_API_TOKEN": "0" * 32}
    done = starter.run("exam", "o1", "--yes", env=env)
    assert done.returncode == FAILED
    assert "- o1, a command: AuthenticationFailed, " in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True])
def test_ctrl_c_ends_an_exam_with_what_there_is(
    redcap: Redcap, starter: Starter, checkout: Path, *, unseen: bool
) -> None:
    gate = Gate("too late")
    redcap.queue("Yes.", gate)
    (starter.folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in exam_env(redcap).items()))
    command = unseen_signals(checkout) if unseen else ()
    with Terminal(starter, "exam", "o1", "--here", "--per-minute", "100000", command=command) as terminal:
        terminal.read_until("Begin? [y/N] ")
        terminal.type("y\n")
        assert gate.reached.wait(PATIENCE)
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGINT
    assert "stopped after 1 of 12 questions" in terminal.shown
    assert "| o1    | unknown | 0 of 1 " in terminal.shown
    assert "Traceback" not in terminal.shown


@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True])
def test_ctrl_c_at_the_question_before_an_exam_asks_nothing(
    redcap: Redcap, starter: Starter, checkout: Path, *, unseen: bool
) -> None:
    (starter.folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in exam_env(redcap).items()))
    command = unseen_signals(checkout) if unseen else ()
    with Terminal(starter, "exam", "o1", "--here", command=command) as terminal:
        terminal.read_until("Begin? [y/N] ")
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGINT
    assert "Traceback" not in terminal.shown
    assert not redcap.requests


@pytest.mark.slow
def test_an_exam_that_is_not_agreed_to_asks_nothing(redcap: Redcap, starter: Starter) -> None:
    (starter.folder / ".env").write_text("".join(f"{name}={text}\n" for name, text in exam_env(redcap).items()))
    with Terminal(starter, "exam", "o1", "--here") as terminal:
        terminal.read_until("Begin? [y/N] ")
        terminal.type("\n")
        assert terminal.end() == FAILED
    assert not redcap.requests


@pytest.mark.slow
def test_init_works_without_a_terminal(redcap: Redcap, starter: Starter) -> None:
    def init(token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*starter.command, "init", "--url", redcap.url],
            cwd=starter.folder,
            env=starter.environment({}),
            input=token,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    refused = init("0" * 32)
    assert (refused.returncode, refused.stdout) == (FAILED, "")
    assert "claude-proxy: REDCap refused the token" in refused.stderr
    assert list(starter.folder.iterdir()) == []
    done = init(f"{TOKEN}\n")
    assert (done.returncode, done.stdout) == (OK, "")
    assert TOKEN not in done.stderr
    assert (starter.folder / "home" / ".env").read_text() == f"REDCAP_API_URL={redcap.url}\nREDCAP_API_TOKEN={TOKEN}\n"


@pytest.mark.slow
def test_init_asks_at_a_terminal(redcap: Redcap, starter: Starter) -> None:
    with Terminal(starter, "init") as terminal:
        terminal.read_until("API address")
        terminal.type(f"{redcap.url}\n")
        terminal.read_until("API token (not shown): ")
        terminal.type(f"{TOKEN}\n")
        assert terminal.end() == OK
    assert "\x1b[32mok     \x1b[0m  token" in terminal.shown
    assert TOKEN not in terminal.shown
    assert (starter.folder / "home" / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at_the_token", [False, True])
@pytest.mark.parametrize("unseen", [False, True])
def test_ctrl_c_at_init_changes_nothing(starter: Starter, checkout: Path, *, at_the_token: bool, unseen: bool) -> None:
    with Terminal(starter, "init", command=unseen_signals(checkout) if unseen else ()) as terminal:
        terminal.read_until("such as https://redcap.example.edu/api/: ")
        if at_the_token:
            terminal.type("http://127.0.0.1:9/api/\n")
            terminal.read_until("API token (not shown): ")
        terminal.type("\x03")
        assert terminal.end() == 128 + signal.SIGINT
    assert "Nothing was written." in terminal.shown
    assert "Traceback" not in terminal.shown
    assert list(starter.folder.iterdir()) == []


@pytest.mark.parametrize("command", ["serve", "run", "env", "init", "doctor", "models", "exam", "demo"])
def test_every_command_explains_itself(starter: Starter, command: str) -> None:
    told = starter.run(command, "--help")
    assert told.returncode == OK
    assert told.stdout.startswith(f"usage: claude-proxy {command} ")
    assert told.stdout.isascii()
