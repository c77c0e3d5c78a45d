"""What `claude-proxy.toml` says, as values: settings, and the tables that no environment variable can express.

Whatever is wrong names its line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from claude_proxy.settings.alias_facts import AliasFacts, Family, Tokenizer
from claude_proxy.settings.table import DEFAULT_SERVER, TABLE, Server, Setting
from claude_proxy.settings.toml_file import REFERENCE, ConfigFile, Keys
from claude_proxy.settings.values import Secret

SECTIONS = ("models", "aliases", "servers")

PASSWORD = re.compile(r"//[^/]*@")
"""Of an address; no message may show it."""

_IN_QUOTES = "A name with a dot, a blank or a * stands in quotes."

# --- settings ---------------------------------------------------------------------------------------------------------

_KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false, without quotes"),
    int: ((int,), "a whole number, without quotes"),
    float: ((int, float), "a number, without quotes"),
    str: ((str,), "text in quotes"),
}
_LISTS = frozenset({"vision_aliases", "no_proxy"})  # which are words between commas


def read_setting(file: ConfigFile, setting: Setting) -> dict[str, Any]:
    """The field and value that a value of the file stands for; nothing where it is an empty text.

    Raises:
        SettingsError: it cannot be used.
    """
    value = file.data[setting.field]
    if setting.field in _LISTS and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = ",".join(value)
    return _parse_typed(setting, file, (setting.field,), value)


def _parse_typed(setting: Setting, file: ConfigFile, keys: Keys, value: Any) -> dict[str, Any]:
    """What a value of the file stands for by the rules of a setting, under its own key; nothing for an empty text."""
    kinds, rule = _KINDS.get(type(setting.parse(setting.default)) if setting.default else str, _KINDS[str])
    written = repr(value) if isinstance(value, str) else str(value).lower()
    shown = "" if setting.secret else f" = {PASSWORD.sub('//…@', written)}"
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        if setting.field == "model_map":
            rule += ", the path of a file; a table of models stands below [models]"
        raise file.fault(keys, f"{keys[-1]}{shown} cannot be used: it must be {rule}. {setting.help}")
    text = str(value).strip()
    text = setting.from_folder(text, Path(file.name).parent) if text else ""
    try:
        return {keys[-1]: setting.parse(text)} if text else {}
    except ValueError as error:
        raise file.fault(keys, f"{keys[-1]}{shown} cannot be used: {error}. {setting.help}") from None


# --- models -----------------------------------------------------------------------------------------------------------


def read_models(file: ConfigFile, known_servers: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The model table: names and patterns to aliases, and of those that say so, to the names of servers.

    Raises:
        SettingsError: an entry is not what it must be.
    """
    aliases: dict[str, str] = {}
    servers: dict[str, str] = {}
    misplaced = {setting.field for setting in TABLE}
    for name, value in file.table("models").items():
        keys = ("models", name)
        if name in misplaced:
            raise file.fault(
                keys,
                f"{name} is a setting, and stands below [models]. Move it above the first line that begins with [.",
            )
        if isinstance(value, dict):
            file.check_names(keys, ("alias", "server"), _IN_QUOTES)
        entry = value if isinstance(value, dict) else {"alias": value}
        alias, server = entry.get("alias"), entry.get("server", DEFAULT_SERVER)
        if not isinstance(alias, str) or not alias.strip() or not alias.isprintable():
            raise file.fault(
                keys,
                f'{name!r} must lead to an alias, as in "{name}" = "gpt-4o" or {{ alias = "gpt-4o", server = "lab" }}.',
            )
        if server not in (DEFAULT_SERVER, *known_servers):
            raise file.fault(
                (*keys, "server"),
                f"there is no server {server!r}; there are {', '.join((DEFAULT_SERVER, *known_servers))}. Correct the "
                f"name, or add [servers.{server}].",
            )
        aliases[name] = alias
        servers |= {name: server} if "server" in entry else {}
    return aliases, servers


# --- aliases ----------------------------------------------------------------------------------------------------------

_MOST_TOKENS = 100_000_000


def _is_token_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_TOKENS


_TOKEN_COUNT = _is_token_count, f"a whole number of tokens from 1 to {_MOST_TOKENS}, without quotes"
_FACTS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "window": _TOKEN_COUNT,
    "max_output": _TOKEN_COUNT,
    "sees": (lambda value: isinstance(value, bool), "true or false, without quotes"),
    "family": (get_args(Family).__contains__, f"one of {', '.join(get_args(Family))}, in quotes"),
    "tokenizer": (get_args(Tokenizer).__contains__, f"one of {', '.join(get_args(Tokenizer))}, in quotes"),
}
"""What is right for each fact of an alias, and the same as a rule in words."""


def read_aliases(file: ConfigFile) -> dict[str, AliasFacts]:
    """What is said of aliases, by name or pattern.

    Raises:
        SettingsError: a fact is not what it must be.
    """
    return {name: _read_facts(file, ("aliases", name)) for name in file.table("aliases")}


def _read_facts(file: ConfigFile, keys: Keys) -> AliasFacts:
    file.check_names(keys, _FACTS, f"{REFERENCE} {_IN_QUOTES}")
    facts = file.table(*keys)
    for name, value in facts.items():
        is_right, rule = _FACTS[name]
        if not is_right(value):
            raise file.fault((*keys, name), f"{name} = {value!r} cannot be used: it must be {rule}.")
    return AliasFacts(**facts)


# --- servers ----------------------------------------------------------------------------------------------------------

_SERVER_KEYS: Mapping[str, str] = {
    "url": "REDCAP_API_URL",
    "token": "REDCAP_API_TOKEN",
    "module_prefix": "REDCAP_MODULE_PREFIX",
    "decodes_entities": "REDCAP_DECODES_ENTITIES",
}
"""The keys of a server, and the settings whose rules they follow."""


def read_servers(file: ConfigFile, url: str, token: Secret | None) -> dict[str, Server]:
    """The further servers by name; `url` and `token` are those of the default one.

    Raises:
        SettingsError: one cannot be used.
    """
    servers = {name: _read_server(file, name) for name in file.table("servers")}
    for name, server in servers.items():
        keys = ("servers", name)
        if server.token and token is None:
            raise file.fault(
                (*keys, "token"),
                f"the token of [servers.{name}] would serve whoever reaches this proxy, for without REDCAP_API_TOKEN "
                "the proxy itself lets in every client. Set REDCAP_API_TOKEN, or remove this one: then each client's "
                "own is passed on.",
            )
        if token and not server.token and _origin(server.url) != _origin(url):
            raise file.fault(
                keys,
                f"[servers.{name}] needs a token of its own: REDCAP_API_TOKEN belongs to {url} and is not sent to "
                "another machine.",
            )
    return servers


def _read_server(file: ConfigFile, name: str) -> Server:
    keys = ("servers", name)
    if name == DEFAULT_SERVER:
        raise file.fault(keys, "the server default is that of REDCAP_API_URL. Give this one another name.")
    file.check_names(keys, _SERVER_KEYS)
    by_name = {setting.name: setting for setting in TABLE}
    values: dict[str, Any] = {}
    for key, value in file.table(*keys).items():
        values |= _parse_typed(by_name[_SERVER_KEYS[key]], file, (*keys, key), value)
    if "url" not in values:
        raise file.fault(keys, f'[servers.{name}] needs a url, as in url = "{by_name["REDCAP_API_URL"].example}".')
    return Server(**values)


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


# --- who can read it --------------------------------------------------------------------------------------------------


def find_exposed(file: ConfigFile) -> str:
    """The path of the file, where it holds a secret that other users of this machine can read."""
    has_secret = any(file.data.get(setting.field) for setting in TABLE if setting.secret) or any(
        server.get("token") for server in file.table("servers").values()
    )
    if not has_secret or os.name != "posix":
        return ""
    try:
        mode = Path(file.name).stat().st_mode
    except OSError:
        return ""
    return file.name if mode & (stat.S_IRGRP | stat.S_IROTH) else ""
