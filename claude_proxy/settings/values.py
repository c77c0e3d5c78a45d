"""The text of a setting to its value: a function for each kind.

Each raises ValueError with the rule that the text breaks, as words that go on a sentence: "it must be ...".
"""

from __future__ import annotations

import json
import math
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit


class Secret:
    """A string that shows itself only when asked, so that no log line or traceback can hold it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The string itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def url(text: str) -> str:
    """An `http` or `https` address with nothing but host, port and path."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be an address such as https://redcap.example.edu/api/")
    _ = parts.port  # raises ValueError when it is no port
    if parts.username or parts.password:
        raise ValueError("it must hold no user name or password: the token has a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError("it must end with the path, normally /api/, without ? or #")
    if re.search(r"[\x00-\x20\x7f-\U0010ffff]", text):
        raise ValueError("it must hold no blanks or characters outside ASCII")
    # Without the final slash most servers answer with a redirect, which would be refused.
    return text + "/" if parts.path.endswith("/api") else text


def token(text: str) -> Secret:
    """Printable ASCII without blanks."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it must be printable ASCII without blanks, as REDCap shows it under API")
    return Secret(text)


def digests(text: str) -> frozenset[str]:
    """The digests in a file: one a line, in hexadecimal; what follows it is a remark."""
    lines = [line.split("#")[0].split() for line in _read_file(Path(text), "a file that can be read").splitlines()]
    digests = [words[0].lower() for words in lines if words]
    for number, words in enumerate(lines, start=1):
        if words and not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
            raise ValueError(f"line {number} of the file must begin with a SHA-256 digest: 64 hexadecimal digits")
    if not digests:
        raise ValueError("the file lists nobody, so nobody could use the proxy")
    return frozenset(digests)


def port(text: str) -> int:
    """A port; 0 is any free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("it must be a whole number from 0 (any free port) to 65535")
    return int(text)


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """A parser of whole numbers within bounds, both included."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not minimum <= int(text) <= maximum:
            raise ValueError(f"it must be a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def ca_bundle(text: str) -> str:
    """The path of a PEM file with certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=text)
    except (OSError, ValueError) as error:
        unreadable = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        reason = getattr(error, "strerror", "") if unreadable else "it holds no certificate that can be read"
        raise ValueError(f"it must be a PEM file with certificates ({reason})") from None
    return text


def printable(text: str) -> str:
    """Text on one line."""
    if not text.isprintable():
        raise ValueError("it must be printable text on one line")
    return text


def proxy_address(text: str) -> Secret:
    """It is read where it is used: an address that only other programs can use is no reason not to start."""
    return Secret(printable(text))


def matching(pattern: str, rule: str) -> Callable[[str], str]:
    """A parser of text of one form."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"it must be {rule}")
        return text

    return parse


host = matching("[A-Za-z0-9.:_-]+", "a host name or an IP address")
word = matching("[A-Za-z0-9_.-]+", "one word of letters, digits, _, . and -")


_YES, _NO = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


def switch(text: str) -> bool:
    """True or false, in any of the usual words."""
    word = text.lower()
    if word not in {*_YES, *_NO}:
        raise ValueError("it must be true or false")
    return word in _YES


def seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    """A parser of seconds within bounds, both included."""

    def parse(text: str) -> float:
        rule = f"it must be a number of seconds from {minimum:g} to {maximum:g}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(rule) from None
        if math.isnan(value) or not minimum <= value <= maximum:
            raise ValueError(rule)
        return value

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """A parser of one of some words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return text.lower()

    return parse


def model_map(text: str) -> Mapping[str, str]:
    """JSON text, or the path of a JSON or TOML file: an object that maps names or patterns to aliases."""
    source = (
        text
        if text.lstrip().startswith("{")
        else _read_file(Path(text), "JSON that starts with {, or a file that can be read")
    )
    try:
        table = tomllib.loads(source) if text.endswith(".toml") else json.loads(source)
    except RecursionError:
        raise ValueError("its text is nested too deeply") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"its text cannot be read: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(alias, str) and alias for alias in table.values()):
        raise ValueError('it must map names to aliases, as in {"claude-opus-*": "claude-opus-4"}')
    return table


def alias_patterns(text: str) -> Mapping[str, bool]:
    """Names and patterns; one with `!` before it is an exception, and goes first."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(re.fullmatch(r"!?[A-Za-z0-9_.*?\[\]-]+", word) for word in words):
        raise ValueError("it must be aliases or patterns with commas between them, as in my-gpt, llama-*, !llama-3*")
    return {word.lstrip("!"): not word.startswith("!") for word in sorted(words, key=lambda word: word[0] != "!")}


def _read_file(path: Path, rule: str) -> str:
    """The text of a file that a setting names; `rule` is what the setting must be."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"it must be {rule} ({explain_unreadable(error)})") from None


def explain_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a file could not be read as text."""
    return getattr(error, "strerror", None) or "it is not UTF-8 text"
