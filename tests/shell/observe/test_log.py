"""A log that stands still, fails or is slow: it loses lines and counts them, and no request notices."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from conftest import PATIENCE, TOKEN, Gate, Redcap, Wire, ending, eventually, is_listening, message_request

from claude_proxy.commands.serving import report_uncaught
from claude_proxy.shell.observe.journal import Journal
from claude_proxy.shell.observe.log import MOST_WAITING, Log

ROOT = Path(__file__).parents[3]
REQUESTS = 3000  # more than the pipe, the queue and what is on its way hold together
NOBODY = {"authorization": "Bearer not-the-token"}

# --- A pipe in place of the log ---------------------------------------------------------------------------------------


class Pipe:
    """A pipe whose two ends can be left to themselves."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> int:
        """Write until no more goes in; returns how many bytes that were."""
        os.set_blocking(self.writer, False)
        size = 0
        with suppress(BlockingIOError):
            while True:
                size += os.write(self.writer, b"x" * 1023 + b"\n")
        os.set_blocking(self.writer, True)
        return size

    def read(self, size: int = 65536) -> bytes:
        """Read what is there; nothing where there is nothing."""
        return os.read(self.reader, size) if select.select([self.reader], [], [], 0)[0] else b""

    def close(self) -> None:
        for end in (self.reader, self.writer):
            with suppress(OSError):
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


@contextmanager
def logging_to(pipe: Pipe) -> Iterator[Log]:
    """A log that writes into a pipe; at the end the reader leaves, so that no thread waits for it."""
    with os.fdopen(pipe.writer, "w", closefd=False) as out:
        log = Log(out, "lost {}\n".format)
        try:
            yield log
        finally:
            with suppress(OSError):
                os.close(pipe.reader)
            log.close()


def read_lines(pipe: Pipe, last: str) -> list[str]:
    """Read to a line, with which a text begins."""
    text = ""

    def has_come() -> bool:
        nonlocal text
        text += pipe.read().decode()
        return f"\n{last}" in text and text.endswith("\n")

    eventually(has_come)
    return text.splitlines()


def test_what_nobody_reads_is_lost_and_counted_and_said_in_its_place(pipe: Pipe) -> None:
    full = pipe.fill()
    with logging_to(pipe) as log:
        log.write("first\n")
        eventually(lambda: log._waiting.qsize() == 0)  # it is on its way, and stuck
        for number in range(MOST_WAITING + 7):
            log.write(f"{number}\n")
        assert log.lost == 7
        while full > 0:
            full -= len(pipe.read(full))
        lines = ["", *read_lines(pipe, "lost")]
        assert lines == ["", "first", *map(str, range(MOST_WAITING)), "lost 7"]
        log.write("on\n")
        assert ["", *read_lines_of(pipe, 1)] == ["", "on"]


def read_lines_of(pipe: Pipe, count: int) -> list[str]:
    text = ""

    def has_come() -> bool:
        nonlocal text
        text += pipe.read().decode()
        return text.count("\n") == count

    eventually(has_come)
    return text.splitlines()


def test_a_file_that_fails_loses_lines_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, pipe: Pipe) -> None:
    """A disk that is full takes a part of a line, then nothing, and later, when there is room, lines again."""
    steps = iter([3, None, None])
    real = os.write

    def write(file: int, data: bytes) -> int:
        if file != pipe.writer:
            return real(file, data)
        if (step := next(steps, 0)) is None:
            raise OSError(28, "No space left on device")
        return real(file, data[:step] if step else data)

    monkeypatch.setattr(os, "write", write)
    with logging_to(pipe) as log:
        log.write("whole\n")
        eventually(lambda: log.lost == 1)
        log.write("gone\n")
        eventually(lambda: log.lost == 2)
        log.write("é\n")
        assert read_lines_of(pipe, 3) == ["who", r"\xe9", "lost 2"]


def test_a_file_that_takes_nothing_now_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    with logging_to(pipe) as log:
        log.write("here\n")
        assert read_lines(pipe, "here")[-1] == "here"
        assert log.lost == 0


def test_the_last_lines_are_written_before_the_end(pipe: Pipe) -> None:
    with os.fdopen(pipe.writer, "w", closefd=False) as out:
        log = Log(out)
        for number in range(500):
            log.write(f"{number}\n")
        log.close()
        assert pipe.read() == "".join(f"{number}\n" for number in range(500)).encode()


def test_a_closed_standard_error_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with closing(Journal()) as journal:
        journal.notice("error", "nobody hears this")
        assert journal.activity().lost_lines == 0


def test_what_no_thread_catches_is_told_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    reported: list[BaseException] = []
    report_uncaught(reported.append)

    class Failing:
        def __del__(self) -> None:
            raise LookupError("content")

    thread = threading.Thread(target=lambda: int("content"))
    thread.start()
    thread.join()
    Failing()
    assert [type(failure) for failure in reported] == [ValueError, LookupError]


# --- The whole proxy --------------------------------------------------------------------------------------------------


@contextmanager
def serving(redcap: Redcap, pipe: Pipe, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A proxy whose standard error is the pipe, and its port, which the pipe has told."""
    process = subprocess.Popen(
        [sys.executable, "-S", str(ROOT / "claude_api_proxy.py")],
        cwd=tmp_path,
        stderr=pipe.writer,
        env={
            "CLAUDE_PROXY_HOME": str(tmp_path),
            "LISTEN_PORT": "0",
            "REDCAP_API_URL": redcap.url,
            "REDCAP_API_TOKEN": TOKEN,
        },
    )
    os.close(pipe.writer)
    with ending(process):
        told = "\n".join(read_lines(pipe, "claude --permission-mode"))
        found = re.search(r"listens on http://127\.0\.0\.1:(\d+) ", told)
        assert found, told
        yield process, int(found[1])


def ask_many_times(port: int) -> None:
    """Ask again and again on one connection: an answer that fails or a connection that is closed ends the test."""
    with Wire(port) as wire:
        for _ in range(REQUESTS):
            wire.ask("POST", "/v1/messages/count_tokens", headers=NOBODY)
            assert wire.read_response().status == 401


def stop_while_answering(process: subprocess.Popen[bytes], port: int, redcap: Redcap) -> int:
    """Stop a proxy that still has a request to answer, see it answered, and return the exit code."""
    redcap.let_answer(gate := Gate("In time."))
    with Wire(port) as wire:
        wire.ask("POST", "/v1/messages", message_request(), {"authorization": f"Bearer {TOKEN}"})
        gate.reached.wait(PATIENCE)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: not is_listening(port))
        gate.open()
        assert wire.read_response().json["content"][0]["text"] == "In time."
    return process.wait(PATIENCE)


def metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as response:
        found = re.search(rf"^{name} (\d+)$", response.read().decode(), re.MULTILINE)
    assert found
    return int(found[1])


def health(port: int) -> int:
    with Wire(port) as wire:
        wire.ask("GET", "/health")
        return wire.read_response().status


@pytest.mark.slow
def test_a_log_that_nobody_reads_stops_nothing(redcap: Redcap, pipe: Pipe, tmp_path: Path) -> None:
    with serving(redcap, pipe, tmp_path) as (process, port):
        ask_many_times(port)
        assert health(port) == 200
        assert metric(port, "claude_proxy_log_lines_lost_total") > 0
        assert stop_while_answering(process, port, redcap) == 0


@pytest.mark.slow
def test_a_log_whose_reader_has_gone_stops_nothing(redcap: Redcap, pipe: Pipe, tmp_path: Path) -> None:
    with serving(redcap, pipe, tmp_path) as (process, port):
        os.close(pipe.reader)
        ask_many_times(port)
        assert health(port) == 200
        eventually(lambda: metric(port, "claude_proxy_log_lines_lost_total") == REQUESTS)
        assert stop_while_answering(process, port, redcap) == 0


@pytest.mark.slow
def test_a_log_that_is_read_slowly_says_what_it_has_lost(redcap: Redcap, pipe: Pipe, tmp_path: Path) -> None:
    """Every line is either there or counted, and none is cut."""
    text, is_over = bytearray(), threading.Event()

    def read_slowly() -> None:
        while more := os.read(pipe.reader, 65536 if is_over.is_set() else 1024):
            text.extend(more)
            is_over.wait(0.1)

    with serving(redcap, pipe, tmp_path) as (process, port):
        reader = threading.Thread(target=read_slowly)
        reader.start()
        try:
            ask_many_times(port)
            assert health(port) == 200
            is_over.set()
            eventually(lambda: b"lines of this log were lost" in text)
            assert stop_while_answering(process, port, redcap) == 0
        finally:
            process.kill()
            reader.join()
    lines = text.decode().strip().splitlines()
    lost = sum(
        int(found[1]) for line in lines if (found := re.search(r"WARNING lines of this log .* lines=(\d+)", line))
    )
    assert lost > 0
    assert sum("status=401" in line for line in lines) + lost == REQUESTS
    assert all(re.match(r"\S+ (INFO|WARNING) ", line) for line in lines)
    assert "status=200" in lines[-1], "the last request, which ended when the proxy was being stopped"
