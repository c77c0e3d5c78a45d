"""A small MCP server on stdin and stdout, for sessions of Claude Code: `python mcp_server.py RECORD`.

It has one tool, `bed`, and writes what it was asked into RECORD, a line of JSON each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BED = {
    "name": "bed",
    "description": "Says how the patient in a bed is.",
    "inputSchema": {
        "type": "object",
        "properties": {"number": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["number"],
    },
}


def answer(method: str, params: dict[str, Any], record: Path) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "ward", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [BED]}
    if method == "tools/call":
        with record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(params["arguments"]) + "\n")
        return {"content": [{"type": "text", "text": "Better: 5 &lt; 6 && 37.2 < 38 °C"}]}
    return {}


def main() -> None:
    record = Path(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params", {}), record)
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
