"""Whom the proxy calls: REDCap, and nobody else, whatever a client or REDCap itself points it to.

A real process notes, by Python's own audit events, each name it looks up, each address it connects or sends to, and
each program it starts.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import PATIENCE, PROMPT, TOKEN, Redcap, Response, Wire, message_request

from claude_proxy.demo.pages import CannedResponse

ROOT = Path(__file__).parents[2]

NOTE = """
import json, os, sys

notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(event, args):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        whom = args[1]
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        whom = args[0]
    elif event in {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"}:
        whom = ""
    else:
        return
    os.write(notes, (json.dumps([event, whom if isinstance(whom, (str, list, tuple)) else str(whom)]) + "\\n").encode())


sys.addaudithook(note)
"""
"""Python runs this at its start."""


@contextmanager
def noting(folder: Path, *arguments: str, **environ: str) -> Iterator[tuple[int, str, Path]]:
    """Run the proxy with the notes on: its port, the token that it tells users of, and the file of the notes."""
    (folder / "hooks").mkdir()
    (folder / "hooks" / "sitecustomize.py").write_text(NOTE)
    notes = folder / "notes"
    process = subprocess.Popen(
        [sys.executable, "-m", "claude_proxy", *arguments],
        cwd=folder,
        env={
            "PATH": os.defpath,
            "PYTHONPATH": f"{folder / 'hooks'}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLAUDE_PROXY_HOME": str(folder),
            "NOTES": str(notes),
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killer = threading.Timer(PATIENCE, process.kill)
    killer.start()
    with process:
        try:
            assert process.stdout
            said = ""
            pattern = r"ANTHROPIC_BASE_URL=http://127\.0\.0\.1:(\d+)\s.*ANTHROPIC_AUTH_TOKEN=(\S+)\n"
            while not (found := re.search(pattern, said, re.DOTALL)):
                said += (line := process.stdout.readline())
                assert line, said
            yield int(found[1]), found[2], notes
        finally:
            killer.cancel()
            process.kill()


def ask(port: int, path: str = "/v1/messages", token: str = TOKEN, **changes: Any) -> Response:
    with Wire(port) as wire:
        wire.ask("POST", path, message_request(changes), {"x-api-key": token})
        return wire.read_response()


def called(notes: Path) -> set[tuple[str, str]]:
    """The events, and whom they were about: `host:port`, or a name."""
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    return {(event, whom if isinstance(whom, str) else f"{whom[0]}:{whom[1]}") for event, whom in lines}


def pointing(trap: str) -> Iterator[dict[str, Any]]:
    """Requests that name another server wherever a request can name one."""
    yield {"model": "claude-sonnet-4"}
    for model in ("claude-sonnet-4", "gpt-4o"):
        for kind in ("image", "document"):
            block = {"type": kind, "source": {"type": "url", "url": f"{trap}/{kind}"}}
            yield {"model": model, "messages": [{"role": "user", "content": [block, {"type": "text", "text": PROMPT}]}]}
    yield {"mcp_servers": [{"type": "url", "name": "x", "url": trap}]}
    schema = {"type": "object", "properties": {"x": {"$ref": f"{trap}/schema"}}}
    yield {"tools": [{"name": "Look", "input_schema": schema}, {"type": "web_fetch_20250910", "name": "web_fetch"}]}
    yield {"tools": [{"name": "Look", "input_schema": schema}]}
    yield {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def test_a_proxy_calls_redcap_and_nobody_else(redcap: Redcap, tmp_path: Path) -> None:
    redcap.let_answer(lambda _: "Much better.")
    with socket.create_server(("127.0.0.1", 0)) as other:
        trap = f"http://127.0.0.1:{other.getsockname()[1]}"
        with noting(tmp_path, REDCAP_API_URL=redcap.url, REDCAP_API_TOKEN=TOKEN, LISTEN_PORT="0") as (port, _, notes):
            statuses = [ask(port, **changes).status for changes in pointing(trap)]
            redcap.intercept = lambda _: CannedResponse(307, "", headers={"Location": f"{trap}/api/"})
            assert ask(port).status >= 400
            for path in ("/health", "/v1/models", "/metrics"):
                with Wire(port) as wire:
                    wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {TOKEN}\r\n\r\n".encode())
                    assert wire.read_response().status == 200
            assert ask(port, "/v1/messages/count_tokens").status == 200
            found = called(notes)
    assert {200, 400} <= set(statuses)
    address = redcap.url.split("/")[2]
    assert ("socket.connect", address) in found, "nothing was noted"
    assert {whom for event, whom in found if event == "socket.connect"} == {address}
    assert {event for event, _ in found} <= {"socket.connect", "socket.getaddrinfo"}
    assert {whom for event, whom in found if event == "socket.getaddrinfo"} <= {"127.0.0.1", "::1"}


def test_the_demo_calls_nobody_but_this_machine(tmp_path: Path) -> None:
    with noting(tmp_path, "demo") as (port, token, notes):
        assert ask(port, token=token).status == 200
        found = called(notes)
    assert {event for event, _ in found} == {"socket.connect", "socket.getaddrinfo"}
    assert {whom for event, whom in found if event == "socket.getaddrinfo"} == {"127.0.0.1", "::1"}
    assert {whom.rpartition(":")[0] for event, whom in found if event == "socket.connect"} == {"127.0.0.1"}
