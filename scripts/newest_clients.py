#!/usr/bin/env python3
"""Run the sessions of the real clients with their newest releases, and print as a Markdown table what came of it.

The checks run pinned releases, so what fails there was broken here. Claude Code changes weekly: what fails with this
command was changed there. It has a virtual environment of its own, `.venv-newest`, and touches nothing else. Arguments
are passed on to pytest. The exit code is that of the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent))

import environments

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-newest"
PYTHON = environments.python_of(VENV)
TYPESCRIPT = ROOT / "tests" / "e2e" / "typescript"
TYPESCRIPT_SDK = "@anthropic-ai/sdk"
CLAUDE_CODE = "Claude Code"

# The files with the sessions of each client; the first that fits names it.
SESSIONS = {
    "tests/e2e/test_anthropic_sdk.py": "anthropic",
    "tests/test_messages_api.py": "anthropic",
    "tests/e2e/test_typescript_sdk.py": TYPESCRIPT_SDK,
    "tests/e2e/test_langchain.py": "langchain-anthropic",
    "tests/e2e/test_agent_sdk.py": "claude-agent-sdk",
    "tests/e2e/test_claude_code.py": CLAUDE_CODE,
    "tests/e2e/test_run.py": CLAUDE_CODE,
}
UNPINNED = frozenset({"anthropic", "claude-agent-sdk", "langchain-anthropic", "langchain-tests"})

_PINNED = re.compile(r"([\w-]+)==(\S+)")


@dataclass
class Tally:
    """What came of the tests of one file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "nothing ran"


def main() -> int:
    """Install, run, report."""
    install()
    report = VENV / "report.xml"
    report.unlink(missing_ok=True)
    arguments = ["-m", "pytest", f"--junitxml={report}", *SESSIONS, *sys.argv[1:]]
    environment = os.environ | {"TYPESCRIPT_CLIENT": str(VENV / "typescript")}
    done = subprocess.run([str(PYTHON), *arguments], cwd=ROOT, env=environment, check=False)
    print("\n".join(["", *table(read(report) if report.exists() else {})]))
    return done.returncode


# --- installing -------------------------------------------------------------------------------------------------------


def install() -> None:
    """Bring the virtual environment and the TypeScript client to the newest releases."""
    if not PYTHON.exists():
        print("Making .venv-newest; with the real Claude Code it takes some 800 MB …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    wanted = map(_unpinned, environments.requirements("test", "clients"))
    subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", "--upgrade", *wanted], check=True)
    npm = shutil.which("npm")
    folder = VENV / "typescript"
    folder.mkdir(exist_ok=True)
    for name in ("client.js", "package.json", "package-lock.json"):
        shutil.copy(TYPESCRIPT / name, folder)
    if npm:
        newest = ["install", "--package-lock-only", "--no-audit", "--no-fund", f"{TYPESCRIPT_SDK}@latest"]
        subprocess.run([npm, *newest], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _unpinned(line: str) -> str:
    pinned = _PINNED.fullmatch(line)
    return pinned[1] if pinned and pinned[1] in UNPINNED else line


# --- reporting --------------------------------------------------------------------------------------------------------


def read(report: Path) -> dict[str, Tally]:
    """What came of each file, from pytest's report in the form of JUnit."""
    tallies: dict[str, Tally] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        module = case.get("classname", "")
        file = next(
            (path for path in SESSIONS if module.startswith(path.removesuffix(".py").replace("/", "."))), module
        )
        kinds = {child.tag for child in case}
        outcome = next((word for tag, word in _OUTCOMES if tag in kinds), "passed")
        tally = tallies.setdefault(file, Tally())
        tally.outcomes[outcome] += 1
        if outcome == "failed":
            tally.failed.append(case.get("name", ""))
    return tallies


_OUTCOMES = (("failure", "failed"), ("error", "failed"), ("skipped", "skipped"))


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """The report, line by line."""
    pinned, newest = pinned_versions(), newest_versions()
    yield "| client | pinned | newest | sessions | result |"
    yield "| --- | --- | --- | --- | --- |"
    for file, client in SESSIONS.items():
        versions = f"{pinned.get(client, '?')} | {newest.get(client, '?')}"
        yield f"| {client} | {versions} | `{Path(file).name}` | {tallies.get(file, Tally())} |"
    for file, tally in tallies.items():
        for name in tally.failed:
            yield f"\nFailed: `{file}::{name}`"


def pinned_versions() -> dict[str, str]:
    """The releases that the checks run, as far as they are written down."""
    lines = environments.requirements("test", "clients")
    found = {match[1]: match[2] for line in lines if (match := _PINNED.fullmatch(line))}
    usual = ROOT / ".venv" / PYTHON.relative_to(VENV)
    code = {CLAUDE_CODE: claude_code_version(usual)} if usual.exists() else {}
    return found | {TYPESCRIPT_SDK: locked_version(TYPESCRIPT)} | code


def newest_versions() -> dict[str, str]:
    """The releases that have just been run."""
    listed = json.loads(_output(PYTHON, "-m", "pip", "list", "--format=json"))
    found = {package["name"]: package["version"] for package in listed}
    locked = {TYPESCRIPT_SDK: locked_version(VENV / "typescript")}
    return found | locked | {CLAUDE_CODE: claude_code_version(PYTHON)}


def locked_version(folder: Path) -> str:
    """The release of the TypeScript SDK in a lock file."""
    lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))
    return str(lock["packages"][f"node_modules/{TYPESCRIPT_SDK}"]["version"])


def claude_code_version(python: Path) -> str:
    """The release of Claude Code that an environment's `claude-agent-sdk` holds."""
    find = "import sys; sys.path.insert(0, 'tests/e2e'); import claude_code; print(claude_code.claude_binary())"
    binary = _output(python, "-c", find).strip()
    return _output(Path(binary), "--version").split()[0]


def _output(program: Path, *arguments: str) -> str:
    return subprocess.run([str(program), *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
