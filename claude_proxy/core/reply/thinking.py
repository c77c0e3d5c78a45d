"""Thinking in a reply: in tags, in channels, or with an opening tag that stood in the prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from claude_proxy.core.calls.tags import BLOCK_TAG
from claude_proxy.core.reply.lookahead import AheadOfAny
from claude_proxy.core.reply.quoting import in_inline_code

_NAME = r"(?:think(?:ing)?|thought|reasoning)"
# Thinking in tags, wherever it stands.
_OPENINGS = (
    re.compile(rf"<\s?(?:\w{{1,20}}:)?{_NAME}\s?>", re.IGNORECASE),
    re.compile(r"\[THINK\]", re.IGNORECASE),
)
_CLOSINGS = (
    re.compile(rf"</\s?(?:\w{{1,20}}:)?{_NAME}\s?>", re.IGNORECASE),
    re.compile(r"\[/THINK\]", re.IGNORECASE),
)
# The first tag of a reply whose opening tag stood in the prompt: then all before it is thinking. It begins a line or
# ends one, or the answer follows at once; anywhere else the tag is only mentioned.
_LONE_CLOSING = re.compile(
    rf"</(?:(?<=^</){_NAME}>|{_NAME}>(?=[ \t]*(?:\n|\Z)|[A-Za-z<{{\[]))", re.IGNORECASE | re.MULTILINE
)
# gpt-oss speaks in channels: `analysis` is thinking, what is said in the others is for the user.
_ANALYSIS = re.compile(
    r"\s*(?:(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>|<\|channel>thought\s)"
    r"(.*?)(?:<\|end\|>|<channel\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Thought:
    """A stretch of thinking, its tags included."""

    start: int
    end: int
    text: str


def split_analysis(text: str) -> tuple[list[str], str]:
    """The thoughts in channels that a reply begins with, and the rest of it."""
    thoughts: list[str] = []
    start = 0
    while analysis := _ANALYSIS.match(text, start):
        thoughts.append(analysis[1])
        start = analysis.end()
    return thoughts, text[start:]


def find_lone_closing(text: str) -> re.Match[str] | None:
    """The tag that closes the thinking that a reply begins with, if its opening tag is missing."""
    closing = _LONE_CLOSING.search(text)
    return None if closing and any(each.search(text, 0, closing.start()) for each in _OPENINGS) else closing


class Thoughts:
    """The thinking in tags in a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._openings = AheadOfAny(_OPENINGS, text)
        self._closings = AheadOfAny(_CLOSINGS, text)

    def next_opening(self, position: int) -> int:
        """Where, from a position on, thinking may begin next; the end of the text where it does not."""
        return self._openings.start(position)

    def in_line(self, start: int, end: int) -> Thought | None:
        """The stretch of thinking that begins in a line, outside inline code."""
        opening = self._openings.match(start)
        if not opening or opening.end() > end or in_inline_code(self._text, start, opening.start()):
            return None
        closing = self._closings.match(opening.end())
        if not closing:
            starts_line = not self._text[start : opening.start()].strip()
            hides_calls = self._last_block >= opening.end()
            if not starts_line and not hides_calls:
                return None
            return Thought(opening.start(), len(self._text), self._text[opening.end() :])
        # Thinking about thinking: a further closing tag without an opening one belongs to it.
        while further := self._closings.match(closing.end()):
            if self._openings.start(closing.end()) < further.start() or self._last_tag < closing.end():
                break
            closing = further
        return Thought(opening.start(), closing.end(), self._text[opening.end() : closing.start()])

    @cached_property
    def _last_tag(self) -> int:
        """Where the last line begins with a tag, its newline included."""
        return self._text.rfind("\n<")

    @cached_property
    def _last_block(self) -> int:
        return self._text.rfind(BLOCK_TAG)
