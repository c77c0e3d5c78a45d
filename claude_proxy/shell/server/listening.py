"""The sockets that listen, such that nobody else on this machine can be taken for the proxy."""

from __future__ import annotations

import contextlib
import errno
import socket

BOTH = "localhost"
_LOOPBACK = ("127.0.0.1", "::1")
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
_ATTEMPTS = 20  # to find a port that is free at both addresses


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen at an address; at both loopback addresses for `localhost`, since clients may try either one first.

    Where there is no IPv6, `localhost` is the first one alone.

    Raises:
        OSError: an address is taken, or not this machine's; then nothing listens.
    """
    if host.lower() != BOTH:
        return [_listen(host, port)]
    for attempt in range(_ATTEMPTS):
        first = _listen(_LOOPBACK[0], port)
        try:
            return [first, _listen(_LOOPBACK[1], first.getsockname()[1])]
        except OSError as error:
            if error.errno in _NO_IPV6:
                return [first]
            first.close()
            if port or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _listen(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(listener.close)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # On Windows SO_REUSEADDR would let others take the port from us.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        listener.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)
        listener.bind(address[:2])
        listener.listen(1024)
        on_failure.pop_all()
    return listener
