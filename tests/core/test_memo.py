"""What is remembered is right, bounded, and holds no text."""

from __future__ import annotations

import pytest
from core_samples import write_calls
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core import tokens
from claude_proxy.core.content import Tool
from claude_proxy.core.memo import Memo, digest
from claude_proxy.core.notation import Call, CallWriter


def never() -> str:
    raise AssertionError("it is known")


def test_finds_once() -> None:
    memo = Memo()
    assert memo.recall("kind", "text", lambda: "found") == "found"
    assert memo.recall("kind", "text", never) == "found"


def test_kinds_are_apart() -> None:
    memo = Memo()
    memo.recall("a", "text", lambda: "a")
    assert memo.recall("b", "text", lambda: "b") == "b"


@given(st.text(), st.text())
def test_where_the_kind_ends_matters(kind: str, text: str) -> None:
    assert kind == "" or digest(kind, text) != digest("", kind + text)


def test_zero_is_known_too() -> None:
    memo = Memo()
    memo.recall("kind", "text", lambda: 0)
    assert memo.recall("kind", "text", lambda: 1) == 0


def test_is_bounded() -> None:
    memo = Memo(most=10)
    for number in range(1000):
        memo.recall("kind", str(number), lambda: "found")
    assert len(memo) <= 20


def test_what_is_asked_for_stays() -> None:
    memo = Memo(most=10)
    memo.recall("kind", "dear", lambda: "found")
    for number in range(1000):
        memo.recall("kind", str(number), lambda: "found")
        assert memo.recall("kind", "dear", never) == "found"


def test_holds_no_text() -> None:
    memo = Memo()
    tokens.estimate(["the secret of the conversation"], memo=memo)
    CallWriter({}, memo).write([Call("Secret", {"secret": "secret"})])
    assert len(memo) == 2
    assert "secret" not in repr(vars(memo))


TOOLS = {
    "Text": Tool("Text", {"type": "object", "properties": {"value": {"type": "string"}}}),
    "Any": Tool("Any", {"type": "object", "properties": {"value": {}}}),
    "Number": Tool("Number", {"type": "object", "properties": {"value": {"type": "number"}}}),
}
VALUES = ("5", 5, 5.0, True, "true", None, "", "\n", " 5", "a\nb", "</parameter>", "<invoke", [5], ["5"], {"a": 1})


@pytest.mark.parametrize("other", [*TOOLS, "Unknown"])
def test_calls_are_written_alike_with_a_memo_and_without(other: str) -> None:
    memo = Memo()
    calls = [Call(name, {"value": value}) for name in ("Text", other) for value in VALUES]
    plain = [write_calls([call], TOOLS) for call in calls]
    for _ in range(2):  # the second time all is known
        assert [CallWriter(TOOLS, memo).write([call]) for call in calls] == plain


def test_other_tools_are_other_calls() -> None:
    memo = Memo()
    call = Call("Text", {"value": "5"})
    assert CallWriter(TOOLS, memo).write([call]) == write_calls([call], TOOLS)
    others = {"Text": Tool("Text", TOOLS["Any"].input_schema)}
    assert CallWriter(others, memo).write([call]) == write_calls([call], others) != write_calls([call], TOOLS)


@given(st.lists(st.text()))
def test_estimates_are_alike_with_a_memo_and_without(texts: list[str]) -> None:
    memo = Memo()
    for tokenizer in ("openai", "claude", "openai"):
        assert tokens.estimate(texts, tokenizer, memo) == tokens.estimate(texts, tokenizer)
