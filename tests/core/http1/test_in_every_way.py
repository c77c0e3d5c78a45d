"""Each message is read whole, byte by byte, and with data behind it: nothing may depend on how the bytes come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from http_cases import BODIES, BROKEN, CUT_SHORT, MB, REFUSED, SECRET, WHOLE

from claude_proxy.core.http1.answer import AnswerReader, read_answer
from claude_proxy.core.http1.grammar import REQUEST, Malformed
from claude_proxy.core.http1.reader import Reader
from claude_proxy.core.http1.request import read_body, read_head
from claude_proxy.errors import ProxyError

BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: proxy\r\n\r\n"

Outcome: TypeAlias = Any
"""What was read, or the failure; and what is left for the next message."""

Read: TypeAlias = Callable[[Callable[[], bytes]], Outcome]


def request(more: Callable[[], bytes]) -> Outcome:
    reader = Reader(more, REQUEST)
    reader.fill()
    try:
        head = read_head(reader, max_bytes=65536, max_headers=100)
        return (head, read_body(reader, head, max_bytes=2 * MB)), rest(reader)
    except ProxyError as error:
        return (error.status, error.message, error.details), None


def answer(more: Callable[[], bytes]) -> Outcome:
    reader = AnswerReader(more)
    try:
        return read_answer(reader)[0], rest(reader)
    except Malformed as bad:
        return (bad.what, bad.lasting), None


def rest(reader: Reader) -> bytes:
    return reader.rest(len(BEHIND) + 1000)


def in_pieces(data: bytes, size: int) -> Callable[[], bytes]:
    """What comes in pieces of a size, and then ends."""
    pieces: Iterator[bytes] = iter([data[start : start + size] for start in range(0, len(data), size)])
    return lambda: next(pieces, b"")


def in_every_way(read: Read, data: bytes, *, behind: bool) -> Outcome:
    """Read a message in pieces of several sizes, with and without data behind it; the outcome must be the same."""
    whole, left = read(in_pieces(data, max(len(data), 1)))
    for size in (1, 7, 4099) if len(data) < 20_000 else (4099,):
        assert read(in_pieces(data, size)) == (whole, left)
    for size in (65536, 1) if behind and len(data) < 20_000 else ():
        again, left_again = read(in_pieces(data + BEHIND, size))
        assert again == whole
        assert left_again == (None if left is None else left + BEHIND)
    return whole, left


@pytest.mark.parametrize("name", BODIES)
def test_a_request_is_read_and_what_is_behind_it_is_left(name: str) -> None:
    data, said = BODIES[name]
    (head, body), left = in_every_way(request, data, behind=True)
    assert (body or b"hello", left) == (said, b"")
    assert head.keeps_alive


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused(name: str) -> None:
    data, status, words = REFUSED[name]
    (found, message, _), _left = in_every_way(request, data, behind=True)
    assert found == status
    assert words in message


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_request_that_is_cut_short_is_refused(name: str) -> None:
    (status, message, _), _left = in_every_way(request, CUT_SHORT[name], behind=False)
    assert status == 400
    assert "broke off" in message


ENDS_WITH_THE_CONNECTION = {"to the end", "more than was said", "twice"}


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_read_and_what_is_behind_it_is_left(name: str) -> None:
    data, status, body, _ = WHOLE[name]
    read, left = in_every_way(answer, data, behind=name not in ENDS_WITH_THE_CONNECTION)
    assert (read.status, read.body) == (status, body)
    assert (left == b"") is (name not in {"more than was said", "twice"})


@pytest.mark.parametrize("name", WHOLE)
def test_a_connection_is_used_again_only_where_nothing_is_in_doubt(name: str) -> None:
    data, _, _, reusable = WHOLE[name]
    assert read_answer(AnswerReader(in_pieces(data, 65536)))[1] is reusable


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_told_in_fixed_words(name: str) -> None:
    data, words, lasting = BROKEN[name]
    (what, is_lasting), _left = in_every_way(answer, data, behind=False)
    assert words in what
    assert is_lasting is lasting
    assert SECRET.decode() not in what
