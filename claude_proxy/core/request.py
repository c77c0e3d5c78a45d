"""Anthropic JSON -> `Request`. A fault names the field.

Lenient where nothing is lost: unknown fields, unknown keys of known objects and unknown betas are ignored, since
Claude Code adds some with every release. Strict where content would vanish without a word: unknown block types, tool
types and roles are refused. Paths in faults are the real API's: dotted, zero-based.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, cast

from claude_proxy.core.content import (
    Block,
    MessageParam,
    Omitted,
    Request,
    Role,
    Text,
    Tool,
    ToolChoice,
    ToolReference,
    ToolResult,
    ToolUse,
)
from claude_proxy.errors import InvalidRequest

T = TypeVar("T")
Json: TypeAlias = Mapping[str, Any]

# Blocks of earlier turns that carry nothing a text-only model could use: reasoning of another model, and what
# Anthropic's own servers did. They stand in histories that began elsewhere and must not fail.
_DROPPED = frozenset(
    {"thinking", "redacted_thinking", "server_tool_use", "fallback", "mcp_tool_use", "mcp_tool_listing", "compaction"}
)
_DROPPED_SUFFIX = "_tool_result"  # web_search_tool_result, code_execution_tool_result, …

_LONE_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_request(body: bytes, *, count_only: bool = False) -> Request:
    """Read the body of `POST /v1/messages`, or of `…/count_tokens`.

    Args:
        body: JSON text in UTF-8.
        count_only: do without `max_tokens`.

    Raises:
        InvalidRequest: the body is not JSON, or a field breaks the API's rules.
    """
    data = _load(body)
    tools = _tools(data)
    return Request(
        model=_require(data, "model", _nonempty_string),
        messages=_messages(data),
        max_tokens=None if count_only else _require(data, "max_tokens", _count),
        system=tuple(_get(data, "system", _system, ())),
        tools=tools,
        tool_choice=_checked(_get(data, "tool_choice", _tool_choice, ToolChoice()), tools),
        thinking=_get(data, "thinking", _thinking, default=False),
        stream=_get(data, "stream", _boolean, default=False),
        temperature=_get(data, "temperature", _number, None),
        top_p=_get(data, "top_p", _number, None),
    )


def _load(body: bytes) -> Json:
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if _LONE_SURROGATE_ESCAPE.search(body):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidRequest("The request body is not valid JSON: it is nested too deeply") from None
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


# --- fields -----------------------------------------------------------------------------------------------------------

Reader: TypeAlias = Callable[[Any, str], T]


def _require(data: Json, key: str, read: Reader[T], path: str = "") -> T:
    if data.get(key) is None:
        raise InvalidRequest("Field required", f"{path}{key}")
    return read(data[key], f"{path}{key}")


def _get(data: Json, key: str, read: Reader[T], default: T, path: str = "") -> T:
    """An optional field; an explicit null counts as absent, as SDKs send it for fields they echo."""
    return default if data.get(key) is None else read(data[key], f"{path}{key}")


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest("Input should be a valid string", path)
    return value


def _nonempty_string(value: Any, path: str) -> str:
    if not _string(value, path):
        raise InvalidRequest("String should have at least 1 character", path)
    return cast("str", value)


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest("Input should be a valid boolean", path)
    return value


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest("Input should be a valid number", path)
    if not 0 <= value <= 1:
        raise InvalidRequest("Input should be between 0 and 1", path)
    return value


def _count(value: Any, path: str) -> int:
    integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not integral:
        raise InvalidRequest("Input should be a valid integer", path)
    if value < 0:
        raise InvalidRequest("Input should be greater than or equal to 0", path)
    return int(value)


def _object(value: Any, path: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidRequest("Input should be a valid dictionary", path)
    return value


def _thinking(value: Any, path: str) -> bool:
    """Whether the response may hold thinking. Every form is accepted: Claude Code sends new ones to any model."""
    return _require(_object(value, path), "type", _string, f"{path}.") in {"enabled", "adaptive"}


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest("Input should be a valid list", path)
    return value


def _one_of(value: Any, path: str, words: tuple[str, ...]) -> str:
    if value not in words:
        listed = ", ".join(f"'{word}'" for word in words[:-1]) + " or " * (len(words) > 1) + f"'{words[-1]}'"
        raise InvalidRequest(f"Input should be {listed}", path)
    return cast("str", value)


# --- messages ---------------------------------------------------------------------------------------------------------


def _system(value: Any, path: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    texts = []
    for index, block in enumerate(_list(value, path)):
        here = f"{path}.{index}"
        _one_of(_require(_object(block, here), "type", _string, f"{here}."), f"{here}.type", ("text",))
        texts.append(_require(block, "text", _string, f"{here}."))
    return texts


def _messages(data: Json) -> tuple[MessageParam, ...]:
    entries = _require(data, "messages", _list)
    if not entries:
        raise InvalidRequest("at least one message is required", "messages")
    messages = tuple(_message(entry, f"messages.{index}") for index, entry in enumerate(entries))
    if messages[-1].role == "assistant" and messages[-1].content:
        raise InvalidRequest(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    return messages


def _message(value: Any, path: str) -> MessageParam:
    entry = _object(value, path)
    role = _one_of(_require(entry, "role", _string, f"{path}."), f"{path}.role", ("user", "assistant", "system"))
    content = _content(entry.get("content"), f"{path}.content")
    for index, block in enumerate(content):
        if misplaced := _MISPLACED[role].get(type(block)):
            raise InvalidRequest(misplaced, f"{path}.content.{index}")
    return MessageParam(cast("Role", role), tuple(content))


_SYSTEM_HOLDS_TEXT = "role 'system' supports text blocks only"
_MISPLACED: Mapping[str, Mapping[type, str]] = {
    "user": {ToolUse: "`tool_use` blocks can only be in `assistant` messages"},
    "assistant": {ToolResult: "`tool_result` blocks can only be in `user` messages"},
    "system": {ToolUse: _SYSTEM_HOLDS_TEXT, ToolResult: _SYSTEM_HOLDS_TEXT, Omitted: _SYSTEM_HOLDS_TEXT},
}


def _content(value: Any, path: str) -> list[Block]:
    if value is None:
        raise InvalidRequest("Field required", path)
    if isinstance(value, str):
        return [Text(value)] if value.strip() else []
    blocks: list[Block] = []
    for index, item in enumerate(_list(value, path)):
        if (block := _block(item, f"{path}.{index}")) is not None:
            blocks.append(block)
    return blocks


def _block(value: Any, path: str) -> Block | None:
    """One content block; None where it says nothing to a text-only model."""
    block = _object(value, path)
    kind = _require(block, "type", _string, f"{path}.")
    if read := _BLOCK_READERS.get(kind):
        return read(block, f"{path}.{kind}")
    if kind in _DROPPED or kind.endswith(_DROPPED_SUFFIX):
        return None
    expected = ", ".join(f"'{known}'" for known in _BLOCK_READERS)
    raise InvalidRequest(
        f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}", path
    )


def _text(block: Json, path: str) -> Text | None:
    text = _require(block, "text", _string, f"{path}.")
    return Text(text) if text.strip() else None


def _image(block: Json, path: str) -> Omitted:
    source = _require(block, "source", _object, f"{path}.")
    media_type = source.get("media_type")
    return Omitted(f"image ({media_type})" if isinstance(media_type, str) else "image")


def _document(block: Json, path: str) -> Text | Omitted:
    source = _require(block, "source", _object, f"{path}.")
    title = block.get("title")
    label = f"document {title!r}" if isinstance(title, str) else "document"
    if source.get("type") == "text":
        return Text(f"<{label}>\n{_require(source, 'data', _string, f'{path}.source.')}\n</document>")
    media_type = source.get("media_type")
    return Omitted(f"{label} ({media_type})" if isinstance(media_type, str) else label)


def _search_result(block: Json, path: str) -> Text:
    content = _content(block.get("content"), f"{path}.content")
    texts = [item.text for item in content if isinstance(item, Text)]
    return Text("\n".join([f"{block.get('title', '')} ({block.get('source', '')})", *texts]))


def _tool_use(block: Json, path: str) -> ToolUse:
    return ToolUse(
        id=_require(block, "id", _string, f"{path}."),
        name=_require(block, "name", _string, f"{path}."),
        input=_get(block, "input", _object, {}, f"{path}."),
    )


def _tool_result(block: Json, path: str) -> ToolResult:
    content: list[Block] = _get(block, "content", _content, [], f"{path}.")
    for index, item in enumerate(content):
        if isinstance(item, ToolUse | ToolResult):
            raise InvalidRequest("a tool_result holds no calls or results", f"{path}.content.{index}")
    return ToolResult(
        tool_use_id=_require(block, "tool_use_id", _string, f"{path}."),
        content=cast("tuple[Text | Omitted | ToolReference, ...]", tuple(content)),
        is_error=_get(block, "is_error", _boolean, default=False, path=f"{path}."),
    )


def _tool_reference(block: Json, path: str) -> ToolReference:
    return ToolReference(_require(block, "tool_name", _string, f"{path}."))


_BLOCK_READERS: Mapping[str, Callable[[Json, str], Block | None]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "tool_reference": _tool_reference,
}


# --- tools ------------------------------------------------------------------------------------------------------------


def _tools(data: Json) -> tuple[Tool, ...]:
    items: list[Any] = _get(data, "tools", _list, [])
    tools = tuple(_tool(item, f"tools.{index}") for index, item in enumerate(items))
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidRequest("Tool names must be unique.", "tools")
    return tools


def _tool(value: Any, path: str) -> Tool:
    tool = _object(value, path)
    kind = _get(tool, "type", _string, "custom", f"{path}.")
    if kind != "custom":
        raise InvalidRequest(
            f"this server does not support tool types: {kind}. Did you mean one of custom? "
            "SecureChatAI runs no tools of its own; leave this one out.",
            path,
        )
    here = f"{path}.custom."
    return Tool(
        name=_require(tool, "name", _tool_name, here),
        input_schema=_require(tool, "input_schema", _object, here),
        description=_get(tool, "description", _string, "", here),
        defer_loading=_get(tool, "defer_loading", _boolean, default=False, path=here),
    )


def _tool_name(value: Any, path: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", _string(value, path)):
        raise InvalidRequest("String should match pattern '^[a-zA-Z0-9_-]{1,128}$'", path)
    return cast("str", value)


def _checked(choice: ToolChoice, tools: tuple[Tool, ...]) -> ToolChoice:
    """A choice that the tools allow."""
    if choice.type in {"any", "tool"} and not tools:
        raise InvalidRequest("tools must be given to force a call", "tool_choice")
    if choice.name is not None and choice.name not in {tool.name for tool in tools}:
        raise InvalidRequest(f"Tool '{choice.name}' not found in provided tools", "tool_choice")
    return choice


def _tool_choice(value: Any, path: str) -> ToolChoice:
    choice = _object(value, path)
    kind = _one_of(_require(choice, "type", _string, f"{path}."), f"{path}.type", ("auto", "any", "tool", "none"))
    return ToolChoice(
        type=cast('Literal["auto", "any", "tool", "none"]', kind),
        name=_require(choice, "name", _string, f"{path}.") if kind == "tool" else None,
        disable_parallel_tool_use=_get(choice, "disable_parallel_tool_use", _boolean, default=False, path=f"{path}."),
    )
