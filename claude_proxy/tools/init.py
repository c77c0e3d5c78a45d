"""`claude-proxy init`: asks for REDCap's address and the token, tries them, and writes them into `.env`.

Until the very end nothing is touched, and the end is one replacement of a file: whoever stops, by Ctrl-C or by an
answer, finds everything as it was. The other lines of an existing file stay as they are, to the byte. The terminal is
handed in as a `Console`, so that tests can answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_proxy.errors import CommandFailed
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import CONFIG_FILE, CONFIG_VARIABLE, home, load
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.settings.toml_settings import PASSWORD
from claude_proxy.tools.launcher import lies_in_repository, replace_file
from claude_proxy.tools.redcap_checks import Finding, check_server

URL, TOKEN = "REDCAP_API_URL", "REDCAP_API_TOKEN"
_SETTINGS = {setting.name: setting for setting in TABLE}
_ATTEMPTS = 5


@dataclass(frozen=True)
class Console:
    """Who answers the questions. Where nobody can be asked, the token is read and everything else must be given."""

    asks: bool  # whether somebody can be asked
    ask: Callable[[str], str]  # raises EOFError where there is no answer
    ask_hidden: Callable[[str], str]  # likewise, for what nobody may see
    say: Callable[[str], None]
    show: Callable[[Finding], None]


def begin(console: Console, environ: Mapping[str, str], folder: Path, url: str | None = None) -> None:
    """Ask, check, write `.env` in a folder; `url` is REDCap's address, where it is known already.

    Raises:
        CommandFailed: nothing was written.
        SettingsError: the file that is there, or another setting, cannot be used.
    """
    path = folder / ".env"
    before = read_dotenv(path)
    try:
        if folder != home(environ):
            _ask_who_wrote(console, folder, before)
        known_url, known_token = (before.get(name, "").strip() for name in (URL, TOKEN))
        new = {URL: _ask_for_url(console, known_url, url)}
        _settle(console, URL, new[URL], known_url)
        new[TOKEN] = _ask_for_token(console, known_token)
        _settle(console, TOKEN, new[TOKEN], known_token)
        others = {name: text for name, text in environ.items() if name not in new}
        settings = load({**others, **new}, folder)
        _check(console, settings, new[TOKEN])
    except EOFError:
        raise CommandFailed("There was no answer. Nothing was written.") from None
    write(path, new)
    console.say(f"Wrote {path}, which only you can read.")
    if lies_in_repository(path):
        console.say("It holds your token and lies in a Git repository: do not commit it.")
    for name, value in new.items():
        if environ.get(name, "").strip() not in {"", value}:
            console.say(f"{name} is set in the environment, too, with another value, and that one wins: unset it.")


# --- the questions ----------------------------------------------------------------------------------------------------


def parse(name: str, text: str) -> str:
    """The text of a setting, as it is to be written.

    Raises:
        ValueError: the rule that the text breaks.
    """
    value = _SETTINGS[name].parse(text)
    return value if isinstance(value, str) else text


def _ask_for_url(console: Console, known: str, given: str | None) -> str:
    if given is not None:
        return _parse_given(URL, given, f"--url={given!r}")
    if not console.asks:
        raise CommandFailed("There is no terminal to ask at: give --url, and the token on standard input.", 2)
    hint = f" [{known}]" if known else f", such as {_SETTINGS[URL].example}"
    console.say("REDCap shows the address and the token under API, in the menu of a project.")
    return _ask_until_right(console, URL, console.ask, f"REDCap's API address{hint}: ", known)


def _ask_for_token(console: Console, known: str) -> str:
    if console.asks:
        hint = " [the one there is]" if known else ""
        return _ask_until_right(console, TOKEN, console.ask_hidden, f"API token (not shown){hint}: ", known)
    token = console.ask_hidden("")
    if not token.strip():
        raise CommandFailed("There is no token on standard input. Nothing was written.", 2)
    return _parse_given(TOKEN, token, "The token on standard input")


def _parse_given(name: str, text: str, what: str) -> str:
    try:
        return parse(name, text.strip())
    except ValueError as error:
        raise CommandFailed(f"{what} cannot be used: {error}. Nothing was written.", 2) from None


def _ask_until_right(console: Console, name: str, ask: Callable[[str], str], question: str, known: str) -> str:
    for _ in range(_ATTEMPTS):
        answer = ask(question).strip() or known
        if not answer:
            continue
        try:
            return parse(name, answer)
        except ValueError as error:
            console.say(f"This cannot be used: {error}.")
    raise CommandFailed("None of these answers can be used. Nothing was written.")


def _settle(console: Console, name: str, new: str, known: str) -> None:
    """Replace a value that differs only where somebody says so."""
    if not known or known == new:
        return
    what = f"another {name}" if _SETTINGS[name].secret else f"{name}={known}"
    if not console.asks:
        raise CommandFailed(f".env has {what}, which is not overwritten without asking. Remove that line first.")
    if not _agrees(console, f".env has {what}. Replace it?"):
        raise CommandFailed(f"{name} was left as it is. Nothing was written.")


def _agrees(console: Console, question: str) -> bool:
    return console.ask(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _ask_who_wrote(console: Console, folder: Path, variables: Mapping[str, str]) -> None:
    """Whatever else the files of a folder say decides where the token goes, too: show it, and have it confirmed."""
    known = {*_SETTINGS, CONFIG_VARIABLE} - {URL, TOKEN, "CLIENT_HASH_KEY"}
    found = [f"{name}={PASSWORD.sub('//…@', text)}" for name, text in variables.items() if name.upper() in known]
    found += [CONFIG_FILE] if (folder / CONFIG_FILE).is_file() else []
    if not found:
        return
    told = f"{folder} holds more settings, which decide where your token goes: {', '.join(found)}."
    if not console.asks:
        raise CommandFailed(f"{told} Nothing was written. Remove them first, or leave out --here.")
    if not _agrees(console, f"{told} Did you write them?"):
        raise CommandFailed("Nothing was written.")


def _check(console: Console, settings: Settings, token: str) -> None:
    """Try REDCap and the token."""
    failure = ""
    for finding in check_server(settings, token):
        console.show(finding)
        if finding.status == "failed":
            failure = finding.message
        if finding.check == "token":
            break
    if failure and not console.asks:
        raise CommandFailed(f"{failure} Nothing was written.")
    if failure and not _agrees(console, "Write .env all the same?"):
        raise CommandFailed("Nothing was written.")


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path, values: Mapping[str, str]) -> None:
    """Set variables in a `.env` file, for its owner's eyes only; all its other lines stay.

    Raises:
        CommandFailed: it cannot be written, or would not be read as it was meant.
    """
    try:
        before = path.read_bytes() if path.exists() else b""
        replace_file(path, merged(before.decode("utf-8"), values).encode())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandFailed(f"{path} was left as it is: {reason}.") from None


def merged(text: str, values: Mapping[str, str]) -> str:
    """A `.env` file's text with variables set: in place of their last assignment, which is the one that counts.

    Raises:
        ValueError: a value can be written in no way that every reader of such files understands.
    """
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    for name, value in values.items():
        new = f"{name}={quoted(name, value)}{end}"
        places = [place for place, line in enumerate(lines) if _assigns(line, name)]
        if places:
            mark = "\ufeff" if lines[places[-1]].startswith("\ufeff") else ""
            lines[places[-1]] = mark + new
            continue
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += end
        lines.append(new)
    return "".join(lines)


def _assigns(line: str, name: str) -> bool:
    return re.match(rf"\ufeff?\s*(?:export\s+)?{name}\s*=", line) is not None


def quoted(name: str, value: str) -> str:
    """A value as it stands behind `=`: bare where that is safe, else in single quotes, within which nothing counts.

    Raises:
        ValueError: it holds a single quote, which some readers take for the end.
    """
    if re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return value
    if "'" in value:
        raise ValueError(f"the value of {name} holds a single quote, which cannot be written there")
    return f"'{value}'"
