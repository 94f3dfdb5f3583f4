"""Serving: listeners, how many connections there may be, and what becomes of their handlers."""

from __future__ import annotations

import errno
import inspect
import logging
import math
import ssl
from typing import Awaitable, Callable, Sequence

import trio

from .._connection.connection import WebSocketConnection, lifecycle_of
from .._io.cancel import cancel
from .._io.interrupt import UnwrappingGroups, call_unprotected, unwrap_single
from .._io.sockets import Address
from .._io.transport import LINGER, Transport, close_now
from .._sansio.compat import Unpack
from .._sansio.errors import (
    HandshakeError,
    check_close_code,
    printable,
    split_exceptions,
    strip_closed,
)
from .._sansio.frames import check_reason
from .._sansio.options import (
    OptionKeywords,
    Options,
    check_number,
    check_ssl_context,
    with_option_signature,
)
from .._sansio.url import Endpoint
from .listeners import (
    accept,
    cannot_listen,
    check_port,
    checked_listeners,
    listener_address,
)
from .request import WebSocketRequest, answer, described, receive_request

# What the system says when it can't have another connection, but may be able to in a while.
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_ACCEPT_AGAIN = 0.1  # seconds until then
# The answer to clients over the limit, and how many of them get it at the same time: the answer
# must not cost what the limit is there to save. Others are closed without a word.
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_MAX_TURNED_AWAY = 100

# Otherwise each task has a name of its own, which says the same.
_TASK = "trio_websocket: a client that is served"

Handler = Callable[[WebSocketRequest], Awaitable[object]]
ErrorHandler = Callable[[WebSocketRequest, Exception], object]

logger = logging.getLogger("trio-websocket")


@with_option_signature
@trio.lowlevel.enable_ki_protection
async def serve_websocket(
    handler: Handler,
    host: str | bytes | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    handler_nursery: trio.Nursery | None = None,
    on_handler_error: ErrorHandler | None = None,
    max_connections: float = math.inf,
    shutdown_timeout: float = 60,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[OptionKeywords],
) -> None:
    """Serve WebSocket connections over TCP until cancelled, or closed.

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
    :param on_handler_error: A function, async or not, that is called with the request and the
        exception when a handler has raised. The exception is logged with its traceback, stays in
        that connection, and the server goes on. None: the exception comes out of here.
    :param max_connections: How many connections are served at the same time. Further clients get
        status 503. By default, as many as the process may have descriptors: while it has no more,
        none are accepted.
    :param shutdown_timeout: Seconds that :meth:`WebSocketServer.aclose` gives the handlers.
    :param task_status: For ``nursery.start()``.
    :param options: See :ref:`options`.
    :raises OSError: It is not possible to listen there. The message names the host and the port.
    """
    Options.of_call(serve_websocket, options)
    check_ssl_context(ssl_context)
    if ssl_context is not None and ssl_context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        hint = "use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        raise ValueError(f"ssl_context must be a context for servers, not for clients: {hint}")
    _check_arguments(handler, handler_nursery, on_handler_error, max_connections, shutdown_timeout)
    check_port(port)
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]
    try:
        if ssl_context is None:
            listeners = await trio.open_tcp_listeners(port, host=host)
        else:
            listeners = await trio.open_ssl_over_tcp_listeners(port, ssl_context, host=host)
    except OSError as exc:
        raise cannot_listen(exc, host, port) from exc
    server = WebSocketServer(
        handler,
        listeners,
        handler_nursery=handler_nursery,
        on_handler_error=on_handler_error,
        max_connections=max_connections,
        shutdown_timeout=shutdown_timeout,
        **options,
    )
    await server.run(task_status=task_status)


class WebSocketServer:
    """A server on listeners of any kind."""

    @with_option_signature
    def __init__(
        self,
        handler: Handler,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        handler_nursery: trio.Nursery | None = None,
        on_handler_error: ErrorHandler | None = None,
        max_connections: float = math.inf,
        shutdown_timeout: float = 60,
        **options: Unpack[OptionKeywords],
    ) -> None:
        """
        :param handler: As in :func:`serve_websocket`.
        :param listeners: Trio listeners. The server closes them.
        :param handler_nursery: As in :func:`serve_websocket`.
        :param on_handler_error: As in :func:`serve_websocket`.
        :param max_connections: As in :func:`serve_websocket`.
        :param shutdown_timeout: As in :func:`serve_websocket`.
        :param options: See :ref:`options`.
        :raises ValueError: There are no listeners.
        """
        self._options = Options.of_call(WebSocketServer.__init__, options)
        _check_arguments(
            handler, handler_nursery, on_handler_error, max_connections, shutdown_timeout
        )
        listeners = checked_listeners(listeners)
        self._handler = handler
        self._listeners = listeners
        self._addresses = [listener_address(listener) for listener in listeners]
        self._handler_nursery = handler_nursery
        self._on_handler_error = on_handler_error
        self._max_connections = max_connections
        self._shutdown_timeout = shutdown_timeout
        self._is_closing = False
        self._accepting: set[trio.CancelScope] = set()
        self._serving: set[_ClientTask] = set()
        self._served = trio.lowlevel.ParkingLot()  # until one less is being served
        self._turned_away: set[_ClientTask] = set()

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
        """Their addresses: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return list(self._addresses)

    @property
    def connections(self) -> set[WebSocketConnection]:
        """The connections that are open: accepted, and neither closed nor being closed.

        It is a new set each time, which the server does not change.
        """
        return {
            connection
            for served in self._serving
            if (request := served.request) is not None
            and (connection := request._connection) is not None
            and lifecycle_of(connection).can_send
        }

    @trio.lowlevel.enable_ki_protection
    async def run(
        self, *, task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled, or closed; see :func:`serve_websocket`.

        :param task_status: For ``nursery.start()``.
        """
        error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, self._handler_nursery or nursery)
                task_status.started(self)
        except BaseException as exc:
            error = unwrap_single(exc)
        if error is not None:
            raise error

    @trio.lowlevel.enable_ki_protection
    async def aclose(self, code: int = 1001, reason: str | None = None) -> None:
        """Close the server: stop listening, close every connection, and wait for the handlers.

        A client whose request was not accepted yet gets status 503. Handlers learn of it by
        :exc:`ConnectionClosed`; those that have not ended within ``shutdown_timeout`` are
        cancelled. If this is cancelled, they are cancelled at once. A handler that calls it does
        not wait for itself.

        :param code: The close code, as in :meth:`WebSocketConnection.aclose`.
        :param reason: The text beside it.
        :raises ValueError: The code must not be sent.
        """
        check_close_code(code)
        reason = check_reason(reason)
        self._is_closing = True
        for scope in self._accepting:
            cancel(scope, "the server is closed")
        requests = [served.request for served in self._serving if served.request is not None]
        for request in requests:
            request._begin_to_leave(code, reason)  # all are told, however little time there is
        for served in self._serving:
            if served.request is None:  # still in the opening handshake
                served.scope.deadline = trio.current_time() + LINGER
        why = "aclose() was cancelled"
        try:
            with trio.move_on_after(self._shutdown_timeout) as waiting:
                with UnwrappingGroups():
                    async with trio.open_nursery() as nursery:
                        for request in requests:
                            nursery.start_soon(request._leave)
                while self._others():
                    await self._served.park()
            if waiting.cancelled_caught:
                why = f"the handler took longer than shutdown_timeout={self._shutdown_timeout} s"
        finally:
            for listener in self._listeners:
                await close_now(listener)
            for served in self._others():
                cancel(served.scope, f"the server is closed: {why}")

    def _others(self) -> list[_ClientTask]:
        """Those who are being served, but for the one whose handler, or a task of it, asks."""
        asking = set()
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None:
            asking.add(task)
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return [served for served in self._serving if served.task not in asking]

    @trio.lowlevel.enable_ki_protection
    async def _accept(
        self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery
    ) -> None:
        # Not trio.serve_listeners(): when that is cancelled, it loses what handlers raise.
        with trio.CancelScope() as scope:
            self._accepting.add(scope)
            if self._is_closing:
                cancel(scope, "the server is closed")
            async with listener:
                while True:
                    try:
                        streams = await accept(listener)
                    except (OSError, MemoryError) as exc:
                        if isinstance(exc, OSError) and exc.errno not in _OUT_OF_RESOURCES:
                            raise
                        logger.error("can't accept a connection for now: %s", exc)
                        await trio.sleep(_ACCEPT_AGAIN)
                    else:
                        await self._begin(nursery, streams)

    async def _begin(self, nursery: trio.Nursery, streams: list[trio.abc.Stream]) -> None:
        while streams:
            try:
                await self._begin_one(nursery, streams.pop())
            except BaseException:
                for stream in streams:
                    await close_now(stream)
                raise

    async def _begin_one(self, nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
        is_full = self._is_closing or len(self._serving) >= self._max_connections
        if is_full and len(self._turned_away) >= _MAX_TURNED_AWAY:
            await close_now(stream)
            return
        clients = self._turned_away if is_full else self._serving
        served: _ClientTask | None = None
        try:
            served = _ClientTask(stream)
            clients.add(served)
            if is_full:
                nursery.start_soon(self._turn_away, served)
            elif self._handler_nursery is None:
                nursery.start_soon(self._serve, served, nursery, name=_TASK)
            else:
                nursery.start_soon(self._serve_apart, served, name=_TASK)
        except Exception as exc:
            if served is not None:
                clients.discard(served)
            await close_now(stream)
            if isinstance(exc, RuntimeError):  # the handlers' nursery is closed
                raise
            logger.error("can't serve a client", exc_info=exc)  # for want of memory

    @trio.lowlevel.enable_ki_protection
    async def _turn_away(self, served: _ClientTask) -> None:
        try:
            with trio.move_on_after(LINGER):
                transport = Transport(served.stream, None)
                if logger.isEnabledFor(logging.INFO):
                    reason = f"max_connections={self._max_connections}"
                    if self._is_closing:
                        reason = "the server is being closed"
                    logger.info("rejected %s with status 503: %s", transport.peer, reason)
                await answer(transport, _BUSY)
        except Exception:
            logger.exception("can't turn away a client")
            await close_now(served.stream)
        finally:
            self._turned_away.discard(served)

    @trio.lowlevel.enable_ki_protection
    async def _serve_apart(self, served: _ClientTask) -> None:
        """Serve with a single task in the nursery, which is the application's."""
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._serve(served, nursery)
            except BaseException as exc:
                error = exc
            # What runs in the nursery ends by itself now.
            nursery.cancel_scope.shield = True
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose traceback has this frame

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, served: _ClientTask, nursery: trio.Nursery) -> None:
        """One connection, from the request to the end of its handler."""
        served.task = trio.lowlevel.current_task()
        try:
            with served.scope:
                try:
                    transport = Transport(served.stream, self._options.receive_buffer_size)
                    request = await receive_request(nursery, transport, self._options)
                except HandshakeError as exc:
                    if logger.isEnabledFor(logging.INFO):
                        text = printable(str(exc))
                        logger.info("opening handshake with %s failed: %s", transport.peer, text)
                    return
                except Exception:  # of this side: a MemoryError, for example
                    logger.exception("an opening handshake failed")
                    await close_now(served.stream)
                    return
                served.request = request
                request._is_concluded = True
                try:
                    if self._is_closing:
                        await request.reject(503)
                    else:
                        await call_unprotected(self._call_handler, request)
                except BaseException as exc:
                    error = await self._conclude(request, exc)
                else:
                    error = await self._conclude(request, None)
                try:
                    if error is not None:
                        raise error
                finally:
                    del error  # whose traceback has this frame
        finally:
            served.task = None  # which knows `served`
            self._serving.discard(served)
            self._served.unpark_all()

    def _call_handler(self, request: WebSocketRequest) -> Awaitable[object]:
        result = self._handler(request)
        if not inspect.isawaitable(result):
            raise TypeError(
                f"the handler {_name(self._handler)} must be an async function: "
                f"it returned {result!r:.100}, which can't be awaited"
            )
        return result

    async def _conclude(
        self, request: WebSocketRequest, outcome: BaseException | None
    ) -> BaseException | None:
        """Close the connection of a handler that has ended; return what is to be raised.

        :param outcome: What the handler has raised.
        """
        error = None if outcome is None else strip_closed(outcome)
        if error is None:
            closing = await request._conclude(outcome)
            return None if closing is None else strip_closed(closing)
        to_report, rest = split_exceptions(error)
        if self._on_handler_error is None or to_report is None:
            await request._conclude(outcome)
            return error
        try:
            # Neither waits for the other: the peer may take its time, and so may who is told.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, self._on_handler_error, request, to_report)
                await request._conclude(outcome)
        except BaseException as exc:  # it was cancelled, or interrupted
            return unwrap_single(exc) if rest is None else rest
        return rest

    async def _report(
        self, report: ErrorHandler, request: WebSocketRequest, error: Exception
    ) -> None:
        try:
            logger.error("the handler failed on %s", described(request), exc_info=error)
            result = report(request, error)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("on_handler_error failed on %s", described(request))


def _name(handler: Handler) -> str:
    return getattr(handler, "__qualname__", f"{handler!r:.100}")


class _ClientTask:
    """A client that is being served, or turned away."""

    __slots__ = ("request", "scope", "stream", "task")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.scope = trio.CancelScope()
        self.request: WebSocketRequest | None = None
        self.task: trio.lowlevel.Task | None = None


def _check_arguments(
    handler: object,
    handler_nursery: object,
    on_handler_error: object,
    max_connections: object,
    shutdown_timeout: object,
) -> None:
    if not callable(handler):
        hint = ""
        if inspect.iscoroutine(handler):
            hint = f"; pass {handler.__qualname__} itself, without calling it"
        raise TypeError(f"handler must be an async function, not {handler!r:.100}{hint}")
    if handler_nursery is not None and not hasattr(handler_nursery, "start_soon"):
        raise TypeError(f"handler_nursery must be a nursery or None, not {handler_nursery!r:.100}")
    if on_handler_error is not None and not callable(on_handler_error):
        raise TypeError(f"on_handler_error must be a function, not {on_handler_error!r:.100}")
    check_number("max_connections", max_connections)
    check_number("shutdown_timeout", shutdown_timeout)
