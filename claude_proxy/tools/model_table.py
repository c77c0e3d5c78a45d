"""The table of models as it will be applied: name -> alias, what is known of the alias, and which rule decided.

Every row is decided by `choose_alias`, as a request would be; here is only which names are worth a row: those that
Claude Code sends by itself, the configured ones, the built-in ones. A pattern stands for all names like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from claude_proxy.core.aliases.mapping import Choice, choose_alias, offered_models
from claude_proxy.settings.table import Settings
from claude_proxy.tools.claude_environment import choose_model

_SHORT_NAMES = ("default", "opus", "sonnet", "haiku", "fable")
_BUILT_IN_PATTERNS = ("*claude*haiku*", "*claude*")  # names that `choose_alias` treats as it does all names like them
_HEADINGS = ("NAME", "ALIAS", "WINDOW", "MAX OUTPUT", "IMAGES", "RULE")
_NUMBERS = (2, 3)  # the columns to align on the right
_ANY_OTHER = "\nAny other name is taken for an alias itself.\n"


@dataclass(frozen=True)
class Row:
    """One name, or pattern of names, and what answers for it.

    Attributes:
        name: what a client sends.
        choice: which alias answers, and why.
        is_needed: whether it is configured, or Claude Code sends it by itself.
    """

    name: str
    choice: Choice
    is_needed: bool = False

    def as_json(self) -> dict[str, Any]:
        """The row for a program."""
        alias = self.choice.alias
        return {
            "name": self.name,
            "alias": alias.name,
            "server": self.choice.server,
            "rule": self.choice.rule,
            "family": alias.family,
            "window": alias.window,
            "max_output": alias.max_output,
            "sees_images": alias.sees,
            "reads_pdfs": alias.reads_pdfs,
        }


def explain(name: str, settings: Settings, *, is_needed: bool = False) -> Row:
    """What becomes of one name."""
    return Row(name, choose_alias(name, *settings.model_rules), is_needed)


def sent_name(name: str, environ: Mapping[str, str]) -> str:
    """What Claude Code sends for a name that a user gives it: it knows a few short ones."""
    return choose_model(name, {**environ, "ANTHROPIC_MODEL": ""}, None)


def rows(settings: Settings, environ: Mapping[str, str]) -> list[Row]:
    """The whole table: what Claude Code sends in this environment, what is configured, what is built in."""
    own = environ.get("ANTHROPIC_MODEL")
    sent = [sent_name(name, environ) for name in ((own, *_SHORT_NAMES) if own else _SHORT_NAMES)]
    needed = dict.fromkeys([*sent, *settings.model_map])
    names = dict.fromkeys([*needed, *offered_models(settings.model_map), *_BUILT_IN_PATTERNS])
    return [explain(name, settings, is_needed=name in needed) for name in names]


def aliases(table: Iterable[Row]) -> list[Row]:
    """One row for each alias: the first that leads to it, which is a needed one if any is."""
    first: dict[str, Row] = {}
    for row in table:
        first.setdefault(row.choice.label, row)
    return list(first.values())


def table_text(table: Sequence[Row]) -> str:
    """The table for a reader."""
    lines = [_HEADINGS, *(_cells(row) for row in table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    layout = "  ".join(f"{{:{'>' if column in _NUMBERS else '<'}{width}}}" for column, width in enumerate(widths))
    return "".join(f"{layout.format(*line).rstrip()}\n" for line in lines) + _ANY_OTHER


def _cells(row: Row) -> tuple[str, ...]:
    alias = row.choice.alias
    sees = "yes" if alias.sees else "no"
    return row.name, row.choice.label, f"{alias.window:,}", f"{alias.max_output:,}", sees, row.choice.rule


def row_text(row: Row, asked: str) -> str:
    """One name, explained to the user who asked for `asked`."""
    alias = row.choice.alias
    short = f"Claude Code sends {row.name} for {asked}.\n" if asked != row.name else ""
    pdfs = " and PDFs" if alias.reads_pdfs else ""
    apology = "If SecureChatAI has no such alias, it apologizes instead of answering.\n"
    return (
        f"{row.name} -> {row.choice.label}\n\n{short}"
        f"Chosen by {row.choice.rule}.\n{apology if row.choice.is_client_text else ''}"
        f"Window: {alias.window:,} tokens of prompt and reply together.\n"
        f"Reply: cut at {alias.max_output:,} tokens; the proxy continues it.\n"
        f"Images: {f'it sees them{pdfs}' if alias.sees else 'it is told that they were left out'}.\n"
    )
