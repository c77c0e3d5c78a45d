"""What a model wrote for a call, brought to what the tool takes: names, types, and habits that are never meant.

A name is changed only where exactly one offered name fits, a value only where the schema does not allow it as it
stands or where no tool could have wanted it so. Everything else is left for the client to judge: Claude Code answers
a wrong argument with a precise error, and the model corrects itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from claude_proxy.core.calls import loose_json
from claude_proxy.core.calls.vocabulary import Parameters
from claude_proxy.core.json_schema.types import Schema, items, properties, required, type_of, types
from claude_proxy.core.messages.content import Tool


def fit_arguments(arguments: Mapping[str, Any], tool: Tool, *, decoded: bool = True) -> dict[str, Any]:
    """Bring the arguments of a call to the names and types of the tool's input schema.

    An optional argument that came as null, or as "" where no string is allowed, is left out: that is how models say
    "not given".

    Where the module has not decoded HTML entities, a value that is escaped throughout is unescaped.
    """
    if not arguments:
        return {}
    schema = tool.input_schema
    known = properties(schema)
    needed = required(schema)
    parameters = Parameters(known)
    fitted: dict[str, Any] = {}
    for name, value in arguments.items():
        meant = parameters.meant(name)
        meant = name if meant in arguments else meant
        of_value = known.get(meant, True)
        if meant in needed or not _says_nothing(value, of_value, schema):
            fitted[meant] = fit(value, of_value, schema)
    if not decoded:
        fitted = _unescaped(fitted)
    return _without_fences(fitted)


def _says_nothing(value: Any, schema: Schema, root: Schema) -> bool:
    if value is None:
        return "null" not in types(schema, root)
    nothing = isinstance(value, str) and value.strip().lower() in {"", "null", "none", "undefined"}
    return nothing and not types(schema, root) & {"string", "null"}


def fit(value: Any, schema: Schema, root: Schema) -> Any:
    """Bring one value, and what it holds, to the types of its schema."""
    allowed = types(schema, root)
    if type_of(value) not in allowed:
        value = _convert(value, allowed)
    if isinstance(value, dict):
        known = properties(schema, root)
        return {key: fit(item, known.get(key, True), root) for key, item in value.items()}
    if isinstance(value, list):
        of_items = items(schema, root)
        return [fit(item, of_items, root) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and "number" not in allowed else value


_WORDS: Mapping[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "null": None, "none": None}


def _convert(value: Any, allowed: frozenset[str]) -> Any:
    """The value in an allowed type, or unchanged where there is no obvious way to convert it."""
    if isinstance(value, str):
        return _from_string(value, allowed)
    if allowed == {"string"} and isinstance(value, bool | int | float | dict | list):
        return json.dumps(value, ensure_ascii=False)
    if value == [] and "object" in allowed:
        return {}  # PHP writes an empty object so
    if allowed == {"array"} and value is not None:
        return [value]
    return value


def _from_string(text: str, allowed: frozenset[str]) -> Any:
    text = _without_fence(text)
    word = text.strip().lower()
    if word in _WORDS and type_of(_WORDS[word]) in allowed:
        return _WORDS[word]
    try:
        read = loose_json.read_value(text)
    except loose_json.Unreadable:
        read = loose_json.Value(None, 0, complete=False)
    whole = read.complete and not text[read.end :].strip()
    if whole and type_of(read.value) in allowed:
        return read.value
    if whole and isinstance(read.value, str) and read.value != text:
        return _from_string(read.value, allowed)  # in quotes that should not be there
    return [text] if allowed == {"array"} else text


# --- habits -----------------------------------------------------------------------------------------------------------

_MARKUP = re.compile(r"\.(?:html?|xml|svg|xhtml|vue|md|mdx)$", re.IGNORECASE)
_ESCAPED = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&amp;": "&"}
_ESCAPED_PATTERN = re.compile("|".join(_ESCAPED))


def _unescaped(arguments: dict[str, Any]) -> dict[str, Any]:
    """Undo the HTML escapes of values that are escaped throughout, unless a file of markup wants them."""
    if any(isinstance(value, str) and _MARKUP.search(value.strip()) for value in arguments.values()):
        return arguments
    return {name: _unescape(value) if isinstance(value, str) else value for name, value in arguments.items()}


def _unescape(text: str) -> str:
    throughout = not re.search(r"[<>&]", _ESCAPED_PATTERN.sub("", text))
    return _ESCAPED_PATTERN.sub(lambda match: _ESCAPED[match[0]], text) if throughout else text


_SOURCE_FILE = re.compile(r"\.(?!(?:md|mdx|markdown|rst|qmd|rmd|txt|text|log)$)[A-Za-z]\w{0,9}$", re.IGNORECASE)
_COMMANDS = frozenset({"command", "cmd", "script", "code"})


def _without_fences(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take a command, or what goes into a source file, out of the code fence that is wrapped around all of it."""
    to_source = any(isinstance(value, str) and _SOURCE_FILE.search(value.strip()) for value in arguments.values())
    return {
        name: _without_fence(value) if isinstance(value, str) and (to_source or _takes_code(name)) else value
        for name, value in arguments.items()
    }


def _takes_code(name: str) -> bool:
    return name.lower() in _COMMANDS or "json" in name.lower()


def _without_fence(text: str) -> str:
    stripped = text.strip()
    mark = stripped[:3]
    opening, _, rest = stripped.partition("\n")
    inner, _, closing = rest.rpartition("\n")
    if mark not in {"```", "~~~"} or closing.strip() != opening[: len(opening) - len(opening.lstrip(mark[0]))]:
        return text
    return text if mark in inner or mark[0] in opening.lstrip(mark[0]) else inner
