"""Where a pattern matches next in a text, found without going through the text again for each position."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Ahead:
    """Where a pattern matches next.

    A match is the answer for all positions between the one that was asked for and its start, and that there is none is
    the answer for all that follow. So the text is gone through once, however often is asked, as long as positions grow.
    """

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern = pattern
        self._text = text
        self._match: re.Match[str] | None = None
        self._asked, self._start = 0, -1

    def match(self, position: int) -> re.Match[str] | None:
        """The first match from a position on."""
        if not self._asked <= position <= self._start:
            self._match = match = self._pattern.search(self._text, position)
            self._asked, self._start = position, match.start() if match else len(self._text)
        return self._match

    def start(self, position: int) -> int:
        """Where the first match from a position on begins; the end of the text where there is none."""
        if not self._asked <= position <= self._start:
            self.match(position)
        return self._start


class AheadOfAny:
    """Where any of several patterns matches next, none of which can match where another does.

    Python looks far faster for several patterns that each begin with a certain character than for one that may begin
    with any of them.
    """

    def __init__(self, patterns: Iterable[re.Pattern[str]], text: str) -> None:
        self._each = [Ahead(pattern, text) for pattern in patterns]
        self._asked, self._start = 0, -1

    def match(self, position: int) -> re.Match[str] | None:
        """The first match from a position on."""
        first = min(self._each, key=lambda ahead: ahead.start(position))
        return first.match(position)

    def start(self, position: int) -> int:
        """Where the first match from a position on begins; the end of the text where there is none."""
        if not self._asked <= position <= self._start:
            self._asked, self._start = position, min([ahead.start(position) for ahead in self._each])
        return self._start
