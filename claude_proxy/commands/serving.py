"""The proxy itself, as `serve`, `run` and `demo` start it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import TextIO, cast

from claude_proxy.commands.terminal import OK
from claude_proxy.errors import CommandFailed
from claude_proxy.settings.table import Settings
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.proxy.app import App
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.connections import allow_files, explain_listening, forbid_core_dumps
from claude_proxy.shell.server.handler import ProxyServer
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.wakeup import Wakeup

# Claude Code's `auto` mode asks its server to judge each action, which no text-only model can do.
START_CLAUDE = "claude --permission-mode default"
# Bytes of a thread's stack; only what is used of it takes memory. Deeply nested JSON makes Python 3.13.0 crash with
# 1 MB (some systems' default) and not with 2 MB; `ast` needs 1 MB (measured with 3.11.7, 3.12.1, 3.13.0 on x86-64).
_STACK = 8 * 1024 * 1024
_CONTAINER_VARIABLE = "CLAUDE_PROXY_CONTAINER"


@contextlib.contextmanager
def opened_journal(configured: Settings) -> Iterator[Journal]:
    """A journal for the length of a block; what is meant for standard error meanwhile waits in line with it."""
    journal = Journal(configured.log_level, configured.log_format)
    with contextlib.closing(journal), contextlib.redirect_stderr(cast("TextIO", journal.log)):
        yield journal


def listen(configured: Settings, journal: Journal) -> ProxyServer:
    """A server for these settings.

    Raises:
        CommandFailed: their address cannot be listened on.
    """
    forbid_core_dumps()
    configured = _fit_to_open_files(configured, journal)
    app = App(Exchange(configured, Upstream(configured)), journal)
    report_uncaught(app.report)
    threading.stack_size(_STACK)
    try:
        server = ProxyServer(configured, app)
    except (OSError, UnicodeError) as error:
        where = f"LISTEN_HOST={configured.listen_host}, LISTEN_PORT={configured.listen_port}"
        raise CommandFailed(f"cannot listen on {where}: {explain_listening(error)}.") from None
    if not ip_address(server.server_name).is_loopback:
        journal.notice("warning", _who_can_reach_it(configured.listen_host))
    return server


def report_uncaught(report: Callable[[BaseException], None]) -> None:
    """Have failures that no thread catches reported; Python would print their words, which may hold content."""

    def take(failure: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        report(failure.exc_value or failure.exc_type())

    threading.excepthook = sys.unraisablehook = take


def in_container() -> bool:
    """Whether this is a container with a network of its own, as the image's Dockerfile says of itself."""
    return bool(os.environ.get(_CONTAINER_VARIABLE))


def _who_can_reach_it(host: str) -> str:
    if in_container():
        return (
            f"LISTEN_HOST={host} is an address of this container: where its port is published decides who can reach "
            "this proxy, and tokens and prompts travel to it unencrypted. Publish the port on 127.0.0.1 "
            "(127.0.0.1:8765:8765), or put a server with TLS before it (deploy/nginx.conf)"
        )
    return (
        f"LISTEN_HOST={host} lets other machines reach this proxy, and tokens and prompts travel "
        "to it unencrypted: put a server with TLS before it (deploy/nginx.conf), or set LISTEN_HOST=127.0.0.1"
    )


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


def serve_until_stopped(server: ProxyServer, journal: Journal) -> int:
    """Serve until a signal comes; then let running requests end."""
    accepting = threading.Thread(target=server.serve_forever, name="accept", daemon=True)
    with Wakeup() as wakeup:
        with contextlib.suppress(KeyboardInterrupt):
            accepting.start()  # here too a signal may come, when a client is being served already
            while True:
                wakeup.wait()
        journal.notice("info", "stopping; a second signal ends at once", connections=len(server.connections))
        if accepting.is_alive() and (cut := _stop(server, wakeup)):
            journal.notice("warning", "stopped", connections_cut=cut)
    return OK


def _stop(server: ProxyServer, wakeup: Wakeup) -> int:
    """Stop a server aside, for this thread must hear the second signal; returns how many connections had to be cut."""
    cut: list[int] = []
    over = threading.Event()

    def stop() -> None:
        try:
            cut.append(server.stop(server.settings.shutdown_grace))
        finally:
            over.set()
            wakeup.wake()

    try:
        threading.Thread(target=stop, name="stop", daemon=True).start()
    except RuntimeError:  # the system gives us no further thread
        stop()
    while not over.is_set():
        wakeup.wait()
    return sum(cut)
