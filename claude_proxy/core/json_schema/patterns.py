r"""The regular expressions of `pattern`, as far as the real API takes them, on a matcher that cannot backtrack.

The API documents anchors, the quantifiers `*`, `+`, `?` and small `{n,m}`, classes (`[]`, `.`, `\d`, `\w`, `\s`) and
groups; alternatives and escaped characters go without saying. Whatever else ECMAScript has (looking around, references
to groups, `\b`, properties, flags) is not read, and a pattern that uses it is not checked.

Patterns come from strangers, so a text is matched in all ways at once: it takes as many steps as the text has
characters, times the places of the pattern. Python's own `re` only says what one character may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from claude_proxy.core.expressions import expression

_MAX_STATES = 1000
_MAX_GROUP_DEPTH = 20


class _UnsupportedError(ValueError):
    """The pattern is beyond what is read here, or is none."""


class _State(NamedTuple):
    """What must come next (one character, or the place `^` or `$`, or nothing), and where it goes on then."""

    wanted: re.Pattern[str] | str | None
    ways: tuple[int, ...]


_Build: TypeAlias = Callable[[int], int]
"""Adds the states of a part of the pattern, given the state behind it; returns where the part begins."""

_ESCAPE = r"\\(?:[dDwWsStnvfr]|x[0-9A-Fa-f]{2}|u(?![Dd][89A-Fa-f])[0-9A-Fa-f]{4}|[^0-9A-Za-z])"
_MEMBER = expression(rf"{_ESCAPE}|[^\\\]]", re.DOTALL)
_TOKEN = expression(
    rf"(?P<set>\[\^?(?:{_ESCAPE}|[^\\\]])+\])|(?P<open>\((?:\?:|(?!\?)))|(?P<close>\))|(?P<or>\|)|(?P<place>[\^$])"
    r"|(?:(?P<sign>[*+?])|\{(?P<least>[0-9]{1,3})(?P<comma>,?)(?P<most>[0-9]{0,3})\})\??"
    rf"|(?P<character>{_ESCAPE}|[^\\\[\](){{}}|^$*+?])",
    re.DOTALL,
)
# ECMAScript's white space. It begins and ends with a class, so that a dash beside it is an error, never a range.
_SPACE = r"\s\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff\s"


def _one_of(members: str, *, negated: bool = False) -> re.Pattern[str]:
    """What one character may be, given the inside of a class."""
    if "--" in members or (negated and r"\S" in members):  # what these are to Python they are not to ECMAScript
        raise _UnsupportedError
    written = _MEMBER.sub(lambda match: _in_python(match[0]), members)
    try:
        return re.compile(f"[{'^' if negated else ''}{written}]", re.ASCII)
    except re.error:
        raise _UnsupportedError from None


def _in_python(member: str) -> str:
    return _SPACE if member == r"\s" else f"\\{member}" if member in "^[&~|" else member


class _Reader:
    """Reads a pattern into states, of which the first one is the end of the pattern."""

    def __init__(self, source: str) -> None:
        self.states = [_State(None, ())]
        self._source = source
        self._position = 0
        self._depth = 0

    def read(self) -> int:
        """Read all of it; returns the state where it begins."""
        build = self._choice()
        if self._position < len(self._source):
            raise _UnsupportedError
        return build(0)

    def _token(self) -> re.Match[str] | None:
        return _TOKEN.match(self._source, self._position)

    def _pass(self, kind: str) -> re.Match[str] | None:
        match = self._token()
        if not match or match.lastgroup != kind:
            return None
        self._position = match.end()
        return match

    def _add(self, wanted: re.Pattern[str] | str | None, *ways: int) -> int:
        if len(self.states) >= _MAX_STATES:
            raise _UnsupportedError
        self.states.append(_State(wanted, ways))
        return len(self.states) - 1

    def _choice(self) -> _Build:
        options = [self._sequence()]
        while self._pass("or"):
            options.append(self._sequence())
        return lambda after: self._add(None, *[build(after) for build in options])

    def _sequence(self) -> _Build:
        parts: list[_Build] = []
        while (match := self._token()) and match.lastgroup not in {"or", "close"}:
            atom = self._atom()
            parts.append(atom if match.lastgroup == "place" else self._repeated(atom))

        def build(after: int) -> int:
            for part in reversed(parts):
                after = part(after)
            return after

        return build

    def _atom(self) -> _Build:
        if self._pass("open"):
            return self._group()
        wanted: re.Pattern[str] | str
        if match := self._pass("set"):
            negated = match[0].startswith("[^")
            wanted = _one_of(match[0][1 + negated : -1], negated=negated)
        elif match := self._pass("character"):
            not_one = {".": r"\n\r\u2028\u2029", r"\S": r"\s"}.get(match[0])
            wanted = _one_of(not_one, negated=True) if not_one else _one_of(match[0])
        elif match := self._pass("place"):
            wanted = match[0]
        else:
            raise _UnsupportedError  # a quantifier without anything to repeat
        return lambda after: self._add(wanted, after)

    def _group(self) -> _Build:
        self._depth += 1
        if self._depth > _MAX_GROUP_DEPTH:
            raise _UnsupportedError
        build = self._choice()
        if not self._pass("close"):
            raise _UnsupportedError
        self._depth -= 1
        return build

    def _repeated(self, part: _Build) -> _Build:
        if match := self._pass("sign"):
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[match[0][0]]
        elif match := self._pass("most"):
            least = int(match["least"])
            most = int(match["most"]) if match["most"] else None if match["comma"] else least
        else:
            return part
        if most is not None and most < least:
            raise _UnsupportedError
        return lambda after: self._repeat(part, least, most, after)

    def _repeat(self, part: _Build, least: int, most: int | None, after: int) -> int:
        end = after
        if most is None:
            after = self._add(None, end)
            self.states[after] = _State(None, (part(after), end))
        for _ in range((most or least) - least):
            after = self._add(None, part(after), end)
        for _ in range(least):
            after = self._add(None, part(after))  # a state for each, so that nothing is repeated for free
        return after


class Pattern:
    """A pattern that has been read."""

    def __init__(self, source: str) -> None:
        reader = _Reader(source)
        self._start = reader.read()
        self._states = reader.states

    def matches(self, text: str, spend: Callable[[int], None]) -> bool:
        """Whether it matches anywhere in a text; `spend` is told of the steps as they are taken, and may raise."""
        current: set[int] = set()
        for place, character in enumerate(text):
            here = self._reach(current, "" if place else "^", spend)
            if 0 in here:
                return True
            current = set()
            for wanted, ways in map(self._states.__getitem__, here):
                if isinstance(wanted, re.Pattern) and wanted.match(character):
                    current.update(ways)
        return 0 in self._reach(current, "$" if text else "^$", spend)

    def _reach(self, current: set[int], places: str, spend: Callable[[int], None]) -> set[int]:
        """The states that are reached without a further character, those of a new beginning among them."""
        reached = current | {self._start}
        pending = list(reached)
        while pending:
            wanted, ways = self._states[pending.pop()]
            if wanted is None or (isinstance(wanted, str) and wanted in places):
                new = [way for way in ways if way not in reached]
                reached.update(new)
                pending += new
        spend(len(reached))
        return reached


def read_pattern(source: str) -> Pattern | None:
    """A pattern; None if it is beyond what is checked."""
    try:
        return Pattern(source)
    except _UnsupportedError:
        return None
