"""What a client gets: REDCap's errors, and the pages that stand between a client and REDCap, for `intercept`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

from claude_proxy.demo.php import php_json_encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from claude_proxy.demo.form import Received

Intercept: TypeAlias = "Callable[[Received], CannedResponse | None]"

HTML = "text/html; charset=UTF-8"


@dataclass(frozen=True)
class CannedResponse:
    """One HTTP response; `Content-Length` is added when it is sent."""

    status: int = 200
    body: str | bytes = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(status: int, value: Any) -> CannedResponse:
    """Answer with JSON as PHP encodes it; what it cannot encode becomes an empty body."""
    return CannedResponse(status, php_json_encode(value) or "")


def page(status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> CannedResponse:
    """Answer with a page of HTML."""
    body = f"<body><h1>{title}</h1><p>{text}</p></body>"
    html = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n{body}</html>\n"
    return CannedResponse(status, html, HTML, headers or {})


# --- Before REDCap ----------------------------------------------------------------------------------------------------

SINGLE_SIGN_ON = page(302, "Found", "Go on.", {"Location": "https://login.example.org/idp/sso"})
FIREWALL_PAGE = page(403, "Request Rejected", "The requested URL was rejected. Your support ID is: 1729.")
BAD_GATEWAY = page(502, "502 Bad Gateway", "nginx")
GATEWAY_TIMEOUT = page(504, "504 Gateway Time-out", "nginx")
NOT_FOUND = page(404, "Not Found", "The requested URL was not found on this server.")

_SUSPICIOUS = re.compile(r"</?[a-z][\w:-]*[\s/>]|\b(?:rm -r|cat /etc/|curl http|/bin/(?:ba)?sh)", re.IGNORECASE)


def web_application_firewall(received: Received) -> CannedResponse | None:
    """Refuse forms that hold XML tags or shell commands, as firewalls in front of hospitals do."""
    return FIREWALL_PAGE if any(map(_SUSPICIOUS.search, received.fields.values())) else None


# --- REDCap -----------------------------------------------------------------------------------------------------------

LOGIN_PAGE = page(200, "REDCap", 'Log in: <form method="post"><input name="username"></form>')
MAINTENANCE_PAGE = page(503, "REDCap is offline", "REDCap is undergoing maintenance.")
MAINTENANCE_PAGE_200 = page(200, "REDCap is offline", "REDCap is undergoing maintenance.")

MODULE_OFF = json_response(400, {"error": "The module with the prefix 'secure_chat_ai' is not enabled"})
MODULE_OFF_403 = json_response(403, {"error": "The module with the prefix 'secure_chat_ai' is not enabled"})
ADDRESS_DENIED = json_response(403, {"error": "Your IP address is not allowed to use the API"})
"""Refusals that are no fault of the token, in words of this simulator: REDCap's own differ between versions."""


def banned(address: str, status: int = 429) -> CannedResponse:
    """Refuse a client that asked too often, for good; versions of REDCap before the status 429 say this with 200."""
    return CannedResponse(status, f"Your IP address ({address}) has been banned due to suspected abuse.", HTML)


def redcap_error(status: int, text: str, fields: Mapping[str, str]) -> CannedResponse:
    """Refuse a request in the form that it asks for, which is XML by default."""
    if fields.get("returnFormat", fields.get("format")) == "json":
        return json_response(status, {"error": text})
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><hash><error>{escape(text)}</error></hash>'
    return CannedResponse(status, xml, "text/xml; charset=UTF-8")


# --- PHP --------------------------------------------------------------------------------------------------------------

FATAL = CannedResponse(500, "", HTML)

WARNING = (
    "<br />\n<b>Warning</b>:  foreach() argument must be of type array|object, string given in "
    "<b>/var/www/html/modules/secure_chat_ai_v1.0.0/SecureChatAI.php</b> on line <b>425</b><br />\n"
)
"""What the module brings PHP to say on every call; seen by clients where `display_errors` is on."""
_FATAL_ERROR = "<br />\n<b>Fatal error</b>:  Uncaught TypeError in <b>/var/www/html/modules</b><br />\n"


def with_displayed_errors(response: CannedResponse) -> CannedResponse:
    """Put PHP's remarks before a response of the module."""
    text = WARNING + (_FATAL_ERROR if response == FATAL else str(response.body))
    return CannedResponse(response.status, text, response.content_type, response.headers)
