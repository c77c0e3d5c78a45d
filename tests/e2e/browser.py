"""Where headless Chromium is to be had: one that is installed, or, in CI, one that is installed now."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find_chromium() -> str | None:
    """The path of a Chromium or Chrome, which `CHROMIUM` may name; None leaves it to Playwright's own."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(MAC) if MAC.exists() else None)


def install_chromium() -> None:
    """Install Debian's Chromium, where this is CI's own machine: nobody else's is changed by a test."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if find_chromium() or not os.environ.get("CI") or not is_root or not shutil.which("apt-get"):
        return
    patience = ("-o", "DPkg::Lock::Timeout=240")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update",), ("install", "--yes", "--no-install-recommends", "chromium")):
        subprocess.run(["apt-get", "-qq", *patience, *command], env=environment, check=False, capture_output=True)
