"""Anthropic's Python SDK as a client: what it makes of the proxy's messages, streams, models and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from conftest import PROMPT, TOKEN, Proxy, Redcap, StartProxy

from claude_proxy.shell import simulator as sim
from claude_proxy.shell.simulator import ModelReply, text_of

if TYPE_CHECKING:
    from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam

pytestmark = pytest.mark.e2e

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
    with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
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
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()


def test_what_redcap_did_is_no_fault_of_the_clients(redcap: Redcap, start_proxy: StartProxy) -> None:
    redcap.intercept = lambda _: sim.BAD_GATEWAY
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


# --- The other client -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def async_sdk(proxy: Proxy) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(auth_token=TOKEN, base_url=proxy.url, max_retries=0) as client:
        yield client


def test_the_async_client(redcap: Redcap, proxy: Proxy) -> None:
    async def talk() -> None:
        async with async_sdk(proxy) as client:
            redcap.queue("One.", "Two.")
            message = await client.messages.create(model=MODEL, max_tokens=100, messages=ASKED)
            assert message.content[0].type == "text"
            assert message.content[0].text == "One."
            async with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
                assert await stream.get_final_text() == "Two."
            assert MODEL in [model.id async for model in client.models.list()]
            with pytest.raises(anthropic.BadRequestError):
                await client.messages.create(model=MODEL, max_tokens=100, messages=[])

    asyncio.run(talk())


def test_many_at_once(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(*["Yes."] * 25)

    async def ask(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
            return await stream.get_final_text()

    async def talk() -> list[str]:
        async with async_sdk(proxy) as client:
            return await asyncio.gather(*[ask(client) for _ in range(25)])

    assert asyncio.run(talk()) == ["Yes."] * 25
