"""One table of settings, and the frozen `Settings` made from it.

A setting is text on the command line, in the environment or in a `.env` file, or a value in `claude-proxy.toml`; the
first of them that sets it wins. `TABLE` says for each what it is for and how its text becomes a value; the examples and
the reference in the docs are generated from it. Three tables stand in `claude-proxy.toml` only: what text says badly.
Whatever is wrong is said in one `SettingsError` that names the setting, its value and what to do, and in a file the
line.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import ssl
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from claude_proxy.configuration import (
    DEFAULT_SERVER,
    SECTIONS,
    AliasFacts,
    Document,
    read_aliases,
    read_document,
    read_models,
)
from claude_proxy.errors import SettingsError

CONFIG_VARIABLE = "CLAUDE_PROXY_CONFIG"
CONFIG_FILE = "claude-proxy.toml"


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


class Server(NamedTuple):
    """A REDCap with a SecureChatAI besides that of `REDCAP_API_URL`, or another module on the same one.

    Attributes:
        url: its API address.
        token: for it; None sends the token that the client presented.
        module_prefix: the module's prefix there.
        decodes_entities: whether the module HTML-entity-decodes replies.
    """

    url: str
    token: Secret | None = None
    module_prefix: str = "secure_chat_ai"
    decodes_entities: bool = True


class ModelRules(NamedTuple):
    """What is configured about models, in the order in which `models.choose_alias` takes it."""

    model_map: Mapping[str, str]
    sight: Mapping[str, bool]
    facts: Mapping[str, AliasFacts]
    servers: Mapping[str, str]


@dataclass(frozen=True)
class Settings:
    """What the proxy was told. Durations are seconds.

    Attributes:
        redcap_api_url: REDCap's API address, normally ending in `/api/`.
        redcap_api_token: the one credential clients must present; None passes each client's own on to REDCap.
        allowed_clients: SHA-256 digests, in hexadecimal, of the tokens that may use a shared proxy; None allows all.
        client_hash_key: the key under which clients are counted; None makes one up at each start.
        listen_host: address to listen on.
        listen_port: port to listen on; 0 takes any free one.
        redcap_module_prefix: SecureChatAI's External Module prefix on this server.
        redcap_decodes_entities: whether the module HTML-entity-decodes replies (it does, as measured in June 2026).
        redcap_ca_bundle: a PEM file of certificate authorities to trust besides the machine's own.
        redcap_tls_minimum: the oldest version of TLS to speak with REDCap, `1.2` or `1.3`.
        model_map: model name or pattern to SecureChatAI alias, before the built-in table.
        vision_aliases: alias or pattern to whether it sees images, before the built-in table.
        validation: `lenient`, or `strict` as the real API.
        max_calls: how many calls to REDCap may run at once.
        max_waiting: how many requests may wait for one.
        connect_timeout: limit for reaching REDCap.
        silence_timeout: limit for each silence of REDCap while it takes a request or sends an answer.
        upstream_timeout: limit for one whole call to REDCap.
        stream_delay: how long a stream may stay silent before its 200 is sent.
        ping_interval: time between signs of life in a stream that waits for the model.
        max_connections: how many connections of clients may be open at once.
        max_head_kb: limit for the head of a request, in KB of 1024 bytes.
        max_headers: how many headers a request may have.
        max_body_mb: limit for a request's body, before and after it is unpacked, in MB of 1024 KB.
        max_bodies_mb: limit for all the bodies that are held at once.
        cache_mb: how much memory recent conversations may take, in millions of bytes.
        head_timeout: limit for a client to send the head of a request.
        body_timeout: limit for a client to send a body; every 32 KB that come add a second.
        idle_timeout: how long a connection is kept without a request.
        shutdown_grace: how long running requests may go on when the proxy is stopped.
        https_proxy: the HTTP proxy through which https addresses are reached; it may hold a password.
        http_proxy: likewise for http addresses.
        no_proxy: the hosts that are reached directly, between commas.
        log_level: `debug`, `info`, `warning` or `error`.
        log_format: `text` or `json`.
        model_servers: which server an entry of `model_map` leads to, where it is not the default one.
        alias_facts: alias or pattern to what is said of it, before the built-in tables.
        servers: the further servers by name.
        exposed_file: the configuration file, where it holds a token and others on this machine can read it.
    """

    redcap_api_url: str
    redcap_api_token: Secret | None = None
    allowed_clients: frozenset[str] | None = None
    client_hash_key: Secret | None = None
    listen_host: str = "127.0.0.1"
    listen_port: int = 8765
    redcap_module_prefix: str = "secure_chat_ai"
    redcap_decodes_entities: bool = True
    redcap_ca_bundle: str | None = None
    redcap_tls_minimum: str = "1.2"
    model_map: Mapping[str, str] = field(default_factory=dict)
    vision_aliases: Mapping[str, bool] = field(default_factory=dict)
    validation: str = "lenient"
    max_calls: int = 100
    max_waiting: int = 1000
    connect_timeout: float = 10.0
    silence_timeout: float = 60.0
    upstream_timeout: float = 600.0
    stream_delay: float = 15.0
    ping_interval: float = 10.0
    max_connections: int = 2000
    max_head_kb: int = 64
    max_headers: int = 100
    max_body_mb: int = 32
    max_bodies_mb: int = 256
    cache_mb: int = 64
    head_timeout: float = 20.0
    body_timeout: float = 30.0
    idle_timeout: float = 120.0
    shutdown_grace: float = 30.0
    https_proxy: Secret | None = None
    http_proxy: Secret | None = None
    no_proxy: str = ""
    log_level: str = "info"
    log_format: str = "text"
    model_servers: Mapping[str, str] = field(default_factory=dict)
    alias_facts: Mapping[str, AliasFacts] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)
    exposed_file: str = ""

    @property
    def model_rules(self) -> ModelRules:
        """What decides which alias answers: `choose_alias(model, *settings.model_rules)`."""
        return ModelRules(self.model_map, self.vision_aliases, self.alias_facts, self.model_servers)

    def at(self, server: str) -> Self:
        """The settings as they are for a server: as if it were the default one."""
        if server == DEFAULT_SERVER:
            return self
        its = self.servers[server]
        return replace(
            self,
            redcap_api_url=its.url,
            redcap_api_token=its.token or self.redcap_api_token,
            redcap_module_prefix=its.module_prefix,
            redcap_decodes_entities=its.decodes_entities,
        )

    @property
    def token_travels_openly(self) -> bool:
        """Whether the token goes over a network where others can read it: plain HTTP, to another machine."""
        return _is_open(self.redcap_api_url)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to tell whoever starts the proxy, once, a sentence or two each."""
        openly = (
            "REDCAP_API_URL begins with http://, so the token and all that is asked and answered can be read on the "
            "way. Use https:// if REDCap offers it."
        )
        servers = (
            f"The url of [servers.{name}] begins with http://, so its token and all that is asked and answered can be "
            "read on the way. Use https:// if that REDCap offers it."
            for name, server in self.servers.items()
            if _is_open(server.url)
        )
        exposed = (
            f"{self.exposed_file} holds a token or a password, and other users of this machine can read it: run "
            f"chmod 600 {self.exposed_file}"
        )
        return (
            *([openly] if self.token_travels_openly else []),
            *servers,
            *([exposed] if self.exposed_file else []),
        )


def _is_open(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a name or an IP address is that of this machine itself, whatever its network."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class Setting(NamedTuple):
    """One row of the table.

    Attributes:
        name: the environment variable; its lower-case form is the field of `Settings`.
        default: the default as text; None where the setting must be given, "" where it may stay unset.
        help: what it is for, one sentence or two.
        parse: text to value; raises ValueError with the rule that the text breaks.
        example: what `.env.example` shows for a setting that has no default.
        secret: never quote the value in a message.
        shared: whether other programs use the variable too; then its lower-case name counts, and comes first.
    """

    name: str
    default: str | None
    help: str
    parse: Callable[[str], Any]
    example: str = ""
    secret: bool = False
    shared: bool = False

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


def _digests(text: str) -> frozenset[str]:
    """The digests in a file: one a line, in hexadecimal; what follows it is a remark."""
    lines = [line.split("#")[0].split() for line in _read_file(Path(text), "a file that can be read").splitlines()]
    digests = [words[0].lower() for words in lines if words]
    for number, words in enumerate(lines, start=1):
        if words and not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
            raise ValueError(f"line {number} of the file must begin with a SHA-256 digest: 64 hexadecimal digits")
    if not digests:
        raise ValueError("the file lists nobody, so nobody could use the proxy")
    return frozenset(digests)


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", text):
        raise ValueError("it must be a host name or an IP address")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("it must be a whole number from 0 (any free port) to 65535")
    return int(text)


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 9 or not minimum <= int(text) <= maximum:
            raise ValueError(f"it must be a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _ca_bundle(text: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=text)
    except (OSError, ValueError) as error:
        unreadable = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        reason = getattr(error, "strerror", "") if unreadable else "it holds no certificate that can be read"
        raise ValueError(f"it must be a PEM file with certificates ({reason})") from None
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it must be printable text on one line")
    return text


def _proxy(text: str) -> Secret:
    """It is read where it is used: an address that only other programs can use is no reason not to start."""
    return Secret(_printable(text))


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
    source = (
        text
        if text.lstrip().startswith("{")
        else _read_file(Path(text), "JSON that starts with {, or a file that can be read")
    )
    try:
        table = tomllib.loads(source) if text.endswith(".toml") else json.loads(source)
    except RecursionError:
        raise ValueError("its text is nested too deeply") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"its text cannot be read: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(alias, str) and alias for alias in table.values()):
        raise ValueError('it must map names to aliases, as in {"claude-opus-*": "claude-opus-4"}')
    return table


def _aliases(text: str) -> Mapping[str, bool]:
    """Names and patterns; one with `!` before it is an exception, and goes first."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(re.fullmatch(r"!?[A-Za-z0-9_.*?\[\]-]+", word) for word in words):
        raise ValueError("it must be aliases or patterns with commas between them, as in my-gpt, llama-*, !llama-3*")
    return {word.lstrip("!"): not word.startswith("!") for word in sorted(words, key=lambda word: word[0] != "!")}


def _read_file(path: Path, rule: str) -> str:
    """The text of a file that a setting names; `rule` is what the setting must be."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"it must be {rule} ({reason})") from None


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
        "ALLOWED_CLIENTS",
        "",
        "A file with the SHA-256 digests of the tokens that may use a shared proxy, one a line (printf %s TOKEN | "
        "sha256sum). Without it every token may, and REDCap decides.",
        _digests,
    ),
    Setting(
        "CLIENT_HASH_KEY",
        "",
        "A secret of your own: a shared proxy counts each client under a hash of its token with this key. Without it "
        "the hashes change at every start.",
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
        "REDCAP_CA_BUNDLE",
        "",
        "A PEM file of certificate authorities to trust for REDCap besides the machine's own, for institutions with an "
        "authority of their own. (To replace the machine's own, set SSL_CERT_FILE.)",
        _ca_bundle,
    ),
    Setting(
        "REDCAP_TLS_MINIMUM",
        "1.2",
        "The oldest version of TLS to speak with REDCap: 1.2 or 1.3.",
        _choice("1.2", "1.3"),
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
        "VISION_ALIASES",
        "",
        "Aliases, or patterns with * and ?, that see images, before the built-in table; ! before one that does not.",
        _aliases,
        example="my-gpt, !gpt-4o-text",
    ),
    Setting(
        "VALIDATION",
        "lenient",
        "lenient lets pass what has no meaning here; strict refuses what the real API refuses, to test clients.",
        _choice("lenient", "strict"),
    ),
    Setting(
        "MAX_CALLS",
        "100",
        "How many calls to REDCap may run at once; further requests wait, and credentials take turns.",
        _whole(1, 100_000),
    ),
    Setting(
        "MAX_WAITING",
        "1000",
        "How many requests may wait for a call to REDCap; further ones are told to try again (529).",
        _whole(0, 100_000),
    ),
    Setting(
        "CONNECT_TIMEOUT",
        "10",
        "Seconds to reach REDCap; less than STREAM_DELAY, so that it fails with a status.",
        _seconds(0.1, 600),
    ),
    Setting(
        "SILENCE_TIMEOUT",
        "60",
        "Seconds for each silence of REDCap while it takes a request or sends an answer. It does not hold while the "
        "model thinks, before the answer begins: that is what UPSTREAM_TIMEOUT limits.",
        _seconds(0.1, 3600),
    ),
    Setting(
        "UPSTREAM_TIMEOUT",
        "600",
        "Seconds for one whole call to REDCap. The wait for a turn (MAX_CALLS) has as long before it, and all further "
        "calls for the same reply together as long after it.",
        _seconds(1, 7200),
    ),
    Setting(
        "STREAM_DELAY",
        "15",
        "Seconds a stream stays silent before its headers go out: what fails by then fails with a true HTTP status, "
        "the only kind of failure that clients retry and explain well.",
        _seconds(0, 240),
    ),
    Setting("PING_INTERVAL", "10", "Seconds between signs of life while the model thinks.", _seconds(0.1, 120)),
    Setting(
        "MAX_CONNECTIONS",
        "2000",
        "How many connections of clients may be open at once; further ones are told to try again (529).",
        _whole(1, 100_000),
    ),
    Setting("MAX_HEAD_KB", "64", "KB that the head of a request may have; more is refused (431).", _whole(1, 1024)),
    Setting("MAX_HEADERS", "100", "How many headers a request may have; more is refused (431).", _whole(10, 10_000)),
    Setting(
        "MAX_BODY_MB",
        "32",
        "MB that the body of a request may have, before and after it is unpacked; more is refused (413).",
        _whole(1, 1024),
    ),
    Setting(
        "MAX_BODIES_MB",
        "256",
        "MB that the bodies of all running requests may have together; a request beyond is told to try again (529). "
        "At least MAX_BODY_MB.",
        _whole(1, 1_000_000),
    ),
    Setting(
        "CACHE_MB",
        "64",
        "MB of memory for conversations, so that their next turns cost less; one counts for about five times its size, "
        "and is forgotten when it has been idle for 5 minutes at most. 0 keeps nothing.",
        _whole(0, 100_000),
    ),
    Setting("HEAD_TIMEOUT", "20", "Seconds a client has to send the head of a request.", _seconds(0.1, 600)),
    Setting(
        "BODY_TIMEOUT",
        "30",
        "Seconds a client has to send the body of a request; every 32 KB that come add a second.",
        _seconds(0.1, 3600),
    ),
    Setting("IDLE_TIMEOUT", "120", "Seconds a connection is kept open without a request.", _seconds(0.1, 3600)),
    Setting(
        "SHUTDOWN_GRACE",
        "30",
        "Seconds that running requests may go on when the proxy is stopped; what is then left is told to try again. "
        "In Docker, stop_grace_period must be longer.",
        _seconds(0, 3600),
    ),
    Setting(
        "HTTPS_PROXY",
        "",
        "The HTTP proxy through which an https REDCAP_API_URL is reached, such as http://proxy.example.edu:3128, with "
        "http://user:password@ if it wants to know. The lower-case name counts, too, and comes first; likewise below.",
        _proxy,
        secret=True,
        shared=True,
    ),
    Setting("HTTP_PROXY", "", "The same for an http REDCAP_API_URL.", _proxy, secret=True, shared=True),
    Setting(
        "NO_PROXY",
        "",
        "Hosts that are reached without a proxy, between commas: names (and all below them), IP addresses, networks "
        "such as 10.0.0.0/8, each with :port or without, or * for all. This machine itself always is.",
        _printable,
        shared=True,
    ),
    Setting("LOG_LEVEL", "info", "debug, info, warning or error.", _choice("debug", "info", "warning", "error")),
    Setting("LOG_FORMAT", "text", "text or json, one line per request on standard error.", _choice("text", "json")),
)


# --- where the files lie ----------------------------------------------------------------------------------------------

HOME_VARIABLE = "CLAUDE_PROXY_HOME"


def home(environ: Mapping[str, str]) -> Path:
    """The folder whose `.env` and `claude-proxy.toml` are the user's own, wherever a command is started.

    `run` is started in folders of all kinds, cloned repositories among them, whose files must not say where tokens and
    prompts go. So it reads the files of this folder only: `CLAUDE_PROXY_HOME`, else the checkout that this code lies
    in, else the user's folder for configuration.
    """
    if named := environ.get(HOME_VARIABLE, "").strip():
        return Path(named)
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "claude_api_proxy.py").is_file():
        return checkout
    base = environ.get("XDG_CONFIG_HOME") or environ.get("APPDATA") or str(Path("~/.config").expanduser())
    return Path(base) / "claude-proxy"


def working_folder(environ: Mapping[str, str], folder: Path) -> Path:
    """The folder itself if it holds settings, else the user's own: for commands that are started on purpose there."""
    holds = any((folder / name).is_file() for name in (".env", CONFIG_FILE))
    return folder if holds else home(environ)


# --- loading ----------------------------------------------------------------------------------------------------------


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
    layers: list[tuple[str, Mapping[str, str]]] = [("the command line", given or {}), ("the environment", environ)]
    document = Document(CONFIG_FILE)
    if folder:
        dotenv = read_dotenv(folder / ".env")
        layers.append((str(folder / ".env"), dotenv))
        named = _named_file(given or {}, environ, dotenv, folder)
        document = _read_config_file(named or folder / CONFIG_FILE, must_be=bool(named))
    document.check_names((), [*(setting.field for setting in TABLE), *SECTIONS])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in TABLE:
        source, text = _find(setting, layers)
        if not text and setting.field in document.data:
            source, found = document.place(setting.field), _document_value(setting, document)
        else:
            found = _value(setting, text)
        values |= found
        sources[setting.name] = source or ("default" if setting.default else "not set")
    model_map, model_servers = read_models(document, [setting.field for setting in TABLE])
    if model_map and "model_map" in document.data:
        raise document.fault(("model_map",), "model_map and [models] say the same. Keep [models].")
    if model_map and "model_map" not in values:
        values |= {"model_map": model_map, "model_servers": model_servers}
        sources["MODEL_MAP"] = document.place("models")
    values["alias_facts"] = read_aliases(document)
    sources |= {f"[{name}]": document.place(name) for name in ("aliases", "servers") if name in document.data}
    settings = Settings(**values)
    servers = _read_servers(document, settings)
    _check_servers(document, model_servers, [DEFAULT_SERVER, *servers])
    return replace(settings, servers=servers, exposed_file=_find_exposed(document)), sources


def _find(setting: Setting, layers: Iterable[tuple[str, Mapping[str, str]]]) -> tuple[str, str]:
    """The first source that sets a setting, and its text; both are empty where there is none."""
    names = (setting.name.lower(), setting.name) if setting.shared else (setting.name,)
    found = ((source, layer.get(name, "").strip()) for source, layer in layers for name in names)
    return next(((source, text) for source, text in found if text), ("", ""))


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


# --- claude-proxy.toml ------------------------------------------------------------------------------------------------


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


def _read_config_file(path: Path, *, must_be: bool) -> Document:
    try:
        return read_document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not must_be:
            return Document(str(path))
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        remedy = f"Correct {CONFIG_VARIABLE}, or the file." if must_be else "Correct it, or move it away."
        raise SettingsError(f"{path} cannot be read: {reason}. {remedy}") from None


_KINDS: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false, without quotes"),
    int: ((int,), "a whole number, without quotes"),
    float: ((int, float), "a number, without quotes"),
    str: ((str,), "text in quotes"),
}
_LISTS = frozenset({"vision_aliases", "no_proxy"})  # which are words between commas


def _document_value(setting: Setting, document: Document) -> dict[str, Any]:
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
    return _PASSWORD.sub("//…@", repr(value) if isinstance(value, str) else str(value).lower())


_SERVER_KEYS: Mapping[str, str] = {
    "url": "REDCAP_API_URL",
    "token": "REDCAP_API_TOKEN",
    "module_prefix": "REDCAP_MODULE_PREFIX",
    "decodes_entities": "REDCAP_DECODES_ENTITIES",
}
"""The keys of a server, and the settings whose rules they follow."""


def _read_servers(document: Document, settings: Settings) -> dict[str, Server]:
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


def _check_servers(document: Document, model_servers: Mapping[str, str], known: list[str]) -> None:
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


def _find_exposed(document: Document) -> str:
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


# --- .env -------------------------------------------------------------------------------------------------------------

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
