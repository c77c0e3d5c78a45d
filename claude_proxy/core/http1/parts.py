"""The parts of a message that both directions share: header fields, chunks, content codings."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator

from claude_proxy.core.http1.grammar import CODING, MAX_TRAILERS, PACKED, Malformed, Side, part_of, too_large, too_long
from claude_proxy.core.http1.reader import Reader

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})

_GZIP, _ZLIB, _RAW = 31, 15, -15  # window bits, as zlib counts them
_NOT_CHUNKED = "has a body that is not chunked as it should be"
_DAMAGED = "is compressed, and damaged"
_BLANKS = " \t\n\r\v\f"
_SLICE, _PIECE = 64 * 1024, 256 * 1024  # bytes that are unpacked at a time: at most so many, to at most so many


def read_fields(reader: Reader, limit: str, max_bytes: int, max_fields: float = math.inf) -> dict[str, list[str]]:
    """Read header fields or trailers, and the empty line behind them; `limit` names the limit for their bytes.

    Raises:
        Malformed: a line is not a header, or they exceed a limit.
    """
    fields: dict[str, list[str]] = {}
    last: list[str] = []  # the values of the name that came last
    count = 0
    while line := reader.line(max_bytes, limit):
        max_bytes -= len(line) + 2
        if match := reader.side.field.fullmatch(line):
            count += 1
            if count > max_fields:
                raise Malformed("has too many headers", "headers")
            name, value = match.groups()
            last = fields.setdefault(name.lower(), [])
            last.append(value.strip(" \t"))
        elif not reader.side.strict and line[0] in " \t" and last:
            last[-1] += " " + line.strip(_BLANKS)
        else:
            raise Malformed(f"has a {part_of(limit)} that cannot be read: one of its lines is not a header")
    return fields


def read_chunks(reader: Reader, max_bytes: int, taken: Callable[[int], None]) -> bytes:
    """Read chunks and trailers: RFC 9112, section 7.1. Extensions and trailers mean nothing to us.

    Raises:
        Malformed: they are no chunks, or exceed a limit.
    """
    body = bytearray()  # a list of chunks would take many times as much where each has a byte or two
    side, extras = reader.side, reader.side.max_extras
    while True:
        line = reader.line(side.max_chunk_line, "extras")
        match = side.chunk_line.fullmatch(line)
        if not match:
            raise Malformed(f"{_NOT_CHUNKED}: the size of a chunk is not a hexadecimal number")
        size = int(match[1], 16)
        if len(body) + size > max_bytes:
            raise too_large(max_bytes)
        extras -= len(line) - len(match[1]) + side.chunk_cost
        if extras < 0:
            raise too_long("extras")
        if size == 0:
            read_fields(reader, "extras", min(MAX_TRAILERS, extras + 2))
            return bytes(body)
        body += reader.exactly(size, taken)
        if reader.exactly(2) != b"\r\n":
            raise Malformed(f"{_NOT_CHUNKED}: a chunk is not as long as its size says")


def unpack(body: bytes, coding: str, side: Side, max_bytes: int, taken: Callable[[int], None]) -> bytes:
    """A body without its content coding: `gzip`, or `deflate` with the zlib frame or without.

    Nothing beyond the limit is unpacked, and nothing before `taken` has agreed to the piece before it. So a bomb
    costs no more than an honest body of the largest size, and many at once no more than all bodies may.

    Raises:
        Malformed: the coding is another one, or the body is not in it, or too long when unpacked.
    """
    if coding not in CODINGS:
        raise Malformed("is compressed, though it was asked for as it is", CODING, lasting=True)
    unpacker = zlib.decompressobj(_GZIP if coding != "deflate" else _ZLIB if _has_zlib_frame(body) else _RAW)
    unpacked = bytearray()
    try:
        for piece in _inflate(unpacker, body):
            if len(unpacked) + len(piece) > max_bytes:
                raise too_large(max_bytes)
            taken(len(piece))
            unpacked += piece
    except zlib.error:
        raise Malformed(_DAMAGED, PACKED) from None
    if not unpacker.eof:
        raise Malformed("broke off in its body", PACKED)
    if unpacker.unused_data and side.strict:
        raise Malformed(_DAMAGED, PACKED)
    return bytes(unpacked)


def _inflate(unpacker: zlib._Decompress, body: bytes) -> Iterator[bytes]:
    """Unpack a body piece by piece, as far as its packed data goes."""
    for start in range(0, len(body), _SLICE):  # the decompressor copies what it has not used yet
        rest = body[start : start + _SLICE]
        piece = b""
        while rest or len(piece) == _PIECE:
            piece = unpacker.decompress(rest, _PIECE)
            yield piece
            rest = unpacker.unconsumed_tail
        if unpacker.eof:
            unpacker.decompress(body[start + _SLICE : start + _SLICE + 1])  # one more byte shows that something follows
            return


def _has_zlib_frame(body: bytes) -> bool:
    """Whether data begins as RFC 1950 says; many clients mean the bare RFC 1951 by `deflate`."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
