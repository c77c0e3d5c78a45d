"""What the server takes for a request, and what it refuses: nothing that could be understood in two ways."""

from __future__ import annotations

import gzip
import socket
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conftest import running
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import MB, Site, echo, listening

from claude_proxy.errors import InvalidRequest, RequestTooLarge
from claude_proxy.shell.http_body import unpack

GET = b"GET / HTTP/1.1\r\nHost: proxy\r\n"
POST = b"POST / HTTP/1.1\r\nHost: proxy\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(listening(echo, max_body_mb=2)) as server:
        yield Site(server)


# --- Refused: the connection ends with it -----------------------------------------------------------------------------

# What is no request, and the status and words of the refusal.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    # the request line
    "one word": (b"nonsense\r\n\r\n", 400, "request line"),
    "four words": (b"GET / of HTTP/1.1\r\n\r\n", 400, "request line"),
    "two blanks": (b"GET  / HTTP/1.1\r\n\r\n", 400, "request line"),
    "a blank first": (b" GET / HTTP/1.1\r\n\r\n", 400, "well-formed"),
    "a method that is no word": (b"G(T / HTTP/1.1\r\n\r\n", 400, "request line"),
    "a method that never ends": (b"G" * 1000 + b" / HTTP/1.1\r\n\r\n", 400, "request line"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "request line"),
    "a version that is none": (b"GET / HTTP/x\r\n\r\n", 400, "request line"),
    "a version in lower case": (b"GET / http/1.1\r\n\r\n", 400, "request line"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/1.1"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS"),
    "bytes": (b"\x00\xff\x00\xff", 400, "well-formed"),
    "two empty lines first": (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400, "request line"),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\n\r\n", 400, "request line"),
    "an escape in the target": (b"GET /\x1b[31m HTTP/1.1\r\n\r\n", 400, "request line"),
    "a letter beyond ASCII in the target": ("GET /ü HTTP/1.1\r\n\r\n".encode(), 400, "request line"),
    "a target that is too long": (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "8 KB"),
    "a relative target": (b"GET v1/messages HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "target"),
    "a target of another scheme": (b"GET ftp://proxy/ HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "target"),
    "a tunnel": (b"CONNECT api:443 HTTP/1.1\r\nHost: api\r\n\r\n", 400, "HTTPS_PROXY"),
    # line ends
    "a bare line feed in the request line": (b"GET / HTTP/1.1\nHost: proxy\r\n\r\n", 400, "CRLF"),
    "a bare line feed in a header": (GET + b"x: y\nz: y\r\n\r\n", 400, "CRLF"),
    "a bare carriage return": (GET + b"x: y\rz: y\r\n\r\n", 400, "header"),
    # headers
    "a folded header": (GET + b"x: y\r\n z\r\n\r\n", 400, "header"),
    "a folded first header": (b"GET / HTTP/1.1\r\n x: y\r\n\r\n", 400, "header"),
    "a blank before the colon": (GET + b"Content-Length : 3\r\n\r\nabc", 400, "header"),
    "no colon": (GET + b"header\r\n\r\n", 400, "header"),
    "no name": (GET + b": y\r\n\r\n", 400, "header"),
    "a name that is no word": (GET + b"x y: z\r\n\r\n", 400, "header"),
    "NUL in a header": (GET + b"x: \0\r\n\r\n", 400, "header"),
    "an escape in a header": (GET + b"x: \x1b[31m\r\n\r\n", 400, "header"),
    "DEL in a header": (GET + b"x: \x7f\r\n\r\n", 400, "header"),
    "too long a header": (GET + b"x: " + b"y" * 70_000 + b"\r\n\r\n", 431, "MAX_HEAD_KB"),
    "too long a head": (GET + b"x: yyyyyyyyyy\r\n" * 99 + b"y" * 65_000 + b": z\r\n\r\n", 431, "MAX_HEAD"),
    "too many headers": (GET + b"x: y\r\n" * 100 + b"\r\n", 431, "MAX_HEADERS"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
    "two Hosts": (GET + b"Host: other\r\n\r\n", 400, "Host"),
    "an unknown expectation": (POST + b"Expect: 200-ok\r\nContent-Length: 3\r\n\r\n", 417, "100-continue"),
    # framing
    "a length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "both"),
    "chunks and a length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400, "both"),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "Content-Length"),
    "the same length twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, "Content-Length"),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400, "Content-Length"),
    "a length in words": (POST + b"Content-Length: many\r\n\r\n", 400, "Content-Length"),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", 400, "Content-Length"),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "Content-Length"),
    "a length with a sign": (POST + b"Content-Length: +3\r\n\r\nabc", 400, "Content-Length"),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n", 400, "Content-Length"),
    "a hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400, "Content-Length"),
    "a length in digits of Unicode": (POST + b"Content-Length: \xb2\r\n\r\n", 400, "Content-Length"),
    "too large a length": (POST + b"Content-Length: %d\r\n\r\n" % (2 * MB + 1), 413, "2 MB"),
    "an absurd length": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, "2 MB"),
    "another transfer encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400, "chunked"),
    "two transfer encodings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, "chunked"),
    "identity": (POST + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", 400, "both"),
    "chunked behind a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400, "header"),
    "chunked and something": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "an empty transfer encoding": (POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400, "chunked"),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "chunked"),
    # chunks
    "a chunk size in words": (CHUNKED + b"many\r\n", 400, "hexadecimal"),
    "an empty chunk size": (CHUNKED + b"\r\n", 400, "hexadecimal"),
    "a negative chunk size": (CHUNKED + b"-1\r\n", 400, "hexadecimal"),
    "a chunk size with a prefix": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "a blank before a chunk size": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "an endless chunk size": (CHUNKED + b"0" * 17 + b"3\r\n", 400, "hexadecimal"),
    "a chunk size with a bare line feed": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400, "CRLF"),
    "an extension with a control character": (CHUNKED + b"3;\x1b\r\nabc\r\n0\r\n\r\n", 400, "hexadecimal"),
    "too long an extension": (CHUNKED + b"3;" + b"x" * 5000 + b"\r\n", 431, "extension"),
    "too many extensions": (CHUNKED + (b"1;" + b"x" * 1000 + b"\r\na\r\n") * 100, 431, "extensions"),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400, "size"),
    "a chunk shorter than its size": (CHUNKED + b"4\r\nabc\r\n0\r\n\r\n", 400, "size"),
    "too large a chunk": (CHUNKED + b"%x\r\n" % (2 * MB + 1), 413, "2 MB"),
    "too much in all": (CHUNKED + (b"80000\r\n" + bytes(0x80000) + b"\r\n") * 5, 413, "2 MB"),
    "a size beyond 64 bits": (CHUNKED + b"f" * 16 + b"\r\n", 413, "2 MB"),
    "a trailer that is none": (CHUNKED + b"0\r\nnonsense\r\n\r\n", 400, "trailer"),
    "a folded trailer": (CHUNKED + b"0\r\nx: y\r\n z\r\n\r\n", 400, "trailer"),
    "too many trailers": (CHUNKED + b"0\r\n" + (b"x: " + b"y" * 1000 + b"\r\n") * 100, 431, "trailers"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_request_is_refused_in_the_envelope_and_ends_the_connection(site: Site, fault: str) -> None:
    """Also that what stands behind it is not taken for a request."""
    data, status, words = REFUSED[fault]
    seen = len(site.application.requests)
    response = site.exchange(data + b"GET /smuggled HTTP/1.1\r\nHost: proxy\r\n\r\n")
    assert response.error[:2] == (status, "request_too_large" if status == 413 else "invalid_request_error")
    assert words in response.error[2]
    assert response.headers["connection"] == "close"
    assert len(site.application.requests) == seen


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: patient-7\r\n\r\n",
        b"GET /patient-7 patient-7 HTTP/1.1\r\n\r\n",
        b"patient-7\r\n\r\n",
        CHUNKED + b"patient-7\r\n",
        GET + b"patient-7\r\n\r\n",
    ],
)
def test_a_refusal_does_not_quote_the_client(site: Site, data: bytes) -> None:
    assert b"patient-7" not in site.exchange(data).body


CUT_SHORT = {
    "request line": b"POST / HT",
    "header": POST + b"Content-Le",
    "end of the head": POST + b"Content-Length: 10\r\n",
    "body": POST + b"Content-Length: 10\r\n\r\nabc",
    "chunk size": CHUNKED + b"3",
    "chunk": CHUNKED + b"3\r\nab",
    "end of a chunk": CHUNKED + b"3\r\nabc\r",
    "last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n",
    "trailer": CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n",
}


@pytest.mark.parametrize("where", CUT_SHORT)
def test_a_request_that_is_cut_short_is_refused(site: Site, where: str) -> None:
    seen = len(site.application.requests)
    with site.connect() as wire:
        wire.send(CUT_SHORT[where])
        wire.socket.shutdown(socket.SHUT_WR)
        assert "cut short" in wire.read_response().error[2]
    assert len(site.application.requests) == seen


def test_who_sends_everything_before_reading_gets_the_refusal(site: Site) -> None:
    """A server that closes with unread bytes before it resets the connection, and takes its own response back."""
    with site.connect() as wire:
        wire.ask("POST", "/", bytes(32 * MB))
        assert wire.read_response().error[:2] == (413, "request_too_large")
        assert wire.read_to_end() == b""


# --- Taken ------------------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[bytes, bytes]] = {
    "none": (POST + b"\r\n", b"hello"),
    "a length": (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "a length with zeros": (POST + b"Content-Length: 0003\r\n\r\nabc", b"abc"),
    "blanks around a length": (POST + b"Content-Length: \t 3 \t\r\n\r\nabc", b"abc"),
    "of a GET": (GET + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    "no chunk": (CHUNKED + b"0\r\n\r\n", b"hello"),
    "chunks": (CHUNKED + b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    "Chunked": (POST + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extensions": (CHUNKED + b'3;a;b=c;d="e;f"\r\nabc\r\n0 ; last\r\n\r\n', b"abc"),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\nContent-Length: 7\r\n\r\n", b"abc"),
    "chunks that look like chunks": (CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "gzip": (
        POST + b"Content-Encoding: GZip\r\nContent-Length: 23\r\n\r\n" + gzip.compress(b"abc", mtime=0),
        b"abc",
    ),
    "gzip in chunks": (
        CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n17\r\n" + gzip.compress(b"abc", mtime=0) + b"\r\n0\r\n\r\n",
        b"abc",
    ),
    "an encoding of nothing": (POST + b"Content-Encoding: gzip\r\n\r\n", b"hello"),
    "an empty line before": (b"\r\n" + POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
}


@pytest.mark.parametrize("form", BODIES)
def test_a_body_in_any_form_and_the_request_behind_it(site: Site, form: str) -> None:
    data, body = BODIES[form]
    with site.connect() as wire:
        wire.send(data + data)
        assert [wire.read_response().body for _ in range(2)] == [body, body]


@pytest.mark.parametrize("form", ["chunks", "extensions", "trailers", "gzip in chunks", "an empty line before"])
def test_a_request_that_comes_byte_by_byte(site: Site, form: str) -> None:
    data, body = BODIES[form]
    with site.connect() as wire:
        for position in range(len(data)):
            wire.send(data[position : position + 1])
        assert wire.read_response().body == body


@settings(max_examples=30, deadline=None)
@given(body=st.binary(max_size=300_000), sizes=st.lists(st.integers(1, 100_000), max_size=20))
def test_chunks_of_any_size_are_put_together(site: Site, body: bytes, sizes: list[int]) -> None:
    chunks: list[bytes] = []
    rest = body
    for size in [*sizes, max(len(body), 1)]:
        chunks, rest = [*chunks, rest[:size]], rest[size:]
    with site.connect() as wire:
        wire.send(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks if c) + b"0\r\n\r\n")
        assert wire.read_response().body == (body or b"hello")


TARGETS = {
    b"/v1/messages?beta=true": ("/v1/messages", "beta=true"),
    b"/a%0d%0ab?x?y": ("/a%0d%0ab", "x?y"),
    b"http://proxy:8765/v1/messages?beta=true": ("/v1/messages", "beta=true"),
    b"HTTPS://proxy/v1/messages": ("/v1/messages", ""),
    b"http://proxy": ("/", ""),
    b"http://proxy?x": ("/", "x"),
    b"/" + b"y" * 8000: ("/" + "y" * 8000, ""),
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30].decode())
def test_a_target_in_any_form(site: Site, target: bytes) -> None:
    with site.connect() as wire:
        wire.send(b"GET " + target + b" HTTP/1.1\r\nHost: proxy\r\n\r\n")
        assert wire.read_response().status == 200
    request = site.application.requests[-1]
    assert (request.path, request.query) == TARGETS[target]


def test_options_of_the_server_itself(site: Site) -> None:
    with site.connect() as wire:
        wire.ask("OPTIONS", "*")
        assert wire.read_response().status == 200


def test_methods_are_case_sensitive(site: Site) -> None:
    with site.connect() as wire:
        wire.ask("get", "/")
        wire.read_response()
        wire.ask("hEAD", "/")
        assert wire.read_response().body == b"hello", "only HEAD has no body"
    assert [request.method for request in site.application.requests[-2:]] == ["get", "hEAD"]


def test_as_many_headers_as_there_may_be(site: Site) -> None:
    with site.connect() as wire:
        wire.send(GET + b"x: y\r\n" * 99 + b"\r\n")
        assert wire.read_response().status == 200


def test_a_body_of_just_the_limit(site: Site) -> None:
    with site.connect() as wire:
        wire.ask("POST", "/", bytes(2 * MB))
        assert len(wire.read_response().body) == 2 * MB


def test_the_default_limit_is_that_of_the_real_api() -> None:
    with (
        running(listening(lambda _, response: response.respond(200, {}, b""))) as server,
        Site(server).connect() as wire,
    ):
        wire.ask("POST", "/", bytes(32 * MB))
        assert wire.read_response().status == 200
        wire.send(POST + b"Content-Length: %d\r\n\r\n" % (32 * MB + 1))
        assert "32 MB" in wire.read_response().error[2]


# --- Expect: 100-continue ---------------------------------------------------------------------------------------------

WAITING = b"Expect: 100-Continue\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 2\r\n", b"ok"), (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n")],
)
def test_who_waits_for_a_100_gets_it(site: Site, framing: bytes, body: bytes) -> None:
    with site.connect() as wire:
        for _ in range(2):
            wire.send(POST + WAITING + framing + b"\r\n")
            assert wire.read_head().status == 100
            wire.send(body)
            assert wire.read_response().body == b"ok"


def test_who_sends_at_once_gets_it_too(site: Site) -> None:
    with site.connect() as wire:
        wire.send(POST + WAITING + b"Content-Length: 2\r\n\r\nok")
        assert wire.read_head().status == 100
        assert wire.read_response().body == b"ok"


@pytest.mark.parametrize(
    "fault", ["a length in words", "two lengths", "too large a length", "another transfer encoding"]
)
def test_there_is_no_100_for_what_will_be_refused(site: Site, fault: str) -> None:
    data, status, _ = REFUSED[fault]
    assert site.exchange(data.replace(b"\r\n\r\n", b"\r\n" + WAITING + b"\r\n", 1)).status == status


def test_there_is_no_100_without_a_body_or_in_http_1_0(site: Site) -> None:
    with site.connect() as wire:
        wire.send(GET + WAITING + b"\r\n")
        assert wire.read_response().status == 200
        wire.send(b"POST / HTTP/1.0\r\n" + WAITING + b"Content-Length: 2\r\n\r\nok")
        assert wire.read_response().body == b"ok"


# --- Content encodings ------------------------------------------------------------------------------------------------

TEXT = b"Is the patient in bed 7 better? " * 100


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = [
    ("gzip", gzip.compress(TEXT, mtime=0)),
    ("X-GZIP", gzip.compress(TEXT, mtime=0)),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", raw_deflate(TEXT)),
    (" identity ", TEXT),
    ("", TEXT),
]


@pytest.mark.parametrize(("encoding", "body"), PACKED, ids=str)
def test_a_packed_body_is_unpacked(encoding: str, body: bytes) -> None:
    assert unpack(body, encoding, len(TEXT)) == TEXT


@pytest.mark.parametrize(("encoding", "body"), PACKED[:4], ids=str)
def test_a_body_that_is_too_large_when_unpacked(encoding: str, body: bytes) -> None:
    with pytest.raises(RequestTooLarge):
        unpack(body, encoding, len(TEXT) - 1)


def error_code(body: bytes, encoding: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        unpack(body, encoding, MB)
    assert caught.value.details
    return caught.value.details["error_code"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, identity", "\x1b", "x" * 1000])
def test_another_encoding_is_not_supported(encoding: str) -> None:
    assert error_code(gzip.compress(TEXT, mtime=0), encoding) == "request_body_encoding_unsupported"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", TEXT),
        ("gzip", zlib.compress(TEXT)),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-1]),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-8] + bytes(8)),
        ("gzip", gzip.compress(TEXT, mtime=0) + b"x"),
        ("gzip", gzip.compress(TEXT, mtime=0) * 2),
        ("deflate", gzip.compress(TEXT, mtime=0)),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", b"x"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_invalid(encoding: str, body: bytes) -> None:
    assert error_code(body, encoding) == "request_body_encoding_invalid"


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_nothing_but_a_refusal_comes_of_garbage(body: bytes, encoding: str) -> None:
    with suppress(InvalidRequest, RequestTooLarge):
        unpack(body, encoding, 1000)


@pytest.mark.slow
def test_a_bomb_is_not_unpacked() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([*(packer.compress(bytes(MB)) for _ in range(500)), packer.flush()])
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            unpack(bomb, "gzip", MB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MB
    finally:
        tracemalloc.stop()


def test_two_encoding_headers_are_two_encodings(site: Site) -> None:
    body = gzip.compress(gzip.compress(b"abc", mtime=0), mtime=0)
    with site.connect() as wire:
        wire.send(POST + b"Content-Encoding: gzip\r\n" * 2 + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        response = wire.read_response()
    assert response.status == 400
    assert response.json["error"]["details"] == {"error_code": "request_body_encoding_unsupported"}
