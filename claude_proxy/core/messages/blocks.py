"""Content blocks of a request -> the blocks of `core.messages.content`.

Each type has a reader in a table. A type that nobody knows is refused, since content would vanish without a word; the
blocks that Anthropic's own servers leave in a history, and thinking, say nothing to another model and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

from claude_proxy.core.messages.content import (
    Block,
    Document,
    Image,
    Role,
    Text,
    ToolReference,
    ToolRemoval,
    ToolResult,
    ToolUse,
)
from claude_proxy.core.messages.json_node import Node

# Reasoning of another model, and what Anthropic's own servers did: both stand in histories that began elsewhere.
DROPPED = frozenset(
    {"thinking", "redacted_thinking", "server_tool_use", "fallback", "mcp_tool_use", "mcp_tool_listing"}
    | {f"{kind}_tool_result" for kind in ("web_search", "web_fetch", "code_execution", "bash_code_execution")}
    | {f"{kind}_tool_result" for kind in ("text_editor_code_execution", "tool_search", "mcp", "advisor")}
)

Place: TypeAlias = Role | Literal["result", "document", "search_result"]
"""Where content stands: in a message of a role, or in a block that holds others."""

# Where a block of a type may stand; in an error the first place is named.
_PLACES: Mapping[str, tuple[Place, ...]] = {
    "image": ("user", "result", "document"),
    "tool_use": ("assistant",),
    "tool_result": ("user",),
    "tool_addition": ("system",),
    "tool_removal": ("system",),
}
# What blocks that hold others may hold; so nothing can be nested endlessly.
_HELD: Mapping[Place, frozenset[str]] = {"document": frozenset({"text", "image"}), "search_result": frozenset({"text"})}


def read_content(field: Node, place: Place) -> list[Block]:
    """The blocks of a message or a result; a string is one text block. What is empty or says nothing is left out.

    Raises:
        InvalidRequest: a block is malformed, of an unknown type, or in a place where it cannot be.
    """
    if isinstance(field.value, str):
        return [Text(field.value)] if field.value.strip() else []
    return [block for item in field.items() for block in _read_block(item, place)]


def _read_block(item: Node, place: Place) -> Iterator[Block]:
    kind = item.require("type").string()
    if kind not in READERS and kind not in DROPPED:
        expected = ", ".join(f"'{known}'" for known in READERS)
        item.fail(f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}")
    _check_place(item, kind, place)
    if read := READERS.get(kind):
        yield from read(item.tagged(kind))


def _check_place(item: Node, kind: str, place: Place) -> None:
    if place == "system" and kind not in {"text", "tool_addition", "tool_removal"}:
        item.fail("role 'system' supports text, tool_addition, and tool_removal blocks only")
    if place == "result" and kind in {"tool_use", "tool_result"}:
        item.fail("a tool_result holds no calls or results")
    if place in _HELD and kind not in _HELD[place]:
        item.fail(f"`{place}` blocks hold {' and '.join(sorted(_HELD[place]))} blocks only")
    allowed = _PLACES.get(kind)
    if allowed and place not in allowed:
        item.fail(f"`{kind}` blocks can only be in `{allowed[0]}` messages")
    if item.rules.is_new and kind == "document" and place == "assistant":
        item.fail("`document` blocks can only be in `user` messages")
    citations = item.get("citations") if kind == "text" and place in {"user", "search_result"} else None
    if item.rules.is_new and citations and citations.value:
        citations.fail("Extra inputs are not permitted")


# --- the types --------------------------------------------------------------------------------------------------------


def _text(block: Node) -> Iterator[Text]:
    block.allow("type", "text", "citations", "cache_control")
    text = block.require("text").string()
    if text.strip():
        yield Text(text)


def _image(block: Node) -> Iterator[Image]:
    block.allow("type", "source", "cache_control", "transformations")
    source = block.require("source")
    match source.require("type").string():
        case "base64":
            yield Image(source.require("media_type").string(), source.require("data").string())
        case "url":
            yield Image(url=source.require("url").string())
        case kind:
            _refuse_source(source, kind, "'base64' or 'url'")


def _refuse_source(source: Node, kind: str, expected: str) -> None:
    if kind == "file":
        source.fail("there are no uploaded files on this server: send the content itself as a base64 source")
    source.require("type").fail(f"Input should be {expected}")


def _document(block: Node) -> Iterator[Document]:
    block.allow("type", "source", "title", "context", "citations", "cache_control")
    source = block.require("source")
    title, context = block.text("title"), block.text("context")
    match source.require("type").string():
        case "text":
            yield Document(title, context, (Text(source.require("data").string()),))
        case "content":
            blocks = read_content(source.require("content"), "document")
            yield Document(title, context, tuple(item for item in blocks if isinstance(item, Text | Image)))
        case "base64":
            source.require("media_type").one_of("application/pdf")
            yield Document(title, context, pdf=source.require("data").string())
        case "url":
            source.fail("this server fetches no documents: send the content itself as a base64 or text source")
        case kind:
            _refuse_source(source, kind, "'base64', 'text' or 'content'")


def _search_result(block: Node) -> Iterator[Text]:
    block.allow("type", "source", "title", "content", "citations", "cache_control")
    blocks = read_content(block.require("content"), "search_result")
    texts = [item.text for item in blocks if isinstance(item, Text)]
    head = [field.string() for key in ("title", "source") if (field := block.get(key))]
    yield Text("\n".join([" - ".join(head), *texts]).strip())


def _tool_use(block: Node) -> Iterator[ToolUse]:
    block.allow("type", "id", "name", "input", "cache_control", "caller", "toolset_name")
    arguments = block.get("input")
    yield ToolUse(
        id=block.require("id").string(),
        name=block.require("name").string(),
        input=arguments.object() if arguments else {},
    )


def _tool_result(block: Node) -> Iterator[ToolResult]:
    block.allow("type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name")
    field = block.get("content")
    content: list[Block] = read_content(field, "result") if field else []
    yield ToolResult(
        tool_use_id=block.require("tool_use_id").string(),
        content=cast("tuple[Text | Image | Document | ToolReference, ...]", tuple(content)),
        is_error=block.flag("is_error"),
    )


def _tool_reference(block: Node) -> Iterator[ToolReference]:
    block.allow("type", "tool_name", "cache_control")
    yield ToolReference(block.require("tool_name").string())


def _browser_state(block: Node) -> Iterator[Text]:
    state = {key: field.value for key, field in block.fields() if key not in {"type", "cache_control"}}
    yield Text(f"[Browser state: {json.dumps(state, ensure_ascii=False)}]")


def _compaction(block: Node) -> Iterator[Text]:
    block.allow("type", "content", "signature", "encrypted_content", "tool_changes", "cache_control")
    if summary := block.get("content"):
        yield Text(summary.string())


def _container_upload(block: Node) -> Iterator[Text]:
    block.fail("there are no containers on this server: leave this block out")


def _tool_addition(block: Node) -> Iterator[ToolReference]:
    tool = block.allow("type", "tool", "cache_control").require("tool")
    if tool.require("type").string() == "tool_definition":
        yield ToolReference(tool.require("definition").require("name").string())
    else:
        yield ToolReference(_referenced(tool))


def _tool_removal(block: Node) -> Iterator[ToolRemoval]:
    yield ToolRemoval(_referenced(block.allow("type", "tool", "cache_control").require("tool")))


def _referenced(tool: Node) -> str:
    if tool.require("type").string() != "tool_reference":
        tool.fail("this server connects to no MCP servers: reference a tool by name")
    return tool.require("name").string()


Reader: TypeAlias = Callable[[Node], Iterator[Any]]
READERS: Mapping[str, Reader] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "tool_reference": _tool_reference,
    "browser_state": _browser_state,
    "compaction": _compaction,
    "container_upload": _container_upload,
    "tool_addition": _tool_addition,
    "tool_removal": _tool_removal,
}
