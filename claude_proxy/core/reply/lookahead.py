"""Where patterns match next in a text, found without going through the text again for each position."""

from __future__ import annotations

import re


class Ahead:
    """Where any of several patterns matches next, none of which can match where another does.

    A match is the answer for all positions between the one that was asked for and its start, and that there is none is
    the answer for all that follow. So each pattern goes through the text once, as long as positions grow. There may be
    several, because Python looks far faster for patterns that each begin with a certain character than for one that may
    begin with any of them.
    """

    def __init__(self, text: str, *patterns: re.Pattern[str]) -> None:
        self._text = text
        self._patterns = patterns
        self._matches: list[re.Match[str] | None] = []
        self._first: re.Match[str] | None = None
        self._asked, self._start = len(text) + 1, -1  # the first match is the same for all positions between them

    def match(self, position: int) -> re.Match[str] | None:
        """The first match from a position on."""
        if not self._asked <= position <= self._start:
            self._look_from(position)
        return self._first

    def start(self, position: int) -> int:
        """Where the first match from a position on begins; the end of the text where there is none."""
        if not self._asked <= position <= self._start:
            self._look_from(position)
        return self._start

    def _look_from(self, position: int) -> None:
        if position < self._asked:
            self._matches = [pattern.search(self._text, position) for pattern in self._patterns]
        else:
            for index, match in enumerate(self._matches):
                if match and match.start() < position:
                    self._matches[index] = self._patterns[index].search(self._text, position)
        self._first = min((match for match in self._matches if match), key=lambda match: match.start(), default=None)
        self._asked, self._start = position, self._first.start() if self._first else len(self._text)
