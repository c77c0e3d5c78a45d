"""Routes. Errors are caught here and only here, where it is known whether the response has begun."""

from __future__ import annotations

import hmac
import math
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qs, unquote

from claude_proxy import __version__
from claude_proxy.core.aliases import mapping
from claude_proxy.core.messages import events
from claude_proxy.core.messages.content import ToolUse
from claude_proxy.core.messages.request import choose_rules
from claude_proxy.core.messages.response import error_json, message_json, to_bytes
from claude_proxy.errors import (
    AuthenticationFailed,
    ClientGone,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    ProxyOverloaded,
)
from claude_proxy.settings.table import Settings
from claude_proxy.shell.observe import metrics, status_page
from claude_proxy.shell.observe.journal import CLIENT_CLOSED_REQUEST, UNMAPPED, Journal, Phase, Record
from claude_proxy.shell.proxy.exchange import Call, Exchange, Outcome, Standing, new_id
from claude_proxy.shell.proxy.proof_of_token import prove
from claude_proxy.shell.server import access
from claude_proxy.shell.server.handler import HttpRequest, ResponseWriter
from claude_proxy.shell.upstream.client import Waiter

_JSON = {"content-type": "application/json"}
_EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_LOOK_UP = 1.0  # seconds between looks at whether the proxy is being stopped, or has news
_MOST_WATCHERS = 20  # of the status page; each is a thread


class Visit:
    """One request on its way: what came, what it goes by, where the response goes, what the journal will say."""

    def __init__(self, request: HttpRequest, response: ResponseWriter, standing: Standing) -> None:
        self.request = request
        self.response = response
        self.standing = standing
        self.traceparent, trace_id = _trace(request.headers)
        self.message_id = new_id("msg")
        self.record = Record(
            self.message_id.replace("msg", "req", 1),  # so that a message in a transcript leads to its line in the log
            session=_client_id(request.headers, "x-claude-code-session-id"),
            agent=_client_id(request.headers, "x-claude-code-agent-id"),
            trace_id=trace_id,
        )
        self._began = time.monotonic()

    @property
    def settings(self) -> Settings:
        """The settings with which it began."""
        return self.standing.settings

    @property
    def seconds(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self._began

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        self._note_head(status)
        self.response.respond(status, {**headers, "request-id": self.record.request_id}, body)

    def respond_json(self, data: Any) -> None:
        """Send a 200 response."""
        self.respond(200, _JSON, to_bytes(data))

    def send(self, event: bytes) -> None:
        """Send an event of a stream, after the head if it is the first."""
        if self.response.started:
            self.response.send(event)
            return
        self._note_head(200)
        self.response.start_stream({**_EVENT_STREAM, "request-id": self.record.request_id}, event)

    def _note_head(self, status: int) -> None:
        self.record.status = status
        self.record.first_byte = self.seconds


Handler: TypeAlias = Callable[[Visit], None]


class App:
    """The application: the Messages API in front of one REDCap."""

    def __init__(self, exchange: Exchange, journal: Journal) -> None:
        self._exchange = exchange
        self._journal = journal
        self._watchers = threading.Semaphore(_MOST_WATCHERS)
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/": {"HEAD": self._probe, "GET": self._root},
            "/api/hello": {"HEAD": self._probe, "GET": self._probe},
            "/health": {"GET": self._health, "HEAD": self._health},
            "/metrics": {"GET": self._metrics},
            "/status/events": {"GET": self._watch},
            "/v1/messages": {"POST": self._messages},
            "/v1/messages/count_tokens": {"POST": self._count_tokens},
            "/v1/models": {"GET": self._models},
            "/v1/models/{id}": {"GET": self._model},
        }

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        """Answer a request."""
        self._answer(Visit(request, response, self._exchange.standing), self._dispatch)

    def adopt(self, settings: Settings) -> None:
        """Go by new settings from the next request on.

        Raises:
            SettingsError, OSError: they cannot be used; then nothing has changed.
        """
        self._exchange.adopt(settings)
        self._journal.set_level(settings.log_level)

    def tend(self) -> None:
        """Do what is due though nobody asks."""
        self._exchange.forget_idle(time.monotonic())

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        """Answer what could not be read as a request."""

        def fail(_: Visit) -> NoReturn:
            raise error

        self._answer(Visit(HttpRequest("-", "-", {}), response, self._exchange.standing), fail)

    def report(self, failure: BaseException) -> None:
        """Log the kind and the place of an unexpected failure; its words may hold content."""
        frames = traceback.extract_tb(failure.__traceback__)
        place = next((frame for frame in reversed(frames) if "claude_proxy" in frame.filename), None)
        where = f"{place.name}:{place.lineno}" if place else "-"
        self._journal.notice("error", "internal error", kind=type(failure).__name__, place=where)

    def _answer(self, visit: Visit, handle: Handler) -> None:
        """Run a handler; whatever it raises becomes the right response, and the journal hears of it."""
        try:
            try:
                handle(visit)
            except ProxyError as error:
                self._fail(visit, error)
            except ClientGone:
                raise
            except Exception as failure:  # noqa: BLE001 - the last resort: nothing may end a connection without a word
                self.report(failure)
                self._fail(
                    visit, ProxyError("The proxy failed unexpectedly; its log names the place. Please report it.")
                )
        except ClientGone:
            visit.record.status = CLIENT_CLOSED_REQUEST
            visit.record.error = "ClientGone"
            raise
        finally:
            visit.record.seconds = visit.seconds
            self._journal.request(visit.record)

    def _fail(self, visit: Visit, error: ProxyError) -> None:
        visit.record.error = type(error).__name__
        if visit.response.started:
            visit.response.end_stream(events.error_event(error, visit.record.request_id))
        else:
            body = to_bytes(error_json(error, visit.record.request_id))
            visit.respond(error.status, {**_JSON, **error.headers}, body)

    # --- routing ------------------------------------------------------------------------------------------------------

    def _dispatch(self, visit: Visit) -> None:
        method, path = visit.request.method, visit.request.path.rstrip("/") or "/"
        route = "/v1/models/{id}" if path.startswith("/v1/models/") else path
        if route not in self._routes:
            raise NotFound(_explain_absence(path))
        visit.record.route = f"{method} {route}"
        methods = self._routes[route]
        if method not in methods:
            visit.record.route = route
            raise MethodNotAllowed(method, ", ".join(methods))
        methods[method](visit)

    def _credential(self, visit: Visit) -> str:
        """The REDCap token to use.

        Raises:
            AuthenticationFailed: there is no credential, or not the one that the proxy was given.
        """
        offered = _credentials(visit.request.headers)
        if not offered:
            raise AuthenticationFailed(
                "The request carries no credential. Set ANTHROPIC_AUTH_TOKEN to your REDCap API token."
            )
        own = visit.settings.redcap_api_token
        if own is None:
            if not access.is_allowed(offered[0], visit.settings):
                raise AuthenticationFailed(
                    "This token is not on the proxy's allow-list. Ask whoever runs the proxy to add its digest to "
                    "ALLOWED_CLIENTS."
                )
            visit.record.client = access.pseudonym(offered[0], visit.settings)
            return offered[0]
        token = own.reveal()
        if not any(hmac.compare_digest(credential.encode(), token.encode()) for credential in offered):
            raise AuthenticationFailed(
                "The proxy refused the client's token: it is not the REDCAP_API_TOKEN that the proxy was started with. "
                "Set ANTHROPIC_AUTH_TOKEN to that token."
            )
        return token

    # --- routes -------------------------------------------------------------------------------------------------------

    def _probe(self, visit: Visit) -> None:
        visit.respond(200, {}, b"")

    def _health(self, visit: Visit) -> None:
        challenge = parse_qs(visit.request.query).get("challenge", [""])[-1]
        proof = prove(visit.settings, challenge)
        visit.respond_json({"status": "ok", "version": __version__, **({"proof": proof} if proof else {})})

    # --- the status ---------------------------------------------------------------------------------------------------

    def _root(self, visit: Visit) -> None:
        """The page for browsers; for programs, which do not ask for HTML, what `/health` says."""
        if "text/html" not in visit.request.headers.get("accept", ""):
            self._health(visit)
        elif self._may_look(visit):
            snapshot = self._journal.snapshot()
            visit.respond(200, status_page.headers(), status_page.render(self._site(visit, snapshot.now), snapshot))

    def _metrics(self, visit: Visit) -> None:
        if self._may_look(visit):
            form = metrics.media_type(visit.request.headers.get("accept", ""))
            body = metrics.render(self._journal.snapshot(), form)
            visit.respond(200, {"content-type": form, "cache-control": "no-store"}, body)

    def _watch(self, visit: Visit) -> None:
        """Send a page what changes, until it goes or the proxy is stopped."""
        if not self._may_look(visit):
            return
        if not self._watchers.acquire(blocking=False):
            raise ProxyOverloaded(f"{_MOST_WATCHERS} status pages are open already. Close one, or reload this one.")
        try:
            with suppress(ClientGone):  # a page that is closed has had what it wanted
                self._feed(visit)
        finally:
            self._watchers.release()

    def _feed(self, visit: Visit) -> None:
        feed = status_page.Feed()
        client = Waiter(limit=math.inf, client=visit.request.connection)
        while True:
            snapshot = self._journal.snapshot()
            if event := feed.next(self._site(visit, snapshot.now), snapshot):
                visit.send(event)
            if visit.request.is_stopping():
                break
            client.attend()
            time.sleep(_LOOK_UP)
        visit.response.end_stream()

    def _may_look(self, visit: Visit) -> bool:
        """Whether the client may see the status; if not, it is told why."""
        refusal = status_page.refusal(visit.request.headers, visit.request.peer, visit.settings)
        if refusal:
            visit.record.error = "StatusRefused"
            page = status_page.render_refusal(refusal)
            visit.respond(refusal.status, {**status_page.headers(), **refusal.headers}, page)
        return refusal is None

    def _site(self, visit: Visit, now: float) -> status_page.Site:
        health = self._exchange.health
        return status_page.describe_site(visit.settings, health, now=now, monotonic=time.monotonic())

    # --- the API ------------------------------------------------------------------------------------------------------

    def _prepare(self, visit: Visit, *, count_only: bool = False) -> Call:
        rules = choose_rules(visit.request.headers)
        request = self._exchange.read(visit.request.body, rules, count_only=count_only)
        visit.request.body = b""  # what is large is not held while the model thinks
        call = self._exchange.prepare(request, visit.standing, visit.traceparent)
        visit.record.ignored = call.request.ignored or None
        visit.record.mended = call.request.mended or None
        return call

    def _messages(self, visit: Visit) -> None:
        token = self._credential(visit)
        self._journal.begin(visit.record)
        call = self._prepare(visit)
        visit.record.model = _listed(call.request.model, visit.settings)
        visit.record.alias = UNMAPPED if call.choice.is_client_text else call.choice.label
        visit.record.stream = call.request.stream
        if call.request.stream:
            self._stream(visit, call, token)
        else:
            outcome = self._ask(visit, call, token, self._waiter(visit))
            visit.respond_json(message_json(outcome.message))

    def _ask(self, visit: Visit, call: Call, token: str, waiter: Waiter) -> Outcome:
        """Ask, and let the journal follow."""

        def note(phase: Phase) -> None:
            self._journal.turn(visit.record.request_id, phase)

        outcome = self._exchange.ask(call, token, visit.message_id, waiter, note)
        _note(visit.record, outcome)
        note("answering")
        return outcome

    def _waiter(self, visit: Visit, tick: Callable[[float], float] = lambda _: math.inf) -> Waiter:
        """Who waits for REDCap on behalf of a request, as long as its client does and the proxy may."""

        def watch(elapsed: float) -> float:
            visit.request.raise_if_stopped()
            return min(tick(elapsed), elapsed + _LOOK_UP)

        return Waiter(limit=visit.settings.upstream_timeout, client=visit.request.connection, tick=watch)

    def _stream(self, visit: Visit, call: Call, token: str) -> None:
        stream = events.EventStream(
            events.opening_message(visit.message_id, call.request.model, call.input_tokens, call.request.extras),
            thinking=call.request.thinking,
            delay=visit.settings.stream_delay,
            interval=visit.settings.ping_interval,
        )

        def tick(elapsed: float) -> float:
            for event in stream.wait(elapsed):
                visit.send(event)
            return stream.due

        outcome = self._ask(visit, call, token, self._waiter(visit, tick))
        *first, last = stream.finish(outcome.message)
        for event in first:
            visit.send(event)
        visit.response.end_stream(last)

    def _count_tokens(self, visit: Visit) -> None:
        self._credential(visit)
        call = self._prepare(visit, count_only=True)
        edited = "context_management" in call.request.extras
        original = {"context_management": {"original_input_tokens": call.input_tokens}} if edited else {}
        visit.respond_json({"input_tokens": call.input_tokens, **original})

    def _models(self, visit: Visit) -> None:
        self._credential(visit)
        page = mapping.read_page(parse_qs(visit.request.query))
        names = mapping.offered_models(visit.settings.model_map)
        visit.respond_json(mapping.list_json([_model_json(name, visit.settings) for name in names], page))

    def _model(self, visit: Visit) -> None:
        self._credential(visit)
        name = unquote(visit.request.path.removeprefix("/v1/models/").rstrip("/"))
        if mapping.choose_alias(name, visit.settings.model_map).is_client_text:
            raise NotFound("There is no model of this name. GET /v1/models lists those there are.")
        visit.respond_json(_model_json(name, visit.settings))


def _model_json(name: str, settings: Settings) -> dict[str, Any]:
    return mapping.model_json(name, mapping.choose_alias(name, *settings.model_rules).alias)


_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _client_id(headers: Mapping[str, str], name: str) -> str | None:
    """An id that the client made up, for the log; anything that does not look like one is dropped."""
    text = headers.get(name, "")
    return text if _CLIENT_ID.fullmatch(text) else None


def _trace(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The W3C `traceparent` of a request, and the trace's id; a malformed one is to be ignored."""
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return (match[0], match[1]) if match else (None, None)


# Products of Anthropic's that no text-only backend can stand in for.
_ABSENT = {
    "/v1/messages/batches": "Message Batches are not available on this server. Send the requests one by one.",
    "/v1/files": "Files are not available on this server. Send their content in the message.",
    "/v1/skills": "Skills are not available on this server.",
    "/v1/organizations": "The Admin API is not available on this server.",
    "/v1/complete": "Text completions are not available on this server. Use POST /v1/messages.",
    "/v1/v1": "There is nothing at this path. The base URL must not end in /v1.",
}


def _explain_absence(path: str) -> str:
    """Why there is nothing at a path."""
    known = next((text for root, text in _ABSENT.items() if path == root or path.startswith(f"{root}/")), None)
    return known or "There is nothing at this path. Messages are created with POST /v1/messages."


def _listed(model: str, settings: Settings) -> str | None:
    """The client's name for a model if it is one of the table's; any other is the client's text."""
    name = model.removesuffix("[1m]")
    return name if name in mapping.offered_models(settings.model_map) else None


def _note(record: Record, outcome: Outcome) -> None:
    message = outcome.message
    record.input_tokens = message.usage.input_tokens
    record.output_tokens = message.usage.output_tokens
    record.calls = sum(isinstance(block, ToolUse) for block in message.content)
    record.repairs = outcome.repairs or None
    record.continuations = outcome.continuations or None
    record.slips = outcome.slips or None
    record.second_ask_error = outcome.second_ask_error
    record.stop_reason = message.stop_reason


def _credentials(headers: Mapping[str, str]) -> list[str]:
    """The credentials a request carries: a bearer token, and an `x-api-key`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return [credential for credential in (bearer, headers.get("x-api-key", "").strip()) if credential]
