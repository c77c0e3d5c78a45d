"""The body of a request: of a known length or in chunks, and unpacked where the client has packed it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

from claude_proxy.errors import HeadTooLarge, InvalidRequest
from claude_proxy.shell.server.http_head import RequestHead, check_length
from claude_proxy.shell.server.incoming import Incoming, LineTooLong

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_MAX_LINE = 4096  # bytes of a chunk's size with its extensions, or of a trailer
_MAX_EXTRA = 65536  # bytes of all extensions and trailers of a body
_GZIP, _ZLIB, _RAW = 31, 15, -15  # window bits, as zlib counts them
_SLICE, _PIECE = 64 * 1024, 256 * 1024  # bytes that are unpacked at a time: at most so many, to at most so many


def read_body(
    incoming: Incoming, head: RequestHead, *, max_bytes: int, taken: Callable[[int], None] = lambda _: None
) -> bytes:
    """Read a request's body and unpack it.

    Args:
        incoming: where the head has been read.
        head: says how long the body is and how it is packed.
        max_bytes: limit for the body, packed and unpacked.
        taken: told of every number of bytes that will be held, as they come; may raise to refuse them.

    Raises:
        RequestTooLarge: it exceeds the limit.
        InvalidRequest: it is cut short, its chunks are malformed, or it cannot be unpacked.
        HeadTooLarge: its extensions and trailers are too long.
        RequestTimeout: the client is too slow.
        ClientGone: the connection broke.
    """
    if head.length is None:
        body = _chunked(incoming, max_bytes, taken)
    else:
        check_length(head.length, max_bytes)
        body = incoming.exactly(head.length, taken)
    unpacked = unpack(body, head.headers.get("content-encoding", ""), max_bytes, taken)
    if unpacked is not body:
        taken(-len(body))
    return unpacked


# --- chunks -----------------------------------------------------------------------------------------------------------


def _chunked(incoming: Incoming, max_bytes: int, taken: Callable[[int], None]) -> bytes:
    """Read chunks and trailers: RFC 9112, section 7.1. Extensions and trailers mean nothing to us."""
    body = bytearray()  # a list of chunks would take many times as much where each has a byte or two
    extra = _Extra(incoming)
    while size := _chunk_size(extra):
        check_length(len(body) + size, max_bytes)
        body += incoming.exactly(size, taken)
        if incoming.exactly(2) != b"\r\n":
            raise InvalidRequest("A chunk of the request body is not as long as its size says.")
    while trailer := extra.line():
        if not _TRAILER.fullmatch(trailer):
            raise InvalidRequest("A trailer of the request body is no header.")
        extra.spend(len(trailer))
    return bytes(body)


def _chunk_size(extra: _Extra) -> int:
    line = extra.line()
    match = _CHUNK.fullmatch(line)
    if not match:
        raise InvalidRequest("The size of a chunk of the request body is not a hexadecimal number.")
    extra.spend(len(line) - len(match[1]))
    return int(match[1], 16)


class _Extra:
    """The lines between the chunks, of which there may be only so many bytes that are not sizes."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._left = _MAX_EXTRA

    def line(self) -> bytes:
        try:
            return self._incoming.line(_MAX_LINE)
        except LineTooLong:
            raise HeadTooLarge("A chunk's extension or a trailer is too long.") from None

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise HeadTooLarge("The extensions and trailers of the request body are too long.")


# --- content encodings ------------------------------------------------------------------------------------------------


def unpack(body: bytes, encoding: str, max_bytes: int, taken: Callable[[int], None] = lambda _: None) -> bytes:
    """A body without its content encoding: `gzip`, `deflate` (with the zlib frame or without), or none.

    Nothing beyond the limit is unpacked, and nothing before `taken` has agreed to the piece before it. So a bomb
    costs no more than an honest body of the largest size, and many at once no more than all bodies may.

    Raises:
        RequestTooLarge: it exceeds `max_bytes` when unpacked.
        InvalidRequest: the encoding is another one (`error_code` `request_body_encoding_unsupported`), or the body is
            not in it (`request_body_encoding_invalid`).
    """
    name = encoding.strip().lower()
    if not body or name in {"", "identity"}:
        return body
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise InvalidRequest(
            "The only Content-Encodings that this server takes are gzip and deflate, one at a time.",
            details={"error_code": "request_body_encoding_unsupported"},
        )
    unpacker = zlib.decompressobj(_GZIP if name != "deflate" else _ZLIB if _has_zlib_frame(body) else _RAW)
    unpacked = bytearray()
    try:
        for piece in _inflate(unpacker, body):
            check_length(len(unpacked) + len(piece), max_bytes)
            taken(len(piece))
            unpacked += piece
    except zlib.error:
        raise InvalidRequest(
            f"The request body is not whole and correct {name.removeprefix('x-')} data, as its Content-Encoding says.",
            details={"error_code": "request_body_encoding_invalid"},
        ) from None
    return bytes(unpacked)


def _inflate(unpacker: zlib._Decompress, body: bytes) -> Iterator[bytes]:
    """Unpack a body piece by piece; raises `zlib.error` where it is damaged, breaks off or goes on behind its end."""
    for start in range(0, len(body), _SLICE):  # the decompressor copies what it has not used yet
        if unpacker.eof:
            raise zlib.error
        rest = body[start : start + _SLICE]
        piece = b""
        while rest or len(piece) == _PIECE:
            piece = unpacker.decompress(rest, _PIECE)
            yield piece
            rest = unpacker.unconsumed_tail
    if not unpacker.eof or unpacker.unused_data:
        raise zlib.error


def _has_zlib_frame(body: bytes) -> bool:
    """Whether data begins as RFC 1950 says; many clients mean the bare RFC 1951 by `deflate`."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
