"""TLS over the stream to a server or a proxy."""

from __future__ import annotations

import functools
import os
import ssl
from typing import Callable

import trio

from .._io.record_stream import RecordStream
from .._io.tls_stream import TlsStream
from .._io.transport import close_now, unwrap_network_error
from .._sansio.proxy import Proxy
from .._sansio.tls_engine import tls_name
from .failures import connection_failed

# The error reasons that OpenSSL reports if the server's first bytes are not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


async def start_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext | None,
    server_hostname: str,
    what: str,
    hint: str,
    proxy: Proxy | None = None,
) -> trio.abc.Stream:
    """Perform the TLS handshake as a client. If it fails or is cancelled, the stream is closed.

    :param stream: The stream below TLS.
    :param context: The SSL context; None for the default one.
    :param server_hostname: The name for SNI and certificate verification.
    :param what: The beginning of the error message.
    :param hint: The end of the error message, if the server's first bytes are not TLS.
    :param proxy: The proxy, if the stream is to a proxy.
    :raises ConnectionFailed: A network or TLS error prevented the connection.
    """
    try:
        tls = _wrap(stream, context or default_context(), server_hostname)
        try:
            await tls.do_handshake()
        except Exception as exc:  # an application's own stream may raise any exception
            cause = unwrap_network_error(exc)
            is_plain = isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS
            hint = hint if is_plain else ""
            raise connection_failed(what, cause, hint, proxy=proxy)  # noqa: B904 # the cause is set
    except BaseException:
        await close_now(stream)
        raise
    return tls


def _wrap(
    stream: trio.abc.Stream, context: ssl.SSLContext, server_hostname: str
) -> TlsStream | trio.SSLStream[trio.abc.Stream]:
    if isinstance(stream, trio.SocketStream):
        return TlsStream(stream, context, server_hostname=server_hostname)
    name = tls_name(server_hostname)
    records = RecordStream(stream)
    return trio.SSLStream(records, context, server_hostname=name, https_compatible=True)


def default_context() -> ssl.SSLContext:
    """Return the SSL context for ``use_ssl=True``, which trusts the system's certificates.

    Loading the certificates takes tens of milliseconds, so this is done once per process, on first
    use.
    """
    return _create_context(
        ssl.create_default_context,
        ssl.SSLContext,
        os.environ.get("SSL_CERT_FILE"),
        os.environ.get("SSL_CERT_DIR"),
    )


# The arguments are the cache key. A test, or a package that replaces the certificates, may change
# them.
@functools.lru_cache(maxsize=1)
def _create_context(create: Callable[[], ssl.SSLContext], *_: object) -> ssl.SSLContext:
    return create()
