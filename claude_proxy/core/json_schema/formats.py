"""The string formats of JSON Schema that are enforced: those that the SDKs write into schemas.

The grammars are those of the RFCs that draft 2020-12 names; times need an offset (RFC 3339).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from claude_proxy.core.expressions import expression


class Format(NamedTuple):
    """A format: what it is, in words for a fault, and whether a string has it."""

    description: str
    accepts: Callable[[str], bool]


def _full_match(pattern: str) -> Callable[[str], bool]:
    compiled = expression(pattern, re.ASCII | re.VERBOSE)
    return lambda text: compiled.fullmatch(text) is not None


_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
_MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _is_date(text: str) -> bool:
    if not (match := _DATE.fullmatch(text)):
        return False
    year, month, day = map(int, match.groups())
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= _MONTHS[month - 1] + (is_leap and month == 2)


def _is_time(text: str) -> bool:
    if not (match := _TIME.fullmatch(text)):
        return False
    hour, minute, second = map(int, match.group(1, 2, 3))
    sign, hours, minutes = match.group(4), int(match.group(5) or 0), int(match.group(6) or 0)
    if hour > 23 or minute > 59 or second > 60 or hours > 23 or minutes > 59:
        return False
    offset = (hours * 60 + minutes) * (-1 if sign == "-" else 1)
    return second < 60 or (hour * 60 + minute - offset) % (24 * 60) == 23 * 60 + 59  # leap seconds end a day in UTC


def _is_date_time(text: str) -> bool:
    return text[10:11] in {"T", "t"} and _is_date(text[:10]) and _is_time(text[11:])


_is_label = _full_match(r"[A-Za-z0-9] (?: [A-Za-z0-9-]{0,61} [A-Za-z0-9] )?")


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(_is_label(label) for label in text.split("."))


_is_local_part = _full_match(
    r"""[\w!#$%&'*+/=?^`{|}~-]+ (?: \.[\w!#$%&'*+/=?^`{|}~-]+ )* | "(?: [^"\\\r\n] | \\[^\r\n] )*" """
)


def _is_email(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    if not at or not text.isascii() or not _is_local_part(local):
        return False
    if domain.startswith("[") and domain.endswith("]"):
        literal = domain[1:-1]
        return _is_ipv6(literal[5:]) if literal.startswith("IPv6:") else _is_ipv4(literal)
    return _is_hostname(domain)


def _is_address(version: int, text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == version and "%" not in text
    except ValueError:
        return False


_is_ipv4, _is_ipv6 = partial(_is_address, 4), partial(_is_address, 6)


_splits_as_uri = expression(
    r"""[A-Za-z][A-Za-z0-9+.-]* :
        (?: // (?: [^/?\#@\[\]]* @ )? (?: \[(?P<ip>[^\]]*)\] | [^/?\#@:\[\]]* ) (?: :\d* )? (?: /[^?\#\[\]]* )?
          | (?! // ) [^?\#\[\]]* )
        (?: \?[^\#\[\]]* )? (?: \#[^\#\[\]]* )?""",
    re.ASCII | re.VERBOSE,
)
_has_uri_characters = _full_match(r"(?: [A-Za-z0-9._~:/?\#\[\]@!$&'()*+,;=-] | %[0-9A-Fa-f]{2} )*")


def _is_uri(text: str) -> bool:
    match = _splits_as_uri.fullmatch(text)
    if not match or not _has_uri_characters(text):
        return False
    address = match["ip"]
    return address is None or _is_ipv6(address) or address[:1] in {"v", "V"}


FORMATS: Final[Mapping[str, Format]] = {
    "date-time": Format('a date and time with offset, as in "2026-01-31T09:30:00Z"', _is_date_time),
    "date": Format('a date, as in "2026-01-31"', _is_date),
    "time": Format('a time with offset, as in "09:30:00Z"', _is_time),
    "duration": Format(
        'an ISO 8601 duration, as in "P1DT12H"',
        _full_match(
            r"""P (?: \d+W | (?= [\dT] ) (?: \d+Y (?: \d+M (?: \d+D )? )? | \d+M (?: \d+D )? | \d+D )?
                (?: T (?= \d ) (?: \d+H (?: \d+M (?: \d+S )? )? | \d+M (?: \d+S )? | \d+S ) )? )"""
        ),
    ),
    "email": Format("an e-mail address", _is_email),
    "hostname": Format("a host name", _is_hostname),
    "uri": Format("an absolute URI", _is_uri),
    "ipv4": Format("an IPv4 address", _is_ipv4),
    "ipv6": Format("an IPv6 address", _is_ipv6),
    "uuid": Format(
        'a UUID, as in "123e4567-e89b-12d3-a456-426614174000"',
        _full_match(r"[0-9A-Fa-f]{8} (?: -[0-9A-Fa-f]{4} ){3} -[0-9A-Fa-f]{12}"),
    ),
}
