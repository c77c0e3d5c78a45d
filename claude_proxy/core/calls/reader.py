"""Reads the calls in a reply, in the canonical notation that `writer` describes, well or sloppily written.

Nothing is escaped in a call, so a value may hold the notation's own tags. A tag therefore closes something only where
what follows makes sense: `</parameter>` before a known next parameter or `</invoke>`; `</invoke>` before another
invoke, the end of the block or the end of the reply; and of the readings that are left, the one that leaves no tag
without its partner, then the earliest. What is weighed against what stands in `reading_costs`; what only the called
tool's own parameters tell is looked at here.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from operator import itemgetter
from typing import Any

from claude_proxy.core.calls import loose_json
from claude_proxy.core.calls.call import Call, CallBlock
from claude_proxy.core.calls.reading_costs import ReadingCosts, TagRole
from claude_proxy.core.calls.tags import (
    BEGINS_PARAMETER,
    BEHIND_VALUE,
    Kind,
    Tag,
    TaggedText,
    find_tags,
    may_hold_calls,
)
from claude_proxy.core.calls.values import read_json, read_value, unframe
from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.messages.content import Tool

_BEHIND_INVOKE_TAG = (*BEGINS_PARAMETER, Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.END)
_BEHIND_BLOCK_TAG = (Kind.OPEN_INVOKE, Kind.OPEN_BLOCK, Kind.END)
_BETWEEN_INVOKES = (Kind.OPEN_BLOCK, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE)
_ENDS_PARAMETERS = (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE, Kind.OPEN_BLOCK)


class Reader:
    """Reads the calls in one text.

    Attributes:
        cut: whether the text is known to have been cut off.
        tags: the tags in the text.
        openings: the indexes of those at which calls can begin.
    """

    def __init__(self, text: str, words: Vocabulary, *, cut: bool = False) -> None:
        """Find the tags, and if calls can begin at any of them, what it costs to read on from each.

        Args:
            text: the reply, as it came out of the module, which has decoded its entities.
            words: of the tools that may be called.
            cut: whether the reply is known to have been cut off.
        """
        self.cut = cut
        self.tags = find_tags(text, words) if may_hold_calls(text) else []
        self._text = text
        self._words = words
        self._tagged = TaggedText(text, self.tags)
        self._following = self._tagged.following
        self.openings = [index for index in range(len(self.tags)) if self._opens(index)]
        if self.openings:
            self._costs = ReadingCosts(self._tagged, words.parameters, cut=cut)

    def calls_at_once(self, opening: int) -> bool:
        """Whether a call begins at a tag or directly behind it, so that the tag is more than mentioned."""
        return Kind.OPEN_INVOKE in (self.tags[opening].kind, self._following[opening])

    def _opens(self, index: int) -> bool:
        kind, behind = self.tags[index].kind, self._following[index]
        if kind is Kind.OPEN_BLOCK:
            return behind in _BEHIND_BLOCK_TAG
        return kind is Kind.OPEN_INVOKE and (behind in _BEHIND_INVOKE_TAG or bool(self._object_behind(index)))

    def _object_behind(self, index: int) -> dict[str, Any]:
        """The arguments, where they stand behind the tag of an invoke as one JSON object."""
        if self._following[index] is not Kind.TEXT:
            return {}
        end = self.tags[index + 1].start if index + 1 < len(self.tags) else len(self._text)
        text = self._text[self.tags[index].end : end].strip()
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
        while (kind := self._tagged.kind(index)) in _BETWEEN_INVOKES:
            if kind is Kind.OPEN_INVOKE:
                call, index = self._read_invoke(index)
                if call is None:
                    return CallBlock(tuple(calls), start, len(self._text), truncated=True)
                calls.append(call)
            else:
                index += 1
            end = self.tags[index - 1].end
            if self._following[index - 1] is Kind.TEXT:
                break
        nothing_behind = not self._text[end:].strip()
        truncated = not calls and nothing_behind and self._tagged.kind(index - 1) is Kind.OPEN_BLOCK
        return CallBlock(tuple(calls), start, end, truncated)

    def _read_invoke(self, index: int) -> tuple[Call | None, int]:
        """Read the call whose tag is at `index`: the call, or None if it is cut off, and the index behind it."""
        name = self.tags[index].name
        tool = self._words.tool(name)
        known = self._words.known[tool.name] if tool else {}
        given = {key: value for key, value in self.tags[index].attributes if key in known}
        arguments: dict[str, Any] = {**given, **self._object_behind(index)}
        index += 1
        while (kind := self._tagged.kind(index)) not in _ENDS_PARAMETERS:
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

    def _value(self, opening: Tag, end: int, tool: Tool | None) -> Any:
        raw = self._text[opening.end : end]
        if opening.encoded:
            return read_json(raw)
        indent = self._text[self._tagged.start_of_line(opening) : opening.start]
        return read_value(unframe(raw, indent), self._words.types(tool, opening.name))

    # --- where a value ends -------------------------------------------------------------------------------------------

    def _find_value_end(self, index: int, known: Collection[str], given: Container[str]) -> tuple[int | None, int]:
        """Where the value of the parameter at `index` ends in the text, None if it is cut off, and the index behind."""
        opening = self.tags[index]
        if opening.kind is Kind.OPEN_ELEMENT or ("encoding", "json") in opening.attributes:
            closing = self._find_closing(index)
            return (self.tags[closing].start, closing + 1) if closing < len(self.tags) else (None, closing)
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
                for choice in self._costs.choices[index]
                if self._makes_sense(index, choice[1], opening, known, given)
            ]
            match min(choices, key=itemgetter(0))[1]:
                case TagRole.CLOSE:
                    return tag.start, index + 1
                case TagRole.END:
                    return self._end_of_line_before(tag), index
                case TagRole.PARAMETER:
                    nested = Kind.CLOSE_PARAMETER
                case TagRole.INVOKE:
                    nested = Kind.CLOSE_INVOKE
            index += 1
        return None, len(self.tags)

    def _makes_sense(
        self, index: int, choice: TagRole, opening: Tag, known: Collection[str], given: Container[str]
    ) -> bool:
        """Whether a choice fits this very tool, which the costs do not look at."""
        tag = self.tags[index]
        if choice is TagRole.END and tag.kind is Kind.OPEN_PARAMETER:
            return tag.name in known and tag.name not in given and tag.name != opening.name
        if choice is not TagRole.CLOSE:
            return True
        if tag.kind is Kind.CLOSE_ELEMENT:
            return tag.name.lower() == opening.name.lower()
        following = self.tags[index + 1] if self._following[index] is Kind.OPEN_PARAMETER else None
        if not following or not known or following.name in known or following.encoded:
            return True
        # A parameter that the tool does not have: the model's mistake, or part of a text of several lines.
        return self._tagged.starts_line(following) and self._text.rfind("\n", opening.end, tag.start) < 0

    def _end_of_line_before(self, tag: Tag) -> int:
        """Where a value ends that nothing closes: before the line on which the next tag stands."""
        line = self._tagged.start_of_line(tag)
        on_own_line = self._text[line - 1 : line] == "\n" and not self._text[line : tag.start].strip()
        return line - 1 if on_own_line else tag.start

    def _find_closing(self, index: int) -> int:
        """The next tag that closes a parameter whose own name is its tag, or whose value holds no tags, as encoded."""
        opening = self.tags[index]
        for closing in range(index + 1, len(self.tags)):
            tag = self.tags[closing]
            if opening.kind is not Kind.OPEN_ELEMENT:
                found = tag.kind is Kind.CLOSE_PARAMETER
            else:
                found = tag.kind is Kind.CLOSE_ELEMENT and tag.name == opening.name
                found = found and self._following[closing] in BEHIND_VALUE
            if found:
                return closing
        return len(self.tags)
