"""What the commands have in common: exit codes, where the settings lie, and what is written to the terminal."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from claude_proxy.settings import sources
from claude_proxy.shell.wait.wakeup import Wakeup

OK, FAILED = 0, 1


def settings_folder(options: argparse.Namespace) -> Path:
    """Where `.env` and `claude-proxy.toml` are read: in the user's own folder, or with --here in this one."""
    return Path.cwd() if options.here else sources.home(os.environ)


def given_settings(options: argparse.Namespace) -> dict[str, str]:
    """What the command line says, by the names of the environment."""
    given = {sources.CONFIG_VARIABLE: getattr(options, "config", None), "LISTEN_PORT": getattr(options, "port", None)}
    return {name: str(value) for name, value in given.items() if value is not None}


def ask(question: str) -> str:
    """Ask at the terminal; a signal is seen at any moment of it.

    Raises:
        EOFError: there is no answer.
    """
    with Wakeup() as wakeup:
        print(question, end="", file=sys.stderr, flush=True)  # not on standard output, as `input` would
        wakeup.wait_to_read(sys.stdin.fileno())
        return input()


def write_out(text: str) -> int:
    """Print what another program may read, and nothing that a console cannot show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows console cannot show everything
    try:
        print(text, end="", flush=True)
    except OSError:
        return FAILED
    return OK


def as_json(data: object) -> str:
    """Data as `--json` shows it."""
    return json.dumps(data, indent=2) + "\n"


def shows_colours(stream: TextIO) -> bool:
    """Whether a stream leads to a terminal that shows colours, and nobody wants it plain."""
    knows = os.environ.get("WT_SESSION") or os.environ.get("TERM") or os.name != "nt"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and bool(knows) and not plain
