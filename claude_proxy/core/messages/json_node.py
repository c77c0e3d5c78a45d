"""One JSON value of a request with its path, so that whatever is wrong with it can be named.

A `Node` reads a value as a type and its fields by name; a fault is an `InvalidRequest` with the real API's path and
words. Unknown keys are accepted and counted, since Claude Code adds fields with every release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias, TypeVar, TypeVarTuple, cast

from claude_proxy.core.json_text import TOO_DEEP, is_deeper
from claude_proxy.core.steps import Json, Runner
from claude_proxy.errors import InvalidRequest

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

OLD_VERSION, NEW_VERSION = "2023-06-01", "2026-10-21"

_MAX_ITEMS = 100_000  # as many messages as the real API takes
# Far less than Python can recurse, so that whatever is read can be checked, rendered and written.
_MAX_DEPTH = 199  # of a field, a message or a tool


@dataclass(frozen=True)
class Rules:
    """By which rules a request is read.

    Attributes:
        version: the API version, `OLD_VERSION` or `NEW_VERSION`.
        betas: the values of the `anthropic-beta` header.
    """

    version: str = OLD_VERSION
    betas: frozenset[str] = frozenset()

    @property
    def is_new(self) -> bool:
        """Whether the rules of `NEW_VERSION` hold."""
        return self.version == NEW_VERSION


@dataclass
class Tally:
    """What was tolerated while a request was read.

    Attributes:
        ignored: unknown fields, keys and betas.
        mended: calls without a result, and results without a call.
    """

    ignored: int = 0
    mended: int = 0


@dataclass(slots=True)  # not frozen: there are thousands in a conversation, and those are made three times as fast
class Node:
    """A JSON value and where it stands: dotted, zero-based, with the tag of a union, as in `tools.0.custom.name`."""

    value: Any
    path: str = ""
    rules: Rules = Rules()
    tally: Tally = field(default_factory=Tally)

    def fail(self, message: str) -> NoReturn:
        """Refuse the value."""
        raise InvalidRequest(message, self.path or None)

    def limit_depth(self) -> None:
        """Refuse a value that is nested too deeply."""
        if is_deeper(self.value, _MAX_DEPTH):
            raise InvalidRequest(TOO_DEEP)

    # --- going down ---------------------------------------------------------------------------------------------------

    def tagged(self, tag: str) -> Node:
        """The same value, with the tag of its union on the path."""
        return Node(self.value, f"{self.path}.{tag}", self.rules, self.tally)

    def _child(self, key: str | int, value: Any) -> Node:
        return Node(value, f"{self.path}.{key}" if self.path else str(key), self.rules, self.tally)

    def require(self, key: str) -> Node:
        """A field that must be there.

        Raises:
            InvalidRequest: it is not, or it is null.
        """
        child = self._child(key, self.object().get(key))
        if child.value is None:
            child.fail("Field required")
        return child

    def get(self, key: str) -> Node | None:
        """An optional field; an explicit null counts as absent, as SDKs send it for fields that they echo."""
        value = self.object().get(key)
        return None if value is None else self._child(key, value)

    def items(self) -> list[Node]:
        """The items of an array."""
        if not isinstance(self.value, list):
            self.fail("Input should be a valid list")
        if len(self.value) > _MAX_ITEMS:
            self.fail(f"List should have at most {_MAX_ITEMS} items")
        return [self._child(index, value) for index, value in enumerate(self.value)]

    def fields(self) -> Iterator[tuple[str, Node]]:
        """The fields of an object that are not null."""
        for key, value in self.object().items():
            if value is not None:
                yield key, self._child(key, value)

    def flag(self, key: str) -> bool:
        """An optional boolean field; False where it is absent."""
        field = self.get(key)
        return field is not None and field.boolean()

    def text(self, key: str) -> str:
        """An optional string field; empty where it is absent."""
        field = self.get(key)
        return field.string() if field else ""

    # --- types --------------------------------------------------------------------------------------------------------

    def object(self) -> Mapping[str, Any]:
        """The value as an object."""
        if not isinstance(self.value, dict):
            self.fail("Input should be a valid dictionary")
        return cast("Mapping[str, Any]", self.value)

    def string(self) -> str:
        """The value as a string."""
        if not isinstance(self.value, str):
            self.fail("Input should be a valid string")
        return self.value

    def boolean(self) -> bool:
        """The value as a boolean."""
        if not isinstance(self.value, bool):
            self.fail("Input should be a valid boolean")
        return self.value

    def share(self) -> float:
        """The value as a number from 0 to 1."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.fail("Input should be a valid number")
        if not 0 <= self.value <= 1:
            self.fail("Input should be between 0 and 1")
        return cast("float", self.value)

    def count(self) -> int:
        """The value as an integer from 0; floats without a fraction are taken, as by the real API."""
        integral = isinstance(self.value, int) or (isinstance(self.value, float) and self.value.is_integer())
        if isinstance(self.value, bool) or not integral:
            self.fail("Input should be a valid integer")
        if self.value < 0:
            self.fail("Input should be greater than or equal to 0")
        return int(self.value)

    def one_of(self, *words: str) -> str:
        """The value as one of some words."""
        if self.string() not in words:
            listed = ", ".join(f"'{word}'" for word in words[:-1]) + " or " * (len(words) > 1) + f"'{words[-1]}'"
            self.fail(f"Input should be {listed}")
        return self.string()

    # --- keys ---------------------------------------------------------------------------------------------------------

    def allow(self, *keys: str) -> Node:
        """The same node; other keys than these are counted."""
        self.tally.ignored += sum(key not in keys for key in self.object())
        return self


Read: TypeAlias = tuple[T, int]
"""What a step made of a value, and how many unknown fields and keys it held."""


def read_apart(value: Json, version: str, read: Callable[[Node], T]) -> Read[T]:
    """The body of a step that reads a part of a request.

    Raises:
        InvalidRequest: it breaks the rules of this API version, or is nested too deeply.
    """
    node = Node(value.value, value.path, Rules(version), Tally())
    node.limit_depth()
    return read(node), node.tally.ignored


def run_reading(run: Runner, step: Callable[[Json, str, *Ts], Read[T]], node: Node, *of: *Ts) -> T:
    """What a step reads from a part of a request; what it ignores is counted with the rest."""
    made, ignored = run(step, Json(node.value, node.path), node.rules.version, *of)
    node.tally.ignored += ignored
    return made
