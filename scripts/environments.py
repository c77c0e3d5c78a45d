"""Virtual environments with what the checks, the docs and the measurements need: pyproject.toml's dependency groups.

The proxy itself needs nothing. Every pin stands in pyproject.toml; pip can install a group by itself, too:
`python -m pip install --group bench` (pip 25.1 or later).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
JSON_SCHEMA_SUITE = VENV / "json-schema-suite"
"""The official test suite of JSON Schema, which the source archive of `jsonschema` holds."""

_NAME = re.compile(r"[\w.-]+")


def requirements(*groups: str) -> list[str]:
    """The pinned packages of some dependency groups."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    return [requirement for group in groups for requirement in listed[group]]


def python_of(venv: Path) -> Path:
    """The Python of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(venv: Path, *groups: str, python: str | Path = sys.executable) -> None:
    """Bring a virtual environment, made if it is not there, to what the groups say; what else is in it stays."""
    with locked(venv / "lock"):
        stamp = venv / "installed-requirements.txt"
        installed = stamp.read_text(encoding="utf-8").splitlines() if stamp.exists() else []
        wanted = requirements(*groups)
        if set(wanted) <= set(installed) and python_of(venv).exists():
            return
        print(f"Installing {', '.join(groups)} into {venv.name} …", flush=True)
        subprocess.run([str(python), "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python_of(venv)), "-m", "pip", "install", "--quiet", *wanted], check=True)
        replaced = {_name(requirement) for requirement in wanted}
        kept = [requirement for requirement in installed if _name(requirement) not in replaced]
        stamp.write_text("\n".join([*kept, *wanted, ""]), encoding="utf-8")


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0] if found else ""


def fetch_json_schema_suite(venv: Path) -> None:
    """Unpack the official suite of JSON Schema, as the source archive of the pinned `jsonschema` has it, with pip."""
    if JSON_SCHEMA_SUITE.exists():
        return
    JSON_SCHEMA_SUITE.parent.mkdir(exist_ok=True)
    (pinned,) = (each for each in requirements("test") if _name(each) == "jsonschema")
    with tempfile.TemporaryDirectory(dir=JSON_SCHEMA_SUITE.parent) as folder:
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", "jsonschema", "--dest", folder, pinned]
        subprocess.run([str(python_of(venv)), "-m", "pip", *fetch], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (suite,) = Path(folder).glob("jsonschema-*/json")
        suite.rename(JSON_SCHEMA_SUITE)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time do what others then find done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        if os.name != "nt":
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
