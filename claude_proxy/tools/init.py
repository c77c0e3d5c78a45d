"""`claude-proxy init`: asks for REDCap's address and the token, tries them, and writes them into `.env`.

Until the very end nothing is touched, and the end is one replacement of a file: whoever stops, by Ctrl-C or by an
answer, finds everything as it was. The other lines of a file that is there stay as they are, to the byte. The terminal
comes in as a `Console`, so that all of this can be told to a test.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_proxy.errors import CommandFailed, SettingsError
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.sources import load
from claude_proxy.settings.table import TABLE, Settings
from claude_proxy.tools.launcher import lies_in_repository, replacing
from claude_proxy.tools.redcap_checks import Finding, Site, check_site, failed

URL, TOKEN = "REDCAP_API_URL", "REDCAP_API_TOKEN"
_SETTINGS = {setting.name: setting for setting in TABLE}
_ATTEMPTS = 5


class InitError(CommandFailed):
    """Nothing was written; the message says why and what to do."""


@dataclass(frozen=True)
class Console:
    """Who answers the questions.

    Attributes:
        asks: whether somebody is there to be asked; if not, the token is read and everything else must be given.
        ask: shows a question and returns the answer; raises EOFError where there is none.
        ask_hidden: likewise for what nobody may see.
        say: shows a line.
        show: shows a finding.
    """

    asks: bool
    ask: Callable[[str], str]
    ask_hidden: Callable[[str], str]
    say: Callable[[str], None]
    show: Callable[[Finding], None]


def begin(console: Console, environ: Mapping[str, str], folder: Path, url: str | None = None) -> None:
    """Ask, check, write.

    Args:
        console: who is asked.
        environ: the environment; it wins over the file, so what it says is told.
        folder: where `.env` lies or will lie.
        url: REDCap's address, where it is known already.

    Raises:
        InitError: nothing was written.
        SettingsError: the file that is there, or another setting, cannot be used.
    """
    path = folder / ".env"
    before = read_dotenv(path)
    try:
        new = {URL: _ask_for_url(console, before, url), TOKEN: _ask_for_token(console, before)}
        others = {name: text for name, text in environ.items() if name not in new}
        settings = load({**others, **new}, folder)
        _check(console, settings, new[TOKEN])
    except EOFError:
        raise InitError("There was no answer. Nothing was written.") from None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def _ask_for_url(console: Console, before: Mapping[str, str], given: str | None) -> str:
    known = before.get(URL, "").strip()
    if given is not None:
        try:
            url = parse(URL, given.strip())
        except ValueError as error:
            raise InitError(f"--url={given!r} cannot be used: {error}. Nothing was written.", 2) from None
    elif not console.asks:
        raise InitError("There is no terminal to ask at: give --url, and the token on standard input.", 2)
    else:
        hint = f" [{known}]" if known else f", such as {_SETTINGS[URL].example}"
        console.say("REDCap shows the address and the token under API, in the menu of a project.")
        url = _ask_until_right(console, URL, console.ask, f"REDCap's API address{hint}: ", known)
    _settle(console, URL, url, known, f"{URL}={known}")
    return url


def _ask_for_token(console: Console, before: Mapping[str, str]) -> str:
    known = before.get(TOKEN, "").strip()
    if not console.asks:
        token = console.ask_hidden("").strip()
        try:
            token = parse(TOKEN, token)
        except ValueError as error:
            raise InitError(f"The token on standard input cannot be used: {error}. Nothing was written.", 2) from None
        if not token:
            raise InitError("There is no token on standard input. Nothing was written.", 2)
    else:
        hint = " [the one there is]" if known else ""
        token = _ask_until_right(console, TOKEN, console.ask_hidden, f"API token (not shown){hint}: ", known)
    _settle(console, TOKEN, token, known, f"another {TOKEN}")
    return token


def _ask_until_right(console: Console, name: str, ask: Callable[[str], str], question: str, known: str) -> str:
    for _ in range(_ATTEMPTS):
        answer = ask(question).strip() or known
        if not answer:
            continue
        try:
            return parse(name, answer)
        except ValueError as error:
            console.say(f"This cannot be used: {error}.")
    raise InitError("That was no answer that can be used. Nothing was written.")


def _settle(console: Console, name: str, new: str, known: str, what: str) -> None:
    """Replace a value that differs only where somebody says so."""
    if not known or known == new:
        return
    if not console.asks:
        raise InitError(f".env has {what}, which is not overwritten without asking. Remove that line first.")
    if not _agrees(console, f".env has {what}. Replace it?"):
        raise InitError(f"{name} was left as it is. Nothing was written.")


def _agrees(console: Console, question: str) -> bool:
    return console.ask(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _check(console: Console, settings: Settings, token: str) -> None:
    """Go to REDCap with what was given."""
    if failures := [finding for finding in _findings(console, settings, token) if finding.status == "failed"]:
        if not console.asks:
            raise InitError(f"{failures[0].message} Nothing was written.")
        if not _agrees(console, "Write .env all the same?"):
            raise InitError("Nothing was written.")


def _findings(console: Console, settings: Settings, token: str) -> Iterator[Finding]:
    try:
        site = Site(settings, token)
    except SettingsError as error:
        console.show(finding := failed("name", str(error)))
        yield finding
        return
    with contextlib.closing(site):
        for finding in check_site(site, last="token"):
            console.show(finding)
            yield finding


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path, values: Mapping[str, str]) -> None:
    """Set variables in a `.env` file, for its owner's eyes only; all its other lines stay.

    Raises:
        InitError: it cannot be written, or would not be read as it was meant.
    """
    try:
        target = path.resolve()  # a link stays one
        try:
            before = target.read_bytes()
        except FileNotFoundError:
            before = b""
        after = merged(before.decode("utf-8"), values).encode()
        with replacing(target) as file:
            file.write(after)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InitError(f"{path} was left as it is: {reason}.") from None


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
