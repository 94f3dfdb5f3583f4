"""A client's request, the response to it, and the connection that may follow.

The application sees an `Exchange` as a `WebSocketRequest`. The server also uses it to close a
connection that a handler has left open, and to answer in place of the handler during a shutdown.
"""

from __future__ import annotations

import contextlib
import enum
import logging

import trio

from .._connection.block import close_after_block
from .._connection.connection import WebSocketConnection, lifecycle_of, start_connection
from .._io.groups import exception_to_raise, strip_closed
from .._io.transport import IgnoringErrors, Transport, unwrap_network_error
from .._sansio.errors import (
    CloseCode,
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    describe,
    printable,
)
from .._sansio.handshake import ExtraHeaders, Headers
from .._sansio.options import Options
from .._sansio.server_handshake import BadRequest, ServerHandshake

logger = logging.getLogger("trio-websocket")


class ResponseState(enum.Enum):
    """The state of the response to a request."""

    #: The handler can still accept or reject the request.
    PENDING = enum.auto()
    ACCEPTED = enum.auto()
    REJECTED = enum.auto()
    #: The server shut down first. `finish_shutdown` sends status 503 and closes the stream.
    SHUT_DOWN = enum.auto()


class Exchange:
    """A request, from when it was received until its stream is closed or its connection ends.

    Invariants: `_handshake` is set if and only if the state is PENDING, and `_connection` if and
    only if it is ACCEPTED. `_final_response` is not empty only in SHUT_DOWN, until it is sent.
    """

    __slots__ = (
        "_connection",
        "_final_response",
        "_handshake",
        "_has_handler",
        "_nursery",
        "_options",
        "_state",
        "headers",
        "path",
        "proposed_subprotocols",
        "transport",
    )

    def __init__(
        self,
        nursery: trio.Nursery,
        transport: Transport,
        handshake: ServerHandshake,
        options: Options,
        *,
        has_handler: bool,
    ) -> None:
        """
        :param nursery: The nursery for the connection's tasks.
        :param transport: The stream.
        :param handshake: The handshake, which has received the request.
        :param options: The options of the connection.
        :param has_handler: True if `close_after_handler` is certain to be called. Then only that
            call ends the connection: a handler that was cancelled can still send a last message
            from a shielded scope.
        """
        self._nursery = nursery
        self._options = options
        self._has_handler = has_handler
        self._state = ResponseState.PENDING
        self._handshake: ServerHandshake | None = handshake
        self._connection: WebSocketConnection | None = None
        self._final_response = b""
        #: The stream.
        self.transport: Transport = transport
        #: The request headers as (name, value) pairs, with lower-case names.
        self.headers: Headers = handshake.headers
        #: The request target: the path and the query.
        self.path: str = handshake.path
        #: The names of the subprotocols that the client offers.
        self.proposed_subprotocols: tuple[str, ...] = handshake.proposed_subprotocols

    def __str__(self) -> str:
        """Name the request, for log records."""
        peer = printable(str(self.transport.remote))
        return f"the request for {printable(self.path)} from {peer}"

    @property
    def open_connection(self) -> WebSocketConnection | None:
        """The connection, unless it is not accepted yet, or is closed or being closed."""
        connection = self._connection
        if connection is None or not lifecycle_of(connection).can_send:
            return None
        return connection

    def pending_handshake(self) -> ServerHandshake:
        """Return the handshake, which can still be accepted or rejected.

        :raises ConnectionClosed: The server has shut down, and answered with status 503.
        :raises RuntimeError: The handler has already answered the request.
        """
        if self._state is ResponseState.SHUT_DOWN:
            raise ConnectionClosed(CloseReason(CloseCode.GOING_AWAY, "the server is being closed"))
        if self._handshake is None:
            raise RuntimeError("the request was accepted or rejected already")
        return self._handshake

    def accept(
        self, subprotocol: str | None, extra_headers: ExtraHeaders | None
    ) -> WebSocketConnection:
        """Start a connection, whose first bytes are the response with status 101."""
        response, result = self.pending_handshake().accept(subprotocol, extra_headers)
        self._set_answered(ResponseState.ACCEPTED)
        connection = start_connection(
            self._nursery, self.transport, result, self._options, response
        )
        self._connection = connection
        if self._has_handler:
            lifecycle_of(connection).shield()
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("accepted %s", self)
        return connection

    async def reject(
        self, status_code: int, extra_headers: ExtraHeaders | None = None, body: bytes | None = None
    ) -> None:
        """Answer with a status other than 101, and close the stream."""
        response = self.pending_handshake().reject(status_code, extra_headers, body)
        self._set_answered(ResponseState.REJECTED)
        self._log_rejection(status_code)
        await self._send_final_response(response)

    def start_shutdown(self, code: int, reason: str | None) -> None:
        """Start closing the connection, or prepare a response with status 503. Doesn't wait."""
        if self._connection is not None:
            lifecycle_of(self._connection).start_close(code, reason)
        elif self._handshake is not None:
            self._final_response = self._handshake.reject(503)
            self._set_answered(ResponseState.SHUT_DOWN)
            self._log_rejection(503)

    async def finish_shutdown(self) -> None:
        """Finish the shutdown that `start_shutdown` has started, and close the stream."""
        if self._connection is not None:
            with contextlib.suppress(DisconnectionTimeout):
                await self._connection.aclose()
        elif self._final_response:
            response, self._final_response = self._final_response, b""
            await self._send_final_response(response)

    async def close_after_handler(self, error: BaseException | None) -> BaseException | None:
        """Close the stream, now that the handler has ended.

        A request without a response gets status 500.

        :param error: The error that the handler raised.
        :returns: The error to raise.
        """
        if self._connection is not None:
            return await close_after_block(self._connection, error)
        if self._state is ResponseState.SHUT_DOWN:
            return error  # finish_shutdown() closes the stream
        try:
            is_pending = self._state is ResponseState.PENDING
            if is_pending and (error is None or isinstance(error, Exception)):
                if error is None or strip_closed(error) is None:
                    # Nothing else reports this: a lost connection does not count as an error.
                    text = "the handler ended without accepting or rejecting %s"
                    logger.error(text, self, exc_info=error)
                await self.reject(500)
        except BaseException as exc:
            return exception_to_raise(error, exc)
        finally:
            await self.transport.close_now()
        return error

    def _set_answered(self, state: ResponseState) -> None:
        self._state = state
        self._handshake = None  # free its memory, because the connection may last long

    async def _send_final_response(self, response: bytes) -> None:
        with trio.move_on_after(self._options.disconnect_timeout):
            await send_final_response(self.transport, response)

    def _log_rejection(self, status_code: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("rejected %s with status %d", self, status_code)


async def receive_request(
    nursery: trio.Nursery, transport: Transport, options: Options, *, has_handler: bool
) -> Exchange:
    """Receive and check a request. If this raises or is cancelled, the stream is closed.

    :raises ConnectionFailed: The connection was lost.
    :raises ConnectionTimeout: The request was not complete within ``connect_timeout``.
    :raises HandshakeError: The request is not a WebSocket handshake. An error response was sent.
    """
    handshake = ServerHandshake(options)
    try:
        with trio.move_on_after(options.connect_timeout):
            while not handshake.has_request():
                handshake.receive_data(await transport.read())
            return Exchange(nursery, transport, handshake, options, has_handler=has_handler)
        raise ConnectionTimeout(f"no request within {options.connect_timeout} s")
    except BadRequest as exc:
        with trio.move_on_after(options.disconnect_timeout):
            await send_final_response(transport, exc.response)
        raise HandshakeError(str(exc)) from exc.__cause__
    except HandshakeError:
        await transport.close_now()
        raise
    except Exception as exc:  # an application's own stream may raise any exception
        await transport.close_now()
        cause = unwrap_network_error(exc)
        text = f"the connection was lost before the request: {describe(cause)}"
        raise ConnectionFailed(text) from cause
    except BaseException:
        await transport.close_now()
        raise


async def send_final_response(transport: Transport, response: bytes) -> None:
    """Write a response and close the stream. Ignore errors: the client may have disconnected."""
    try:
        with IgnoringErrors():
            await transport.write(response)
            await transport.half_close_and_drain(peer_may_send=True)
    finally:
        await transport.close_now()
