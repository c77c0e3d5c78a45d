"""The command line: its commands and options, the signals, and what failures come to."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from claude_proxy import __version__
from claude_proxy.errors import CommandFailed
from claude_proxy.settings.values import port, seconds, whole_number

_OK, _FAILED = 0, 1
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OPTIONS_OF_RUN = ("--claude", "--log")  # those with a value
_HERE = "--here"
_WITHOUT_VALUE = ("-h", "--help", _HERE)

_EPILOG = """\
The settings come from the command line, the environment, .env or claude-proxy.toml;
the first that sets one wins. The two files are read in your own folder: that of
CLAUDE_PROXY_HOME, else the checkout, else claude-proxy in the folder for
configuration. With --here they are read in the working folder instead.
REDCAP_API_URL must be set. .env.example and claude-proxy.example.toml explain all.
Exit codes: 0 stopped as asked, 1 could not start or was stopped by a second signal,
2 wrong usage or settings. The other commands say theirs in their own --help.
"""
# Of each command: a line for the list, what it does, and what else to know.
_TEXTS = {
    "serve": (
        "start the proxy (the default)",
        "Start the proxy. claude-proxy.toml is read again when it changes, everything on SIGHUP.",
        "",
    ),
    "run": (
        "start Claude Code, with a proxy that ends with it",
        """\
Start Claude Code with everything behind "run" as its arguments. A proxy is started
with it, on a free port, and ends with it.
""",
        """\
The options above must come first; what follows them, or follows --, goes to claude
as it stands: claude-proxy run -- --help shows claude's own help.
Exit codes: claude's own (128 and the signal's number if a signal ended it);
1 the proxy could not start, 2 wrong usage or settings, 126 claude could not be
started, 127 claude was not found.
""",
    ),
    "env": (
        "print what makes Claude Code use the proxy, or write its settings.json",
        """\
Print the environment that makes Claude Code use the proxy at LISTEN_HOST and
LISTEN_PORT ("claude-proxy serve"), token included, as lines for a shell.
""",
        """\
bash, zsh:   eval "$(claude-proxy env)"
fish:        claude-proxy env | source
PowerShell:  claude-proxy env | Out-String | Invoke-Expression
With --settings, what the file already says is kept: where it has another value that
claude-proxy did not write, nothing is changed.
Exit codes: 0 done, 1 the file could not be merged with or written, 2 wrong usage or settings.
""",
    ),
    "init": (
        "ask for REDCap's address and token, try them, and write .env",
        """\
Ask for REDCap's API address and the API token, which is not shown; try both; and
write them into .env in your own folder, which only you can read then. Other lines of
the file stay as they are; a value that differs is replaced only if you say so.
""",
        """\
Without a terminal: claude-proxy init --url URL < file-with-the-token
(the token is never an argument: everybody on the machine could see it there).
Exit codes: 0 written, 1 nothing was written, 2 wrong usage or settings, 130 Ctrl-C.
""",
    ),
    "doctor": (
        "check everything, and say what to do about what is wrong",
        """\
Check, from near to far: Python, the settings and where each came from, the port,
Claude Code and whatever would send it elsewhere; then the way to REDCap, the token and
the module; then each alias, with a tiny call. One line each, with what to do if it
failed. What comes after a failure is skipped. No secret is shown.
""",
        "Exit codes: 0 nothing failed (there may be warnings), 1 something did, 2 wrong usage.",
    ),
    "models": (
        "show which alias answers for which model name, and why",
        "Show which SecureChatAI alias answers for which model name, and which rule decides.",
        "Exit codes: 0 done, 1 the output could not be written, 2 wrong usage or settings.",
    ),
    "exam": (
        "find out which aliases can drive Claude Code, with a dozen small tasks for each",
        """\
Let each alias do a dozen small tasks, through the proxy's own code: calls, files with
quotes and entities, an edit, plain answers, a file beyond the alias's limit. Shown is
a table without any content, host or token, which can be pasted into an issue.
""",
        """\
It is said beforehand what that costs, and nothing is asked unless you agree. Ctrl-C
ends it, and shows what there is by then.
Exit codes: 0 done, 1 not agreed to, or no alias answered, 2 wrong usage or settings,
130 Ctrl-C.
""",
    ),
    "demo": (
        "try it without a REDCap: a pretend one, with the proxy before it",
        "Start a pretend REDCap with SecureChatAI, and the proxy before it; nothing leaves this machine.",
        "",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `serve` where none is given.

    Returns:
        The exit code.
    """
    own, for_claude = list(sys.argv[1:] if arguments is None else arguments), list[str]()
    if not own or (own[0].startswith("-") and own[0] not in {"-h", "--help", "--version"}):
        own.insert(0, "serve")
    if own[:1] == ["run"]:
        own[1:], for_claude = split_arguments(own[1:])
    try:
        return _run_command(_parser().parse_args(own, argparse.Namespace(for_claude=for_claude)))
    except BrokenPipeError:  # who read what we say has gone
        return _FAILED
    finally:
        _drop_unread(sys.stdout, sys.stderr)


def _run_command(options: argparse.Namespace) -> int:
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, _interrupt)
    command: str = options.command
    try:
        # Only the command's own module is imported, and what that needs, so that it starts soon.
        code: int = import_module(f"claude_proxy.commands.{command}").run(options)
    except CommandFailed as error:
        print(f"claude-proxy: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # for `run` this is before claude has started, which nobody asked to succeed
        return _OK if command in {"serve", "demo"} else 128 + signal.SIGINT
    return code


def _drop_unread(*streams: TextIO | None) -> None:
    """Let go of what cannot be written, or Python complains of it at its end."""
    for stream in filter(None, streams):  # one that is closed is None
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """The first signal to stop: end in good order."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _exit_at_once)
    raise KeyboardInterrupt


def _exit_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    """The second one. Threads may be in the midst of anything, and nobody wants to wait for them any more."""
    os._exit(_FAILED)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="claude-proxy",
        description="Lets Claude Code work through REDCap's SecureChatAI.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"claude-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    serve, run, env, init, doctor, models, exam, demo = (
        commands.add_parser(name, help=short, description=description, epilog=epilog, formatter_class=raw)
        for name, (short, description, epilog) in _TEXTS.items()
    )
    _add_options_of_claude(run, env)
    init.add_argument("--url", metavar="URL", help="REDCap's API address; it is asked for if not given")
    doctor.add_argument("--offline", action="store_true", help="leave out what needs the network")
    wait = "wait so long for each answer of a model (default: 60)"
    doctor.add_argument("--timeout", type=_checked(seconds(1, 7200)), default=60.0, metavar="SECONDS", help=wait)
    models.add_argument("name", metavar="NAME", nargs="?", help="explain this name only; claude's short names do, too")
    _add_options_of_exam(exam)
    demo.add_argument(
        "--backend",
        metavar="URL",
        type=_http_url,
        help="let a real model answer: any OpenAI-compatible server (Ollama, llama.cpp, vLLM), "
        "such as http://127.0.0.1:11434; without it a small scripted stand-in does",
    )
    demo.add_argument("--model", metavar="NAME", help="the backend's name for the model")
    for each in (doctor, models, exam):
        each.add_argument("--json", action="store_true", help="write JSON, for a program")
    for each in (serve, doctor, models, exam):
        each.add_argument("--config", metavar="PATH", help="the configuration file (default: claude-proxy.toml)")
    for each in (serve, run, env, init, doctor, models, exam):
        each.add_argument(_HERE, action="store_true", help="the files with settings are those of the working folder")
    for each in (serve, demo):
        each.add_argument(
            "--port", type=_checked(port), metavar="N", help="listen on this port (default: LISTEN_PORT, or 8765)"
        )
    return parser


def _add_options_of_claude(run: argparse.ArgumentParser, env: argparse.ArgumentParser) -> None:
    run.usage = "claude-proxy run [-h] [--here] [--claude PATH] [--log FILE] [--] [claude's own arguments]"
    run.add_argument("--claude", metavar="PATH", help="Claude Code's program (default: CLAUDE, or claude on the PATH)")
    run.add_argument("--log", metavar="FILE", type=Path, help="append the proxy's log to this file (default: no log)")
    form = env.add_mutually_exclusive_group()
    form.add_argument("--shell", choices=("bash", "fish", "powershell"), help="(default: guessed; bash does for zsh)")
    form.add_argument(
        "--settings",
        metavar="PATH",
        nargs="?",
        const="",
        help="write Claude Code's settings there instead (default: ~/.claude/settings.json); - prints them",
    )
    env.add_argument("--model", metavar="NAME", help="the model whose sizes to tell (default: as Claude Code chooses)")


def _add_options_of_exam(exam: argparse.ArgumentParser) -> None:
    names = "ask this alias, or alias@server (default: those that the configured map names)"
    exam.add_argument("alias", metavar="ALIAS", nargs="*", help=names)
    exam.add_argument("--yes", action="store_true", help="begin without asking whether the cost is all right")
    exam.add_argument("--show", action="store_true", help="show what the models wrote, too")
    pace = "ask REDCap at most so often (default: 30); it bans addresses that exceed its own limit"
    exam.add_argument("--per-minute", type=_checked(whole_number(1, 100_000)), default=30, metavar="N", help=pace)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands behind `run`, as our options and claude's arguments.

    Ours come first; whatever is not ours ends them, or `--`, which is dropped.
    """
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        if argument == "--":
            return list(arguments[:place]), list(arguments[place + 1 :])
        if argument in _OPTIONS_OF_RUN:
            place += 2
        elif argument in _WITHOUT_VALUE or argument.partition("=")[0] in _OPTIONS_OF_RUN:
            place += 1
        else:
            break
    return list(arguments[:place]), list(arguments[place:])


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: it must begin with http:// or https://")
    return text


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The parser of a setting, as one of an option."""

    def parse_option(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {error}") from None

    return parse_option
