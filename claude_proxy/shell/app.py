"""Routes. Errors are caught here and only here, where it is known whether the response has begun."""

from __future__ import annotations

import hmac
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

from claude_proxy import __version__
from claude_proxy.core import events, models
from claude_proxy.core.content import ToolUse
from claude_proxy.core.request import parse_request
from claude_proxy.core.response import error_json, message_json, to_bytes
from claude_proxy.errors import AuthenticationFailed, ClientGone, MethodNotAllowed, NotFound, ProxyError
from claude_proxy.settings import Settings
from claude_proxy.shell.exchange import Call, Exchange, Outcome, new_id
from claude_proxy.shell.journal import Journal, Record
from claude_proxy.shell.server import HttpRequest, ResponseWriter
from claude_proxy.shell.upstream import Waiter

_JSON = {"content-type": "application/json"}
_EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
_CLIENT_CLOSED_REQUEST = 499


class Visit:
    """One request on its way: what came, where the response goes, and what the journal will say."""

    def __init__(self, request: HttpRequest, response: ResponseWriter) -> None:
        self.request = request
        self.response = response
        self.record = Record(new_id("req"))
        self._began = time.monotonic()

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
        if not self.response.started:
            self._note_head(200)
            self.response.start_stream({**_EVENT_STREAM, "request-id": self.record.request_id})
        self.response.send(event)

    def _note_head(self, status: int) -> None:
        self.record.status = status
        self.record.first_byte = self.seconds


Handler: TypeAlias = Callable[[Visit], None]


class App:
    """The application: the Messages API in front of one REDCap."""

    def __init__(self, settings: Settings, exchange: Exchange, journal: Journal) -> None:
        self._settings = settings
        self._exchange = exchange
        self._journal = journal
        self._routes: Mapping[str, Mapping[str, Handler]] = {
            "/": {"HEAD": self._probe, "GET": self._health},
            "/api/hello": {"HEAD": self._probe, "GET": self._probe},
            "/health": {"GET": self._health, "HEAD": self._health},
            "/v1/messages": {"POST": self._messages},
            "/v1/messages/count_tokens": {"POST": self._count_tokens},
            "/v1/models": {"GET": self._models},
            "/v1/models/{id}": {"GET": self._model},
        }

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        """Answer a request."""
        visit = Visit(request, response)
        self._answer(visit, self._dispatch)

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        """Answer what could not be read as a request."""

        def fail(_: Visit) -> NoReturn:
            raise error

        self._answer(Visit(HttpRequest("-", "-", {}), response), fail)

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
            visit.record.status = _CLIENT_CLOSED_REQUEST
            visit.record.error = "ClientGone"
            raise
        finally:
            visit.record.seconds = visit.seconds
            self._journal.request(visit.record)

    def _fail(self, visit: Visit, error: ProxyError) -> None:
        visit.record.error = type(error).__name__
        if visit.response.started:
            visit.send(events.error_event(error, visit.record.request_id))
            visit.response.end_stream()
        else:
            body = to_bytes(error_json(error, visit.record.request_id))
            visit.respond(error.status, {**_JSON, **error.headers}, body)

    # --- routing ------------------------------------------------------------------------------------------------------

    def _dispatch(self, visit: Visit) -> None:
        method, path = visit.request.method, visit.request.path.rstrip("/") or "/"
        route = "/v1/models/{id}" if path.startswith("/v1/models/") else path
        if route not in self._routes:
            hint = " The base URL must not end in /v1." if path.startswith("/v1/v1/") else ""
            raise NotFound(f"There is nothing at this path. Messages are created with POST /v1/messages.{hint}")
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
        own = self._settings.redcap_api_token
        if own is None:
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
        visit.respond_json({"status": "ok", "version": __version__})

    def _messages(self, visit: Visit) -> None:
        token = self._credential(visit)
        call = self._exchange.prepare(parse_request(visit.request.body))
        visit.record.alias = "(unmapped)" if call.choice.is_client_text else call.choice.alias.name
        visit.record.stream = call.request.stream
        if call.request.stream:
            self._stream(visit, call, token)
        else:
            waiter = Waiter(limit=self._settings.upstream_timeout, client=visit.request.connection)
            outcome = self._exchange.ask(call, token, new_id("msg"), waiter)
            _note(visit.record, outcome)
            visit.respond_json(message_json(outcome.message))

    def _stream(self, visit: Visit, call: Call, token: str) -> None:
        message_id = new_id("msg")
        stream = events.EventStream(
            events.opening_message(message_id, call.request.model, call.input_tokens),
            thinking=call.request.thinking,
            delay=self._settings.stream_delay,
            interval=self._settings.ping_interval,
        )

        def tick(elapsed: float) -> float:
            for event in stream.wait(elapsed):
                visit.send(event)
            return stream.due

        waiter = Waiter(limit=self._settings.upstream_timeout, client=visit.request.connection, tick=tick)
        outcome = self._exchange.ask(call, token, message_id, waiter)
        _note(visit.record, outcome)
        for event in stream.finish(outcome.message):
            visit.send(event)
        visit.response.end_stream()

    def _count_tokens(self, visit: Visit) -> None:
        self._credential(visit)
        call = self._exchange.prepare(parse_request(visit.request.body, count_only=True))
        visit.respond_json({"input_tokens": call.input_tokens})

    def _models(self, visit: Visit) -> None:
        self._credential(visit)
        names = models.offered_models(self._settings.model_map)
        data = [self._model_json(name) for name in names]
        visit.respond_json({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    def _model(self, visit: Visit) -> None:
        self._credential(visit)
        name = unquote(visit.request.path.removeprefix("/v1/models/").rstrip("/"))
        if models.choose_alias(name, self._settings.model_map).is_client_text:
            raise NotFound("There is no model of this name. GET /v1/models lists those there are.")
        visit.respond_json(self._model_json(name))

    def _model_json(self, name: str) -> dict[str, Any]:
        return models.model_json(name, models.choose_alias(name, self._settings.model_map).alias)


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
