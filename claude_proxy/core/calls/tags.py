"""The tags of the canonical notation, as models write them: whatever may be meant for one, and what it does.

In upper case, with a namespace before the name, single quotes or none, blanks in odd places, a bracket missing; a
parameter's or a tool's own name in place of the notation's. What a tag means where it stands is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from enum import StrEnum, auto
from typing import NamedTuple

from claude_proxy.core.calls.vocabulary import Vocabulary
from claude_proxy.core.expressions import expression

BLOCK_TAG = "<function_calls>"

_MAX_INDENT = 200  # characters

# What can stand around a tag's own name: a namespace such as `antml:`, or DeepSeek's `｜DSML｜`.
_NAMESPACE = r"(?:[\w.-]{1,40}:|[|｜]\s*[^|｜<>\s]{1,20}\s*[|｜]\s*)?"
_NAMES = "function_calls?|tool_calls?|calls|invoke|parameters?|param"
_OTHER_ENDS = "argument|arg|value|item"  # what some close a parameter with
_ATTRIBUTE = re.compile(
    r"""(?<![\w-])([\w-]{1,40})\s*=\s*(?:\\?["“]([^"”]*?)(?:\\?["”]|$)|'([^']*)(?:'|$)|([^\s"'/]+))"""
)
_NAME_ATTRIBUTES = frozenset({"name", "tool", "tool_name", "function"})
_BARE_ATTRIBUTE = re.compile(r"""\s*=?\s*["']?([\w.:/-]+)["']?\s*""")
_NAME_ELEMENT = re.compile(r"\s*<\s*(?:tool_)?name\s*>\s*([\w.:/-]+)\s*<\s*/\s*(?:tool_)?name\s*>")
_NAME_TEXT = re.compile(r"\s*([\w.:/-]+)(?=\s*<)")


class Kind(StrEnum):
    """What a tag does."""

    OPEN_BLOCK = auto()
    CLOSE_BLOCK = auto()
    OPEN_INVOKE = auto()
    CLOSE_INVOKE = auto()
    OPEN_PARAMETER = auto()
    CLOSE_PARAMETER = auto()
    GROUP = auto()  # <parameters> or </parameters> around the parameters of a call
    OPEN_ELEMENT = auto()  # a parameter's own name as a tag: <command>
    CLOSE_ELEMENT = auto()
    CLOSE_OTHER = auto()  # a tag that some close a parameter with
    TEXT = auto()  # no tag at all: what stands behind the last one where text follows
    END = auto()  # the end of the text


# Tuples, because looking a member of an enumeration up in a set is slow.
BEGINS_PARAMETER = (Kind.OPEN_PARAMETER, Kind.OPEN_ELEMENT, Kind.GROUP)
ENDS_INVOKE = (Kind.CLOSE_INVOKE, Kind.CLOSE_BLOCK, Kind.OPEN_INVOKE, Kind.END)
BEHIND_VALUE = (*BEGINS_PARAMETER, *ENDS_INVOKE)


class Tag(NamedTuple):
    """A tag, where it stands, what it does, and the name that it gives or is."""

    start: int
    end: int
    kind: Kind
    name: str = ""
    encoded: bool = False
    attributes: tuple[tuple[str, str], ...] = ()  # all but the name


class TaggedText:
    """A text, its tags in their order, and what stands directly behind each of them, but for white space."""

    def __init__(self, text: str, tags: Sequence[Tag]) -> None:
        self.text = text
        self.tags = tags
        self.following = [self._following(index) for index in range(len(tags))]

    def _following(self, index: int) -> Kind:
        last = index + 1 == len(self.tags)
        end = len(self.text) if last else self.tags[index + 1].start
        if self.text[self.tags[index].end : end].strip():
            return Kind.TEXT
        return Kind.END if last else self.tags[index + 1].kind

    def kind(self, index: int) -> Kind:
        """What the tag at an index does; behind the last one the text ends."""
        return self.tags[index].kind if index < len(self.tags) else Kind.END

    def starts_line(self, tag: Tag) -> bool:
        """Whether nothing but white space stands before a tag on its line."""
        return not self.text[self.start_of_line(tag) : tag.start].strip()

    def start_of_line(self, tag: Tag) -> int:
        """Where the line of a tag begins, looked for no further than any indentation goes."""
        furthest = max(0, tag.start - _MAX_INDENT)
        return max(self.text.rfind("\n", furthest, tag.start) + 1, furthest)


# What looks like a tag: of the notation, with its `<` or at the start of a line without; or of any short name, which
# may be a parameter's.
_BRACKETED = (
    rf"<(?:\s{{0,9}}(?:(?P<slash>\\?/)\s{{0,9}})?{_NAMESPACE}(?P<name>{_NAMES})"
    rf"(?:(?P<attributes>(?:[\s=][^<>]{{0,300}})?)(?P<empty>/?)\s{{0,9}}>|(?P<unended>(?=[ \t]*\n)))"
    rf"|/(?P<other>{_OTHER_ENDS})>"
    rf"|(?P<element_slash>/?)(?P<element>[\w.-]{{1,200}})>)"
)
_BARE = r"(?P<bare>function_calls(?=>)|invoke(?=\s+name)|parameter(?=\s+name))(?P<rest>[^<>\n]{0,300})>"
_BARE_CLOSE = r"(?P<bare_slash>/)(?<![<\\/]/)(?<!\\u003c/)(?P<bare_close>function_calls|invoke|parameter)>"
_TAG = expression(rf"{_BRACKETED}|^[ \t]*{_BARE}|{_BARE_CLOSE}", re.IGNORECASE | re.MULTILINE)
# Python looks for a pattern that begins with a certain character far faster than for one that may begin with any. So
# tags without their `<`, which are rare, are looked for apart, and only where there are any with all the others.
_BRACKETED_TAG = expression(_BRACKETED, re.IGNORECASE)
_BARE_TAGS = (re.compile(rf"\n[ \t]*{_BARE}", re.IGNORECASE), re.compile(_BARE_CLOSE, re.IGNORECASE))


def find_tags(text: str, words: Vocabulary) -> list[Tag]:
    """All tags of a text; `words` names the offered tools and their parameters, which may be tags of their own."""
    lines = f"\n{text}"
    pattern = _TAG if any(bare.search(lines) for bare in _BARE_TAGS) else _BRACKETED_TAG
    tags: list[Tag] = []
    position = 0
    while match := pattern.search(text, position):
        position = match.end()
        if not match["element"]:
            tags += _read_tag(match)
        elif match["element"].lower() in words.elements:
            tags.append(_read_element(match, words.tools))
        position = max(position, tags[-1].end if tags else 0)
    return tags


def may_hold_calls(text: str) -> bool:
    """Whether anything in a text hints at a call in the notation; without it, no tag is worth a look."""
    return bool(_HINT_OF_BLOCK.search(text) or (_IN_INVOKE in text.lower() and _HINT_OF_INVOKE.search(text)))


_HINT_OF_BLOCK = re.compile(r"<function_calls?>", re.IGNORECASE)
_HINT_OF_INVOKE = re.compile(r"invoke[\s=>]", re.IGNORECASE)
_IN_INVOKE = "nvo"  # quick to find; for `i` and `k`, letters beyond ASCII pass where case is ignored


def _read_element(match: re.Match[str], tools: Container[str]) -> Tag:
    """A tag by a parameter's or a tool's own name: `<command>`, `<Bash>`."""
    is_tool = match["element"] in tools
    opening, closing = (Kind.OPEN_INVOKE, Kind.CLOSE_INVOKE) if is_tool else (Kind.OPEN_ELEMENT, Kind.CLOSE_ELEMENT)
    kind = closing if match["element_slash"] else opening
    return Tag(match.start(), match.end(), kind, match["element"])


def _read_tag(match: re.Match[str]) -> list[Tag]:
    """The tag that a match stands for; an empty one, `<invoke …/>`, opens and closes."""
    if match["other"]:
        return [Tag(match.start(), match.end(), Kind.CLOSE_OTHER)]
    parts = match.groupdict()
    word = (parts["name"] or parts.get("bare") or parts["bare_close"]).lower()
    attributes = parts["attributes"] or parts.get("rest") or ""
    empty = bool(parts["empty"]) or attributes.endswith("/")
    closes = bool(parts["slash"] or parts.get("bare_slash"))
    if word.startswith(("function", "tool", "calls")):
        return [Tag(match.start(), match.end(), Kind.CLOSE_BLOCK if closes else Kind.OPEN_BLOCK)]
    if closes:
        closing = {"invoke": Kind.CLOSE_INVOKE, "parameters": Kind.GROUP}.get(word, Kind.CLOSE_PARAMETER)
        return [Tag(match.start(), match.end(), closing)]
    if match["unended"] is not None:
        return [Tag(match.start(), match.end(), Kind.TEXT)]
    given = [(key.lower(), a or b or c) for key, a, b, c in _ATTRIBUTE.findall(attributes.rstrip("/"))]
    name, end = _read_name(match, given, attributes.rstrip("/"), word)
    others = tuple(pair for pair in given if pair[0] not in _NAME_ATTRIBUTES)
    if word == "invoke" and name:
        tag = Tag(match.start(), end, Kind.OPEN_INVOKE, name, attributes=others)
        return [tag, Tag(end, end, Kind.CLOSE_INVOKE)] if empty else [tag]
    if not name:
        return [Tag(match.start(), match.end(), Kind.GROUP if word == "parameters" else Kind.CLOSE_OTHER)]
    encoded = any(pair in {("encoding", "json"), ("string", "false")} for pair in others)
    tag = Tag(match.start(), end, Kind.OPEN_PARAMETER, name, encoded, others)
    return [tag, Tag(end, end, Kind.CLOSE_PARAMETER)] if empty else [tag]


def _read_name(match: re.Match[str], given: Iterable[tuple[str, str]], attributes: str, word: str) -> tuple[str, int]:
    """The name that an opening tag gives, in an attribute or in what stands behind it, and where the tag ends."""
    for key, value in given:
        if key in _NAME_ATTRIBUTES:
            return value.strip(), match.end()
    if bare := _BARE_ATTRIBUTE.fullmatch(attributes):
        return bare[1], match.end()
    element = _NAME_ELEMENT.match(match.string, match.end())
    if element or word != "invoke":
        return (element[1], element.end()) if element else ("", match.end())
    text = _NAME_TEXT.match(match.string, match.end())
    return (text[1], text.end()) if text else ("", match.end())
