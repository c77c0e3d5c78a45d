#!/usr/bin/env python3
"""Find another Python to run the tests with, or unpack the one of Debian's next release; nothing is installed.

    python3 scripts/pythons.py 3.14     prints the path of the program

A Python of a later Debian needs a later C library than this machine's. So all that it depends on is unpacked with it
(scripts/debian.py), and the program is told to look there: its loader and its path of libraries are written into it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debian

SUITES = {"3.14": "forky"}
"""Debian's releases, by the Python that they have and older ones have not."""


def find(version: str) -> Path:
    """The path of a Python of this version, such as 3.14, that runs.

    Raises:
        debian.Missing: there is none.
    """
    installed = shutil.which(f"python{version}")
    if installed and _runs(installed):
        return Path(installed)
    suite = SUITES.get(version)
    if not suite:
        raise debian.Missing(f"there is no Python {version} on the path: install it")
    name, patchelf = f"python{version}", debian.find("patchelf")
    with debian.one_at_a_time():
        tree = debian.unpack(name, name, f"{name}-venv", suite=suite)
        program = tree / "usr" / "bin" / name
        if not _runs(program):
            _settle(tree, version, patchelf)
    return program


def _settle(tree: Path, version: str, patchelf: Path) -> None:
    """Let an unpacked Python find its libraries, and its pip, where they are."""
    program = tree / "usr" / "bin" / f"python{version}"
    loader = next(iter(sorted(tree.glob("usr/lib/*/ld-linux*.so.*"))), None)
    if not loader:
        raise debian.Missing(f"{tree} holds no loader: has Debian moved it?")
    wheels = "/usr/share/python-wheels/"
    for listed in tree.glob(f"usr/lib/python{version}/_sysconfig*"):
        text = listed.read_text(encoding="utf-8")
        listed.write_text(text.replace(f"'{wheels}'", f"'{tree}{wheels}'").replace(f'"{wheels}"', f'"{tree}{wheels}"'))
    settings = ["--set-interpreter", str(loader), "--force-rpath", "--set-rpath", str(loader.parent)]
    debian.run(str(patchelf), *settings, str(program))
    if not _runs(program):
        raise debian.Missing(f"{program} was unpacked, but does not run")


def _runs(program: str | Path) -> bool:
    try:
        return not subprocess.run([program, "-c", "import ssl"], capture_output=True, check=False).returncode
    except OSError:  # its loader is not there
        return False


if __name__ == "__main__":
    try:
        print(find(sys.argv[1] if len(sys.argv) > 1 else "3.14"))
    except debian.Missing as missing:
        sys.exit(str(missing))
