"""Programs of Debian's packages, unpacked into `.venv` where they are not installed; nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from nginx import Missing, find_nginx

__all__ = ["Missing", "find_nginx", "find_wrk"]

_WRK = ROOT / ".venv" / "wrk"
_PACKAGES = ("wrk", "libluajit-5.1-2", "libluajit-5.1-common")


def find_wrk() -> tuple[Path, dict[str, str]]:
    """The path of `wrk`, and the environment that it needs.

    Raises:
        Missing: there is none.
    """
    if installed := shutil.which("wrk"):
        return Path(installed), {}
    program = _WRK / "usr" / "bin" / "wrk"
    if not program.exists():
        _unpack()
    libraries = {str(found.parent) for found in _WRK.rglob("libluajit*.so*")}
    return program, {"LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))}


def _unpack() -> None:
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg")
    if not apt or not dpkg:
        raise Missing("there is no wrk on the path, and no apt to fetch it: install wrk")
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["apt-get", "download", *_PACKAGES],
            ["apt-get", "update"],
            ["apt-get", "download", *_PACKAGES],
        ):
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            packages = sorted(Path(folder).glob("*.deb"))
            if len(packages) == len(_PACKAGES):
                break
        else:
            raise Missing(f"apt-get download: {ended.stderr.strip()}")
        for package in packages:
            subprocess.run([dpkg, "-x", str(package), str(_WRK)], check=True, capture_output=True)
