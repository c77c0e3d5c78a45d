"""`models`: which alias answers for which name."""

from __future__ import annotations

import argparse
import os

from claude_proxy.commands.terminal import as_json, given_settings, settings_folder, write_out
from claude_proxy.core.aliases.mapping import Choice, choose_alias
from claude_proxy.settings import sources
from claude_proxy.tools import model_table


def run(options: argparse.Namespace) -> int:
    """Show the table, or explain one name."""
    configured = sources.load(os.environ, settings_folder(), given_settings(options))

    def choose(name: str) -> Choice:
        return choose_alias(name, *configured.model_rules)

    if options.name is None:
        table = model_table.rows(choose, configured.model_map, os.environ)
        text = as_json([row.as_json() for row in table]) if options.json else model_table.table_text(table)
    else:
        name = model_table.sent_name(options.name, os.environ)
        row = model_table.Row(name, choose(name))
        text = as_json(row.as_json()) if options.json else model_table.row_text(row, options.name)
    return write_out(text)
