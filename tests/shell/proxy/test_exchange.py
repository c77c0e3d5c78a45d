"""The product on one screen: what is asked of REDCap for a request, and the message made of its answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from conftest import NOTHING, PATIENCE, TOKEN, Redcap, message_request

from claude_proxy.core.aliases import tokens
from claude_proxy.core.messages.content import Message, Text, ToolUse
from claude_proxy.core.messages.response import message_json
from claude_proxy.demo.simulator import ModelReply, Received
from claude_proxy.errors import ModelNeverAnswered, ModelOverloaded, PromptTooLong, ProxyError
from claude_proxy.settings.table import Settings
from claude_proxy.shell.proxy.exchange import Exchange, PreparedRequest, new_id
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.wait.waiter import Waiter

TOOL = {
    "name": "Write",
    "description": "Writes a file.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}, "mode": {"type": "integer"}}},
}
TWO_CALLS = (
    "On it.\n<function_calls>\n"
    '<invoke name="Write">\n<parameter name="path">/a</parameter>\n<parameter name="mode">6</parameter>\n</invoke>\n'
    '<invoke name="Write">\n<parameter name="path">/b</parameter>\n</invoke>\n'
    "</function_calls>"
)

Ask: TypeAlias = Callable[..., Message]


def prepared(exchange: Exchange, changes: Mapping[str, Any] = NOTHING) -> PreparedRequest:
    return exchange.prepare(message_request(changes))


@pytest.fixture
def start(redcap: Redcap) -> Iterator[Callable[..., Exchange]]:
    """Make an exchange with the pretend REDCap, with settings of the test's choosing."""
    upstreams: list[Upstream] = []

    def make(**changes: Any) -> Exchange:
        settings = Settings(redcap.url, **changes)
        upstreams.append(Upstream(replace(settings, connect_timeout=PATIENCE)))
        return Exchange(settings, upstreams[-1])

    yield make
    for upstream in upstreams:
        upstream.close()


@pytest.fixture
def exchange(start: Callable[..., Exchange]) -> Exchange:
    return start()


def ask(exchange: Exchange, changes: Mapping[str, Any] = NOTHING) -> Message:
    outcome: Any = exchange.ask(prepared(exchange, changes), TOKEN, "msg_1", Waiter(limit=PATIENCE))
    message: Message = getattr(outcome, "message", outcome)
    return message


# --- What is sent -----------------------------------------------------------------------------------------------------


def sent(redcap: Redcap, exchange: Exchange, **changes: Any) -> Received:
    redcap.queue("Yes.")
    ask(exchange, changes)
    return redcap.requests[-1]


def test_the_form(redcap: Redcap, exchange: Exchange) -> None:
    received = sent(redcap, exchange, system="Be brief.")
    fields = dict(received.fields)
    assert json.loads(fields.pop("messages")) == [{"role": "user", "content": "Is the patient in bed 7 better?"}]
    assert fields.pop("system").startswith("Be brief.\n\n")
    assert fields == {
        "token": TOKEN,
        "content": "externalModule",
        "prefix": "secure_chat_ai",
        "action": "messages",
        "format": "json",
        "returnFormat": "json",
        "model": "claude",
        "max_tokens": "1000",
    }
    assert received.headers["content-type"].startswith("multipart/form-data; boundary=")


def test_sampling_parameters_are_passed_on(redcap: Redcap, exchange: Exchange) -> None:
    fields = sent(redcap, exchange, temperature=0.25, top_p=1).fields
    assert (fields["temperature"], fields["top_p"]) == ("0.25", "1")


def test_the_prefix_is_a_setting(redcap: Redcap, start: Callable[..., Exchange]) -> None:
    redcap.prefix = "chat_ai"
    assert sent(redcap, start(redcap_module_prefix="chat_ai")).fields["prefix"] == "chat_ai"


@pytest.mark.parametrize(("model", "limit"), [("claude-sonnet-4", "8192"), ("o1", "100000"), ("gpt-4.1", "32768")])
def test_no_more_tokens_are_asked_for_than_the_alias_can_write(
    redcap: Redcap, exchange: Exchange, model: str, limit: str
) -> None:
    """A reasoning model refuses a larger number, and Claude Code asks for 128,000."""
    assert sent(redcap, exchange, model=model, max_tokens=128_000).fields["max_tokens"] == limit


def test_the_map_decides_who_answers(redcap: Redcap, start: Callable[..., Exchange]) -> None:
    exchange = start(model_map={"claude-opus-*": "o3-mini"})
    assert sent(redcap, exchange, model="claude-opus-5").fields["model"] == "o3-mini"
    assert sent(redcap, exchange, model="claude-haiku-9").fields["model"] == "gpt-4o"


@pytest.mark.parametrize(("decodes", "read"), [(True, "int *p = &amp;sum;"), (False, "int *p = &sum;")])
def test_the_armour_is_a_setting(redcap: Redcap, start: Callable[..., Exchange], decodes: bool, read: str) -> None:
    redcap.decode_entities = decodes
    redcap.queue("The line is:\n" + read)
    changes = {"messages": [{"role": "user", "content": "int *p = &sum;"}]}
    message = ask(start(redcap_decodes_entities=decodes), changes)
    assert redcap.asked[-1].messages[-1]["content"] == read
    assert message.content == (Text("The line is:\nint *p = &sum;"),)


# --- What comes back --------------------------------------------------------------------------------------------------


def test_a_message(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue(ModelReply("Much better.", 40, 3))
    message = ask(exchange, {"model": "claude-sonnet-4[1m]"})
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "claude-sonnet-4[1m]", "end_turn")
    assert message.content == (Text("Much better."),)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (40, 3)


def test_tokens_that_nobody_counted_are_estimated(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue(ModelReply("Much better.", 0, 0))
    usage = ask(exchange).usage
    assert usage.input_tokens == prepared(exchange).input_tokens
    assert usage.output_tokens == tokens.estimate(["Much better."])


def test_calls(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue(TWO_CALLS, TWO_CALLS)
    messages = [ask(exchange, {"tools": [TOOL]}) for _ in range(2)]
    for message in messages:
        assert message.stop_reason == "tool_use"
        text, first, second = message.content
        assert text == Text("On it.")
        assert isinstance(first, ToolUse)
        assert isinstance(second, ToolUse)
        assert (first.name, first.input) == ("Write", {"path": "/a", "mode": 6})
        assert (second.name, second.input) == ("Write", {"path": "/b"})
    ids = [block.id for message in messages for block in message.content if isinstance(block, ToolUse)]
    assert len(set(ids)) == 4
    assert all(tool_use_id.startswith("toolu_") for tool_use_id in ids)


def test_one_call_where_only_one_is_allowed(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue(TWO_CALLS)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = ask(exchange, {"tools": [TOOL], "tool_choice": choice})
    assert [type(block) for block in message.content] == [Text, ToolUse]


def test_a_reply_that_the_alias_has_cut_says_so(redcap: Redcap, exchange: Exchange) -> None:
    """SecureChatAI calls it `end_turn`, and calls `max_tokens` what is not."""
    redcap.queue(ModelReply("And so", 40, 8_192), ModelReply("That is all.", 40, 2_000))
    assert ask(exchange, {"max_tokens": 8_000}).stop_reason == "max_tokens"
    assert ask(exchange, {"max_tokens": 8_000}).stop_reason == "end_turn"


THOUGHT = "<think>\nHm.\n</think>\nYes."
THINKING: list[tuple[str, Any, str, list[tuple[str, str]]]] = [
    # what is asked, thinking, the reply, the kinds and texts of the blocks
    ("not at all", None, THOUGHT, [("text", "Yes.")]),
    ("disabled", {"type": "disabled"}, THOUGHT, [("text", "Yes.")]),
    ("between tools", {"type": "between_tools"}, THOUGHT, [("text", "Yes.")]),
    ("enabled", {"type": "enabled", "budget_tokens": 1024}, THOUGHT, [("thinking", "Hm."), ("text", "Yes.")]),
    ("adaptive", {"type": "adaptive"}, THOUGHT, [("thinking", "Hm."), ("text", "Yes.")]),
    ("hidden", {"type": "adaptive", "display": "omitted"}, THOUGHT, [("thinking", ""), ("text", "Yes.")]),
    ("there is none", {"type": "adaptive"}, "Yes.", [("text", "Yes.")]),
]


@pytest.mark.parametrize(
    ("thinking", "reply", "blocks"), [row[1:] for row in THINKING], ids=[row[0] for row in THINKING]
)
def test_thinking_comes_where_it_is_allowed(
    redcap: Redcap, exchange: Exchange, thinking: Any, reply: str, blocks: list[tuple[str, str]]
) -> None:
    redcap.queue(reply)
    body = message_json(ask(exchange, {"thinking": thinking}))
    assert [(block["type"], block[block["type"]]) for block in body["content"]] == blocks
    assert all(block["signature"] for block in body["content"] if block["type"] == "thinking")


def test_a_model_that_only_thinks_is_not_silenced(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue("<think>Hm.</think>", "<think>Hm, hm.</think>")
    assert ask(exchange).content == (Text("Hm."),)


def test_thinking_is_not_shown_in_place_of_a_text_that_was_stopped(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue("<think>Hm.</think>\nEND")
    message = ask(exchange, {"stop_sequences": ["END"]})
    assert (message.content, message.stop_reason, message.stop_sequence) == ((), "stop_sequence", "END")


def test_what_the_request_asked_about_is_answered(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue("Yes.")
    assert ask(exchange, {"context_management": {"edits": []}}).extras == {"context_management": {"applied_edits": []}}


def test_max_tokens_zero_sends_nothing(redcap: Redcap, exchange: Exchange) -> None:
    message = ask(exchange, {"max_tokens": 0})
    assert (message.content, message.stop_reason) == ((), "max_tokens")
    assert message.usage.input_tokens == prepared(exchange).input_tokens
    assert message.usage.output_tokens == 0
    assert not redcap.requests


def test_ids_are_never_given_twice() -> None:
    ids = {new_id("msg") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(id_.startswith("msg_") for id_ in ids)


# --- What fails -------------------------------------------------------------------------------------------------------


def failure(exchange: Exchange, changes: Mapping[str, Any] = NOTHING) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        ask(exchange, changes)
    return caught.value


@pytest.mark.parametrize(("model", "window"), [("claude-haiku-4-5", 128_000), ("claude-sonnet-4", 200_000)])
def test_a_prompt_beyond_the_window_is_never_sent(redcap: Redcap, exchange: Exchange, model: str, window: int) -> None:
    changes = {"model": model, "messages": [{"role": "user", "content": "word " * 2 * window}]}
    size = prepared(exchange, changes).most_tokens
    error = failure(exchange, changes)
    assert type(error) is PromptTooLong
    assert error.message == f"prompt is too long: {size} tokens > {window} maximum"
    assert type(failure(exchange, {**changes, "max_tokens": 0})) is PromptTooLong
    assert not redcap.requests


def test_an_apology_for_an_alias_that_never_answered_blames_its_name(redcap: Redcap, exchange: Exchange) -> None:
    redcap.aliases = frozenset()
    error = failure(exchange, {"model": "claude-sonnet-4"})
    assert type(error) is ModelNeverAnswered
    for words in ("'claude'", "the built-in table", "MODEL_MAP", "not configured"):
        assert words in error.message


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("claude-sonnet-4", "the built-in table"),
        ("claude-opus-9", "the built-in rule for names like *claude*"),
        ("mapped", "an entry of MODEL_MAP"),
        ("mapped-too", "the pattern 'mapped-*' of MODEL_MAP"),
        ("llama", "the name itself"),
    ],
)
def test_it_names_the_rule_that_chose_the_alias(
    redcap: Redcap, start: Callable[..., Exchange], model: str, rule: str
) -> None:
    redcap.aliases = frozenset()
    exchange = start(model_map={"mapped": "x", "mapped-*": "y"})
    assert rule in failure(exchange, {"model": model}).message


def test_an_apology_for_an_alias_that_has_answered_is_a_passing_fault(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue("Yes.")
    ask(exchange)
    redcap.queue_failure()
    assert type(failure(exchange)) is ModelOverloaded
    redcap.queue_failure()
    assert type(failure(exchange, {"model": "o1"})) is ModelNeverAnswered, (
        "what one alias said proves nothing of another"
    )


def test_the_module_has_tried_three_times_and_so_the_proxy_tries_once(redcap: Redcap, exchange: Exchange) -> None:
    redcap.queue_failure()
    failure(exchange)
    assert len(redcap.requests) == 1


@pytest.mark.parametrize("apology", ["I apologize, but I cannot help with that.", "I apologize, but no."])
def test_a_models_own_apology_is_its_words(redcap: Redcap, exchange: Exchange, apology: str) -> None:
    redcap.queue(ModelReply(apology, 40, 9))
    assert ask(exchange).content == (Text(apology),)


# --- What is kept -----------------------------------------------------------------------------------------------------


def kept(exchange: Exchange) -> int:
    return len(exchange._cache)


def test_a_conversation_is_kept_while_it_goes_on_and_no_longer(exchange: Exchange) -> None:
    now = time.monotonic()
    for seconds in (0, 200, 400):  # never five minutes without a request
        prepared(exchange)
        exchange.forget_idle(now + seconds)
        assert kept(exchange)
    exchange.forget_idle(now + 490)
    assert kept(exchange)
    exchange.forget_idle(now + 701)
    assert not kept(exchange)


def test_nothing_is_kept_where_no_memory_may_be_used_for_it(start: Callable[..., Exchange]) -> None:
    exchange = start(cache_mb=0)
    prepared(exchange)
    assert not kept(exchange)


def test_the_memory_may_be_changed_while_running(exchange: Exchange) -> None:
    prepared(exchange)
    exchange.adopt(replace(exchange.snapshot.settings, cache_mb=0))
    assert not kept(exchange)
    exchange.adopt(replace(exchange.snapshot.settings, cache_mb=1))
    prepared(exchange)
    assert kept(exchange)
