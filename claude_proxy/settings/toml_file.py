"""The text of `claude-proxy.toml`: what stands in it, and in which line.

Pure: text in, values out. `tomllib` says the line of a fault in the syntax, but not where a key stands that it has
read. So the text is taken apart a second time, statement by statement: the fewest lines that are TOML by themselves are
one statement, and its keys stand there. With that every refusal can name file, line, key, rule and remedy. What the
values mean is decided in `toml_settings`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from claude_proxy.errors import SettingsError

Keys: TypeAlias = tuple[str, ...]

REFERENCE = "docs/configuration.md explains them all."


@dataclass(frozen=True)
class ConfigFile:
    """A file that has been read.

    Attributes:
        name: of the file, for messages.
        data: as `tomllib` gives it.
        lines: where each key stands, counted from 1.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[Keys, int] = field(default_factory=dict)

    def place(self, *keys: str) -> str:
        """File and line of a key; of the nearest above it where its own is not known."""
        for count in range(len(keys), 0, -1):
            if line := self.lines.get(keys[:count]):
                return f"{self.name}, line {line}"
        return self.name

    def fault(self, keys: Keys, sentence: str) -> SettingsError:
        """The refusal of a key."""
        return SettingsError(f"{self.place(*keys)}: {sentence}")

    def table(self, *keys: str) -> Mapping[str, Any]:
        """A table; an empty one where there is none.

        Raises:
            SettingsError: something else stands there.
        """
        found: Any = self.data
        for key in keys:
            found = found.get(key, {})
        if not isinstance(found, dict):
            raise self.fault(keys, f"{'.'.join(keys)} must be a table. Write its entries below [{'.'.join(keys)}].")
        return found

    def check_names(self, keys: Keys, known: Iterable[str], remedy: str = REFERENCE) -> None:
        """Refuse a name that means nothing in a table.

        Raises:
            SettingsError: with the nearest name that does.
        """
        known = list(known)
        where = f" in [{'.'.join(keys)}]" if keys else ""
        for name in self.table(*keys):
            if name not in known:
                nearest = difflib.get_close_matches(name.lower(), known, n=1)
                guess = f"Did you mean {nearest[0]}? " if nearest else ""
                raise self.fault((*keys, name), f"{name!r} is no name of a setting{where}. {guess}{remedy}")


def parse_config(text: str, name: str) -> ConfigFile:
    """Read the text of a file.

    Raises:
        SettingsError: it is not TOML; the message says where.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        return ConfigFile(name, tomllib.loads(text), _find_lines(text))
    except RecursionError:
        raise SettingsError(f"{name} cannot be read: its text is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        reason, line = _explain(str(error), text)
        raise SettingsError(f"{name}, line {line}: this is not TOML: {reason}. {_HINT}") from None


_HINT = "Texts stand in quotes, and true, false and numbers without; # begins a comment."


def _explain(message: str, text: str) -> tuple[str, int]:
    """What `tomllib` found, and in which line."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if found is None:
        return message, 1
    if found[2] is None:
        return f"{found[1]} at the end of the file", text.count("\n") + 1
    return f"{found[1]} at column {found[3]}", int(found[2])


def _find_lines(text: str) -> dict[Keys, int]:
    """The keys of a text that is TOML, each with the line where it is first set."""
    rows = text.split("\n")
    lines: dict[Keys, int] = {}
    section: Keys = ()
    first = 0
    for last in range(1, len(rows) + 1):
        try:
            table = tomllib.loads("\n".join(rows[first:last]))
        except tomllib.TOMLDecodeError:
            continue  # the statement goes on
        found = list(_paths(table))
        if rows[first].lstrip().startswith("["):
            *_, section = found
            found = [section[:count] for count in range(1, len(section) + 1)]
        else:
            found = [(*section, *keys) for keys in found]
        for keys in found:
            lines.setdefault(keys, first + 1)
        first = last
    return lines


def _paths(table: Any, above: Keys = ()) -> Iterator[Keys]:
    """The paths to all keys of a table, those of tables in it included."""
    if isinstance(table, dict):
        for name, value in table.items():
            yield (*above, name)
            yield from _paths(value, (*above, name))
