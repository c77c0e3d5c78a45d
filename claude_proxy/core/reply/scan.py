"""A reply gone through line by line: which calls count, what is thinking, and where the reply proper ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from claude_proxy.core.calls.call import CallBlock
from claude_proxy.core.calls.reader import Reader
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import Tool
from claude_proxy.core.reply.finders import Attempt, CanonicalFinder, DialectFinder, Finder
from claude_proxy.core.reply.inventions import TURN, is_invented
from claude_proxy.core.reply.lines import Line, Lines
from claude_proxy.core.reply.thinking import Thought


@dataclass(frozen=True)
class Found:
    """What was found in a reply.

    Attributes:
        parts: calls that count, and thoughts; the prose is between them.
        end: where the reply proper ends: at an invented result or turn, if there is one.
        defect: what is wrong with a call that could not be read.
    """

    parts: tuple[CallBlock | Thought, ...]
    end: int
    defect: str | None = None

    @property
    def blocks(self) -> list[CallBlock]:
        """The stretches of calls."""
        return [part for part in self.parts if isinstance(part, CallBlock)]


@dataclass(frozen=True)
class Patience:
    """How many attempts may be in vain, and how much text they may read; with more, time would outgrow the text."""

    attempts: int = 32
    characters: int = 2_000_000

    def after(self, wasted: int) -> Patience:
        """What is left of it after an attempt that was in vain."""
        left = self.characters - wasted
        return Patience(self.attempts - 1 if left > 0 else 0, left)


@dataclass(frozen=True)
class _Looked:
    """What the attempts so far have come to: see `Attempt`."""

    patience: Patience
    refused: int = 0
    defect: str | None = None

    def after(self, attempt: Attempt) -> _Looked:
        return _Looked(
            self.patience if attempt.wasted is None else self.patience.after(attempt.wasted),
            self.refused if attempt.refused is None else attempt.refused,
            attempt.defect or self.defect,
        )


def find_parts(
    text: str,
    tools: Mapping[str, Tool],
    vocabulary: Vocabulary | None = None,
    *,
    cut: bool,
    patience: Patience = Patience(),
) -> Found:
    """Find canonical calls, and only if there is none those in other dialects; and thinking.

    Args:
        text: the reply.
        tools: the tools that may be called, by name; none, and no calls are looked for.
        vocabulary: that of the tools, if it is known already.
        cut: whether the reply is known to have been cut off.
        patience: how much may be read in vain.
    """
    if not tools:
        return _scan(text, None, patience)
    reader = Reader(text, tools, cut=cut, vocabulary=vocabulary)
    others = DialectFinder(text, tools)
    if reader.openings:
        found = _scan(text, CanonicalFinder(text, tools, reader), patience)
        if found.blocks or found.defect:
            return _around(text, others, found, patience) or found
    return _scan(text, others, patience)


def _around(text: str, finder: DialectFinder, found: Found, patience: Patience) -> Found | None:
    """The calls in another dialect if the canonical one stands in a value of theirs, such as in a file about calls."""
    first = min((block.start for block in found.blocks), default=len(text))
    if finder.next_opening(0) >= first:
        return None
    others = _scan(text, finder, patience)
    encloses = any(block.start < first < block.end for block in others.blocks)
    return others if encloses else None


def _scan(text: str, finder: Finder | None, patience: Patience) -> Found:
    lines = Lines(text)
    parts: list[CallBlock | Thought] = []
    looked = _Looked(patience)
    position, called = 0, False
    last_answer = text.rfind("\nAssistant:")
    turn: int | None = None  # where the first line begins that looks like somebody's turn

    def next_call(position: int) -> int:
        return finder.next_opening(position) if finder and looked.patience.attempts else len(text)

    while line := lines.line_from(position, next_call):
        position = line.end
        if finder and (token := lines.chat_tokens.start(line.start)) < line.end:
            return Found(tuple(parts), token, looked.defect)
        if finder and is_invented(text, line.start, called=called, last_answer=last_answer):
            return Found(tuple(parts), line.start, looked.defect)
        if (end_of_quote := lines.end_of_quote(line)) is not None:
            position = end_of_quote or position
            continue
        part, looked = _first_part(lines, finder, line, next_call, looked)
        if part is None:
            turn = line.start if turn is None and line.start and TURN.match(text, line.start) else turn
            position = lines.end_of_fence(line, max(position, looked.refused))
            continue
        if isinstance(part, CallBlock):
            if turn is not None and not called:  # the model has invented a turn, and goes on from there
                return Found(tuple(parts), turn, looked.defect)
            called = called or bool(part.calls)
        parts.append(part)
        position = part.end
    return Found(tuple(parts), len(text), looked.defect)


def _first_part(
    lines: Lines, finder: Finder | None, line: Line, next_call: Callable[[int], int], looked: _Looked
) -> tuple[CallBlock | Thought | None, _Looked]:
    """The calls or the thinking that begin in a line, whichever are first: either may speak of the other."""
    thinks_first = lines.thoughts.next_opening(line.start) <= next_call(line.start)
    if thinks_first and (thought := lines.thoughts.in_line(line.start, line.end)):
        return thought, looked
    block: CallBlock | None = None
    if finder:
        block, looked = _look(finder.in_fence(line) if line.fence else finder.in_line(line), looked)
    return block or (None if thinks_first else lines.thoughts.in_line(line.start, line.end)), looked


def _look(attempts: Iterator[Attempt], looked: _Looked) -> tuple[CallBlock | None, _Looked]:
    """The calls that the first attempt brings that is not in vain, as long as there is patience."""
    while looked.patience.attempts and (attempt := next(attempts, None)):
        if attempt.block:
            return attempt.block, looked
        looked = looked.after(attempt)
    return None, looked


def without_last_call(found: Found, end: int) -> Found:
    """What is certain of a reply that is known to have been cut off: its calls without the last one.

    The tags that seem to end that call may as well stand in a value of it, whose rest was cut off; nothing in the text
    tells. So nothing behind it counts, either.
    """
    for index, part in enumerate(found.parts):
        if isinstance(part, CallBlock) and not part.truncated:
            block = replace(part, calls=part.calls[:-1], end=end, truncated=True)
            return replace(found, parts=(*found.parts[:index], block))
    return found
