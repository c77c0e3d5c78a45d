"""What the steps of earlier requests gave, so that a turn costs little more than what is new in it.

The core cuts a request into steps (`core.steps`): reading the tools and each message, and writing each for the model. A
client sends its whole conversation each turn; a `Cache` runs a step only if it has not been run with the same
arguments of late. A step depends on its arguments alone, so nothing else belongs into a key, and what is held never has
to be made invalid: of other arguments it is just not the result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, cast

from claude_proxy.core.steps import Fingerprinted, Runner, digest

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

IDLE = 300.0
"""Seconds that something is kept without being asked for: as long as the vendors' own caches last."""

# Bytes: what an entry takes besides what it holds, and an object besides what it holds.
_ENTRY = 400
_OBJECT = 60
_LONG = 32  # characters; a longer text is a digest in a key
_CONTAINERS = (tuple, list, frozenset)


_Entry: TypeAlias = tuple[Any, int, float]
"""A result, its weight, and when it was last asked for."""


class Cache:
    """The results of steps, of which there is only so much, by their arguments. Threads share it.

    `_lock` guards all that changes: `_entries`, in the order in which they were last asked for, `weight` (about the
    bytes that they take together), `_capacity` and `_now`. It is held for a look or a change, never while a step runs:
    two threads that want the same at the same time both find it out, and the first one's result is kept.
    """

    def __init__(self, capacity: int, now: float) -> None:
        """Begin with nothing.

        Args:
            capacity: bytes that may be kept, about; 0 for nothing.
            now: seconds, from any start.
        """
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self.weight = 0
        self._capacity = capacity
        self._now = now

    def runner(self, owner: str) -> Runner:
        """What runs a step only if it is not known what it gives for these arguments.

        Args:
            owner: whose request it is; nobody is given what was found out for another.
        """
        return cast("Runner", partial(self._run, owner))

    def _run(self, owner: str, step: Callable[[*Ts], T], /, *of: *Ts) -> T:
        if not self._capacity:
            return step(*of)
        key = (owner, step, *map(_key, of))
        with self._lock:
            if entry := self._entries.pop(key, None):
                known, weight, _ = entry
                self._entries[key] = known, weight, self._now  # behind all others
                return known  # type: ignore[no-any-return]
        result = step(*of)  # what it raises is not kept
        self._keep(key, result, _ENTRY + _size(key) + _size(result))
        return result

    def _keep(self, key: Hashable, result: object, weight: int) -> None:
        with self._lock:
            if key in self._entries or weight > self._capacity:
                return
            self._entries[key] = result, weight, self._now
            self.weight += weight
            self._shrink()

    def _shrink(self) -> None:
        """Drop what has not been asked for the longest, until the rest is neither idle nor more than there may be."""
        idle = self._now - IDLE
        while self._entries:
            key = next(iter(self._entries))
            _, weight, used = self._entries[key]
            if self.weight <= self._capacity and used >= idle:
                return
            del self._entries[key]
            self.weight -= weight

    def allow(self, capacity: int) -> None:
        """Change how much may be kept."""
        with self._lock:
            self._capacity = capacity
            self._shrink()

    def expire(self, now: float) -> None:
        """Drop what nobody has asked for within `IDLE` seconds.

        Args:
            now: seconds, from the same start; to be called every few seconds, which are the unit of this clock.
        """
        with self._lock:
            self._now = now
            self._shrink()

    def __len__(self) -> int:
        return len(self._entries)


def _key(argument: object) -> Hashable:
    """What stands for an argument in a key, which holds no content."""
    if isinstance(argument, Fingerprinted):
        return argument.fingerprint
    if isinstance(argument, str):
        return argument if len(argument) <= _LONG else digest(argument)
    if type(argument) is tuple and argument:
        return tuple(map(_key, argument))
    return frozenset(map(_key, argument)) if isinstance(argument, frozenset) and argument else argument


def _size(value: object) -> int:
    """About the bytes that a value takes, by its texts."""
    if isinstance(value, str):
        return value.__sizeof__()
    if isinstance(value, _CONTAINERS):
        parts: Iterable[object] = value
    elif isinstance(value, dict):
        parts = (*value, *value.values())
    elif names := getattr(value, "__dataclass_fields__", None):
        parts = [getattr(value, name) for name in names]  # `vars` would make a dictionary of each, for good
    else:
        return _OBJECT
    return _OBJECT + sum([_size(part) for part in parts])
