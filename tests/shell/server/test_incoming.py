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
from http_cases import BODIES, CHUNKED, CUT_SHORT, GET, MB, POST, REFUSED
from hypothesis import given, settings
from hypothesis import strategies as st
from sites import Site, echo, listening

from claude_proxy.core.http1.request import unpack_body as unpack
from claude_proxy.errors import InvalidRequest, RequestTooLarge


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(listening(echo, max_body_mb=2)) as server:
        yield Site(server)


# --- Refused: the connection ends with it -----------------------------------------------------------------------------


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


@pytest.mark.parametrize("where", CUT_SHORT)
def test_a_request_that_is_cut_short_is_refused(site: Site, where: str) -> None:
    seen = len(site.application.requests)
    with site.connect() as wire:
        wire.send(CUT_SHORT[where])
        wire.socket.shutdown(socket.SHUT_WR)
        assert "broke off" in wire.read_response().error[2]
    assert len(site.application.requests) == seen


def test_who_sends_everything_before_reading_gets_the_refusal(site: Site) -> None:
    """A server that closes with unread bytes before it resets the connection, and takes its own response back."""
    with site.connect() as wire:
        wire.ask("POST", "/", bytes(32 * MB))
        assert wire.read_response().error[:2] == (413, "request_too_large")
        assert wire.read_to_end() == b""


# --- Taken ------------------------------------------------------------------------------------------------------------


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
