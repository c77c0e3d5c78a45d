"""Edit mending: an edit's old text that no file can hold is corrected by what the conversation has shown.

An edit names the text it replaces, and fails if the file does not hold it. Two mistakes are common. Where a model
wrote an entity without the armour, the module has decoded it, and the edit looks for `∑` in a file that holds `&sum;`.
And a model copies the line numbers that a file reader puts before each line. Both are mended only where the
conversation has not shown the old text as it stands, but has shown what it must have been; the new text is
mended alike.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from claude_proxy.core.messages.content import MessageParam, Text, ToolResult, ToolUse
from claude_proxy.core.prompt import armour

_OLD = re.compile(r"old_?(?:str|string|text)", re.IGNORECASE)
_NEW = re.compile(r"new_?(?:str|string|text)", re.IGNORECASE)
_NUMBERED = re.compile(r"[ \t]*(\d{1,9})(?:\t|→)(.*)")
_LINE_NUMBER = re.compile(r"^[ \t]*\d+(?:\t|→)", re.MULTILINE)


def mend_edit(arguments: Mapping[str, Any], shown: Callable[[], Iterable[str]]) -> dict[str, Any] | None:
    """The arguments of an edit, mended; None where there is nothing to mend.

    Args:
        arguments: of any call.
        shown: the texts that the conversation has shown, as they stand in their files; asked for only where there
            could be a mistake, and only up to one that shows that there is none.
    """
    old = next((value for name, value in arguments.items() if _OLD.fullmatch(name) and isinstance(value, str)), "")
    bare = _without_numbers(old)
    if not (_could_be_decoded(old) or bare is not None):
        return None
    texts: list[str] = []
    for text in shown():
        if old in text:
            return None
        texts.append(text)
    if bare and any(bare in text for text in texts):
        return _with_texts(arguments, _without_numbers)
    encoded = [text for text in texts if "&" in text]
    twins = {twin for text in encoded for twin in _twins(old, text)}
    twins = twins or {twin for text in encoded for twin in _half_decoded_twins(old, text)}
    if len(twins) != 1:
        return None
    twin = twins.pop()
    lines = dict(zip(old.split("\n"), twin.split("\n"), strict=False))
    return _with_texts(
        arguments,
        lambda text: twin if text == old else "\n".join(lines.get(line, line) for line in text.split("\n")),
    )


def _with_texts(arguments: Mapping[str, Any], mended: Callable[[str], str | None]) -> dict[str, Any]:
    """The arguments with the old and the new text mended, where there is something to mend."""
    texts = {
        name: text
        for name, value in arguments.items()
        if isinstance(value, str)
        and (_OLD.fullmatch(name) or _NEW.fullmatch(name))
        and (text := mended(value)) is not None
    }
    return {**arguments, **texts}


def _could_be_decoded(text: str) -> bool:
    """Whether a text holds a character that an entity stands for; `&#39;` is written where a name is lacking."""
    return armour.could_be_decoded(text) or "'" in text


def _without_numbers(text: str) -> str | None:
    """A text without the line numbers before its lines; None if they are not all numbered, one after the other."""
    lines = [_NUMBERED.fullmatch(line) for line in text.split("\n")]
    numbers = [int(line[1]) for line in lines if line]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(lines))):
        return None
    return "\n".join(line[2] for line in lines if line)


def _twins(old: str, text: str) -> Iterable[str]:
    """The stretches of a text that read as `old` once they are decoded."""
    decoded, ends = _decode(text)
    position = decoded.find(old)
    while position >= 0:
        yield text[_original_position(position, ends) : _original_position(position + len(old), ends)]
        position = decoded.find(old, position + 1)


def _half_decoded_twins(old: str, text: str) -> Iterable[str]:
    """The stretches of a text that read as `old` once some of their entities are decoded."""
    whole, _ = _decode(old)
    return (twin for twin in _twins(whole, text) if _is_half_decoded(old, twin))


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


def _decode(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text decoded once, and for the end of each entity its position there and in the text."""
    parts: list[str] = []
    ends: list[tuple[int, int]] = []
    length = last = 0
    for start, end, character in armour.find(text):
        parts += [text[last:start], character]
        length += start - last + len(character)
        ends.append((length, end))
        last = end
    return "".join([*parts, text[last:]]), ends


def _original_position(position: int, ends: list[tuple[int, int]]) -> int:
    """The position in a text that belongs to one in the decoded text."""
    index = bisect_right(ends, (position, 1 << 62)) - 1
    return position if index < 0 else ends[index][1] + position - ends[index][0]


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
