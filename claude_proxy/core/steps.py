"""The costly steps of a request, whose results a caller may remember.

A client sends its whole conversation each turn, and most of it is as it was. So the way from a body to a prompt is cut
into steps, a few for each message and a few for the tools. A step is a pure function: its arguments are all that its
result depends on. The core runs a step through a `Runner` that comes in from outside; `run`, the one it has itself,
just calls. Another one may give what the same step gave for the same arguments before, and nobody in here can tell.

Which arguments are the same is told by `fingerprint`, for those that have one, and by their value for those that are
small.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol, TypeVar, TypeVarTuple

from claude_proxy.core.json_text import TOO_DEEP
from claude_proxy.errors import InvalidRequest

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runner(Protocol):
    """Gives what a step gives."""

    def __call__(self, step: Callable[[*Ts], T], /, *of: *Ts) -> T:
        """The result of the step for these arguments; what the step raises is raised."""


def run(step: Callable[[*Ts], T], /, *of: *Ts) -> T:
    """Run a step, whatever was run before."""
    return step(*of)


class Fingerprinted:
    """An argument of any size that a few bytes stand for: two with the same mark give the same results."""

    @cached_property
    def fingerprint(self) -> bytes:
        """Stands for all that a step may read of it."""
        return digest(repr(self))  # which tells 1 from 1.0 and True, where == does not


def digest(*texts: str) -> bytes:
    """32 bytes that stand for texts."""
    return _hash(b"".join([text.encode(errors="surrogatepass") + b"\xff" for text in texts]))  # \xff is in no text


def _hash(data: bytes) -> bytes:
    """SHA-256, in pieces of less than 2,048 bytes: for longer ones `hashlib` lets another thread run.

    A conversation has dozens of them, and a change of threads takes longer than the hash.
    """
    made = sha256(data[:_PIECE])  # of the safe ones the fastest, where the processor helps
    for start in range(_PIECE, len(data), _PIECE):
        made.update(data[start : start + _PIECE])
    return made.digest()


@dataclass(eq=False)  # not frozen: that takes three times as long, and there is one for each message
class Json(Fingerprinted):
    """A JSON value as it came."""

    value: Any
    path: str  # for what has to be said against it; no result depends on that

    @property  # it is asked for once
    def fingerprint(self) -> bytes:
        """Of the value alone, where 1 is another one than 1.0 and true.

        Raises:
            InvalidRequest: it is nested too deeply.
        """
        try:
            return _hash(marshal.dumps(self.value, _MARSHAL_BY_VALUE))  # takes a tenth of the time of `json`
        except ValueError:
            raise InvalidRequest(TOO_DEEP) from None


_PIECE = 2047  # bytes
_MARSHAL_BY_VALUE = 2  # later versions of the format write differently what is referred to twice
