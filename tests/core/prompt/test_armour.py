"""The armour: whatever it is put on comes through one decoding unharmed.

The decoding is not the proxy's: here it is the simulator's, written from PHP's behaviour, and literal pairs.
"""

from __future__ import annotations

from html.entities import name2codepoint

import pytest
from core_samples import evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.prompt.armour import armour
from claude_proxy.demo.php import html_entity_decode

ARMOURED = [
    pytest.param("int *p = &sum;", "int *p = &amp;sum;", id="a C expression that is a name"),
    pytest.param("if (5 &lt; 6)", "if (5 &amp;lt; 6)", id="an escaped less-than"),
    pytest.param("&amp;", "&amp;amp;", id="an escaped ampersand"),
    pytest.param("&amp;lt;", "&amp;amp;lt;", id="escaped twice"),
    pytest.param("&quot;&#39;&#x27;&#X27;", "&amp;quot;&amp;#39;&amp;#x27;&amp;#X27;", id="quotes"),
    pytest.param("&nbsp;&hellip;&thetasym;&frac12;", "&amp;nbsp;&amp;hellip;&amp;thetasym;&amp;frac12;", id="names"),
    pytest.param("&#0065;&#x00041;", "&amp;#0065;&amp;#x00041;", id="numbers with leading zeros"),
    pytest.param("&&lt;", "&&amp;lt;", id="after a lone ampersand"),
    pytest.param("&lt&lt;", "&lt&amp;lt;", id="after one that is not closed"),
    pytest.param("&Sigma;&sigma;&sigmaf;", "&amp;Sigma;&amp;sigma;&amp;sigmaf;", id="names that begin alike"),
]

UNTOUCHED = [
    pytest.param("", id="nothing"),
    pytest.param("a && b; c &", id="lone ampersands"),
    pytest.param("&sum &lt &#39", id="no semicolon"),
    pytest.param("&apos;", id="a name that HTML 4 does not have"),
    pytest.param("&Sum;&LT;&NewLine;&nosuch;", id="names of HTML 5 and of nobody"),
    pytest.param("&;&#;&#x;&#xg;&# 1;", id="nothing between"),
    pytest.param("https://h/?a=1&b=2;c&copy", id="an address"),
    pytest.param("< > \" ' \xa0 ∑ é 😀", id="the characters themselves"),
]


@pytest.mark.parametrize(("text", "armoured"), ARMOURED)
def test_an_entity_is_armoured(text: str, armoured: str) -> None:
    assert armour(text) == armoured
    assert html_entity_decode(text) != text
    assert html_entity_decode(armoured) == text


@pytest.mark.parametrize("text", UNTOUCHED)
def test_everything_else_is_left_as_it_is(text: str) -> None:
    assert armour(text) == text
    assert html_entity_decode(text) == text


@pytest.mark.parametrize("number", ["&#128;", "&#0;", "&#xD800;", "&#99999999999999999999;", "&#x110000;"])
def test_numbers_that_the_module_may_or_may_not_decode_come_through_in_both_cases(number: str) -> None:
    assert html_entity_decode(armour(number)) == number


def test_all_names_of_html_4_are_known() -> None:
    text = "".join(f"&{name};" for name in name2codepoint)
    assert html_entity_decode(text) == "".join(map(chr, name2codepoint.values()))
    assert armour(text) == "".join(f"&amp;{name};" for name in name2codepoint)


entity_soup = st.lists(
    st.sampled_from([*"&;#xX0a ", "amp", "lt", "sum", "128", "41", "xD800", *(f"&{name}" for name in name2codepoint)]),
    max_size=20,
).map("".join)


@examples(500)
@given(st.one_of(entity_soup, evil_texts, st.text()))
def test_one_decoding_gives_the_text_back(text: str) -> None:
    assert html_entity_decode(armour(text)) == text


@examples(100)
@given(entity_soup)
def test_armour_can_be_put_on_for_every_decoding_to_come(text: str) -> None:
    twice = armour(armour(text))
    assert html_entity_decode(html_entity_decode(twice)) == text
