"""The tasks of the exam: what a model is asked to do with tools like Claude Code's, and how its answer is judged.

Each says exactly what is to be called, so that it can be compared with what comes. Judged is whether calls are readable
and arrive as they were meant, not how clever a model is. A task without calls asks for a plain answer.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from claude_proxy.core.aliases import tokens
from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.json_text import to_json
from claude_proxy.core.messages.content import Text, ToolUse
from claude_proxy.core.messages.response import to_bytes
from claude_proxy.shell.proxy.exchange import Outcome

Messages: TypeAlias = tuple[Mapping[str, Any], ...]
Call: TypeAlias = tuple[str, Mapping[str, Any]]  # a tool's name, and arguments

RIGHT, REPAIRED = "right", "right after a repair"
ENTITIES_CHANGED, OTHER_CALL = "entities changed", "other call or arguments"
NO_CALL, NOT_READ, CUT_OFF, NEEDLESS_CALL = "no call", "not read", "cut off", "called without need"


@dataclass(frozen=True)
class Task:
    """What is asked: a conversation, all calls that are due (in any order), and the tokens that they may take."""

    name: str
    messages: Messages
    calls: tuple[Call, ...] = ()
    max_tokens: int = 4_000

    @property
    def about_entities(self) -> bool:
        """Whether an argument holds an HTML entity."""
        return any(_decoded(value) != value for _, arguments in self.calls for value in arguments.values())

    def fits(self, calls: Sequence[Call], read: Callable[[Any], Any]) -> bool:
        """Whether these are the calls, each argument compared as it is once `read`; further ones do not matter."""

        def is_among_them(name: str, arguments: Mapping[str, Any]) -> bool:
            candidates = [its for its_name, its in calls if its_name == name]
            return any(all(read(its.get(key)) == read(arguments[key]) for key in arguments) for its in candidates)

        return len(calls) == len(self.calls) and all(is_among_them(*call) for call in self.calls)


def body(task: Task, model: str, **fields: Any) -> bytes:
    """The request that asks a model to do a task, with further fields."""
    system = "You are a coding agent. The working directory is /srv/app."
    usual = {"model": model, "max_tokens": task.max_tokens, "system": system, "tools": TOOLS}
    return to_bytes({**usual, "messages": task.messages, **fields})


def judge(task: Task, outcome: Outcome) -> str:
    """What is to be said of an answer, in a few words; or the class of the failure that ended it early."""
    content = outcome.message.content
    calls = [(block.name, block.input) for block in content if isinstance(block, ToolUse)]
    if not task.calls:
        return NEEDLESS_CALL if calls else RIGHT
    if task.fits(calls, _trimmed):
        return REPAIRED if outcome.repairs else RIGHT
    if outcome.second_ask_error or outcome.message.stop_reason == "max_tokens":
        return outcome.second_ask_error or CUT_OFF
    if calls:
        return ENTITIES_CHANGED if task.fits(calls, _decoded) else OTHER_CALL
    text = " ".join(block.text for block in content if isinstance(block, Text))
    return NOT_READ if any(mark in text for mark in ("<invoke", "<parameter", '"name"', "tool_call")) else NO_CALL


def _trimmed(value: Any) -> Any:
    """Without the line end at the end of a file, which does not matter."""
    return value.rstrip("\n") if isinstance(value, str) else value


def _decoded(value: Any) -> Any:
    """With all entities decoded, even those that were encoded twice."""
    return html.unescape(html.unescape(_trimmed(value))) if isinstance(value, str) else value


# --- the tools --------------------------------------------------------------------------------------------------------


def _tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A tool's definition; a parameter is a type, with `?` behind it where it is optional."""
    return {
        "name": name,
        "description": description,
        "input_schema": {
            "type": "object",
            "properties": {key: {"type": kind.rstrip("?")} for key, kind in parameters.items()},
            "required": [key for key, kind in parameters.items() if not kind.endswith("?")],
        },
    }


_EDIT = {"file_path": "string", "old_string": "string", "new_string": "string", "replace_all": "boolean?"}
TOOLS = (
    _tool("Bash", "Run a shell command and return its output.", command="string", timeout="integer?"),
    _tool("Read", "Read a text file.", file_path="string", offset="integer?", limit="integer?"),
    _tool("Write", "Write a file, replacing it if it exists.", file_path="string", content="string"),
    _tool("Edit", "Replace a text in a file by another.", **_EDIT),
    _tool("Glob", "Find files by a pattern such as **/*.py.", pattern="string", path="string?"),
    _tool("Grep", "Search file contents for a regular expression.", pattern="string", path="string?"),
    _tool("Plan", "Keep a plan with its steps.", plan="object"),
)

# --- the tasks --------------------------------------------------------------------------------------------------------


def ask(text: str) -> Messages:
    """A conversation of one question."""
    return ({"role": "user", "content": text},)


def _write(name: str, path: str, content: str) -> Task:
    question = f"Write the file {path}. Its content is exactly this:\n\n{content}"
    return Task(name, ask(question), (("Write", {"file_path": path, "content": content}),))


def _edit(name: str, path: str, old: str, new: str) -> Task:
    question = f"Edit {path}: with replace_all, replace this text:\n\n{old}\n\nby exactly this:\n\n{new}"
    arguments = {"file_path": path, "old_string": old, "new_string": new, "replace_all": True}
    return Task(name, ask(question), (("Edit", arguments),))


_COMMAND = 'grep -c "a & b" notes.txt && ls -la | head -n 3'
_QUOTES = """\
NAME = 'O\\'Brien, "the first" <b>'
PATH = "C:\\new\\table"
if NAME != "" and "%s" % 5:
    print(f\"\"\"{NAME}: {PATH}\"\"\")"""
_ENTITIES = """\
<!-- 1 < 2 && 3 > 2 -->
<p title="&quot;R&amp;D&quot;">1 &lt; 2 &amp;&amp; 3 &gt; 2</p>
<p>10&nbsp;km &copy; 2026, caf&eacute; and caf\u00e9, &#8364; and &amp;lt;</p>"""
_PLAN = {"title": 'Say "hello" & <wave>', "steps": [{"do": "test", "files": ["a.py", "b.py"], "done": False}]}
_READ = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "colour.txt"}}
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "1\tteal\n"}

TASKS = (
    Task("a command", ask(f"Run exactly this command: {_COMMAND}"), (("Bash", {"command": _COMMAND}),)),
    Task(
        "numbers",
        ask("Use Read on /srv/app/core.py with offset 100 and limit 50."),
        (("Read", {"file_path": "/srv/app/core.py", "offset": 100, "limit": 50}),),
    ),
    Task(
        "two calls at once",
        ask("Read both /srv/app/a.txt and /srv/app/b.txt at once, with two calls in one reply."),
        tuple(("Read", {"file_path": f"/srv/app/{name}.txt"}) for name in "ab"),
    ),
    _write("a file with quotes", "/srv/app/quotes.py", _QUOTES),
    _write("a file with entities", "/srv/app/page.html", _ENTITIES),
    _edit(
        "an edit", "core.py", '    if a < b and "x":\n        return a & b', '    if a <= b and "y":\n        return a'
    ),
    _edit("an edit with entities", "page.html", "<b>R&amp;D&nbsp;</b>", '<b title="&quot;">R&amp;D &lt;lab&gt;</b>'),
    Task("a nested object", ask(f"Call Plan with exactly this plan: {to_json(_PLAN)}"), (("Plan", {"plan": _PLAN}),)),
    Task("a plain answer", ask("What is the capital of France? Just answer.")),
    Task("code that is only shown", ask("Show me, without running it, how a for loop looks in Bash.")),
    Task(
        "an answer from a result",
        (
            *ask("Which colour does colour.txt name? Answer in one word."),
            {"role": "assistant", "content": [_READ]},
            {"role": "user", "content": [_RESULT]},
        ),
    ),
)
"""All but the long file, which depends on the alias."""

LONG_FILE = "a long file"
_LONGEST = 20_000  # tokens until the limit; a file beyond it would take a quarter of an hour, and nobody writes it
_OF_REASONING = 4_000  # these models alone are told the limit, so it need not be as high as they can go
_MARGIN = 1.25  # by so much an estimate may be too high


def long_task(alias: Alias) -> tuple[Task, Alias] | None:
    """A file beyond the alias's limit, and the alias with the limit that is to cut it; None where it costs too much."""
    limit = min(alias.max_output, _OF_REASONING) if alias.family == "reasoning" else alias.max_output
    if limit > _LONGEST:
        return None
    line = "line {}: the quick brown fox jumps over the lazy dog"
    count = round(limit * _MARGIN / tokens.measure(line.format(100) + "\n", alias.tokenizer))
    question = (
        f"Write the file /srv/app/long.txt with one call. It has {count} lines, all written out:\n\n"
        f"{line.format(1)}\n{line.format(2)}\n\nand so on, each with its number, without leaving any out, to\n\n"
        f"{line.format(count)}"
    )
    content = "\n".join(line.format(number + 1) for number in range(count))
    arguments = {"file_path": "/srv/app/long.txt", "content": content}
    return Task(LONG_FILE, ask(question), (("Write", arguments),), 4 * limit), replace(alias, max_output=limit)
