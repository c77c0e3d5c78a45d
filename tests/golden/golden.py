"""Whole exchanges as text files: read, played through the proxy's front door, and written down as they went.

A file is a title and sections in the order in which things happen; README.md says which. `play` takes a file's
requests and answers, and returns the whole file as it is with today's code: forms and responses are never taken from
it. So a file that differs from what `play` makes of it shows a change of behaviour.

Run as a program, this rewrites the files that are named, or all of them, for review with `git diff`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

FOLDER = Path(__file__).parent
STARTER = FOLDER.parent.parent / "claude_api_proxy.py"
TOKEN = "0123456789ABCDEF0123456789ABCDEF"
PATIENCE = 30.0  # seconds

SETTINGS, CONFIG = "settings", "claude-proxy.toml"
REQUEST, FORM, ANSWER, RESPONSE = "request", "form", "answer", "response"
LATE_ANSWER = "answer, once the stream has begun"


def golden_files() -> list[Path]:
    """All files, in the order of their names."""
    return sorted(FOLDER.glob("*.txt"))


# --- Files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A part of a file, under the line `=== name`."""

    name: str
    text: str


def read_sections(text: str) -> tuple[str, list[Section]]:
    """The title of a file, and its sections."""
    title, *parts = re.split(r"\n\n=== (.+)\n", text.removesuffix("\n"))
    return title, [Section(name, part) for name, part in zip(parts[::2], parts[1::2], strict=True)]


def write_sections(title: str, sections: list[Section]) -> str:
    return "\n\n".join([title, *(f"=== {each.name}\n{each.text}" for each in sections)]) + "\n"


def to_wire(text: str) -> bytes:
    """An HTTP message as it is sent; `content-length` is added where the text does not say it."""
    head, _, body = text.partition("\n\n")
    lines, content = head.split("\n"), body.encode()
    if "content-length:" not in head.lower() and not lines[0].startswith("GET "):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


class Names:
    """Stand-ins for what differs each time; the digits of ids are numbered, so that equal ones are seen to be equal."""

    _IDS = re.compile(r"(?<=msg_|req_)[0-9a-f]{24}\b|(?<=toolu_)[0-9a-f]{24}\b")
    _DATE = re.compile(r"(?m)^(date: )\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
    _REASON = re.compile(r"(?m)^(HTTP/1\.1 413 ).+$")  # Python 3.13 has another name for it
    _VERSION = re.compile(r"\b(claude-proxy/)\d+(?:\.\w+)+")

    def __init__(self, ports: Mapping[int, str]) -> None:
        self._ports = {f"127.0.0.1:{port}": f"127.0.0.1:({name})" for port, name in ports.items()}
        self._known: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """Put stand-ins for ids, dates, versions, reasons and ports."""
        text = self._IDS.sub(lambda match: self._name(match[0]), text)
        text = self._DATE.sub(r"\1(date)", text)
        text = self._VERSION.sub(r"\1(version)", text)
        text = self._REASON.sub(r"\1(reason)", text)
        for address, name in self._ports.items():
            text = text.replace(address, name)
        return text

    def restore(self, text: str) -> str:
        """Put the ids back, for a request that refers to an earlier response."""
        for digits, name in self._known.items():
            text = text.replace(f"_{name}", f"_{digits}")
        return text

    def _name(self, digits: str) -> str:
        return self._known.setdefault(digits, f"({len(self._known) + 1})")


# --- Both ends --------------------------------------------------------------------------------------------------------


def read_message(stream: IO[bytes]) -> Iterator[bytes]:
    """Read an HTTP message: its head, then the pieces of its body without their framing."""
    lines = [stream.readline()]
    while lines[-1] not in {b"\r\n", b""}:
        lines.append(stream.readline())
    head = b"".join(lines[:-1])
    yield head
    if length := re.search(rb"(?im)^content-length: *(\d+)", head):
        yield stream.read(int(length[1]))
    elif re.search(rb"(?im)^transfer-encoding: chunked\r$", head):
        while size := int(stream.readline(), 16):
            yield stream.read(size)
            assert stream.readline() == b"\r\n"
        assert stream.readline() == b"\r\n"


def as_text(head: bytes, body: bytes) -> str:
    return head.decode("latin-1").replace("\r\n", "\n") + "\n" + body.decode()


@dataclass
class Script:
    """What REDCap is to answer, and what came."""

    answers: list[Section] = field(default_factory=list)
    forms: list[tuple[bytes, bytes]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)


class _Redcap(socketserver.ThreadingTCPServer):
    daemon_threads = True
    script: Script


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while True:
            head, *body = read_message(cast("IO[bytes]", self.rfile))
            if not head:
                return
            script = cast("_Redcap", self.server).script
            script.forms.append((head, b"".join(body)))
            if len(script.forms) > len(script.answers):
                return  # `play` complains of it
            answer = script.answers[len(script.forms) - 1]
            if answer.name == LATE_ANSWER:
                assert script.begun.wait(PATIENCE)
            self.wfile.write(to_wire(answer.text))


@contextmanager
def running_redcap() -> Iterator[_Redcap]:
    with _Redcap(("127.0.0.1", 0), _Handler) as redcap:
        threading.Thread(target=redcap.serve_forever, args=(0.005,), daemon=True).start()
        yield redcap
        redcap.shutdown()


@contextmanager
def running_proxy(redcap_port: int, settings: Mapping[str, str], config: str) -> Iterator[int]:
    """A proxy of its own, so that no exchange depends on another; gives its port."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "claude-proxy.toml").write_text(config, encoding="utf-8")
        environment = {
            **{name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ},
            "CLAUDE_PROXY_HOME": folder,
            "REDCAP_API_URL": f"http://127.0.0.1:{redcap_port}/api/",
            "REDCAP_API_TOKEN": TOKEN,
            "LISTEN_PORT": "0",
            **settings,
        }
        command = [sys.executable, "-S", str(STARTER), "serve"]
        with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            try:
                said = (re.search(r"listens on http://127\.0\.0\.1:(\d+)", line) for line in process.stderr)
                started = next(filter(None, said), None)
                assert started, "the proxy has not started"
                yield int(started[1])
            finally:
                process.kill()
            journal = process.stderr.read()
            assert "internal error" not in journal, journal


def ask(port: int, request: bytes, begun: threading.Event) -> str:
    """Send a request, and return the response."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection, connection.makefile("rb") as stream:
        connection.sendall(request)
        response = read_message(stream)
        head = next(response)
        begun.set()
        return as_text(head, b"".join(response))


# --- Forms ------------------------------------------------------------------------------------------------------------


def show_form(head: bytes, body: bytes, names: Names) -> str:
    """A form to read, field by field, with a digest of the body: no byte may change unnoticed."""
    boundary = re.search(rb"(?i)content-type: multipart/form-data; boundary=(\S+)", head)
    assert boundary, head
    lines = [as_text(head, b"").removesuffix("\n")]
    for piece in body.split(b"--" + boundary[1])[1:-1]:
        header, _, value = piece.partition(b"\r\n\r\n")
        name = header.decode().partition('name="')[2].removesuffix('"')
        lines += show_field(name, value.decode().removesuffix("\r\n"))
    digest = hashlib.sha256(names.hide(body.decode()).encode()).hexdigest()
    return names.hide("\n".join([*lines, "--- sha256 of the body, with the stand-ins", digest]))


def show_field(name: str, value: str) -> Iterator[str]:
    if name != "messages":
        yield from (f"--- {name}", value)
        return
    for number, message in enumerate(json.loads(value)):
        content = message["content"]
        for part in [{"type": None, "text": content}] if isinstance(content, str) else content:
            yield from show_part(f"--- messages[{number}] {message['role']}", part)


def show_part(label: str, part: dict[str, Any]) -> tuple[str, str]:
    kind, text = part["type"], part.get("text")
    if not isinstance(text, str):
        return f"{label}, {kind}", json.dumps(part, ensure_ascii=False, indent=2)
    others = {key: value for key, value in part.items() if key not in {"type", "text"}}
    label += f", {kind}" if kind else ""
    return label + (f" with {json.dumps(others)}" if others else ""), text


# --- The whole --------------------------------------------------------------------------------------------------------


def play(text: str) -> str:
    """The file as it is when its requests are sent and its answers come today."""
    title, sections = read_sections(text)
    given = {each.name: each.text for each in sections if each.name in {SETTINGS, CONFIG}}
    settings = dict(line.split("=", 1) for line in given.get(SETTINGS, "").splitlines())
    played = [Section(name, part) for name, part in given.items()]
    with running_redcap() as redcap, running_proxy(redcap.server_address[1], settings, given.get(CONFIG, "")) as port:
        names = Names({redcap.server_address[1]: "redcap", port: "proxy"})
        for request, answers in exchanges(sections):
            script = redcap.script = Script(answers)
            response = ask(port, to_wire(names.restore(request.text)), script.begun)
            asked = f"REDCap was asked {len(script.forms)} times, and was to be asked {len(answers)} times:\n{response}"
            assert len(script.forms) == len(answers), asked
            played.append(request)
            for form, answer in zip(script.forms, answers, strict=True):
                played += [Section(FORM, show_form(*form, names)), answer]
            played.append(Section(RESPONSE, names.hide(response)))
    return write_sections(title, played)


def exchanges(sections: list[Section]) -> Iterator[tuple[Section, list[Section]]]:
    """Each request with the answers that belong to it."""
    starts = [number for number, each in enumerate(sections) if each.name == REQUEST]
    for start, end in zip(starts, [*starts[1:], len(sections)], strict=True):
        yield sections[start], [each for each in sections[start:end] if each.name in {ANSWER, LATE_ANSWER}]


def main() -> None:
    """Rewrite the files."""
    for path in [Path(name) for name in sys.argv[1:]] or golden_files():
        path.write_bytes(play(path.read_bytes().decode()).encode())


if __name__ == "__main__":
    main()
