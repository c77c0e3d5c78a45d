"""What is remembered is right, bounded, and forgotten in time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from core_samples import LENIENT, Json, assistant, examples, system, user, write_calls
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import workload

from claude_proxy.core.aliases import mapping, tokens
from claude_proxy.core.calls.call import Call
from claude_proxy.core.calls.writer import CallWriter
from claude_proxy.core.memo import Memo, digest, fingerprint
from claude_proxy.core.messages.content import Tool
from claude_proxy.core.messages.json_node import Rules
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.prompt import render
from claude_proxy.core.securechat import form


def never() -> str:
    raise AssertionError("it is known")


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_finds_a_verdict_once() -> None:
    memo = Memo()
    assert memo.verdict("kind", "text", lambda: "found") == "found"
    assert memo.verdict("kind", "text", never) == "found"


def test_kinds_are_apart() -> None:
    memo = Memo()
    memo.verdict("a", "text", lambda: "a")
    assert memo.verdict("b", "text", lambda: "b") == "b"


@given(st.text(), st.text())
def test_where_the_kind_ends_matters(kind: str, text: str) -> None:
    assert kind == "" or digest(kind, text) != digest("", kind + text)


def test_zero_is_known_too() -> None:
    memo = Memo()
    memo.verdict("kind", "text", lambda: 0)
    assert memo.verdict("kind", "text", lambda: 1) == 0


def test_verdicts_are_bounded() -> None:
    memo = Memo(most_verdicts=10)
    for number in range(1000):
        memo.verdict("kind", str(number), lambda: "found")
    assert len(memo) <= 20


def test_a_verdict_that_is_asked_for_stays() -> None:
    memo = Memo(most_verdicts=10)
    memo.verdict("kind", "dear", lambda: "found")
    for number in range(1000):
        memo.verdict("kind", str(number), lambda: "found")
        assert memo.verdict("kind", "dear", never) == "found"


def test_verdicts_hold_no_text_and_outlive_content() -> None:
    memo = Memo()
    CallWriter({}, memo).write([Call("Secret", {"secret": "secret"})])
    memo.forget_content()
    assert len(memo) == 1
    assert "secret" not in repr(memo._verdicts._young)


# --- content ----------------------------------------------------------------------------------------------------------


def test_finds_content_once() -> None:
    memo = Memo()
    assert memo.content(("kind", "text"), lambda: "found") == "found"
    assert memo.content(("kind", "text"), never) == "found"
    assert memo.content(("other", "text"), lambda: "other") == "other"


def test_content_goes_with_the_second_turn_over() -> None:
    memo = Memo()
    memo.content("key", lambda: "found")
    memo.turn_over()
    assert memo.content("key", never) == "found"
    memo.turn_over()
    assert memo.content("key", never) == "found"  # it was asked for
    memo.turn_over()
    memo.turn_over()
    assert len(memo) == 0


def test_content_has_only_so_much_room() -> None:
    memo = Memo(room=20_000)
    for number in range(1000):
        memo.content(number, lambda: "x" * 1000)
        assert len(memo) <= 20
    assert memo.content(999, never)


def test_what_is_too_large_is_not_kept() -> None:
    memo = Memo(room=20_000)
    memo.content("small", lambda: "x")
    memo.content("large", lambda: "x" * 10_001)
    memo.content("key", lambda: "x", size=10_001)
    assert len(memo) == 1


def test_keeps_no_content_where_there_is_no_room() -> None:
    memo = Memo()
    memo.content("key", lambda: "found")
    memo.allow(0)
    assert len(memo) == 0
    assert memo.content("key", lambda: "again") == "again"
    assert len(memo) == 0


class Thing:
    """Equal to all others of its kind."""

    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_objects_are_told_apart_by_identity() -> None:
    memo = Memo()
    one, other = Thing(), Thing()
    memo.content("key", lambda: "one", of=(one,))
    assert memo.content("key", lambda: "other", of=(other,)) == "other"
    assert memo.content("key", never, of=(one,)) == "one"


def test_no_other_object_is_taken_for_one_that_has_gone() -> None:
    memo = Memo()
    for number in range(100):
        thing = Thing()  # would soon get the id of one before it, were that not held
        assert memo.content("key", partial(str, number), of=(thing,)) == str(number)


def test_the_objects_that_are_held_count() -> None:
    memo = Memo(room=20_000)
    for number in range(100):
        tool = Tool("Text", {"type": "object", "description": "x" * 5000}, description=str(number))
        memo.content("kind", lambda: 1, of=(tool,))
    assert len(memo) <= 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 0.5]) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@examples(1000)
@given(JSON, JSON)
def test_fingerprints_are_alike_where_the_json_is(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (json.dumps(one) == json.dumps(other))
    assert fingerprint(one) == fingerprint(json.loads(json.dumps(one)))


# --- what is made with a memo is what is made without -----------------------------------------------------------------

TOOLS = {
    "Text": Tool("Text", {"type": "object", "properties": {"value": {"type": "string"}}}),
    "Any": Tool("Any", {"type": "object", "properties": {"value": {}}}),
    "Number": Tool("Number", {"type": "object", "properties": {"value": {"type": "number"}}}),
}
VALUES = ("5", 5, 5.0, True, "true", None, "", "\n", " 5", "a\nb", "</parameter>", "<invoke", [5], ["5"], {"a": 1})


@pytest.mark.parametrize("other", [*TOOLS, "Unknown"])
def test_calls_are_written_alike(other: str) -> None:
    memo = Memo()
    calls = [Call(name, {"value": value}) for name in ("Text", other) for value in VALUES]
    plain = [write_calls([call], TOOLS) for call in calls]
    for _ in range(2):  # the second time all is known
        assert [CallWriter(TOOLS, memo).write([call]) for call in calls] == plain


def test_a_tool_of_the_same_name_is_another_one() -> None:
    memo = Memo()
    call = Call("Text", {"value": "5"})
    assert CallWriter(TOOLS, memo).write([call]) == write_calls([call], TOOLS)
    others = {"Text": Tool("Text", TOOLS["Any"].input_schema)}
    assert CallWriter(others, memo).write([call]) == write_calls([call], others) != write_calls([call], TOOLS)


@given(st.lists(st.text()))
def test_estimates_are_alike(texts: list[str]) -> None:
    memo = Memo()
    for tokenizer in ("openai", "claude", "openai"):
        assert tokens.estimate(texts, tokenizer, memo) == tokens.estimate(texts, tokenizer)


def made_of(body: bytes, memo: Memo | None, rules: Rules, alias_name: str, *, armoured: bool) -> tuple[Any, ...]:
    """All that a request becomes on its way."""
    alias = mapping.choose_alias(alias_name, {}).alias
    request = parse_request(body, rules, memo=memo)
    rendered = render.render(request, alias, armoured=armoured, memo=memo)
    estimated = tokens.estimate(rendered.texts, alias.tokenizer, memo)
    fields = form.form_fields(rendered, token="t", prefix="p", alias=alias, max_tokens=9, memo=memo)
    return request, rendered, estimated, fields


def session(size: int) -> Iterator[bytes]:
    """The requests of a session, turn by turn."""
    whole = workload.request(size)
    for end in range(1, len(whole["messages"]) + 1, 2):
        yield json.dumps(whole | {"messages": whole["messages"][:end]}).encode()


def test_a_session_becomes_the_same() -> None:
    memo = Memo()
    for body in session(150_000):
        assert made_of(body, memo, Rules(), "gpt-4.1", armoured=True) == made_of(
            body, None, Rules(), "gpt-4.1", armoured=True
        )


def test_nothing_is_rendered_again() -> None:
    memo = Memo()
    *_, before, last = session(50_000)
    made_of(before, memo, Rules(), "gpt-4.1", armoured=True)
    known = len(memo)
    made_of(last, memo, Rules(), "gpt-4.1", armoured=True)
    # A call and its result are new: each was read, rendered, counted and encoded; so was the reminder behind the last.
    assert len(memo) - known <= 12


def call(tool_use_id: str, name: str, value: Any) -> Json:
    return {"type": "tool_use", "id": tool_use_id, "name": name, "input": {"value": value}}


def result(tool_use_id: str, content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": content} | more


MARK = {"cache_control": {"type": "ephemeral"}}
REFERENCE = {"type": "tool_reference", "tool_name": "Later"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
# Messages that differ in little, in what the memo must not overlook.
ROUNDS: list[list[Json]] = [
    [user("Is 5 &lt; 6?")],
    [user({"type": "text", "text": "Is 5 &lt; 6?"} | MARK)],
    [user({"type": "text", "text": "Look:"}, IMAGE)],
    [system("Be brief.")],
    [{"role": "system", "content": "Be brief.", "clear_at": "next_user_message"}],
    [assistant("No."), user("Why?")],
    *(
        [assistant(call("a", name, value)), user(result("a", content, **more))]
        for name in ("One", "Two")
        for value in (1, 1.0, True, "1")
        for content, more in (("done", {}), ("done", {"is_error": True}), ([REFERENCE], {}))
    ),
    [
        assistant(call("a", "One", 1), call("b", "Two", 2)),
        user(result("b", "second", surprise=1), result("a", "first")),
    ],
    [assistant(call("c", "One", 1)), user(result("d", "of another call"))],
]
OFFERS: list[list[Json]] = [
    [{"name": name, "description": text, "input_schema": {"type": "object", "properties": {"value": schema}}} | more]
    for name in ("One", "Two", "Later")
    for text in ("", "It &amp; that.")
    for schema, more in (({"type": "string"}, {}), ({}, {}), ({"type": "string"}, {"defer_loading": True}))
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, str, bool]:
    """A request, the model that it is for, and whether texts carry an armour."""
    rounds = draw(st.lists(st.sampled_from(ROUNDS), min_size=1, max_size=5))
    offers = draw(st.lists(st.sampled_from(OFFERS), max_size=3, unique_by=lambda offer: offer[0]["name"]))
    body: Json = {
        "model": "claude-sonnet-4",
        "max_tokens": 9,
        "system": draw(st.sampled_from(["", "You help &amp; serve."])),
        "messages": [message for messages in rounds for message in messages],
        "tools": [tool for offer in offers for tool in offer],
    }
    return json.dumps(body).encode(), draw(st.sampled_from(["gpt-4o", "claude", "o1"])), draw(st.booleans())


@pytest.mark.slow
@examples(300)
@given(st.lists(requests(), min_size=2, max_size=6), st.integers(0, 3))
def test_all_that_a_request_becomes_is_the_same(sent: list[tuple[bytes, str, bool]], rare: int) -> None:
    memo = Memo()
    for number, (body, alias, armoured) in enumerate(sent):
        if number % 4 == rare:
            memo.turn_over()
        assert made_of(body, memo, Rules(), alias, armoured=armoured) == made_of(
            body, None, Rules(), alias, armoured=armoured
        )


def test_a_tool_is_shown_only_where_it_is_first_referenced() -> None:
    later = {"name": "Later", "input_schema": {"type": "object"}, "defer_loading": True}
    asked = [assistant(call("a", "One", 1)), user(result("a", [REFERENCE]))]
    body = json.dumps({"model": "m", "max_tokens": 9, "tools": [*OFFERS[0], later], "messages": asked * 2}).encode()
    memo = Memo()
    for _ in range(2):
        turns = made_of(body, memo, Rules(), "gpt-4.1", armoured=True)[1].turns
        assert [turn.text.count("From now on this tool can be called") for turn in turns] == [0, 0, 1, 0, 0]


def test_what_was_let_pass_is_counted_each_time() -> None:
    memo = Memo()
    message = user({"type": "text", "text": "hello", "surprise": 1})
    tool = OFFERS[0][0] | {"surprise": 1}
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": [message], "tools": [tool]}).encode()
    assert [parse_request(body, memo=memo).ignored for _ in range(2)] == [2, 2]


def held(requests: Iterator[Json], room: int, rules: Rules = LENIENT) -> int:
    """How many results are kept of requests."""
    memo = Memo(room=room)
    for request in requests:
        made_of(json.dumps(request).encode(), memo, rules, "gpt-4.1", armoured=True)
    return len(memo._content)


def test_pictures_take_room() -> None:
    def picture(number: int) -> Json:
        source = {"type": "base64", "media_type": "image/png", "data": f"{number:04}" * 25_000}
        return {"model": "m", "max_tokens": 9, "messages": [user({"type": "image", "source": source})]}

    assert held(map(picture, range(50)), 1_000_000) < 20


def test_what_says_nothing_is_not_kept_either_where_there_is_no_room() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    request = {"model": "m", "max_tokens": 9, "messages": [user("Hi"), assistant(thought), user("And?")]}
    assert held(iter([request] * 5), 0) == 0


def test_what_is_kept_holds_no_tools_that_take_too_much_room() -> None:
    memo = Memo(room=20_000)
    tools = [OFFERS[0][0] | {"description": "x" * 15_000}]
    request = {"model": "m", "max_tokens": 9, "tools": tools, "messages": [user("Hi")]}
    made_of(json.dumps(request).encode(), memo, LENIENT, "gpt-4.1", armoured=True)
    held = [each for (result, of), _ in memo._content._young.values() for each in (result, *of)]
    assert held
    assert not [each for each in held if isinstance(each, CallWriter | Tool)]


def test_betas_are_not_kept() -> None:
    memo = Memo()
    betas = Rules(betas=frozenset({"a-secret-beta"}))
    parse_request(json.dumps({"model": "m", "max_tokens": 9, "messages": [user("Hi")]}).encode(), betas, memo=memo)
    assert "secret" not in repr(memo._content._young)


def test_a_tool_that_a_message_brings_is_read_once() -> None:
    definition = {"name": "Added", "input_schema": {"type": "object"}}
    added = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}
    request = {"model": "m", "max_tokens": 9, "messages": [user("Hi"), {"role": "system", "content": [added]}]}
    assert held(iter([request]), 1_000_000) == held(iter([request] * 5), 1_000_000)
