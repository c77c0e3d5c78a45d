"""A model of one's own: any server that speaks the chat completions of OpenAI."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from claude_proxy.demo.model import ErrorInReply, ModelFailure, ModelReply

if TYPE_CHECKING:
    from claude_proxy.demo.model import Model, ModelRequest


def openai_backend(url: str, *, model: str | None = None, timeout: float = 600) -> Model:
    """Make a model of an OpenAI-compatible server such as Ollama, llama.cpp or vLLM.

    `url` is the server's, with or without the final `/v1`; `model` is its name there, by default the alias; `timeout`
    is in seconds. Whatever goes wrong is a `ModelFailure`, but for an `error` inside a success, which is an
    `ErrorInReply`. Raises ValueError for an address that is not HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the address of an OpenAI-compatible server starts with http:// or https://, not {url!r}")
    endpoint = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    def ask(request: ModelRequest) -> ModelReply:
        try:
            answer = _post(endpoint, _body(request, model or request.alias), timeout)
            if answer.get("error"):
                raise ErrorInReply(f"{endpoint}: {answer['error']}")
            usage = answer.get("usage") or {}
            text = answer["choices"][0]["message"]["content"] or ""
            return ModelReply(text, usage.get("prompt_tokens"), usage.get("completion_tokens"))
        except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFailure(f"{endpoint}: {error}") from error

    return ask


def _body(request: ModelRequest, name: str) -> dict[str, Any]:
    parameters = {key: value for key, value in vars(request).items() if key not in {"alias", "json_schema"}}
    known = {key: value for key, value in parameters.items() if value not in (None, ())}
    return {"model": name, **known, "stream": False}


def _post(endpoint: str, body: dict[str, Any], timeout: float) -> Any:
    post = urllib.request.Request(endpoint, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(post, timeout=timeout) as response:  # noqa: S310 - the caller has checked it
            return json.load(response)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
