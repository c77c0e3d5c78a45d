"""Requests shaped like Claude Code's, of any size, and answers like SecureChatAI's; made up, and always the same.

What a request of Claude Code 2.1.330 holds was counted: 7 kB of `system`, a dozen tools of 31 kB whose descriptions are
far longer than their schemas, and messages. A session grows by calls and results: files that were read, commands and
what they printed, edits. Here the tools take half of a small body and never more than that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

MODEL = "gpt-4.1"
SIZES = {"small": 1_000, "52 kB": 52_000, "740 kB": 740_000}  # bytes of a body

_SYSTEM = 7_000
_TOOLS = 31_000
_TOOL_NAMES = (
    *("Bash", "Read", "Edit", "Write", "Glob", "Grep", "Agent", "Skill", "WebFetch", "Monitor", "TaskStop", "Schedule"),
)
_PARAMETERS: dict[str, dict[str, str]] = {
    "Bash": {"command": "string", "timeout": "integer", "description": "string"},
    "Read": {"file_path": "string", "offset": "integer", "limit": "integer"},
    "Edit": {"file_path": "string", "old_string": "string", "new_string": "string", "replace_all": "boolean"},
    "Write": {"file_path": "string", "content": "string"},
    "Glob": {"pattern": "string", "path": "string"},
    "Grep": {"pattern": "string", "path": "string", "multiline": "boolean"},
}
_TEXT = (
    "the file that was read must not be changed before its tests pass and what a command prints is shown to the user "
    "in full unless there is more of it than a page can hold so keep answers short name every path and never guess"
)
_WORDS = _TEXT.split()
_CODE = (
    "def {0}_{1}({1}: Mapping[str, Any], *, limit: int = {2}) -> list[str]:",
    '    """Take {0} out of {1}, at most {2} of them; `&amp;` stays as it is."""',
    "    found = [item for item in {1}.values() if item and len(item) < limit]",
    '    if not found and {0}.get("{1}") is None:',
    '        raise ValueError(f"{0} < {2}: {{limit!r}} is no {1} & cannot be used")',
    "    return sorted(found, key=lambda item: (item.{0}, -{2}))  # the {1} first",
    "",
)


class Writer:
    """Makes up text; the same seed gives the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret

    def prose(self, size: int) -> str:
        """Sentences, a line break now and then."""
        pieces: list[str] = []
        length = 0
        while length < size:
            sentence = " ".join(self._random.choices(_WORDS, k=self._random.randint(6, 16))).capitalize() + "."
            pieces.append(sentence + self._random.choice((" ", " ", "\n")))
            length += len(pieces[-1])
        return "".join(pieces)[:size].strip()

    def code(self, size: int, *, numbered: bool = False) -> str:
        """Lines of Python; numbered as Claude Code's Read shows them."""
        lines: list[str] = []
        length = 0
        while length < size:
            line = _CODE[len(lines) % len(_CODE)].format(*self._random.choices(_WORDS, k=2), len(lines))
            lines.append(f"{len(lines) + 1:6}\t{line}" if numbered else line)
            length += len(lines[-1]) + 1
        return "\n".join(lines)[:size]

    def path(self) -> str:
        """Where a file might be."""
        return f"/srv/app/{self._random.choice(_WORDS)}/{self._random.choice(_WORDS)}_{self._random.randint(1, 99)}.py"

    def call(self) -> tuple[str, dict[str, Any], str]:
        """A call and its result: mostly files that are read, then commands, edits, and files that are written."""
        match self._random.choices(("Read", "Bash", "Edit", "Write"), (5, 4, 3, 1))[0]:
            case "Read":
                return "Read", {"file_path": self.path(), "limit": 200}, self.code(6_000, numbered=True)
            case "Bash":
                command = f'grep -rn "{self._random.choice(_WORDS)}" src && ls -la | head -n 20 2>&1'
                return "Bash", {"command": command, "description": "Look for it"}, self.prose(1_500)
            case "Edit":
                old, new = self.code(400), self.code(500)
                arguments = {"file_path": self.path(), "old_string": old, "new_string": new}
                return "Edit", arguments, "The file has been updated."
            case _:
                return "Write", {"file_path": self.path(), "content": self.code(3_000)}, "The file has been written."


def tools(size: int) -> list[dict[str, Any]]:
    """A catalogue of so many bytes, more or less; the first tools are always there."""
    writer = Writer(1)
    each = max(size // len(_TOOL_NAMES) - 500, 60)
    return [
        {
            "name": name,
            "description": writer.prose(each),
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    key: {"type": kind, "description": writer.prose(80)}
                    for key, kind in _PARAMETERS.get(name, {"prompt": "string"}).items()
                },
                "required": list(_PARAMETERS.get(name, {"prompt": "string"}))[:1],
                "additionalProperties": False,
            },
        }
        for name in _TOOL_NAMES
    ]


def turns() -> Iterator[list[dict[str, Any]]]:
    """A session without end: a question, then calls with their results, a turn of each side at a time."""
    writer = Writer(2)
    yield [{"role": "user", "content": [{"type": "text", "text": writer.prose(600)}]}]
    number = 0
    while True:
        calls, results = [], []
        for _ in range(1 + number % 7 // 6):  # now and then two at once
            name, arguments, result = writer.call()
            tool_use_id = f"toolu_{number:024}"
            calls.append({"type": "tool_use", "id": tool_use_id, "name": name, "input": arguments})
            results.append({"type": "tool_result", "tool_use_id": tool_use_id, "content": result})
            number += 1
        said = {"type": "text", "text": writer.prose(120)}
        yield [{"role": "assistant", "content": [said, *calls]}, {"role": "user", "content": results}]


def request(size: int, *, stream: bool = False, model: str = MODEL) -> dict[str, Any]:
    """A request whose JSON has about so many bytes; one below 5 kB is a plain question."""
    made: dict[str, Any] = {"model": model, "max_tokens": 1000, "stream": stream, "messages": []}
    if size < 5_000:
        made["messages"].append({"role": "user", "content": Writer(3).prose(size - 120)})
        return made
    made["system"] = [{"type": "text", "text": Writer(4).prose(min(_SYSTEM, size // 8))}]
    made["tools"] = tools(min(_TOOLS, size // 2))
    left = size - len(json.dumps(made))
    for turn in turns():
        length = len(json.dumps(turn))
        if left < length:
            break
        left -= length
        made["messages"] += turn
    if left > 40:  # what is missing is said by the user
        made["messages"][-1]["content"].append({"type": "text", "text": Writer(5).prose(left - 40)})
    return made


def body(size: int, *, stream: bool = False, model: str = MODEL) -> bytes:
    """The bytes of such a request."""
    return json.dumps(request(size, stream=stream, model=model)).encode()


MARK = "@NUMBER@"
"""Where a load generator puts a number of its own, so that no two requests are alike."""


def marked_body(size: int, *, stream: bool = False, model: str = MODEL, everywhere: bool = False) -> bytes:
    """The bytes of such a request with marks.

    They are in the last message only, as in a session that goes on; or everywhere, in the system text, each call and
    each result, as if every request came from another session.
    """
    made = request(size, stream=stream, model=model)
    _mark(made["messages"][-1])
    if everywhere:
        for text in made.get("system", []):
            text["text"] = MARK + text["text"]
        for message in made["messages"][:-1]:
            _mark(message)
    return json.dumps(made).encode()


def _mark(message: dict[str, Any]) -> None:
    if isinstance(message["content"], str):
        message["content"] = f"{MARK} {message['content']}"
        return
    for block in message["content"]:
        match block["type"]:
            case "text":
                block["text"] = f"{MARK} {block['text']}"
            case "tool_use":
                name = next(iter(block["input"]))
                block["input"][name] = f"{block['input'][name]} {MARK}"
            case "tool_result":
                block["content"] = f"{MARK} {block['content']}"


def reply(size: int) -> str:
    """What a model says, of so many characters: a text, and a call at its end where there is room."""
    call = (
        '<function_calls>\n<invoke name="Write">\n<parameter name="file_path">/srv/app/new.py</parameter>\n'
        f'<parameter name="content">\n{Writer(6).code(size // 2)}\n</parameter>\n</invoke>\n</function_calls>'
    )
    if size < 2 * len(call) - size:
        return "Done: all tests pass."
    return f"{Writer(7).prose(size - len(call) - 1)}\n{call}"


def answer(text: str) -> bytes:
    """SecureChatAI's answer with such a text."""
    return json.dumps(
        {
            "content": [{"type": "text", "text": text}],
            "model": MODEL,
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 12_000, "output_tokens": max(len(text) // 4, 1)},
        }
    ).encode()
