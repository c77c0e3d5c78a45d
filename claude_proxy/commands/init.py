"""`init`: asks at the terminal, or reads what is needed."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

from claude_proxy.commands.terminal import OK, ask, settings_folder, shows_colours
from claude_proxy.tools import doctor, init

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


def run(options: argparse.Namespace) -> int:
    """Ask, try, write."""
    asks = sys.stdin.isatty()
    colour = shows_colours(sys.stderr)
    console = init.Console(
        asks=asks,
        ask=ask,
        ask_hidden=_ask_hidden if asks else lambda _: ask(""),
        say=_say,
        show=lambda finding: _say(doctor.line(finding, colour=colour)),
    )
    try:
        init.begin(console, os.environ, settings_folder(options), options.url)
    except KeyboardInterrupt:
        _say("\nclaude-proxy: stopped. Nothing was written.")
        raise
    here = " --here" if options.here else ""
    _say(f"Next: claude-proxy doctor{here}, or at once: claude-proxy run{here}")
    return OK


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # which shows as escapes what the console cannot


def _ask_hidden(question: str) -> str:
    """Ask as `getpass` does, which has no way to wait as `ask` does."""
    if termios is None:
        return getpass.getpass(question)
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        answer = ask(question)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    _say("")
    return answer
