#!/usr/bin/env python3
"""Write docs/images/session.svg: a session of the real Claude Code in a terminal, through the proxy and the demo.

A shell runs in a pseudo-terminal, the words are typed as a person would, and what the terminal then shows is drawn.
Needs `pyte` and the real clients (`pip install --group docs --group clients`); not for Windows.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

import pyte
from claude_code import claude_binary, environment

COLUMNS, ROWS = 100, 26
REQUEST = "write hello.py with `print('hello')` then run `python3 hello.py`"
TOKEN = "DEMO" * 8
PATIENCE = 60.0  # seconds for each step
WIDTH, HEIGHT, MARGIN = 8.43, 18, 14
PAPER, INK = "#1e1e24", "#d8d8de"
PALETTE = {
    "black": "#3a3a42",
    "red": "#f07178",
    "green": "#9ccc65",
    "brown": "#ffcb6b",
    "blue": "#82aaff",
    "magenta": "#c792ea",
    "cyan": "#89ddff",
    "white": "#d8d8de",
    "default": INK,
}


class Terminal:
    """A program in a pseudo-terminal, and what it shows."""

    def __init__(self, command: list[str], folder: Path, environ: dict[str, str]) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execve(command[0], command, environ)  # noqa: S606 - a terminal's child
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def type(self, text: str) -> None:
        """Press the keys one after the other."""
        for character in text:
            os.write(self._fd, character.encode())
            self.settle(0.02)

    def settle(self, quiet: float) -> None:
        """Read until nothing has come for so long."""
        while select.select([self._fd], [], [], quiet)[0]:
            try:
                self._stream.feed(os.read(self._fd, 65536))
            except OSError:  # it has ended
                return

    def wait(self, condition: Callable[[str], bool], what: str) -> None:
        """Read until the screen is as it should be."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.text):
            if time.monotonic() > deadline:
                sys.exit(f"waited in vain for {what}; the terminal shows:\n{self.text}")
            self.settle(0.3)

    @property
    def text(self) -> str:
        """What the screen shows."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def end(self) -> None:
        """End the program."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def record(folder: Path, url: str) -> Any:
    """Play the session; returns the screen."""
    home = folder
    work = home / "work"
    work.mkdir()
    environ = environment(url, TOKEN, home) | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    (home / ".claude").mkdir(parents=True, exist_ok=True)
    begun = {"hasCompletedOnboarding": True, "theme": "dark", "projects": {str(work): {"hasTrustDialogAccepted": True}}}
    (home / ".claude" / ".claude.json").write_text(json.dumps(begun), encoding="utf-8")
    terminal = Terminal([str(claude_binary()), "--permission-mode", "default"], work, environ)
    try:
        terminal.wait(lambda text: "? for shortcuts" in text or "❯" in text, "Claude Code's prompt")
        terminal.settle(2)
        terminal.type(REQUEST)
        terminal.settle(0.5)
        terminal.type("\r")
        for question in ("hello.py?", "Do you want to proceed?"):
            terminal.wait(lambda text, question=question: question in text, question)  # type: ignore[misc]
            terminal.settle(1)
            terminal.type("\r")
        terminal.wait(lambda text: "Done, in 2 steps" in text, "the end")
        terminal.settle(2)
        return terminal.screen
    finally:
        terminal.end()


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(screen: Any) -> str:
    """The screen as SVG: one text element for each run of characters that look alike."""
    last = max((row for row in range(ROWS) if screen.display[row].strip()), default=0)
    width, height = round(COLUMNS * WIDTH + 2 * MARGIN), (last + 1) * HEIGHT + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Claude Code in a terminal writes hello.py and runs it">',
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
        '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="14">',
    ]
    for row in range(last + 1):
        for start, length, text, look in _runs(screen, row):
            x, y = MARGIN + start * WIDTH, MARGIN + (row + 1) * HEIGHT - 5
            if look[1]:
                box = f'x="{x:.1f}" y="{y - 13}" width="{length * WIDTH:.1f}" height="{HEIGHT}"'
                lines.append(f'<rect {box} fill="{look[1]}"/>')
            bold = ' font-weight="bold"' if look[2] else ""
            for words in re.finditer(r"\S+(?: \S+)*", text):
                x = MARGIN + (start + words.start()) * WIDTH
                span = f'textLength="{len(words[0]) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
                lines.append(f'<text x="{x:.1f}" y="{y}" fill="{look[0]}"{bold} {span}>{escape(words[0])}</text>')
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _runs(screen: Any, row: int) -> Iterator[tuple[int, int, str, tuple[str, str, bool]]]:
    start, text, look = 0, "", ("", "", False)
    for column in range(COLUMNS + 1):
        cell = screen.buffer[row][column] if column < COLUMNS else None
        its = _look(cell) if cell else None
        if its != look:
            if text:
                yield start, len(text), text, look
            start, text, look = column, "", its or look
        if cell:
            text += cell.data or " "


def _look(cell: Any) -> tuple[str, str, bool]:
    ink, paper = _colour(cell.fg), "" if cell.bg == "default" else _colour(cell.bg)
    return (PAPER, ink, cell.bold) if cell.reverse else (ink, paper, cell.bold)


def _colour(name: str) -> str:
    plain = name.removeprefix("bright")
    return PALETTE.get(plain, f"#{name}" if len(name) == 6 else INK)


# --- the demo ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the demo and the session, and write the picture."""
    folder = Path(tempfile.mkdtemp(prefix="patients-"))
    command = [sys.executable, str(ROOT / "claude_api_proxy.py"), "demo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as demo:
        try:
            url = next(
                line.split("=", 1)[1].strip() for line in demo.stdout or () if line.startswith("export ANTHROPIC_BASE")
            )
            picture = draw(record(folder, url))
        finally:
            demo.terminate()
            shutil.rmtree(folder, ignore_errors=True)
    path = ROOT / "docs" / "images" / "session.svg"
    path.write_text(picture, encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
