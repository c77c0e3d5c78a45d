#!/usr/bin/env python3
"""Record the shape of a session of the real Claude Code: what `tests/core/prompt/test_prefix.py` measures.

    .venv/bin/python scripts/record_session.py        writes tests/session-shape.json, in a quarter of a minute

Claude Code works through the proxy, before a pretend REDCap whose model follows the script below: a session of mixed
work on made-up files, with a subagent, and resumed twice. Of its requests only the shape is kept: roles, types, names
of tools, numbers of characters, and what is the same as before. Equal texts, tools and messages are stored once, so
whatever changes from one request to the next shows, without a word of what was said.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in (".", "bench", "tests", "tests/e2e")]

from claude_code import calls, invoke, run_claude
from conftest import TOKEN, running
from small_files import PNG_BYTES
from workload import Writer

from claude_proxy.demo.model import ModelRequest, text_of
from claude_proxy.demo.simulator import Simulator
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.proxy.app import App
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.handler import HttpRequest, ProxyServer, ResponseWriter
from claude_proxy.shell.upstream.client import Upstream

SHAPE = ROOT / "tests" / "session-shape.json"

Json: TypeAlias = dict[str, Any]

# --- The session ------------------------------------------------------------------------------------------------------

CODE = {"parser.py": 14_000, "table.py": 9_000, "report.py": 22_000, "tests/test_parser.py": 11_000, "shell.py": 6_000}
PROSE = {"CLAUDE.md": 2_500, "docs/format.md": 7_000, "docs/changes.md": 12_000}
PICTURE = "docs/picture.png"
NEW, NEW_TEST = "summary.py", "tests/test_summary.py"
TO_DO = ("TaskCreate", "TaskUpdate", "ToolSearch")
WITH_TO_DO = {"CLAUDE_CODE_ENABLE_TODO_TOOLS": "1"}  # in print mode there are none by default
TASKS = ("Read what there is", "Write the summary", "Test it")
LOOKS_FOR = "Find out where limits are checked in this folder."


def make_folder(folder: Path) -> None:
    """Files of the sizes that files have, under version control."""
    for number, (name, size) in enumerate({**CODE, **PROSE}.items(), 10):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = Writer(number)
        path.write_text((writer.code(size) if name in CODE else writer.prose(size)) + "\n", encoding="utf-8")
    (folder / PICTURE).write_bytes(PNG_BYTES)
    identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "Begin"]):
        subprocess.run(["git", *command], cwd=folder, check=True)  # noqa: S607 - whichever the developer uses


class Script:
    """What is said in the session: by the user, by the model, and by the model when it is the subagent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._say = Writer(1).prose

    @property
    def turns(self) -> list[tuple[str, list[str]]]:
        """What the user asks, and the model's replies to it, of which the last is an answer."""
        return [
            (self._say(700), [*self._looks_around(), *self._writes_a_program(), self._say(900)]),
            (self._say(200), [*self._tests_it(), *self._tries_what_is_rare(), self._say(600)]),
            (self._say(90), [*self._ends(), self._say(400)]),
        ]

    @property
    def subagents_replies(self) -> list[str]:
        """What the model says when it is the subagent."""
        return [
            self._does(80, _run("grep -rn 'limit' . --include=*.py | head -100")),
            self._does(60, self._read("report.py")),
            self._does(90, _run("ls -R"), self._read("table.py")),
            self._say(1_200),
        ]

    def _looks_around(self) -> Iterator[str]:
        yield self._does(200, _run("git log --oneline | head -5 && ls -la . docs tests && wc -c *.py"))
        yield self._does(90, invoke("ToolSearch", query="select:TaskCreate,TaskUpdate,NotebookEdit", max_results=3))
        yield self._does(60, *(invoke("TaskCreate", subject=task, description=self._say(120)) for task in TASKS))
        yield self._does(40, _update(1, "in_progress"), self._read("parser.py"))
        yield self._does(150, self._read("table.py"), self._read("docs/format.md"))
        yield self._does(80, _run("grep -n 'limit' *.py tests/*.py | head -60"))
        agent = {"description": "Find the limits", "prompt": LOOKS_FOR, "run_in_background": "false"}
        yield self._does(120, invoke("Agent", subagent_type="Explore", **agent))
        yield self._does(300, self._read("report.py"))
        yield self._does(50, self._read("missing.py"))
        yield self._does(60, self._read("report.py", offset=40, limit=80))

    def _writes_a_program(self) -> Iterator[str]:
        head, body = "def total(rows, limit):", "    return sum(row.size for row in rows if row.size < limit)"
        yield self._does(250, self._write(NEW, f"{head}\n{body}\n\n\n{Writer(2).code(4_000)}"))
        yield self._does(40, _update(1, "completed"), _run(f"python3 {NEW}; wc -l {NEW}"))
        yield self._does(180, self._edit(NEW, head, "def total(rows: list[Row], limit: int = 100) -> int:"))
        yield self._does(70, self._edit(NEW, "this text is nowhere", "nor this"))
        yield self._does(90, self._edit(NEW, body, f"    kept = rows[:limit]\n{body}"))
        yield self._does(60, _run(f"git status --short && git diff && cat {NEW}"))

    def _tests_it(self) -> Iterator[str]:
        yield self._does(100, self._read("tests/test_parser.py"))
        yield self._does(220, self._write(NEW_TEST, Writer(3).code(3_000)))
        yield self._does(60, _run(f"sed -i 's/limit/most/' {NEW} && git diff --stat && cat docs/changes.md"))
        yield self._does(80, self._read(NEW))
        yield self._does(140, _run("find . -name '*.py' | xargs wc -l"), _run("sort docs/format.md | uniq -c | head"))

    def _tries_what_is_rare(self) -> Iterator[str]:
        yield self._does(60, self._read(PICTURE))
        yield self._does(30, invoke("NotebookEdit", notebook_path=self._folder / "missing.ipynb", new_source="1"))
        yield self._does(40, _update(2, "completed"))

    def _ends(self) -> Iterator[str]:
        yield self._does(60, *map(self._read, ("shell.py", "docs/changes.md", "CLAUDE.md")))
        first_line = (self._folder / "shell.py").read_text(encoding="utf-8").split("\n")[0]
        yield self._does(110, self._edit("shell.py", first_line, "def entry():"))
        yield self._does(50, _run("git add . && git diff --cached --stat"))

    def _does(self, size: int, *invokes: str) -> str:
        """So many characters of text, and calls."""
        return calls(self._say(size), *invokes)

    def _read(self, name: str, **limits: int) -> str:
        return invoke("Read", file_path=self._folder / name, **limits)

    def _write(self, name: str, text: str) -> str:
        return invoke("Write", file_path=self._folder / name, content=f"\n{text}\n")

    def _edit(self, name: str, old: str, new: str) -> str:
        return invoke("Edit", file_path=self._folder / name, old_string=old, new_string=new)


def _run(command: str) -> str:
    return invoke("Bash", command=command, description="See what it prints")


def _update(task: int, status: str) -> str:
    return invoke("TaskUpdate", taskId=task, status=status)


class Model:
    """Says the next of its replies. It is stateless, as models are: how many it has given, the conversation tells."""

    def __init__(self, replies: Sequence[str], subagents: Sequence[str]) -> None:
        self._replies = replies
        self._subagents = subagents

    def __call__(self, request: ModelRequest) -> str:
        """Say what comes next in the conversation, the session's own or the subagent's."""
        _, opening, *_ = map(text_of, request.messages)
        replies = self._subagents if LOOKS_FOR in opening else self._replies
        return replies[[message["role"] for message in request.messages].count("assistant")]


# --- What Claude Code sends -------------------------------------------------------------------------------------------


class Tap(App):
    """The proxy's application, which also shows each request for a message to a recorder."""

    def __init__(self, exchange: Exchange, journal: Journal, recorder: Recorder) -> None:
        super().__init__(exchange, journal)
        self._recorder = recorder

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        """Record, then answer."""
        if (request.method, request.path) == ("POST", "/v1/messages"):
            self._recorder.add(json.loads(request.body), request.headers.get("x-claude-code-agent-id", ""))
        super().__call__(request, response)


class _Table:
    """Shapes, each stored once for all that is equal; what they are shapes of is forgotten with the table."""

    def __init__(self) -> None:
        self.shapes: list[Json] = []
        self._places: dict[str, int] = {}

    def place(self, content: object, shape: Json) -> int:
        place = self._places.setdefault(json.dumps(content, sort_keys=True), len(self.shapes))
        if place == len(self.shapes):
            self.shapes.append(shape)
        return place


class Recorder:
    """Keeps the shape of requests."""

    def __init__(self) -> None:
        self._tools, self._blocks, self._messages = _Table(), _Table(), _Table()
        self._conversations: dict[str, int] = {}  # the agents that lead them; the session's own is the first
        self._calls: dict[str, int] = {}  # tool_use id -> the place of the block
        self._requests: list[Json] = []

    def add(self, body: Json, agent: str) -> None:
        """Take the next request, which this agent sent; that is "" for the session itself."""
        self._requests.append(
            {
                "conversation": self._conversations.setdefault(agent, len(self._conversations)),
                "system": [self._block(block) for block in body["system"]],
                "tools": [self._tools.place(tool, shape_of_tool(tool)) for tool in body["tools"]],
                "messages": [self._message(message) for message in body["messages"]],
                "strings": [i for i, message in enumerate(body["messages"]) if isinstance(message["content"], str)],
                "cache_control": list(_marks(body)),
            }
        )

    def _message(self, message: Json) -> int:
        blocks = [self._block(block) for block in _blocks(message["content"])]
        shape: Json = {key: message[key] for key in ("role", "output_config", "clear_at") if key in message}
        shape["blocks"] = blocks
        return self._messages.place(shape, shape)

    def _block(self, block: Json) -> int:
        content = {key: value for key, value in block.items() if key != "cache_control"}
        place = self._blocks.place(content, shape_of_block(content, self._calls))
        if block["type"] == "tool_use":
            self._calls[block["id"]] = place
        return place

    def written(self, version: str) -> str:
        """The record as JSON, a line for each tool, block, message and request."""
        lists = {
            "tools": self._tools.shapes,
            "blocks": self._blocks.shapes,
            "messages": self._messages.shapes,
            "requests": self._requests,
        }
        parts = [
            f'"claude_code": {json.dumps(version)}',
            *(f'"{name}": {_lines(rows)}' for name, rows in lists.items()),
        ]
        return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(rows: Iterable[Json]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"


def _blocks(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _marks(body: Json) -> Iterator[list[str | int]]:
    """The paths of the blocks that are marked as ends of what is worth caching."""
    for index, block in enumerate(body["system"]):
        if "cache_control" in block:
            yield ["system", index]
    for index, message in enumerate(body["messages"]):
        for position, block in enumerate(_blocks(message["content"])):
            if "cache_control" in block:
                yield ["messages", index, "content", position]


# --- Shapes -----------------------------------------------------------------------------------------------------------

BILLING = "x-anthropic-billing-header:"
KINDS = {"str": "string", "bool": "boolean", "int": "integer", "float": "number", "list": "array", "dict": "object"}


def shape_of_tool(tool: Json) -> Json:
    """A tool's name, and how long it is described."""
    schema = tool["input_schema"]
    parameters = {name: parameter.get("type", "") for name, parameter in schema.get("properties", {}).items()}
    shape = {"name": tool["name"], "description": len(tool["description"]), "schema": len(json.dumps(schema))}
    return shape | {"parameters": parameters} | ({"defer_loading": True} if tool.get("defer_loading") else {})


def shape_of_block(block: Json, calls_made: Mapping[str, int]) -> Json:
    """A block's type and what it measures. The billing header is told from other texts, for no model is to read it."""
    kind = {"type": block["type"]}
    match block:
        case {"type": "text", "text": text}:
            return kind | {"size": len(text)} | ({"begins": BILLING} if text.startswith(BILLING) else {})
        case {"type": "tool_use", "name": name, "input": arguments}:
            return kind | {"name": name, "input": {key: _measure(value) for key, value in arguments.items()}}
        case {"type": "tool_result", "tool_use_id": tool_use_id, "content": content}:
            error = {"is_error": True} if block.get("is_error") else {}
            parts = len(content) if isinstance(content, str) else [shape_of_block(part, {}) for part in content]
            return kind | {"call": calls_made[tool_use_id], **error, "content": parts}
        case {"type": "tool_reference", "tool_name": name}:
            return kind | {"tool_name": name}
        case {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}:
            return kind | {"media_type": media_type, "size": len(data)}
        case _:
            raise ValueError(f"there is no shape yet for a block of the type {block['type']}")


def _measure(value: object) -> tuple[str, int]:
    return KINDS[type(value).__name__], len(value) if isinstance(value, str) else len(json.dumps(value))


# --- All together -----------------------------------------------------------------------------------------------------


def record(folder: Path, home: Path) -> str:
    """Run the session, and return its shape as JSON."""
    make_folder(folder)
    script = Script(folder)
    turns = script.turns
    model = Model([reply for _, replies in turns for reply in replies], script.subagents_replies)
    recorder = Recorder()
    with Simulator(model) as redcap:
        settings = Settings(redcap_api_url=redcap.url, redcap_api_token=Secret(TOKEN), listen_port=0)
        exchange = Exchange(settings, Upstream(settings))
        with running(ProxyServer(settings, Tap(exchange, Journal("error", "text", io.StringIO()), recorder))) as server:
            version = drive([asked for asked, _ in turns], server.url, folder, home)
        exchange.close()
    return recorder.written(version)


def drive(prompts: Sequence[str], url: str, folder: Path, home: Path) -> str:
    """Let Claude Code carry out one prompt after the other in one session, and return its version."""
    arguments = [f"--allowedTools={','.join(TO_DO)}"]
    resume: list[str] = []
    for asked in prompts:
        done = run_claude(
            asked,
            base_url=url,
            token=TOKEN,
            cwd=folder,
            home=home,
            extra_args=[*arguments, *resume],
            env=WITH_TO_DO,
        )
        if done.is_error or done.api_retries or done.denials:
            sys.exit(f"The session did not go well.\n{done}")
        resume = [f"--resume={done.id}"]
    return str(next(event["claude_code_version"] for event in done.events if event.get("subtype") == "init"))


def main() -> None:
    """Record, write, and say what there is."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        folder.mkdir()
        recorded = record(folder, Path(temporary) / "home")
    SHAPE.write_text(recorded, encoding="utf-8")
    requests = json.loads(recorded)["requests"]
    conversations = len({request["conversation"] for request in requests})
    print(f"{SHAPE.relative_to(ROOT)}: {len(requests)} requests of {conversations} conversations")


if __name__ == "__main__":
    main()
