#!/usr/bin/env python3
"""Find a program that a test needs, or bring Debian's package of it; nothing is installed, and root is not needed.

    python3 scripts/debian.py nginx     prints the path of an nginx that runs

A package is unpacked into `.venv/debian`, with those that it depends on and that are not installed. apt resolves and
fetches them, with lists of its own there: those of the machine may be old, absent, or in another's use. Where there is
no apt, install the program yourself and put it on the path.

What cannot run from a folder (`INSTALLED`) is installed, but only by root and in CI, where the machine is nobody's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import environments

FOLDER = environments.VENV / "debian"
SECONDS = 300
"""How long apt may take for one step."""

_BESIDES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")  # what a short PATH may lack
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FONTS = Path("/etc/fonts/fonts.conf")
_LIBRARIES = ("lib", "usr/lib")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


@dataclass(frozen=True)
class Program:
    """A program: its package, its place in there, and what it is called elsewhere."""

    package: str
    path: str
    names: Sequence[str] = ()


UNPACKED: Mapping[str, Program] = {
    "caddy": Program("caddy", "usr/bin/caddy"),
    "chromium": Program(
        "chromium",
        "usr/lib/chromium/chromium",
        names=("chromium-browser", "google-chrome", "google-chrome-stable", "chrome", _MAC),
    ),
    "fish": Program("fish", "usr/bin/fish"),
    "nginx": Program("nginx", "usr/sbin/nginx"),
    "patchelf": Program("patchelf", "usr/bin/patchelf"),
    "prometheus": Program("prometheus", "usr/bin/prometheus"),
    "promtool": Program("prometheus", "usr/bin/promtool"),
    "wrk": Program("wrk", "usr/bin/wrk"),
    "zsh": Program("zsh", "usr/bin/zsh"),
}
INSTALLED: Mapping[str, str] = {
    **{engine: engine for engine in ("buildah", "podman", "runc", "debootstrap")},
    "node": "nodejs",
    "npm": "npm",
    "systemd-analyze": "systemd",
}


class Missing(Exception):
    """The program is not there and cannot be had; the message says why, and what to do."""


def find(program: str) -> Path:
    """The path of a program, which needs no particular environment.

    Raises:
        Missing: there is none.
    """
    names = (program, *UNPACKED[program].names) if program in UNPACKED else (program,)
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), *_BESIDES))
    if found := next(filter(None, (shutil.which(name, path=places) for name in names)), None):
        return Path(found)
    if program in INSTALLED:
        install(INSTALLED[program])
        return find(program)
    if program not in UNPACKED:
        raise Missing(f"there is no {program} on the path: install it")
    starter = FOLDER / "bin" / program
    with one_at_a_time():
        if not starter.exists():
            unpacked = unpack(UNPACKED[program].package, UNPACKED[program].package)
            _write_starter(starter, unpacked, UNPACKED[program].path)
    return starter


def install(*packages: str) -> None:
    """Install packages on this machine, where that is CI's own.

    Raises:
        Missing: it is not, or apt cannot.
    """
    wanted = " ".join(packages)
    if not os.environ.get("CI") or not hasattr(os, "geteuid") or os.geteuid():
        raise Missing(f"{wanted}: not installed here, and tests install nothing but in CI (apt-get install {wanted})")
    _needs("apt-get", wanted)
    patience = ("-o", "DPkg::Lock::Timeout=240")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with one_at_a_time():
        run("apt-get", "-qq", *patience, "update", env=environment)
        run("apt-get", "-qq", *patience, "install", "--yes", "--no-install-recommends", *packages, env=environment)


# --- unpacking --------------------------------------------------------------------------------------------------------


def unpack(name: str, *packages: str, suite: str = "") -> Path:
    """Unpack packages, with all that they depend on, into a folder of this name, unless that has been done.

    Of a `suite` of Debian's that is not this machine's, everything is unpacked, down to the C library.

    Raises:
        Missing: apt is not there, or has no such packages.
    """
    folder = FOLDER / name
    if folder.exists():
        return folder
    _needs("apt-get", name)
    _needs("dpkg-deb", name)
    apt = _apt(suite)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        fetched, made = Path(temporary, "fetched"), Path(temporary, "made")
        fetched.mkdir()
        planned = run(*apt, "-qq", "--simulate", "--no-install-recommends", "install", *packages)
        needed = re.findall(r"^Inst (\S+)", planned, re.MULTILINE)
        run(*apt, "download", *(needed or packages), cwd=fetched)
        for package in sorted(fetched.glob("*.deb")):
            run("dpkg-deb", "--extract", str(package), str(made))
        made.rename(folder)
    return folder


def _apt(suite: str) -> list[str]:
    """The beginning of an apt command with lists of its own, which are fetched now."""
    state = FOLDER / "apt" / (suite or "here")
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::Lists={state}/lists", f"Dir::Cache={state}/cache", "Acquire::Languages=none"]
    options += ["Acquire::Retries=3", "APT::Sandbox::User=" + _own_name()]
    if suite:
        source = f"deb [signed-by={_keys()}] {_mirror()} {suite} main\n"
        (state / "sources.list").write_text(source, encoding="utf-8")
        options += [f"Dir::Etc::SourceList={state}/sources.list", "Dir::Etc::SourceParts=/dev/null"]
        options += ["Dir::State::Status=/dev/null"]
    apt = ["apt-get", *(word for option in options for word in ("-o", option))]
    run(*apt, "-qq", "update")
    return apt


def _own_name() -> str:
    """Whom apt fetches as: its own user could not write here."""
    import pwd  # noqa: PLC0415 - where there is apt, there is this

    return pwd.getpwuid(os.geteuid()).pw_name


def _keys() -> Path:
    """The keys that Debian's releases are signed with; Ubuntu has them in a package."""
    if _DEBIAN_KEYS.exists():
        return _DEBIAN_KEYS
    return unpack("keys", "debian-archive-keyring") / _DEBIAN_KEYS.relative_to("/")


def _mirror() -> str:
    """Where this machine's Debian packages come from."""
    listed = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)")
    found = re.search(r"^Debian (\S+/debian/?)$", listed, re.MULTILINE)
    return found[1] if found else "http://deb.debian.org/debian"


def _write_starter(starter: Path, unpacked: Path, path: str) -> None:
    """Write a script that starts an unpacked program with its own libraries and fonts, wherever the folder is moved."""
    libraries = sorted(
        {found.parent for top in _LIBRARIES for found in (unpacked / top).rglob("lib*.so*") if not found.is_dir()}
    )
    settings = {"LD_LIBRARY_PATH": ":".join(map(_from_starter, libraries))} if libraries else {}
    if (unpacked / "usr/share/fonts").exists() and not _FONTS.exists():
        fonts = '<fontconfig><dir prefix="relative">usr/share/fonts</dir></fontconfig>\n'
        (unpacked / "fonts.conf").write_text(fonts, encoding="utf-8")
        settings["FONTCONFIG_FILE"] = _from_starter(unpacked / "fonts.conf")
    lines = ["#!/bin/sh", 'here=$(dirname "$(readlink -f "$0")")']
    lines += [f'export {name}="{value}"' for name, value in settings.items()]
    binary = next(
        (found for place in (path, path.removeprefix("usr/")) if (found := unpacked / place).is_file()), None
    )  # older packages have theirs in /bin
    if not binary:
        raise Missing(f"{unpacked} holds no {path}: has Debian moved it?")
    starter.parent.mkdir(parents=True, exist_ok=True)
    made = starter.with_suffix(".new")
    made.write_text("\n".join([*lines, f'exec "{_from_starter(binary)}" "$@"', ""]), encoding="utf-8")
    made.chmod(0o755)
    made.rename(starter)


def _from_starter(path: Path) -> str:
    """A path as the starter names it."""
    return f"$here/../{path.relative_to(FOLDER)}"


# --- running ----------------------------------------------------------------------------------------------------------


def one_at_a_time() -> contextlib.AbstractContextManager[None]:
    """Let one process unpack or install at a time, so that another finds the work done."""
    return environments.locked(FOLDER / "lock")


def _needs(tool: str, wanted: str) -> None:
    if not shutil.which(tool):
        raise Missing(f"there is no {wanted} on the path, and no {tool} to fetch it with: install {wanted}")


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        Missing: it failed, or is not there.
    """
    try:
        done = subprocess.run(command, cwd=cwd, env=env, check=True, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.CalledProcessError as error:
        raise Missing(f"{' '.join(command)}: {error.stderr.strip()}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(command)}: {error}") from None
    return done.stdout


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted or not {*UNPACKED, *INSTALLED}.issuperset(wanted):
        sys.exit(f"usage: debian.py PROGRAM..., each one of {', '.join((*UNPACKED, *INSTALLED))}")
    try:
        for program in wanted:
            print(find(program))
    except Missing as missing:
        sys.exit(str(missing))
