"""`claude-proxy doctor`: what stands between Claude Code and a model, checked from near to far.

First what needs no network: Python, the settings and where each came from, the port, Claude Code and what would lead
it elsewhere. Then the way to a model, which `redcap_checks` goes. Every check yields findings, one line each; nothing
here prints. A finding shows no secret, whatever it is about.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import http.client
import json
import platform
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from claude_proxy import __version__
from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.errors import SettingsError
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import CONFIG_VARIABLE, load_with_sources
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.shell.server.connections import explain_listening
from claude_proxy.tools import launcher
from claude_proxy.tools.claude_environment import AUTH_TOKEN, BASE_URL, choose_mode, compute_changes, without_ours
from claude_proxy.tools.launcher import ClaudeSettings, LaunchError
from claude_proxy.tools.redcap_checks import CHECKS, Finding, check_all, failed, ok, skipped, warning

_KNOCK = 2.0  # seconds for whatever listens at the port
_VERSION_LIMIT = 20.0  # seconds for Claude Code to say its version
_MOST_SHOWN = 80  # characters of a value
_UNUSABLE = "the settings cannot be used"


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
        folder: the working folder.
        given: settings that the command line gives.
        offline: leave out what needs the network.
        patience: seconds for each answer of a model.
    """
    yield ok("Python", f"{platform.python_version()}, {ssl.OPENSSL_VERSION}; claude-proxy {__version__}")
    dotenv: Mapping[str, str] = {}
    configured, sources, fault = None, dict[str, str](), ""
    try:
        dotenv = read_dotenv(folder / ".env")
        configured, found = load_with_sources(environ, folder, given)
        sources = dict(found)
    except SettingsError as error:
        fault = str(error)
    yield from check_settings(configured, sources, environ, dotenv, fault)
    yield check_port(configured) if configured else skipped("port", f"not tried: {_UNUSABLE}")
    claude = launcher.load_claude_settings((), environ, folder)
    token = _token(configured, environ, claude, dotenv) if configured else None
    yield check_claude(environ, dotenv)
    if configured:
        yield from check_interference(configured, token, environ, claude)
    if offline or not configured:
        yield from (skipped(check, f"not tried: {'--offline' if offline else _UNUSABLE}") for check in CHECKS)
    else:
        yield from check_all(configured, token, {**environ, **claude.env}, patience)


def _token(
    configured: Settings, environ: Mapping[str, str], claude: ClaudeSettings, dotenv: Mapping[str, str]
) -> str | None:
    with contextlib.suppress(LaunchError):
        return launcher.client_token(configured, environ, claude.env, dotenv)
    return None


# --- settings ---------------------------------------------------------------------------------------------------------


def check_settings(
    settings: Settings | None,
    sources: Mapping[str, str],
    environ: Mapping[str, str],
    dotenv: Mapping[str, str],
    fault: str = "",
) -> Iterator[Finding]:
    """A line for each setting that is given, and for each name that is probably a misspelt one.

    Args:
        settings: what they have come to; None where they cannot be used.
        sources: where each came from.
        environ: the environment.
        dotenv: the variables of `.env`.
        fault: why they cannot be used.
    """
    given = {name: source for name, source in sources.items() if source not in _NOWHERE}
    if settings is None:
        yield failed("settings", fault)
    else:
        yield ok("settings", f"{len(given)} given, all others have their defaults")
        yield from (warning("settings", sentence) for sentence in settings.warnings)
        for name, source in given.items():
            message = f"{_value(settings, name)} (from {source})"
            other = dotenv.get(name, "").strip()
            if source == "the environment" and other and other != environ.get(name, "").strip():
                yield warning(name, f"{message}. .env has another value, which is not used.")
            else:
                yield ok(name, message)
    known = [*(setting.name for setting in TABLE), *(setting.field for setting in TABLE if setting.shared), *_FURTHER]
    ours = {name for name in (*environ, *dotenv) if name.startswith("REDCAP_")}
    for name in sorted({*ours, *dotenv} - set(known)):
        near = difflib.get_close_matches(name.upper(), known, 1, 0.8)
        if near or name in ours:
            meant = f"Is {near[0]} meant?" if near else ".env.example lists those that there are."
            yield warning(name, f"this is no setting of claude-proxy, and is not used. {meant}")


_NOWHERE = ("default", "not set")
_FURTHER = (CONFIG_VARIABLE, "CLAUDE", AUTH_TOKEN)


def _value(settings: Settings, name: str) -> str:
    """A setting's value as it can be shown; of a table of the configuration file, its names."""
    if name.startswith("["):
        return ", ".join({"[servers]": settings.servers, "[aliases]": settings.alias_facts}.get(name, ()))
    setting = next(setting for setting in TABLE if setting.name == name)
    value = getattr(settings, setting.field)
    if setting.secret:
        return "set, but not shown"
    if isinstance(value, Mapping):
        return _shortened(json.dumps(dict(value), ensure_ascii=False))
    if isinstance(value, bool):
        return str(value).lower()
    return _shortened(f"{value:g}" if isinstance(value, float) else str(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


# --- the port ---------------------------------------------------------------------------------------------------------


def check_port(settings: Settings) -> Finding:
    """Whether the proxy could listen where the settings say, or does already."""
    where = f"{settings.listen_host}:{settings.listen_port}"
    if settings.listen_port == 0:
        return ok("port", "any free one (LISTEN_PORT=0)")
    try:
        _listen_for_a_moment(settings.listen_host, settings.listen_port)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE and (version := _proxy_there(settings)):
            return warning(
                "port",
                f'a claude-proxy {version} already listens on {where}. To start another one with "claude-proxy serve", '
                'stop it or set LISTEN_PORT; "claude-proxy run" finds a free port of its own.',
            )
        return failed("port", f"{where} cannot be listened on: {explain_listening(error)}.")
    return ok("port", f"{where} is free")


def _listen_for_a_moment(host: str, port: int) -> None:
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        if sys.platform != "win32":  # there it would let two programs have the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()


def _proxy_there(settings: Settings) -> str | None:
    """The version of the proxy that listens there, by its own word; None where it is something else."""
    parts = urlsplit(launcher.local_url(settings))
    connection = http.client.HTTPConnection(parts.hostname or "", settings.listen_port, timeout=_KNOCK)
    try:
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    version = answer.get("version") if isinstance(answer, dict) and answer.get("status") == "ok" else None
    return version if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,30}", version, re.ASCII) else None


# --- Claude Code ------------------------------------------------------------------------------------------------------


def check_claude(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> Finding:
    """Where Claude Code is, and its version."""
    try:
        program = launcher.find_claude(environ.get("CLAUDE") or dotenv.get("CLAUDE"), environ)
    except LaunchError as error:
        return warning("Claude Code", str(error))
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
        return warning("Claude Code", f"{program} could not be started to ask for its version.")
    version = re.match(rb"\d+\.\d+[\w.-]{0,30}", done.stdout)
    if done.returncode or not version:
        return warning("Claude Code", f"{program} did not say its version when called with --version.")
    return ok("Claude Code", f"{version[0].decode()} ({program})")


def check_interference(
    settings: Settings, token: str | None, environ: Mapping[str, str], claude: ClaudeSettings
) -> Iterator[Finding]:
    """What would lead Claude Code elsewhere, or keep it from the proxy.

    Args:
        settings: the proxy's.
        token: the credential that Claude Code will have.
        environ: the environment.
        claude: what Claude Code's settings files say.
    """
    findings = [
        *_foreign(settings, environ, claude),
        *_detours(settings, {**environ, **claude.env}),
        *_refusals(settings, token, environ, claude),
        *([warning("Claude Code", choose_mode((), "auto").sentence)] if claude.mode == "auto" else []),
    ]
    yield from findings or [ok("Claude Code", "nothing in its settings or the environment leads it elsewhere")]


def _foreign(settings: Settings, environ: Mapping[str, str], claude: ClaudeSettings) -> Iterator[Finding]:
    """Variables that would give it a second credential or another server."""
    own = compute_changes(launcher.local_url(settings), "", describe_alias("claude"), {})
    sources = (
        ("the environment", without_ours(environ), 'unset it, or start with "claude-proxy run", which leaves it out'),
        ('"env" of Claude Code\'s settings.json', without_ours(claude.env), "remove it there"),
    )
    for where, source, remedy in sources:
        for name in own.unset:
            if source.get(name):
                yield warning(
                    name, f"it is set in {where}, and gives Claude Code another credential or another server: {remedy}."
                )
        url = source.get(BASE_URL, "").rstrip("/")
        if url and settings.listen_port and url not in _addresses(settings):
            yield warning(
                BASE_URL,
                f"it is set in {where}, and is not {launcher.local_url(settings)}, where this proxy would listen: "
                f"{remedy}.",
            )


def _addresses(settings: Settings) -> Iterable[str]:
    """All the ways to write where the proxy listens."""
    url = launcher.local_url(settings)
    return {url, url.replace("//127.0.0.1:", "//localhost:"), url.replace("//localhost:", "//127.0.0.1:")}


_DETOURS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def _detours(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A forward proxy that Claude Code would ask for the way to this machine."""
    name = next((name for upper in _DETOURS for name in (upper.lower(), upper) if environ.get(name)), None)
    host = urlsplit(launcher.local_url(settings)).hostname or ""
    exempt = re.split(r"[,\s]+", environ.get("no_proxy") or environ.get("NO_PROXY", ""))
    if name and not {"*", host} & set(exempt):
        yield warning(
            name,
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
        yield failed("Claude Code", str(error))


# --- as text and as JSON ----------------------------------------------------------------------------------------------

_COLOURS = {"ok": "32", "warning": "33", "failed": "1;31", "skipped": "2"}
_WIDTH = 24  # of a check's name; a longer one pushes its message to the right


def line(finding: Finding, *, colour: bool = False) -> str:
    """A finding for a terminal."""
    status = f"{finding.status:<7}"
    if colour:
        status = f"\x1b[{_COLOURS[finding.status]}m{status}\x1b[0m"
    return f"{status}  {_shown(finding.check):<{_WIDTH}}  {_shown(finding.message)}"


def _shown(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = {status: sum(finding.status == status for finding in findings) for status in _COLOURS}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(findings)} checks: {told}."


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings for a program."""
    return {
        "version": __version__,
        "ok": is_well(findings),
        "checks": [
            {"check": finding.check, "status": finding.status, "message": finding.message} for finding in findings
        ],
    }


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.status != "failed" for finding in findings)
