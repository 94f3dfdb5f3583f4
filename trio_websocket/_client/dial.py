"""Opening the stream to a server: TCP, with or without TLS."""

from __future__ import annotations

import ssl

import trio

from .._io.groups import UnwrappingGroups
from .._io.tls_stream import TlsStream
from .._io.transport import close_now
from .failures import connection_failed

# The reasons that OpenSSL gives if the server's first bytes are not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})


async def open_stream(host: str, port: int, use_ssl: bool | ssl.SSLContext) -> trio.abc.Stream:
    """Open a TCP stream to a server, and TLS over it unless `use_ssl` is False.

    If cancelled, no socket is left.

    :raises ConnectionFailed: A network or TLS error prevented it.
    """
    try:
        with UnwrappingGroups():  # Trio puts a KeyboardInterrupt into a group
            stream = await trio.open_tcp_stream(host, port)
    except OSError as exc:
        raise connection_failed(f"can't connect to {host}, port {port}", exc)  # noqa: B904 # has its cause
    if use_ssl is False:
        return stream
    context = ssl.create_default_context() if use_ssl is True else use_ssl
    try:
        tls = TlsStream(stream, context, server_hostname=host)
        await tls.do_handshake()
    except OSError as exc:
        await close_now(stream)
        is_plain = isinstance(exc, ssl.SSLError) and exc.reason in _NOT_TLS
        hint = " (does the server expect ws:?)" if is_plain else ""
        raise connection_failed(f"no TLS with {host}, port {port}", exc, hint)  # noqa: B904 # has its cause
    except BaseException:
        await close_now(stream)
        raise
    return tls
