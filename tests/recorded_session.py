"""A session of Claude Code again: bodies of the shape that was recorded, with made-up text.

`scripts/record_session.py` writes `session-shape.json`; what was equal there is equal here, and nothing else is.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

from workload import Writer

Json = dict[str, Any]

SHAPE: Json = json.loads(Path(__file__).with_name("session-shape.json").read_text(encoding="utf-8"))

_LONG = 1_000  # characters; what is longer is mostly code
_FIRST_OF_TOOLS = 10_000  # no block has this number, so no tool is described as a block reads


def conversations() -> list[list[Json]]:
    """The bodies of the requests of each conversation, in the order in which they were sent; the session's first."""
    tools = [_tool(number, shape) for number, shape in enumerate(SHAPE["tools"], _FIRST_OF_TOOLS)]
    blocks = [_block(number, shape) for number, shape in enumerate(SHAPE["blocks"])]
    sorted_out: dict[int, list[Json]] = defaultdict(list)
    for request in SHAPE["requests"]:
        sorted_out[request["conversation"]].append(_body(request, tools, blocks))
    return list(sorted_out.values())


def _body(request: Json, tools: list[Json], blocks: list[Json]) -> Json:
    body: Json = {
        "model": "claude-opus-5-5",
        "max_tokens": 32_000,
        "system": [dict(blocks[place]) for place in request["system"]],
        "tools": [tools[place] for place in request["tools"]],
        "messages": [_message(SHAPE["messages"][place], blocks) for place in request["messages"]],
    }
    for path in request["cache_control"]:
        block: Json = reduce(getitem, path, body)
        block["cache_control"] = {"type": "ephemeral"}
    for index in request["strings"]:
        message = body["messages"][index]
        message["content"] = message["content"][0]["text"]
    return body


def _message(shape: Json, blocks: list[Json]) -> Json:
    others = {key: value for key, value in shape.items() if key != "blocks"}
    return others | {"content": [dict(blocks[place]) for place in shape["blocks"]]}


def _tool(number: int, shape: Json) -> Json:
    writer = Writer(number)
    properties = {name: {"type": kind} if kind else {} for name, kind in shape["parameters"].items()}
    schema = {"type": "object", "properties": properties}
    tool = {
        "name": shape["name"],
        "description": writer.prose(shape["description"]),
        "input_schema": schema | {"description": writer.prose(shape["schema"] - len(json.dumps(schema)))},
    }
    return tool | ({"defer_loading": True} if "defer_loading" in shape else {})


def _block(number: int, shape: Json) -> Json:
    writer = Writer(number)
    match shape:
        case {"type": "text", "begins": beginning, "size": size}:
            return {"type": "text", "text": beginning + writer.prose(size - len(beginning)).replace("\n", " ")}
        case {"type": "text", "size": size}:
            return {"type": "text", "text": writer.prose(size)}
        case {"type": "image", "media_type": media_type, "size": size}:
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": "A" * size}}
        case {"type": "tool_use", "name": name, "input": arguments}:
            made = {key: _value(writer, kind, length) for key, (kind, length) in arguments.items()}
            return {"type": "tool_use", "id": _id(number), "name": name, "input": made}
        case {"type": "tool_result", "call": call, "content": content}:
            parts = _text(writer, content) if isinstance(content, int) else [_block(number, part) for part in content]
            result = {"type": "tool_result", "tool_use_id": _id(call), "content": parts}
            return result | {"is_error": shape.get("is_error", False)}
        case _:
            return shape


def _id(call: int) -> str:
    return f"toolu_{call:024}"


def _text(writer: Writer, size: int) -> str:
    return writer.code(size, numbered=True) if size > _LONG else writer.prose(size)


def _value(writer: Writer, kind: str, size: int) -> object:
    """A value of a type of JSON, which has about so many characters when it is written."""
    match kind:
        case "string":
            return _text(writer, size)
        case "boolean":
            return size == len("true")
        case "integer" | "number":
            return int("1" * size)
        case "array":
            return [writer.prose(size)]
        case _:
            return {"text": writer.prose(size)}
