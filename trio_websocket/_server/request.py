"""`WebSocketRequest`: a client's request, as passed to handlers."""

from __future__ import annotations

import ssl

import trio

from .._connection.connection import WebSocketConnection
from .._io.sockets import Address
from .._io.transport import Transport
from .._sansio.compat import Unpack
from .._sansio.handshake import ExtraHeaders, Headers
from .._sansio.options import NewerOptionKeywords, Options, with_option_signature
from .._sansio.replaceable import ReplaceableProperty
from .exchange import Exchange, receive_request


class WebSocketRequest:
    """The request of a client that wants to open a connection. Accept or reject it."""

    def __init__(self, exchange: Exchange) -> None:
        """
        Applications get requests from :func:`serve_websocket` and :func:`wrap_server_stream`.

        :param exchange: The request, its response, and the connection that may follow.
        """
        self._exchange = exchange

    @property
    def headers(self) -> Headers:
        """The request headers as (name, value) pairs, with lower-case names."""
        return self._exchange.headers

    @property
    def path(self) -> str:
        """The request target: the path and the query."""
        return self._exchange.path

    @property
    def proposed_subprotocols(self) -> tuple[str, ...]:
        """The names of the subprotocols that the client offers, the preferred one first."""
        return self._exchange.proposed_subprotocols

    @property
    def local(self) -> Address:
        """Our address: an :class:`Endpoint`, a Unix socket's path, or a ``repr()``."""
        return self._exchange.transport.local

    @property
    def remote(self) -> Address:
        """The client's address: an :class:`Endpoint`, a Unix socket's path, or a ``repr()``."""
        return self._exchange.transport.remote

    @ReplaceableProperty
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS object, which provides the client's certificate and the cipher; None without TLS.

        See :attr:`WebSocketConnection.ssl_object`.
        """
        return self._exchange.transport.ssl_object

    @trio.lowlevel.enable_ki_protection
    async def accept(
        self, *, subprotocol: str | None = None, extra_headers: ExtraHeaders | None = None
    ) -> WebSocketConnection:
        """Accept the request: answer with status 101.

        If cancelled, nothing is sent, and the request can still be answered. If the client has
        disconnected, the next call on the connection raises :exc:`ConnectionClosed`.

        :param subprotocol: One of the subprotocols that the client offered, or None.
        :param extra_headers: (name, value) pairs to add to the response.
        :returns: The open connection.
        :raises ValueError: The subprotocol was not offered, or a header is invalid. The request can
            still be answered.
        :raises RuntimeError: The request has already been answered.
        :raises ConnectionClosed: The server is being closed, and has answered with status 503.
        """
        self._exchange.pending_handshake()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._exchange.accept(subprotocol, extra_headers)

    @trio.lowlevel.enable_ki_protection
    async def reject(
        self,
        status_code: int,
        *,
        extra_headers: ExtraHeaders | None = None,
        body: bytes | None = None,
    ) -> None:
        """Reject the request: answer with an HTTP status other than 101, and close the stream.

        This takes at most ``disconnect_timeout``. If cancelled, the stream is closed at once.

        :param status_code: The HTTP status, from 200 to 999; 3xx, 4xx and 5xx make sense.
        :param extra_headers: (name, value) pairs to add to the response.
        :param body: The body of the response. A Content-Length header is added.
        :raises ValueError: The status or a header is invalid. The request can still be answered.
        :raises RuntimeError: The request has already been answered.
        :raises ConnectionClosed: The server is being closed, and has answered with status 503.
        """
        await self._exchange.reject(status_code, extra_headers, body)


@with_option_signature
@trio.lowlevel.enable_ki_protection
async def wrap_server_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    message_queue_size: float = Options.message_queue_size,
    max_message_size: float = Options.max_message_size,
    receive_buffer_size: int | None = Options.receive_buffer_size,
    **options: Unpack[NewerOptionKeywords],
) -> WebSocketRequest:
    """Receive an opening handshake over an existing stream.

    If this fails or is cancelled, the stream is closed. A client that sent an invalid request gets
    an error response first.

    :param nursery: The nursery for the connection's background work.
    :param stream: The stream. The request, or the connection, closes it.
    :param options: See :ref:`options`.
    :raises ConnectionFailed: The connection was lost.
    :raises ConnectionTimeout: The request was not complete within ``connect_timeout``.
    :raises HandshakeError: The request is not a WebSocket handshake.
    """
    limits = {
        "message_queue_size": message_queue_size,
        "max_message_size": max_message_size,
        "receive_buffer_size": receive_buffer_size,
    }
    checked = Options.of_call(wrap_server_stream, {**limits, **options})
    transport = Transport(stream, checked.receive_buffer_size)
    return WebSocketRequest(await receive_request(nursery, transport, checked, has_handler=False))
