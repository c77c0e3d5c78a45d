"""Structured outputs: the JSON document that a reply was asked to be, read and validated against its schema.

The model is told to write it between `<output>` and `</output>` (see `core.prompt.instructions`). Models forget tags
and add fences, so the document is looked for in the tag, in the last fence, and in the whole text. What is returned is
valid against the schema, or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from claude_proxy.core.calls import loose_json
from claude_proxy.core.json_schema.validate import faults

_TAG = re.compile("<(/?)output>", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```([\w-]*)[ \t]*$", re.MULTILINE)


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
    tags = list(_TAG.finditer(text))
    for start, end in reversed(list(_tagged(tags, len(text)))):
        yield _without_fence(text[start:end])
    openings = [tag for tag in tags if not tag[1]]
    if openings and tags[-1][1]:  # the tag may stand in a string
        yield _without_fence(text[openings[0].end() : tags[-1].start()])
    for start, end in reversed(list(_fenced(text))):
        yield text[start:end]
    yield text


def _tagged(tags: Iterable[re.Match[str]], end: int) -> Iterator[tuple[int, int]]:
    """What stands between an opening tag and the next closing one, or the end of the text."""
    opening: re.Match[str] | None = None
    for tag in tags:
        if opening and tag[1]:
            yield opening.end(), tag.start()
            opening = None
        elif not tag[1]:
            opening = opening or tag
    if opening:
        yield opening.end(), end


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    """What stands in code fences, of a line at least."""
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif not fence[1] and fence.start() > opening.end() + 1:
            yield opening.end() + 1, fence.start() - 1
            opening = None


def _without_fence(text: str) -> str:
    stripped = text.strip()
    first, _, rest = stripped.partition("\n")
    inner, _, last = rest.rpartition("\n")
    return inner if _FENCE.fullmatch(first) and last.strip(" \t") == "```" else text


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
