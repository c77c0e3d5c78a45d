"""Further prompts for one reply: to repair a call that could not be read, and to continue a reply that was cut off.

What they ask never enters the history that the client keeps.

A reply that was cut off is continued at a seam. The module trims both ends of every reply, so white space at the very
end is lost: the text is cut back to its last lines, the model begins with these lines again, and wraps what it writes
in a tag, whose inside is not trimmed. What comes is joined only if it begins with those very lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from claude_proxy.core.prompt import armour
from claude_proxy.core.prompt.render import Prompt, turn

_SHORTEST_ANCHOR, _LONGEST_ANCHOR = 60, 800  # characters


# --- repair -----------------------------------------------------------------------------------------------------------


def repair_prompt(prompt: Prompt, text: str, defect: str, *, armoured: bool) -> Prompt:
    """The prompt that asks for a whole reply again; `defect` says in a sentence what is wrong with this one."""
    demand = (
        f"[Your reply could not be used: {defect}. Write your whole reply again, in the form described at the "
        "beginning. Do not mention this correction.]"
    )
    return _extend(prompt, text, demand, armoured=armoured)


def _extend(prompt: Prompt, reply: str, demand: str, *, armoured: bool) -> Prompt:
    protect = armour.armour if armoured else str
    said = turn("assistant", protect(reply.rstrip()) or "(nothing)")  # an empty turn would be refused
    return replace(prompt, turns=(*prompt.turns, said, turn("user", protect(demand))))


# --- prefill ----------------------------------------------------------------------------------------------------------


def without_prefill(prefill: str, text: str) -> str:
    """What a reply adds to the beginning that the client has written for it; without one, the reply.

    Models repeat what they were told to go on with, and forget the tag.
    """
    if not prefill:
        return text
    thought = _THOUGHT.match(text)
    head, rest = (thought[0], text[thought.end() :]) if thought else ("", text)
    if (inside := _inside_tag(rest)) is not None:
        added, closing, behind = inside.partition(_CLOSING)  # calls may stand behind the tag
        added = _without_line_end(added) if closing else added
        rest = f"{added}\n{behind.strip()}" if behind.strip() else added
    return head + rest.removeprefix(prefill.rstrip())


_OPENING, _CLOSING = "<continuation>", "</continuation>"


def _inside_tag(text: str) -> str | None:
    """What stands behind the tag that was to be put around a continuation; None where it is missing.

    White space between the tag and the words belongs to them, unless it only puts them on a line of their own.
    """
    _, opening, inside = text.partition(_OPENING)
    if not opening:
        return None
    blank, line_end, rest = inside.partition("\n")
    return rest if line_end and not blank.strip(" \t") else inside


def _without_line_end(text: str) -> str:
    """A text without the end of a line before a closing tag, and the indentation of that."""
    return text.rstrip(" \t").removesuffix("\n")


# --- continuation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seam:
    """Where a reply that was cut off is taken up again."""

    kept: str  # what stays as it is
    anchor: str  # what the continuation must begin with: the last line, or the end of a very long one


def find_seam(text: str) -> Seam:
    """Find the seam of a reply that was cut off.

    The last line alone may be a mere bracket; so the anchor takes in lines before it until it is long enough to stand
    nowhere else. An entity that was cut in the middle has not been decoded; it is left to the continuation.
    """
    ampersand = text.rfind("&", -_LONGEST_HALF_ENTITY)
    if ampersand >= 0 and _HALF_ENTITY.fullmatch(text, ampersand):
        text = text[:ampersand].rstrip()
    start = text.rfind("\n") + 1
    if len(text) - start > _LONGEST_ANCHOR:
        start = len(text) - _LONGEST_ANCHOR
    while start > 0 and len(text) - start < _LONGEST_ANCHOR and not _is_distinct(text, start):
        start = text.rfind("\n", 0, start - 1) + 1
    return Seam(text[:start], text[start:])


_HALF_ENTITY = re.compile(r"&#?\w{0,9}")
_LONGEST_HALF_ENTITY = 11


def _is_distinct(text: str, start: int) -> bool:
    anchor = text[start:]
    return len(anchor.strip()) >= _SHORTEST_ANCHOR and text.find(anchor) == start


def continuation_prompt(prompt: Prompt, seam: Seam, *, armoured: bool) -> Prompt:
    """The prompt that asks for the continuation of a reply."""
    demand = (
        "[Your reply was cut off by a length limit. Continue it as if it had not been. Put the continuation between "
        "<continuation> and </continuation>, each on a line of its own. Begin with the following last lines, "
        "exactly as they stand here, complete the very last, which may be cut off, and go on:\n"
        f"{seam.anchor}\n"
        "Repeat nothing before these lines, and add no remarks. If nothing is missing behind them, write only these "
        "lines between the tags.]"
    )
    return _extend(prompt, seam.kept + seam.anchor, demand, armoured=armoured)


_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL)


def join(seam: Seam, continuation: str) -> str | None:
    """The reply with its continuation; None where the continuation does not begin as it must."""
    continuation = _THOUGHT.sub("", continuation)
    inside = _inside_tag(continuation)
    if inside is None and len(seam.anchor) < _SHORTEST_ANCHOR:
        return None  # too little to tell a continuation from a remark
    text = continuation if inside is None else inside
    if inside is not None and (closed := text.rstrip()).endswith(_CLOSING):
        text = _without_line_end(closed.removesuffix(_CLOSING))
    if text.startswith(seam.anchor):
        return seam.kept + text
    # The model may have gone back further than it was told, or have lost the indentation.
    start = text.find(seam.anchor)
    if start > 0 and text.count(seam.anchor) == 1 and seam.kept.endswith(text[:start]):
        return seam.kept + text[start:]
    bare, text = seam.anchor.lstrip(" \t"), text.lstrip(" \t")
    if bare and text.startswith(bare):
        return seam.kept + seam.anchor[: len(seam.anchor) - len(bare)] + text
    return None
