"""A server by itself, before an application made for the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from conftest import Response, Wire

from claude_proxy.core.messages.response import error_json, to_bytes
from claude_proxy.errors import ProxyError
from claude_proxy.settings.table import Settings
from claude_proxy.shell.server.handler import USUAL_LIMITS, HttpRequest, ProxyServer, ResponseWriter, ServerLimits

Answer: TypeAlias = Callable[[HttpRequest, ResponseWriter], None]

MB = 1024**2


class Application:
    """An application that answers as the test wants, and keeps what it was told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []
        self.refusals: list[ProxyError] = []
        self.reports: list[BaseException] = []
        self.tended = 0

    def __call__(self, request: HttpRequest, response: ResponseWriter) -> None:
        self.requests.append(request)
        try:
            self.answer(request, response)
        except ProxyError as error:
            self._fail(error, response)

    def refuse(self, error: ProxyError, response: ResponseWriter) -> None:
        self.refusals.append(error)
        self._fail(error, response)

    def adopt(self, settings: Settings) -> None:
        pass

    def tend(self) -> None:
        self.tended += 1

    def report(self, failure: BaseException) -> None:
        self.reports.append(failure)

    def _fail(self, error: ProxyError, response: ResponseWriter) -> None:
        headers = {"content-type": "application/json", "request-id": "req_1", **error.headers}
        response.respond(error.status, headers, to_bytes(error_json(error, "req_1")))


def listening(answer: Answer, *, limits: ServerLimits = USUAL_LIMITS, **changes: Any) -> ProxyServer:
    """A server that is not running yet; `changes` are settings that differ from the defaults."""
    usual = {"redcap_api_url": "http://127.0.0.1/api/", "listen_port": 0}
    return ProxyServer(Settings(**{**usual, **changes}), Application(answer), limits)


class Site:
    """A running server with its application."""

    def __init__(self, server: ProxyServer) -> None:
        self.server = server
        assert isinstance(server.application, Application)
        self.application = server.application

    def connect(self) -> Wire:
        return Wire(self.server.server_port)

    def exchange(self, data: bytes) -> Response:
        """Send bytes on a connection of their own, read a response, and see the connection close."""
        with self.connect() as wire:
            wire.send(data)
            response = wire.read_response()
            assert wire.read_to_end() == b""
        return response

    def is_well(self) -> bool:
        """Whether the next request on a connection of its own is answered."""
        with self.connect() as wire:
            wire.ask("GET", "/well")
            return wire.read_response().status == 200


def echo(request: HttpRequest, response: ResponseWriter) -> None:
    response.respond(200, {"content-type": "text/plain"}, request.body or b"hello")


def stream_three(_: HttpRequest, response: ResponseWriter) -> None:
    response.start_stream({"content-type": "text/event-stream"})
    for event in (b"one", b"two\r\n", b"three"):
        response.send(event)
    response.end_stream()
