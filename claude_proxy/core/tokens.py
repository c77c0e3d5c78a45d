"""Token estimates: how many tokens a text will be, without a tokenizer.

A linear model over counts that C code can make: tokenizers spend about one token on a short word, more on long ones,
and differ by kind of character. Counts are of UTF-8 bytes and words, so the cost is linear and small.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()
_PUNCTUATION = string.punctuation.encode()
_ASCII = bytes(range(128))


def estimate(texts: Iterable[str]) -> int:
    """The number of tokens that texts will be, at least 1. Each text costs a few more for its role."""
    return max(1, sum(_estimate(text) for text in texts))


_PER_TEXT = 4.0
_PER_LETTER = 0.155
_PER_WORD = 0.35
_PER_DIGIT = 0.45
_PER_PUNCTUATION = 0.52
_PER_NEWLINE = 0.35
_PER_WIDE_CHARACTER = 0.95


def _estimate(text: str) -> int:
    data = text.encode(errors="replace")
    letters = len(data) - len(data.translate(None, _LETTERS))
    digits = len(data) - len(data.translate(None, _DIGITS))
    punctuation = len(data) - len(data.translate(None, _PUNCTUATION))
    wide = len(text) - (len(data) - len(data.translate(None, _ASCII)))
    return round(
        _PER_TEXT
        + _PER_LETTER * letters
        + _PER_WORD * len(data.split())
        + _PER_DIGIT * digits
        + _PER_PUNCTUATION * punctuation
        + _PER_NEWLINE * data.count(b"\n")
        + _PER_WIDE_CHARACTER * wide
    )
