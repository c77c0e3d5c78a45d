"""What the module answered: status, headers and body -> text and usage, or an error.

What SecureChatAI answers is hard to trust: a model that failed, one that does not exist and a prompt beyond the window
all come as HTTP 200 with an apology for a text. An answer is told from an apology here, and every other answer becomes
the error that says what came (never its content) and what to change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from claude_proxy.core.aliases.mapping import Alias
from claude_proxy.core.expressions import expression
from claude_proxy.errors import (
    AuthenticationFailed,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamMisconfigured,
    UpstreamTimeout,
    UpstreamUnreachable,
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
        input_tokens: as the model's vendor counted them; 0 if unknown.
        output_tokens: the same.
    """

    text: str
    input_tokens: int
    output_tokens: int

    @property
    def is_apology(self) -> bool:
        """Whether these are the module's words for a failure, not the model's: nobody counted a token for them."""
        uncounted = not self.input_tokens and not self.output_tokens
        return self.text.startswith(_APOLOGY) and (uncounted or self.text.endswith(_APOLOGY_FOR_JSON))


def reached_limit(alias: Alias, max_tokens: int, output_tokens: int) -> bool:
    """Whether a reply of so many tokens was cut off. The module's own `stop_reason` does not tell.

    It compares with the caller's `max_tokens`, which it passes on to reasoning models only; other replies are cut at
    the alias's own limit, which the caller neither sets nor is told.
    """
    limit = min(max_tokens, alias.max_output) if alias.family == "reasoning" else alias.max_output
    return output_tokens >= limit


def read_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, url: str, prefix: str, sent_bytes: int
) -> Answer:
    """Read what came back from `url`, where the module was asked for by its `prefix`; headers' names in lower case.

    Raises:
        ProxyError: this is not an answer of the module; the message says what it is and what to do.
    """
    data = _json(body)
    fields = data if isinstance(data, dict) else None
    if status == 200 and (answer := _answer(fields)):
        return answer
    came = UnexpectedResponse(status, _media_type(headers), headers, body)
    if 300 <= status < 400:
        raise _redirect(came, url)
    if status == 413 or _fields_were_dropped(came, fields, sent_bytes):
        raise _too_large(sent_bytes)
    if status == 429:
        slow_down = RateLimited(f"REDCap, or a gateway before it, asked to slow down (429). Address: {url}")
        slow_down.retry_after = came.retry_after or slow_down.retry_after
        raise slow_down
    if fields is not None and status in {401, 403}:
        raise _token_refused()
    if data is None or status > 500:
        raise _not_json(came, url)
    raise UpstreamMisconfigured(
        f"REDCap answered {came}, which is no reply of SecureChatAI. The module is probably not installed or not "
        f"enabled for the API, or has another prefix than REDCAP_MODULE_PREFIX={prefix}. Ask your REDCap "
        "administrator for the prefix, or to enable the module."
    )


@dataclass(frozen=True)
class UnexpectedResponse:
    """What came that is not an answer. Written out, it is status and media type: all that a message may show."""

    status: int
    media_type: str  # bare and harmless
    headers: Mapping[str, str]
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.media_type}"

    @property
    def beginning(self) -> str:
        """What a page shows at its top, to tell what kind of page it is."""
        return self.body[:65536].decode("latin-1").lower()

    @property
    def retry_after(self) -> int | None:
        """Seconds to wait, if it says so, within what clients obey."""
        text = self.headers.get("retry-after", "").strip()
        return max(1, min(60, int(text))) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


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


_MEDIA_TYPE = expression(
    r"(application|audio|font|image|message|model|multipart|text|video)/[a-z0-9.+-]{1,40}", re.IGNORECASE
)


def _media_type(headers: Mapping[str, str]) -> str:
    """The content type, bare, for an error message; whatever does not look like one is not shown."""
    media_type = headers.get("content-type", "").partition(";")[0].strip()
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else "without a type"


# --- redirects --------------------------------------------------------------------------------------------------------

_SIGN_ON = expression(r"log-?[io]n|sign-?[io]n|sso|saml|shib|oauth|openid|adfs|/idp|/cas\b|/auth", re.IGNORECASE)


def _redirect(came: UnexpectedResponse, url: str) -> ProxyError:
    """A redirect, explained by where it leads; but only what we were configured with is shown."""
    if correct := _corrected(url, came.headers.get("location", "")):
        remedy = f"Set REDCAP_API_URL={correct} instead."
    elif _leads_to_sign_on(url, came.headers.get("location", "")):
        remedy = (
            "It leads to another server or to a login page: the API is probably behind single sign-on, and must be "
            "reached at another address or be exempted. Ask whoever runs REDCap."
        )
    else:
        remedy = "Set REDCAP_API_URL to the address that REDCap shows under API; it normally ends in /api/."
    return UpstreamMisconfigured(
        f"REDCap answered {came.status}, a redirect. It was not followed, because the token would travel with it. "
        f"{remedy}"
    )


def _corrected(url: str, location: str) -> str | None:
    """The address that was configured, with what the redirect adds to it: https, the final slash, or both."""
    try:
        target, own = urlsplit(urljoin(url, location)), urlsplit(url)
        secured = (own.scheme, target.scheme) == ("http", "https")
        ports = {own.port or 80, target.port or 443} <= {80, 443} if secured else own.port == target.port
    except ValueError:
        return None
    slashed = target.path == own.path + "/"
    same = target.hostname == own.hostname and ports and (slashed or target.path == own.path)
    if not same or not (secured or slashed):
        return None
    if secured:
        own = own._replace(scheme="https", netloc=own.netloc.removesuffix(":80"))
    return urlunsplit(own._replace(path=target.path))


def _leads_to_sign_on(url: str, location: str) -> bool:
    try:
        target = urlsplit(urljoin(url, location))
        return target.hostname != urlsplit(url).hostname or bool(_SIGN_ON.search(target.path + "?" + target.query))
    except ValueError:
        return False


# --- pages ------------------------------------------------------------------------------------------------------------

# What a page says of itself, in the words of the products that make such pages.
_PLAIN_ON_TLS_PORT = re.compile(r"plain http request was sent to https port|ssl-enabled server port|to an https server")
_FIREWALL = expression(
    r"requested url was rejected|request rejected|support id|web application firewall|mod_?security|incapsula|"
    r"incident id|attention required|cloudflare ray|blocked by|access denied"
)
_MAINTENANCE = re.compile(r"maintenance|redcap is (?:currently )?(?:offline|unavailable)|system (?:is )?offline")
_LOGIN = re.compile(r"""type\s*=\s*["']?password|samlrequest|shibboleth|single sign|log ?in|sign ?in""")

_LASTING = {
    401: "a gateway that wants a login of its own",
    403: "a web firewall that refuses the request, which may need an exception for REDCap's API",
    404: "an address that is not REDCap's API",
    405: "an address that is not REDCap's API",
    500: "a fatal error inside the module, which REDCap's own log explains",
    501: "a gateway that does not do what was asked",
    505: "a gateway that does not speak HTTP/1.1",
    511: "the network, which wants a login of its own",
}


def _not_json(came: UnexpectedResponse, url: str) -> ProxyError:
    address = f"Check REDCAP_API_URL={url} (it normally ends in /api/) and whether REDCap is up."
    page = came.beginning
    if came.status == 400 and url.startswith("http://") and _PLAIN_ON_TLS_PORT.search(page):
        secured = "https://" + url.removeprefix("http://")
        return UpstreamMisconfigured(f"REDCap's port speaks TLS only. Set REDCAP_API_URL={secured} instead.")
    if came.status == 200 and page.lstrip("\ufeff \t\r\n").startswith("{") and len(page) > 2:
        return UpstreamUnreachable(
            f"REDCap answered {came}, a JSON text that breaks off or is damaged. Try again; if it happens often, ask "
            "whoever runs REDCap for the limits of the gateways before it."
        )
    if came.status == 504:
        return UpstreamTimeout(
            f"REDCap answered {came}: a gateway before it gave up waiting. The model may need longer than the "
            "gateway's time limit: choose a faster model, or ask whoever runs REDCap to raise the limit."
        )
    if _MAINTENANCE.search(page) and came.status in {200, 500, 502, 503}:
        return _passing(came, "a maintenance page: REDCap is offline for a while", "Try again later.")
    if came.status > 500 and came.status not in _LASTING:
        return _passing(came, "a gateway or maintenance page in front of REDCap", f"Try again later. {address}")
    return UpstreamMisconfigured(f"REDCap answered {came} instead of JSON: probably {_cause(came, page)}. {address}")


def _cause(came: UnexpectedResponse, page: str) -> str:
    if came.status in {200, 400, 403, 406} and _FIREWALL.search(page):
        return _LASTING[403]
    if came.status in {200, 401, 403} and _LOGIN.search(page):
        return "a login page, as of single sign-on; or an address that is not REDCap's API"
    if came.status == 200 and not page.strip():
        return _LASTING[500]
    if came.status == 200:
        return "a login or maintenance page, or an address that is not REDCap's API"
    return _LASTING.get(came.status, "a gateway in front of REDCap")


def _passing(came: UnexpectedResponse, cause: str, remedy: str) -> ProxyError:
    error = UpstreamUnreachable(f"REDCap answered {came} instead of JSON: probably {cause}. {remedy}")
    error.retry_after = came.retry_after
    return error


# --- refusals ---------------------------------------------------------------------------------------------------------


def _token_refused() -> ProxyError:
    return AuthenticationFailed(
        "REDCap refused the token, or its user has no API rights. Create a token under API in REDCap and set it as "
        "ANTHROPIC_AUTH_TOKEN (or as REDCAP_API_TOKEN, where the proxy has its own)."
    )


def _fields_were_dropped(came: UnexpectedResponse, fields: Mapping[str, Any] | None, sent_bytes: int) -> bool:
    """Whether REDCap complains as it does when PHP has dropped the fields of a body that was too large.

    It was asked for JSON, but in a field that has been dropped with the others, so it may complain in XML.
    """
    if sent_bytes < _POST_MAX_SIZE_AT_LEAST or came.status not in {400, 401, 403}:
        return False
    if fields is not None:
        return isinstance(fields.get("error"), str)
    return "xml" in came.media_type and b"<error>" in came.body[:1000]


def _too_large(sent_bytes: int) -> ProxyError:
    return RequestTooLarge(
        f"The conversation is too large for this REDCap server: it was sent {sent_bytes / 1e6:.1f} MB and answered as "
        "it does to a body over its limit. Compact the conversation, or ask the REDCap administrator to raise PHP's "
        "post_max_size."
    )
