"""The module's API: `Prompt` -> form fields; status, headers and body -> text and usage, or an error.

What SecureChatAI answers is hard to trust: a model that failed, one that does not exist and a prompt beyond the window
all come as HTTP 200 with an apology for a text. An answer is told from an apology here, and every other answer becomes
the error that says what came (never its content) and what to change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from claude_proxy.core.models import Alias
from claude_proxy.core.prompt import Prompt
from claude_proxy.errors import (
    AuthenticationFailed,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamMisconfigured,
)

# PHP drops all fields of a body over its post_max_size (8 MB by default); no server would set it below this.
_POST_MAX_SIZE_AT_LEAST = 1_000_000

_APOLOGY = "I apologize, but"
# On some versions this one, for a reply with a JSON key `tool_call`, comes with the tokens of the lost reply.
_APOLOGY_FOR_JSON = "wasn't able to complete that request properly. Could you try rephrasing?"


@dataclass(frozen=True)
class Answer:
    """What the module answered.

    Attributes:
        text: the reply, HTML entities decoded once and white space trimmed by the module.
        input_tokens: as the model's vendor counted them; 0 where nothing is known.
        output_tokens: likewise.
    """

    text: str
    input_tokens: int
    output_tokens: int

    @property
    def is_apology(self) -> bool:
        """Whether these are the module's words for a failure, not the model's: nobody counted a token for them."""
        uncounted = not self.input_tokens and not self.output_tokens
        return self.text.startswith(_APOLOGY) and (uncounted or self.text.endswith(_APOLOGY_FOR_JSON))


# --- the call ---------------------------------------------------------------------------------------------------------


def form_fields(
    prompt: Prompt,
    *,
    token: str,
    prefix: str,
    alias: Alias,
    max_tokens: int,
    temperature: float | None = None,
    top_p: float | None = None,
) -> dict[str, str]:
    """The form fields of one call.

    Args:
        prompt: what the model is sent.
        token: the REDCap token.
        prefix: the module's prefix on this server.
        alias: the model.
        max_tokens: the limit to send; only reasoning models are told of it, and refuse more than they can do.
        temperature: 0 to 1, or None for the server's own.
        top_p: 0 to 1, or None for the server's own.
    """
    fields = {
        "token": token,
        "content": "externalModule",
        "prefix": prefix,
        "action": "messages",
        "format": "json",
        "returnFormat": "json",
        "model": alias.name,
        "system": prompt.system,
        "messages": json.dumps(
            [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
            ensure_ascii=False,
            separators=(",", ":"),
        ),
        "max_tokens": str(max_tokens),
    }
    optional = {"temperature": temperature, "top_p": top_p}
    return fields | {name: f"{value:g}" for name, value in optional.items() if value is not None}


def encode_form(fields: Mapping[str, str], boundary: str) -> tuple[str, bytes]:
    """Encode fields as multipart/form-data, which carries text as it is.

    Args:
        fields: names and values; names are plain words.
        boundary: a text that occurs in no value.

    Returns:
        The content type and the body.
    """
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return f"multipart/form-data; boundary={boundary}", ("".join(parts) + f"--{boundary}--\r\n").encode(
        errors="replace"
    )


def reached_limit(alias: Alias, max_tokens: int, output_tokens: int) -> bool:
    """Whether a reply of so many tokens was cut off. The module's own `stop_reason` does not tell.

    It compares with the caller's `max_tokens`, which it passes on to reasoning models only; other replies are cut at
    the alias's own limit, which the caller neither sets nor is told.
    """
    limit = min(max_tokens, alias.max_output) if alias.family == "reasoning" else alias.max_output
    return output_tokens >= limit


# --- the answer -------------------------------------------------------------------------------------------------------


def read_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, url: str, prefix: str, sent_bytes: int
) -> Answer:
    """Read what came back.

    Args:
        status: the HTTP status.
        headers: response headers, names in lower case.
        body: the response body.
        url: the address that was called, for error messages.
        prefix: the module's prefix that was used, for error messages.
        sent_bytes: the size of the body that was sent.

    Raises:
        ProxyError: what came is no answer of the module; the message says what it was and what to do.
    """
    data = _json_object(body)
    if status == 200 and (answer := _answer(data)):
        return answer
    came = f"{status} {_media_type(headers)}"
    if 300 <= status < 400:
        raise _redirect(status, headers, url)
    if status == 413:
        raise _too_large(sent_bytes)
    if status == 429:
        raise RateLimited(f"REDCap, or a gateway before it, asked to slow down (429). Address: {url}")
    if data is None and status in {400, 401, 403} and _is_dropped(headers, body, sent_bytes):
        raise _too_large(sent_bytes)
    if data is None:
        raise _not_json(status, came, url)
    if status in {401, 403}:
        raise _too_large(sent_bytes) if _may_be_dropped(data, sent_bytes) else _token_refused()
    if status == 400 and _may_be_dropped(data, sent_bytes):
        raise _too_large(sent_bytes)
    raise UpstreamMisconfigured(
        f"REDCap answered {came}, which is no reply of SecureChatAI. The module is probably not installed or not "
        f"enabled for the API, or has another prefix than REDCAP_MODULE_PREFIX={prefix}. Ask your REDCap "
        "administrator for the prefix, or to enable the module."
    )


def _json_object(body: bytes) -> Mapping[str, Any] | None:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _answer(data: Mapping[str, Any] | None) -> Answer | None:
    match data:
        case {"content": [{"type": "text", "text": str(text)}, *_], **rest}:
            usage = rest.get("usage")
            counts = usage if isinstance(usage, dict) else {}
            text = text.encode(errors="replace").decode()  # no lone surrogate leaves the proxy again
            return Answer(text, _tokens(counts.get("input_tokens")), _tokens(counts.get("output_tokens")))
        case _:
            return None


def _tokens(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _media_type(headers: Mapping[str, str]) -> str:
    """The content type, bare, for an error message: short, and nothing but printable ASCII."""
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    return media_type[:60] if media_type.isascii() and media_type.isprintable() and media_type else "without a type"


def _redirect(status: int, headers: Mapping[str, str], url: str) -> ProxyError:
    target = _bare_address(url, headers.get("location", ""))
    remedy = (
        f"Set REDCAP_API_URL={target} if that is your REDCap's API; if it is a login page, the API is behind single "
        "sign-on and must be reached at another address."
        if target
        else "Set REDCAP_API_URL to the address that REDCap shows under API."
    )
    return UpstreamMisconfigured(
        f"REDCap answered {status}, a redirect. It was not followed, because the token would travel with it. {remedy}"
    )


def _bare_address(url: str, location: str) -> str:
    """Where a redirect leads, without query and credentials; "" where that cannot be told."""
    try:
        target = urlsplit(urljoin(url, location))
        host = target.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    address = urlunsplit((target.scheme, host, target.path, "", ""))
    return address if location and address.isascii() and address.isprintable() and len(address) < 300 else ""


def _not_json(status: int, came: str, url: str) -> ProxyError:
    causes = {
        200: "a login or maintenance page, or an address that is not REDCap's API",
        403: "a web firewall that refuses the request, which may need an exception for REDCap's API",
        404: "an address that is not REDCap's API",
        500: "a fatal error inside the module, which REDCap's own log explains",
    }
    cause = causes.get(status, "a gateway or maintenance page in front of REDCap")
    return UpstreamMisconfigured(
        f"REDCap answered {came} instead of JSON: probably {cause}. Check REDCAP_API_URL={url} (it normally ends in "
        "/api/) and whether REDCap is up."
    )


def _token_refused() -> ProxyError:
    return AuthenticationFailed(
        "REDCap refused the token, or its user has no API rights. Create a token under API in REDCap and set it as "
        "ANTHROPIC_AUTH_TOKEN (or as REDCAP_API_TOKEN, where the proxy has its own)."
    )


def _may_be_dropped(data: Mapping[str, Any], sent_bytes: int) -> bool:
    """Whether REDCap complains as it does when PHP has dropped the fields of a body that was too large."""
    return sent_bytes >= _POST_MAX_SIZE_AT_LEAST and isinstance(data.get("error"), str)


def _is_dropped(headers: Mapping[str, str], body: bytes, sent_bytes: int) -> bool:
    """Whether REDCap complains in XML: it was asked for JSON, but in a field that has been dropped with the others."""
    return sent_bytes >= _POST_MAX_SIZE_AT_LEAST and "xml" in _media_type(headers) and b"<error>" in body[:1000]


def _too_large(sent_bytes: int) -> ProxyError:
    return RequestTooLarge(
        f"The conversation is too large for this REDCap server: it was sent {sent_bytes / 1e6:.1f} MB and answered as "
        "it does to a body over its limit. Compact the conversation, or ask the REDCap administrator to raise PHP's "
        "post_max_size."
    )
