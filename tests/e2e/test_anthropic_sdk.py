"""Anthropic's Python SDK as a client: what it makes of the proxy's messages, streams, models and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anthropic
import pytest
from anthropic.lib.tools import BetaToolRunner, beta_async_tool, beta_tool
from anthropic.tools import BetaLocalFilesystemMemoryTool
from conftest import PROMPT, TOKEN, Proxy, Redcap, StartProxy
from pydantic import BaseModel
from small_files import PDF, PNG

from claude_proxy.demo import pages
from claude_proxy.demo.model import text_of
from claude_proxy.demo.simulator import ModelReply

if TYPE_CHECKING:
    from anthropic.types import MessageParam, ThinkingConfigParam, ToolParam, ToolResultBlockParam
    from anthropic.types.beta import BetaMessageParam

pytestmark = pytest.mark.e2e

FormT = TypeVar("FormT")

MODEL = "claude-sonnet-4"
ASKED: list[MessageParam] = [{"role": "user", "content": PROMPT}]
ADD: ToolParam = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["a", "b"],
    },
}
ADD_2_AND_2 = (
    "Let me see.\n<function_calls>\n"
    '<invoke name="add">\n<parameter name="a">2</parameter>\n<parameter name="b">2</parameter>\n'
    '<parameter name="note">\n2 + 2 &amp;lt; 5\n&& more\n</parameter>\n</invoke>\n'
    "</function_calls>"
)


def sdk(proxy: Proxy, api_key: str = TOKEN) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=api_key, base_url=proxy.url, max_retries=0)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with sdk(proxy) as client:
        yield client


@asynccontextmanager
async def async_sdk(proxy: Proxy) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(auth_token=TOKEN, base_url=proxy.url, max_retries=0) as client:
        yield client


WAYS = ("create", "stream", "async create", "async stream")
"""The SDK has two clients, and each of them two ways to ask: in all four the same comes out."""

in_all_ways = pytest.mark.parametrize("way", WAYS)


def ask(proxy: Proxy, way: str, **changes: Any) -> anthropic.types.Message:
    """Ask for a message; `changes` are fields that differ from a plain request."""
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 1000, "messages": ASKED, **changes}

    async def ask_async() -> anthropic.types.Message:
        async with async_sdk(proxy) as client:
            if way == "async create":
                message: anthropic.types.Message = await client.messages.create(**request)
                return message
            async with client.messages.stream(**request) as stream:
                return await stream.get_final_message()

    if way.startswith("async"):
        return asyncio.run(ask_async())
    with sdk(proxy) as client:
        if way == "create":
            message: anthropic.types.Message = client.messages.create(**request)
            return message
        with client.messages.stream(**request) as stream:
            return stream.get_final_message()


def parse(proxy: Proxy, way: str, form: type[FormT]) -> anthropic.types.ParsedMessage[FormT]:
    """Ask for a document of a form."""

    async def parse_async() -> anthropic.types.ParsedMessage[FormT]:
        async with async_sdk(proxy) as client:
            if way == "async create":
                return await client.messages.parse(model=MODEL, max_tokens=1000, messages=ASKED, output_format=form)
            async with client.messages.stream(
                model=MODEL, max_tokens=1000, messages=ASKED, output_format=form
            ) as stream:
                return await stream.get_final_message()

    if way.startswith("async"):
        return asyncio.run(parse_async())
    with sdk(proxy) as client:
        if way == "create":
            return client.messages.parse(model=MODEL, max_tokens=1000, messages=ASKED, output_format=form)
        with client.messages.stream(model=MODEL, max_tokens=1000, messages=ASKED, output_format=form) as stream:
            return stream.get_final_message()


def texts(message: anthropic.types.Message) -> list[str]:
    return [block.text for block in message.content if block.type == "text"]


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_create(redcap: Redcap, client: anthropic.Anthropic) -> None:
    redcap.queue(ModelReply("Much better.", 40, 3))
    message = client.messages.create(model=MODEL, max_tokens=100, system="Be brief.", messages=ASKED)
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model, message.stop_reason) == (
        "message",
        "assistant",
        MODEL,
        "end_turn",
    )
    (block,) = message.content
    assert block.type == "text"
    assert block.text == "Much better."
    assert (message.usage.input_tokens, message.usage.output_tokens) == (40, 3)
    assert (message._request_id or "").startswith("req_")


def test_a_stream(redcap: Redcap, client: anthropic.Anthropic) -> None:
    text = "".join(f"Line {number}: ä 😀\n" for number in range(300)).strip()
    redcap.queue(ModelReply(text, 40, 900))
    with client.messages.stream(model=MODEL, max_tokens=1000, messages=ASKED) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == text == stream.get_final_text()
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (40, 900)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop(redcap: Redcap, client: anthropic.Anthropic, *, streamed: bool) -> None:
    """What the SDK gives back of a message is what the proxy gets in the next request, extra keys and all."""
    messages = list(ASKED)

    def ask() -> anthropic.types.Message:
        if not streamed:
            return client.messages.create(model=MODEL, max_tokens=100, tools=[ADD], messages=messages)
        with client.messages.stream(model=MODEL, max_tokens=100, tools=[ADD], messages=messages) as stream:
            return stream.get_final_message()

    redcap.queue(ADD_2_AND_2, "It is 4.")
    first = ask()
    assert first.stop_reason == "tool_use"
    text, call = first.content
    assert text.type == "text"
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("add", {"a": 2, "b": 2, "note": "2 + 2 &lt; 5\n&& more"})
    messages.append({"role": "assistant", "content": first.content})
    result: ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "4 &lt; 5"}],
    }
    messages.append({"role": "user", "content": [result]})
    second = ask()
    assert second.content[0].type == "text"
    assert second.content[0].text == "It is 4."
    *_, said, told = [text_of(turn) for turn in redcap.asked[-1].messages]
    assert said == ADD_2_AND_2
    assert '<tool_result name="add">\n4 &amp;lt; 5\n</tool_result>' in told


def test_a_stream_with_thinking_while_the_model_thinks(redcap: Redcap, start_proxy: StartProxy) -> None:
    redcap.queue(ADD_2_AND_2)
    with (
        sdk(start_proxy(stream_delay=0.0)) as client,
        client.messages.stream(
            model=MODEL, max_tokens=100, messages=ASKED, tools=[ADD], thinking={"type": "adaptive"}
        ) as stream,
    ):
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]


def test_count_tokens(redcap: Redcap, client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=ASKED, tools=[ADD])
    redcap.queue("Yes.")
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED, tools=[ADD]) as stream:
        start = next(event for event in stream if event.type == "message_start")
        stream.until_done()
    assert counted.input_tokens == start.message.usage.input_tokens


@in_all_ways
@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}])
def test_thinking_is_shown_where_it_is_allowed(
    redcap: Redcap, proxy: Proxy, way: str, thinking: ThinkingConfigParam
) -> None:
    redcap.queue("<think>\nIs it?\n</think>\n\nIt is better.")
    message = ask(proxy, way, thinking=thinking, max_tokens=2000)
    thought, said = message.content
    assert thought.type == "thinking"
    assert said.type == "text"
    assert thought.thinking == "Is it?"
    assert texts(message) == ["It is better."]


@in_all_ways
def test_thinking_can_be_hidden_or_left_out(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue(*["<think>Is it?</think>It is better."] * 2)
    hidden = ask(proxy, way, thinking={"type": "adaptive", "display": "omitted"})
    thought, said = hidden.content
    assert thought.type == "thinking"
    assert said.type == "text"
    assert thought.thinking == ""
    assert [block.type for block in ask(proxy, way, thinking={"type": "disabled"}).content] == ["text"]


@in_all_ways
def test_a_stop_sequence_ends_the_reply(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue("One, two, three, four")
    message = ask(proxy, way, stop_sequences=["four", ", three"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", three")
    assert texts(message) == ["One, two"]


@in_all_ways
def test_max_tokens_end_the_reply(redcap: Redcap, proxy: Proxy, way: str) -> None:
    text = " ".join(f"word{number}" for number in range(500))
    redcap.queue(text)
    message = ask(proxy, way, max_tokens=20)
    assert message.stop_reason == "max_tokens"
    (cut,) = texts(message)
    assert text.startswith(cut)
    assert 20 < len(cut) < 200


def test_no_tokens_are_no_question(redcap: Redcap, proxy: Proxy) -> None:
    """The real API fills its cache with such a request."""
    for way in ("create", "async create"):
        message = ask(proxy, way, max_tokens=0)
        assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)
    assert not redcap.requests


@in_all_ways
def test_a_reply_goes_on_with_the_clients_beginning(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue("<continuation>\nB) 5 &amp;lt; 6\n</continuation>")
    begun: list[MessageParam] = [*ASKED, {"role": "assistant", "content": "The answer is ("}]
    assert texts(ask(proxy, way, messages=begun)) == ["B) 5 &lt; 6"]
    turns = [(turn["role"], text_of(turn)) for turn in redcap.asked[0].messages]
    assert turns[-2] == ("assistant", "The answer is (")
    assert turns[-1][0] == "user", "no alias is sent a conversation that ends with the assistant"


# --- What is shown to the model ---------------------------------------------------------------------------------------

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
AS_DATA_URL = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}


@in_all_ways
@pytest.mark.parametrize(("model", "part"), [("claude-sonnet-4", IMAGE), ("gpt-4o", AS_DATA_URL)])
def test_an_image_comes_in_the_form_of_the_vendor(
    redcap: Redcap, proxy: Proxy, way: str, model: str, part: dict[str, Any]
) -> None:
    redcap.queue("It is red.")
    question = {"type": "text", "text": "Which colour?"}
    assert texts(ask(proxy, way, model=model, messages=[{"role": "user", "content": [IMAGE, question]}]))
    content = redcap.asked[0].messages[-1]["content"]
    assert content == [part, {"type": "text", "text": "\n\nWhich colour?"}]


@pytest.mark.parametrize(("model", "part"), [("claude-sonnet-4", IMAGE), ("gpt-4o", AS_DATA_URL)])
def test_a_tool_can_show_an_image(redcap: Redcap, proxy: Proxy, model: str, part: dict[str, Any]) -> None:
    redcap.queue("It is red.")
    messages = [
        *ASKED,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [IMAGE]}]},
    ]
    assert texts(ask(proxy, "create", model=model, messages=messages, tools=[ADD]))
    before, shown, behind = redcap.asked[0].messages[-1]["content"]
    assert (before["text"], shown) == ('<tool_result name="add">\n', part)
    assert behind["text"].startswith("\n</tool_result>")


def test_a_model_that_cannot_see_is_told_so(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("I cannot see it.")
    assert texts(ask(proxy, "create", model="o3-mini", messages=[{"role": "user", "content": [IMAGE, DOCUMENT]}]))
    shown = text_of(redcap.asked[0].messages[-1])
    assert "[image (image/png) left out: the model behind this alias cannot see images." in shown
    assert "[PDF document left out: this channel cannot carry it." in shown
    assert PNG not in shown


@in_all_ways
def test_a_pdf_comes_as_it_is(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue("It says that bed 7 is better.")
    assert texts(ask(proxy, way, messages=[{"role": "user", "content": [DOCUMENT]}]))
    assert redcap.asked[0].messages[-1]["content"] == [DOCUMENT]


# --- Documents of a form ----------------------------------------------------------------------------------------------


class Bed(BaseModel):
    number: int
    wards: list[Literal["A", "B"]]
    patient: str | None = None


class Report(BaseModel):
    seen: date
    beds: list[Bed]


def write(**report: object) -> str:
    """A reply with a document, as a model would write it."""
    return f"Here is the report.\n<output>\n{json.dumps(report, indent=2)}\n</output>"


BEDS = [{"number": 7, "wards": ["A"], "patient": "Ann &amp;lt; Bo"}, {"number": 8, "wards": ["A", "B"]}]


@in_all_ways
def test_a_document_of_a_form(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue(write(seen="2026-01-31", beds=BEDS))
    message = parse(proxy, way, Report)
    assert message.parsed_output == Report(
        seen=date(2026, 1, 31),
        beds=[Bed(number=7, wards=["A"], patient="Ann &lt; Bo"), Bed(number=8, wards=["A", "B"])],
    )
    assert message.stop_reason == "end_turn"
    assert len(message.content) == 1
    assert '"additionalProperties":false' in redcap.asked[0].system, "the SDK closes every object"


@in_all_ways
def test_a_document_that_breaks_the_form_is_asked_for_again(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.queue(ModelReply(write(seen="yesterday", beds=[]), 100, 10), ModelReply(write(seen="2026-01-31", beds=[])))
    message = parse(proxy, way, Report)
    assert message.parsed_output == Report(seen=date(2026, 1, 31), beds=[])
    assert message.usage.input_tokens > 100, "the usage of both asks"
    assert "seen" in text_of(redcap.asked[1].messages[-1])


@in_all_ways
@pytest.mark.parametrize("second", ["I cannot.", write(seen=7), write(beds=[]), "<output>{</output>"])
def test_a_document_that_breaks_the_form_for_good_is_an_error(
    redcap: Redcap, proxy: Proxy, way: str, second: str
) -> None:
    redcap.queue("It is better.", second)
    with pytest.raises(anthropic.InternalServerError) as caught:
        parse(proxy, way, Report)
    assert (caught.value.status_code, caught.value.type) == (500, "api_error")
    assert "did not write a document of the requested schema" in caught.value.message


# --- The SDK's own tool loop ------------------------------------------------------------------------------------------


@beta_tool
def plus(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


@beta_async_tool
async def async_plus(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


def call(tool: str, **parameters: object) -> str:
    lines = [f'<parameter name="{name}">{value}</parameter>' for name, value in parameters.items()]
    return "\n".join(["I call.", "<function_calls>", f'<invoke name="{tool}">', *lines, "</invoke>"]) + (
        "\n</function_calls>"
    )


QUESTION: list[BetaMessageParam] = [{"role": "user", "content": PROMPT}]


def test_the_tool_runner(redcap: Redcap, client: anthropic.Anthropic) -> None:
    redcap.queue(call("plus", a=2, b=3), call("plus", a=5, b=6), "It is 11.")
    runner = client.beta.messages.tool_runner(model=MODEL, max_tokens=1000, messages=QUESTION, tools=[plus])
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use", "end_turn"]
    assert '<tool_result name="plus">\n5\n</tool_result>' in text_of(redcap.asked[1].messages[-1])
    assert '<tool_result name="plus">\n11\n</tool_result>' in text_of(redcap.asked[2].messages[-1])


def test_the_streaming_tool_runner(redcap: Redcap, client: anthropic.Anthropic) -> None:
    redcap.queue(call("plus", a=2, b=3), "It is 5.")
    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=1000, messages=QUESTION, tools=[plus], stream=True
    )
    assert [stream.get_final_message().stop_reason for stream in runner] == ["tool_use", "end_turn"]
    assert '<tool_result name="plus">\n5\n</tool_result>' in text_of(redcap.asked[1].messages[-1])


def test_the_async_tool_runner(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(call("async_plus", a=2, b=3), "It is 5.", call("async_plus", a=3, b=4), "It is 7.")

    async def talk() -> list[str | None]:
        async with async_sdk(proxy) as client:
            runner = client.beta.messages.tool_runner(
                model=MODEL, max_tokens=1000, messages=QUESTION, tools=[async_plus]
            )
            reasons: list[str | None] = [message.stop_reason async for message in runner]
            streaming = client.beta.messages.tool_runner(
                model=MODEL, max_tokens=1000, messages=QUESTION, tools=[async_plus], stream=True
            )
            return reasons + [(await stream.get_final_message()).stop_reason async for stream in streaming]

    assert asyncio.run(talk()) == ["tool_use", "end_turn"] * 2
    assert '<tool_result name="async_plus">\n7\n</tool_result>' in text_of(redcap.asked[3].messages[-1])


def test_tools_that_come_and_go(redcap: Redcap, client: anthropic.Anthropic) -> None:
    """They are told of at the end of the conversation: the beginning of the prompt stays as it was."""

    @beta_tool
    def minus(a: int, b: int) -> str:
        """Subtracts."""
        return str(a - b)

    redcap.queue(call("plus", a=2, b=3), call("minus", a=5, b=1), call("plus", a=1, b=1), "I cannot.")
    runner: BetaToolRunner[None] = client.beta.messages.tool_runner(
        model=MODEL,
        max_tokens=1000,
        messages=QUESTION,
        tools=[plus],
        betas=["mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"],
    )
    next(runner)
    runner.add_tools(minus)
    second = next(runner)
    runner.remove_tools("plus")
    third = next(runner)
    assert [block.name for block in second.content if block.type == "tool_use"] == ["minus"]
    assert '<tool_result name="minus">\n4\n</tool_result>' in text_of(redcap.asked[2].messages[-1])
    assert third.stop_reason == "end_turn", "a tool that is gone is not called"
    assert '{"name":"minus","description":"Subtracts."' in text_of(redcap.asked[1].messages[-1])
    assert "[The tool plus can no longer be called.]" in text_of(redcap.asked[2].messages[-1])
    assert len({request.system for request in redcap.asked}) == 1


def test_the_memory_tool(redcap: Redcap, client: anthropic.Anthropic, tmp_path: Path) -> None:
    """Anthropic's models know its schema; others are given it."""
    text = "\nBed 7: 5 &amp;lt; 6\n"
    redcap.queue(
        call("memory", command="create", path="/memories/beds.md", file_text=text),
        call("memory", command="view", path="/memories/beds.md"),
        "I shall remember.",
    )
    memory = BetaLocalFilesystemMemoryTool(str(tmp_path))
    runner = client.beta.messages.tool_runner(model=MODEL, max_tokens=1000, messages=QUESTION, tools=[memory])
    final = runner.until_done()
    assert final.stop_reason == "end_turn"
    assert (tmp_path / "memories" / "beds.md").read_text() == "Bed 7: 5 &lt; 6"
    assert "Bed 7: 5 &amp;lt; 6" in text_of(redcap.asked[2].messages[-1])


# --- Models -----------------------------------------------------------------------------------------------------------


def test_models(client: anthropic.Anthropic) -> None:
    models = list(client.models.list())
    assert MODEL in [model.id for model in models]
    assert len({model.id for model in models}) == len(models), "the list is one page, and knows it"
    for model in models:
        assert model.capabilities is not None
        assert model.capabilities.thinking.types.adaptive.supported
        assert model.created_at.tzinfo is not None
        assert client.models.retrieve(model.id) == model


def test_pages_of_models(proxy: Proxy) -> None:
    with sdk(proxy) as client:
        everything = [model.id for model in client.models.list(limit=1000)]
        first = client.models.list(limit=3)
        assert (len(first.data), first.has_more, first.last_id) == (3, True, first.data[-1].id)
        assert [model.id for model in first] == everything
        second = client.models.list(limit=3, after_id=everything[2])
        assert [model.id for model in second.data] == everything[3:6]
        assert client.models.list(limit=3, before_id=everything[3]).data == first.data

    async def read() -> list[str]:
        async with async_sdk(proxy) as client:
            return [model.id async for model in client.models.list(limit=2)]

    assert asyncio.run(read()) == everything


# --- Errors -----------------------------------------------------------------------------------------------------------


def failure(client: anthropic.Anthropic, *, stream: bool = False, **changes: Any) -> anthropic.APIStatusError:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": ASKED, **changes}

    def ask() -> None:
        if not stream:
            client.messages.create(**request)
            return
        with client.messages.stream(**request) as events:
            events.until_done()

    with pytest.raises(anthropic.APIStatusError) as caught:
        ask()
    error = caught.value
    assert (error.request_id or "").startswith("req_")
    assert TOKEN not in str(error)
    return error


@pytest.mark.parametrize("stream", [False, True])
def test_each_failure_has_its_class(redcap: Redcap, proxy: Proxy, *, stream: bool) -> None:
    with sdk(proxy) as client, sdk(proxy, "wrong") as stranger:
        assert type(failure(stranger, stream=stream)) is anthropic.AuthenticationError
        assert type(failure(client, stream=stream, messages=[])) is anthropic.BadRequestError
        words: list[MessageParam] = [{"role": "user", "content": "word " * 400_000}]
        too_long = failure(client, stream=stream, messages=words)
        assert type(too_long) is anthropic.BadRequestError
        assert "prompt is too long: " in too_long.message
        never = failure(client, stream=stream, model="gtp-4o")
        assert type(never) is anthropic.InternalServerError
        assert (never.status_code, never.type) == (502, "api_error")
        redcap.queue("Yes.")
        client.messages.create(model=MODEL, max_tokens=100, messages=ASKED)
        redcap.queue_failure()
        overloaded = failure(client, stream=stream)
        assert type(overloaded) is anthropic.OverloadedError
        assert (overloaded.status_code, overloaded.type) == (529, "overloaded_error")


def test_what_is_not_there(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("llama-99")
    with pytest.raises(anthropic.NotFoundError, match="Message Batches"):
        client.messages.batches.list()
    with pytest.raises(anthropic.NotFoundError, match="Files are not available"):
        client.beta.files.list()


@in_all_ways
def test_a_limit_of_redcaps_is_passed_on(redcap: Redcap, proxy: Proxy, way: str) -> None:
    redcap.intercept = lambda _: pages.CannedResponse(429, "Slow down.", pages.HTML)
    with pytest.raises(anthropic.RateLimitError) as caught:
        ask(proxy, way)
    assert caught.value.type == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_the_sdk_tries_again_what_may_pass(redcap: Redcap, proxy: Proxy) -> None:
    """The first answer of REDCap is a gateway's; the SDK waits and asks once more."""
    failures = iter([pages.BAD_GATEWAY])
    redcap.intercept = lambda _: next(failures, None)
    redcap.queue("Yes.")
    with anthropic.Anthropic(api_key=TOKEN, base_url=proxy.url, max_retries=1) as client:
        assert texts(client.messages.create(model=MODEL, max_tokens=100, messages=ASKED)) == ["Yes."]
    assert len(redcap.requests) == 2


@in_all_ways
def test_what_only_anthropics_servers_can_do_is_refused_by_name(proxy: Proxy, way: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="web_search_20260209"):
        ask(proxy, way, tools=[{"type": "web_search_20260209", "name": "web_search"}])


def test_what_redcap_did_is_no_fault_of_the_clients(redcap: Redcap, start_proxy: StartProxy) -> None:
    redcap.intercept = lambda _: pages.BAD_GATEWAY
    with sdk(start_proxy()) as client:
        assert type(failure(client)) is anthropic.InternalServerError
    redcap.close()
    with sdk(start_proxy(redcap_api_url=redcap.url)) as client:
        assert failure(client).status_code == 502


def test_a_failure_in_a_stream_is_an_error_too(start_proxy: StartProxy) -> None:
    with sdk(start_proxy(stream_delay=0.0)) as client:
        error = failure(client, stream=True, model="gtp-4o")
    assert (error.status_code, error.type) == (200, "api_error")
    assert "'gtp-4o'" in json.dumps(error.body)


def test_what_cannot_be_helped_is_not_tried_again(redcap: Redcap, proxy: Proxy) -> None:
    with anthropic.Anthropic(api_key=TOKEN, base_url=proxy.url, max_retries=3) as client:
        failure(client, model="gtp-4o")
    assert len(redcap.requests) == 1


# --- Older releases ---------------------------------------------------------------------------------------------------


def test_what_releases_before_2_send(redcap: Redcap, proxy: Proxy) -> None:
    """An `x-api-key`, the older version of the API, and sampling parameters."""
    redcap.queue("Yes.")
    older = {"x-api-key": TOKEN, "anthropic-version": "2023-06-01", "x-stainless-lang": "python"}
    changes = {"temperature": 0.25, "top_p": None, "top_k": 5, "metadata": {"user_id": "u"}, "max_tokens": 100}
    assert proxy.post(changes, headers=older).message["content"][0]["text"] == "Yes."
    assert redcap.asked[0].temperature == 0.25


def test_the_newer_version_has_no_sampling_parameters(proxy: Proxy) -> None:
    newer = {"authorization": f"Bearer {TOKEN}", "anthropic-version": "2026-10-21"}
    response = proxy.post({"temperature": 0.25}, headers=newer)
    assert response.error[:2] == (400, "invalid_request_error")
    assert "temperature" in response.error[2]


def test_the_old_header_of_structured_outputs(redcap: Redcap, proxy: Proxy) -> None:
    """Late releases of 0.x send `output_format` with a beta of its own."""
    redcap.queue('<output>\n{\n"better": true\n}\n</output>')
    schema = {"type": "object", "properties": {"better": {"type": "boolean"}}, "required": ["better"]}
    headers = {**proxy.credential, "anthropic-version": "2023-06-01", "anthropic-beta": "structured-outputs-2025-11-13"}
    response = proxy.post({"output_format": {"type": "json_schema", "schema": schema}}, headers=headers)
    assert json.loads(response.message["content"][0]["text"]) == {"better": True}


# --- Many at once ---------------------------------------------------------------------------------------------------


def test_many_at_once(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(*["Yes."] * 25)

    async def ask(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
            return await stream.get_final_text()

    async def talk() -> list[str]:
        async with async_sdk(proxy) as client:
            return await asyncio.gather(*[ask(client) for _ in range(25)])

    assert asyncio.run(talk()) == ["Yes."] * 25
