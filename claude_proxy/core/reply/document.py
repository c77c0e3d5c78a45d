"""Structured outputs: the JSON document that a reply was asked to be, read and validated against its schema.

The model is told to write it between `<output>` and `</output>` (see `core.prompt.instructions`). Models forget tags
and add fences, so the document is looked for in the tag, in the last fence, and in the whole text. What is returned is
valid against the schema, or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from claude_proxy.core.calls import loose_json
from claude_proxy.core.json_schema.validate import faults

_TAGGED = re.compile(r"<output>(.*?)(?:</output>|\Z)", re.DOTALL | re.IGNORECASE)
_TAGGED_WIDELY = re.compile(r"<output>(.*)</output>", re.DOTALL | re.IGNORECASE)  # the tag may stand in a string
_FENCED = re.compile(r"^[ \t]*```[\w-]*[ \t]*\n(.*?)\n[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


class NoDocument(ValueError):
    """A reply holds no valid document; the message says in a sentence for the model what is wrong."""


def read_document(text: str, schema: Mapping[str, Any]) -> str:
    """The JSON document in a reply without its thinking.

    Raises:
        NoDocument: there is none that is valid against the schema.
    """
    for candidate in _candidates(text):
        try:
            value, written = _load(candidate)
        except ValueError:
            continue
        if found := faults(value, schema):
            raise NoDocument("the JSON document is not valid: " + "; ".join(found))
        return written
    raise NoDocument("it holds no JSON document between <output> and </output>")


def _candidates(text: str) -> Iterator[str]:
    for pattern in (_TAGGED, _TAGGED_WIDELY, _FENCED):
        for match in reversed(list(pattern.finditer(text))):
            yield _without_fence(match[1])
    yield text


def _without_fence(text: str) -> str:
    fenced = _FENCED.fullmatch(text.strip())
    return fenced[1] if fenced else text


def _load(text: str) -> tuple[Any, str]:
    """The value of a JSON text and the text itself; loosely written JSON is written anew.

    Raises:
        ValueError: it is not JSON, not even loosely written.
    """
    stripped = text.strip()
    try:
        return json.loads(stripped, parse_constant=_refuse), stripped
    except (ValueError, RecursionError):
        pass
    if not stripped.startswith(("{", "[")):
        raise ValueError("no JSON")
    read = loose_json.read_value(stripped)
    if not read.complete or stripped[read.end :].strip():
        raise ValueError("no whole JSON")
    return read.value, json.dumps(read.value, ensure_ascii=False)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
