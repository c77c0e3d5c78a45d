"""`demo`: a pretend REDCap, and the proxy before it."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from dataclasses import replace

from claude_proxy.commands.serving import START_CLAUDE, listen, opened_journal, serve_until_stopped
from claude_proxy.demo.backend import openai_backend
from claude_proxy.demo.scripted_model import INTRODUCTION, scripted_model
from claude_proxy.demo.simulator import Simulator
from claude_proxy.settings import sources
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe.log import Log

_DEMO_TOKEN = "DEMO" * 8


def run(options: argparse.Namespace) -> int:
    """Start both, and serve until a signal comes."""
    model = openai_backend(options.backend, model=options.model) if options.backend else scripted_model
    with Simulator(model, tokens={_DEMO_TOKEN}) as redcap:
        own = {name: text for name, text in os.environ.items() if not name.startswith("REDCAP_")}
        configured = sources.load({**own, "REDCAP_API_URL": redcap.url}, folder=None)
        configured = replace(configured, redcap_api_token=Secret(_DEMO_TOKEN))
        if options.port is not None:
            configured = replace(configured, listen_port=options.port)
        with opened_journal(configured) as journal, closing(Log(sys.stdout)) as out:
            server = listen(configured, journal)
            out.write(_demo_text(server.url, options.backend))
            return serve_until_stopped(server, journal)


def _demo_text(url: str, backend: str | None) -> str:
    who = f"The model at {backend} answers." if backend else f"A scripted model answers:\n\n  {INTRODUCTION}\n"
    return (
        f"A pretend REDCap runs, and the proxy before it. {who}\n"
        "In another terminal, in a folder to play in:\n\n"
        f"export ANTHROPIC_BASE_URL={url}\n"
        f"export ANTHROPIC_AUTH_TOKEN={_DEMO_TOKEN}\n\n"
        f"{START_CLAUDE}\n\n"
        "Then ask, for example: write hello.py with `print('hello')` then run `python3 hello.py`\n\n"
        "Ctrl-C ends the demo.\n"
    )
