"""A model, as the module sees it: what it is asked, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Family: TypeAlias = Literal["claude", "reasoning", "chat"]
Model: TypeAlias = "Callable[[ModelRequest], ModelReply | str]"

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class ModelRequest:
    """What the module sends to the vendor of a model.

    `messages` begin with the system message, if there is one. For Claude aliases it is the only one: all system
    texts, from wherever they stood, joined by an empty line. `max_tokens` is what the vendor is told: the module's
    own figure for Claude, the caller's for reasoning models, nothing for all others. Parameters that the model's
    family is not sent are None or empty.
    """

    alias: str
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None

    @property
    def system(self) -> str:
        """All system texts, joined by an empty line."""
        return "\n\n".join(text_of(m) for m in self.messages if m.get("role") == "system")


@dataclass(frozen=True)
class ModelReply:
    """What a model wrote; token counts that are None are estimated from the length of the text."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class ModelFailure(Exception):
    """The model could not be reached, or refused: the module apologizes instead of saying so."""


class ErrorInReply(Exception):
    """The vendor answered 200 with an `error` in its body, which the module does not take for a failure."""


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whether its content is a string or an array of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def estimate_tokens(characters: int) -> int:
    """Return a number of tokens for a number of characters, at least 1."""
    return max(1, characters // CHARACTERS_PER_TOKEN)
