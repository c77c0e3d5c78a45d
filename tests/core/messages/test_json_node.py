"""A JSON value and its path: types by name, the words of each fault, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from core_samples import LENIENT, NEW

from claude_proxy.core.messages.json_node import Node, Rules, Tally
from claude_proxy.errors import InvalidRequest


def node(value: Any, rules: Rules = LENIENT) -> Node:
    return Node(value, "a", rules, Tally())


def fault(work: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        work()
    return caught.value.message


READ: list[tuple[str, Callable[[Node], Any], Any, Any]] = [
    ("a string", Node.string, "x", "x"),
    ("an empty string", Node.string, "", ""),
    ("a boolean", Node.boolean, False, False),
    ("an integer", Node.count, 7, 7),
    ("a float without a fraction", Node.count, 1024.0, 1024),
    ("a share", Node.share, 0.5, 0.5),
    ("a whole share", Node.share, 1, 1),
    ("an object", Node.object, {"k": None}, {"k": None}),
    ("a word", lambda each: each.one_of("x", "y"), "y", "y"),
]


@pytest.mark.parametrize(("read", "value", "expected"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_a_value_is_read_as_a_type(read: Callable[[Node], Any], value: Any, expected: Any) -> None:
    assert read(node(value)) == expected


WRONG: list[tuple[Callable[[Node], Any], list[Any], str]] = [
    (Node.string, [1, True, [], {}, None], "a: Input should be a valid string"),
    (Node.boolean, [0, "true", []], "a: Input should be a valid boolean"),
    (Node.count, ["1", 1.5, True, [], float("inf")], "a: Input should be a valid integer"),
    (Node.count, [-1, -1.0], "a: Input should be greater than or equal to 0"),
    (Node.share, ["1", True, {}], "a: Input should be a valid number"),
    (Node.share, [-0.1, 1.1, float("inf")], "a: Input should be between 0 and 1"),
    (Node.object, [[], "x", 1], "a: Input should be a valid dictionary"),
    (Node.items, [{}, "x", 1], "a: Input should be a valid list"),
    (lambda each: each.one_of("x"), ["y"], "a: Input should be 'x'"),
    (lambda each: each.one_of("x", "y"), ["z", ""], "a: Input should be 'x' or 'y'"),
    (lambda each: each.one_of("x", "y", "z"), ["w"], "a: Input should be 'x', 'y' or 'z'"),
    (lambda each: each.require("k"), [{}, {"k": None}], "a.k: Field required"),
    (lambda each: each.allow("k").require("k").string(), [{"k": 1}], "a.k: Input should be a valid string"),
]


@pytest.mark.parametrize(("read", "values", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_a_wrong_value_is_named_with_its_path(read: Callable[[Node], Any], values: list[Any], message: str) -> None:
    for value in values:
        assert fault(lambda value=value: read(node(value))) == message  # type: ignore[misc]


def test_a_path_goes_down_with_keys_indexes_and_tags() -> None:
    top = Node({"messages": [{}, {"content": [{"text": 1}]}]})
    block = top.require("messages").items()[1].require("content").items()[0].tagged("text")
    assert fault(block.require("text").string) == "messages.1.content.0.text.text: Input should be a valid string"


def test_null_counts_as_absent() -> None:
    each = node({"k": None, "l": 1})
    assert each.get("k") is None
    assert each.get("missing") is None
    assert [key for key, _ in each.fields()] == ["l"]


def test_unknown_keys_are_counted() -> None:
    each = node({"k": 1, "x": 1, "y": None})
    assert each.allow("k") is each
    assert each.tally.ignored == 2


def test_which_version_is_new() -> None:
    assert NEW.is_new
    assert not LENIENT.is_new
