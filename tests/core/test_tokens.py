"""Token estimates: plausible, and never smaller for more text. How accurate they are is for a benchmark to say."""

from __future__ import annotations

import pytest
from core_samples import evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.tokens import estimate

PLAUSIBLE = [
    # what tokenizers of today make of it, give or take
    pytest.param("The quick brown fox jumps over the lazy dog. " * 100, 800, 1300, id="English"),
    pytest.param("def area(self) -> float:\n    return self.width * self.height\n" * 100, 1300, 2600, id="Python"),
    pytest.param('{"name":"Write","input":{"file_path":"/tmp/a.py"}}' * 100, 1400, 2600, id="JSON"),
    pytest.param("3.14159265358979 " * 100, 500, 1100, id="numbers"),
    pytest.param("昨日は雨が降っていました。" * 100, 800, 1900, id="Japanese"),
    pytest.param("a" * 100_000, 10_000, 60_000, id="one endless word"),
]


@pytest.mark.parametrize(("text", "least", "most"), PLAUSIBLE)
def test_an_estimate_is_plausible(text: str, least: int, most: int) -> None:
    assert least <= estimate([text]) <= most


def test_nothing_costs_something() -> None:
    assert estimate([]) == 1
    assert estimate([""]) >= 1
    assert estimate(["", ""]) > estimate([""])


@examples(200)
@given(evil_texts, evil_texts)
def test_more_text_never_costs_less(text: str, more: str) -> None:
    assert estimate([text + more]) >= estimate([text])
    assert estimate([text, more]) >= estimate([text])


@examples(100)
@given(st.lists(evil_texts, max_size=4))
def test_order_does_not_matter(texts: list[str]) -> None:
    assert estimate(texts) == estimate(reversed(texts))


def test_a_lone_surrogate_is_counted_too() -> None:
    assert estimate(["\ud800" * 10]) >= estimate([""])
