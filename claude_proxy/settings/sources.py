"""Where settings come from: command line, environment, `.env`, `claude-proxy.toml`; the first that sets one wins.

Both files lie in one folder, the user's own (`home`). The working folder may be a repository that somebody else wrote,
and must not say where tokens and prompts go or whose certificates are trusted: its files are read only on request.

Whatever is wrong is said in one `SettingsError` that names the setting, its value and what to do, and in a file the
line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from claude_proxy.errors import SettingsError
from claude_proxy.settings.dotenv import read_dotenv
from claude_proxy.settings.table import TABLE, Setting, Settings
from claude_proxy.settings.toml_file import ConfigFile, parse_config
from claude_proxy.settings.toml_settings import (
    PASSWORD,
    SECTIONS,
    find_exposed,
    read_aliases,
    read_models,
    read_servers,
    read_setting,
)
from claude_proxy.settings.values import explain_unreadable

_Layers: TypeAlias = Mapping[str, Mapping[str, str]]
"""Sources in words, the first one first, and the variables that each sets."""

CONFIG_VARIABLE = "CLAUDE_PROXY_CONFIG"
CONFIG_FILE = "claude-proxy.toml"
HOME_VARIABLE = "CLAUDE_PROXY_HOME"


def home(environ: Mapping[str, str]) -> Path:
    """The folder whose `.env` and `claude-proxy.toml` are the user's own, wherever a command is started.

    It is `CLAUDE_PROXY_HOME`, else the checkout that this code lies in, else the user's folder for configuration.

    Raises:
        SettingsError: there is no such folder.
    """
    if named := environ.get(HOME_VARIABLE, "").strip():
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "claude_api_proxy.py").is_file():
        return checkout
    usual = os.path.expanduser("~/.config")  # noqa: PTH111 - the other one fails where there is no home
    for base in (environ.get("XDG_CONFIG_HOME", ""), environ.get("APPDATA", ""), usual):
        if Path(base).is_absolute():  # a relative one would be in the working folder
            return Path(base) / "claude-proxy"
    raise SettingsError(f"There is no home folder here to read .env from. Set {HOME_VARIABLE} to a folder of your own.")


def describe_unread(folder: Path) -> str:
    """A sentence on settings in the working folder that are not read, as those of another folder are; "" for none."""
    here = Path.cwd()
    if folder.resolve() == here:
        return ""
    try:
        has_ours = any(name.startswith("REDCAP_") for name in read_dotenv(here / ".env"))
    except SettingsError:  # of another program, which reads it differently
        has_ours = False
    found = [*([".env"] if has_ours else []), *([CONFIG_FILE] if (here / CONFIG_FILE).is_file() else [])]
    if not found:
        return ""
    return (
        f"The settings in the working folder {here} ({' and '.join(found)}) are not read, for whoever wrote them would "
        f"decide where your token goes. If they are yours, add --here, or move them to {folder}."
    )


def load(environ: Mapping[str, str], folder: Path | None, given: Mapping[str, str] | None = None) -> Settings:
    """Make the settings: see `load_with_sources`."""
    return load_with_sources(environ, folder, given)[0]


def load_with_sources(
    environ: Mapping[str, str], folder: Path | None, given: Mapping[str, str] | None = None
) -> tuple[Settings, Mapping[str, str]]:
    """Make the settings from all the places where they may stand, and tell where each came from.

    Args:
        environ: the environment. An empty value counts as not set, here and in `.env`.
        folder: where `.env` and `claude-proxy.toml` may lie; None leaves out both, wherever they are.
        given: what the command line says, by the names of the environment; it wins over everything else.

    Returns:
        The settings; and the source in words of each of `TABLE`, by its name, and of each table of the file.

    Raises:
        SettingsError: a setting is missing or malformed, or a file cannot be read.
    """
    given = given or {}
    dotenv = read_dotenv(folder / ".env") if folder else {}
    for setting in TABLE:
        if text := dotenv.get(setting.name, "").strip():
            dotenv[setting.name] = setting.from_folder(text, folder or Path())
    layers = {"the command line": given, "the environment": environ, str((folder or Path()) / ".env"): dotenv}
    file = _read_config_file(folder, _named_file(given, environ, dotenv, folder)) if folder else ConfigFile(CONFIG_FILE)
    file.check_names((), [*(setting.field for setting in TABLE), *SECTIONS])
    values, sources = _read_table(layers, file)
    if missing := next((setting for setting in TABLE if setting.default is None and setting.field not in values), None):
        own = folder or Path()
        raise SettingsError(
            f'{missing.name} is not set. Run "claude-proxy init", which asks for it, or try "claude-proxy demo", which '
            f"needs none; or put {missing.name}={missing.example} with your own value into {own / '.env'} or the "
            f"environment. {missing.help} {describe_unread(own)}".rstrip()
        )
    values["servers"] = read_servers(file, values["redcap_api_url"], values.get("redcap_api_token"))
    model_map, model_servers = read_models(file, values["servers"])
    if model_map and "model_map" in file.data:
        raise file.fault(("model_map",), "model_map and [models] say the same. Keep [models].")
    if model_map and "model_map" not in values:
        values |= {"model_map": model_map, "model_servers": model_servers}
        sources["MODEL_MAP"] = file.place("models")
    sources |= {f"[{name}]": file.place(name) for name in ("aliases", "servers") if name in file.data}
    values["alias_facts"] = read_aliases(file)
    return Settings(**values, exposed_file=find_exposed(file)), sources


def _read_table(layers: _Layers, file: ConfigFile) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of `Settings` that are set, and for each of `TABLE` its source in words."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in TABLE:
        source, text = _find(setting, layers)
        if not text and setting.field in file.data:
            source = file.place(setting.field)
            values |= read_setting(file, setting)
        else:
            values |= _parse(setting, text)
        sources[setting.name] = source or ("default" if setting.default else "not set")
    return values, sources


def _find(setting: Setting, layers: _Layers) -> tuple[str, str]:
    """The first source that sets a setting, and its text; both are empty where there is none."""
    names = (setting.name.lower(), setting.name) if setting.shared else (setting.name,)
    found = ((source, layer.get(name, "").strip()) for source, layer in layers.items() for name in names)
    return next(((source, text) for source, text in found if text), ("", ""))


def _parse(setting: Setting, text: str) -> dict[str, Any]:
    """The field and value that a setting's text stands for; nothing where it is not set."""
    if not text:
        return {}
    try:
        return {setting.field: setting.parse(text)}
    except ValueError as error:
        shown = "" if setting.secret else f"={PASSWORD.sub('//…@', text)!r}"
        raise SettingsError(f"{setting.name}{shown} cannot be used: {error}. {setting.help}") from None


def config_path(environ: Mapping[str, str], folder: Path, given: Mapping[str, str] | None = None) -> Path:
    """Where the configuration file lies, or would lie.

    Raises:
        SettingsError: `.env`, which may name it, cannot be read.
    """
    return _named_file(given or {}, environ, read_dotenv(folder / ".env"), folder) or folder / CONFIG_FILE


def _named_file(
    given: Mapping[str, str], environ: Mapping[str, str], dotenv: Mapping[str, str], folder: Path
) -> Path | None:
    """What `CLAUDE_PROXY_CONFIG` says: in `.env` a path from its folder, elsewhere one from the working folder."""
    if said := given.get(CONFIG_VARIABLE, "").strip() or environ.get(CONFIG_VARIABLE, "").strip():
        return Path(said).absolute()
    said = dotenv.get(CONFIG_VARIABLE, "").strip()
    return folder / said if said else None


def _read_config_file(folder: Path, named: Path | None) -> ConfigFile:
    path = named or folder / CONFIG_FILE
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not named:
            return ConfigFile(str(path))
        remedy = f"Correct {CONFIG_VARIABLE}, or the file." if named else "Correct it, or move it away."
        raise SettingsError(f"{path} cannot be read: {explain_unreadable(error)}. {remedy}") from None
