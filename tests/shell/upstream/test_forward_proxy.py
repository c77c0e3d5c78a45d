"""The way out through an institution's proxy: when it is taken, what it is told, and what is said when it fails."""

from __future__ import annotations

import base64
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faults
import pytest
import trustme
from conftest import PATIENCE
from faults import OK, SECRET, Peer, Server, certified, in_turn, keep_answering, post, sends

from claude_proxy.errors import ProxyError, SettingsError, UpstreamMisconfigured, UpstreamUnreachable
from claude_proxy.settings import sources
from claude_proxy.settings.values import Secret
from claude_proxy.shell.upstream import forward_proxy
from claude_proxy.shell.upstream.client import Upstream
from claude_proxy.shell.upstream.fake_stream import FakeNetwork
from claude_proxy.shell.upstream.forward_proxy import ForwardProxy, choose, is_exempt

HTTPS, HTTP = "https://redcap.example.edu/api/", "http://redcap.example.edu/api/"


def chosen(url: str, **environ: str) -> ForwardProxy | None:
    """The proxy for an address in an environment."""
    return choose(sources.load({"REDCAP_API_URL": url, **environ}, None))


# --- Which ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        (HTTPS, {}, None),
        (HTTPS, {"HTTPS_PROXY": "http://p:3128"}, ("HTTPS_PROXY", "p", 3128)),
        (HTTPS, {"https_proxy": "http://p:3128/"}, ("HTTPS_PROXY", "p", 3128)),
        (HTTPS, {"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, ("HTTPS_PROXY", "lower", 2)),
        (HTTPS, {"HTTPS_PROXY": "p:3128"}, ("HTTPS_PROXY", "p", 3128)),
        (HTTPS, {"HTTPS_PROXY": "http://p"}, ("HTTPS_PROXY", "p", 80)),
        (HTTPS, {"HTTPS_PROXY": "http://[::2]:8080"}, ("HTTPS_PROXY", "::2", 8080)),
        (HTTPS, {"HTTP_PROXY": "http://p:3128"}, None),
        (HTTP, {"HTTP_PROXY": "http://p:3128"}, ("HTTP_PROXY", "p", 3128)),
        (HTTP, {"http_proxy": "http://p:3128"}, ("HTTP_PROXY", "p", 3128)),
        (HTTP, {"HTTPS_PROXY": "http://p:3128"}, None),
        (HTTPS, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.edu"}, None),
        (HTTPS, {"HTTPS_PROXY": "http://p:3128", "no_proxy": "example.edu"}, None),
        (HTTPS, {"HTTPS_PROXY": "  "}, None),
    ],
)
def test_the_proxy_of_an_address(url: str, environ: dict[str, str], proxy: tuple[str, str, int] | None) -> None:
    found = chosen(url, **environ)
    assert (found and (found.variable, found.host, found.port)) == proxy


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_this_machine_itself_is_always_reached_directly(host: str) -> None:
    """So a demo runs behind any proxy, and whatever the variables hold."""
    environ = {"HTTP_PROXY": "socks5://nonsense", "HTTPS_PROXY": "::::"}
    assert chosen(f"http://{host}:8080/api/", **environ) is None
    assert chosen(f"https://{host}:8443/api/", **environ) is None


EXEMPT = [
    # NO_PROXY, host, port, whether it is reached directly
    ("", "redcap.example.edu", 443, False),
    ("*", "redcap.example.edu", 443, True),
    ("other.org,*", "redcap.example.edu", 443, True),
    ("redcap.example.edu", "redcap.example.edu", 443, True),
    ("REDCAP.Example.EDU", "redcap.example.edu", 443, True),
    ("redcap.example.edu.", "redcap.example.edu", 443, True),
    ("example.edu", "redcap.example.edu", 443, True),
    (".example.edu", "redcap.example.edu", 443, True),
    ("*.example.edu", "redcap.example.edu", 443, True),
    (".example.edu", "example.edu", 443, True),
    ("ample.edu", "redcap.example.edu", 443, False),
    ("redcap", "redcap.example.edu", 443, False),
    ("edu", "redcap.example.edu", 443, True),
    ("www.redcap.example.edu", "redcap.example.edu", 443, False),
    ("other.org, redcap.example.edu", "redcap.example.edu", 443, True),
    ("other.org redcap.example.edu", "redcap.example.edu", 443, True),
    ("redcap.example.edu:443", "redcap.example.edu", 443, True),
    ("redcap.example.edu:8443", "redcap.example.edu", 443, False),
    (".example.edu:443", "redcap.example.edu", 443, True),
    ("10.1.2.3", "10.1.2.3", 443, True),
    ("10.1.2.3:443", "10.1.2.3", 443, True),
    ("10.1.2.3:80", "10.1.2.3", 443, False),
    ("10.0.0.0/8", "10.1.2.3", 443, True),
    ("10.0.0.1/8", "10.1.2.3", 443, True),
    ("10.0.0.0/8", "11.1.2.3", 443, False),
    ("10.0.0.0/8", "redcap.example.edu", 443, False),
    ("2.3", "10.1.2.3", 443, False),
    ("fd00::1", "fd00::1", 443, True),
    ("[fd00::1]", "fd00::1", 443, True),
    ("[fd00::1]:443", "fd00::1", 443, True),
    ("[fd00::1]:80", "fd00::1", 443, False),
    ("fd00::/8", "fd00::1", 443, True),
    ("fd00::/8", "10.1.2.3", 443, False),
    (",, ,", "redcap.example.edu", 443, False),
    (".", "redcap.example.edu", 443, False),
]


@pytest.mark.parametrize(("no_proxy", "host", "port", "direct"), EXEMPT)
def test_no_proxy(no_proxy: str, host: str, port: int, direct: bool) -> None:
    assert is_exempt(host, port, no_proxy) is direct


@pytest.mark.parametrize(
    "text",
    [
        *("https://user:hunter2@p:443", "socks5://user:hunter2@p:1080", "ftp://p", "http://", "http://user:hunter2@"),
        *("http://p:port", "http://user:hunter2@p:99999", "http://[::1", "http://p p:80", "user:hunter2@:80"),
    ],
)
@pytest.mark.parametrize(("variable", "url"), [("HTTPS_PROXY", HTTPS), ("HTTP_PROXY", HTTP)])
def test_an_address_that_cannot_be_used_is_named_but_not_shown(variable: str, url: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        chosen(url, **{variable: text})
    message = str(caught.value)
    assert message.startswith(f"{variable} cannot be used")
    assert "http://proxy.example.edu:3128" in message
    assert "NO_PROXY" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY"])
def test_a_bad_character_does_not_show_the_password_either(variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sources.load({"REDCAP_API_URL": HTTPS, variable: "user:hunter2\x07@p:80"}, None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("login", "decoded"),
    [("user:pw", "user:pw"), ("user", "user:"), ("us%40er:p%2Fw%3A%C3%A9", "us@er:p/w:é"), (":pw", ":pw")],
)
def test_the_user_name_and_password_in_the_address(login: str, decoded: str) -> None:
    found = chosen(HTTPS, HTTPS_PROXY=f"http://{login}@p:3128")
    assert found is not None
    assert found.authorization
    scheme, _, text = found.authorization.reveal().partition(" ")
    assert (scheme, base64.b64decode(text).decode()) == ("Basic", decoded)
    assert "pw" not in repr(found)
    assert str(found) == "the proxy p:3128 of HTTPS_PROXY"


# --- How --------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    with faults.nothing_left_over():
        yield


def relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        for source in select.select([one, other], [], [], PATIENCE)[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


class Connector:
    """A proxy that makes tunnels, all to one port; it keeps what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        self.heads.append(peer.read_head())
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as redcap:
            peer.send(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n")
            relay(peer.sock, redcap)


@contextmanager
def through(script: faults.Script, *, url: str = HTTPS, login: str = "", **options: Any) -> Iterator[Upstream]:
    """An `Upstream` that reaches an address only through a proxy, which plays a script."""
    variable = "https_proxy" if url.startswith("https") else "http_proxy"
    with Server(script) as server:
        proxy = Secret(f"http://{login}127.0.0.1:{server.port}")
        with faults.posting_to(url, **{variable: proxy, **options}) as upstream:
            yield upstream


def test_https_goes_through_a_tunnel(authority: trustme.CA, bundle: str) -> None:
    """The proxy learns the host, and nothing of what is said; it is told the password, and REDCap is not."""
    heads: list[bytes] = []

    def answer(peer: Peer) -> None:
        while True:
            heads.append(peer.read_request()[0])
            peer.send(OK)

    with Server(answer, tls=certified(authority, "redcap.example.edu")) as redcap:
        connector = Connector(redcap.port)
        with through(connector, login="user:hunter2@", redcap_ca_bundle=bundle) as upstream:
            for _ in range(2):
                assert post(upstream).body == b"ok"
    [head] = connector.heads
    lines = head.decode().split("\r\n")
    assert lines[0] == "CONNECT redcap.example.edu:443 HTTP/1.1"
    assert "Host: redcap.example.edu:443" in lines
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:hunter2').decode()}" in lines
    assert SECRET not in head
    assert len(heads) == 2
    assert all(head.startswith(b"POST /api/ HTTP/1.1\r\nHost: redcap.example.edu\r\n") for head in heads)
    assert not any(b"proxy-authorization" in head.lower() for head in heads)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert forward_proxy.connect_request(ForwardProxy("HTTPS_PROXY", "p", 1), "fd00::1", 443).startswith(
        b"CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\n"
    )


def test_the_certificate_within_a_tunnel_is_verified(authority: trustme.CA, bundle: str) -> None:
    with (
        Server(keep_answering, tls=certified(authority, "other.example.org")) as redcap,
        through(Connector(redcap.port), redcap_ca_bundle=bundle) as upstream,
        pytest.raises(UpstreamMisconfigured, match=r"certificate of redcap\.example\.edu:443.*another host name"),
    ):
        post(upstream)


def test_http_is_handed_over_with_its_whole_address() -> None:
    heads: list[bytes] = []

    def answer(peer: Peer) -> None:
        while True:
            heads.append(peer.read_request()[0])
            peer.send(OK)

    with through(answer, url="http://redcap.example.edu:8080/api/", login="user:hunter2@") as upstream:
        for _ in range(2):
            assert post(upstream).body == b"ok"
    assert len(heads) == 2
    for head in heads:
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST http://redcap.example.edu:8080/api/ HTTP/1.1"
        assert "Host: redcap.example.edu:8080" in lines
        assert any(line.startswith("Proxy-Authorization: Basic ") for line in lines)


# --- What fails -------------------------------------------------------------------------------------------------------


def failure(upstream: Upstream) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        post(upstream)
    assert caught.value.status == 502
    assert "hunter2" not in caught.value.message
    assert "evil" not in caught.value.message
    return caught.value


def refusing(status: bytes) -> faults.Script:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 " + status + b" evil words\r\nContent-Length: 4\r\n\r\nevil")
        peer.saw_the_end()

    return script


@pytest.mark.parametrize(
    ("status", "lasting", "words"),
    [
        (b"403", True, ["answered 403", "does not connect to redcap.example.edu:443", "allow it", "NO_PROXY"]),
        (b"405", True, ["answered 405", "does not connect to"]),
        (b"400", True, ["answered 400", "does not connect to"]),
        (b"302", True, ["answered 302", "does not connect to"]),
        (b"502", False, ["answered 502", "could not reach redcap.example.edu:443", "REDCAP_API_URL"]),
        (b"503", False, ["answered 503", "could not reach"]),
        (b"504", False, ["answered 504", "could not reach"]),
    ],
)
def test_a_proxy_that_makes_no_tunnel(status: bytes, lasting: bool, words: list[str]) -> None:
    with through(refusing(status), login="user:hunter2@") as upstream:
        error = failure(upstream)
    assert isinstance(error, UpstreamMisconfigured if lasting else UpstreamUnreachable)
    assert error.message.startswith("The proxy 127.0.0.1:")
    assert [word for word in [*words, "of HTTPS_PROXY"] if word not in error.message] == []


@pytest.mark.parametrize(("url", "variable"), [(HTTPS, "HTTPS_PROXY"), (HTTP, "HTTP_PROXY")])
@pytest.mark.parametrize(
    ("login", "words"),
    [("", "wants a user name and password. Set "), ("user:hunter2@", "does not accept the user name and password in ")],
)
def test_a_proxy_that_wants_to_know_who_asks(url: str, variable: str, login: str, words: str) -> None:
    with through(refusing(b"407"), url=url, login=login) as upstream:
        error = failure(upstream)
    assert isinstance(error, UpstreamMisconfigured)
    assert error.should_retry is False
    assert words + variable in error.message


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (faults.close_at_once, "could not be reached"),
        (Peer.read_head, "it did not come: the connection was closed"),
        (faults.answering(b"SSH-2.0-evil\r\n"), "it is not HTTP"),
        (faults.answering(b"HTTP/1.1 200 OK\r\nX-evil"), "it broke off in its head"),
        (faults.answering(b"HTTP/1.1 200 OK\r\n\r\nevil"), "spoke before REDCap did"),
        (faults.answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 50), "it never gets beyond announcements"),
        (in_turn(Peer.read_head, Peer.reset), "could not be reached"),
        (
            in_turn(Peer.read_head, sends(b"HTTP/1.1 200 OK\r\n"), lambda peer: peer.flood(b"X: evil\r\n")),
            "without end",
        ),
    ],
    ids=["close", "no answer", "no HTTP", "half a head", "too much", "announcements", "reset", "endless head"],
)
def test_a_proxy_that_is_none(script: faults.Script, words: str) -> None:
    with through(script) as upstream:
        message = failure(upstream).message
    assert words in message or "did not come" in message or "connection reset" in message
    assert "HTTPS_PROXY" in message


def test_a_proxy_that_is_silent() -> None:
    with through(faults.stall, connect_timeout=0.2) as upstream:
        message = failure(upstream).message
    assert "could not be reached within 0.2 s. Check HTTPS_PROXY" in message


def test_a_proxy_that_refuses_connections() -> None:
    proxy = Secret(f"http://127.0.0.1:{faults.closed_port()}")
    with faults.posting_to(HTTPS, https_proxy=proxy) as upstream:
        message = failure(upstream).message
    assert message.startswith("The proxy 127.0.0.1:")
    assert "of HTTPS_PROXY could not be reached (connection refused). Check HTTPS_PROXY" in message


def test_a_proxy_whose_name_nobody_knows() -> None:
    nowhere = FakeNetwork(look_up=socket.gaierror(socket.EAI_NONAME, "x"))
    proxy = Secret("http://user:hunter2@proxy.test:3128")
    with faults.posting_to(HTTPS, https_proxy=proxy, network=nowhere) as upstream:
        message = failure(upstream).message
    assert "The name proxy.test (the proxy of HTTPS_PROXY) cannot be resolved" in message
    assert "Check HTTPS_PROXY" in message


def test_a_tunnel_that_breaks_in_the_handshake() -> None:
    def break_off(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.sock.recv(1)

    with through(break_off) as upstream:
        error = failure(upstream)
    assert isinstance(error, UpstreamUnreachable)
    assert error.message.startswith("redcap.example.edu:443 ") or "could not be reached" in error.message
