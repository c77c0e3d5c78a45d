"""JSON Schema: verdicts by keyword, sentences, bounds; nothing valid to `jsonschema` has a fault here, nor to `re`.

The official suite is run, too, where scripts/check.py has unpacked it: the source archive of `jsonschema` holds it.
"""

from __future__ import annotations

import datetime
import enum
import json
import re
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema  # type: ignore[import-untyped]
import pydantic
import pytest
from core_samples import Json, examples, json_values, steps
from environments import JSON_SCHEMA_SUITE
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.json_schema.validate import faults, schema_fault, unchecked

# --- verdicts ---------------------------------------------------------------------------------------------------------

TREE: Json = {"properties": {"next": {"$ref": "#"}, "name": {"type": "string"}}, "additionalProperties": False}

VERDICTS: list[tuple[Any, list[Any], list[Any]]] = [  # a schema, values that fit, values that do not
    (True, [1, None, {}], []),
    (False, [], [1, None, {}]),
    ({}, [1, None, {}], []),
    ({"type": "integer"}, [1, 1.0, -0.0, 10**30], [1.5, True, "1", None]),
    ({"type": "number"}, [1, 1.5], [True, "1"]),
    ({"type": "boolean"}, [True, False], [0, 1, "true"]),
    ({"type": ["string", "null"]}, ["", None], [0, False, [], {}]),
    ({"type": "array"}, [[], [1]], [{}, "a"]),
    ({"type": "object"}, [{}], [[], None]),
    ({"enum": [1, "a", None, [1, {"b": 2}]]}, [1, 1.0, "a", None, [1.0, {"b": 2.0}]], [True, "b", False, [1]]),
    ({"const": False}, [False], [0, None, ""]),
    ({"const": {"a": 1, "b": [0]}}, [{"b": [0.0], "a": 1}], [{"a": 1}, {"a": True, "b": [0]}, {"a": 1, "b": [False]}]),
    ({"minimum": 1, "maximum": 2.5}, [1, 2.5, "0"], [0.99, 2.51, 10**400]),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, [1.5, "0"], [1, 2]),
    ({"multipleOf": 0.1}, [0.3, 1, 4.7, 1e300], [0.25]),
    ({"multipleOf": 0.01}, [19.99, 1.1], [0.005]),
    ({"multipleOf": 3}, [0, 9, -3.0, "a"], [1, 3.5]),
    ({"minLength": 2, "maxLength": 3}, ["ab", "😀😀😀", 1], ["a", "abcd", "😀"]),
    ({"pattern": "b+"}, ["abc", 5], ["ac", ""]),
    ({"prefixItems": [{"type": "string"}, {"type": "null"}]}, [[], ["a"], ["a", None, 3], {}], [[1], ["a", 1]]),
    ({"prefixItems": [True], "items": False}, [[], [1]], [[1, 2]]),
    ({"items": {"type": "integer"}}, [[], [1, 2]], [[1, "a"]]),
    ({"items": [{"type": "integer"}]}, [[], [1, "a"]], [["a"]]),
    ({"minItems": 1, "maxItems": 2.0}, [[1], [1, 2]], [[], [1, 2, 3]]),
    ({"uniqueItems": True}, [[1, True, "1", [1], [True]], []], [[1, 1.0], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]]),
    ({"uniqueItems": False}, [[1, 1]], []),
    ({"properties": {"a": {"type": "null"}}}, [{}, {"a": None}, {"b": 1}, []], [{"a": 1}]),
    ({"required": ["a", "b"]}, [{"a": 1, "b": None}, []], [{"a": 1}, {}]),
    ({"properties": {"a": True}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{"a": 1}], [{"a": "1"}]),
    ({"minProperties": 1, "maxProperties": 2}, [{"a": 1}], [{}, {"a": 1, "b": 2, "c": 3}]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 5, None], [4]),
    ({"oneOf": [{"minimum": 3}, {"maximum": 1}]}, [0, 4, "a"], [2]),
    (TREE, [{"next": {"next": {"name": "a"}}}], [{"next": {"next": {"name": 1}}}, {"next": {"other": 1}}]),
    ({"$ref": "#/$defs/a", "minimum": 2, "$defs": {"a": {"type": "integer"}}}, [2], [1, "a"]),
    ({"$ref": "#/definitions/a%20b~1c~0", "definitions": {"a b/c~": {"type": "null"}}}, [None], [1]),
    ({"$ref": "#/allOf/0", "allOf": [{"type": "null"}]}, [None], [1]),
    ({"$ref": "#/x-parts/a", "x-parts": {"a": {"type": "null"}}}, [None], [1]),
    ({"properties": {"$ref": {"type": "string"}}}, [{"$ref": "a"}], [{"$ref": 1}]),
    ({"const": {"$ref": "#/nowhere"}, "default": {"type": 5}, "x-own": {"pattern": "("}}, [{"$ref": "#/nowhere"}], [1]),
    (
        {"format": "date-time"},
        ["2026-01-31T09:30:00Z", "1998-12-31T15:59:60.1-08:00", 1],
        ["2026-01-31", "2026-02-30T00:00:00Z"],
    ),
    (
        {"format": "date"},
        ["2024-02-29", "2000-02-29"],
        ["2023-02-29", "1900-02-29", "2026-13-01", "2026-1-1", "２026-01-01"],
    ),
    ({"format": "time"}, ["09:30:00Z", "23:59:60+00:00", "01:02:03.5-04:00"], ["09:30:00", "24:00:00Z", "12:00:60Z"]),
    ({"format": "duration"}, ["P1DT12H", "P3W", "PT1M", "P1Y2M3D"], ["P", "P1", "PT", "1D", "P1DT", "P1Y3D", "P1W2D"]),
    ({"format": "email"}, ["a.b+c@example.org", '"a b"@example.org', "a@[127.0.0.1]"], ["a", "@a", ".a@b.c", "a@-b"]),
    ({"format": "hostname"}, ["a-b.example", "localhost"], ["", "-a", "a..b", "a_b", "a" * 64]),
    (
        {"format": "uri"},
        ["https://u@h:80/p?q#f", "urn:a:b", "mailto:a@b.c", "http://[::1]/"],
        ["/a", "a b", "http://a b", "ä:b"],
    ),
    ({"format": "ipv4"}, ["127.0.0.1"], ["127.0.0", "256.0.0.1", "01.2.3.4"]),
    ({"format": "ipv6"}, ["::1", "2001:db8::1"], ["::g", "1::2::3", "fe80::1%eth0"]),
    ({"format": "uuid"}, ["123e4567-E89B-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "g" * 36]),
    ({"format": "binary"}, ["anything"], []),
]


@pytest.mark.parametrize(("schema", "fitting", "other"), VERDICTS, ids=[json.dumps(each[0])[:80] for each in VERDICTS])
def test_verdicts(schema: Any, fitting: list[Any], other: list[Any]) -> None:
    assert schema_fault(schema) is None
    assert [faults(value, schema) for value in fitting] == [[] for _ in fitting]
    assert [value for value in other if not faults(value, schema)] == []


# --- what is not checked ----------------------------------------------------------------------------------------------

LEFT_OUT: list[tuple[Any, list[str], list[Any]]] = [  # a schema, what of it is not checked, values that pass
    ({"not": {}, "type": "integer"}, ["not"], [1]),
    ({"if": {}, "then": False, "else": True}, ["else", "if", "then"], [1]),
    ({"contains": {"type": "null"}, "minContains": 2}, ["contains", "minContains"], [[1]]),
    ({"patternProperties": {"^x-": {}}, "additionalProperties": False}, ["patternProperties"], [{"x-a": 1}]),
    ({"dependentRequired": {"a": ["b"]}}, ["dependentRequired"], [{"a": 1}]),
    (
        {"items": {"properties": {"a": {"unevaluatedProperties": False}}}},
        ["unevaluatedProperties"],
        [[{"a": {"b": 1}}]],
    ),
    ({"propertyNames": {"maxLength": 1}}, ["propertyNames"], [{"ab": 1}]),
    ({"$dynamicRef": "#x"}, ["$dynamicRef"], [1]),
    ({"items": [True], "additionalItems": False}, ["additionalItems"], [[1, 2]]),
    ({"minimum": 1, "exclusiveMinimum": True}, ["exclusiveMinimum"], [1]),
    ({"allOf": [{"pattern": "^(?=a)"}, {"pattern": r"\bcat"}]}, ["pattern", "pattern"], ["b"]),
    ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [], [2]),
    ({"title": "T", "default": 5, "x-own": {"not": True}, "$comment": "", "readOnly": True}, [], [1]),
    ({"enum": [{"not": 1}], "properties": {"not": {"type": "string"}}}, [], [{"not": 1}]),
]


@pytest.mark.parametrize(("schema", "names", "passing"), LEFT_OUT, ids=[json.dumps(each[0])[:80] for each in LEFT_OUT])
def test_what_is_not_checked_is_named_and_lets_pass(schema: Any, names: list[str], passing: list[Any]) -> None:
    assert schema_fault(schema) is None
    assert sorted(unchecked(schema)) == names
    assert [faults(value, schema) for value in passing if value != {"not": 1}] == [
        [] for value in passing if value != {"not": 1}
    ]


# --- sentences --------------------------------------------------------------------------------------------------------

CAT: Json = {"properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]}
DOG: Json = {"properties": {"kind": {"const": "dog"}, "name": {"type": "string"}}, "required": ["kind", "name"]}

SENTENCES: list[tuple[Any, Any, list[str]]] = [
    ("a", {"type": "object"}, ['must be an object, is "a"']),
    ([], {"type": ["object", "null"]}, ["must be null or an object, is an array"]),
    ("x" * 50, {"type": "number"}, ["must be a number, is a string"]),
    (
        {"items": [{"price": "3"}]},
        {"properties": {"items": {"items": {"properties": {"price": {"type": "number"}}}}}},
        ['items.0.price: must be a number, is "3"'],
    ),
    ({}, {"required": ["name", "id"]}, ['"name" is missing', '"id" is missing']),
    ({"a": {"b c": 1}}, {"properties": {"a": {"properties": {"b c": False}}}}, ['a."b c": must not be there']),
    (
        {"b": 1},
        {"properties": {"a": True}, "additionalProperties": False},
        ['the property "b" is not allowed; the allowed properties are "a"'],
    ),
    ("c", {"enum": ["a", "b"]}, ['must be one of "a", "b", is "c"']),
    (2, {"const": 1}, ["must be 1, is 2"]),
    (5, {"maximum": 4}, ["must be at most 4, is 5"]),
    ("", {"minLength": 1}, ["must have 1 character or more, has 0"]),
    ([1], {"minItems": 2}, ["must hold 2 items or more, holds 1"]),
    ([1, 2, 1], {"uniqueItems": True}, ["must hold no item twice; items 0 and 2 are equal"]),
    ("a1", {"pattern": r"^\d+$"}, [r'must match the regular expression ^\d+$, is "a1"']),
    ("tomorrow", {"format": "date"}, ['must be a date, as in "2026-01-31", is "tomorrow"']),
    (
        {"a": 1},
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        ["a: fits none of the alternatives: must be a string, is 1; or must be null, is 1"],
    ),
    ("c", {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, ['must be one of "a", "b", is "c"']),
    (3, {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]}, ["must be at least 5, is 3"]),
    ({"kind": "cat", "lives": "9"}, {"anyOf": [CAT, DOG]}, ['lives: must be an integer, is "9"']),
    ({"kind": "dog"}, {"oneOf": [CAT, DOG, {"type": "null"}]}, ['"name" is missing']),
    (float("nan"), True, ["must be a finite number"]),
    ([float("-inf")], {"items": {}}, ["0: must be a finite number"]),
    (
        {"a": 1},
        {"properties": {"a": {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "array"}]}, {"type": "null"}]}}},
        ["a: fits none of the alternatives: must be a string, is 1; or must be an array, is 1; or must be null, is 1"],
    ),
]


@pytest.mark.parametrize(("value", "schema", "sentences"), SENTENCES)
def test_sentences(value: Any, schema: Any, sentences: list[str]) -> None:
    assert faults(value, schema) == sentences


def test_only_so_many_faults_are_named() -> None:
    schema = {"items": {"type": "string"}}
    assert len(faults([1] * 100, schema)) == 5
    assert faults([1] * 100, schema, limit=2) == ["0: must be a string, is 1", "1: must be a string, is 1"]


@pytest.mark.parametrize(
    "schema", [{"type": "object"}, {"const": "a"}, {"enum": ["a" * 9999] * 99}, {"anyOf": [{"const": "a"}] * 999}]
)
def test_sentences_are_short(schema: Json) -> None:
    (sentence,) = faults(["long" * 9999] * 999, schema)
    assert len(sentence) < 5000


# --- schemas that cannot be enforced ----------------------------------------------------------------------------------

REFUSED: list[tuple[Any, str]] = [
    (None, "must be a schema (an object, true or false), is null"),
    ([], "must be a schema (an object, true or false), is []"),
    ({"properties": {"a": 5}}, "properties.a: must be a schema (an object, true or false), is 5"),
    ({"properties": []}, "properties: must be an object, is []"),
    ({"type": "strnig"}, "type: must be one or more of"),
    ({"type": []}, "type: must be one or more of"),
    ({"items": {"type": 5}}, "items.type: must be one or more of"),
    ({"required": "a"}, 'required: must be a list of strings, is "a"'),
    ({"required": True}, "required: must be a list of strings, is true"),
    ({"enum": {}}, "enum: must be a list of values"),
    ({"enum": []}, "enum: must be a list of values"),
    ({"anyOf": []}, "anyOf: must be a list of schemas"),
    ({"anyOf": [{"oneOf": {}}]}, "anyOf.0.oneOf: must be a list of schemas"),
    ({"minLength": -1}, "minLength: must be a whole number from 0 on, is -1"),
    ({"maxItems": 1.5}, "maxItems: must be a whole number from 0 on, is 1.5"),
    ({"maximum": "5"}, 'maximum: must be a number, is "5"'),
    ({"maximum": True}, "maximum: must be a number, is true"),
    ({"minimum": float("inf")}, "minimum: must be a number"),
    ({"multipleOf": 0}, "multipleOf: must be a number greater than 0"),
    ({"uniqueItems": 1}, "uniqueItems: must be true or false, is 1"),
    ({"format": 5}, "format: must be a string, is 5"),
    ({"pattern": 5}, "pattern: must be a string, is 5"),
    ({"$ref": "#/$defs/a"}, '$ref: "#/$defs/a" points to nothing'),
    ({"$ref": "#/title", "title": "a"}, '$ref: "#/title" points to nothing, or not to a schema'),
    ({"$ref": "#/allOf/7", "allOf": [True]}, '$ref: "#/allOf/7" points to nothing'),
    ({"$ref": "#a"}, '$ref: "#a" points to nothing'),
    ({"$ref": "https://example.org/a.json"}, '$ref: "https://example.org/a.json" points out of the schema'),
    ({"$ref": 5}, "$ref: must be a string, is 5"),
    ({"$ref": "#"}, "leads back to itself"),
    ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}}, "properties.a"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}}, "leads back to itself"),
    ({"$ref": "#/x", "x": {"minimum": "a"}}, '$ref.minimum: must be a number, is "a"'),
]


@pytest.mark.parametrize(("schema", "sentence"), REFUSED)
def test_a_schema_that_cannot_be_enforced_is_refused(schema: Any, sentence: str) -> None:
    fault = schema_fault(schema)
    assert fault is not None
    assert sentence in fault
    with pytest.raises(ValueError, match=re.escape(fault)):
        faults(1, schema)


def test_a_schema_may_be_used_in_many_places() -> None:
    shared = {"$ref": "#/$defs/a"}
    schema = {"allOf": [shared, shared, {"anyOf": [shared]}], "$defs": {"a": {"type": "null"}}}
    assert schema_fault(schema) is None
    assert faults(None, schema) == []


# --- bounds -----------------------------------------------------------------------------------------------------------


def nested(depth: int, innermost: Any = None) -> Any:
    value = innermost
    for _ in range(depth):
        value = {"next": value}
    return value


def doubling(levels: int) -> Json:
    """A schema that is checked 2 ** levels times."""
    parts: Json = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": {}}}


def rungs(levels: int) -> Json:
    """Definitions of which each tries the next one twice; none fits, and the faults are carried upwards."""
    last: Json = {"required": [f"k{n}" for n in range(9)]}
    parts: Json = {}
    for n in range(levels):
        following = {"$ref": f"#/$defs/d{n + 1}"}
        parts[f"d{n}"] = {"oneOf": [{"anyOf": [{"type": "null"}, following]}, following]}
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": last}}


def ladder(keyword: str, levels: int, width: int, last: Json) -> Json:
    """Definitions of which each applies the next one several times."""
    parts = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * width} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**parts, f"d{levels}": last}}


BROKEN = {"required": [f"k{n}" for n in range(12)]}
HUGE = 10**4000


UNCHECKABLE: list[tuple[Any, Any]] = [
    (nested(5000), True),
    (nested(5000), TREE),
    (nested(99), {"properties": {"next": {"anyOf": [{"type": "null"}, {"allOf": [{"$ref": "#"}]}]}}}),
    ("x", doubling(40)),
    ([{}] * 20_000, {"items": {"properties": {"a": True}, "anyOf": [{}], "maxProperties": 1}, "maxItems": 10**6}),
    ("a" * 10**6, {"allOf": [{"format": "uri"}] * 1000}),
    ("a" * 20_000, {"pattern": "^(?:a|aa)+b$"}),
    ({}, rungs(40)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "schema"), UNCHECKABLE, ids=range(len(UNCHECKABLE)))
def test_what_cannot_be_checked_does_not_pass(value: Any, schema: Any) -> None:
    assert schema_fault(schema) is None
    (sentence,) = faults(value, schema, max_steps=50_000)
    assert sentence.startswith("cannot be checked: ")


WORK: list[tuple[str, Any, Any]] = [
    ("a ladder of alternatives", {}, rungs(40)),
    ("a doubling", "x", doubling(40)),
    ("alternatives of alternatives", {}, {"anyOf": [{"anyOf": [{"anyOf": [{"type": "null"}] * 90}] * 90}] * 90}),
    *(
        (f"{levels} times {width} of {keyword}", {}, ladder(keyword, levels, width, BROKEN))
        for keyword in ("anyOf", "oneOf")
        for levels, width in [(1, 2000), (2, 1000), (7, 10), (60, 2)]
    ),
    ("faults that are handed up far", {}, {"anyOf": [ladder("allOf", 90, 1, BROKEN)["$defs"]["d90"]] * 900}),
    ("a pattern", "a" * 100_000, {"pattern": "^(a|aa)+b$"}),
    ("a large constant", [[0] * 1000] * 1000, {"items": {"enum": [[1] * 1000]}}),
    ("many properties", {f"k{n}": 1 for n in range(1000)}, {"allOf": [{"additionalProperties": {}}] * 1000}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "schema"), [row[1:] for row in WORK], ids=[row[0] for row in WORK])
def test_the_work_is_what_was_allowed_at_most(value: Any, schema: Any) -> None:
    def work(allowed: int) -> int:
        compiled = steps(lambda: faults(value, schema, max_steps=0))
        return steps(lambda: faults(value, schema, max_steps=allowed)) - compiled

    assert work(2_000) < 8 * 2_000
    assert work(20_000) < 8 * 20_000


@pytest.mark.parametrize("divisor", [3, HUGE + 1, 1e-300], ids=["small", "long", "a long fraction"])
def test_dividing_long_numbers_is_more_work(divisor: float) -> None:
    many = {"allOf": [{"multipleOf": divisor}] * 1000}
    assert faults(6 * HUGE * (HUGE + 1), many, max_steps=20_000)[0].startswith("cannot be checked: ")
    assert not any(sentence.startswith("cannot") for sentence in faults(6, many, max_steps=600_000))


def test_deep_values_are_checked() -> None:
    schema = {"properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "additionalProperties": False}
    assert faults(nested(50), schema) == []
    assert faults(nested(50, {"other": 1}), schema) != []


def test_deep_schemas_are_refused() -> None:
    schema: Any = {}
    for _ in range(20_000):
        schema = {"items": schema}
    assert "nested" in str(schema_fault(schema))
    assert "nested" in str(schema_fault({"enum": [nested(20_000)]}))


def test_large_documents_are_checked() -> None:
    optional = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    item = {"type": "object", "properties": {f"p{n}": optional for n in range(10)}, "additionalProperties": False}
    assert faults([{f"p{n}": "x" for n in range(10)}] * 2000, {"items": item}) == []


# --- regular expressions ----------------------------------------------------------------------------------------------

PATTERNS: list[tuple[str, list[str], list[str]]] = [  # a pattern, texts it matches, texts it does not
    ("", ["", "a"], []),
    ("^$", [""], ["a", "\n"]),
    ("a$", ["a", "ba"], ["a\n", "ab"]),
    (r"^\d+$", ["123"], ["", "１２", "١"]),
    (r"^\w$", ["a", "_", "9"], ["é", "-"]),
    (r"^\s$", [" ", "\u00a0", "\ufeff", "\u2028"], ["a", "\x1c", "\x85"]),
    (r"^\S\D\W$", ["aa-"], ["a1-", " a-"]),
    (r"^[^\s\d]+$", ["ab"], ["a b", "1"]),
    (r"^[\S]$", ["a"], [" "]),
    ("^.$", ["a", "\x85", "😀"], ["\n", "\r", "\u2028"]),
    ("^[a-c-]+$", ["a-c"], ["d"]),
    (r"^[\w.-]+@[\w-]+(\.[\w-]+)+$", ["a.b@c-d.org"], ["a@b", "a@b."]),
    ("^[^\n-]$", ["a"], ["\n", "-"]),
    (r"^[[&|~^]+$", ["[&|~^"], ["]"]),
    (r"^[^\s]$", ["a"], ["\u00a0", " "]),
    (r"^[a\s]+$", ["a\u00a0\n"], ["b"]),
    (r"^[\]\[^]$", ["]", "[", "^"], ["\\"]),
    ("^a{2}b{1,}c{0,2}$", ["aab", "aabbcc"], ["ab", "aabccc"]),
    ("^(?:a|bc)*?$", ["", "abca"], ["b"]),
    (r"^\x41\u0042\t\/\-\.$", ["AB\t/-."], ["AB", "AB\t/-x"]),
    ("^(a*)*$", ["aaa", ""], ["b"]),
    ("^(a|b|)+c$", ["c", "abc"], ["d"]),
]


@pytest.mark.parametrize(("pattern", "matching", "other"), PATTERNS)
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    schema = {"pattern": pattern}
    assert unchecked(schema) == []
    assert [text for text in matching if faults(text, schema)] == []
    assert [text for text in other if not faults(text, schema)] == []


UNREAD = [
    *(
        r"(a)\1",
        r"(?<a>b)\k<a>",
        r"\p{L}",
        r"\bcat\b",
        r"a\Bb",
        r"(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?i)a",
        "(?<a>b)",
    ),
    *(
        r"\A",
        r"\a",
        r"\0",
        r"\u12",
        r"\ud83d\ude00",
        r"\u{1F600}",
        r"[\b]",
        r"[^\S]",
        r"[\s-x]",
        r"[a-\s]",
        "[]",
        "[^]",
    ),
    *("a**", "a*+", "a{2}{3}", "*a", "^*", "a{,2}", "a{3,2}", "(a", "a)", "[a", "[b-a]", "[--a]", r"[a-\d]", "\\"),
    *("(" * 50 + ")" * 50, "(a{100}){100}", "a{9999}", "((((){999}){999}){999}){999}", "a" * 2000),
]


@pytest.mark.parametrize("pattern", UNREAD)
def test_a_pattern_beyond_the_subset_is_not_checked(pattern: str) -> None:
    schema = {"properties": {"id": {"pattern": pattern}}}
    assert schema_fault(schema) is None
    assert unchecked(schema) == ["pattern"]
    assert faults({"id": "anything"}, schema) == []


HEAVY = ["^(a+)+$", "(a|a)*b", "^(a|aa)+$", "^(a*)*$", "a*a*a*a*a*a*b", "(.*a){12}b", "^(([a-z])+.)+[A-Z]([a-z])+$"]


@pytest.mark.parametrize("pattern", HEAVY)
def test_no_pattern_backtracks(pattern: str) -> None:
    def cost(size: int) -> int:
        return steps(lambda: faults("a" * size + "!", {"pattern": pattern}, max_steps=10**9))

    assert cost(800) - cost(400) < 3 * (cost(400) - cost(200))


regular_expressions = st.from_regex(
    r"\A(\(?[ab.]([*+?]|\{[0-2],?[2-3]?\})?[|^$]?\)?|\((a|b*|\^|\(\?!a\))\)[*+?]?|\[\^?[a-b]\]){0,6}\Z"
)


@given(pattern=regular_expressions, text=st.text("ab\n", max_size=8))
@examples(300)
def test_patterns_match_as_in_python(pattern: str, text: str) -> None:
    schema = {"pattern": pattern}
    try:
        expected = re.search(pattern.replace("$", r"\Z"), text)
    except re.error:
        assert unchecked(schema) == ["pattern"]
        return
    if not unchecked(schema):
        assert (faults(text, schema) == []) == (expected is not None)


# --- as `jsonschema` says ---------------------------------------------------------------------------------------------

NAMES = ("a", "b", "ab", "$ref")
scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 1.5, -1, 0.3, "", "a", "ab", "b1"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
counts = st.integers(0, 3)
numbers = st.sampled_from([-1, 0, 1, 1.5, 2])
names = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)


def _schemas_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    by_name = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    several = st.lists(inner, min_size=1, max_size=3)
    types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
        "enum": st.lists(values, min_size=1, max_size=4),
        "const": values,
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
        "multipleOf": st.sampled_from([1, 2, 0.5, 1.5]),
        **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), counts),
        **dict.fromkeys(("minContains", "maxContains"), counts),
        "pattern": st.sampled_from(["a", "^a?$", "[0-9]", "b$"]),
        "uniqueItems": st.booleans(),
        "required": names,
        "dependentRequired": st.dictionaries(st.sampled_from(NAMES), names, max_size=2),
        **dict.fromkeys(("properties", "dependentSchemas", "$defs"), by_name),
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^b", "z"]), inner, max_size=2),
        **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), several),
        **dict.fromkeys(("not", "if", "then", "else", "items", "contains", "propertyNames"), inner),
        **dict.fromkeys(("additionalProperties", "unevaluatedProperties", "unevaluatedItems"), inner),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/items"]),
    }
    return st.lists(st.sampled_from(sorted(keywords)), max_size=4, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({keyword: keywords[keyword] for keyword in chosen})
    )


schemas = st.recursive(st.booleans() | _schemas_of(st.booleans()), _schemas_of, max_leaves=6)
roots = st.fixed_dictionaries(
    {"$defs": st.fixed_dictionaries({"a": schemas, "b": schemas}), "allOf": st.lists(schemas, min_size=1, max_size=2)}
)


@given(schema=schemas | roots, value=values)
@examples(600)
def test_what_jsonschema_takes_is_taken_and_refused_if_all_of_it_is_checked(schema: Any, value: Any) -> None:
    if schema_fault(schema) is not None:
        return
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    if is_valid:
        assert faults(value, schema) == []
    elif not unchecked(schema) and "oneOf" not in json.dumps(schema):
        assert faults(value, schema) != []


@given(schema=schemas | json_values, value=json_values)
@examples(200)
def test_nothing_else_is_raised(schema: Any, value: Any) -> None:
    if schema_fault(schema) is None:
        assert all(faults(value, schema))


# --- as SDKs write them -----------------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


class Circle(pydantic.BaseModel):
    kind: Literal["circle"]
    radius: Annotated[float, pydantic.Field(gt=0)]


class Square(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["square"]
    side: Annotated[float, pydantic.Field(multiple_of=0.5)]
    colour: Colour | None = None


class Node(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(pattern=r"^[a-z]+(-[a-z]+)*$", max_length=20)]
    children: list[Node] = []
    parent: Node | None = None


class Drawing(pydantic.BaseModel):
    id: uuid.UUID
    made: datetime.datetime
    due: datetime.date | None = None
    takes: datetime.timedelta = datetime.timedelta(0)
    shapes: Annotated[
        list[Annotated[Circle | Square, pydantic.Field(discriminator="kind")]], pydantic.Field(min_length=1)
    ]
    tree: Node
    tags: dict[str, int | str] = {}
    place: tuple[float, float] = (0, 0)
    labels: set[Colour] = set()


DRAWING: Json = {
    "id": "123e4567-e89b-12d3-a456-426614174000",
    "made": "2026-01-31T09:30:00Z",
    "due": None,
    "takes": "PT1H",
    "shapes": [{"kind": "circle", "radius": 1.5}, {"kind": "square", "side": 2, "colour": "red"}],
    "tree": {"name": "root", "children": [{"name": "left-leaf", "parent": None}, {"name": "b", "children": []}]},
    "tags": {"a": 1, "b": "two"},
    "place": [1, 2.5],
    "labels": ["red", "green"],
}

SLIPS: list[tuple[list[str | int], Any, str]] = [
    (["id"], "5", 'id: must be a UUID, as in "123e4567-e89b-12d3-a456-426614174000", is "5"'),
    (["made"], "yesterday", 'made: must be a date and time with offset, as in "2026-01-31T09:30:00Z", is "yesterday"'),
    (["due"], "soon", 'due: must be a date, as in "2026-01-31", is "soon"'),
    (["shapes"], [], "shapes: must hold 1 item or more, holds 0"),
    (["shapes", 0, "radius"], 0, "shapes.0.radius: must be greater than 0, is 0"),
    (["shapes", 1, "side"], 0.7, "shapes.1.side: must be a multiple of 0.5, is 0.7"),
    (["shapes", 1, "colour"], "blue", 'shapes.1.colour: must be one of "red", "green", is "blue"'),
    (
        ["shapes", 1, "more"],
        1,
        'shapes.1: the property "more" is not allowed; the allowed properties are "kind", "side", "colour"',
    ),
    (["tree", "children", 1, "children"], [{}], 'tree.children.1.children.0: "name" is missing'),
    (["tree", "children", 0, "parent"], {"name": 5}, "tree.children.0.parent.name: must be a string, is 5"),
    (["tree", "name"], "A", 'tree.name: must match the regular expression ^[a-z]+(-[a-z]+)*$, is "A"'),
    (
        ["tags", "c"],
        None,
        "tags.c: fits none of the alternatives: must be an integer, is null; or must be a string, is null",
    ),
    (["place"], [1, 2, 3], "place: must hold 2 items or fewer, holds 3"),
    (["labels"], ["red", "red"], "labels: must hold no item twice; items 0 and 1 are equal"),
]


def test_the_schema_of_a_pydantic_model() -> None:
    schema = Drawing.model_json_schema()
    assert schema_fault(schema) is None
    assert faults(DRAWING, schema) == []
    Drawing.model_validate(DRAWING)


@pytest.mark.parametrize(("path", "value", "sentence"), SLIPS)
def test_slips_in_a_pydantic_model(path: list[str | int], value: Any, sentence: str) -> None:
    drawing = json.loads(json.dumps(DRAWING))
    target = drawing
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert faults(drawing, Drawing.model_json_schema()) == [sentence]


# --- the official suite -----------------------------------------------------------------------------------------------

SUITE = JSON_SCHEMA_SUITE / "tests" / "draft2020-12"
FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid", "unknown")
NOT_MEANT = {"format", "vocabulary"}  # formats as remarks only; metaschemas of one's own


def suite() -> Iterator[tuple[str, Any, Any, bool]]:
    files = [path for path in sorted(SUITE.glob("*.json")) if path.stem not in NOT_MEANT]
    for path in (*files, *(SUITE / "optional" / "format" / f"{name}.json" for name in FORMATS)):
        for group in json.loads(path.read_text(encoding="utf-8")):
            for case in group["tests"]:
                yield (
                    f"{path.stem}: {group['description']}: {case['description']}",
                    group["schema"],
                    case["data"],
                    case["valid"],
                )


def is_checked_whole(schema: Any) -> bool:
    return not unchecked(schema) and "oneOf" not in json.dumps(schema)


@pytest.mark.slow
@pytest.mark.skipif(not SUITE.exists(), reason="scripts/check.py has not fetched the official suite")
def test_the_official_suite() -> None:
    """What the suite calls valid has no fault; what it calls invalid has one, where all of the schema is checked."""
    cases = [case for case in suite() if not schema_fault(case[1])]
    whole = [case for case in cases if is_checked_whole(case[1])]
    assert (len(whole), len(cases)) > (700, 1200)
    assert [name for name, schema, value, valid in cases if valid and faults(value, schema)] == []
    assert [name for name, schema, value, valid in whole if not valid and not faults(value, schema)] == []
