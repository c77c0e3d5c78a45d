"""Runs the real Claude Code against a server of the test's choosing, and reads back what it did.

The binary is the one inside ``claude-agent-sdk``, so the tested version is the pinned one. A session is one process in
print mode: the prompt goes in on stdin (an argument has a length limit, and a prompt may begin with a dash), JSON lines
come out. Its environment is built from nothing, so neither the developer's credentials and proxies nor an enclosing
Claude Code can leak in, and its home is the test's own. Input and output are files, not pipes: a stray grandchild that
keeps a pipe open cannot hang a test, and a session that had to be killed can still be read.

Permissions: Claude Code does not let root bypass them, and need not. Sessions run in ``dontAsk`` mode with the usual
tools allowed by name; whatever else the model asks for is refused, never waited for, and shows in ``Session.denials``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Event: TypeAlias = dict[str, Any]
"""One line of ``--output-format stream-json``."""

ALLOWED_TOOLS = ("Agent", "Bash", "Edit", "NotebookEdit", "Read", "Skill", "Write")
NO_EXTRAS: Mapping[str, str] = MappingProxyType({})
GRACE = 5.0
"""Seconds between asking a session to end and killing it: it needs them to end the commands it has started."""


@dataclass(frozen=True)
class ToolCall:
    """A call as Claude Code understood it. `parent` is the ``Agent`` call it was made for, if a subagent made it."""

    id: str
    name: str
    input: Mapping[str, Any]
    parent: str | None


@dataclass(frozen=True)
class ToolResult:
    """What the model is told about a call."""

    tool_use_id: str
    text: str
    is_error: bool


@dataclass(frozen=True)
class Session:
    """A session that has ended: the whole of its output, and the questions tests ask of it."""

    events: tuple[Event, ...]
    stderr: str
    exit_code: int
    seconds: float

    @property
    def result(self) -> str:
        """The final answer, or the final error. Empty if the session ended without either."""
        return self._outcome.get("result") or "\n".join(self._outcome.get("errors", ()))

    @property
    def is_error(self) -> bool:
        return self.exit_code != 0 or self._outcome.get("is_error", True)

    @property
    def id(self) -> str:
        """What ``--resume`` takes, in the same `home` and `cwd`."""
        return next((event["session_id"] for event in self.events if "session_id" in event), "")

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every text block the model wrote, in order."""
        return tuple(block["text"] for _, block in self._blocks("assistant", "text"))

    @cached_property
    def thoughts(self) -> tuple[str, ...]:
        """Every thinking block the model wrote, in order."""
        return tuple(block["thinking"] for _, block in self._blocks("assistant", "thinking"))

    @cached_property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(block["id"], block["name"], block["input"], event.get("parent_tool_use_id"))
            for event, block in self._blocks("assistant", "tool_use")
        )

    @cached_property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """In order of completion, which need not be the order of the calls."""
        return tuple(
            ToolResult(block.get("tool_use_id", ""), _plain(block.get("content", "")), block.get("is_error", False))
            for _, block in self._blocks("user", "tool_result")
        )

    @property
    def denials(self) -> tuple[Event, ...]:
        """The calls that were refused for want of permission: a test that expects none should say so."""
        return tuple(self._outcome.get("permission_denials", ()))

    @property
    def api_retries(self) -> tuple[Event, ...]:
        """One event per wait before a retry: `attempt`, `retry_delay_ms`, `error_status`, `error`."""
        return tuple(event for event in self.events if event.get("subtype") == "api_retry")

    def result_of(self, call: ToolCall) -> ToolResult:
        return {result.tool_use_id: result for result in self.tool_results}[call.id]

    def __str__(self) -> str:
        """The session as a failing test should print it."""
        lines = [json.dumps(event, ensure_ascii=False)[:400] for event in self.events]
        return "\n".join([f"exit code {self.exit_code} after {self.seconds:.1f} s", *lines, self.stderr.strip()])

    @property
    def _outcome(self) -> Event:
        return next((event for event in reversed(self.events) if event["type"] == "result"), {})

    def _blocks(self, role: str, kind: str) -> Iterator[tuple[Event, Event]]:
        for event in self.events:
            content = event["message"]["content"] if event["type"] == role else ()
            for block in content if not isinstance(content, str) else ():
                if block["type"] == kind:
                    yield event, block


class SessionTimeoutError(TimeoutError):
    """The session did not end in time and was killed; `session` is what it had done by then."""

    def __init__(self, session: Session) -> None:
        super().__init__(f"Claude Code did not end in time. {session}")
        self.session = session


class RunningSession:
    """A session under way. As a context manager it leaves no process behind."""

    def __init__(self, command: Sequence[str], prompt: str, *, cwd: Path, env: Mapping[str, str]) -> None:
        record = Path(mkdtemp(prefix="session-", dir=env["TMPDIR"]))
        self._stdout, self._stderr = record / "stdout.jsonl", record / "stderr.txt"
        stdin = record / "prompt.txt"
        stdin.write_text(prompt, encoding="utf-8")
        self._started = time.monotonic()
        with stdin.open() as source, self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=source, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def interrupt(self) -> None:
        """Do what Ctrl-C does: the request under way is dropped, running commands are ended, the session is kept."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process group, politely first: shell commands are in groups that only Claude Code can end."""
        for attempt in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, attempt)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)

    def wait(self, timeout: float = 120) -> Session:
        """Wait for the end, but not for ever: raise `SessionTimeoutError` after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SessionTimeoutError(self._record()) from None
        return self._record()

    def _record(self) -> Session:
        return Session(
            events=tuple(_events(self._stdout.read_text(encoding="utf-8", errors="replace"))),
            stderr=self._stderr.read_text(encoding="utf-8", errors="replace"),
            exit_code=self._process.returncode,
            seconds=time.monotonic() - self._started,
        )


def run_claude(
    prompt: str,
    *,
    base_url: str,
    token: str,
    cwd: Path,
    home: Path,
    model: str | None = None,
    extra_args: Sequence[str] = (),
    env: Mapping[str, str] = NO_EXTRAS,
    timeout: float = 120,
) -> Session:
    """Run one session to its end. `extra_args` and `env` are added last, so they overrule what is set here."""
    with start_claude(
        prompt, base_url=base_url, token=token, cwd=cwd, home=home, model=model, extra_args=extra_args, env=env
    ) as session:
        return session.wait(timeout)


def start_claude(
    prompt: str,
    *,
    base_url: str,
    token: str,
    cwd: Path,
    home: Path,
    model: str | None = None,
    extra_args: Sequence[str] = (),
    env: Mapping[str, str] = NO_EXTRAS,
) -> RunningSession:
    """Start one session and return at once, for tests that interrupt it or run several side by side."""
    command = [
        str(claude_binary()),
        "--print",
        "--verbose",
        "--output-format=stream-json",
        "--permission-mode=dontAsk",
        f"--allowedTools={','.join(ALLOWED_TOOLS)}",
        *([f"--model={model}"] if model else []),
        *extra_args,
    ]
    return RunningSession(command, prompt, cwd=cwd, env={**environment(base_url, token, home), **env})


def environment(base_url: str, token: str, home: Path) -> dict[str, str]:
    """Everything a session needs, and nothing of the caller's but where programs are found."""
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "TMPDIR": str(temporary),
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": token,
        "NO_PROXY": "localhost,127.0.0.1,::1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def claude_binary() -> Path:
    """Find Claude Code inside the installed ``claude-agent-sdk``, without paying for its import."""
    sdk = find_spec("claude_agent_sdk")
    binary = Path(sdk.origin).parent / "_bundled" / "claude" if sdk and sdk.origin else None
    if binary is None or not binary.is_file():
        raise FileNotFoundError(
            "claude-agent-sdk with its bundled Claude Code is not installed: python3 scripts/check.py installs it"
        )
    return binary


# --- What models write ------------------------------------------------------------------------------------------------


def calls(words: str, *invokes: str) -> str:
    """A reply with calls."""
    return "\n".join([words, "<function_calls>", *invokes, "</function_calls>"])


def invoke(tool: str, **parameters: object) -> str:
    lines = [f'<parameter name="{name}">{value}</parameter>' for name, value in parameters.items()]
    return "\n".join([f'<invoke name="{tool}">', *lines, "</invoke>"])


# --- Reading a session ------------------------------------------------------------------------------------------------


def _events(output: str) -> Iterator[Event]:
    """Parse the complete lines: a killed session may have ended in the middle of one, and JSON may hold U+2028."""
    for line in output.split("\n")[:-1]:
        if line.startswith("{"):
            yield json.loads(line)


def _plain(content: str | list[Event]) -> str:
    """Flatten the content of a tool result; blocks without text are named by their type."""
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text") or block.get("tool_name") or f"[{block['type']}]" for block in content)
