"""The form of a request, as PHP reads it."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_INPUT_VARS = 1000
"""PHP reads no more fields than these, and says nothing."""


@dataclass(frozen=True)
class Received:
    """One HTTP request as PHP shows it to REDCap.

    Header names are in lower case. Of a repeated field the last value stands in `fields`; the values of fields named
    like `stop[]` are in `arrays["stop"]`. `size` is that of the body, in bytes; `address` is the client's.
    """

    fields: dict[str, str]
    arrays: dict[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/api/"
    size: int = 0
    address: str = "127.0.0.1"


def read_form(content_type: str, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the fields of a form, in order; a body of any other type, JSON too, holds none.

    Bytes that are not UTF-8 survive as lone surrogates, for the JSON decoder to stumble upon.
    """
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() == "application/x-www-form-urlencoded":
        text = body.decode(errors="surrogateescape")
        yield from urllib.parse.parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    elif head.get_content_type() == "multipart/form-data" and boundary:
        yield from _read_multipart(boundary.encode(), body)


def _read_multipart(boundary: bytes, body: bytes) -> Iterator[tuple[str, str]]:
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]:
        if part.startswith(b"--"):
            return
        head, _, value = part.partition(b"\r\n\r\n")
        headers = HeaderParser().parsestr(head.decode(errors="replace").lstrip())
        name, file = (headers.get_param(key, header="Content-Disposition") for key in ("name", "filename"))
        if isinstance(name, str) and file is None:  # PHP files uploads elsewhere
            yield name, value.decode(errors="surrogateescape")


def sort_fields(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Sort fields into single ones and arrays, by names that PHP has made fit for its variables.

    Of a name that is used for both, the last use counts.
    """
    fields: dict[str, str] = {}
    arrays: dict[str, list[str]] = {}
    for _, (name, value) in zip(range(MAX_INPUT_VARS), pairs, strict=False):
        stem, bracket, rest = name.lstrip(" ").partition("[")
        if not _variable(stem):
            continue
        if "]" in rest:
            fields.pop(_variable(stem), None)
            arrays.setdefault(_variable(stem), []).append(value)
        else:
            whole = _variable(stem + ("_" + rest if bracket else ""))
            arrays.pop(whole, None)
            fields[whole] = value
    return fields, arrays


def _variable(name: str) -> str:
    return name.partition("\0")[0].replace(".", "_").replace(" ", "_")
