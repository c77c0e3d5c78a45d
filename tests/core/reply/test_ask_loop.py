"""The asks of one request, with a model that says what it is told to: what is asked, what is made of the answers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import Alias, describe_alias
from claude_proxy.core.messages.content import ContentBlock, Text, Thinking, ToolUse, Usage
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.messages.response import to_bytes
from claude_proxy.core.prompt.render import Prompt, render
from claude_proxy.core.reply.ask_loop import Ask, AskResult, answer_nothing, ask_for_reply, drive
from claude_proxy.core.reply.read import Reply
from claude_proxy.core.securechat.answer import Answer
from claude_proxy.errors import InvalidDocument, ProxyError, UpstreamTimeout

CLAUDE = describe_alias("claude")  # cut off at 8,192 tokens
SMALL = replace(CLAUDE, window=1_000)
WRITE = {
    "name": "Write",
    "input_schema": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "mode": {"type": "integer", "maximum": 7}},
        "required": ["path"],
    },
}
STRICT_WRITE = {**WRITE, "strict": True}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
DOCUMENT = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}


def written(path: str, mode: int = 6) -> str:
    return (
        f'<function_calls>\n<invoke name="Write">\n<parameter name="path">{path}</parameter>\n'
        f'<parameter name="mode">{mode}</parameter>\n</invoke>\n</function_calls>'
    )


class Model:
    """A model that gives its answers one after the other: texts, with what they cost, or failures."""

    def __init__(self, *answers: str | tuple[str, int, int] | ProxyError, alias: Alias = CLAUDE) -> None:
        self.answers = iter(answers)
        self.alias = alias
        self.asked: list[Prompt] = []
        self.max_tokens = 0

    def send(self, ask: Ask) -> Answer:
        assert ask.number == len(self.asked)
        self.asked.append(ask.prompt)
        self.max_tokens = ask.max_tokens
        answer = next(self.answers)
        if isinstance(answer, ProxyError):
            raise answer
        return Answer(answer, 10, 5) if isinstance(answer, str) else Answer(*answer)

    def ask(self, **fields: Any) -> tuple[Reply, AskResult]:
        messages = [{"role": "user", "content": "Do it."}]
        body = {"model": "m", "max_tokens": 1000, "messages": messages, **fields}
        request = parse_request(to_bytes(body))
        ids = (f"toolu_{number}" for number in itertools.count())
        prompt = render(request, self.alias, armoured=False)
        asked = drive(ask_for_reply(request, self.alias, prompt, lambda: next(ids), armoured=False), self.send)
        return asked.reply, asked


def ended(read: Reply) -> tuple[tuple[ContentBlock, ...], str, str | None]:
    return read.content, read.stop_reason, read.stop_sequence


def test_one_ask() -> None:
    model = Model(("Done.", 40, 3))
    read, asking = model.ask()
    assert ended(read) == ((Text("Done."),), "end_turn", None)
    assert (asking.usage, asking.repairs, asking.continuations, asking.failure) == (Usage(40, 3), 0, 0, None)


@pytest.mark.parametrize(("wanted", "sent"), [(1, 1), (8_192, 8_192), (128_000, 8_192)])
def test_no_more_is_asked_for_than_the_alias_can_write(wanted: int, sent: int) -> None:
    model = Model("Done.")
    model.ask(max_tokens=wanted)
    assert model.max_tokens == sent


def test_the_first_ask_must_succeed() -> None:
    with pytest.raises(UpstreamTimeout):
        Model(UpstreamTimeout("x")).ask()


def test_tokens_that_nobody_counted_are_estimated() -> None:
    model = Model(("Done.", 0, 0))
    usage = model.ask()[1].usage
    assert usage.input_tokens == tokens.estimate(model.asked[0].texts, CLAUDE.tokenizer)
    assert usage.output_tokens == tokens.estimate(["Done."], CLAUDE.tokenizer)


# --- repair -----------------------------------------------------------------------------------------------------------

CALLED = ToolUse("toolu_0", "Write", {"path": "/a", "mode": 6})
SAVE = '<function_calls>\n<invoke name="Save">\n</invoke>\n</function_calls>'

REPAIRED: list[tuple[str, dict[str, Any], str, str, str, list[Any]]] = [
    # what is wrong, fields, the first reply, what the model is told, the second, the content
    ("no such tool", {"tools": [WRITE]}, SAVE, "'Save'", written("/a"), [CALLED]),
    ("empty", {}, "", "the reply is empty", "Here.", [Text("Here.")]),
    ("only thinking", {}, "<think>hm</think>", "the reply is empty", "Here.", [Text("Here.")]),
    (
        "no call where one is demanded",
        {"tools": [WRITE], "tool_choice": {"type": "any"}},
        "I would rather not.",
        "a tool must be called now",
        written("/a"),
        [CALLED],
    ),
    (
        "another tool than the one demanded",
        {"tools": [WRITE, {**WRITE, "name": "Save"}], "tool_choice": {"type": "tool", "name": "Write"}},
        SAVE,
        "'Save'",
        written("/a"),
        [CALLED],
    ),
    (
        "an input that breaks the schema of a strict tool",
        {"tools": [STRICT_WRITE]},
        written("/a", 8),
        "the input of Write breaks its schema: mode",
        written("/a"),
        [replace(CALLED, id="toolu_1")],
    ),
    ("no document", DOCUMENT, "I cannot.", "no JSON document", '<output>{"n": 1}</output>', [Text('{"n": 1}')]),
    (
        "a document that is not valid",
        DOCUMENT,
        '<output>{"n": "one"}</output>',
        "not valid: n",
        '<output>\n{"n": 1}\n</output>',
        [Text('{"n": 1}')],
    ),
]


@pytest.mark.parametrize(
    ("fields", "first", "told", "second", "content"), [row[1:] for row in REPAIRED], ids=[row[0] for row in REPAIRED]
)
def test_a_reply_that_cannot_be_used_is_asked_for_once_more(
    fields: dict[str, Any], first: str, told: str, second: str, content: list[Any]
) -> None:
    model = Model((first, 100, 20), (second, 130, 30))
    read, asking = model.ask(**fields)
    assert list(read.content) == content
    assert (asking.usage, asking.repairs) == (Usage(230, 50), 1)
    shown, demand = model.asked[1].turns[-2:]
    assert shown.text == (first or "(nothing)")
    assert told in demand.text


STANDS: list[tuple[str, dict[str, Any], str, list[Any]]] = [
    ("a call that cannot be read", {"tools": [WRITE]}, f"First.\n{SAVE}", ["First."]),
    ("no call where one is demanded", {"tools": [WRITE], "tool_choice": {"type": "any"}}, "First.", ["First."]),
]


@pytest.mark.parametrize("second", ["Sorry.", UpstreamTimeout("x")], ids=["no better", "failed"])
@pytest.mark.parametrize(("fields", "first", "words"), [row[1:] for row in STANDS], ids=[row[0] for row in STANDS])
def test_the_first_reply_stands_if_the_second_is_no_better(
    fields: dict[str, Any], first: str, words: list[str], second: str | ProxyError
) -> None:
    read, asking = Model(first, second).ask(**fields)
    (text,) = read.content
    assert isinstance(text, Text)
    assert text.text.startswith(words[0])
    assert read.stop_reason == "end_turn"
    assert asking.failure == (None if isinstance(second, str) else "UpstreamTimeout")


def test_a_loose_tool_is_not_held_against_its_schema() -> None:
    model = Model(written("/a", 8))
    assert model.ask(tools=[WRITE])[0].calls == 1
    assert len(model.asked) == 1


# --- structured outputs -----------------------------------------------------------------------------------------------

DOCUMENTS = [
    ("in the tag", 'Here:\n<output>\n{"n": 1}\n</output>', '{"n": 1}'),
    ("in a fence", 'Here:\n```json\n{"n": 1}\n```', '{"n": 1}'),
    ("bare", '{"n": 1}', '{"n": 1}'),
    ("loosely written", "<output>{'n': 1,}</output>", '{"n": 1}'),
]


@pytest.mark.parametrize(("reply", "document"), [row[1:] for row in DOCUMENTS], ids=[row[0] for row in DOCUMENTS])
def test_a_document_is_the_only_text(reply: str, document: str) -> None:
    read, asking = Model(reply).ask(**DOCUMENT)
    assert ended(read) == ((Text(document),), "end_turn", None)
    assert asking.repairs == 0


def test_thinking_stands_before_a_document() -> None:
    read, _ = Model('<think>{"n": 2}</think>\n<output>{"n": 1}</output>').ask(**DOCUMENT)
    thought, text = read.content
    assert isinstance(thought, Thinking)
    assert text == Text('{"n": 1}')


@pytest.mark.parametrize("fields", [DOCUMENT, {}], ids=["no document", "no answer"])
def test_where_there_is_nothing_to_fall_back_on_the_second_failure_is_told(fields: dict[str, Any]) -> None:
    with pytest.raises(UpstreamTimeout):
        Model("I cannot." if fields else "", UpstreamTimeout("x")).ask(**fields)


def test_a_repaired_reply_that_is_cut_off_is_continued() -> None:
    line = "x" * 70
    model = Model(
        "I cannot.",
        (f'<output>\n{{"n":\n"{line}"', 10, 8_192),
        f'<continuation>\n"{line}"}}\n</output>\n</continuation>',
    )
    schema = {"type": "object", "properties": {"n": {"type": "string"}}}
    output = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    read, asking = model.ask(**output, max_tokens=20_000)
    assert asking.continuations == 1
    assert [line in block.text for block in read.content if isinstance(block, Text)] == [True]


def test_a_short_document_is_whole_whatever_was_said_before_it() -> None:
    read, _ = Model(("Well. " * 20 + '<output>{"n": 1}</output>', 10, 120)).ask(**DOCUMENT, max_tokens=50)
    assert ended(read) == ((Text('{"n": 1}'),), "end_turn", None)


def test_thinking_that_nobody_wants_does_not_use_up_the_limit() -> None:
    reply = f"<think>{'I wonder. ' * 200}</think>\nThe answer is 4."
    read, _ = Model((reply, 10, 600)).ask(max_tokens=100)
    assert ended(read) == ((Text("The answer is 4."),), "end_turn", None)


def test_what_was_made_up_behind_the_answer_does_not_use_up_the_limit() -> None:
    reply = "The answer is four.\n\nHuman: thanks\n\nAssistant: " + "And so on. " * 120
    read, _ = Model((reply, 10, 420)).ask(max_tokens=100, tools=[WRITE])
    assert ended(read) == ((Text("The answer is four."),), "end_turn", None)


@pytest.mark.parametrize("second", ["Still not.", '<output>{"n": 0.5}</output>'], ids=["words", "wrong"])
def test_an_invalid_document_is_never_returned(second: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        Model("I cannot.", second).ask(**DOCUMENT)
    assert (caught.value.status, caught.value.type) == (500, "api_error")
    assert "did not write a document of the requested schema" in caught.value.message


def test_a_document_that_was_cut_off_says_so() -> None:
    model = Model(('<output>{"n": 1', 40, 8_192), "What?")
    read, asking = model.ask(**DOCUMENT, max_tokens=9_000)
    assert read.stop_reason == "max_tokens"
    assert asking.repairs == 0


def test_tools_may_be_called_before_the_document_is_written() -> None:
    read, _ = Model(written("/a")).ask(**DOCUMENT, tools=[WRITE])
    assert ended(read) == ((CALLED,), "tool_use", None)


# --- prefill ----------------------------------------------------------------------------------------------------------

PREFILLED = [
    # the beginning, the reply, the text
    ("One,", "<continuation>\ntwo\n</continuation>", "two"),
    ("One,", "<continuation> two</continuation>", " two"),
    ("One, ", "<continuation> two</continuation>", "two"),
    ("One,", "One, two", " two"),
    ("One,", "two", "two"),
]


@pytest.mark.parametrize(("prefill", "reply", "text"), PREFILLED)
def test_a_reply_goes_on_where_the_client_stopped(prefill: str, reply: str, text: str) -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": prefill}]
    read, _ = Model(reply).ask(messages=messages)
    assert ended(read) == ((Text(text),), "end_turn", None)


def test_calls_may_follow_what_was_begun() -> None:
    messages = [{"role": "user", "content": "Do it."}, {"role": "assistant", "content": "I'll"}]
    read, _ = Model(f"<continuation> write.\n</continuation>\n{written('/a')}").ask(messages=messages, tools=[WRITE])
    assert ended(read) == ((Text(" write."), CALLED), "tool_use", None)


# --- continuation -----------------------------------------------------------------------------------------------------

LINES = [f"{number}: the quick brown fox jumps over the lazy dog, {number} times and more" for number in range(9)]
FIRST, REST = "\n".join(LINES[:5]), "\n".join(LINES[4:])
GOES_ON = f"<continuation>\n{REST}\n</continuation>"


def test_a_reply_that_was_cut_off_is_continued() -> None:
    read, asking = Model((FIRST, 10, 8_192), (GOES_ON, 20, 100)).ask(max_tokens=9_000)
    assert ended(read) == ((Text("\n".join(LINES)),), "end_turn", None)
    assert (asking.usage, asking.continuations) == (Usage(30, 8_292), 1)


def test_a_document_is_read_when_it_is_whole() -> None:
    long = "\n".join(f'  "k{number}": "{line}",' for number, line in enumerate(LINES))
    whole = f'<output>\n{{\n{long}\n  "n": 1\n}}\n</output>'
    seam = whole.index('  "k4"')
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    fields = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    model = Model((whole[: seam + 80], 10, 8_192), f"<continuation>\n{whole[seam:]}\n</continuation>")
    read, asking = model.ask(**fields, max_tokens=9_000)
    assert (read.stop_reason, asking.repairs, asking.continuations) == ("end_turn", 0, 1)
    assert read.content == (Text(whole.removeprefix("<output>\n").removesuffix("\n</output>")),)


def test_what_is_whole_stands_if_the_continuation_fails() -> None:
    read, asking = Model((FIRST, 10, 8_192), UpstreamTimeout("x")).ask(max_tokens=9_000)
    assert ended(read) == ((Text(FIRST),), "max_tokens", None)
    assert asking.failure == "UpstreamTimeout"


def test_nothing_is_continued_behind_a_stop_sequence() -> None:
    model = Model((FIRST, 10, 8_192))
    read, _ = model.ask(max_tokens=9_000, stop_sequences=["2: the"])
    assert ended(read) == ((Text("\n".join(LINES[:2]) + "\n"),), "stop_sequence", "2: the")
    assert len(model.asked) == 1


def test_a_window_that_is_full_says_so() -> None:
    model = Model((FIRST, 900, 100), alias=SMALL)
    read, _ = model.ask()
    assert ended(read) == ((Text(FIRST),), "model_context_window_exceeded", None)
    assert len(model.asked) == 1


# --- limits -----------------------------------------------------------------------------------------------------------

WORDS = "word " * 400


def test_a_text_is_cut_to_max_tokens() -> None:
    read, asking = Model((WORDS, 10, 400)).ask(max_tokens=100)
    (text,) = read.content
    assert isinstance(text, Text)
    assert WORDS.startswith(text.text)
    assert 300 < len(text.text) < 700
    assert read.stop_reason == "max_tokens"
    assert asking.usage == Usage(10, 400)


def test_a_call_is_never_cut() -> None:
    read, _ = Model((WORDS + "\n" + written("/a"), 10, 400)).ask(max_tokens=100, tools=[WRITE])
    assert (read.calls, read.stop_reason) == (1, "tool_use")


def test_a_repaired_reply_is_cut_by_what_it_cost_itself() -> None:
    read, _ = Model(("", 10, 60), ("Here I am.", 10, 60)).ask(max_tokens=100)
    assert ended(read) == ((Text("Here I am."),), "end_turn", None)


STOPPED: list[tuple[str, str, list[Any], str]] = [
    ("in the text", "One. END Two.", [Text("One. ")], "stop_sequence"),
    ("before a call", f"One. END\n{written('/a')}", [Text("One. ")], "stop_sequence"),
    ("at the beginning", "END", [], "stop_sequence"),
    ("not in a call", written("/END"), [ToolUse("toolu_0", "Write", {"path": "/END", "mode": 6})], "tool_use"),
    ("not at all", "One.", [Text("One.")], "end_turn"),
]


@pytest.mark.parametrize(("reply", "content", "reason"), [row[1:] for row in STOPPED], ids=[row[0] for row in STOPPED])
def test_a_stop_sequence(reply: str, content: list[Any], reason: str) -> None:
    read, _ = Model(reply).ask(tools=[WRITE], stop_sequences=["END"])
    assert ended(read) == (tuple(content), reason, "END" if reason == "stop_sequence" else None)


def test_a_stop_sequence_counts_before_max_tokens() -> None:
    read, _ = Model(("One. END " + WORDS, 10, 400)).ask(max_tokens=100, stop_sequences=["END"])
    assert ended(read) == ((Text("One. "),), "stop_sequence", "END")


def test_max_tokens_zero_asks_for_nothing() -> None:
    request = parse_request(
        to_bytes(
            {"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "a"}], "context_management": {}}
        )
    )
    message = answer_nothing(request, "msg_1", 7)
    assert (message.content, message.stop_reason, message.usage) == ((), "max_tokens", Usage(7, 0))
    assert message.extras == {"context_management": {"applied_edits": []}}
