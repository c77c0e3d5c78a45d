"""Looking ahead for a pattern: the answer is that of a search, and a text is gone through once."""

from __future__ import annotations

import re

from core_samples import examples, steps
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.reply.lookahead import Ahead

texts = st.text("ab-", max_size=30)
positions = st.lists(st.integers(0, 30), max_size=12)


@examples(200)
@given(texts, positions)
def test_a_look_ahead_finds_what_a_search_finds_whatever_was_asked_before(text: str, asked: list[int]) -> None:
    pattern = re.compile("a+")
    ahead, any_of_them = Ahead(text, pattern), Ahead(text, re.compile("a"), re.compile("-"))
    for position in (min(each, len(text)) for each in asked):
        match, first = pattern.search(text, position), re.compile("[a-]").search(text, position)
        assert ahead.start(position) == (match.start() if match else len(text))
        assert (ahead.match(position) or [""])[0] == (match or [""])[0]
        assert any_of_them.start(position) == (first.start() if first else len(text))
        assert (any_of_them.match(position) or [""])[0] == (first or [""])[0]


def test_a_text_without_a_match_is_searched_once() -> None:
    ahead = Ahead("a" * 1_000, re.compile("x"))
    searches = steps(lambda: [ahead.start(position) for position in range(1_000)])
    assert searches < 1_000 + 20
