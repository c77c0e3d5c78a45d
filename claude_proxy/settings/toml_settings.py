"""What `claude-proxy.toml` says of settings and servers, as values; whatever is wrong names its line."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from claude_proxy.settings.table import TABLE, Server, Setting, Settings
from claude_proxy.settings.toml_file import DEFAULT_SERVER, Document

PASSWORD = re.compile(r"//[^/]*@")
"""Of an address; no message may show it."""

_KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false, without quotes"),
    int: ((int,), "a whole number, without quotes"),
    float: ((int, float), "a number, without quotes"),
    str: ((str,), "text in quotes"),
}
_LISTS = frozenset({"vision_aliases", "no_proxy"})  # which are words between commas


def document_value(setting: Setting, document: Document) -> dict[str, Any]:
    """The field and value that a value of the file stands for; nothing where it is an empty text."""
    value = document.data[setting.field]
    if setting.field in _LISTS and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = ",".join(value)
    return _parse_typed(setting, document, (setting.field,), value)


def _parse_typed(setting: Setting, document: Document, keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """What a value of the file stands for by the rules of a setting, under its own key; nothing for an empty text."""
    kinds, rule = _KINDS.get(type(setting.parse(setting.default)) if setting.default else str, _KINDS[str])
    shown = "" if setting.secret else f" = {_shown(value)}"
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        if setting.field == "model_map":
            rule += ", the path of a file; a table of models stands below [models]"
        raise document.fault(keys, f"{keys[-1]}{shown} cannot be used: it must be {rule}. {setting.help}")
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    try:
        return {keys[-1]: setting.parse(text)} if text else {}
    except ValueError as error:
        raise document.fault(keys, f"{keys[-1]}{shown} cannot be used: {error}. {setting.help}") from None


def _shown(value: Any) -> str:
    return PASSWORD.sub("//…@", repr(value) if isinstance(value, str) else str(value).lower())


_SERVER_KEYS: Mapping[str, str] = {
    "url": "REDCAP_API_URL",
    "token": "REDCAP_API_TOKEN",
    "module_prefix": "REDCAP_MODULE_PREFIX",
    "decodes_entities": "REDCAP_DECODES_ENTITIES",
}
"""The keys of a server, and the settings whose rules they follow."""


def read_servers(document: Document, settings: Settings) -> dict[str, Server]:
    """The further servers by name.

    Raises:
        SettingsError: one cannot be used.
    """
    return {name: _read_server(document, name, settings) for name in document.table("servers")}


def _read_server(document: Document, name: str, settings: Settings) -> Server:
    keys = ("servers", name)
    if name == DEFAULT_SERVER:
        raise document.fault(keys, "the server default is that of REDCAP_API_URL. Give this one another name.")
    document.check_names(keys, _SERVER_KEYS)
    by_name = {setting.name: setting for setting in TABLE}
    values: dict[str, Any] = {}
    for key, value in document.table(*keys).items():
        values |= _parse_typed(by_name[_SERVER_KEYS[key]], document, (*keys, key), value)
    if "url" not in values:
        raise document.fault(keys, f'[servers.{name}] needs a url, as in url = "{by_name["REDCAP_API_URL"].example}".')
    server = Server(**values)
    if server.token and settings.redcap_api_token is None:
        raise document.fault(
            (*keys, "token"),
            f"the token of [servers.{name}] would serve whoever reaches this proxy, for without REDCAP_API_TOKEN the "
            "proxy itself lets in every client. Set REDCAP_API_TOKEN, or remove this one: then each client's own is "
            "passed on.",
        )
    if settings.redcap_api_token and not server.token and _origin(server.url) != _origin(settings.redcap_api_url):
        raise document.fault(
            keys,
            f"[servers.{name}] needs a token of its own: REDCAP_API_TOKEN belongs to {settings.redcap_api_url} and is "
            "not sent to another machine.",
        )
    return server


def check_servers(document: Document, model_servers: Mapping[str, str], known: list[str]) -> None:
    """Refuse models that lead to servers that are not known.

    Raises:
        SettingsError: one does.
    """
    for name, server in model_servers.items():
        if server not in known:
            raise document.fault(
                ("models", name, "server"),
                f"there is no server {server!r}; there are {', '.join(known)}. Correct the name, or add "
                f"[servers.{server}].",
            )


def _origin(url: str) -> tuple[str, str | None, int]:
    parts: SplitResult = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def find_exposed(document: Document) -> str:
    """The path of the file, where it holds a secret that other users of this machine can read."""
    secrets = [setting.field for setting in TABLE if setting.secret]
    has_secret = any(document.data.get(name) for name in secrets) or any(
        server.get("token") for server in document.table("servers").values()
    )
    if not has_secret or os.name != "posix":
        return ""
    try:
        mode = Path(document.name).stat().st_mode
    except OSError:
        return ""
    return document.name if mode & (stat.S_IRGRP | stat.S_IROTH) else ""
