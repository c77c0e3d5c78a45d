"""Anthropic's TypeScript SDK: the folder that it is installed in, and the Node.js that runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import find_program
from environments import locked

FOLDER = Path(os.environ.get("TYPESCRIPT_CLIENT") or Path(__file__).parent / "typescript")
"""Where the client and the lock file of its SDK are; `scripts/newest_clients.py` has another."""


def node_with_sdk() -> Path:
    """The path of Node.js, with the SDK installed as the lock file says; without either the test is skipped."""
    node, npm = find_program("node"), find_program("npm")
    wanted = (FOLDER / "package-lock.json").read_text(encoding="utf-8")
    modules = FOLDER / "node_modules"
    stamp = modules / "installed-package-lock.json"
    with locked(FOLDER / ".lock"):  # tests of two files, at work side by side, want it at once
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            install = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(install, cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stderr
            stamp.write_text(wanted, encoding="utf-8")
    return node
