"""Further prompts for one reply: the demand for a repair, and the seam at which a truncated reply is continued."""

from __future__ import annotations

import pytest
from core_samples import evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.prompt.armour import armour
from claude_proxy.core.prompt.render import Prompt, turn
from claude_proxy.core.reply.continuation import (
    Seam,
    continuation_prompt,
    find_seam,
    join,
    repair_prompt,
    without_prefill,
)
from claude_proxy.demo.php import html_entity_decode, php_trim

PROMPT = Prompt("system", (turn("user", "Do it."),))


def test_a_repair_prompt_shows_the_reply_and_names_the_defect() -> None:
    asked = repair_prompt(PROMPT, "I'll run &sum;.\n", "there is no tool named 'Run &lt;'", armoured=True)
    assert asked.system == PROMPT.system
    assert asked.turns[:2] == (*PROMPT.turns, turn("assistant", "I'll run &amp;sum;."))
    assert asked.turns[2].role == "user"
    assert "there is no tool named 'Run &amp;lt;'" in asked.turns[2].text
    assert repair_prompt(PROMPT, "&sum;", "d", armoured=False).turns[1] == turn("assistant", "&sum;")


def test_a_continuation_prompt_shows_the_reply_and_its_last_lines() -> None:
    asked = continuation_prompt(PROMPT, find_seam("one\n  x = &sum;"), armoured=True)
    assert asked.turns[:2] == (*PROMPT.turns, turn("assistant", "one\n  x = &amp;sum;"))
    assert "\none\n  x = &amp;sum;\n" in asked.turns[2].text
    assert (
        "\none\n  x = &sum;\n"
        in continuation_prompt(PROMPT, find_seam("one\n  x = &sum;"), armoured=False).turns[2].text
    )


def test_a_continuation_prompt_says_what_to_write_if_nothing_is_missing() -> None:
    asked = continuation_prompt(PROMPT, find_seam(WHOLE), armoured=True).turns[2].text
    assert "If nothing is missing behind them, write only these lines between the tags." in asked
    assert join(find_seam(WHOLE), f"<continuation>\n{find_seam(WHOLE).anchor}\n</continuation>") == WHOLE


def test_an_empty_reply_is_shown_as_nothing_because_an_empty_turn_would_be_refused() -> None:
    assert repair_prompt(PROMPT, " \n", "the reply is empty", armoured=True).turns[1] == turn("assistant", "(nothing)")


# --- prefill ----------------------------------------------------------------------------------------------------------

PREFILLED = [
    # the beginning, the reply, what it adds
    ("", "<continuation>x</continuation>", "<continuation>x</continuation>"),
    ("One,", "<continuation>\ntwo\n</continuation>", "two"),
    ("One,", "<continuation> two</continuation>", " two"),
    ("One,", "<continuation>\n  two\n\n</continuation>", "  two\n"),
    ("One,", "<continuation>\ntwo", "two"),
    ("One,", "two", "two"),
    ("One,", "One, two", " two"),
    ("One, ", "<continuation>One, two</continuation>", " two"),
    ("{", '<continuation>{"a": 1}</continuation>', '"a": 1}'),
    ("One,", "Sure:\n<continuation>\ntwo\n</continuation>", "two"),
    ("One,", "<continuation>\ntwo\n</continuation>\n\n<function_calls>", "two\n<function_calls>"),
    ("One,", "<think>One,</think>\n<continuation>two</continuation>", "<think>One,</think>\ntwo"),
]


@pytest.mark.parametrize(("prefill", "reply", "added"), PREFILLED)
def test_a_reply_is_stripped_of_the_prefill_and_of_the_tag_around_it(prefill: str, reply: str, added: str) -> None:
    assert without_prefill(prefill, reply) == added


# --- continuation -----------------------------------------------------------------------------------------------------

LINE = "0123456789 " * 6
SEAMS = [
    ("one\ntwo\nthr", Seam("", "one\ntwo\nthr")),
    ("", Seam("", "")),
    (f"one\n{LINE}", Seam("one\n", LINE)),
    (f"one\n{LINE}\n}}", Seam("one\n", f"{LINE}\n}}")),
    (f"one\r\n{LINE}\r\n}}", Seam("one\r\n", f"{LINE}\r\n}}")),
    (f"one\n{LINE}\ntwo\n{LINE}", Seam(f"one\n{LINE}\n", f"two\n{LINE}")),
    (f"one\n{LINE} &am", Seam("one\n", LINE.rstrip())),
    ("x\n" + "y" * 1000, Seam("x\n" + "y" * 200, "y" * 800)),
]


@pytest.mark.parametrize(("text", "seam"), SEAMS, ids=[repr(text[:20]) for text, _ in SEAMS])
def test_the_seam_is_at_last_lines_that_stand_nowhere_else_in_the_text(text: str, seam: Seam) -> None:
    assert find_seam(text) == seam


SEAM = Seam("def f():\n    if x:\n", "        ret")
WHOLE = "def f():\n    if x:\n        return y\n\n\nf()"

JOINED = [
    pytest.param("<continuation>\n        return y\n\n\nf()\n</continuation>", id="as it was told"),
    pytest.param("<continuation>\n        return y\n\n\nf()</continuation>", id="the end tag on the last line"),
    pytest.param("<continuation>\n        return y\n\n\nf()\n  </continuation>\n", id="an indented end tag"),
    pytest.param("<continuation>\n        return y\n\n\nf()", id="no end tag"),
    pytest.param("Here it is:\n<continuation>\n        return y\n\n\nf()\n</continuation>", id="words before the tag"),
    pytest.param("<continuation>return y\n\n\nf()\n</continuation>", id="the indentation lost"),
    pytest.param("<continuation>\n    if x:\n        return y\n\n\nf()\n</continuation>", id="a line too many"),
    pytest.param(f"<continuation>\n{WHOLE}\n</continuation>", id="all of it again"),
]


@pytest.mark.parametrize("continuation", JOINED)
def test_a_continuation_is_joined_at_the_seam(continuation: str) -> None:
    assert join(SEAM, continuation) == WHOLE


WRONG = [
    pytest.param("", id="nothing"),
    pytest.param("<continuation>\n</continuation>", id="nothing in the tags"),
    pytest.param("<continuation>\nurn y\n\n\nf()\n</continuation>", id="goes on behind the last line"),
    pytest.param("<continuation>\n\n\nf()\n</continuation>", id="the next line"),
    pytest.param("<continuation>\n        raise\n</continuation>", id="another line"),
    pytest.param("<continuation>\n    if z:\n        return y\n</continuation>", id="other lines before it"),
    pytest.param("I'm sorry, I cannot go on.", id="an excuse"),
    pytest.param("return y\n\n\nf()", id="no tags, and too little to go by"),
    pytest.param("As I said:\n        return y", id="words before the line"),
    pytest.param("<function_calls>\n<invoke", id="a new call"),
]


@pytest.mark.parametrize("continuation", WRONG)
def test_a_continuation_that_does_not_begin_with_the_anchor_is_refused(continuation: str) -> None:
    assert join(SEAM, continuation) is None


# --- every seam -------------------------------------------------------------------------------------------------------

FILE = """\
I'll write it.
<function_calls>
<invoke name="Write">
<parameter name="content">

  é "quoted" \\ &sum; && \t
\tif (5 &lt; 6) {  \r
        ∑

\x0b    return;
    }
</parameter>
</invoke>
</function_calls>"""


def continued(whole: str, end: int, *, wrapped_in_lines: bool = True) -> str | None:
    """A reply that is cut off and continued by a model that does as it is told, with the module in between."""
    seam = find_seam(php_trim(whole[:end]))
    rest = whole[len(seam.kept) :]
    written = f"<continuation>\n{rest}\n</continuation>" if wrapped_in_lines else f"<continuation>{rest}</continuation>"
    return join(seam, php_trim(html_entity_decode(armour(written))))


def test_a_reply_cut_off_anywhere_is_restored_exactly() -> None:
    for end in range(1, len(FILE)):
        assert continued(FILE, end) == FILE


@examples(400)
@given(evil_texts, st.integers(0, 200), evil_texts)
def test_any_text_is_restored_exactly(before: str, indent: int, behind: str) -> None:
    whole = f"Words.{before}\n{' ' * (indent % 9)}{behind}"
    end = 6 + indent % max(1, len(whole) - 6)
    assert continued(whole, end) == whole


@examples(100)
@given(st.text("ab \n", min_size=1, max_size=60), st.integers(1, 2_000))
def test_long_lines_are_restored_exactly(piece: str, end: int) -> None:
    whole = "Words. " + piece.replace("\n", "") * 40 + piece + "."
    assert continued(whole, min(end, len(whole))) == whole


def test_a_repeated_line_that_equals_the_last_one_is_not_written_twice() -> None:
    seam = find_seam("f() {\n  g() {\n}\n}")
    assert join(seam, "<continuation>\n}\n}\nend\n</continuation>") in (None, "f() {\n  g() {\n}\n}\nend")


@pytest.mark.parametrize("cut_off", ["&", "&a", "&amp", "&amp;su"])
def test_a_reply_may_be_cut_off_inside_an_armoured_entity(cut_off: str) -> None:
    seam = find_seam(html_entity_decode(f"one\nint *p = {cut_off}"))
    assert join(seam, "<continuation>\none\nint *p = &sum;\n</continuation>") == "one\nint *p = &sum;"


def test_thinking_before_a_continuation_is_ignored() -> None:
    thought = "<think>\nWhere was I? <continuation>\n</think>\n"
    assert join(SEAM, f"{thought}<continuation>\n        return y\n\n\nf()\n</continuation>") == WHOLE
