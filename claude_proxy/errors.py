"""Every failure that a client or a user is told of.

Each class fixes what the client must be told so that it does the right thing: the HTTP status, the Anthropic error
type, and whether trying again can help. Claude Code repeats a bare 401 or 5xx for three minutes and hides the message
of a 404 (measured with 2.1.330), so `x-should-retry: false` goes out wherever a second try would fail the same way.

Messages are for the person at the keyboard: what happened, to which setting or field, what to do next. They never
hold a credential, a prompt, or anything that came from upstream but a status and a content type.
"""

from __future__ import annotations

from collections.abc import Mapping


class CommandFailed(Exception):
    """A command cannot do what it is asked; the message says why and what to do, `code` is the exit code."""

    code = 1

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = self.code if code is None else code


class SettingsError(CommandFailed):
    """A setting is missing or malformed; the message names it, its value and the remedy."""

    code = 2


class ClientGone(Exception):
    """The client closed its connection; there is nobody left to answer."""


class ProxyError(Exception):
    """A failure that the client is told of.

    Attributes:
        status: the HTTP status.
        type: the Anthropic error type.
        should_retry: the `x-should-retry` header; None leaves the decision to the client's own rule for the status.
        retry_after: seconds for the `retry-after` header, or None. Claude Code obeys 1 to 60 and gives up above.
        details: the envelope's `details`, such as an `error_code` that SDKs map to an exception of its own.
    """

    status: int = 500
    type: str = "api_error"
    should_retry: bool | None = None
    retry_after: int | None = None

    def __init__(self, message: str, *, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that belong to this failure."""
        headers = {}
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers

    @property
    def stream_type(self) -> str:
        """The error type for an `error` event: there only `overloaded_error` makes the client stream again."""
        can_help = (self.status >= 500 or self.status == 429) and self.should_retry is not False
        return "overloaded_error" if can_help else self.type


# --- the client's side ------------------------------------------------------------------------------------------------


class InvalidRequest(ProxyError):
    """The body is not a request we can serve; `field` is its path, as in `messages.3.content.1.text`."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, field: str | None = None, *, details: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message, details=details)


class PromptTooLong(InvalidRequest):
    """The prompt exceeds the alias's window. Clients match this very sentence and compact the conversation."""

    def __init__(self, tokens: int, maximum: int) -> None:
        super().__init__(f"prompt is too long: {tokens} tokens > {maximum} maximum")


class AuthenticationFailed(ProxyError):
    """No credential, or one that was refused; the message says by whom."""

    status = 401
    type = "authentication_error"
    should_retry = False


class NotFound(ProxyError):
    """No such path or object."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ProxyError):
    """The path exists, but not for this method."""

    status = 405
    type = "invalid_request_error"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"This path does not take {method}. Use {allowed}.")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """As for every failure, with the methods that would have been right."""
        return {**super().headers, "allow": self.allowed}


class RequestTooLarge(ProxyError):
    """The body exceeds a limit, ours or REDCap's. Claude Code answers a 413 by compacting the conversation."""

    status = 413
    type = "request_too_large"


class RequestTimeout(ProxyError):
    """The client took too long to send its request."""

    status = 408
    type = "timeout_error"


class TargetTooLong(ProxyError):
    """The request line exceeds its limit."""

    status = 414
    type = "invalid_request_error"


class ExpectationFailed(ProxyError):
    """The request expects what the server does not know."""

    status = 417
    type = "invalid_request_error"


class HeadTooLarge(ProxyError):
    """The headers of a request are too many or too long."""

    status = 431
    type = "invalid_request_error"


class ProxyOverloaded(ProxyError):
    """The proxy holds as many connections or requests as it was allowed to."""

    status = 529
    type = "overloaded_error"
    retry_after = 5


class ShuttingDown(ProxyError):
    """The proxy is being stopped; whoever tries again may reach its successor."""

    status = 529
    type = "overloaded_error"
    retry_after = 5

    def __init__(self) -> None:
        super().__init__("The proxy is being stopped or started anew. Try again in a few seconds.")


# --- REDCap's side ----------------------------------------------------------------------------------------------------


class UpstreamUnreachable(ProxyError):
    """No answer could be had from REDCap; a later try may succeed."""

    status = 502


class UpstreamMisconfigured(ProxyError):
    """REDCap or something before it answered in a way that stays the same until somebody changes a setting."""

    status = 502
    should_retry = False


class UpstreamTimeout(ProxyError):
    """REDCap did not answer within the time limit."""

    status = 504
    type = "timeout_error"


class RateLimited(ProxyError):
    """REDCap, or something before it, asked for fewer requests."""

    status = 429
    type = "rate_limit_error"
    retry_after = 15


class ModelOverloaded(ProxyError):
    """The model behind an alias that has answered before does not answer now."""

    status = 529
    type = "overloaded_error"

    def __init__(self, message: str, *, retry_after: int = 15) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelNeverAnswered(ProxyError):
    """The alias has never answered: more likely a wrong name than a passing fault."""

    status = 502
    should_retry = False


class InvalidDocument(ProxyError):
    """The model wrote no document of the schema that the request demands, not even when asked again.

    SDKs would try twice more by themselves, and each try asks the model twice.
    """

    status = 500
    should_retry = False

    def __init__(self) -> None:
        super().__init__(
            "The model did not write a document of the requested schema, even when asked again. Try again, simplify "
            "the schema, or choose another model."
        )
