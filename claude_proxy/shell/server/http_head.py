"""The head of an HTTP/1 request: what is accepted, and how long the body behind it is.

Stricter than `http.server`, which takes folded headers, bare line feeds and several lengths, as mail does: what two
readers can understand in two ways, a smuggler can use. Whatever cannot be framed for certain is refused, and the
connection ends with it. Refusals quote nothing of what came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from claude_proxy.errors import (
    ExpectationFailed,
    HeadTooLarge,
    InvalidRequest,
    RequestTooLarge,
    TargetTooLong,
)
from claude_proxy.shell.server.incoming import Incoming, LineTooLong

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a word
_REQUEST_LINE = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_HEADER = re.compile(rf"({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)")
_ADDRESS = re.compile(r"https?://[^/?#]+([^#]*)", re.IGNORECASE)
_FIRST_BYTES = frozenset(b"!#$%&'*+.^_`|~\r" + bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)))
_TLS = 0x16  # the first byte of a TLS connection

_MAX_REQUEST_LINE = 8192  # bytes; the least that RFC 9110 recommends
_MAX_METHOD = 32
_MAX_DIGITS = 12


@dataclass(frozen=True)
class RequestHead:
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


def read_head(incoming: Incoming, *, max_bytes: int, max_headers: int) -> RequestHead:
    """Read the head of a request.

    Args:
        incoming: where its first byte has come.
        max_bytes: limit for the whole head.
        max_headers: limit for the number of headers.

    Raises:
        InvalidRequest: this is no request, or one that could be understood in several ways.
        TargetTooLong: the request line exceeds 8 KB.
        HeadTooLarge: the head exceeds a limit.
        ExpectationFailed: it expects anything but a 100.
        RequestTimeout: the client is too slow.
        ClientGone: the connection broke.
    """
    method, target, minor_version = _request_line(incoming)
    headers: dict[str, list[str]] = {}
    for name, value in _header_lines(incoming, max_bytes, max_headers):
        headers.setdefault(name.lower(), []).append(value)
    if len(headers.get("host", [])) != 1 and (minor_version or "host" in headers):
        raise InvalidRequest("The request needs one Host header.")
    path, _, query = _path(method, target).partition("?")
    length = _length(headers, minor_version)
    return RequestHead(
        method=method,
        path=path,
        query=query,
        minor_version=minor_version,
        headers={name: values[0] for name, values in headers.items()} | _encodings(headers),
        length=length,
        expects_continue=_expects_continue(headers) and minor_version > 0 and length != 0,
        keeps_alive=_keeps_alive(headers, minor_version),
    )


def _request_line(incoming: Incoming) -> tuple[str, str, int]:
    if incoming.peek() not in _FIRST_BYTES:  # would else be waited for until a line feed comes
        hint = " It looks like TLS: the address begins with http://, not https://." if incoming.peek() == _TLS else ""
        raise InvalidRequest(f"This is not a well-formed HTTP request.{hint}")
    try:
        line = incoming.line(_MAX_REQUEST_LINE) or incoming.line(_MAX_REQUEST_LINE)  # an empty one may stand before it
    except LineTooLong:
        raise TargetTooLong(f"The request line is longer than {_MAX_REQUEST_LINE // 1024} KB.") from None
    match = _REQUEST_LINE.fullmatch(line.decode("latin-1"))
    if not match or len(match[1]) > _MAX_METHOD:
        raise InvalidRequest("This is not a well-formed HTTP request: its first line is no request line.")
    if match[3] != "1":
        raise InvalidRequest("This server speaks HTTP/1.1 and HTTP/1.0.")
    return match[1], match[2], int(match[4])


def _header_lines(incoming: Incoming, max_bytes: int, max_headers: int) -> Iterator[tuple[str, str]]:
    left = max_bytes
    for _ in range(max_headers + 1):
        try:
            line = incoming.line(left)
        except LineTooLong:
            raise HeadTooLarge(f"The request's head is larger than {max_bytes} bytes (MAX_HEAD_KB).") from None
        if not line:
            return
        left -= len(line) + 2
        header = _HEADER.fullmatch(line.decode("latin-1"))
        if not header:
            raise InvalidRequest("A line of the request's head is no header.")
        yield header[1], header[2].strip(" \t")
    raise HeadTooLarge(f"The request has more than {max_headers} headers (MAX_HEADERS).")


def _path(method: str, target: str) -> str:
    """The path and query of a target in any of the forms of RFC 9112, section 3.2, that an origin server gets."""
    if target.startswith("/") or target == "*":
        return target
    if address := _ADDRESS.fullmatch(target):
        return address[1] if address[1].startswith("/") else f"/{address[1]}"
    if method == "CONNECT":
        raise InvalidRequest(
            "This is no forward proxy. Set ANTHROPIC_BASE_URL to its address, and not HTTPS_PROXY or HTTP_PROXY."
        )
    raise InvalidRequest("The request's target is neither a path nor an address.")


def _length(headers: Mapping[str, list[str]], minor_version: int) -> int | None:
    """How long the body is: RFC 9112, section 6.3, where every doubt is an error."""
    lengths, encodings = headers.get("content-length", []), headers.get("transfer-encoding", [])
    if encodings:
        if lengths:
            raise InvalidRequest("The request has both a Content-Length and a Transfer-Encoding.")
        if minor_version == 0 or len(encodings) > 1 or encodings[0].lower() != "chunked":
            raise InvalidRequest("The only Transfer-Encoding that this server takes is chunked, in HTTP/1.1.")
        return None
    if not lengths:
        return 0
    (length, *others) = lengths
    if others or not length.isascii() or not length.isdigit():
        raise InvalidRequest("The Content-Length header is not one number.")
    return int(length) if len(length.lstrip("0")) <= _MAX_DIGITS else 10**_MAX_DIGITS


def check_length(length: int, max_body: int) -> None:
    """Refuse a body that is too large.

    Raises:
        RequestTooLarge: it has more than `max_body` bytes.
    """
    if length > max_body:
        raise RequestTooLarge(
            f"The request body is larger than {max_body // 1024**2} MB (MAX_BODY_MB). Compact the conversation, or "
            "leave out large attachments."
        )


def _encodings(headers: Mapping[str, list[str]]) -> dict[str, str]:
    """The content encodings in the order in which they were applied; leaving out one would misread the body."""
    encodings = headers.get("content-encoding", [])
    return {"content-encoding": ", ".join(encodings)} if encodings else {}


def _expects_continue(headers: Mapping[str, list[str]]) -> bool:
    expected = headers.get("expect", [])
    if any(value.lower() != "100-continue" for value in expected):
        raise ExpectationFailed("This server knows no other Expect header than 100-continue.")
    return bool(expected)


def _keeps_alive(headers: Mapping[str, list[str]], minor_version: int) -> bool:
    options = {option.strip().lower() for value in headers.get("connection", []) for option in value.split(",")}
    return "close" not in options and (minor_version > 0 or "keep-alive" in options)
