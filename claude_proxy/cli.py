"""The commands: they put the parts together and own the terminal, the environment and the signals."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from claude_proxy import __version__, settings
from claude_proxy.errors import SettingsError
from claude_proxy.settings import Secret, Settings
from claude_proxy.shell.app import App
from claude_proxy.shell.exchange import Exchange
from claude_proxy.shell.journal import Journal
from claude_proxy.shell.scripted_model import INTRODUCTION, scripted_model
from claude_proxy.shell.server import ProxyServer
from claude_proxy.shell.simulator import Simulator, openai_backend
from claude_proxy.shell.upstream import Upstream

# Claude Code's `auto` mode asks its server to judge each action, which no text-only model can do.
_START_CLAUDE = "claude --permission-mode default"
_OK, _FAILED, _MISUSED = 0, 1, 2
_DEMO_TOKEN = "DEMO" * 8

_EPILOG = """\
The settings come from the environment or from .env in the working folder:
REDCAP_API_URL must be set; .env.example explains all of them.
Exit codes: 0 stopped as asked, 1 could not start, 2 wrong usage or settings.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `serve` where none is given.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _demo(options) if options.command == "demo" else _serve()
    except SettingsError as error:
        print(f"claude-proxy: {error}", file=sys.stderr)
        return _MISUSED
    except KeyboardInterrupt:
        return _OK


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="claude-proxy",
        description="Lets Claude Code work through REDCap's SecureChatAI.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"claude-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    commands.add_parser("serve", help="start the proxy (the default)", description="Start the proxy.")
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


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: it must begin with http:// or https://")
    return text


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: it must be a number from 0 (any free port) to 65535")
    return int(text)


# --- serve ------------------------------------------------------------------------------------------------------------


def _serve() -> int:
    configured = settings.load(os.environ, Path.cwd())
    server = _listen(configured)
    if server is None:
        return _FAILED
    whose = "its own REDCap token" if configured.redcap_api_token else "each client's own REDCap token"
    print(
        f"claude-proxy {__version__} listens on {server.url} for {configured.redcap_api_url}, with {whose}.\n"
        f"In another terminal:\n\nexport ANTHROPIC_BASE_URL={server.url}\n"
        f"export ANTHROPIC_AUTH_TOKEN=your-redcap-token\n{_START_CLAUDE}\n",
        file=sys.stderr,
    )
    return _run(server)


def _listen(configured: Settings) -> ProxyServer | None:
    """A server for these settings; None, and a message, where its address cannot be listened on."""
    upstream = Upstream(configured.redcap_api_url, connect_timeout=configured.connect_timeout)
    journal = Journal(configured.log_level, configured.log_format)
    app = App(configured, Exchange(configured, upstream), journal)
    try:
        return ProxyServer(configured.listen_host, configured.listen_port, app)
    except (OSError, UnicodeError) as error:
        where = f"LISTEN_HOST={configured.listen_host}, LISTEN_PORT={configured.listen_port}"
        reasons = {
            errno.EADDRINUSE: "another program listens there, perhaps a proxy that is still running. Stop it, or set "
            "LISTEN_PORT to another number",
            errno.EACCES: "ports below 1024 need special rights. Set LISTEN_PORT to a larger number",
        }
        reason = reasons.get(
            getattr(error, "errno", None) or 0, "the address is not one of this machine. Set LISTEN_HOST=127.0.0.1"
        )
        print(f"claude-proxy: cannot listen on {where}: {reason}.", file=sys.stderr)
        return None


def _run(server: ProxyServer) -> int:
    with server:
        server.serve_forever()
    return _OK


# --- demo -------------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    model = openai_backend(options.backend, model=options.model) if options.backend else scripted_model
    with Simulator(model, tokens={_DEMO_TOKEN}) as redcap:
        own = {name: text for name, text in os.environ.items() if not name.startswith("REDCAP_")}
        configured = settings.load({**own, "REDCAP_API_URL": redcap.url}, folder=None)
        configured = replace(configured, redcap_api_token=Secret(_DEMO_TOKEN))
        if options.port is not None:
            configured = replace(configured, listen_port=options.port)
        server = _listen(configured)
        if server is None:
            return _FAILED
        print(_demo_text(server.url, options.backend), flush=True)
        return _run(server)


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
