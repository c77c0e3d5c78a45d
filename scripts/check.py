#!/usr/bin/env python3
"""Set up everything for the checks, and run them: formatter, linter, strict types, tests.

    python3 scripts/check.py                 everything, with the real clients
    python3 scripts/check.py --fast          what needs no client, in a minute
    python3 scripts/check.py --python 3.14   the tests of core and shell with another Python

Needs Python 3.11 or later and nothing else; what the checks need is installed into `.venv` (made if it is not there).
Other arguments are passed on to pytest: `scripts/check.py --fast tests/core -k round_trip`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debian
import environments
import pythons
from environments import ROOT, VENV

import docs

NEED_CLIENTS = ("tests/e2e", "tests/test_messages_api.py", "scripts/screenshots.py")
"""What imports the clients, and so can be neither run nor type-checked without them."""

WITHOUT_CLIENTS = ("tests/core", "tests/shell")
"""What runs on another Python: all of the product, and no client that may not be made for it yet."""


def main() -> int:
    """Run the checks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="only what needs no real client and takes no time")
    parser.add_argument("--python", metavar="VERSION", help="run the tests of core and shell with this Python")
    options, others = parser.parse_known_args()
    if options.python:
        return check_with(options.python, others)
    return check_fast(others) if options.fast else check_all(others)


def check_all(arguments: Sequence[str]) -> int:
    """Run all checks, even after one has failed; the exit code is that of the first failure."""
    if not (VENV / "installed-requirements.txt").exists():
        print("The first time, some 900 MB are installed: the real Claude Code is among it.", flush=True)
    environments.install(VENV, "lint", "test", "clients")
    environments.fetch_json_schema_suite(VENV)
    docs.install()
    return first_failure([*static_checks(), run("pytest", *arguments)])


def check_fast(arguments: Sequence[str]) -> int:
    """Run the checks that need no client, and say what they have left out."""
    environments.install(VENV, "lint", "test")
    codes = static_checks(*(word for path in NEED_CLIENTS for word in ("--exclude", path)))
    ignored = [f"--ignore={path}" for path in NEED_CLIENTS if path.startswith("tests/")]
    codes.append(run("pytest", *ignored, "-m", "not e2e and not slow", *arguments, TEST_EFFORT="0.1"))
    left_out = ", ".join(NEED_CLIENTS)
    print(f"Left out: {left_out}, tests marked e2e or slow, and nine tenths of the generated examples.")
    print("Everything: python3 scripts/check.py")
    return first_failure(codes)


def check_with(version: str, arguments: Sequence[str]) -> int:
    """Run the tests of core and shell with another Python."""
    try:
        python = pythons.find(version)
    except debian.Missing as missing:
        sys.exit(str(missing))
    venv = ROOT / f".venv-{version}"
    environments.install(venv, "test", python=python)
    environments.fetch_json_schema_suite(venv)
    return run("pytest", *(arguments or WITHOUT_CLIENTS), venv=venv)


def static_checks(*for_mypy: str) -> list[int]:
    """Formatter, linter, types."""
    return [
        run("ruff", "format", "--check", "--quiet", "."),
        run("ruff", "check", "--quiet", "."),
        run("mypy", *for_mypy),
    ]


def run(tool: str, *arguments: str, venv: Path = VENV, **environ: str) -> int:
    """Run one tool of a virtual environment in the project's root."""
    print(f"$ {tool} {' '.join(arguments)}", flush=True)
    program = environments.python_of(venv).with_name(tool)
    return subprocess.run([str(program), *arguments], cwd=ROOT, env={**os.environ, **environ}, check=False).returncode


def first_failure(codes: Sequence[int]) -> int:
    """The exit code of the checks together."""
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
