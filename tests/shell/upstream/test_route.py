"""The way to REDCap over a network that is played; and that the played one does what the real one does."""

from __future__ import annotations

import socket
from collections.abc import Callable

import faults
import pytest
from faults import OK, SECRET, post

from claude_proxy.core.http1.answer import HttpAnswer
from claude_proxy.errors import ProxyError, UpstreamMisconfigured
from claude_proxy.settings.values import Secret
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.upstream.fake_stream import FakeNetwork, FakeStream

URL = "https://redcap.test/api/"
PROXY = Secret("http://user:hunter2@proxy.test:3128")


def test_a_tunnel_is_asked_for_in_the_clear_and_the_rest_is_secured_for_redcap() -> None:
    heads: list[tuple[bytes, str]] = []

    class Watched(FakeStream):
        def send(self, data: memoryview) -> int:
            heads.append((bytes(data).split(b"\r\n")[0], self.secured_for))
            return super().send(data)

    stream = Watched(b"HTTP/1.1 200 Connection established\r\n\r\n", OK)
    with faults.posting_to(URL, https_proxy=PROXY, network=FakeNetwork(stream)) as upstream:
        assert post(upstream).body == b"ok"
    assert heads == [(b"CONNECT redcap.test:443 HTTP/1.1", ""), (b"POST /api/ HTTP/1.1", "redcap.test")]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 no\r\n\r\n", b"HTTP/1.1 200 yes\r\n\r\nand more", b"\x15\x03\x01\x00\x02\x02\x46"]
)
def test_a_tunnel_that_is_refused_learns_no_token_and_leaves_no_connection(answer: bytes) -> None:
    stream = FakeStream(answer)
    with (
        faults.posting_to(URL, https_proxy=PROXY, network=FakeNetwork(stream)) as upstream,
        pytest.raises(UpstreamMisconfigured),
    ):
        post(upstream)
    assert stream.closed
    assert SECRET not in stream.sent


def test_when_every_address_fails_each_was_tried_and_the_last_failure_is_told() -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", 443)) for n in range(3)]
    streams = [FakeStream(failure=OSError(113, f"reason {n}")) for n in range(3)]
    network = FakeNetwork(*streams, look_up=addresses)
    with faults.posting_to(URL, network=network) as upstream, pytest.raises(ProxyError, match="reason 2"):
        post(upstream)
    assert all(stream.closed for stream in streams)


SCRIPTS: dict[str, list[bytes]] = {
    "an answer": [OK],
    "an answer in parts": [OK[:9], OK[9:30], OK[30:]],
    "an answer to the end": [b"HTTP/1.1 200 OK\r\n\r\nok", b""],
    "nothing": [b""],
    "half an answer": [OK[:-1], b""],
    "another protocol": [b"SSH-2.0-OpenSSH\r\n", b""],
    "a silence before the answer": [],
    "a silence in the answer": [OK[:-1]],
}


def outcome(upstream: Upstream) -> HttpAnswer | tuple[type[ProxyError], str]:
    try:
        return post(upstream, limit=0.4)
    except ProxyError as error:
        return type(error), error.message.split(". ")[0].partition(" within ")[0].replace(upstream.route.where, "there")


def real(script: list[bytes], act: Callable[[Upstream], object]) -> object:
    def play(peer: faults.Peer) -> None:
        peer.read_request()
        for piece in script:
            peer.send(piece)
        if script[-1:] != [b""]:
            peer.be_silent()

    with faults.served(play, silence_timeout=0.2) as (upstream, _server):
        return act(upstream)


def played(script: list[bytes], act: Callable[[Upstream], object]) -> object:
    network = FakeNetwork(FakeStream(*script))
    with faults.posting_to("http://localhost:80/api/", silence_timeout=0.2, network=network) as upstream:
        return act(upstream)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_played_ends_as_what_is_real(name: str) -> None:
    assert played(SCRIPTS[name], outcome) == real(SCRIPTS[name], outcome)
