"""The lines of a reply, and what may begin in them but calls: fences, quotations, inventions of the model, thinking.

An invention is a result or a turn that only the client could have written. Lines in which nothing may begin are passed
over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from claude_proxy.core.calls.tags import BLOCK_TAG
from claude_proxy.core.reply.lookahead import Ahead

# --- text that is shown instead of meant ------------------------------------------------------------------------------

# A look at what it may begin with spares most lines the slower loop over the marks of lists and quotations before it.
_FENCE = r"[ \t]*(?=[-*+\d>`~])(?:(?:[-*+]|\d{1,3}[.)]|>)[ \t]+)*(?P<fence>`{3,}|~{3,})"
_OPENING_FENCE = re.compile(_FENCE)
_BARE_FENCE = re.compile(rf"\n{_FENCE}[^\S\n]*(?=\n|\Z)")
_FENCE_AT_END = re.compile(r"[^`\n]*[^`\s][^\S\n]*(`{3,})[\w+-]*[ \t]*\n")

_MARKUP = re.compile(r"[ \t]*<(!--|(?:pre|code|example|system-reminder)\b)", re.IGNORECASE)
_MARKUP_ENDS = {
    "!--": re.compile("-->"),
    "pre": re.compile("</pre>"),
    "code": re.compile("</code>"),
    "example": re.compile("</example>"),
    "system-reminder": re.compile("</system-reminder>"),
}

_BACKTICKS = re.compile(r"`+")


def in_inline_code(text: str, start: int, position: int) -> bool:
    """Whether a position in the line that begins at `start` stands between backticks: single ones, or runs of them."""
    return len(_BACKTICKS.findall(text, start, position)) % 2 == 1


def end_of_inline_code(text: str, position: int) -> int:
    """Where the inline code ends in which a position stands: it may go over lines, but not over a blank one."""
    backtick = text.find("`", position)
    blank = text.find("\n\n", position, backtick if backtick >= 0 else len(text))
    return blank if blank >= 0 else max(backtick, position)


# --- inventions -------------------------------------------------------------------------------------------------------

RESULT_FOLLOWS = r"(?=</?(?:tool_result|function_result|tool_response|tool_output)|```tool_output)"
_RESULT = re.compile(
    r"[ \t]*</?(?:tool_results?|function_results?|tool_responses?|tool_outputs?|system_message)\b", re.IGNORECASE
)
_RESULT_AFTER_CALL = re.compile(
    r"[ \t]*(?:</?(?:results?|outputs?|observation|response)>|Observation:|Tool (?:result|output):|<\|im_start\|>"
    r"|```tool_outputs?)",
    re.IGNORECASE,
)
_TURN = re.compile(r"[ \t]*(?:(?:\*\*)?(?:Human|User|Assistant)\b(?:\*\*)?:|#{1,6} (?:Human|User|Assistant)\b)")
_TURN_BEFORE_CALL = re.compile(r"(?:Human|(User)):")
_CHAT_TOKENS = (
    re.compile(
        r"<(?:\|im_start\|>(?:user|tool)|\|start_header_id\|>(?:user|tool|ipython)"
        r"|(?:tool_result|function_results?|tool_response)\b[^<>\n`]*>[ \t]*(?=\n))"
    ),
    re.compile(r"\[INST\]"),
)

# --- thinking ---------------------------------------------------------------------------------------------------------

_NAME = r"(?:think(?:ing)?|thought|reasoning)"
_OPEN_THINKING = (
    re.compile(rf"<\s?(?:\w{{1,20}}:)?{_NAME}\s?>", re.IGNORECASE),
    re.compile(r"\[THINK\]", re.IGNORECASE),
)
_CLOSE_THINKING = (
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
    return None if closing and any(each.search(text, 0, closing.start()) for each in _OPEN_THINKING) else closing


# --- lines ------------------------------------------------------------------------------------------------------------

_END_OF_LINE = re.compile(r"\n(?:\s*(?=\n)\n?)?")
# A line that neither begins with the first of these nor ends with the second, and has no chat token, no thinking and
# no call, is nothing but prose.
_TELLING_START = re.compile(
    rf"\n(?:{_FENCE}|(?i:{_MARKUP.pattern}|{_RESULT.pattern}|{_RESULT_AFTER_CALL.pattern})|{_TURN.pattern})"
)
_TELLING_END = re.compile(r"`(?<!``)``+[\w+-]*[ \t]*\n")


class Line(NamedTuple):
    """A line of prose, or the rest of one behind what has been read of it."""

    start: int
    end: int  # where the next one begins that is not blank
    fence: str  # the marks of the code fence that it opens
    fence_start: int


class Lines:
    """The lines of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = Ahead(text, _END_OF_LINE)
        lines = f"\n{text}"  # each line behind a newline, which stands here where the line begins in the text
        self._telling_starts = Ahead(lines, _TELLING_START)
        self._telling_ends = Ahead(text, _TELLING_END)
        self._bare_fences = Ahead(lines, _BARE_FENCE)
        self._markup_ends = {name: Ahead(text, end) for name, end in _MARKUP_ENDS.items()}
        self._chat_tokens = Ahead(text, *_CHAT_TOKENS)
        self._openings = Ahead(text, *_OPEN_THINKING)
        self._closings = Ahead(text, *_CLOSE_THINKING)

    def line_from(self, position: int, next_call: Callable[[int], int]) -> Line | None:
        """The next line in which something may begin: the one in which the position stands, if it is not its start.

        `next_call` tells where, from a position on, calls may begin next; the end of the text where they do not.
        """
        if position == 0 or self._text[position - 1] == "\n":
            telling = min(
                self._telling_starts.start(position),
                self._telling_ends.start(position),
                self._chat_tokens.start(position),
                self._openings.start(position),
                next_call(position),
            )
            if telling == len(self._text):
                return None
            position = max(position, self._text.rfind("\n", position, telling) + 1)
        elif position == len(self._text):
            return None
        fence = _OPENING_FENCE.match(self._text, position)
        marks, at = (fence["fence"], fence.start("fence")) if fence else ("", position)
        return Line(position, self._end_of_line(position), marks, at)

    def _end_of_line(self, position: int) -> int:
        end = self._ends.match(position)
        return end.end() if end else len(self._text)

    def end_of_fence(self, line: Line, position: int) -> int:
        """Where to read on behind a line: at the position, or behind the code fence that the line opens."""
        marks = line.fence
        if not marks and self._text.find("```", line.start, line.end) >= 0:
            behind_words = _FENCE_AT_END.match(self._text, line.start)
            marks = behind_words[1] if behind_words else ""
        if not marks:
            return position
        while closing := self._bare_fences.match(position):
            position = self._end_of_line(closing.end() - 1)  # without the newline before the first line
            if closing["fence"].startswith(marks):
                return position
        return len(self._text)

    def end_of_quote(self, line: Line) -> int | None:
        """Where the line ends that closes the markup in which this one begins to quote; its own end if none does.

        None where the line does not begin with such markup.
        """
        markup = _MARKUP.match(self._text, line.start)
        if not markup:
            return None
        closing = self._markup_ends[markup[1].lower()].match(markup.end())
        return self._text.find("\n", closing.start()) + 1 or len(self._text) if closing else line.end

    def invention(self, line: Line, *, called: bool) -> int | None:
        """Where in a line an invention begins, if one does; `called` says whether there are calls before it."""
        token = self._chat_tokens.start(line.start)
        if token < line.end:
            return token
        return line.start if self._is_invented(line.start, called=called) else None

    def _is_invented(self, start: int, *, called: bool) -> bool:
        if _RESULT.match(self._text, start):
            return True
        if called:
            return bool(_RESULT_AFTER_CALL.match(self._text, start) or _TURN.match(self._text, start))
        turn = _TURN_BEFORE_CALL.match(self._text, start)
        if not turn or self._text[max(0, start - 2) : start] != "\n\n":
            return False
        return not turn[1] or start < self._last_answer  # a lone `User:` may well be part of an answer

    def begins_turn(self, line: Line) -> bool:
        """Whether a line looks like the beginning of somebody's turn, and is not the first."""
        return line.start > 0 and _TURN.match(self._text, line.start) is not None

    def next_thought(self, position: int) -> int:
        """Where, from a position on, thinking may begin next; the end of the text where it does not."""
        return self._openings.start(position)

    def thought_in(self, line: Line) -> Thought | None:
        """The stretch of thinking that begins in a line, outside inline code."""
        opening = self._openings.match(line.start)
        if not opening or opening.end() > line.end or in_inline_code(self._text, line.start, opening.start()):
            return None
        closing = self._closings.match(opening.end())
        if not closing:
            starts_line = not self._text[line.start : opening.start()].strip()
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
    def _last_answer(self) -> int:
        return self._text.rfind("\nAssistant:")

    @cached_property
    def _last_tag(self) -> int:
        return self._text.rfind("\n<")

    @cached_property
    def _last_block(self) -> int:
        return self._text.rfind(BLOCK_TAG)
