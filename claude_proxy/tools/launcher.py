"""Starts Claude Code before a proxy, and stays out of its way.

What it must be told is computed in `claude_environment`; here are the file system and the process. Claude Code runs as
a child in the same process group and with the same terminal: Ctrl-C reaches it from the terminal, so we ignore it; a
signal that was meant for us is passed on; when it stops itself (Ctrl-Z) we stop too, or the shell would never get its
terminal back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO
from urllib.parse import urlsplit

from claude_proxy.errors import CommandFailed
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.wait.wakeup import Wakeup
from claude_proxy.tools.claude_environment import (
    AUTH_TOKEN,
    SettingsConflict,
    choose_mode,
    choose_model,
    compute_changes,
    find_option,
    outranked,
    read_settings,
    settings_text,
)
from claude_proxy.tools.model_table import Row, explain

FAILED, MISUSED, NOT_STARTABLE, NOT_FOUND = 1, 2, 126, 127
WINDOWS = sys.platform == "win32"
_INSTALL = "irm https://claude.ai/install.ps1 | iex" if WINDOWS else "curl -fsSL https://claude.ai/install.sh | bash"


class LaunchError(CommandFailed):
    """Claude Code cannot be started."""

    code = MISUSED


# --- finding things ---------------------------------------------------------------------------------------------------


def find_claude(chosen: str | None, environ: Mapping[str, str]) -> str:
    """The path of Claude Code: of the name or path that the user chose, or else `claude`.

    It gets the token, so no program of the working folder may take its place.

    Raises:
        LaunchError: there is none.
    """
    program = Path(os.path.expanduser(chosen or "claude"))  # noqa: PTH111 - the other one fails where there is no home
    if WINDOWS and not program.suffix:
        program = program.with_suffix(".exe")
    # Its installer puts it into ~/.local/bin, which shells that were open before do not search.
    folders = [*_safe_folders(environ), *([] if chosen else [os.path.expanduser("~/.local/bin")])]  # noqa: PTH111
    is_name = program.name == str(program)
    for path in [Path(folder) / program for folder in folders] if is_name else [program]:
        # A batch file is not started: Windows' command interpreter would act on its arguments.
        is_batch = WINDOWS and path.suffix.lower() != ".exe"
        if path.is_absolute() and not is_batch and shutil.which(path):
            return str(path)
    if chosen:
        kind = "program (.exe)" if WINDOWS else "program"
        raise LaunchError(
            f"CLAUDE={chosen} is no {kind} that can be started. Give its whole path, or its name if it is on the PATH; "
            "the working folder is not searched.",
            NOT_FOUND,
        )
    raise LaunchError(
        f"Claude Code ({program}) is not on the PATH. Install it with: {_INSTALL}, or set CLAUDE to its path.",
        NOT_FOUND,
    )


def _safe_folders(environ: Mapping[str, str]) -> list[str]:
    """The folders of PATH but those that lead into the working folder: itself, relative ones, and empty ones."""
    here = Path.cwd()
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    return [folder for folder in folders if Path(folder).is_absolute() and Path(folder).resolve() != here]


@dataclass(frozen=True)
class ClaudeSettings:
    """What Claude Code's settings files say that matters here.

    Attributes:
        env: variables that outrank the environment's.
        model: the model of whoever names none.
        mode: the permission mode of whoever names none.
        fixed: variables of the organisation's settings, which nothing outranks.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    mode: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)


def settings_path(environ: Mapping[str, str]) -> Path:
    """The user's settings file of Claude Code."""
    folder = environ.get("CLAUDE_CONFIG_DIR")
    return (Path(folder) if folder else Path.home() / ".claude") / "settings.json"


def managed_path(environ: Mapping[str, str]) -> Path:
    """The organisation's settings file of Claude Code."""
    if WINDOWS:
        return Path(environ.get("PROGRAMFILES", r"C:\Program Files")) / "ClaudeCode" / "managed-settings.json"
    mac = sys.platform == "darwin"
    return Path("/Library/Application Support/ClaudeCode" if mac else "/etc/claude-code") / "managed-settings.json"


def load_claude_settings(arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> ClaudeSettings:
    """Read the settings files that Claude Code will read; like Claude Code, ignore one that cannot be read."""
    sources: list[str | Path] = [settings_path(environ)]
    sources += [folder / ".claude" / name for name in ("settings.json", "settings.local.json")]
    given = find_option(arguments, "--settings")
    if given:
        sources.append(given if given.lstrip().startswith("{") else folder / given)
    layers = [_read_leniently(source) for source in (*sources, managed_path(environ))]
    env = {name: text for layer in layers for name, text in layer.get("env", {}).items()}
    permissions = [layer["permissions"] for layer in layers if isinstance(layer.get("permissions"), dict)]
    return ClaudeSettings(env, _last(layers, "model"), _last(permissions, "defaultMode"), layers[-1].get("env", {}))


def _read_leniently(source: str | Path) -> dict[str, Any]:
    try:
        return read_settings(source) if isinstance(source, str) else load_settings_file(source)
    except (SettingsConflict, LaunchError):
        return {}


def _last(layers: Sequence[Mapping[str, Any]], name: str) -> str | None:
    return next((layer[name] for layer in reversed(layers) if isinstance(layer.get(name), str)), None)


# --- the proxy --------------------------------------------------------------------------------------------------------


def local_url(settings: Settings) -> str:
    """The address under which clients on this machine reach a proxy with these settings."""
    host = settings.listen_host
    host = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.lower(), host)  # noqa: S104
    return f"http://[{host}]:{settings.listen_port}" if ":" in host else f"http://{host}:{settings.listen_port}"


def private_settings(settings: Settings, token: str) -> Settings:
    """The settings of a proxy for one client: on a free port of this machine, for this one token."""
    return replace(
        settings,
        listen_host="127.0.0.1",
        listen_port=0,
        redcap_api_token=Secret(token),
        max_connections=min(settings.max_connections, 500),  # one client opens a few dozen
    )


# --- the plan ---------------------------------------------------------------------------------------------------------


def client_token(settings: Settings, *sources: Mapping[str, str]) -> str:
    """The credential for Claude Code: the proxy's own token, or where clients bring theirs, the user's.

    Raises:
        LaunchError: there is none, or it cannot be sent.
    """
    if settings.redcap_api_token:
        return settings.redcap_api_token.reveal()
    token = next(filter(None, (source.get(AUTH_TOKEN, "").strip() for source in sources)), "")
    if not token:
        raise LaunchError(
            "there is no token. Put REDCAP_API_TOKEN=your-redcap-token into .env or into the environment, or set "
            f"{AUTH_TOKEN} to it."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise LaunchError(f"{AUTH_TOKEN} cannot be used: it must be printable ASCII without blanks.")
    return token


def find_answerer(
    asked: str | None, settings: Settings, environ: Mapping[str, str], env: Mapping[str, str], configured: str | None
) -> Row:
    """Who answers Claude Code, given `--model`, the environment, and `env` and `model` of its settings files."""
    return explain(choose_model(asked, {**environ, **env}, configured), settings)


def answerer_line(answerer: Row, settings: Settings, encoding: str | None) -> str:
    """The line that says who answers, for a terminal with this encoding."""
    arrow = "\u2192"
    try:
        arrow.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        arrow = "->"
    note = " (no rule maps this name)" if answerer.choice.is_client_text else ""
    host = urlsplit(settings.redcap_api_url).hostname
    return printable(f"{answerer.name} {arrow} {answerer.choice.alias.name}{note} via {host}")


def printable(text: str) -> str:
    """A text without anything that would move the cursor or change colours."""
    return "".join(character if character.isprintable() else "?" for character in text)


@dataclass(frozen=True)
class Launch:
    """A command with its environment, and what to tell the user before."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    sentences: tuple[str, ...] = ()


def plan_launch(
    program: str,
    arguments: Sequence[str],
    *,
    base_url: str,
    token: str,
    answerer: Row,
    environ: Mapping[str, str],
    claude: ClaudeSettings,
) -> Launch:
    """How to start Claude Code for a proxy.

    Raises:
        LaunchError: its settings send it elsewhere, and cannot be outranked.
    """
    changes = compute_changes(base_url, token, answerer.choice.alias, environ, claude.env)
    overrides = outranked(changes, claude.env)
    beyond = [name for name in overrides if name == AUTH_TOKEN or name in claude.fixed]
    if find_option(arguments, "--settings") is not None:
        beyond = list(overrides)  # only the last --settings counts, and that one is the user's
    if beyond:
        raise LaunchError(
            f"Claude Code's settings have other values of {', '.join(beyond)}, which outrank what is set here. Remove "
            "them from \"env\" in its settings.json: yours, the project's, the organisation's, or that of --settings."
        )
    mode = choose_mode(arguments, claude.mode)
    # Never a secret: that is refused above, for arguments can be seen by everybody on the machine.
    extra = ("--settings", json.dumps({"env": overrides})) if overrides else ()
    whole = (*extra, *mode.arguments, *arguments)
    # Whatever claude itself is started by, such as node, must not come from the working folder, either.
    searched = {"PATH": os.pathsep.join(_safe_folders(environ)) or os.defpath}
    searched |= {"NoDefaultCurrentDirectoryInExePath": "1"} if WINDOWS else {}
    return Launch((program, *whole), changes.applied_to(environ) | searched, (mode.sentence,) if mode.sentence else ())


# --- the process ------------------------------------------------------------------------------------------------------


def run_claude(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run Claude Code to its end, with our terminal.

    Returns:
        Its exit code; 128 and the signal's number if a signal ended it, as shells say it.

    Raises:
        LaunchError: it cannot be started.
    """
    to_pass: deque[int] = deque()
    with _signals_noted(to_pass):
        try:
            process = subprocess.Popen(command, env=dict(environ))  # noqa: S603 - the user's own program and arguments
        except (OSError, ValueError) as error:
            raise LaunchError(f"{command[0]} cannot be started: {_reason(error)}.", NOT_STARTABLE) from None
        code = _wait(process, to_pass)
    return 128 - code if code < 0 else code


_OF_THE_TERMINAL = ("SIGINT", "SIGQUIT", "SIGBREAK")
_FOR_US = ("SIGTERM", "SIGHUP")
_OF_CLAUDE = "SIGCHLD"  # it has ended, or stopped: handled, if only by doing nothing, or it would wake nobody


@contextmanager
def _signals_noted(to_pass: deque[int]) -> Iterator[None]:
    """While claude runs, its terminal's signals are its own, and ours are noted, to be passed on."""

    def note(number: int, _frame: FrameType | None) -> None:
        if signal.Signals(number).name in _FOR_US:
            to_pass.append(number)

    before = {}
    for name in (*_OF_THE_TERMINAL, *_FOR_US, _OF_CLAUDE):
        number = getattr(signal, name, None)
        # What is ignored already (nohup) is left so, for claude inherits that; a handler it does not inherit.
        if number is not None and (name == _OF_CLAUDE or signal.getsignal(number) is not signal.SIG_IGN):
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen[bytes], to_pass: deque[int]) -> int:
    if sys.platform == "win32":
        return process.wait()
    has_stopped = False
    with Wakeup() as wakeup:
        while True:
            while to_pass:
                os.kill(process.pid, to_pass.popleft())
            changed, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if changed and not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status):
                process.returncode = os.waitstatus_to_exitcode(status)
                return process.returncode
            if changed:
                has_stopped = os.WIFSTOPPED(status)
            elif has_stopped:
                # Had the shell stopped the two of us together, claude would have been continued by now.
                has_stopped = False
                os.kill(os.getpid(), signal.SIGSTOP)
                os.kill(process.pid, signal.SIGCONT)
            else:
                wakeup.wait()  # any signal ends it


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# --- files ------------------------------------------------------------------------------------------------------------


def open_log(path: Path) -> TextIO:
    """A log file to append to, which only its owner may read.

    Raises:
        LaunchError: it cannot be written.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} cannot be written: {_reason(error)}.") from None
    return os.fdopen(number, "a", encoding="utf-8")


def load_settings_file(path: Path) -> dict[str, Any]:
    """The settings in a file that is to be merged with; none where there is no file.

    Raises:
        LaunchError: the file cannot be read or understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return read_settings(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        fault = "it is not UTF-8 text" if isinstance(error, UnicodeError) else _reason(error)
        raise LaunchError(f"{path} was left as it is: {fault}. Correct it first.", FAILED) from None


def save_settings_file(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings whole or not at all, for their owner's eyes only.

    Raises:
        LaunchError: the file cannot be written.
    """
    try:
        replace_file(path, settings_text(settings).encode())
    except OSError as error:
        raise LaunchError(f"{path} cannot be written: {_reason(error)}.", FAILED) from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with mode 600, as `mkstemp` makes it; a link stays one."""
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def lies_in_repository(path: Path) -> bool:
    """Whether a file lies in a Git work tree, where it might be committed."""
    return any((folder / ".git").exists() for folder in path.resolve().parents)
