"""Where PHP does otherwise than Python: every answer here is one that PHP 8.2 has given."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.demo.php import (
    PhpFatalError,
    html_entity_decode,
    php_empty,
    php_float,
    php_int,
    php_json_decode,
    php_json_encode,
    php_string,
    php_trim,
)

# --- Numbers ----------------------------------------------------------------------------------------------------------

CASTS = [
    ("12abc", 12, 12.0),
    (" 12", 12, 12.0),
    ("\v5", 5, 5.0),
    ("\xa05", 0, 0.0),
    ("\x005", 0, 0.0),
    ("1e3", 1000, 1000.0),
    ("5e", 5, 5.0),
    (".5", 0, 0.5),
    ("-", 0, 0.0),
    ("0x1A", 0, 0.0),
    ("1_000", 1, 1.0),
    ("٣", 0, 0.0),
    ("9999999999999999999", 2**63 - 1, 1e19),
    ("-9999999999999999999", -(2**63), -1e19),
    ("285686649703638766", 285686649703638766, 285686649703638766.0),
    ("285686649703638766.", 285686649703638752, 285686649703638766.0),
    ("1e5000", 0, float("inf")),
    ("Inf", 0, 0.0),
]


@pytest.mark.parametrize(("text", "integer", "number"), CASTS)
def test_a_cast_takes_the_numeric_beginning_of_a_text(text: str, integer: int, number: float) -> None:
    assert (php_int(text), php_float(text)) == (integer, number)


ENCODED_NUMBERS = [
    ("[1e15,1e16,1e17]", "[1000000000000000,10000000000000000,1.0e+17]"),
    ("[0.0001,0.00001,1e-10]", "[0.0001,1.0e-5,1.0e-10]"),
    ("[-0,-0.0,0.0,-0e5]", "[0,-0,0,-0]"),
    ("[9223372036854775807,9223372036854775808]", "[9223372036854775807,9.223372036854776e+18]"),
    ("[-9223372036854775808,-9223372036854775809]", "[-9223372036854775808,-9.223372036854776e+18]"),
    ("[5e-324,1.7976931348623157e308]", "[5.0e-324,1.7976931348623157e+308]"),
]


@pytest.mark.parametrize(("written", "encoded"), ENCODED_NUMBERS)
def test_numbers_are_written_as_php_lays_them_out(written: str, encoded: str) -> None:
    assert php_json_encode(php_json_decode(written)) == encoded


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "9" * 5000])
def test_a_number_beyond_a_double_can_be_read_but_not_written(number: str) -> None:
    assert php_json_encode(php_json_decode(f'{{"a":[{number}]}}')) is False


# --- JSON -------------------------------------------------------------------------------------------------------------

REFUSED = [
    *("", "[01]", "[1.]", "[.5]", "[+1]", "[1,]", '{"a":1,}', "[1,2", "TRUE", "[NULL]", "NaN", "[-Infinity]"),
    *("\ufeff[1]", "[1]\0", "[1]\v", "\xa0[1]", '"\\x"', '"a\nb"', '["\x1f"]', '"\udcff"'),
    *('"\\ud800"', '"\\udc00a"', '"\\ud800\\u0041"', '{"a":"\\ud800","a":1}'),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_php_refuses_is_refused(text: str) -> None:
    assert php_json_decode(text) is None


ENCODED = [
    ('{"a":{},"b":[]}', '{"a":[],"b":[]}'),
    ('{"0":1,"1":2}', "[1,2]"),
    ('{"1":1,"0":2}', '{"1":1,"0":2}'),
    ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
    ('"/é😀\u2028"', r'"\/\u00e9\ud83d\ude00\u2028"'),
    (r'"\u0041\/\u0000\ud83d\ude00\\ud800"', r'"A\/\u0000\ud83d\ude00\\ud800"'),
    ('"\x7f\\u007f"', '"\x7f\x7f"'),
    ('{"\x7f":"\\\\u007f"}', '{"\x7f":"\\\\u007f"}'),
    (r'{"\u0000a":1}', r'{"\u0000a":1}'),
]


@pytest.mark.parametrize(("written", "encoded"), ENCODED)
def test_json_is_encoded_anew_as_php_does(written: str, encoded: str) -> None:
    assert php_json_encode(php_json_decode(written)) == encoded


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_511_levels_can_be_read_and_no_more(opening: str, closing: str) -> None:
    assert php_json_decode(opening * 511 + '"[[{"' + closing * 511) is not None
    for depth in (512, 513, 100_000):
        assert php_json_decode(opening * depth + "1" + closing * depth) is None


def test_512_levels_can_be_written_and_no_more() -> None:
    value: Any = []
    for _ in range(511):
        value = [value]
    assert php_json_encode(value) == "[" * 512 + "]" * 512
    assert php_json_encode([value]) is False


_TEXT = st.text(st.sampled_from('a0/\\"\x00\x1f\x7f\x85é\u2028😀<&'), max_size=4)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXT,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(_TEXT.map("k".__add__), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(_JSON)
def test_what_php_encodes_is_json_of_the_same_value(value: Any) -> None:
    encoded = php_json_encode(value)
    assert encoded
    assert json.loads(encoded) == value == php_json_decode(encoded)
    assert encoded.replace("\x7f", "").isascii()


# --- Text -------------------------------------------------------------------------------------------------------------

REFERENCES = [
    ("&#0000065;&#x000041;&#X41;&#x0x41;", "AAAA"),
    ("&#x0x0x41;&#-5;&#+5;&# 65;&#65 ;&#;&#x;", None),
    ("&#xFDD0;&#xFFFF;&#x10FFFF;", "\ufdd0\uffff\U0010ffff"),
    ("&#x110000;&#4294967361;&#18446744073709551681;", None),
    ("&#8;&#11;&#12;&#127;&#159;", None),
    ("&#9;&#10;&#13;&#32;&#160;", "\t\n\r \xa0"),
    ("&quot;&#34;&#39;&apos;", '""\'&apos;'),
    ("&AMP;&LT;&fjlig;&lang;&amp", "&AMP;&LT;&fjlig;\u2329&amp"),
    ("&amp;amp;lt;", "&amp;lt;"),
]


@pytest.mark.parametrize(("written", "read"), REFERENCES)
def test_references_are_decoded_as_html_401(written: str, read: str | None) -> None:
    assert html_entity_decode(written) == (written if read is None else read)


def test_trimming_knows_six_characters() -> None:
    assert php_trim(" \t\n\r\0\va \t\n\r\0\v") == "a"
    assert php_trim("\f\x1c\x85\xa0\u2003\ufeffa") == "\f\x1c\x85\xa0\u2003\ufeffa"


STRINGS = [
    (None, ""),
    (True, "1"),
    (False, ""),
    (5, "5"),
    (1.5, "1.5"),
    (1e-10, "1.0E-10"),
    (0.4251225970043003, "0.4251225970043"),
    (float("-inf"), "-INF"),
    ("a", "a"),
]


@pytest.mark.parametrize(("value", "text"), STRINGS)
def test_scalars_become_texts_where_a_function_wants_one(value: Any, text: str) -> None:
    assert php_string(value) == text


@pytest.mark.parametrize("value", [[], {}, ["a"]])
def test_an_array_where_a_text_must_stand_is_fatal(value: Any) -> None:
    with pytest.raises(PhpFatalError):
        php_string(value)


def test_the_text_zero_is_empty_but_not_the_text_of_zeros() -> None:
    assert all(map(php_empty, (None, False, 0, 0.0, "", "0", [], {})))
    assert not any(map(php_empty, ("00", "0.0", " ", "false", [0], 1)))
