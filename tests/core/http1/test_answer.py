"""What is particular to answers: the values of headers, bounds, bombs, and anything that may come."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import hypothesis
import pytest
from http_cases import ANSWER_CHUNKED, head, sized
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.http1.answer import AnswerReader, HttpAnswer, read_answer
from claude_proxy.core.http1.grammar import ANSWER, Malformed


def inbox(data: bytes, size: int = 65536) -> AnswerReader:
    """What comes in pieces of a size, and then ends."""
    pieces: Iterator[bytes] = iter([data[start : start + size] for start in range(0, len(data), size)])
    return AnswerReader(lambda: next(pieces, b""))


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


# --- Bounds -----------------------------------------------------------------------------------------------------------


def endless(beginning: bytes, block: bytes) -> tuple[AnswerReader, Callable[[], int]]:
    """A response without end, and how many bytes of it were read."""
    count = 0

    def receive() -> bytes:
        nonlocal count
        data = block if count else beginning
        count += len(data)
        return data

    return AnswerReader(receive, replace(ANSWER, max_extras=100_000)), lambda: count


ENDLESS: dict[str, tuple[bytes, bytes, str]] = {
    "a status line": (b"HTTP/1.1 200 ", b"x" * 65536, "a head without end"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536, "a head without end"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000, "a head without end"),
    "folds": (b"HTTP/1.1 200 OK\r\nX: y\r\n", b" z\r\n" * 10_000, "a head without end"),
    "announcements": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, "announcements"),
    "a body to the end": (head(), b"x" * 65536, "is longer than"),
    "chunks": (head(ANSWER_CHUNKED), b"1000\r\n" + b"x" * 4096 + b"\r\n", "is longer than"),
    "tiny chunks": (head(ANSWER_CHUNKED), b"1\r\nx\r\n" * 9999, "a body without end"),
    "extensions of chunks": (head(ANSWER_CHUNKED), b"1;" + b"a" * 60_000 + b"\r\nx\r\n", "a body without end"),
    "the extension of a chunk": (head(ANSWER_CHUNKED) + b"1;", b"a" * 65536, "a body without end"),
    "trailers": (head(ANSWER_CHUNKED) + b"0\r\n", b"X: y\r\n" * 10_000, "a body without end"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_given_up(name: str) -> None:
    beginning, block, words = ENDLESS[name]
    incoming, read = endless(beginning, block)
    with pytest.raises(Malformed, match=words) as caught:
        read_answer(incoming, max_body=1024 * 1024)
    assert caught.value.lasting
    assert read() < 1024 * 1024 + 2 * 65536


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_bomb_does_not_go_off(coding: bytes) -> None:
    """64 MB of nothing in 64 KB: it is unpacked to the limit and no further."""
    nothing = bytes(64 * 1024 * 1024)
    bomb = gzip.compress(nothing) if coding == b"gzip" else zlib.compress(nothing)
    with pytest.raises(Malformed, match="is longer than"):
        read_answer(inbox(sized(bomb, b"Content-Encoding: " + coding)))


# --- Anything ---------------------------------------------------------------------------------------------------------

PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 500\n", b"HTTP/1.1 103 x\r\n\r\n", b"Content-Length: 3\r\n"),
    *(b"Content-Length: x", ANSWER_CHUNKED + b"\r\n", b"Content-Encoding: gzip\r\n", b"Connection: close\r\n"),
    *(b"\r\n", b"\n", b"3\r\nabc\r\n", b"0\r\n", gzip.compress(b"abc", mtime=0), b"abc", b" ", b":"),
]


@hypothesis.settings(deadline=None, derandomize=True, max_examples=500)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=12), st.integers(1, 9))
def test_whatever_comes_is_a_response_or_none_and_the_same_in_any_pieces(pieces: list[bytes], size: int) -> None:
    def read(step: int) -> HttpAnswer | str:
        try:
            return read_answer(inbox(b"".join(pieces), step))[0]
        except Malformed as bad:
            return bad.what

    assert read(size) == read(65536)
