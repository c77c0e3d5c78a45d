"""One table of settings: the frozen `Settings`, with what is to be said of each setting in the metadata of its field.

A setting is text on the command line, in the environment or in a `.env` file, or a value in `claude-proxy.toml`; the
first of them that sets it wins (`settings.sources`). The examples and the reference in the docs are generated from
`TABLE`. Three tables stand in `claude-proxy.toml` only: what text says badly.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from claude_proxy.settings.alias_facts import AliasFacts
from claude_proxy.settings.values import (
    Secret,
    alias_patterns,
    ca_bundle,
    digests,
    host,
    model_map,
    one_of,
    port,
    printable,
    proxy_address,
    seconds,
    switch,
    token,
    url,
    whole_number,
    word,
)

DEFAULT_SERVER = "default"
"""The name of the server that REDCAP_API_URL and its like describe."""


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


class Setting(NamedTuple):
    """One row of the table.

    Attributes:
        name: the environment variable; its lower-case form is the field of `Settings`.
        parse: text to value, see `settings.values`.
        default: the default as text; None where the setting must be given, "" where it may stay unset.
        help: what it is for, one sentence or two.
        example: what `.env.example` shows for a setting that has no default.
        secret: never quote the value in a message.
        shared: whether other programs use the variable too; then its lower-case name counts, and comes first.
        is_path: whether the value may be the path of a file.
    """

    name: str
    parse: Callable[[str], Any]
    default: str | None
    help: str
    example: str = ""
    secret: bool = False
    shared: bool = False
    is_path: bool = False

    def from_folder(self, text: str, folder: Path) -> str:
        """The value of a file in a folder: a path in it leads from there, wherever the command is started."""
        return str(folder / text) if self.is_path and not text.startswith("{") else text

    @property
    def field(self) -> str:
        """The attribute of `Settings` that holds the value."""
        return self.name.lower()


def _setting(
    parse: Callable[[str], Any], default: str | None, help_text: str, *, unset: Any = None, **more: Any
) -> Any:
    """A field of `Settings` that is a setting: see `Setting`; `unset` is its value where nothing sets it."""
    metadata = {"parse": parse, "default": default, "help": help_text, **more}
    if default is None:
        return field(metadata=metadata)
    if isinstance(unset, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=parse(default) if default else unset, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """What the proxy was told. Durations are seconds.

    Each field that is a setting says, in its metadata, what it is for and how its text becomes its value.

    Attributes:
        model_servers: which server an entry of `model_map` leads to, where it is not the default one.
        alias_facts: alias or pattern to what is said of it, before the built-in tables.
        servers: the further servers by name.
        exposed_file: the configuration file, where it holds a token and others on this machine can read it.
    """

    redcap_api_url: str = _setting(
        url,
        None,
        "REDCap's API address. REDCap shows it under API; it normally ends in /api/.",
        example="https://redcap.example.edu/api/",
    )
    redcap_api_token: Secret | None = _setting(
        token,
        "",
        "The REDCap token that clients must present. Leave it empty to share one proxy: then each client's own "
        "token (its ANTHROPIC_AUTH_TOKEN) is passed on to REDCap.",
        secret=True,
    )
    allowed_clients: frozenset[str] | None = _setting(
        digests,
        "",
        "A file with the SHA-256 digests of the tokens that may use a shared proxy, one a line (printf %s TOKEN | "
        "sha256sum). Without it every token may, and REDCap decides.",
        is_path=True,
    )
    client_hash_key: Secret | None = _setting(
        token,
        "",
        "A secret of your own: a shared proxy counts each client under a hash of its token with this key. Without it "
        "the hashes change at every start.",
        secret=True,
    )
    listen_host: str = _setting(
        host,
        "localhost",
        "Address to listen on; localhost is both of this machine's own, 127.0.0.1 and ::1. Anything but loopback opens "
        "the proxy to others.",
    )
    listen_port: int = _setting(port, "8765", "Port to listen on; 0 takes any free one.")
    redcap_module_prefix: str = _setting(word, "secure_chat_ai", "The module's prefix on this REDCap server.")
    redcap_decodes_entities: bool = _setting(
        switch,
        "true",
        "Whether the module decodes HTML entities in replies. Set to false only for a module that no longer does.",
    )
    redcap_ca_bundle: str | None = _setting(
        ca_bundle,
        "",
        "A PEM file of certificate authorities to trust for REDCap besides the machine's own, for institutions with an "
        "authority of their own. (To replace the machine's own, set SSL_CERT_FILE.)",
        is_path=True,
    )
    redcap_tls_minimum: str = _setting(
        one_of("1.2", "1.3"), "1.2", "The oldest version of TLS to speak with REDCap: 1.2 or 1.3."
    )
    model_map: Mapping[str, str] = _setting(
        model_map,
        "",
        "Model names, or patterns with * and ?, to SecureChatAI aliases, before the built-in table: JSON text, or "
        "the path of a .json or .toml file.",
        example='{"claude-opus-*": "claude-opus-4"}',
        unset={},
        is_path=True,
    )
    vision_aliases: Mapping[str, bool] = _setting(
        alias_patterns,
        "",
        "Aliases, or patterns with * and ?, that see images, before the built-in table; ! before one that does not.",
        example="my-gpt, !gpt-4o-text",
        unset={},
    )
    max_calls: int = _setting(
        whole_number(1, 100_000),
        "100",
        "How many calls to REDCap may run at once; further requests wait, and credentials take turns.",
    )
    max_waiting: int = _setting(
        whole_number(0, 100_000),
        "1000",
        "How many requests may wait for a call to REDCap; further ones are told to try again (529).",
    )
    connect_timeout: float = _setting(
        seconds(0.1, 600), "10", "Seconds to reach REDCap; less than STREAM_DELAY, so that it fails with a status."
    )
    silence_timeout: float = _setting(
        seconds(0.1, 3600),
        "60",
        "Seconds for each silence of REDCap while it takes a request or sends an answer. It does not hold while the "
        "model thinks, before the answer begins: that is what UPSTREAM_TIMEOUT limits.",
    )
    upstream_timeout: float = _setting(
        seconds(1, 7200),
        "600",
        "Seconds for one whole call to REDCap. The wait for a turn (MAX_CALLS) has as long before it, and all further "
        "calls for the same reply together as long after it.",
    )
    stream_delay: float = _setting(
        seconds(0, 240),
        "15",
        "Seconds a stream stays silent before its headers go out: what fails by then fails with a true HTTP status, "
        "the only kind of failure that clients retry and explain well.",
    )
    ping_interval: float = _setting(seconds(0.1, 120), "10", "Seconds between signs of life while the model thinks.")
    max_connections: int = _setting(
        whole_number(1, 100_000),
        "2000",
        "How many connections of clients may be open at once; further ones are told to try again (529).",
    )
    max_head_kb: int = _setting(
        whole_number(1, 1024), "64", "KB that the head of a request may have; more is refused (431)."
    )
    max_headers: int = _setting(
        whole_number(10, 10_000), "100", "How many headers a request may have; more is refused (431)."
    )
    max_body_mb: int = _setting(
        whole_number(1, 1024),
        "32",
        "MB that the body of a request may have, before and after it is unpacked; more is refused (413).",
    )
    max_bodies_mb: int = _setting(
        whole_number(1, 1_000_000),
        "256",
        "MB that the bodies of all running requests may have together; a request beyond is told to try again (529). "
        "At least MAX_BODY_MB.",
    )
    cache_mb: int = _setting(
        whole_number(0, 100_000),
        "64",
        "MB of memory for conversations, so that their next turns cost less; one counts for three to four times its "
        "size, and is forgotten when it has been idle for 5 minutes at most. 0 keeps nothing.",
    )
    head_timeout: float = _setting(seconds(0.1, 600), "20", "Seconds a client has to send the head of a request.")
    body_timeout: float = _setting(
        seconds(0.1, 3600),
        "30",
        "Seconds a client has to send the body of a request; every 32 KB that come add a second.",
    )
    idle_timeout: float = _setting(seconds(0.1, 3600), "120", "Seconds a connection is kept open without a request.")
    shutdown_grace: float = _setting(
        seconds(0, 3600),
        "30",
        "Seconds that running requests may go on when the proxy is stopped; what is then left is told to try again. "
        "In Docker, stop_grace_period must be longer.",
    )
    https_proxy: Secret | None = _setting(
        proxy_address,
        "",
        "The HTTP proxy through which an https REDCAP_API_URL is reached, such as http://proxy.example.edu:3128, with "
        "http://user:password@ if it wants to know. The lower-case name counts, too, and comes first; likewise below.",
        secret=True,
        shared=True,
    )
    http_proxy: Secret | None = _setting(
        proxy_address, "", "The same for an http REDCAP_API_URL.", secret=True, shared=True
    )
    no_proxy: str = _setting(
        printable,
        "",
        "Hosts that are reached without a proxy, between commas: names (and all below them), IP addresses, networks "
        "such as 10.0.0.0/8, each with :port or without, or * for all. This machine itself always is.",
        shared=True,
        unset="",
    )
    log_level: str = _setting(one_of("debug", "info", "warning", "error"), "info", "debug, info, warning or error.")
    log_format: str = _setting(one_of("text", "json"), "text", "text or json, one line per request on standard error.")
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
        openly = "so {} token and all that is asked and answered can be read on the way. Use https:// if"
        found = []
        if self.token_travels_openly:
            found.append(f"REDCAP_API_URL begins with http://, {openly.format('the')} REDCap offers it.")
        for name, server in self.servers.items():
            if _is_open(server.url):
                found.append(
                    f"The url of [servers.{name}] begins with http://, {openly.format('its')} that REDCap offers it."
                )
        if self.exposed_file:
            found.append(
                f"{self.exposed_file} holds a token or a password, and other users of this machine can read it: run "
                f"chmod 600 {self.exposed_file}"
            )
        return tuple(found)


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


TABLE: tuple[Setting, ...] = tuple(
    Setting(each.name.upper(), **each.metadata) for each in fields(Settings) if each.metadata
)
"""Every setting that can be given as text, in the order of the docs."""
