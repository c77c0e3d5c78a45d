"""Values brought to the types of their schema.

Models write `"5"` for 5 and `5` for `"5"`. A value is changed only where the schema does not allow it as it stands
and exactly one reading of it is allowed; everything else is left alone, for the client to judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from claude_proxy.core import schema as json_schema
from claude_proxy.core.schema import Schema

_WORDS: Mapping[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "null": None, "none": None}


def fit_arguments(arguments: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Bring the arguments of a call to the types of the tool's input schema.

    An optional argument that came as null, or as "" where no string is allowed, is left out: that is how models say
    "not given".
    """
    known = json_schema.properties(schema)
    required = json_schema.required(schema)
    fitted = {}
    for name, value in arguments.items():
        allowed = json_schema.types(known.get(name, True), schema)
        says_nothing = (value is None and "null" not in allowed) or (value == "" and "string" not in allowed)
        if says_nothing and name not in required:
            continue
        fitted[name] = fit(value, known.get(name, True), schema)
    return fitted


def fit(value: Any, schema: Schema, root: Schema) -> Any:
    """Bring one value, and what it holds, to the types of its schema."""
    allowed = json_schema.types(schema, root)
    if json_schema.type_of(value) not in allowed:
        value = _convert(value, allowed)
    resolved = json_schema.resolve(schema, root)
    if not isinstance(resolved, Mapping):
        return value
    if isinstance(value, dict):
        known = json_schema.properties(resolved)
        return {key: fit(item, known.get(key, True), root) for key, item in value.items()}
    if isinstance(value, list):
        return [fit(item, resolved.get("items", True), root) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and "number" not in allowed else value


def _convert(value: Any, allowed: frozenset[str]) -> Any:
    """The value in an allowed type, or as it was where there is no plain way."""
    if isinstance(value, str):
        return _from_string(value, allowed)
    if allowed == {"string"} and isinstance(value, bool | int | float | dict | list):
        return value if isinstance(value, dict | list) and not value else json.dumps(value, ensure_ascii=False)
    if allowed == {"array"} and value is not None:
        return [value]
    return value


def _from_string(text: str, allowed: frozenset[str]) -> Any:
    word = text.strip().lower()
    if word in _WORDS and json_schema.type_of(_WORDS[word]) in allowed:
        return _WORDS[word]
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return [text] if allowed == {"array"} else text
    return value if json_schema.type_of(value) in allowed else text
