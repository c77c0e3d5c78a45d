"""`docs/messages-api.md` says what becomes of everything in the Messages API; here it is held against two things.

Against the types of the installed `anthropic` package: whatever they name has a row, so that a new release which adds a
field, a block, a tool, an event or an error fails here until somebody has decided what the proxy does with it; and
whatever has a row is named by them, or stands in `UNTYPED`.

Against the code: what is refused does not parse; what is ignored parses, and leaves no trace in the `Request`; what is
honoured or emulated leaves one. What is sent occurs in what `core.response` and `core.events` make, what is never sent
does not.
"""

from __future__ import annotations

import inspect
import json
import re
import types as python_types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

import anthropic
import pytest
import typing_extensions
from anthropic import types
from anthropic._constants import ANTHROPIC_API_VERSION
from anthropic._error_classes import ERROR_CLASSES
from anthropic.types import beta, message_create_params
from anthropic.types.anthropic_beta_param import AnthropicBetaParam
from anthropic.types.beta import message_create_params as beta_message_create_params
from anthropic.types.shared import error_details, error_object, error_type
from pydantic import BaseModel

from claude_proxy import errors
from claude_proxy.core.aliases import mapping
from claude_proxy.core.json_schema.formats import FORMATS
from claude_proxy.core.json_schema.validate import KEYWORDS, UNCHECKED
from claude_proxy.core.messages import events
from claude_proxy.core.messages.content import Message, Request, StopReason, Text, Thinking, ToolUse, Usage
from claude_proxy.core.messages.json_node import NEW_VERSION, OLD_VERSION, Rules
from claude_proxy.core.messages.request import KNOWN_BETAS, choose_rules, parse_request
from claude_proxy.core.messages.response import error_json, message_json
from claude_proxy.errors import ProxyError
from claude_proxy.shell.proxy import app

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/messages-api.md"

Json: TypeAlias = Any
ANNOTATED = type(typing_extensions.Annotated[int, ""])

REQUEST_TREATMENTS = frozenset({"honoured", "emulated", "ignored", "refused"})
RESPONSE_TREATMENTS = frozenset({"sent", "never sent"})

UNTYPED: Mapping[str, frozenset[str]] = {
    # Older clients send these, or Claude Code does; the SDK's types no longer, or never, had them.
    "Request fields": frozenset({"temperature", "top_p", "top_k", "output_format", "safeguards"}),
    "Error types": frozenset({"request_too_large"}),
    "Error statuses": frozenset({"405", "414", "417", "500", "502"}),
    "Betas": frozenset(
        {"advanced-tool-use-2025-11-20", "afk-mode-2026-01-31", "claude-code-20250219", "dangerous-tool-use-2026-09-03"}
        | {"effort-2025-11-24", "fine-grained-tool-streaming-2025-05-14", "oauth-2025-04-20"}
        | {"prompt-caching-scope-2026-01-05", "redact-thinking-2026-02-12", "structured-outputs-2025-12-15"}
    ),
    "Endpoints": frozenset({"/", "/health", "/api/hello", "/status/events", "/metrics", "/v1/complete", "/v1/v1"}),
    "Headers": frozenset(
        {"authorization", "content-encoding", "content-type", "accept", "user-agent", "x-claude-code-*"}
    ),
    "API versions": frozenset({OLD_VERSION}),
    "Events": frozenset({"ping", "error"}),
}
"""What has a row though the SDK's types do not name it, by section."""


# --- the page ---------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """One name of a table. A row of the page may hold several names, each in backticks."""

    name: str
    treatment: str
    says: str

    @property
    def is_pattern(self) -> bool:
        return "*" in self.name

    def fits(self, name: str) -> bool:
        return fnmatchcase(name, self.name)

    @property
    def is_closed(self) -> bool:
        """Whether what is inside shares its fate, so that its keys need no rows."""
        return self.treatment in {"ignored", "refused", "never sent"} or self.says.startswith("Always ")


@cache
def page() -> Mapping[str, Mapping[str, Row]]:
    """The rows of the page by section and name."""
    sections: dict[str, dict[str, Row]] = {}
    rows: dict[str, Row] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("#"):
            rows = sections.setdefault(line.lstrip("# "), {})
        elif line.startswith("|"):
            names, treatment, says = (cell.strip() for cell in line.strip().strip("|").split("|"))
            for name in _NAME.findall(names):
                assert name not in rows, f"{name} has two rows"
                rows[name] = Row(name, treatment, says)
    return {title: rows for title, rows in sections.items() if rows}


def rows(*sections: str) -> Mapping[str, Row]:
    return {name: row for section in sections for name, row in page()[section].items()}


def find(table: Mapping[str, Row], name: str) -> Row | None:
    """The row of a name: its own, or that of a pattern such as `*.cache_control`."""
    return table.get(name) or next((row for row in table.values() if row.is_pattern and row.fits(name)), None)


# --- the types of the SDK ---------------------------------------------------------------------------------------------


def options(annotation: Any, *, listed: bool = False) -> Iterator[tuple[Any, bool]]:
    """The plain types that an annotation allows, and whether in an array."""
    if type(annotation).__name__ == "TypeAliasType":
        yield from options(annotation.__value__, listed=listed)
    elif get_origin(annotation) in {Literal, dict}:
        yield annotation, listed
    elif get_origin(annotation) in {Union, python_types.UnionType}:
        for argument in get_args(annotation):
            yield from options(argument, listed=listed)
    elif type(annotation) is ANNOTATED:
        yield from options(get_args(annotation)[0], listed=listed)
    elif get_args(annotation):
        yield from options(get_args(annotation)[0], listed=True)
    elif annotation is not python_types.NoneType:
        yield annotation, listed


def members(annotation: Any) -> list[Any]:
    return [member for member, _ in options(annotation)]


def is_object(member: Any) -> bool:
    return typing_extensions.is_typeddict(member) or (inspect.isclass(member) and issubclass(member, BaseModel))


def fields_of(kind: Any) -> Mapping[str, Any]:
    """The keys of a `TypedDict` or a model, as they are called on the wire, with their annotations."""
    if typing_extensions.is_typeddict(kind):
        return typing_extensions.get_type_hints(kind)
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def required(kind: Any) -> frozenset[str]:
    marked = typing_extensions.get_type_hints(kind, include_extras=True)
    return frozenset(
        {key for key, hint in marked.items() if getattr(hint, "__origin__", None) is typing_extensions.Required}
        | set(kind.__required_keys__)
    )


def words(annotation: Any) -> list[str]:
    """The strings that an annotation allows, if those are all."""
    allowed = members(annotation)
    literals = [member for member in allowed if get_origin(member) is Literal and str not in allowed]
    return [value for literal in literals for value in get_args(literal) if isinstance(value, str)]


def tags(kind: Any) -> list[str]:
    return words(fields_of(kind).get("type"))


# --- samples of them --------------------------------------------------------------------------------------------------

TOOLS = [{"name": "a", "input_schema": {}}, {"name": "b", "input_schema": {}}]
"""The tools that requests offer here: samples of strings are `a` and `b`, so that samples name them."""


def samples(annotation: Any) -> list[Json]:
    """Values of an annotation, different from each other where it has more than one."""
    return [[value] if listed else value for member, listed in options(annotation) for value in _samples(member)]


_PLAIN: Mapping[Any, list[Json]] = {str: ["a", "b"], int: [1, 2], float: [0.25, 0.5], bool: [False, True]}


def _samples(member: Any) -> list[Json]:
    if get_origin(member) is Literal:
        return list(get_args(member))
    if typing_extensions.is_typeddict(member):
        return [sample(member, tag) for tag in tags(member) or [""]]
    if get_origin(member) is dict:
        return [{}, {"type": "object"}]
    return _PLAIN.get(member, [])


def sample(kind: Any, tag: str = "") -> dict[str, Json]:
    """The smallest value of a `TypedDict`; of a model, nothing."""
    if not typing_extensions.is_typeddict(kind):
        return {}
    hints = fields_of(kind)
    values = {key: samples(hints[key])[0] for key in sorted(required(kind)) if key != "type"}
    return ({"type": tag} if tag else {}) | values


# --- walking them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """Something that a type names: a key, the tag of a member of a union, or a word that is allowed.

    Attributes:
        name: its path, as in `thinking.display`, `thinking: adaptive` or `thinking.display: omitted`.
        within: the names of what it is a part of.
        tag: the `type`, where it is one.
        values: values of the outermost thing that exercise it, to be told apart by what becomes of them.
        without: the same without it, where it can be left out.
    """

    name: str
    within: tuple[str, ...] = ()
    tag: str = ""
    values: tuple[Json, ...] = ()
    without: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Where a walk ends: at types that have a section of their own, and at names."""

    kinds: frozenset[Any] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Where a walk is.

    Attributes:
        path: the name of the place.
        within: the names of what it is a part of, itself included.
        put: the outermost value with a value put here.
    """

    path: str = ""
    within: tuple[str, ...] = ()
    put: Callable[[Json], Json] = lambda value: value


def walk_keys(kind: Any, place: Place, base: Json, stop: Stop) -> Iterator[Entry]:
    """The keys of a type and what they hold."""
    for key, annotation in fields_of(kind).items():
        if key == "type":
            continue
        name = f"{place.path}.{key}" if place.path else key
        inner = Place(name, (*place.within, name), _put(place, base, key))
        values = samples(annotation) if typing_extensions.is_typeddict(kind) else []
        without = () if key in base else (place.put(base),)
        yield Entry(name, place.within, values=tuple(inner.put(value) for value in values), without=without)
        if name not in stop.names:
            yield from walk_members(annotation, inner, stop)


def _put(place: Place, base: Json, key: str) -> Callable[[Json], Json]:
    return lambda value: place.put(base | {key: value})


def _put_listed(place: Place) -> Callable[[Json], Json]:
    return lambda value: place.put([value])


def walk_members(annotation: Any, place: Place, stop: Stop) -> Iterator[Entry]:
    """The members of a union, and the words it allows."""
    for word in words(annotation):
        listed = any(in_list for member, in_list in options(annotation) if get_origin(member) is Literal)
        yield Entry(f"{place.path}: {word}", place.within, values=(place.put([word] if listed else word),))
    for member, listed in options(annotation):
        if is_object(member):
            inner = replace(place, put=_put_listed(place)) if listed else place
            yield from walk_object(member, inner, stop)


def walk_object(kind: Any, place: Place, stop: Stop) -> Iterator[Entry]:
    for tag in tags(kind) or [""]:
        base = sample(kind, tag)
        name = f"{place.path}: {tag}" if place.path else tag
        if tag:
            yield Entry(name, place.within, tag, (place.put(base),))
        if kind not in stop.kinds:
            within = (*place.within, name) if tag else place.within
            yield from walk_keys(kind, replace(place, within=within), base, stop)


def contents(*kinds: Any) -> frozenset[Any]:
    """The types of the blocks that the `content` of some types may hold."""
    return frozenset(member for kind in kinds for member in members(fields_of(kind)["content"]) if is_object(member))


PARAMS = (
    *members(message_create_params.MessageCreateParams),
    *members(beta_message_create_params.MessageCreateParams),
)
MESSAGE_PARAMS = (*members(types.MessageParam), *members(beta.BetaMessageParam))
BLOCKS = frozenset(
    kind
    for kind in contents(*MESSAGE_PARAMS, types.ToolResultBlockParam, beta.BetaToolResultBlockParam)
    if typing_extensions.is_typeddict(kind)
)
"""The content blocks that a request may hold."""
TOOL_KINDS = frozenset([*members(types.ToolUnionParam), *members(beta.BetaToolUnionParam)])
"""The tools that a request may define."""
MESSAGES = frozenset({types.Message, beta.BetaMessage})
RESPONSE_BLOCKS = contents(*MESSAGES)
EVENTS = (*members(types.RawMessageStreamEvent), *members(beta.BetaRawMessageStreamEvent))


def walk_request() -> Iterator[Entry]:
    stop = Stop(names=frozenset({"messages", "tools", "system"}))
    for kind in PARAMS:
        yield from walk_keys(kind, Place(), sample(kind), stop)
    for kind in (types.MessageCountTokensParams, beta.MessageCountTokensParams):
        yield from (Entry(key) for key in fields_of(kind))


def walk_messages() -> Iterator[Entry]:
    for kind in MESSAGE_PARAMS:
        yield from walk_keys(kind, Place(), sample(kind), Stop(names=frozenset({"content"})))


def walk_tagged(kinds: Iterable[Any], stop: Stop, *, shared_keys: bool = False) -> Iterator[Entry]:
    """Types, each with its keys behind its name; or with bare keys, where they mean the same in each."""
    for kind in kinds:
        for tag in tags(kind):
            yield Entry(tag, (), tag, (sample(kind, tag),))
            yield from walk_keys(kind, Place("" if shared_keys else tag, (tag,)), sample(kind, tag), stop)


@dataclass(frozen=True)
class Part:
    """A part of the API: where the page speaks of it, and what the SDK knows of it."""

    sections: tuple[str, ...]
    walk: Callable[[], Iterator[Entry]]

    @property
    def rows(self) -> Mapping[str, Row]:
        return rows(*self.sections)

    @property
    def is_request(self) -> bool:
        return self in (REQUEST, MESSAGE, BLOCK, TOOL)

    def is_inside(self, entry: Entry) -> bool:
        """Whether an entry shares the fate of something around it."""
        return any((row := find(self.rows, name)) and row.is_closed for name in entry.within)


REQUEST = Part(("Request fields", "Within request fields"), walk_request)
MESSAGE = Part(("Keys of a message",), walk_messages)
BLOCK = Part(
    ("Content blocks of a request", "Within content blocks"),
    lambda: walk_tagged(BLOCKS, Stop(BLOCKS, frozenset({"tool_addition.tool.definition"}))),
)
TOOL = Part(("Tool types", "Keys of a tool"), lambda: walk_tagged(TOOL_KINDS, Stop(), shared_keys=True))
RESPONSE = Part(
    ("Response fields",),
    lambda: (
        entry
        for kind in MESSAGES
        for entry in walk_keys(kind, Place(), {}, Stop(names=frozenset({"content", "stop_reason"})))
    ),
)
RESPONSE_BLOCK = Part(("Content blocks of a response",), lambda: walk_tagged(RESPONSE_BLOCKS, Stop()))
EVENT = Part(
    ("Events",),
    lambda: walk_tagged(
        EVENTS,
        Stop(
            RESPONSE_BLOCKS | MESSAGES,
            frozenset(
                {"message_start.message", "content_block_start.content_block", "message_delta.delta.stop_reason"}
            ),
        ),
    ),
)
PARTS = (REQUEST, MESSAGE, BLOCK, TOOL, RESPONSE, RESPONSE_BLOCK, EVENT)
INSIDE = ("Types inside what is ignored or refused", "Types inside what is never sent")


@cache
def entries(part: Part) -> tuple[Entry, ...]:
    return tuple(part.walk())


# --- what else the SDK names ------------------------------------------------------------------------------------------

PACKAGE = Path(anthropic.__file__).parent


def in_source(pattern: str, folder: str = "") -> frozenset[str]:
    """What a pattern finds in the source of the SDK: paths and headers have no types."""
    files = (PACKAGE / folder).rglob("*.py")
    return frozenset(found.lower() for file in files for found in re.findall(pattern, file.read_text("utf-8")))


def error_codes() -> Iterator[str]:
    for kind in members(error_details.ErrorDetails):
        yield from words(fields_of(kind)["error_code"])
    yield from (code for _, code in ERROR_CLASSES if code)


def error_types() -> Iterator[str]:
    yield from words(error_type.ErrorType)
    for union in (error_object.ErrorObject, types.BetaError):
        for kind in members(union):
            yield from tags(kind)


LISTS: Mapping[str, Callable[[], Iterable[str]]] = {
    "Betas": lambda: [word for member in members(AnthropicBetaParam) for word in words(member)],
    "Stop reasons": lambda: [word for kind in MESSAGES for word in words(fields_of(kind)["stop_reason"])],
    "Error types": error_types,
    "Error statuses": lambda: [str(status) for status, code in ERROR_CLASSES if code is None],
    "Error codes": error_codes,
    "Endpoints": lambda: in_source(r'"(/v1/[^"?]*)', "resources"),
    "Headers": lambda: in_source(r'(?i)"((?:anthropic|x-stainless|x-api|x-should|retry|request)-[a-z-]+)"'),
    "API versions": lambda: [ANTHROPIC_API_VERSION],
}
"""By section, the names that the SDK knows and that stand in one list."""


# --- the page is complete, and says nothing of what does not exist ----------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.sections[0])
def test_what_the_types_name_has_a_row(part: Part) -> None:
    missing = {
        entry.name
        for entry in entries(part)
        if not part.is_inside(entry) and not (entry.tag and entry.within) and find(part.rows, entry.name) is None
    }

    assert not missing, f"give each of these a row under {part.sections}: {sorted(missing)}"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.sections[0])
def test_every_type_has_a_row_even_inside_what_is_ignored_or_refused(part: Part) -> None:
    named = {name.rpartition(": ")[2] for table in page().values() for name in table}

    missing = {
        entry.tag
        for entry in entries(part)
        if entry.tag and entry.name not in part.rows and not (part.is_inside(entry) and entry.tag in named)
    }

    assert not missing, f"give each of these a row under {part.sections} or {INSIDE}: {sorted(missing)}"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.sections[0])
def test_what_has_a_row_is_named_by_the_types(part: Part) -> None:
    known = {entry.name for entry in entries(part)} | UNTYPED.get(part.sections[0], frozenset())

    stale = {row.name for row in part.rows.values() if not any(row.fits(name) for name in known)}

    assert not stale, f"the SDK knows none of these: take out their rows under {part.sections}: {sorted(stale)}"


def test_every_type_in_the_tables_of_inner_types_is_named_by_the_types() -> None:
    known = {entry.tag for part in PARTS for entry in entries(part)}

    assert not set(rows(*INSIDE)) - known


@pytest.mark.parametrize("section", LISTS)
def test_what_the_sdk_lists_has_a_row(section: str) -> None:
    missing = {name for name in LISTS[section]() if _row_for(section, name) is None}

    assert not missing, f"give each of these a row under {section}: {sorted(missing)}"


@pytest.mark.parametrize("section", LISTS)
def test_what_has_a_row_is_listed_by_the_sdk(section: str) -> None:
    known = {*LISTS[section](), *UNTYPED.get(section, ())}

    stale = {row.name for row in rows(section).values() if not any(_row_for(section, name) is row for name in known)}

    assert not stale, f"the SDK knows none of these: take out their rows under {section}: {sorted(stale)}"


def _row_for(section: str, name: str) -> Row | None:
    """The row of a name; where a product is refused, all its paths are."""
    if section == "Endpoints" and name not in rows(section):
        refused = [row for row in rows(section).values() if row.treatment == "refused"]
        return max((row for row in refused if name.startswith(f"{row.name}/")), key=lambda row: row.name, default=None)
    return find(rows(section), name)


def test_what_is_not_in_the_types_has_a_row() -> None:
    assert {section: names - set(rows(*_with_siblings(section))) for section, names in UNTYPED.items()} == {
        section: frozenset() for section in UNTYPED
    }


def _with_siblings(section: str) -> tuple[str, ...]:
    return next((part.sections for part in PARTS if section in part.sections), (section,))


def test_every_row_has_a_treatment_of_its_side() -> None:
    request = {section for part in PARTS if part.is_request for section in part.sections} | {INSIDE[0], "Endpoints"}
    request |= {"API versions", "Betas"}
    for section, table in page().items():
        allowed = REQUEST_TREATMENTS if section in request else RESPONSE_TREATMENTS
        allowed |= REQUEST_TREATMENTS if section == "Headers" else frozenset()
        assert {row.name: row.treatment for row in table.values() if row.treatment not in allowed} == {}, section


# --- the page is true of requests -------------------------------------------------------------------------------------

NEW = Rules(version=NEW_VERSION)
OLD = Rules(version=OLD_VERSION)


def body(**fields: Json) -> dict[str, Json]:
    base = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS}
    return base | fields


def trace(request: dict[str, Json], rules: Rules = NEW) -> Request | None:
    """What of a request reaches the prompt, the reply or the response; None where it is refused."""
    try:
        parsed = parse_request(json.dumps(request).encode(), rules)
    except ProxyError:
        return None
    return replace(parsed, ignored=0, mended=0, extras={})


def verdict(values: Sequence[dict[str, Json]], without: Sequence[dict[str, Json]], rules: Rules = NEW) -> str:
    """What the code does with something, as far as can be seen in the `Request`."""
    traces = [trace(value, rules) for value in values]
    parsed = {repr(found) for found in [*traces, *(trace(value, rules) for value in without)] if found}
    if not any(traces):
        return "refused"
    if len(parsed) > 1:
        return "heeded"
    if None in traces:
        return "refused in part"
    return "ignored" if len(values) + len(without) > 1 else "taken"


EXPECTED: Mapping[str, frozenset[str]] = {
    "refused": frozenset({"refused"}),
    "ignored": frozenset({"ignored", "taken"}),
    "honoured": frozenset({"heeded", "taken"}),
    "emulated": frozenset({"heeded", "taken"}),
}


def in_request(value: Json) -> dict[str, Json]:
    return body(**value)


def in_message(message: Json) -> dict[str, Json]:
    """A request with a message in a place where it can stand."""
    behind = [{"role": "user", "content": "Go on."}]
    if message.get("role") == "system":
        behind.insert(0, {"role": "assistant", "content": "Yes."})
    return body(messages=[{"role": "user", "content": "Hi"}, {"content": "Note."} | message, *behind])


_IN_RESULTS = frozenset({"tool_reference", "browser_state"})
_OF_SYSTEM = frozenset({"tool_addition", "tool_removal"})
_OF_USERS = frozenset({"image", "document", "search_result", "tool_result", "container_upload"})


def in_content(*blocks: Json, kind: str) -> dict[str, Json]:
    """A request with a block in a place where blocks of its kind can stand."""
    if kind in _IN_RESULTS:
        return in_content({"type": "tool_result", "tool_use_id": "a", "content": [*blocks]}, kind="tool_result")
    if kind in _OF_SYSTEM:
        return in_message({"role": "system", "content": [{"type": "text", "text": "Note."}, *blocks]})
    said = [{"type": "text", "text": "Well."}]
    calls = [{"type": "tool_use", "id": name, "name": name, "input": {}} for name in "ab"]
    if kind == "tool_result":
        messages = [{"role": "assistant", "content": calls}, {"role": "user", "content": [*blocks]}]
    elif kind in _OF_USERS:
        messages = [{"role": "user", "content": [*said, *blocks]}]
    else:
        messages = [{"role": "assistant", "content": [*said, *blocks]}, {"role": "user", "content": "Go on."}]
    return body(messages=[{"role": "user", "content": "Hi"}, *messages])


def in_tools(tool: Json) -> dict[str, Json]:
    return body(tools=[tool])


def build(part: Part, entry: Entry, value: Json) -> dict[str, Json]:
    match part.sections[0]:
        case "Request fields":
            return in_request(value)
        case "Keys of a message":
            return in_message(value)
        case "Tool types":
            return in_tools(value)
        case _:
            return in_content(value, kind=value["type"])


REFERENCE = {"type": "tool_reference", "name": "a"}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
BY_HAND: Mapping[tuple[Part, str], tuple[Rules, Sequence[Json], Sequence[Json]]] = {
    (REQUEST, "messages"): (NEW, [body(), body(messages=[{"role": "user", "content": "Bye"}])], []),
    (REQUEST, "stream"): (NEW, [body(stream=True)], [body()]),
    (REQUEST, "output_config"): (NEW, [body(output_config={"format": SCHEMA})], [body()]),
    (REQUEST, "temperature"): (OLD, [body(temperature=0.5)], [body()]),
    (REQUEST, "top_p"): (OLD, [body(top_p=0.5)], [body()]),
    (REQUEST, "top_k"): (OLD, [body(top_k=5)], [body()]),
    (REQUEST, "output_format"): (OLD, [body(output_format=SCHEMA)], [body()]),
    (REQUEST, "safeguards"): (NEW, [body(safeguards={})], [body()]),
    (MESSAGE, "role"): (
        NEW,
        [in_message({"role": role, "content": "Hi"}) for role in ("user", "assistant", "system")],
        [],
    ),
    (BLOCK, "compaction"): (
        NEW,
        [in_content({"type": "compaction", "content": "Before."}, kind="compaction")],
        [in_content(kind="compaction")],
    ),
    **{
        (BLOCK, f"{kind}.tool"): (
            NEW,
            [in_content({"type": kind, "tool": REFERENCE}, kind=kind)],
            [in_content(kind=kind)],
        )
        for kind in ("tool_addition", "tool_removal")
    },
}
"""Requests with and without something, where the types do not say enough to make them."""


def each_row(parts: Iterable[Part]) -> list[Any]:
    return [
        pytest.param(part, row, id=f"{part.sections[0]}: {row.name}") for part in parts for row in part.rows.values()
    ]


@pytest.mark.parametrize(("part", "row"), each_row(part for part in PARTS if part.is_request))
def test_requests_are_treated_as_the_page_says(part: Part, row: Row) -> None:
    found = set(_verdicts(part, row))

    if row.treatment in {"honoured", "emulated"} and "heeded" in found:
        found -= {"ignored"}  # one of the types that share the key has a use for it
    assert found, "nothing was tried"
    assert found <= EXPECTED[row.treatment]


def _verdicts(part: Part, row: Row) -> Iterator[str]:
    if (part, row.name) in BY_HAND:
        rules, values, without = BY_HAND[part, row.name]
        yield verdict(values, without, rules)
        return
    tried = [entry for entry in entries(part) if row.fits(entry.name) and entry.values]
    for entry in [entry for entry in tried if not part.is_inside(entry)] or tried:
        without = [build(part, entry, value) for value in entry.without]
        if part is BLOCK and entry.name == entry.tag:
            without = [in_content(kind=entry.tag)]
        yield verdict([build(part, entry, value) for value in entry.values], without)


def test_sampling_parameters_are_refused_under_the_newer_version() -> None:
    assert verdict([body(temperature=0.5), body(top_p=0.5)], []) == "refused"


def test_the_section_on_json_schema_names_what_is_checked() -> None:
    section = PAGE.read_text("utf-8").partition("## JSON Schema\n")[2].partition("\n## ")[0]
    checked, _, others = section.partition("\n\n`not`")
    named = set(re.findall(r"`([$a-zA-Z][\w-]*)`", checked))
    assert named == {*KEYWORDS, *FORMATS}
    assert set(re.findall(r"`(\w+)`", others.partition("are shown")[0])) <= UNCHECKED


def test_betas_are_ignored() -> None:
    assert set(rows("Betas")) == KNOWN_BETAS
    headers = {"anthropic-version": NEW_VERSION, "anthropic-beta": ", ".join([*rows("Betas"), "tea-2026-01-01"])}
    assert choose_rules(headers).betas == KNOWN_BETAS | {"tea-2026-01-01"}


@pytest.mark.parametrize("version", [OLD_VERSION, NEW_VERSION])
def test_each_version_of_the_table_has_rules_of_its_own(version: str) -> None:
    assert set(rows("API versions")) == {OLD_VERSION, NEW_VERSION}
    assert choose_rules({"anthropic-version": version}).version == version


def test_the_paths_that_are_honoured_are_the_routes() -> None:
    nothing: Any = None
    routes = {route.replace("{id}", "{model_id}") for route in app.App(nothing, nothing)._routes}

    assert routes == {row.name for row in rows("Endpoints").values() if row.treatment == "honoured"}
    assert set(app._ABSENT) <= {row.name for row in rows("Endpoints").values() if row.treatment == "refused"}


# --- the page is true of responses ------------------------------------------------------------------------------------

ASKED = parse_request(
    json.dumps(
        body(
            context_management={"edits": []},
            thinking={"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "error"}},
        )
    ).encode()
)
"""A request that asks for whatever a response may hold."""

MESSAGE_SENT = Message(
    "msg_1",
    "m",
    (Thinking("Hm.", "signature"), Text("I do it."), ToolUse("toolu_1", "a", {"x": 1})),
    "tool_use",
    Usage(3, 4),
    extras=ASKED.extras,
)


def stream() -> list[Json]:
    """All the events there are: of a stream that waited, and of one that failed."""
    waited = events.EventStream(events.opening_message("msg_1", "m", 3), thinking=True, delay=1, interval=1)
    pinged = events.EventStream(events.opening_message("msg_1", "m", 3), thinking=False, delay=1, interval=1)
    sent = [
        *(event for stream in (waited, pinged) for second in (1, 2, 3) for event in stream.events_due(second)),
        *waited.finish(MESSAGE_SENT),
        events.error_event(errors.ModelOverloaded("later"), "req_1"),
    ]
    return [json.loads(event.partition(b"data: ")[2]) for event in sent]


def occurrences(value: Json, path: str) -> Iterator[tuple[str, Json]]:
    """What there is in a JSON value, named as the walk names it."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            if "type" in item:
                yield (f"{path}: {item['type']}" if path else item["type"]), item
            for key, inner in item.items():
                if key != "type":
                    name = f"{path}.{key}" if path else key
                    yield name, inner
                    yield from occurrences(inner, name)
        elif isinstance(item, str):
            yield f"{path}: {item}", item


def sent_things(part: Part) -> Mapping[str, list[Json]]:
    message = message_json(MESSAGE_SENT)
    if part is RESPONSE:
        found = list(occurrences({key: value for key, value in message.items() if key != "type"}, ""))
    else:
        things = message["content"] if part is RESPONSE_BLOCK else stream()
        found = [(thing["type"], thing) for thing in things]
        found += [pair for thing in things for pair in _below(thing)]
    names: dict[str, list[Json]] = {}
    for name, value in found:
        names.setdefault(name, []).append(value)
    return names


def _below(thing: Json) -> Iterator[tuple[str, Json]]:
    return (pair for pair in occurrences(thing, thing["type"]) if pair[0] != f"{thing['type']}: {thing['type']}")


@pytest.mark.parametrize(("part", "row"), each_row(part for part in PARTS if not part.is_request))
def test_responses_hold_what_the_page_says(part: Part, row: Row) -> None:
    found = [value for name, values in sent_things(part).items() if row.fits(name) for value in values]

    assert bool(found) == (row.treatment == "sent")
    always = re.match(r"Always `([^`]+)`", row.says)
    assert not always or all(value == json.loads(always[1]) for value in found)


def test_a_response_holds_nothing_that_the_page_leaves_out() -> None:
    for part in (RESPONSE, RESPONSE_BLOCK, EVENT):
        opaque = {"content", "message_start.message", "content_block_start.content_block", "tool_use.input", "error"}
        named = {
            name
            for name, values in sent_things(part).items()
            if not any(re.match(rf"{each}[.:]", name) for each in opaque) and not _is_word(name, values)
        }
        assert {name for name in named if find(part.rows, name) is None} == set()


def _is_word(name: str, values: Sequence[Json]) -> bool:
    return ": " in name and isinstance(values[0], str)


def test_the_stop_reasons_that_are_sent() -> None:
    assert {row.name for row in rows("Stop reasons").values() if row.treatment == "sent"} == set(get_args(StopReason))


# --- the page is true of errors ---------------------------------------------------------------------------------------


def failures() -> list[type[ProxyError]]:
    return [ProxyError, *(kind for kind in vars(errors).values() if _is_failure(kind))]


def _is_failure(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, ProxyError) and kind is not ProxyError


def sent_rows(section: str) -> set[str]:
    return {row.name for row in rows(section).values() if row.treatment == "sent"}


def test_the_error_types_that_are_sent() -> None:
    assert sent_rows("Error types") == {failure.type for failure in failures()}
    assert error_json(ProxyError("why"), "req_1")["error"]["type"] == "api_error"


def test_the_statuses_that_are_sent() -> None:
    assert sent_rows("Error statuses") == {str(failure.status) for failure in failures()}


def test_the_error_codes_that_are_sent() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "claude_proxy").rglob("*.py")]

    assert sent_rows("Error codes") == {
        code for source in sources for code in re.findall(r'"error_code": "([a-z_]+)"', source)
    }


def test_the_description_of_a_model_has_every_key() -> None:
    described = mapping.model_json("m", mapping.describe_alias("gpt-4o"))

    known = {entry.name for entry in walk_keys(beta.BetaModelInfo, Place(), {}, Stop()) if ": " not in entry.name}
    found = {name for name, _ in occurrences({"model": described}, "") if ": " not in name}
    assert {name.removeprefix("model.") for name in found} - {"model"} == known
