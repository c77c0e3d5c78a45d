"""`Message` -> JSON, as the Messages API gives it."""

from __future__ import annotations

from typing import Any

from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import Message, Text, Thinking, ToolUse, Usage
from claude_proxy.errors import ProxyError


def to_bytes(data: Any) -> bytes:
    """Compact JSON in UTF-8. A lone surrogate, which a model can write as an escape, becomes a question mark."""
    return to_json(data).encode(errors="replace")


def message_json(message: Message) -> dict[str, Any]:
    """The body of a response that does not stream."""
    return {
        "id": message.id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": [block_json(block) for block in message.content],
        "stop_reason": message.stop_reason,
        "stop_sequence": message.stop_sequence,
        "stop_details": None,
        "container": None,
        "diagnostics": None,
        "usage": usage_json(message.usage),
        **message.extras,
    }


def block_json(block: Text | Thinking | ToolUse) -> dict[str, Any]:
    """One content block of a response."""
    match block:
        case Text(text):
            return {"type": "text", "text": text, "citations": None}
        case Thinking(thinking, signature):
            return {"type": "thinking", "thinking": thinking, "signature": signature}
        case ToolUse(tool_use_id, name, arguments):
            return {"type": "tool_use", "id": tool_use_id, "name": name, "input": dict(arguments)}


def usage_json(usage: Usage) -> dict[str, Any]:
    """Token counts. There is no cache to read from or write to, so all input counts as `input_tokens`."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": None,
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
        "speed": None,
    }


def error_json(error: ProxyError, request_id: str) -> dict[str, Any]:
    """The error envelope."""
    described: dict[str, Any] = {"type": error.type, "message": error.message}
    if error.details:
        described["details"] = dict(error.details)
    return {"type": "error", "error": described, "request_id": request_id}
