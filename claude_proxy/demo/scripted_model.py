"""A small scripted model for the demo: it understands a handful of requests, and calls tools to carry them out.

It is stateless, as models are. From the conversation alone it finds the user's last request, reads it as a list of
calls, counts the calls made since, and makes the next one; after the last it says what came out.

The texts it reads are armoured against one entity decoding (`&amp;lt;` stands for `&lt;`), and so must be the texts
it writes. Both at once means: copy what was read, character by character, and neither decode nor encode.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, TypeAlias

from claude_proxy.demo.model import ModelReply, ModelRequest, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

INTRODUCTION = (
    "Hello! I am a scripted stand-in for a language model, and this is all I understand: list files in DIR; "
    "read FILE; write FILE with `TEXT`; replace `OLD` with `NEW` in FILE; run `COMMAND`; "
    "and several of these, one per line or joined by 'then'."
)


def scripted_model(request: ModelRequest) -> ModelReply:
    """Answer like a model: with words and one tool call, or, when all is done, with words."""
    conversation = read_conversation(request)
    return ModelReply(_reply(conversation, read_request(conversation.request)))


def _reply(conversation: Conversation, steps: list[Step]) -> str:
    made, total = conversation.steps_made, len(steps)
    if not steps:
        return INTRODUCTION
    if conversation.result_is_error:
        return f"Step {made} of {total} failed, so I stop here. The tool said: {_briefly(conversation.result)}"
    if made >= total:
        number = "one step" if total == 1 else f"{total} steps"
        return f"Done, in {number}. The tool {steps[-1].tool} answered: {_briefly(conversation.result)}"
    step = steps[made]
    if step.tool not in conversation.tools:
        return f"For this I need the tool {step.tool}, and this conversation does not offer it."
    return f"Step {made + 1} of {total}: I call {step.tool}.\n{write_step(step, conversation.directory)}"


def _briefly(text: str) -> str:
    return f'"{textwrap.shorten(text, 200, placeholder=" …")}"' if text.strip() else "nothing."


# --- What is in the conversation --------------------------------------------------------------------------------------

_TAGGED = re.compile(
    r"<tool_result\b[^<>]*>.*</tool_result>"  # greedy, for a result may itself hold the closing tag
    r"|<(?P<tag>[\w-]*(?:system|reminder)[\w-]*|(?:local-)?command-[\w-]+)\b[^<>]*>.*?</(?P=tag)>",
    re.DOTALL | re.IGNORECASE,
)
_RESULT = re.compile(r"<tool_result\b(?P<attributes>[^<>]*)>\n?(?P<text>.*)</tool_result>", re.DOTALL)
_TOOL_NAME = re.compile(r'"name"\s*:\s*"([\w-]+)"')
_DIRECTORY = re.compile(r"^[\s*-]*(?:primary )?working directory:\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Conversation:
    """What the script must know: the user's last request, and how far its calls have got since."""

    request: str
    steps_made: int
    result: str
    result_is_error: bool
    tools: frozenset[str]
    directory: str


def read_conversation(request: ModelRequest) -> Conversation:
    """Find the user's last words outside of tagged blocks, what happened since, the tools and the directory."""
    wanted, steps_made, last_turn = "", 0, ""
    for message in request.messages:
        text = text_of(message)
        if message.get("role") == "assistant":
            steps_made += "<function_calls>" in text
            last_turn = ""
        elif message.get("role") == "user":
            last_turn += text
            words = _TAGGED.sub("\n", text).strip()
            if words and (_RESULT.search(text) is None or read_request(words)):
                wanted, steps_made = words, 0
    result = _RESULT.search(last_turn)
    directory = _DIRECTORY.search("\n".join(map(text_of, request.messages)))
    return Conversation(
        request=wanted,
        steps_made=steps_made,
        result=result["text"] if result else "",
        result_is_error=result is not None and 'status="error"' in result["attributes"],
        tools=frozenset(_TOOL_NAME.findall(request.system)),
        directory=directory[1] if directory else "",
    )


# --- What the user wants ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One call of a tool; all parameters of the few tools used here are strings."""

    tool: str
    parameters: dict[str, str]


def read_request(text: str) -> list[Step]:
    """Turn a request into steps; what is not understood is passed over."""
    reader, steps = _Reader(text), list[Step]()
    while reader.take(_FILLERS) and not reader.at_end:
        start = reader.at
        for verb, read_instruction in _INSTRUCTIONS:
            reader.at = start
            if reader.take(verb) and (understood := read_instruction(reader)):
                steps += understood
                break
        else:
            reader.at = start
            reader.take(_CLAUSE)
    return steps


class _Reader:
    """Reads from left to right: each method moves on and returns what it read, or stays and returns None."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def at_end(self) -> bool:
        return self.at == len(self.text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self.text, self.at):
            self.at = found.end()
        return found

    def quoted(self) -> str | None:
        found = self.take(_QUOTED)
        return found[found.lastgroup] if found and found.lastgroup else None

    def words(self, pattern: re.Pattern[str]) -> str | None:
        """Read something quoted, or else what the pattern finds."""
        if (quoted := self.quoted()) is not None:
            return quoted
        found = self.take(pattern)
        return found[0].strip() if found else None

    def path(self) -> str | None:
        """Read a path: quoted, or after the word 'file', or such that it is seen to be one."""
        start, article = self.at, self.take(_ARTICLES)
        path = self.words(_NAME if article and "file" in article[0].lower() else _PATH)
        if path is None:
            self.at = start
        return path


def _pattern(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


_FILLERS = _pattern(
    r"(?:[\s,;.!?:*-]|\d+[.)]\s"
    r"|(?:and|then|now|first|next|finally|also|please|can you|could you|i want you to|i would like you to)\b)*"
)
_CLAUSE = _pattern(r"[^\n]+?(?=[,;.!?:]\s|\s+then\b|\n|\Z)")
_QUOTED = re.compile(
    r"""\s* (?: (`{3,})[^`\n]*\n(?P<block>(?:.*?\n)??)[ \t]*\1 | (`+)(?P<ticked>.+?)\3(?!`)
    | "(?P<double>[^"]*)" | '(?P<single>[^']*)' | “(?P<curly>[^”]*)” )""",
    re.DOTALL | re.VERBOSE,
)
_ARTICLES = _pattern(r"\s*(?:(?:the|a|an|new|text|file|named|called)\s+)*")
_NAME = _pattern(r"\s*[^\s`\"',;]*[^\s`\"',;.:!?]")
_PATH = _pattern(r"\s*[^\s`\"',;]*[./][^\s`\"',;]*[^\s`\"',;.:!?]")
_REST_OF_CLAUSE = _pattern(r"[ \t]*\S[^\n]*?(?=\s*(?:\n|\Z|,?\s+then\b))")
_COMMAND_LINE = _pattern(r"[ \t]*\S[^\n]*?(?=(?:(?<=\w)\.)?\s*(?:\n|\Z|,?\s+then\b))")

_FILES = r"(?:\s+(?:me|all|the|my|of))*\s+(?:files|directory)\b"
_IN = _pattern(r"\s+(?:in|into|to|of|under|from|at|inside)\b")
_HERE = _pattern(r"\s+(?:(?:the|this|current|working)\s+)+(?:directory|folder)\b|\s+here\b")
_FOLDER = _pattern(r"(?:\s+(?:the|directory|folder))*\s+")
_DOTS_OR_NAME = _pattern(r"\.{1,2}(?=[\s,;]|\Z)|[^\s`\"',;]*[^\s`\"',;.:!?]")
_CONTENTS_OF = _pattern(r"(?:\s+(?:me|us|the|contents?|text|of|what\s+is\s+in))*")
_WITH = _pattern(
    r",?\s*(?:\b(?:with|containing|holding|saying|that\s+contains|which\s+contains)\b|(?=:))"
    r"(?:\s+(?:the|this|following|text|contents?|lines?|code)\b)*"
)
_COLON_LINE = _pattern(r"\s*:[ \t]*\n(?!\s*```)")
_COLON = _pattern(r"\s*:")
_BY = _pattern(r"\s+(?:with|by)\b")
_WORD = _pattern(r"\s+\S+")
_COMMAND = _pattern(r"(?:\s+(?:the|this|shell|bash|command))*\s*:?")


def _list_files(reader: _Reader) -> list[Step] | None:
    directory: str | None = None
    if reader.take(_IN) and not reader.take(_HERE) and reader.take(_FOLDER):
        directory = reader.words(_DOTS_OR_NAME)
    return [Step("Bash", {"command": f"ls -A {shlex.quote(directory)}" if directory else "ls -A"})]


def _read(reader: _Reader) -> list[Step] | None:
    reader.take(_CONTENTS_OF)
    path = reader.path()
    return [Step("Read", {"file_path": path})] if path else None


def _write(reader: _Reader) -> list[Step] | None:
    start = reader.at
    content, path = reader.quoted(), reader.path() if reader.take(_IN) else None
    if content is None or path is None:
        reader.at = start
        path, content = reader.path(), _content(reader) if reader.take(_WITH) else None
    return [Step("Write", {"file_path": path, "content": content})] if path and content is not None else None


def _content(reader: _Reader) -> str | None:
    if reader.take(_COLON_LINE):
        content, reader.at = reader.text[reader.at :].rstrip() + "\n", len(reader.text)
        return content
    reader.take(_COLON)
    return reader.words(_REST_OF_CLAUSE)


def _replace(reader: _Reader) -> list[Step] | None:
    old = reader.words(_WORD)
    new = reader.words(_WORD) if reader.take(_BY) else None
    path = reader.path() if reader.take(_IN) else None
    if not old or new is None or not path:
        return None
    edit = {"file_path": path, "old_string": old, "new_string": new}
    return [Step("Read", {"file_path": path}), Step("Edit", edit)]


def _run(reader: _Reader) -> list[Step] | None:
    reader.take(_COMMAND)
    command = reader.words(_COMMAND_LINE)
    return [Step("Bash", {"command": command.strip()})] if command else None


_Instruction: TypeAlias = "Callable[[_Reader], list[Step] | None]"
_INSTRUCTIONS: tuple[tuple[re.Pattern[str], _Instruction], ...] = (
    (_pattern(r"list(?:\s+the)?\s+contents\b|(?:list|show)" + _FILES), _list_files),
    (_pattern(r"(?:read|show|open|display|view|cat)\b"), _read),
    (_pattern(r"(?:write|create|make|save)\b"), _write),
    (_pattern(r"replace\b"), _replace),
    (_pattern(r"(?:run|execute)\b"), _run),
)


# --- How a call is written --------------------------------------------------------------------------------------------


def write_step(step: Step, directory: str) -> str:
    """Write a call in the notation that the prompt asks for; relative file paths are taken from the directory."""
    parameters = {
        name: _absolute(value, directory) if name == "file_path" else value for name, value in step.parameters.items()
    }
    lines = [f'<parameter name="{name}">{_value(value)}</parameter>' for name, value in parameters.items()]
    return "\n".join(["<function_calls>", f'<invoke name="{step.tool}">', *lines, "</invoke>", "</function_calls>"])


def _value(value: str) -> str:
    return f"\n{value}\n" if "\n" in value else value


def _absolute(path: str, directory: str) -> str:
    absolute = path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
    if absolute or not directory:
        return path
    separator = "\\" if "\\" in directory else "/"
    return f"{directory.rstrip(separator)}{separator}{path.removeprefix('./')}"
