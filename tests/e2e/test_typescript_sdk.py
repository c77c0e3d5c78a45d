"""Anthropic's TypeScript SDK as a client. Its accumulator is stricter than the Python one in some things."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from claude_code import calls, invoke
from conftest import TOKEN, Proxy, Redcap, StartProxy
from small_files import PNG
from typescript_sdk import FOLDER, node_with_sdk

from claude_proxy.demo import pages
from claude_proxy.demo.model import text_of
from claude_proxy.demo.simulator import ModelReply

pytestmark = pytest.mark.e2e

READ = calls("I read it.", invoke("read", path="/ä &amp;lt; b.txt", lines="[1, 20]"))
TOOLS = [
    {
        "name": "read",
        "input_schema": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "lines": {"type": "array", "items": {"type": "integer"}}},
        },
    }
]

in_both_ways = pytest.mark.parametrize("way", ["create", "stream"])


@pytest.fixture(scope="module")
def node() -> Path:
    return node_with_sdk()


class TypeScript:
    """What the SDK makes of the proxy: `ask` returns what it returned, `fail` what it threw."""

    def __init__(self, node: Path, proxy: Proxy) -> None:
        self._node = node
        self._proxy = proxy

    def ask(self, what: str, **changes: Any) -> Any:
        seen = self._run(what, changes, retries=0)
        assert "result" in seen, seen
        return seen["result"]

    def fail(self, what: str, *, retries: int = 0, **changes: Any) -> tuple[str, int | None, str, str]:
        """Class, status, type and message of the error."""
        error = self._run(what, changes, retries)["error"]
        assert error["requestID"].startswith("req_")
        return error["name"], error["status"], error["type"], error["message"]

    def _run(self, what: str, changes: dict[str, Any], retries: int) -> Any:
        wanted = {
            "baseURL": self._proxy.url,
            "apiKey": TOKEN,
            "maxRetries": retries,
            "what": what,
            "changes": changes,
        }
        done = subprocess.run(
            [self._node, "client.js"],
            cwd=FOLDER,
            input=json.dumps(wanted),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def typescript(node: Path, proxy: Proxy) -> TypeScript:
    return TypeScript(node, proxy)


# --- Messages ---------------------------------------------------------------------------------------------------------


@in_both_ways
def test_a_message_with_a_call(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue(ModelReply(READ, 40, 30))
    message = typescript.ask(way, tools=TOOLS)
    assert (message["stop_reason"], message["model"]) == ("tool_use", "claude-sonnet-4")
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (40, 30)
    text, call = message["content"]
    assert (text["type"], text["text"]) == ("text", "I read it.")
    assert (call["type"], call["name"]) == ("tool_use", "read")
    assert call["input"] == {"path": "/ä &lt; b.txt", "lines": [1, 20]}
    if way == "stream":
        assert "".join(message["texts"]) == "I read it."


@in_both_ways
def test_thinking(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue("<think>Is it?</think>It is 😀.")
    message = typescript.ask(way, thinking={"type": "adaptive"})
    thought, said = message["content"]
    assert (thought["thinking"], said["text"]) == ("Is it?", "It is 😀.")


def test_the_events_of_a_stream(redcap: Redcap, typescript: TypeScript) -> None:
    redcap.queue("It is better.")
    started, *_, delta, stopped = typescript.ask("raw stream")
    assert (started, delta, stopped) == ("message_start", "message_delta", "message_stop")


@in_both_ways
def test_an_image(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue("It is red.")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert typescript.ask(way, messages=[{"role": "user", "content": [image]}])["content"][0]["text"] == "It is red."
    assert redcap.asked[0].messages[-1]["content"] == [image]


# --- Documents of a form, and tools -----------------------------------------------------------------------------------

WRONG = "<output>\n{\n" + '"bed": 7, "wards": ["C"], "seen": "2026-01-31"\n}\n</output>'
RIGHT = WRONG.replace('"C"', '"A", "B"')


@pytest.mark.parametrize("way", ["parse", "parse a stream"])
def test_a_document_of_a_form(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue(WRONG, RIGHT)
    message = typescript.ask(way)
    assert message["parsed_output"] == {"bed": 7, "wards": ["A", "B"], "seen": "2026-01-31"}
    assert "wards" in text_of(redcap.asked[1].messages[-1]), "what is wrong is said"


@pytest.mark.parametrize("way", ["parse", "parse a stream"])
def test_a_document_that_breaks_the_form_for_good(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue(WRONG, WRONG)
    name, status, kind, message = typescript.fail(way)
    assert (name, status, kind) == ("InternalServerError", 500, "api_error")
    assert "did not write a document of the requested schema" in message


@pytest.mark.parametrize("way", ["tools", "streamed tools"])
def test_the_tool_runner(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.queue(calls("I add.", invoke("plus", a=2, b=3)), "It is 5.")
    assert typescript.ask(way) == ["tool_use", "end_turn"]
    assert '<tool_result name="plus">\n5 &amp;lt; 6\n</tool_result>' in text_of(redcap.asked[1].messages[-1])


# --- Models and errors ------------------------------------------------------------------------------------------------


def test_models_and_tokens(typescript: TypeScript, proxy: Proxy) -> None:
    everything = [model["id"] for model in proxy.get("/v1/models?limit=1000").json["data"]]
    assert typescript.ask("models") == everything, "page by page"
    assert typescript.ask("count")["input_tokens"] > 0


@in_both_ways
def test_failures(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    name, status, kind, message = typescript.fail(way, retries=2, model="gtp-4o")
    assert (name, status, kind) == ("InternalServerError", 502, "api_error")
    assert "'gtp-4o'" in message
    assert len(redcap.requests) == 1, "what cannot be helped is not tried again"
    name, status, kind, message = typescript.fail(way, messages=[{"role": "user", "content": "word " * 25_000}] * 12)
    assert (name, status, kind) == ("BadRequestError", 400, "invalid_request_error")
    assert "prompt is too long: " in message
    assert typescript.fail(way, tools=[{"type": "web_search_20260209", "name": "web_search"}])[:2] == (
        "BadRequestError",
        400,
    )


@in_both_ways
def test_redcaps_own_limit(redcap: Redcap, typescript: TypeScript, way: str) -> None:
    redcap.intercept = lambda _: pages.CannedResponse(429, "Slow down.", pages.HTML)
    assert typescript.fail(way)[:3] == ("RateLimitError", 429, "rate_limit_error")


def test_the_sdk_tries_again_what_may_pass(redcap: Redcap, typescript: TypeScript) -> None:
    redcap.intercept = lambda _: pages.CannedResponse(429, "Slow down.", pages.HTML, {"Retry-After": "1"})
    assert typescript.fail("create", retries=1)[1] == 429
    assert len(redcap.requests) == 2


@pytest.mark.parametrize("what", ["batches", "files"])
def test_what_is_not_there(typescript: TypeScript, what: str) -> None:
    assert typescript.fail(what)[:3] == ("NotFoundError", 404, "not_found_error")


def test_a_failure_in_a_stream(node: Path, start_proxy: StartProxy) -> None:
    name, status, kind, message = TypeScript(node, start_proxy(stream_delay=0.0)).fail("stream", model="gtp-4o")
    assert "'gtp-4o'" in message
    assert (name, status, kind) == ("APIError", None, "api_error")
