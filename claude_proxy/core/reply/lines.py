"""The lines of a reply in which something may begin; those that are nothing but prose are passed over."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from claude_proxy.core.reply.inventions import CHAT_TOKENS, RESULT, RESULT_AFTER_CALL, TURN
from claude_proxy.core.reply.lookahead import Ahead, AheadOfAny
from claude_proxy.core.reply.quoting import (
    BARE_FENCE,
    FENCE,
    MARKUP_ENDS,
    OPENING_FENCE,
    QUOTING_MARKUP,
    fence_at_end,
)
from claude_proxy.core.reply.thinking import Thoughts

_END_OF_LINE = re.compile(r"\n(?:\s*(?=\n)\n?)?")
# A line that neither begins with the first of these nor ends with the second, and has no chat token, no thinking and
# no call, is nothing but prose.
_TELLING_START = re.compile(
    rf"\n(?:{FENCE}|(?i:{QUOTING_MARKUP.pattern}|{RESULT.pattern}|{RESULT_AFTER_CALL.pattern})|{TURN.pattern})"
)
_TELLING_END = re.compile(r"`(?<!``)``+[\w+-]*[ \t]*\n")


class Line(NamedTuple):
    """A line of prose, or the rest of one behind what has been read of it.

    Attributes:
        start: where it begins.
        end: where the next one begins that is not blank.
        fence: the marks of the code fence that it opens.
        fence_start: where they stand.
    """

    start: int
    end: int
    fence: str
    fence_start: int


class Lines:
    """The lines of a text, with what may begin in them but calls.

    Attributes:
        chat_tokens: where a chat template's token begins the client's turn.
        thoughts: the thinking in the text.
    """

    def __init__(self, text: str) -> None:
        self.chat_tokens = AheadOfAny(CHAT_TOKENS, text)
        self.thoughts = Thoughts(text)
        self._text = text
        self._ends = Ahead(_END_OF_LINE, text)
        lines = f"\n{text}"  # each line behind a newline, which stands here where the line begins in the text
        self._telling_starts = Ahead(_TELLING_START, lines)
        self._telling_ends = Ahead(_TELLING_END, text)
        self._bare_fences = Ahead(BARE_FENCE, lines)
        self._markup_ends = {name: Ahead(end, text) for name, end in MARKUP_ENDS.items()}

    def line_from(self, position: int, next_call: Callable[[int], int]) -> Line | None:
        """The next line in which something may begin: the one in which the position stands, if it is not its start.

        Args:
            position: where to look from.
            next_call: where, from a position on, calls may begin next; the end of the text where they do not.
        """
        if position == 0 or self._text[position - 1] == "\n":
            telling = min(
                self._telling_starts.start(position),
                self._telling_ends.start(position),
                self.chat_tokens.start(position),
                self.thoughts.next_opening(position),
                next_call(position),
            )
            if telling == len(self._text):
                return None
            position = max(position, self._text.rfind("\n", position, telling) + 1)
        elif position == len(self._text):
            return None
        fence = OPENING_FENCE.match(self._text, position)
        marks, at = (fence["fence"], fence.start("fence")) if fence else ("", position)
        return Line(position, self._end_of_line(position), marks, at)

    def end_of_fence(self, line: Line, position: int) -> int:
        """Where to read on behind a line: at the position, or behind the code fence that the line opens."""
        marks = line.fence or fence_at_end(self._text, line.start, line.end)
        if not marks:
            return position
        while closing := self._bare_fences.match(position):
            position = self._end_of_line(closing.end() - 1)  # without the newline before the first line
            if closing["fence"].startswith(marks):
                return position
        return len(self._text)

    def end_of_quote(self, line: Line) -> int | None:
        """Where the line ends in which the markup is closed that a line begins to quote in; 0 where it never is.

        Returns:
            None where the line does not begin with such markup.
        """
        markup = QUOTING_MARKUP.match(self._text, line.start)
        if not markup:
            return None
        closing = self._markup_ends[markup[1].lower()].match(markup.end())
        return self._text.find("\n", closing.start()) + 1 or len(self._text) if closing else 0

    def _end_of_line(self, position: int) -> int:
        end = self._ends.match(position)
        return end.end() if end else len(self._text)
