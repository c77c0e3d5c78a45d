"""Edit mending: an edit's old text that no file can hold is corrected by what the conversation has shown.

An edit names the text it replaces, and fails if the file does not hold it. Two mistakes are common. Where a model
wrote an entity without the armour, the module has decoded it, and the edit looks for `∑` in a file that holds `&sum;`.
And a model copies the line numbers that a file reader puts before each line. Both are mended only where the
conversation has not shown the old text as it stands, but has shown what it must have been, and where it tells how the
new text is meant, too: an edit is mended as a whole or goes out as it was written.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from claude_proxy.core.messages.content import MessageParam, Text, ToolResult, ToolUse
from claude_proxy.core.prompt import armour

_OLD = re.compile(r"old_?(?:str|string|text)", re.IGNORECASE)
_NEW = re.compile(r"new_?(?:str|string|text)", re.IGNORECASE)
_NUMBERED = re.compile(r"[ \t]*(\d{1,9})(?:\t|→)(.*)")
_LINE_NUMBER = re.compile(r"^[ \t]*\d+(?:\t|→)", re.MULTILINE)


class _InDoubt(Exception):
    """An edit may have been meant in two ways."""


def mend_edit(arguments: Mapping[str, Any], shown: Shown) -> dict[str, Any] | None:
    """The arguments of any call, mended if it is an edit; None where there is nothing to mend, or it is in doubt."""
    old = next((value for name, value in arguments.items() if _OLD.fullmatch(name) and isinstance(value, str)), "")
    bare = _without_numbers(old)
    if bare is None and not (armour.could_be_decoded(old) or "'" in old):  # `&#39;` is written where a name is lacking
        return None
    if not shown.may_search() or shown.holds(old):
        return None
    try:
        mended = _without_numbers_alike if bare and shown.holds(bare) else _Encoding(old, *shown.twin(old)).of
        return {**arguments, **{name: mended(text) for name, text in arguments.items() if _is_text_of_edit(name, text)}}
    except _InDoubt:
        return None


def _is_text_of_edit(name: str, value: Any) -> bool:
    return isinstance(value, str) and bool(_OLD.fullmatch(name) or _NEW.fullmatch(name))


def _without_numbers(text: str) -> str | None:
    """A text without the line numbers before its lines; None if they are not all numbered, one after the other."""
    lines = [_NUMBERED.fullmatch(line) for line in text.split("\n")]
    numbers = [int(line[1]) for line in lines if line]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(lines))):
        return None
    return "\n".join(line[2] for line in lines if line)


def _without_numbers_alike(text: str) -> str:
    bare = _without_numbers(text)
    if bare is None and any(map(_NUMBERED.fullmatch, text.split("\n"))):
        raise _InDoubt  # whether these numbers, which do not follow each other, belong to the text
    return text if bare is None else bare


# --- entities ---------------------------------------------------------------------------------------------------------


class _Decoded:
    """A text, and what it is once it has been decoded."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._ends: list[tuple[int, int]] = []  # of the entities: where each ends when decoded, and in the text
        parts: list[str] = []
        length = last = 0
        for start, end, character in armour.find(text):
            parts += [text[last:start], character]
            length += start - last + len(character)
            self._ends.append((length, end))
            last = end
        self.decoded = "".join([*parts, text[last:]])

    def twins(self, old: str) -> Iterator[str]:
        """The stretches of the text that read as `old` once they are decoded.

        Raises:
            _InDoubt: so many of them overlap that time would outgrow the text.
        """
        left = 4 * len(self.decoded)  # characters that may be compared
        position = self.decoded.find(old)
        while position >= 0:
            left -= len(old)
            if left < 0:
                raise _InDoubt
            yield self.text[self.place(position) : self.place(position + len(old))]
            position = self.decoded.find(old, position + 1)

    def place(self, position: int) -> int:
        """The position in the text that belongs to one in the decoded text."""
        index = bisect_right(self._ends, (position, 1 << 62)) - 1
        return position if index < 0 else self._ends[index][1] + position - self._ends[index][0]

    @cached_property
    def forms(self) -> Mapping[str, set[str]]:
        """How the text writes each character that it holds: as it is, as some entity, or both."""
        forms: dict[str, set[str]] = {}
        last = 0
        for start, end, character in armour.find(self.text):
            forms.setdefault(character, set()).add(self.text[start:end])
            for raw in set(self.text[last:start]):
                forms.setdefault(raw, set()).add(raw)
            last = end
        for raw in set(self.text[last:]):
            forms.setdefault(raw, set()).add(raw)
        return forms


def _is_half_decoded(text: str, twin: str) -> bool:
    """Whether a text is its twin, but that for some entities it has the characters they stand for."""
    position = last = 0
    for start, end, character in armour.find(twin):
        between, entity = twin[last:start], twin[start:end]
        if not text.startswith(between, position):
            return False
        position += len(between)
        written = entity if text.startswith(entity, position) else character
        if not text.startswith(written, position):
            return False
        position += len(written)
        last = end
    return text[position:] == twin[last:]


def _length_shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (mine, yours) in pairs if mine != yours), min(len(one), len(other)))


class _Encoding:
    """How the text of a file writes what an edit has lost the entities of."""

    def __init__(self, old: str, twin: str, source: _Decoded) -> None:
        self._old = old
        self._twin = _Decoded(twin)
        self._source = source
        self._half = self._twin.decoded != old  # the old text has kept some entities, so the new one may have, too
        self._escaped = any(armour.find(old))
        old_lines, twin_lines = old.split("\n"), twin.split("\n")
        if len(old_lines) != len(twin_lines):
            raise _InDoubt  # an entity for the end of a line
        pairs = set(zip(old_lines, twin_lines, strict=True))
        lines = dict(pairs)
        self._lines = lines if len(lines) == len(pairs) else {}
        self._in_order = [(line, _Decoded(twin_line)) for line, twin_line in zip(old_lines, twin_lines, strict=True)]

    def of(self, text: str) -> str:
        """A text of the edit as the file would have it.

        Raises:
            _InDoubt: the file does not tell.
        """
        if text == self._old:
            return self._twin.text
        lines = text.split("\n")
        one_by_one = len(lines) == len(self._in_order)
        return "\n".join(self._line(line, index if one_by_one else None) for index, line in enumerate(lines))

    def _line(self, line: str, index: int | None) -> str:
        if line in self._lines:
            return self._lines[line]
        try:
            return self._new(line)
        except _InDoubt:
            if index is None:
                raise
            return self._changed(line, *self._in_order[index])

    def _changed(self, line: str, replaced: str, twin: _Decoded) -> str:
        """A line that in itself is in doubt: what it shares with the one it replaces is written as there."""
        if twin.decoded != replaced:
            raise _InDoubt
        start = _length_shared(line, replaced)
        end = _length_shared(line[start:][::-1], replaced[start:][::-1])
        self._new(replaced[start : len(replaced) - end])  # in doubt, too, where what goes could be what stays
        changed = self._new(line[start : len(line) - end])
        return twin.text[: twin.place(start)] + changed + twin.text[twin.place(len(replaced) - end) :]

    def _new(self, line: str) -> str:
        """Words that the old text does not have: each character as the old text writes it, else as the file does."""
        entities = list(armour.find(line))
        if entities and not (self._half or self._escaped):
            raise _InDoubt
        parts: list[str] = []
        last = 0
        for start, end, _ in entities if self._half else ():
            parts += [*map(self._character, line[last:start]), line[start:end]]
            last = end
        return "".join([*parts, *map(self._character, line[last:])])

    def _character(self, character: str) -> str:
        forms = self._twin.forms.get(character) or self._source.forms.get(character)
        if forms is None and not (armour.could_be_decoded(character) or character == "'"):
            return character
        if forms is None or len(forms) > 1:
            raise _InDoubt
        return next(iter(forms))


# --- what the conversation has shown ----------------------------------------------------------------------------------

_MOST_SEARCHED = 50_000_000  # characters, for all edits of a reply


class Shown:
    """The texts that a conversation has shown, as they stand in their files, for all edits of one reply."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take the texts, which are gone through only where there could be a mistake."""
        self._given = texts
        self._left = _MOST_SEARCHED

    @cached_property
    def _texts(self) -> list[str]:
        return list(self._given)

    @cached_property
    def _decoded(self) -> list[_Decoded]:
        return [_Decoded(text) for text in self._texts if "&" in text]

    def may_search(self) -> bool:
        """Whether another edit may be looked for; with very many, time would outgrow reply and conversation."""
        self._left -= sum(map(len, self._texts))
        return self._left >= 0

    def holds(self, text: str) -> bool:
        """Whether a text was shown as it stands."""
        return any(text in shown for shown in self._texts)

    def twin(self, old: str) -> tuple[str, _Decoded]:
        """The one text that was shown and reads as `old` once its entities, or some of them, are decoded.

        Raises:
            _InDoubt: there is none, or several.
        """
        found = {twin: source for source in self._decoded for twin in source.twins(old)}
        if not found:
            whole = _Decoded(old).decoded
            twins = ((twin, source) for source in self._decoded for twin in source.twins(whole))
            found = {twin: source for twin, source in twins if _is_half_decoded(old, twin)}
        if len(found) != 1:
            raise _InDoubt
        return found.popitem()


_READER = re.compile(r"read|view|open", re.IGNORECASE)


def shown_texts(messages: Iterable[MessageParam]) -> Iterable[str]:
    """The texts that a conversation has shown, as they stand in their files, the latest first: it is edited most often.

    They are without the armour, and without the line numbers that a tool which reads files puts before each line.
    """
    names: dict[str, str] = {}
    shown: list[tuple[Text | ToolResult, str]] = []  # each with the name of the tool that it comes from
    for message in messages:
        for block in message.content:
            if isinstance(block, ToolUse):
                names[block.id] = block.name
            elif isinstance(block, Text):
                shown.append((block, ""))
            elif isinstance(block, ToolResult):
                shown.append((block, names.get(block.tool_use_id, "")))
    for source, name in reversed(shown):
        if isinstance(source, Text):
            yield source.text
        else:
            text = "\n".join(item.text for item in source.content if isinstance(item, Text))
            yield _LINE_NUMBER.sub("", text) if _READER.search(name) else text
