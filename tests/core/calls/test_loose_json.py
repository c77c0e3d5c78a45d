"""JSON as models write it: each kind of slip, where a value ends, and that no text is too much for the reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core_samples import examples, json_values, steps
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls.loose_json import Unreadable, loads, read_arguments, read_value

SLIPS: list[tuple[str, str, Any]] = [
    ("trailing comma in an object", '{"a": 1,}', {"a": 1}),
    ("trailing comma in an array", '{"a": [1, 2, ],}', {"a": [1, 2]}),
    ("only a comma", "{,}", {}),
    ("missing comma", '{"a": 1 "b": 2}', {"a": 1, "b": 2}),
    ("missing comma behind a string", '{"a": "x" "b": 2}', {"a": "x", "b": 2}),
    ("missing comma at the line's end", '{"a": "x"\n"b": 2}', {"a": "x", "b": 2}),
    ("semicolon for a comma", '{"a": 1; "b": 2}', {"a": 1, "b": 2}),
    ("single quotes", "{'a': 'x'}", {"a": "x"}),
    ("single quotes with double ones inside", "{'a': 'echo \"x\" && ls'}", {"a": 'echo "x" && ls'}),
    ("an escaped apostrophe", r"{'a': 'it\'s'}", {"a": "it's"}),
    ("a bare apostrophe", "{'a': 'it's', 'b': 'don't, won't'}", {"a": "it's", "b": "don't, won't"}),
    ("backticks", '{"a": `x`}', {"a": "x"}),
    ("typographic quotes", "{“a”: “b”}", {"a": "b"}),
    ("three quotes", '{"a": """x\n"y" z"""}', {"a": 'x\n"y" z'}),
    ("three single quotes", "{'a': '''x\n'y' z'''}", {"a": "x\n'y' z"}),
    ("a raw string", r"{'a': r'\d\n'}", {"a": r"\d\n"}),
    ("other prefixes", "{'a': b'x', 'b': f'{y}'}", {"a": "x", "b": "{y}"}),
    ("Gemma's quotes", '{a:<escape>"x"<escape>,b:<|"|>y<|"|>}', {"a": '"x"', "b": "y"}),
    ("unescaped quotes", '{"a": "say "hi" now"}', {"a": 'say "hi" now'}),
    ("unescaped quotes at the end", '{"a": "say "hi""}', {"a": 'say "hi"'}),
    ("unescaped quotes and commas", '{"a": "he said "b, c" ok", "d": 1}', {"a": 'he said "b, c" ok', "d": 1}),
    ("unescaped quotes in shell", '{"a": "grep -E "^a|b$" f.txt"}', {"a": 'grep -E "^a|b$" f.txt'}),
    ("raw newlines and tabs", '{"a": "x\ny\tz",}', {"a": "x\ny\tz"}),
    ("escapes that JSON does not know", r'{"a": "\d+ \$x \x41 C:\path"}', {"a": r"\d+ \$x \x41 C:\path"}),
    ("an escape that is cut short", r'{"a": "\u12"}', {"a": r"\u12"}),
    ("escapes beside a slip", r'{"a": "\u00e9\ud83d\ude00\n\/\\",}', {"a": "é😀\n/\\"}),
    ("Python literals", '{"a": True, "b": False, "c": None}', {"a": True, "b": False, "c": None}),
    ("literals of others", '{"a": undefined, "b": NaN, "c": TRUE}', {"a": None, "b": None, "c": True}),
    ("bare keys", "{a: 1, b-c: 2, $d: 3}", {"a": 1, "b-c": 2, "$d": 3}),
    ("a bare value", "{a: some words, b: /x/y}", {"a": "some words", "b": "/x/y"}),
    ("other signs behind keys", "{\"a\" = 1, 'b' => 2}", {"a": 1, "b": 2}),
    ("numbers", '{"a": 0x1F, "b": +1, "c": .5, "d": 1_000, "e": 1.}', {"a": 31, "b": 1, "c": 0.5, "d": 1000, "e": 1.0}),
    ("numbers that JSON cannot say", '{"a": 1e999, "b": -Infinity}', {"a": "1e999", "b": "-Infinity"}),
    ("a word that begins with digits", '{"a": 12ab}', {"a": "12ab"}),
    ("comments", '// c\n{"a": 1 /* x */, # y\n "b": 2 // "z"\n}', {"a": 1, "b": 2}),
    ("a comment behind a string", '{"a": "x", // y "z"\n "b": 1}', {"a": "x", "b": 1}),
    ("what looks like a comment in a string", '{"a": "http://x # y",}', {"a": "http://x # y"}),
    ("an ellipsis", '{"a": [1, 2, ...], ...}', {"a": [1, 2]}),
    ("one character for it", '{"a": 1, …}', {"a": 1}),
    ("an ellipsis in a string", '{"a": "...",}', {"a": "..."}),
    ("strings added", '{"a": "x" + "y" +\n "z"}', {"a": "xyz"}),
    ("strings side by side", '{"a": ("x"\n "y"), }', {"a": ["xy"]}),
    ("doubled braces", '{{"a": 1}}', {"a": 1}),
    ("a tuple", "{'a': (1, 2)}", {"a": [1, 2]}),
    ("a list closed as an object", '{"a": [1, 2}, "b": 1}', {"a": [1, 2], "b": 1}),
    ("an object closed as a list", '{"a": {"b": 1], "c": 2}', {"a": {"b": 1}, "c": 2}),
    ("a key given twice", '{"a": 1, "a": 2,}', {"a": 2}),
]


@pytest.mark.parametrize(("text", "value"), [each[1:] for each in SLIPS], ids=[each[0] for each in SLIPS])
def test_a_slip_is_understood(text: str, value: Any) -> None:
    read = read_value(text)
    assert json.dumps(read.value) == json.dumps(value)
    assert (read.end, read.complete) == (len(text), True)


@examples(150)
@given(
    json_values, st.sampled_from([None, 1]), st.booleans(), st.sampled_from(["", " x", "\n</tool_call>", ", 1", "}"])
)
def test_valid_json_means_what_it_says_whatever_stands_behind(
    value: Any, indent: int | None, ascii_only: bool, more: str
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if not text[-1].isdigit():
        read = read_value(f"\n {text}{more}")
        assert json.dumps(read.value) == json.dumps(value)
        assert (read.end, read.complete) == (len(text) + 2, True)
    assert json.dumps(loads(text)) == json.dumps(value)


ENDS = [
    # a text with a slip, and what is left behind the value
    ('{"a": 1,} and more', " and more"),
    ("{'a': 'x'}</tool_call>", "</tool_call>"),
    ("{'a': 'x'</tool_call>", "</tool_call>"),
    ("{'a': 'x'}\n```\nmore", "\n```\nmore"),
    ("{'a': 'x'}\nObservation: y", "\nObservation: y"),
    ("{'a': 'x'}\n{'b': 'y'}", "\n{'b': 'y'}"),
    ("{'a': 'x'} {'b': 'y'}", " {'b': 'y'}"),
    ("{'a': 'x'}; {'b': 'y'}", "; {'b': 'y'}"),
    ("['x', 'y'], 'z'", ", 'z'"),
]


@pytest.mark.parametrize(("text", "left"), ENDS)
def test_a_value_ends_where_it_ends(text: str, left: str) -> None:
    read = read_value(text)
    assert (text[read.end :], read.complete) == (left, True)


CUT_OFF = '{"name": "Bash", \'arguments\': {"command": "ls -l", "list": [1, "two", true], "more": {"a": None}}}'


def read_or_none(text: str) -> Any:
    try:
        return read_value(text)
    except Unreadable:
        return None


def test_wherever_a_value_is_cut_off_it_does_not_pass_for_whole() -> None:
    assert read_value(CUT_OFF).complete
    for end in range(1, len(CUT_OFF)):
        read = read_or_none(CUT_OFF[:end])
        assert read is None or not read.complete, CUT_OFF[:end]


def test_wherever_a_value_is_cut_off_it_is_known_to_be() -> None:
    assert [CUT_OFF[:end] for end in range(1, len(CUT_OFF)) if read_or_none(CUT_OFF[:end]) is None] == []


@pytest.mark.parametrize("text", ['{"a": [1, 2}}', '{"a": 1]', "['x'}"])
def test_a_wrong_bracket_at_the_very_end_may_be_where_a_string_was_cut_off(text: str) -> None:
    assert not read_value(text).complete


@pytest.mark.parametrize("text", ["", " ", "// c", "}", ",", ":", "[" * 200, '{"a": ' * 200, "{1: 2}", "{a}", "{[]}"])
def test_what_is_no_value_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read_value(text)


ARGUMENTS: list[Any] = [
    ('command="ls", timeout=5) and', {"command": "ls", "timeout": 5}, " and"),
    (")", {}, ""),
    ("a='x', b=[1, 2], c=None,\n)", {"a": "x", "b": [1, 2], "c": None}, ""),
    ("a='f(x)', b='it's')]", {"a": "f(x)", "b": "it's"}, "]"),
    ('a="""x\ny""")', {"a": "x\ny"}, ""),
    ("**{'a': 1})", None, ""),
    ("'a', 1)", None, ""),
    ("'it''s', b=1)", None, ""),
    ("a=1, 'b')", None, ""),
    ("'a': 'b', 'c'='d')", {"a": "b", "c": "d"}, ""),
]


@pytest.mark.parametrize(("text", "arguments", "left"), ARGUMENTS)
def test_arguments_of_a_python_call(text: str, arguments: Any, left: str) -> None:
    if arguments is None:
        with pytest.raises(Unreadable):
            read_arguments(text, 0)
    else:
        read = read_arguments(text, 0)
        assert (read.value, text[read.end :], read.complete) == (arguments, left, True)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "1e999", "[" * 100_000, "{'a': 1}", "1 2", ""])
def test_loads_takes_json_alone(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text)


# --- any text at all --------------------------------------------------------------------------------------------------

PIECES = (
    *(
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        '"',
        "'",
        "`",
        '"""',
        "“",
        "”",
        ":",
        ",",
        ";",
        "=",
        "=>",
        "+",
        "\\",
        "\\u12",
        "\\d",
    ),
    *(
        "...",
        "…",
        "//",
        "/*",
        "*/",
        "#",
        "\n",
        " ",
        "\t",
        "a",
        "key",
        '"a"',
        "'b'",
        '"a": ',
        "1",
        "-",
        "0x",
        "1e9",
        ".",
    ),
    *("true", "None", "NaN", "Infinity", "<escape>", '<|"|>', "</tool_call>", "```", "r'", "é", "\ud800", "\0", "_"),
)
soups = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@examples(500)
@given(soups | st.text(max_size=20))
def test_any_text_is_read_or_unreadable(text: str) -> None:
    for read in (read_value, read_arguments):
        try:
            value = read(text, 0)
        except Unreadable:
            continue
        assert 0 <= value.end <= len(text)
        json.dumps(value.value, allow_nan=False)


def test_braces_without_end_are_unreadable() -> None:
    with pytest.raises(Unreadable):
        read_value("{" * 100_000)


ENDLESS = [
    *(('["', piece) for piece in ('", ', '" ', '"a', '"] ', "\\d", "\\", "\\u00e9", "x\n", '",\n', '"""', "'")),
    *(('{"a": "', piece) for piece in ('", ', '" ', '"]', '"}', '"\n', '"a": "', '"   ', '" /*', '"#')),
    *(("[", piece) for piece in ('"a", ', '"a" ', "...", ",", "// x\n", "/* x */", "1 ", "a, ", "{},", "'a' + ")),
    *(("{", piece) for piece in ('"a": 1, ', "a: b, ", '"a": "b" ', '"a"\n')),
]


@pytest.mark.parametrize(("begin", "piece"), ENDLESS)
def test_reading_takes_time_in_proportion_to_the_text(begin: str, piece: str) -> None:
    some = steps(lambda: read_or_none(begin + piece * 100))
    more = steps(lambda: read_or_none(begin + piece * 400))
    assert more < 6 * some + 100


def test_many_blank_lines_behind_a_string_do_not_stall_the_reader() -> None:
    # Were they gone through once for each of them, this would take minutes.
    read_or_none('{"a": "b"' + "\n" * 200_000 + "x")
