"""JSON as text: compact on the way out, and how deep a value is nested.

Whatever goes through values recurses, so what is nested too deeply is kept out.
"""

from __future__ import annotations

import json
from typing import Any

TOO_DEEP = "The request body is not valid JSON: it is nested too deeply"


def to_json(value: Any) -> str:
    """A value as compact JSON."""
    return _encode(value)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `dumps` makes one for each value


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
