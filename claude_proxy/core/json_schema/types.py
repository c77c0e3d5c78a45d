"""What a JSON Schema says about the type of a value: as much of draft 2020-12 as tool schemas use.

Schemas come from clients, so nothing here raises, and no schema costs more than a bounded number of steps: what cannot
be understood allows everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

Schema: TypeAlias = Any  # an object, or true or false

ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_INDEX = re.compile(r"[0-9]{1,6}")
_MAX_PARTS = 200  # how many parts of a schema are looked at for one question


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


def _budget() -> Iterator[int]:
    """An item for each step that one question may take: schemas may refer to themselves."""
    return iter(range(_MAX_PARTS))


def types(schema: Schema, root: Schema) -> frozenset[str]:
    """The JSON types a schema allows, `root` being what `$ref`s point into; where numbers are allowed, integers are."""
    return _types(schema, root, _budget())


def _types(schema: Schema, root: Schema, budget: Iterator[int]) -> frozenset[str]:
    if not isinstance(schema, Mapping) or next(budget, None) is None:
        return ALL_TYPES
    allowed = ALL_TYPES
    if "$ref" in schema:
        allowed &= _types(find(schema["$ref"], root), root, budget)
    if declared := schema.get("type"):
        allowed &= _declared(declared)
    if "const" in schema:
        allowed &= {type_of(schema["const"])}
    if isinstance(values := schema.get("enum"), list):
        allowed &= {type_of(value) for value in values}
    for keyword in ("anyOf", "oneOf"):
        if branches := _branches(schema, keyword):
            allowed &= frozenset[str]().union(*(_types(branch, root, budget) for branch in branches))
    for branch in _branches(schema, "allOf"):
        allowed &= _types(branch, root, budget)
    return allowed or ALL_TYPES


def _declared(declared: Any) -> frozenset[str]:
    listed = declared if isinstance(declared, list) else [declared]
    names = frozenset(name for name in listed if isinstance(name, str))
    if "number" in names:
        names |= {"integer"}
    return names & ALL_TYPES or ALL_TYPES


def _branches(schema: Mapping[str, Any], keyword: str) -> list[Schema]:
    branches = schema.get(keyword)
    return branches if isinstance(branches, list) else []


def find(pointer: Any, root: Schema) -> Any:
    """What a local `$ref` such as `#/$defs/Item` points to; None if there is nothing."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        return None
    node = root
    for step in unquote(pointer).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and _INDEX.fullmatch(key) and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def properties(schema: Schema, root: Schema | None = None) -> dict[str, Schema]:
    """The named properties of an object schema, those of its `$ref`, `allOf`, `anyOf` and `oneOf` parts included.

    One that stands in several parts may be as any of them says. `root` is the schema itself if it is left out.
    """
    found: dict[str, list[Schema]] = {}
    for part in _parts(schema, schema if root is None else root, _budget()):
        declared = part.get("properties")
        if isinstance(declared, Mapping):
            for name, value in declared.items():
                found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else {"anyOf": values} for name, values in found.items()}


def items(schema: Schema, root: Schema) -> Schema:
    """The schema of an array's items."""
    found = [part["items"] for part in _parts(schema, root, _budget()) if "items" in part]
    return found[0] if len(found) == 1 else {"anyOf": found} if found else True


def required(schema: Schema) -> frozenset[str]:
    """The names of the properties that an object must have."""
    names = schema.get("required") if isinstance(schema, Mapping) else None
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _parts(schema: Schema, root: Schema, budget: Iterator[int]) -> Iterator[Mapping[str, Any]]:
    """A schema and the parts it is made of."""
    if not isinstance(schema, Mapping) or next(budget, None) is None:
        return
    yield schema
    if "$ref" in schema:
        yield from _parts(find(schema["$ref"], root), root, budget)
    for keyword in ("allOf", "anyOf", "oneOf"):
        for branch in _branches(schema, keyword):
            yield from _parts(branch, root, budget)
