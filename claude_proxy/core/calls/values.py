"""The value of a parameter as text: raw where only a string is allowed, otherwise JSON where it is valid JSON."""

from __future__ import annotations

import re
from typing import Any

from claude_proxy.core.calls import loose_json
from claude_proxy.core.json_schema.types import ALL_TYPES, type_of
from claude_proxy.core.json_text import to_json


def write_value(value: Any, allowed: frozenset[str]) -> str:
    """Write any JSON value so that it is read back as what it is, given the JSON types that its parameter may have."""
    if not isinstance(value, str) or read_value(value, allowed) != value:
        return to_json(value)
    return f"\n{value}\n" if "\n" in value else value


def read_value(text: str, allowed: frozenset[str]) -> Any:
    """The value that a text stands for, given the JSON types that its parameter may have."""
    return text if allowed == {"string"} else read_json(text, allowed)


def read_json(text: str, allowed: frozenset[str] = ALL_TYPES) -> Any:
    """The JSON value that a text stands for; the text itself where it is not JSON or of a type that is not allowed."""
    try:
        value = loose_json.loads(text)
    except ValueError:
        return text
    return value if type_of(value) in allowed else text


_WRAPPED = re.compile(r"\s*(?:<value>(.*)</value>|<!\[CDATA\[(.*)\]\]>)\s*", re.DOTALL)


def unframe(raw: str, indent: str) -> str:
    """The value in what stands between two tags: without the newlines that only put it on lines of its own.

    `indent` is what stands before the opening tag on its line; the closing tag may be indented likewise.
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
