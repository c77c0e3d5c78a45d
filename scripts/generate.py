#!/usr/bin/env python3
"""Write what is generated from the code: `.env.example`. A test says when it is stale."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from claude_proxy import settings


def generated() -> dict[Path, str]:
    """The files, and what they should hold."""
    return {ROOT / ".env.example": settings.env_example()}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
