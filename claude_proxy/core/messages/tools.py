"""The `tools` of a request -> the tools that the model may call.

Three kinds come: a client's own tools; Anthropic's client tools (`bash_…`, `text_editor_…`, `memory_…`), which come
without a schema because Anthropic's models know it, so it is supplied here; and server tools, which Anthropic's servers
would run and which are refused by name. The tool-search tools are the exception: what they would find is simply shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from claude_proxy.core.json_schema.validate import schema_fault, unchecked
from claude_proxy.core.messages.content import Tool, ToolChoice
from claude_proxy.core.messages.json_node import Node, Read, read_apart
from claude_proxy.core.steps import Json
from claude_proxy.errors import InvalidRequest

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_TOOL_SEARCH = re.compile(r"tool_search_tool_(?:regex|bm25)(?:_\d{8})?")
_CUSTOM_KEYS = (
    *("type", "name", "input_schema", "description", "strict", "defer_loading", "cache_control", "input_examples"),
    *("eager_input_streaming", "allowed_callers"),
)


# --- Anthropic's client tools -----------------------------------------------------------------------------------------


def _schema(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_STRING = {"type": "string"}
_LINE = {"type": "integer", "description": "A line number, from 1; 0 inserts at the beginning of the file."}
_RANGE = {
    "type": "array",
    "items": {"type": "integer"},
    "description": "First and last line, from 1; -1 for the last line stands for the end of the file.",
}
_EDITING: dict[str, dict[str, Any]] = {
    "view_range": _RANGE,
    "file_text": _STRING,
    "old_str": _STRING,
    "new_str": _STRING,
    "insert_line": _LINE,
    "insert_text": _STRING,
}

_BASH = Tool(
    "bash",
    _schema(
        [],
        command={"type": "string", "description": "The command; leave it out only to restart."},
        restart={"type": "boolean", "description": "true starts the shell afresh."},
    ),
    "Run a command in a shell that lives on between calls, and return its output.",
)


def _editor(name: str, *more_commands: str) -> Tool:
    commands = ["view", "create", "str_replace", "insert", *more_commands]
    return Tool(
        name,
        _schema(
            ["command", "path"],
            command={"type": "string", "enum": commands},
            path={"type": "string", "description": "Absolute path of a file or folder."},
            **_EDITING,
        ),
        "View, create and edit text files. `view` needs path; `create` path and file_text; `str_replace` path, old_str "
        "(which must stand in the file exactly once) and new_str; `insert` path, insert_line and insert_text.",
    )


_MEMORY = Tool(
    "memory",
    _schema(
        ["command"],
        command={"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
        path={"type": "string", "description": "A path under /memories."},
        **_EDITING,
        old_path=_STRING,
        new_path=_STRING,
    ),
    "Keep notes for later conversations as files under /memories. `view` needs path; `create` path and file_text; "
    "`str_replace` path, old_str and new_str; `insert` path, insert_line and insert_text; `delete` path; `rename` "
    "old_path and new_path. Look at /memories before you start.",
)

CLIENT_TOOLS: Mapping[str, Tool] = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20241022": _editor("str_replace_editor", "undo_edit"),
    "text_editor_20250124": _editor("str_replace_editor", "undo_edit"),
    "text_editor_20250429": _editor("str_replace_based_edit_tool"),
    "text_editor_20250728": _editor("str_replace_based_edit_tool"),
    "memory_20250818": _MEMORY,
}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_tools(field: Json, version: str, model: str) -> Read[tuple[Tool, ...]]:
    """Read `tools`, as far as they may be shown to the model: a step. A sentence that refuses one names the model.

    Raises:
        InvalidRequest: a tool breaks the API's rules, or Anthropic's servers would have to run it.
    """
    return read_apart(field, version, lambda node: _tools(node, model))


def _tools(field: Node, model: str) -> tuple[Tool, ...]:
    items = field.items()
    offered = [item for item in items if not _is_tool_search(item)]
    searched = len(offered) < len(items)
    tools = [tool for item in offered if (tool := read_tool(item, model))]
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidRequest("Tool names must be unique.", "tools")
    return tuple(replace(tool, defer_loading=tool.defer_loading and not searched) for tool in tools)


def _is_tool_search(item: Node) -> bool:
    kind = item.object().get("type")
    return isinstance(kind, str) and bool(_TOOL_SEARCH.fullmatch(kind))


def read_tool(item: Node, model: str) -> Tool | None:
    """One tool; None for one that only other tools may call.

    Raises:
        InvalidRequest: see `read_tools`.
    """
    kind = kind_field.string() if (kind_field := item.get("type")) else "custom"
    tagged = item.tagged(kind)
    if kind == "custom":
        tool = _custom(tagged)
    elif kind in CLIENT_TOOLS:
        tool = _client_tool(tagged, CLIENT_TOOLS[kind])
    else:
        item.fail(
            f"'{model}' does not support tool types: {kind}. Did you mean one of custom, {', '.join(CLIENT_TOOLS)}? "
            "SecureChatAI runs no tools of its own: leave this one out."
        )
    tool = replace(tool, defer_loading=tagged.flag("defer_loading"), input_examples=_examples(tagged))
    callers = item.get("allowed_callers")
    hidden = callers and "direct" not in [caller.string() for caller in callers.items()]
    return None if hidden else tool


def _custom(item: Node) -> Tool:
    item.allow(*_CUSTOM_KEYS)
    schema = item.require("input_schema")
    return Tool(
        name=_tool_name(item.require("name")),
        input_schema=schema.object(),
        description=item.text("description"),
        strict=_strict(item, schema),
    )


def _strict(item: Node, schema: Node) -> bool:
    """Whether inputs are held against the schema; a schema with a fault is not, and what is not checked is counted."""
    if not item.flag("strict"):
        return False
    if schema_fault(schema.object()):
        item.tally.ignored += 1
        return False
    item.tally.ignored += len(unchecked(schema.object()))
    return True


def _client_tool(item: Node, known: Tool) -> Tool:
    name = item.require("name")
    if name.string() != known.name:
        name.fail(f"Input should be '{known.name}'")
    own = {"max_characters"} if item.path.endswith("text_editor_20250728") else set()
    item.allow(*(set(_CUSTOM_KEYS) - {"input_schema", "description", "eager_input_streaming"} | own))
    return replace(known, strict=item.flag("strict"))


def _examples(item: Node) -> tuple[Mapping[str, Any], ...]:
    field = item.get("input_examples")
    return tuple(example.object() for example in field.items()) if field else ()


def _tool_name(field: Node) -> str:
    if not _NAME.fullmatch(field.string()):
        field.fail(f"String should match pattern '^{_NAME.pattern}$'")
    return field.string()


def read_tool_choice(field: Node | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """How free the model is to call tools.

    Raises:
        InvalidRequest: the choice is malformed, or the tools do not allow it.
    """
    if not field:
        return ToolChoice()
    kind = field.require("type").one_of("auto", "any", "tool", "none")
    field.allow("type", *(("name",) if kind == "tool" else ()), "disable_parallel_tool_use")
    name = field.require("name").string() if kind == "tool" else None
    if kind in {"any", "tool"} and not tools:
        field.fail("tools must be given to force a call")
    if name is not None and name not in {tool.name for tool in tools}:
        field.fail(f"Tool '{name}' not found in provided tools")
    return ToolChoice(
        type=cast('Literal["auto", "any", "tool", "none"]', kind),
        name=name,
        disable_parallel_tool_use=field.flag("disable_parallel_tool_use"),
    )
