"""What was found out about parts of a conversation, so that it need not be found out again a turn later.

A client sends its whole conversation each turn, and little of it is new. What is dear to compute and small (how many
tokens a text is, whether a call can be written plainly) is remembered by a digest of what it was computed from. No text
is kept, here or anywhere else between two requests, so nothing has to be forgotten in time; only the number of entries
is bounded. There are two generations: when the young one is full it becomes the old one, and the former old one is
dropped; what is asked for is young again.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar, cast

T = TypeVar("T")

_MOST = 20_000  # entries of a generation; with some 200 bytes each, both together take 8 MB at most


class Memo:
    """Small results by the digest of what they were computed from. Threads may share one: at worst one is lost."""

    def __init__(self, most: int = _MOST) -> None:
        """Begin with nothing; `most` is the number of entries in each of two generations."""
        self._most = most
        self._young: dict[bytes, Any] = {}
        self._old: dict[bytes, Any] = {}

    def recall(self, what: str, of: str, find: Callable[[], T]) -> T:
        """A result that is known, or else found now.

        Args:
            what: which kind of result, and whatever else it depends on.
            of: the text that it depends on.
            find: computes it; never returns None.
        """
        key = digest(what, of)
        known = self._young.get(key)
        if known is None:
            known = self._old.get(key)
            if known is None:
                known = find()
            if len(self._young) >= self._most:
                self._young, self._old = {}, self._young
            self._young[key] = known
        return cast("T", known)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


def digest(*texts: str) -> bytes:
    """32 bytes that stand for texts."""
    made = sha256()  # of the safe ones the fastest, where the processor helps
    for text in texts:
        made.update(text.encode(errors="surrogatepass"))
        made.update(b"\xff")  # occurs in no text
    return made.digest()
