r"""The regular expressions of `pattern`, as far as the real API takes them, on a matcher that cannot backtrack.

The API documents anchors, the quantifiers `*`, `+`, `?` and small `{n,m}`, classes (`[]`, `.`, `\d`, `\w`, `\s`) and
groups. Alternatives and escaped characters are read too. A pattern that uses anything else of ECMAScript's (lookaround,
references to groups, `\b`, properties, flags) is not checked.

Patterns come from strangers, so no way through a text is tried and taken back: each part of a pattern turns the set of
places where it may begin into the set of those where it may end. Python's own `re` only says what one character may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from claude_proxy.core.expressions import expression

_MAX_SIZE = 1000
_MAX_GROUP_DEPTH = 20


Matcher: TypeAlias = Callable[[str, Callable[[int], None]], bool]
"""Whether a text matches; the second argument is told of the steps before they are taken, and may raise."""


class _UnsupportedError(ValueError):
    """The pattern is malformed, or beyond what is read here."""


_ESCAPE = r"\\(?:[dDwWsStnvfr]|x[0-9A-Fa-f]{2}|u(?![Dd][89A-Fa-f])[0-9A-Fa-f]{4}|[^0-9A-Za-z])"
_MEMBER = expression(rf"{_ESCAPE}|[^\\\]]", re.DOTALL)
_TOKEN = expression(
    rf"(?P<one>\[\^?(?:{_ESCAPE}|[^\\\]])+\]|{_ESCAPE}|[^\\\[\](){{}}|^$*+?])"
    r"|(?P<group>\((?:\?:|(?!\?)))|(?P<close>\))|(?P<or>\|)|(?P<place>[\^$])"
    r"|(?P<times>(?:[*+?]|\{(?P<least>[0-9]{1,3})(?P<comma>,?)(?P<most>[0-9]{0,3})\})\??)",
    re.DOTALL,
)
# ECMAScript's white space. It begins and ends with a class, so that a dash beside it is an error, never a range.
_SPACE = r"\s\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff\s"
_CLASSES = {".": r"[^\n\r\u2028\u2029]", r"\S": r"[^\s]"}  # those that Python reads otherwise


def _one_of(token: str) -> re.Pattern[str]:
    """What one character may be, given a class, an escape or the character itself."""
    token = _CLASSES.get(token, token)
    negated = token.startswith("[^")
    members = token[1 + negated : -1] if token.startswith("[") else token
    if "--" in members or (negated and r"\S" in members):  # what these are to Python they are not to ECMAScript
        raise _UnsupportedError
    written = _MEMBER.sub(lambda match: _in_python(match[0]), members)
    try:
        return re.compile(f"[{'^' if negated else ''}{written}]", re.ASCII)
    except re.error:
        raise _UnsupportedError from None


def _in_python(member: str) -> str:
    return _SPACE if member == r"\s" else f"\\{member}" if member in "^[&~|" else member


class _Text(NamedTuple):
    text: str
    spend: Callable[[int], None]


_Ends: TypeAlias = Callable[[_Text, set[int]], set[int]]
"""Where a part of a pattern may end in a text, given where it may begin."""


class _Part(NamedTuple):
    size: int  # the characters that it asks for, as if each unlimited repetition were none
    ends: _Ends


def _part(size: int, ends: _Ends) -> _Part:
    if size > _MAX_SIZE:
        raise _UnsupportedError
    return _Part(size, ends)


def _character(wanted: re.Pattern[str]) -> _Part:
    def ends(at: _Text, starts: set[int]) -> set[int]:
        at.spend(1 + len(starts))
        return {start + 1 for start in starts if wanted.match(at.text, start)}

    return _part(1, ends)


def _place(sign: str) -> _Part:
    def ends(at: _Text, starts: set[int]) -> set[int]:
        at.spend(1)
        return starts & {0 if sign == "^" else len(at.text)}

    return _part(1, ends)


def _choice(options: list[list[_Part]]) -> _Part:
    def ends(at: _Text, starts: set[int]) -> set[int]:
        found: set[int] = set()
        for option in options:
            reached = starts
            for part in option:
                reached = part.ends(at, reached)
            found |= reached
        return found

    return _part(1 + sum(part.size for option in options for part in option), ends)


def _repeated(part: _Part, times: re.Match[str]) -> _Part:
    if times["least"]:
        least = int(times["least"])
        most = int(times["most"]) if times["most"] else math.inf if times["comma"] else least
    else:
        least, most = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}[times[0][0]]
    if most < least:
        raise _UnsupportedError

    def ends(at: _Text, starts: set[int]) -> set[int]:
        for _ in range(least):
            starts = part.ends(at, starts)
        reached, new, done = set(starts), starts, least
        while new and done < most:
            new = part.ends(at, new) - reached  # what was reached before has gone on from there already
            reached |= new
            done += 1
        return reached

    return _part(part.size * (max(1, least) if most == math.inf else int(most)), ends)


def _read(tokens: list[re.Match[str]], depth: int = 0) -> _Part:
    """What stands up to the end of a group or of the pattern; `tokens` are taken from, the last one first."""
    if depth > _MAX_GROUP_DEPTH:
        raise _UnsupportedError
    options: list[list[_Part]] = [[]]
    last = None
    while tokens and tokens[-1].lastgroup != "close":
        token = tokens.pop()
        match token.lastgroup:
            case "or":
                options.append([])
            case "place":
                options[-1].append(_place(token[0]))
            case "times" if last in {"group", "one"}:
                options[-1].append(_repeated(options[-1].pop(), token))
            case "group":
                options[-1].append(_read(tokens, depth + 1))
                if not tokens:
                    raise _UnsupportedError
                tokens.pop()
            case "one":
                options[-1].append(_character(_one_of(token[0])))
            case _:
                raise _UnsupportedError  # a quantifier without anything to repeat
        last = token.lastgroup
    return _choice(options)


def read_pattern(source: str) -> Matcher | None:
    """What tells whether a text matches a pattern anywhere; None if the pattern is beyond what is checked."""
    tokens: list[re.Match[str]] = []
    while (position := tokens[-1].end() if tokens else 0) < len(source):
        if not (token := _TOKEN.match(source, position)):
            return None
        tokens.append(token)
    tokens.reverse()
    try:
        whole = _read(tokens)
    except _UnsupportedError:
        return None

    def matches(text: str, spend: Callable[[int], None]) -> bool:
        spend(len(text))
        return bool(whole.ends(_Text(text, spend), set(range(len(text) + 1))))

    return None if tokens else matches
