"""An HTTP/1.1 response, read strictly and within bounds.

Strictly, because on a connection that is used again a length that was misread would hand the answer to one request to
the next, perhaps another person's. Within bounds, because what answers is not always REDCap. The reader pulls bytes
from a function and knows nothing of sockets.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_BODY = 16 * 1024 * 1024  # bytes, packed or not; far beyond any model's longest reply
MAX_HEAD = 64 * 1024  # bytes, for a head, and for the trailers of a chunked body
MAX_INTERIM = 16  # responses such as `103 Early Hints` before the answer
_MAX_FRAMES = 1024 * 1024  # bytes between the chunks of a body: tiny ones without end take time instead of room

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.DOTALL)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)
_TLS_RECORD = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")


class BadAnswer(Exception):
    """What came is no whole HTTP response. Its words complete "the answer …" and hold nothing of what came.

    Attributes:
        what: the words.
        lasting: whether trying again would meet the same.
    """

    def __init__(self, what: str, *, lasting: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.lasting = lasting


@dataclass(frozen=True)
class HttpAnswer:
    """An HTTP response: status, headers with lower-case names (of a repeated one the first), and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Inbox:
    """What has come on a connection and has not been read yet."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        """Wrap a function that returns what came, or nothing at the end of the connection."""
        self._receive = receive
        self._buffer = bytearray()
        self._ended = False
        self.begun = False  # whether the final response has begun to be read

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def starts_an_answer(self) -> bool:
        """Whether the final response has begun to come: not just an interim one, such as `100 Continue`."""
        start = self.peek(10)
        return self.begun or not (b"HTTP/1.1 1".startswith(start) or b"HTTP/1.0 1".startswith(start))

    def put(self, data: bytes) -> None:
        """Take in what has been received elsewhere; nothing at the end of the connection."""
        self._buffer += data
        self._ended = not data

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended

    def peek(self, count: int) -> bytes:
        """The next bytes, as far as they have come, without reading them."""
        return bytes(self._buffer[:count])

    def fill(self) -> bool:
        """Receive once more. False: nothing more comes."""
        if not self._ended:
            self.put(self._receive())
        return not self._ended

    def line(self, limit: int, part: str) -> bytes:
        """Read a line, without its end.

        Args:
            limit: the most bytes it may have.
            part: what it belongs to, for the message.

        Raises:
            BadAnswer: it is too long, or the connection ends before it does.
        """
        end = self._buffer.find(b"\n")
        while end < 0 and (seen := len(self._buffer)) <= limit:
            if not self.fill():
                raise BadAnswer(f"broke off in its {part}")
            end = self._buffer.find(b"\n", seen)
        if end < 0 or end > limit:
            raise BadAnswer(f"has a {part} without end", lasting=True)
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def take(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            BadAnswer: the connection ends before.
        """
        while len(self._buffer) < count:
            if not self.fill():
                raise BadAnswer("broke off in its body")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def rest(self) -> bytes:
        """Read to the end of the connection.

        Raises:
            BadAnswer: it is too long.
        """
        while self.fill():
            if len(self._buffer) > MAX_BODY:
                raise _too_long()
        return self.take(len(self._buffer))


@dataclass(frozen=True)
class Head:
    """The head of a response.

    Attributes:
        minor: the digit after `HTTP/1.`.
        status: the status.
        fields: names in lower case, each with its values in order.
    """

    minor: int
    status: int
    fields: Mapping[str, Sequence[str]]

    def values(self, name: str) -> list[str]:
        """The elements of a header that holds a list, in lower case."""
        parts = ",".join(self.fields.get(name, ())).split(",")
        return [element for part in parts if (element := part.strip().lower())]


def read_head(inbox: Inbox) -> Head:
    """Read the head of the final response; interim ones are passed over.

    Raises:
        BadAnswer: what comes is not HTTP, or not whole.
    """
    for _ in range(MAX_INTERIM + 1):
        head = _read_any_head(inbox)
        if head.status >= 200:
            inbox.begun = True
            return head
        if head.status == 101:
            break
    raise BadAnswer("never gets beyond announcements (status 1xx)", lasting=True)


def read_answer(inbox: Inbox) -> tuple[HttpAnswer, bool]:
    """Read a response.

    Returns:
        The answer, and whether its connection can be used again.

    Raises:
        BadAnswer: what comes is not HTTP, not whole, or too long.
    """
    head = read_head(inbox)
    body, framed = _read_body(inbox, head)
    body = _unpack(body, head.values("content-encoding"))
    headers = {name: values[0] for name, values in head.fields.items()}
    # Bytes beyond the answer belong to no request: whoever sent them cannot be trusted with another.
    reusable = framed and head.minor == 1 and "close" not in head.values("connection") and not len(inbox)
    return HttpAnswer(head.status, headers, body), reusable


# --- head -------------------------------------------------------------------------------------------------------------


def _read_any_head(inbox: Inbox) -> Head:
    while len(inbox) < 5 and inbox.fill():
        pass
    if not len(inbox):
        raise BadAnswer("did not come: the connection was closed")
    start = inbox.peek(5)
    if not b"HTTP/".startswith(start):
        raise _not_http(start)
    match = _STATUS_LINE.fullmatch(inbox.line(MAX_HEAD, "head"))
    if not match:
        raise _not_http(start)
    return Head(int(match[1]), int(match[2]), _read_fields(inbox, "head"))


def _not_http(start: bytes) -> BadAnswer:
    if _TLS_RECORD.match(start):
        return BadAnswer("is TLS: the address must begin with https://", lasting=True)
    return BadAnswer("is not HTTP: something else listens there", lasting=True)


def _read_fields(inbox: Inbox, part: str) -> Mapping[str, Sequence[str]]:
    room = MAX_HEAD
    fields: dict[str, list[str]] = {}
    last: list[str] = []  # the values of the name that came last
    while line := inbox.line(room, part):
        room -= len(line) + 1
        if match := _HEADER.fullmatch(line.decode("latin-1")):
            name, value = match.groups()
            last = fields.setdefault(name.lower(), [])
            last.append(value.strip(" \t"))
        elif line[:1] in b" \t" and last:  # folded, as was allowed once
            last[-1] += " " + line.strip().decode("latin-1")
        else:
            raise BadAnswer(f"has a {part} that cannot be read")
    return fields


# --- body -------------------------------------------------------------------------------------------------------------


def _read_body(inbox: Inbox, head: Head) -> tuple[bytes, bool]:
    """The body as it was sent, and whether its end was told by anything but the end of the connection."""
    codings, lengths = head.values("transfer-encoding"), set(head.values("content-length"))
    if head.status in {204, 304}:
        return b"", True
    if codings:
        if codings != ["chunked"]:
            raise BadAnswer("is framed in a way that was not asked for", lasting=True)
        return b"".join(_read_chunks(inbox)), not lengths
    if not lengths:
        return inbox.rest(), False
    length = lengths.pop()
    if lengths or not length.isascii() or not length.isdigit():
        raise BadAnswer("has a length that is not one number")
    if len(length) > 15 or int(length) > MAX_BODY:
        raise _too_long()
    return inbox.take(int(length)), True


def _read_chunks(inbox: Inbox) -> Iterator[bytes]:
    total = between = 0
    while True:
        line = inbox.line(MAX_HEAD, "body")
        match = _CHUNK_SIZE.fullmatch(line)
        if not match:
            raise BadAnswer("has a body that is not chunked as it should be")
        size = int(match[1], 16)
        total, between = total + size, between + len(line) + 4
        if total > MAX_BODY or between > _MAX_FRAMES:
            raise _too_long()
        if size == 0:
            _read_fields(inbox, "body")
            return
        yield inbox.take(size)
        if inbox.take(2) != b"\r\n":
            raise BadAnswer("has a body that is not chunked as it should be")


def _unpack(body: bytes, codings: list[str]) -> bytes:
    """Undo a compression that was not asked for; a gateway may have its own ideas."""
    codings = [coding for coding in codings if coding != "identity"]
    if not codings or not body:
        return body
    if len(codings) > 1 or codings[0] not in {"gzip", "x-gzip", "deflate"}:
        raise BadAnswer("is compressed, though it was asked for as it is", lasting=True)
    try:
        return _inflate(body, codings[0])
    except zlib.error:
        raise BadAnswer("is compressed, and damaged") from None


def _inflate(body: bytes, coding: str) -> bytes:
    if coding == "deflate":  # with a zlib header by the book, without one by custom
        has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        unpacker = zlib.decompressobj(15 if has_header else -15)
    else:
        unpacker = zlib.decompressobj(31)
    data = unpacker.decompress(body, MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise _too_long()
    if not unpacker.eof:
        raise BadAnswer("broke off in its body")
    return data


def _too_long() -> BadAnswer:
    return BadAnswer(f"is longer than {MAX_BODY // 1024**2} MB, which no model writes", lasting=True)
