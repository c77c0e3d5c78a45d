"""One table of settings, and the frozen `Settings` made from it.

A setting is text in the environment or in a `.env` file (the environment wins). `TABLE` says for each what it is for
and how its text becomes a value; `.env.example` and the reference in the docs are generated from it. Whatever is
wrong is said in one `SettingsError` that names the setting, its value and what to do.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from claude_proxy.errors import SettingsError


class Secret:
    """A string that shows itself only when asked, so that no log line or traceback can hold it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The string itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class Settings:
    """What the proxy was told. Durations are seconds.

    Attributes:
        redcap_api_url: REDCap's API address, normally ending in `/api/`.
        redcap_api_token: the one credential clients must present; None passes each client's own on to REDCap.
        listen_host: address to listen on.
        listen_port: port to listen on; 0 takes any free one.
        redcap_module_prefix: SecureChatAI's External Module prefix on this server.
        redcap_decodes_entities: whether the module HTML-entity-decodes replies (it does, as measured in June 2026).
        model_map: model name or pattern to SecureChatAI alias, before the built-in table.
        connect_timeout: limit for reaching REDCap.
        upstream_timeout: limit for one whole call to REDCap.
        stream_delay: how long a stream may stay silent before its 200 is sent.
        ping_interval: time between signs of life in a stream that waits for the model.
        log_level: `debug`, `info`, `warning` or `error`.
        log_format: `text` or `json`.
    """

    redcap_api_url: str
    redcap_api_token: Secret | None = None
    listen_host: str = "127.0.0.1"
    listen_port: int = 8765
    redcap_module_prefix: str = "secure_chat_ai"
    redcap_decodes_entities: bool = True
    model_map: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 10.0
    upstream_timeout: float = 600.0
    stream_delay: float = 15.0
    ping_interval: float = 10.0
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: the environment variable; its lower-case form is the field of `Settings`.
        default: the default as text; None where the setting must be given, "" where it may stay unset.
        help: what it is for, one sentence or two.
        parse: text to value; raises ValueError with the rule that the text breaks.
        example: what `.env.example` shows for a setting that has no default.
        secret: never quote the value in a message.
    """

    name: str
    default: str | None
    help: str
    parse: Callable[[str], Any]
    example: str = ""
    secret: bool = False

    @property
    def field(self) -> str:
        """The attribute of `Settings` that holds the value."""
        return self.name.lower()


# --- text to value ----------------------------------------------------------------------------------------------------


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must be an address such as https://redcap.example.edu/api/")
    _ = parts.port  # raises ValueError when it is no port
    if parts.username or parts.password:
        raise ValueError("it must hold no user name or password: the token has a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError("it must end with the path, normally /api/, without ? or #")
    if re.search(r"[\x00-\x20\x7f-\U0010ffff]", text):
        raise ValueError("it must hold no blanks or characters outside ASCII")
    # Without the final slash most servers answer with a redirect, which would be refused.
    return text + "/" if parts.path.endswith("/api") else text


def _token(text: str) -> Secret:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it must be printable ASCII without blanks, as REDCap shows it under API")
    return Secret(text)


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", text):
        raise ValueError("it must be a host name or an IP address")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("it must be a whole number from 0 (any free port) to 65535")
    return int(text)


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        raise ValueError("it must be one word of letters, digits, _, . and -")
    return text


def _switch(text: str) -> bool:
    values = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in values:
        raise ValueError("it must be true or false")
    return values[text.lower()]


def _seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        rule = f"it must be a number of seconds from {minimum:g} to {maximum:g}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(rule) from None
        if math.isnan(value) or not minimum <= value <= maximum:
            raise ValueError(rule)
        return value

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _model_map(text: str) -> Mapping[str, str]:
    """JSON text, or the path of a JSON or TOML file: an object that maps names or patterns to aliases."""
    source = text if text.lstrip().startswith("{") else _read_file(Path(text))
    try:
        table = tomllib.loads(source) if text.endswith(".toml") else json.loads(source)
    except RecursionError:
        raise ValueError("its text is nested too deeply") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"its text cannot be read: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(alias, str) and alias for alias in table.values()):
        raise ValueError('it must map names to aliases, as in {"claude-opus-*": "claude-opus-4"}')
    return table


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"it must be JSON that starts with {{, or a file that can be read ({reason})") from None


TABLE: tuple[Setting, ...] = (
    Setting(
        "REDCAP_API_URL",
        None,
        "REDCap's API address. REDCap shows it under API; it normally ends in /api/.",
        _url,
        example="https://redcap.example.edu/api/",
    ),
    Setting(
        "REDCAP_API_TOKEN",
        "",
        "The REDCap token that clients must present. Leave it empty to share one proxy: then each client's own "
        "token (its ANTHROPIC_AUTH_TOKEN) is passed on to REDCap.",
        _token,
        secret=True,
    ),
    Setting(
        "LISTEN_HOST",
        "127.0.0.1",
        "Address to listen on. Anything but loopback opens the proxy to others.",
        _host,
    ),
    Setting("LISTEN_PORT", "8765", "Port to listen on; 0 takes any free one.", _port),
    Setting("REDCAP_MODULE_PREFIX", "secure_chat_ai", "The module's prefix on this REDCap server.", _word),
    Setting(
        "REDCAP_DECODES_ENTITIES",
        "true",
        "Whether the module decodes HTML entities in replies. Set to false only for a module that no longer does.",
        _switch,
    ),
    Setting(
        "MODEL_MAP",
        "",
        "Model names, or patterns with * and ?, to SecureChatAI aliases, before the built-in table: JSON text, or "
        "the path of a .json or .toml file.",
        _model_map,
        example='{"claude-opus-*": "claude-opus-4"}',
    ),
    Setting(
        "CONNECT_TIMEOUT",
        "10",
        "Seconds to reach REDCap; less than STREAM_DELAY, so that it fails with a status.",
        _seconds(0.1, 600),
    ),
    Setting("UPSTREAM_TIMEOUT", "600", "Seconds for one whole call to REDCap.", _seconds(1, 7200)),
    Setting(
        "STREAM_DELAY",
        "15",
        "Seconds a stream stays silent before its headers go out: what fails by then fails with a true HTTP status, "
        "the only kind of failure that clients retry and explain well.",
        _seconds(0, 240),
    ),
    Setting("PING_INTERVAL", "10", "Seconds between signs of life while the model thinks.", _seconds(0.1, 120)),
    Setting("LOG_LEVEL", "info", "debug, info, warning or error.", _choice("debug", "info", "warning", "error")),
    Setting("LOG_FORMAT", "text", "text or json, one line per request on standard error.", _choice("text", "json")),
)


# --- loading ----------------------------------------------------------------------------------------------------------


def load(environ: Mapping[str, str], folder: Path | None) -> Settings:
    """Make the settings from the environment and from `.env` in a folder.

    Args:
        environ: the environment; it wins over the file. An empty value counts as not set.
        folder: where `.env` may lie; None leaves it out.

    Raises:
        SettingsError: a setting is missing or malformed, or the file cannot be read.
    """
    from_file = read_dotenv(folder / ".env") if folder else {}
    values = {}
    for setting in TABLE:
        text = environ.get(setting.name, "").strip() or from_file.get(setting.name, "").strip()
        if value := _value(setting, text):
            values.update(value)
    return Settings(**values)


def _value(setting: Setting, text: str) -> dict[str, Any]:
    """The field and value that a setting's text stands for; nothing where it is unset."""
    text = text or setting.default or ""
    if not text and setting.default is None:
        raise SettingsError(
            f"{setting.name} is not set. Put {setting.name}={setting.example} with your own value into .env "
            f"(cp .env.example .env) or into the environment. {setting.help}"
        )
    if not text:
        return {}
    try:
        return {setting.field: setting.parse(text)}
    except ValueError as error:
        shown = "" if setting.secret else f"={_PASSWORD.sub('//…@', text)!r}"
        raise SettingsError(f"{setting.name}{shown} cannot be used: {error}. {setting.help}") from None


_PASSWORD = re.compile(r"//[^/]*@")

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file; none where there is no file.

    Read as Docker Compose reads it: `NAME=value` lines, `#` comments, values bare, in single quotes (as they stand)
    or in double quotes.

    Raises:
        SettingsError: a line is no assignment, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{path} cannot be read: {reason}. Correct it, or move it away.") from None
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise SettingsError(f"{path}, line {number}: this is not NAME=value. Correct the line or put # before it.")
        variables[match[1]] = _unquote(match[2])
    return variables


def _unquote(text: str) -> str:
    if quoted := re.fullmatch(r"""(["'])(.*?)\1\s*(?:#.*)?""", text):
        return quoted[2].replace('\\"', '"') if quoted[1] == '"' else quoted[2]
    return re.split(r"\s#", f" {text}", maxsplit=1)[0].strip()


# --- the reference ----------------------------------------------------------------------------------------------------


def env_example() -> str:
    """The text of `.env.example`: every setting with its help; those with a default are commented out."""
    lines = [
        "# Settings of claude-proxy: copy to .env and edit. The environment wins over this file.",
        "# Generated from claude_proxy/settings.py by scripts/generate.py; do not edit here.",
    ]
    for setting in TABLE:
        lines += ["", *(f"# {line}" for line in textwrap.wrap(setting.help, 100))]
        required = setting.default is None or setting.secret
        value = setting.default or setting.example
        lines.append(f"{'' if required else '# '}{setting.name}={_quote(value)}")
    return "\n".join(lines) + "\n"


def _quote(value: str) -> str:
    return f"'{value}'" if re.search(r"[^\w./:-]", value) else value
