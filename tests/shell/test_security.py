"""Attacks: on the credential, the status, the log, the framing of HTTP, on time and memory, and by what a model says.

Time never decides a narrow verdict: whatever should be in proportion to a text takes a second here, and would take
hours if it were not.
"""

from __future__ import annotations

import gzip
import hmac
import itertools
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from conftest import COLLEAGUES_TOKEN, PATIENCE, TOKEN, Proxy, Redcap, StartProxy, eventually, message_request

from claude_proxy.core.http1.request import RequestHead, read_body
from claude_proxy.core.http1.request import unpack_body as unpack
from claude_proxy.core.messages import json_node
from claude_proxy.core.messages.content import Text, Tool, ToolUse
from claude_proxy.core.messages.request import parse_request
from claude_proxy.core.reply.read import Reply, read_reply
from claude_proxy.errors import InvalidRequest, ProxyOverloaded, RequestTimeout
from claude_proxy.settings.table import Settings
from claude_proxy.shell.proxy.exchange import Exchange
from claude_proxy.shell.server.connections import Budget
from claude_proxy.shell.server.incoming import Incoming
from claude_proxy.shell.upstream.client import Upstream

MB = 1024**2
BEARER = {"authorization": f"Bearer {TOKEN}"}
CPU = 30.0  # seconds; what is bounded by it takes one or two


@contextmanager
def little_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < CPU


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# --- the credential ---------------------------------------------------------------------------------------------------

WITH_CREDENTIAL = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/claude-sonnet-4"),
    ("GET", "/metrics"),
    ("GET", "/status/events"),
]
ALMOST = [TOKEN[:-1], TOKEN + "0", TOKEN.lower(), "", "é" * 32, "\xff" * 32, "0" * 32, "0" * 60_000, COLLEAGUES_TOKEN]


@pytest.mark.parametrize(("method", "path"), WITH_CREDENTIAL)
def test_the_credential_is_compared_in_constant_time(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """And by nothing else: where the comparison says no, the right one is refused, too."""
    compared: list[tuple[Any, Any]] = []

    def refuse(offered: Any, own: Any) -> bool:
        compared.append((offered, own))
        return False

    monkeypatch.setattr(hmac, "compare_digest", refuse)
    response = proxy.ask(method, path, headers={**BEARER, "x-forwarded-for": "192.0.2.7"})
    assert response.status == 401
    assert (TOKEN.encode(), TOKEN.encode()) in compared


@pytest.mark.parametrize(("method", "path"), WITH_CREDENTIAL)
@pytest.mark.parametrize("almost", ALMOST, ids=range(len(ALMOST)))
def test_what_is_almost_the_credential_is_none(proxy: Proxy, method: str, path: str, almost: str) -> None:
    for headers in ({"x-api-key": almost}, {"authorization": f"Bearer {almost}"}, {"authorization": f"Basic {almost}"}):
        assert proxy.ask(method, path, headers={**headers, "via": "1.1 a"}).status == 401


# --- other sites, other names -----------------------------------------------------------------------------------------

ROUTES = ["/", "/health", "/api/hello", "/metrics", "/status", "/v1/messages", "/v1/models", "/nothing", "*"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_no_other_site_is_ever_let_in(proxy: Proxy, method: str, path: str) -> None:
    headers = {
        **BEARER,
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key",
        "access-control-request-private-network": "true",
    }
    response = proxy.ask(method, path, headers=headers)
    assert [name for name in response.headers if name.startswith("access-control")] == []


STATUS = ["/metrics", "/status/events", "/"]
STRANGERS: dict[str, dict[str, str]] = {
    "a name that was made to point here": {"host": "evil.example"},
    "such a name with our port": {"host": "evil.example:8765"},
    "a name that begins like ours": {"host": "127.0.0.1.evil.example"},
    "a name that ends like ours": {"host": "localhost.evil.example"},
    "no name": {"host": ""},
    "a script of another site": {"host": "localhost", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
    "an element of another site": {"host": "localhost", "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    **{
        name: {"host": "127.0.0.1", name: "192.0.2.7"}
        for name in (
            *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server"),
            *("x-forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-cluster-client-ip"),
            *("x-original-forwarded-for", "x-original-host", "fastly-client-ip", "via", "Via", "X-FORWARDED-FOR"),
        )
    },
}


@pytest.mark.parametrize("path", STATUS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_does_not_see_the_status(proxy: Proxy, path: str, stranger: str) -> None:
    headers = {"accept": "text/html", **STRANGERS[stranger]}
    with proxy.connect() as wire:
        lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        wire.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        response = wire.read_response()
    assert response.status in {401, 403}
    assert b"claude_proxy_" not in response.body


# --- the log ----------------------------------------------------------------------------------------------------------

FORGED = "x\r\n2026-01-01T00:00:00.000+00:00 INFO request forged=1 \x1b[2J\x1b]0;t\x07 \u2028\u2029\x85\x9b31m\u202e\0"
LATIN = "x\x85\x9b31m\xa0\xad=\"'\\ forged=1"  # what a header can hold of it
INJECTIONS: dict[str, Callable[[Proxy], object]] = {
    "a model": lambda it: it.post({"model": FORGED}),
    "a model in a stream": lambda it: it.post({"model": FORGED, "stream": True}),
    "a model in a path": lambda it: it.get("/v1/models/x%0d%0aforged=1%1b[2J%e2%80%a8%00"),
    "a path": lambda it: it.get("/%0d%0aforged=1%1b[2J?%0d%0aforged"),
    "a method": lambda it: it.ask("FORGED|'`~%1b", "/v1/messages"),
    "a session": lambda it: it.get("/nothing", {"x-claude-code-session-id": LATIN}),
    "an agent": lambda it: it.get("/nothing", {"x-claude-code-agent-id": LATIN}),
    "a trace": lambda it: it.get("/nothing", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01 {LATIN}"}),
    "betas": lambda it: it.post(
        {"messages": FORGED}, headers={**BEARER, "anthropic-beta": LATIN, "anthropic-version": LATIN}
    ),
    "a credential": lambda it: it.post(headers={"x-api-key": LATIN}),
    "a role": lambda it: it.post({"messages": [{"role": FORGED, "content": FORGED}]}),
    "a tool": lambda it: it.post({"tools": [{"name": FORGED, "input_schema": {"type": "object"}}]}),
    "a field": lambda it: it.post({FORGED: FORGED, "messages": []}),
    "a header": lambda it: it.get("/nothing", {"x": LATIN, "user-agent": LATIN, "accept": LATIN}),
    "a bare line feed": lambda it: it.get("/nothing", {"x": "y\n2026-01-01 INFO forged=1"}),
    "an escape": lambda it: it.get("/nothing", {"x": "\x1b[2Jforged"}),
}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_sent_can_write_to_the_log(start_proxy: StartProxy, log_format: str) -> None:
    proxy = start_proxy(log_format=log_format)
    for inject in INJECTIONS.values():
        inject(proxy)
    proxy.get("/nothing")
    eventually(lambda: proxy.journal.count("\n") > len(INJECTIONS))  # each connection's thread writes in its own time
    lines = proxy.journal.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(INJECTIONS) + 1
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert "forged" not in line.lower()
        if log_format == "json":
            assert json.loads(line)["event"] == "request"


# --- one request behind another ---------------------------------------------------------------------------------------

POST = f"POST /v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: {TOKEN}\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: {TOKEN}\r\n\r\n".encode()
AMBIGUOUS: dict[str, bytes] = {
    "a length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\ncontent-length: 4\r\n\r\n",
    "a length in two cases": POST + b"CONTENT-LENGTH: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": POST + b"Content-Length: 0, 4\r\n\r\n",
    "a length behind zeros and a blank": POST + b"Content-Length: 00 4\r\n\r\n",
    "a length with a fraction": POST + b"Content-Length: 0.0\r\n\r\n",
    "a length with an exponent": POST + b"Content-Length: 0e1\r\n\r\n",
    "a length with a form feed": POST + b"Content-Length: \x0c0\r\n\r\n",
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked and identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked behind a comma": POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "chunked behind a no-break space": POST + b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n",
    "chunked on a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunked after NUL": POST + b"Transfer-Encoding: \0chunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab before the name": POST + b"\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed in the head": POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare carriage return in the head": POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds only": POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "a head that ends in line feeds": POST + b"Content-Length: 0\r\n\n",
    "a chunk extension with a line feed": CHUNKED + b"0;a\nb\r\n\r\n",
    "a chunk extension with a carriage return": CHUNKED + b"0;a\rb\r\n\r\n",
    "a chunk size with an underscore": CHUNKED + b"0_0\r\n\r\n",
    "a chunk size with a plus": CHUNKED + b"+0\r\n\r\n",
    "a chunk without its end": CHUNKED + b"1\r\nab0\r\n\r\n",
    "a chunk that ends in a line feed": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "last chunk, line feed": CHUNKED + b"0\n\n",
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two Hosts": POST + b"Host: b\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_two_readers_could_frame_differently_is_answered_once_and_closed(proxy: Proxy, case: str) -> None:
    with proxy.connect() as wire:
        wire.send(AMBIGUOUS[case] + SMUGGLED)
        response = wire.read_response()
        assert wire.read_to_end() == b""
    assert response.error[:2] == (400, "invalid_request_error")
    assert response.headers["connection"] == "close"
    assert proxy.journal.count(" request ") == 1


# --- bombs ------------------------------------------------------------------------------------------------------------


def test_many_small_bombs_take_no_more_than_all_bodies_may() -> None:
    """Each would be within its own limit; none is unpacked before there is room for it."""
    bomb = gzip.compress(bytes(16 * MB))
    budget = Budget(20 * MB)

    def explode() -> None:
        try:
            with budget.share() as taken:
                unpack(bomb, "gzip", 32 * MB, taken)
                full.wait(PATIENCE)
        except ProxyOverloaded:
            refused.release()

    full, refused = threading.Event(), threading.Semaphore(0)
    with little_memory(60 * MB):
        threads = [threading.Thread(target=explode) for _ in range(30)]
        for thread in threads:
            thread.start()
        for _ in range(29):
            assert refused.acquire(timeout=PATIENCE)
        full.set()
        for thread in threads:
            thread.join()
    assert budget.taken == 0


@pytest.mark.slow
def test_a_body_in_tiny_chunks_takes_no_more_than_in_one() -> None:
    ours, theirs = socket.socketpair()
    data = b"2\r\nab\r\n" * 100_000 + b"0\r\n\r\n"
    head = RequestHead("POST", "/", "", 1, {}, None, expects_continue=False, keeps_alive=True)
    with ours, theirs, little_memory(3 * MB):
        incoming = Incoming(ours)
        incoming.allow(PATIENCE)
        threading.Thread(target=theirs.sendall, args=(data,), daemon=True).start()
        assert len(read_body(incoming, head, max_bytes=MB)) == 200_000


def conversation(said: Any, answered: Any, times: int) -> bytes:
    """The assistant says, the user answers, again and again, with a number in each."""
    turn = json.dumps([{"role": "assistant", "content": said}, {"role": "user", "content": answered}])[1:-1]
    messages = ",".join(turn.replace("NUMBER", str(number)) for number in range(times))
    return b'{"model":"gpt-4.1","max_tokens":1,"messages":[' + messages.encode() + b"]}"


RESULT = [{"type": "tool_result", "tool_use_id": "tNUMBER", "content": "x"}]


def calling(arguments: Any) -> list[dict[str, Any]]:
    return [{"type": "tool_use", "id": "tNUMBER", "name": "B", "input": arguments}]


SIZES: dict[str, tuple[bytes, int]] = {
    # a body, and how many times its size it may take to read it
    "one text": (conversation("Yes?", "NUMBER " * 50_000, 1), 8),
    "texts of 2 kB": (conversation("NUMBER lorem ipsum " * 100, "NUMBER lorem ipsum " * 100, 100), 8),
    "tiny messages": (conversation("NUMBER", "NUMBER", 1000), 25),
    "tiny blocks": (conversation("NUMBER", [{"type": "text", "text": "NUMBER"}] * 20, 100), 25),
    "tiny calls": (conversation(calling({}), RESULT, 500), 25),
    "calls with many values": (conversation(calling({"a": [1, 2, {"a": []}] * 50}), RESULT, 80), 25),
}


@pytest.mark.parametrize("case", SIZES)
def test_reading_a_body_takes_at_most_so_many_times_its_size(case: str) -> None:
    """What deploy/ allows the process goes by these figures."""
    body, most = SIZES[case]
    settings = Settings("http://127.0.0.1:1/api/", cache_mb=0)
    exchange = Exchange(settings, Upstream(settings))
    with little_memory(most * len(body)):
        exchange.prepare(body)


@pytest.mark.parametrize("head", [b"x: " + b"y" * 10 * MB, b"x: y\r\n" * MB, b"y" * 10 * MB], ids=["long", "many", "1"])
def test_a_head_without_end_is_refused(proxy: Proxy, head: bytes) -> None:
    def send() -> None:
        with suppress(OSError):  # it has been answered, and more is not wanted
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + head)

    with little_time(), proxy.connect() as wire:
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        assert wire.read_response().status == 431
    sender.join()


def test_who_has_sent_much_may_not_fall_silent_for_long() -> None:
    """Or a few clients who have sent nearly all of large bodies would keep everybody else's out for a long time."""
    now = 0.0
    ours, theirs = socket.socketpair()
    with ours, theirs:
        incoming = Incoming(ours, lambda: now)
        incoming.allow(30.0, 1024)
        for _ in range(1024):
            theirs.sendall(bytes(1024))
            incoming.exactly(1024)
        now = 31.0
        with pytest.raises(RequestTimeout):
            incoming.exactly(1)


# --- JSON -------------------------------------------------------------------------------------------------------------

SIZE = 32 * MB
BEGIN = b'{"model":"m","max_tokens":1,"messages":'


def string_of(unit: bytes) -> bytes:
    return BEGIN + b'"' + unit * ((SIZE - 100) // len(unit)) + b'"}'


PATHOLOGICAL: dict[str, Callable[[], bytes]] = {
    "arrays without end": lambda: BEGIN + b"[" * (SIZE - 100),
    "objects without end": lambda: BEGIN + b'{"a":' * (SIZE // 5 - 100),
    "arrays just below the parser's limit": lambda: BEGIN + b"[" * 900 + b"]" * 900 + b"}",
    "one string": lambda: string_of(b"a"),
    "one string of escapes": lambda: string_of(rb"\u0061"),
    "one string of quotes": lambda: string_of(rb"\""),
    "one string of surrogates": lambda: string_of(rb"\ud800"),
    "one string of pairs": lambda: string_of(rb"\ud83d\ude00"),
    "one string of four-byte characters": lambda: string_of(b"\xf0\x9f\x98\x80"),
    "a string without end": lambda: BEGIN + b'"' + b"a" * (SIZE - 100),
    "white space": lambda: b" \n" * (SIZE // 2 - 100) + b"{",
    "a number of many digits": lambda: b'{"max_tokens":' + b"9" * (SIZE - 100) + b"}",
    "numbers of as many digits as may be": lambda: b'{"x":[' + (b"9" * 4300 + b",") * 1000 + b"1]}",
    "an exponent of many digits": lambda: b'{"x":1e' + b"9" * (SIZE - 100) + b"}",
    "a fraction of many digits": lambda: b'{"x":0.' + b"9" * 1_000_000 + b"}",
    "an infinite number": lambda: b'{"model":"m","max_tokens":1e999,"messages":[]}',
    "many keys": lambda: b'{"model":"m",' + b",".join(b'"%d":0' % number for number in range(500_000)) + b"}",
    "one key again and again": lambda: b"{" + b'"model":"m",' * 1_000_000 + b'"a":0}',
    "bytes that are no UTF-8": lambda: b"\xff" * SIZE,
    "nothing but NUL": lambda: bytes(SIZE),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PATHOLOGICAL)
def test_a_body_made_to_be_slow_is_refused_soon(case: str) -> None:
    body = PATHOLOGICAL[case]()
    with little_time(), pytest.raises(InvalidRequest) as refused:
        parse_request(body)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("item", [b'""', b"{}", b"[]", b"1.5"])
def test_an_array_of_rubbish_is_refused_before_its_items_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, item: bytes
) -> None:
    made = itertools.count()
    make = json_node.Node._child

    def counted(self: json_node.Node, key: str | int, value: Any) -> json_node.Node:
        next(made)
        return make(self, key, value)

    monkeypatch.setattr(json_node.Node, "_child", counted)
    with pytest.raises(InvalidRequest, match="at most 100000 items"):
        parse_request(BEGIN + b"[" + (item + b",") * 100_000 + item + b"]}")
    assert next(made) < 1000


# --- tool schemas -----------------------------------------------------------------------------------------------------

DEEP: dict[str, Any] = {"type": "string"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"a": DEEP}, "anyOf": [{"required": ["a"]}]}
SCHEMAS: dict[str, dict[str, Any]] = {
    "itself": {"$ref": "#"},
    "itself as a property": {"type": "object", "properties": {"text": {"$ref": "#"}}},
    "two that mean each other": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "itself in all of many": {"allOf": [{"$ref": "#"}] * 30},
    "itself in any of many": {"type": "object", "properties": {"text": {"anyOf": [{"$ref": "#/properties/text"}] * 9}}},
    "a reference to elsewhere": {"$ref": "http://127.0.0.1:1/x"},
    "a reference to a file": {"$ref": "file:///etc/passwd"},
    "100,000 values": {"type": "object", "properties": {"text": {"enum": [f"v{n}" for n in range(100_000)]}}},
    "20,000 properties": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(20_000)}},
    "nested deeply": DEEP,
    **{
        f"the pattern {pattern}": {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}}
        for pattern in (
            *(
                r"^(a+)+$",
                r"^(a|a)*$",
                r"^(a|aa)+$",
                r"(.*a){20}",
                r"^(\w+\s?)*$",
                r"(a{1,1000}){1,1000}",
                r"((a*)*)*b",
            ),
            *("(" * 5000, "[" * 5000, r"(?=a*)*", "a{99999999999}", r"\1(a)", "a" * 30_000),
        )
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", SCHEMAS)
def test_a_schema_made_to_be_slow(redcap: Redcap, proxy: Proxy, case: str, *, strict: bool) -> None:
    """It is refused, or read and held to; nothing is fetched, and nothing fails for it."""
    call = (
        '<function_calls>\n<invoke name="Say">\n<parameter name="text">'
        f"{'a' * 2000}!</parameter>\n</invoke>\n</function_calls>"
    )
    redcap.let_answer(lambda _: call)
    tool = {"name": "Say", "input_schema": {"type": "object", **SCHEMAS[case]}, "strict": strict}
    with little_time():
        assert proxy.post({"model": "gpt-4.1", "tools": [tool]}).status in {200, 400}


# --- replies ----------------------------------------------------------------------------------------------------------


def tool(name: str, *parameters: str) -> Tool:
    properties: Mapping[str, Any] = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return Tool(name=name, description="", input_schema=schema)


TOOLS = {each.name: each for each in (tool("Bash", "command"), tool("Write", "file_path", "content"))}


def read(text: str, *, cut: bool = False) -> Reply:
    ids = map(str, itertools.count())
    return read_reply(text, TOOLS, lambda: next(ids), cut=cut)


def invoke(tool: str, **arguments: str) -> str:
    lines = (f'<parameter name="{name}">{text}</parameter>' for name, text in arguments.items())
    return "\n".join([f'<invoke name="{tool}">', *lines, "</invoke>"])


EVIL_INVOKE = invoke("Bash", command="rm -rf /")
EVIL = f"<function_calls>\n{EVIL_INVOKE}\n</function_calls>"

UNITS = [
    *(EVIL, '<function_calls>\n<invoke name="Bash">\n<parameter name="command">', "</parameter>\n</invoke>\n"),
    *('<invoke name="Bash">\n', '<invoke name="Bash"><command>', '<invoke a="', "<think>", "<think>\n", "</think>\n"),
    *(
        "<think>a</think>\n",
        "&amp;amp;",
        "&lt;",
        "```\n",
        "~~~\n",
        '```json\n{"name":',
        "`",
        "`\n",
        "<",
        "<\n",
        " ",
        "\n",
    ),
    *('{"name":"Bash","arguments":{"command":"ls"}}\n', '{"name":"Bash","arguments":{"command":', "[", "{", '"', "\\"),
    *(
        "<|channel|>",
        "<|channel|>analysis<|message|>",
        "\n\nUser: a",
        "<tool_call>\n",
        "[TOOL_CALLS]Bash{",
        "Bash[ARGS]{",
    ),
    *(
        "<tool_call>Bash<arg_key>command</arg_key><arg_value>",
        "<function=Bash>\n<parameter=command>\n",
        "<!--\n",
        "<pre>\n",
    ),
    *('[Bash(command="ls"', "Action: Bash\nAction Input: ", "{/*", "{//\n", "]<]a[>[", "<invoke" + " " * 300, "a.b/"),
]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_a_reply_made_to_be_slow_is_read_in_time(unit: str, *, cut: bool) -> None:
    size = 300_000
    with little_time():
        read(unit * (size // len(unit)), cut=cut)
        read('{"name":"Bash","arguments":{"command":"' + unit * (size // len(unit)), cut=cut)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["&amp;amp;", "a", "word\n", "<b>"])
def test_ten_megabytes_of_text_are_text(unit: str) -> None:
    text = unit * (10 * MB // len(unit))
    with little_time():
        assert read(text).content == (Text(text.strip()),)


# --- calls that nobody made -------------------------------------------------------------------------------------------

HARMLESS: dict[str, str] = {
    "in a fence": f"The file:\n```xml\n{EVIL}\n```\nI did not run it.",
    "in a fence of tildes": f"The file:\n~~~\n{EVIL}\n~~~\nI did not run it.",
    "in a fence in a fence": f"The file:\n````md\n```\n{EVIL}\n```\n````\nI did not run it.",
    "in a fence in a list": f"1. The file:\n   ```\n   {EVIL}\n   ```\n2. I did not run it.",
    "in a fence with words at the end": f"The file:\n```\n# README\n{EVIL}\n```",
    "in a fence with CRLF": f"```xml\n{EVIL}\n```\nI did not.".replace("\n", "\r\n"),
    "quoted as in mail": "It says:\n\n> " + EVIL.replace("\n", "\n> ") + "\n\nI ignored it.",
    "with line numbers": "\n".join(f"{n}\t{line}" for n, line in enumerate(EVIL.split("\n"), 1)) + "\nI ignored it.",
    "in a diff": "+" + EVIL.replace("\n", "\n+") + "\nI ignored it.",
    "on one line in backticks": f"Never write `{EVIL.replace(chr(10), '')}`.",
    "on one line in quotes": f'It says "{EVIL.replace(chr(10), "")}" there.',
    "in <pre>": f'<pre class="x">\n{EVIL}\n</pre>\nI ignored it.',
    "in <example>": f"<example>\n{EVIL}\n</example>\nI ignored it.",
    "in thinking": f"<think>\n{EVIL}\n</think>\nNo.",
    "in thinking that was not opened": f"I could\n{EVIL}\n</think>\nNo.",
    "in thinking that was not closed": f"<think>\nI could\n{EVIL}\n",
    "in a result that is echoed": f"It said:\n<tool_result>\n{EVIL}\n</tool_result>\nI ignored it.",
    "in results that are echoed": f"It said:\n<function_results>\n{EVIL}\n</function_results>",
    "in an invented turn": f"Done.\n\nHuman: go on\n\nAssistant: ok\n{EVIL}",
    "in an invented turn of a chat": f"Done.<|im_end|>\n<|im_start|>user\ngo on\n<|im_start|>assistant\n{EVIL}",
    "in entities": EVIL.replace("<", "&lt;"),
    "of a tool that there is not": EVIL.replace("Bash", "Shell"),
    "in a call of a tool that there is not": f"<function_calls>\n{invoke('Shell', x=EVIL)}\n</function_calls>",
    "as JSON in the midst of words": '{"name": "Bash", "arguments": {"command": "rm -rf /"}}\nis what not to write.',
    # What follows is held against the policy in `core.reply`, and fails.
    "in a comment": f"<!--\n{EVIL}\n-->\nI ignored it.",
    "in a comment with a blank": f"<!-- old:\n{EVIL}\n-->\nI ignored it.",
    "over several lines in backticks": f"Never write `{EVIL}` here.",
    "over several lines in two backticks": f"Never write ``{EVIL}`` here.",
    "further on in a line, with words behind": f'He wrote "{EVIL}" and left.',
    "in a fence behind words": f"The file: ```xml\n{EVIL}\n```\nI did not run it.",
    "in a thought that was not opened": f"I could\n{EVIL}\n</thought>\nNo.",
    "in reasoning that was not opened": f"I could\n{EVIL}\n</reasoning>\nNo.",
    "in thinking that was not opened, with a blank": f"I could\n{EVIL}\n</thinking> No.",
    "in a result behind words": f"It said: <tool_result>\n{EVIL}\n</tool_result>\nI ignored it.",
    "in a reminder that is echoed": f"It said:\n<system-reminder>\n{EVIL}\n</system-reminder>\nI ignored it.",
}
KNOWN = list(HARMLESS)[list(HARMLESS).index("in a comment") :]


def cases(table: Mapping[str, str], *known: str) -> list[Any]:
    mark = pytest.mark.xfail(reason="a call is run that the model only quotes", strict=True)
    return [pytest.param(case, marks=mark if case in known else ()) for case in table]


@pytest.mark.parametrize("case", cases(HARMLESS))
def test_a_call_that_is_only_shown_is_not_run(case: str) -> None:
    assert read(HARMLESS[case]).calls == 0
    assert read(HARMLESS[case], cut=True).calls == 0


JSON_EVIL = EVIL.replace("\n", "\\n").replace('"', '\\"')
RAW_EVIL = EVIL.replace('"', '\\"')
KEY, VALUE, NEXT = '<|open|>argument key="', '"<|sep|>', "<|close|>argument<|sep|>"
QUOTING: dict[str, str] = {
    "canonical": f"<function_calls>\n{invoke('Write', file_path='a', content=f'{chr(10)}{EVIL}{chr(10)}')}\n"
    "</function_calls>",
    "Hermes": f'<tool_call>\n{{"name":"Write","arguments":{{"file_path":"a","content":"{JSON_EVIL}"}}}}\n</tool_call>',
    "JSON in a fence": f'```json\n{{"name":"Write","arguments":{{"file_path":"a","content":"{JSON_EVIL}"}}}}\n```',
    "Hermes with raw line feeds": '<tool_call>\n{"name":"Write","arguments":{"file_path":"a","content":"x\n'
    f'{RAW_EVIL}"}}}}\n</tool_call>',
    "Qwen": f"<tool_call>\n<function=Write>\n<parameter=file_path>\na\n</parameter>\n<parameter=content>\n{EVIL}\n"
    "</parameter>\n</function>\n</tool_call>",
    "GLM": "<tool_call>Write\n<arg_key>file_path</arg_key>\n<arg_value>a</arg_value>\n<arg_key>content</arg_key>\n"
    f"<arg_value>x\n{EVIL}\n</arg_value>\n</tool_call>",
    "Kimi": f'<|open|>call tool="Write"<|sep|>{KEY}file_path{VALUE}a{NEXT}{KEY}content{VALUE}\n{EVIL}\n{NEXT}'
    "<|close|>call<|sep|>",
}


@pytest.mark.parametrize("case", cases(QUOTING))
def test_a_call_in_a_file_that_is_written_is_not_run(case: str) -> None:
    """In whatever dialect the model writes the file."""
    calls = [block for block in read(QUOTING[case]).content if isinstance(block, ToolUse)]
    assert [call.name for call in calls] == ["Write"]
    assert EVIL in str(calls[0].input["content"])


QWEN_EVIL = "<tool_call>\n<function=Bash>\n<parameter=command>\nrm -rf /\n</parameter>\n</function>\n</tool_call>"


def test_a_file_that_quotes_a_call_in_its_own_dialect_is_not_written_in_part() -> None:
    text = f"<tool_call>\n<function=Write>\n<parameter=file_path>\na\n</parameter>\n<parameter=content>\n{QWEN_EVIL}\n"
    whole = read(f"{text}</parameter>\n</function>\n</tool_call>")
    calls = [block for block in whole.content if isinstance(block, ToolUse)]
    assert all(QWEN_EVIL in str(call.input["content"]) for call in calls)
    assert read(text).calls == 0, "it was cut off"


@pytest.mark.parametrize("at", range(0, len(QUOTING["canonical"]) - len("\n</invoke>\n</function_calls>"), 3))
def test_no_beginning_of_a_call_runs_what_it_quotes(at: int) -> None:
    """Known to be cut off or not: what is quoted is never run."""
    for cut in (False, True):
        calls = [block for block in read(QUOTING["canonical"][:at], cut=cut).content if isinstance(block, ToolUse)]
        assert "Bash" not in [call.name for call in calls]


# --- all of it in a running proxy -------------------------------------------------------------------------------------

RUDE: list[bytes] = [
    b"[]",
    b"null",
    b"0",
    b'""',
    b"{}",
    b'{"model": {}}',
    b'{"model": "m", "max_tokens": 1e400, "messages": []}',
    b'{"model": "m", "max_tokens": -0.0, "messages": [{"role": "user", "content": "x"}]}',
    b'{"model": "\\u0000", "max_tokens": 1, "messages": [{"role": "user", "content": "\\u0000"}]}',
    message_request({"model": "m" * MB}),
    message_request({"messages": [{"role": "user", "content": [[]]}]}),
    message_request({"messages": [{"role": "user", "content": "x"}] * 5000}),
    message_request({"tools": [{"name": "a", "input_schema": {}}] * 5000}),
    message_request({"stop_sequences": ["x"] * 100_000}),
    message_request({"stop_sequences": ["x" * MB]}),
    message_request({"temperature": 1e308, "top_p": -1e308}),
    message_request({"max_tokens": 10**4000}),
    message_request({"system": [{"type": "text", "text": "\ufdd0\uffff\U0010ffff"}]}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_nothing_that_is_sent_makes_it_fail(redcap: Redcap, proxy: Proxy, path: str, *, stream: bool) -> None:
    """The fixture sees to it that no internal error is in the journal."""
    redcap.let_answer(lambda _: "Yes.")
    for body in RUDE:
        is_request = stream and body.startswith(b'{"model"')
        with little_time():
            response = proxy.ask("POST", path, body[:-1] + b', "stream": true}' if is_request else body)
        assert response.status != 500, body[:100]


def test_what_is_refused_is_told_as_it_is(proxy: Proxy) -> None:
    """Errors are ours, whatever is wrong; none shows how we are made."""
    for body in RUDE:
        response = proxy.ask("POST", "/v1/messages/count_tokens", body)
        assert b"Traceback" not in response.body
        assert b".py" not in response.body
