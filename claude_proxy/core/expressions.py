"""Regular expressions that are compiled when they are first used.

The longest ones take milliseconds each to compile, and most processes never meet what they are for: some dialect, some
fault. Together they would hold up every start by a tenth.
"""

from __future__ import annotations

import re
from typing import Any, cast


class _Expression:
    """Stands in for a compiled pattern, and has its methods from the first use of one."""

    def __init__(self, pattern: str, flags: int) -> None:
        self.pattern = pattern
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        """What is missing: once per method. Two threads that come at once do the same twice."""
        found = getattr(re.compile(self.pattern, self._flags), name)  # `re` remembers it for the other methods
        setattr(self, name, found)
        return found


def expression(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """What `re.compile` returns, but for the time that it takes."""
    return cast("re.Pattern[str]", _Expression(pattern, flags))
