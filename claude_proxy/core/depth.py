"""How deep a JSON value is nested. Whatever goes through values recurses, so what is too deep is kept out."""

from __future__ import annotations

from typing import Any


def is_deeper(value: Any, limit: int) -> bool:
    """Whether a value has more levels than the limit; takes no recursion itself."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
