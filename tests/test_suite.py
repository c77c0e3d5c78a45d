"""What the other tests lean on: none of them goes on for ever, whatever it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import eventually

ROOT = Path(__file__).parent.parent
HANGING = """
import signal, subprocess, sys
from pathlib import Path

def test_that_can_be_told() -> None:
    signal.pause()

def test_that_is_deaf() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (Path(__file__).parent / "child").write_text(str(child.pid))
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child.wait()

def test_that_ends() -> None:
    pass
"""


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_a_test_that_hangs_ends_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    limits = ("-o", "timeout=5", "-o", "faulthandler_timeout=10")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "conftest", "-n", "1", *limits]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-rA", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search("^FAILED .*test_that_can_be_told - Failed: Timeout", done.stdout, re.MULTILINE), done.stdout
    assert re.search("^FAILED .*test_that_is_deaf", done.stdout, re.MULTILINE), done.stdout
    assert "crashed while running" in done.stdout
    assert re.search("^PASSED .*test_that_ends", done.stdout, re.MULTILINE), done.stdout
    eventually(lambda: not is_alive(int((tmp_path / "child").read_text())))
