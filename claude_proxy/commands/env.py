"""`env`: what makes Claude Code use the proxy, for a shell or in its settings.json."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from claude_proxy.commands.terminal import FAILED, OK, settings_folder, write_out
from claude_proxy.settings import dotenv, sources
from claude_proxy.tools import launcher
from claude_proxy.tools.claude_environment import (
    SettingsConflict,
    compute_changes,
    export_lines,
    guess_shell,
    merge_settings,
    settings_text,
)


def run(options: argparse.Namespace) -> int:
    """Print the environment, or write it into a file of settings."""
    folder = settings_folder(options)
    configured = sources.load(os.environ, folder)
    if configured.listen_port == 0:
        raise launcher.LaunchError("LISTEN_PORT=0 takes any free port, which nobody can know beforehand. Set a number.")
    path = Path(options.settings) if options.settings else launcher.settings_path(os.environ)
    prints = options.settings in {None, "-"}
    before = {} if prints else launcher.load_settings_file(path)
    token = launcher.client_token(configured, os.environ, before.get("env", {}), dotenv.read_dotenv(folder / ".env"))
    there = before.get("env", {})
    answerer = launcher.find_answerer(options.model, configured, os.environ, there, before.get("model"))
    url = launcher.local_url(configured)
    changes = compute_changes(url, token, answerer.choice.alias, os.environ, there)
    if options.settings is None:
        return write_out(export_lines(changes, options.shell or guess_shell(os.environ, windows=launcher.WINDOWS)))
    try:
        merged = merge_settings(before, changes, os.environ)
    except SettingsConflict as error:
        raise launcher.LaunchError(f"{path} was left as it is: {error}. Remove them first.", FAILED) from None
    if prints:
        return write_out(settings_text(merged))
    launcher.save_settings_file(path, merged)
    print(
        f"claude-proxy: wrote {path}: {launcher.answerer_line(answerer, configured, sys.stderr.encoding)}",
        file=sys.stderr,
    )
    if launcher.lies_in_repository(path):
        print(
            "claude-proxy: the file holds your token and lies in a Git repository: do not commit it.", file=sys.stderr
        )
    return OK
