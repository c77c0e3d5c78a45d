#!/usr/bin/env python3
"""Find an nginx for tests/e2e/test_nginx.py, or unpack Debian's into `.venv/nginx`; nothing is installed.

    python3 scripts/nginx.py        prints the path of the program

Where there is neither nginx nor apt, install nginx yourself and put it on the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / ".venv" / "nginx"
PROGRAM = UNPACKED / "usr" / "sbin" / "nginx"
SECONDS = 120


class Missing(Exception):
    """There is no nginx, and none could be had; the message says why."""


def find_nginx() -> Path:
    """The path of an nginx that runs.

    Raises:
        Missing: there is none.
    """
    installed = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if installed:
        return Path(installed)
    if not PROGRAM.exists():
        _unpack()
    _run(str(PROGRAM), "-v")
    return PROGRAM


def _unpack() -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Missing("there is no nginx on the path, and no apt to fetch it: install nginx")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run("apt-get", "download", "nginx", cwd=folder)
        except Missing:
            _run("apt-get", "update")  # a new machine has no lists; they need root
            _run("apt-get", "download", "nginx", cwd=folder)
        (package,) = Path(folder).glob("nginx_*.deb")
        made = Path(tempfile.mkdtemp(dir=UNPACKED.parent))
        _run("dpkg", "-x", str(package), str(made))
        try:
            made.rename(UNPACKED)
        except OSError:  # another process was faster
            shutil.rmtree(made)


def _run(*command: str, cwd: str | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.CalledProcessError as error:
        raise Missing(f"{' '.join(command)}: {error.stderr.strip()}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(command)}: {error}") from None


if __name__ == "__main__":
    try:
        print(find_nginx())
    except Missing as missing:
        sys.exit(str(missing))
