#!/usr/bin/env python3
"""Set up everything for the checks, and run them: formatter, linter, strict types, tests.

Needs Python 3.11 or later and nothing else; what the checks need is installed into `.venv` (made if it is not there).
Arguments are passed on to pytest: `scripts/check.py tests/core -k round_trip`.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
REQUIREMENTS = ROOT / "tests" / "requirements.txt"


def main() -> int:
    """Run all checks, even after one has failed; the exit code is that of the first failure."""
    set_up()
    results = [
        run("ruff", "format", "--check", "--quiet", "."),
        run("ruff", "check", "--quiet", "."),
        run("mypy"),
        run("pytest", *sys.argv[1:]),
    ]
    return next((code for code in results if code), 0)


def set_up() -> None:
    """Install what the checks need, unless just that is installed already."""
    stamp = VENV / "installed-requirements.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print("Installing what the checks need into .venv: some 900 MB, the real Claude Code among it …", flush=True)
    venv.create(VENV, with_pip=True)
    subprocess.run([str(BIN / "python"), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def run(tool: str, *arguments: str) -> int:
    """Run one tool of the virtual environment in the project's root."""
    print(f"$ {tool} {' '.join(arguments)}", flush=True)
    return subprocess.run([str(BIN / tool), *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
