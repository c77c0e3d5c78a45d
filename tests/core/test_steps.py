"""What stands for an argument of a step: alike where the values are, and for no other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from core_samples import examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.messages.content import MessageParam, Text, Tool, ToolUse
from claude_proxy.core.steps import Json, digest, run
from claude_proxy.errors import InvalidRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 0.5]) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(st.text(), st.text())
def test_a_digest_tells_where_a_text_ends(one: str, other: str) -> None:
    assert one == "" or digest(one, other) != digest("", one + other)


@examples(1000)
@given(JSON, JSON)
def test_marks_of_json_are_alike_where_the_json_is(one: Any, other: Any) -> None:
    same = json.dumps(one) == json.dumps(other)
    assert (Json(one, "a").fingerprint == Json(other, "b").fingerprint) == same
    assert Json(one, "").fingerprint == Json(json.loads(json.dumps(one)), "").fingerprint


@examples(300)
@given(JSON, JSON)
def test_marks_of_messages_and_tools_tell_what_equality_does_not(one: Any, other: Any) -> None:
    same = json.dumps(one) == json.dumps(other)
    calls = [MessageParam("assistant", (ToolUse("t", "Run", {"x": value}),)) for value in (one, other)]
    tools = [Tool("Run", {"default": value}) for value in (one, other)]
    assert (calls[0].fingerprint == calls[1].fingerprint) == (tools[0].fingerprint == tools[1].fingerprint) == same


TOOL = Tool("Run", {"type": "object"})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Go"},
        {"input_schema": {}},
        {"description": "Runs."},
        {"defer_loading": True},
        {"strict": True},
        {"input_examples": ({},)},
    ],
)
def test_a_tool_that_differs_in_anything_has_another_mark(change: dict[str, Any]) -> None:
    assert replace(TOOL, **change).fingerprint != TOOL.fingerprint


def test_a_message_that_was_changed_has_another_mark() -> None:
    message = MessageParam("user", (Text("a"),))
    assert (
        len(
            {message.fingerprint, replace(message, content=()).fingerprint, replace(message, role="system").fingerprint}
        )
        == 3
    )


def test_json_that_is_nested_too_deeply_has_no_mark() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        _ = Json(value, "").fingerprint
    while value:  # or taking it apart would recurse
        value = value.pop()


def test_a_step_is_run_each_time() -> None:
    ran: list[int] = []
    assert [run(ran.append, number) for number in (1, 1)] == [None, None]
    assert ran == [1, 1]
