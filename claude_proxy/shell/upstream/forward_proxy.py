"""The way out through an institution's HTTP proxy: when it is taken, and how.

The rules are those of curl and most other programs. `HTTPS_PROXY` serves https addresses: a CONNECT, and the TLS of
REDCap within it, which the proxy cannot read. `HTTP_PROXY` serves http addresses: the proxy is handed the whole address
and reads everything. `NO_PROXY` lists what is reached directly, and so is this machine itself, always.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from claude_proxy import __version__
from claude_proxy.core.http1.grammar import Malformed
from claude_proxy.errors import ProxyError, SettingsError, UpstreamMisconfigured, UpstreamUnreachable
from claude_proxy.settings.table import Settings, is_loopback
from claude_proxy.settings.values import Secret

_PORTS = {"http": 80, "https": 443}


class ForwardProxy(NamedTuple):
    """A proxy on the way out.

    Attributes:
        variable: the setting that named it.
        host: its name or address.
        port: its port.
        authorization: the value of `Proxy-Authorization`, where its address held a user name.
    """

    variable: str
    host: str
    port: int
    authorization: Secret | None = None

    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port} of {self.variable}"

    @property
    def at_the_beginning(self) -> str:
        """What it is called where a sentence begins with it."""
        return "T" + str(self)[1:]

    @property
    def header(self) -> str:
        """The header line that introduces us to it, with its end; nothing where it need not know."""
        return f"Proxy-Authorization: {self.authorization.reveal()}\r\n" if self.authorization else ""


# --- which ------------------------------------------------------------------------------------------------------------


def choose(settings: Settings) -> ForwardProxy | None:
    """The proxy on the way to REDCap; None where it is reached directly.

    Raises:
        SettingsError: the proxy that is to be used has an address that cannot be.
    """
    parts = urlsplit(settings.redcap_api_url)
    variable, address = ("HTTP_PROXY", settings.http_proxy)
    if parts.scheme == "https":
        variable, address = ("HTTPS_PROXY", settings.https_proxy)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if address is None or is_loopback(host) or is_exempt(host, port, settings.no_proxy):
        return None
    return _parse(variable, address.reveal())


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether `NO_PROXY` says that a host is reached directly.

    Its entries stand between commas or blanks: `*` for all; a name, with or without a dot or `*.` before it, for the
    host of that name and all below it; an IP address; a network such as `10.0.0.0/8`. A name or an address may end
    with `:port`, and holds for that port only.
    """
    return any(_matches(entry.lower(), host.lower().rstrip("."), port) for entry in re.split(r"[,\s]+", no_proxy))


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if with_port := re.fullmatch(r"(\[[^]]*]|[^:]*):(\d+)", entry):
        entry = with_port[1]
        if int(with_port[2]) != port:
            return False
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        return False
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith("." + name))


def _parse(variable: str, text: str) -> ForwardProxy:
    """Read a proxy's address; one without a scheme is that of an HTTP proxy."""
    rule = "it must be an address such as http://proxy.example.edu:3128"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        raise _unusable(variable, rule) from None
    if parts.scheme != "http":
        raise _unusable(variable, f"{rule}; proxies that are spoken to in TLS or SOCKS are not supported")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise _unusable(variable, rule)
    if parts.username is None:
        return ForwardProxy(variable, host, port)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return ForwardProxy(variable, host, port, Secret("Basic " + base64.b64encode(login.encode()).decode()))


def _unusable(variable: str, rule: str) -> SettingsError:
    return SettingsError(
        f"{variable} cannot be used (its value is not shown, it may hold a password): {rule}. Correct it, or name the "
        "host of REDCAP_API_URL in NO_PROXY to reach it directly."
    )


# --- how --------------------------------------------------------------------------------------------------------------


def connect_request(proxy: ForwardProxy, host: str, port: int) -> bytes:
    """What asks the proxy for a tunnel."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: claude-proxy/{__version__}\r\n{proxy.header}\r\n"
    ).encode()


def no_answer(proxy: ForwardProxy, bad: Malformed, where: str) -> ProxyError:
    """What to say of a proxy that does not answer as it should when asked for a host and port."""
    failure = UpstreamMisconfigured if bad.lasting else UpstreamUnreachable
    return failure(
        f"{proxy.at_the_beginning} gave no answer to be understood when asked for {where}: it {bad.what}. Check that "
        f"{proxy.variable} names an HTTP proxy."
    )


def refusal(proxy: ForwardProxy, status: int, where: str) -> ProxyError:
    """What a status means that comes from the proxy itself."""
    answered = f"{proxy.at_the_beginning} answered {status}"
    if status == 407 and proxy.authorization:
        return UpstreamMisconfigured(
            f"{answered}: it does not accept the user name and password in {proxy.variable}. Correct them "
            "(special characters percent-encoded); only Basic authentication is supported."
        )
    if status == 407:
        return UpstreamMisconfigured(
            f"{answered}: it wants a user name and password. Set {proxy.variable}=http://user:password@"
            f"{proxy.host}:{proxy.port}, special characters percent-encoded."
        )
    if status in {502, 503, 504}:
        return UpstreamUnreachable(
            f"{answered}: it could not reach {where}. Check REDCAP_API_URL and the network, or name the host in "
            "NO_PROXY to reach it directly."
        )
    return UpstreamMisconfigured(
        f"{answered}: it does not connect to {where}. Ask whoever runs the proxy to allow it, or name the host in "
        "NO_PROXY to reach it directly."
    )
