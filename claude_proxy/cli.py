"""The commands: they put the parts together and own the terminal, the environment and the signals."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from claude_proxy import __version__, settings
from claude_proxy.core import model_table
from claude_proxy.core.client_environment import (
    SettingsConflict,
    compute_changes,
    export_lines,
    find_option,
    guess_shell,
    merge_settings,
    settings_text,
)
from claude_proxy.core.models import Choice, choose_alias
from claude_proxy.errors import SettingsError
from claude_proxy.settings import Secret, Settings
from claude_proxy.shell import doctor, first_steps, launcher
from claude_proxy.shell.app import App
from claude_proxy.shell.connections import allow_files, forbid_core_dumps
from claude_proxy.shell.exchange import Exchange
from claude_proxy.shell.journal import Journal
from claude_proxy.shell.reload import Reloader
from claude_proxy.shell.scripted_model import INTRODUCTION, scripted_model
from claude_proxy.shell.server import ProxyServer
from claude_proxy.shell.simulator import Simulator, openai_backend
from claude_proxy.shell.upstream import Upstream

# Claude Code's `auto` mode asks its server to judge each action, which no text-only model can do.
_START_CLAUDE = "claude --permission-mode default"
_OK, _FAILED, _MISUSED = 0, 1, 2
_STANDARD_ERROR = 2
_DEMO_TOKEN = "DEMO" * 8
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Bytes of a thread's stack; only what is used of it takes memory. Deeply nested JSON makes Python 3.13.0 crash with
# 1 MB (some systems' default) and not with 2 MB; `ast` needs 1 MB (measured with 3.11.7, 3.12.1, 3.13.0 on x86-64).
_STACK = 8 * 1024 * 1024

_EPILOG = """\
The settings come from the command line, the environment, .env or claude-proxy.toml
in the working folder, or else in the user's own (CLAUDE_PROXY_HOME, the checkout,
or claude-proxy in the folder for configuration); the first that sets one wins.
REDCAP_API_URL must be set. .env.example and claude-proxy.example.toml explain all.
Exit codes: 0 stopped as asked, 1 could not start or was stopped by a second signal,
2 wrong usage or settings. The other commands say theirs in their own --help.
"""
_RUN = """\
Start Claude Code with everything behind "run" as its arguments. A proxy is started
with it, on a free port, and ends with it; one that runs already at LISTEN_HOST and
LISTEN_PORT with the same version, REDCap and token is used instead.
"""
_RUN_EPILOG = """\
Files with settings are read from the user's own folder, never from the working
folder: a cloned repository must not say where tokens and prompts go.
The options above must come first; what follows them, or follows --, goes to claude
as it stands: claude-proxy run -- --help shows claude's own help.
Exit codes: claude's own (128 and the signal's number if a signal ended it);
1 the proxy could not start, 2 wrong usage or settings, 126 claude could not be
started, 127 claude was not found.
"""
_ENV = """\
Print the environment that makes Claude Code use the proxy at LISTEN_HOST and
LISTEN_PORT ("claude-proxy serve"), token included, as lines for a shell.
"""
_ENV_EPILOG = """\
bash, zsh:   eval "$(claude-proxy env)"
fish:        claude-proxy env | source
PowerShell:  claude-proxy env | Out-String | Invoke-Expression
With --settings, what stands in the file already is kept: where it has another value
that claude-proxy did not write, nothing is changed.
Exit codes: 0 done, 1 the file could not be merged with or written, 2 wrong usage or settings.
"""
_INIT = """\
Ask for REDCap's API address and the API token, which is not shown; try both; and
write them into .env in the working folder, which only you can read then. Other lines
of the file stay as they are; a value that differs is replaced only if you say so.
"""
_INIT_EPILOG = """\
Without a terminal: claude-proxy init --url URL < file-with-the-token
(the token is never an argument: everybody on the machine could see it there).
Exit codes: 0 written, 1 nothing was written, 2 wrong usage or settings, 130 Ctrl-C.
"""
_DOCTOR = """\
Check, from near to far: Python, the settings and where each came from, the port,
Claude Code and what would lead it elsewhere; then the way to REDCap, the token and the
module; then each alias, with a tiny call. One line each, with what to do if it failed.
What stands behind a failure is skipped. No secret is shown.
"""
_DOCTOR_EPILOG = """\
Exit codes: 0 nothing failed (there may be warnings), 1 something did, 2 wrong usage.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `serve` where none is given.

    Returns:
        The exit code.
    """
    own, for_claude = _split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(own)
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell sets it for what runs in the background
            signal.signal(number, _interrupt)
    try:
        if options.command == "run":
            return _launch(options, for_claude)
        if options.command == "env":
            return _env(options)
        return _OTHERS.get(options.command, _serve)(options)
    except SettingsError as error:
        print(f"claude-proxy: {error}", file=sys.stderr)
        return _MISUSED
    except (launcher.LaunchError, first_steps.InitError) as error:
        print(f"claude-proxy: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # for `run` this is before claude has started, which nobody asked to succeed
        return _OK if options.command in {None, "serve", "demo"} else 128 + signal.SIGINT


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """The first signal to stop: end in good order."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _exit_at_once)
    raise KeyboardInterrupt


def _exit_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    """The second one. Threads may be in the midst of anything, and nobody wants to wait for them any more."""
    os._exit(_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="claude-proxy",
        description="Lets Claude Code work through REDCap's SecureChatAI.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"claude-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    serve = commands.add_parser(
        "serve",
        help="start the proxy (the default)",
        description="Start the proxy. claude-proxy.toml is read again when it changes, everything on SIGHUP.",
    )
    serve.add_argument("--config", metavar="PATH", help="the configuration file (default: ./claude-proxy.toml)")
    serve.add_argument("--port", type=_port, metavar="N", help="listen on this port (default: LISTEN_PORT, or 8765)")
    run = commands.add_parser(
        "run",
        help="start Claude Code, with a proxy that ends with it",
        description=_RUN,
        epilog=_RUN_EPILOG,
        usage="claude-proxy run [-h] [--claude PATH] [--log FILE] [--] [claude's own arguments]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--claude", metavar="PATH", help="Claude Code's program (default: CLAUDE, or claude on the PATH)")
    run.add_argument("--log", metavar="FILE", type=Path, help="append the proxy's log to this file (default: no log)")
    env = commands.add_parser(
        "env",
        help="print what makes Claude Code use the proxy, or write its settings.json",
        description=_ENV,
        epilog=_ENV_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    _add_checks(commands)
    demo = commands.add_parser(
        "demo",
        help="try it without a REDCap: a pretend one, with the proxy before it",
        description="Start a pretend REDCap with SecureChatAI, and the proxy before it; nothing leaves this machine.",
    )
    demo.add_argument(
        "--backend",
        metavar="URL",
        type=_http_url,
        help="let a real model answer: any OpenAI-compatible server (Ollama, llama.cpp, vLLM), "
        "such as http://127.0.0.1:11434; without it a small scripted stand-in does",
    )
    demo.add_argument("--model", metavar="NAME", help="the backend's name for the model")
    demo.add_argument("--port", type=_port, metavar="N", help="listen on this port (default: LISTEN_PORT, or 8765)")
    return parser


def _add_checks(commands: Any) -> None:
    """The commands for setting up and looking around."""
    init = commands.add_parser(
        "init",
        help="ask for REDCap's address and token, try them, and write .env",
        description=_INIT,
        epilog=_INIT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("--url", metavar="URL", help="REDCap's API address; it is asked for if not given")
    check = commands.add_parser(
        "doctor",
        help="check everything, and say what to do about what is wrong",
        description=_DOCTOR,
        epilog=_DOCTOR_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--offline", action="store_true", help="leave out what needs the network")
    check.add_argument(
        "--timeout",
        type=_patience,
        default=60.0,
        metavar="SECONDS",
        help="wait so long for each answer of a model (default: 60)",
    )
    models = commands.add_parser(
        "models",
        help="show which alias answers for which model name, and why",
        description="Show which SecureChatAI alias answers for which model name, and which rule decides.",
        epilog="Exit codes: 0 done, 1 the output could not be written, 2 wrong usage or settings.",
    )
    models.add_argument("name", metavar="NAME", nargs="?", help="explain this name only; claude's short names do, too")
    for each in (check, models):
        each.add_argument("--json", action="store_true", help="write JSON, for a program")
        each.add_argument("--config", metavar="PATH", help="the configuration file (default: ./claude-proxy.toml)")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is for us, and what is for claude."""
    if not arguments or arguments[0] != "run":
        return list(arguments), []
    own, for_claude = launcher.split_arguments(arguments[1:])
    return ["run", *own], for_claude


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: it must begin with http:// or https://")
    return text


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: it must be a number from 0 (any free port) to 65535")
    return int(text)


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 7200:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: it must be a number of seconds from 1 to 7200")
    return seconds


def _folder() -> Path:
    """Where the settings of commands lie that are started on purpose where they are started."""
    return settings.working_folder(os.environ, Path.cwd())


# --- serve ------------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    folder, given = _folder(), _given(options)

    def load() -> Settings:
        return settings.load(os.environ, folder, given)

    configured = load()
    journal = Journal(configured.log_level, configured.log_format)
    server = _listen(configured, journal)
    if server is None:
        return _FAILED
    path = settings.config_path(os.environ, folder, given)
    reloader = Reloader(path, configured, server.settings, load=load, adopt=server.adopt, journal=journal)
    _reload_on_signal(reloader)
    for sentence in configured.warnings:
        journal.notice("warning", sentence)
    whose = "its own REDCap token" if configured.redcap_api_token else "each client's own REDCap token"
    print(
        f"claude-proxy {__version__} listens on {server.url} for {configured.redcap_api_url}, with {whose}.\n"
        f"In another terminal:\n\nexport ANTHROPIC_BASE_URL={server.url}\n"
        f"export ANTHROPIC_AUTH_TOKEN=your-redcap-token\n{_START_CLAUDE}\n",
        file=sys.stderr,
    )
    reloader.start()
    return _run(server, journal)


def _given(options: argparse.Namespace) -> dict[str, str]:
    """What the command line says, by the names of the environment."""
    given = {settings.CONFIG_VARIABLE: getattr(options, "config", None), "LISTEN_PORT": getattr(options, "port", None)}
    return {name: str(value) for name, value in given.items() if value is not None}


def _reload_on_signal(reloader: Reloader) -> None:
    """Have SIGHUP read the settings again, unless it says that the terminal has gone: then it ends us, as ever."""
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is None or signal.getsignal(number) is signal.SIG_IGN:
        return
    had_terminal = os.isatty(_STANDARD_ERROR)

    def take(signal_number: int, _frame: FrameType | None) -> None:
        if had_terminal and not os.isatty(_STANDARD_ERROR):
            signal.signal(signal_number, signal.SIG_DFL)
            os.kill(os.getpid(), signal_number)
        reloader.ask()

    signal.signal(number, take)


def _listen(configured: Settings, journal: Journal) -> ProxyServer | None:
    """A server for these settings; None, and a message, where its address cannot be listened on."""
    forbid_core_dumps()
    configured = _fit_to_open_files(configured, journal)
    app = App(Exchange(configured, Upstream.from_settings(configured)), journal)
    threading.stack_size(_STACK)
    try:
        server = ProxyServer(configured, app)
    except (OSError, UnicodeError) as error:
        where = f"LISTEN_HOST={configured.listen_host}, LISTEN_PORT={configured.listen_port}"
        print(f"claude-proxy: cannot listen on {where}: {doctor.explain_listening(error)}.", file=sys.stderr)
        return None
    if not ip_address(server.server_name).is_loopback:
        journal.notice(
            "warning",
            f"LISTEN_HOST={configured.listen_host} lets other machines reach this proxy, and tokens and prompts travel "
            "to it unencrypted: put a server with TLS before it (deploy/nginx.conf), or set LISTEN_HOST=127.0.0.1",
        )
    return server


def _fit_to_open_files(configured: Settings, journal: Journal) -> Settings:
    """The settings with no more connections than this process may have files open."""
    enough_for = allow_files(configured.max_connections)
    if enough_for < configured.max_connections:
        journal.notice(
            "warning",
            f"MAX_CONNECTIONS={configured.max_connections} needs more open files than the system allows this process: "
            f"{enough_for} connections will be taken. Raise the limit (ulimit -n, LimitNOFILE), or lower the setting",
        )
    return replace(configured, max_connections=enough_for)


def _run(server: ProxyServer, journal: Journal) -> int:
    """Serve until a signal comes; then let running requests end."""
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        _wait_for_signal()
    journal.notice("info", "stopping; a second signal ends at once", connections=len(server.connections))
    if cut := server.stop(server.settings.shutdown_grace):
        journal.notice("warning", "stopped", connections_cut=cut)
    return _OK


def _wait_for_signal() -> NoReturn:
    while True:
        time.sleep(3600)


# --- run and env ------------------------------------------------------------------------------------------------------


def _launch(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run Claude Code. From the moment it starts the terminal is its own, and nothing may be printed."""
    folder = settings.home(os.environ)
    configured = settings.load(os.environ, folder)
    dotenv = settings.read_dotenv(folder / ".env")
    program = launcher.find_claude(options.claude or os.environ.get("CLAUDE") or dotenv.get("CLAUDE"), os.environ)
    claude = launcher.load_claude_settings(arguments, os.environ, Path.cwd())
    token = launcher.client_token(configured, os.environ, claude.env, dotenv)
    asked = find_option(arguments, "--model")
    answerer = launcher.find_answerer(asked, configured, os.environ, claude.env, claude.model)
    kept = launcher.Kept()
    if launcher.is_running(configured):
        base_url = launcher.local_url(configured)
    else:
        log = launcher.open_log(options.log) if options.log else None
        journal = Journal(configured.log_level if log else "warning", configured.log_format, log or kept)
        server = _listen(launcher.private_settings(configured, token), journal)
        if server is None:
            return _FAILED
        # It ends with this process: when claude has ended, nobody is left to wait for a request.
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
        base_url = server.url
    launch = launcher.plan_launch(
        program, arguments, base_url=base_url, token=token, answerer=answerer, environ=os.environ, claude=claude
    )
    line = answerer.line(configured, sys.stderr.encoding)
    for sentence in (*configured.warnings, *launch.sentences, line):
        print(f"claude-proxy: {sentence}", file=sys.stderr, flush=True)
    code = launcher.run_claude(launch.command, launch.environ)
    if kept.count:
        print(f"claude-proxy: {kept.count} warnings while claude ran; the last of them:", file=sys.stderr)
        print("\n".join(kept.lines), file=sys.stderr)
    return code


def _env(options: argparse.Namespace) -> int:
    folder = settings.home(os.environ)
    configured = settings.load(os.environ, folder)
    if configured.listen_port == 0:
        raise launcher.LaunchError("LISTEN_PORT=0 takes any free port, which nobody can know beforehand. Set a number.")
    path = Path(options.settings) if options.settings else launcher.settings_path(os.environ)
    prints = options.settings in {None, "-"}
    before = {} if prints else launcher.load_settings_file(path)
    token = launcher.client_token(configured, os.environ, before.get("env", {}), settings.read_dotenv(folder / ".env"))
    there = before.get("env", {})
    answerer = launcher.find_answerer(options.model, configured, os.environ, there, before.get("model"))
    url = launcher.local_url(configured)
    changes = compute_changes(url, token, answerer.choice.alias, os.environ, there)
    if options.settings is None:
        return _write_out(export_lines(changes, options.shell or guess_shell(os.environ, windows=launcher.WINDOWS)))
    try:
        merged = merge_settings(before, changes, os.environ)
    except SettingsConflict as error:
        raise launcher.LaunchError(f"{path} was left as it is: {error}. Remove them first.", _FAILED) from None
    if prints:
        return _write_out(settings_text(merged))
    launcher.save_settings_file(path, merged)
    print(f"claude-proxy: wrote {path}: {answerer.line(configured, sys.stderr.encoding)}", file=sys.stderr)
    if launcher.lies_in_repository(path):
        print(
            "claude-proxy: the file holds your token and lies in a Git repository: do not commit it.", file=sys.stderr
        )
    return _OK


def _write_out(text: str) -> int:
    """Print what another program may read, and nothing that a console cannot show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows console cannot show everything
    try:
        print(text, end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return _FAILED
    return _OK


# --- init, doctor, models ---------------------------------------------------------------------------------------------


def _init(options: argparse.Namespace) -> int:
    asks = sys.stdin.isatty()
    colour = _shows_colours(sys.stderr)

    def say(text: str) -> None:
        print(text, file=sys.stderr)  # which shows as escapes what the console cannot

    def ask(question: str) -> str:
        print(question, end="", file=sys.stderr, flush=True)  # not on standard output, as `input` would
        return input()

    console = first_steps.Console(
        asks=asks,
        ask=ask,
        ask_hidden=getpass.getpass if asks else lambda _: input(),
        say=say,
        show=lambda finding: say(doctor.line(finding, colour=colour)),
    )
    try:
        first_steps.begin(console, os.environ, _folder(), options.url)
    except KeyboardInterrupt:
        say("\nclaude-proxy: stopped. Nothing was written.")
        raise
    say("Next: claude-proxy doctor, or at once: claude-proxy run")
    return _OK


def _doctor(options: argparse.Namespace) -> int:
    colour = _shows_colours(sys.stdout)
    findings = []
    for finding in doctor.examine(
        os.environ,
        _folder(),
        _given(options),
        offline=options.offline,
        patience=options.timeout,
    ):
        findings.append(finding)
        if not options.json and _write_out(doctor.line(finding, colour=colour) + "\n") != _OK:
            return _FAILED
    last = _as_json(doctor.as_json(findings)) if options.json else doctor.summary(findings) + "\n"
    written = _write_out(last)
    return written if doctor.is_well(findings) else _FAILED


def _models(options: argparse.Namespace) -> int:
    configured = settings.load(os.environ, _folder(), _given(options))

    def choose(name: str) -> Choice:
        return choose_alias(name, *configured.model_rules)

    if options.name is None:
        table = model_table.rows(choose, configured.model_map, os.environ)
        text = _as_json([row.as_json() for row in table]) if options.json else model_table.table_text(table)
    else:
        row = model_table.explain(model_table.sent_name(options.name, os.environ), choose)
        text = _as_json(row.as_json()) if options.json else model_table.row_text(row, options.name)
    return _write_out(text)


def _as_json(data: object) -> str:
    return json.dumps(data, indent=2) + "\n"


def _shows_colours(stream: TextIO) -> bool:
    """Whether a stream leads to a terminal that shows colours, and nobody wants it plain."""
    knows = os.environ.get("WT_SESSION") or os.environ.get("TERM") or not launcher.WINDOWS
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and bool(knows) and not plain


# --- demo -------------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    model = openai_backend(options.backend, model=options.model) if options.backend else scripted_model
    with Simulator(model, tokens={_DEMO_TOKEN}) as redcap:
        own = {name: text for name, text in os.environ.items() if not name.startswith("REDCAP_")}
        configured = settings.load({**own, "REDCAP_API_URL": redcap.url}, folder=None)
        configured = replace(configured, redcap_api_token=Secret(_DEMO_TOKEN))
        if options.port is not None:
            configured = replace(configured, listen_port=options.port)
        journal = Journal(configured.log_level, configured.log_format)
        server = _listen(configured, journal)
        if server is None:
            return _FAILED
        print(_demo_text(server.url, options.backend), flush=True)
        return _run(server, journal)


def _demo_text(url: str, backend: str | None) -> str:
    who = f"The model at {backend} answers." if backend else f"A scripted model answers:\n\n  {INTRODUCTION}\n"
    return (
        f"A pretend REDCap runs, and the proxy before it. {who}\n"
        "In another terminal, in a folder to play in:\n\n"
        f"export ANTHROPIC_BASE_URL={url}\n"
        f"export ANTHROPIC_AUTH_TOKEN={_DEMO_TOKEN}\n\n"
        f"{_START_CLAUDE}\n\n"
        "Then ask, for example: write hello.py with `print('hello')` then run `python3 hello.py`\n\n"
        "Ctrl-C ends the demo."
    )


_OTHERS = {"demo": _demo, "init": _init, "doctor": _doctor, "models": _models}
