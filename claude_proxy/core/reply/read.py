"""Reply text -> content blocks and stop reason: the policy of what becomes a call.

- A call in the canonical notation counts at the start of a line, outside code fences and thinking; further on in a line
  only if it is whole, no inline code, and ends the reply. A fence that is the whole tail of the reply and holds nothing
  but calls counts, too.
- Only where there is no such call, one in another dialect counts, at the start of a line, if its name is one offered
  tool's and its required arguments are there.
- Calls that stand in thinking are thoughts. Thinking becomes a block of its own.
- What follows the last call is cut: a model that goes on after its calls invents their results. So is everything from
  an invented result or turn on, calls included.
- A call that the reply's end has cut off is never run; the whole ones before it are. Where the reply is known to have
  been cut off, its last call counts as cut off, whatever it looks like.

A reply that plainly meant a call but cannot be read has a `defect`, which says in a sentence what is wrong with it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from claude_proxy.core.calls import arguments, dialects, notation
from claude_proxy.core.calls.notation import Call, CallBlock, Vocabulary
from claude_proxy.core.calls.tags import Kind
from claude_proxy.core.json_schema import types as json_schema
from claude_proxy.core.messages.content import SIGNATURE, ContentBlock, StopReason, Text, Thinking, Tool, ToolUse


@dataclass(frozen=True)
class Reply:
    """A reply, read.

    Attributes:
        content: the blocks, none of them empty; thinking first.
        stop_reason: as the client will be told.
        truncated: whether the reply was cut off, so that it could be continued.
        defect: what is wrong with a call that could not be read, for the model to mend it.
        stop_sequence: which of the client's sequences ended it.
    """

    content: tuple[ContentBlock, ...]
    stop_reason: StopReason
    truncated: bool = False
    defect: str | None = None
    stop_sequence: str | None = None

    @property
    def calls(self) -> int:
        """How many calls were read."""
        return sum(isinstance(block, ToolUse) for block in self.content)


def read_reply(
    text: str,
    tools: Mapping[str, Tool],
    new_id: Callable[[], str],
    *,
    cut: bool,
    single_call: bool = False,
    decoded: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Reply:
    """Read a model's reply.

    Args:
        text: the reply as the module passed it on.
        tools: the tools that may be called, by name; none, and no calls are looked for.
        new_id: makes a `tool_use` id, unique for ever.
        cut: whether the reply reached the limit at which the model is cut off.
        single_call: keep the first call only.
        decoded: whether the module has decoded the reply's HTML entities.
        vocabulary: that of the tools, for who reads many replies.
    """
    thoughts, body = _split_thinking(text, tools, vocabulary, cut=cut)
    whole = _without_partial_tag(body) if tools else body
    found = _find(whole, tools, vocabulary, cut=cut or whole != body)
    if cut:
        found = _without_last_call(found, len(whole))
    truncated = cut or whole != body or any(block.truncated for block in found.blocks)
    body = whole
    content: list[Text | ToolUse] = []
    prose = 0
    for part in found.parts:
        content += _text(body[prose : part.start])
        prose = part.end
        if isinstance(part, CallBlock):
            content += [_tool_use(call, tools, new_id(), decoded=decoded) for call in part.calls]
        else:
            thoughts.append(part.text)
    content += _text(body[prose : found.end])
    calls = [index for index, item in enumerate(content) if isinstance(item, ToolUse)]
    if calls:
        content = content[: (calls[0] if single_call else calls[-1]) + 1]
    return Reply(
        content=(*_thinking(thoughts), *content),
        stop_reason="tool_use" if calls else "max_tokens" if truncated else "end_turn",
        truncated=truncated,
        defect=None if calls or truncated else found.defect if content else "the reply is empty",
    )


def _without_last_call(found: _Found, end: int) -> _Found:
    """What is certain of a reply that is known to have been cut off: its calls without the last one.

    The tags that seem to end that call may as well stand in a value of it, whose rest was cut off; nothing in the text
    tells. So nothing behind it counts, either.
    """
    for index, part in enumerate(found.parts):
        if isinstance(part, CallBlock) and not part.truncated:
            block = replace(part, calls=part.calls[:-1], end=end, truncated=True)
            return replace(found, parts=[*found.parts[:index], block])
    return found


# What may be a tag that the reply's end has cut off, at the start of a line; an opened block with nothing in it is as
# good as cut off.
_PARTIAL_TAG = re.compile(
    r"(?:\n|\A)[ \t]*<(?P<name>/?[a-z_]{0,14})(?:(?<=<invoke)\s[^<>\n]*|(?<=<function_calls)>\s*)?\Z"
)
_TAG_NAMES = ("function_calls", "/function_calls", "invoke", "/invoke")
_MAX_PARTIAL_TAG = 400


def _without_partial_tag(text: str) -> str:
    """A reply without the beginning of a tag that its end has cut off, if it ends in one."""
    furthest = max(0, len(text) - _MAX_PARTIAL_TAG)
    partial = _PARTIAL_TAG.match(text, max(text.rfind("\n", furthest, text.rfind("<")), furthest))
    if partial and any(name.startswith(partial["name"]) for name in _TAG_NAMES):
        return text[: partial.start()]
    return text


# What models write around their words, and no user should see: a chat template's tokens, or the speaker's name.
_FRAME_OF_WORDS = re.compile(
    r"""(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)(?:\s*<\|constrain\|>\s*\w+)?<\|message\|>  # gpt-oss
      | <\|(?:open|close)\|>response<\|sep\|>                                                           # Kimi K3
      | <\|(?:start\|>assistant|end\|>|return\|>|im_end\|>|eot_id\|>|eom_id\|>)     # gpt-oss, Qwen and Llama: turns
    """,
    re.VERBOSE,
)
_SPEAKER = re.compile(r"\s*Assistant:\s+")


def _text(prose: str) -> list[Text]:
    speaker = _SPEAKER.match(prose)
    prose = prose[speaker.end() :] if speaker else prose
    prose = _FRAME_OF_WORDS.sub("", prose) if "<|" in prose else prose
    prose = prose.strip()
    return [Text(prose)] if prose else []


def _thinking(thoughts: list[str]) -> list[Thinking]:
    joined = "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
    return [Thinking(joined, SIGNATURE)] if joined else []


def _tool_use(call: Call, tools: Mapping[str, Tool], tool_use_id: str, *, decoded: bool) -> ToolUse:
    tool = tools[arguments.resolve_tool(call.name, tools) or ""]
    return ToolUse(tool_use_id, tool.name, arguments.fit_arguments(call.arguments, tool, decoded=decoded))


# --- thinking ---------------------------------------------------------------------------------------------------------

_THOUGHT = r"(?:think(?:ing)?|thought|reasoning)"
# Thinking in tags, wherever it stands.
_OPENING_THOUGHT = (
    re.compile(rf"<\s?(?:\w{{1,20}}:)?{_THOUGHT}\s?>", re.IGNORECASE),
    re.compile(r"\[THINK\]", re.IGNORECASE),
)
_CLOSING_THOUGHT = (
    re.compile(rf"</\s?(?:\w{{1,20}}:)?{_THOUGHT}\s?>", re.IGNORECASE),
    re.compile(r"\[/THINK\]", re.IGNORECASE),
)
# The first tag of a reply whose opening tag stood in the prompt: then all before it is thinking. It begins a line or
# ends one, or the answer follows at once; anywhere else the tag is only mentioned.
_LONE_CLOSING_THOUGHT = re.compile(
    rf"</(?:(?<=^</){_THOUGHT}>|{_THOUGHT}>(?=[ \t]*(?:\n|\Z)|[A-Za-z<{{\[]))", re.IGNORECASE | re.MULTILINE
)
# gpt-oss speaks in channels: `analysis` is thinking, what is said in the others is for the user.
_ANALYSIS = re.compile(
    r"\s*(?:(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>|<\|channel>thought\s)"
    r"(.*?)(?:<\|end\|>|<channel\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)


_MINIMAX_TOKEN = re.compile(r"\]<\]\w{1,40}\[>\[")  # M3 puts one before each tag


def _split_thinking(
    text: str, tools: Mapping[str, Tool], vocabulary: Vocabulary | None, *, cut: bool
) -> tuple[list[str], str]:
    """The thoughts that a reply begins with, and the rest: gpt-oss's, and those whose opening tag is missing."""
    thoughts: list[str] = []
    text = _MINIMAX_TOKEN.sub("", text) if "]<]" in text else text
    start = 0
    while analysis := _ANALYSIS.match(text, start):
        thoughts.append(analysis[1])
        start = analysis.end()
    text = text[start:]
    closing = _LONE_CLOSING_THOUGHT.search(text)
    if closing and not any(opening.search(text, 0, closing.start()) for opening in _OPENING_THOUGHT):
        values = (block for block in _find(text, tools, vocabulary, cut=cut).blocks if not block.truncated)
        if not any(block.start < closing.start() < block.end for block in values):
            return [*thoughts, text[: closing.start()]], text[closing.end() :]
    return thoughts, text


# --- looking through the lines ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thought:
    """A stretch of thinking, its tags included."""

    start: int
    end: int
    text: str


@dataclass
class _Found:
    """What was found in a reply.

    Attributes:
        parts: calls that count, and thoughts; the prose is between them.
        end: where the reply proper ends: at an invented result or turn, if there is one.
        defect: what is wrong with a call that could not be read.
    """

    end: int
    parts: list[CallBlock | _Thought] = field(default_factory=list)
    defect: str | None = None

    @property
    def blocks(self) -> list[CallBlock]:
        """The stretches of calls."""
        return [part for part in self.parts if isinstance(part, CallBlock)]


def _find(text: str, tools: Mapping[str, Tool], vocabulary: Vocabulary | None, *, cut: bool) -> _Found:
    """Look for canonical calls, and only if there is none for those in other dialects."""
    if not tools:
        return _look_through(text, _Finder(text, tools))
    reader = notation.Reader(text, tools, cut=cut, vocabulary=vocabulary)
    if reader.openings():
        found = _look_through(text, _CanonicalFinder(text, tools, reader))
        if found.blocks or found.defect:
            return _around(text, tools, found) or found
    return _look_through(text, _DialectFinder(text, tools))


def _around(text: str, tools: Mapping[str, Tool], found: _Found) -> _Found | None:
    """The calls in another dialect if the canonical one stands in a value of theirs, such as in a file about calls."""
    finder = _DialectFinder(text, tools)
    first = min((block.start for block in found.blocks), default=len(text))
    if finder.next_opening(0) >= first:
        return None
    others = _look_through(text, finder)
    encloses = any(block.start < first < block.end for block in others.blocks)
    return others if encloses else None


class _Ahead:
    """Where a pattern matches next in a text, asked for from positions that only grow.

    A match holds for all positions up to it, and that there is none holds for all that follow. So the text is gone
    through once, however often is asked.
    """

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern = pattern
        self._text = text
        self._match: re.Match[str] | None = None
        self._start = -1

    def match(self, position: int) -> re.Match[str] | None:
        """The first match from a position on."""
        if self._start < position:
            self._match = match = self._pattern.search(self._text, position)
            self._start = match.start() if match else len(self._text)
        return self._match

    def start(self, position: int) -> int:
        """Where the first match from a position on begins; the end of the text where there is none."""
        if self._start < position:
            self.match(position)
        return self._start


class _AheadOfAny:
    """Where any of several patterns matches next, none of which can match where another does.

    Python looks far faster for several patterns that each begin with a certain character than for one that may begin
    with any of them.
    """

    def __init__(self, patterns: Iterable[re.Pattern[str]], text: str) -> None:
        self._each = [_Ahead(pattern, text) for pattern in patterns]
        self._start = -1

    def match(self, position: int) -> re.Match[str] | None:
        """The first match from a position on."""
        first = min(self._each, key=lambda ahead: ahead.start(position))
        return first.match(position)

    def start(self, position: int) -> int:
        """Where the first match from a position on begins; the end of the text where there is none."""
        if self._start < position:
            self._start = min([ahead.start(position) for ahead in self._each])
        return self._start


class _Line(NamedTuple):
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


_END_OF_LINE = re.compile(r"\n(?:\s*(?=\n)\n?)?")
# A look at what it may begin with spares most lines the slower loop over the marks of lists and quotations before it.
_FENCE = r"[ \t]*(?=[-*+\d>`~])(?:(?:[-*+]|\d{1,3}[.)]|>)[ \t]+)*(?P<fence>`{3,}|~{3,})"
_OPENING_FENCE = re.compile(_FENCE)
_BARE_FENCE = re.compile(rf"\n{_FENCE}[^\S\n]*(?=\n|\Z)")
_FENCE_AT_END = re.compile(r"[^`\n]*[^`\s][^\S\n]*(`{3,})[\w+-]*[ \t]*\n")
# Markup that shows a text instead of meaning it.
_QUOTED = re.compile(r"[ \t]*<(!--|(?:pre|code|example|system-reminder)\b)", re.IGNORECASE)
_QUOTED_ENDS = {
    "!--": re.compile("-->"),
    "pre": re.compile("</pre>"),
    "code": re.compile("</code>"),
    "example": re.compile("</example>"),
    "system-reminder": re.compile("</system-reminder>"),
}
_RESULT = re.compile(
    r"[ \t]*</?(?:tool_results?|function_results?|tool_responses?|tool_outputs?|system_message)\b", re.IGNORECASE
)
_RESULT_AFTER_CALL = re.compile(
    r"[ \t]*(?:</?(?:results?|outputs?|observation|response)>|Observation:|Tool (?:result|output):|<\|im_start\|>"
    r"|```tool_outputs?)",
    re.IGNORECASE,
)
_TURN = re.compile(r"[ \t]*(?:(?:\*\*)?(?:Human|User|Assistant)\b(?:\*\*)?:|#{1,6} (?:Human|User|Assistant)\b)")
_CHAT_TOKEN = (
    re.compile(
        r"<(?:\|im_start\|>(?:user|tool)|\|start_header_id\|>(?:user|tool|ipython)"
        r"|(?:tool_result|function_results?|tool_response)\b[^<>\n`]*>[ \t]*(?=\n))"
    ),
    re.compile(r"\[INST\]"),
)
_TURN_BEFORE_CALL = re.compile(r"(?:Human|(User)):")

# A line that neither begins with the first of these nor ends with the second, and has no chat token, no thinking, and
# nothing that the finder looks for, is nothing but prose.
_TELLING_START = re.compile(
    rf"\n(?:{_FENCE}|(?i:{_QUOTED.pattern}|{_RESULT.pattern}|{_RESULT_AFTER_CALL.pattern})|{_TURN.pattern})"
)
_TELLING_END = re.compile(r"`(?<!``)``+[\w+-]*[ \t]*\n")


class _Lines:
    """The lines of a reply in which something may begin; those that are nothing but prose are passed over."""

    def __init__(self, text: str, finder: _Finder) -> None:
        self.text = text
        self.chat_tokens = _AheadOfAny(_CHAT_TOKEN, text)
        self.opening_thoughts = _AheadOfAny(_OPENING_THOUGHT, text)
        self.closing_thoughts = _AheadOfAny(_CLOSING_THOUGHT, text)
        self._finder = finder
        self._ends = _Ahead(_END_OF_LINE, text)
        lines = f"\n{text}"  # each line behind a newline, which stands here where the line begins in the text
        self._telling_starts = _Ahead(_TELLING_START, lines)
        self._telling_ends = _Ahead(_TELLING_END, text)
        self._bare_fences = _Ahead(_BARE_FENCE, lines)
        self._quotes = {name: _Ahead(end, text) for name, end in _QUOTED_ENDS.items()}

    def line_from(self, position: int) -> _Line | None:
        """The next line that may tell something: the one in which the position stands, if it is not its start."""
        if position == 0 or self.text[position - 1] == "\n":
            telling = min(
                self._telling_starts.start(position),
                self._telling_ends.start(position),
                self.chat_tokens.start(position),
                self.opening_thoughts.start(position),
                self._finder.next_opening(position),
            )
            if telling == len(self.text):
                return None
            position = max(position, self.text.rfind("\n", position, telling) + 1)
        elif position == len(self.text):
            return None
        fence = _OPENING_FENCE.match(self.text, position)
        marks, at = (fence["fence"], fence.start("fence")) if fence else ("", position)
        return _Line(position, self._end_of_line(position), marks, at)

    def end_of_fence(self, line: _Line, position: int) -> int:
        """Where to read on behind a line: at the position, or behind the code fence that the line opens."""
        may_end_so = not line.fence and self.text.find("```", line.start, line.end) >= 0
        at_end = _FENCE_AT_END.match(self.text, line.start) if may_end_so else None
        marks = at_end[1] if at_end else line.fence
        if not marks:
            return position
        while closing := self._bare_fences.match(position):
            position = self._end_of_line(closing.end() - 1)  # without the newline before the first line
            if closing["fence"].startswith(marks):
                return position
        return len(self.text)

    def end_of_quote(self, quoted: re.Match[str]) -> int | None:
        """Where the line ends in which quoting markup is closed; None where it is not."""
        closing = self._quotes[quoted[1].lower()].match(quoted.end())
        return self.text.find("\n", closing.start()) + 1 or len(self.text) if closing else None

    def thought(self, line: _Line) -> _Thought | None:
        """The stretch of thinking that begins in a line, outside inline code."""
        opening = self.opening_thoughts.match(line.start)
        if not opening or opening.end() > line.end or _in_inline_code(self.text, line.start, opening.start()):
            return None
        closing = self.closing_thoughts.match(opening.end())
        if not closing:
            starts_line = not self.text[line.start : opening.start()].strip()
            hides_calls = self._last_block >= opening.end()
            if not starts_line and not hides_calls:
                return None
            return _Thought(opening.start(), len(self.text), self.text[opening.end() :])
        # Thinking about thinking: a further closing tag without an opening one belongs to it.
        while further := self.closing_thoughts.match(closing.end()):
            if self.opening_thoughts.start(closing.end()) < further.start() or self._last_tag < closing.end():
                break
            closing = further
        return _Thought(opening.start(), closing.end(), self.text[opening.end() : closing.start()])

    @cached_property
    def _last_tag(self) -> int:
        """Where the last line begins with a tag, its newline included."""
        return self.text.rfind("\n<")

    @cached_property
    def _last_block(self) -> int:
        return self.text.rfind(notation.BLOCK_TAG)

    def _end_of_line(self, position: int) -> int:
        end = self._ends.match(position)
        return end.end() if end else len(self.text)


def _look_through(text: str, finder: _Finder) -> _Found:
    found = _Found(len(text))
    lines = _Lines(text, finder)
    position, called = 0, False
    last_answer = text.rfind("\nAssistant:")
    turn: int | None = None  # where the first line begins that looks like somebody's turn
    while line := lines.line_from(position):
        position = line.end
        if finder.tools and (token := lines.chat_tokens.start(line.start)) < line.end:
            found.end = token
            break
        if finder.tools and _is_invented(text, line.start, called=called, last_answer=last_answer):
            found.end = line.start
            break
        if quoted := _QUOTED.match(text, line.start):
            position = lines.end_of_quote(quoted) or position
        elif part := _first_part(lines, finder, line):
            if isinstance(part, CallBlock):
                if turn is not None and not called:
                    found.end = turn  # the model has invented a turn, and goes on from there
                    break
                called = called or bool(part.calls)
            found.parts.append(part)
            position = part.end
        else:
            turn = line.start if turn is None and line.start and _TURN.match(text, line.start) else turn
            position = lines.end_of_fence(line, max(position, finder.refused))
    found.defect = finder.defect
    return found


def _first_part(lines: _Lines, finder: _Finder, line: _Line) -> CallBlock | _Thought | None:
    """The calls or the thinking that begin in a line, whichever are first: either may speak of the other."""
    read_calls = finder.in_fence if line.fence else finder.in_line
    if finder.next_opening(line.start) < lines.opening_thoughts.start(line.start):
        return read_calls(line) or lines.thought(line)
    return lines.thought(line) or read_calls(line)


def _is_invented(text: str, start: int, *, called: bool, last_answer: int) -> bool:
    """Whether a line begins a result or a turn that only the client could have written.

    Args:
        text: the reply.
        start: where the line begins.
        called: whether there are calls before it.
        last_answer: where the last line begins that looks like the assistant's turn, or -1.
    """
    if _RESULT.match(text, start):
        return True
    if called:
        return bool(_RESULT_AFTER_CALL.match(text, start) or _TURN.match(text, start))
    turn = _TURN_BEFORE_CALL.match(text, start)
    if not turn or text[max(0, start - 2) : start] != "\n\n":
        return False
    return not turn[1] or start < last_answer  # a lone `User:` may well be part of an answer


def _in_inline_code(text: str, start: int, position: int) -> bool:
    """Whether a position in a line stands between backticks: single ones, or runs of them."""
    return len(_BACKTICKS.findall(text, start, position)) % 2 == 1


def _end_of_inline_code(text: str, position: int) -> int:
    """Where inline code ends in which a position stands: it may go over lines, but not over a blank one."""
    end = text.find("`", position)
    blank = text.find("\n\n", position)
    return min((each for each in (end, blank) if each >= 0), default=position)


_BACKTICKS = re.compile(r"`+")


# --- finding calls in a line ------------------------------------------------------------------------------------------

_RESULT_FOLLOWS = r"(?=</?(?:tool_result|function_result|tool_response|tool_output)|```tool_output)"
_TAIL = re.compile(rf"\s*(?:\Z|{_RESULT_FOLLOWS})")
_TAIL_OF_FENCE = re.compile(rf"\s*(?:`{{3,}}|~{{3,}})?\s*(?:\Z|{_RESULT_FOLLOWS})")
_BLANKS = re.compile(r"\s+")
# Tries that lead to nothing: how many there may be, and how much text they may have gone through. With more the time
# would grow faster than the text.
_MAX_ATTEMPTS = 32
_MAX_TRIED = 2_000_000  # characters


def _behind_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position


class _Finder:
    """Finds nothing: for a request that offers no tools."""

    def __init__(self, text: str, tools: Mapping[str, Tool]) -> None:
        self.text = text
        self.tools = tools
        self.defect: str | None = None
        self.attempts = _MAX_ATTEMPTS
        self._tried = 0  # characters that attempts have gone through in vain
        self.words_end = len(text.rstrip())
        self.refused = 0  # up to here, calls have been read that do not count; nothing that stands in them does

    def next_opening(self, _position: int) -> int:
        """Where, from a position on, calls may begin next; the end of the text where they do not."""
        return len(self.text)

    def in_line(self, _line: _Line) -> CallBlock | None:
        """The calls that begin in a line of prose."""
        return None

    def in_fence(self, _line: _Line) -> CallBlock | None:
        """The calls in the code fence that a line opens, if the fence is the whole tail of the reply."""
        return None

    def fail(self, start: int, end: int) -> None:
        """Count an attempt that has led to nothing, by the text that it went through."""
        self._tried += end - start
        self.attempts = self.attempts - 1 if self._tried < _MAX_TRIED else 0

    def missing_tool(self, block: CallBlock) -> str | None:
        """The first name in a block that means no offered tool."""
        return next((call.name for call in block.calls if not arguments.resolve_tool(call.name, self.tools)), None)

    def unknown_tool(self, name: str) -> str:
        """What is wrong with a call of a tool that is not offered."""
        shown = ", ".join(tool.name for tool in self.tools.values() if not tool.defer_loading)
        return f"there is no tool named {name!r}; the tools are {shown}"


class _CanonicalFinder(_Finder):
    """Finds calls in the canonical notation."""

    def __init__(self, text: str, tools: Mapping[str, Tool], reader: notation.Reader) -> None:
        super().__init__(text, tools)
        self._reader = reader
        self._openings = deque(reader.openings())

    def next_opening(self, position: int) -> int:
        """Where the next tag stands at which calls can begin."""
        opening = self._opening(position, len(self.text)) if self.attempts else None
        return len(self.text) if opening is None else self._reader.tags[opening].start

    def in_line(self, line: _Line) -> CallBlock | None:
        """At the start of the line; further on only what is whole, no inline code, and ends the reply."""
        opening = self._opening(line.start, line.end)
        if opening is None or self.attempts == 0:
            return None
        start = self._reader.tags[opening].start
        mid_line = bool(self.text[line.start : start].strip())
        if mid_line and _in_inline_code(self.text, line.start, start):
            self.refused = _end_of_inline_code(self.text, start)
            return None
        block = self._reader.read(opening)
        ends_reply = not block.truncated and block.end >= self.words_end
        if mid_line and not ends_reply:
            self.fail(start, block.end)
            if self._calls_at_once(opening):
                self.refused = block.end
            return None
        return self._accept(block)

    def _calls_at_once(self, opening: int) -> bool:
        """Whether a call begins at a tag or directly behind it, so that the tag is more than mentioned."""
        tags = self._reader.tags
        if tags[opening].kind is not Kind.OPEN_BLOCK:
            return True
        following = tags[opening + 1] if opening + 1 < len(tags) else None
        behind = _behind_blanks(self.text, tags[opening].end)
        return following is not None and following.kind is Kind.OPEN_INVOKE and behind == following.start

    def in_fence(self, line: _Line) -> CallBlock | None:
        """Directly behind the opening of the fence, and with nothing behind them."""
        opening = self._opening(line.end, len(self.text))
        if opening is None or self.attempts == 0:
            return None
        if _behind_blanks(self.text, line.end) < self._reader.tags[opening].start:
            return None
        block = self._reader.read(opening)
        tail = _TAIL_OF_FENCE.match(self.text, block.end)
        if not tail:
            self.fail(block.start, block.end)
            return None
        return self._accept(replace(block, start=line.start, end=tail.end()))

    def _opening(self, start: int, end: int) -> int | None:
        """The first tag between two positions at which calls can begin."""
        tags = self._reader.tags
        while self._openings and tags[self._openings[0]].start < start:
            self._openings.popleft()
        return self._openings[0] if self._openings and tags[self._openings[0]].start < end else None

    def _accept(self, block: CallBlock) -> CallBlock | None:
        if missing := self.missing_tool(block):
            self.defect = self.unknown_tool(missing)
            self.fail(block.start, block.end)
            self.refused = block.end
            return None
        # Models end with their calls. Where a reply that was cut off goes on behind them, the tags that seem to end
        # the last one may well stand in a value that the end of the reply cut off.
        if self._reader.cut and not block.truncated and block.end < self.words_end:
            return replace(block, calls=block.calls[:-1], end=len(self.text), truncated=True)
        return block


class _DialectFinder(_Finder):
    """Finds calls in all other dialects."""

    def __init__(self, text: str, tools: Mapping[str, Tool]) -> None:
        super().__init__(text, tools)
        self._openings = _Ahead(dialects.OPENING_OF_LINE, f"\n{text}")
        self._tokens = _AheadOfAny(dialects.SPECIAL_TOKENS, text)

    def next_opening(self, position: int) -> int:
        """Where a line begins with a dialect, or a special token stands."""
        if self.attempts == 0:
            return len(self.text)
        return min(self._openings.start(position), self._tokens.start(position))

    def in_line(self, line: _Line) -> CallBlock | None:
        """At the start of the line; what could be an ordinary object only if it ends the reply."""
        if self.attempts == 0:
            return None
        starts_line = line.start == 0 or self.text[line.start - 1] == "\n"
        if starts_line and self.next_opening(line.start) >= line.end:
            return None
        start = min(_behind_blanks(self.text, line.start), line.end)
        certain = dialects.begins(self.text, start, unmistakable=True)
        if not certain:
            start = next(self._special_tokens(line), start)
        block = self._read(start)
        if block and (certain or block.truncated or _TAIL.match(self.text, block.end)):
            return block
        return None

    def _special_tokens(self, line: _Line) -> Iterator[int]:
        """Where in a line, outside inline code, a token stands that begins calls."""
        inside, position = False, line.start
        for token in dialects.ANY_SPECIAL_TOKEN.finditer(self.text, line.start, line.end):
            inside ^= self.text.count("`", position, token.start()) % 2 == 1
            position = token.start()
            if not inside and dialects.begins(self.text, position, unmistakable=True):
                yield position

    def in_fence(self, line: _Line) -> CallBlock | None:
        """Where the fence is the dialect's own, or stands around the calls."""
        for start in (line.fence_start, line.end):
            block = self._read(start)
            if block and (tail := _TAIL_OF_FENCE.match(self.text, block.end)):
                return replace(block, start=line.start, end=tail.end())
        return None

    def _read(self, start: int) -> CallBlock | None:
        if self.attempts == 0 or not dialects.begins(self.text, start):
            return None
        block = dialects.read_calls(self.text, start)
        calls = [self._with_arguments(call) for call in block.calls] if block else []
        fault = next((call for call in calls if isinstance(call, str)), None if block else "it could not be read")
        if block and not fault:
            return replace(block, calls=tuple(call for call in calls if isinstance(call, Call)))
        self.fail(start, block.end if block else len(self.text))
        if dialects.begins(self.text, start, unmistakable=True):
            self.defect = fault
            self.refused = block.end if block else start
        return None

    def _with_arguments(self, call: Call) -> Call | str:
        """The call, if it means one offered tool and brings what that requires; else what is wrong with it."""
        tool = self.tools.get(arguments.resolve_tool(call.name, self.tools) or "")
        if not tool:
            return self.unknown_tool(call.name)
        required = json_schema.required(tool.input_schema)
        call = dialects.arguments_for(call, required)
        missing = required - arguments.fit_arguments(call.arguments, tool).keys()
        return f"the call of {tool.name} lacks {', '.join(sorted(missing))}" if missing else call
