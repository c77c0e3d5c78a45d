"""Reply text -> content blocks and stop reason: the policy of what becomes a call.

- A call in the canonical notation counts at the start of a line, outside code fences and thinking; further on in a line
  only if it is whole, no inline code, and ends the reply. A fence that is the whole tail of the reply and holds nothing
  but calls counts, too.
- Only where there is no such call, one in another dialect counts, at the start of a line, if its name is one offered
  tool's and its required arguments are there.
- Calls that stand in thinking are thoughts. Thinking becomes a block of its own.
- What follows the last call is cut: a model that goes on after its calls invents their results. So is everything from
  an invented result or turn on, calls included.
- A call that the reply's end has cut off is never run; the whole ones before it are.

A reply that plainly meant a call but cannot be read has a `defect`, which says in a sentence what is wrong with it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from claude_proxy.core import dialects, notation, repair
from claude_proxy.core import schema as json_schema
from claude_proxy.core.content import ContentBlock, StopReason, Text, Thinking, Tool, ToolUse
from claude_proxy.core.notation import Call, CallBlock

SIGNATURE = "Y2xhdWRlLXByb3h5"  # clients want a signature that is not empty; nobody checks it


@dataclass(frozen=True)
class Reply:
    """A reply, read.

    Attributes:
        content: the blocks, none of them empty; thinking first.
        stop_reason: as the client will be told.
        truncated: whether the reply was cut off, so that it could be continued.
        defect: what is wrong with a call that could not be read, for the model to mend it.
    """

    content: tuple[ContentBlock, ...]
    stop_reason: StopReason
    truncated: bool = False
    defect: str | None = None

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
) -> Reply:
    """Read a model's reply.

    Args:
        text: the reply as the module passed it on.
        tools: the tools that may be called, by name; none, and no calls are looked for.
        new_id: makes a `tool_use` id, unique for ever.
        cut: whether the reply reached the limit at which the model is cut off.
        single_call: keep the first call only.
        decoded: whether the module has decoded the reply's HTML entities.
    """
    thoughts, body = _split_thinking(text, tools, cut=cut)
    partial = _PARTIAL_TAG.search(body, max(0, len(body) - 400)) if tools else None
    if partial and not any(name.startswith(partial[0].strip()[1:].split(" ")[0].rstrip(">")) for name in _TAG_NAMES):
        partial = None
    if partial:
        body = body[: partial.start()]
    found = _find(body, tools, cut=cut or partial is not None)
    truncated = cut or partial is not None or any(block.truncated for block in found.blocks)
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


# The beginning of a tag that the reply's end has cut off, at the start of a line.
_PARTIAL_TAG = re.compile(r"(?:\n|\A)[ \t]*<(?:/?[a-z_]{0,14}|invoke\s[^<>\n]*|function_calls>\s*)\Z")
_TAG_NAMES = ("function_calls", "/function_calls", "invoke", "/invoke")


def _text(prose: str) -> list[Text]:
    prose = _SPECIAL_TOKENS.sub("", prose).strip()
    return [Text(prose)] if prose else []


def _thinking(thoughts: list[str]) -> list[Thinking]:
    joined = "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
    return [Thinking(joined, SIGNATURE)] if joined else []


def _tool_use(call: Call, tools: Mapping[str, Tool], tool_use_id: str, *, decoded: bool) -> ToolUse:
    tool = tools[repair.resolve_tool(call.name, tools) or ""]
    return ToolUse(tool_use_id, tool.name, repair.fit_arguments(call.arguments, tool, decoded=decoded))


# --- thinking ---------------------------------------------------------------------------------------------------------

_OPENING_THOUGHT = re.compile(r"<\s?(?:\w{1,20}:)?(?:think(?:ing)?|thought|reasoning)\s?>|\[THINK\]", re.IGNORECASE)
_CLOSING_THOUGHT = re.compile(r"</\s?(?:\w{1,20}:)?(?:think(?:ing)?|thought|reasoning)\s?>|\[/THINK\]", re.IGNORECASE)
_LONE_CLOSING_THOUGHT = re.compile(r"</think(?:ing)?>(?=[ \t]*(?:\n|\Z)|[A-Za-z<{\[])", re.IGNORECASE)
# gpt-oss speaks in channels: `analysis` is thinking, what is said in the others is for the user.
_ANALYSIS = re.compile(
    r"\s*(?:(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>|<\|channel>thought\s)"
    r"(.*?)(?:<\|end\|>|<channel\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)
_OTHER_TOKENS = re.compile(r"\]<\]\w+\[>\[")  # MiniMax M3 puts one before each tag
_SPECIAL_TOKENS = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)(?:\s*<\|constrain\|>\s*\w+)?<\|message\|>"
    r"|<\|(?:open|close)\|>response<\|sep\|>|<\|(?:start\|>assistant|end\|>|return\|>|im_end\|>|eot_id\|>|eom_id\|>)|\A\s*Assistant:\s+"
)


def _split_thinking(text: str, tools: Mapping[str, Tool], *, cut: bool) -> tuple[list[str], str]:
    """The thoughts that a reply begins with, and the rest: gpt-oss's, and those whose opening tag is missing."""
    thoughts: list[str] = []
    text = _OTHER_TOKENS.sub("", text) if "]<]" in text else text
    while analysis := _ANALYSIS.match(text):
        thoughts.append(analysis[1])
        text = text[analysis.end() :]
    closing = _LONE_CLOSING_THOUGHT.search(text)
    if closing and not _OPENING_THOUGHT.search(text, 0, closing.start()):
        values = (block for block in _find(text, tools, cut=cut).blocks if not block.truncated)
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


def _find(text: str, tools: Mapping[str, Tool], *, cut: bool) -> _Found:
    """Look for canonical calls, and only if there is none for those in other dialects."""
    if not tools:
        return _look_through(text, _Finder(text, tools))
    found = _look_through(text, _CanonicalFinder(text, tools, cut=cut))
    if found.blocks or found.defect:
        return found
    return _look_through(text, _DialectFinder(text, tools))


_LINE = re.compile(
    r"(?:[ \t]*(?:(?:[-*+]|\d{1,3}[.)]|>)[ \t]+)*(?P<fence>`{3,}|~{3,}))?(?P<rest>[^\n]*)(?:\n\s*(?=\n)\n?|\n|\Z)"
)
_FENCE_AT_END = re.compile(r"[^`\n]*[^`\s](`{3,})[\w+-]*[ \t]*\n")
# Markup that shows a text instead of meaning it.
_QUOTED = re.compile(r"[ \t]*<(!--|pre|code|example)\b", re.IGNORECASE)
_QUOTED_ENDS = {"!--": "-->", "pre": "</pre>", "code": "</code>", "example": "</example>"}
_RESULT = re.compile(
    r"[ \t]*</?(?:tool_results?|function_results?|tool_responses?|tool_outputs?|system_message)\b", re.IGNORECASE
)
_RESULT_AFTER_CALL = re.compile(
    r"[ \t]*(?:</?(?:results?|outputs?|observation|response)>|Observation:|Tool (?:result|output):|<\|im_start\|>"
    r"|```tool_outputs?)",
    re.IGNORECASE,
)
_TURN = re.compile(r"[ \t]*(?:(?:\*\*)?(?:Human|User|Assistant)\b(?:\*\*)?:|#{1,6} (?:Human|User|Assistant)\b)")
_CHAT_TOKEN = re.compile(r"<\|im_start\|>(?:user|tool)|<\|start_header_id\|>(?:user|tool|ipython)|\[INST\]")
_TURN_BEFORE_CALL = re.compile(r"(?:Human|(User)):")


def _look_through(text: str, finder: _Finder) -> _Found:
    found = _Found(len(text))
    position, fence, called = 0, "", False
    last_answer = text.rfind("\nAssistant:")
    turn: int | None = None  # where the first line begins that looks like somebody's turn
    while position < len(text) and (line := _LINE.match(text, position)):
        position = line.end()
        if fence:
            closes = (line["fence"] or "").startswith(fence) and not line["rest"].strip()
            fence = "" if closes else fence
        elif finder.tools and (token := _CHAT_TOKEN.search(text, line.start(), line.end())):
            found.end = token.start()
            break
        elif finder.tools and _is_invented(line, called=called, last_answer=last_answer):
            found.end = line.start()
            break
        elif quoted := _QUOTED.match(text, line.start()):
            closing = text.find(_QUOTED_ENDS[quoted[1].lower()], quoted.end())
            position = position if closing < 0 else text.find("\n", closing) + 1 or len(text)
        elif thought := _thought(line):
            found.parts.append(thought)
            position = thought.end
        elif block := (finder.in_fence(line) if line["fence"] else finder.in_line(line)):
            if turn is not None and not called:
                found.end = turn  # the model has invented a turn, and goes on from there
                break
            found.parts.append(block)
            called = called or bool(block.calls)
            position = block.end
        else:
            at_end = _FENCE_AT_END.match(text, line.start())
            fence = line["fence"] or (at_end[1] if at_end else "")
            position = max(position, finder.refused)
            turn = line.start() if turn is None and line.start() and _TURN.match(text, line.start()) else turn
    found.defect = finder.defect
    return found


def _is_invented(line: re.Match[str], *, called: bool, last_answer: int) -> bool:
    """Whether a line begins a result or a turn that only the client could have written.

    Args:
        line: the line.
        called: whether there are calls before it.
        last_answer: where the last line begins that looks like the assistant's turn, or -1.
    """
    text, start = line.string, line.start()
    if _RESULT.match(text, start):
        return True
    if called:
        return bool(_RESULT_AFTER_CALL.match(text, start) or _TURN.match(text, start))
    turn = _TURN_BEFORE_CALL.match(text, start)
    if not turn or text[max(0, start - 2) : start] != "\n\n":
        return False
    return not turn[1] or start < last_answer  # a lone `User:` may well be part of an answer


def _thought(line: re.Match[str]) -> _Thought | None:
    """The stretch of thinking that begins in a line of prose, outside inline code."""
    text = line.string
    opening = _OPENING_THOUGHT.search(text, line.start(), line.end())
    if not opening or _in_inline_code(text, line.start(), opening.start()):
        return None
    closing = _CLOSING_THOUGHT.search(text, opening.end())
    if not closing:
        starts_line = not text[line.start() : opening.start()].strip()
        hides_calls = "<function_calls>" in text[opening.end() :]
        return _Thought(opening.start(), len(text), text[opening.end() :]) if starts_line or hides_calls else None
    # Thinking about thinking: a further closing tag without an opening one belongs to it.
    while further := _CLOSING_THOUGHT.search(text, closing.end()):
        if _OPENING_THOUGHT.search(text, closing.end(), further.start()) or "\n<" not in text[closing.end() :]:
            break
        closing = further
    return _Thought(opening.start(), closing.end(), text[opening.end() : closing.start()])


def _in_inline_code(text: str, start: int, position: int) -> bool:
    """Whether a position in a line stands between backticks: single ones, or runs of them."""
    return len(_BACKTICKS.findall(text, start, position)) % 2 == 1


_BACKTICKS = re.compile(r"`+")


# --- finding calls in a line ------------------------------------------------------------------------------------------

_RESULT_FOLLOWS = r"(?=</?(?:tool_result|function_result|tool_response|tool_output)|```tool_output)"
_TAIL = re.compile(rf"\s*(?:\Z|{_RESULT_FOLLOWS})")
_TAIL_OF_FENCE = re.compile(rf"\s*(?:`{{3,}}|~{{3,}})?\s*(?:\Z|{_RESULT_FOLLOWS})")
_BLANKS = re.compile(r"\s*")
_MAX_ATTEMPTS = 32  # tries that lead to nothing; more would let the time grow faster than the text


class _Finder:
    """Finds nothing: for a request that offers no tools."""

    def __init__(self, text: str, tools: Mapping[str, Tool]) -> None:
        self.text = text
        self.tools = tools
        self.defect: str | None = None
        self.attempts = _MAX_ATTEMPTS
        self.refused = 0  # up to here, calls have been read that do not count; nothing that stands in them does

    def in_line(self, _line: re.Match[str]) -> CallBlock | None:
        """The calls that begin in a line of prose."""
        return None

    def in_fence(self, _line: re.Match[str]) -> CallBlock | None:
        """The calls in the code fence that a line opens, if the fence is the whole tail of the reply."""
        return None

    def missing_tool(self, block: CallBlock) -> str | None:
        """The first name in a block that means no offered tool."""
        return next((call.name for call in block.calls if not repair.resolve_tool(call.name, self.tools)), None)

    def unknown_tool(self, name: str) -> str:
        """What is wrong with a call of a tool that is not offered."""
        shown = ", ".join(tool.name for tool in self.tools.values() if not tool.defer_loading)
        return f"there is no tool named {name!r}; the tools are {shown}"


class _CanonicalFinder(_Finder):
    """Finds calls in the canonical notation."""

    def __init__(self, text: str, tools: Mapping[str, Tool], *, cut: bool) -> None:
        super().__init__(text, tools)
        self._reader = notation.Reader(text, tools, cut=cut)
        self._openings = deque(self._reader.openings())

    def in_line(self, line: re.Match[str]) -> CallBlock | None:
        """At the start of the line; further on only what is whole, no inline code, and ends the reply."""
        opening = self._opening(line.start(), line.end())
        if opening is None or self.attempts == 0:
            return None
        start = self._reader.tags[opening].start
        mid_line = bool(self.text[line.start() : start].strip())
        if mid_line and _in_inline_code(self.text, line.start(), start):
            return None
        block = self._reader.read(opening)
        ends_reply = not block.truncated and not self.text[block.end :].strip()
        if mid_line and not ends_reply:
            self.attempts -= 1
            return None
        return self._accept(block)

    def in_fence(self, line: re.Match[str]) -> CallBlock | None:
        """Directly behind the opening of the fence, and with nothing behind them."""
        opening = self._opening(line.end(), len(self.text))
        if opening is None or self.attempts == 0:
            return None
        if _BLANKS.match(self.text, line.end()).end() < self._reader.tags[opening].start:  # type: ignore[union-attr]
            return None
        block = self._reader.read(opening)
        tail = _TAIL_OF_FENCE.match(self.text, block.end)
        if not tail:
            self.attempts -= 1
            return None
        return self._accept(replace(block, start=line.start(), end=tail.end()))

    def _opening(self, start: int, end: int) -> int | None:
        """The first tag between two positions at which calls can begin."""
        tags = self._reader.tags
        while self._openings and tags[self._openings[0]].start < start:
            self._openings.popleft()
        return self._openings[0] if self._openings and tags[self._openings[0]].start < end else None

    def _accept(self, block: CallBlock) -> CallBlock | None:
        if missing := self.missing_tool(block):
            self.defect = self.unknown_tool(missing)
            self.attempts -= 1
            self.refused = block.end
            return None
        # Models end with their calls. Where a reply that was cut off goes on behind them, the tags that seem to end
        # the last one may well stand in a value that the end of the reply cut off.
        if self._reader.cut and not block.truncated and self.text[block.end :].strip():
            return replace(block, calls=block.calls[:-1], end=len(self.text), truncated=True)
        return block


class _DialectFinder(_Finder):
    """Finds calls in all other dialects."""

    def in_line(self, line: re.Match[str]) -> CallBlock | None:
        """At the start of the line; what could be an ordinary object only if it ends the reply."""
        start = line.start() + len(line[0]) - len(line[0].lstrip())
        certain = dialects.begins(self.text, start, unmistakable=True)
        if not certain:
            start = next(self._special_tokens(line), start)
        block = self._read(start)
        if block and (certain or block.truncated or _TAIL.match(self.text, block.end)):
            return block
        return None

    def _special_tokens(self, line: re.Match[str]) -> Iterator[int]:
        """Where in a line, outside inline code, a token stands that begins calls."""
        inside, position = False, line.start()
        for token in dialects.SPECIAL_TOKEN.finditer(line.string, line.start(), line.end()):
            inside ^= line.string.count("`", position, token.start()) % 2 == 1
            position = token.start()
            if not inside and dialects.begins(self.text, position, unmistakable=True):
                yield position

    def in_fence(self, line: re.Match[str]) -> CallBlock | None:
        """Where the fence is the dialect's own, or stands around the calls."""
        for start in (line.start("fence"), line.end()):
            block = self._read(start)
            if block and (tail := _TAIL_OF_FENCE.match(self.text, block.end)):
                return replace(block, start=line.start(), end=tail.end())
        return None

    def _read(self, start: int) -> CallBlock | None:
        if self.attempts == 0 or not dialects.begins(self.text, start):
            return None
        block = dialects.read_calls(self.text, start)
        calls = [self._with_arguments(call) for call in block.calls] if block else []
        fault = next((call for call in calls if isinstance(call, str)), None if block else "it could not be read")
        if block and not fault:
            return replace(block, calls=tuple(call for call in calls if isinstance(call, Call)))
        self.attempts -= 1
        if dialects.begins(self.text, start, unmistakable=True):
            self.defect = fault
            self.refused = block.end if block else start
        return None

    def _with_arguments(self, call: Call) -> Call | str:
        """The call, if it means one offered tool and brings what that requires; else what is wrong with it."""
        tool = self.tools.get(repair.resolve_tool(call.name, self.tools) or "")
        if not tool:
            return self.unknown_tool(call.name)
        required = json_schema.required(tool.input_schema)
        call = dialects.arguments_for(call, required)
        missing = required - repair.fit_arguments(call.arguments, tool).keys()
        return f"the call of {tool.name} lacks {', '.join(sorted(missing))}" if missing else call
