"""What can be said of a SecureChatAI alias that its name does not tell."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Family: TypeAlias = Literal["claude", "reasoning", "chat"]
Tokenizer: TypeAlias = Literal["openai", "claude"]


class AliasFacts(NamedTuple):
    """What is said of an alias, as in `models.Alias`; None leaves a fact to the built-in tables."""

    window: int | None = None
    max_output: int | None = None
    sees: bool | None = None
    family: Family | None = None
    tokenizer: Tokenizer | None = None
