"""TLS towards REDCap: who is trusted, and a sentence for each way in which it fails; the token never goes out then."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
import trustme
from conftest import PATIENCE
from faults import OK, SECRET, Peer, answer_once, certified, keep_answering, post, served

from claude_proxy.errors import ClientGone, ProxyError, UpstreamMisconfigured, UpstreamUnreachable
from claude_proxy.shell.upstream import tls
from claude_proxy.shell.upstream.client import Upstream


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    with faults.nothing_left_over():
        yield


# --- What works -------------------------------------------------------------------------------------------------------


def test_an_authority_of_ones_own(authority: trustme.CA, bundle: str) -> None:
    size = 4 * 1024 * 1024

    def answer(peer: Peer) -> None:
        for _ in range(3):
            assert len(peer.read_request()[1]) == size
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    with served(answer, tls=certified(authority), redcap_ca_bundle=bundle) as (upstream, server):
        for _ in range(3):
            assert len(post(upstream, bytes(size)).body) == size
        assert server.connections == 1


def test_the_bundle_adds_to_what_the_machine_trusts(
    authority: trustme.CA, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SSL_CERT_FILE` replaces the machine's own authorities; the bundle takes nothing from either."""
    other = trustme.CA()
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    for each in (authority, other):
        with served(answer_once, tls=certified(each), redcap_ca_bundle=str(tmp_path / "other.pem")) as (upstream, _):
            assert post(upstream).body == b"ok"


def test_a_self_signed_certificate_in_the_bundle(authority: trustme.CA, tmp_path: Path) -> None:
    """Trust in one certificate, not in whoever issued it."""
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with served(answer_once, tls=context, redcap_ca_bundle=str(tmp_path / "server.pem")) as (upstream, _):
        assert post(upstream).body == b"ok"


def test_an_intermediate_authority(authority: trustme.CA, bundle: str) -> None:
    with served(answer_once, tls=certified(authority.create_child_ca()), redcap_ca_bundle=bundle) as (upstream, _):
        assert post(upstream).body == b"ok"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_certificate_for_a_name_and_for_an_address(authority: trustme.CA, bundle: str, name: str) -> None:
    with (
        served(answer_once, tls=certified(authority, name)) as (_, server),
        faults.posting_to(f"https://{name}:{server.port}/", redcap_ca_bundle=bundle) as upstream,
    ):
        assert post(upstream).body == b"ok"


def test_it_waits_and_watches_the_client_too(authority: trustme.CA, bundle: str) -> None:
    """A TLS socket can be readable without holding a byte of the answer."""
    ticks: list[float] = []
    enough = threading.Event()

    def tick(elapsed: float) -> float:
        ticks.append(elapsed)
        if len(ticks) >= 20:
            enough.set()
        return elapsed + 0.01

    def hold(peer: Peer) -> None:
        peer.read_request()
        enough.wait(PATIENCE)
        peer.drip(OK)

    with served(hold, tls=certified(authority), redcap_ca_bundle=bundle) as (upstream, _):
        assert post(upstream, tick=tick).body == b"ok"
    assert len(ticks) >= 20


# --- Kept connections -------------------------------------------------------------------------------------------------


def close_with_notice(peer: Peer) -> None:
    peer.read_request()
    peer.send(OK)
    peer.sock.settimeout(PATIENCE)
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.sock.unwrap()


def reset_at_the_second(peer: Peer) -> None:
    peer.read_request()
    peer.send(OK)
    peer.read_head()
    peer.reset()


@pytest.mark.parametrize("script", [answer_once, close_with_notice, reset_at_the_second])
def test_a_kept_connection_that_dies_is_replaced(authority: trustme.CA, bundle: str, script: faults.Script) -> None:
    with served(script, tls=certified(authority), redcap_ca_bundle=bundle) as (upstream, server):
        assert post(upstream).body == b"ok"
        server.play(keep_answering)
        assert post(upstream).body == b"ok"
        assert server.connections == 1, "counted anew"


def test_session_tickets_on_an_idle_connection_do_no_harm(authority: trustme.CA, bundle: str) -> None:
    """TLS 1.3 servers send them unasked, and they make the socket readable."""
    context = certified(authority)
    context.num_tickets = 4
    with served(keep_answering, tls=context, redcap_ca_bundle=bundle) as (upstream, server):
        for _ in range(3):
            assert post(upstream).body == b"ok"
        assert server.connections == 1


# --- What fails -------------------------------------------------------------------------------------------------------


def failure(upstream: Upstream) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        post(upstream)
    assert caught.value.status == 502
    assert SECRET.decode() not in caught.value.message
    return caught.value


def refused(upstream: Upstream) -> str:
    """What is said of a server that cannot be talked to; trying again would not help."""
    error = failure(upstream)
    assert isinstance(error, UpstreamMisconfigured)
    assert error.should_retry is False
    return error.message


def listening(received: list[bytes]) -> faults.Script:
    def listen(peer: Peer) -> None:
        received.append(peer.sock.recv(1))

    return listen


def refused_certificate(context: ssl.SSLContext, **options: Any) -> str:
    """What is said of a certificate; the token was not sent to whoever has it."""
    received: list[bytes] = []
    with served(listening(received), tls=context, **options) as (upstream, server):
        message = refused(upstream)
        assert message.startswith(f"The certificate of localhost:{server.port} cannot be trusted: ")
    assert not any(received), "the token went to a server that nobody vouches for"
    assert message.endswith("The token was not sent.")
    return message


def test_an_unknown_authority(authority: trustme.CA) -> None:
    message = refused_certificate(certified(authority))
    assert "issued by an authority that this machine does not know" in message
    assert "set REDCAP_CA_BUNDLE to the PEM file" in message


def test_an_intermediate_that_the_server_does_not_send(authority: trustme.CA, bundle: str) -> None:
    certificate = authority.create_child_ca().issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with (
        certificate.private_key_pem.tempfile() as key,
        certificate.cert_chain_pems[0].tempfile() as leaf,
    ):
        context.load_cert_chain(leaf, key)
    assert "REDCAP_CA_BUNDLE" in refused_certificate(context, redcap_ca_bundle=bundle)


def test_a_self_signed_certificate() -> None:
    own = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with own.private_key_pem.tempfile() as key, own.cert_pem.tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    message = refused_certificate(context)
    assert "self-signed" in message
    assert "REDCAP_CA_BUNDLE" in message


def test_a_certificate_for_another_name(authority: trustme.CA, bundle: str) -> None:
    message = refused_certificate(certified(authority, "other.example.org"), redcap_ca_bundle=bundle)
    assert "another host name" in message
    assert "REDCAP_API_URL" in message
    assert "other.example.org" not in message


def test_a_certificate_for_a_name_only_when_an_address_is_called(authority: trustme.CA, bundle: str) -> None:
    with (
        served(keep_answering, tls=certified(authority, "localhost")) as (_, server),
        faults.posting_to(f"https://127.0.0.1:{server.port}/", redcap_ca_bundle=bundle) as upstream,
    ):
        assert "not for this IP address" in refused(upstream)


DAY = datetime.timedelta(days=1)


def test_an_expired_certificate(authority: trustme.CA, bundle: str) -> None:
    past = datetime.datetime.now(datetime.UTC) - DAY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", not_before=past - DAY, not_after=past).configure_cert(context)
    message = refused_certificate(context, redcap_ca_bundle=bundle)
    assert "it has expired" in message
    assert "renew" in message


def test_a_certificate_of_the_future(authority: trustme.CA, bundle: str) -> None:
    future = datetime.datetime.now(datetime.UTC) + DAY
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", not_before=future, not_after=future + DAY).configure_cert(context)
    message = refused_certificate(context, redcap_ca_bundle=bundle)
    assert "not valid yet" in message
    assert "clock" in message


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"220 mail.example.org ESMTP\r\n", b"x" * 5000],
    ids=["http", "smtp", "garbage"],
)
def test_https_to_a_port_that_speaks_something_else(said: bytes) -> None:
    def complain(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.send(said)
        peer.saw_the_end()

    with served(complain, scheme="https") as (upstream, _):
        message = refused(upstream)
    assert "does not speak TLS" in message
    assert "REDCAP_API_URL" in message
    assert "example.org" not in message


def test_plain_http_to_a_port_that_speaks_tls(authority: trustme.CA) -> None:
    with served(keep_answering, tls=certified(authority), scheme="http") as (upstream, _):
        error = failure(upstream)
    assert "REDCAP_API_URL" in error.message or "https://" in error.message
    assert "https" in error.message


def old_version(authority: trustme.CA) -> ssl.SSLContext:
    context = certified(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_a_server_that_is_too_old(authority: trustme.CA, bundle: str) -> None:
    with served(answer_once, tls=old_version(authority), redcap_ca_bundle=bundle) as (upstream, _):
        assert post(upstream).body == b"ok"
    with served(answer_once, tls=old_version(authority), redcap_ca_bundle=bundle, redcap_tls_minimum="1.3") as (
        upstream,
        _,
    ):
        message = refused(upstream)
    assert "does not speak TLS 1.3 or later" in message
    assert "REDCAP_TLS_MINIMUM=1.2" in message


def test_a_server_that_is_older_than_anything_that_is_allowed() -> None:
    """What a server that knows TLS 1.0 only answers: an alert, or its own version."""
    alert = bytes.fromhex("15030100020246")

    def refuse(peer: Peer) -> None:
        peer.sock.recv(1)
        peer.send(alert)
        peer.saw_the_end()

    with served(refuse, scheme="https") as (upstream, _):
        message = refused(upstream)
    assert "does not speak TLS 1.2 or later" in message
    assert "REDCAP_TLS_MINIMUM" not in message


def test_no_cipher_in_common(authority: trustme.CA, bundle: str) -> None:
    context = old_version(authority)
    context.set_ciphers("ECDHE-RSA-AES256-SHA384")
    with served(answer_once, tls=context, redcap_ca_bundle=bundle) as (upstream, _):
        assert "shares no way of encryption" in refused(upstream)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_to_know_its_clients(authority: trustme.CA, bundle: str, version: ssl.TLSVersion) -> None:
    context = certified(authority)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(bundle)
    with served(keep_answering, tls=context, redcap_ca_bundle=bundle) as (upstream, _):
        assert "certificate from its clients" in refused(upstream)


@pytest.mark.parametrize("script", [faults.close_at_once, faults.reset_at_once, Peer.read_a_little])
def test_a_handshake_that_is_cut_may_be_tried_again(script: faults.Script) -> None:
    with served(script, scheme="https") as (upstream, _):
        error = failure(upstream)
    assert isinstance(error, UpstreamUnreachable)
    assert error.should_retry is None


def test_a_handshake_that_does_not_come_to_an_end() -> None:
    with served(faults.stall, scheme="https", connect_timeout=0.2) as (upstream, _):
        assert "CONNECT_TIMEOUT" in failure(upstream).message


def test_an_address_that_does_not_answer_gives_way_to_the_next(authority: trustme.CA, bundle: str) -> None:
    """A name with an IPv6 address that is filtered on the way, and an IPv4 address that works, if slowly."""
    with (
        faults.black_hole() as hole,
        faults.Server(keep_answering, tls=certified(authority), sleep=0.1) as server,
        faults.posting_to(
            "https://localhost/",
            connect_timeout=1.0,
            redcap_ca_bundle=bundle,
            network=faults.Resolving(hole, server.port),
        ) as upstream,
    ):
        assert post(upstream).body == b"ok"


def test_an_answer_that_is_no_tls_any_more(authority: trustme.CA, bundle: str) -> None:
    def garble(peer: Peer) -> None:
        peer.read_request()
        assert isinstance(peer.sock, ssl.SSLSocket)
        with socket.socket(fileno=os.dup(peer.sock.fileno())) as bare:
            bare.setblocking(True)
            bare.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        peer.saw_the_end()

    with served(garble, tls=certified(authority), redcap_ca_bundle=bundle) as (upstream, _):
        error = failure(upstream)
    assert isinstance(error, UpstreamUnreachable)


def test_a_failure_of_tls_that_nobody_has_met_yet_has_a_sentence_too() -> None:
    error = ssl.SSLError(1, "x")
    error.library, error.reason = "SSL", "SOMETHING_NEW"
    message = tls.explain(error, "redcap.test:443", "1.2").message
    assert message.startswith("redcap.test:443 does not speak TLS as expected (something new). Check REDCAP_API_URL")
    certificate = ssl.SSLCertVerificationError(1, "x")
    certificate.verify_code = 999
    assert "OpenSSL refuses it with code 999" in tls.explain(certificate, "redcap.test:443", "1.2").message


def test_a_client_that_goes_during_the_handshake_leaves_no_connection() -> None:
    def tick(_: float) -> float:
        raise ClientGone

    with served(faults.stall, scheme="https") as (upstream, _), pytest.raises(ClientGone):
        post(upstream, tick=tick)
