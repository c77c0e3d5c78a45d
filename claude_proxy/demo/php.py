"""What PHP does to text, numbers and JSON, where Python would do something else.

Checked against PHP 8.2 itself; the cases where the two languages part are in the tests, each with its PHP answer.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from html.entities import name2codepoint
from json.encoder import encode_basestring_ascii
from typing import Any, Literal


class PhpFatalError(Exception):
    """PHP gave up in the middle of the request: HTTP 500 without a body."""


# --- Text -------------------------------------------------------------------------------------------------------------

_WHITE_SPACE = " \t\n\r\0\x0b"
_REFERENCE = re.compile(r"&(?:#([0-9]+)|#[xX]([0-9a-fA-F]+|0[xX][0-9a-fA-F]+)|([A-Za-z][A-Za-z0-9]*));")
_HTML_401 = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, 0x10FFFF))
_MOST_DIGITS = 7  # of a code point, without leading zeros


def php_trim(text: str) -> str:
    """Strip what PHP's `trim` strips; the no-break space and the form feed are not among it."""
    return text.strip(_WHITE_SPACE)


def html_entity_decode(text: str) -> str:
    """Decode once the 252 named references of HTML 4.01, and numeric ones to characters that it allows."""
    return _REFERENCE.sub(_character, text)


def _character(reference: re.Match[str]) -> str:
    decimal, hexadecimal, name = reference.groups()
    if name:
        return chr(name2codepoint[name]) if name in name2codepoint else reference[0]
    digits = (decimal or hexadecimal.lower().removeprefix("0x")).lstrip("0") or "0"
    code = int(digits, 10 if decimal else 16) if len(digits) <= _MOST_DIGITS else -1
    return chr(code) if any(low <= code <= high for low, high in _HTML_401) else reference[0]


def php_string(value: Any) -> str:
    """Convert a scalar to text, as PHP does where a function wants a string; an array is a fatal error."""
    if isinstance(value, list | dict):
        raise PhpFatalError("an array stands where a string must")
    match value:
        case None | False:
            return ""
        case True:
            return "1"
        case float():
            return _php_float(value, f"{value:.13e}", 14).upper()
        case _:
            return str(value)


def php_empty(value: Any) -> bool:
    """Tell whether PHP takes a value for empty: null, false, zero, an empty array, an empty text, or the text 0."""
    return not value or value == "0"


# --- Numbers ----------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[ \t\n\r\v\f]*([+-]?(?:[0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?)")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def php_float(text: str) -> float:
    """Convert text as the cast `(float)` does: its numeric beginning, or zero."""
    number = _NUMBER.match(text)
    return float(number[1]) if number else 0.0


def php_int(text: str) -> int:
    """Convert text as the cast `(int)` does: its numeric beginning, without fraction, within 64 bits."""
    number = _NUMBER.match(text)
    if not number or math.isinf(value := float(number[1])):
        return 0
    is_integer = number[1].lstrip("+-").isdecimal()
    return max(_SMALLEST, min(_LARGEST, int(number[1]) if is_integer else int(value)))


def _php_float(number: float, written: str, precision: int) -> str:
    """Lay out a number's digits as PHP does, with a precision that decides from where on there is an exponent."""
    if math.isinf(number):
        return "INF" if number > 0 else "-INF"
    decimal = Decimal(written).normalize()
    sign, digits, exponent = decimal.as_tuple()
    power = len(digits) + int(exponent) - 1
    if not number or -5 < power < precision:
        return f"{decimal:f}"
    first, rest = digits[0], "".join(map(str, digits[1:])) or "0"
    return f"{'-' * sign}{first}.{rest}e{power:+d}"


# --- JSON -------------------------------------------------------------------------------------------------------------

DEPTH = 512
"""`json_decode` refuses so many arrays and objects within one another; `json_encode` accepts just so many."""

_SURROGATE = r"\ud"
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])', re.DOTALL)


def php_json_decode(text: str) -> Any:
    """Decode JSON as strictly as PHP: None where `json_decode` returns null, be it an error or not.

    Objects come as dicts, as with PHP's associative arrays. A number beyond a double is infinite.
    """
    try:
        if _is_too_deep(text):
            return None
        text.encode()  # raises where bytes were not UTF-8
        return None if _holds_half_a_pair(text) else json.loads(text, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _holds_half_a_pair(text: str) -> bool:
    """Tell whether an escaped surrogate stands alone, be it in a value that a later one of the same key replaces."""
    return any(escape[1] for escape in _ESCAPE.finditer(text)) if _SURROGATE in text.lower() else False


def _integer(digits: str) -> float:
    if len(digits) > len(str(_SMALLEST)):
        return float(digits)
    return int(digits) if _SMALLEST <= int(digits) <= _LARGEST else float(digits)


def _refuse(word: str) -> float:
    raise ValueError(word)


def _is_too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") < DEPTH:
        return False
    depth = 0
    for token in _BRACKET.finditer(text):
        depth += bool(token[1]) - bool(token[2])
        if depth >= DEPTH:
            return True
    return False


def php_json_encode(value: Any) -> str | Literal[False]:
    r"""Encode as PHP does without flags; False where it cannot: an infinite number, or too deep a nesting.

    Arrays and objects are one type to PHP, so an empty object becomes `[]`, and one with the keys 0, 1, 2… a list.
    Everything beyond ASCII becomes `\u….`, and every `/` becomes `\/`.
    """
    parts: list[str] = []
    return "".join(parts) if _encode(value, parts, 0) else False


def _encode(value: Any, parts: list[str], depth: int) -> bool:
    """Append the parts of the JSON text; one frame for each level of nesting, for there may be 512 of them."""
    if not isinstance(value, list | dict):
        parts.append(_scalar(value))
        return not (isinstance(value, float) and math.isinf(value))
    if depth == DEPTH:
        return False
    is_list = isinstance(value, list) or list(value) == [str(i) for i in range(len(value))]
    values = value if isinstance(value, list) else list(value.values())
    keys = [""] * len(values) if is_list else [f"{_text(key)}:" for key in value]
    parts.append("[" if is_list else "{")
    for number, (key, item) in enumerate(zip(keys, values, strict=True)):
        parts.append("," * (number > 0) + key)
        if not _encode(item, parts, depth + 1):
            return False
    parts.append("]" if is_list else "}")
    return True


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return _php_float(value, repr(value), 17)
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    if "\x7f" in text:  # the one character beyond the printable that PHP leaves as it is
        encoded = "\x7f".join(encode_basestring_ascii(part)[1:-1] for part in text.split("\x7f"))
        return f'"{encoded}"'.replace("/", r"\/")
    return encode_basestring_ascii(text).replace("/", r"\/")
