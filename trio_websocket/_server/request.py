"""A client's opening handshake, on the server: received, then accepted or rejected."""

from __future__ import annotations

import contextlib
import logging

import trio

from .._connection.block import close_after_block
from .._connection.connection import WebSocketConnection, lifecycle_of, start_connection
from .._io.sockets import Address
from .._io.transport import IgnoringErrors, Transport, unwrap_network_error
from .._sansio.compat import Unpack
from .._sansio.errors import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    describe,
    exception_to_raise,
    printable,
    strip_closed,
)
from .._sansio.handshake import ExtraHeaders, Headers
from .._sansio.options import NewerOptionKeywords, Options, with_option_signature
from .._sansio.server_handshake import BadRequest, ServerHandshake

logger = logging.getLogger("trio-websocket")


class WebSocketRequest:
    """A client's opening handshake, which waits to be accepted or rejected."""

    def __init__(
        self,
        nursery: trio.Nursery,
        transport: Transport,
        handshake: ServerHandshake,
        options: Options,
    ) -> None:
        """
        Applications get requests from :func:`serve_websocket` and :func:`wrap_server_stream`.

        :param nursery: Where the connection's tasks will run.
        :param transport: The stream.
        :param handshake: The request.
        :param options: The options of the connection.
        """
        self._nursery = nursery
        self._transport = transport
        self._handshake: ServerHandshake | None = handshake  # until it is answered
        self._headers = handshake.headers
        self._path = handshake.path
        self._proposed_subprotocols = handshake.proposed_subprotocols
        self._options = options
        self._is_turned_away = False  # by the server, behind the handler's back
        self._final_bytes = b""
        self._is_concluded = False  # whether `_conclude` is sure to be called
        self._connection: WebSocketConnection | None = None

    @property
    def headers(self) -> Headers:
        """The headers, pairs of name and value, with the names in lower case."""
        return self._headers

    @property
    def path(self) -> str:
        """The request target: the path and the query."""
        return self._path

    @property
    def proposed_subprotocols(self) -> tuple[str, ...]:
        """The names of the subprotocols that the client offers, the preferred one first."""
        return self._proposed_subprotocols

    @property
    def local(self) -> Address:
        """Our address: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._transport.local

    @property
    def remote(self) -> Address:
        """The client's: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._transport.remote

    @trio.lowlevel.enable_ki_protection
    async def accept(
        self, *, subprotocol: str | None = None, extra_headers: ExtraHeaders | None = None
    ) -> WebSocketConnection:
        """Accept the request: answer with status 101.

        If cancelled, nothing is sent, and the request can still be answered. If the client is
        gone, the next call of the connection's says so.

        :param subprotocol: One of those that the client offered, or None.
        :param extra_headers: Pairs of name and value to add to the response.
        :returns: The open connection.
        :raises ValueError: The subprotocol was not offered, or a header can't be sent. The request
            can still be answered.
        :raises RuntimeError: The request was answered before.
        :raises ConnectionClosed: The server is being closed, and has answered with status 503.
        """
        handshake = self._unanswered()
        await trio.lowlevel.checkpoint_if_cancelled()
        response, opened = handshake.accept(subprotocol, extra_headers)
        self._handshake = None  # it takes memory, and the connection may live long
        self._connection = start_connection(
            self._nursery, self._transport, opened, self._options, response
        )
        if self._is_concluded:
            lifecycle_of(self._connection).shield()
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("accepted %s", described(self))
        return self._connection

    @trio.lowlevel.enable_ki_protection
    async def reject(
        self,
        status_code: int,
        *,
        extra_headers: ExtraHeaders | None = None,
        body: bytes | None = None,
    ) -> None:
        """Reject the request: answer with another HTTP status, and close the stream.

        It takes no longer than ``disconnect_timeout``. If cancelled, the stream is closed at once.

        :param status_code: The HTTP status, from 200 to 999; 3xx, 4xx and 5xx make sense.
        :param extra_headers: Pairs of name and value to add to the response.
        :param body: The body of the response. Its Content-Length is added.
        :raises ValueError: The status or a header can't be sent. The request can still be answered.
        :raises RuntimeError: The request was answered before.
        """
        response = self._unanswered().reject(status_code, extra_headers, body)
        self._handshake = None
        self._log_rejection(status_code)
        await self._end(response)

    async def _end(self, response: bytes) -> None:
        with trio.move_on_after(self._options.disconnect_timeout):
            await answer(self._transport, response)

    def _begin_to_leave(self, code: int, reason: str | None) -> None:
        """Tell the client, without waiting, that the server is being closed."""
        if self._connection is not None:
            lifecycle_of(self._connection).start_close(code, reason)
        elif self._handshake is not None:
            self._is_turned_away = True
            self._final_bytes = self._handshake.reject(503)
            self._handshake = None
            self._log_rejection(503)

    async def _leave(self) -> None:
        """End what `_begin_to_leave` has begun."""
        if self._connection is not None:
            with contextlib.suppress(DisconnectionTimeout):
                await self._connection.aclose()
        elif self._final_bytes:
            farewell, self._final_bytes = self._final_bytes, b""
            await self._end(farewell)

    def _log_rejection(self, status_code: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("rejected %s with status %d", described(self), status_code)

    def _unanswered(self) -> ServerHandshake:
        if self._is_turned_away:
            raise ConnectionClosed(CloseReason(1001, "the server is being closed"))
        if self._handshake is None:
            raise RuntimeError("the request was accepted or rejected already")
        return self._handshake

    async def _conclude(self, error: BaseException | None) -> BaseException | None:
        """Close what the handler was given, now that it is done; return what is to be raised."""
        if self._connection is not None:
            return await close_after_block(self._connection, error)
        if self._is_turned_away:
            return error  # `_leave` closes the stream
        try:
            if self._handshake is not None and (error is None or isinstance(error, Exception)):
                if error is None or strip_closed(error) is None:
                    # No other record or exception says so: a lost connection is not an error.
                    text = "the handler ended without accepting or rejecting %s"
                    logger.error(text, described(self), exc_info=error)
                await self.reject(500)
        except BaseException as exc:
            return exception_to_raise(error, exc)
        finally:
            await self._transport.close_now()
        return error


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
    """Receive an opening handshake over a stream that exists already.

    If it fails, or is cancelled, the stream is closed; the client has got an answer, if it is
    still there.

    :param nursery: The nursery for the connection's background work.
    :param stream: The stream. The request, or the connection, closes it.
    :param options: See :ref:`options`.
    :raises ConnectionFailed: The connection was lost.
    :raises ConnectionTimeout: The request was not there within ``connect_timeout``.
    :raises HandshakeError: It is no WebSocket handshake.
    """
    limits = {
        "message_queue_size": message_queue_size,
        "max_message_size": max_message_size,
        "receive_buffer_size": receive_buffer_size,
    }
    bounds = Options.of_call(wrap_server_stream, {**limits, **options})
    transport = Transport(stream, bounds.receive_buffer_size)
    return await receive_request(nursery, transport, bounds)


def described(request: WebSocketRequest) -> str:
    """The request, as log records name it."""
    return f"the request for {printable(request.path)} from {printable(str(request.remote))}"


async def receive_request(
    nursery: trio.Nursery, transport: Transport, options: Options
) -> WebSocketRequest:
    handshake = ServerHandshake(options)
    try:
        with trio.move_on_after(options.connect_timeout):
            while not handshake.has_request():
                handshake.receive_data(await transport.read())
            return WebSocketRequest(nursery, transport, handshake, options)
        raise ConnectionTimeout(f"no request within {options.connect_timeout} s")
    except BadRequest as exc:
        with trio.move_on_after(options.disconnect_timeout):
            await answer(transport, exc.response)
        raise HandshakeError(str(exc)) from exc.__cause__
    except HandshakeError:
        await transport.close_now()
        raise
    except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
        await transport.close_now()
        cause = unwrap_network_error(exc)
        text = f"the connection was lost before the request: {describe(cause)}"
        raise ConnectionFailed(text) from cause
    except BaseException:
        await transport.close_now()
        raise


async def answer(transport: Transport, response: bytes) -> None:
    """Write a last response and close the stream. A client that is gone is no error."""
    try:
        with IgnoringErrors():
            await transport.write(response)
            await transport.half_close_and_drain(peer_may_send=True)
    finally:
        await transport.close_now()
