"""Reading an HTTP response: every framing, whole and byte by byte; and what is no response, told in fixed words."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.shell.upstream import http_answer
from claude_proxy.shell.upstream.http_answer import BadAnswer, HttpAnswer, Inbox, read_answer

SECRET = b"Patient-4711"
BODY = b'{"content": "x"}'


def inbox(data: bytes, size: int = 65536) -> Inbox:
    """What comes in pieces of a size, and then ends."""
    pieces: Iterator[bytes] = iter([data[start : start + size] for start in range(0, len(data), size)])
    return Inbox(lambda: next(pieces, b""))


def head(*lines: bytes, status: bytes = b"200 OK", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([version + b" " + status, *lines, b"", b""])


def sized(body: bytes, *lines: bytes, **options: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body), *lines, **options) + body


CHUNKED = b"Transfer-Encoding: chunked"

# What comes; the status and the body read from it, and whether the connection can be used again.
WHOLE: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (sized(b"ok"), 200, b"ok", True),
    "length twice the same": (head(b"Content-Length: 2", b"content-length: 2, 2") + b"ok", 200, b"ok", True),
    "no reason": (sized(b"ok", status=b"200"), 200, b"ok", True),
    "a reason in any bytes": (sized(b"ok", status=b"200 \xff\x00"), 200, b"ok", True),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok", True),
    "folded header": (sized(b"ok", b"X: a", b" b"), 200, b"ok", True),
    "chunks": (head(CHUNKED) + b"1\r\no\r\n01\r\nk\r\n0\r\n\r\n", 200, b"ok", True),
    "chunks with extensions": (head(CHUNKED) + b"2;a=b\r\nok\r\n0;c\r\n\r\n", 200, b"ok", True),
    "chunks with trailers": (head(CHUNKED) + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", 200, b"ok", True),
    "no chunks": (head(CHUNKED) + b"0\r\n\r\n", 200, b"", True),
    "chunks and a length": (head(CHUNKED, b"Content-Length: 9") + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok", False),
    "to the end": (head() + b"ok", 200, b"ok", False),
    "close": (sized(b"ok", b"Connection: Keep-Alive, CLOSE"), 200, b"ok", False),
    "HTTP/1.0": (sized(b"ok", version=b"HTTP/1.0"), 200, b"ok", False),
    "no content": (head(status=b"204 No Content"), 204, b"", True),
    "more than was said": (sized(b"ok") + b"!", 200, b"ok", False),
    "twice": (sized(b"ok") * 2, 200, b"ok", False),
    "after a 100": (head(status=b"100 Continue") + sized(b"ok"), 200, b"ok", True),
    "after early hints": (head(b"Link: </x>", status=b"103 Early Hints") * 16 + sized(b"ok"), 200, b"ok", True),
    "gzip": (sized(gzip.compress(BODY), b"Content-Encoding: gzip"), 200, BODY, True),
    "x-gzip": (sized(gzip.compress(BODY), b"Content-Encoding: X-GZIP"), 200, BODY, True),
    "gzip in chunks": (
        head(CHUNKED, b"Content-Encoding: gzip") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(z := gzip.compress(BODY)), z),
        *(200, BODY, True),
    ),
    "deflate": (sized(zlib.compress(BODY), b"Content-Encoding: deflate"), 200, BODY, True),
    "deflate without its header": (
        sized(zlib.compress(BODY, wbits=-15), b"Content-Encoding: identity, deflate"),
        *(200, BODY, True),
    ),
    "identity": (sized(BODY, b"Content-Encoding: identity"), 200, BODY, True),
    "gzip of nothing": (sized(b"", b"Content-Encoding: gzip"), 200, b"", True),
}


@pytest.mark.parametrize("size", [1, 7, 65536])
@pytest.mark.parametrize("name", WHOLE)
def test_a_response_is_read_whole_however_it_comes(name: str, size: int) -> None:
    data, status, body, reusable = WHOLE[name]
    answer, can_be_used_again = read_answer(inbox(data, size))
    assert (answer.status, answer.body) == (status, body)
    if name not in {"more than was said", "twice"} or size > len(data):  # what has not come yet shows when idle
        assert can_be_used_again is reusable


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([b"X: a b"], "a b"),
        ([b"X:a"], "a"),
        ([b"X:"], ""),
        ([b"X: \t "], ""),
        ([b"x:\t a:b \t"], "a:b"),
        ([b"X: \x0b\xa0a\x85"], "\x0b\xa0a\x85"),  # only blanks and tabs are no part of it
        ([b"X: a\rb"], "a\rb"),
        ([b"X: a", b"x: b"], "a"),
        ([b"X: a", b" b \x0b", b"\t\xa0c"], "a b \xa0c"),
        ([b"X: a", b"x: b", b" c"], "a"),  # what is folded belongs to the line before it
    ],
)
def test_the_value_of_a_header(lines: list[bytes], value: str) -> None:
    answer, _ = read_answer(inbox(sized(b"", *lines)))
    assert answer.headers == {"content-length": "0", "x": value}


def test_headers() -> None:
    data = sized(b"", b"Content-Type:text/html ; charset=x", b"X-A:  1\t", b"x-a: 2", b"X-B:", b"X-C: \xe9: ")
    answer, _ = read_answer(inbox(data))
    assert answer == HttpAnswer(
        200, {"content-length": "0", "content-type": "text/html ; charset=x", "x-a": "1", "x-b": "", "x-c": "é:"}, b""
    )


NOT_COME, IN_HEAD, IN_BODY = "did not come: the connection was closed", "broke off in its head", "broke off in its body"
NO_HTTP, NO_CHUNKS, NO_LENGTH = "is not HTTP", "not chunked as it should be", "a length that is not one number"

# What comes, the words for it, and whether trying again would meet the same.
BROKEN: dict[str, tuple[bytes, str, bool]] = {
    "nothing": (b"", NOT_COME, False),
    "nothing after an announcement": (head(status=b"103 Early Hints"), NOT_COME, False),
    "a part of the status line": (b"HTTP/1.1 20", IN_HEAD, False),
    "a part of a header": (head()[:-2] + b"Content-Ty", IN_HEAD, False),
    "a head without its end": (head()[:-2], IN_HEAD, False),
    "no body": (head(b"Content-Length: 5"), IN_BODY, False),
    "half a body": (head(b"Content-Length: 5") + b"ab", IN_BODY, False),
    "a chunk too few": (head(CHUNKED) + b"2\r\nab\r\n", IN_BODY, False),
    "half a chunk": (head(CHUNKED) + b"5\r\nab", IN_BODY, False),
    "no end of the trailers": (head(CHUNKED) + b"2\r\nab\r\n0\r\n", IN_BODY, False),
    "half of a gzip": (sized(gzip.compress(BODY)[:-3], b"Content-Encoding: gzip"), IN_BODY, False),
    "another protocol": (b"SSH-2.0-OpenSSH_" + SECRET + b"\r\n", NO_HTTP, True),
    "a page without a head": (b"<html>" + SECRET, NO_HTTP, True),
    "an old version": (b"HTTP/0.9 200 OK\r\n\r\n", NO_HTTP, True),
    "a new version": (b"HTTP/2 200\r\n\r\n", NO_HTTP, True),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", NO_HTTP, True),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", NO_HTTP, True),
    "bytes in another order": (head()[::-1] + b"ok", NO_HTTP, True),
    "a byte too many before": (b"x" + head(), NO_HTTP, True),
    "a TLS alert": (bytes.fromhex("15030100020246"), "is TLS: the address must begin with https://", True),
    "a TLS handshake": (bytes.fromhex("160303007a0200"), "is TLS", True),
    "a change of protocol": (head(status=b"101 Switching Protocols"), "never gets beyond announcements", True),
    "announcements for ever": (head(status=b"100 Continue") * 99, "never gets beyond announcements", True),
    "a line that is no header": (head(SECRET), "has a head that cannot be read", False),
    "a blank before the colon": (head(b"Content-Length : 5"), "has a head that cannot be read", False),
    "a fold before any header": (head(b" " + SECRET), "has a head that cannot be read", False),
    "two lengths": (
        head(b"Content-Length: 2", b"Content-Length: 3") + b"abc",
        "a length that is not one number",
        False,
    ),
    "a list of lengths": (head(b"Content-Length: 2, 3") + b"abc", NO_LENGTH, False),
    "a negative length": (head(b"Content-Length: -2") + b"abc", NO_LENGTH, False),
    "a length in other digits": (head("Content-Length: ²".encode("latin-1")), NO_LENGTH, False),
    "a length in words": (head(b"Content-Length: " + SECRET), NO_LENGTH, False),
    "a length beyond bounds": (head(b"Content-Length: 99999999999999999999"), "which no model writes", True),
    "an unknown framing": (head(b"Transfer-Encoding: gzip, chunked"), "framed in a way", True),
    "chunked twice": (head(CHUNKED, CHUNKED), "framed in a way", True),
    "a chunk's size that is none": (head(CHUNKED) + b"zz\r\nab\r\n", NO_CHUNKS, False),
    "a negative chunk": (head(CHUNKED) + b"-2\r\nab\r\n", NO_CHUNKS, False),
    "a chunk's size as Python may write it": (head(CHUNKED) + b"0x2\r\nab\r\n", NO_CHUNKS, False),
    "a chunk longer than it says": (head(CHUNKED) + b"2\r\nabc\r\n0\r\n\r\n", NO_CHUNKS, False),
    "a chunk beyond bounds": (head(CHUNKED) + b"ffffffff\r\n", "which no model writes", True),
    "a chunk beyond any number": (head(CHUNKED) + b"f" * 20 + b"\r\n", NO_CHUNKS, False),
    "trailers that are none": (head(CHUNKED) + b"0\r\n" + SECRET + b"\r\n\r\n", "a body that cannot be read", False),
    "not the gzip it says": (sized(SECRET, b"Content-Encoding: gzip"), "compressed, and damaged", False),
    "not the deflate it says": (sized(b"\xff" * 9, b"Content-Encoding: deflate"), "compressed, and damaged", False),
    "an unknown compression": (sized(SECRET, b"Content-Encoding: br"), "asked for as it is", True),
    "a compression of a compression": (sized(SECRET, b"Content-Encoding: gzip, gzip"), "asked for as it is", True),
}


@pytest.mark.parametrize("size", [1, 65536])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_response_is_told_in_fixed_words(name: str, size: int) -> None:
    data, words, lasting = BROKEN[name]
    with pytest.raises(BadAnswer) as caught:
        read_answer(inbox(data, size))
    assert words in caught.value.what
    assert caught.value.lasting is lasting
    assert SECRET.decode() not in caught.value.what


# --- Bounds -----------------------------------------------------------------------------------------------------------


def endless(beginning: bytes, block: bytes) -> tuple[Inbox, Callable[[], int]]:
    """A response without end, and how many bytes of it were read."""
    count = 0

    def receive() -> bytes:
        nonlocal count
        data = block if count else beginning
        count += len(data)
        return data

    return Inbox(receive), lambda: count


ENDLESS: dict[str, tuple[bytes, bytes, str]] = {
    "a status line": (b"HTTP/1.1 200 ", b"x" * 65536, "a head without end"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536, "a head without end"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000, "a head without end"),
    "folds": (b"HTTP/1.1 200 OK\r\nX: y\r\n", b" z\r\n" * 10_000, "a head without end"),
    "announcements": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, "announcements"),
    "a body to the end": (head(), b"x" * 65536, "which no model writes"),
    "chunks": (head(CHUNKED), b"1000\r\n" + b"x" * 4096 + b"\r\n", "which no model writes"),
    "tiny chunks": (head(CHUNKED), b"1\r\nx\r\n" * 9999, "which no model writes"),
    "extensions of chunks": (head(CHUNKED), b"1;" + b"a" * 60_000 + b"\r\nx\r\n", "which no model writes"),
    "the extension of a chunk": (head(CHUNKED) + b"1;", b"a" * 65536, "a body without end"),
    "trailers": (head(CHUNKED) + b"0\r\n", b"X: y\r\n" * 10_000, "a body without end"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_answer, "MAX_BODY", 1024 * 1024)
    monkeypatch.setattr(http_answer, "_MAX_FRAMES", 100_000)
    beginning, block, words = ENDLESS[name]
    incoming, read = endless(beginning, block)
    with pytest.raises(BadAnswer, match=words) as caught:
        read_answer(incoming)
    assert caught.value.lasting
    assert read() < 1024 * 1024 + 2 * 65536


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_bomb_does_not_go_off(coding: bytes) -> None:
    """64 MB of nothing in 64 KB: it is unpacked to the limit and no further."""
    nothing = bytes(64 * 1024 * 1024)
    bomb = gzip.compress(nothing) if coding == b"gzip" else zlib.compress(nothing)
    with pytest.raises(BadAnswer, match="which no model writes"):
        read_answer(inbox(sized(bomb, b"Content-Encoding: " + coding)))


# --- Anything ---------------------------------------------------------------------------------------------------------

PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 500\n", b"HTTP/1.1 103 x\r\n\r\n", b"Content-Length: 3\r\n"),
    *(b"Content-Length: x", CHUNKED + b"\r\n", b"Content-Encoding: gzip\r\n", b"Connection: close\r\n"),
    *(b"\r\n", b"\n", b"3\r\nabc\r\n", b"0\r\n", gzip.compress(b"abc", mtime=0), b"abc", b" ", b":"),
]


@hypothesis.settings(deadline=None, derandomize=True, max_examples=500)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=12), st.integers(1, 9))
def test_whatever_comes_is_a_response_or_none_and_the_same_in_any_pieces(pieces: list[bytes], size: int) -> None:
    def read(step: int) -> HttpAnswer | str:
        try:
            return read_answer(inbox(b"".join(pieces), step))[0]
        except BadAnswer as bad:
            return bad.what

    assert read(size) == read(65536)
