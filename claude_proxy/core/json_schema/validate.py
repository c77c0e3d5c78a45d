"""Whether a value is as a JSON Schema says, as far as the vendors' SDKs and the real API go.

Three questions. `schema_fault` asks whether a schema is valid; `unchecked` names what is not checked; `faults` tells
what is wrong with a value, in sentences that a model can act on. `KEYWORDS` is the table behind them: per keyword the
types that it speaks of, the shape its argument must have, and the test. A schema is first compiled, which checks the
shapes and finds the targets of the references; a `_Visit` then applies a part of it to a value.

The table holds the API's subset of draft 2020-12 and what pydantic and zod write for everyday types, since the SDKs'
helpers for tools send that as it is. `oneOf` is read as `anyOf`, as by the SDKs. So nothing in the table negates, and
what is left out of it lets more values pass, never fewer.

Schemas and values come from strangers. Every step is counted, those of `patterns` and each fault that is handed on
among them, and a value that cannot be checked within the bounds has a fault: nothing passes unchecked.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from claude_proxy.core.json_schema.formats import FORMATS
from claude_proxy.core.json_schema.patterns import Matcher, read_pattern
from claude_proxy.core.json_schema.types import ALL_TYPES, Schema, find, type_of
from claude_proxy.core.json_text import is_deeper

Path: TypeAlias = tuple[str | int, ...]

MAX_STEPS = 1_000_000  # up to three seconds: see docs/reliability.md
_MAX_DEPTH = 200  # of a schema, and of schemas within schemas as they are applied to a value
_MAX_VALUE_DEPTH = 100
_ENOUGH_FAULTS = 10  # in one place, to tell what is meant
_MAX_SHOWN = 200  # characters of a value or a name in a sentence
_MAX_LISTED = 20

_NUMBER = frozenset({"integer", "number"})
_STRING = frozenset({"string"})
_ARRAY = frozenset({"array"})
_OBJECT = frozenset({"object"})

UNCHECKED: Final = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "additionalItems", "patternProperties"}
    | {"dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"}
    | {"propertyNames", "$dynamicRef", "$recursiveRef"}
)
"""The keywords of JSON Schema that say which values are valid, and are not checked."""


def schema_fault(schema: Schema) -> str | None:
    """Why a schema cannot be used, in a sentence that begins with the path into it; None if it can."""
    try:
        _Compiler(schema)
    except _RefusedError as refused:
        return str(refused)
    return None


def unchecked(schema: Schema) -> list[str]:
    """The keywords in a schema without a fault that are not checked, each as often as it is there."""
    return _Compiler(schema).unchecked


def faults(value: Any, schema: Schema, *, limit: int = 5, max_steps: int = MAX_STEPS) -> list[str]:
    """What is wrong with a value; nothing if it is valid.

    Args:
        value: decoded from JSON.
        schema: one in which `schema_fault` finds no fault.
        limit: how many faults are named at most; at least 1.
        max_steps: how much work it may be.

    Returns:
        Sentences such as `items.0.price: must be a number, is "3"`; without a path if the whole value is meant. A
        value too deep or too costly to check has a fault that says so.

    Raises:
        ValueError: the schema has a fault.
    """
    run = _Run(_Compiler(schema).rules, max_steps)
    try:
        if is_deeper(value, _MAX_VALUE_DEPTH):
            raise _GivenUpError(f"it is nested more than {_MAX_VALUE_DEPTH} levels deep")
        return [fault.located() for fault in islice(run.visit(value, schema, (), 0), max(1, limit))]
    except _GivenUpError as given_up:
        return [f"cannot be checked: {given_up}"]
    except RecursionError:  # little was left of the stack when this began
        return ["cannot be checked: it is nested too deeply"]


class _RefusedError(ValueError):
    """The schema has a fault; the message names the place."""


class _GivenUpError(Exception):
    """The bounds were reached."""


def _located(path: Path, text: str) -> str:
    """A sentence with the path before it."""
    steps = (step if re.fullmatch(r"[\w$~@/-]{1,200}", step) else _shown(step) for step in map(str, path))
    return f"{'.'.join(steps)}: {text}" if path else text


class _Fault(NamedTuple):
    path: Path
    text: Callable[[], str]  # most faults are never shown: those of alternatives
    mismatch: str = ""  # what may tell that another alternative is meant: a wrong "type" or a wrong "constant"
    alternatives: Sequence[_Fault] = ()  # a fault of each, where no one can be told to be meant

    def located(self, spoken_of: Path | None = None) -> str:
        """The fault in words; without its path if that is spoken of, and without alternatives within alternatives."""
        text = self.text()
        if self.alternatives and spoken_of is None:
            text += ": " + "; or ".join(dict.fromkeys(each.located(self.path) for each in self.alternatives))
        return text if self.path is spoken_of else _located(self.path, text)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _listed(values: Collection[Any]) -> str:
    rest = len(values) - _MAX_LISTED
    return ", ".join(map(_shown, islice(values, _MAX_LISTED))) + (f" and {rest} more" if rest > 0 else "")


# --- a schema, compiled -----------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    types: frozenset[str]
    test: _Test
    argument: Any  # as the keyword's shape made it
    cost: int


class _Compiler:
    """Reads every part of a schema once; never recursive.

    Attributes:
        rules: what each part asks for, by its identity.
        unchecked: the keywords that are not checked.
    """

    def __init__(self, root: Schema) -> None:
        self.rules: dict[int, list[_Rule]] = {}
        self.unchecked: list[str] = []
        self._root = root
        self._keyword = ""
        self._part: tuple[Schema, Path] = (root, ())
        self._pending: list[tuple[Schema, Path]] = [(root, ())]
        self._paths: dict[int, Path] = {}
        self._same_value: dict[int, list[int]] = {}  # which parts a part applies to the value that it is applied to
        if is_deeper(root, _MAX_DEPTH):
            raise _RefusedError(f"the schema is nested more than {_MAX_DEPTH} levels deep")
        while self._pending:
            self._read(self._pending.pop())
        try:
            TopologicalSorter(self._same_value).prepare()
        except CycleError as error:
            path = self._paths[error.args[1][0]]
            raise _RefusedError(_located(path, "leads back to itself without a step into the value")) from None

    def _read(self, part: tuple[Schema, Path]) -> None:
        schema, path = self._part = part
        if isinstance(schema, bool) or id(schema) in self.rules:
            return
        if not isinstance(schema, Mapping):
            raise _RefusedError(_located(path, f"must be a schema (an object, true or false), is {_shown(schema)}"))
        rules = self.rules[id(schema)] = []
        self._paths[id(schema)] = path
        self.unchecked += [keyword for keyword in UNCHECKED if keyword in schema]
        for keyword, (types, shape, test) in KEYWORDS.items():
            if keyword in schema:
                self._keyword = keyword
                argument = shape(self, schema[keyword])
                if argument is None:
                    self.unchecked.append(keyword)
                elif test:
                    cost = 1 + (len(argument) if isinstance(argument, list | Mapping) else 0)
                    rules.append(_Rule(types, test, argument, cost))

    def add(self, schema: Schema, *steps: str | int) -> Schema:
        """Note a part of the schema that stands in the argument of the keyword being read."""
        outer, path = self._part
        self._pending.append((schema, (*path, self._keyword, *steps)))
        if self._keyword in {"$ref", "allOf", "anyOf", "oneOf"} and isinstance(schema, Mapping):
            self._same_value.setdefault(id(outer), []).append(id(schema))
        return schema

    def target(self, reference: str) -> Schema:
        """What a reference points to."""
        found = find(reference, self._root)
        if not reference.startswith("#"):
            raise self.refusal(f"{_shown(reference)} points out of the schema; only references into it are followed")
        if not isinstance(found, Mapping | bool):
            raise self.refusal(f"{_shown(reference)} points to nothing, or not to a schema")
        return found

    def refusal(self, text: str) -> _RefusedError:
        return _RefusedError(_located((*self._part[1], self._keyword), text))


# --- a visit ----------------------------------------------------------------------------------------------------------


class _Run:
    """One check of one value: the rules of each part of the schema, and the steps that are left."""

    def __init__(self, rules: Mapping[int, list[_Rule]], max_steps: int) -> None:
        self._rules = rules
        self._steps = max_steps

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _GivenUpError("the schema asks for too many steps on a value of this size")

    def visit(self, value: Any, schema: Schema, path: Path, depth: int) -> Iterator[_Fault]:
        """What is wrong with a value by a part of the schema, found as it is asked for."""
        self.spend(1)
        if depth > _MAX_DEPTH:
            raise _GivenUpError("the schema is nested too deeply on a value of this depth")
        value_type = type_of(value)
        if isinstance(value, float) and not math.isfinite(value):
            yield _Fault(path, lambda: "must be a finite number")
        elif schema is False:
            yield _Fault(path, lambda: "must not be there")
        elif schema is not True:
            at = _Visit(self, value, schema, path, depth)
            for types, test, argument, cost in self._rules[id(schema)]:
                if value_type in types:
                    self.spend(cost)
                    for fault in test(at, argument):
                        self.spend(1)  # on every level that it is handed through
                        yield fault


class _Visit(NamedTuple):
    """A part of the schema applied to a value."""

    run: _Run
    value: Any
    schema: Mapping[str, Any]
    path: Path
    depth: int

    def fault(self, text: Callable[[], str], *, mismatch: str = "", alternatives: Sequence[_Fault] = ()) -> _Fault:
        return _Fault(self.path, text, mismatch, alternatives)

    def into(self, step: str | int, schema: Schema) -> Iterator[_Fault]:
        """Apply a part of the schema to a property or an item."""
        return self.run.visit(self.value[step], schema, (*self.path, step), self.depth + 1)

    def again(self, schema: Schema) -> Iterator[_Fault]:
        """Apply another part to the same value."""
        return self.run.visit(self.value, schema, self.path, self.depth + 1)


_Test: TypeAlias = Callable[[_Visit, Any], Iterable[_Fault]]


def _key(value: Any, spend: Callable[[int], None] = lambda _: None) -> Hashable:
    """Equal for values that are equal in JSON, where 1 is 1.0 and true is not 1."""
    spend(1)
    match value:
        case bool():
            return ("boolean", str(value))
        case Mapping():
            return ("object", frozenset([(name, _key(each, spend)) for name, each in value.items()]))
        case list() | tuple():
            return ("array", tuple([_key(each, spend) for each in value]))
        case _:
            return value  # type: ignore[no-any-return]


# --- the shapes of arguments: a shape returns None for what is not checked -------------------------------------------

_Shape: TypeAlias = Callable[[_Compiler, Any], Any]


def _must_be(wanted: str, accepts: Callable[[Any], bool], read: _Shape = lambda _, argument: argument) -> _Shape:
    """A shape that arguments have or not, and what is made of one."""

    def shape(compiler: _Compiler, argument: Any) -> Any:
        if not accepts(argument):
            raise compiler.refusal(f"must be {wanted}, is {_shown(argument)}")
        return read(compiler, argument)

    return shape


def _is_number(argument: Any) -> bool:
    return type_of(argument) in _NUMBER and (isinstance(argument, int) or math.isfinite(argument))


def _names_types(argument: Any) -> bool:
    names = argument if isinstance(argument, list) else [argument]
    return bool(names) and all(isinstance(name, str) and name in ALL_TYPES for name in names)


def _add_parts(compiler: _Compiler, parts: Any) -> Any:
    for step, schema in parts.items() if isinstance(parts, Mapping) else enumerate(parts):
        compiler.add(schema, step)
    return parts


def _items_shape(compiler: _Compiler, argument: Any) -> Any:
    return _add_parts(compiler, argument) if isinstance(argument, list) else compiler.add(argument)


def _bound(compiler: _Compiler, argument: Any) -> Any:
    return None if isinstance(argument, bool) else _NUMBER_SHAPE(compiler, argument)  # true: as in draft 4


_STRING_SHAPE = _must_be("a string", lambda it: isinstance(it, str))
_NUMBER_SHAPE = _must_be("a number", _is_number)
_DIVISOR = _must_be("a number greater than 0", lambda it: _is_number(it) and it > 0)
_COUNT = _must_be("a whole number from 0 on", lambda it: type_of(it) == "integer" and it >= 0, lambda _, it: int(it))
_FLAG = _must_be("true or false", lambda it: isinstance(it, bool))
_NAMES = _must_be("a list of strings", lambda it: isinstance(it, list) and all(isinstance(name, str) for name in it))
_SCHEMAS = _must_be("a list of schemas", lambda it: isinstance(it, list) and bool(it), _add_parts)
_NAMED_SCHEMAS = _must_be("an object", lambda it: isinstance(it, Mapping), _add_parts)
_REFERENCE = _must_be("a string", lambda it: isinstance(it, str), lambda to, it: to.add(to.target(it)))
_PATTERN = _must_be("a string", lambda it: isinstance(it, str), lambda _, it: (p := read_pattern(it)) and (it, p))
_TYPES = _must_be(
    f"one or more of {_listed(sorted(ALL_TYPES))}",
    _names_types,
    lambda _, it: frozenset(it if isinstance(it, list) else [it]),
)
_CONSTANTS = _must_be(
    "a list of values",
    lambda it: isinstance(it, list) and bool(it),
    lambda _, it: (it, frozenset(map(_key, it))),
)

# --- tests ------------------------------------------------------------------------------------------------------------

_ARTICLES: Final = {"null": "null", "array": "an array", "object": "an object", "integer": "an integer"}


def _described(name: str) -> str:
    return _ARTICLES.get(name, f"a {name}")


def _type(at: _Visit, names: frozenset[str]) -> Iterator[_Fault]:
    actual = type_of(at.value)
    if actual not in names and not (actual == "integer" and "number" in names):
        wanted = " or ".join(_described(name) for name in sorted(names))
        is_small = actual in {"boolean", "integer", "number"} or (actual == "string" and len(at.value) < 20)
        yield at.fault(
            lambda: f"must be {wanted}, is {_shown(at.value) if is_small else _described(actual)}", mismatch="type"
        )


def _enum(at: _Visit, constants: tuple[list[Any], frozenset[Hashable]]) -> Iterator[_Fault]:
    values, keys = constants
    if _key(at.value, at.run.spend) not in keys:
        wanted, mismatch = ("must be one of", "") if len(values) > 1 else ("must be", "constant")
        yield at.fault(lambda: f"{wanted} {_listed(values)}, is {_shown(at.value)}", mismatch=mismatch)


def _all_of(at: _Visit, schemas: list[Schema]) -> Iterator[_Fault]:
    for schema in schemas:
        yield from at.again(schema)


def _any_of(at: _Visit, schemas: list[Schema]) -> Iterable[_Fault]:
    found: list[list[_Fault]] = []
    for schema in schemas:
        found.append(list(islice(at.again(schema), _ENOUGH_FAULTS)))
        if not found[-1]:
            return ()
    return _explain_alternatives(at, found)


def _explain_alternatives(at: _Visit, found: list[list[_Fault]]) -> list[_Fault]:
    """The faults of the alternative that is meant; if that cannot be told, one that names a fault of each."""
    of_type = [each for each in found if not any(fault.mismatch == "type" and fault.path is at.path for fault in each)]
    meant = [
        each
        for each in of_type
        if not any(fault.mismatch == "constant" and len(fault.path) <= len(at.path) + 1 for fault in each)
    ]
    candidates = meant or of_type or found
    if len(candidates) == 1:
        return candidates[0]
    firsts = [
        fault
        for first, *_ in candidates[:_MAX_LISTED]
        for fault in (first.alternatives if first.alternatives and first.path is at.path else [first])
    ]
    at.run.spend(len(firsts))
    mismatch = "" if meant else "constant" if of_type else "type"
    return [at.fault(lambda: "fits none of the alternatives", mismatch=mismatch, alternatives=firsts[:_MAX_LISTED])]


def _multiple_of(at: _Visit, divisor: Any) -> Iterator[_Fault]:
    at.run.spend(sum(number.bit_length() // 64 if isinstance(number, int) else 3 for number in (at.value, divisor)))
    if _exact(at.value) % _exact(divisor):
        yield at.fault(lambda: f"must be a multiple of {_shown(divisor)}, is {_shown(at.value)}")


def _exact(number: Any) -> Fraction:
    """The number as it is written, so that 0.3 is a multiple of 0.1."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _compares(breaks: Callable[[Any, Any], bool], wanted: str) -> _Test:
    def test(at: _Visit, bound: Any) -> Iterator[_Fault]:
        if breaks(at.value, bound):
            yield at.fault(lambda: f"must be {wanted} {_shown(bound)}, is {_shown(at.value)}")

    return test


def _counts(breaks: Callable[[int, int], bool], must: str, noun: str, plural: str) -> _Test:
    or_so = "more" if breaks(0, 1) else "fewer"

    def test(at: _Visit, bound: int) -> Iterator[_Fault]:
        if breaks(len(at.value), bound):
            has = {"have": "has", "hold": "holds"}[must]
            counted = f"{bound} {noun if bound == 1 else plural} or {or_so}"
            yield at.fault(lambda: f"must {must} {counted}, {has} {len(at.value)}")

    return test


def _pattern(at: _Visit, pattern: tuple[str, Matcher]) -> Iterator[_Fault]:
    source, matches = pattern
    if not matches(at.value, at.run.spend):
        yield at.fault(lambda: f"must match the regular expression {source[:_MAX_SHOWN]}, is {_shown(at.value)}")


def _format(at: _Visit, name: str) -> Iterator[_Fault]:
    known = FORMATS.get(name)
    at.run.spend(len(at.value))
    if known is not None and not known.accepts(at.value):
        yield at.fault(lambda: f"must be {known.description}, is {_shown(at.value)}")


def _prefix_items(at: _Visit, schemas: list[Schema]) -> Iterator[_Fault]:
    for index, schema in enumerate(schemas[: len(at.value)]):
        yield from at.into(index, schema)


def _items(at: _Visit, schema: Schema | list[Schema]) -> Iterator[_Fault]:
    if isinstance(schema, list):  # as before draft 2020-12
        yield from _prefix_items(at, schema)
        return
    for index in range(len(at.schema.get("prefixItems", ())), len(at.value)):
        yield from at.into(index, schema)


def _unique_items(at: _Visit, wanted: bool) -> Iterator[_Fault]:
    places: dict[Hashable, int] = {}
    for second, item in enumerate(at.value if wanted else ()):
        first = places.setdefault(_key(item, at.run.spend), second)
        if first != second:
            yield at.fault(partial("must hold no item twice; items {} and {} are equal".format, first, second))
            return


def _properties(at: _Visit, schemas: Mapping[str, Schema]) -> Iterator[_Fault]:
    for name, schema in schemas.items():
        if name in at.value:
            yield from at.into(name, schema)


def _additional_properties(at: _Visit, schema: Schema) -> Iterator[_Fault]:
    if "patternProperties" in at.schema:  # which are not read: any name may be one of them
        return
    named = at.schema.get("properties", {})
    at.run.spend(len(at.value))
    for name in at.value:
        if name in named:
            continue
        if schema is False:
            yield at.fault(partial(_not_allowed, name, named))
        else:
            yield from at.into(name, schema)


def _not_allowed(name: str, named: Mapping[str, Schema]) -> str:
    remedy = f"; the allowed properties are {_listed(named)}" if named else ""
    return f"the property {_shown(name)} is not allowed{remedy}"


def _required(at: _Visit, names: list[str]) -> Iterator[_Fault]:
    for name in names:
        if name not in at.value:
            yield at.fault(partial("{} is missing".format, _shown(name)))


# --- the table --------------------------------------------------------------------------------------------------------


class _Keyword(NamedTuple):
    types: frozenset[str]  # of the values that it speaks of
    shape: _Shape
    test: _Test | None


KEYWORDS: Final[Mapping[str, _Keyword]] = {
    "type": _Keyword(ALL_TYPES, _TYPES, _type),
    "enum": _Keyword(ALL_TYPES, _CONSTANTS, _enum),
    "const": _Keyword(ALL_TYPES, lambda _, it: ([it], frozenset({_key(it)})), _enum),
    "minimum": _Keyword(_NUMBER, _NUMBER_SHAPE, _compares(operator.lt, "at least")),
    "maximum": _Keyword(_NUMBER, _NUMBER_SHAPE, _compares(operator.gt, "at most")),
    "exclusiveMinimum": _Keyword(_NUMBER, _bound, _compares(operator.le, "greater than")),
    "exclusiveMaximum": _Keyword(_NUMBER, _bound, _compares(operator.ge, "less than")),
    "multipleOf": _Keyword(_NUMBER, _DIVISOR, _multiple_of),
    "minLength": _Keyword(_STRING, _COUNT, _counts(operator.lt, "have", "character", "characters")),
    "maxLength": _Keyword(_STRING, _COUNT, _counts(operator.gt, "have", "character", "characters")),
    "pattern": _Keyword(_STRING, _PATTERN, _pattern),
    "format": _Keyword(_STRING, _STRING_SHAPE, _format),
    "minItems": _Keyword(_ARRAY, _COUNT, _counts(operator.lt, "hold", "item", "items")),
    "maxItems": _Keyword(_ARRAY, _COUNT, _counts(operator.gt, "hold", "item", "items")),
    "prefixItems": _Keyword(_ARRAY, _SCHEMAS, _prefix_items),
    "items": _Keyword(_ARRAY, _items_shape, _items),
    "uniqueItems": _Keyword(_ARRAY, _FLAG, _unique_items),
    "required": _Keyword(_OBJECT, _NAMES, _required),
    "properties": _Keyword(_OBJECT, _NAMED_SCHEMAS, _properties),
    "additionalProperties": _Keyword(_OBJECT, _Compiler.add, _additional_properties),
    "minProperties": _Keyword(_OBJECT, _COUNT, _counts(operator.lt, "have", "property", "properties")),
    "maxProperties": _Keyword(_OBJECT, _COUNT, _counts(operator.gt, "have", "property", "properties")),
    "$ref": _Keyword(ALL_TYPES, _REFERENCE, _Visit.again),
    "$defs": _Keyword(ALL_TYPES, _NAMED_SCHEMAS, None),
    "definitions": _Keyword(ALL_TYPES, _NAMED_SCHEMAS, None),
    "allOf": _Keyword(ALL_TYPES, _SCHEMAS, _all_of),
    "anyOf": _Keyword(ALL_TYPES, _SCHEMAS, _any_of),
    "oneOf": _Keyword(ALL_TYPES, _SCHEMAS, _any_of),
}
"""What is checked, in the order in which it is tested."""
