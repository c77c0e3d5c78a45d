"""Values are brought to the types of their schema, and valid values are left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core_samples import (
    BOOLEAN,
    DEFINITIONS,
    INTEGER,
    STRING,
    Json,
    examples,
    tool,
    tools,
    valid_arguments,
    valid_values,
    value_schemas,
)
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.calls.arguments import fit, fit_arguments

NUMBER = {"type": "number"}
NULL = {"type": "null"}
INTEGERS = {"type": "array", "items": INTEGER}
ITEM: Json = {"type": "object", "properties": {"n": INTEGER, "tags": {"type": "array", "items": STRING}}}
ROOT: Json = {"$defs": {"Item": ITEM}}

FITTED: list[tuple[Any, Any, Any]] = [
    # schema, as written, as it should be
    (INTEGER, "5", 5),
    (INTEGER, " -5 ", -5),
    (INTEGER, 5.0, 5),
    (NUMBER, "0.5", 0.5),
    (NUMBER, "7", 7),
    (BOOLEAN, "true", True),
    (BOOLEAN, "False", False),
    (BOOLEAN, "yes", True),
    (STRING, 5, "5"),
    (STRING, True, "true"),
    (STRING, 0.5, "0.5"),
    (STRING, {"a": "é"}, '{"a": "é"}'),
    (STRING, [1], "[1]"),
    (STRING, {}, "{}"),
    (STRING, [], "[]"),
    (NULL, "null", None),
    ({"anyOf": [INTEGER, NULL]}, "None", None),
    ({"anyOf": [INTEGER, NULL]}, "5", 5),
    (INTEGERS, "[1, 2]", [1, 2]),
    (INTEGERS, ["1", "2"], [1, 2]),
    (INTEGERS, 5, [5]),
    ({"type": "array", "items": STRING}, "a b", ["a b"]),
    ({"type": "array"}, {"a": 1}, [{"a": 1}]),
    ({"type": "object"}, '{"a": 1}', {"a": 1}),
    ({"type": "object"}, '{"a": "line\nline"}', {"a": "line\nline"}),
    (ITEM, {"n": "5", "tags": "x", "more": "5"}, {"n": 5, "tags": ["x"], "more": "5"}),
    ({"$ref": "#/$defs/Item"}, '{"n": "5"}', {"n": 5}),
    ({"type": "array", "items": {"$ref": "#/$defs/Item"}}, [{"n": "5"}], [{"n": 5}]),
]


@pytest.mark.parametrize(("schema", "written", "fitted"), FITTED, ids=[f"{s} <- {w!r}" for s, w, _ in FITTED])
def test_a_value_is_brought_to_the_type_of_its_schema(schema: Any, written: Any, fitted: Any) -> None:
    assert json.dumps(fit(written, schema, ROOT)) == json.dumps(fitted)


LEFT_ALONE: list[tuple[Any, Any]] = [
    (STRING, "5"),
    (STRING, "true"),
    (STRING, ""),
    (STRING, None),
    (INTEGER, "five"),
    (INTEGER, "5.5"),
    (INTEGER, 5.5),
    (INTEGER, "1" * 5_000),
    (BOOLEAN, "perhaps"),
    (BOOLEAN, 1),
    (NUMBER, 2.0),
    ({"type": ["string", "integer"]}, "5"),
    ({"type": ["string", "null"]}, "null"),
    ({"type": "object"}, "[1]"),
    ({"type": "object"}, "[" * 100_000),
    (True, "5"),
    ({}, {"n": "5"}),
]


@pytest.mark.parametrize(("schema", "value"), LEFT_ALONE, ids=[f"{s} <- {str(v)[:20]!r}" for s, v in LEFT_ALONE])
def test_a_value_is_left_alone_where_it_is_allowed_or_there_is_no_plain_way(schema: Any, value: Any) -> None:
    assert fit(value, schema, ROOT) is value or json.dumps(fit(value, schema, ROOT)) == json.dumps(value)


@examples(150)
@given(st.data())
def test_a_valid_value_is_not_changed(data: st.DataObject) -> None:
    schema = data.draw(value_schemas, "schema")
    value = data.draw(valid_values(schema), "value")
    assert json.dumps(fit(value, schema, {"$defs": DEFINITIONS})) == json.dumps(value)


@examples(150)
@given(st.data())
def test_valid_arguments_are_not_changed(data: st.DataObject) -> None:
    offered = data.draw(tools("a"), "tool")
    arguments = data.draw(valid_arguments(offered), "arguments")
    assert json.dumps(fit_arguments(arguments, offered)) == json.dumps(arguments)


def test_a_value_that_is_valid_for_a_later_branch_is_not_changed() -> None:
    def branch(kind: str, value: Json) -> Json:
        return {"type": "object", "properties": {"kind": {"const": kind}, "value": value}}

    schema = {"anyOf": [branch("number", INTEGER), branch("text", STRING)]}
    assert fit({"kind": "text", "value": "5"}, schema, schema) == {"kind": "text", "value": "5"}


@pytest.mark.parametrize(
    ("schema", "written", "fitted"),
    [
        pytest.param({"anyOf": [{"$ref": "#/$defs/Item"}, NULL]}, {"n": "5"}, {"n": 5}, id="an optional reference"),
        pytest.param({"allOf": [{"$ref": "#/$defs/Item"}]}, {"n": "5"}, {"n": 5}, id="a reference with a default"),
        pytest.param({"anyOf": [INTEGERS, NULL]}, ["5"], [5], id="an optional list"),
    ],
)
def test_what_stands_inside_anyof_and_allof_is_fitted_too(schema: Json, written: Any, fitted: Any) -> None:
    assert fit(written, schema, ROOT) == fitted


# --- the arguments of a call ------------------------------------------------------------------------------------------

NOTE = tool("Note", {"path": STRING, "limit": INTEGER, "note": {"type": ["string", "null"]}}, required=["path"])

ARGUMENTS: list[tuple[str, Json, Json]] = [
    ("types", {"path": "/a", "limit": "5"}, {"path": "/a", "limit": 5}),
    ("an optional null says not given", {"path": "/a", "limit": None}, {"path": "/a"}),
    ("so does an empty text where none is allowed", {"path": "/a", "limit": ""}, {"path": "/a"}),
    ("but not where one is allowed", {"path": "", "note": ""}, {"path": "", "note": ""}),
    ("and not a null that is allowed", {"path": "/a", "note": None}, {"path": "/a", "note": None}),
    ("what is required stays, for the client to judge", {"path": None}, {"path": None}),
    ("what is not known stays", {"path": "/a", "x": "5", "y": None}, {"path": "/a", "x": "5", "y": None}),
    ("nothing", {}, {}),
]


@pytest.mark.parametrize(("written", "fitted"), [each[1:] for each in ARGUMENTS], ids=[each[0] for each in ARGUMENTS])
def test_arguments(written: Json, fitted: Json) -> None:
    assert json.dumps(fit_arguments(written, NOTE)) == json.dumps(fitted)
