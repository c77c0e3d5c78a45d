"""What stands in `claude-proxy.toml`, and where.

Pure: text in, values out. `tomllib` says the line of a fault in the syntax, but not where a key stands that it has
read. So the text is taken apart a second time, statement by statement: the fewest lines that are TOML by themselves are
one statement, and its keys stand there. With that every refusal can name file, line, key, rule and remedy. What the
settings mean is decided in `settings`; the tables that no environment variable can express are read here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from claude_proxy.errors import SettingsError

Family: TypeAlias = Literal["claude", "reasoning", "chat"]
Tokenizer: TypeAlias = Literal["openai", "claude"]
Keys: TypeAlias = tuple[str, ...]

DEFAULT_SERVER = "default"
"""The name of the server that REDCAP_API_URL and its like describe."""

SECTIONS = ("models", "aliases", "servers")
_FAMILIES: Mapping[str, Family] = {"claude": "claude", "reasoning": "reasoning", "chat": "chat"}
_TOKENIZERS: Mapping[str, Tokenizer] = {"openai": "openai", "claude": "claude"}
_REFERENCE = "docs/configuration.md explains them all."
_IN_QUOTES = "A name with a dot, a blank or a * stands in quotes."
_MOST_TOKENS = 100_000_000


class AliasFacts(NamedTuple):
    """What is said of an alias, as in `models.Alias`; None leaves a fact to the built-in tables."""

    window: int | None = None
    max_output: int | None = None
    sees: bool | None = None
    family: Family | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Document:
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

    def check_names(self, keys: Keys, known: Iterable[str], remedy: str = _REFERENCE) -> None:
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


# --- text -------------------------------------------------------------------------------------------------------------


def read_document(text: str, name: str) -> Document:
    """Read the text of a file.

    Raises:
        SettingsError: it is not TOML; the message says where.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        return Document(name, tomllib.loads(text), dict(_find_lines(text)))
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


def _find_lines(text: str) -> Iterator[tuple[Keys, int]]:
    """The keys of a text that is TOML, each with the line where it is first set."""
    section: Keys = ()
    seen: set[Keys] = set()
    rows = text.split("\n")
    for line, table in _statements(rows):
        found = list(_paths(table))
        if rows[line - 1].lstrip().startswith("["):
            section = found[-1] if found else ()
            found = [section[:count] for count in range(1, len(section) + 1)]
        else:
            found = [(*section, *keys) for keys in found]
        for keys in found:
            if keys not in seen:
                seen.add(keys)
                yield keys, line


def _statements(rows: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The statements of a text, each with the number of its first line."""
    first = 0
    while first < len(rows):
        for last in range(first + 1, len(rows) + 1):
            try:
                table = tomllib.loads("\n".join(rows[first:last]))
            except tomllib.TOMLDecodeError:
                continue
            if table:
                yield first + 1, table
            first = last
            break
        else:
            return


def _paths(table: Any, above: Keys = ()) -> Iterator[Keys]:
    """The paths to all keys of a table, those of tables in it included."""
    if isinstance(table, dict):
        for name, value in table.items():
            yield (*above, name)
            yield from _paths(value, (*above, name))


# --- tables -----------------------------------------------------------------------------------------------------------


def read_models(document: Document, settings: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The model table: names and patterns to aliases, and of those that say so, to the names of servers.

    Args:
        document: the file.
        settings: names that can only have come below `[models]` by mistake.

    Raises:
        SettingsError: an entry is not what it must be.
    """
    aliases: dict[str, str] = {}
    servers: dict[str, str] = {}
    misplaced = set(settings)
    for name, value in document.table("models").items():
        keys = ("models", name)
        if name in misplaced:
            raise document.fault(
                keys,
                f"{name} is a setting, and stands below [models]. Move it above the first line that begins with [.",
            )
        entry = value if isinstance(value, dict) else {"alias": value}
        if isinstance(value, dict):
            document.check_names(keys, ("alias", "server"), _IN_QUOTES)
        if not _is_name(entry.get("alias")):
            raise document.fault(
                keys,
                f'{name!r} must lead to an alias, as in "{name}" = "gpt-4o" or {{ alias = "gpt-4o", server = "lab" }}.',
            )
        aliases[name] = entry["alias"]
        if "server" in entry:
            if not _is_name(entry["server"]):
                raise document.fault((*keys, "server"), "server must be the name of a server, in quotes.")
            servers[name] = entry["server"]
    return aliases, servers


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def read_aliases(document: Document) -> dict[str, AliasFacts]:
    """What is said of aliases, by name or pattern.

    Raises:
        SettingsError: a fact is not what it must be.
    """
    return {name: _facts(document, ("aliases", name)) for name in document.table("aliases")}


def _facts(document: Document, keys: Keys) -> AliasFacts:
    document.check_names(keys, AliasFacts._fields, f"{_REFERENCE} {_IN_QUOTES}")
    facts = document.table(*keys)
    for name, value in facts.items():
        rule = ""
        if name in {"window", "max_output"}:
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_TOKENS
            rule = "" if whole else f"a whole number of tokens from 1 to {_MOST_TOKENS}, without quotes"
        elif name == "sees":
            rule = "" if isinstance(value, bool) else "true or false, without quotes"
        else:
            words = _FAMILIES if name == "family" else _TOKENIZERS
            rule = "" if isinstance(value, str) and value in words else f"one of {', '.join(words)}, in quotes"
        if rule:
            raise document.fault((*keys, name), f"{name} = {value!r} cannot be used: it must be {rule}.")
    return AliasFacts(**facts)
