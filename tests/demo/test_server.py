"""The simulator on a port: forms as PHP reads them, connections, and the pages before REDCap."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import PATIENCE
from simulated import FIELDS, Script

from claude_proxy.demo import form, pages
from claude_proxy.demo.model import ModelRequest
from claude_proxy.demo.pages import CannedResponse
from claude_proxy.demo.simulator import Received, Simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = ["plain", "", "a\r\n--b\r\n\r\nc\r\n", "&amp;=+%20 é 😀\n", "\r\n\r\n", '"quoted"; name="x"']


def multipart(fields: dict[str, str], boundary: str = "b0undary") -> tuple[str, bytes]:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    body = "".join(parts) + f"--{boundary}--\r\n"
    return f'multipart/form-data; boundary="{boundary}"', body.encode()


def urlencoded(fields: dict[str, str]) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", urllib.parse.urlencode(fields).encode()


@pytest.mark.parametrize("encode", [multipart, urlencoded])
@pytest.mark.parametrize("value", TEXTS)
def test_forms_carry_text_whole(encode: Any, value: str) -> None:
    fields = {"before": "1", "text": value, "after": "2"}
    assert dict(form.read_form(*encode(fields))) == fields


def test_forms_as_other_clients_write_them() -> None:
    body = (
        b"preamble\r\n--B\r\ncontent-type: text/plain; charset=utf-8\r\nCONTENT-DISPOSITION: form-data; name=a\r\n\r\n"
        b'1\r\n--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nupload\r\n'
        b'--B\r\nContent-Disposition: form-data; name="bad"\r\n\r\n\xff\r\n--B--\r\nepilogue'
    )
    assert list(form.read_form("Multipart/Form-Data; charset=utf-8; boundary=B", body)) == [
        ("a", "1"),
        ("bad", "\udcff"),
    ]
    assert list(form.read_form("application/json", b'{"token":"x"}')) == []
    assert list(form.read_form("multipart/form-data", body)) == []
    assert list(form.read_form("", b"a=1")) == []


@contextmanager
def connected(simulator: Simulator) -> Iterator[http.client.HTTPConnection]:
    with simulator:
        url = urllib.parse.urlsplit(simulator.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=PATIENCE)
        try:
            yield connection
        finally:
            connection.close()


def post(connection: http.client.HTTPConnection, content_type: str, body: bytes, path: str = "/api/") -> Any:
    connection.request("POST", path, body, {"Content-Type": content_type})
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type"), response.read().decode()


@pytest.mark.parametrize("encode", [multipart, urlencoded])
def test_a_connection_is_kept_and_requests_are_recorded(encode: Any) -> None:
    simulator = Simulator(Script("é"))
    with connected(simulator) as connection:
        for _ in range(3):
            status, content_type, body = post(connection, *encode(FIELDS))
            assert (status, content_type) == (200, "application/json")
            assert json.loads(body)["content"][0]["text"] == "é"
            assert connection.sock is not None
    assert [received.fields for received in simulator.requests] == [FIELDS] * 3
    assert simulator.requests[0].headers["content-type"].startswith(encode(FIELDS)[0].split(";")[0])


def test_array_fields_over_the_wire() -> None:
    script = Script()
    body = urllib.parse.urlencode([*FIELDS.items(), ("stop[]", "A"), ("stop[]", "B")]).encode()
    with connected(Simulator(script)) as connection:
        post(connection, "application/x-www-form-urlencoded", body)
    assert script.asked[0].stop == ("A", "B")


def test_a_body_over_the_limit_loses_its_fields_and_so_does_json() -> None:
    simulator = Simulator(Script(), post_max_size=2000)
    with connected(simulator) as connection:
        assert post(connection, *multipart(FIELDS))[0] == 200
        for content_type, body in (multipart(FIELDS | {"system": "x" * 2000}), ("application/json", b"{}")):
            status, kind, answer = post(connection, content_type, body)
            assert (status, kind) == (400, "text/xml; charset=UTF-8")
            assert "content" in answer
            assert simulator.requests[-1].fields == {}


def test_the_missing_slash_is_answered_with_a_redirect() -> None:
    simulator = Simulator(Script())
    with connected(simulator) as connection:
        content_type, body = multipart(FIELDS)
        connection.request("POST", "/api", body, {"Content-Type": content_type})
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (301, simulator.url)
        assert response.read().startswith(b"<!DOCTYPE html>")
        assert post(connection, content_type, body, path="/elsewhere/")[0] == 404
        connection.request("GET", "/api/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, str(pages.LOGIN_PAGE.body).encode())
        connection.request("HEAD", "/api/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")


def test_interception() -> None:
    answers = iter([pages.SINGLE_SIGN_ON, CannedResponse(503, b"\xff", "x/y", {"Retry-After": "5"}), None])
    with connected(Simulator(Script(), intercept=lambda _: next(answers))) as connection:
        connection.request("POST", "/api/", b"")
        response = connection.getresponse()
        assert (response.status, response.getheader("Location")) == (302, "https://login.example.org/idp/sso")
        response.read()
        connection.request("POST", "/api/", b"")
        response = connection.getresponse()
        assert (response.status, response.getheader("Retry-After"), response.read()) == (503, "5", b"\xff")
        assert post(connection, *multipart(FIELDS))[0] == 200


def test_the_firewall_refuses_tags_and_commands() -> None:
    simulator = Simulator(Script(), intercept=pages.web_application_firewall)
    for text_, status in (("if a < b: pass", 200), ("<invoke name=", 403), ("</p>", 403), ("then rm -rf /", 403)):
        assert simulator.answer(Received(FIELDS | {"system": text_})).status == status


def test_requests_are_answered_in_parallel() -> None:
    barrier = threading.Barrier(8)

    def wait_for_all(_: ModelRequest) -> str:
        barrier.wait(PATIENCE)
        return "hi"

    statuses: list[int] = []

    def client(simulator: Simulator) -> None:
        url = urllib.parse.urlsplit(simulator.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=PATIENCE)
        statuses.append(post(connection, *multipart(FIELDS))[0])
        connection.close()

    with Simulator(wait_for_all) as simulator:
        threads = [threading.Thread(target=client, args=(simulator,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 8


def test_closing_cuts_open_connections() -> None:
    simulator = Simulator(Script())
    with connected(simulator) as connection:
        post(connection, *multipart(FIELDS))
        simulator.close()
        connection.auto_open = 0
        with pytest.raises((http.client.HTTPException, OSError)):
            post(connection, *multipart(FIELDS))
