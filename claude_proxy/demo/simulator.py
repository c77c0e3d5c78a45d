"""A pretend REDCap with the SecureChatAI module in it, faithful to the faults of both.

A request passes the same stations as on a real server, top to bottom in this file: PHP reads the form, REDCap
checks token and prefix, the module turns the fields into one request to a model's vendor, the vendor may refuse it,
the module mistreats the reply, and PHP encodes what is left. What stands behind as the model is a plain function.

Nothing here is shared with the rest of the package, on purpose: code that wrote and read by the same tables would
agree with itself about its own mistakes. `Simulator.answer` needs no socket; the server at the end only carries it.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from email.message import Message
from email.parser import HeaderParser
from html import escape
from html.entities import name2codepoint
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.error import HTTPError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

# --- What is known of the module and of the models behind it ----------------------------------------------------------

PREFIX = "secure_chat_ai"
ALIASES = (
    *("chat", "claude", "claude-haiku-4.5", "claude-opus-4-1", "claude-opus-4-6", "claude-opus-4-7"),
    *("claude-sonnet-4", "claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-4.6"),
    *("deepseek", "deepseek-r1", "gemini-2.5-flash", "gemini-2.5-pro"),
    *("gpt-4o", "gpt-4.1", "gpt-4-1", "gpt-4-1-nano", "gpt-5", "gpt-5-4", "gpt-5-4-nano", "gpt-5-nano"),
    *("grok-3", "grok-3-mini", "llama-4-scout", "llama3370b", "llama-Maverick", "o1", "o3", "o3-mini", "o4-mini"),
)
ANTHROPIC_NAMES = {"claude-3-7-sonnet-20250219": "claude", "claude-3-5-sonnet-20241022": "claude"}
"""The model names that the module itself maps to an alias."""

MESSAGES_DEFAULTS = {"model": "o3-mini", "max_tokens": "4096"}
CALL_AI_DEFAULTS = {"model": "deepseek", "max_tokens": "8000", "temperature": "0.2"}
TEMPERATURE, TOP_P, FREQUENCY_PENALTY, PRESENCE_PENALTY = 0.7, 0.9, 0.5, 0.0
ATTEMPTS = 3
SCHEMA_ALIASES = frozenset({"gpt-4.1", "o1", "o3-mini", "gpt-5", "llama3370b"})

REASONING_LIMITS = {"o1": 100_000, "o3": 100_000, "o3-mini": 100_000, "o4-mini": 100_000, "gpt-5": 128_000}
"""The aliases of the reasoning family, and the largest `max_completion_tokens` that their vendor accepts."""

CLAUDE_CAPS = {
    "claude": 8_192,
    "claude-sonnet-3.5": 8_192,
    "claude-sonnet-3.7": 8_192,
    "claude-haiku-4.5": 8_192,
    "claude-sonnet-4": 16_000,
    "claude-opus-4": 32_000,
}
"""The `max_tokens` that the module sends in place of the caller's; every other Claude alias gets `CLAUDE_CAP`."""
CLAUDE_CAP = 16_384

CHAT_CAPS = (("gpt-4.1", 32_768), ("gpt-4-1", 32_768), ("gpt-5", 128_000), ("gemini-2.5", 65_536), ("", 16_384))
"""By beginning of the alias: where a reply ends when no `max_tokens` is sent, in tokens."""

WINDOWS = (
    *(("gpt-5", 400_000), ("gpt-4.1", 1_000_000), ("gpt-4-1", 1_000_000), ("gemini-2.5", 1_000_000)),
    *(("claude", 200_000), ("o1", 200_000), ("o3", 200_000), ("o4-mini", 200_000), ("", 128_000)),
)
"""By beginning of the alias: context window in tokens."""

CHARACTERS_PER_TOKEN = 4

NETWORK_APOLOGY = "I apologize, but I'm experiencing network difficulties. Please wait a moment and try again."
REPHRASE_APOLOGY = "I apologize, but I wasn't able to complete that request properly. Could you try rephrasing?"

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

# --- What goes in and out ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One HTTP request as PHP shows it to REDCap.

    Header names are in lower case. Of a repeated field the last value stands in `fields`; the values of fields named
    like `stop[]` are in `arrays["stop"]`. `size` is that of the body, in bytes.
    """

    fields: dict[str, str]
    arrays: dict[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/api/"
    size: int = 0


@dataclass(frozen=True)
class CannedResponse:
    """One HTTP response; `Content-Length` is added when it is sent."""

    status: int = 200
    body: str | bytes = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRequest:
    """What the module sends to the vendor of a model.

    `messages` begin with the system message, if there is one. For Claude aliases it is the only one: all system
    texts, from wherever they stood, joined by an empty line. `max_tokens` is what the vendor is told: the module's
    own figure for Claude, the caller's for reasoning models, nothing for all others. Parameters that the model's
    family is not sent are None or empty.
    """

    alias: str
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None

    @property
    def system(self) -> str:
        """All system texts, joined by an empty line."""
        return "\n\n".join(text_of(m) for m in self.messages if m.get("role") == "system")


@dataclass(frozen=True)
class ModelReply:
    """What a model wrote; token counts that are None are estimated from the length of the text."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class ModelFailure(Exception):
    """The model could not be reached, or refused: the module apologizes instead of saying so."""


class PhpFatalError(Exception):
    """PHP gave up in the middle of the request: HTTP 500 without a body."""


class Apology(Exception):
    """The module has nothing to say and says it politely, with HTTP 200 and a usage of zero."""


Model: TypeAlias = "Callable[[ModelRequest], ModelReply | str]"
Intercept: TypeAlias = "Callable[[Received], CannedResponse | None]"
Family: TypeAlias = Literal["claude", "reasoning", "chat"]


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, whether its content is a string or an array of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


# --- Pages that stand between a client and REDCap: for `intercept` ----------------------------------------------------

HTML = "text/html; charset=UTF-8"


def _page(status: int, title: str, text: str, headers: Mapping[str, str] | None = None) -> CannedResponse:
    body = f"<body><h1>{title}</h1><p>{text}</p></body>"
    html = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n{body}</html>\n"
    return CannedResponse(status, html, HTML, headers or {})


LOGIN_PAGE = _page(200, "REDCap", 'Log in: <form method="post"><input name="username"></form>')
SINGLE_SIGN_ON = _page(302, "Found", "Go on.", {"Location": "https://login.example.org/idp/sso"})
FIREWALL_PAGE = _page(403, "Request Rejected", "The requested URL was rejected. Your support ID is: 1729.")
MAINTENANCE_PAGE = _page(503, "REDCap is offline", "REDCap is undergoing maintenance.")
MAINTENANCE_PAGE_200 = _page(200, "REDCap is offline", "REDCap is undergoing maintenance.")
BAD_GATEWAY = _page(502, "502 Bad Gateway", "nginx")
GATEWAY_TIMEOUT = _page(504, "504 Gateway Time-out", "nginx")
NOT_FOUND = _page(404, "Not Found", "The requested URL was not found on this server.")
FATAL = CannedResponse(500, "", HTML)

_SUSPICIOUS = re.compile(r"</?[a-z][\w:-]*[\s/>]|\b(?:rm -r|cat /etc/|curl http|/bin/(?:ba)?sh)", re.IGNORECASE)


def web_application_firewall(received: Received) -> CannedResponse | None:
    """Refuse forms that hold XML tags or shell commands, as firewalls in front of hospitals do."""
    return FIREWALL_PAGE if any(map(_SUSPICIOUS.search, received.fields.values())) else None


# --- PHP --------------------------------------------------------------------------------------------------------------

_WHITE_SPACE = " \t\n\r\0\x0b"
_REFERENCE = re.compile(r"&(?:#0*([0-9]{1,7})|#[xX]0*([0-9a-fA-F]{1,6})|([A-Za-z][A-Za-z0-9]*));")
_HTML_401 = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, 0x10FFFF))
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INT64 = range(-(2**63), 2**63)


def php_trim(text: str) -> str:
    """Strip what PHP's `trim` strips; the no-break space is not among it."""
    return text.strip(_WHITE_SPACE)


def html_entity_decode(text: str) -> str:
    """Decode once the 252 named references of HTML 4.01, and numeric ones to characters that it allows."""

    def character(reference: re.Match[str]) -> str:
        decimal, hexadecimal, name = reference.groups()
        if name:
            return chr(name2codepoint[name]) if name in name2codepoint else reference[0]
        code = int(decimal) if decimal else int(hexadecimal, 16)
        return chr(code) if any(low <= code <= high for low, high in _HTML_401) else reference[0]

    return _REFERENCE.sub(character, text)


def php_number(text: str) -> float:
    """Convert text as a PHP cast does: its numeric beginning, or zero."""
    number = _NUMBER.match(text)
    return float(number[0]) if number else 0.0


def php_json_decode(text: str) -> Any:
    """Decode JSON as strictly as PHP: None where `json_decode` returns null, be it an error or not."""

    def integer(digits: str) -> float:
        return int(digits) if digits != "-0" and int(digits) in _INT64 else float(digits)

    def refuse(word: str) -> float:
        raise ValueError(word)

    def finite(digits: str) -> float:
        return float(digits) if abs(float(digits)) <= sys.float_info.max else refuse(digits)

    try:
        value = json.loads(text, parse_int=integer, parse_float=finite, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates, and bytes that were not UTF-8
    except (ValueError, RecursionError):
        return None
    return value


def php_json_encode(value: Any) -> str:
    r"""Encode as PHP does without flags.

    Arrays and objects are one type to PHP, so an empty object becomes `[]`, and one with the keys 0, 1, 2… a list.
    Everything beyond ASCII becomes `\u….`, and every `/` becomes `\/`.
    """
    match value:
        case bool() | None:
            return json.dumps(value)
        case int():
            return str(value)
        case float():
            return _php_float(value)
        case str():
            return json.dumps(value).replace("/", r"\/")
        case dict() if list(value) != [str(i) for i in range(len(value))]:
            return "{" + ",".join(f"{php_json_encode(k)}:{php_json_encode(v)}" for k, v in value.items()) + "}"
        case dict():
            return php_json_encode(list(value.values()))
        case _:
            return "[" + ",".join(map(php_json_encode, value)) + "]"


def _php_float(number: float) -> str:
    decimal = Decimal(repr(number)).normalize()
    _, digits, exponent = decimal.as_tuple()
    power = len(digits) + int(exponent) - 1
    if -5 < power < 17:
        return f"{decimal:f}"
    first, rest = digits[0], "".join(map(str, digits[1:])) or "0"
    return f"{'-' * (number < 0)}{first}.{rest}e{power:+d}"


# --- The form ---------------------------------------------------------------------------------------------------------


def read_form(content_type: str, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the fields of a form, in order; a body of any other type, JSON too, holds none.

    Bytes that are not UTF-8 survive as lone surrogates, for the JSON decoder to stumble upon.
    """
    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() == "application/x-www-form-urlencoded":
        text = body.decode(errors="surrogateescape")
        yield from urllib.parse.parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    elif head.get_content_type() == "multipart/form-data" and boundary:
        yield from _read_multipart(boundary.encode(), body)


def _read_multipart(boundary: bytes, body: bytes) -> Iterator[tuple[str, str]]:
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]:
        if part.startswith(b"--"):
            return
        head, _, value = part.partition(b"\r\n\r\n")
        headers = HeaderParser().parsestr(head.decode(errors="replace").lstrip())
        name, file = (headers.get_param(key, header="Content-Disposition") for key in ("name", "filename"))
        if isinstance(name, str) and file is None:  # PHP files uploads elsewhere
            yield name, value.decode(errors="surrogateescape")


def _sort_fields(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    fields: dict[str, str] = {}
    arrays: dict[str, list[str]] = {}
    for name, value in pairs:
        stem, bracket, _ = name.partition("[")
        if bracket:
            arrays.setdefault(stem, []).append(value)
        else:
            fields[name] = value
    return fields, arrays


# --- The module: from fields to a model's request ---------------------------------------------------------------------


def family_of(alias: str) -> Family:
    """Return the form in which the module sends requests for an alias."""
    if alias.startswith("claude") or "anthropic" in alias:
        return "claude"
    return "reasoning" if alias in REASONING_LIMITS else "chat"


def model_request(alias: str, messages: list[dict[str, Any]], received: Received) -> ModelRequest:
    """Turn messages, and the parameters among the fields, into what the alias's family is sent."""
    fields = received.fields
    schema = php_json_decode(fields.get("json_schema", "")) if alias in SCHEMA_ALIASES else None
    temperature, top_p = (php_number(fields[name]) if name in fields else None for name in ("temperature", "top_p"))
    match family_of(alias):
        case "claude":
            if temperature is None and top_p is None:
                temperature = TEMPERATURE
            opus = "opus" in alias
            return ModelRequest(
                alias,
                _system_pulled_out(messages),
                max_tokens=CLAUDE_CAPS.get(alias, CLAUDE_CAP),
                temperature=None if opus else temperature,
                top_p=top_p if temperature is None and not opus else None,
            )
        case "reasoning":
            return ModelRequest(alias, messages, max_tokens=int(php_number(fields["max_tokens"])), json_schema=schema)
        case _:
            return ModelRequest(
                alias,
                messages,
                temperature=TEMPERATURE if temperature is None else temperature,
                top_p=TOP_P if top_p is None else top_p,
                frequency_penalty=FREQUENCY_PENALTY,
                presence_penalty=PRESENCE_PENALTY,
                stop=tuple(received.arrays.get("stop", [fields["stop"]] if "stop" in fields else [])),
                json_schema=schema,
            )


def _system_pulled_out(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system = "\n\n".join(text_of(m) for m in messages if m.get("role") == "system")
    others = [m for m in messages if m.get("role") != "system"]
    return [{"role": "system", "content": system}, *others] if system else others


# --- The vendor: what it refuses --------------------------------------------------------------------------------------

_ROLES = {"claude": ("user", "assistant"), "reasoning": ("system", "user", "assistant", "developer")}
_PARTS = {"claude": ("text", "image", "document"), "reasoning": ("text", "image_url")}
_ROLES["chat"], _PARTS["chat"] = _ROLES["reasoning"], _PARTS["reasoning"]
_VERSION = re.compile(r"(\d+)[-.](\d+)")


def context_window(alias: str) -> int:
    """Return the context window of an alias, in tokens."""
    return 200_000 if family_of(alias) == "claude" else _by_beginning(WINDOWS, alias)


def reply_cap(request: ModelRequest) -> int:
    """Return where the vendor ends a reply, in tokens."""
    return _by_beginning(CHAT_CAPS, request.alias) if request.max_tokens is None else request.max_tokens


def _by_beginning(table: tuple[tuple[str, int], ...], alias: str) -> int:
    return next(number for beginning, number in table if alias.startswith(beginning))


def estimate_tokens(characters: int) -> int:
    """Return a number of tokens for a number of characters, at least 1."""
    return max(1, characters // CHARACTERS_PER_TOKEN)


def input_tokens(request: ModelRequest) -> int:
    """Estimate the tokens of a prompt from its text."""
    return estimate_tokens(sum(len(text_of(message)) for message in request.messages))


def objections(request: ModelRequest) -> Iterator[str]:
    """Yield the reasons for which the vendor answers the request with an error; none of them reaches the client."""
    family = family_of(request.alias)
    tokens, window = input_tokens(request), context_window(request.alias)
    if tokens > window:
        yield f"the prompt has {tokens} tokens, the window is {window}"
    limit = REASONING_LIMITS.get(request.alias, sys.maxsize)
    if family == "reasoning" and not 0 < (request.max_tokens or 0) <= limit:
        yield f"max_completion_tokens {request.max_tokens} is not between 1 and {limit}"
    turns = request.messages[1:] if family == "claude" and request.system else request.messages
    if not turns:
        yield "there are no messages"
    for number, message in enumerate(turns):
        yield from (f"messages.{number}: {reason}" for reason in _faults_of(family, message))
    if turns and turns[-1].get("role") == "assistant" and _refuses_prefill(request.alias):
        yield "the conversation ends with an assistant turn"


def _faults_of(family: Family, message: dict[str, Any]) -> Iterator[str]:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES[family]:
        yield f"role {role!r}"
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        yield "content is neither text nor an array of parts"
        return
    if unknown := {part.get("type") for part in parts} - set(_PARTS[family]):
        yield f"content holds {sorted(map(str, unknown))}"
    elif family == "claude":
        texts = [str(part.get("text", "")) for part in parts if part["type"] == "text"]
        if not parts or not all(text.strip() for text in texts):
            yield "a text block is empty"
        elif role == "assistant" and texts and texts[-1] != texts[-1].rstrip():
            yield "an assistant turn ends in white space"


def _refuses_prefill(alias: str) -> bool:
    version = _VERSION.search(alias) if family_of(alias) == "claude" else None
    return version is not None and (int(version[1]), int(version[2])) >= (4, 6)


# --- The module: what becomes of a reply ------------------------------------------------------------------------------

_CONTROLS = re.compile(r"[\x00-\x1f]")
_FENCES = re.compile(r"\A```json\s*|\s*```\Z")
_BACKSTOP = re.compile(r'\{\s*"final_answer"\s*:\s*"(.*)', re.DOTALL)
_BACKSTOP_END = re.compile(r'["}\s]*\Z')
_BACKSTOP_ESCAPES = ((r"\n", "\n"), (r"\r", "\r"), (r"\t", "\t"), (r"\"", '"'), (r"\\", "\\"))


def process_reply(text: str, alias: str, *, decode_entities: bool = True) -> str | dict[str, Any]:
    """Do to a model's text what the module does: trim, decode entities once, look into JSON, look for an answer.

    Raises `Apology` where a Claude alias wrote a JSON object with a `tool_call`, and `PhpFatalError` where the value
    taken out of such an object is no string. A dict comes back where another alias wrote a JSON object.
    """
    content = php_trim(text)
    if decode_entities:
        content = html_entity_decode(content)
    if content.startswith(("{", "```json")):
        content = php_trim(_FENCES.sub("", content))
        if family_of(alias) == "claude":
            content = _extracted(php_json_decode(_CONTROLS.sub("", content)), content)
        elif isinstance(value := php_json_decode(content), dict):
            return value
    return _past_backstop(content)


def _extracted(value: Any, content: str) -> str:
    for key in ("final_answer", "tool_call", "content", "message") if isinstance(value, dict) else ():
        if value.get(key) is None:
            continue
        if key == "tool_call":
            raise Apology(REPHRASE_APOLOGY)
        if not isinstance(value[key], str):
            raise PhpFatalError(f"preg_match: {key} is no string")
        return str(value[key])
    return content


def _past_backstop(content: str) -> str:
    if not (found := _BACKSTOP.search(content)):
        return content
    content = _BACKSTOP_END.sub("", found[1])
    for escaped, character in _BACKSTOP_ESCAPES:
        content = content.replace(escaped, character)
    return content


# --- REDCap and the module together -----------------------------------------------------------------------------------


class Simulator:
    """A REDCap with SecureChatAI on a port of this machine, from `with` to the end of its block.

    `model` answers; a `ModelFailure` of it is tried three times and then apologized for. `tokens` are the API tokens
    that are right, None meaning any that is not empty. An alias that is not among `aliases` is apologized for.
    `intercept` sees every request first and may answer it. A body of more than `post_max_size` bytes loses all its
    fields. The last 64 requests are kept in `requests`, the reasons of the last apologies in `refusals`.
    """

    def __init__(
        self,
        model: Model,
        *,
        tokens: Collection[str] | None = None,
        prefix: str = PREFIX,
        aliases: Collection[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        decode_entities: bool = True,
        intercept: Intercept | None = None,
        post_max_size: int = 32 * 1024 * 1024,
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.prefix = prefix
        self.aliases = frozenset(ALIASES if aliases is None else aliases)
        self.decode_entities = decode_entities
        self.intercept = intercept
        self.post_max_size = post_max_size
        self.requests: deque[Received] = deque(maxlen=64)
        self.refusals: deque[str] = deque(maxlen=64)
        self.url = f"http://{host}:{port}/api/"
        self._address = (host, port)
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, look: float = 0.05) -> None:
        """Listen, and answer in threads of its own; from now on `url` is true.

        Every `look` seconds it is seen whether to end. Raises OSError where the port is taken.
        """
        self._server = server = _Server(self._address, self)
        self.url = f"http://{self._address[0]}:{server.server_port}/api/"
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
            return _page(301, "Moved Permanently", "The document has moved.", {"Location": self.url})
        if path != "/api/":
            return NOT_FOUND
        try:
            return self._api(received) if received.method == "POST" else LOGIN_PAGE
        except PhpFatalError:
            return FATAL

    def _api(self, received: Received) -> CannedResponse:
        fields = received.fields
        content, token, prefix = (fields.get(name, "") for name in ("content", "token", "prefix"))
        if content not in ("externalModule", "version"):
            return _redcap_error(400, 'The value of the parameter "content" is not valid', fields)
        if not token or (self.tokens is not None and token not in self.tokens):
            return _redcap_error(403, "You do not have permissions to use the API", fields)
        if content == "version":
            return CannedResponse(200, str(VERSIONS["redcap-version"]), "text/plain; charset=UTF-8")
        if prefix != self.prefix:
            return _redcap_error(400, f"There is no enabled module with the prefix '{prefix}'", fields)
        match fields.get("action", ""):
            case "messages":
                return self._messages(received)
            case "callAI":
                return self._call_ai(received)
            case action if action in FRAMEWORK_ACTIONS:
                return CannedResponse(200, php_json_encode(FRAMEWORK_ACTIONS[action]))
            case action:
                return CannedResponse(400, php_json_encode({"error": f"Action {action} is not defined"}))

    def _messages(self, received: Received) -> CannedResponse:
        fields = MESSAGES_DEFAULTS | received.fields
        messages = php_json_decode(fields.get("messages", ""))
        if not messages or not isinstance(messages, list | dict):
            return CannedResponse(400, php_json_encode(_INVALID_MESSAGES))
        messages = list(messages.values()) if isinstance(messages, dict) else messages
        if "system" in received.arrays:
            raise PhpFatalError("system is no string")
        if fields.get("system", "") not in ("", "0"):
            messages.insert(0, {"role": "system", "content": fields["system"]})
        if isinstance(messages[0], dict) and isinstance(messages[0].get("content"), list | dict):
            raise PhpFatalError("the first message's content is no string")

        model = fields["model"]
        alias = ANTHROPIC_NAMES.get(model, model)
        stop_reason, usage = "end_turn", (0, 0)
        try:
            reply = self._ask(alias, messages, Received(fields, received.arrays))
            text = process_reply(reply.text, alias, decode_entities=self.decode_entities)
        except Apology as apology:
            text = str(apology)
        else:
            usage = (reply.input_tokens or 0, reply.output_tokens or 0)
            if family_of(alias) != "reasoning" and usage[1] >= int(php_number(fields["max_tokens"])):
                stop_reason = "max_tokens"
        return CannedResponse(200, php_json_encode(_message(model, text, stop_reason, usage)))

    def _call_ai(self, received: Received) -> CannedResponse:
        known = ("prompt", "model", "temperature", "max_tokens", "json_schema")
        fields = CALL_AI_DEFAULTS | {name: received.fields[name] for name in known if name in received.fields}
        if not fields.get("prompt"):
            return CannedResponse(400, php_json_encode({"error": "Missing prompt"}))
        alias, usage = fields["model"], (0, 0)
        try:
            reply = self._ask(alias, [{"role": "user", "content": fields["prompt"]}], Received(fields))
            content = process_reply(reply.text, alias, decode_entities=self.decode_entities)
        except Apology as apology:
            content = str(apology)
        else:
            usage = (reply.input_tokens or 0, reply.output_tokens or 0)
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        body = {"status": "success", "model": alias, "content": content, "usage": counts}
        return CannedResponse(200, php_json_encode(body))

    def _ask(self, alias: str, messages: list[Any], received: Received) -> ModelReply:
        """Ask the model, up to three times; its reply is cut at the vendor's cap and its tokens are counted."""
        if alias not in self.aliases:
            raise self._refused(f"the alias {alias!r} is not configured")
        if not all(isinstance(message, dict) for message in messages):
            raise self._refused("a message is no object")
        request = model_request(alias, messages, received)
        if reason := next(objections(request), None):
            raise self._refused(reason)
        for _ in range(ATTEMPTS):
            try:
                reply = self.model(request)
            except ModelFailure as failure:
                reason = str(failure)
            else:
                return _measured(ModelReply(reply) if isinstance(reply, str) else reply, request)
        raise self._refused(reason or "the model failed")

    def _refused(self, reason: str) -> Apology:
        self.refusals.append(reason)
        return Apology(NETWORK_APOLOGY)


_INVALID_MESSAGES = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "Missing or invalid 'messages' field"},
}


def _message(model: str, text: str | dict[str, Any], stop_reason: str, usage: tuple[int, int]) -> dict[str, Any]:
    microseconds = time.time_ns() // 1000
    return {
        "id": f"msg_{microseconds // 1_000_000:08x}{microseconds % 1_000_000:05x}",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": text if isinstance(text, str) else php_json_encode(text)}],
        "model": model,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": usage[0], "output_tokens": usage[1]},
    }


def _measured(reply: ModelReply, request: ModelRequest) -> ModelReply:
    cap = reply_cap(request)
    text = reply.text[: cap * CHARACTERS_PER_TOKEN]
    written = estimate_tokens(len(text)) if reply.output_tokens is None else reply.output_tokens
    return ModelReply(
        text,
        input_tokens(request) if reply.input_tokens is None else reply.input_tokens,
        cap if text != reply.text else min(written, cap),
    )


def _redcap_error(status: int, text: str, fields: Mapping[str, str]) -> CannedResponse:
    if fields.get("returnFormat", fields.get("format")) == "json":
        return CannedResponse(status, php_json_encode({"error": text}))
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><hash><error>{escape(text)}</error></hash>'
    return CannedResponse(status, xml, "text/xml; charset=UTF-8")


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
        self._send(simulator.answer(Received(*_sort_fields(form), headers, str(self.command), self.path, size)))

    def do_GET(self) -> None:
        self.do_POST()

    def do_HEAD(self) -> None:
        self.do_POST()

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


# --- A model of one's own ---------------------------------------------------------------------------------------------


def openai_backend(url: str, *, model: str | None = None, timeout: float = 600) -> Model:
    """Make a model of an OpenAI-compatible server such as Ollama, llama.cpp or vLLM.

    `url` is the server's, with or without the final `/v1`; `model` is its name there, by default the alias; `timeout`
    is in seconds. Whatever goes wrong is a `ModelFailure`. Raises ValueError for an address that is not HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the address of an OpenAI-compatible server starts with http:// or https://, not {url!r}")
    endpoint = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    def ask(request: ModelRequest) -> ModelReply:
        body = {
            "model": model or request.alias,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
            "stop": list(request.stop) or None,
            "stream": False,
        }
        data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        post = urllib.request.Request(endpoint, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(post, timeout=timeout) as response:  # noqa: S310 - checked above
                answer = json.load(response)
            usage = answer.get("usage") or {}
            text = answer["choices"][0]["message"]["content"] or ""
            return ModelReply(text, usage.get("prompt_tokens"), usage.get("completion_tokens"))
        except HTTPError as error:
            error.close()  # it is the response, too
            raise ModelFailure(f"{endpoint}: {error}") from error
        except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFailure(f"{endpoint}: {error}") from error

    return ask
