"""Convert network errors to the exceptions that are raised if a connection can't be opened."""

from __future__ import annotations

import os
import ssl

from .._io.groups import flatten_group
from .._io.transport import unwrap_network_error
from .._sansio.errors import ConnectionFailed, describe
from .._sansio.proxy import Proxy


def connection_failed(
    what: str, exc: Exception, hint: str = "", *, proxy: Proxy | None = None
) -> ConnectionFailed:
    """Return the exception to raise for a network error, which becomes its cause.

    :param what: The beginning of the message. The reason and the hint follow it.
    :param exc: The network error.
    :param hint: The likely mistake, to append to the message.
    :param proxy: The proxy, if the failed connection was to a proxy.
    """
    # If several attempts failed, Trio raises an OSError whose cause is a group of their errors.
    group = exc.__cause__ if type(exc) is OSError and exc.errno is None else None
    causes = [
        unwrap_network_error(leaf)
        for leaf in flatten_group(group or exc)
        if isinstance(leaf, Exception)
    ]
    reasons = dict.fromkeys(_reason(cause) for cause in causes)
    text = f"{what}: {', '.join(reasons)}{hint}"
    failed = ConnectionFailed(text) if proxy is None else proxy.error(text)
    errnos = {_errno(cause) for cause in causes}
    if len(errnos) == 1:
        failed.errno = errnos.pop()
    failed.__cause__ = causes[0] if len(causes) == 1 else exc
    return failed


def _errno(exc: Exception) -> int | None:
    # The number in an SSLError is not an errno.
    return exc.errno if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else None


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):  # OpenSSL versions differ
        return "the peer closed the connection without ending TLS"
    errno = _errno(exc)
    if errno is not None and errno > 0:  # name resolution errors have negative numbers
        return os.strerror(errno)  # Trio's text would repeat the address
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return describe(exc)
