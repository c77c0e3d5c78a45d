"""The grammar of RFC 9112, once, and how strictly each direction holds to it.

What two readers can understand in two ways, a smuggler can use. So requests, which anybody may send, are taken in one
form only. Answers come from one server that the settings name, over whatever gateways stand before it: what is old or
odd in them is read, as long as there is no doubt where they end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a word
REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")

MAX_TRAILERS = 64 * 1024  # bytes

CODING, PACKED = "an unknown content coding", "a body that is not what its coding says"

_MOST_DIGITS = 15

Fields: TypeAlias = Mapping[str, list[str]]
"""Header fields: names in lower case, each with its values in order."""


class Malformed(Exception):
    """A message breaks the grammar or a limit.

    Attributes:
        what: words that complete "the request …" or "the answer …", and quote nothing of what came.
        kind: the limit that was exceeded, or `CODING` or `PACKED`.
        lasting: whether trying again would meet the same.
    """

    def __init__(self, what: str, kind: str = "", *, lasting: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.kind = kind
        self.lasting = lasting


def part_of(limit: str) -> str:
    """The part of a message that a limit is for."""
    return "body" if limit == "extras" else "head"


def too_long(limit: str) -> Malformed:
    """What goes beyond the limit of a start line, a head, or what chunks have besides data."""
    return Malformed(f"has a {part_of(limit)} without end", limit, lasting=True)


def too_large(max_body: int) -> Malformed:
    """A body of more than so many bytes."""
    return Malformed(f"is longer than {max_body // 1024**2} MB", "body", lasting=True)


@dataclass(frozen=True)
class Side:
    """How one direction is read.

    Attributes:
        strict: whether bare line feeds, headers that go on in the next line, and bytes behind packed data are refused.
        field: a header line: its name and its value, still with blanks around it.
        chunk_line: the line before a chunk: its size, and an extension that means nothing to us.
        max_chunk_line: bytes of such a line.
        max_extras: bytes of a body in chunks that are neither data nor sizes.
        chunk_cost: what each chunk counts for among them: tiny ones without end take time instead of memory.
    """

    strict: bool
    field: re.Pattern[str]
    chunk_line: re.Pattern[str]
    max_chunk_line: int
    max_extras: int
    chunk_cost: int


REQUEST = Side(
    strict=True,
    field=re.compile(rf"({TOKEN}):([\t\x20-\x7e\x80-\xff]*)"),
    chunk_line=re.compile(r"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?"),
    max_chunk_line=4096,
    max_extras=MAX_TRAILERS,
    chunk_cost=0,
)
ANSWER = Side(
    strict=False,
    field=re.compile(rf"({TOKEN}):(.*)", re.DOTALL),
    chunk_line=re.compile(r"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL),
    max_chunk_line=64 * 1024,
    max_extras=1024 * 1024,
    chunk_cost=5,
)


def elements(fields: Fields, name: str) -> list[str]:
    """The elements of a header that holds a list, in lower case."""
    if name not in fields:
        return []
    return [element for part in ",".join(fields[name]).split(",") if (element := part.strip().lower())]


def decimal(text: str) -> int | None:
    """The number that a text of digits is, if it is one; beyond any bound all are alike."""
    if not text.isascii() or not text.isdigit():
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
