"""A model of one's own behind the pretend module: what it is sent, and how its failures are told."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest

from claude_proxy.demo.backend import openai_backend
from claude_proxy.demo.model import ErrorInReply, ModelFailure, ModelRequest
from claude_proxy.demo.simulator import ModelReply

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST = ModelRequest(
    "gpt-4o",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    temperature=0.5,
    top_p=0.9,
    frequency_penalty=0.5,
    presence_penalty=0.0,
)


@contextmanager
def openai_server(status: int, body: bytes) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    seen: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


COMPLETION = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def test_openai_backend() -> None:
    with openai_server(200, json.dumps(COMPLETION).encode()) as (url, seen):
        request = REQUEST
        for address in (url, f"{url}/", f"{url}/v1", f"{url}/v1/"):
            assert openai_backend(address)(request) == ModelReply("hi", 7, 2)
        openai_backend(url, model="small")(replace(REQUEST, alias="claude", max_tokens=8192))
    assert {path for path, _ in seen} == {"/v1/chat/completions"}
    assert seen[0][1] == {
        "model": "gpt-4o",
        "messages": request.messages,
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.0,
        "stream": False,
    }
    assert (seen[-1][1]["model"], seen[-1][1]["max_tokens"]) == ("small", 8192)


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"no json"), (200, b"{}"), (200, b"[]")])
def test_failures_of_the_openai_backend(status: int, body: bytes) -> None:
    with openai_server(status, body) as (url, _), pytest.raises(ModelFailure, match="/v1/chat/completions"):
        openai_backend(url)(REQUEST)


def test_an_error_page_of_the_openai_backend_is_closed() -> None:
    """It is an exception and a response in one, and holds the connection until somebody closes it."""
    with openai_server(500, b"{}") as (url, _), pytest.raises(ModelFailure) as failure:
        openai_backend(url)(REQUEST)
    assert isinstance(failure.value.__cause__, HTTPError)
    assert failure.value.__cause__.closed


def test_the_openai_backend_out_of_reach() -> None:
    with pytest.raises(ModelFailure):
        openai_backend("http://127.0.0.1:9", timeout=2)(REQUEST)
    with pytest.raises(ValueError, match="http://"):
        openai_backend("file:///etc/passwd")


def test_an_error_inside_a_success_is_no_failure_but_told_apart() -> None:
    body = b'{"error":{"message":"overloaded"}}'
    with openai_server(200, body) as (url, _), pytest.raises(ErrorInReply, match="overloaded"):
        openai_backend(url)(REQUEST)
