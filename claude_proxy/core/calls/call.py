"""A call as it stands in a text, and a stretch of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call as it stands in a text: the tool's name and its arguments, not yet checked against the tool."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class CallBlock:
    """What was read from a stretch of a text."""

    calls: tuple[Call, ...]  # the complete ones in their order, by the names that the model used
    start: int
    end: int
    truncated: bool = False  # whether the text ends inside a call

    def without_last(self, end: int) -> CallBlock:
        """The stretch as one whose last call is cut off at `end`, although it seems to be complete."""
        return replace(self, calls=self.calls[:-1], end=end, truncated=True)
