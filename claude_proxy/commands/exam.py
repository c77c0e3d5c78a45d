"""`exam`: which aliases can drive Claude Code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path

from claude_proxy.commands.terminal import FAILED, OK, as_json, ask, given_settings, settings_folder, write_out
from claude_proxy.errors import CommandFailed, ProxyError
from claude_proxy.settings import dotenv, sources
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.tools import exam, launcher

_MISUSED = 2


def run(options: argparse.Namespace) -> int:
    """Say what it costs, ask, and show what came of it, even if it was stopped."""
    folder = settings_folder(options)
    configured = sources.load(os.environ, folder, given_settings(options))
    claude = launcher.load_claude_settings((), os.environ, Path.cwd())
    token = launcher.client_token(configured, os.environ, claude.env, dotenv.read_dotenv(folder / ".env"))
    aliases = list(dict.fromkeys(options.alias)) or exam.find_aliases(configured, os.environ)
    settings = exam.lead_to(aliases, configured)
    marks, code = list[exam.Mark](), OK
    with closing(Exchange(settings, Upstream(settings))) as exchange:
        try:
            questions = list(exam.prepare(aliases, exchange))
        except ProxyError as error:
            raise CommandFailed(f"The exam cannot be prepared: {error.message}", _MISUSED) from None
        if not _is_agreed(exam.cost(questions, options.per_minute), yes=options.yes):
            return FAILED
        try:
            for mark in exam.hold(questions, exchange, token, options.per_minute):
                marks.append(mark)
                _say(f"{len(marks)}/{len(questions)} {mark.line}")
                for block in (mark.content or ()) if options.show and not options.json else ():
                    _say(f"    {block}")
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
            _say(f"claude-proxy: stopped after {len(marks)} of {len(questions)} questions.")
    told = as_json(exam.as_json(marks, show=options.show)) if options.json else exam.table_text(marks)
    written = write_out(told)
    return code or written or (OK if any(mark.content is not None for mark in marks) else FAILED)


def _is_agreed(cost: str, *, yes: bool) -> bool:
    """Whether whoever is at the terminal, or wrote the command, wants to pay."""
    if not yes and not sys.stdin.isatty():
        raise CommandFailed(f"{cost} There is no terminal to ask whether that is all right: add --yes.", _MISUSED)
    _say(cost)
    if yes:
        return True
    with suppress(EOFError):
        return ask("Begin? [y/N] ").strip().lower() in {"y", "yes"}
    return False


def _say(text: str) -> None:
    print(launcher.printable(text), file=sys.stderr, flush=True)
