"""A pretend REDCap with the SecureChatAI module in it, faithful to the faults of both.

A request passes the same stations as on a real server: PHP reads the form (`form`), REDCap checks token and prefix,
the module turns the fields into one request to a model's vendor (`module`), the vendor may refuse it (`vendors`), the
module mistreats the reply, and PHP encodes what is left (`php`). What stands behind as the model is a plain function.

Nothing here is shared with the rest of the package, on purpose: code that wrote and read by the same tables would
agree with itself about its own mistakes. `Simulator.answer` needs no socket; the server at the end only carries it.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from claude_proxy.demo import module, pages, vendors
from claude_proxy.demo.form import Received, read_form, sort_fields
from claude_proxy.demo.model import ErrorInReply, Model, ModelFailure, ModelReply
from claude_proxy.demo.pages import CannedResponse, Intercept
from claude_proxy.demo.php import PhpFatalError, php_int

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from collections.abc import Set as AbstractSet

__all__ = ["ModelReply", "Received", "Simulator"]

VERSIONS = {"redcap-version": "15.5.0", "framework-version": 16, "module-version": "1.0.0"}
ACTIONS = {
    "auth-actions": {"callAI": "One prompt, one reply.", "messages": "A conversation, in Anthropic's form."},
    "no-auth-actions": {},
}
FRAMEWORK_ACTIONS: dict[str, dict[str, Any]] = {
    "__version": VERSIONS,
    "__actions": ACTIONS,
    "__info": {**VERSIONS, "name": "SecureChatAI", "description": "A simulated SecureChatAI.", **ACTIONS},
}


class Apology(Exception):
    """The module has nothing to say and says it politely, with HTTP 200 and a usage of zero."""


@dataclass(eq=False)
class Simulator:
    """A REDCap with SecureChatAI on a port of this machine, from `with` to the end of its block.

    `model` answers; a `ModelFailure` of it is tried three times and then apologized for. `tokens` are the API tokens
    that are right, None meaning any that is not empty. An alias that is not among `aliases` is apologized for, or,
    with `unknown_alias_is_fatal`, brings PHP down, as on servers that lack a class of the module's.
    `intercept` sees every request first and may answer it. A body of more than `post_max_size` bytes loses all its
    fields. `settings` are the administrator's for the sampling. With `display_errors` PHP's remarks stand before the
    module's JSON. A client that sends more than `page_hits_per_minute` requests within a minute of `clock` is banned
    for good; zero is no limit. The last 64 requests are kept in `requests`, the reasons of the last apologies in
    `refusals`. Several threads answer at once; what they share is changed under `_lock`, or is a deque.
    """

    model: Model
    _: KW_ONLY
    tokens: Collection[str] | None = None
    prefix: str = module.PREFIX
    aliases: AbstractSet[str] = frozenset(module.ALIASES)
    host: str = "127.0.0.1"
    port: int = 0
    decode_entities: bool = True
    intercept: Intercept | None = None
    post_max_size: int = 32 * 1024 * 1024
    unknown_alias_is_fatal: bool = False
    settings: module.ServerSettings = module.NOTHING_SET
    display_errors: bool = False
    page_hits_per_minute: int = 0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.requests: deque[Received] = deque(maxlen=64)
        self.refusals: deque[str] = deque(maxlen=64)
        self.banned: set[str] = set()
        self.url = f"http://{self.host}:{self.port}/api/"
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._hits: defaultdict[str, deque[float]] = defaultdict(deque)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, look: float = 0.05) -> None:
        """Listen, and answer in threads of its own; from now on `url` is true.

        Every `look` seconds it is seen whether to end. Raises OSError where the port is taken.
        """
        self._server = server = _Server((self.host, self.port), self)
        self.url = f"http://{self.host}:{server.server_port}/api/"
        threading.Thread(target=server.serve_forever, args=(look,), name="simulator", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and cut the connections that are still open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, received: Received) -> CannedResponse:
        """Return what a client gets for a request."""
        self.requests.append(received)
        if self.intercept and (canned := self.intercept(received)) is not None:
            return canned
        path = received.path.partition("?")[0]
        if path == "/api":
            return pages.page(301, "Moved Permanently", "The document has moved.", {"Location": self.url})
        if path != "/api/":
            return pages.NOT_FOUND
        if self._is_banned(received.address):
            return pages.banned(received.address)
        return self._api(received) if received.method == "POST" else pages.LOGIN_PAGE

    def _is_banned(self, address: str) -> bool:
        """Count a request, and ban the address that exceeds the limit; this one is the first to be refused."""
        if not self.page_hits_per_minute:
            return False
        with self._lock:
            now, hits = self.clock(), self._hits[address]
            hits.append(now)
            while hits[0] <= now - 60:
                hits.popleft()
            if len(hits) > self.page_hits_per_minute:
                self.banned.add(address)
            return address in self.banned

    def _api(self, received: Received) -> CannedResponse:
        fields = received.fields
        content, token, prefix = (fields.get(name, "") for name in ("content", "token", "prefix"))
        if content not in ("externalModule", "version"):
            return pages.redcap_error(400, 'The value of the parameter "content" is not valid', fields)
        if not token or (self.tokens is not None and token not in self.tokens):
            return pages.redcap_error(403, "You do not have permissions to use the API", fields)
        if content == "version":
            return CannedResponse(200, str(VERSIONS["redcap-version"]), "text/plain; charset=UTF-8")
        if prefix != self.prefix:
            return pages.redcap_error(400, f"There is no enabled module with the prefix '{prefix}'", fields)
        match fields.get("action", ""):
            case "messages":
                return self._module(received, self._messages)
            case "callAI":
                return self._module(received, self._call_ai)
            case action if action in FRAMEWORK_ACTIONS:
                return pages.json_response(200, FRAMEWORK_ACTIONS[action])
            case action:
                return pages.json_response(400, {"error": f"Action {action} is not defined"})

    def _module(self, received: Received, action: Callable[[Received], CannedResponse]) -> CannedResponse:
        try:
            response = action(received)
        except PhpFatalError:
            response = pages.FATAL
        return pages.with_displayed_errors(response) if self.display_errors else response

    def _messages(self, received: Received) -> CannedResponse:
        received = Received(module.MESSAGES_DEFAULTS | received.fields, received.arrays)
        messages = module.read_messages(received)
        if not messages:
            return pages.json_response(400, _INVALID_MESSAGES)
        model = received.fields["model"]
        alias = module.ANTHROPIC_NAMES.get(model, model)
        content, usage = self._content(alias, messages, received)
        limit = php_int(received.fields["max_tokens"])
        is_cut = usage and usage[1] >= limit and alias not in module.WITHOUT_STOP_REASON
        reason = "max_tokens" if is_cut else "end_turn"
        return pages.json_response(200, _message(model, module.as_text(content), reason, usage or (0, 0)))

    def _call_ai(self, received: Received) -> CannedResponse:
        known = ("prompt", "model", "temperature", "max_tokens", "json_schema")
        fields = module.CALL_AI_DEFAULTS | {name: received.fields[name] for name in known if name in received.fields}
        if fields.get("prompt", "") in ("", "0"):
            return pages.json_response(400, {"error": "Missing prompt"})
        alias = fields["model"]
        content, usage = self._content(alias, {"0": {"role": "user", "content": fields["prompt"]}}, Received(fields))
        read, written = usage or (0, 0)
        counts = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return pages.json_response(200, {"status": "success", "model": alias, "content": content, "usage": counts})

    def _content(self, alias: str, messages: dict[str, Any], received: Received) -> tuple[Any, tuple[int, int] | None]:
        """What the module makes of the model's reply, and its tokens; an apology, and None."""
        try:
            reply = self._ask(alias, messages, received)
            content = module.process_reply(reply.text, alias, decode_entities=self.decode_entities)
        except Apology as apology:
            return str(apology), None
        return content, (reply.input_tokens or 0, reply.output_tokens or 0)

    def _ask(self, alias: str, messages: dict[str, Any], received: Received) -> ModelReply:
        """Ask the model, up to three times; its reply is cut at the vendor's cap and its tokens are counted."""
        if alias not in self.aliases:
            if self.unknown_alias_is_fatal:
                raise PhpFatalError("the class of the exception is not there")
            raise self._refused(f"the alias {alias!r} is not configured")
        try:
            request = module.model_request(alias, messages, received, self.settings)
        except module.Refusal as refusal:
            raise self._refused(str(refusal)) from None
        if reason := next(vendors.objections(request), None):
            raise self._refused(reason)
        for _ in range(module.ATTEMPTS):
            try:
                reply = self.model(request)
            except ModelFailure as failure:
                reason = str(failure)
            except ErrorInReply as error:
                if module.family_of(alias) == "claude":
                    return ModelReply("", 0, 0)
                raise self._refused(str(error), module.TECHNICAL_APOLOGY) from None
            else:
                return vendors.measured(ModelReply(reply) if isinstance(reply, str) else reply, request)
        raise self._refused(reason or "the model failed")

    def _refused(self, reason: str, apology: str = module.NETWORK_APOLOGY) -> Apology:
        self.refusals.append(reason)
        return Apology(apology)


_INVALID_MESSAGES = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "Missing or invalid 'messages' field"},
}


def _message(model: str, text: Any, stop_reason: str, usage: tuple[int, int]) -> dict[str, Any]:
    microseconds = time.time_ns() // 1000
    return {
        "id": f"msg_{microseconds // 1_000_000:08x}{microseconds % 1_000_000:05x}",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "model": model,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": usage[0], "output_tokens": usage[1]},
    }


# --- The server -------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        self.connections: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up whenever it likes
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Apache", ""
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_POST(self) -> None:
        if "transfer-encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return
        simulator = self.server.simulator
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        form = read_form(self.headers.get("content-type", ""), body) if size <= simulator.post_max_size else ()
        headers = {name.lower(): value for name, value in self.headers.items()}
        fields, arrays = sort_fields(form)
        received = Received(fields, arrays, headers, str(self.command), self.path, size, self.client_address[0])
        self._send(simulator.answer(received))

    do_GET = do_HEAD = do_POST  # noqa: N815 - the names are the standard library's

    def _send(self, response: CannedResponse) -> None:
        body = response.body.encode() if isinstance(response.body, str) else response.body
        self.send_response(response.status)
        headers = {"Content-Type": response.content_type, "Content-Length": str(len(body)), **response.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
