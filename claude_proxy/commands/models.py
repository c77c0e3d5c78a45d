"""`models`: which alias answers for which name."""

from __future__ import annotations

import argparse
import os

from claude_proxy.commands.terminal import as_json, given_settings, settings_folder, write_out
from claude_proxy.settings import sources
from claude_proxy.tools import model_table


def run(options: argparse.Namespace) -> int:
    """Show the table, or explain one name."""
    configured = sources.load(os.environ, settings_folder(options), given_settings(options))
    if options.name is None:
        table = model_table.rows(configured, os.environ)
        text = as_json([row.as_json() for row in table]) if options.json else model_table.table_text(table)
    else:
        row = model_table.explain(model_table.sent_name(options.name, os.environ), configured)
        text = as_json(row.as_json()) if options.json else model_table.row_text(row, options.name)
    return write_out(text)
