"""Model name -> SecureChatAI alias, and what is known of an alias.

SecureChatAI calls its models by aliases that each server chooses. Which alias answers for a model name is decided by
the first rule that fits: the configured map, the built-in table, the family of the name, the name itself.

Windows and limits are the vendors' and the module's (read from the module in June 2026); it enforces no window, and
answers a prompt beyond one with an apology that names no cause. Dots and dashes in aliases differ between servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

Family: TypeAlias = Literal["claude", "reasoning", "chat"]

# Names people and clients use out of the box.
DEFAULT_ALIASES: Mapping[str, str] = {
    "claude-haiku-4-5-20251001": "gpt-4o",
    "claude-3-7-sonnet-20250219": "claude",
    "claude-sonnet-4": "claude",
    "o3-mini": "o3-mini",
    "o1": "o1",
    "gpt-4.1": "gpt-4.1",
    "deepseek": "deepseek",
}
_FAMILY_ALIASES = (("*claude*haiku*", "gpt-4o"), ("*claude*", "claude"))

_LONG_CONTEXT_SUFFIX = "[1m]"


@dataclass(frozen=True)
class Alias:
    """What is known of the model behind an alias.

    Attributes:
        name: the alias, as the module takes it.
        family: how the module passes a call on: in Bedrock's Claude form, to a reasoning model (which alone is told
            `max_tokens`), or in OpenAI's chat form.
        window: tokens of prompt and reply together that the model can hold.
        max_output: tokens at which a reply is cut, without the caller being told.
    """

    name: str
    family: Family
    window: int
    max_output: int


@dataclass(frozen=True)
class Choice:
    """The alias that answers for a model name.

    Attributes:
        alias: who answers.
        rule: what chose it, in words for an error message.
        is_client_text: whether the alias is the client's own text, which no log may hold.
    """

    alias: Alias
    rule: str
    is_client_text: bool = False


_WINDOWS: tuple[tuple[str, int], ...] = (
    ("gpt-5*", 400_000),
    ("gpt-4[.-]1*", 1_000_000),
    ("gemini-2[.-]5*", 1_000_000),
    ("*claude*", 200_000),
    ("*anthropic*", 200_000),
    ("o[134]*", 200_000),
)
_UNKNOWN_WINDOW = 128_000

# The module's own limits for Claude aliases; elsewhere the vendors' (a reasoning model refuses a larger number).
_MAX_OUTPUTS: tuple[tuple[str, int], ...] = (
    ("claude", 8_192),
    ("claude-sonnet-3.[57]", 8_192),  # these with a dot only: the module looks for the very name
    ("claude-haiku-4.5", 8_192),
    ("claude-sonnet-4", 16_000),
    ("claude-opus-4", 32_000),
    ("*claude*", 16_384),
    ("*anthropic*", 16_384),
    ("o[134]*", 100_000),
    ("gpt-5*", 128_000),
    ("gpt-4[.-]1*", 32_768),
    ("gemini-2[.-]5*", 65_536),
)
_UNKNOWN_MAX_OUTPUT = 16_384

_REASONING = frozenset({"o1", "o3-mini", "o3", "o4-mini", "gpt-5"})


def describe_alias(name: str) -> Alias:
    """What is known of an alias; an unknown one gets cautious figures."""
    return Alias(
        name,
        family=_family(name),
        window=_first_match(name, _WINDOWS, _UNKNOWN_WINDOW),
        max_output=_first_match(name, _MAX_OUTPUTS, _UNKNOWN_MAX_OUTPUT),
    )


def _family(name: str) -> Family:
    # The module's own test, case and all.
    if name.startswith("claude") or "anthropic" in name:
        return "claude"
    return "reasoning" if name in _REASONING else "chat"


def _first_match(name: str, table: Iterable[tuple[str, int]], default: int) -> int:
    return next((value for pattern, value in table if fnmatchcase(name, pattern)), default)


def choose_alias(model: str, model_map: Mapping[str, str]) -> Choice:
    """Decide which alias answers for a model name.

    Args:
        model: the name as the client sent it.
        model_map: configured names and patterns (`*`, `?`, `[…]`); exact names first, then patterns in their order.
    """
    name = model.removesuffix(_LONG_CONTEXT_SUFFIX)
    if name in model_map:
        return Choice(describe_alias(model_map[name]), "an entry of MODEL_MAP")
    for pattern, alias in model_map.items():
        if fnmatchcase(name, pattern):
            return Choice(describe_alias(alias), f"the pattern {pattern!r} of MODEL_MAP")
    if name in DEFAULT_ALIASES:
        return Choice(describe_alias(DEFAULT_ALIASES[name]), "the built-in table")
    for pattern, alias in _FAMILY_ALIASES:
        if fnmatchcase(name.lower(), pattern):
            return Choice(describe_alias(alias), f"the built-in rule for names like {pattern}")
    return Choice(describe_alias(name), "the name itself, which no rule maps", is_client_text=True)


def offered_models(model_map: Mapping[str, str]) -> list[str]:
    """The names for the models list: the configured ones, then the built-in table's, without patterns or repeats."""
    configured = [name for name in model_map if not set(name) & set("*?[")]
    return list(dict.fromkeys([*configured, *DEFAULT_ALIASES]))


def model_json(name: str, alias: Alias) -> dict[str, Any]:
    """A model as `GET /v1/models` describes it.

    A `supported` under `thinking.types` means that a request of that type is not refused. SDKs index the capabilities
    without looking, so every key is there.
    """
    no = {"supported": False}
    yes = {"supported": True}
    return {
        "type": "model",
        "id": name,
        "display_name": f"{name} ({alias.name} on SecureChatAI)",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": alias.window,
        "max_tokens": alias.max_output,
        "capabilities": {
            "batch": no,
            "citations": no,
            "code_execution": no,
            "context_management": no
            | {"clear_thinking_20251015": no, "clear_tool_uses_20250919": no, "compact_20260112": no},
            "effort": no | {"low": no, "medium": no, "high": no, "xhigh": no, "max": no},
            "image_input": no,
            "pdf_input": no,
            "server_tools": no | {"web_search": no, "code_execution": no},
            "structured_outputs": no,
            "thinking": no | {"types": {"adaptive": yes, "between_tools": yes, "disabled": yes, "enabled": yes}},
        },
    }
