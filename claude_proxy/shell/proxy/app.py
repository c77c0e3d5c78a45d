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
from claude_proxy.shell.proxy.exchange import Exchange, Outcome, PreparedRequest, Snapshot, new_id
from claude_proxy.shell.server import access
from claude_proxy.shell.server.handler import HttpRequest, ResponseWriter
from claude_proxy.shell.wait.waiter import Waiter

_JSON = {"content-type": "application/json"}
_EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class RequestContext:
    """One request on its way: what came, what it goes by, where the response goes, what the journal will say."""

    def __init__(self, request: HttpRequest, response: ResponseWriter, snapshot: Snapshot) -> None:
        self.request = request
        self.response = response
        self.snapshot = snapshot
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
        return self.snapshot.settings

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


Handler: TypeAlias = Callable[[RequestContext], None]


class App:
    """The application: the Messages API in front of one REDCap."""

    def __init__(
        self, exchange: Exchange, journal: Journal, *, look_interval: float = 1.0, max_watchers: int = 20
    ) -> None:
        """Answer by means of an exchange.

        Args:
            exchange: what asks REDCap.
            journal: what is told of every request.
            look_interval: seconds between looks at whether the proxy is being stopped, or has news.
            max_watchers: how many status pages may be kept up to date at once; each takes a thread.
        """
        self._exchange = exchange
        self._journal = journal
        self._look_interval = look_interval
        self._max_watchers = max_watchers
        self._watchers = threading.Semaphore(max_watchers)
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
        self._answer(RequestContext(request, response, self._exchange.snapshot), self._dispatch)

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

        def fail(_: RequestContext) -> NoReturn:
            raise error

        self._answer(RequestContext(HttpRequest("-", "-", {}), response, self._exchange.snapshot), fail)

    def report(self, failure: BaseException) -> None:
        """Log the kind and the place of an unexpected failure; its words may hold content."""
        frames = traceback.extract_tb(failure.__traceback__)
        place = next((frame for frame in reversed(frames) if "claude_proxy" in frame.filename), None)
        where = f"{place.name}:{place.lineno}" if place else "-"
        self._journal.notice("error", "internal error", kind=type(failure).__name__, place=where)

    def _answer(self, context: RequestContext, handle: Handler) -> None:
        """Run a handler; whatever it raises becomes the right response, and the journal hears of it."""
        try:
            try:
                handle(context)
            except ProxyError as error:
                self._fail(context, error)
            except ClientGone:
                raise
            except Exception as failure:  # noqa: BLE001 - the last resort: nothing may end a connection without a word
                self.report(failure)
                self._fail(
                    context, ProxyError("The proxy failed unexpectedly; its log names the place. Please report it.")
                )
        except ClientGone:
            context.record.status = CLIENT_CLOSED_REQUEST
            context.record.error = "ClientGone"
            raise
        finally:
            context.record.seconds = context.seconds
            self._journal.request(context.record)

    def _fail(self, context: RequestContext, error: ProxyError) -> None:
        context.record.error = type(error).__name__
        if context.response.started:
            context.response.end_stream(events.error_event(error, context.record.request_id))
        else:
            body = to_bytes(error_json(error, context.record.request_id))
            context.respond(error.status, {**_JSON, **error.headers}, body)

    # --- routing ------------------------------------------------------------------------------------------------------

    def _dispatch(self, context: RequestContext) -> None:
        method, path = context.request.method, context.request.path.rstrip("/") or "/"
        route = "/v1/models/{id}" if path.startswith("/v1/models/") else path
        if route not in self._routes:
            raise NotFound(_explain_absence(path))
        context.record.route = f"{method} {route}"
        methods = self._routes[route]
        if method not in methods:
            context.record.route = route
            raise MethodNotAllowed(method, ", ".join(methods))
        methods[method](context)

    def _credential(self, context: RequestContext) -> str:
        """The REDCap token to use.

        Raises:
            AuthenticationFailed: there is no credential, or not the one that the proxy was given.
        """
        offered = access.credentials(context.request.headers)
        if not offered:
            raise AuthenticationFailed(
                "The request carries no credential. Set ANTHROPIC_AUTH_TOKEN to your REDCap API token."
            )
        own = context.settings.redcap_api_token
        if own is None:
            if not access.is_allowed(offered[0], context.settings):
                raise AuthenticationFailed(
                    "This token is not on the proxy's allow-list. Ask whoever runs the proxy to add its digest to "
                    "ALLOWED_CLIENTS."
                )
            context.record.client = access.pseudonym(offered[0], context.settings)
            return offered[0]
        token = own.reveal()
        if not any(hmac.compare_digest(credential.encode(), token.encode()) for credential in offered):
            raise AuthenticationFailed(
                "The proxy refused the client's token: it is not the REDCAP_API_TOKEN that the proxy was started with. "
                "Set ANTHROPIC_AUTH_TOKEN to that token."
            )
        return token

    # --- routes -------------------------------------------------------------------------------------------------------

    def _probe(self, context: RequestContext) -> None:
        context.respond(200, {}, b"")

    def _health(self, context: RequestContext) -> None:
        context.respond_json({"status": "ok", "version": __version__})

    # --- the status ---------------------------------------------------------------------------------------------------

    def _root(self, context: RequestContext) -> None:
        """The page for browsers; for programs, which do not ask for HTML, what `/health` says."""
        if "text/html" not in context.request.headers.get("accept", ""):
            self._health(context)
        elif self._may_look(context):
            snapshot = self._journal.activity()
            context.respond(200, status_page.headers(), status_page.render(self._site(context, snapshot.now), snapshot))

    def _metrics(self, context: RequestContext) -> None:
        if self._may_look(context):
            form = metrics.media_type(context.request.headers.get("accept", ""))
            body = metrics.render(self._journal.activity(), form)
            context.respond(200, {"content-type": form, "cache-control": "no-store"}, body)

    def _watch(self, context: RequestContext) -> None:
        """Send a page what changes, until it goes or the proxy is stopped."""
        if not self._may_look(context):
            return
        if not self._watchers.acquire(blocking=False):
            raise ProxyOverloaded(f"{self._max_watchers} status pages are open already. Close one, or reload this one.")
        try:
            with suppress(ClientGone):  # a page that is closed has had what it wanted
                self._feed(context)
        finally:
            self._watchers.release()

    def _feed(self, context: RequestContext) -> None:
        feed = status_page.Feed()
        client = Waiter(limit=math.inf, client=context.request.connection)
        while True:
            snapshot = self._journal.activity()
            if event := feed.next(self._site(context, snapshot.now), snapshot):
                context.send(event)
            if context.request.is_stopping():
                break
            client.attend()
            time.sleep(self._look_interval)
        context.response.end_stream()

    def _may_look(self, context: RequestContext) -> bool:
        """Whether the client may see the status; if not, it is told why."""
        refusal = status_page.refusal(context.request.headers, context.request.peer, context.settings)
        if refusal:
            context.record.error = "StatusRefused"
            page = status_page.render_refusal(refusal)
            context.respond(refusal.status, {**status_page.headers(), **refusal.headers}, page)
        return refusal is None

    def _site(self, context: RequestContext, now: float) -> status_page.SiteFacts:
        health = self._exchange.health
        return status_page.describe_site(context.settings, health, now=now, monotonic=time.monotonic())

    # --- the API ------------------------------------------------------------------------------------------------------

    def _prepare(self, context: RequestContext, *, count_only: bool = False) -> PreparedRequest:
        prepared = self._exchange.prepare(
            context.request.body,
            choose_rules(context.request.headers),
            snapshot=context.snapshot,
            count_only=count_only,
            traceparent=context.traceparent,
        )
        context.request.body = b""  # what is large is not held while the model thinks
        context.record.ignored = prepared.request.ignored or None
        context.record.mended = prepared.request.mended or None
        return prepared

    def _messages(self, context: RequestContext) -> None:
        token = self._credential(context)
        self._journal.begin(context.record)
        prepared = self._prepare(context)
        context.record.model = _listed(prepared.request.model, context.settings)
        context.record.alias = UNMAPPED if prepared.choice.is_client_text else prepared.choice.label
        context.record.stream = prepared.request.stream
        if prepared.request.stream:
            self._stream(context, prepared, token)
        else:
            outcome = self._ask(context, prepared, token)
            context.respond_json(message_json(outcome.message))

    def _ask(
        self,
        context: RequestContext,
        prepared: PreparedRequest,
        token: str,
        tick: Callable[[float], float] = lambda _: math.inf,
    ) -> Outcome:
        """Ask, as long as the client waits and the proxy may, and let the journal follow."""

        def watch(elapsed: float) -> float:
            context.request.raise_if_stopped()
            return min(tick(elapsed), elapsed + self._look_interval)

        def note(phase: Phase) -> None:
            self._journal.set_phase(context.record.request_id, phase)

        waiter = Waiter(limit=context.settings.upstream_timeout, client=context.request.connection, tick=watch)
        outcome = self._exchange.ask(prepared, token, context.message_id, waiter, note)
        _note(context.record, outcome)
        note("answering")
        return outcome

    def _stream(self, context: RequestContext, prepared: PreparedRequest, token: str) -> None:
        stream = events.EventStream(
            events.opening_message(
                context.message_id, prepared.request.model, prepared.input_tokens, prepared.request.extras
            ),
            thinking=prepared.request.thinking,
            delay=context.settings.stream_delay,
            interval=context.settings.ping_interval,
        )

        def tick(elapsed: float) -> float:
            for event in stream.events_due(elapsed):
                context.send(event)
            return stream.next_due

        outcome = self._ask(context, prepared, token, tick)
        *first, last = stream.finish(outcome.message)
        for event in first:
            context.send(event)
        context.response.end_stream(last)

    def _count_tokens(self, context: RequestContext) -> None:
        self._credential(context)
        prepared = self._prepare(context, count_only=True)
        edited = "context_management" in prepared.request.extras
        original = {"context_management": {"original_input_tokens": prepared.input_tokens}} if edited else {}
        context.respond_json({"input_tokens": prepared.input_tokens, **original})

    def _models(self, context: RequestContext) -> None:
        self._credential(context)
        page = mapping.read_page(parse_qs(context.request.query))
        names = mapping.offered_models(context.settings.model_map)
        context.respond_json(mapping.list_json([_model_json(name, context.settings) for name in names], page))

    def _model(self, context: RequestContext) -> None:
        self._credential(context)
        name = unquote(context.request.path.removeprefix("/v1/models/").rstrip("/"))
        if mapping.choose_alias(name, context.settings.model_map).is_client_text:
            raise NotFound("There is no model of this name. GET /v1/models lists those there are.")
        context.respond_json(_model_json(name, context.settings))


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
    record.mended_edits = outcome.mended_edits or None
    record.second_ask_error = outcome.second_ask_error
    record.stop_reason = message.stop_reason
