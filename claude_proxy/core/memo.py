"""What was found out from parts of earlier requests, so that a turn costs little more than what is new in it.

A client sends its whole conversation each turn, and most of it is as it was. Two kinds of results are remembered:

- Verdicts: what is dear to find out and small, such as whether a call can be written plainly. They are kept by a digest
  of what they were found from, without any text, until they have to make room.
- Content: what a message was read as, what it is for the model, what it is on the wire. It is held for as long as the
  conversation is active: whoever owns the memo calls `turn_over` now and then, and what has not been asked for between
  two such calls is gone with the second.

What depends on objects that are remembered, such as tools, is found by their identity: the same JSON is read as the
same objects as long as it is remembered, and what was made of them is kept and dropped with them.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from hashlib import sha256
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_VERDICTS = 20_000  # of a generation; with some 200 bytes each, both together take 8 MB at most
_ROOM = 64_000_000  # bytes of content
_OBJECT = 500  # bytes that an entry takes besides what it holds
_SMALL = 50  # bytes of a number, or of what is not looked into


class Memo:
    """What is known from earlier requests. Threads may share one: at worst something is found out twice."""

    def __init__(self, *, room: int = _ROOM, most_verdicts: int = _MOST_VERDICTS) -> None:
        """Begin with nothing.

        Args:
            room: bytes of content that may be kept; 0 for none.
            most_verdicts: how many verdicts are kept for certain; at most twice as many are.
        """
        self._verdicts = _Generations(most_verdicts)
        self._content = _Generations(room // 2)

    def allow(self, room: int) -> None:
        """Change the room for content."""
        self._content.most = room // 2
        if not room:
            self.forget_content()

    def forget_content(self) -> None:
        """Keep no content of what has been so far."""
        self.turn_over()
        self.turn_over()

    def turn_over(self) -> None:
        """Drop the content that has not been asked for since the last call."""
        self._content.turn_over()

    def verdict(self, what: str, of: str, find: Callable[[], T]) -> T:
        """A small result that holds no content: the one that is known, or else found now.

        Args:
            what: which kind of result, and whatever else it depends on.
            of: the text that it depends on.
            find: computes it; never returns None.
        """
        key = digest(what, of)
        known: T | None = self._verdicts.get(key)
        if known is None:
            known = find()
            self._verdicts.put(key, known, 1)
        return known

    def content(
        self, key: Hashable, find: Callable[[], T], *, size: int | None = None, of: tuple[object, ...] = ()
    ) -> T:
        """A result that is, or whose key is, content: the one that is known, or else found now.

        Args:
            key: the kind of result, and all that it depends on besides `of`.
            find: computes it; never returns None.
            size: bytes that the key and the result take; where it is left out, the result is looked at.
            of: objects that it depends on, by their identity; they are held with the result.
        """
        if of:
            key = (key, *map(id, of))
        known: tuple[T, object] | None = self._content.get(key)
        if known is None:
            known = (find(), of)  # held with the result, the objects are alive, so that no other can have their ids
            self._content.put(key, known, _OBJECT + _size(of) + (_size(known[0]) if size is None else size))
        return known[0]

    def __len__(self) -> int:
        return len(self._verdicts) + len(self._content)


def digest(*texts: str) -> bytes:
    """32 bytes that stand for texts."""
    made = sha256()  # of the safe ones the fastest, where the processor helps
    for text in texts:
        made.update(text.encode(errors="surrogatepass"))
        made.update(b"\xff")  # occurs in no text
    return made.digest()


def fingerprint(value: Any) -> tuple[int, bytes]:
    """The size of a JSON value in bytes, and 32 bytes that stand for it, where 1 is another value than 1.0 and true.

    `marshal` takes a tenth of the time that `json` does.

    Raises:
        ValueError: it is nested too deeply.
    """
    written = marshal.dumps(value, _MARSHAL_BY_VALUE)
    return len(written), sha256(written).digest()


_MARSHAL_BY_VALUE = 2  # later versions of the format write differently what is referred to twice


def _size(value: Any) -> int:
    """About the bytes that a value takes, by its texts."""
    if isinstance(value, str):
        return value.__sizeof__()
    if isinstance(value, tuple | list | frozenset):
        return sum(map(_size, value))
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    return sum(map(_size, value.values())) if isinstance(value, dict) else _SMALL


class _Generations:
    """A dictionary that forgets what has not been asked for of late, and of which there is only so much.

    There are two generations. When the young one is full, or old enough, it becomes the old one, and the former old one
    is dropped; what is asked for is young again.
    """

    def __init__(self, most: int) -> None:
        """Begin with nothing; `most` is the weight of a generation."""
        self.most = most
        self._young: dict[Hashable, tuple[Any, int]] = {}
        self._old: dict[Hashable, tuple[Any, int]] = {}
        self._weight = 0  # of the young ones

    def get(self, key: Hashable) -> Any:
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self.put(key, *entry)
        return entry[0]

    def put(self, key: Hashable, value: Any, weight: int) -> None:
        if weight > self.most:
            return
        if self._weight + weight > self.most:
            self.turn_over()
        self._young[key] = (value, weight)
        self._weight += weight

    def turn_over(self) -> None:
        self._young, self._old, self._weight = {}, self._young, 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
