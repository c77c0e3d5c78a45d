"""The application as clients see it: every route with every status, credentials, errors, and what the journal says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import (
    COLLEAGUES_TOKEN,
    PATIENCE,
    PROMPT,
    TOKEN,
    Gate,
    Proxy,
    Redcap,
    Response,
    StartProxy,
    message_request,
)

from claude_proxy import __version__
from claude_proxy.core.aliases.mapping import DEFAULT_ALIASES
from claude_proxy.demo import pages
from claude_proxy.demo.pages import CannedResponse, Intercept
from claude_proxy.demo.simulator import ModelReply
from claude_proxy.shell.proxy.exchange import Exchange

LS = (
    '<function_calls>\n<invoke name="Bash">\n<parameter name="command">ls && pwd</parameter>\n</invoke>\n'
    "</function_calls>"
)
BASH = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
BEARER = {"authorization": f"Bearer {TOKEN}"}


# --- Routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api/hello", "/?beta=true"])
def test_probes_need_no_credential(proxy: Proxy, path: str) -> None:
    response = proxy.ask("HEAD", path, headers={})
    assert (response.status, response.body) == (200, b"")
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["content-length"] == "0"


def test_health_needs_no_credential_and_does_not_ask_redcap(redcap: Redcap, proxy: Proxy) -> None:
    response = proxy.get("/health", headers={})
    assert (response.status, response.json) == (200, {"status": "ok", "version": __version__})
    assert response.headers["content-type"] == "application/json"
    assert proxy.ask("HEAD", "/health", headers={}).status == 200
    assert not redcap.requests


NO_PATHS = {
    **dict.fromkeys(("/nothing", "/v1", "/v1/message", "/health/x", "*"), "POST /v1/messages"),
    "/v1/complete": "POST /v1/messages",
    "/v1/messages/batches": "one by one",
    "/v1/messages/batches/msgbatch_1/results": "one by one",
    "/v1/files": "in the message",
    "/v1/files/file_1/content": "in the message",
    "/v1/skills": "not available",
    "/v1/organizations/me": "not available",
}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_there_is_nothing_else(proxy: Proxy, method: str) -> None:
    for path, remedy in NO_PATHS.items():
        status, kind, message = proxy.ask(method, path).error
        assert (status, kind) == (404, "not_found_error"), path
        assert remedy in message


def test_a_base_url_that_ends_in_v1_is_explained(proxy: Proxy) -> None:
    status, _, message = proxy.ask("POST", "/v1/v1/messages").error
    assert status == 404
    assert "must not end in /v1" in message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/messages", "POST"),
        ("PUT", "/v1/messages?beta=true", "POST"),
        ("GET", "/v1/messages/count_tokens", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/claude-sonnet-4", "GET"),
        ("POST", "/api/hello", "HEAD, GET"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/v1/messages", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(proxy: Proxy, method: str, path: str, allowed: str) -> None:
    response = proxy.ask(method, path)
    status, kind, message = response.error
    assert (status, kind) == (405, "invalid_request_error")
    assert response.headers["allow"] == allowed
    assert method in message
    assert allowed in message


@pytest.mark.parametrize(("path", "status"), [("/v1/messages", 405), ("/nothing", 404)])
def test_an_unheard_of_method_is_a_wrong_one(proxy: Proxy, path: str, status: int) -> None:
    assert proxy.ask("BREW", path).error[0] == status


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/messages/", "/v1/messages?beta=true", "/v1/messages/?a=b&c", "/v1/messages?"]
)
def test_only_the_path_decides(redcap: Redcap, proxy: Proxy, path: str) -> None:
    redcap.queue("Yes.")
    assert proxy.post(path=path).status == 200


def test_a_connection_serves_all_routes_in_turn(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue("Yes.", "Yes.")
    with proxy.connect() as wire:
        for method, path, body, status in (
            ("GET", "/health", b"", 200),
            ("POST", "/v1/messages", message_request(), 200),
            ("GET", "/nothing", b"", 404),
            ("POST", "/v1/messages", message_request({"stream": True}), 200),
            ("POST", "/v1/messages", b"{", 400),
            ("HEAD", "/", b"", 200),
            ("GET", "/v1/models", b"", 200),
        ):
            wire.ask(method, path, body, BEARER)
            assert wire.read_response(to=method).status == status


# --- Credentials ------------------------------------------------------------------------------------------------------

WITH_CREDENTIAL = (
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/claude-sonnet-4"),
)
WRONG = "00000000000000000000000000000000"


def answered(redcap: Redcap, proxy: Proxy, headers: Mapping[str, str]) -> str:
    """Ask with these headers, and return the token that REDCap got."""
    redcap.queue("Yes.")
    assert proxy.post(headers=headers).status == 200
    return redcap.requests[-1].fields["token"]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer   {TOKEN} "},
        {"x-api-key": TOKEN},
        {"X-API-Key": TOKEN, "authorization": f"Bearer {WRONG}"},
        {"x-api-key": WRONG, "authorization": f"Bearer {TOKEN}"},
        {"x-api-key": TOKEN, "authorization": "Basic YTpi"},
    ],
)
def test_either_header_carries_the_credential(redcap: Redcap, proxy: Proxy, headers: dict[str, str]) -> None:
    assert answered(redcap, proxy, headers) == TOKEN


WRONG_CREDENTIALS = (
    {"authorization": f"Bearer {WRONG}"},
    {"x-api-key": WRONG},
    {"x-api-key": TOKEN[:-1]},
    {"x-api-key": TOKEN.lower()},
    {"x-api-key": "Jörg"},
)
NO_CREDENTIALS: tuple[dict[str, str], ...] = (
    {},
    {"authorization": "Bearer "},
    {"authorization": TOKEN},
    {"authorization": "Basic YTpi"},
    {"x-api-key": " "},
)


@pytest.mark.parametrize(("method", "path"), WITH_CREDENTIAL)
def test_a_wrong_credential_is_refused_at_once(redcap: Redcap, proxy: Proxy, method: str, path: str) -> None:
    for headers in WRONG_CREDENTIALS:
        response = proxy.ask(method, path, message_request(), headers)
        status, kind, message = response.error
        assert (status, kind) == (401, "authentication_error")
        assert "the client's token" in message
        assert "REDCAP_API_TOKEN" in message
        assert "ANTHROPIC_AUTH_TOKEN" in message
        assert response.retries == ("false", None), "Claude Code would try for three minutes"
    assert not redcap.requests


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("method", "path"), WITH_CREDENTIAL)
def test_without_a_credential_nothing_goes_upstream(
    redcap: Redcap, start_proxy: StartProxy, method: str, path: str, *, shared: bool
) -> None:
    proxy = start_proxy(**{"redcap_api_token": None} if shared else {})
    for headers in NO_CREDENTIALS:
        response = proxy.ask(method, path, message_request(), headers)
        assert response.error[:2] == (401, "authentication_error")
        assert "carries no credential" in response.error[2]
        assert response.retries == ("false", None)
    assert not redcap.requests


@pytest.mark.parametrize("token", [TOKEN, COLLEAGUES_TOKEN])
def test_a_shared_proxy_passes_each_clients_own_token_on(redcap: Redcap, start_proxy: StartProxy, token: str) -> None:
    proxy = start_proxy(redcap_api_token=None)
    assert answered(redcap, proxy, {"x-api-key": token}) == token
    assert answered(redcap, proxy, {"authorization": f"Bearer {token}"}) == token


def test_a_shared_proxy_says_that_redcap_refused_the_token(start_proxy: StartProxy) -> None:
    response = start_proxy(redcap_api_token=None).post(headers={"x-api-key": WRONG})
    assert response.error[:2] == (401, "authentication_error")
    assert "REDCap refused the token" in response.error[2]
    assert WRONG not in response.error[2]
    assert response.retries == ("false", None)


# --- Models -----------------------------------------------------------------------------------------------------------

# What SDKs expect of a model: every key, and the type of its value.
MODEL: dict[str, Any] = {
    "type": str,
    "id": str,
    "display_name": str,
    "created_at": str,
    "lifecycle": str,
    "deprecated_at": None,
    "retires_at": None,
    "line": None,
    "max_input_tokens": int,
    "max_tokens": int,
    "allowed_fallback_models": None,
    "capabilities": {
        "batch": {"supported": bool},
        "citations": {"supported": bool},
        "compaction": {"supported": bool, "summarize": {"supported": bool}},
        "code_execution": {"supported": bool},
        "context_management": {
            "supported": bool,
            "clear_thinking_20251015": {"supported": bool},
            "clear_tool_uses_20250919": {"supported": bool},
            "compact_20260112": {"supported": bool},
        },
        "effort": {
            "supported": bool,
            "low": {"supported": bool},
            "medium": {"supported": bool},
            "high": {"supported": bool},
            "xhigh": {"supported": bool},
            "max": {"supported": bool},
        },
        "image_input": {"supported": bool},
        "pdf_input": {"supported": bool},
        "server_tools": {"supported": bool, "web_search": {"supported": bool}, "code_execution": {"supported": bool}},
        "structured_outputs": {"supported": bool},
        "thinking": {
            "supported": bool,
            "types": {
                "adaptive": {"supported": bool},
                "between_tools": {"supported": bool},
                "disabled": {"supported": bool},
                "enabled": {"supported": bool},
            },
        },
    },
}


def outline(value: Any) -> Any:
    """The keys of an object, and the types of its values."""
    if isinstance(value, dict):
        return {key: outline(item) for key, item in value.items()}
    return None if value is None else type(value)


def test_the_models(proxy: Proxy) -> None:
    page = proxy.get("/v1/models?limit=1000").json
    ids = [model["id"] for model in page["data"]]
    assert set(ids) == set(DEFAULT_ALIASES)
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, ids[0], ids[-1])
    assert all(outline(model) == MODEL for model in page["data"])


def test_a_configured_name_stands_first_and_a_pattern_nowhere(start_proxy: StartProxy) -> None:
    proxy = start_proxy(model_map={"claude-mine": "o3", "claude-opus-*": "o1", "o1": "o3"})
    ids = [model["id"] for model in proxy.get("/v1/models").json["data"]]
    assert ids[:2] == ["claude-mine", "o1"]
    assert len(ids) == len(set(ids))
    assert "claude-opus-*" not in ids


@pytest.mark.parametrize("name", ["claude-sonnet-4", "claude-haiku-4-5-20251001", "claude-new-9", "o3-mini"])
def test_a_model(proxy: Proxy, name: str) -> None:
    model = proxy.get(f"/v1/models/{name}").json
    assert outline(model) == MODEL
    assert (model["type"], model["id"]) == ("model", name)


def test_a_model_tells_the_window_of_its_alias(proxy: Proxy) -> None:
    models = {model["id"]: model for model in proxy.get("/v1/models").json["data"]}
    assert models["claude-sonnet-4"]["max_input_tokens"] == 200_000
    assert models["claude-sonnet-4"]["max_tokens"] == 8_192
    assert models["gpt-4.1"]["max_input_tokens"] == 1_000_000


def test_a_name_is_decoded(start_proxy: StartProxy) -> None:
    assert start_proxy(model_map={"our/model 1": "o3"}).get("/v1/models/our%2Fmodel%201").json["id"] == "our/model 1"


def test_an_unknown_model(proxy: Proxy) -> None:
    status, kind, message = proxy.get("/v1/models/llama-99").error
    assert (status, kind) == (404, "not_found_error")
    assert "GET /v1/models" in message


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": "Be brief."},
        {"tools": [BASH]},
        {"tools": [BASH], "tool_choice": {"type": "none"}},
        {"messages": [{"role": "user", "content": "five & six &lt; 7 " * 500}]},
    ],
)
def test_count_tokens_says_what_message_start_will_say(redcap: Redcap, proxy: Proxy, changes: dict[str, Any]) -> None:
    redcap.queue(ModelReply("Yes.", 12345, 67))
    counted = proxy.post({**changes, "max_tokens": None}, path="/v1/messages/count_tokens?beta=true").json
    events = proxy.post({**changes, "stream": True}).events
    assert counted == {"input_tokens": events[0]["message"]["usage"]["input_tokens"]}
    assert events[-2]["usage"]["input_tokens"] == 12345, "the real number comes at the end"


def test_everything_the_model_reads_is_counted(proxy: Proxy) -> None:
    def count(**changes: Any) -> int:
        return int(proxy.post(changes, path="/v1/messages/count_tokens").json["input_tokens"])

    words = "one two three four five six seven eight nine ten " * 100
    plain = count()
    assert 800 <= count(system=words) - plain <= 2000
    assert 800 <= count(messages=[{"role": "user", "content": words}]) - plain <= 2000
    assert 800 <= count(tools=[{**BASH, "description": words}]) - count(tools=[BASH]) <= 2000


def test_counting_sends_nothing_and_has_no_limit(redcap: Redcap, proxy: Proxy) -> None:
    changes = {"messages": [{"role": "user", "content": "word " * 400_000}]}
    assert proxy.post(changes, path="/v1/messages/count_tokens").json["input_tokens"] > 200_000
    assert not redcap.requests


def test_dozens_of_counts_at_once(proxy: Proxy) -> None:
    """Claude Code's `/context` asks for about 25 at a time."""
    with ThreadPoolExecutor(25) as pool:
        counts = pool.map(lambda _: proxy.post(path="/v1/messages/count_tokens").json["input_tokens"], range(25))
        assert len(set(counts)) == 1


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_a_message(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(ModelReply("Much better.", 40, 3))
    response = proxy.post()
    assert response.headers["content-type"] == "application/json"
    message = response.json
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4",
        "content": [{"type": "text", "text": "Much better.", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "diagnostics": None,
        "usage": {
            "input_tokens": 40,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": None,
            "speed": None,
        },
    }


def test_a_stream(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(ModelReply("Much better.", 40, 3))
    with proxy.stream() as wire:
        head = wire.read_head()
        events = list(wire.read_events())
    assert head.status == 200
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert head.headers["cache-control"] == "no-cache"
    assert head.headers["x-accel-buffering"] == "no"
    assert head.headers["transfer-encoding"] == "chunked"
    assert head.headers["request-id"].startswith("req_")
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 1)
    assert events[-2]["usage"]["output_tokens"] == 3


LONG = "".join(f"Line {number}: ä 😀 & <b>\n" for number in range(500)).rstrip()


@pytest.mark.parametrize("reply", ["Yes.", f"First:\n{LS}", LS, LONG])
def test_the_stream_folds_into_the_message(redcap: Redcap, proxy: Proxy, reply: str) -> None:
    def asked(*, stream: bool) -> dict[str, Any]:
        redcap.queue(ModelReply(reply, 40, 3))
        message = proxy.post({"stream": stream, "tools": [BASH]}).message
        for block in (message, *message["content"]):
            block.pop("id", None)
        return message

    assert asked(stream=True) == asked(stream=False)


@pytest.mark.parametrize("stream", [False, True])
def test_calls(redcap: Redcap, proxy: Proxy, *, stream: bool) -> None:
    redcap.queue(f"I look first.\n{LS}")
    message = proxy.post({"tools": [BASH], "stream": stream}).message
    assert message["stop_reason"] == "tool_use"
    text, call = message["content"]
    assert text["text"] == "I look first."
    assert call.pop("id").startswith("toolu_")
    assert call == {"type": "tool_use", "name": "Bash", "input": {"command": "ls && pwd"}}


def test_no_id_comes_twice(redcap: Redcap, proxy: Proxy) -> None:
    redcap.queue(*[LS] * 10)
    responses = [proxy.post({"tools": [BASH], "stream": number % 2 == 0}) for number in range(10)]
    messages = [response.message for response in responses]
    ids = [message["id"] for message in messages] + [message["content"][0]["id"] for message in messages]
    ids += [response.headers["request-id"] for response in responses]
    assert len(set(ids)) == 30


@pytest.mark.parametrize(
    ("model", "alias"),
    [
        ("claude-haiku-4-5-20251001", "gpt-4o"),
        ("claude-sonnet-4", "claude"),
        ("claude-opus-5-5[1m]", "claude"),
        ("o3-mini", "o3-mini"),
        ("gemini-2.5-pro", "gemini-2.5-pro"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_model_is_echoed_and_its_alias_asked(
    redcap: Redcap, proxy: Proxy, model: str, alias: str, *, stream: bool
) -> None:
    redcap.queue("Yes.")
    assert proxy.post({"model": model, "stream": stream}).message["model"] == model
    assert redcap.asked[-1].alias == alias


def test_a_client_that_does_not_wait_is_noticed_while_the_model_thinks(redcap: Redcap, proxy: Proxy) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    with proxy.connect() as wire:
        wire.ask("POST", "/v1/messages", message_request(), BEARER)
        assert gate.reached.wait(PATIENCE)
    assert "error=ClientGone" in proxy.journal_line("status=499")
    gate.open()


# --- Bad requests -----------------------------------------------------------------------------------------------------


# What is wrong with a request, and what the message must say.
BAD: list[tuple[bytes, str]] = [
    (b"", "The request body is not valid JSON"),
    (b"{", "The request body is not valid JSON"),
    (b"[]", "The request body is not valid JSON: it must be an object"),
    (b"\xff", "The request body is not valid JSON: it is not UTF-8 text"),
    (b"[" * 100_000, "The request body is not valid JSON: it is nested too deeply"),
    (message_request({"model": None}), "model: Field required"),
    (message_request({"messages": []}), "messages: at least one message is required"),
    (message_request({"stream": "yes"}), "stream: Input should be a valid boolean"),
    (
        message_request({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        "messages.0.content.0.text.text: Field required",
    ),
    (message_request({"tools": [BASH, {"name": "x"}]}), "tools.1.custom.input_schema: Field required"),
]
BAD_FOR_A_MESSAGE: list[tuple[bytes, str]] = [
    (message_request({"max_tokens": None}), "max_tokens: Field required"),
    (message_request({"max_tokens": "9"}), "max_tokens: Input should be a valid integer"),
]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        *[("/v1/messages", body, message) for body, message in BAD + BAD_FOR_A_MESSAGE],
        *[("/v1/messages/count_tokens", body, message) for body, message in BAD],
    ],
)
def test_a_bad_request_names_the_field(redcap: Redcap, proxy: Proxy, path: str, body: bytes, message: str) -> None:
    response = proxy.ask("POST", path, body)
    assert response.error[:2] == (400, "invalid_request_error")
    assert message in response.error[2]
    assert not redcap.requests


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_too_long_is_found_before_anything_is_sent(
    redcap: Redcap, start_proxy: StartProxy, *, stream: bool
) -> None:
    """Even where streams begin at once: only a true 400 makes Claude Code compact the conversation."""
    proxy = start_proxy(stream_delay=0.0)
    changes = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "word " * 300_000}]}
    tokens = proxy.post(changes, path="/v1/messages/count_tokens").json["input_tokens"]
    status, kind, message = proxy.post({**changes, "stream": stream}).error
    assert (status, kind) == (400, "invalid_request_error")
    found = re.fullmatch(r"prompt is too long: (\d+) tokens > 128000 maximum", message)
    assert found
    assert tokens < int(found[1]) <= 1.1 * tokens + 1, "the margin for the error of the estimate"
    assert not redcap.requests


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_with_a_stream_is_a_true_status_even_without_delay(
    start_proxy: StartProxy, *, stream: bool
) -> None:
    proxy = start_proxy(stream_delay=0.0)
    assert proxy.post({"messages": [], "stream": stream}).error[0] == 400
    assert proxy.post({"stream": stream}, headers={"x-api-key": WRONG}).error[0] == 401


# --- What REDCap does instead of answering ----------------------------------------------------------------------------

FINAL = ("false", None)  # the headers of a failure that stays until somebody changes a setting
FOR_NOW = (None, None)


def always(page: CannedResponse) -> Intercept:
    return lambda _: page


def page(status: int, body: str, media_type: str = "text/html") -> CannedResponse:
    return CannedResponse(status, body, media_type)


# What comes: the page, then status, error type, retry headers, and words of the message.
PAGES: dict[str, tuple[CannedResponse, int, str, tuple[str | None, str | None], tuple[str, ...]]] = {
    "login page": (pages.LOGIN_PAGE, 502, "api_error", FINAL, ("200 text/html", "login", "REDCAP_API_URL")),
    "maintenance, 200": (pages.MAINTENANCE_PAGE_200, 502, "api_error", FOR_NOW, ("200 text/html", "maintenance")),
    "maintenance, 503": (pages.MAINTENANCE_PAGE, 502, "api_error", FOR_NOW, ("503 text/html", "maintenance")),
    "single sign-on": (
        pages.SINGLE_SIGN_ON,
        502,
        "api_error",
        FINAL,
        ("302", "not followed", "single sign-on"),
    ),
    "firewall": (pages.FIREWALL_PAGE, 502, "api_error", FINAL, ("403 text/html", "firewall")),
    "bad gateway": (pages.BAD_GATEWAY, 502, "api_error", FOR_NOW, ("502 text/html", "gateway")),
    "gateway time-out": (pages.GATEWAY_TIMEOUT, 504, "timeout_error", FOR_NOW, ("504 text/html", "gateway")),
    "no such path": (pages.NOT_FOUND, 502, "api_error", FINAL, ("404 text/html", "REDCAP_API_URL")),
    "fatal error": (pages.FATAL, 502, "api_error", FINAL, ("500 text/html", "fatal error")),
    "no type": (page(200, "ok", ""), 502, "api_error", FINAL, ("200 without a type",)),
    "JSON of something else": (
        page(200, '{"hello": "world"}', "application/json"),
        502,
        "api_error",
        FINAL,
        ("200 application/json", "REDCAP_MODULE_PREFIX=secure_chat_ai"),
    ),
    "JSON that is no object": (page(200, "[1, 2]", "application/json"), 502, "api_error", FINAL, ("200",)),
    "slow down": (page(429, "slow down"), 429, "rate_limit_error", (None, "15"), ("429",)),
    "too large": (page(413, "too large"), 413, "request_too_large", FOR_NOW, ("too large", "post_max_size")),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_what_is_no_answer_is_named_and_explained(redcap: Redcap, proxy: Proxy, name: str, *, stream: bool) -> None:
    canned, status, kind, retries, words = PAGES[name]
    redcap.intercept = always(canned)
    response = proxy.post({"stream": stream})
    assert response.error[:2] == (status, kind)
    assert [word for word in words if word not in response.error[2]] == []
    assert response.retries == retries
    assert len(redcap.requests) == 1, "neither followed nor tried again"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 500, 503])
@pytest.mark.parametrize("media_type", ["text/html", "application/json"])
def test_nothing_of_what_came_is_shown(redcap: Redcap, proxy: Proxy, status: int, media_type: str) -> None:
    body = json.dumps({"error": f"REDCap quotes {PROMPT}"}) if media_type == "application/json" else f"<p>{PROMPT}"
    redcap.intercept = always(page(status, body, media_type))
    assert PROMPT not in proxy.post().error[2]


def test_a_redirect_to_the_address_with_the_slash_names_it(redcap: Redcap, start_proxy: StartProxy) -> None:
    message = start_proxy(redcap_api_url=redcap.url.rstrip("/")).post().error[2]
    assert f"Set REDCAP_API_URL={redcap.url} " in message


def test_a_module_that_is_missing(redcap: Redcap, proxy: Proxy) -> None:
    redcap.prefix = "installed_under_another_name"
    response = proxy.post()
    assert response.error[:2] == (502, "api_error")
    assert "REDCAP_MODULE_PREFIX=secure_chat_ai" in response.error[2]
    assert "enable" in response.error[2]
    assert response.retries == FINAL


def test_a_token_that_redcap_refuses(redcap: Redcap, proxy: Proxy) -> None:
    redcap.tokens = {COLLEAGUES_TOKEN}
    response = proxy.post()
    assert response.error[:2] == (401, "authentication_error")
    assert "REDCap refused the token" in response.error[2]
    assert response.retries == FINAL


def test_a_body_over_post_max_size(redcap: Redcap, proxy: Proxy) -> None:
    """PHP drops all fields, and REDCap complains of those. Claude Code answers a 413 by compacting."""
    redcap.post_max_size = 1_000_000
    response = proxy.post({"model": "gpt-4.1", "messages": [{"role": "user", "content": "wordy " * 200_000}]})
    assert response.error[:2] == (413, "request_too_large")
    assert "post_max_size" in response.error[2]


@pytest.mark.parametrize("stream", [False, True])
def test_an_alias_that_never_answered(redcap: Redcap, proxy: Proxy, *, stream: bool) -> None:
    response = proxy.post({"model": "gtp-4o", "stream": stream})
    assert response.error[:2] == (502, "api_error")
    assert "'gtp-4o'" in response.error[2]
    assert "the name itself" in response.error[2]
    assert "apologize" not in response.error[2]
    assert response.retries == FINAL


@pytest.mark.parametrize("stream", [False, True])
def test_an_alias_that_has_answered_before(redcap: Redcap, proxy: Proxy, *, stream: bool) -> None:
    redcap.queue("Yes.")
    assert proxy.post().status == 200
    redcap.queue_failure()
    response = proxy.post({"stream": stream})
    assert response.error[:2] == (529, "overloaded_error")
    assert "'claude'" in response.error[2]
    assert response.retries == (None, "5")


def test_a_model_that_takes_too_long(redcap: Redcap, start_proxy: StartProxy) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    response = start_proxy(upstream_timeout=0.2).post()
    gate.open()
    assert response.error[:2] == (504, "timeout_error")
    assert "UPSTREAM_TIMEOUT" in response.error[2]
    assert response.retries == FOR_NOW


def test_a_redcap_that_is_not_there(redcap: Redcap, start_proxy: StartProxy) -> None:
    redcap.close()
    response = start_proxy().post()
    assert response.error[:2] == (502, "api_error")
    assert "REDCAP_API_URL" in response.error[2]
    assert response.retries == FOR_NOW


def test_a_connection_that_breaks(redcap: Redcap, proxy: Proxy) -> None:
    gate = Gate("too late")
    redcap.queue(gate)
    with proxy.connect() as wire:
        wire.ask("POST", "/v1/messages", message_request(), BEARER)
        assert gate.reached.wait(PATIENCE)
        redcap.close()
        response = wire.read_response()
    gate.open()
    assert response.error[:2] == (502, "api_error")
    assert response.retries == FOR_NOW


# --- The proxy's own faults -------------------------------------------------------------------------------------------


def test_a_fault_of_the_proxy_is_an_error_without_content(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise ValueError(PROMPT)

    monkeypatch.setattr(Exchange, "prepare", stumble)
    status, kind, message = proxy.post().error
    assert (status, kind) == (500, "api_error")
    assert PROMPT not in message
    line = proxy.journal_line("internal error")
    assert "kind=ValueError" in line
    assert "place=_prepare:" in line
    assert PROMPT not in proxy.journal
    proxy.out.truncate(0)


# --- The journal ------------------------------------------------------------------------------------------------------


def test_the_line_of_a_message(redcap: Redcap, start_proxy: StartProxy) -> None:
    redcap.queue(ModelReply(f"I look.\n{LS}", 40, 30))
    proxy = start_proxy(log_format="json")
    response = proxy.post({"tools": [BASH], "stream": True})
    line = json.loads(proxy.journal_line('"event": "request"'))
    assert 0 <= line.pop("first_byte") <= line.pop("seconds") < 30
    assert line.pop("time")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": response.headers["request-id"],
        "route": "POST /v1/messages",
        "status": 200,
        "model": "claude-sonnet-4",
        "alias": "claude",
        "stream": True,
        "input_tokens": 40,
        "output_tokens": 30,
        "calls": 1,
        "stop_reason": "tool_use",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_word_of_the_clients_is_in_the_journal(redcap: Redcap, start_proxy: StartProxy, log_format: str) -> None:
    """Not in the path, not as a model, a header, a tool, a file name or a method, nor anything the model says."""
    word = "Meier"
    proxy = start_proxy(log_format=log_format, redcap_api_token=None)
    redcap.queue(f"{word}\n{LS.replace('ls', word)}")
    tool = {**BASH, "description": word}
    requests: list[Response] = [
        proxy.post({"system": word, "tools": [tool], "messages": [{"role": "user", "content": word}]}),
        proxy.post({"model": word}),
        proxy.post({"model": "claude", word: word}, headers={"x-api-key": word}),
        proxy.post({"messages": [{"role": word, "content": word}]}),
        proxy.get(f"/{word}?{word}"),
        proxy.get(f"/v1/models/{word}"),
        proxy.ask(word, "/v1/messages"),
        proxy.ask("POST", "/v1/messages", headers={"content-length": word}),
        proxy.ask("GET", f"/ {word}"),
    ]
    for response in requests:
        proxy.journal_line(response.headers["request-id"])
    assert word not in proxy.journal
    assert len(proxy.journal.splitlines()) == len(requests)
