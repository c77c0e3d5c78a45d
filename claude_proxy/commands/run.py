"""`run`: Claude Code, with a proxy that ends with it."""

from __future__ import annotations

import argparse
import io
import os
import sys
import threading
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import TextIO, cast

from claude_proxy.commands.serving import listen
from claude_proxy.commands.terminal import settings_folder
from claude_proxy.settings import dotenv, sources
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.tools import launcher
from claude_proxy.tools.claude_environment import find_option

_MOST_SHOWN = 5  # warnings


def run(options: argparse.Namespace) -> int:
    """Run Claude Code. From the moment it starts the terminal is its own, and nothing may be printed."""
    arguments = options.for_claude
    folder = settings_folder(options)
    configured = sources.load(os.environ, folder)
    own = dotenv.read_dotenv(folder / ".env")
    program = launcher.find_claude(options.claude or os.environ.get("CLAUDE") or own.get("CLAUDE"), os.environ)
    claude = launcher.load_claude_settings(arguments, os.environ, Path.cwd())
    token = launcher.client_token(configured, os.environ, claude.env, own)
    asked = find_option(arguments, "--model")
    answerer = launcher.find_answerer(asked, configured, os.environ, claude.env, claude.model)
    kept = io.StringIO()  # the terminal is claude's until it has ended
    log = launcher.open_log(options.log) if options.log else None
    with closing(Journal(configured.log_level if log else "warning", configured.log_format, log or kept)) as journal:
        server = listen(launcher.private_settings(configured, token), journal)
        # It ends with this process: when claude has ended, nobody is left to wait for a request.
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
        launch = launcher.plan_launch(
            program, arguments, base_url=server.url, token=token, answerer=answerer, environ=os.environ, claude=claude
        )
        line = launcher.answerer_line(answerer, configured, sys.stderr.encoding)
        for sentence in (*configured.warnings, *launch.sentences, line):
            print(f"claude-proxy: {sentence}", file=sys.stderr, flush=True)
        with redirect_stderr(cast("TextIO", journal.log)):
            code = launcher.run_claude(launch.command, launch.environ)
    if lines := kept.getvalue().splitlines():
        print(f"claude-proxy: warnings while Claude Code ran: {len(lines)}. The last of them:", file=sys.stderr)
        print("\n".join(lines[-_MOST_SHOWN:]), file=sys.stderr)
    return code
