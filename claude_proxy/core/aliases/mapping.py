"""Model name -> SecureChatAI alias, and what is known of an alias.

SecureChatAI calls its models by aliases that each server chooses. Which alias answers for a model name is decided by
the first rule that fits: the configured map, the built-in table, the family of the name, the name itself.

What is said of an alias in the configuration file goes before what is known of it here, fact by fact. An alias may
stand on several servers, and is another model on each.

Windows and limits are the vendors' and the module's (read from the module in June 2026); it enforces no window, and
answers a prompt beyond one with an apology that names no cause. Dots and dashes in aliases differ between servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from claude_proxy.errors import InvalidRequest
from claude_proxy.settings.alias_facts import AliasFacts, Family, Tokenizer
from claude_proxy.settings.table import DEFAULT_SERVER

T = TypeVar("T")

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
        sees: whether it takes images.
        counted_as: whose way to count tokens comes nearest, where it is not that of its family.
    """

    name: str
    family: Family
    window: int
    max_output: int
    sees: bool = False
    counted_as: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose way to count tokens comes nearest."""
        if self.counted_as:
            return self.counted_as
        return "claude" if self.family == "claude" else "openai"

    @property
    def reads_pdfs(self) -> bool:
        """Whether it takes PDFs: the module passes them on in the form that Anthropic's models alone understand."""
        return self.family == "claude"


@dataclass(frozen=True)
class Choice:
    """The alias that answers for a model name.

    Attributes:
        alias: who answers.
        rule: what chose it, in words for an error message.
        is_client_text: whether the alias is the client's own text, which no log may hold.
        server: the name of the server it stands on.
    """

    alias: Alias
    rule: str
    is_client_text: bool = False
    server: str = DEFAULT_SERVER

    @property
    def label(self) -> str:
        """The alias, with its server where that is not the default one: what logs and health are kept by."""
        return label(self.alias.name, self.server)


def label(alias: str, server: str = DEFAULT_SERVER) -> str:
    """An alias, with its server where that is not the default one."""
    return alias if server == DEFAULT_SERVER else f"{alias}@{server}"


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

# Models that see, by their vendors' documentation; the first pattern that fits decides.
_SIGHT: tuple[tuple[str, bool], ...] = (
    ("o3-mini*", False),
    ("o[134]*", True),
    ("gpt-4o*", True),
    ("gpt-4[.-]1*", True),
    ("gpt-5*", True),
    ("gemini*", True),
    ("llama-4*", True),
    ("llama-[Mm]averick*", True),
    ("*claude*", True),
    ("*anthropic*", True),
)

_REASONING = frozenset({"o1", "o3-mini", "o3", "o4-mini", "gpt-5"})


def describe_alias(
    name: str, sight: Mapping[str, bool] | None = None, facts: Mapping[str, AliasFacts] | None = None
) -> Alias:
    """What is known of an alias; an unknown one gets cautious figures.

    Args:
        name: the alias.
        sight: configured patterns of aliases, and whether they see; before everything else.
        facts: what is said of aliases, by name or pattern; before the built-in tables.
    """
    of_name = [facts[name]] if facts and name in facts else []
    said = [*of_name, *(each for pattern, each in (facts or {}).items() if fnmatchcase(name, pattern))]

    def first(fact: str) -> Any:
        return next((found for each in said if (found := getattr(each, fact)) is not None), None)

    sees = first("sees")
    return Alias(
        name,
        family=first("family") or _family(name),
        window=first("window") or _first_match(name, _WINDOWS, _UNKNOWN_WINDOW),
        max_output=first("max_output") or _first_match(name, _MAX_OUTPUTS, _UNKNOWN_MAX_OUTPUT),
        sees=_first_match(
            name, (sight or {}).items(), _first_match(name, _SIGHT, default=False) if sees is None else sees
        ),
        counted_as=first("tokenizer"),
    )


def _family(name: str) -> Family:
    # The module's own test, case and all.
    if name.startswith("claude") or "anthropic" in name:
        return "claude"
    return "reasoning" if name in _REASONING else "chat"


def _first_match(name: str, table: Iterable[tuple[str, T]], default: T) -> T:
    return next((value for pattern, value in table if fnmatchcase(name, pattern)), default)


def choose_alias(
    model: str,
    model_map: Mapping[str, str],
    sight: Mapping[str, bool] | None = None,
    facts: Mapping[str, AliasFacts] | None = None,
    servers: Mapping[str, str] | None = None,
) -> Choice:
    """Decide which alias answers for a model name.

    Args:
        model: the name as the client sent it.
        model_map: configured names and patterns (`*`, `?`, `[…]`); exact names first, then patterns in their order.
        sight: see `describe_alias`.
        facts: likewise.
        servers: the servers of those entries of the map that do not lead to the default one.
    """
    name = model.removesuffix(_LONG_CONTEXT_SUFFIX)
    entry = name if name in model_map else next((each for each in model_map if fnmatchcase(name, each)), None)
    if entry is not None:
        rule = "an entry of MODEL_MAP" if entry == name else f"the pattern {entry!r} of MODEL_MAP"
        alias = describe_alias(model_map[entry], sight, facts)
        return Choice(alias, rule, server=(servers or {}).get(entry, DEFAULT_SERVER))
    found, rule = _choose_built_in(name)
    return Choice(describe_alias(found or name, sight, facts), rule, is_client_text=found is None)


def _choose_built_in(name: str) -> tuple[str | None, str]:
    if name in DEFAULT_ALIASES:
        return DEFAULT_ALIASES[name], "the built-in table"
    for pattern, alias in _FAMILY_ALIASES:
        if fnmatchcase(name.lower(), pattern):
            return alias, f"the built-in rule for names like {pattern}"
    return None, "the name itself, which no rule maps"


def offered_models(model_map: Mapping[str, str]) -> list[str]:
    """The names for the models list: the configured ones, then the built-in table's, without patterns or repeats."""
    configured = [name for name in model_map if not set(name) & set("*?[")]
    return list(dict.fromkeys([*configured, *DEFAULT_ALIASES]))


@dataclass(frozen=True)
class Page:
    """Which part of the models list is asked for: at most `limit` behind `after_id`, or before `before_id`."""

    limit: int = 20
    after_id: str | None = None
    before_id: str | None = None
    lifecycle: frozenset[str] = frozenset({"active", "deprecated"})


def read_page(query: Mapping[str, Sequence[str]]) -> Page:
    """The page that a query asks for.

    Raises:
        InvalidRequest: `limit` is not a number from 1 to 1000.
    """
    limit = query.get("limit", ["20"])[-1]
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= 1000):
        raise InvalidRequest("Input should be from 1 to 1000", "limit")
    lifecycle = frozenset(query.get("lifecycle[]", ())) or Page.lifecycle
    return Page(int(limit), query.get("after_id", [None])[-1], query.get("before_id", [None])[-1], lifecycle)


def list_json(listed: Sequence[Mapping[str, Any]], page: Page) -> dict[str, Any]:
    """A page of the models list. A cursor that is not in the list gives an empty page.

    `has_more` is always there: without it SDKs ask on until a page is empty.
    """
    data = [model for model in listed if model["lifecycle"] in page.lifecycle]
    ids = [model["id"] for model in data]
    if page.after_id is not None:
        data = data[ids.index(page.after_id) + 1 :] if page.after_id in ids else []
    elif page.before_id is not None:
        data = data[: ids.index(page.before_id)] if page.before_id in ids else []
    has_more = len(data) > page.limit
    data = data[-page.limit :] if page.before_id is not None and page.after_id is None else data[: page.limit]
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


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
        "allowed_fallback_models": None,
        "capabilities": {
            "batch": no,
            "citations": no,
            "compaction": no | {"summarize": no},
            "code_execution": no,
            "context_management": no
            | {"clear_thinking_20251015": no, "clear_tool_uses_20250919": no, "compact_20260112": no},
            "effort": no | {"low": no, "medium": no, "high": no, "xhigh": no, "max": no},
            "image_input": {"supported": alias.sees},
            "pdf_input": {"supported": alias.reads_pdfs},
            "server_tools": no | {"web_search": no, "code_execution": no},
            "structured_outputs": yes,
            "thinking": no | {"types": {"adaptive": yes, "between_tools": yes, "disabled": yes, "enabled": yes}},
        },
    }
