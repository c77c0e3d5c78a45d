"""`doctor`: every check, and how it went."""

from __future__ import annotations

import argparse
import os
import sys

from claude_proxy.commands.terminal import (
    FAILED,
    OK,
    as_json,
    given_settings,
    settings_folder,
    shows_colours,
    write_out,
)
from claude_proxy.tools import doctor


def run(options: argparse.Namespace) -> int:
    """Check everything."""
    colour = shows_colours(sys.stdout)
    findings = []
    for finding in doctor.examine(
        os.environ,
        settings_folder(options),
        given_settings(options),
        offline=options.offline,
        patience=options.timeout,
    ):
        findings.append(finding)
        if not options.json and write_out(doctor.line(finding, colour=colour) + "\n") != OK:
            return FAILED
    last = as_json(doctor.as_json(findings)) if options.json else doctor.summary(findings) + "\n"
    written = write_out(last)
    return written if doctor.is_well(findings) else FAILED
