"""A reply gone through line by line: which calls count, what is thinking, and where the reply proper ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

from claude_proxy.core.calls.call import CallBlock
from claude_proxy.core.calls.reader import Reader
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.reply.finders import Attempt, CanonicalFinder, DialectFinder, Finder
from claude_proxy.core.reply.lines import Line, Lines, Thought

# How many attempts may be in vain, and how much text they may read; with more, time would outgrow the text.
_MOST_ATTEMPTS = 32
_MOST_WASTED = 2_000_000  # characters


@dataclass(frozen=True)
class Found:
    """What was found in a reply."""

    parts: tuple[CallBlock | Thought, ...]  # calls that count, and thoughts; the prose is between them
    end: int  # where the reply proper ends: at an invented result or turn, if there is one
    defect: str | None  # what is wrong with a call that could not be read

    @property
    def blocks(self) -> list[CallBlock]:
        """The stretches of calls."""
        return [part for part in self.parts if isinstance(part, CallBlock)]


def find_parts(text: str, words: Vocabulary, *, cut: bool, most_wasted: int = _MOST_WASTED) -> Found:
    """Find canonical calls, and only if there is none those in other dialects; and thinking.

    Args:
        text: the reply.
        words: of the tools that may be called; if there are none, no calls are looked for.
        cut: whether the reply is known to have been cut off.
        most_wasted: how many characters may be read in vain.
    """
    if not words.tools:
        return _Scan(text, None, most_wasted).run()
    reader = Reader(text, words, cut=cut)
    others = DialectFinder(text, words)
    if reader.openings:
        found = _Scan(text, CanonicalFinder(text, words, reader), most_wasted).run()
        if found.blocks or found.defect:
            # The canonical call may stand in a value of a call in another dialect, such as in a file about calls.
            first = min((block.start for block in found.blocks), default=len(text))
            around = _Scan(text, others, most_wasted).run() if others.next_opening(0) < first else found
            return around if any(block.start < first < block.end for block in around.blocks) else found
    return _Scan(text, others, most_wasted).run()


class _Scan:
    """One pass through a text; it adds up the results of the attempts to read calls, see `Attempt`."""

    def __init__(self, text: str, finder: Finder | None, most_wasted: int) -> None:
        self._text = text
        self._finder = finder
        self._lines = Lines(text)
        self._attempts = _MOST_ATTEMPTS  # that may still be in vain
        self._characters = most_wasted  # that may still be read in vain
        self._refused = 0
        self._defect: str | None = None

    def run(self) -> Found:
        """Go through the text."""
        lines = self._lines
        parts: list[CallBlock | Thought] = []
        position, called = 0, False
        turn: int | None = None  # where the first line begins that looks like somebody's turn
        while line := lines.line_from(position, self._next_call):
            position = line.end
            if self._finder and (invention := lines.invention(line, called=called)) is not None:
                return Found(tuple(parts), invention, self._defect)
            if (end_of_quote := lines.end_of_quote(line)) is not None:
                position = end_of_quote
                continue
            part = self._first_part(line)
            if part is None:
                turn = line.start if turn is None and lines.begins_turn(line) else turn
                position = lines.end_of_fence(line, max(position, self._refused))
                continue
            if isinstance(part, CallBlock):
                if turn is not None and not called:  # the model has invented a turn, and goes on from there
                    return Found(tuple(parts), turn, self._defect)
                called = called or bool(part.calls)
            parts.append(part)
            position = part.end
        return Found(tuple(parts), len(self._text), self._defect)

    def _next_call(self, position: int) -> int:
        return self._finder.next_opening(position) if self._finder and self._attempts else len(self._text)

    def _first_part(self, line: Line) -> CallBlock | Thought | None:
        """The calls or the thinking that begin in a line, whichever are first: either may speak of the other."""
        next_thought = self._lines.next_thought(line.start)
        if next_thought <= self._next_call(line.start):
            return self._lines.thought_in(line) or self._calls_in(line, line.end)
        # Behind a thought the rest of the line is looked at again.
        return self._calls_in(line, min(next_thought, line.end)) or self._lines.thought_in(line)

    def _calls_in(self, line: Line, until: int) -> CallBlock | None:
        if not self._finder:
            return None
        attempts = self._finder.in_fence(line) if line.fence else self._finder.in_line(line, until)
        while self._attempts and (attempt := next(attempts, None)):
            if attempt.block:
                return attempt.block
            self._note(attempt)
        return None

    def _note(self, attempt: Attempt) -> None:
        if attempt.wasted is not None:
            self._characters -= attempt.wasted
            self._attempts = self._attempts - 1 if self._characters > 0 else 0
        self._refused = self._refused if attempt.refused is None else attempt.refused
        self._defect = attempt.defect or self._defect


def without_last_call(found: Found, end: int) -> Found:
    """What is certain of a reply that is known to have been cut off: its calls without the last one.

    The tags that seem to end that call may as well stand in a value of it, whose rest was cut off; nothing in the text
    tells. So nothing behind it counts, either.
    """
    for index, part in enumerate(found.parts):
        if isinstance(part, CallBlock) and not part.truncated:
            return replace(found, parts=(*found.parts[:index], part.without_last(end)))
    return found
