"""The module's API: what is sent, what counts as an answer, and what is said of everything else that comes back."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any

import pytest
from core_samples import evil_texts, examples
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.aliases.mapping import describe_alias
from claude_proxy.core.prompt.render import Prompt, turn
from claude_proxy.core.securechat.answer import Answer, reached_limit, read_answer
from claude_proxy.core.securechat.form import encode_form, form_fields, form_type
from claude_proxy.demo import module, simulator
from claude_proxy.demo.form import read_form
from claude_proxy.demo.model import ModelRequest
from claude_proxy.errors import (
    AuthenticationFailed,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamMisconfigured,
    UpstreamTimeout,
    UpstreamUnreachable,
)

PROMPT = Prompt("Be brief.", (turn("user", "a\r\né 😀"), turn("assistant", '"b"'), turn("user", "</c> &amp;sum;")))
URL = "https://redcap.example.edu/api/"
PREFIX = "secure_chat_ai"
SECRET = "Patient 4711 has a fever"
"""Stands in every body below; it must stand in no message."""


# --- the call ---------------------------------------------------------------------------------------------------------


def fields(**options: Any) -> dict[str, str]:
    settings: dict[str, Any] = {
        "token": "T0K3N",
        "prefix": PREFIX,
        "alias": describe_alias("gpt-4o"),
        "max_tokens": 100,
    } | options
    return form_fields(PROMPT, **settings)


def test_the_fields_of_a_call() -> None:
    sent = fields()
    assert json.loads(sent.pop("messages")) == [
        {"role": "user", "content": "a\r\né 😀"},
        {"role": "assistant", "content": '"b"'},
        {"role": "user", "content": "</c> &amp;sum;"},
    ]
    assert sent == {
        "token": "T0K3N",
        "content": "externalModule",
        "prefix": "secure_chat_ai",
        "action": "messages",
        "format": "json",
        "returnFormat": "json",
        "model": "gpt-4o",
        "system": "Be brief.",
        "max_tokens": "100",
    }


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"temperature": 0}, {"temperature": "0"}),
        ({"temperature": 0.0}, {"temperature": "0"}),
        ({"temperature": 1.0, "top_p": 0.95}, {"temperature": "1", "top_p": "0.95"}),
        ({"top_p": 1e-5}, {"top_p": "1e-05"}),
        ({"prefix": "other_prefix"}, {"prefix": "other_prefix"}),
        ({"alias": describe_alias("claude")}, {"model": "claude"}),
    ],
    ids=str,
)
def test_optional_fields(options: dict[str, Any], sent: dict[str, str]) -> None:
    assert fields(**options) == fields() | sent


def test_messages_are_text_as_it_is_for_a_form_that_is_not_to_grow() -> None:
    assert "é 😀" in fields()["messages"]
    assert "\\u" not in fields()["messages"]


@examples(150)
@given(st.dictionaries(st.sampled_from(["token", "system", "messages", "model"]), evil_texts | st.text(), min_size=1))
def test_a_form_reads_back(sent: dict[str, str]) -> None:
    content_type, body = form_type("form_0123456789"), encode_form(sent, "form_0123456789")
    assert dict(read_form(content_type, body)) == sent
    message = email.message_from_bytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body, EmailMessage, policy=email.policy.HTTP
    )
    assert not message.defects
    parts = message.iter_parts()
    read = {str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts}
    assert read == {name: value.encode() for name, value in sent.items()}


def test_a_form_of_a_whole_call_reaches_the_module_as_it_was_meant() -> None:
    asked: list[ModelRequest] = []

    def model(request: ModelRequest) -> str:
        asked.append(request)
        return "hi"

    content_type, body = form_type("form_1"), encode_form(fields(temperature=0.5), "form_1")
    form = dict(read_form(content_type, body))
    response = simulator.Simulator(model).answer(simulator.Received(form))
    assert [text["content"] for text in asked[0].messages] == ["Be brief.", *(each.text for each in PROMPT.turns)]
    assert asked[0].temperature == 0.5
    assert answer(200, str(response.body)).text == "hi"


LIMITS = [
    # alias, max_tokens, tokens of the reply, cut off?
    ("claude", 100, 8_191, False),
    ("claude", 100, 8_192, True),
    ("claude", 100_000, 8_192, True),
    ("claude-sonnet-4", 100, 8_192, False),
    ("gpt-4o", 10, 10, False),
    ("gpt-4o", 10, 16_384, True),
    ("o3-mini", 500, 499, False),
    ("o3-mini", 500, 500, True),
    ("o3-mini", 200_000, 100_000, True),
    ("gpt-5", 500, 0, False),
]


@pytest.mark.parametrize(("alias", "max_tokens", "output_tokens", "cut"), LIMITS)
def test_a_reply_is_cut_off_at_the_limit_that_really_applies(
    alias: str, max_tokens: int, output_tokens: int, cut: bool
) -> None:
    assert reached_limit(describe_alias(alias), max_tokens, output_tokens) is cut


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(
    status: int, body: str | bytes, content_type: str = "application/json", *, sent: int = 1000, **headers: str
) -> Answer:
    data = body.encode() if isinstance(body, str) else body
    named = {"content-type": content_type} | headers if content_type else headers
    return read_answer(status, named, data, url=URL, prefix=PREFIX, sent_bytes=sent)


def message_body(text: Any = "Hello.", usage: Any = None, **more: Any) -> str:
    usage = {"input_tokens": 12, "output_tokens": 3} if usage is None else usage
    return json.dumps({"type": "message", "content": [{"type": "text", "text": text}], "usage": usage} | more)


ANSWERS = [
    pytest.param(message_body(), Answer("Hello.", 12, 3), id="an answer"),
    pytest.param(message_body(""), Answer("", 12, 3), id="an empty text"),
    pytest.param(message_body(usage={}), Answer("Hello.", 0, 0), id="no counts"),
    pytest.param(message_body(usage=[]), Answer("Hello.", 0, 0), id="usage as PHP writes an empty object"),
    pytest.param(
        message_body(usage={"input_tokens": None, "output_tokens": "3"}), Answer("Hello.", 0, 0), id="no ints"
    ),
    pytest.param(
        message_body(usage={"input_tokens": -1, "output_tokens": True}), Answer("Hello.", 0, 0), id="nonsense"
    ),
    pytest.param('\ufeff{"content":[{"type":"text","text":"a"}]}', Answer("a", 0, 0), id="with a byte order mark"),
    pytest.param(
        message_body("&lt; stays as it is \\/"), Answer("&lt; stays as it is \\/", 12, 3), id="nothing is decoded"
    ),
]


@pytest.mark.parametrize(("body", "expected"), ANSWERS)
def test_an_answer(body: str, expected: Answer) -> None:
    assert answer(200, body) == expected
    assert answer(200, body, "text/html") == expected  # whatever it calls itself


NETWORK = module.NETWORK_APOLOGY
REPHRASE = module.REPHRASE_APOLOGY


@pytest.mark.parametrize(
    ("text", "input_tokens", "output_tokens", "is_apology"),
    [
        pytest.param(NETWORK, 0, 0, True, id="the model does not answer"),
        pytest.param(REPHRASE, 0, 0, True, id="a JSON reply was lost"),
        pytest.param(REPHRASE, 50, 20, True, id="a JSON reply was lost, and counted"),
        pytest.param("I apologize, but something else went wrong.", 0, 0, True, id="any other of the module's"),
        pytest.param(NETWORK, 50, 20, False, id="the model's own words"),
        pytest.param("I apologize, but I can't find that file.", 50, 20, False, id="a model that apologizes"),
        pytest.param("Hello.", 0, 0, False, id="words that nobody counted"),
        pytest.param(f"He said: {NETWORK}", 0, 0, False, id="a quotation"),
        pytest.param("", 0, 0, False, id="nothing"),
    ],
)
def test_an_apology_is_told_by_its_words_and_by_its_cost(
    text: str, input_tokens: int, output_tokens: int, is_apology: bool
) -> None:
    assert Answer(text, input_tokens, output_tokens).is_apology is is_apology


# --- everything else --------------------------------------------------------------------------------------------------

HTML = "text/html; charset=UTF-8"
PAGE = f"<html><title>{SECRET}</title></html>"
ERROR = json.dumps({"error": SECRET})

MISCONFIGURED = (UpstreamMisconfigured, 502)
PASSING = (UpstreamUnreachable, 502)
LASTING = (UpstreamMisconfigured, AuthenticationFailed)
"""Failures that the same request would meet again; clients are told not to try."""


def page(words: str) -> str:
    return f"<html><title>{SECRET}</title><body>{words}</body></html>"


NGINX_PLAIN = page("The plain HTTP request was sent to HTTPS port")
APACHE_PLAIN = page("You're speaking plain HTTP to an SSL-enabled server port.")
LOGIN_PAGE = page('<form><input name="password" type="password"></form>')
SHIBBOLETH_PAGE = page('<form action="/Shibboleth.sso"><input type="hidden" name="SAMLRequest"></form>')
F5_PAGE = page("The requested URL was rejected. Please consult with your administrator. Your support ID is: 12345")
MAINTENANCE_PAGE = page("REDCap is currently offline. Please try again later.")
FAILURES: list[tuple[str, int, str, str, int, tuple[type[ProxyError], int], list[str]]] = [
    # what, status, content type, body, bytes sent -> error, status, words of the message
    ("login page", 200, HTML, LOGIN_PAGE, 9, MISCONFIGURED, ["200 text/html", "login page", "REDCAP_API_URL", URL]),
    ("single sign-on", 200, HTML, SHIBBOLETH_PAGE, 9, MISCONFIGURED, ["200 text/html", "single sign-on"]),
    ("some page", 200, HTML, PAGE, 9, MISCONFIGURED, ["200 text/html", "login or maintenance", "REDCAP_API_URL", URL]),
    ("maintenance", 200, HTML, MAINTENANCE_PAGE, 9, PASSING, ["200 text/html", "maintenance", "offline", "later"]),
    ("maintenance, as 503", 503, HTML, MAINTENANCE_PAGE, 9, PASSING, ["503 text/html", "maintenance", "later"]),
    ("no service", 503, HTML, PAGE, 9, PASSING, ["503 text/html", "maintenance", "REDCAP_API_URL"]),
    ("bad gateway", 502, HTML, PAGE, 9, PASSING, ["502 text/html", "gateway"]),
    ("bad gateway, in JSON", 502, "application/json", ERROR, 9, PASSING, ["502 application/json", "gateway"]),
    ("a gateway's own status", 520, HTML, PAGE, 9, PASSING, ["520 text/html", "gateway"]),
    ("gateway time-out", 504, HTML, PAGE, 9, (UpstreamTimeout, 504), ["504 text/html", "gateway", "faster model"]),
    ("captive portal", 511, HTML, PAGE, 9, MISCONFIGURED, ["511 text/html", "network"]),
    ("firewall, as 200", 200, HTML, F5_PAGE, 9, MISCONFIGURED, ["200 text/html", "web firewall", "exception"]),
    (
        "a JSON text cut short",
        200,
        "application/json",
        message_body()[:-9],
        9,
        PASSING,
        ["200 application/json", "breaks"],
    ),
    ("JSON cut short in a page", 200, HTML, message_body()[:-9], 9, PASSING, ["200 text/html", "breaks off"]),
    ("nothing", 200, HTML, "", 9, MISCONFIGURED, ["200 text/html", "fatal error"]),
    ("no POST", 405, HTML, PAGE, 9, MISCONFIGURED, ["405 text/html", "not REDCap's API"]),
    ("firewall", 403, HTML, PAGE, 9, MISCONFIGURED, ["403 text/html", "firewall"]),
    ("wrong path", 404, HTML, PAGE, 9, MISCONFIGURED, ["404 text/html", "REDCAP_API_URL", "/api/"]),
    ("PHP fatal error", 500, HTML, "", 9, MISCONFIGURED, ["500 text/html", "fatal error"]),
    ("PHP fatal error, no type", 500, "", "", 9, MISCONFIGURED, ["500 without a type", "fatal error"]),
    ("basic authentication", 401, HTML, PAGE, 9, MISCONFIGURED, ["401 text/html"]),
    ("XML error", 400, "text/xml", f"<error>{SECRET}</error>", 9, MISCONFIGURED, ["400 text/xml"]),
    ("plain text", 200, "text/plain", SECRET, 9, MISCONFIGURED, ["200 text/plain", "REDCAP_API_URL"]),
    (
        "a JSON list",
        200,
        "application/json",
        f'["{SECRET}"]',
        9,
        MISCONFIGURED,
        ["200 application/json", "no reply of"],
    ),
    (
        "a JSON string",
        200,
        "application/json",
        f'"{SECRET}"',
        9,
        MISCONFIGURED,
        ["200 application/json", "no reply of"],
    ),
    ("JSON nested too deeply", 200, "application/json", "[" * 99_999, 9, MISCONFIGURED, ["200 application/json"]),
    ("not enabled", 400, "application/json", ERROR, 9, MISCONFIGURED, ["enabled", f"REDCAP_MODULE_PREFIX={PREFIX}"]),
    ("no such action", 404, "application/json", ERROR, 9, MISCONFIGURED, ["404 application/json", "module"]),
    ("no answer of ours", 200, "application/json", ERROR, 9, MISCONFIGURED, ["200 application/json", "SecureChatAI"]),
    ("text that is no text", 200, "application/json", message_body({"a": SECRET}), 9, MISCONFIGURED, ["SecureChatAI"]),
    ("no content", 200, "application/json", message_body(content=[]), 9, MISCONFIGURED, ["SecureChatAI"]),
    ("an answer with a 500", 500, "application/json", message_body(SECRET), 9, MISCONFIGURED, ["500 application/json"]),
    ("wrong token", 403, "application/json", ERROR, 9, (AuthenticationFailed, 401), ["REDCap refused", "token"]),
    ("wrong token, as 401", 401, "application/json", ERROR, 9, (AuthenticationFailed, 401), ["REDCap refused"]),
    ("too large", 413, HTML, PAGE, 2_500_000, (RequestTooLarge, 413), ["2.5 MB", "post_max_size"]),
    ("fields dropped", 403, "application/json", ERROR, 9_000_000, (RequestTooLarge, 413), ["9.0 MB", "post_max_size"]),
    ("fields dropped, as 400", 400, "application/json", ERROR, 8_000_000, (RequestTooLarge, 413), ["8.0 MB"]),
    ("slow down", 429, HTML, PAGE, 9, (RateLimited, 429), ["429", "slow down"]),
    ("slow down, in JSON", 429, "application/json", ERROR, 9, (RateLimited, 429), ["429"]),
]


@pytest.mark.parametrize(
    ("status", "content_type", "body", "sent", "error", "words"),
    [failure[1:] for failure in FAILURES],
    ids=[failure[0] for failure in FAILURES],
)
def test_what_is_no_answer_is_explained_without_its_content(
    status: int, content_type: str, body: str, sent: int, error: tuple[type[ProxyError], int], words: list[str]
) -> None:
    with pytest.raises(ProxyError) as caught:
        answer(status, body, content_type, sent=sent)
    failure = caught.value
    assert (type(failure), failure.status) == error
    assert failure.should_retry is (False if isinstance(failure, LASTING) else None)
    assert [word for word in words if word not in failure.message] == []
    assert SECRET not in failure.message
    assert "4711" not in failure.message


MODULE_ERRORS = [
    # the same, from the pretend REDCap
    ({"token": ""}, AuthenticationFailed),
    ({"prefix": "nobody"}, UpstreamMisconfigured),
    ({"action": "nothing"}, UpstreamMisconfigured),
    ({"messages": "[]"}, UpstreamMisconfigured),
]


@pytest.mark.parametrize(("change", "error"), MODULE_ERRORS, ids=str)
def test_errors_of_the_pretend_redcap(change: dict[str, str], error: type[ProxyError]) -> None:
    response = simulator.Simulator(lambda _: "hi").answer(simulator.Received(fields() | change))
    with pytest.raises(error):
        answer(response.status, response.body, response.content_type)


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("text/html", "200 text/html "),
        ("TEXT/HTML ; charset=x", "200 TEXT/HTML "),
        ("", "200 without a type "),
        (";", "200 without a type "),
        ("text/h\xe9", "200 without a type "),
        ("text/\x1b[31m", "200 without a type "),
        ("x" * 500, "200 without a type "),
        ("text/" + "x" * 500, "200 without a type "),
        (SECRET, "200 without a type "),
        ("application/vnd.api+json", "200 application/vnd.api+json "),
    ],
)
def test_the_content_type_is_shown_bare_and_harmless(content_type: str, shown: str) -> None:
    with pytest.raises(UpstreamMisconfigured) as caught:
        answer(200, PAGE, content_type)
    assert shown in caught.value.message


@pytest.mark.parametrize("text", [NGINX_PLAIN, APACHE_PLAIN, "Client sent an HTTP request to an HTTPS server.\n"])
def test_plain_http_to_a_port_that_speaks_tls(text: str) -> None:
    with pytest.raises(UpstreamMisconfigured, match=r"=https://redcap\.example\.edu:8443/api/ instead"):
        read_answer(400, {}, text.encode(), url="http://redcap.example.edu:8443/api/", prefix=PREFIX, sent_bytes=9)


WAITS = [("7", 7), ("0", 1), ("3600", 60), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("1e9", None)]


@pytest.mark.parametrize(("told", "wait"), WAITS)
def test_a_wait_that_was_asked_for_is_passed_on_within_what_clients_obey(told: str, wait: int | None) -> None:
    for status, otherwise in ((429, 15), (503, None)):
        with pytest.raises(ProxyError) as caught:
            read_answer(status, {"retry-after": told}, b"", url=URL, prefix=PREFIX, sent_bytes=9)
        assert caught.value.retry_after == (wait or otherwise)


# --- redirects --------------------------------------------------------------------------------------------------------

CORRECTIONS = [
    # what is configured, where it leads, what to configure instead
    ("https://redcap.example.edu/redcap/api", "/redcap/api/", "https://redcap.example.edu/redcap/api/"),
    ("https://h/x", f"https://h/x/?token={SECRET}#x", "https://h/x/"),
    ("https://h:8443/x", "https://h:8443/x/", "https://h:8443/x/"),
    ("http://h/api/", "https://h/api/", "https://h/api/"),
    ("http://h:80/api/", "https://h:443/api/", "https://h/api/"),
    ("http://h/x", "https://h/x/", "https://h/x/"),
    ("https://h/x", "https://user:hunter2@h/x/", "https://h/x/"),
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(("url", "location", "instead"), CORRECTIONS)
def test_a_redirect_that_only_corrects_the_address_is_told(status: int, url: str, location: str, instead: str) -> None:
    with pytest.raises(UpstreamMisconfigured) as caught:
        read_answer(status, {"location": location}, b"", url=url, prefix=PREFIX, sent_bytes=9)
    assert f"answered {status}" in caught.value.message
    assert "not followed" in caught.value.message
    assert caught.value.message.endswith(f"Set REDCAP_API_URL={instead} instead.")


SIGN_ON, ELSEWHERE = "single sign-on", "Set REDCAP_API_URL to the address that REDCap shows"
OTHER_REDIRECTS = [
    # where it leads, what is said; never where, because that came from upstream
    (f"https://login.example.org/idp/sso?back={SECRET}", SIGN_ON),
    (f"https://other.example.edu/{SECRET}/", SIGN_ON),
    ("//other.example.edu/api/", SIGN_ON),
    ("/Shibboleth.sso/Login", SIGN_ON),
    (f"/redcap/{SECRET}/", ELSEWHERE),
    ("v2/", ELSEWHERE),
    (URL, ELSEWHERE),
    (f"{URL}?token={SECRET}", ELSEWHERE),
    ("http://redcap.example.edu/api/", ELSEWHERE),
    ("https://redcap.example.edu:8443/api/", ELSEWHERE),
    ("https://user:hunter2@redcap.example.edu/api/", ELSEWHERE),
    ("", ELSEWHERE),
    *((location, ELSEWHERE) for location in ("http://[", "//[x", "https://]/")),
    ("https://h:port/", SIGN_ON),
    ("/\x1b[31m", ELSEWHERE),
]


@pytest.mark.parametrize(("location", "words"), OTHER_REDIRECTS)
def test_any_other_redirect_is_explained_without_its_target(location: str, words: str) -> None:
    with pytest.raises(UpstreamMisconfigured) as caught:
        answer(302, PAGE, HTML, location=location)
    assert words in caught.value.message
    for shown in (SECRET, "hunter2", "\x1b", "?", "other.example", "login.example", "v2"):
        assert shown not in caught.value.message


def test_a_redirect_to_nowhere() -> None:
    with pytest.raises(UpstreamMisconfigured, match=ELSEWHERE):
        answer(302, PAGE, HTML)


def answer_or_failure(status: int, body: bytes, content_type: str, sent: int) -> Answer | ProxyError:
    try:
        return answer(status, body, content_type, sent=sent)
    except ProxyError as failure:
        return failure


@examples(300)
@given(
    status=st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 413, 429, 500, 503]),
    body=st.binary(max_size=30)
    | st.sampled_from([ERROR.encode(), PAGE.encode(), message_body().encode(), b"{}", b"null"]),
    content_type=st.text(max_size=20),
    sent=st.sampled_from([0, 10**7]),
)
def test_whatever_comes_is_an_answer_or_an_error_of_ours(
    status: int, body: bytes, content_type: str, sent: int
) -> None:
    found = answer_or_failure(status, body, content_type, sent)
    if isinstance(found, ProxyError):
        assert found.message.isprintable()
        assert SECRET not in found.message
    else:
        assert (status, found) == (200, Answer("Hello.", 12, 3))
