"""What it costs to read the tags of a text in one way or another: the cheapest reading is the one that was meant.

The tags of a text can be read in many ways, because a value is raw and may hold any of them. For each tag, from the
last to the first, and for each state that reading can be in before it, `ReadingCosts.rest` has the cost of the cheapest
way to read the rest of the text. With this table a reader need not try and go back: at each tag in a value it takes the
cheapest choice, and of equal ones the first, which ends the value. So reading takes time in proportion to the text,
whatever stands in it.
"""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, IntEnum, auto
from operator import itemgetter
from typing import TypeAlias

from claude_proxy.core.calls.tags import BEGINS_PARAMETER, BEHIND_VALUE, ENDS_INVOKE, Kind, Tag, TaggedText


class State(IntEnum):
    """Where reading can be before a tag: a column of the table."""

    OUTSIDE = 0  # of all calls
    IN_BLOCK = 1  # between invokes
    IN_INVOKE = 2  # between parameters
    IN_VALUE = 3
    # The value holds a whole parameter, or a whole invoke, whose tags are all text:
    IN_QUOTED_PARAMETER = 4
    IN_QUOTED_INVOKE = 5
    IN_QUOTED_INVOKE_VALUE = 6


class Weight:
    """What each deviation from the canonical form costs; the figures only order readings.

    A tag that stands in a value is cheap where it has its partner there, and expensive where it would have made sense
    as the value's end; a tag that must be made up costs more, one that is left over most.
    """

    FREE = 0
    # Harmless: models chat behind a call, and some close a parameter by a name of their own.
    TEXT_BEHIND_INVOKE = 1
    MISNAMED_CLOSING = 2  # </command> for </parameter>
    # A value ends before a parameter that no tool has: rather the model's mistake than text, but a closing tag whose
    # next parameter is known is the better end.
    UNKNOWN_NEXT = 2
    # A forgotten </parameter>. On a line of its own the next parameter is hardly text; in the middle of a line it may
    # well be, so it costs more than leaving the tag in the value without its partner (PARTNERLESS_OPENING).
    PARAMETER_UNCLOSED = 3
    PARTNERLESS_OPENING = 4
    PARAMETER_UNCLOSED_INLINE = 5
    STRAY_TEXT = 4  # between parameters, or a lone </function_calls>: one slip
    # A closing tag in a value that opens nothing there. More than any slip above: such a tag nearly always ends
    # something. Less than whatever follows, which would need two slips at once.
    PARTNERLESS_CLOSING = 6
    # A forgotten </parameter> before </invoke>, or a forgotten </invoke>: more than PARTNERLESS_CLOSING, so a value
    # may hold such a tag if it is closed properly further on.
    PARAMETER_UNCLOSED_AT_END = 8
    INVOKE_UNCLOSED = 8
    # Text between a closing tag and what follows means that the tag did not close, less surely so if a known parameter
    # follows on a line of its own. Both are more than PARTNERLESS_CLOSING: if the rest can be read in two ways, the tag
    # is text.
    TEXT_BEFORE_NEXT = 8
    TEXT_BEHIND_VALUE = 14
    STRAY_TAG = 12  # between parameters: more than a tag in a value costs, so the value goes on as far as it can
    MENTION = 16  # an opening tag that opens nothing: a call is the likelier meaning
    LEFTOVER = 40  # a tag outside any call: more than several slips at once, so a reading uses each tag it can
    # The text ends inside a call. Where it is known to have been cut off, that is expected, and no slip may be assumed
    # in order to avoid it. Where it does not end like a finished call, it weighs as a forgotten tag. Where it does, no
    # reading may leave the call open if another closes it, whatever that costs.
    SURELY_TRUNCATED = 1
    LIKELY_TRUNCATED = 8
    TRUNCATED = 1_000_000
    NEVER = 1_000_000_000  # what is quoted whole must be closed


class TagRole(Enum):
    """What a tag in a value can be."""

    CLOSE = auto()  # closes the value, and belongs to it
    END = auto()  # ends the value, whose own closing tag is missing
    PARAMETER = auto()  # begins a parameter that stands in the value whole
    INVOKE = auto()  # begins an invoke that stands in the value whole
    KEEP = auto()  # is text of the value


Row: TypeAlias = list[int]  # the costs before one tag, by State
Choices: TypeAlias = list[tuple[int, TagRole]]  # each with the cost of reading on from there

# Plain names, because looking a member up in its enumeration is slow, and this is done several times for each tag.
_OUTSIDE, _IN_BLOCK, _IN_INVOKE, _IN_VALUE, _IN_PARAMETER, _IN_INNER_INVOKE, _IN_INNER_VALUE = map(int, State)

_BEHIND_ELEMENT = (*BEGINS_PARAMETER, Kind.CLOSE_INVOKE)


class ReadingCosts:
    """The costs of reading a text.

    Attributes:
        rest: the table: for each tag, and last for the end of the text, what the rest costs by `State`.
        choices: for each tag what it can be if it stands in a value.
    """

    def __init__(self, text: TaggedText, parameters: Container[str], *, cut: bool) -> None:
        """Fill the table, given the parameters of all offered tools, and whether the text is known to be cut off."""
        self._text = text
        self._parameters = parameters
        self._behind_element: dict[str, int] = {}  # cost of the rest behind the cheapest closing tag of that name
        unfinished = _cost_of_unfinished(text, cut=cut)
        row = [0, 0, unfinished, unfinished, Weight.NEVER, Weight.NEVER, Weight.NEVER]
        rows, choices = [row], []
        for index in range(len(text.tags) - 1, -1, -1):
            kind = text.tags[index].kind
            row, of_value = self._row(index, kind, behind=row)
            rows.append(row)
            choices.append(of_value)
        rows.reverse()
        choices.reverse()
        self.rest: list[Row] = rows
        self.choices: list[Choices] = choices

    def _row(self, index: int, kind: Kind, behind: Row) -> tuple[Row, Choices]:
        """The costs before a tag, and what it can be in a value, given the costs behind it."""
        if kind is Kind.CLOSE_ELEMENT and self._text.following[index] in _BEHIND_ELEMENT:
            name, cost = self._text.tags[index].name, behind[_IN_INVOKE]
            self._behind_element[name] = min(self._behind_element.get(name, cost), cost)
        outside = self._outside(index, kind, behind)
        in_block = outside
        if kind in (Kind.OPEN_BLOCK, Kind.CLOSE_BLOCK):
            in_block = behind[_IN_BLOCK] if kind is Kind.OPEN_BLOCK else behind[_OUTSIDE]
        in_invoke = self._in_invoke(index, kind, behind, in_block)
        choices = self._in_value(index, behind, in_invoke)
        in_value = min(choices, key=itemgetter(0))[0]
        return [outside, in_block, in_invoke, in_value, *_quoted(kind, behind)], choices

    def _outside(self, index: int, kind: Kind, behind: Row) -> int:
        match kind:
            case Kind.OPEN_BLOCK:
                return min(behind[_IN_BLOCK], behind[_OUTSIDE] + Weight.MENTION)
            case Kind.OPEN_INVOKE:
                stray = Weight.STRAY_TEXT if self._text.following[index] is Kind.TEXT else Weight.FREE
                return min(behind[_IN_INVOKE] + stray, behind[_OUTSIDE] + Weight.MENTION)
            case Kind.CLOSE_BLOCK:
                return behind[_OUTSIDE] + Weight.STRAY_TEXT
            case Kind.CLOSE_INVOKE | Kind.CLOSE_PARAMETER | Kind.OPEN_PARAMETER:
                return behind[_OUTSIDE] + Weight.LEFTOVER
            case _:
                return behind[_OUTSIDE]

    def _in_invoke(self, index: int, kind: Kind, behind: Row, in_block: int) -> int:
        match kind:
            case Kind.OPEN_PARAMETER:
                return behind[_IN_VALUE]
            case Kind.OPEN_ELEMENT:
                closed = self._behind_element.get(self._text.tags[index].name)
                return behind[_IN_INVOKE] + Weight.STRAY_TAG if closed is None else closed
            case Kind.GROUP:
                return behind[_IN_INVOKE]
            case Kind.CLOSE_INVOKE:
                text = Weight.TEXT_BEHIND_INVOKE if self._text.following[index] is Kind.TEXT else Weight.FREE
                return behind[_IN_BLOCK] + text
            case Kind.CLOSE_BLOCK | Kind.OPEN_INVOKE | Kind.OPEN_BLOCK:
                return in_block + Weight.INVOKE_UNCLOSED
            case _:
                return behind[_IN_INVOKE] + Weight.STRAY_TAG

    def _in_value(self, index: int, behind: Row, in_invoke: int) -> Choices:
        """What a tag in a value can be; `in_invoke` is the cost before it once the value has ended."""
        tag, kept = self._text.tags[index], behind[_IN_VALUE]
        match tag.kind:
            case Kind.CLOSE_PARAMETER:
                closed = self._behind_value(index, behind)
                return [(closed, TagRole.CLOSE), (kept + Weight.PARTNERLESS_CLOSING, TagRole.KEEP)]
            case Kind.GROUP | Kind.CLOSE_ELEMENT | Kind.CLOSE_OTHER if self._text.following[index] in BEHIND_VALUE:
                closed = behind[_IN_INVOKE] + Weight.MISNAMED_CLOSING
                return [(closed, TagRole.CLOSE), (kept, TagRole.KEEP)]
            case Kind.OPEN_PARAMETER:
                partnerless = (kept + Weight.PARTNERLESS_OPENING, TagRole.KEEP)
                inner = [(behind[_IN_PARAMETER], TagRole.PARAMETER), partnerless]
                return [self._end_before(tag, in_invoke), *inner] if tag.name in self._parameters else inner
            case Kind.CLOSE_INVOKE:
                ends = self._text.following[index] in ENDS_INVOKE or self._text.starts_line(tag)
                inner = [(kept + Weight.PARTNERLESS_CLOSING, TagRole.KEEP)]
                return [self._end_before(tag, in_invoke), *inner] if ends else inner
            case Kind.OPEN_INVOKE:
                partnerless = (kept + Weight.PARTNERLESS_CLOSING, TagRole.KEEP)
                inner = [(behind[_IN_INNER_INVOKE], TagRole.INVOKE), partnerless]
                return [self._end_before(tag, in_invoke), *inner] if self._text.starts_line(tag) else inner
            case Kind.CLOSE_BLOCK if self._text.following[index] is Kind.END:
                return [self._end_before(tag, in_invoke), (kept, TagRole.KEEP)]
            case _:
                return [(kept, TagRole.KEEP)]

    def _end_before(self, tag: Tag, in_invoke: int) -> tuple[int, TagRole]:
        """The choice that a value ends before a tag, its own closing tag missing."""
        match tag.kind:
            case Kind.OPEN_PARAMETER if self._text.starts_line(tag):
                missing = Weight.PARAMETER_UNCLOSED
            case Kind.OPEN_PARAMETER:
                missing = Weight.PARAMETER_UNCLOSED_INLINE
            case Kind.CLOSE_INVOKE:
                missing = Weight.PARAMETER_UNCLOSED_AT_END
            case _:
                missing = Weight.PARAMETER_UNCLOSED_AT_END + Weight.INVOKE_UNCLOSED
        return in_invoke + missing, TagRole.END

    def _behind_value(self, index: int, behind: Row) -> int:
        """The cost of the rest if a closing tag closes the value."""
        rest, following = behind[_IN_INVOKE], self._text.following[index]
        if following not in (Kind.OPEN_PARAMETER, Kind.TEXT):
            return rest
        opens_next = self._text.kind(index + 1) is Kind.OPEN_PARAMETER
        is_known = opens_next and self._text.tags[index + 1].name in self._parameters
        if following is Kind.OPEN_PARAMETER:  # one that the writer encoded is never text
            return rest if is_known or self._text.tags[index + 1].encoded else rest + Weight.UNKNOWN_NEXT
        begins_next = is_known and self._text.starts_line(self._text.tags[index + 1])
        return rest + (Weight.TEXT_BEFORE_NEXT if begins_next else Weight.TEXT_BEHIND_VALUE)


def _cost_of_unfinished(text: TaggedText, *, cut: bool) -> int:
    """What it costs that the text ends inside a call."""
    if cut:
        return Weight.SURELY_TRUNCATED
    kinds = [tag.kind for tag in text.tags]
    if not kinds or kinds[-1] not in (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK) or text.following[-1] is not Kind.END:
        return Weight.LIKELY_TRUNCATED
    ends_closed = kinds.count(Kind.OPEN_BLOCK) <= kinds.count(Kind.CLOSE_BLOCK)
    return Weight.TRUNCATED if ends_closed else Weight.LIKELY_TRUNCATED


def _quoted(kind: Kind, behind: Row) -> Row:
    """The costs inside what stands in a value whole, up to the tag that closes it: there the value goes on."""
    _, _, _, in_value, in_parameter, in_invoke, in_invoke_value = behind
    match kind:
        case Kind.CLOSE_PARAMETER:
            return [in_value, in_invoke, in_invoke]
        case Kind.OPEN_PARAMETER:
            return [in_parameter, in_invoke_value, in_invoke_value]
        case Kind.CLOSE_INVOKE:
            return [in_parameter, in_value, in_invoke_value]
        case _:
            return [in_parameter, in_invoke, in_invoke_value]
