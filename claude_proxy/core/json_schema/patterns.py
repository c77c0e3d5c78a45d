"""ECMAScript's regular expressions on a matcher that cannot backtrack.

A schema's `pattern` comes from a stranger and is run on a model's text, so its time must be bounded by the one times
the other: the matcher tracks all ways to match at once. It knows everything but backreferences, properties of
characters other than the general category, and flags.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

_MAX_PATTERN_SIZE = 20_000  # of all patterns of a schema, with repetitions written out
_MAX_GROUP_DEPTH = 20


# --- reading ----------------------------------------------------------------------------------------------------------


class PatternError(ValueError):
    """The pattern is no regular expression of ECMAScript, or one that is not supported."""


class _Characters(NamedTuple):
    """A set of characters: ranges of code points and general categories, or all but those."""

    ranges: tuple[tuple[int, int], ...] = ()
    categories: tuple[tuple[str, bool], ...] = ()  # the beginning of the category's name, and whether it is meant
    negated: bool = False

    def holds(self, character: str) -> bool:
        point = ord(character)
        return self.negated != (
            any(first <= point <= last for first, last in self.ranges)
            or any(unicodedata.category(character).startswith(prefix) is meant for prefix, meant in self.categories)
        )


class _Sequence(NamedTuple):
    parts: list[_Node]


class _Choice(NamedTuple):
    options: list[_Node]


class _Repeat(NamedTuple):
    body: _Node
    least: int
    most: int | None


class _At(NamedTuple):
    """A place between two characters: `^`, `$`, `b` or `B`."""

    place: str


class _Look(NamedTuple):
    body: _Node
    behind: bool
    negated: bool


_Node: TypeAlias = _Characters | _Sequence | _Choice | _Repeat | _At | _Look


def _complement(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    ends = [-1, *(point for pair in ranges for point in pair), 0x110000]
    return tuple((last + 1, first - 1) for last, first in zip(ends[::2], ends[1::2], strict=True) if last + 1 < first)


_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_SPACES = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_CLASSES: Final[Mapping[str, _Characters]] = {
    "d": _Characters(_DIGITS),
    "D": _Characters(_complement(_DIGITS)),
    "w": _Characters(_WORD),
    "W": _Characters(_complement(_WORD)),
    "s": _Characters(_SPACES),
    "S": _Characters(_complement(_SPACES)),
}
_CONTROLS: Final = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_CATEGORIES = frozenset(
    {
        *("C", "Cc", "Cf", "Cn", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd"),
        *("Nl", "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp"),
        "Zs",
    }
)
_LONG_CATEGORIES: Final = {
    "Letter": "L",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Mark": "M",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Punctuation": "P",
    "punct": "P",
    "Symbol": "S",
    "Separator": "Z",
}
_GROUPS: Final = (("(?:", None), ("(?=", (False, False)), ("(?!", (False, True)))
_LOOKS_BEHIND: Final = (("(?<=", (True, False)), ("(?<!", (True, True)))
_QUANTIFIER = re.compile(r"(?:([*+?])|\{([0-9]{1,6})(?:(,)([0-9]{1,6})?)?\})\??")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_CONTROL = re.compile(r"c([A-Za-z])|0(?![0-9])")
_LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
_NAMED_GROUP = re.compile(r"\(\?<[A-Za-z_$][\w$]*>")
_PROPERTY = re.compile(r"([pP])\{(?:(?:gc|General_Category)=)?(\w+)\}", re.ASCII)


class _Reader:
    """Reads an ECMAScript regular expression, as with the flag `u` but for needless escapes and lone braces."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._position = 0
        self._depth = 0

    def read(self) -> _Node:
        node = self._choice()
        if self._position < len(self._source):
            raise PatternError("a `)` has no `(`")
        return node

    def _next(self, literal: str) -> bool:
        """Whether some text comes next, which is then passed."""
        if self._source.startswith(literal, self._position):
            self._position += len(literal)
            return True
        return False

    def _match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        match = expression.match(self._source, self._position)
        if match:
            self._position = match.end()
        return match

    def _character(self) -> str:
        if self._position >= len(self._source):
            raise PatternError("it ends too early")
        self._position += 1
        return self._source[self._position - 1]

    def _choice(self) -> _Node:
        options = [self._sequence()]
        while self._next("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(options)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._position < len(self._source) and self._source[self._position] not in "|)":
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(parts)

    def _quantified(self, atom: _Node) -> _Node:
        match = self._match(_QUANTIFIER)
        if not match:
            return atom
        if isinstance(atom, _At | _Look):
            raise PatternError(f"`{match[0]}` has nothing to repeat")
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(match[1]) or _bounds(*match.group(2, 3, 4))
        if most is not None and most < least:
            raise PatternError(f"`{match[0]}` is out of order")
        return _Repeat(atom, least, most)

    def _atom(self) -> _Node:
        if self._source[self._position] == "(":
            return self._group()
        if self._match(_QUANTIFIER):
            raise PatternError("a quantifier has nothing to repeat")
        character = self._character()
        match character:
            case "^" | "$":
                return _At(character)
            case ".":
                return _Characters(_LINE_ENDS, negated=True)
            case "[":
                return self._class()
            case "\\" if self._next("b"):
                return _At("b")
            case "\\" if self._next("B"):
                return _At("B")
            case "\\":
                return _as_set(self._escape())
            case _:
                return _as_set(character)

    def _group(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_GROUP_DEPTH:
            raise PatternError(f"its groups are nested more than {_MAX_GROUP_DEPTH} deep")
        look = self._opening()
        body = self._choice()
        if not self._next(")"):
            raise PatternError("a `(` has no `)`")
        self._depth -= 1
        return _Look(body, *look) if look else body

    def _opening(self) -> tuple[bool, bool] | None:
        """Pass the beginning of a group; for one that looks around, whether behind, and whether for absence."""
        for opening, look in (*_GROUPS, *_LOOKS_BEHIND):
            if self._next(opening):
                return look
        if not self._match(_NAMED_GROUP):
            self._next("(")
            if self._next("?"):
                raise PatternError("a group begins with `(?` in a way that is not supported")
        return None

    def _class(self) -> _Characters:
        negated = self._next("^")
        ranges: list[tuple[int, int]] = []
        categories: list[tuple[str, bool]] = []
        while not self._next("]"):
            first = self._class_member()
            if isinstance(first, _Characters):
                ranges += first.ranges
                categories += first.categories
                continue
            last: str | _Characters = first
            if self._source.startswith("-", self._position) and not self._source.startswith("-]", self._position):
                self._position += 1
                last = self._class_member()
            if isinstance(last, _Characters) or last < first:
                raise PatternError("a range of characters is out of order")
            ranges.append((ord(first), ord(last)))
        return _Characters(tuple(ranges), tuple(categories), negated)

    def _class_member(self) -> str | _Characters:
        if not self._next("\\"):
            return self._character()
        return "\b" if self._next("b") else self._escape()

    def _escape(self) -> str | _Characters:
        """What follows a backslash: one character, or a set of them."""
        if match := self._match(_HEX):
            return self._code_point(int(match[1] or match[2] or match[3], 16))
        if match := self._match(_CONTROL):
            return chr(ord(match[1]) % 32) if match[1] else "\0"
        if match := self._match(_PROPERTY):
            name = _LONG_CATEGORIES.get(match[2], match[2])
            if name not in _CATEGORIES:
                raise PatternError(f"the property `\\{match[0]}` is not supported, only general categories are")
            return _Characters((), ((name, match[1] == "p"),))
        character = self._character()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character in "123456789k":
            raise PatternError(f"backreferences (`\\{character}`) are not supported")
        if character.isascii() and character.isalnum():
            raise PatternError(f"`\\{character}` means nothing in ECMAScript")
        return character

    def _code_point(self, point: int) -> str:
        if 0xD800 <= point < 0xDC00 and (low := self._match(_LOW_SURROGATE)):
            point = 0x10000 + ((point - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if point > 0x10FFFF:
            raise PatternError("an escape is no character")
        return chr(point)


def _bounds(least: str, comma: str | None, most: str | None) -> tuple[int, int | None]:
    return int(least), int(most) if most else None if comma else int(least)


def _as_set(found: str | _Characters) -> _Characters:
    return found if isinstance(found, _Characters) else _Characters(((ord(found), ord(found)),))


# --- matching ---------------------------------------------------------------------------------------------------------


class _Split(NamedTuple):
    """Go on at both places."""

    first: int
    second: int


class _LookAround(NamedTuple):
    """Look around, with the program that begins at the next step; go on after it."""

    behind: bool
    negated: bool
    after: int


class _Found(NamedTuple):
    """The end of the pattern, or of what is looked for around a place."""


_Step: TypeAlias = _Characters | _At | _Split | _LookAround | _Found
Program: TypeAlias = list[_Step]
"""A pattern, compiled."""


class Compiler:
    """Writes patterns as programs, with their repetitions written out, until it runs out of room."""

    def __init__(self) -> None:
        self._room = _MAX_PATTERN_SIZE
        self._steps: list[_Step] = []

    def compile(self, source: str) -> Program:
        """Compile one pattern.

        Raises:
            PatternError: it is no regular expression, or it asks for something that is not supported.
        """
        self._steps = []
        self._emit(_Reader(source).read())
        self._steps.append(_Found())
        return self._steps

    def _emit(self, node: _Node) -> None:
        self._room -= 1
        if self._room < 0:
            raise PatternError(f"the patterns of the schema are too large ({_MAX_PATTERN_SIZE} steps are allowed)")
        match node:
            case _Characters() | _At():
                self._steps.append(node)
            case _Sequence(parts):
                for part in parts:
                    self._emit(part)
            case _Choice(options):
                self._emit_choice(options)
            case _Repeat(body, least, most):
                self._emit_repeat(body, least, most)
            case _Look(body, behind, negated):
                place = self._reserve()
                self._emit(body)
                self._steps.append(_Found())
                self._steps[place] = _LookAround(behind, negated, len(self._steps))

    def _reserve(self) -> int:
        self._steps.append(_Found())
        return len(self._steps) - 1

    def _emit_choice(self, options: list[_Node]) -> None:
        exits = []
        for option in options[:-1]:
            place = self._reserve()
            self._emit(option)
            exits.append(self._reserve())
            self._steps[place] = _Split(place + 1, len(self._steps))
        self._emit(options[-1])
        for place in exits:
            self._steps[place] = _Split(len(self._steps), len(self._steps))

    def _emit_repeat(self, body: _Node, least: int, most: int | None) -> None:
        for _ in range(least):
            self._emit(body)
        if most is None:
            place = self._reserve()
            self._emit(body)
            self._steps.append(_Split(place, place))
            self._steps[place] = _Split(place + 1, len(self._steps))
            return
        places = []
        for _ in range(most - least):
            places.append(self._reserve())
            self._emit(body)
        for place in places:
            self._steps[place] = _Split(place + 1, len(self._steps))


class Matcher:
    """Looks for a pattern in a text, in steps that grow with the one times the other.

    At each place of the text stands the set of steps that may come next. Looking ahead begins anew at each place, so
    patterns that do it everywhere take longer.
    """

    def __init__(self, program: Program, text: str, spend: Callable[[int], None]) -> None:
        self._program = program
        self._text = text
        self._spend = spend
        self._ends: dict[int, frozenset[int]] = {}
        self._ahead: dict[tuple[int, int], bool] = {}

    def search(self) -> bool:
        """Whether the pattern matches anywhere."""
        return any(True for _ in self._matches(0, 0, anywhere=True))

    def _matches(self, start: int, position: int, *, anywhere: bool) -> Iterator[int]:
        """The places where a match ends that begins at one place, or at that or any later one."""
        steps: list[int] = [start]
        for place in range(position, len(self._text) + 1):
            waiting, found = self._follow(steps, place)
            if found:
                yield place
            if place == len(self._text):
                return
            character = self._text[place]
            steps = [step + 1 for step in waiting if self._characters(step).holds(character)]
            if anywhere:
                steps.append(start)
            elif not steps:
                return

    def _characters(self, step: int) -> _Characters:
        found = self._program[step]
        return found if isinstance(found, _Characters) else _Characters()

    def _follow(self, steps: list[int], place: int) -> tuple[list[int], bool]:
        """Go on as far as no character is needed: the steps that wait for one, and whether the end was reached."""
        waiting = []
        found = False
        pending = steps
        seen = set(steps)
        while pending:
            number = pending.pop()
            step = self._program[number]
            following: tuple[int, ...] = ()
            match step:
                case _Characters():
                    waiting.append(number)
                case _Found():
                    found = True
                case _Split(first, second):
                    following = (first, second)
                case _At():
                    following = (number + 1,) if self._is_at(step.place, place) else ()
                case _LookAround():
                    following = (step.after,) if self._looks(step, number + 1, place) else ()
            for number in following:
                if number not in seen:
                    seen.add(number)
                    pending.append(number)
        self._spend(len(seen))
        return waiting, found

    def _is_at(self, kind: str, place: int) -> bool:
        match kind:
            case "^":
                return place == 0
            case "$":
                return place == len(self._text)
            case _:
                return (self._is_word(place - 1) != self._is_word(place)) == (kind == "b")

    def _is_word(self, place: int) -> bool:
        return 0 <= place < len(self._text) and _CLASSES["w"].holds(self._text[place])

    def _looks(self, look: _LookAround, start: int, place: int) -> bool:
        if look.behind:
            if start not in self._ends:
                self._ends[start] = frozenset(self._matches(start, 0, anywhere=True))
            return (place in self._ends[start]) != look.negated
        if (start, place) not in self._ahead:
            self._ahead[start, place] = any(True for _ in self._matches(start, place, anywhere=False))
        return self._ahead[start, place] != look.negated
