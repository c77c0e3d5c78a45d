"""A request: what is accepted, how long its body is, and the words for what is refused.

Stricter than `http.server`, which takes folded headers, bare line feeds and several lengths, as mail does. Whatever
cannot be framed for certain is refused, and the connection ends with it. Refusals quote nothing of what came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from claude_proxy.core.http1 import grammar
from claude_proxy.core.http1.grammar import REQUEST, REQUEST_LINE, Fields, Malformed, decimal, elements
from claude_proxy.core.http1.parts import read_chunks, read_fields, unpack
from claude_proxy.core.http1.reader import Reader
from claude_proxy.errors import (
    ExpectationFailed,
    HeadTooLarge,
    InvalidRequest,
    ProxyError,
    RequestTooLarge,
    TargetTooLong,
)

_ADDRESS = re.compile(r"https?://[^/?#]+([^#]*)", re.IGNORECASE)
_FIRST_BYTES = frozenset(b"!#$%&'*+.^_`|~\r" + bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)))
_TLS = b"\x16"  # the first byte of a TLS connection
_MAX_REQUEST_LINE = 8192  # bytes; the least that RFC 9110 recommends
_MAX_METHOD = 32


class RequestHead(NamedTuple):
    """The head of a request, known to be unambiguous.

    Attributes:
        method: as sent; methods are case-sensitive.
        path: the target without its query; of an absolute target only what follows the host.
        query: the target's query, without the question mark.
        minor_version: of HTTP/1.
        headers: names in lower case; of a repeated one the first.
        length: bytes of the body; None for a chunked one.
        expects_continue: whether the client waits for a 100 before it sends the body.
        keeps_alive: whether the client wants to use the connection further.
    """

    method: str
    path: str
    query: str
    minor_version: int
    headers: Mapping[str, str]
    length: int | None
    expects_continue: bool
    keeps_alive: bool


# --- head -------------------------------------------------------------------------------------------------------------


def read_head(reader: Reader, *, max_bytes: int, max_headers: int) -> RequestHead:
    """Read the head of a request, whose first byte has come already.

    Raises:
        InvalidRequest: this is not a request, or one that could be understood in several ways.
        TargetTooLong: the request line exceeds 8 KB.
        HeadTooLarge: the head exceeds a limit.
        ExpectationFailed: it expects anything but a 100.
    """
    try:
        method, target, minor_version = _request_line(reader)
        fields = read_fields(reader, "head", max_bytes, max_headers)
    except Malformed as malformed:
        raise _refusal(malformed, max_bytes=max_bytes, max_headers=max_headers) from None
    if len(fields.get("host", [])) != 1 and (minor_version or "host" in fields):
        raise InvalidRequest("The request needs one Host header.")
    path, _, query = _path(method, target).partition("?")
    length = _length(fields, minor_version)
    headers = {name: values[0] for name, values in fields.items()}
    if codings := fields.get("content-encoding"):  # in their order; leaving out one would misread the body
        headers["content-encoding"] = ", ".join(codings)
    options = elements(fields, "connection")
    return RequestHead(
        method=method,
        path=path,
        query=query,
        minor_version=minor_version,
        headers=headers,
        length=length,
        expects_continue=_expects_continue(fields) and minor_version > 0 and length != 0,
        keeps_alive="close" not in options and (minor_version > 0 or "keep-alive" in options),
    )


def _request_line(reader: Reader) -> tuple[str, str, int]:
    first = reader.peek(1)
    if not first or first[0] not in _FIRST_BYTES:  # would else be waited for until a line feed comes
        hint = " It looks like TLS: the address begins with http://, not https://." if first == _TLS else ""
        raise InvalidRequest(f"This is not a well-formed HTTP request.{hint}")
    line = reader.line(_MAX_REQUEST_LINE, "start line")
    line = line or reader.line(_MAX_REQUEST_LINE, "start line")  # an empty one may stand before it
    match = REQUEST_LINE.fullmatch(line)
    if not match or len(match[1]) > _MAX_METHOD:
        raise InvalidRequest("This is not a well-formed HTTP request: its first line is not a request line.")
    if match[3] != "1":
        raise InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0.")
    return match[1], match[2], int(match[4])


def _path(method: str, target: str) -> str:
    """The path and query of a target in any of the forms of RFC 9112, section 3.2, that an origin server gets."""
    if target.startswith("/") or target == "*":
        return target
    if address := _ADDRESS.fullmatch(target):
        return address[1] if address[1].startswith("/") else f"/{address[1]}"
    if method == "CONNECT":
        raise InvalidRequest(
            "This is not a forward proxy. Set ANTHROPIC_BASE_URL to its address, and not HTTPS_PROXY or HTTP_PROXY."
        )
    raise InvalidRequest("The request's target is neither a path nor an address.")


def _length(fields: Fields, minor_version: int) -> int | None:
    """How long the body is: RFC 9112, section 6.3, where every doubt is an error."""
    lengths, encodings = fields.get("content-length", []), fields.get("transfer-encoding", [])
    if encodings:
        if lengths:
            raise InvalidRequest("The request has both a Content-Length and a Transfer-Encoding.")
        if minor_version == 0 or len(encodings) > 1 or encodings[0].lower() != "chunked":
            raise InvalidRequest("The only Transfer-Encoding that this server takes is chunked, in HTTP/1.1.")
        return None
    if not lengths:
        return 0
    length = decimal(lengths[0])
    if length is None or len(lengths) > 1:
        raise InvalidRequest("The Content-Length header is not one number.")
    return length


def _expects_continue(fields: Fields) -> bool:
    expected = fields.get("expect", [])
    if any(value.lower() != "100-continue" for value in expected):
        raise ExpectationFailed("This server knows no other Expect header than 100-continue.")
    return bool(expected)


# --- body -------------------------------------------------------------------------------------------------------------


def check_length(length: int, max_body: int) -> None:
    """Raise `RequestTooLarge` for a body of more than `max_body` bytes."""
    if length > max_body:
        raise _too_large(max_body)


def read_body(
    reader: Reader, head: RequestHead, *, max_bytes: int, taken: Callable[[int], None] = lambda _: None
) -> bytes:
    """Read a request's body and unpack it.

    Args:
        reader: where the head has been read.
        head: says how long the body is and how it is packed.
        max_bytes: limit for the body, packed and unpacked.
        taken: told how many more bytes will be held, as they come; may raise to refuse them.

    Raises:
        RequestTooLarge: it exceeds the limit.
        InvalidRequest: it breaks off, its chunks are malformed, or it cannot be unpacked.
        HeadTooLarge: its extensions and trailers are too long.
    """
    try:
        if head.length is None:
            body = read_chunks(reader, max_bytes, taken)
        else:
            check_length(head.length, max_bytes)
            body = reader.exactly(head.length, taken)
    except Malformed as malformed:
        raise _refusal(malformed, max_bytes=max_bytes) from None
    unpacked = unpack_body(body, head.headers.get("content-encoding", ""), max_bytes, taken)
    if unpacked is not body:
        taken(-len(body))
    return unpacked


def unpack_body(body: bytes, encoding: str, max_bytes: int, taken: Callable[[int], None] = lambda _: None) -> bytes:
    """A body without the content encoding that its header names.

    Raises:
        RequestTooLarge: it exceeds `max_bytes` when unpacked.
        InvalidRequest: the encoding is another one (`error_code` `request_body_encoding_unsupported`), or the body is
            not in it (`request_body_encoding_invalid`).
    """
    coding = encoding.strip().lower()
    if not body or coding in {"", "identity"}:
        return body
    try:
        return unpack(body, coding, REQUEST, max_bytes, taken)
    except Malformed as malformed:
        raise _refusal(malformed, max_bytes=max_bytes, coding=coding.removeprefix("x-")) from None


# --- words ------------------------------------------------------------------------------------------------------------


def _refusal(malformed: Malformed, *, max_bytes: int, max_headers: int = 0, coding: str = "") -> ProxyError:
    """What to tell a client whose request breaks the grammar or a limit."""
    match malformed.kind:
        case "start line":
            return TargetTooLong(f"The request line is longer than {_MAX_REQUEST_LINE // 1024} KB.")
        case "head":
            return HeadTooLarge(f"The request's head is larger than {max_bytes} bytes (MAX_HEAD_KB).")
        case "headers":
            return HeadTooLarge(f"The request has more than {max_headers} headers (MAX_HEADERS).")
        case "extras":
            return HeadTooLarge("The extensions and trailers of the request body are too long.")
        case "body":
            return _too_large(max_bytes)
        case grammar.CODING:
            return InvalidRequest(
                "The only Content-Encodings that this server takes are gzip and deflate, one at a time.",
                details={"error_code": "request_body_encoding_unsupported"},
            )
        case grammar.PACKED:
            return InvalidRequest(
                f"The request body is not whole and correct {coding} data, as its Content-Encoding says.",
                details={"error_code": "request_body_encoding_invalid"},
            )
    return InvalidRequest(f"The request {malformed.what}.")


def _too_large(max_body: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The request body is larger than {max_body // 1024**2} MB (MAX_BODY_MB). Compact the conversation, or leave "
        "out large attachments."
    )
