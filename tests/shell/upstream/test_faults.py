"""Whatever goes wrong at REDCap's side, at any stage: the client gets the right error, nothing is left over, and the
next request works.

One table. Each row is run for a client that waits for a body and for one that streams, through the whole proxy.
"""

from __future__ import annotations

import gc
import gzip
import json
import socket
import ssl
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import faults
import pytest
import trustme
from conftest import PROMPT, TOKEN, Proxy, eventually, message_request, read_events, running_proxy
from faults import Peer, Script, Server, in_turn, sends

from claude_proxy.errors import ProxyError
from claude_proxy.settings.table import Settings
from claude_proxy.settings.values import Secret
from claude_proxy.shell.upstream.client import Upstream

MARK = "Bed-7-is-better"
"""Stands in all that REDCap says below; it must stand in no error and in no line of the log."""

REPLY = json.dumps({"content": [{"type": "text", "text": MARK}], "usage": {"input_tokens": 1, "output_tokens": 1}})


def response(
    body: str | bytes, *lines: str, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    size = len(data) if length is None else length
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {size}", f"X-Mark: {MARK}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + data


GOOD = response(REPLY)
PAGE = f"<html><body>{MARK} {TOKEN}</body></html>"
HEAD = GOOD[: GOOD.index(b"\r\n\r\n") + 4]
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def keep_answering(peer: Peer) -> None:
    while True:
        peer.read_request()
        peer.send(GOOD)


def says(data: bytes, then: Script = faults.close_at_once) -> Script:
    return faults.answering(data, then=then)


def floods(beginning: bytes, block: bytes) -> Script:
    return says(beginning, lambda peer: peer.flood(block))


def half_close(peer: Peer) -> None:
    """Send no more, but go on listening."""
    peer.sock.shutdown(socket.SHUT_WR)
    peer.be_silent()


def dripped(data: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.drip(data)
        keep_answering(peer)

    return script


UNREACHABLE, TIMEOUT = (502, "api_error"), (504, "timeout_error")
BROKE = "Try again; if it happens often, ask whoever runs REDCap"
CHECK = "Check REDCAP_API_URL"


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes:
        script: what REDCap does; None where nobody listens.
        error: status and type that the client gets; None where the fault does no harm.
        words: words of the sentence.
        lasting: whether the client is told not to try again.
        wire: `plain` for http; `tls` for TLS as it should be; `under` for https to a server that speaks no TLS, so that
            the fault strikes in the handshake.
        settings: limits that the fault is to meet.
        big: whether the request has megabytes, so that the fault strikes while it is sent.
    """

    script: Script | None
    error: tuple[int, str] | None = UNREACHABLE
    words: tuple[str, ...] = ()
    lasting: bool = False
    wire: Literal["plain", "tls", "under"] = "plain"
    settings: Mapping[str, Any] = field(default_factory=dict)
    big: bool = False


SILENCE, WHOLE, CONNECT = {"silence_timeout": 0.2}, {"upstream_timeout": 0.4}, {"connect_timeout": 0.2}

CONNECTING = {
    "refused": Fault(None, words=("refused", CHECK)),
    "reset": Fault(faults.reset_at_once),
    "closed at once": Fault(faults.close_at_once),
}

HANDSHAKE = {
    "reset": Fault(faults.reset_at_once, wire="under"),
    "closed": Fault(faults.close_at_once, wire="under", words=("REDCAP_API_URL",)),
    "silence": Fault(faults.stall, wire="under", settings=CONNECT, words=("within 0.2 s", "CONNECT_TIMEOUT")),
    "drip of garbage": Fault(dripped(b"\x16\x03\x03\x00\x02" * 9), wire="under", settings=CONNECT),
    "plain HTTP": Fault(
        in_turn(Peer.read_a_little, sends(response(PAGE, status="400 Bad Request")), Peer.be_silent),
        words=("does not speak TLS", "REDCAP_API_URL"),
        lasting=True,
        wire="under",
    ),
    "garbage": Fault(
        lambda peer: peer.flood(b"\xff\x00" * 8), words=("does not speak TLS",), lasting=True, wire="under"
    ),
    "half close": Fault(half_close, wire="under"),
}

SENDING = {
    "reset": Fault(in_turn(Peer.read_a_little, Peer.reset), big=True, words=(BROKE,)),
    "closed": Fault(Peer.read_a_little, big=True, words=(BROKE,)),
    "silence": Fault(faults.stall, TIMEOUT, big=True, settings={**SILENCE, **WHOLE}, words=("_TIMEOUT",)),
    "half close": Fault(half_close, big=True, words=(BROKE,)),
    "an early refusal": Fault(
        in_turn(Peer.read_head, sends(response(PAGE, status="413 Too Large"))),
        (413, "request_too_large"),
        big=True,
        words=("MB", "post_max_size"),
    ),
}

BEFORE = {
    "closed": Fault(faults.take_and_close, words=("did not come: the connection was closed", BROKE)),
    "reset": Fault(faults.take_and_reset, words=("reset", BROKE)),
    "silence": Fault(faults.take_and_be_silent, TIMEOUT, settings=WHOLE, words=("UPSTREAM_TIMEOUT",)),
    "half close": Fault(in_turn(Peer.read_request, half_close), words=("did not come", BROKE)),
    "announcements": Fault(says(b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + GOOD, keep_answering), None),
    "announcements for ever": Fault(floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), words=("1xx",), lasting=True),
}

IN_HEAD = {
    "closed": Fault(says(HEAD[:-9]), words=("broke off in its head", BROKE)),
    "reset": Fault(says(HEAD[:-9], Peer.reset)),
    "silence": Fault(says(HEAD[:-9], Peer.be_silent), TIMEOUT, settings=SILENCE, words=("SILENCE_TIMEOUT",)),
    "half close": Fault(says(HEAD[:-9], half_close), words=("broke off in its head",)),
    "drip": Fault(dripped(GOOD), None),
    "garbage": Fault(says(b"\x00\xff" + MARK.encode() * 99), words=("is not HTTP", CHECK), lasting=True),
    "another protocol": Fault(says(f"SSH-2.0-{MARK}\r\n".encode()), words=("is not HTTP", CHECK), lasting=True),
    "TLS": Fault(says(bytes.fromhex("15030100020246")), words=("must begin with https://",), lasting=True),
    "bytes twice": Fault(says(b"HHTTTTPP//11..11"), words=("is not HTTP",), lasting=True),
    "bytes out of order": Fault(says(HEAD[20:] + HEAD[:20]), words=("is not HTTP",), lasting=True),
    "without end": Fault(floods(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), words=("a head without end",), lasting=True),
    "a line without end": Fault(floods(b"HTTP/1.1 200 ", b"x"), words=("a head without end",), lasting=True),
    "no header": Fault(says(f"HTTP/1.1 200 OK\r\n{MARK}\r\n\r\n".encode()), words=("head that cannot be read",)),
    "two lengths": Fault(says(response(REPLY, "Content-Length: 3")), words=("length that is not one number",)),
    "a length that is none": Fault(says(HEAD.replace(b"Length: ", b"Length: -")), words=("not one number",)),
}

IN_BODY = {
    "closed": Fault(says(GOOD[:-9]), words=("broke off in its body", BROKE)),
    "reset": Fault(says(GOOD[:-9], Peer.reset)),
    "silence": Fault(says(GOOD[:-9], Peer.be_silent), TIMEOUT, settings=SILENCE, words=("SILENCE_TIMEOUT",)),
    "half close": Fault(says(GOOD[:-9], half_close), words=("broke off in its body",)),
    "a drip without end": Fault(
        says(response("", length=9**7), lambda peer: peer.drip(b" " * 9**7)),
        TIMEOUT,
        settings=WHOLE,
        words=("UPSTREAM_TIMEOUT",),
    ),
    "longer than it says": Fault(says(GOOD + GOOD, Peer.be_silent), None),
    "shorter than it says": Fault(says(response(REPLY, length=len(REPLY) + 5)), words=("broke off in its body",)),
    "a length that cuts": Fault(says(response(REPLY, length=len(REPLY) - 5)), words=("breaks off or is damaged",)),
    "without end": Fault(floods(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), words=("is longer than",), lasting=True),
    "too long": Fault(says(response("", length=10**9)), words=("is longer than",), lasting=True),
    "chunks without end": Fault(floods(CHUNKED, b"1\r\nx\r\n"), words=("a body without end",), lasting=True),
    "half a chunk": Fault(says(CHUNKED + b"ff\r\nab"), words=("broke off in its body",)),
    "no chunk": Fault(says(CHUNKED + MARK.encode() + b"\r\n"), words=("not chunked as it should be",)),
    "gzip": Fault(says(response(gzip.compress(REPLY.encode()), "Content-Encoding: gzip"), keep_answering), None),
    "half a gzip": Fault(says(response(gzip.compress(REPLY.encode())[:-9], "Content-Encoding: gzip"))),
    "a gzip bomb": Fault(
        says(response(gzip.compress(bytes(2**25)), "Content-Encoding: gzip")),
        words=("is longer than",),
        lasting=True,
    ),
    "another compression": Fault(says(response(MARK, "Content-Encoding: br")), words=("compressed",), lasting=True),
    "a page": Fault(says(response(PAGE, kind="text/html")), words=("200 text/html", CHECK), lasting=True),
    "a page of a gateway": Fault(
        says(response(PAGE, status="502 Bad Gateway", kind="text/html")), words=("502 text/html", "gateway")
    ),
    "a gateway's time-out": Fault(says(response(PAGE, status="504 X", kind="text/html")), TIMEOUT, ("504 text/html",)),
    "a redirect": Fault(
        says(response("", f"Location: /{MARK}", status="302 X")), words=("not followed",), lasting=True
    ),
    "JSON of another shape": Fault(
        says(response(json.dumps([MARK]))), words=("no reply of SecureChatAI",), lasting=True
    ),
    "a wrong token": Fault(
        says(response(json.dumps({"error": MARK}), status="403 X")),
        (401, "authentication_error"),
        ("REDCap refused the token",),
        lasting=True,
    ),
    "slow down": Fault(says(response(PAGE, status="429 X")), (429, "rate_limit_error"), ("429",)),
}

STAGES = {
    "connect": CONNECTING,
    "handshake": HANDSHAKE,
    "sending": SENDING,
    "before the answer": BEFORE,
    "in the head": IN_HEAD,
    "in the body": IN_BODY,
}
FAULTS = {f"{stage}: {name}": fault for stage, rows in STAGES.items() for name, fault in rows.items()}
# The same over TLS: all that happens after the handshake.
FAULTS |= {
    f"{name} (TLS)": Fault(fault.script, fault.error, (), fault.lasting, "tls", fault.settings, fault.big)
    for name, fault in FAULTS.items()
    if not name.startswith(("connect", "handshake")) and name != "in the head: TLS"
}


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    return faults.certified(authority)


@contextmanager
def proxy_before(fault: Fault, context: ssl.SSLContext, bundle: str) -> Iterator[tuple[Proxy, Server]]:
    """The proxy, before a REDCap that shows a fault."""
    with ExitStack() as stack:
        script = fault.script or faults.close_at_once
        server = stack.enter_context(Server(script, tls=context if fault.wire == "tls" else None))
        if fault.script is None:
            server.close_door()
        scheme = "http" if fault.wire == "plain" else "https"
        settings = Settings(
            **{
                "redcap_api_url": f"{scheme}://localhost:{server.port}/api/",
                "redcap_api_token": Secret(TOKEN),
                "redcap_ca_bundle": bundle,
                "listen_port": 0,
                "stream_delay": 0.0,
                "log_level": "debug",
                "connect_timeout": 20.0,
                **fault.settings,
            }
        )
        proxy = stack.enter_context(running_proxy(settings))
        yield proxy, server
        for word in (MARK, TOKEN, PROMPT, "internal error"):
            assert word not in proxy.journal


def asked(fault: Fault) -> dict[str, Any]:
    text = "conversation " * 250_000 if fault.big else PROMPT
    return {"model": "gpt-4.1", "messages": [{"role": "user", "content": text}]}


@pytest.mark.slow
@pytest.mark.parametrize("streams", [False, True], ids=["body", "stream"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(name: str, streams: bool, context: ssl.SSLContext, bundle: str) -> None:
    fault = FAULTS[name]
    with faults.nothing_left_over(), proxy_before(fault, context, bundle) as (proxy, server):
        error = answer_in_a_stream(proxy, fault) if streams else answer_in_a_body(proxy, fault)
        if fault.error is None:
            assert error is None
        else:
            assert error is not None
            assert [word for word in fault.words if word not in error] == []
            for word in (MARK, TOKEN, PROMPT):
                assert word not in error
        if fault.script is None:
            server.open_door()
        server.speak(None if fault.wire == "plain" else context)
        server.play(keep_answering)
        assert MARK.encode() in proxy.post().body, "the next request does not work"


def answer_in_a_body(proxy: Proxy, fault: Fault) -> str | None:
    """Ask for a message; what the error says, if there is one. Status, type and headers are checked here."""
    came = proxy.post(asked(fault))
    if fault.error is None:
        assert (came.status, MARK in came.body.decode()) == (200, True)
        return None
    status, kind = fault.error
    error = json.loads(came.body)["error"]
    assert (came.status, error["type"]) == (status, kind), error["message"]
    assert came.headers.get("x-should-retry") == ("false" if fault.lasting else None), error["message"]
    return str(error["message"])


def answer_in_a_stream(proxy: Proxy, fault: Fault) -> str | None:
    """The same for a stream, whose head has gone out before the fault shows."""
    with proxy.stream(asked(fault)) as wire:
        came = wire.read_response()
    assert came.status == 200
    events = read_events(came.body)
    if fault.error is None:
        assert events[-1]["type"] == "message_stop"
        return None
    assert events[-1]["type"] == "error"
    assert (events[-1]["error"]["type"] == "overloaded_error") is (not fault.lasting and fault.error[0] != 413)
    return str(events[-1]["error"]["message"])


SMALL = [
    fault.script
    for name, fault in FAULTS.items()
    if fault.script
    and fault.wire == "plain"
    and name.startswith(("before", "in the"))
    and not fault.settings
    and not {"is longer than", "a body without end"} & set(fault.words)
]


@pytest.mark.slow
def test_no_fault_keeps_memory() -> None:
    """The same faults again and again: what is held after many more is what was held before."""

    def play_all(upstream: Upstream, server: Server) -> None:
        for script in SMALL:
            server.play(script)
            with suppress(ProxyError):
                faults.post(upstream, message_request())
            upstream.close()

    with faults.served(faults.close_at_once) as (upstream, server):
        tracemalloc.start()
        try:
            for _ in range(2):
                play_all(upstream, server)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(5):
                play_all(upstream, server)
            eventually(lambda: len(server.playing) <= 1)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 50_000, f"{grown} bytes more after {5 * len(SMALL)} faults"
