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

from claude_proxy.demo.model import ModelReply, ModelRequest, text_of

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


_PATH = r"`?([^\s`,;]*[^\s`,;.:!?])`?"
_QUOTED = r"(`+)(.+?)\{}(?!`)"  # to be told the number of its first group
_INSTRUCTION = re.compile(
    r"(?:^|\bthen\b|[.,;])[^\S\n]*(?:"
    + "|".join(
        (
            rf"list files(?: in {_PATH})?",
            rf"read {_PATH}",
            rf"write {_PATH} with {_QUOTED.format(4)}",
            rf"replace {_QUOTED.format(6)} with {_QUOTED.format(8)} in {_PATH}",
            rf"run {_QUOTED.format(11)}",
        )
    )
    + ")",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


def read_request(text: str) -> list[Step]:
    """Turn a request into steps; what is not understood is passed over."""
    steps = []
    for found in _INSTRUCTION.finditer(text):
        folder, to_read, to_write, _, content, _, old, _, new, to_edit, _, command = found.groups()
        if to_write:
            steps.append(Step("Write", {"file_path": to_write, "content": content}))
        elif to_edit:
            steps.append(Step("Read", {"file_path": to_edit}))
            steps.append(Step("Edit", {"file_path": to_edit, "old_string": old, "new_string": new}))
        elif to_read:
            steps.append(Step("Read", {"file_path": to_read}))
        else:
            listing = f"ls -A {shlex.quote(folder)}" if folder else "ls -A"
            steps.append(Step("Bash", {"command": command or listing}))
    return steps


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
