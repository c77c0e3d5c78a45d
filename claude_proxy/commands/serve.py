"""`serve`: the proxy, until a signal comes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from ipaddress import ip_address
from types import FrameType

from claude_proxy import __version__
from claude_proxy.commands.serving import START_CLAUDE, in_container, listen, opened_journal, serve_until_stopped
from claude_proxy.commands.terminal import given_settings, settings_folder
from claude_proxy.settings import sources
from claude_proxy.settings.table import Settings
from claude_proxy.shell.proxy.reload import Reloader
from claude_proxy.shell.server.handler import ProxyServer

_STANDARD_ERROR = 2


def run(options: argparse.Namespace) -> int:
    """Start the proxy, and serve until a signal comes."""
    folder, given = settings_folder(options), given_settings(options)

    def load() -> Settings:
        return sources.load(os.environ, folder, given)

    configured = load()
    with opened_journal(configured) as journal:
        server = listen(configured, journal)
        unread = sources.describe_unread(folder)
        for sentence in filter(None, (*_unreachable(configured, server), *configured.warnings, unread)):
            journal.notice("warning", sentence)
        path = sources.config_path(os.environ, folder, given)
        reloader = Reloader(path, configured, server.settings, load=load, adopt=server.adopt, journal=journal)
        _reload_on_signal(reloader)
        whose = "its own REDCap token" if configured.redcap_api_token else "each client's own REDCap token"
        print(
            f"claude-proxy {__version__} listens on {server.url} for {configured.redcap_api_url}, with {whose}.\n"
            f"In another terminal:\n\nexport ANTHROPIC_BASE_URL={server.url}\n"
            f"export ANTHROPIC_AUTH_TOKEN=your-redcap-token\n{START_CLAUDE}\n",
            file=sys.stderr,
        )
        reloader.start()
        return serve_until_stopped(server, journal)


def _unreachable(configured: Settings, server: ProxyServer) -> list[str]:
    if not in_container() or not ip_address(server.server_name).is_loopback:
        return []
    return [
        f"LISTEN_HOST={configured.listen_host} is reached from within this container only, and no published port "
        "leads there: set LISTEN_HOST=0.0.0.0 (docker run --env-file .env -e LISTEN_HOST=0.0.0.0). Where the "
        "container shares the machine's network, all is well"
    ]


def _reload_on_signal(reloader: Reloader) -> None:
    """Have SIGHUP read the settings again, unless it says that the terminal has gone: then it ends us.

    Who was started to ignore that, as by `nohup`, goes on.
    """
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is None:
        return
    had_terminal = os.isatty(_STANDARD_ERROR) and signal.getsignal(number) is not signal.SIG_IGN  # which `nohup` sets

    def take(signal_number: int, _frame: FrameType | None) -> None:
        if had_terminal and not os.isatty(_STANDARD_ERROR):
            signal.signal(signal_number, signal.SIG_DFL)
            os.kill(os.getpid(), signal_number)
        reloader.ask()

    signal.signal(number, take)
