"""The armour that carries text through one HTML-entity decoding.

SecureChatAI decodes the model's reply once, as PHP's `html_entity_decode` does for HTML 4.01: `int *p = &sum;` arrives
as `int *p = ∑`. So every `&` that would start a decodable sequence is written as `&amp;` in whatever the model reads,
and the model, which writes as it reads, does the same; one decoding then gives the text back exactly:

    decode_once(armour(text)) == text        for every text

The decoding is the module's; nothing that came back is decoded again. What is known of it here serves to find where a
model forgot the armour (`core.reply.edit_mending`).
"""

from __future__ import annotations

from collections.abc import Iterator
from html.entities import name2codepoint

from claude_proxy.core.expressions import expression

# The 252 names of HTML 4.01, and numeric references. PHP leaves a few numeric ones alone (control characters, numbers
# beyond Unicode); armouring those too is harmless, because `&amp;` itself always decodes to `&`.
_DECODABLE = expression(
    rf"&(?=(?:{'|'.join(sorted(name2codepoint))}|#[0-9]+|#[xX][0-9a-fA-F]+|#[xX]0[xX][0-9a-fA-F]+);)"
)


def armour(text: str) -> str:
    """Write the `&` of each decodable entity as `&amp;`."""
    return _DECODABLE.sub("&amp;", text) if "&" in text else text


def find(text: str) -> Iterator[tuple[int, int, str]]:
    """The entities of a text that the module would decode: start, end, and the character each stands for."""
    for match in _ENTITY.finditer(text):
        name = match[1]
        if name.startswith("#"):
            code = int(f"0{name[1:]}", 16) if name[1] in "xX" else int(name[1:])
            if _is_decoded(code):
                yield match.start(), match.end(), chr(code)
        else:
            yield match.start(), match.end(), chr(name2codepoint[name])


_ENTITY = expression(rf"&({'|'.join(sorted(name2codepoint))}|#[0-9]{{1,12}}|#[xX][0-9a-fA-F]{{1,12}});")
_CHARACTERS = frozenset(map(chr, name2codepoint.values()))


def _is_decoded(code: int) -> bool:
    """Whether PHP decodes a numeric reference, for HTML 4.01."""
    return code in {9, 10, 13} or 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF or 0xE000 <= code <= 0x10FFFF


def could_be_decoded(text: str) -> bool:
    """Whether a text holds a character that an entity stands for."""
    return not _CHARACTERS.isdisjoint(text)
