"""The tests that may be skipped, and why; in CI, and with `--no-unlisted-skips`, any other that is skipped has failed.

A test that is skipped everywhere holds nothing, and looks as green as one that passes.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from fnmatch import fnmatchcase

import pytest

ALLOWED: Mapping[str, str] = {
    "tests/e2e/test_langchain.py::*::test_audio_inputs": "the Messages API takes no audio",
    "tests/e2e/test_langchain.py::*::test_json_mode": "the Messages API has no such mode, only schemas",
    "tests/e2e/test_langchain.py::*::test_stream_time": "the suite's one benchmark replays recorded traffic",
    "tests/tools/test_launcher.py::test_a_shell_reads_back_what_was_quoted[[]pwsh]": "Debian has no PowerShell",
    "tests/test_cli.py::test_real_older_pythons_get_one_sentence": "no registry has Pythons that old; some machines do",
    "tests/test_distribution.py::test_the_single_file_says_what_an_old_python_lacks": "likewise",
    "tests/test_cli.py::test_newer_pythons_serve": "a machine may have none newer; `check.py --python 3.14` brings one",
    "tests/test_cli.py::test_listening_on_loopback_is_not[[]::1]": "many containers have no IPv6",
    "tests/test_cli.py::test_a_port_in_use_is_explained[[]::1]": "likewise",
    "tests/shell/server/test_handler.py::test_the_url_leads_to_the_server[[]::1]": "likewise",
    "tests/shell/server/test_handler.py::test_nobody_else_can_be_taken_for_localhost[[]::1]": "likewise",
    "tests/shell/server/test_handler.py::test_localhost_is_both_addresses_until_the_end": "likewise",
    "tests/shell/server/test_handler.py::test_any_free_port_is_one_that_is_free_at_both_addresses": "likewise",
}
"""Patterns of tests' names, and the reasons. Skips that depend on the system alone (Windows, macOS) are not listed."""


def is_allowed(name: str) -> bool:
    """Whether the test of this name may be skipped."""
    return any(fnmatchcase(name, pattern) for pattern in ALLOWED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-unlisted-skips",
        action="store_true",
        default=bool(os.environ.get("CI")),
        help="fail a test that is skipped, unless tests/skips.py lists it (the default in CI)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.config.option.no_unlisted_skips and not hasattr(report, "wasxfail"):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield  # a module can skip itself as a whole
    if collector.config.option.no_unlisted_skips:
        _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not is_allowed(report.nodeid):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which tests/skips.py does not allow. {reason}"
