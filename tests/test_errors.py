"""Every failure: status, type and headers that make the client do the right thing."""

from __future__ import annotations

import inspect

import pytest

from claude_proxy import errors
from claude_proxy.errors import (
    AuthenticationFailed,
    ClientGone,
    ExpectationFailed,
    HeadTooLarge,
    InvalidDocument,
    InvalidRequest,
    MethodNotAllowed,
    ModelNeverAnswered,
    ModelOverloaded,
    NotFound,
    PromptTooLong,
    ProxyError,
    ProxyOverloaded,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    SettingsError,
    ShuttingDown,
    TargetTooLong,
    UpstreamMisconfigured,
    UpstreamTimeout,
    UpstreamUnreachable,
)

NO_RETRY = {"x-should-retry": "false"}
LATER = {"retry-after": "15"}
SOON = {"retry-after": "5"}

FAILURES: list[tuple[ProxyError, int, str, dict[str, str], str]] = [
    # failure, status, type, headers, type within a stream
    (ProxyError("x"), 500, "api_error", {}, "overloaded_error"),
    (InvalidRequest("x"), 400, "invalid_request_error", {}, "invalid_request_error"),
    (PromptTooLong(2, 1), 400, "invalid_request_error", {}, "invalid_request_error"),
    (AuthenticationFailed("x"), 401, "authentication_error", NO_RETRY, "authentication_error"),
    (NotFound("x"), 404, "not_found_error", {}, "not_found_error"),
    (MethodNotAllowed("PUT", "POST"), 405, "invalid_request_error", {"allow": "POST"}, "invalid_request_error"),
    (RequestTooLarge("x"), 413, "request_too_large", {}, "request_too_large"),
    (RequestTimeout("x"), 408, "timeout_error", {}, "timeout_error"),
    (TargetTooLong("x"), 414, "invalid_request_error", {}, "invalid_request_error"),
    (ExpectationFailed("x"), 417, "invalid_request_error", {}, "invalid_request_error"),
    (HeadTooLarge("x"), 431, "invalid_request_error", {}, "invalid_request_error"),
    (ProxyOverloaded("x"), 529, "overloaded_error", SOON, "overloaded_error"),
    (ShuttingDown(), 529, "overloaded_error", SOON, "overloaded_error"),
    (UpstreamUnreachable("x"), 502, "api_error", {}, "overloaded_error"),
    (UpstreamMisconfigured("x"), 502, "api_error", NO_RETRY, "api_error"),
    (UpstreamTimeout("x"), 504, "timeout_error", {}, "overloaded_error"),
    (RateLimited("x"), 429, "rate_limit_error", LATER, "overloaded_error"),
    (ModelOverloaded("x"), 529, "overloaded_error", LATER, "overloaded_error"),
    (InvalidDocument(), 500, "api_error", NO_RETRY, "api_error"),
    (ModelNeverAnswered("x"), 502, "api_error", NO_RETRY, "api_error"),
]


@pytest.mark.parametrize(
    ("failure", "status", "kind", "headers", "stream_type"),
    FAILURES,
    ids=[type(failure[0]).__name__ for failure in FAILURES],
)
def test_the_client_is_told_status_type_and_whether_to_retry(
    failure: ProxyError, status: int, kind: str, headers: dict[str, str], stream_type: str
) -> None:
    assert (failure.status, failure.type, failure.headers) == (status, kind, headers)
    assert failure.stream_type == stream_type
    assert str(failure) == failure.message


def every_failure() -> list[type[ProxyError]]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, ProxyError)]


def test_every_failure_is_in_the_table() -> None:
    assert {type(failure) for failure, *_ in FAILURES} == set(every_failure())


@pytest.mark.parametrize("failure", every_failure(), ids=lambda each: each.__name__)
def test_a_wait_is_one_that_claude_code_obeys(failure: type[ProxyError]) -> None:
    assert failure.retry_after is None or 1 <= failure.retry_after <= 60


@pytest.mark.parametrize("failure", [SettingsError, ClientGone])
def test_failures_that_no_client_is_told_of_are_no_proxy_errors(failure: type[Exception]) -> None:
    assert not issubclass(failure, ProxyError)


def test_an_invalid_request_names_the_field() -> None:
    assert InvalidRequest("Field required", "messages.3.content.1.text").message == (
        "messages.3.content.1.text: Field required"
    )
    assert InvalidRequest("No field is to blame.").message == "No field is to blame."


def test_a_prompt_that_is_too_long_is_said_in_the_words_that_make_clients_compact() -> None:
    assert PromptTooLong(210_000, 200_000).message == "prompt is too long: 210000 tokens > 200000 maximum"


def test_a_wrong_method_names_the_right_one() -> None:
    assert MethodNotAllowed("PUT", "GET, HEAD").message == "This path does not take PUT. Use GET, HEAD."


def test_a_failure_may_know_better_than_its_class() -> None:
    failure = RateLimited("x")
    failure.retry_after, failure.should_retry = 3, True
    assert failure.headers == {"retry-after": "3", "x-should-retry": "true"}
    assert RateLimited("y").headers == LATER
