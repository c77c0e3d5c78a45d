"""Stop sequences and `max_tokens`, which the module does not apply: both are applied to the finished reply.

They concern what is written as text. A call is one thing: it is never cut in two, and one that stands behind a stop
sequence was never made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from claude_proxy.core.aliases import tokens
from claude_proxy.core.messages.content import ContentBlock, Text, Thinking, ToolUse

_WEIGHTS = tokens.weights("openai")
# Content that is estimated at less than this share of the reply's tokens is not all that the reply held.
_LEAST_SHARE_OF_WHOLE = 0.6


def stop_at(content: Iterable[ContentBlock], sequences: Sequence[str]) -> tuple[tuple[ContentBlock, ...], str | None]:
    """The content before the first stop sequence, and which it was; all of it and None where there is none.

    Of two sequences that begin at the same place the one that ends first is met first.
    """
    kept: list[ContentBlock] = []
    for block in content:
        if isinstance(block, Text):
            found = [(at, len(sequence), sequence) for sequence in sequences if (at := block.text.find(sequence)) >= 0]
            if found:
                at, _, sequence = min(found, key=lambda match: (match[0] + match[1], match[0]))
                return (*kept, *([Text(block.text[:at])] if block.text[:at] else [])), sequence
        kept.append(block)
    return tuple(kept), None


def cut_to(
    content: Sequence[ContentBlock], max_tokens: int, output_tokens: int
) -> tuple[tuple[ContentBlock, ...], bool]:
    """The content as far as `max_tokens` reach, and whether anything was cut.

    Args:
        content: of a reply; with calls in it nothing is cut, since they have been paid for and are wanted.
        max_tokens: the client's limit.
        output_tokens: what the reply cost, by the vendor's count; it may have held more than the content.
    """
    if output_tokens <= max_tokens or any(isinstance(block, ToolUse) for block in content):
        return tuple(content), False
    estimated = sum(_cost(_text(block)) for block in content)
    is_whole = estimated >= _LEAST_SHARE_OF_WHOLE * output_tokens
    if content and not is_whole and estimated <= max_tokens:
        return tuple(content), False
    left = max(1, round(max_tokens * estimated / output_tokens)) if is_whole else max_tokens
    kept: list[ContentBlock] = []
    for block in content:
        text = _text(block)
        if (needed := _cost(text)) <= left:
            kept.append(block)
            left -= needed
            continue
        if short := text[: _fitting(text, left)]:
            kept.append(replace(block, thinking=short) if isinstance(block, Thinking) else Text(short))
        break
    return tuple(kept), True


def _text(block: ContentBlock) -> str:
    match block:
        case Text(text):
            return text
        case Thinking(thinking):
            return thinking
        case _:
            return ""


def _cost(text: str) -> int:
    """The tokens of a text alone, without those for its role."""
    return tokens.weigh(tokens.count(text), _WEIGHTS)


def _fitting(text: str, limit: int) -> int:
    """How many characters of a text stay within a number of tokens."""
    return bisect_right(range(len(text) + 1), limit, key=lambda length: _cost(text[:length])) - 1
