"""A test that is skipped and not listed has failed, where that is asked for; the list names tests that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skips

ROOT = Path(__file__).resolve().parent.parent
SUITE = """\
import pytest

def test_that_passes(): pass

def test_listed(): pytest.skip("for a good reason")

@pytest.mark.skipif(True, reason="nobody looked")
def test_unlisted(): pass

def test_that_skips_itself(): pytest.skip("nothing to say")

@pytest.fixture
def absent(): pytest.skip("nothing to work with")

def test_whose_fixture_skips(absent): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_that_is_known_to_fail(): assert False
"""
SKIPPED_AS_A_WHOLE = 'import pytest\npytest.skip("not on this system", allow_module_level=True)\n'
CONFTEST = """\
import skips
from skips import pytest_addoption, pytest_make_collect_report, pytest_runtest_makereport

skips.ALLOWED = {"test_some.py::test_listed": "for this test"}
"""


STRICT = [((), "true"), (("--no-unlisted-skips",), "")]


def run(folder: Path, suite: str, *flags: str, ci: str = "") -> tuple[str, dict[str, int]]:
    """What pytest prints about a suite, and the counts of its last line."""
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_some.py").write_text(suite, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "--rootdir", str(folder), *flags],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    counts = {
        word.rstrip("s"): int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", done.stdout.splitlines()[-1])
    }
    return done.stdout, counts


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("flags", "ci"), STRICT, ids=["in CI", "by flag"])
def test_an_unlisted_skip_has_failed(tmp_path: Path, flags: tuple[str, ...], ci: str, workers: str) -> None:
    printed, counts = run(tmp_path, SUITE, "-n", workers, *flags, ci=ci)
    assert counts.items() >= {"passed": 1, "skipped": 1, "failed": 1, "error": 2, "xfailed": 1}.items()
    reasons = ("nobody looked", "nothing to say", "nothing to work with")
    names = ("unlisted", "that_skips_itself", "whose_fixture_skips")
    for name, reason in zip(names, reasons, strict=True):
        assert re.search(rf"::test_{name} was skipped, which tests/skips.py does not allow. .*{reason}", printed)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("flags", "ci"), STRICT, ids=["in CI", "by flag"])
def test_so_has_a_module_that_skips_itself(tmp_path: Path, flags: tuple[str, ...], ci: str, workers: str) -> None:
    printed, counts = run(tmp_path, SKIPPED_AS_A_WHOLE, "-n", workers, *flags, ci=ci)
    assert counts["error"]
    assert "test_some.py was skipped, which tests/skips.py does not allow. " in printed


@pytest.mark.slow
def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    _, counts = run(tmp_path, SUITE)
    assert counts.items() >= {"passed": 1, "skipped": 4, "xfailed": 1}.items()
    assert not counts.keys() & {"failed", "error"}


@pytest.mark.parametrize("pattern", skips.ALLOWED)
def test_each_listed_test_exists(pattern: str) -> None:
    path, _, name = pattern.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    inherited = "ChatModelIntegrationTests" in text
    assert inherited or f"def {name.partition('[')[0]}(" in text
