"""`init`: asks at the terminal, or reads what is needed."""

from __future__ import annotations

import argparse
import getpass
import os
import sys

from claude_proxy.commands.terminal import OK, settings_folder, shows_colours
from claude_proxy.tools import doctor, init


def run(options: argparse.Namespace) -> int:
    """Ask, try, write."""
    asks = sys.stdin.isatty()
    colour = shows_colours(sys.stderr)

    def say(text: str) -> None:
        print(text, file=sys.stderr)  # which shows as escapes what the console cannot

    def ask(question: str) -> str:
        print(question, end="", file=sys.stderr, flush=True)  # not on standard output, as `input` would
        return input()

    console = init.Console(
        asks=asks,
        ask=ask,
        ask_hidden=getpass.getpass if asks else lambda _: input(),
        say=say,
        show=lambda finding: say(doctor.line(finding, colour=colour)),
    )
    try:
        init.begin(console, os.environ, settings_folder(), options.url)
    except KeyboardInterrupt:
        say("\nclaude-proxy: stopped. Nothing was written.")
        raise
    say("Next: claude-proxy doctor, or at once: claude-proxy run")
    return OK
