"""What a JSON Schema says about types; schemas come from clients, so nothing here may raise."""

from __future__ import annotations

from typing import Any

import pytest
from core_samples import DEFINITIONS, INTEGER, STRING, Json, examples, json_values, valid_values, value_schemas
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.json_schema.types import ALL_TYPES, items, properties, required, type_of, types

ROOT: Json = {
    "type": "object",
    "properties": {"item": {"$ref": "#/$defs/Item"}},
    "$defs": {
        "Item": {"type": "string"},
        "Alias": {"$ref": "#/$defs/Item"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "a/b~c": {"type": "integer"},
    },
}

TYPES_OF_VALUES: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "boolean"),
    (0, "integer"),
    (1.0, "integer"),
    (1.5, "number"),
    ("", "string"),
    ([], "array"),
    ({}, "object"),
]


@pytest.mark.parametrize(("value", "name"), TYPES_OF_VALUES)
def test_the_type_of_a_value(value: Any, name: str) -> None:
    assert type_of(value) == name


ALLOWED: list[tuple[Any, str]] = [
    ({"type": "string"}, "string"),
    ({"type": "integer"}, "integer"),
    ({"type": "number"}, "integer number"),
    ({"type": ["string", "null"]}, "null string"),
    ({"const": 5}, "integer"),
    ({"const": None}, "null"),
    ({"enum": ["a", 1, 1.5, None]}, "integer null number string"),
    ({"type": "string", "enum": ["a", None]}, "string"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null string"),
    ({"oneOf": [{"type": "integer"}, {"const": True}]}, "boolean integer"),
    ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "null"]}]}, "integer"),
    ({"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "a"}]}, "string"),
    ({"anyOf": [{"anyOf": [{"type": "array"}]}, {"$ref": "#/$defs/Item"}]}, "array string"),
    ({"$ref": "#/$defs/Item"}, "string"),
    ({"$ref": "#/$defs/Alias"}, "string"),
    ({"$ref": "#/$defs/a~1b~0c"}, "integer"),
    ({"$ref": "#"}, "object"),
    ({"$ref": "#/properties/item"}, "string"),
]
ANYTHING: list[Any] = [
    True,
    False,
    {},
    {"description": "d"},
    "string",
    None,
    [],
    {"type": "text"},
    {"type": 5},
    {"type": {}},
    {"type": []},
    {"enum": "a"},
    {"enum": []},
    {"anyOf": {}},
    {"anyOf": []},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"$ref": "#/$defs/Missing"},
    {"$ref": "https://example.org/schema"},
    {"$ref": 5},
    {"$ref": "#/$defs/Loop"},
]


@pytest.mark.parametrize(("schema", "allowed"), ALLOWED, ids=[str(schema) for schema, _ in ALLOWED])
def test_the_types_that_a_schema_allows(schema: Any, allowed: str) -> None:
    assert sorted(types(schema, ROOT)) == allowed.split()


@pytest.mark.parametrize("schema", ANYTHING, ids=str)
def test_what_cannot_be_understood_allows_everything(schema: Any) -> None:
    assert types(schema, ROOT) == ALL_TYPES


@pytest.mark.parametrize("declared", [[{}], ["string", []]])
def test_types_that_are_no_words_allow_everything(declared: Any) -> None:
    assert types({"type": declared}, ROOT) >= {"string"}


def test_an_anchor_is_not_the_root() -> None:
    assert types({"$ref": "#item"}, {"type": "object"}) == ALL_TYPES


@examples(150)
@given(st.data())
def test_a_valid_value_has_an_allowed_type(data: st.DataObject) -> None:
    schema = data.draw(value_schemas, "schema")
    value = data.draw(valid_values(schema), "value")
    assert type_of(value) in types(schema, {"$defs": DEFINITIONS})


KEYWORDS = ("const", "enum", "anyOf", "oneOf", "allOf", "$ref", "properties", "items", "required")


@examples(100)
@given(
    st.dictionaries(st.sampled_from(KEYWORDS), json_values | st.lists(value_schemas, max_size=2)),
    st.dictionaries(st.just("type"), st.none() | st.integers() | st.text() | st.lists(st.text() | st.none())),
)
def test_no_schema_makes_it_raise(keywords: Json, declared: Json) -> None:
    schema = {**keywords, **declared}
    assert types(schema, schema)
    assert isinstance(properties(schema), dict)
    assert isinstance(required(schema), frozenset)
    items(schema, schema)


# --- objects ----------------------------------------------------------------------------------------------------------


def test_properties_come_from_every_part_of_a_schema() -> None:
    schema = {
        "properties": {"a": STRING},
        "allOf": [{"properties": {"b": STRING}}, {"$ref": "#/$defs/More"}],
        "anyOf": [{"properties": {"d": STRING}}],
        "oneOf": [{"properties": {"e": STRING}}, {"properties": {"a": INTEGER}}],
        "$defs": {"More": {"properties": {"c": STRING}}},
    }
    assert properties(schema) == dict.fromkeys("bcde", STRING) | {"a": {"anyOf": [STRING, INTEGER]}}


def test_references_in_properties_and_items_point_into_the_root() -> None:
    root = {"$defs": {"More": {"properties": {"c": STRING}, "items": INTEGER}}}
    schema = {"anyOf": [{"$ref": "#/$defs/More"}, {"type": "null"}]}
    assert properties(schema, root) == {"c": STRING}
    assert properties(schema) == {}
    assert items(schema, root) == INTEGER


ITEMS: list[tuple[Any, Any]] = [
    ({"items": STRING}, STRING),
    ({"anyOf": [{"items": STRING}, {"items": INTEGER}]}, {"anyOf": [STRING, INTEGER]}),
    ({"type": "array"}, True),
    (True, True),
    (None, True),
]


@pytest.mark.parametrize(("schema", "of_items"), ITEMS, ids=str)
def test_the_items_of_an_array(schema: Any, of_items: Any) -> None:
    assert items(schema, schema) == of_items


@pytest.mark.parametrize("schema", [True, None, {}, {"properties": []}, {"$ref": "#"}, {"allOf": [1]}], ids=str)
def test_no_properties(schema: Any) -> None:
    assert properties(schema) == {}


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"required": ["a", "b"]}, {"a", "b"}),
        ({"required": ["a", 5, []]}, {"a"}),
        ({"required": "a"}, set()),
        (1, set()),
    ],
)
def test_required(schema: Any, names: set[str]) -> None:
    assert required(schema) == names


class Counted(dict[str, Any]):
    """A schema that counts how often it is looked into."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        Counted.looks += 1
        return super().get(key, default)


def test_a_schema_that_refers_back_to_itself_costs_little() -> None:
    schema = Counted({"anyOf": [Counted({"$ref": "#"}) for _ in range(12)]})
    Counted.looks = 0
    types(schema, schema)
    properties(schema)
    items(schema, schema)
    assert Counted.looks < 3_000
