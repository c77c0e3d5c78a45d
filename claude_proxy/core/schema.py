"""What a JSON Schema says about the type of a value: as much of draft 2020-12 as tool schemas use.

Schemas come from clients, so nothing here raises: what cannot be understood allows everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Any  # an object, or true or false

ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_REF_DEPTH = 16


def type_of(value: Any) -> str:
    """The JSON type of a decoded value; whole numbers, floats among them, are integers."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def types(schema: Schema, root: Schema) -> frozenset[str]:
    """The JSON types a schema allows; where numbers are allowed, integers are too.

    Args:
        schema: the schema of the value.
        root: the document that `$ref`s point into.
    """
    return _types(schema, root, _REF_DEPTH)


def _types(schema: Schema, root: Schema, depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return ALL_TYPES
    if "$ref" in schema:
        return _types(_target(schema["$ref"], root), root, depth - 1)
    allowed = ALL_TYPES
    if declared := schema.get("type"):
        allowed &= _declared(declared)
    if "const" in schema:
        allowed &= {type_of(schema["const"])}
    if isinstance(values := schema.get("enum"), list):
        allowed &= {type_of(value) for value in values}
    for keyword in ("anyOf", "oneOf"):
        if branches := _branches(schema, keyword):
            allowed &= frozenset[str]().union(*(_types(branch, root, depth - 1) for branch in branches))
    for branch in _branches(schema, "allOf"):
        allowed &= _types(branch, root, depth - 1)
    return allowed or ALL_TYPES


def _declared(declared: Any) -> frozenset[str]:
    names = frozenset([declared] if isinstance(declared, str) else declared if isinstance(declared, list) else [])
    if "number" in names:
        names |= {"integer"}
    return names & ALL_TYPES or ALL_TYPES


def _branches(schema: Mapping[str, Any], keyword: str) -> list[Schema]:
    branches = schema.get(keyword)
    return branches if isinstance(branches, list) else []


def _target(pointer: Any, root: Schema) -> Schema:
    """The schema that a local `$ref` such as `#/$defs/Item` points to; one that allows everything if there is none."""
    node = root
    if not isinstance(pointer, str) or not pointer.startswith("#"):
        return True
    for step in pointer[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, Mapping) or key not in node:
            return True
        node = node[key]
    return node


def properties(schema: Schema) -> dict[str, Schema]:
    """The named properties of an object schema, those of its `$ref`, `allOf`, `anyOf` and `oneOf` parts included."""
    found: dict[str, Schema] = {}
    for part in _parts(schema, schema, _REF_DEPTH):
        declared = part.get("properties")
        if isinstance(declared, Mapping):
            for name, value in declared.items():
                found.setdefault(name, value)
    return found


def required(schema: Schema) -> frozenset[str]:
    """The names of the properties that an object must have."""
    names = schema.get("required") if isinstance(schema, Mapping) else None
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _parts(schema: Schema, root: Schema, depth: int) -> Iterable[Mapping[str, Any]]:
    if not isinstance(schema, Mapping) or depth == 0:
        return
    yield schema
    if "$ref" in schema:
        yield from _parts(_target(schema["$ref"], root), root, depth - 1)
    for keyword in ("allOf", "anyOf", "oneOf"):
        for branch in _branches(schema, keyword):
            yield from _parts(branch, root, depth - 1)


def resolve(schema: Schema, root: Schema) -> Schema:
    """The schema itself, or what its `$ref` points to."""
    for _ in range(_REF_DEPTH):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        schema = _target(schema["$ref"], root)
    return schema
