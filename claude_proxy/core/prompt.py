"""`Request` -> `Prompt`: a conversation with tools, as a text-only model can read it.

Prompts only grow: how a message is rendered depends on the messages before it, never on later ones, so that the
providers' prefix caches work. The one exception is a short reminder at the very end. What the module would do to the
conversation is met here: contents are strings, the system text is never empty, turns alternate and a user has the
first and the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Literal

from claude_proxy.core import entities, instructions, notation
from claude_proxy.core.content import (
    Block,
    MessageParam,
    Omitted,
    Request,
    Text,
    Tool,
    ToolReference,
    ToolResult,
    ToolUse,
)
from claude_proxy.errors import InvalidRequest


@dataclass(frozen=True)
class Turn:
    """One turn of the rendered conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """What the model is sent: a system text that is never empty, and turns that alternate, users' first and last."""

    system: str
    turns: tuple[Turn, ...]

    @property
    def texts(self) -> Iterator[str]:
        """Every text the model will read."""
        yield self.system
        for turn in self.turns:
            yield turn.content


# Claude Code opens `system` with a line for Anthropic's billing; it changes between conversations and says nothing to
# a model.
_BILLING_HEADER = "x-anthropic-billing-header:"

# Written as the model shall read it: it is not armoured again.
_CHANNEL_NOTE = """\
# How your text travels

Between you and the user, HTML entities are decoded once. So everything you read here, and everything you write, has \
each literal entity written with its ampersand as &amp;: the C expression you see as `&amp;sum;` is `&` followed by \
`sum;` in the file, and to put an escaped less-than sign into a file you write `&amp;lt;`. Copy such sequences exactly \
as you see them. All other text, a plain & or < or > included, is written as it is.

Never begin a reply with { or with a ```json fence; put a few words before it.

What stands inside <system_message> tags comes from the operator of this conversation, not from the user."""
_CHANNEL_NOTE_WITHOUT_ENTITIES = """\
# How your text travels

Never begin a reply with { or with a ```json fence; put a few words before it.

What stands inside <system_message> tags comes from the operator of this conversation, not from the user."""

_OPENING = "(The beginning of this conversation is not shown.)"
_CLOSING = "(Go on.)"


def render(request: Request, *, armoured: bool) -> Prompt:
    """Render a request as plain text.

    Args:
        request: the request.
        armoured: whether the module decodes entities, so that texts must carry the armour of `core.entities`.

    Raises:
        InvalidRequest: a tool's schema or a call's input is nested too deeply.
    """
    protect = entities.armour if armoured else _unchanged
    try:
        return _render(request, protect, armoured=armoured)
    except RecursionError:
        raise InvalidRequest("The request body is nested too deeply.") from None


def _render(request: Request, protect: Callable[[str], str], *, armoured: bool) -> Prompt:
    turns = [Turn(turn.role, protect(turn.content)) for turn in _turns(request)]
    return Prompt(_system(request, protect, armoured=armoured), tuple(turns))


def _unchanged(text: str) -> str:
    return text


# --- the system text --------------------------------------------------------------------------------------------------


def _system(request: Request, protect: Callable[[str], str], *, armoured: bool) -> str:
    texts = [_without_billing_header(text) for text in request.system]
    parts = [protect(text) for text in texts if text.strip()]
    parts.append(_CHANNEL_NOTE if armoured else _CHANNEL_NOTE_WITHOUT_ENTITIES)
    if request.callable_tools:
        shown = [tool for tool in request.callable_tools if not tool.defer_loading]
        parts.append(protect(instructions.describe_tools(shown)))
    return "\n\n".join(parts)


def _without_billing_header(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_BILLING_HEADER) else text


# --- the conversation -------------------------------------------------------------------------------------------------


def _turns(request: Request) -> list[Turn]:
    """The rendered turns: `system` messages join the user's, consecutive ones of a side become one."""
    renderer = _Renderer({tool.name: tool for tool in request.tools})
    turns: list[Turn] = []
    for message in request.messages:
        side: Literal["user", "assistant"] = "assistant" if message.role == "assistant" else "user"
        if text := renderer.render(message):
            _append(turns, Turn(side, text))
    if not turns or turns[0].role == "assistant":
        turns.insert(0, Turn("user", _OPENING))
    if request.tools:
        _append(turns, Turn("user", instructions.remind(request.tool_choice)))
    elif turns[-1].role == "assistant":
        turns.append(Turn("user", _CLOSING))
    return turns


def _append(turns: list[Turn], turn: Turn) -> None:
    """Add a turn, or join it to the last one where that is of the same side."""
    if turns and turns[-1].role == turn.role:
        turns[-1] = Turn(turn.role, f"{turns[-1].content}\n\n{turn.content}")
    else:
        turns.append(turn)


class _Renderer:
    """Renders messages in their order; what it remembers comes from earlier messages only."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.tools = tools
        self.shown = {tool.name for tool in tools.values() if not tool.defer_loading}
        self.calls: dict[str, tuple[int, str]] = {}  # tool_use id -> the call's position and the tool's name

    def render(self, message: MessageParam) -> str:
        if message.role == "assistant":
            return self._assistant(message)
        texts = self._results(message) + [
            self._plain(block) for block in message.content if not isinstance(block, ToolResult)
        ]
        if message.role == "system":
            texts = [f"<system_message>\n{text}\n</system_message>" for text in texts]
        return "\n\n".join(texts)

    def _assistant(self, message: MessageParam) -> str:
        """What the assistant said, its calls in the canonical notation, whatever form they came in."""
        parts: list[str] = []
        for is_call, run in groupby(message.content, key=lambda block: isinstance(block, ToolUse)):
            if is_call:
                calls = [self._call(block) for block in run if isinstance(block, ToolUse)]
                parts.append(notation.write_calls(calls, self.tools))
            else:
                parts += [text for block in run if (text := self._plain(block))]
        return "\n".join(parts).rstrip()  # Anthropic's models refuse an assistant turn that ends in white space

    def _call(self, block: ToolUse) -> notation.Call:
        self.calls[block.id] = (len(self.calls), block.name)
        return notation.Call(block.name, block.input)

    def _results(self, message: MessageParam) -> list[str]:
        """The tool results of a message in the order of their calls: they come in the order in which tools finished."""
        unknown = (len(self.calls), "unknown")
        results = [
            (*self.calls.get(block.tool_use_id, unknown), block)
            for block in message.content
            if isinstance(block, ToolResult)
        ]
        return [self._result(name, result) for _, name, result in sorted(results, key=itemgetter(0))]

    def _result(self, name: str, result: ToolResult) -> str:
        status = ' status="error"' if result.is_error else ""
        content = "\n".join(self._plain(block) for block in result.content)
        tag = "tool_result"
        while f"</{tag}" in content:
            tag += "_"  # so that nothing in a file can end the result and speak for somebody else
        return f'<{tag} name="{name}"{status}>\n{content}\n</{tag}>'

    def _plain(self, block: Block) -> str:
        match block:
            case Text(text):
                return text
            case Omitted(what):
                return f"[{what} left out: this channel carries text only. Do not guess what it shows.]"
            case ToolReference(name):
                return self._reference(name)
            case _:
                return ""

    def _reference(self, name: str) -> str:
        """A deferred tool is shown where it is first referenced."""
        if name in self.shown:
            return f"[The tool {name} can be called.]"
        if name not in self.tools:
            return f"[The tool {name} is not available.]"
        self.shown.add(name)
        return f"From now on this tool can be called, too:\n{instructions.describe_tool(self.tools[name])}"
