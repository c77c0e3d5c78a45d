"""Stop sequences and `max_tokens`, applied to a finished reply."""

from __future__ import annotations

import pytest
from core_samples import examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.aliases import tokens
from claude_proxy.core.messages.content import ContentBlock, Text, Thinking, ToolUse
from claude_proxy.core.reply.limits import cut_to, stop_at

CALL = ToolUse("t", "Read", {"path": "END"})
THOUGHT = Thinking("END of thought", "s")

STOPS: list[tuple[str, list[ContentBlock], list[str], list[ContentBlock], str | None]] = [
    # what it is, the content, the sequences, what is kept, which was met
    ("none given", [Text("a END b")], [], [Text("a END b")], None),
    ("none met", [Text("a EN b")], ["END"], [Text("a EN b")], None),
    ("in the middle", [Text("a END b")], ["END"], [Text("a ")], "END"),
    ("the first of several places", [Text("a END b END")], ["END"], [Text("a ")], "END"),
    ("at the beginning", [Text("END b")], ["END"], [], "END"),
    ("at the end", [Text("a\nEND")], ["END"], [Text("a\n")], "END"),
    ("white space around is kept", [Text(" a \n\n b")], ["\n\n"], [Text(" a ")], "\n\n"),
    ("the one that comes first", [Text("a TWO ONE")], ["ONE", "TWO"], [Text("a ")], "TWO"),
    ("the one that ends first", [Text("xabcdy")], ["abcd", "bc"], [Text("xa")], "bc"),
    ("at one place, the shorter one", [Text("xabcy")], ["abc", "ab"], [Text("x")], "ab"),
    ("with one end, the longer one", [Text("xaby")], ["b", "ab"], [Text("x")], "ab"),
    ("overlapping itself", [Text("aaab")], ["aab"], [Text("a")], "aab"),
    ("case matters", [Text("end END")], ["END"], [Text("end ")], "END"),
    ("before a call, which was never made", [Text("a END"), CALL], ["END"], [Text("a ")], "END"),
    ("between calls", [CALL, Text("END"), CALL], ["END"], [CALL], "END"),
    ("not in the input of a call", [Text("a"), CALL], ["END"], [Text("a"), CALL], None),
    ("not in thinking", [THOUGHT, Text("a")], ["END"], [THOUGHT, Text("a")], None),
    ("in the text behind thinking", [THOUGHT, Text("a END")], ["END"], [THOUGHT, Text("a ")], "END"),
    ("in a later text", [Text("a"), CALL, Text("b END")], ["END"], [Text("a"), CALL, Text("b ")], "END"),
]


@pytest.mark.parametrize(
    ("content", "sequences", "kept", "met"), [row[1:] for row in STOPS], ids=[row[0] for row in STOPS]
)
def test_a_stop_sequence(
    content: list[ContentBlock], sequences: list[str], kept: list[ContentBlock], met: str | None
) -> None:
    assert stop_at(content, sequences) == (tuple(kept), met)


@examples(200)
@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_it_stops_where_a_model_that_writes_letter_by_letter_would_have_stopped(
    text: str, sequences: list[str]
) -> None:
    written = ""
    met: set[str] = set()
    for letter in text:
        written += letter
        met = {sequence for sequence in sequences if written.endswith(sequence)}
        if met:
            break
    kept, sequence = stop_at([Text(text)], sequences)
    if met:
        assert sequence == max(met, key=len)
        assert "".join(block.text for block in kept if isinstance(block, Text)) == written.removesuffix(sequence)
    else:
        assert (kept, sequence) == ((Text(text),), None)


# --- max_tokens -------------------------------------------------------------------------------------------------------

PROSE = "The quick brown fox jumps over the lazy dog. " * 40
WHOLE = tokens.estimate([PROSE])


@pytest.mark.parametrize("cost", [1, 99, 100])
def test_what_stays_within_the_limit_is_not_cut(cost: int) -> None:
    content: list[ContentBlock] = [Thinking(PROSE, "s"), Text(PROSE)]
    assert cut_to(content, 100, cost) == (tuple(content), False)


@pytest.mark.parametrize("limit", [1, 2, 10, 100, WHOLE - 1])
def test_a_text_is_cut_to_its_share(limit: int) -> None:
    (block,), was_cut = cut_to([Text(PROSE)], limit, WHOLE)
    assert was_cut
    assert isinstance(block, Text)
    assert PROSE.startswith(block.text)
    assert len(block.text) / len(PROSE) == pytest.approx(limit / WHOLE, rel=0.2, abs=0.02)


def test_thinking_comes_first_and_is_paid_for_first() -> None:
    content: list[ContentBlock] = [Thinking(PROSE, "s"), Text(PROSE)]
    (thought,), was_cut = cut_to(content, 50, 400)
    assert was_cut
    assert isinstance(thought, Thinking)
    assert PROSE.startswith(thought.thinking)
    assert thought.signature == "s"
    whole_thought, text = cut_to(content, 300, 400)[0]
    assert whole_thought == content[0]
    assert isinstance(text, Text)
    assert 0 < len(text.text) < len(PROSE)


def test_calls_have_been_paid_for_and_are_never_cut() -> None:
    content: tuple[ContentBlock, ...] = (Text(PROSE), CALL)
    assert cut_to(content, 1, 10_000) == (content, False)


def test_nothing_to_cut() -> None:
    assert cut_to([], 1, 10) == ((), True)
