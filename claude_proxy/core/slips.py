"""Armour slips: where a model wrote an entity without the armour, and the module has decoded it.

An edit then looks for `∑` in a file that holds `&sum;`, and fails. If an edit's old text matches nothing that the
conversation has shown, but matches once what was shown is decoded, then what was shown is what was meant; and the lines
that the new text shares with the old one are meant alike.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from claude_proxy.core import entities
from claude_proxy.core.content import MessageParam, Text, ToolResult

_OLD = re.compile(r"old_?(?:str|string|text)", re.IGNORECASE)
_NEW = re.compile(r"new_?(?:str|string|text)", re.IGNORECASE)
_LINE_NUMBER = re.compile(r"^[ \t]*\d+(?:\t|→)", re.MULTILINE)


def mend(arguments: Mapping[str, Any], shown: Callable[[], Iterable[str]]) -> dict[str, Any] | None:
    """The arguments of an edit with its slips mended; None where there is nothing to mend.

    Args:
        arguments: of any call.
        shown: the texts that the conversation has shown; asked for only where there could be a slip.
    """
    old = next((value for name, value in arguments.items() if _OLD.fullmatch(name) and isinstance(value, str)), "")
    if not entities.could_be_decoded(old):
        return None
    texts = [_LINE_NUMBER.sub("", text) for text in shown()]
    if any(old in text for text in texts):
        return None
    twins = {twin for text in texts if "&" in text for twin in _twins(old, text)}
    if len(twins) != 1:
        return None
    twin = twins.pop()
    lines = dict(zip(old.split("\n"), twin.split("\n"), strict=False))
    return {name: _mended(name, value, twin, lines) for name, value in arguments.items()}


def _mended(name: str, value: Any, twin: str, lines: Mapping[str, str]) -> Any:
    if _OLD.fullmatch(name):
        return twin
    if _NEW.fullmatch(name) and isinstance(value, str):
        return "\n".join(lines.get(line, line) for line in value.split("\n"))
    return value


def _twins(old: str, text: str) -> Iterable[str]:
    """The stretches of a text that read as `old` once they are decoded."""
    decoded, ends = _decode(text)
    position = decoded.find(old)
    while position >= 0:
        yield text[_original(position, ends) : _original(position + len(old), ends)]
        position = decoded.find(old, position + 1)


def _decode(text: str) -> tuple[str, list[tuple[int, int]]]:
    """A text decoded once, and for the end of each entity its position there and in the text."""
    parts: list[str] = []
    ends: list[tuple[int, int]] = []
    length = last = 0
    for start, end, character in entities.find(text):
        parts += [text[last:start], character]
        length += start - last + len(character)
        ends.append((length, end))
        last = end
    return "".join([*parts, text[last:]]), ends


def _original(position: int, ends: list[tuple[int, int]]) -> int:
    """The position in a text that belongs to one in the decoded text."""
    index = bisect_right(ends, (position, 1 << 62)) - 1
    return position if index < 0 else ends[index][1] + position - ends[index][0]


def shown_texts(messages: Iterable[MessageParam]) -> Iterable[str]:
    """The texts that a conversation has shown to the model, as they were before the armour."""
    for message in messages:
        for block in message.content:
            if isinstance(block, Text):
                yield block.text
            elif isinstance(block, ToolResult):
                yield "\n".join(item.text for item in block.content if isinstance(item, Text))
