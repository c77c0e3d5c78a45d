"""What it costs to read a text: nothing for the canonical form, and for each mistake what its weight says."""

from __future__ import annotations

import pytest
from core_samples import BASH, READ, WRITE, by_name, evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls.reading_costs import ReadingCosts, State, TagRole, Weight
from claude_proxy.core.calls.tags import TaggedText, find_tags
from claude_proxy.core.calls.vocabulary import Vocabulary

OFFERED = by_name(WRITE, READ, BASH)
WORDS = Vocabulary(OFFERED)


def costs(text: str, *, cut: bool = False) -> ReadingCosts:
    tags = find_tags(text, WORDS)
    return ReadingCosts(TaggedText(text, tags), WORDS.parameters, cut=cut)


WHOLE = """\
<function_calls>
<invoke name="Write">
<parameter name="file_path">/a</parameter>
<parameter name="content">b</parameter>
</invoke>
</function_calls>"""
CLOSED = "b</parameter>"

COSTS = [
    pytest.param(WHOLE, Weight.FREE, id="the canonical form"),
    pytest.param(WHOLE.replace(CLOSED, "b"), Weight.PARAMETER_UNCLOSED_AT_END, id="the last value is not closed"),
    pytest.param(
        WHOLE.replace("/a</parameter>", "/a"), Weight.PARAMETER_UNCLOSED, id="a value before it is not closed"
    ),
    pytest.param(WHOLE.replace("</invoke>\n", ""), Weight.INVOKE_UNCLOSED, id="the call is not closed"),
    pytest.param(WHOLE.replace("</invoke>", "</invoke> So."), Weight.TEXT_BEHIND_INVOKE, id="words behind the call"),
    pytest.param(WHOLE.replace(CLOSED, "b</content>"), Weight.MISNAMED_CLOSING, id="a value is closed by its name"),
    pytest.param(WHOLE.replace(CLOSED, f"</invoke> x{CLOSED}"), Weight.PARTNERLESS_CLOSING, id="a tag in a value"),
    pytest.param(WHOLE.replace(CLOSED, f'<parameter name="x">{CLOSED}{CLOSED}'), Weight.FREE, id="a pair in a value"),
    pytest.param(f"</invoke>\n{WHOLE}", Weight.LEFTOVER, id="a tag before the calls"),
    pytest.param("<function_calls>\nare blocks", Weight.FREE, id="a block that is only opened"),
]


@pytest.mark.parametrize(("text", "cost"), COSTS)
def test_a_text_costs_what_its_mistakes_weigh(text: str, cost: int) -> None:
    assert costs(text).rest[0][State.OUTSIDE] == cost


def test_a_call_that_the_end_cuts_off_costs_least_where_that_is_known() -> None:
    open_call = WHOLE[: WHOLE.index("b</parameter>")]
    assert costs(open_call).rest[0][State.OUTSIDE] == Weight.LIKELY_TRUNCATED
    assert costs(open_call, cut=True).rest[0][State.OUTSIDE] == Weight.SURELY_TRUNCATED


@examples(150)
@given(
    st.lists(
        st.sampled_from([*WHOLE.split("\n"), "</parameter>", '<parameter name="command">', "\n"]) | evil_texts,
        max_size=20,
    ).map("".join),
    st.booleans(),
)
def test_a_value_can_always_go_on_and_its_cost_is_that_of_the_cheapest_choice(text: str, cut: bool) -> None:
    found = costs(text, cut=cut)
    assert len(found.rest) == len(found.choices) + 1
    for row, choices in zip(found.rest, found.choices, strict=False):
        assert TagRole.KEEP in [choice for _, choice in choices]
        assert row[State.IN_VALUE] == min(cost for cost, _ in choices)
        assert len(row) == len(State)
