"""The vocabulary: what a request holds and what a response is made of.

Names are the Messages API's own. Everything is frozen and plain; `core.messages.request` makes the request side,
`core.reply` the response side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from claude_proxy.core.steps import Fingerprinted

Role: TypeAlias = Literal["user", "assistant", "system"]
StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


# --- content blocks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A `text` block."""

    text: str


SIGNATURE = "Y2xhdWRlLXByb3h5"
"""Of every thinking block: clients want one that is not empty, and nobody checks it."""


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
class Image:
    """An `image` block: its data in base64, or an address. Not every alias can see."""

    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True)
class Document:
    """A `document` block: texts and images of its own, or a PDF in base64, which only some aliases can read."""

    title: str = ""
    context: str = ""
    content: tuple[Text | Image, ...] = ()
    pdf: str = ""


@dataclass(frozen=True)
class ToolReference:
    """A `tool_reference` in a tool result, or a `tool_addition`: from here on the tool of this name may be called."""

    tool_name: str


@dataclass(frozen=True)
class ToolRemoval:
    """A `tool_removal`: from here on the tool of this name may not be called."""

    tool_name: str


@dataclass(frozen=True)
class ToolResult:
    """A `tool_result` block."""

    tool_use_id: str
    content: tuple[Text | Image | Document | ToolReference, ...] = ()
    is_error: bool = False


Block: TypeAlias = Text | Image | Document | ToolUse | ToolResult | ToolReference | ToolRemoval


# --- the request ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MessageParam(Fingerprinted):
    """One entry of a request's `messages`. Thinking of earlier turns is not kept: no text-only model wants it back."""

    role: Role
    content: tuple[Block, ...]


@dataclass(frozen=True)
class Tool(Fingerprinted):
    """A client tool.

    Attributes:
        defer_loading: show it to the model only where a `tool_reference` names it.
        strict: an input that breaks the schema is asked for again.
        input_examples: inputs as they may be, for the model to see.
    """

    name: str
    input_schema: Mapping[str, Any]
    description: str = ""
    defer_loading: bool = False
    strict: bool = False
    input_examples: tuple[Mapping[str, Any], ...] = ()


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
        prefill: the beginning of the reply, which the model is to go on with.
        withdrawn: names of tools that may not be called any more.
        output_schema: the JSON Schema that the reply must be a document of.
        thinking: whether the response may hold thinking blocks.
        hides_thinking: whether their text is blanked.
        extras: fields that the response must have because the request had their counterparts.
        ignored: how many unknown fields, keys and betas there were.
        mended: how many calls without a result and results without a call there are.
    """

    model: str
    messages: tuple[MessageParam, ...]
    max_tokens: int | None = None
    system: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    prefill: str = ""
    withdrawn: frozenset[str] = frozenset()
    stop_sequences: tuple[str, ...] = ()
    output_schema: Mapping[str, Any] | None = None
    thinking: bool = False
    hides_thinking: bool = False
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    ignored: int = 0
    mended: int = 0

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that the reply may call."""
        if self.tool_choice.type == "none":
            return ()
        return tuple(tool for tool in self.tools if tool.name not in self.withdrawn)


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
    extras: Mapping[str, Any] = field(default_factory=dict)
