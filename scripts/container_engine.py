#!/usr/bin/env python3
"""Bring what builds and runs containers here, for tests/test_container.py: Podman without a daemon or a registry.

    python3 scripts/container_engine.py        installs what is missing, and makes the stand-in for the base images

It needs root and apt, and installs Debian's packages only in CI, as `scripts/debian.py` says. Everything else lies in
`.venv/containers` and in a temporary folder, and neither the machine's own containers nor its network are touched: an
`Engine` has a store, a network and processes of its own, and takes them with it when it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent))

import debian
import environments
from debian import Missing

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".venv" / "containers"
BASE = KEPT / "base.tar"
PACKAGES = ("podman", "runc", "netavark", "aardvark-dns", "iptables", "iproute2", "debootstrap")
SECONDS = 300

OUTSIDE = "198.51.100.1"
"""An address (of those that are kept for examples) at which containers reach what listens beside them."""

IN_BASE = ("python3", "ca-certificates", "nginx")
MAKE_BASE = """\
mount -t tmpfs tmpfs "$1"  # on a disk dpkg would wait for each file to be written
debootstrap --variant=minbase --include="$3" "$2" "$1/root"
cd "$1/root"
rm -rf var/cache/apt var/lib/apt/lists usr/share/doc usr/share/locale usr/share/man
ln -s python3 usr/bin/python
tar --create --file "$4" --exclude='./dev/*' .
"""

# What the machine's own configuration would say. The limits are some that every machine allows to set.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=1000:1000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

Result = TypeVar("Result")
_CLONE_NEWNET = 0x40000000


# --- what must be there -----------------------------------------------------------------------------------------------


def set_up() -> None:
    """Install the engine and make the base image, unless both are there.

    Raises:
        Missing: they cannot be had.
    """
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Missing("containers are run with Debian's Podman, by root: there is no apt here, or this is not root")
    if missing := [package for package in PACKAGES if not _installed(package)]:
        debian.install(*missing)
    with environments.locked(KEPT / "lock"):
        if not BASE.exists():
            _make_base()


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def _make_base() -> None:
    """Pack a small Debian with Python and nginx: it stands for all the images that the project's own build on.

    Its Python is the machine's release's (3.11 in Debian 12), so this does not try the version that the Dockerfile
    names; the suite itself does, where it is run with that.
    """
    packed = KEPT / "unfinished.tar"
    with tempfile.TemporaryDirectory() as folder:
        # Not to be seen elsewhere, the memory goes by itself when this ends.
        debian.run(
            "unshare", "--mount", "sh", "-euc", MAKE_BASE, "sh", folder, _release(), ",".join(IN_BASE), str(packed)
        )
    packed.rename(BASE)


def _release() -> str:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line).get("VERSION_CODENAME", "stable")


def _start_namespaces(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process in a network, among mounts and with processes of its own; they end with it, and it with this."""
    # The names of containers are served from files in /run; nor need Podman find a systemd there.
    mounts = f"mount -t tmpfs tmpfs {folder} && mount -t tmpfs tmpfs /run"
    setting_up = f"{mounts} && ip link set lo up && ip address add {OUTSIDE}/32 dev lo && echo"
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    words += ["sh", "-c", f"{setting_up} && cat; exit"]  # a shell takes leave of the processes that others leave behind
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe)
    if not process.stdout or not process.stdout.readline():
        raise Missing(f"this machine allows no namespaces: {process.communicate()[1].decode().strip()}")
    return process


# --- the engine -------------------------------------------------------------------------------------------------------


class Engine:
    """Podman with a store, a network and processes of its own: what it starts sees nothing of the machine's.

    Attributes:
        podman: the path of a program that is called as podman is.
    """

    def __init__(self) -> None:
        """Make a place for containers.

        Raises:
            Missing: this machine has no engine.
        """
        set_up()
        self._folder = Path(tempfile.mkdtemp(prefix="podman-"))  # a short path: sockets lie in it
        self._store = self._folder / "store"  # in memory, as only those see that are in there
        self._store.mkdir()
        self._namespaces = _start_namespaces(self._store)
        self.podman = self._folder / "podman"
        self._write_podman()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs here, and leave nothing behind."""
        subprocess.run([self.podman, "rm", "--all", "--force", "--time", "0"], capture_output=True, check=False)
        self._namespaces.kill()  # its only child goes with it, and all that lives in the namespaces with that
        self._namespaces.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *arguments: str | Path, program: Sequence[str | Path] = ()) -> str:
        """Run podman, or another program that is told where podman is, to its end; return what it printed.

        Raises:
            CalledProcessError: it failed; the error's notes have what it said.
        """
        command = [*(program or [self.podman]), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stdout + done.stderr)
            raise error
        return done.stdout

    def import_base(self, tag: str, *changes: str) -> None:
        """Let the small Debian stand for an image, under its name and with these lines of a Dockerfile."""
        options = [f"--change={change}" for change in changes]
        name = tag if tag.count("/") > 1 else f"docker.io/{tag}" if "/" in tag else f"docker.io/library/{tag}"
        self.run("import", *options, BASE, name)

    def inside(self, action: Callable[[], Result]) -> Result:
        """Do something in the containers' network: a socket that is made there stays there."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def act() -> None:
            try:
                with Path(f"/proc/{self._namespaces.pid}/ns/net").open("rb") as network:
                    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on
                    if libc.setns(network.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(action())
            except BaseException as error:  # noqa: BLE001 - raised again below
                errors.append(error)

        thread = threading.Thread(target=act)  # a namespace is a thread's own
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def _write_podman(self) -> None:
        (self._folder / "containers.conf").write_text(CONFIGURATION, encoding="utf-8")
        spaces = f"/proc/{self._namespaces.pid}/ns"
        words = ["nsenter", f"--net={spaces}/net", f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children"]
        words += ["env", f"CONTAINERS_CONF={self._folder}/containers.conf"]
        # Images of Docker's kind, for others have no health check; no copy of everything for each line of a Dockerfile.
        words += ["BUILDAH_FORMAT=docker", "BUILDAH_LAYERS=false", "BUILDAH_ISOLATION=chroot"]
        overlay = "overlay" in Path("/proc/filesystems").read_text(encoding="utf-8").split()
        words += ["podman", f"--storage-driver={'overlay' if overlay else 'vfs'}"]
        words += [f"--root={self._store}/root", f"--runroot={self._store}/run", f"--tmpdir={self._store}/tmp"]
        words += [f"--network-config-dir={self._store}/networks"]
        self.podman.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', encoding="utf-8")
        self.podman.chmod(0o755)


if __name__ == "__main__":
    try:
        set_up()
    except Missing as missing:
        sys.exit(str(missing))
