"""The way to REDCap, stage by stage: look-up, connecting, the tunnel of a forward proxy, TLS.

Whatever network, TLS or HTTP raise becomes a sentence here: what happened, which setting, what to do.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from urllib.parse import urlsplit

from claude_proxy.core.http1.grammar import Malformed
from claude_proxy.errors import ProxyError, UpstreamMisconfigured, UpstreamTimeout, UpstreamUnreachable
from claude_proxy.settings.table import Settings
from claude_proxy.shell.upstream import forward_proxy, tls
from claude_proxy.shell.upstream.connection import Connection
from claude_proxy.shell.upstream.forward_proxy import ForwardProxy
from claude_proxy.shell.upstream.resolve import Resolver
from claude_proxy.shell.upstream.stream import Address, Network, attempt
from claude_proxy.shell.wait.waiter import OutOfTime, Waiter


class Route:
    """The way to one address. Where a stage fails, it raises a `ProxyError` with the sentence for it."""

    def __init__(self, settings: Settings, network: Network | None = None) -> None:
        """Prepare what the settings say; nothing is done yet.

        Args:
            settings: `connect_timeout` is for all stages together. In `silence_timeout` at least a byte must go out
                while sending, or come in once the answer has begun; how long it takes to begin is limited by the
                waiter only, for the model is thinking.
            network: where connections are made; by default the machine's.

        Raises:
            OSError: the CA bundle cannot be used.
            SettingsError: the forward proxy that is to be used has an address that cannot be.
        """
        parts = urlsplit(settings.redcap_api_url)
        self.settings = settings
        self.secured = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secured else 80)
        self.authority, self.path = parts.netloc, parts.path or "/"
        self.where = f"{self.host}:{self.port}"
        self.proxy = proxy = forward_proxy.choose(settings)
        self.peer = (proxy.host, proxy.port) if proxy else (self.host, self.port)
        self._tls = tls.client_context(settings.redcap_ca_bundle, settings.redcap_tls_minimum) if self.secured else None
        self._network = network or Network()
        self._resolver = Resolver(*self.peer, patience=settings.connect_timeout, network=self._network)
        self._remedy = f"Check {proxy.variable if proxy else 'REDCAP_API_URL'}, and the network or VPN"

    # --- the stages ---------------------------------------------------------------------------------------------------

    def connect(self, waiter: Waiter) -> Connection:
        """All stages together, within the limit of the route."""
        limit = waiter.elapsed + self.settings.connect_timeout
        with waiter.within(limit):
            return self.reach(self.look_up(waiter), waiter, limit, secure=True)

    def look_up(self, waiter: Waiter) -> list[Address]:
        """The addresses of REDCap, or of the proxy before it."""
        try:
            return self._resolver.addresses(waiter)
        except (OutOfTime, OSError, UnicodeError) as error:
            raise self._explain_look_up(error, waiter) from None

    def reach(self, addresses: Sequence[Address], waiter: Waiter, limit: float, *, secure: bool) -> Connection:
        """A connection to the first address that can be reached, through the tunnel if there is one.

        Args:
            addresses: which to try, in their order.
            waiter: waits for each stage.
            limit: for all of them, in seconds since the waiter's beginning.
            secure: whether to do the TLS handshake, if the address is https.
        """
        failure: Exception = OSError("no address")
        for tried, address in enumerate(addresses):
            share = (limit - waiter.elapsed) / (len(addresses) - tried)  # a filtered address leaves time for the next
            try:
                with waiter.within(waiter.elapsed + share):
                    return self._open(address, waiter, secure=secure)
            except (OutOfTime, OSError, ValueError) as error:  # ValueError: a host name that TLS refuses to ask for
                failure = error
                if isinstance(error, OutOfTime) and error.whole_call:
                    break
        raise self._explain_connecting(failure, waiter)

    def secure(self, connection: Connection, waiter: Waiter) -> None:
        """Do the TLS handshake on a connection that was made without."""
        try:
            self._shake_hands(connection, waiter)
        except (OutOfTime, OSError, ValueError) as error:
            raise self._explain_connecting(error, waiter) from None

    def _open(self, address: Address, waiter: Waiter, *, secure: bool) -> Connection:
        """A connection; when a stage fails, it is closed."""
        connection = Connection(self._network.open(address))
        try:
            attempt(connection.stream.connect, connection.stream, waiter)
            if self.proxy and self.secured:
                self._tunnel(connection, self.proxy, waiter)
            if secure:
                self._shake_hands(connection, waiter)
        except BaseException:
            connection.close()
            raise
        return connection

    def _tunnel(self, connection: Connection, proxy: ForwardProxy, waiter: Waiter) -> None:
        request = forward_proxy.connect_request(proxy, self.host, self.port)
        try:
            status = connection.ask_for_tunnel(request, waiter)
        except Malformed as bad:
            raise forward_proxy.no_answer(proxy, bad, self.where) from None
        if not 200 <= status < 300:
            raise forward_proxy.refusal(proxy, status, self.where)

    def _shake_hands(self, connection: Connection, waiter: Waiter) -> None:
        if self._tls:
            start_tls = partial(connection.stream.start_tls, self._tls, self.host)
            attempt(start_tls, connection.stream, waiter)

    # --- what is said -------------------------------------------------------------------------------------------------

    def _explain_look_up(self, error: Exception, waiter: Waiter) -> ProxyError:
        """Why a name was not resolved: `OSError`, `UnicodeError` or `OutOfTime`."""
        name = f"{self.proxy.host} (the proxy of {self.proxy.variable})" if self.proxy else self.host
        match error:
            case OutOfTime(whole_call=False):
                return UpstreamUnreachable(
                    f"The name {name} could not be resolved within {self.settings.connect_timeout:g} s. Check the "
                    "network or VPN; CONNECT_TIMEOUT sets the limit."
                )
            case socket.gaierror() | UnicodeError():
                silent = getattr(error, "errno", None) == socket.EAI_AGAIN
                why = "no name server gave an answer" if silent else "there is no such name"
                return UpstreamUnreachable(f"The name {name} cannot be resolved: {why}. {self._remedy}.")
        return self._explain_connecting(error, waiter)

    def _explain_connecting(self, error: Exception, waiter: Waiter) -> ProxyError:
        """Why there is no connection: `OSError`, `ValueError` or `OutOfTime`."""
        peer = self.proxy.at_the_beginning if self.proxy else self.where
        match error:
            case OutOfTime(whole_call=True):
                return self._explain_limit(waiter)
            case OutOfTime():
                return UpstreamUnreachable(
                    f"{peer} could not be reached within {self.settings.connect_timeout:g} s. {self._remedy}; "
                    "CONNECT_TIMEOUT sets the limit."
                )
            case ssl.SSLError():
                return tls.explain(error, self.where, self.settings.redcap_tls_minimum)
            case OSError(errno=errno.EMFILE | errno.ENFILE):
                return UpstreamUnreachable(
                    "This machine allows the proxy no more connections (too many open files). Raise the limit with "
                    "ulimit -n, or send fewer requests at a time."
                )
        return UpstreamUnreachable(f"{peer} could not be reached ({_reason(error)}). {self._remedy}.")

    def explain_exchange(self, error: Exception, waiter: Waiter, *, has_answered: bool) -> ProxyError:
        """Why there is no answer on a connection: `OSError`, `Malformed` or `OutOfTime`."""
        match error:
            case OutOfTime(whole_call=True):
                return self._explain_limit(waiter)
            case OutOfTime():
                what = "stopped in the middle of its answer" if has_answered else "takes no more of the request"
                return UpstreamTimeout(
                    f"{self.host} {what}: nothing moved for {self.settings.silence_timeout:g} s. Try again; "
                    "SILENCE_TIMEOUT sets the limit."
                )
            case Malformed(lasting=True):
                return UpstreamMisconfigured(
                    f"The answer of {self.where} {error.what}. Check REDCAP_API_URL: its scheme, host, port and path."
                )
            case ssl.SSLError() if tls.wants_client_certificate(error):
                return tls.explain(error, self.where, self.settings.redcap_tls_minimum)
        what = error.what if isinstance(error, Malformed) else f"broke off ({_reason(error)})"
        often = "Try again; if it happens often, ask whoever runs REDCap for the time limits of the gateways before it."
        if not has_answered and not self.secured:
            often += " If that port speaks TLS, REDCAP_API_URL must begin with https://."
        return UpstreamUnreachable(f"The answer of {self.host} {what}. {often}")

    def _explain_limit(self, waiter: Waiter) -> ProxyError:
        return UpstreamTimeout(
            f"{self.host} did not answer within {waiter.elapsed:.0f} s. The model may need longer: raise "
            "UPSTREAM_TIMEOUT, or choose a faster model."
        )


def _reason(error: Exception) -> str:
    """A few words on a failure that hold nothing of what was sent or received."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno:
        return (error.strerror or type(error).__name__).lower()
    return "no address" if isinstance(error, OSError) else "the host name cannot be used"
