"""Whether a value is as a JSON Schema says: draft 2020-12, and what older drafts called otherwise.

Two questions, one walk each. `schema_fault` asks whether a schema can be enforced to the letter; `faults` asks what is
wrong with a value, in sentences a model can act on. `KEYWORDS` is the table behind both: per keyword the types it
speaks of, the shape its argument must have, and the test. A schema is first compiled, which checks the shapes, finds
the targets of the references and reads the patterns; a visit then applies a compiled schema to a value.

Keywords that are not in the table say nothing about validity. `$dynamicRef`, references that leave the schema, and
references that come back to themselves without stepping into the value are refused. Beside a `$ref` the other keywords
count, as they do since draft 2019-09. The formats in `FORMATS` are enforced, all others are remarks.

Schemas and values come from strangers. Steps and depth are bounded, and a value that cannot be checked within the
bounds has a fault: nothing passes unchecked. The steps of `core.patterns` count like all others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote, urldefrag, urljoin

from claude_proxy.core.json_schema import patterns
from claude_proxy.core.json_schema.formats import FORMATS
from claude_proxy.core.json_schema.patterns import Program
from claude_proxy.core.json_schema.types import ALL_TYPES, Schema, type_of

Path: TypeAlias = tuple[str | int, ...]

_MAX_STEPS = 2_000_000  # up to three seconds
_MAX_DEPTH = 200  # of schemas within schemas, as they are applied to a value
_MAX_VALUE_DEPTH = 100
_MAX_PATH = 500  # of a schema within a schema
_ENOUGH_FAULTS = 10  # in one place, to tell what is meant
_MAX_SHOWN = 200  # characters of a value or a name in a sentence
_MAX_LISTED = 20


def schema_fault(schema: Schema) -> str | None:
    """Why a schema cannot be enforced; None if it can.

    Args:
        schema: the schema as the client sent it, decoded from JSON.

    Returns:
        A sentence that begins with the path into the schema, as in `properties.id.pattern: ...`.
    """
    try:
        _compile(schema)
    except _RefusedError as refused:
        return str(refused)
    return None


def faults(value: Any, schema: Schema, *, limit: int = 5) -> list[str]:
    """What is wrong with a value, in the order of the schema's keywords; nothing if it is valid.

    Args:
        value: the value, decoded from JSON.
        schema: a schema in which `schema_fault` finds no fault.
        limit: how many faults are named at most; at least 1.

    Returns:
        Sentences such as `items.0.price: must be a number, is "3"`; without a path if the whole value is meant. A
        value too deep or too costly to check has a fault that says so.

    Raises:
        ValueError: the schema cannot be enforced.
    """
    compiled = _compile(schema)
    run = _Run(compiled, max(limit, _ENOUGH_FAULTS))
    try:
        found = run.check_writable(value) or run.visit(value, schema, (), 0).faults
    except _GivenUpError as given_up:
        return [f"cannot be checked: {given_up}"]
    except RecursionError:  # little was left of the stack when this began
        return ["cannot be checked: it is nested too deeply"]
    return [str(fault) for fault in found[: max(1, limit)]]


class _RefusedError(ValueError):
    """The schema cannot be enforced; the message names the place."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{_written(path)}: {text}" if path else text)


class _GivenUpError(Exception):
    """The bounds were reached."""


class _Fault(NamedTuple):
    path: Path
    text: Callable[[], str]  # most faults are never shown: those of alternatives
    mismatch: str = ""  # what may tell that another alternative is meant: a wrong "type" or a wrong "constant"

    def __str__(self) -> str:
        return f"{_written(self.path)}: {self.text()}" if self.path else self.text()


def _written(path: Path) -> str:
    return ".".join(step if _is_plain(step) else _shown(step) for step in map(str, path))


def _is_plain(step: str) -> bool:
    return len(step) <= _MAX_SHOWN and re.fullmatch(r"[\w$~@/-]+", step) is not None


def _shown(value: Any) -> str:
    text = json.dumps(_sketched(value, 5), ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _sketched(value: Any, depth: int) -> Any:
    """Enough of a value to show it."""
    match value:
        case str():
            return value[: _MAX_SHOWN + 1]
        case Mapping() | list() | tuple() if depth == 0:
            return "…"
        case Mapping():
            return {_sketched(name, 1): _sketched(value[name], depth - 1) for name in islice(value, _MAX_LISTED)}
        case list() | tuple():
            return [_sketched(each, depth - 1) for each in value[:_MAX_LISTED]]
        case _:
            return value


def _listed(values: Collection[Any]) -> str:
    rest = len(values) - _MAX_LISTED
    return ", ".join(map(_shown, islice(values, _MAX_LISTED))) + (f" and {rest} more" if rest > 0 else "")


# --- a schema, compiled -----------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    types: frozenset[str]
    test: _Test
    argument: Any  # as the keyword's shape made it
    cost: int


class _Compiled(NamedTuple):
    rules: dict[int, tuple[_Rule, ...]]  # by the identity of the schema
    targets: dict[int, Schema]  # of references, by the identity of the schema that refers


class _Part(NamedTuple):
    """A schema within the schema, its place, and the URI against which its references count."""

    schema: Schema
    path: Path
    base: str


def _compile(schema: Schema) -> _Compiled:
    compiler = _Compiler(schema)
    compiler.compile()
    return compiler.compiled


class _Compiler:
    """Reads every schema within a schema once; never recursive, since schemas may be deep."""

    def __init__(self, root: Schema) -> None:
        self.compiled = _Compiled({}, {})
        self._pending = [_Part(root, (), "")]
        self._references: list[tuple[_Part, str]] = []
        self._resources: dict[str, Schema] = {"": root}
        self._anchors: dict[tuple[str, str], Schema] = {}
        self._in_place: dict[int, list[_Part]] = {}
        self._patterns = patterns.Compiler()
        self._part = self._pending[0]
        self._keyword = ""

    def compile(self) -> None:
        while self._pending or self._references:
            if self._pending:
                self._read(self._pending.pop())
            else:
                self._resolve(*self._references.pop())
        self._refuse_loops()

    def add(self, schema: Schema, *steps: str | int) -> Schema:
        """Note a schema that stands in the argument of the keyword being read."""
        part = _Part(schema, (*self._part.path, self._keyword, *steps), self._part.base)
        if not isinstance(schema, Mapping | bool):
            raise _RefusedError(part.path, f"must be a schema (an object, true or false), is {_shown(schema)}")
        self._pending.append(part)
        if self._keyword in _IN_PLACE:
            self._in_place.setdefault(id(self._part.schema), []).append(part)
        return schema

    def refer(self, reference: str) -> None:
        """Note a reference, whose target may not have been read yet."""
        self._references.append((self._part, reference))

    def pattern(self, source: str, *steps: str) -> Program:
        """Read a regular expression."""
        try:
            return self._patterns.compile(source)
        except patterns.PatternError as error:
            raise self.refusal(f"{_shown(source)} cannot be enforced: {error}", *steps) from None

    def refusal(self, text: str, *steps: str | int) -> _RefusedError:
        return _RefusedError((*self._part.path, self._keyword, *steps), text)

    def _read(self, part: _Part) -> None:
        schema, path, base = part
        if isinstance(schema, bool) or id(schema) in self.compiled.rules:
            return
        if not isinstance(schema, Mapping):
            raise _RefusedError(path, f"must be a schema (an object, true or false), is {_shown(schema)}")
        if len(path) > _MAX_PATH:
            raise _RefusedError((), f"the schema is nested more than {_MAX_PATH} levels deep")
        self._part = _Part(schema, path, self._named(schema, base))
        rules = []
        for keyword, (types, shape, test) in KEYWORDS.items():
            if keyword in schema:
                self._keyword = keyword
                argument = shape(self, schema[keyword])
                cost = 1 + (len(argument) if isinstance(argument, list | Mapping) else 0)
                rules.append(_Rule(types, test, argument, cost))
        self.compiled.rules[id(schema)] = tuple(rules)

    def _named(self, schema: Mapping[str, Any], base: str) -> str:
        """Enter the names that a schema gives itself; returns its base URI."""
        name = schema.get("$id")
        if isinstance(name, str):
            url, anchor = urldefrag(name)
            if url:
                base = urldefrag(urljoin(base, url)).url
                self._resources.setdefault(base, schema)
            if anchor:
                self._anchors.setdefault((base, anchor), schema)
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(own := schema.get(keyword), str):
                self._anchors.setdefault((base, own), schema)
        return base

    def _resolve(self, part: _Part, reference: str) -> None:
        self._part, self._keyword = part, "$ref"
        url, fragment = (part.base, reference[1:]) if reference.startswith("#") else urldefrag(reference)
        base = urljoin(part.base, url)
        if base not in self._resources:
            raise self.refusal(f"{_shown(reference)} points out of the schema; only references into it are followed")
        target = self._target(self._resources[base], base, unquote(fragment))
        if not isinstance(target, Mapping | bool):
            raise self.refusal(f"{_shown(reference)} points to nothing, or not to a schema")
        self.compiled.targets[id(part.schema)] = target
        found = _Part(target, (*part.path, "$ref"), base)
        self._in_place.setdefault(id(part.schema), []).append(found)
        self._pending.append(found)

    def _target(self, resource: Schema, base: str, fragment: str) -> Schema | None:
        if fragment and not fragment.startswith("/"):
            return self._anchors.get((base, fragment))
        node = resource
        for step in fragment.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and key in node:
                node = node[key]
            elif isinstance(node, list) and re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(node):
                node = node[int(key)]
            else:
                return None
        return node

    def _refuse_loops(self) -> None:
        """Refuse schemas that apply themselves to the same value again."""
        done: set[int] = set()
        for start in list(self._in_place):
            trail: list[tuple[int, Iterator[_Part]]] = [(start, iter(self._in_place[start]))]
            on_trail = {start}
            while trail:
                here, parts = trail[-1]
                part = next((part for part in parts if id(part.schema) not in done), None)
                if part is None:
                    trail.pop()
                    on_trail.discard(here)
                    done.add(here)
                    continue
                there = id(part.schema)
                if there in on_trail and not isinstance(part.schema, bool):
                    raise _RefusedError(part.path, "leads back to itself without a step into the value")
                trail.append((there, iter(self._in_place.get(there, ()))))
                on_trail.add(there)


# --- a visit ----------------------------------------------------------------------------------------------------------


class _Run:
    """One check of one value: the bounds, and what all visits share."""

    def __init__(self, compiled: _Compiled, limit: int) -> None:
        self.compiled = compiled
        self.limit = limit
        self._steps = _MAX_STEPS

    def spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _GivenUpError("the schema asks for too many steps on a value of this size")

    def check_writable(self, value: Any) -> list[_Fault]:
        """The numbers that JSON cannot hold; gives up on values that are too deep."""
        found = []
        pending: list[tuple[Any, Path]] = [(value, ())]
        while pending:
            each, path = pending.pop()
            self.spend(1)
            if len(path) > _MAX_VALUE_DEPTH:
                raise _GivenUpError(f"it is nested more than {_MAX_VALUE_DEPTH} levels deep")
            if isinstance(each, Mapping):
                pending += [(inner, (*path, name)) for name, inner in each.items()]
            elif isinstance(each, list | tuple):
                pending += [(inner, (*path, index)) for index, inner in enumerate(each)]
            elif isinstance(each, float) and not math.isfinite(each):
                found.append(_Fault(path, lambda: "must be a finite number"))
        return found

    def visit(self, value: Any, schema: Schema, path: Path, depth: int) -> _Visit:
        """Apply a schema to a value."""
        self.spend(1)
        if depth > _MAX_DEPTH:
            raise _GivenUpError("the schema is nested too deeply on a value of this depth")
        visit = _Visit(self, value, schema, path, depth)
        if isinstance(schema, bool):
            if not schema:
                visit.fault(lambda: "must not be there")
            return visit
        value_type = type_of(value)
        for types, test, argument, cost in self.compiled.rules[id(schema)]:
            if value_type in types:
                self.spend(cost)
                test(visit, argument)
                if len(visit.faults) >= self.limit:
                    break
        return visit

    def key(self, value: Any) -> Hashable:
        """Equal for values that are equal in JSON, where 1 is 1.0 and true is not 1."""
        self.spend(1)
        return _key(value, self.key)

    def matches(self, program: Program, text: str) -> bool:
        return patterns.Matcher(program, text, self.spend).search()


class _Visit:
    """One schema applied to one value: what was found wrong, and which properties or items were looked at."""

    __slots__ = ("depth", "faults", "path", "run", "schema", "seen", "value")

    def __init__(self, run: _Run, value: Any, schema: Schema, path: Path, depth: int) -> None:
        self.run = run
        self.value = value
        self.schema = schema
        self.path = path
        self.depth = depth
        self.faults: list[_Fault] = []
        self.seen: set[str | int] = set()

    @property
    def valid(self) -> bool:
        return not self.faults

    @property
    def full(self) -> bool:
        """Whether enough faults have been found."""
        return len(self.faults) >= self.run.limit

    def fault(self, text: Callable[[], str], *, mismatch: str = "") -> None:
        self.faults.append(_Fault(self.path, text, mismatch))

    def into(self, step: str | int, schema: Schema) -> None:
        """Apply a schema to a property or an item."""
        self.seen.add(step)
        self.faults += self.run.visit(self.value[step], schema, (*self.path, step), self.depth + 1).faults

    def again(self, schema: Schema) -> _Visit:
        """Apply another schema to the same value, without taking over what it finds."""
        return self.run.visit(self.value, schema, self.path, self.depth + 1)

    def take(self, other: _Visit) -> None:
        """Take over what another schema found in the same value."""
        self.faults += other.faults
        if other.valid:
            self.seen |= other.seen


_Test: TypeAlias = Callable[[_Visit, Any], None]


def _key(value: Any, inner: Callable[[Any], Hashable]) -> Hashable:
    match value:
        case bool():
            return ("boolean", str(value))
        case Mapping():
            return ("object", frozenset([(name, inner(each)) for name, each in value.items()]))
        case list() | tuple():
            return ("array", tuple([inner(each) for each in value]))
        case _:
            return value  # type: ignore[no-any-return]


def _constant(value: Any) -> Hashable:
    return _key(value, _constant)


# --- the shapes of arguments ------------------------------------------------------------------------------------------


def _a_schema(compiler: _Compiler, argument: Any) -> Schema:
    return compiler.add(argument)


def _schemas(compiler: _Compiler, argument: Any) -> list[Schema]:
    if not isinstance(argument, list) or not argument:
        raise compiler.refusal(f"must be a list of schemas, is {_shown(argument)}")
    return [compiler.add(schema, index) for index, schema in enumerate(argument)]


def _schema_or_schemas(compiler: _Compiler, argument: Any) -> Schema | list[Schema]:
    if isinstance(argument, list):
        return [compiler.add(schema, index) for index, schema in enumerate(argument)]
    return compiler.add(argument)


def _named_schemas(compiler: _Compiler, argument: Any) -> Mapping[str, Schema]:
    for name, schema in _an_object(compiler, argument).items():
        compiler.add(schema, name)
    return argument  # type: ignore[no-any-return]


def _an_object(compiler: _Compiler, argument: Any) -> Mapping[str, Any]:
    if not isinstance(argument, Mapping):
        raise compiler.refusal(f"must be an object, is {_shown(argument)}")
    return argument


def _names(compiler: _Compiler, argument: Any) -> list[str]:
    if not isinstance(argument, list) or not all(isinstance(name, str) for name in argument):
        raise compiler.refusal(f"must be a list of strings, is {_shown(argument)}")
    return argument


def _named_names(compiler: _Compiler, argument: Any) -> Mapping[str, list[str]]:
    return {name: _names(compiler, names) for name, names in _an_object(compiler, argument).items()}


def _names_or_schemas(compiler: _Compiler, argument: Any) -> Mapping[str, Any]:
    for name, each in _an_object(compiler, argument).items():
        if isinstance(each, list):
            _names(compiler, each)
        else:
            compiler.add(each, name)
    return argument  # type: ignore[no-any-return]


def _types(compiler: _Compiler, argument: Any) -> frozenset[str]:
    names = argument if isinstance(argument, list) else [argument]
    if not names or not all(isinstance(name, str) and name in ALL_TYPES for name in names):
        raise compiler.refusal(f"must be one or more of {_listed(sorted(ALL_TYPES))}, is {_shown(argument)}")
    return frozenset(names)


def _constants(compiler: _Compiler, argument: Any) -> tuple[list[Any], frozenset[Hashable]]:
    if not isinstance(argument, list) or not argument:
        raise compiler.refusal(f"must be a list of values, is {_shown(argument)}")
    return argument, frozenset([_comparable(compiler, value) for value in argument])


def _one_constant(compiler: _Compiler, argument: Any) -> tuple[Any, Hashable]:
    return argument, _comparable(compiler, argument)


def _comparable(compiler: _Compiler, value: Any) -> Hashable:
    level = [value]
    for _ in range(_MAX_VALUE_DEPTH):
        level = [inner for each in level for inner in _within(each)]
        if not level:
            return _constant(value)
    raise compiler.refusal(f"is nested more than {_MAX_VALUE_DEPTH} levels deep")


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _number(compiler: _Compiler, argument: Any) -> int | float:
    if type_of(argument) not in _NUMBER or (isinstance(argument, float) and not math.isfinite(argument)):
        raise compiler.refusal(f"must be a number, is {_shown(argument)}")
    return argument  # type: ignore[no-any-return]


def _number_or_flag(compiler: _Compiler, argument: Any) -> int | float | bool:
    return argument if isinstance(argument, bool) else _number(compiler, argument)


def _divisor(compiler: _Compiler, argument: Any) -> int | float:
    if _number(compiler, argument) <= 0:
        raise compiler.refusal(f"must be greater than 0, is {_shown(argument)}")
    return argument  # type: ignore[no-any-return]


def _count(compiler: _Compiler, argument: Any) -> int:
    if type_of(argument) != "integer" or argument < 0:
        raise compiler.refusal(f"must be a whole number from 0 on, is {_shown(argument)}")
    return int(argument)


def _flag(compiler: _Compiler, argument: Any) -> bool:
    if not isinstance(argument, bool):
        raise compiler.refusal(f"must be true or false, is {_shown(argument)}")
    return argument


def _string(compiler: _Compiler, argument: Any) -> str:
    if not isinstance(argument, str):
        raise compiler.refusal(f"must be a string, is {_shown(argument)}")
    return argument


def _reference(compiler: _Compiler, argument: Any) -> None:
    compiler.refer(_string(compiler, argument))


def _no_reference(compiler: _Compiler, _argument: Any) -> None:
    raise compiler.refusal("is not supported; write `$ref`")


def _pattern(compiler: _Compiler, argument: Any) -> tuple[str, Program]:
    return argument, compiler.pattern(_string(compiler, argument))


def _pattern_schemas(compiler: _Compiler, argument: Any) -> list[tuple[Program, Schema]]:
    schemas = _an_object(compiler, argument).items()
    return [(compiler.pattern(source, source), compiler.add(schema, source)) for source, schema in schemas]


# --- tests: any value -------------------------------------------------------------------------------------------------

_ARTICLES: Final = {"null": "null", "array": "an array", "object": "an object", "integer": "an integer"}


def _described(name: str) -> str:
    return _ARTICLES.get(name, f"a {name}")


def _type(at: _Visit, names: frozenset[str]) -> None:
    actual = type_of(at.value)
    if actual not in names and not (actual == "integer" and "number" in names):
        wanted = " or ".join(_described(name) for name in sorted(names))
        is_small = actual in {"boolean", "integer", "number"} or (actual == "string" and len(at.value) < 20)
        at.fault(
            lambda: f"must be {wanted}, is {_shown(at.value) if is_small else _described(actual)}", mismatch="type"
        )


def _enum(at: _Visit, constants: tuple[list[Any], frozenset[Hashable]]) -> None:
    values, keys = constants
    if at.run.key(at.value) not in keys:
        mismatch = "constant" if len(values) == 1 else ""
        at.fault(lambda: f"must be one of {_listed(values)}, is {_shown(at.value)}", mismatch=mismatch)


def _const(at: _Visit, constant: tuple[Any, Hashable]) -> None:
    value, key = constant
    if at.run.key(at.value) != key:
        at.fault(lambda: f"must be {_shown(value)}, is {_shown(at.value)}", mismatch="constant")


def _ref(at: _Visit, _: None) -> None:
    at.take(at.again(at.run.compiled.targets[id(at.schema)]))


def _all_of(at: _Visit, schemas: list[Schema]) -> None:
    for schema in schemas:
        at.take(at.again(schema))


def _any_of(at: _Visit, schemas: list[Schema]) -> None:
    visits = [at.again(schema) for schema in schemas]
    for visit in visits:
        if visit.valid:
            at.seen |= visit.seen
    if not any(visit.valid for visit in visits):
        _explain_alternatives(at, visits)


def _one_of(at: _Visit, schemas: list[Schema]) -> None:
    visits = [at.again(schema) for schema in schemas]
    fitting = [index for index, visit in enumerate(visits) if visit.valid]
    if not fitting:
        _explain_alternatives(at, visits)
    elif len(fitting) > 1:
        at.fault(lambda: f"fits the alternatives {_listed(fitting)} of `oneOf`, and must fit exactly one")
    else:
        at.take(visits[fitting[0]])


def _explain_alternatives(at: _Visit, visits: list[_Visit]) -> None:
    """Name the faults of the alternative that is meant, or one fault of each if that cannot be told."""
    meant = [visit for visit in visits if not any(_tells_another(fault, at.path) for fault in visit.faults)]
    of_type = [visit for visit in visits if not any(_has_wrong_type(fault, at.path) for fault in visit.faults)]
    candidates = meant or of_type or visits
    if len(candidates) == 1:
        at.faults += candidates[0].faults
        return
    mismatch = "" if meant else "constant" if of_type else "type"
    at.fault(lambda: f"fits none of the alternatives: {_first_faults(candidates, at.path)}", mismatch=mismatch)


def _first_faults(visits: list[_Visit], path: Path) -> str:
    firsts = [visit.faults[0] for visit in visits[:_MAX_LISTED]]
    return "; or ".join(dict.fromkeys(fault.text() if fault.path == path else str(fault) for fault in firsts))


def _tells_another(fault: _Fault, path: Path) -> bool:
    """Whether the value is of another type, or another constant stands in it or in one of its properties."""
    is_near = len(fault.path) <= len(path) + 1
    return _has_wrong_type(fault, path) or (fault.mismatch == "constant" and is_near)


def _has_wrong_type(fault: _Fault, path: Path) -> bool:
    return fault.mismatch == "type" and fault.path == path


def _not(at: _Visit, schema: Schema) -> None:
    if at.again(schema).valid:
        at.fault(lambda: f"must not fit {_shown(schema)}")


def _if(at: _Visit, schema: Schema) -> None:
    condition = at.again(schema)
    if condition.valid:
        at.seen |= condition.seen
    branch = at.schema.get("then" if condition.valid else "else", True)
    at.take(at.again(branch))


def _nothing(_at: _Visit, _argument: Any) -> None:
    """For keywords that another one reads, and for those that only hold schemas."""


# --- tests: numbers ---------------------------------------------------------------------------------------------------


def _minimum(at: _Visit, least: float) -> None:
    if at.schema.get("exclusiveMinimum") is True:
        _exclusive_minimum(at, least)
    elif at.value < least:
        at.fault(lambda: f"must be at least {_shown(least)}, is {_shown(at.value)}")


def _maximum(at: _Visit, most: float) -> None:
    if at.schema.get("exclusiveMaximum") is True:
        _exclusive_maximum(at, most)
    elif at.value > most:
        at.fault(lambda: f"must be at most {_shown(most)}, is {_shown(at.value)}")


def _exclusive_minimum(at: _Visit, bound: float) -> None:
    if not isinstance(bound, bool) and at.value <= bound:
        at.fault(lambda: f"must be greater than {_shown(bound)}, is {_shown(at.value)}")


def _exclusive_maximum(at: _Visit, bound: float) -> None:
    if not isinstance(bound, bool) and at.value >= bound:
        at.fault(lambda: f"must be less than {_shown(bound)}, is {_shown(at.value)}")


def _multiple_of(at: _Visit, divisor: float) -> None:
    if _exact(at.value) % _exact(divisor) != 0:
        at.fault(lambda: f"must be a multiple of {_shown(divisor)}, is {_shown(at.value)}")


def _exact(number: Any) -> Fraction:
    """The number as it is written, so that 0.3 is a multiple of 0.1."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


# --- tests: strings ---------------------------------------------------------------------------------------------------


def _min_length(at: _Visit, least: int) -> None:
    if len(at.value) < least:
        at.fault(lambda: f"must have {_counted(least, 'character')} or more, has {len(at.value)}")


def _max_length(at: _Visit, most: int) -> None:
    if len(at.value) > most:
        at.fault(lambda: f"must have {_counted(most, 'character')} or fewer, has {len(at.value)}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _matches_pattern(at: _Visit, pattern: tuple[str, Program]) -> None:
    source, program = pattern
    if not at.run.matches(program, at.value):
        at.fault(lambda: f"must match the regular expression {source[:_MAX_SHOWN]}, is {_shown(at.value)}")


def _format(at: _Visit, name: str) -> None:
    known = FORMATS.get(name)
    at.run.spend(len(at.value))
    if known is not None and not known.accepts(at.value):
        at.fault(lambda: f"must be {known.description}, is {_shown(at.value)}")


# --- tests: arrays ----------------------------------------------------------------------------------------------------


def _prefix_items(at: _Visit, schemas: list[Schema]) -> None:
    for index, schema in enumerate(schemas[: len(at.value)]):
        at.into(index, schema)


def _items(at: _Visit, schema: Schema | list[Schema]) -> None:
    if isinstance(schema, list):
        _prefix_items(at, schema)
        if "additionalItems" in at.schema:
            _rest(at, len(schema), at.schema["additionalItems"])
    else:
        _rest(at, len(at.schema.get("prefixItems", ())), schema)


def _rest(at: _Visit, start: int, schema: Schema) -> None:
    for index in range(start, len(at.value)):
        if at.full:
            return
        at.into(index, schema)


def _contains(at: _Visit, schema: Schema) -> None:
    fitting = [index for index in range(len(at.value)) if _item_fits(at, index, schema)]
    at.seen.update(fitting)
    least, most = at.schema.get("minContains", 1), at.schema.get("maxContains", math.inf)
    if len(fitting) < least:
        at.fault(lambda: f"must hold {_counted(least, 'item')} or more that fit {_shown(schema)}, holds {len(fitting)}")
    if len(fitting) > most:
        at.fault(lambda: f"must hold {_counted(most, 'item')} or fewer that fit {_shown(schema)}, holds {len(fitting)}")


def _item_fits(at: _Visit, index: int, schema: Schema) -> bool:
    return at.run.visit(at.value[index], schema, (*at.path, index), at.depth + 1).valid


def _min_items(at: _Visit, least: int) -> None:
    if len(at.value) < least:
        at.fault(lambda: f"must hold {_counted(least, 'item')} or more, holds {len(at.value)}")


def _max_items(at: _Visit, most: int) -> None:
    if len(at.value) > most:
        at.fault(lambda: f"must hold {_counted(most, 'item')} or fewer, holds {len(at.value)}")


def _unique_items(at: _Visit, wanted: bool) -> None:
    places: dict[Hashable, int] = {}
    for index, item in enumerate(at.value if wanted else ()):
        first = places.setdefault(at.run.key(item), index)
        if first != index:
            _fault_of_twins(at, first, index)
            return


def _fault_of_twins(at: _Visit, first: int, second: int) -> None:
    at.fault(lambda: f"must hold no item twice; items {first} and {second} are equal")


def _unevaluated_items(at: _Visit, schema: Schema) -> None:
    at.run.spend(len(at.value))
    for index in range(len(at.value)):
        if index not in at.seen and not at.full:
            at.into(index, schema)


# --- tests: objects ---------------------------------------------------------------------------------------------------


def _properties(at: _Visit, schemas: Mapping[str, Schema]) -> None:
    for name, schema in schemas.items():
        if name in at.value:
            at.into(name, schema)


def _pattern_properties(at: _Visit, schemas: list[tuple[Program, Schema]]) -> None:
    at.run.spend(len(at.value))
    for name in at.value:
        for program, schema in schemas:
            if at.run.matches(program, name):
                at.into(name, schema)


def _additional_properties(at: _Visit, schema: Schema) -> None:
    named = at.schema.get("properties", {})
    programs = [program for program, _ in _prepared(at, "patternProperties")]
    at.run.spend(len(at.value))
    for name in at.value:
        if name not in named and not any(at.run.matches(program, name) for program in programs):
            _extra_property(at, name, schema, named)


def _prepared(at: _Visit, keyword: str) -> list[tuple[Program, Schema]]:
    """The argument of another keyword of the same schema."""
    test = KEYWORDS[keyword].test
    return next((rule.argument for rule in at.run.compiled.rules[id(at.schema)] if rule.test is test), [])


def _extra_property(at: _Visit, name: str, schema: Schema, named: Mapping[str, Schema]) -> None:
    if schema is False:
        remedy = f"; the allowed properties are {_listed(named)}" if named else ""
        at.fault(lambda: f"the property {_shown(name)} is not allowed{remedy}")
        at.seen.add(name)
    elif not at.full:
        at.into(name, schema)


def _unevaluated_properties(at: _Visit, schema: Schema) -> None:
    at.run.spend(len(at.value))
    for name in at.value:
        if name not in at.seen:
            _extra_property(at, name, schema, {})


def _property_names(at: _Visit, schema: Schema) -> None:
    for name in at.value:
        if found := at.run.visit(name, schema, at.path, at.depth + 1).faults:
            _fault_of_name(at, name, found[0])


def _fault_of_name(at: _Visit, name: str, found: _Fault) -> None:
    at.fault(lambda: f"the property name {_shown(name)} is not allowed: {found.text()}")


def _required(at: _Visit, names: list[str]) -> None:
    for name in names:
        if name not in at.value and not at.full:
            _missing(at, name)


def _missing(at: _Visit, name: str, because: str = "") -> None:
    at.fault(lambda: f"{_shown(name)} is missing" + (f", which {_shown(because)} asks for" if because else ""))


def _min_properties(at: _Visit, least: int) -> None:
    if len(at.value) < least:
        at.fault(lambda: f"must have {least} or more properties, has {len(at.value)}")


def _max_properties(at: _Visit, most: int) -> None:
    if len(at.value) > most:
        at.fault(lambda: f"must have {most} or fewer properties, has {len(at.value)}")


def _dependencies(at: _Visit, needed: Mapping[str, Any]) -> None:
    """What a property asks for if it is there: other properties, or a schema for the whole object."""
    for name, need in needed.items():
        if name not in at.value:
            continue
        if not isinstance(need, list):
            at.take(at.again(need))
            continue
        for other in need:
            if other not in at.value:
                _missing(at, other, name)


# --- the table --------------------------------------------------------------------------------------------------------

_Shape: TypeAlias = Callable[[_Compiler, Any], Any]


class _Keyword(NamedTuple):
    types: frozenset[str]  # of the values that it speaks of
    shape: _Shape
    test: _Test


_NUMBER = frozenset({"integer", "number"})
_STRING = frozenset({"string"})
_ARRAY = frozenset({"array"})
_OBJECT = frozenset({"object"})

KEYWORDS: Final[Mapping[str, _Keyword]] = {
    "type": _Keyword(ALL_TYPES, _types, _type),
    "enum": _Keyword(ALL_TYPES, _constants, _enum),
    "const": _Keyword(ALL_TYPES, _one_constant, _const),
    "minimum": _Keyword(_NUMBER, _number, _minimum),
    "maximum": _Keyword(_NUMBER, _number, _maximum),
    "exclusiveMinimum": _Keyword(_NUMBER, _number_or_flag, _exclusive_minimum),
    "exclusiveMaximum": _Keyword(_NUMBER, _number_or_flag, _exclusive_maximum),
    "multipleOf": _Keyword(_NUMBER, _divisor, _multiple_of),
    "minLength": _Keyword(_STRING, _count, _min_length),
    "maxLength": _Keyword(_STRING, _count, _max_length),
    "pattern": _Keyword(_STRING, _pattern, _matches_pattern),
    "format": _Keyword(_STRING, _string, _format),
    "minItems": _Keyword(_ARRAY, _count, _min_items),
    "maxItems": _Keyword(_ARRAY, _count, _max_items),
    "prefixItems": _Keyword(_ARRAY, _schemas, _prefix_items),
    "items": _Keyword(_ARRAY, _schema_or_schemas, _items),
    "additionalItems": _Keyword(_ARRAY, _a_schema, _nothing),
    "contains": _Keyword(_ARRAY, _a_schema, _contains),
    "minContains": _Keyword(_ARRAY, _count, _nothing),
    "maxContains": _Keyword(_ARRAY, _count, _nothing),
    "uniqueItems": _Keyword(_ARRAY, _flag, _unique_items),
    "required": _Keyword(_OBJECT, _names, _required),
    "properties": _Keyword(_OBJECT, _named_schemas, _properties),
    "patternProperties": _Keyword(_OBJECT, _pattern_schemas, _pattern_properties),
    "additionalProperties": _Keyword(_OBJECT, _a_schema, _additional_properties),
    "propertyNames": _Keyword(_OBJECT, _a_schema, _property_names),
    "minProperties": _Keyword(_OBJECT, _count, _min_properties),
    "maxProperties": _Keyword(_OBJECT, _count, _max_properties),
    "dependentRequired": _Keyword(_OBJECT, _named_names, _dependencies),
    "dependentSchemas": _Keyword(_OBJECT, _named_schemas, _dependencies),
    "dependencies": _Keyword(_OBJECT, _names_or_schemas, _dependencies),
    "$ref": _Keyword(ALL_TYPES, _reference, _ref),
    "$dynamicRef": _Keyword(ALL_TYPES, _no_reference, _nothing),
    "$recursiveRef": _Keyword(ALL_TYPES, _no_reference, _nothing),
    "$id": _Keyword(ALL_TYPES, _string, _nothing),
    "$anchor": _Keyword(ALL_TYPES, _string, _nothing),
    "$defs": _Keyword(ALL_TYPES, _named_schemas, _nothing),
    "definitions": _Keyword(ALL_TYPES, _named_schemas, _nothing),
    "allOf": _Keyword(ALL_TYPES, _schemas, _all_of),
    "anyOf": _Keyword(ALL_TYPES, _schemas, _any_of),
    "oneOf": _Keyword(ALL_TYPES, _schemas, _one_of),
    "not": _Keyword(ALL_TYPES, _a_schema, _not),
    "if": _Keyword(ALL_TYPES, _a_schema, _if),
    "then": _Keyword(ALL_TYPES, _a_schema, _nothing),
    "else": _Keyword(ALL_TYPES, _a_schema, _nothing),
    "unevaluatedItems": _Keyword(_ARRAY, _a_schema, _unevaluated_items),
    "unevaluatedProperties": _Keyword(_OBJECT, _a_schema, _unevaluated_properties),
}
"""What is enforced, in the order in which it is tested: what is unevaluated shows only at the end."""

_IN_PLACE = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"},
)
"""The keywords that apply schemas to the same value, as `$ref` does."""
