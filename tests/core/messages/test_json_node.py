"""A JSON value and its path: types by name, the words of each fault, and what strict rules refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from core_samples import LENIENT, NEW, STRICT, strict_with

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
    ("a string that says something", Node.nonempty_string, "x", "x"),
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
    (Node.nonempty_string, [""], "a: String should have at least 1 character"),
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


def test_unknown_keys_are_counted_by_lenient_rules_and_refused_by_strict_ones() -> None:
    lenient = node({"k": 1, "x": 1, "y": None})
    lenient.allow("k")
    assert lenient.tally.ignored == 2
    assert fault(lambda: node({"k": 1, "x": 1}, STRICT).allow("k")) == "a.x: Extra inputs are not permitted"


def test_a_field_of_a_beta_needs_the_beta_by_strict_rules_only() -> None:
    node(1).need_beta("one", "two")
    node(1, strict_with("two")).need_beta("one", "two")
    assert fault(lambda: node(1, strict_with("three")).need_beta("one")) == "a: Extra inputs are not permitted"


CACHE_MARKS: list[tuple[Any, str]] = [
    ("ephemeral", "a.cache_control: Input should be a valid dictionary"),
    ({}, "a.cache_control.type: Field required"),
    ({"type": "forever"}, "a.cache_control.type: Input should be 'ephemeral'"),
    ({"type": "ephemeral", "ttl": "2h"}, "a.cache_control.ttl: Input should be '5m' or '1h'"),
]


@pytest.mark.parametrize(("mark", "message"), CACHE_MARKS, ids=[message for _, message in CACHE_MARKS])
def test_a_cache_mark_is_checked_by_strict_rules_only(mark: Any, message: str) -> None:
    node({"cache_control": mark}).allow("cache_control")
    assert fault(lambda: node({"cache_control": mark}, STRICT).allow("cache_control")) == message


def test_strict_rules_allow_four_cache_marks() -> None:
    for rules, fails in ((LENIENT, False), (STRICT, True)):
        tally = Tally()
        marked = Node({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "a", rules, tally)
        for _ in range(4):
            marked.allow("cache_control")
        if fails:
            assert fault(lambda marked=marked: marked.allow("cache_control")) == (  # type: ignore[misc]
                "A maximum of 4 blocks with cache_control may be provided. Found 5."
            )
        else:
            marked.allow("cache_control")


def test_which_version_is_new() -> None:
    assert NEW.is_new
    assert not LENIENT.is_new
