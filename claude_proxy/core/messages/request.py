"""Anthropic JSON -> `Request`. A fault names the field.

Lenient where nothing is lost: unknown fields are ignored and counted, since Claude Code adds fields with every
release; a call without a result, or the reverse, is mended and counted. Strict where content would vanish without a
word: unknown block types, tool types and roles are refused, and so are fields that ask for something which no text-only
backend can do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from claude_proxy.core import steps
from claude_proxy.core.json_schema.validate import schema_fault, unchecked
from claude_proxy.core.json_text import TOO_DEEP
from claude_proxy.core.messages.content import Request
from claude_proxy.core.messages.conversation import PREFILL_REFUSED, read_conversation
from claude_proxy.core.messages.json_node import NEW_VERSION, OLD_VERSION, Node, Rules, Tally, run_reading
from claude_proxy.core.messages.tools import read_tool_choice, read_tools
from claude_proxy.core.steps import Runner
from claude_proxy.errors import InvalidRequest, NotFound, ProxyError

# --- the rules --------------------------------------------------------------------------------------------------------

# The values that the SDKs and Claude Code know; others are counted.
KNOWN_BETAS = frozenset(
    """admin-user-sign-out-2026-10-08 advanced-tool-use-2025-11-20 advisor-tool-2026-03-01 afk-mode-2026-01-31
    agent-memory-2026-07-22 analytics-usage-cost-2026-08-24 cache-diagnosis-2026-04-07
    ce-claude-code-managed-settings-2026-10-06 ce-plugins-2026-09-01 ce-user-management-2026-07-13
    claude-code-20250219 code-execution-2025-05-22 compact-2026-01-12 compact-2026-09-04 computer-use-2024-10-22
    computer-use-2025-01-24 computer-use-2025-11-24 context-1m-2025-08-07 context-management-2025-06-27
    dangerous-tool-use-2026-09-03 dev-full-thinking-2025-05-14 dreaming-2026-04-21 effort-2025-11-24
    experimental-claude-tag-2026-10-21 extended-cache-ttl-2025-04-11 fallback-credit-2026-06-01
    fallback-credit-2026-07-01 fast-mode-2026-02-01 files-api-2025-04-14 fine-grained-tool-streaming-2025-05-14
    inline-tools-2026-09-15 interleaved-thinking-2025-05-14 managed-agents-2026-04-01 mcp-client-2025-04-04
    mcp-client-2025-11-20 mcp-client-2026-09-15 mcp-tunnels-2026-06-22 message-batches-2024-09-24
    message-threads-2026-08-12 mid-conversation-output-config-2026-07-01 mid-conversation-system-clear-at-2026-08-21
    mid-conversation-tool-changes-2026-07-01 model-context-window-exceeded-2025-08-26 oauth-2025-04-20
    output-128k-2025-02-19 output-300k-2026-03-24 pdfs-2024-09-25 prompt-caching-2024-07-31
    prompt-caching-scope-2026-01-05 redact-thinking-2026-02-12 server-side-fallback-2026-06-01
    server-side-fallback-2026-07-01 skills-2025-10-02 spend-limit-reads-2026-09-26 structured-outputs-2025-11-13
    structured-outputs-2025-12-15 task-budgets-2026-03-13 telemetry-destinations-2026-08-11
    thinking-binding-controls-2026-08-01 thinking-display-updates-2026-08-18 thinking-token-count-2026-05-13
    token-counting-2024-11-01 token-efficient-tools-2025-02-19 user-profiles-2026-03-24 user-profiles-2026-08-18
    user-profiles-2026-09-04 user-profiles-billing-2026-10-01 webhooks-2026-10-07
    """.split()  # noqa: SIM905 - seventy lines of quotes would say no more
)


def choose_rules(headers: Mapping[str, str]) -> Rules:
    """By which rules a request is read, given its headers (names in lower case)."""
    version = headers.get("anthropic-version", "")
    betas = frozenset(beta.strip() for beta in headers.get("anthropic-beta", "").split(",") if beta.strip())
    return Rules(OLD_VERSION if version in {"", OLD_VERSION} else NEW_VERSION, betas)


# --- the request ------------------------------------------------------------------------------------------------------


# Above 40 lines, half of them docstring: the fields are read in the order in which faults are told.
def parse_request(
    body: bytes,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    count_only: bool = False,
    run: Runner = steps.run,
) -> Request:
    """Read the body of `POST /v1/messages`, or of `…/count_tokens`, which does without `max_tokens` (`count_only`).

    Raises:
        InvalidRequest: the body is not JSON, or a field breaks the API's rules.
        NotFound: it continues a thread, of which this server has none.
    """
    tally = Tally(ignored=len(rules.betas - KNOWN_BETAS))
    top = Node(_load(body), "", rules, tally)
    _check_fields(top, count_only=count_only)
    model = _model(top.require("model"))
    offers = top.get("tools")
    tools = run_reading(run, read_tools, offers, model) if offers else ()
    conversation = read_conversation(top.require("messages"), tools, model, run)
    offered = (*tools, *conversation.added)
    callable_tools = tuple(tool for tool in offered if tool.name not in conversation.withdrawn)
    thinking = _thinking(top.get("thinking"))
    request = Request(
        model=model,
        messages=conversation.messages,
        max_tokens=None if count_only else top.require("max_tokens").count(),
        system=tuple(_system(top.get("system"))),
        tools=offered,
        tool_choice=read_tool_choice(top.get("tool_choice"), callable_tools),
        prefill=conversation.prefill,
        withdrawn=conversation.withdrawn,
        stop_sequences=_stop_sequences(top.get("stop_sequences")),
        output_schema=_output_schema(top),
        stream=top.flag("stream"),
        temperature=_sampling(top.get("temperature")),
        top_p=_sampling(top.get("top_p")),
        extras=_extras(top),
        **thinking,
        ignored=tally.ignored,  # last, when all has been read
        mended=tally.mended,
    )
    _check_together(top, request)
    return request


def _load(body: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\ud" in body or b"\\uD" in body:  # half of a surrogate pair may stand alone
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except UnicodeEncodeError:
        raise InvalidRequest("The request body is not valid JSON: it holds a lone surrogate") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The request body is not valid JSON: it is not UTF-8 text") from None
    except ValueError as error:
        reason = getattr(error, "msg", "a number has too many digits")
        raise InvalidRequest(f"The request body is not valid JSON: {reason}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("The request body is not valid JSON: it must be an object")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a JSON value", name, 0)


# --- top-level fields -------------------------------------------------------------------------------------------------

_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p", "top_k"}
    | {"metadata", "tools", "tool_choice", "thinking", "output_config", "cache_control", "service_tier", "speed"}
    | {"inference_geo", "container", "diagnostics", "context_management", "compaction", "mcp_servers", "fallbacks"}
    | {"fallback_credit_token", "thread", "billing_policy", "output_format", "safeguards"}
)
_LARGE_FIELDS = ("messages", "tools")  # whose parts are checked where they are read
_NO_CONTAINERS = "Container identifier can only be provided when using the code execution tool"
_NO_SUMMARIES = "this server does not summarize by itself; ask for a summary in a message"
_NO_SAMPLING = f"this parameter is not supported in API version {NEW_VERSION}; leave it out"
_LONGEST_MODEL = 256


def _check_fields(top: Node, *, count_only: bool) -> None:
    """Refuse the fields that ask for something impossible, and count the unknown ones."""
    for name, field in top.fields():
        if name not in _LARGE_FIELDS:
            field.limit_depth()
        if name not in _FIELDS:
            top.tally.ignored += 1
        refuse = _REFUSALS.get(name)
        if refuse and not (count_only and name == "compaction"):
            refuse(field)
    if top.rules.is_new and (top_k := top.get("top_k")):
        top_k.fail(_NO_SAMPLING)


def _refuse_mcp_servers(field: Node) -> None:
    if field.items():
        field.fail(
            "this server connects to no MCP servers; configure them in the client, which then offers their tools"
        )


def _refuse_thread(field: Node) -> None:
    if field.require("type").string() == "continue":
        error: ProxyError = NotFound(
            "thread: there is no such thread; send the whole conversation", details={"error_code": "thread_not_found"}
        )
    else:
        error = InvalidRequest(
            "this server keeps no conversations", "thread", details={"error_code": "thread_unsupported_request"}
        )
    raise error


def _refuse_billing(field: Node) -> None:
    if field.object().get("bill_to") not in (None, "self"):
        field.fail("this server bills nobody; leave this field out")


def _refuse_credit(field: Node) -> None:
    if not (isinstance(field.value, dict) and field.value.get("mode") == "best_effort"):
        field.fail("this server gives no fallback credit; leave this field out")


_REFUSALS: Mapping[str, Callable[[Node], None]] = {
    "container": lambda field: field.fail(_NO_CONTAINERS),
    "mcp_servers": _refuse_mcp_servers,
    "compaction": lambda field: field.fail(_NO_SUMMARIES),
    "thread": _refuse_thread,
    "billing_policy": _refuse_billing,
    "fallback_credit_token": _refuse_credit,
}


def _model(field: Node) -> str:
    if not field.string():
        field.fail("String should have at least 1 character")
    if len(field.string()) > _LONGEST_MODEL:
        field.fail(f"String should have at most {_LONGEST_MODEL} characters")
    return field.string()


def _system(field: Node | None) -> Iterable[str]:
    if field is None:
        return
    if isinstance(field.value, str):
        yield field.value
        return
    for block in field.items():
        block.require("type").one_of("text")
        yield block.allow("type", "text", "citations", "cache_control").require("text").string()


def _stop_sequences(field: Node | None) -> tuple[str, ...]:
    return tuple(text for item in field.items() if (text := item.string())) if field else ()


def _sampling(field: Node | None) -> float | None:
    if field is None:
        return None
    if field.rules.is_new:
        field.fail(_NO_SAMPLING)
    return field.share()


def _thinking(field: Node | None) -> dict[str, bool]:
    """Whether the response may hold thinking. Every form is accepted: Claude Code sends new ones to any model."""
    if field is None:
        return {}
    field.allow("type", "budget_tokens", "display", "block_binding")
    display = field.get("display")
    return {
        "thinking": field.require("type").string() in {"enabled", "adaptive"},
        "hides_thinking": bool(display and display.string() == "omitted"),
    }


def _output_schema(top: Node) -> Mapping[str, Any] | None:
    """The schema of `output_config.format`, or of the older `output_format`."""
    config = top.get("output_config")
    if config:
        config.allow("effort", "format", "task_budget")
    named = [field for field in (config and config.get("format"), top.get("output_format")) if field]
    if len(named) > 1:
        named[1].fail("give output_config.format only")
    if not named:
        return None
    named[0].require("type").one_of("json_schema")
    schema = named[0].require("schema")
    if reason := schema_fault(schema.object()):
        schema.fail(reason)
    top.tally.ignored += len(unchecked(schema.object()))
    return schema.object()


def _extras(top: Node) -> dict[str, Any]:
    """What a response must have because the request asked about it."""
    extras: dict[str, Any] = {}
    if top.get("context_management"):
        extras["context_management"] = {"applied_edits": []}
    if (thinking := top.get("thinking")) and thinking.get("block_binding"):
        extras["input_transformations"] = []
    return extras


def _check_together(top: Node, request: Request) -> None:
    """Refuse combinations that the API does not allow, or that cannot be emulated."""
    forced = request.tool_choice.type in {"any", "tool"}
    if request.prefill and (forced or request.output_schema is not None):
        raise InvalidRequest(PREFILL_REFUSED)
    if request.max_tokens != 0:
        return
    thinking = top.get("thinking")
    breaches = {
        "stream": request.stream,
        "thinking.type": bool(thinking and thinking.object().get("type") == "enabled"),
        "tool_choice": forced,
        "output_config.format": request.output_schema is not None,
    }
    if breach := next((name for name, breached in breaches.items() if breached), None):
        raise InvalidRequest(f"cannot be combined with {breach}", "max_tokens: 0")
