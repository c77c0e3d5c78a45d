r"""JSON as models write it: trailing commas, single quotes, Python literals, raw newlines, unescaped quotes, and more.

`read_value` reads one value from a position on and says where it ended, so that it can stand in the middle of prose.
Valid JSON is read by the standard parser and means what it says. Only what that refuses is read loosely, and where the
text allows several readings, the one is taken in which the least is missing:

- A quote ends a string only where what follows can follow a string; any other quote is part of it.
- An escape that JSON does not know keeps its backslash: `\d` and `\$` are regular expressions and shell.
- A bare word is a string; `None`, `True` and `undefined` are what they are in their languages.

Time is in proportion to the text. Nothing here raises anything but `Unreadable`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from claude_proxy.core.expressions import expression
from claude_proxy.core.json_text import is_deeper

_MAX_DEPTH = 64


class Unreadable(ValueError):
    """No value can be read here."""


@dataclass(frozen=True)
class Value:
    """A value, and the position behind it."""

    value: Any
    end: int
    complete: bool = True  # False where the text ended inside it


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("no JSON number is infinite")
    return number


# Raw newlines and tabs in strings are the commonest slip of all.
_STRICT = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, parse_float=_finite)


def loads(text: str) -> Any:
    """Read a text that is one JSON value, but for raw newlines and tabs in strings.

    Raises:
        ValueError: it is not; NaN and infinite numbers, which JSON does not have, are refused.
    """
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if is_deeper(value, _MAX_DEPTH):
        raise ValueError("nested too deeply")
    return value


# Where the standard parser fails, it counts the lines up to there, so it is not asked in vain.
_COULD_BE_STRICT = re.compile(r"""\[\s*+["\[{\-\dtfn\]]|\{\s*+["}]|[^\[{]""")


def read_value(text: str, start: int = 0) -> Value:
    """Read the value that begins at `start`, behind white space and comments.

    Raises:
        Unreadable: there is none.
    """
    start = _skip(text, start)
    if not _COULD_BE_STRICT.match(text, start):
        return _read_loosely(text, start, _BEHIND_VALUE, _Parser.read)
    try:
        value, end = _STRICT.raw_decode(text, start)
    except (ValueError, RecursionError):
        return _read_loosely(text, start, _BEHIND_VALUE, _Parser.read)
    if is_deeper(value, _MAX_DEPTH):
        raise Unreadable("nested too deeply")
    return Value(value, end)


def read_arguments(text: str, start: int) -> Value:
    """Read the keyword arguments of a Python call, from behind its opening bracket to behind its closing one.

    Raises:
        Unreadable: they are none.
    """
    return _read_loosely(text, start, _BEHIND_ARGUMENT, _Parser.read_members)


_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*[^*]{0,200}+(?:\*(?!/)[^*]{0,200}+){0,20}+\*/|#[^\n]*)*", re.DOTALL)
_ELLIPSIS = re.compile(r"\.\.\.|…")
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|(?:\d[\d_]{0,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d+)?)(?![\w.])"
)
_WORD = re.compile(r"[A-Za-z_$][\w$.-]*")
_BARE = re.compile(r"[^\s,\]})\[{(\"':][^,\]}\n]*")
# The last two are Gemma's.
_OPENING_QUOTE = re.compile(r"[rRbBuUfF]{0,2}(\"\"\"|'''|[\"'`“‘])|(<escape>|<\|\"\|>)")
_CLOSING_QUOTES = {"“": "”", "‘": "’"}
# Where reading a string stops, by what closes it.
_STOPS = {
    closing: re.compile(rf"{re.escape(closing)}|\\") for closing in ('"""', "'''", *"\"'`”’", "<escape>", '<|"|>')
}
_LITERAL = re.compile(r"(?:true|false|null|none|undefined|nan)\b", re.IGNORECASE)
_LITERALS = {"true": True, "false": False, "null": None, "none": None, "undefined": None, "nan": None}

# What may stand behind the quote that ends a key, or a value. A comma must lead to another item or member, closing
# brackets to another one, to the end, or to what can stand behind a call: a tag, a fence, a line like `Observation:`.
_BEHIND_KEY = re.compile(r"\s*(?::|=>?)")
_NEXT = r"""["'“‘][^"'“”‘’\n]{0,80}["'”’]|["'“‘]{2}|[\w$]{1,80}\s*:|[-\d[{(]|(?:true|false|null|True|False|None)\b"""
_NEXT_ARGUMENT = r"[\w.]{1,80}\s*[=(]"  # in the arguments of a Python call
_KEY_AHEAD = expression(r"""["'“][^"'”\n]{1,80}["'”]\s*:""")


def _behind_value(following: str, line: str = r"[A-Z][\w ]{0,30}:|\{") -> re.Pattern[str]:
    return expression(
        rf"""\s*+(?:
            \Z
          | ,\s*(?:{following}|[\]}})]|//|/\*|\#|\.\.\.|\Z)
          | (?:[\]}})]\s*)+(?:,\s*(?:{following}|[\]}})]|\Z)|[<`;|\[]|\Z|(?<=\n)(?:{line}))
          | \+\s*["'“‘]
          | (?<=\s)["']
          | //|/\*|(?<=[ \t])\#|</|<\||<｜
          )
          | [ \t\r]*+\n\s*+["'“‘]?[\w$-]{{1,80}}["'”’]?[ \t]*:""",
        re.VERBOSE,
    )


_BEHIND_VALUE = _behind_value(_NEXT)
_BEHIND_ARGUMENT = _behind_value(rf"{_NEXT}|{_NEXT_ARGUMENT}", r"[\w.]{1,80}\(")
# A string before no colon is an argument without a name, which belongs to nobody.
_BEHIND_QUOTED_ARGUMENT = expression(rf"{_BEHIND_KEY.pattern}|(?:{_BEHIND_ARGUMENT.pattern})", re.VERBOSE)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'", "`": "`"}
_UNICODE_ESCAPE = re.compile(r"u([0-9a-fA-F]{4})(?:\\u([dD][c-fC-F][0-9a-fA-F]{2}))?")


def _skip(text: str, position: int) -> int:
    """Skip white space and comments."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


_ONLY_BRACKETS = re.compile(r"[ \t\n\]})]*\Z")
_TAG_LIKE = ("</", "<|", "<｜", "```")  # what stands behind a call


def _read_loosely(text: str, start: int, behind: re.Pattern[str], read: Callable[[_Parser, int], Value]) -> Value:
    """Read with the first quote ending each string, and only if that leads nowhere with quotes inside strings."""
    first = _Parser(text, behind, hasty=True)
    try:
        value = read(first, start)
    except Unreadable:
        if not first.doubtful:
            raise
    else:
        if value.complete or not first.doubtful:
            return value
    return read(_Parser(text, behind), start)


class _Parser:
    """Recursive descent that gives up on nothing it can make sense of."""

    def __init__(self, text: str, behind: re.Pattern[str], *, hasty: bool = False) -> None:
        self.text = text
        self.complete = True
        self.doubtful = False  # whether a quote has ended a string that would have gone on without haste
        self._hasty = hasty  # whether the first quote ends each value
        self._behind = behind  # what tells that a quote ends a value

    def read(self, start: int) -> Value:
        value, end = self._value(start, 0)
        return Value(value, end, self.complete)

    def read_members(self, start: int) -> Value:
        members, end = self._object(start, 0, _BEHIND_QUOTED_ARGUMENT)
        return Value(members, end, self.complete)

    def _value(self, position: int, depth: int) -> tuple[Any, int]:
        if depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        position = _skip(self.text, position)
        if position >= len(self.text) and depth > 0:
            self.complete = False
            return None, position
        first = self.text[position : position + 1]
        if first == "{":
            return self._object(position + 1, depth)
        if first in {"[", "("} and first:
            return self._array(position + 1, depth, {"[": "]", "(": ")"}[first])
        if _OPENING_QUOTE.match(self.text, position):
            return self._strings(position, self._behind)
        if number := _NUMBER.match(self.text, position):
            return _number(number[0]), number.end()
        return self._word(position)

    def _object(
        self, position: int, depth: int, behind_key: re.Pattern[str] = _BEHIND_KEY
    ) -> tuple[dict[str, Any], int]:
        if depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        members: dict[str, Any] = {}
        while True:
            position = self._separator(position)
            if (end := self._end(position, "})")) is not None:
                return members, end
            if self.text.startswith(_TAG_LIKE, position):
                return members, position  # the closing brace was forgotten
            if self.text[position] == "{" and not members:  # all braces are doubled, as in a template
                members, position = self._object(position + 1, depth + 1)
                continue
            key, position = self._key(position, behind_key)
            behind = _BEHIND_KEY.match(self.text, position)
            if not behind:
                if position >= len(self.text):
                    self.complete = False
                    return members, position
                raise Unreadable("a key without a value")
            members[key], position = self._value(behind.end(), depth + 1)

    def _array(self, position: int, depth: int, closing: str) -> tuple[list[Any], int]:
        items: list[Any] = []
        while True:
            position = self._separator(position)
            if (end := self._end(position, closing)) is not None:
                return items, end
            item, position = self._value(position, depth + 1)
            items.append(item)

    def _end(self, position: int, closing: str) -> int | None:
        """Where an object or array ends, if the text or a bracket, even a wrong one, ends it at a position."""
        if position >= len(self.text):
            self.complete = False
            return position
        if self.text[position] not in "}])":
            return None
        if self.text[position] not in closing and _ONLY_BRACKETS.match(self.text, position + 1):
            self.complete = False  # a wrong bracket at the very end is where a string was cut off
        return position + 1

    def _separator(self, position: int) -> int:
        """Skip what may stand between members: white space, comments, commas, ellipses."""
        while True:
            position = _skip(self.text, position)
            if self.text.startswith((",", ";"), position):
                position += 1
            elif ellipsis := _ELLIPSIS.match(self.text, position):
                position = ellipsis.end()
            else:
                return position

    def _key(self, position: int, behind_key: re.Pattern[str]) -> tuple[str, int]:
        if _OPENING_QUOTE.match(self.text, position):
            return self._string(position, behind_key)
        if word := _WORD.match(self.text, position):
            return word[0], word.end()
        raise Unreadable("no key")

    def _strings(self, position: int, behind: re.Pattern[str]) -> tuple[str, int]:
        """A string, or several that are joined by `+` or by standing next to each other."""
        part, position = self._string(position, behind)
        parts = [part]
        while True:
            following = _skip(self.text, position)
            joined = _skip(self.text, following + 1) if self.text.startswith("+", following) else following
            if joined == position or not _OPENING_QUOTE.match(self.text, joined):
                return "".join(parts), position
            if joined == following and _KEY_AHEAD.match(self.text, joined):
                return "".join(parts), position  # no second part but a key; the comma was forgotten
            part, position = self._string(joined, behind)
            parts.append(part)

    def _string(self, position: int, behind: re.Pattern[str]) -> tuple[str, int]:
        opening = _OPENING_QUOTE.match(self.text, position)
        if not opening:
            raise Unreadable("no string")
        quote = opening[1] or opening[2]
        raw = "r" in opening[0][: -len(quote)].lower() or opening[2] is not None
        closing = _CLOSING_QUOTES.get(quote, quote)
        stop = _STOPS[closing]
        position = opening.end()
        parts: list[str] = []
        while match := stop.search(self.text, position):
            parts.append(self.text[position : match.start()])
            position = match.end()
            if match[0] == "\\":
                part, position = ("\\", position) if raw else self._escape(position)
                parts.append(part)
            elif len(closing) > 1 or behind.match(self.text, position):
                return "".join(parts), position
            elif self._hasty and behind is self._behind:
                self.doubtful = True
                return "".join(parts), position
            else:
                parts.append(match[0])
        self.complete = False
        parts.append(self.text[position:])
        return "".join(parts), len(self.text)

    def _escape(self, position: int) -> tuple[str, int]:
        """What the escape behind a backslash stands for."""
        if code := _UNICODE_ESCAPE.match(self.text, position):
            units = [int(unit, 16) for unit in code.groups() if unit]
            if len(units) == 2 and 0xD800 <= units[0] < 0xDC00:
                return chr(0x10000 + ((units[0] - 0xD800) << 10) + (units[1] - 0xDC00)), code.end()
            return chr(units[0]), code.end(1)
        letter = self.text[position : position + 1]
        return _ESCAPES.get(letter, f"\\{letter}"), position + 1

    def _word(self, position: int) -> tuple[Any, int]:
        if literal := _LITERAL.match(self.text, position):
            return _LITERALS[literal[0].lower()], literal.end()
        bare = _BARE.match(self.text, position)
        if not bare:
            raise Unreadable("no value")
        word = bare[0].rstrip()
        self.complete = self.complete and bare.end() < len(self.text)
        return word, position + len(word)


def _number(text: str) -> Any:
    digits = text.replace("_", "")
    try:
        if "." in digits or "e" in digits.lower().removeprefix("0x"):
            return _finite(digits)
        return int(digits, 0) if re.fullmatch(r"[+-]?(0[xX].*|0|[1-9]\d*)", digits) else _finite(digits)
    except (ValueError, OverflowError):
        return text
