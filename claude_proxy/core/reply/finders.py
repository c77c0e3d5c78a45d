"""Where in a reply calls stand: a finder for the canonical notation, and one for all other dialects.

A finder looks at a line and yields the results of its attempts to read calls there, until one succeeds. It remembers
nothing between lines; `scan` adds the results up.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from claude_proxy.core.calls import dialects
from claude_proxy.core.calls.arguments import fit_arguments
from claude_proxy.core.calls.call import Call, CallBlock
from claude_proxy.core.calls.reader import Reader
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.json_schema.types import required
from claude_proxy.core.reply.lines import RESULT_FOLLOWS, Line, end_of_inline_code, in_inline_code
from claude_proxy.core.reply.lookahead import Ahead

_TAIL = re.compile(rf"\s*+(?:\Z|{RESULT_FOLLOWS})")
_TAIL_OF_FENCE = re.compile(rf"\s*+(?:`{{3,}}|~{{3,}})?\s*+(?:\Z|{RESULT_FOLLOWS})")
_NOT_BLANK = re.compile(r"\S|\Z")


@dataclass(frozen=True)
class Attempt:
    """The result of an attempt to read calls.

    Attributes:
        block: the calls, if they count.
        wasted: how many characters were read in vain; None where nothing was read.
        refused: up to where calls have been read that do not count, so that nothing that stands in them does, either.
        defect: what is wrong with a call that was plainly meant.
    """

    block: CallBlock | None = None
    wasted: int | None = None
    refused: int | None = None
    defect: str | None = None


class CanonicalFinder:
    """Finds calls in the canonical notation."""

    def __init__(self, text: str, words: Vocabulary, reader: Reader) -> None:
        self._text = text
        self._words = words
        self._reader = reader
        self._starts = [reader.tags[opening].start for opening in reader.openings]
        self._words_end = len(text.rstrip())

    def next_opening(self, position: int) -> int:
        """Where, from a position on, calls may begin next; the end of the text where they do not."""
        index = bisect_left(self._starts, position)
        return self._starts[index] if index < len(self._starts) else len(self._text)

    def in_line(self, line: Line, until: int) -> Iterator[Attempt]:
        """Try to read the calls that begin in a line of prose, before `until`.

        At its start; further on only what is whole, no inline code, and ends the reply.
        """
        start = self.next_opening(line.start)
        if start >= until:
            return
        mid_line = bool(self._text[line.start : start].strip())
        if mid_line and in_inline_code(self._text, line.start, start):
            yield Attempt(refused=end_of_inline_code(self._text, start))
            return
        opening = self._opening_at(start)
        block = self._reader.read(opening)
        ends_reply = not block.truncated and block.end >= self._words_end
        if mid_line and not ends_reply:
            refused = block.end if self._reader.calls_at_once(opening) else None
            yield Attempt(wasted=block.end - start, refused=refused)
        else:
            yield self._judge(block)

    def in_fence(self, line: Line) -> Iterator[Attempt]:
        """Try to read the calls in the code fence that a line opens, if the fence is the whole tail of the reply.

        They must stand directly behind its opening, with nothing behind them.
        """
        start = self.next_opening(line.end)
        if start == len(self._text) or _behind_blanks(self._text, line.end) < start:
            return
        block = self._reader.read(self._opening_at(start))
        tail = _TAIL_OF_FENCE.match(self._text, block.end)
        if tail:
            yield self._judge(replace(block, start=line.start, end=tail.end()))
        else:
            yield Attempt(wasted=block.end - block.start)

    def _opening_at(self, start: int) -> int:
        """The index of the tag that stands at a position."""
        return self._reader.openings[bisect_left(self._starts, start)]

    def _judge(self, block: CallBlock) -> Attempt:
        """Whether calls count that stand where calls do."""
        unknown = next((call.name for call in block.calls if not self._words.tool(call.name)), None)
        if unknown:
            return Attempt(
                wasted=block.end - block.start, refused=block.end, defect=_unknown_tool(unknown, self._words)
            )
        # Models end with their calls. Where a reply that was cut off goes on behind them, the tags that seem to end
        # the last one may well stand in a value that the end of the reply cut off.
        if self._reader.cut and not block.truncated and block.end < self._words_end:
            block = block.without_last(len(self._text))
        return Attempt(block)


class DialectFinder:
    """Finds calls in all other dialects."""

    def __init__(self, text: str, words: Vocabulary) -> None:
        self._text = text
        self._words = words
        self._openings = Ahead(f"\n{text}", dialects.OPENING_OF_LINE)
        self._tokens = Ahead(text, *dialects.SPECIAL_TOKENS)

    def next_opening(self, position: int) -> int:
        """As of the other finder: where a line begins with a dialect, or a special token stands."""
        return min(self._openings.start(position), self._tokens.start(position))

    def in_line(self, line: Line, until: int) -> Iterator[Attempt]:
        """As of the other finder: at the start; what could be an ordinary object only if it ends the reply."""
        starts_line = line.start == 0 or self._text[line.start - 1] == "\n"
        if starts_line and self.next_opening(line.start) >= line.end:
            return
        start = min(_behind_blanks(self._text, line.start), line.end)
        certain = dialects.begins(self._text, start, unmistakable=True)
        if not certain:
            start = next(self._special_tokens(line.start, until), start)
        attempt = self._attempt(start)
        block = attempt.block
        if not block or certain or block.truncated or _TAIL.match(self._text, block.end):
            yield attempt

    def _special_tokens(self, position: int, until: int) -> Iterator[int]:
        """Where in a part of a line, outside inline code, a token stands that begins calls."""
        inside = False
        for token in dialects.ANY_SPECIAL_TOKEN.finditer(self._text, position, until):
            inside ^= self._text.count("`", position, token.start()) % 2 == 1
            position = token.start()
            if not inside and dialects.begins(self._text, position, unmistakable=True):
                yield position

    def in_fence(self, line: Line) -> Iterator[Attempt]:
        """As of the other finder: where the fence is the dialect's own, or stands around the calls."""
        for start in (line.fence_start, line.end):
            attempt = self._attempt(start)
            if not attempt.block:
                yield attempt
            elif tail := _TAIL_OF_FENCE.match(self._text, attempt.block.end):
                yield Attempt(replace(attempt.block, start=line.start, end=tail.end()))

    def _attempt(self, start: int) -> Attempt:
        """The attempt to read calls at a position."""
        if not dialects.begins(self._text, start):
            return Attempt()
        block = dialects.read_calls(self._text, start)
        calls = [self._with_arguments(call) for call in block.calls] if block else []
        defect = next((call for call in calls if isinstance(call, str)), None if block else "it could not be read")
        if block and not defect:
            return Attempt(replace(block, calls=tuple(call for call in calls if isinstance(call, Call))))
        wasted = (block.end if block else len(self._text)) - start
        if not dialects.begins(self._text, start, unmistakable=True):
            return Attempt(wasted=wasted)
        return Attempt(wasted=wasted, refused=block.end if block else start, defect=defect)

    def _with_arguments(self, call: Call) -> Call | str:
        """The call, if it means one offered tool and brings what that requires; else what is wrong with it."""
        tool = self._words.tool(call.name)
        if not tool:
            return _unknown_tool(call.name, self._words)
        needed = required(tool.input_schema)
        call = dialects.name_lone_argument(call, needed)
        missing = needed - fit_arguments(call.arguments, tool).keys()
        return f"the call of {tool.name} lacks {', '.join(sorted(missing))}" if missing else call


Finder: TypeAlias = CanonicalFinder | DialectFinder


def _unknown_tool(name: str, words: Vocabulary) -> str:
    shown = ", ".join(tool.name for tool in words.tools.values() if not tool.defer_loading)
    return f"there is no tool named {name!r}; the tools are {shown}"


def _behind_blanks(text: str, position: int) -> int:
    found = _NOT_BLANK.search(text, position)
    return found.start() if found else position
