"""Makers of requests, tools and texts for the tests of the core.

Properties run with a modest number of examples, the same each time; `TEST_EFFORT=50` takes fifty times as many, and
others each time. `TEST_EFFORT=0.2` takes a fifth.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.writer import CallWriter
from claude_proxy.core.messages.content import Request, Tool
from claude_proxy.core.messages.json_node import NEW_VERSION, Rules
from claude_proxy.core.messages.request import parse_request

Json = dict[str, Any]

EFFORT = float(os.environ.get("TEST_EFFORT", "1"))


def examples(count: int) -> settings:
    """So many examples, times the effort; no verdict depends on the speed of the machine."""
    return settings(
        max_examples=max(1, round(count * EFFORT)),
        deadline=None,
        derandomize=EFFORT <= 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- requests ---------------------------------------------------------------------------------------------------------

ABSENT: Final[Any] = object()


def body(**fields: Any) -> bytes:
    """The body of a small valid request, with some fields replaced; `ABSENT` leaves one out."""
    data = {"model": "claude-sonnet-4", "max_tokens": 100, "messages": [user("hello")]} | fields
    return json.dumps({name: value for name, value in data.items() if value is not ABSENT}).encode()


LENIENT, NEW = Rules(), Rules(version=NEW_VERSION)


def parse(rules: Rules = LENIENT, /, **fields: Any) -> Request:
    return parse_request(body(**fields), rules)


def conversation(*messages: Json, **fields: Any) -> Request:
    return parse(messages=list(messages), **fields)


def user(*content: str | Json) -> Json:
    return {"role": "user", "content": _content(content)}


def assistant(*content: str | Json) -> Json:
    return {"role": "assistant", "content": _content(content)}


def system(*content: str | Json) -> Json:
    return {"role": "system", "content": _content(content)}


def _content(content: tuple[str | Json, ...]) -> list[Json]:
    return [{"type": "text", "text": item} if isinstance(item, str) else item for item in content]


def call(tool_use_id: str, name: str, **arguments: Any) -> Json:
    return {"type": "tool_use", "id": tool_use_id, "name": name, "input": arguments}


def result(tool_use_id: str, content: Any = "done", **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": content, **more}


def reference(name: str) -> Json:
    return {"type": "tool_reference", "tool_name": name}


def text(words: Any, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def document(source: Any, **more: Any) -> Json:
    return {"type": "document", "source": source, **more}


IMAGE: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
IMAGE_BY_URL: Json = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
PDF: Json = document({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="})
PLAIN: Json = document({"type": "text", "media_type": "text/plain", "data": "plain words"})

CLAUDE, SEEING, BLIND = describe_alias("claude"), describe_alias("gpt-4o"), describe_alias("deepseek")
"""An alias of Anthropic's, one in OpenAI's form that sees, and one that does not."""


# --- tools ------------------------------------------------------------------------------------------------------------


def tool(name: str, properties: Mapping[str, Any] | None = None, **more: Any) -> Tool:
    """A tool; more keywords go into its schema."""
    return Tool(name, {"type": "object", "properties": dict(properties or {}), **more}, f"Use {name}.")


def tool_json(name: str, properties: Mapping[str, Any] | None = None, **more: Any) -> Json:
    """A tool as a client sends it; more keywords stand beside its schema."""
    schema = {"type": "object", "properties": dict(properties or {})}
    return {"name": name, "description": f"Use {name}.", "input_schema": schema, **more}


def by_name(*tools: Tool) -> dict[str, Tool]:
    return {each.name: each for each in tools}


def write_calls(calls: Sequence[Call], tools: Mapping[str, Tool]) -> str:
    """Calls as the proxy writes them."""
    return CallWriter(tools).write(calls)


def steps(work: Callable[[], Any]) -> int:
    """How many function calls some work takes: a measure of time that no other process disturbs."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def counter() -> Callable[[], str]:
    """A maker of ids: toolu_0, toolu_1, …"""
    numbers = itertools.count()
    return lambda: f"toolu_{next(numbers)}"


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
BOOLEAN = {"type": "boolean"}

WRITE = tool("Write", {"file_path": STRING, "content": STRING}, required=["file_path", "content"])
READ = tool("Read", {"file_path": STRING, "offset": INTEGER, "limit": INTEGER}, required=["file_path"])
BASH = tool("Bash", {"command": STRING, "timeout": INTEGER, "run_in_background": BOOLEAN}, required=["command"])


# --- texts that are hard to carry -------------------------------------------------------------------------------------

_PIECES = (
    *("<function_calls>", "</function_calls>", '<invoke name="Write">', '<invoke name="a">', "</invoke>"),
    *('<parameter name="content">', '<parameter name="a">', '<parameter name="a" encoding="json">', "</parameter>"),
    *("<parameter", "</", "<", ">", "<tool_result>", '<tool_result name="Read">', "</tool_result>", "<invoke>"),
    *("</parameter>\n</invoke>\n", '</parameter>\n<parameter name="content">', "</function_calls>\n<function_calls>\n"),
    *(
        '<invoke name="Write">\n<parameter name="file_path">',
        '</invoke>\n<invoke name="Bash">\n<parameter name="command">',
    ),
    *("\n", "\n", "\n\n", "\r\n", "\r", " ", "\t", "\x0b", "\0", "\xa0", "\u2028", "\x85"),
    *("&", "&amp;", "&lt;", "&amp;lt;", "&sum;", "&sum", "&#39;", "&#x27;", "&#128;", "&apos;", ";", "amp;"),
    *("5", "-0.5", "1e3", "true", "null", "NaN", '"', "'", '"5"', "\\", "\\u003c"),
    *("{", "}", "[]", '{"a": 1}', "[1, 2]"),
    *("```", "```json", "~~~", "`", "x", "words ", "é", "∑", "😀", "int *p = &sum;", "if (5 &lt; 6)"),
)

evil_texts = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=14).map("".join),
    st.text(max_size=20),
)
"""Texts made of the notation's own tags, entities, white space of all kinds, and what looks like JSON."""

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | evil_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(evil_texts, inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say."""


# --- schemas, and values that are valid for them ----------------------------------------------------------------------

_NAMES = ("file_path", "content", "a", "b.c", "x-y", "parameter", "name", "T_1")

_SCALARS: tuple[Json, ...] = (
    {"type": "string"},
    {"type": "string", "description": "text", "minLength": 0},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"]},
    {"type": ["integer", "string"]},
    {"enum": ["content", "head", "5", "true"]},
    {"type": "string", "enum": ["</parameter>", "5", "\n", ""]},
    {"enum": [1, "1", True, None]},
    {"const": "null"},
    {"const": 7},
    {"$ref": "#/$defs/Text"},
    {"$ref": "#/$defs/Number"},
    {"allOf": [{"$ref": "#/$defs/Text"}]},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/Text"}]},
    {"oneOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]},
    {"type": "object"},
    {"$ref": "#/$defs/Tree"},
    {},
    True,  # type: ignore[assignment] # a schema may be just true
)

DEFINITIONS: Json = {
    "Text": {"type": "string"},
    "Number": {"$ref": "#/$defs/Whole"},
    "Whole": {"type": "integer"},
    "Tree": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "branches": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
    },
}
"""What the `$ref`s of the schemas below point to."""


@st.composite
def object_schemas(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Json:
    names = draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=4))
    required = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    return {"type": "object", "properties": {name: draw(inner) for name in names}, "required": required}


value_schemas: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(_SCALARS),
    lambda inner: st.one_of(
        inner.map(lambda schema: {"type": "array", "items": schema}),
        inner.map(lambda schema: {"anyOf": [schema, {"type": "null"}]}),
        object_schemas(inner),
    ),
    max_leaves=4,
)
"""Schemas of one value."""

_VALUES_BY_TYPE: Mapping[str, st.SearchStrategy[Any]] = {
    "string": evil_texts,
    "integer": st.integers(-(2**70), 2**70),
    "number": st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "null": st.none(),
    "object": st.dictionaries(evil_texts, json_values, max_size=3),
}


def valid_values(schema: Any) -> st.SearchStrategy[Any]:
    """Values that are valid for a schema: this file's own reading of JSON Schema, for the schemas made above."""
    keywords = [] if schema is True else [keyword for keyword in _BY_KEYWORD if keyword in schema]
    return _BY_KEYWORD[keywords[0]](schema) if keywords else json_values


def _valid_for_type(schema: Json) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case [*several]:
            return st.one_of([_VALUES_BY_TYPE[each] for each in several])
        case "array":
            return st.lists(valid_values(schema.get("items", True)), max_size=3)
        case "object" if "properties" in schema:
            return _valid_objects(schema)
        case single:
            return _VALUES_BY_TYPE[single]


def _valid_for_a_branch(branches: list[Any]) -> st.SearchStrategy[Any]:
    return st.one_of([valid_values(branch) for branch in branches])


_BY_KEYWORD: Mapping[str, Callable[[Json], st.SearchStrategy[Any]]] = {
    "$ref": lambda schema: st.deferred(lambda: valid_values(DEFINITIONS[schema["$ref"].removeprefix("#/$defs/")])),
    "const": lambda schema: st.just(schema["const"]),
    "enum": lambda schema: st.sampled_from(schema["enum"]),
    "anyOf": lambda schema: _valid_for_a_branch(schema["anyOf"]),
    "oneOf": lambda schema: _valid_for_a_branch(schema["oneOf"]),
    "allOf": lambda schema: valid_values(*schema["allOf"]),  # the schemas above have one part there
    "type": _valid_for_type,
}


def _valid_objects(schema: Json) -> st.SearchStrategy[Json]:
    needed = set(schema.get("required", ()))
    values = {name: valid_values(value) for name, value in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: value for name, value in values.items() if name in needed},
        optional={name: value for name, value in values.items() if name not in needed},
    )


@st.composite
def tools(draw: st.DrawFn, name: str) -> Tool:
    """A tool whose parameters have all kinds of schemas."""
    return Tool(name, {**draw(object_schemas(value_schemas)), "$defs": DEFINITIONS})


def valid_arguments(offered: Tool) -> st.SearchStrategy[Json]:
    return _valid_objects(dict(offered.input_schema))
