"""What is remembered is right, bounded, and forgotten in time; nothing but the cost shows that there is a cache."""

from __future__ import annotations

import json
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from core_samples import BLIND, CLAUDE, LENIENT, SEEING, Json, assistant, examples, system, tool, user
from hypothesis import given
from hypothesis import strategies as st
from recorded_session import conversations

sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))

import workload

from claude_proxy.core import steps
from claude_proxy.core.aliases import mapping
from claude_proxy.core.messages.content import (
    Document,
    Image,
    MessageParam,
    Text,
    Tool,
    ToolReference,
    ToolResult,
    ToolUse,
)
from claude_proxy.core.messages.conversation import read_message
from claude_proxy.core.messages.json_node import NEW_VERSION, OLD_VERSION, Rules
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.messages.tools import read_tools
from claude_proxy.core.prompt import render
from claude_proxy.core.prompt.render import RenderOptions, describe_system, prepare_message, prepare_text, prepare_tools
from claude_proxy.core.securechat import form
from claude_proxy.errors import InvalidRequest
from claude_proxy.shell.proxy.cache import IDLE, Cache

MB = 1_000_000
WAIT = 30.0  # seconds, after which a test has failed


class Step:
    """A step that counts how often it is run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, *of: object) -> str:
        self.runs += 1
        return f"of {of}"


@pytest.fixture
def step() -> Step:
    return Step()


@pytest.fixture
def cache() -> Cache:
    return Cache(MB, 0.0)


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_step_is_run_once(cache: Cache, step: Step) -> None:
    assert cache.runner("")(step, "a", 1) == cache.runner("")(step, "a", 1) == "of ('a', 1)"
    assert step.runs == 1


def test_steps_arguments_and_owners_are_told_apart(cache: Cache, step: Step) -> None:
    other = Step()
    for of in (("a",), ("b",), ("a", "b"), (("a", "b"),), ("x" * 1000,), ("x" * 1001,), (frozenset({"a"}),)):
        assert cache.runner("")(step, *of) == f"of {of}"
    assert step.runs == 7
    cache.runner("")(other, "a")
    assert other.runs == 1
    for owner in ("one", "another", "one"):
        cache.runner(owner)(step, "a")
    assert step.runs == 9


def test_a_failure_is_not_remembered(cache: Cache) -> None:
    answers = iter([None, "found"])

    def fail_once() -> str:
        if (answer := next(answers)) is None:
            raise InvalidRequest("not yet")
        return answer

    with pytest.raises(InvalidRequest):
        cache.runner("")(fail_once)
    assert cache.runner("")(fail_once) == "found"


def test_none_and_zero_are_remembered_too(cache: Cache) -> None:
    ran: list[object] = []

    def nothing(result: int | None) -> int | None:
        ran.append(result)
        return result

    assert [cache.runner("")(nothing, result) for result in (None, 0, None, 0)] == [None, 0, None, 0]
    assert ran == [None, 0]


def test_keys_hold_no_long_texts(cache: Cache) -> None:
    cache.runner("")(len, "a long text that nobody shall find " * 3)
    cache.runner("")(len, ("a long text that nobody shall find " * 3,))
    assert "nobody" not in repr(cache._entries)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_what_was_asked_for_the_longest_ago_makes_room(cache: Cache, step: Step) -> None:
    cache.runner("")(step, "kept")
    for number in range(10_000):
        cache.runner("")(step, number)
        cache.runner("")(step, "kept")
        assert cache.weight <= MB
    assert step.runs == 10_001
    assert 1_000 < len(cache) < 4_000
    cache.runner("")(step, 9_999)
    assert step.runs == 10_001
    cache.runner("")(step, 0)
    assert step.runs == 10_002


def test_what_takes_more_than_there_is_displaces_nothing(cache: Cache) -> None:
    cache.runner("")("x".__mul__, 10)
    before = cache.weight
    assert len(cache.runner("")("x".__mul__, 2 * MB)) == 2 * MB
    assert (len(cache), cache.weight) == (1, before)


def test_nothing_is_kept_where_there_is_no_room(step: Step) -> None:
    cache = Cache(0, 0.0)
    for _ in range(3):
        cache.runner("")(step, "a")
    assert (step.runs, len(cache), cache.weight) == (3, 0, 0)


def test_the_room_may_be_changed(cache: Cache, step: Step) -> None:
    for number in range(100, 200):
        cache.runner("")(step, number)
    cache.allow(cache.weight // 2)
    assert len(cache) == 50
    cache.runner("")(step, 199)
    assert step.runs == 100, "what was asked for last is kept"
    cache.allow(0)
    assert (len(cache), cache.weight) == (0, 0)
    cache.allow(MB)
    cache.runner("")(step, 1)
    assert len(cache) == 1


def test_what_is_idle_is_dropped(cache: Cache, step: Step) -> None:
    cache.runner("")(step, "idle")
    cache.runner("")(step, "busy")
    cache.expire(IDLE)
    assert len(cache) == 2
    cache.runner("")(step, "busy")
    cache.expire(IDLE + 1)
    assert len(cache) == 1
    assert cache.weight > 0
    cache.runner("")(step, "busy")
    assert step.runs == 2
    cache.expire(2 * IDLE + 2)
    assert (len(cache), cache.weight) == (0, 0)


LARGE: list[Any] = [
    "x" * 100_000,
    "😀" + "x" * 100_000,
    {"x" * 100_000: 1},
    [["x" * 1_000] * 100],
    dict.fromkeys(range(2_000)),
    [None] * 2_000,
    tuple(Text(str(number)) for number in range(1_000)),
    Tool("Run", {}, input_examples=({"a": ["x" * 100_000]},)),
    frozenset(str(number) for number in range(3_000)),
]


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
def test_whatever_takes_much_counts_for_much(cache: Cache, value: Any) -> None:
    cache.runner("")(lambda: value)
    assert cache.weight > 100_000


def test_long_keys_count(cache: Cache) -> None:
    cache.runner("")(len, tuple(range(2_000)))
    assert cache.weight > 100_000


def test_the_weight_is_what_a_session_takes() -> None:
    body = json.dumps(workload.request(300_000)).encode()
    made_of(body, steps.run, "gpt-4.1", armoured=True)  # whatever is made once in a process
    cache = Cache(64 * MB, 0.0)
    tracemalloc.start()
    try:
        made_of(body, cache.runner(""), "gpt-4.1", armoured=True)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 1.3 < cache.weight < taken * 1.5


# --- threads ----------------------------------------------------------------------------------------------------------


def test_what_two_threads_find_out_at_once_counts_once(cache: Cache) -> None:
    both = threading.Barrier(2, timeout=WAIT)

    def meet() -> object:
        both.wait()
        return object()

    with ThreadPoolExecutor(2) as threads:
        one, other = [each.result(WAIT) for each in [threads.submit(cache.runner(""), meet) for _ in range(2)]]
    assert one is not other
    assert len(cache) == 1
    assert cache.runner("")(meet) in {one, other}
    cache.allow(cache.weight - 1)
    assert (len(cache), cache.weight) == (0, 0)


class Guarded(dict[Any, Any]):
    """Entries that are changed under a lock only."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.lock = lock
        self.changes = 0

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes += self.lock.locked()
        assert self.lock.locked()
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        assert self.lock.locked()
        super().__delitem__(key)

    def pop(self, *of: Any) -> Any:
        assert self.lock.locked()
        return super().pop(*of)


def test_what_threads_share_is_changed_under_the_lock(cache: Cache, step: Step) -> None:
    cache._entries = guarded = Guarded(cache._lock)
    for of in ("a", "b", "a"):
        cache.runner("")(step, of)
    assert guarded.changes == 3
    cache.expire(IDLE + 1)
    cache.runner("")(step, "a")
    cache.allow(0)
    assert (len(cache), cache.weight) == (0, 0)


def test_a_step_does_not_keep_others_waiting(cache: Cache, step: Step) -> None:
    done = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(cache.runner(""), partial(done.wait, WAIT))
        cache.runner("")(step, "a")
        cache.expire(0.0)
        done.set()
        assert slow.result(WAIT)


def test_threads_leave_nothing_uncounted() -> None:
    cache = Cache(20_000, 0.0)
    start = threading.Barrier(8, timeout=WAIT)
    interval = sys.getswitchinterval()

    def work(seed: int) -> list[bool]:
        start.wait()
        right = []
        for number in range(2_000):
            wanted = (number * seed) % 60
            right.append(cache.runner("")(str, wanted) == str(wanted))
            if number % 100 == seed:
                cache.expire(number)
                cache.allow(10_000 + number)
        return right

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(work, range(1, 9)))
    finally:
        sys.setswitchinterval(interval)
    assert all(map(all, results))
    assert cache.weight == sum(weight for _, weight, _ in cache._entries.values())
    cache.expire(1e9)
    assert (len(cache), cache.weight) == (0, 0)


# --- with and without a cache -----------------------------------------------------------------------------------------


def made_of(
    body: bytes, run: steps.Runner, alias_name: str, *, armoured: bool, rules: Rules = LENIENT
) -> tuple[Any, ...]:
    """All that a request becomes on its way, or what is said against it."""
    alias = mapping.choose_alias(alias_name, {}).alias
    try:
        request = parse_request(body, rules, run=run)
        prepared = render.prepare(request, alias, armoured=armoured, run=run)
    except InvalidRequest as error:
        return (error.message,)
    fields = form.form_fields(prepared.prompt, token="t", prefix="p", alias=alias, max_tokens=9)
    return request, prepared.prompt, prepared.tokens, fields, prepared.vocabulary.known


def session(size: int) -> Iterator[bytes]:
    """The requests of a session, turn by turn."""
    whole = workload.request(size)
    for end in range(1, len(whole["messages"]) + 1, 2):
        yield json.dumps(whole | {"messages": whole["messages"][:end]}).encode()


def test_a_session_becomes_the_same(cache: Cache) -> None:
    for body in session(150_000):
        plain = made_of(body, steps.run, "gpt-4.1", armoured=True)
        assert made_of(body, cache.runner(""), "gpt-4.1", armoured=True) == plain


@pytest.mark.parametrize("alias", ["gpt-4.1", "claude"])
def test_a_recorded_session_becomes_the_same(alias: str) -> None:
    cache = Cache(64 * MB, 0.0)
    for bodies in conversations():
        for body in [json.dumps(each).encode() for each in bodies[::6]]:
            assert made_of(body, cache.runner(""), alias, armoured=True) == made_of(
                body, steps.run, alias, armoured=True
            )


def test_of_a_turn_only_what_is_new_is_read_and_prepared(cache: Cache) -> None:
    *_, before, last = session(50_000)
    made_of(before, cache.runner(""), "gpt-4.1", armoured=True)
    known = len(cache)
    made_of(last, cache.runner(""), "gpt-4.1", armoured=True)
    assert len(cache) - known == 4  # a call and its result, each read and prepared
    made_of(last, cache.runner(""), "gpt-4.1", armoured=True)
    assert len(cache) - known == 4


def test_a_message_whose_marks_have_moved_is_not_prepared_again(cache: Cache) -> None:
    """Clients mark what is to be cached, and mark something else the next turn."""
    plain = user({"type": "text", "text": "Hi"})
    marked = user({"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}})
    for message in (marked, plain):
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": [message]}).encode()
        made_of(body, cache.runner(""), "gpt-4.1", armoured=True)
    assert len(cache) == 5  # tools, system text, the message read twice and prepared once


def call(tool_use_id: str, name: str, value: Any) -> Json:
    return {"type": "tool_use", "id": tool_use_id, "name": name, "input": {"value": value}}


def result(tool_use_id: str, content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": tool_use_id, "content": content} | more


MARK = {"cache_control": {"type": "ephemeral"}}
REFERENCE = {"type": "tool_reference", "tool_name": "Later"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
FAR_IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
PAPER = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
# Messages that differ in little, in what must not be overlooked.
ROUNDS: list[list[Json]] = [
    [user("Is 5 &lt; 6?")],
    [user({"type": "text", "text": "Is 5 &lt; 6?"} | MARK)],
    [user({"type": "text", "text": "Look:"}, IMAGE)],
    [user({"type": "text", "text": "Look:"}, FAR_IMAGE)],
    [user(PAPER)],
    [assistant({"type": "document", "source": {"type": "text", "data": "plain"}}), user("And?")],
    [user({"type": "text", "text": 5})],
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
def requests(draw: st.DrawFn) -> tuple[bytes, str, bool, Rules]:
    """A request, the model that it is for, whether texts carry an armour, and the rules."""
    rounds = draw(st.lists(st.sampled_from(ROUNDS), min_size=1, max_size=5))
    offers = draw(st.lists(st.sampled_from(OFFERS), max_size=3, unique_by=lambda offer: offer[0]["name"]))
    body: Json = {
        "model": draw(st.sampled_from(["claude-sonnet-4", "another"])),
        "max_tokens": 9,
        "system": draw(st.sampled_from(["", "You help &amp; serve.", "You help &amp; serve. " * 3])),
        "messages": [message for messages in rounds for message in messages],
        "tools": [tool for offer in offers for tool in offer],
    }
    rules = Rules(version=draw(st.sampled_from([OLD_VERSION, NEW_VERSION])))
    return json.dumps(body).encode(), draw(st.sampled_from(["gpt-4o", "claude", "o1"])), draw(st.booleans()), rules


@examples(300)
@given(st.lists(requests(), min_size=2, max_size=6), st.sampled_from([0, 3_000, MB]))
def test_all_that_a_request_becomes_is_the_same(sent: list[tuple[bytes, str, bool, Rules]], capacity: int) -> None:
    cache = Cache(capacity, 0.0)
    for body, alias, armoured, rules in sent:
        plain = made_of(body, steps.run, alias, armoured=armoured, rules=rules)
        assert made_of(body, cache.runner(""), alias, armoured=armoured, rules=rules) == plain


def test_a_tool_is_shown_only_where_it_is_first_referenced(cache: Cache) -> None:
    later = {"name": "Later", "input_schema": {"type": "object"}, "defer_loading": True}
    asked = [assistant(call("a", "One", 1)), user(result("a", [REFERENCE]))]
    body = json.dumps({"model": "m", "max_tokens": 9, "tools": [*OFFERS[0], later], "messages": asked * 2}).encode()
    for _ in range(2):
        turns = made_of(body, cache.runner(""), "gpt-4.1", armoured=True)[1].turns
        assert [turn.text.count("From now on this tool can be called") for turn in turns] == [0, 0, 1, 0, 0]


def test_what_was_let_pass_is_counted_each_time(cache: Cache) -> None:
    message = user({"type": "text", "text": "hello", "surprise": 1})
    offered = OFFERS[0][0] | {"surprise": 1}
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": [message], "tools": [offered]}).encode()
    assert [parse_request(body, run=cache.runner("")).ignored for _ in range(2)] == [2, 2]


def test_a_fault_is_named_where_it_stands_each_time(cache: Cache) -> None:
    fault = user({"type": "text"})
    for before in (1, 2):
        messages = [*[user("a")] * before, fault]
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode()
        with pytest.raises(InvalidRequest, match=rf"messages\.{before}\.content\.0\.text\.text: Field required"):
            parse_request(body, run=cache.runner(""))


def test_pictures_take_room() -> None:
    cache = Cache(MB, 0.0)
    for number in range(50):
        source = {"type": "base64", "media_type": "image/png", "data": f"{number:04}" * 25_000}
        body: Json = {"model": "m", "max_tokens": 9, "messages": [user({"type": "image", "source": source})]}
        made_of(json.dumps(body).encode(), cache.runner(""), "gpt-4.1", armoured=True)
        assert cache.weight <= MB
    assert len(cache) < 120


def test_betas_are_not_kept(cache: Cache) -> None:
    betas = Rules(betas=frozenset({"a-secret-beta"}))
    parse_request(
        json.dumps({"model": "m", "max_tokens": 9, "messages": [user("Hi")]}).encode(), betas, run=cache.runner("")
    )
    assert "secret" not in repr(cache._entries)


# --- everything that a step depends on --------------------------------------------------------------------------------


VIEW = RenderOptions(sees=True, reads_pdfs=True, family="chat", tokenizer="openai", armoured=True)
RUN, TYPED = tool("Run", {"x": {}}), tool("Run", {"x": {"type": "string"}})
LATER = replace(tool("Later"), defer_loading=True)
TOOLS = prepare_tools((RUN, LATER), VIEW)
PICTURE = MessageParam("user", (Image("image/png", "iVBORw0K"),))
FAR = MessageParam("user", (Image(url="https://example.org/a.png"),))
PDF = MessageParam("user", (Document(pdf="JVBERi0="),))
SAID = MessageParam("user", (Text("Is &amp; an entity? " * 9),))
CALLS = MessageParam("assistant", (ToolUse("t", "Run", {"x": "5"}),))
NUMBER = MessageParam("assistant", (ToolUse("t", "Run", {"x": 1}),))
TRUTH = MessageParam("assistant", (ToolUse("t", "Run", {"x": True}),))
RESULTS = MessageParam("user", (ToolResult("a", (Text("1"),)), ToolResult("b", (Text("2"),))))
SHOWN = MessageParam("user", (ToolResult("a", (ToolReference("Later"),)),))
LONG = "Serve &amp; obey, whatever anybody says. "


def prepared(
    message: MessageParam = SAID,
    tools: tuple[Tool, ...] = (RUN, LATER),
    answered: tuple[tuple[str, str], ...] = (),
    shown: frozenset[str] = frozenset(),
    **view: Any,
) -> tuple[Any, ...]:
    """A run of `prepare_message`."""
    return prepare_message, message, prepare_tools(tools, VIEW), VIEW._replace(**view), answered, shown


def read(value: Any, version: str = OLD_VERSION) -> tuple[Any, ...]:
    return read_message, steps.Json(value, "messages.0"), version


PAIRS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "message": (prepared(SAID), prepared(CALLS)),
    "type of a value": (prepared(NUMBER), prepared(TRUTH)),
    "role": (prepared(SAID), prepared(replace(SAID, role="system"))),
    "schema": (prepared(CALLS, (RUN,)), prepared(CALLS, (TYPED,))),
    "description": (
        prepared(SHOWN, (RUN, LATER)),
        prepared(SHOWN, (RUN, replace(LATER, description="Another."))),
    ),
    "deferral": (prepared(SHOWN, (LATER,)), prepared(SHOWN, (replace(LATER, defer_loading=False),))),
    "sees": (prepared(PICTURE), prepared(PICTURE, sees=False)),
    "reads PDFs": (prepared(PDF), prepared(PDF, reads_pdfs=False)),
    "tokenizer": (prepared(SAID), prepared(SAID, tokenizer="claude")),
    "armour": (prepared(SAID), prepared(SAID, armoured=False)),
    "names of calls": (
        prepared(RESULTS, answered=(("a", "Run"), ("b", "Run"))),
        prepared(RESULTS, answered=(("a", "Run"), ("b", "Go"))),
    ),
    "order of calls": (
        prepared(RESULTS, answered=(("a", "Run"), ("b", "Run"))),
        prepared(RESULTS, answered=(("b", "Run"), ("a", "Run"))),
    ),
    "what was shown": (prepared(SHOWN), prepared(SHOWN, shown=frozenset({"Later"}))),
    "value": (read(user("a")), read(user("b"))),
    "type in JSON": (read(assistant(call("a", "One", 1))), read(assistant(call("a", "One", True)))),
    "tools": (
        (read_tools, steps.Json(OFFERS[0], "tools"), OLD_VERSION, "m"),
        (read_tools, steps.Json(OFFERS[1], "tools"), OLD_VERSION, "m"),
    ),
    "tools of a toolbox": ((prepare_tools, (RUN,), VIEW), (prepare_tools, (RUN, TYPED), VIEW)),
    "armour of a toolbox": (
        (prepare_tools, (replace(RUN, description="&amp;"),), VIEW),
        (prepare_tools, (replace(RUN, description="&amp;"),), VIEW._replace(armoured=False)),
    ),
    "tokenizer of a toolbox": (
        (prepare_tools, (RUN,), VIEW),
        (prepare_tools, (RUN,), VIEW._replace(tokenizer="claude")),
    ),
    "side of a text": ((prepare_text, "user", LONG, VIEW), (prepare_text, "assistant", LONG, VIEW)),
    "text": ((prepare_text, "user", LONG, VIEW), (prepare_text, "user", LONG + LONG, VIEW)),
    "armour of a text": (
        (prepare_text, "user", LONG, VIEW),
        (prepare_text, "user", LONG, VIEW._replace(armoured=False)),
    ),
    "tokenizer of a text": (
        (prepare_text, "user", LONG, VIEW),
        (prepare_text, "user", LONG, VIEW._replace(tokenizer="claude")),
    ),
    "system text": ((describe_system, (LONG,), VIEW), (describe_system, (LONG, LONG), VIEW)),
    "armour of the system text": (
        (describe_system, (LONG,), VIEW),
        (describe_system, (LONG,), VIEW._replace(armoured=False)),
    ),
}


def shape(result: Any) -> Any:
    """What can be compared of a result."""
    return (result.tools, result.described) if isinstance(result, render.PreparedTools) else result


def exactly(result: Any) -> str:
    return repr(shape(result))  # which tells 1 from True


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("first", [0, 1])
def test_nothing_that_a_step_depends_on_is_overlooked(
    cache: Cache, pair: tuple[tuple[Any, ...], tuple[Any, ...]], first: int
) -> None:
    results = [exactly(step(*of)) for step, *of in pair]
    assert results[0] != results[1], "the pair shows nothing"
    for place in (first, 1 - first, first):
        assert exactly(cache.runner("")(*pair[place])) == results[place]


REFUSED: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "family": (prepared(FAR), prepared(FAR, family="claude")),
    "version": (
        read(assistant({"type": "document", "source": {"type": "text", "data": "a"}})),
        read(assistant({"type": "document", "source": {"type": "text", "data": "a"}}), NEW_VERSION),
    ),
}


@pytest.mark.parametrize(("taken", "refused"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_refused_although_its_like_was_taken(
    cache: Cache, taken: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    cache.runner("")(*taken)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            cache.runner("")(*refused)


@pytest.mark.parametrize("alias", [CLAUDE, SEEING, BLIND], ids=lambda alias: alias.name)
def test_the_view_is_all_that_the_steps_see_of_an_alias(alias: mapping.Alias) -> None:
    """An alias of another name, window and limit gives the same prompt: nothing of that stands in a key."""
    request = parse_request(json.dumps({"model": "m", "max_tokens": 9, "messages": [user("Hi")]}).encode())
    other = replace(alias, name="other", window=1, max_output=1)
    assert render.prepare(request, alias, armoured=True).prompt == render.prepare(request, other, armoured=True).prompt


def test_every_step_is_among_those_that_are_tried(cache: Cache) -> None:
    *_, body = session(50_000)
    made_of(body, cache.runner(""), "gpt-4.1", armoured=True)
    ran = {key[1] for key in cast("dict[tuple[Any, ...], object]", cache._entries)}
    assert ran == {step for (step, *_), _ in PAIRS.values()}
