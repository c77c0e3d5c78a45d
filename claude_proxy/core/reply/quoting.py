"""Text that is shown instead of meant: code fences, inline code, and markup that quotes."""

from __future__ import annotations

import re

# A look at what it may begin with spares most lines the slower loop over the marks of lists and quotations before it.
FENCE = r"[ \t]*(?=[-*+\d>`~])(?:(?:[-*+]|\d{1,3}[.)]|>)[ \t]+)*(?P<fence>`{3,}|~{3,})"
OPENING_FENCE = re.compile(FENCE)
BARE_FENCE = re.compile(rf"\n{FENCE}[^\S\n]*(?=\n|\Z)")
_FENCE_AT_END = re.compile(r"[^`\n]*[^`\s][^\S\n]*(`{3,})[\w+-]*[ \t]*\n")

QUOTING_MARKUP = re.compile(r"[ \t]*<(!--|(?:pre|code|example|system-reminder)\b)", re.IGNORECASE)
MARKUP_ENDS = {
    "!--": re.compile("-->"),
    "pre": re.compile("</pre>"),
    "code": re.compile("</code>"),
    "example": re.compile("</example>"),
    "system-reminder": re.compile("</system-reminder>"),
}

_BACKTICKS = re.compile(r"`+")


def fence_at_end(text: str, start: int, end: int) -> str:
    """The marks of the code fence that a line opens behind its words; "" where it opens none."""
    found = _FENCE_AT_END.match(text, start) if text.find("```", start, end) >= 0 else None
    return found[1] if found else ""


def in_inline_code(text: str, start: int, position: int) -> bool:
    """Whether a position in the line that begins at `start` stands between backticks: single ones, or runs of them."""
    return len(_BACKTICKS.findall(text, start, position)) % 2 == 1


def end_of_inline_code(text: str, position: int) -> int:
    """Where the inline code ends in which a position stands: it may go over lines, but not over a blank one."""
    end = text.find("`", position)
    blank = text.find("\n\n", position)
    return min((each for each in (end, blank) if each >= 0), default=position)
