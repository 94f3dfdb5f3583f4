"""Serving: listeners, the request that a handler answers, and what becomes of handlers."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Awaitable, Callable, NoReturn, Sequence

import trio

from ._connection import WebSocketConnection, conclude
from ._errors import (
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeError,
    members,
    without_lost_connections,
)
from ._handshake import BadRequest, ExtraHeaders, Headers, ServerHandshake
from ._options import NewerOptionKeywords, OptionKeywords, Options, takes_options
from ._transport import Address, Transport, cause_of, close_now
from ._url import Endpoint

if TYPE_CHECKING:
    import ssl

    from typing_extensions import Unpack

# What the system says when it can't have another connection, but may be able to in a while.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_ACCEPT_AGAIN = 0.1  # seconds until then

Handler = Callable[["WebSocketRequest"], Awaitable[object]]

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
        self._handshake = handshake
        self._headers = list(handshake.headers)
        self._options = options
        self._is_answered = False
        self._is_concluded = False  # whether `_conclude` is sure to be called
        self._connection: WebSocketConnection | None = None

    @property
    def headers(self) -> Headers:
        """The headers, pairs of name and value, with the names in lower case."""
        return self._headers

    @property
    def path(self) -> str:
        """The request target: the path and the query."""
        return self._handshake.path

    @property
    def proposed_subprotocols(self) -> tuple[str, ...]:
        """The names of the subprotocols that the client offers, the preferred one first."""
        return self._handshake.proposed_subprotocols

    @property
    def local(self) -> Address:
        """Our end: an :class:`Endpoint`, or the ``repr()`` of a stream that is not TCP."""
        return self._transport.local

    @property
    def remote(self) -> Address:
        """The client's end: an :class:`Endpoint`, or the ``repr()`` of a stream that is not TCP."""
        return self._transport.remote

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
        """
        self._check_unanswered()
        await trio.lowlevel.checkpoint()
        self._check_unanswered()
        response, opened = self._handshake.accept(subprotocol, extra_headers)
        self._is_answered = True
        self._connection = WebSocketConnection._start(
            self._nursery, self._transport, opened, self._options, response
        )
        if self._is_concluded:
            self._connection._outlive_cancellation()
        return self._connection

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
        self._check_unanswered()
        response = self._handshake.reject(status_code, extra_headers, body)
        self._is_answered = True
        with trio.move_on_after(self._options.disconnect_timeout):
            await _answer(self._transport, response)

    def _check_unanswered(self) -> None:
        if self._is_answered:
            raise RuntimeError("the request was accepted or rejected already")

    async def _conclude(self, error: BaseException | None) -> BaseException | None:
        """Close what the handler was given, now that it is done; return what is to be raised."""
        if self._connection is not None:
            return await conclude(self._connection, error)
        try:
            if not self._is_answered and (error is None or isinstance(error, Exception)):
                await self.reject(500)
        except BaseException as exc:
            return exc if error is None else error
        finally:
            await self._transport.close_now()
        return error


@takes_options
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
    bounds = Options(message_queue_size, max_message_size, receive_buffer_size, **options)
    return await _receive_request(nursery, stream, bounds)


@takes_options
async def serve_websocket(
    handler: Handler,
    host: str | bytes | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[OptionKeywords],
) -> NoReturn:
    """Serve WebSocket connections over TCP until cancelled.

    When it is cancelled, each client is sent code 1001, and nobody waits. ``nursery.start()`` of
    it returns the :class:`WebSocketServer` once it listens.

    :param handler: An async function that is called with each :class:`WebSocketRequest`. When it
        returns, its connection is closed with code 1000; if it raises, with 1011, and the
        exception comes out of here. A :exc:`ConnectionClosed` that comes out of it is the news of
        a lost connection, and no error.
    :param host: The address to listen on; None for all.
    :param port: The port to listen on; 0 for a free one.
    :param ssl_context: The SSL context for ``wss:``, or None.
    :param handler_nursery: Where the handlers run; by default, in here.
    :param task_status: For ``nursery.start()``.
    :param options: See :ref:`options`.
    :raises OSError: It is not possible to listen there.
    """
    Options(**options)
    if ssl_context is None:
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]
        listeners = await trio.open_tcp_listeners(port, host=host)
    else:
        listeners = await trio.open_ssl_over_tcp_listeners(port, ssl_context, host=host)
    server = WebSocketServer(handler, listeners, handler_nursery=handler_nursery, **options)
    await server.run(task_status=task_status)


class WebSocketServer:
    """A server on listeners of any kind."""

    @takes_options
    def __init__(
        self,
        handler: Handler,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        handler_nursery: trio.Nursery | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        """
        :param handler: As in :func:`serve_websocket`.
        :param listeners: Trio listeners. The server closes them.
        :param handler_nursery: As in :func:`serve_websocket`.
        :param options: See :ref:`options`.
        :raises ValueError: There are no listeners.
        """
        if not listeners:
            raise ValueError("a server needs a listener, and the list is empty")
        self._handler = handler
        self._listeners = listeners
        self._addresses = [_listener_address(listener) for listener in listeners]
        self._handler_nursery = handler_nursery
        self._options = Options(**options)

    @property
    def port(self) -> int:
        """The port of the listener.

        :raises RuntimeError: There is more than one listener, or it has no port.
        """
        if len(self._listeners) > 1:
            raise RuntimeError("there is more than one listener: see WebSocketServer.listeners")
        address = self._addresses[0]
        if isinstance(address, Endpoint):
            return address.port
        raise RuntimeError(f"this listener has no port: {address}")

    @property
    def listeners(self) -> list[Address]:
        """The listeners: an :class:`Endpoint` each, or the ``repr()`` of one that is not TCP."""
        return list(self._addresses)

    async def run(
        self, *, task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve until cancelled; see :func:`serve_websocket`.

        :param task_status: For ``nursery.start()``.
        """
        error: BaseException = AssertionError("a listener came to an end without an error")
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, self._handler_nursery or nursery)
                task_status.started(self)
        except BaseException as exc:
            error = _single(exc)
        raise error

    async def _accept(
        self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery
    ) -> None:
        # Not trio.serve_listeners(): when that is cancelled, it loses what handlers raise.
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    if exc.errno not in _OUT_OF_RESOURCES:
                        raise
                    logger.error("can't accept a connection for now: %s", exc)
                    await trio.sleep(_ACCEPT_AGAIN)
                else:
                    try:
                        nursery.start_soon(self._serve, stream)
                    except RuntimeError:  # the handlers' nursery is closed
                        await close_now(stream)
                        raise

    async def _serve(self, stream: trio.abc.Stream) -> None:
        """One connection, from the request to the end of its handler."""
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                request = await _receive_request(nursery, stream, self._options)
            except HandshakeError as exc:
                logger.debug("no opening handshake: %s", exc)
            except BaseException as exc:
                error = exc
            else:
                request._is_concluded = True
                try:
                    await self._handler(request)
                except BaseException as exc:
                    error = exc
                error = await request._conclude(error)
            # What runs in the nursery ends by itself now.
            nursery.cancel_scope.shield = True
        if error is not None:
            error = without_lost_connections(error)
        if error is not None:
            raise error


async def _receive_request(
    nursery: trio.Nursery, stream: trio.abc.Stream, options: Options
) -> WebSocketRequest:
    transport = Transport(stream, options.receive_buffer_size)
    handshake = ServerHandshake(options)
    try:
        with trio.move_on_after(options.connect_timeout):
            while not handshake.has_request():
                handshake.receive_data(await transport.read())
            return WebSocketRequest(nursery, transport, handshake, options)
        raise ConnectionTimeout(f"no request within {options.connect_timeout} s")
    except BadRequest as exc:
        with trio.move_on_after(options.disconnect_timeout):
            await _answer(transport, exc.response)
        raise HandshakeError(str(exc)) from exc.__cause__
    except HandshakeError:
        await transport.close_now()
        raise
    except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
        await transport.close_now()
        cause = cause_of(exc)
        raise ConnectionFailed(f"the connection was lost before the request: {cause}") from cause
    except BaseException:
        await transport.close_now()
        raise


async def _answer(transport: Transport, response: bytes) -> None:
    """Write a last response and close the stream. A client that is gone is no error."""
    try:
        with contextlib.suppress(Exception):  # a stream of any kind: whatever it raises
            await transport.write(response)
            await transport.hang_up(peer_may_send=True)
    finally:
        await transport.close_now()


def _single(exc: BaseException) -> BaseException:
    """The one error in a group that a nursery has made of it, or else what it is."""
    errors = [error for error in members(exc) if not isinstance(error, trio.Cancelled)]
    return errors[0] if len(errors) == 1 else exc


def _listener_address(listener: trio.abc.Listener[trio.abc.Stream]) -> Address:
    """Where a listener listens."""
    is_ssl = isinstance(listener, trio.SSLListener)
    transport = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    if isinstance(transport, trio.SocketListener):
        name = transport.socket.getsockname()
        if isinstance(name, tuple):  # a Unix-domain socket has a path
            return Endpoint(name[0].partition("%")[0], name[1], is_ssl)
    return repr(listener)
