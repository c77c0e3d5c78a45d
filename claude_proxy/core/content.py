"""The vocabulary: what a request holds and what a response is made of.

Names are the Messages API's own. Everything is frozen and plain; `core.request` makes the request side, `core.reply`
the response side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["user", "assistant", "system"]
StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


# --- content blocks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A `text` block."""

    text: str


@dataclass(frozen=True)
class Thinking:
    """A `thinking` block. The signature is opaque and never checked."""

    thinking: str
    signature: str


@dataclass(frozen=True)
class ToolUse:
    """A `tool_use` block: one call of a client tool."""

    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Omitted:
    """A block whose content a text-only model cannot be given, such as an image or a PDF.

    Attributes:
        what: what it was, for the note that takes its place: "image (image/png)".
    """

    what: str


@dataclass(frozen=True)
class ToolReference:
    """A `tool_reference` in a tool result: from here on the deferred tool of this name may be called."""

    tool_name: str


@dataclass(frozen=True)
class ToolResult:
    """A `tool_result` block."""

    tool_use_id: str
    content: tuple[Text | Omitted | ToolReference, ...] = ()
    is_error: bool = False


Block: TypeAlias = Text | ToolUse | ToolResult | Omitted | ToolReference


# --- the request ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MessageParam:
    """One entry of a request's `messages`. Thinking of earlier turns is not kept: no text-only model wants it back."""

    role: Role
    content: tuple[Block, ...]


@dataclass(frozen=True)
class Tool:
    """A client tool. A deferred one is shown to the model only where a `tool_reference` names it."""

    name: str
    input_schema: Mapping[str, Any]
    description: str = ""
    defer_loading: bool = False


@dataclass(frozen=True)
class ToolChoice:
    """How free the model is to call tools; `name` only with type `tool`."""

    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    disable_parallel_tool_use: bool = False


@dataclass(frozen=True)
class Request:
    """A Messages API request, as far as a text-only model can serve it.

    Attributes:
        model: the name as the client sent it; the response echoes it.
        max_tokens: None only for `count_tokens`, which has no such field.
        thinking: whether the response may hold thinking blocks.
    """

    model: str
    messages: tuple[MessageParam, ...]
    max_tokens: int | None = None
    system: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    thinking: bool = False
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the reply may call."""
        return () if self.tool_choice.type == "none" else self.tools


# --- the response -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Tokens that a call cost."""

    input_tokens: int
    output_tokens: int


ContentBlock: TypeAlias = Text | Thinking | ToolUse


@dataclass(frozen=True)
class Message:
    """The finished response; its JSON and its event stream are both derived from it."""

    id: str
    model: str
    content: tuple[ContentBlock, ...]
    stop_reason: StopReason
    usage: Usage
    stop_sequence: str | None = None
