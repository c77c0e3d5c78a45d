"""TLS towards REDCap: whom to trust, and what to say when that fails.

The certificate is always verified. `REDCAP_CA_BUNDLE` adds to the authorities that the machine trusts anyway, so that
a REDCap which moves from an authority of its own to a public one keeps working; to replace them, there are OpenSSL's
`SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from claude_proxy.errors import ProxyError, UpstreamMisconfigured, UpstreamUnreachable

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(ca_bundle: str | None = None, minimum: str = "1.2") -> ssl.SSLContext:
    """What connections are secured with.

    Args:
        ca_bundle: a PEM file with further certificates to trust.
        minimum: the oldest version of TLS to speak, `1.2` or `1.3`.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = _VERSIONS[minimum]
    # The same on every Python: 3.13 began to insist on extensions that institutions' own authorities often leave out,
    # and to take an intermediate certificate in the bundle for enough.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle:
        context.load_verify_locations(cafile=ca_bundle)
    return context


# What OpenSSL's verification found (X509_V_ERR_…), and what to do.
_CERTIFICATE: Mapping[int, tuple[str, str]] = {
    9: ("it is not valid yet", "Check the clock of this machine; then ask whoever runs REDCap."),
    10: ("it has expired", "Whoever runs REDCap must renew it; check the clock of this machine, too."),
    18: (
        "it is self-signed: nobody vouches for it",
        "If you are sure that it is REDCap's, set REDCAP_CA_BUNDLE to a file that holds it.",
    ),
    62: ("it is for another host name", "Check the name in REDCAP_API_URL: it must be one that the certificate names."),
    64: ("it is not for this IP address", "Set REDCAP_API_URL to the name that the certificate is for."),
    **dict.fromkeys(
        (2, 19, 20, 21, 27),
        (
            "it was issued by an authority that this machine does not know",
            "If your institution has a certificate authority of its own, or inspects TLS, set REDCAP_CA_BUNDLE to the "
            "PEM file of that authority.",
        ),
    ),
}

_NO_TLS = {
    *("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"),
    *("PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE", "BAD_RECORD_TYPE"),
}
_OTHER_VERSION = {
    *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE", "WRONG_SSL_VERSION"),
    "VERSION_TOO_LOW",
}
_NO_COMMON_CIPHER = {"SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV1_ALERT_INSUFFICIENT_SECURITY", "DH_KEY_TOO_SMALL"}
_CLIENT_CERTIFICATE = {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE"}


def explain(error: ssl.SSLError, where: str, minimum: str) -> ProxyError:
    """The failure that a TLS error means to the person at the keyboard.

    Args:
        error: from the handshake, or later.
        where: host and port.
        minimum: the oldest version of TLS that was offered.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, where)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or not error.library:
        return UpstreamUnreachable(
            f"{where} closed the connection during the TLS handshake. Check that REDCAP_API_URL names a port that "
            "speaks https, and the network or VPN; a firewall on the way may cut it."
        )
    reason = error.reason or ""
    if reason in _NO_TLS:
        what = "does not speak TLS: it is probably a plain HTTP port"
        remedy = "Check the port in REDCAP_API_URL, or whether a gateway on the way answers in its place."
    elif reason in _OTHER_VERSION:
        what = f"does not speak TLS {minimum} or later, which is the least that is accepted"
        remedy = "Whoever runs REDCap must enable it" + (
            ", or set REDCAP_TLS_MINIMUM=1.2 if your institution allows that." if minimum == "1.3" else "."
        )
    elif reason in _NO_COMMON_CIPHER:
        what = "shares no way of encryption with this machine, or wants a certificate from its clients"
        remedy = "Ask whoever runs REDCap which TLS settings its clients need."
    elif reason in _CLIENT_CERTIFICATE:
        what = "wants a certificate from its clients, which this proxy has none of"
        remedy = "Ask whoever runs REDCap for an address of the API that needs none."
    else:
        what = f"does not speak TLS as expected ({reason.lower().replace('_', ' ') or 'no reason given'})"
        remedy = "Check REDCAP_API_URL: its scheme, host and port."
    return UpstreamMisconfigured(f"{where} {what}. {remedy}")


def wants_client_certificate(error: OSError) -> bool:
    """Whether a server refused us for having no certificate; with TLS 1.3 it does so after the handshake."""
    return isinstance(error, ssl.SSLError) and error.reason in _CLIENT_CERTIFICATE


def _explain_certificate(error: ssl.SSLCertVerificationError, where: str) -> ProxyError:
    other = (
        f"OpenSSL refuses it with code {error.verify_code}",
        "Check REDCAP_API_URL, and ask whoever runs REDCap.",
    )
    what, remedy = _CERTIFICATE.get(error.verify_code, other)
    return UpstreamMisconfigured(
        f"The certificate of {where} cannot be trusted: {what}. {remedy} The token was not sent."
    )
