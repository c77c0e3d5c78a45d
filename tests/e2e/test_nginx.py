"""A real nginx before the proxy, with the configuration of deploy/: nothing is held back, and nothing is too large."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from conftest import (
    PATIENCE,
    TOKEN,
    Gate,
    Proxy,
    Redcap,
    StartProxy,
    Wire,
    ending,
    eventually,
    find_program,
    message_request,
    read_events,
)

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
CREDENTIAL = {"x-api-key": TOKEN}

# The rest of a configuration, which distributions have in /etc/nginx/nginx.conf.
AROUND = """\
daemon off;
master_process off;
error_log stderr;
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {site}
}}
"""


class Nginx:
    """A running nginx before a proxy."""

    def __init__(self, port: int, authority: trustme.CA) -> None:
        self.port = port
        self._tls = ssl.create_default_context()
        authority.configure_trust(self._tls)

    def connect(self) -> Wire:
        wire = Wire(self.port)
        wire._file.close()
        wire.socket = self._tls.wrap_socket(wire.socket, server_hostname="localhost")
        wire._file = wire.socket.makefile("rb", buffering=0)
        return wire


@pytest.fixture
def soon(start_proxy: StartProxy) -> Proxy:
    return start_proxy(stream_delay=0.0, ping_interval=0.1)


@pytest.fixture
def nginx(soon: Proxy, tmp_path: Path) -> Iterator[Nginx]:
    program = find_program("nginx")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    for shipped, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8765": f"127.0.0.1:{soon.server.server_port}",
        "/etc/ssl/certs/claude-proxy.pem": str(tmp_path / "cert.pem"),
        "/etc/ssl/private/claude-proxy.key": str(tmp_path / "key.pem"),
    }.items():
        assert site.count(shipped) == 1
        site = site.replace(shipped, here)
    (tmp_path / "nginx.conf").write_text(AROUND.format(site=site), encoding="utf-8")
    command = [str(program), "-p", f"{tmp_path}/", "-c", "nginx.conf", "-e", "stderr"]
    with (
        (tmp_path / "log").open("wb") as log,
        ending(subprocess.Popen(command, stderr=log, env={"PATH": os.defpath}), politely=True) as process,
    ):
        running = Nginx(port, authority)
        eventually(lambda: process.poll() is not None or _answers(running))
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield running


def _answers(nginx: Nginx) -> bool:
    try:
        nginx.connect().close()
    except OSError:
        return False
    return True


def ask(wire: Wire, path: str, body: bytes) -> None:
    wire.ask("POST", path, body, CREDENTIAL)


def test_events_arrive_one_by_one_while_the_model_thinks(redcap: Redcap, nginx: Nginx) -> None:
    gate = Gate("Much better.")
    redcap.queue(gate)
    with nginx.connect() as wire:
        ask(wire, "/v1/messages", message_request({"stream": True}))
        head = wire.read_head()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert gate.reached.wait(PATIENCE)
        early = [event["type"] for _ in range(4) for event in read_events(wire.read_chunk())]
        assert early[0] == "message_start"
        assert set(early[1:]) <= {"ping", "content_block_start", "content_block_delta"}
        gate.open()
        late = read_events(b"".join(iter(wire.read_chunk, b"")))
        assert late[-1]["type"] == "message_stop"


def test_a_body_of_many_megabytes_passes(soon: Proxy, nginx: Nginx) -> None:
    question = "Is the patient in bed 7 better? " * 250_000  # 8 MB
    body = message_request({"messages": [{"role": "user", "content": question}], "max_tokens": None})
    with nginx.connect() as wire:
        ask(wire, "/v1/messages/count_tokens", body)
        counted = wire.read_response().json
    assert counted["input_tokens"] > 1_000_000
    assert counted == soon.ask("POST", "/v1/messages/count_tokens", body, CREDENTIAL).json


def test_a_failure_comes_through_as_it_is(nginx: Nginx) -> None:
    with nginx.connect() as wire:
        wire.ask("POST", "/v1/messages", message_request())
        response = wire.read_response()
    assert (response.status, response.retries[0]) == (401, "false")
    assert json.loads(response.body)["error"]["type"] == "authentication_error"


def test_a_connection_is_used_again(redcap: Redcap, soon: Proxy, nginx: Nginx) -> None:
    redcap.queue(*["Yes."] * 5)
    with nginx.connect() as wire:
        for _ in range(5):
            ask(wire, "/v1/messages", message_request())
            assert wire.read_response().message["content"][0]["text"] == "Yes."
    assert len(soon.server.connections) == 1, "nginx keeps its connection to the proxy"


def test_a_client_that_goes_away_is_noticed_through_nginx(redcap: Redcap, soon: Proxy, nginx: Nginx) -> None:
    gate = Gate("Too late.")
    redcap.queue(gate)
    wire = nginx.connect()
    ask(wire, "/v1/messages", message_request({"stream": True}))
    assert gate.reached.wait(PATIENCE)
    wire.read_head()
    wire.close()
    soon.journal_line("error=ClientGone")
    gate.open()


def test_visitors_of_nginx_are_no_users_of_this_machine(nginx: Nginx) -> None:
    for path, status in {"/": 401, "/metrics": 404, "/status/events": 404}.items():
        with nginx.connect() as wire:
            wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n".encode())
            assert wire.read_response().status == status, path
