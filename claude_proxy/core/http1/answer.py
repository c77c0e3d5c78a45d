"""An answer: read within bounds, and with no doubt where it ends.

On a connection that is used again, a length that was misread would hand the answer to one request to the next, perhaps
another person's. And what answers is not always REDCap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from claude_proxy.core.http1.grammar import ANSWER, STATUS_LINE, Fields, Malformed, Side, decimal, elements, too_large
from claude_proxy.core.http1.parts import read_chunks, read_fields, unpack
from claude_proxy.core.http1.reader import Reader

MAX_BODY = 16 * 1024 * 1024  # bytes, packed or not; far beyond any model's longest reply
MAX_HEAD = 64 * 1024  # bytes
_MAX_INTERIM = 16  # answers such as `103 Early Hints` before the final one
_TLS_RECORD = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP answer: status, headers with lower-case names (of a repeated one the first), and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AnswerHead(NamedTuple):
    """The head of an answer: the digit after `HTTP/1.`, the status, the header fields."""

    minor_version: int
    status: int
    fields: Fields


class AnswerReader(Reader):
    """What has come on a connection to a server."""

    def __init__(self, more: Callable[[], bytes], side: Side = ANSWER) -> None:
        super().__init__(more, side)
        self.begun = False  # whether the status line of the final answer has been read

    @property
    def starts_an_answer(self) -> bool:
        """Whether the final answer has begun to come: not just an interim one, such as `100 Continue`."""
        start = self.peek(10)
        return self.begun or not (b"HTTP/1.1 1".startswith(start) or b"HTTP/1.0 1".startswith(start))


def read_head(reader: AnswerReader) -> AnswerHead:
    """Read the head of the final answer; interim ones are passed over.

    Raises:
        Malformed: what comes is not HTTP, or not whole.
    """
    for _ in range(_MAX_INTERIM + 1):
        minor_version, status = _read_status_line(reader)
        reader.begun = status >= 200
        fields = read_fields(reader, "head", MAX_HEAD)
        if status >= 200:
            return AnswerHead(minor_version, status, fields)
        if status == 101:
            break
    raise Malformed("never gets beyond announcements (status 1xx)", lasting=True)


def read_answer(reader: AnswerReader, *, max_body: int = MAX_BODY) -> tuple[HttpAnswer, bool]:
    """Read an answer.

    Returns:
        The answer, and whether its connection can be used again.

    Raises:
        Malformed: this is not a whole HTTP answer, or its body has more than `max_body` bytes.
    """
    head = read_head(reader)
    body, framed = _read_body(reader, head, max_body)
    body = _unpack(body, head, reader.side, max_body)
    headers = {name: values[0] for name, values in head.fields.items()}
    # Bytes beyond the answer belong to no request: whoever sent them cannot be trusted with another.
    reusable = (
        framed and head.minor_version == 1 and "close" not in elements(head.fields, "connection") and not len(reader)
    )
    return HttpAnswer(head.status, headers, body), reusable


def _read_status_line(reader: AnswerReader) -> tuple[int, int]:
    while len(reader) < 5 and reader.fill():
        pass
    start = reader.peek(5)
    if not start:
        raise Malformed("did not come: the connection was closed")
    match = STATUS_LINE.fullmatch(reader.line(MAX_HEAD, "start line")) if b"HTTP/".startswith(start) else None
    if match:
        return int(match[1]), int(match[2])
    if _TLS_RECORD.match(start):
        raise Malformed("is TLS: the address must begin with https://", lasting=True)
    raise Malformed("is not HTTP: something else listens there", lasting=True)


def _read_body(reader: AnswerReader, head: AnswerHead, max_body: int) -> tuple[bytes, bool]:
    """The body as it was sent, and whether its end was told for certain by anything but the end of the connection."""
    codings = elements(head.fields, "transfer-encoding")
    lengths = set(elements(head.fields, "content-length"))
    if head.status in {204, 304}:
        return b"", True
    if codings:
        if codings != ["chunked"]:
            raise Malformed("is framed in a way that was not asked for", lasting=True)
        return read_chunks(reader, max_body, lambda _: None), not lengths
    if not lengths:
        return reader.rest(max_body), False
    length = decimal(lengths.pop())
    if lengths or length is None:
        raise Malformed("has a length that is not one number")
    if length > max_body:
        raise too_large(max_body)
    return reader.exactly(length), True


def _unpack(body: bytes, head: AnswerHead, side: Side, max_body: int) -> bytes:
    """Undo a compression that was not asked for; a gateway may have its own ideas."""
    codings = [coding for coding in elements(head.fields, "content-encoding") if coding != "identity"]
    if not codings or not body:
        return body
    return unpack(body, " ".join(codings), side, max_body, lambda _: None)  # of two together none is known
