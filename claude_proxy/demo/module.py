"""SecureChatAI: how it turns the fields of a form into a request to a model's vendor, and what it does to the reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from claude_proxy.demo.model import ModelRequest, estimate_tokens
from claude_proxy.demo.php import (
    PhpFatalError,
    html_entity_decode,
    php_empty,
    php_float,
    php_int,
    php_json_decode,
    php_json_encode,
    php_string,
    php_trim,
)

if TYPE_CHECKING:
    from claude_proxy.demo.form import Received
    from claude_proxy.demo.model import Family

PREFIX = "secure_chat_ai"
ALIASES = (
    *("chat", "claude", "claude-haiku-4.5", "claude-opus-4-1", "claude-opus-4-6", "claude-opus-4-7"),
    *("claude-sonnet-4", "claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-4.6"),
    *("deepseek", "deepseek-r1", "gemini-2.5-flash", "gemini-2.5-pro"),
    *("gpt-4o", "gpt-4.1", "gpt-4-1", "gpt-4-1-nano", "gpt-5", "gpt-5-4", "gpt-5-4-nano", "gpt-5-nano"),
    *("grok-3", "grok-3-mini", "llama-4-scout", "llama3370b", "llama-Maverick", "o1", "o3", "o3-mini", "o4-mini"),
)
PUBLISHED_ALIASES = (
    *("claude-sonnet-4.6", "claude-opus-4-7", "gemini-2.5-flash", "gemini-2.5-pro", "deepseek-r1"),
    *("gpt-4-1", "gpt-4-1-nano", "gpt-5-4", "gpt-5-4-nano", "o3", "o4-mini"),
)
"""The aliases of the production list that the module's makers have published (May 2026)."""
ANTHROPIC_NAMES = {"claude-3-7-sonnet-20250219": "claude", "claude-3-5-sonnet-20241022": "claude"}
"""The model names that the module itself maps to an alias."""

MESSAGES_DEFAULTS = {"model": "o3-mini", "max_tokens": "4096"}
CALL_AI_DEFAULTS = {"model": "deepseek", "max_tokens": "8000", "temperature": "0.2"}
ATTEMPTS = 3

REASONING_ALIASES = frozenset({"o1", "o3", "o3-mini", "o4-mini", "gpt-5"})
WITHOUT_STOP_REASON = frozenset({"o1", "o3-mini", "gpt-5"})
"""The aliases whose replies always say `end_turn`."""
SCHEMA_ALIASES = frozenset(
    {"gpt-4-1", "gpt-4-1-nano", "gpt-5", "gpt-5-4", "gpt-5-4-nano", "o1", "o3", "o3-mini", "o4-mini"}
)

CLAUDE_CAPS = {
    "claude": 8_192,
    "claude-sonnet-3.5": 8_192,
    "claude-sonnet-3.7": 8_192,
    "claude-haiku-4.5": 8_192,
    "claude-sonnet-4": 16_000,
    "claude-opus-4": 32_000,
}
"""The `max_tokens` that the module sends in place of the caller's; every other Claude alias gets `CLAUDE_CAP`."""
CLAUDE_CAP = 16_384
CLAUDE_WINDOW, CLAUDE_MARGIN, CLAUDE_LEAST = 200_000, 2_000, 1_024
"""What bounds the caps by name: the window without the first message and a margin, but never less than the last."""

NETWORK_APOLOGY = "I apologize, but I'm experiencing network difficulties. Please wait a moment and try again."
TECHNICAL_APOLOGY = "I apologize, but I'm experiencing technical difficulties. Please wait a moment and try again."
REPHRASE_APOLOGY = "I apologize, but I wasn't able to complete that request properly. Could you try rephrasing?"


@dataclass(frozen=True)
class ServerSettings:
    """What an administrator has set for the sampling; to the module, zero is the same as not set."""

    temperature: float = 0.0
    top_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


DEFAULTS = ServerSettings(temperature=0.7, top_p=0.9, frequency_penalty=0.5)
NOTHING_SET = ServerSettings()


class Refusal(Exception):
    """The request cannot come to a reply: what the vendor, or the module itself, has against it."""


def family_of(alias: str) -> Family:
    """Return the form in which the module sends requests for an alias."""
    if alias.startswith("claude") or "anthropic" in alias:
        return "claude"
    return "reasoning" if alias in REASONING_ALIASES else "chat"


# --- From fields to a request -----------------------------------------------------------------------------------------


def read_messages(received: Received) -> dict[str, Any]:
    """Return the messages of a form as PHP has them: values by keys, the `system` text first.

    They are empty where the field holds no array. Raises `PhpFatalError` where the model's name is one.
    """
    value = php_json_decode(received.fields.get("messages", ""))
    if "messages" in received.arrays:
        value = list(received.arrays["messages"])
    if not value or not isinstance(value, list | dict):
        return {}
    if "model" in received.arrays:
        raise PhpFatalError("an array cannot be a key of the table of names")
    messages = {str(number): item for number, item in enumerate(value)} if isinstance(value, list) else dict(value)
    system: Any = received.arrays.get("system", received.fields.get("system", ""))
    return messages if php_empty(system) else _put_first({"role": "system", "content": system}, messages)


def _put_first(first: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """Do what `array_unshift` does: numeric keys are counted anew, others stay."""
    result: dict[str, Any] = {"0": first}
    number = 0
    for key, value in rest.items():
        is_number = key.removeprefix("-").isdecimal() and str(int(key)) == key
        number += is_number
        result[str(number) if is_number else key] = value
    return result


def model_request(
    alias: str,
    messages: dict[str, Any],
    received: Received,
    settings: ServerSettings = NOTHING_SET,
) -> ModelRequest:
    """Turn messages, and the parameters among the fields, into what the alias's family is sent.

    Raises `PhpFatalError` where an array stands in place of a text, `Refusal` where no vendor knows the form.
    """
    fields = received.fields
    first = _first_text(messages)
    temperature, top_p = (php_float(fields[name]) if name in fields else None for name in ("temperature", "top_p"))
    if temperature is None:
        temperature = settings.temperature or DEFAULTS.temperature
    family = family_of(alias)
    if family == "claude":
        return ModelRequest(
            alias,
            _claude_messages(list(messages.values())),
            max_tokens=_claude_cap(alias, first),
            temperature=None if "opus" in alias else temperature,
        )
    whole = _openai_messages(messages)
    schema = _schema(fields.get("json_schema", "")) if alias in SCHEMA_ALIASES else None
    if family == "reasoning":
        return ModelRequest(alias, whole, max_tokens=php_int(fields["max_tokens"]), json_schema=schema)
    return ModelRequest(
        alias,
        whole,
        temperature=temperature,
        top_p=(settings.top_p or DEFAULTS.top_p) if top_p is None else top_p,
        frequency_penalty=settings.frequency_penalty or DEFAULTS.frequency_penalty,
        presence_penalty=settings.presence_penalty or DEFAULTS.presence_penalty,
        stop=tuple(received.arrays.get("stop", [fields["stop"]] if "stop" in fields else [])),
        json_schema=schema,
    )


def _first_text(messages: dict[str, Any]) -> str:
    """Return the text of which the module counts the tokens: that of the first message, which must be no array."""
    first = messages.get("0")
    return php_string(first.get("content")) if isinstance(first, dict) else ""


def _claude_cap(alias: str, first: str) -> int:
    if alias not in CLAUDE_CAPS:
        return CLAUDE_CAP
    room = CLAUDE_WINDOW - estimate_tokens(len(first)) - CLAUDE_MARGIN
    return max(CLAUDE_LEAST, min(room, CLAUDE_CAPS[alias]))


def _claude_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """Pull all system texts out to the front; of the others, nothing but role and content is left."""
    system, others = "", []
    for message in messages:
        if isinstance(message, str):
            raise PhpFatalError("a text has no role")
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if role == "system":
            system += ("" if php_empty(system) else "\n\n") + php_trim(php_string(content))
        else:
            others.append({"role": role, "content": content})
    return others if php_empty(system) else [{"role": "system", "content": system}, *others]


def _openai_messages(messages: dict[str, Any]) -> list[dict[str, Any]]:
    if list(messages) != [str(number) for number in range(len(messages))]:
        raise Refusal("the messages are no array")
    if not all(isinstance(message, dict) for message in messages.values()):
        raise Refusal("a message is no object")
    return list(messages.values())


def _schema(text: str) -> dict[str, Any] | None:
    """Read a schema: a bare one is wrapped and made strict, and PHP makes arrays of its empty objects."""
    value = php_json_decode(text)
    if not isinstance(value, dict):
        return None
    wrapped = value if "schema" in value else {"name": "response", "strict": True, "schema": value}
    return {key: _with_empty_arrays(item, key) for key, item in wrapped.items()}


def _with_empty_arrays(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_with_empty_arrays(item, "") for item in value]
    if not isinstance(value, dict):
        return value
    if not value and key != "properties":
        return []
    return {name: _with_empty_arrays(item, name) for name, item in value.items()}


# --- What becomes of a reply ------------------------------------------------------------------------------------------

# PCRE works on bytes here, so that its white space is that of ASCII. Each pattern starts at the beginning of a run:
# from within it, it would match no more, and only take long.
_CONTROLS = re.compile(r"[\x00-\x1f]")
_FENCE, _LAST_FENCE = re.compile(r"```json\s*", re.ASCII), re.compile(r"(?<!\s)\s*+```$", re.ASCII)
_BACKSTOP = re.compile(r'\{\s*"final_answer"\s*:\s*"(.*)', re.DOTALL | re.ASCII)
_BACKSTOP_END = re.compile(r'(?<!["}\s])["}\s]*+$', re.ASCII)
_BACKSTOP_ESCAPES = ((r"\n", "\n"), (r"\r", "\r"), (r"\t", "\t"), (r"\"", '"'), (r"\\", "\\"))


def process_reply(text: str, alias: str, *, decode_entities: bool = True) -> Any:
    """Do to a model's text what the module does: trim, decode entities once, look into JSON, look for an answer.

    What comes back is a text, or the value that an alias's JSON held. Two JSON texts count: the reply itself, which
    is kept whole (and undecoded) on aliases that are not Claude, and the decoded one without fences and control
    characters, out of which the answer is taken. Raises `PhpFatalError` where that is an array with something in it.
    """
    content = php_trim(text)
    if decode_entities:
        content = html_entity_decode(content)
    if not content.startswith(("{", "```json")):
        return _past_backstop(content)
    content = content[found.end() :] if (found := _FENCE.match(content)) else content
    content = php_trim(_LAST_FENCE.sub("", content))
    answer = php_json_decode(_CONTROLS.sub("", content))
    if not isinstance(answer, dict | list):
        return _past_backstop(content)
    if family_of(alias) != "claude" and isinstance(whole := php_json_decode(text), dict | list):
        return whole
    return _past_backstop(_extracted(answer, content))


def as_text(content: Any) -> Any:
    """Return a content as the one text of a message; false where PHP cannot encode it."""
    return content if isinstance(content, str) else php_json_encode(content)


def _extracted(answer: dict[str, Any] | list[Any], content: str) -> Any:
    keys = ("final_answer", "tool_call", "content", "message")
    found = next((key for key in keys if isinstance(answer, dict) and answer.get(key) is not None), None)
    if found is None or isinstance(answer, list):
        return content
    return REPHRASE_APOLOGY if found == "tool_call" else answer[found]


def _past_backstop(content: Any) -> Any:
    if php_empty(content) or not (found := _BACKSTOP.search(php_string(content))):
        return content
    content = _BACKSTOP_END.sub("", found[1])
    for escaped, character in _BACKSTOP_ESCAPES:
        content = content.replace(escaped, character)
    return content
