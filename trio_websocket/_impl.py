"""The import path that 0.12 used: the public names, and the functions that open connections.

Applications replace this module's `open_websocket` and `connect_websocket` in their tests, so the
functions here call each other by these names and delegate the work to `_client`.
"""

from __future__ import annotations

import functools
import logging
import ssl
from contextlib import AbstractAsyncContextManager
from typing import Any, Awaitable, Callable, Iterable

import trio

from ._client.backoff import Backoff as Backoff, Failure as Failure
from ._client.block import ConnectionBlock
from ._client.connect import connect, wrap_client_stream as wrap_client_stream
from ._client.dial import check_or_close
from ._client.failures import connection_failed
from ._client.options import ClientKeywords, ClientOptions
from ._client.stay_connected import stay_connected as stay_connected
from ._client.target import Target, URLTarget, parse_target
from ._connection.broadcast import BroadcastResult as BroadcastResult, broadcast as broadcast
from ._connection.connection import WebSocketConnection as WebSocketConnection
from ._connection.message_stream import MessageStream as MessageStream
from ._connection.statistics import ConnectionStatistics as ConnectionStatistics
from ._io.interrupt import call_unprotected
from ._io.sockets import Address as Address
from ._sansio.codec import HAS_SPEEDUPS as HAS_SPEEDUPS
from ._sansio.compat import Unpack
from ._sansio.errors import (
    CloseCode as CloseCode,
    CloseReason as CloseReason,
    ConnectionClosed as ConnectionClosed,
    ConnectionFailed as ConnectionFailed,
    ConnectionRejected as ConnectionRejected,
    ConnectionTimeout as ConnectionTimeout,
    DisconnectionTimeout as DisconnectionTimeout,
    HandshakeError as HandshakeError,
    ProxyError as ProxyError,
    Reconnect as Reconnect,
    RedirectError as RedirectError,
)
from ._sansio.extensions import (
    DeflateParameters as DeflateParameters,
    PerMessageDeflate as PerMessageDeflate,
)
from ._sansio.handshake import ExtraHeaders
from ._sansio.options import Options, check_option_names, with_signature_of
from ._sansio.url import Endpoint as Endpoint
from ._server.request import (
    WebSocketRequest as WebSocketRequest,
    wrap_server_stream as wrap_server_stream,
)
from ._server.server import WebSocketServer as WebSocketServer, serve_websocket as serve_websocket

# Names from 0.12 that existing programs import.
CONN_TIMEOUT = Options.connect_timeout
MESSAGE_QUEUE_SIZE = Options.message_queue_size
MAX_MESSAGE_SIZE = Options.max_message_size
RECEIVE_BYTES = Options.receive_buffer_size
logger = logging.getLogger("trio-websocket")


class TrioWebsocketInternalError(Exception):
    """The error that 0.12 raised if it could not unwrap an exception group; no longer raised."""


# The options of 0.12, whose functions always passed them on, even with their default values. A
# test's stand-in may accept only these, so other options are passed on only if the caller set them.
_LIMITS = ("message_queue_size", "max_message_size", "receive_buffer_size")
_TIMEOUTS = ("connect_timeout", "disconnect_timeout")


def _with_defaults(names: Iterable[str], options: ClientKeywords) -> dict[str, Any]:
    return {**{name: getattr(Options, name) for name in names}, **options}


@with_signature_of(ClientOptions)
def open_websocket(
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[ClientKeywords],
) -> AbstractAsyncContextManager[WebSocketConnection]:
    """Open a connection for an ``async with`` block.

    At the end of the block, the connection is closed with code 1000, or with code 1011 if the block
    raised an exception, which propagates unchanged. If the block was cancelled, the connection is
    closed with code 1001, without waiting for the peer's Close frame.

    If cancelled while the connection is being opened, no task or socket is left behind.

    :param host: A host name or an IP address.
    :param port: A TCP port.
    :param resource: The path and the query.
    :param use_ssl: False for ``ws:``; True for ``wss:`` with the system's certificates; or the
        SSL context to use.
    :param subprotocols: The subprotocols to offer, most preferred first.
    :param extra_headers: (name, value) pairs. They replace headers of the same name that the
        handshake would otherwise send.
    :param options: See :ref:`options` and :ref:`client-options`. Once the block has begun, the
        library always closes an open ``stream``.
    :raises ConnectionFailed: The network prevented the connection.
    :raises ProxyError: The option ``proxy`` names a proxy that did not open a tunnel to the server.
    :raises ImportError: The option ``proxy`` names a SOCKS proxy, and python-socks is not
        installed.
    :raises ConnectionTimeout: Opening the connection took longer than ``connect_timeout``.
    :raises ConnectionRejected: The server answered with an HTTP status other than 101.
    :raises RedirectError: ``max_redirects`` is not 0, and the server sent a redirect that is not
        allowed.
    :raises HandshakeError: The server's response is not valid.
    :raises DisconnectionTimeout: At the end of the block, the peer did not answer our Close frame
        within ``disconnect_timeout``.
    """
    checked = ClientOptions.of_call(open_websocket, options)
    target = Target(host, port, resource, use_ssl, subprotocols, extra_headers, checked)
    return ConnectionBlock(target, functools.partial(_find_stand_in, target, options))


@with_signature_of(ClientOptions)
@trio.lowlevel.enable_ki_protection
async def connect_websocket(
    nursery: trio.Nursery,
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[ClientKeywords],
) -> WebSocketConnection:
    """Open a connection whose tasks run in the caller's nursery.

    The caller must close the connection; the nursery stays open until then. If cancelled, no task
    or socket is left behind.

    :param nursery: The nursery for the connection's tasks.
    :param host: A host name or an IP address.
    :param port: A TCP port.
    :param resource: The path and the query.
    :param use_ssl: As in :func:`open_websocket`.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options` and :ref:`client-options`. The library always closes an open
        ``stream``, even if an argument is invalid.
    :raises HandshakeError: Opening failed. The subclasses are listed in :func:`open_websocket`.
    """

    def check() -> Target:
        checked = ClientOptions.of_call(connect_websocket, options)
        return Target(host, port, resource, use_ssl, subprotocols, extra_headers, checked)

    return await connect(nursery, await check_or_close(check, options.get("stream")))


@with_signature_of(ClientOptions)
def open_websocket_url(
    url: object,
    ssl_context: ssl.SSLContext | None = None,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[ClientKeywords],
) -> AbstractAsyncContextManager[WebSocketConnection]:
    """Open a connection to a URL for an ``async with`` block. See :func:`open_websocket`.

    :param url: A ``ws:`` or ``wss:`` URL, or an object whose ``str()`` is one. A user name and
        password in the URL become an ``Authorization: Basic`` header.
    :param ssl_context: The SSL context for ``wss:``; by default, one with the system's
        certificates.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options` and :ref:`client-options`. Once the block has begun, the
        library always closes an open ``stream``.
    :raises ValueError: The URL is not a WebSocket URL, or an SSL context was passed with a ``ws:``
        URL.
    """
    check_option_names(open_websocket_url, options, ClientOptions)
    target = parse_target(url, ssl_context, extra_headers)
    return open_websocket(
        target.host,
        target.port,
        target.resource,
        use_ssl=target.use_ssl,
        subprotocols=subprotocols,
        extra_headers=target.extra_headers,
        **_with_defaults(_LIMITS + _TIMEOUTS, options),
    )


@with_signature_of(ClientOptions)
@trio.lowlevel.enable_ki_protection
async def connect_websocket_url(
    nursery: trio.Nursery,
    url: object,
    ssl_context: ssl.SSLContext | None = None,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | None = None,
    **options: Unpack[ClientKeywords],
) -> WebSocketConnection:
    """Open a connection to a URL; the connection's tasks run in the caller's nursery.

    The caller must close the connection; the nursery stays open until then. If cancelled, no task
    or socket is left behind.

    :param nursery: The nursery for the connection's tasks.
    :param url: As in :func:`open_websocket_url`.
    :param ssl_context: As in :func:`open_websocket_url`.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`.
    :param options: See :ref:`options` and :ref:`client-options`. The library always closes an open
        ``stream``, even if an argument is invalid.
    :raises ValueError: As in :func:`open_websocket_url`.
    :raises HandshakeError: Opening failed. The subclasses are listed in :func:`open_websocket`.
    """

    def check() -> URLTarget:
        check_option_names(connect_websocket_url, options, ClientOptions)
        return parse_target(url, ssl_context, extra_headers)

    target = await check_or_close(check, options.get("stream"))
    return await connect_websocket(
        nursery,
        target.host,
        target.port,
        target.resource,
        use_ssl=target.use_ssl,
        subprotocols=subprotocols,
        extra_headers=target.extra_headers,
        **_with_defaults(_LIMITS, options),
    )


_own_connect_websocket = connect_websocket


def _find_stand_in(
    target: Target, options: ClientKeywords
) -> Callable[[trio.Nursery], Awaitable[WebSocketConnection]] | None:
    """Return a test's replacement for `connect_websocket`, or None if it was not replaced."""
    if connect_websocket is _own_connect_websocket:
        return None
    keywords = _with_defaults(_LIMITS, options)
    for name in _TIMEOUTS:  # 0.12's connect_websocket() did not accept these
        keywords.pop(name, None)
    return functools.partial(_call_stand_in, connect_websocket, target, keywords)


async def _call_stand_in(
    stand_in: Callable[..., Awaitable[WebSocketConnection]],
    target: Target,
    keywords: dict[str, Any],
    nursery: trio.Nursery,
) -> WebSocketConnection:
    """Call a stand-in for `connect_websocket` as 0.12 did.

    :raises HandshakeError: The stand-in raised it, or an OSError.
    """
    try:
        return await call_unprotected(
            stand_in,
            nursery,
            target.host,
            target.port,
            target.resource,
            use_ssl=target.use_ssl,
            subprotocols=target.subprotocols,
            extra_headers=target.extra_headers,
            **keywords,
        )
    except HandshakeError:
        raise
    except OSError as exc:
        what = f"can't connect to {target.host}, port {target.port}"
        raise connection_failed(what, exc)  # noqa: B904 # the cause is set
