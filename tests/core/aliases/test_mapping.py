"""Which alias answers for a model name, and what is known of an alias."""

from __future__ import annotations

from typing import Any

import pytest

from claude_proxy.core.aliases.mapping import (
    Page,
    choose_alias,
    describe_alias,
    list_json,
    model_json,
    offered_models,
    read_page,
)
from claude_proxy.demo import module, simulator, vendors
from claude_proxy.errors import InvalidRequest
from claude_proxy.settings.alias_facts import AliasFacts

BUILT_IN = [
    ("claude-haiku-4-5-20251001", "gpt-4o"),
    ("claude-3-7-sonnet-20250219", "claude"),
    ("claude-sonnet-4", "claude"),
    ("o3-mini", "o3-mini"),
    ("o1", "o1"),
    ("gpt-4.1", "gpt-4.1"),
    ("deepseek", "deepseek"),
]
BY_FAMILY = [
    ("claude-haiku-4-5", "gpt-4o"),
    ("claude-3-5-haiku-20241022", "gpt-4o"),
    ("us.anthropic.claude-haiku-4-5-v1:0", "gpt-4o"),
    ("Claude-Haiku-9", "gpt-4o"),
    ("claude-opus-5-5", "claude"),
    ("claude-opus-4-1-20250805", "claude"),
    ("claude", "claude"),
    ("my-claude", "claude"),
]
AS_THEY_ARE = ["gpt-4o", "gemini-2.5-pro", "llama-Maverick", "haiku", "sonnet", "o3-mini-high", "my/model:1"]


@pytest.mark.parametrize(("model", "alias"), BUILT_IN + BY_FAMILY)
def test_a_claude_name_is_mapped_by_table_then_by_family(model: str, alias: str) -> None:
    choice = choose_alias(model, {})
    assert choice.alias == describe_alias(alias)
    assert not choice.is_client_text


@pytest.mark.parametrize("model", AS_THEY_ARE)
def test_a_name_without_claude_is_an_alias(model: str) -> None:
    choice = choose_alias(model, {})
    assert choice.alias.name == model
    assert choice.is_client_text


@pytest.mark.parametrize(
    ("model", "alias"),
    [
        ("claude-opus-5-5[1m]", "claude"),
        ("claude-haiku-4-5-20251001[1m]", "gpt-4o"),
        ("gpt-4.1[1m]", "gpt-4.1"),
        ("gemini-2.5-pro[1m]", "gemini-2.5-pro"),
        ("my[1m]model", "my[1m]model"),
    ],
)
def test_a_trailing_suffix_for_long_context_is_dropped(model: str, alias: str) -> None:
    assert choose_alias(model, {}).alias.name == alias


CONFIGURED = {
    "claude-opus-*": "claude-opus-4",
    "claude-opus-4-1": "exact",
    "claude-*-4-?": "by-digit",
    "gpt-[45]*": "any-gpt",
    "o1": "o3",
    "fast": "gpt-4o",
}


@pytest.mark.parametrize(
    ("model", "alias", "rule"),
    [
        pytest.param("claude-opus-4-1", "exact", "MODEL_MAP", id="an exact name before any pattern"),
        pytest.param("claude-opus-9", "claude-opus-4", "claude-opus-*", id="a star"),
        pytest.param("claude-opus-9[1m]", "claude-opus-4", "claude-opus-*", id="a star, after the suffix is dropped"),
        pytest.param("claude-opus-4-5", "claude-opus-4", "claude-opus-*", id="the first pattern that fits"),
        pytest.param("claude-sonnet-4-5", "by-digit", "claude-*-4-?", id="a question mark"),
        pytest.param("gpt-5-nano", "any-gpt", "gpt-[45]*", id="a set"),
        pytest.param("o1", "o3", "MODEL_MAP", id="over the built-in table"),
        pytest.param("fast", "gpt-4o", "MODEL_MAP", id="a name of one's own"),
        pytest.param("claude-sonnet-4-55", "claude", "*claude*", id="no pattern fits: by family"),
        pytest.param("deepseek", "deepseek", "built-in", id="nothing fits: by the built-in table"),
        pytest.param("grok-3", "grok-3", "itself", id="nothing fits at all"),
    ],
)
def test_the_configured_map_goes_first(model: str, alias: str, rule: str) -> None:
    choice = choose_alias(model, CONFIGURED)
    assert choice.alias.name == alias
    assert rule in choice.rule


def test_offered_are_the_configured_names_and_the_built_in_ones_once_each_and_no_patterns() -> None:
    built_in = [name for name, _ in BUILT_IN]
    assert offered_models({}) == built_in
    assert offered_models({"mine": "x", "a*": "x", "b?": "x", "c[1]": "x", "o1": "o3"}) == [
        "mine",
        "o1",
        *(name for name in built_in if name != "o1"),
    ]


FACTS = [
    # alias, family, window, most tokens of a reply
    ("claude", "claude", 200_000, 8_192),
    ("claude-sonnet-3.5", "claude", 200_000, 8_192),
    ("claude-sonnet-3.7", "claude", 200_000, 8_192),
    ("claude-haiku-4.5", "claude", 200_000, 8_192),
    ("claude-sonnet-4", "claude", 200_000, 16_000),
    ("claude-sonnet-4-5", "claude", 200_000, 16_384),
    ("claude-sonnet-4.6", "claude", 200_000, 16_384),
    ("claude-opus-4", "claude", 200_000, 32_000),
    ("claude-opus-4-6", "claude", 200_000, 16_384),
    ("my-anthropic", "claude", 200_000, 16_384),
    ("o1", "reasoning", 200_000, 100_000),
    ("o3", "reasoning", 200_000, 100_000),
    ("o3-mini", "reasoning", 200_000, 100_000),
    ("o4-mini", "reasoning", 200_000, 100_000),
    ("gpt-5", "reasoning", 400_000, 128_000),
    ("gpt-5-nano", "chat", 400_000, 128_000),
    ("gpt-4.1", "chat", 1_000_000, 32_768),
    ("gpt-4-1-nano", "chat", 1_000_000, 32_768),
    ("gemini-2.5-flash", "chat", 1_000_000, 65_536),
    ("gpt-4o", "chat", 128_000, 16_384),
    ("deepseek-r1", "chat", 128_000, 16_384),
    ("grok-3", "chat", 128_000, 16_384),
    ("llama-4-scout", "chat", 128_000, 16_384),
    ("whatever", "chat", 128_000, 16_384),
]


@pytest.mark.parametrize(("name", "family", "window", "max_output"), FACTS)
def test_what_is_known_of_an_alias(name: str, family: str, window: int, max_output: int) -> None:
    alias = describe_alias(name)
    assert (alias.name, alias.family, alias.window, alias.max_output) == (name, family, window, max_output)


@pytest.mark.parametrize("name", module.ALIASES)
def test_the_pretend_module_agrees(name: str) -> None:
    alias = describe_alias(name)
    received = simulator.Received({"max_tokens": str(alias.max_output)})
    request = module.model_request(name, {}, received)
    assert alias.family == module.family_of(name)
    assert alias.window == vendors.context_window(name)
    assert alias.max_output == vendors.reply_cap(request)


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "claude-sonnet-3-7", "claude-sonnet-3-5"])
def test_a_cap_belongs_to_the_exact_alias(name: str) -> None:
    # Taken for 8,192, a whole reply of 9,000 tokens counts as cut off, and its last call may be thrown away.
    assert describe_alias(name).max_output == 16_384


def test_a_model_as_the_models_list_describes_it() -> None:
    data = model_json("claude-haiku-4-5", describe_alias("gpt-4o"))
    assert (data["type"], data["id"]) == ("model", "claude-haiku-4-5")
    assert "gpt-4o" in data["display_name"]
    assert (data["max_input_tokens"], data["max_tokens"]) == (128_000, 16_384)
    assert data["created_at"].endswith("Z")
    assert data["lifecycle"] == "active"
    assert {key: data[key] for key in ("deprecated_at", "retires_at", "line")} == dict.fromkeys(
        ("deprecated_at", "retires_at", "line")
    )


CAPABILITIES: dict[str, set[str]] = {
    "batch": set(),
    "citations": set(),
    "compaction": {"summarize"},
    "code_execution": set(),
    "context_management": {"clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"},
    "effort": {"low", "medium", "high", "xhigh", "max"},
    "image_input": set(),
    "pdf_input": set(),
    "server_tools": {"web_search", "code_execution"},
    "structured_outputs": set(),
    "thinking": {"types"},
}


def test_every_capability_is_there_because_clients_index_without_looking() -> None:
    capabilities: dict[str, Any] = model_json("m", describe_alias("deepseek"))["capabilities"]
    assert {name: set(value) - {"supported"} for name, value in capabilities.items()} == CAPABILITIES
    assert {name for name, value in capabilities.items() if value["supported"]} == {"structured_outputs"}
    types = capabilities["thinking"]["types"]
    assert types == {kind: {"supported": True} for kind in ("adaptive", "between_tools", "disabled", "enabled")}


# --- sight ------------------------------------------------------------------------------------------------------------

SIGHT = [
    # alias, sees images, reads PDFs
    ("claude", True, True),
    ("claude-sonnet-4.6", True, True),
    ("my-anthropic", True, True),
    ("my-claude", True, False),
    ("gpt-4o", True, False),
    ("gpt-4-1-nano", True, False),
    ("gpt-5", True, False),
    ("gemini-2.5-pro", True, False),
    ("llama-4-scout", True, False),
    ("llama-Maverick", True, False),
    ("o1", True, False),
    ("o4-mini", True, False),
    ("o3-mini", False, False),
    ("o3-mini-high", False, False),
    ("deepseek-r1", False, False),
    ("gpt-4", False, False),
    ("whatever", False, False),
]


@pytest.mark.parametrize(("name", "sees", "reads_pdfs"), SIGHT)
def test_which_alias_can_see(name: str, sees: bool, reads_pdfs: bool) -> None:
    alias = describe_alias(name)
    assert (alias.sees, alias.reads_pdfs) == (sees, reads_pdfs)
    capabilities = model_json("m", alias)["capabilities"]
    assert capabilities["image_input"] == {"supported": sees}
    assert capabilities["pdf_input"] == {"supported": reads_pdfs}


def test_sight_can_be_configured_and_the_first_pattern_decides() -> None:
    sight = {"gpt-4o-blind": False, "gpt-4o*": True, "whatever": True, "claude": False}
    assert [describe_alias(name, sight).sees for name in ("gpt-4o-blind", "gpt-4o-x", "whatever", "claude")] == [
        *(False, True, True, False),
    ]
    assert choose_alias("claude-sonnet-4", {}, sight).alias.sees is False
    assert choose_alias("o1", {"o1": "whatever"}, sight).alias.sees is True


# --- what is configured of an alias -----------------------------------------------------------------------------------

SAID = {
    "gpt-*": AliasFacts(window=50_000, sees=False, family="reasoning"),
    "gpt-4o": AliasFacts(window=64_000, max_output=1_000, tokenizer="claude"),
    "*": AliasFacts(max_output=2_000),
    "claude": AliasFacts(family="chat"),
}
SAID_OF = [
    # alias, window, most tokens of a reply, sees, family, tokenizer, reads PDFs
    ("gpt-4o", 64_000, 1_000, False, "reasoning", "claude", False),
    ("gpt-4.1", 50_000, 2_000, False, "reasoning", "openai", False),
    ("claude", 200_000, 2_000, True, "chat", "openai", False),
    ("o3", 200_000, 2_000, True, "reasoning", "openai", False),
]


@pytest.mark.parametrize(("name", "window", "max_output", "sees", "family", "tokenizer", "reads_pdfs"), SAID_OF)
def test_what_is_said_of_an_alias_goes_before_what_is_known(
    name: str, window: int, max_output: int, sees: bool, family: str, tokenizer: str, reads_pdfs: bool
) -> None:
    """Fact by fact: what stands under the very name first, then the patterns in their order."""
    alias = describe_alias(name, None, SAID)
    assert (alias.window, alias.max_output, alias.sees) == (window, max_output, sees)
    assert (alias.family, alias.tokenizer, alias.reads_pdfs) == (family, tokenizer, reads_pdfs)
    assert choose_alias("mine", {"mine": name}, {}, SAID).alias == alias


def test_configured_sight_goes_before_the_other_facts() -> None:
    assert describe_alias("gpt-4o", {"gpt-4o": True}, SAID).sees is True


# --- servers ----------------------------------------------------------------------------------------------------------

SERVERS = {"claude-opus-*": "lab", "fast": "near"}


@pytest.mark.parametrize(
    ("model", "server", "label"),
    [
        ("claude-opus-9", "lab", "claude-opus-4@lab"),
        ("claude-opus-9[1m]", "lab", "claude-opus-4@lab"),
        ("claude-opus-4-1", "default", "exact"),
        ("fast", "near", "gpt-4o@near"),
        ("o1", "default", "o3"),
        ("claude-sonnet-9", "default", "claude"),
        ("grok-3", "default", "grok-3"),
    ],
)
def test_the_entry_that_decides_on_the_alias_decides_on_the_server(model: str, server: str, label: str) -> None:
    choice = choose_alias(model, CONFIGURED, servers=SERVERS)
    assert (choice.server, choice.label) == (server, label)


# --- the list ---------------------------------------------------------------------------------------------------------


def listed(*lifecycles: str) -> list[dict[str, Any]]:
    return [{"id": str(number), "lifecycle": lifecycle} for number, lifecycle in enumerate(lifecycles)]


FIVE = listed(*["active"] * 5)
PAGES: list[tuple[Page, list[str], bool]] = [
    # page, ids, whether there are more
    (Page(), ["0", "1", "2", "3", "4"], False),
    (Page(5), ["0", "1", "2", "3", "4"], False),
    (Page(2), ["0", "1"], True),
    (Page(2, after_id="1"), ["2", "3"], True),
    (Page(2, after_id="2"), ["3", "4"], False),
    (Page(2, after_id="4"), [], False),
    (Page(2, after_id="gone"), [], False),
    (Page(2, before_id="4"), ["2", "3"], True),
    (Page(2, before_id="2"), ["0", "1"], False),
    (Page(2, before_id="0"), [], False),
    (Page(2, before_id="gone"), [], False),
]


@pytest.mark.parametrize(
    ("page", "ids", "more"),
    PAGES,
    ids=[f"{page.limit}, after {page.after_id}, before {page.before_id}" for page, *_ in PAGES],
)
def test_a_page_of_the_list(page: Page, ids: list[str], more: bool) -> None:
    assert list_json(FIVE, page) == {
        "data": [FIVE[int(each)] for each in ids],
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def test_going_through_the_pages_shows_every_model_once() -> None:
    for limit in (1, 2, 3, 5):
        seen: list[str] = []
        page = Page(limit)
        while (answer := list_json(FIVE, page))["data"]:
            seen += [model["id"] for model in answer["data"]]
            if not answer["has_more"]:
                break
            page = Page(limit, after_id=answer["last_id"])
        assert seen == ["0", "1", "2", "3", "4"]


def test_retired_models_are_listed_only_when_asked_for() -> None:
    models = listed("active", "retired", "deprecated")
    assert [model["id"] for model in list_json(models, Page())["data"]] == ["0", "2"]
    only = Page(lifecycle=frozenset({"retired"}))
    assert [model["id"] for model in list_json(models, only)["data"]] == ["1"]


def test_the_page_that_a_query_asks_for() -> None:
    assert read_page({}) == Page()
    query = {"limit": ["1000"], "after_id": ["a/b"], "beta": ["true"], "lifecycle[]": ["active", "retired"]}
    assert read_page(query) == Page(1000, "a/b", None, frozenset({"active", "retired"}))
    assert read_page({"before_id": ["x"]}) == Page(before_id="x")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.5", "ten", "", "٣", "9" * 5_000])
def test_a_limit_is_from_1_to_1000(limit: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_page({"limit": [limit]})
    assert caught.value.message == "limit: Input should be from 1 to 1000"
