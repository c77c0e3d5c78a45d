"""The armour that carries text through one HTML-entity decoding.

SecureChatAI decodes the model's reply once, as PHP's `html_entity_decode` does for HTML 4.01: `int *p = &sum;` arrives
as `int *p = ∑`. So every `&` that would start a decodable sequence is written as `&amp;` in whatever the model reads,
and the model, which writes as it reads, does the same; one decoding then gives the text back exactly:

    decode_once(armour(text)) == text        for every text

Only the armour lives here. The decoding is the module's; nothing that came back is decoded again.
"""

from __future__ import annotations

import re
from html.entities import name2codepoint

# The 252 names of HTML 4.01, and numeric references. PHP leaves a few numeric ones alone (control characters, numbers
# beyond Unicode); armouring those too is harmless, because `&amp;` itself always decodes to `&`.
_DECODABLE = re.compile(
    rf"&(?=(?:{'|'.join(sorted(name2codepoint))}|#[0-9]+|#[xX][0-9a-fA-F]+|#[xX]0[xX][0-9a-fA-F]+);)"
)


def armour(text: str) -> str:
    """Write the `&` of each decodable entity as `&amp;`."""
    return _DECODABLE.sub("&amp;", text) if "&" in text else text
