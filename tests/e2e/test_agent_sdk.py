"""The Claude Agent SDK as a client: Claude Code, driven by a program that has tools of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    TextBlock,
    ToolUseBlock,
    create_sdk_mcp_server,
    query,
    tool,
)
from claude_code import calls, environment, invoke
from conftest import TOKEN, Proxy, Redcap

from claude_proxy.demo.model import text_of

pytestmark = pytest.mark.e2e

BED = "mcp__ward__bed"
DESCRIPTION = '{"name":"mcp__ward__bed","description":"Says how the patient in a bed is."'


class Ward:
    """Tools that run in the program itself, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

        @tool("bed", "Says how the patient in a bed is.", {"number": int, "note": str})
        async def bed(arguments: dict[str, Any]) -> dict[str, Any]:
            self.asked.append(arguments)
            if arguments["number"] != 7:
                return {"content": [{"type": "text", "text": "There is no such bed."}], "is_error": True}
            return {"content": [{"type": "text", "text": "Better: 5 &lt; 6 && 37.2 < 38 °C"}]}

        self.server = create_sdk_mcp_server("ward", tools=[bed])


@pytest.fixture
def options(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClaudeAgentOptions]:
    """Options for a session that takes nothing over from the environment of the tests."""
    for name in os.environ:
        if name.startswith(("ANTHROPIC", "CLAUDE", "HTTP", "http")):
            monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()

    def make(*, env: Mapping[str, str] | None = None, **changes: Any) -> ClaudeAgentOptions:
        usual: dict[str, Any] = {
            "cwd": tmp_path / "work",
            "env": {**environment(proxy.url, TOKEN, tmp_path / "home"), **(env or {})},
            "permission_mode": "dontAsk",
            "allowed_tools": [BED],
            "setting_sources": [],
        }
        return ClaudeAgentOptions(**{**usual, **changes})

    return make


def run(prompt: str, options: ClaudeAgentOptions) -> list[Message]:
    async def collect() -> list[Message]:
        return [message async for message in query(prompt=prompt, options=options)]

    return asyncio.run(asyncio.wait_for(collect(), 100))


def result_of(messages: list[Message]) -> ResultMessage:
    (result,) = (message for message in messages if isinstance(message, ResultMessage))
    return result


def called(messages: list[Message]) -> list[str]:
    return [
        block.name
        for message in messages
        if isinstance(message, AssistantMessage)
        for block in message.content
        if isinstance(block, ToolUseBlock)
    ]


def test_a_tool_of_the_program_is_found_and_runs(
    redcap: Redcap, proxy: Proxy, options: Callable[..., ClaudeAgentOptions]
) -> None:
    """With tool search, which is the default, the model knows but the name of a tool until it has searched for it."""
    ward = Ward()
    redcap.queue(
        calls("I need the tool for beds.", invoke("ToolSearch", query=f"select:{BED}", max_results=1)),
        calls("I ask.", invoke(BED, number=7, note="\n5 &amp;lt; 6\n&& more\n")),
        "Bed 7 is better: 5 &amp;lt; 6.",
    )
    messages = run("How is bed 7?", options(mcp_servers={"ward": ward.server}))
    result = result_of(messages)
    assert not result.is_error, messages
    assert result.result == "Bed 7 is better: 5 &lt; 6."
    assert called(messages) == ["ToolSearch", BED]
    assert ward.asked == [{"number": 7, "note": "5 &lt; 6\n&& more"}]
    before, found, told = redcap.asked
    assert BED in "".join(map(text_of, before.messages)), "its name"
    assert DESCRIPTION not in "".join(map(text_of, before.messages))
    assert text_of(found.messages[-1]).count(DESCRIPTION) == 1
    answer = f'<tool_result name="{BED}">\nBetter: 5 &amp;lt; 6 && 37.2 < 38 °C\n</tool_result>'
    assert answer in text_of(told.messages[-1])
    assert len({request.system for request in redcap.asked}) == 1
    assert " status=200 " in proxy.journal


def test_a_tool_of_the_program_without_tool_search(redcap: Redcap, options: Callable[..., ClaudeAgentOptions]) -> None:
    ward = Ward()
    redcap.queue(
        calls("I ask.", invoke(BED, number="8", note="soon")),
        calls("Another.", invoke(BED, number=7, note="now")),
        "Bed 7 is better.",
    )
    messages = run("How is bed 8?", options(mcp_servers={"ward": ward.server}, env={"ENABLE_TOOL_SEARCH": "false"}))
    assert result_of(messages).result == "Bed 7 is better."
    assert called(messages) == [BED, BED]
    assert ward.asked == [{"number": 8, "note": "soon"}, {"number": 7, "note": "now"}]
    assert DESCRIPTION in redcap.asked[0].system
    failed = f'<tool_result name="{BED}" status="error">\nThere is no such bed.\n</tool_result>'
    assert failed in text_of(redcap.asked[1].messages[-1])


SCHEMA = {
    "type": "object",
    "properties": {"bed": {"type": "integer"}, "better": {"type": "boolean"}, "notes": {"type": "array"}},
    "required": ["bed", "better"],
    "additionalProperties": False,
}


def test_structured_output(redcap: Redcap, options: Callable[..., ClaudeAgentOptions]) -> None:
    """It is a call of a tool, and one that breaks the schema is answered with an error."""
    redcap.queue(
        calls("Here it is.", invoke("StructuredOutput", bed=7)),
        calls("Again.", invoke("StructuredOutput", bed=7, better="true", notes='["5 &amp;lt; 6", {"a": 1}]')),
    )
    messages = run("How is bed 7?", options(output_format={"type": "json_schema", "schema": SCHEMA}))
    result = result_of(messages)
    assert not result.is_error, messages
    assert result.structured_output == {"bed": 7, "better": True, "notes": ["5 &lt; 6", {"a": 1}]}
    assert called(messages) == ["StructuredOutput"] * 2
    assert '<tool_result name="StructuredOutput" status="error">' in text_of(redcap.asked[1].messages[-1])


def test_a_conversation_of_several_turns(redcap: Redcap, options: Callable[..., ClaudeAgentOptions]) -> None:
    redcap.queue("Bed 7 is better.", "Bed 8 is empty.")

    async def talk() -> list[str]:
        said: list[str] = []
        async with ClaudeSDKClient(options(system_prompt="You know a ward.")) as client:
            for question in ("How is bed 7?", "And bed 8?"):
                await client.query(question)
                async for message in client.receive_response():
                    if isinstance(message, AssistantMessage):
                        said += [block.text for block in message.content if isinstance(block, TextBlock)]
        return said

    assert asyncio.run(asyncio.wait_for(talk(), 100)) == ["Bed 7 is better.", "Bed 8 is empty."]
    first, second = redcap.asked
    assert "You know a ward." in first.system
    assert "Bed 7 is better." in [text_of(message) for message in second.messages]
    assert "And bed 8?" in text_of(second.messages[-1])
