"""The vendors of models: what they refuse, and where they cut a reply."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from claude_proxy.demo.model import CHARACTERS_PER_TOKEN, ModelReply, estimate_tokens, text_of
from claude_proxy.demo.module import family_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from claude_proxy.demo.model import Family, ModelRequest

REASONING_LIMITS = {"o1": 100_000, "o3": 100_000, "o3-mini": 100_000, "o4-mini": 100_000, "gpt-5": 128_000}
"""The largest `max_completion_tokens` that the vendor of a reasoning alias accepts."""

CHAT_CAPS = (("gpt-4.1", 32_768), ("gpt-4-1", 32_768), ("gpt-5", 128_000), ("gemini-2.5", 65_536), ("", 16_384))
"""By beginning of the alias: where a reply ends when no `max_tokens` is sent, in tokens."""

WINDOWS = (
    *(("gpt-5", 400_000), ("gpt-4.1", 1_000_000), ("gpt-4-1", 1_000_000), ("gemini-2.5", 1_000_000)),
    *(("claude", 200_000), ("o1", 200_000), ("o3", 200_000), ("o4-mini", 200_000), ("", 128_000)),
)
"""By beginning of the alias: context window in tokens."""

_ROLES = {"claude": ("user", "assistant"), "reasoning": ("system", "user", "assistant", "developer")}
_PARTS = {"claude": ("text", "image", "document"), "reasoning": ("text", "image_url")}
_ROLES["chat"], _PARTS["chat"] = _ROLES["reasoning"], _PARTS["reasoning"]
_VERSION = re.compile(r"(\d+)[-.](\d+)")


def context_window(alias: str) -> int:
    """Return the context window of an alias, in tokens."""
    return 200_000 if family_of(alias) == "claude" else _by_beginning(WINDOWS, alias)


def reply_cap(request: ModelRequest) -> int:
    """Return where the vendor ends a reply, in tokens."""
    return _by_beginning(CHAT_CAPS, request.alias) if request.max_tokens is None else request.max_tokens


def _by_beginning(table: tuple[tuple[str, int], ...], alias: str) -> int:
    return next(number for beginning, number in table if alias.startswith(beginning))


def input_tokens(request: ModelRequest) -> int:
    """Estimate the tokens of a prompt from its text."""
    return estimate_tokens(sum(len(text_of(message)) for message in request.messages))


def measured(reply: ModelReply, request: ModelRequest) -> ModelReply:
    """Cut a reply where the vendor ends it, and count the tokens that the model has not counted."""
    cap = reply_cap(request)
    text = reply.text[: cap * CHARACTERS_PER_TOKEN]
    written = estimate_tokens(len(text)) if reply.output_tokens is None else reply.output_tokens
    return ModelReply(
        text,
        input_tokens(request) if reply.input_tokens is None else reply.input_tokens,
        cap if text != reply.text else min(written, cap),
    )


def objections(request: ModelRequest) -> Iterator[str]:
    """Yield the reasons for which the vendor answers the request with an error; none of them reaches the client."""
    family = family_of(request.alias)
    tokens, window = input_tokens(request), context_window(request.alias)
    if tokens > window:
        yield f"the prompt has {tokens} tokens, the window is {window}"
    limit = REASONING_LIMITS.get(request.alias, sys.maxsize)
    if family == "reasoning" and not 0 < (request.max_tokens or 0) <= limit:
        yield f"max_completion_tokens {request.max_tokens} is not between 1 and {limit}"
    turns = request.messages[1:] if family == "claude" and request.system else request.messages
    if not turns:
        yield "there are no messages"
    for number, message in enumerate(turns):
        yield from (f"messages.{number}: {reason}" for reason in _faults_of(family, message))
    if turns and turns[-1].get("role") == "assistant" and _refuses_prefill(request.alias):
        yield "the conversation ends with an assistant turn"


def _faults_of(family: Family, message: dict[str, Any]) -> Iterator[str]:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES[family]:
        yield f"role {role!r}"
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        yield "content is neither text nor an array of parts"
        return
    if unknown := {str(part.get("type")) for part in parts} - set(_PARTS[family]):
        yield f"content holds {sorted(unknown)}"
    elif family == "claude":
        texts = [str(part.get("text", "")) for part in parts if part["type"] == "text"]
        if not parts or not all(text.strip() for text in texts):
            yield "a text block is empty"
        elif role == "assistant" and texts and texts[-1] != texts[-1].rstrip():
            yield "an assistant turn ends in white space"


def _refuses_prefill(alias: str) -> bool:
    version = _VERSION.search(alias) if family_of(alias) == "claude" else None
    return version is not None and (int(version[1]), int(version[2])) >= (4, 6)
