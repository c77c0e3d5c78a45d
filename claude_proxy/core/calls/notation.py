r"""Tools and calls as text: how they are shown to the model, and how its calls are read back.

    <function_calls>
    <invoke name="Write">
    <parameter name="file_path">/a.py</parameter>
    <parameter name="content">
    raw text, over as many lines as needed, nothing escaped
    </parameter>
    </invoke>
    </function_calls>

Where a parameter may only be a string, its value stands raw; any other value is JSON, and so is a string that would be
taken for one. A value that starts on the line after its tag loses that first newline and the one before the closing
tag; any other value is taken exactly as it stands.

Nothing is escaped, so a value may hold these very tags. A tag therefore closes something only where what follows makes
sense: `</parameter>` before a known next parameter or `</invoke>`; `</invoke>` before another invoke, the end of the
block or the end of the reply; and of the readings that are left, the one that leaves no tag without its partner, then
the earliest. Where even that would misread a value, the writer says so: `encoding="json"` marks a value as JSON,
whose `<` are written `\u003c`.

Writer and reader stand side by side here; whoever changes one changes the other. Writing then reading gives every
input back exactly, provided that parameter names match `[A-Za-z0-9_.-]+`, as the Messages API demands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from operator import itemgetter
from typing import Any

from claude_proxy.core.calls import arguments as repair
from claude_proxy.core.calls import loose_json
from claude_proxy.core.calls.tags import Kind, Tag, find_tags, may_hold_calls
from claude_proxy.core.json_schema import types as json_schema
from claude_proxy.core.json_schema.types import Schema
from claude_proxy.core.json_text import to_json
from claude_proxy.core.memo import Memo, digest
from claude_proxy.core.messages.content import Tool

BLOCK_TAG = "<function_calls>"

_MAX_INDENT = 200  # characters


@dataclass(frozen=True)
class Call:
    """One call as it stands in a text: the tool's name and its arguments, not yet checked against the tool."""

    name: str
    arguments: Mapping[str, Any]


# --- the writer -------------------------------------------------------------------------------------------------------


class CallWriter:
    """Writes calls of certain tools, each in the plainest form that reads back as what it is.

    Whether it does is found out by reading, which is dear, and remembered for the next turn of the conversation.

    Attributes:
        offered: stands for the tools, in a memo.
    """

    def __init__(self, tools: Mapping[str, Tool], memo: Memo | None = None) -> None:
        """Prepare.

        Args:
            tools: those that are offered; calls of others are written as if they took anything.
            memo: what was found out before.
        """
        self._tools = tools
        self._memo = memo if memo is not None else Memo()
        self._vocabulary: Vocabulary | None = None
        self._allowed: dict[str, Mapping[str, frozenset[str]]] = {}
        self.offered = digest(to_json([[name, tool.input_schema] for name, tool in tools.items()])).hex()

    def write(self, calls: Sequence[Call]) -> str:
        """Write calls as one block."""
        meant = to_json([[call.name, call.arguments] for call in calls])
        encoded = self._memo.verdict(f"calls of {self.offered}", meant, lambda: self._which_encoded(calls))
        return self._block(calls, encoded)

    def _which_encoded(self, calls: Sequence[Call]) -> tuple[bool, ...]:
        """Which calls of a block have to be encoded so that it reads back exactly."""
        plain = (False,) * len(calls)
        if self._reads_as(self._block(calls, plain), calls):
            return plain
        return tuple(not self._is_exact(call) for call in calls)

    def _is_exact(self, call: Call) -> bool:
        """Whether nothing around a call can make its plain form ambiguous: it has no tag, and reads back by itself."""
        has_tags = any("<" in to_json(value) for value in call.arguments.values())
        return not has_tags and self._reads_as(self._block([call], [False]), [call])

    def _reads_as(self, text: str, calls: Sequence[Call]) -> bool:
        """Whether a text is read as just these calls, in a reply that was cut off behind it, too."""
        self._vocabulary = self._vocabulary or vocabulary_of(self._tools, self._memo)
        for cut in (False, True):
            block = Reader(text, self._tools, cut=cut, vocabulary=self._vocabulary).read(0)
            if block.calls != tuple(calls) or block.end != len(text) or block.truncated:
                return False
        return True

    def _block(self, calls: Iterable[Call], encoded: Iterable[bool]) -> str:
        invokes = [self._invoke(call, encoded=each) for call, each in zip(calls, encoded, strict=True)]
        return "\n".join([BLOCK_TAG, *invokes, "</function_calls>"])

    def _invoke(self, call: Call, *, encoded: bool) -> str:
        allowed = self._types(call.name)
        lines = [f'<invoke name="{call.name}">']
        for name, value in call.arguments.items():
            if encoded:
                text = to_json(value).replace("<", "\\u003c")
                lines.append(f'<parameter name="{name}" encoding="json">{text}</parameter>')
            else:
                lines.append(f'<parameter name="{name}">{_write_value(value, allowed.get(name))}</parameter>')
        return "\n".join([*lines, "</invoke>"])

    def _types(self, name: str) -> Mapping[str, frozenset[str]]:
        """The JSON types that each parameter of a tool may have."""
        if name not in self._allowed:
            root = self._tools[name].input_schema if name in self._tools else True
            known = json_schema.properties(root)
            self._allowed[name] = {each: json_schema.types(schema, root) for each, schema in known.items()}
        return self._allowed[name]


def _write_value(value: Any, allowed: frozenset[str] | None) -> str:
    if not isinstance(value, str):
        return to_json(value)
    if _read_as(value, json_schema.ALL_TYPES if allowed is None else allowed) != value:
        return to_json(value)
    return f"\n{value}\n" if "\n" in value else value


# --- the reader -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallBlock:
    """What was read from a stretch of calls.

    Attributes:
        calls: the calls that are whole, in their order, by the names that the model used.
        start: where the stretch starts in the text.
        end: where it ends.
        truncated: whether the text ends inside a call.
    """

    calls: tuple[Call, ...]
    start: int
    end: int
    truncated: bool = False


class _Cost:
    """What it costs to read a text in a certain way; the cheapest reading is taken, of equal ones the earliest end.

    The figures only order readings. A tag that stands in a value is cheap where it has its partner there, dear where it
    would have made sense as the value's end; a tag that must be made up is dearer, one that is left over dearer still.
    """

    FREE = 0
    TEXT_BEHIND_INVOKE = 1
    MISNAMED_CLOSING = 2  # </command> for </parameter>
    PARAMETER_UNCLOSED = 3  # before the next parameter, on a line of its own
    PARTNERLESS_OPENING = 4  # in a value
    STRAY_TEXT = 4  # between parameters
    PARAMETER_UNCLOSED_INLINE = 5
    PARTNERLESS_CLOSING = 6  # in a value
    PARAMETER_UNCLOSED_AT_END = 8  # before the end of the invoke
    INVOKE_UNCLOSED = 8
    UNKNOWN_NEXT = 2  # a value ends before a parameter that no tool has
    TEXT_BEFORE_NEXT = 8
    STRAY_TAG = 12  # between parameters: dearer than in a value
    TEXT_BEHIND_VALUE = 14
    MENTION = 16  # an opening tag that opens nothing
    LEFTOVER = 40
    TRUNCATED = 1_000_000  # where the text ends like a finished call
    LIKELY_TRUNCATED = 8  # where it does not
    SURELY_TRUNCATED = 1  # where the reply is known to have been cut off
    NEVER = 1_000_000_000


class _Choice(Enum):
    """What a tag in a value can be."""

    CLOSE = auto()  # closes the value, and belongs to it
    END = auto()  # ends the value, whose own closing tag is missing
    PARAMETER = auto()  # begins a parameter that stands in the value whole
    INVOKE = auto()  # begins an invoke that stands in the value whole
    KEEP = auto()  # is text of the value


# Tuples, because looking a member of an enumeration up in a set is slow.
_BEGINS_PARAMETER = (Kind.OPEN_PARAMETER, Kind.OPEN_ELEMENT, Kind.GROUP)
_ENDS_INVOKE = (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE, Kind.END)
_BEHIND_VALUE = (*_BEGINS_PARAMETER, *_ENDS_INVOKE)
_BEHIND_ELEMENT = (*_BEGINS_PARAMETER, Kind.CLOSE_INVOKE)
_BEHIND_INVOKE_TAG = (*_BEGINS_PARAMETER, Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.END)
_BEHIND_BLOCK_TAG = (Kind.OPEN_INVOKE, Kind.OPEN_BLOCK, Kind.END)
_BETWEEN_INVOKES = (Kind.OPEN_BLOCK, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE)
_ENDS_PARAMETERS = (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE, Kind.OPEN_BLOCK)


class Vocabulary:
    """The parameters of tools, by the tools' names: with their schemas, and as what models may call them."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.known = {name: json_schema.properties(tool.input_schema) for name, tool in tools.items()}
        self.meant = {name: repair.Parameters(known) for name, known in self.known.items()}

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all parameters."""
        return frozenset(name for known in self.known.values() for name in known)

    @cached_property
    def elements(self) -> frozenset[str]:
        """The names, in lower case, that may be tags of their own: those of the tools and of their parameters."""
        return frozenset(name.lower() for name in (*self.parameters, *self.known))


def vocabulary_of(tools: Mapping[str, Tool], memo: Memo) -> Vocabulary:
    """The vocabulary of tools, as long as they are remembered."""
    return memo.content("vocabulary", lambda: Vocabulary(tools), of=tuple(tools.values()))


class Reader:
    """Reads the calls in a reply, canonical or sloppy.

    For each tag, from the last to the first, and for each state that reading can be in before it, the cost of the
    cheapest way to read the rest is computed once. With these costs the reader need not try and go back: at each tag
    that could close a value it sees whether closing here is the cheapest. So reading takes time in proportion to the
    text, whatever stands in it.
    """

    def __init__(
        self, text: str, tools: Mapping[str, Tool], *, cut: bool = False, vocabulary: Vocabulary | None = None
    ) -> None:
        """Look the tags of a reply over.

        Args:
            text: the reply, as it came out of the module, which has decoded its entities.
            tools: the tools that may be called, by name.
            cut: whether the reply is known to have been cut off.
            vocabulary: that of the tools, for who reads many replies.
        """
        self.text = text
        self.tools = tools
        self.cut = cut
        self.tags: list[Tag] = []
        self._openings: list[int] = []
        if may_hold_calls(text):
            self._look_over(vocabulary or Vocabulary(tools))

    def _look_over(self, words: Vocabulary) -> None:
        """Find the tags, and what it costs to read on from each in each state."""
        self._known, self._meant, self._parameters = words.known, words.meant, words.parameters
        self.tags = find_tags(self.text, words.elements, self.tools)
        self._following = [self._following_kind(index) for index in range(len(self.tags))]
        self._openings = [index for index in range(len(self.tags)) if self._opens(index)]
        if self._openings:
            self._add_costs()

    # --- costs --------------------------------------------------------------------------------------------------------

    def _following_kind(self, index: int) -> Kind:
        """What stands directly behind a tag, but for white space."""
        last = index + 1 == len(self.tags)
        end = len(self.text) if last else self.tags[index + 1].start
        if self.text[self.tags[index].end : end].strip():
            return Kind.TEXT
        return Kind.END if last else self.tags[index + 1].kind

    def _starts_line(self, tag: Tag) -> bool:
        return not self.text[self._start_of_line(tag) : tag.start].strip()

    def _start_of_line(self, tag: Tag) -> int:
        """Where the line of a tag begins, looked for no further than any indentation goes."""
        furthest = max(0, tag.start - _MAX_INDENT)
        return max(self.text.rfind("\n", furthest, tag.start) + 1, furthest)

    def _add_costs(self) -> None:
        """Fill the tables of costs: the cheapest way to read on from before a tag, for each state."""
        count = len(self.tags)
        ends_closed = self._ends_closed()
        unfinished = _Cost.SURELY_TRUNCATED if self.cut else _Cost.TRUNCATED if ends_closed else _Cost.LIKELY_TRUNCATED
        self._outside = [0] * (count + 1)
        self._in_block = [0] * (count + 1)
        self._in_invoke = [unfinished] * (count + 1)
        self._in_value = [unfinished] * (count + 1)
        # Inside a value: in a parameter that stands there whole, in an invoke, in a parameter of such an invoke.
        self._in_inner_parameter = [_Cost.NEVER] * (count + 1)
        self._in_inner_invoke = [_Cost.NEVER] * (count + 1)
        self._in_inner_invoke_value = [_Cost.NEVER] * (count + 1)
        self._behind_element: dict[str, int] = {}
        self._choices_at: list[list[tuple[int, _Choice]]] = [[]] * count
        for index in range(count - 1, -1, -1):
            self._add_nested_costs(index)
            kind = self.tags[index].kind
            if kind is Kind.CLOSE_ELEMENT and self._following[index] in _BEHIND_ELEMENT:
                name = self.tags[index].name
                behind = self._in_invoke[index + 1]
                self._behind_element[name] = min(self._behind_element.get(name, behind), behind)
            self._outside[index] = self._cost_outside(index, kind)
            self._in_block[index] = self._cost_in_block(index, kind)
            self._in_invoke[index] = self._cost_in_invoke(index, kind)
            self._choices_at[index] = self._choices(index)
            self._in_value[index] = min(self._choices_at[index], key=itemgetter(0))[0]

    def _ends_closed(self) -> bool:
        """Whether the text ends like a finished call: with a closing tag, and with no block left open."""
        kinds = [tag.kind for tag in self.tags]
        if not kinds or kinds[-1] not in (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK) or self._following[-1] is not Kind.END:
            return False
        return kinds.count(Kind.OPEN_BLOCK) <= kinds.count(Kind.CLOSE_BLOCK)

    def _add_nested_costs(self, index: int) -> None:
        """Carry on what stands in a value whole, up to the tag that closes it."""
        kind, following = self.tags[index].kind, index + 1
        behind = self._in_value[following]
        in_parameter, in_invoke = self._in_inner_parameter[following], self._in_inner_invoke[following]
        in_invoke_value = self._in_inner_invoke_value[following]
        match kind:
            case Kind.CLOSE_PARAMETER:
                in_parameter, in_invoke_value = behind, in_invoke
            case Kind.OPEN_PARAMETER:
                in_invoke = in_invoke_value
            case Kind.CLOSE_INVOKE:
                in_invoke = behind
        self._in_inner_parameter[index] = in_parameter
        self._in_inner_invoke[index] = in_invoke
        self._in_inner_invoke_value[index] = in_invoke_value

    def _cost_outside(self, index: int, kind: Kind) -> int:
        following = index + 1
        rest = self._outside[following]
        match kind:
            case Kind.OPEN_BLOCK:
                return min(self._in_block[following], rest + _Cost.MENTION)
            case Kind.OPEN_INVOKE:
                return min(self._enter_invoke(index), rest + _Cost.MENTION)
            case Kind.CLOSE_BLOCK:
                return rest + _Cost.STRAY_TEXT
            case Kind.CLOSE_INVOKE | Kind.CLOSE_PARAMETER | Kind.OPEN_PARAMETER:
                return rest + _Cost.LEFTOVER
            case _:
                return rest

    def _cost_in_block(self, index: int, kind: Kind) -> int:
        match kind:
            case Kind.CLOSE_BLOCK:
                return self._outside[index + 1]
            case Kind.OPEN_BLOCK:
                return self._in_block[index + 1]
            case _:
                return self._outside[index]

    def _enter_invoke(self, index: int) -> int:
        text = _Cost.STRAY_TEXT if self._following[index] is Kind.TEXT else _Cost.FREE
        return self._in_invoke[index + 1] + text

    def _cost_in_invoke(self, index: int, kind: Kind) -> int:
        following = index + 1
        match kind:
            case Kind.OPEN_PARAMETER:
                return self._in_value[following]
            case Kind.OPEN_ELEMENT:
                behind = self._behind_element.get(self.tags[index].name)
                return self._in_invoke[following] + _Cost.STRAY_TAG if behind is None else behind
            case Kind.GROUP:
                return self._in_invoke[following]
            case Kind.CLOSE_INVOKE:
                text = _Cost.TEXT_BEHIND_INVOKE if self._following[index] is Kind.TEXT else _Cost.FREE
                return self._in_block[following] + text
            case Kind.CLOSE_BLOCK | Kind.OPEN_INVOKE | Kind.OPEN_BLOCK:
                return self._cost_in_block(index, kind) + _Cost.INVOKE_UNCLOSED
            case _:
                return self._in_invoke[following] + _Cost.STRAY_TAG

    def _choices(self, index: int) -> list[tuple[int, _Choice]]:
        """What a tag in a value can be, each with the cost of reading on from there."""
        tag, kept = self.tags[index], self._in_value[index + 1]
        match tag.kind:
            case Kind.CLOSE_PARAMETER:
                closed = self._cost_behind_value(index)
                return [(closed, _Choice.CLOSE), (kept + _Cost.PARTNERLESS_CLOSING, _Choice.KEEP)]
            case Kind.GROUP | Kind.CLOSE_ELEMENT | Kind.CLOSE_OTHER if self._following[index] in _BEHIND_VALUE:
                closed = self._in_invoke[index + 1] + _Cost.MISNAMED_CLOSING
                return [(closed, _Choice.CLOSE), (kept, _Choice.KEEP)]
            case Kind.OPEN_PARAMETER:
                inner = [
                    (self._in_inner_parameter[index + 1], _Choice.PARAMETER),
                    (kept + _Cost.PARTNERLESS_OPENING, _Choice.KEEP),
                ]
                return self._end_before(index) + inner if tag.name in self._parameters else inner
            case Kind.CLOSE_INVOKE:
                ends = self._following[index] in _ENDS_INVOKE or self._starts_line(tag)
                inner = [(kept + _Cost.PARTNERLESS_CLOSING, _Choice.KEEP)]
                return self._end_before(index) + inner if ends else inner
            case Kind.OPEN_INVOKE:
                inner = [
                    (self._in_inner_invoke[index + 1], _Choice.INVOKE),
                    (kept + _Cost.PARTNERLESS_CLOSING, _Choice.KEEP),
                ]
                return self._end_before(index) + inner if self._starts_line(tag) else inner
            case Kind.CLOSE_BLOCK if self._following[index] is Kind.END:
                return [*self._end_before(index), (kept, _Choice.KEEP)]
            case _:
                return [(kept, _Choice.KEEP)]

    def _end_before(self, index: int) -> list[tuple[int, _Choice]]:
        """The choice that a value ends before a tag, its own closing tag missing."""
        tag = self.tags[index]
        cost = self._cost_in_invoke(index, tag.kind)
        match tag.kind:
            case Kind.OPEN_PARAMETER:
                cost += _Cost.PARAMETER_UNCLOSED if self._starts_line(tag) else _Cost.PARAMETER_UNCLOSED_INLINE
            case Kind.CLOSE_INVOKE:
                cost += _Cost.PARAMETER_UNCLOSED_AT_END
            case _:
                cost += _Cost.PARAMETER_UNCLOSED_AT_END + _Cost.INVOKE_UNCLOSED
        return [(cost, _Choice.END)]

    def _cost_behind_value(self, index: int) -> int:
        rest = self._in_invoke[index + 1]
        match self._following[index]:
            case Kind.OPEN_PARAMETER if not self._is_known(self.tags[index + 1]):
                return rest + _Cost.UNKNOWN_NEXT
            case Kind.TEXT:
                return rest + (_Cost.TEXT_BEFORE_NEXT if self._begins_next(index + 1) else _Cost.TEXT_BEHIND_VALUE)
            case _:
                return rest

    def _is_known(self, tag: Tag) -> bool:
        """Whether some tool has the parameter that a tag opens; one that the writer encoded is never text."""
        return tag.name in self._parameters or tag.encoded

    def _begins_next(self, index: int) -> bool:
        """Whether a tag opens a parameter that some tool has, on a line of its own."""
        tag = self.tags[index] if index < len(self.tags) else None
        known = tag and tag.kind is Kind.OPEN_PARAMETER and tag.name in self._parameters
        return bool(tag and known and self._starts_line(tag))

    # --- reading ------------------------------------------------------------------------------------------------------

    def openings(self) -> list[int]:
        """The tags, by index, at which calls can begin."""
        return self._openings

    def _opens(self, index: int) -> bool:
        kind, behind = self.tags[index].kind, self._following[index]
        if kind is Kind.OPEN_BLOCK:
            return behind in _BEHIND_BLOCK_TAG
        return kind is Kind.OPEN_INVOKE and (behind in _BEHIND_INVOKE_TAG or bool(self._object_behind(index)))

    def _object_behind(self, index: int) -> dict[str, Any]:
        """The arguments, where they stand behind the tag of an invoke as one JSON object."""
        if self._following[index] is not Kind.TEXT:
            return {}
        end = self.tags[index + 1].start if index + 1 < len(self.tags) else len(self.text)
        text = self.text[self.tags[index].end : end].strip()
        if not text.startswith("{") or not text.endswith("}"):
            return {}
        try:
            value = loose_json.read_value(text).value
        except loose_json.Unreadable:
            return {}
        return value if isinstance(value, dict) else {}

    def read(self, opening: int) -> CallBlock:
        """Read calls from an opening tag on, for as long as one follows another."""
        start = self.tags[opening].start
        calls: list[Call] = []
        index = opening
        end = self.tags[opening].end
        while (kind := self._kind(index)) in _BETWEEN_INVOKES:
            if kind is Kind.OPEN_INVOKE:
                call, index = self._read_invoke(index)
                if call is None:
                    return CallBlock(tuple(calls), start, len(self.text), truncated=True)
                calls.append(call)
            else:
                index += 1
            end = self.tags[index - 1].end
            if self._following[index - 1] is Kind.TEXT:
                break
        truncated = not calls and not self.text[end:].strip() and self._kind(index - 1) is Kind.OPEN_BLOCK
        return CallBlock(tuple(calls), start, end, truncated)

    def _kind(self, index: int) -> Kind:
        return self.tags[index].kind if index < len(self.tags) else Kind.END

    def _read_invoke(self, index: int) -> tuple[Call | None, int]:
        """Read the call whose tag is at `index`: the call, or None if it is cut off, and the index behind it."""
        name = self.tags[index].name
        tool = repair.resolve_tool(name, self.tools) or ""
        known = self._known.get(tool, {})
        given = {key: value for key, value in self.tags[index].attributes if key in known}
        arguments: dict[str, Any] = {**given, **self._object_behind(index)}
        index += 1
        while (kind := self._kind(index)) not in _ENDS_PARAMETERS:
            if kind is Kind.END:
                return None, index
            if kind in (Kind.OPEN_PARAMETER, Kind.OPEN_ELEMENT):
                opening = self.tags[index]
                end, index = self._find_value_end(index, known, arguments)
                if end is None:
                    return None, index
                value = dict(opening.attributes).get("value")
                arguments[opening.name] = self._value(opening, end, tool) if value is None else value
            else:
                index += 1
        return Call(name, arguments), index + (kind is Kind.CLOSE_INVOKE)

    def _find_value_end(self, index: int, known: Collection[str], given: Container[str]) -> tuple[int | None, int]:
        """Where the value of the parameter at `index` ends in the text, None if it is cut off, and the index behind."""
        opening = self.tags[index]
        if opening.kind is Kind.OPEN_ELEMENT:
            return self._find_element_end(index)
        if ("encoding", "json") in opening.attributes:  # holds no tags: each `<` is escaped
            index = next(
                (at for at in range(index + 1, len(self.tags)) if self._kind(at) is Kind.CLOSE_PARAMETER), index
            )
            return (self.tags[index].start, index + 1) if self.tags[index] != opening else (None, len(self.tags))
        index += 1
        nested: Kind | None = None  # what closes the call or parameter that stands in the value whole
        while index < len(self.tags):
            tag = self.tags[index]
            if nested:
                nested = None if tag.kind is nested else nested
                index += 1
                continue
            choices = [
                choice
                for choice in self._choices_at[index]
                if self._makes_sense(index, choice[1], opening, known, given)
            ]
            choice = min(choices, key=itemgetter(0))[1]  # of equal ones the first, which ends the value
            match choice:
                case _Choice.CLOSE:
                    return tag.start, index + 1
                case _Choice.END:
                    return self._end_of_line_before(tag), index
                case _Choice.PARAMETER:
                    nested = Kind.CLOSE_PARAMETER
                case _Choice.INVOKE:
                    nested = Kind.CLOSE_INVOKE
            index += 1
        return None, len(self.tags)

    def _end_of_line_before(self, tag: Tag) -> int:
        """Where a value ends that nothing closes: before the line on which the next tag stands."""
        line = self._start_of_line(tag)
        on_own_line = self.text[line - 1 : line] == "\n" and not self.text[line : tag.start].strip()
        return line - 1 if on_own_line else tag.start

    def _makes_sense(
        self, index: int, choice: _Choice, opening: Tag, known: Collection[str], given: Container[str]
    ) -> bool:
        """Whether a choice fits this very tool, which the costs do not look at."""
        tag = self.tags[index]
        if choice is _Choice.END and tag.kind is Kind.OPEN_PARAMETER:
            return tag.name in known and tag.name not in given and tag.name != opening.name
        if choice is not _Choice.CLOSE:
            return True
        if tag.kind is Kind.CLOSE_ELEMENT:
            return tag.name.lower() == opening.name.lower()
        following = self.tags[index + 1] if self._following[index] is Kind.OPEN_PARAMETER else None
        if not following or not known or following.name in known or following.encoded:
            return True
        # A parameter that the tool does not have: the model's mistake, or part of a text of several lines.
        return self._starts_line(following) and self.text.find("\n", opening.end, tag.start) < 0

    def _find_element_end(self, index: int) -> tuple[int | None, int]:
        name = self.tags[index].name
        for closing in range(index + 1, len(self.tags)):
            tag = self.tags[closing]
            behind = self._following[closing]
            if tag.kind is Kind.CLOSE_ELEMENT and tag.name == name and behind in _BEHIND_VALUE:
                return tag.start, closing + 1
        return None, len(self.tags)

    def _value(self, opening: Tag, end: int, tool: str) -> Any:
        raw = self.text[opening.end : end]
        if opening.encoded:
            return _parse_json(raw, json_schema.ALL_TYPES, otherwise=raw)
        root = self.tools[tool].input_schema if tool else True
        known = self._known.get(tool, {})
        schema = known.get(self._meant[tool].meant(opening.name), True) if tool else True
        return _read_value(_unframe(raw, self.text[self._start_of_line(opening) : opening.start]), schema, root)


_WRAPPED = re.compile(r"\s*(?:<value>(.*)</value>|<!\[CDATA\[(.*)\]\]>)\s*", re.DOTALL)


def _unframe(raw: str, indent: str) -> str:
    """The value between two tags: without the newlines that only put it on lines of its own.

    Args:
        raw: what stands between the tags.
        indent: what stands before the opening tag on its line; a closing tag may be indented likewise.
    """
    wrapped = _WRAPPED.fullmatch(raw)
    if wrapped and raw.count("<value>") <= 1:
        raw = wrapped[1] if wrapped[2] is None else wrapped[2]
    newline = "\r\n" if raw.startswith("\r\n") else "\n"
    if not raw.startswith(newline):
        return raw
    body = raw[len(newline) :]
    if indent and not indent.strip() and body.endswith(newline + indent):
        return body.removesuffix(newline + indent)
    return body.removesuffix(newline)


def _read_value(text: str, schema: Schema, root: Schema) -> Any:
    """The value that a parameter's text stands for: raw where only strings are allowed, else JSON if it is any."""
    return _read_as(text, json_schema.types(schema, root))


def _read_as(text: str, allowed: frozenset[str]) -> Any:
    return text if allowed == {"string"} else _parse_json(text, allowed, otherwise=text)


def _parse_json(text: str, allowed: frozenset[str], *, otherwise: str) -> Any:
    try:
        value = loose_json.loads(text)
    except ValueError:
        return otherwise
    return value if json_schema.type_of(value) in allowed else otherwise
