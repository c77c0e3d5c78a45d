"""Everything between Claude Code and the models, checked from near to far.

First what needs no network: Python, the settings and where each came from, the port, Claude Code and whatever would
send it elsewhere. Then `redcap_checks` goes the way to each model. Every check yields findings, one line each; nothing
is printed here. No finding shows a secret.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import http.client
import json
import platform
import re
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from claude_proxy import __version__
from claude_proxy.errors import SettingsError
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import CONFIG_VARIABLE, describe_unread, load_with_sources
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.shell.server.connections import explain_listening
from claude_proxy.shell.server.listening import open_listeners
from claude_proxy.tools import launcher
from claude_proxy.tools.claude_environment import AUTH_TOKEN, BASE_URL, INTERFERING, choose_mode, without_ours
from claude_proxy.tools.launcher import ClaudeSettings, LaunchError, printable
from claude_proxy.tools.redcap_checks import CHECKS, Finding, check_all

_KNOCK = 2.0  # seconds for whatever listens at the port
_VERSION_LIMIT = 20.0  # seconds for Claude Code to say its version
_MOST_SHOWN = 80  # characters of a value


# Above 40 lines, half of them docstring: the checks stand in the order in which they are shown.
def examine(
    environ: Mapping[str, str],
    folder: Path,
    given: Mapping[str, str] | None = None,
    *,
    offline: bool = False,
    patience: float = 60.0,
) -> Iterator[Finding]:
    """All checks, in their order.

    Args:
        environ: the environment.
        folder: where `.env` and `claude-proxy.toml` are read.
        given: settings that the command line gives.
        offline: leave out what needs the network.
        patience: seconds for each answer of a model.
    """
    yield Finding("Python", "ok", f"{platform.python_version()}, {ssl.OPENSSL_VERSION}; claude-proxy {__version__}")
    dotenv: Mapping[str, str] = {}
    try:
        dotenv = read_dotenv(folder / ".env")
        configured, sources = load_with_sources(environ, folder, given)
    except SettingsError as error:
        yield Finding("settings", "failed", str(error))
        yield from _unknown_names(environ, dotenv)
        yield check_claude(environ, dotenv)
        yield from (Finding(check, "skipped", "not tried: the settings cannot be used") for check in ("port", *CHECKS))
        return
    yield from _given_settings(configured, sources, environ, dotenv)
    if unread := describe_unread(folder):
        yield Finding("settings", "warning", unread)
    yield from _unknown_names(environ, dotenv)
    yield check_port(configured)
    yield check_claude(environ, dotenv)
    claude = launcher.load_claude_settings((), environ, Path.cwd())
    token = None
    with contextlib.suppress(LaunchError):
        token = launcher.client_token(configured, environ, claude.env, dotenv)
    yield from check_interference(configured, token, environ, claude)
    if offline:
        yield from (Finding(check, "skipped", "not tried: --offline") for check in CHECKS)
    else:
        yield from check_all(configured, token, {**environ, **claude.env}, patience)


# --- settings ---------------------------------------------------------------------------------------------------------


def _given_settings(
    settings: Settings, sources: Mapping[str, str], environ: Mapping[str, str], dotenv: Mapping[str, str]
) -> Iterator[Finding]:
    given = {name: source for name, source in sources.items() if source not in {"default", "not set"}}
    yield Finding("settings", "ok", f"{len(given)} given, all others have their defaults")
    yield from (Finding("settings", "warning", sentence) for sentence in settings.warnings)
    for name, source in given.items():
        message = f"{_value(settings, name)} (from {source})"
        other = dotenv.get(name, "").strip()
        if source == "the environment" and other and other != environ.get(name, "").strip():
            yield Finding(name, "warning", f"{message}. .env has another value, which is not used.")
        else:
            yield Finding(name, "ok", message)


def _unknown_names(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> Iterator[Finding]:
    """Names that are probably misspelt settings."""
    known = [*(setting.name for setting in TABLE), *(setting.field for setting in TABLE if setting.shared)]
    known += [CONFIG_VARIABLE, "CLAUDE", AUTH_TOKEN]
    ours = {name for name in (*environ, *dotenv) if name.startswith("REDCAP_")}
    for name in sorted({*ours, *dotenv} - set(known)):
        near = difflib.get_close_matches(name.upper(), known, 1, 0.8)
        if near or name in ours:
            meant = f"Is {near[0]} meant?" if near else ".env.example lists all settings."
            yield Finding(name, "warning", f"this is not a setting of claude-proxy and is not used. {meant}")


def _value(settings: Settings, name: str) -> str:
    """A setting's value as it can be shown; of a table of the configuration file, its names."""
    if name.startswith("["):
        return ", ".join({"[servers]": settings.servers, "[aliases]": settings.alias_facts}.get(name, ()))
    setting = next(setting for setting in TABLE if setting.name == name)
    value = getattr(settings, setting.field)
    if setting.secret:
        return "set, but not shown"
    if isinstance(value, bool | Mapping):
        text = json.dumps(value if isinstance(value, bool) else dict(value), ensure_ascii=False)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


# --- the port ---------------------------------------------------------------------------------------------------------


def check_port(settings: Settings) -> Finding:
    """Whether the proxy could listen where the settings say."""
    where = f"{settings.listen_host}:{settings.listen_port}"
    if settings.listen_port == 0:
        return Finding("port", "ok", "any free one (LISTEN_PORT=0)")
    try:
        for listener in open_listeners(settings.listen_host, settings.listen_port):
            listener.close()
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE and (version := _proxy_there(settings)):
            return Finding(
                "port",
                "warning",
                f'a claude-proxy {version} already listens on {where}. To start another one with "claude-proxy serve", '
                'stop it or set LISTEN_PORT; "claude-proxy run" finds a free port of its own.',
            )
        return Finding("port", "failed", f"{where} cannot be listened on: {explain_listening(error)}.")
    return Finding("port", "ok", f"{where} is free")


def _proxy_there(settings: Settings) -> str | None:
    """The version that whatever listens there claims at `/health`; None where it is something else."""
    host = urlsplit(launcher.local_url(settings)).hostname or ""
    with (
        contextlib.closing(http.client.HTTPConnection(host, settings.listen_port, timeout=_KNOCK)) as connection,
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/health")
        told = re.match(rb'{"status":"ok","version":"([\w.+-]{1,30})"', connection.getresponse().read(200))
        return told[1].decode() if told else None
    return None


# --- Claude Code ------------------------------------------------------------------------------------------------------


def check_claude(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> Finding:
    """Where Claude Code is, and its version."""
    try:
        program = launcher.find_claude(environ.get("CLAUDE") or dotenv.get("CLAUDE"), environ)
    except LaunchError as error:
        return Finding("Claude Code", "warning", str(error))
    try:
        done = subprocess.run(  # noqa: S603 - the program that the user would start
            [program, "--version"],
            env={**environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_LIMIT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return Finding("Claude Code", "warning", f"{program} could not be started to ask for its version.")
    version = re.match(rb"\d+\.\d+[\w.-]{0,30}", done.stdout)
    if done.returncode or not version:
        return Finding("Claude Code", "warning", f"{program} did not say its version when called with --version.")
    return Finding("Claude Code", "ok", f"{version[0].decode()} ({program})")


def check_interference(
    settings: Settings, token: str | None, environ: Mapping[str, str], claude: ClaudeSettings
) -> Iterator[Finding]:
    """What would send Claude Code elsewhere, or keep it from the proxy, with the credential that it will have."""
    findings = [
        *_foreign(settings, environ, claude),
        *_detours(settings, {**environ, **claude.env}),
        *_refusals(settings, token, environ, claude),
    ]
    if claude.mode == "auto":
        findings.append(Finding("Claude Code", "warning", choose_mode((), "auto").sentence))
    yield from findings or [
        Finding("Claude Code", "ok", "nothing in its settings or the environment sends it elsewhere")
    ]


def _foreign(settings: Settings, environ: Mapping[str, str], claude: ClaudeSettings) -> Iterator[Finding]:
    """Variables that would give it a second credential or another server."""
    here = launcher.local_url(settings)
    sources = (
        ("the environment", without_ours(environ), 'unset it, or start with "claude-proxy run", which leaves it out'),
        ('"env" of Claude Code\'s settings.json', without_ours(claude.env), "remove it there"),
    )
    for where, source, remedy in sources:
        for name in INTERFERING:
            if source.get(name):
                message = f"it is set in {where}, and gives Claude Code another credential or another server: {remedy}."
                yield Finding(name, "warning", message)
        url = source.get(BASE_URL, "").rstrip("/")
        if url and settings.listen_port and _numeric(url) != _numeric(here):
            message = f"it is set in {where}, and is not {here}, where this proxy would listen: {remedy}."
            yield Finding(BASE_URL, "warning", message)


def _numeric(url: str) -> str:
    return url.replace("//localhost:", "//127.0.0.1:")


def _detours(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A forward proxy that Claude Code would ask for the way to this machine."""
    proxies = (name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (upper.lower(), upper))
    name = next((name for name in proxies if environ.get(name)), None)
    host = urlsplit(launcher.local_url(settings)).hostname or ""
    exempt = re.split(r"[,\s]+", environ.get("no_proxy") or environ.get("NO_PROXY", ""))
    if name and not {"*", host} & set(exempt):
        yield Finding(
            name,
            "warning",
            f"it is set and NO_PROXY does not name {host}, so Claude Code would look for this proxy there. Add {host} "
            'to NO_PROXY, or start with "claude-proxy run", which does.',
        )


def _refusals(
    settings: Settings, token: str | None, environ: Mapping[str, str], claude: ClaudeSettings
) -> Iterator[Finding]:
    """What "claude-proxy run" would refuse, in its own words."""
    if token is None:
        return
    answerer = launcher.find_answerer(None, settings, environ, claude.env, claude.model)
    url = launcher.local_url(settings)
    try:
        launcher.plan_launch("claude", (), base_url=url, token=token, answerer=answerer, environ=environ, claude=claude)
    except LaunchError as error:
        yield Finding("Claude Code", "failed", str(error))


# --- as text and as JSON ----------------------------------------------------------------------------------------------

_COLOURS = {"ok": "32", "warning": "33", "failed": "1;31", "skipped": "2"}
_WIDTH = 24  # of a check's name; a longer one pushes its message to the right


def line(finding: Finding, *, colour: bool = False) -> str:
    """A finding for a terminal."""
    status = f"{finding.status:<7}"
    if colour:
        status = f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m"
    return f"{status}  {printable(finding.check):<{_WIDTH}}  {printable(finding.message)}"


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = {status: sum(finding.status == status for finding in findings) for status in _COLOURS}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(findings)} checks: {told}."


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings for a program."""
    return {"version": __version__, "ok": is_well(findings), "checks": [asdict(finding) for finding in findings]}


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.status != "failed" for finding in findings)
