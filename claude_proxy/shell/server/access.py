"""Who may use a proxy that several people share, and what its figures call them.

Each person's own token goes on to REDCap, which knows who it is. The proxy does not want to: it compares a digest of
the token with an allow-list of digests, and counts under a keyed hash, which cannot be led back to a token or a person
without the key.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256

from claude_proxy.settings.table import Settings

_PSEUDONYM_CHARACTERS = 12
_KEY_OF_THIS_START = secrets.token_bytes(32)


def credentials(headers: Mapping[str, str]) -> list[str]:
    """The credentials that a request carries: a bearer token, and an `x-api-key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return [each for each in (bearer, headers.get("x-api-key", "").strip()) if each]


def is_allowed(token: str, settings: Settings) -> bool:
    """Whether a token is on the allow-list; without a list every token is, and REDCap decides."""
    if settings.allowed_clients is None:
        return True
    digest = sha256(token.encode()).hexdigest()
    return any([hmac.compare_digest(digest, listed) for listed in settings.allowed_clients])  # noqa: C419 - all of them


def pseudonym(token: str, settings: Settings) -> str:
    """What the log and the metrics call the owner of a token: the same for as long as the key is the same."""
    key = settings.client_hash_key.reveal().encode() if settings.client_hash_key else _KEY_OF_THIS_START
    return hmac.new(key, token.encode(), sha256).hexdigest()[:_PSEUDONYM_CHARACTERS]
