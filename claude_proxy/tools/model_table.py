"""The table of models as it will be applied: name -> alias, what is known of the alias, and which rule decided.

Every row is decided by `choose_alias`, as a request would be; here is only which names are worth a row: those that
Claude Code sends by itself, the configured ones, the built-in ones. A pattern stands for all names like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from claude_proxy.core.aliases.mapping import Alias, Choice, label, offered_models
from claude_proxy.settings.toml_file import DEFAULT_SERVER
from claude_proxy.tools.claude_environment import choose_model

_SHORT_NAMES = ("default", "opus", "sonnet", "haiku", "fable")
_BUILT_IN_PATTERNS = ("*claude*haiku*", "*claude*")  # names that `choose_alias` treats as it does all names like them
_HEADINGS = ("NAME", "ALIAS", "WINDOW", "MAX OUTPUT", "IMAGES", "RULE")


@dataclass(frozen=True)
class Row:
    """One name, or pattern of names.

    Attributes:
        name: what a client sends.
        alias: who answers.
        rule: what decided.
        server: the name of the server it stands on.
        is_mapped: whether a rule maps it; otherwise the name itself is taken for an alias.
        is_needed: whether it is configured, or Claude Code sends it by itself: who asks for nothing gets it.
    """

    name: str
    alias: Alias
    rule: str
    server: str = DEFAULT_SERVER
    is_mapped: bool = True
    is_needed: bool = False

    @property
    def label(self) -> str:
        """The alias, with its server where that is not the default one."""
        return label(self.alias.name, self.server)

    def as_json(self) -> dict[str, Any]:
        """The row for a program."""
        return {
            "name": self.name,
            "alias": self.alias.name,
            "server": self.server,
            "rule": self.rule,
            "family": self.alias.family,
            "window": self.alias.window,
            "max_output": self.alias.max_output,
            "sees_images": self.alias.sees,
            "reads_pdfs": self.alias.reads_pdfs,
        }


Choose: TypeAlias = Callable[[str], Choice]
"""`choose_alias` with what is configured."""


def explain(name: str, choose: Choose, *, is_needed: bool = False) -> Row:
    """What becomes of one name."""
    choice = choose(name)
    return Row(name, choice.alias, choice.rule, choice.server, not choice.is_client_text, is_needed)


def sent_name(name: str, environ: Mapping[str, str]) -> str:
    """What Claude Code sends for a name that a user gives it: it knows a few short ones."""
    return choose_model(name, {**environ, "ANTHROPIC_MODEL": ""}, None)


def rows(choose: Choose, model_map: Mapping[str, str], environ: Mapping[str, str]) -> list[Row]:
    """The whole table: what Claude Code sends, what is configured, what is built in.

    Args:
        choose: decides each row.
        model_map: the configured names and patterns.
        environ: the environment, which may name the models that Claude Code shall send.
    """
    own = environ.get("ANTHROPIC_MODEL")
    sent = [sent_name(name, environ) for name in ((own, *_SHORT_NAMES) if own else _SHORT_NAMES)]
    needed = dict.fromkeys([*sent, *model_map])
    others = dict.fromkeys(name for name in (*offered_models(model_map), *_BUILT_IN_PATTERNS) if name not in needed)
    return [
        *(explain(name, choose, is_needed=True) for name in needed),
        *(explain(name, choose) for name in others),
    ]


def aliases(table: Iterable[Row]) -> list[Row]:
    """One row for each alias: the first that leads to it; needed if any is."""
    first: dict[str, Row] = {}
    for row in table:
        first.setdefault(row.label, row)
    return list(first.values())


def table_text(table: Sequence[Row]) -> str:
    """The table for a reader."""
    cells = [
        _HEADINGS,
        *(
            (row.name, row.label, f"{row.alias.window:,}", f"{row.alias.max_output:,}", _yes(row.alias), row.rule)
            for row in table
        ),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(_padded(cell, width, column) for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n\nAny other name is taken for an alias itself.\n"


def _padded(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in {2, 3} else cell.ljust(width)


def _yes(alias: Alias) -> str:
    return "yes" if alias.sees else "no"


def row_text(row: Row, asked: str) -> str:
    """One name, explained.

    Args:
        row: what becomes of it.
        asked: the name that the user gave.
    """
    short = f"Claude Code sends {row.name} for {asked}.\n" if asked != row.name else ""
    pdfs = " and PDFs" if row.alias.reads_pdfs else ""
    ask = "" if row.is_mapped else "If SecureChatAI has no such alias, it apologizes instead of answering.\n"
    return (
        f"{row.name} -> {row.label}\n\n{short}"
        f"Chosen by {row.rule}.\n{ask}"
        f"Window: {row.alias.window:,} tokens of prompt and reply together.\n"
        f"Reply: cut at {row.alias.max_output:,} tokens; the proxy continues it.\n"
        f"Images: {f'it sees them{pdfs}' if row.alias.sees else 'it is told that they were left out'}.\n"
    )
