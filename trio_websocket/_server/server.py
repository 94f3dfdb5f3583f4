"""`WebSocketServer` and `serve_websocket`: accept clients, and close the server.

Each listener has a task that accepts clients. Each client has a `ClientTask`, or gets status 503
from `TurnAway` if there is no room for it. `aclose` closes the server in four steps:

1. It starts to close all connections, without waiting.
2. It finishes closing them, all at the same time.
3. It waits until the handlers end.
4. It cancels handlers that take too long.
"""

from __future__ import annotations

import inspect
import logging
import math
import ssl
from typing import Sequence

import trio

from .._connection.connection import WebSocketConnection
from .._io.cancel import cancel
from .._io.groups import UnwrappingGroups, unwrap_single
from .._io.interrupt import raise_error
from .._io.sockets import Address
from .._io.transport import close_now
from .._sansio.compat import Unpack
from .._sansio.errors import check_close_code
from .._sansio.frames import check_reason
from .._sansio.options import OptionKeywords, Options, check_number, with_option_signature
from .._sansio.url import Endpoint
from .client_task import ClientTask, ClientTasks, ErrorHandler, Handler, Service
from .listeners import accept_clients, check_listeners, listener_address, open_listeners
from .turn_away import TurnAway

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
    """Serve WebSocket connections over TCP until cancelled or closed.

    If cancelled, this sends close code 1001 to each client and does not wait for the answers.
    ``await nursery.start(serve_websocket, ...)`` returns the :class:`WebSocketServer` as soon as it
    listens.

    :param handler: An async function that is called with each :class:`WebSocketRequest`. When it
        returns, its connection is closed with code 1000. If it raises, its connection is closed
        with code 1011, and this function raises the exception. A :exc:`ConnectionClosed` means that
        the connection was lost; it is not treated as an error.
    :param host: The address to listen on, or None for all addresses.
    :param port: The port to listen on, or 0 for a free port.
    :param ssl_context: The SSL context for ``wss:``, or None.
    :param handler_nursery: The nursery for the handlers; by default, a nursery of this function.
    :param on_handler_error: A function, async or not, that is called with the request and the
        exception when a handler raises. The exception is logged with its traceback and ends only
        that connection. None: this function raises the exception.
    :param max_connections: The number of connections that are served at the same time. Further
        clients get status 503. By default, only the number of file descriptors limits it: while
        the process has none left, it accepts no clients.
    :param shutdown_timeout: Seconds that :meth:`WebSocketServer.aclose` gives the handlers.
    :param task_status: For ``nursery.start()``.
    :param options: See :ref:`options`.
    :raises OSError: The address is not available. The message names the host and the port.
    """
    Options.of_call(serve_websocket, options)  # raises before anything is opened
    _check_arguments(handler, handler_nursery, on_handler_error, max_connections, shutdown_timeout)
    listeners = await open_listeners(host, port, ssl_context)
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
        checked = Options.of_call(WebSocketServer.__init__, options)
        _check_arguments(
            handler, handler_nursery, on_handler_error, max_connections, shutdown_timeout
        )
        self._listeners = check_listeners(listeners)
        self._addresses = [listener_address(listener) for listener in self._listeners]
        self._handler_nursery = handler_nursery
        self._max_connections = max_connections
        self._shutdown_timeout = shutdown_timeout
        self._is_closing = False
        self._accepting: set[trio.CancelScope] = set()  # around the tasks that accept clients
        self._clients = ClientTasks()
        self._service = Service(handler, on_handler_error, checked, self._clients)
        self._turn_away = TurnAway()

    @property
    def port(self) -> int:
        """The port of the listener.

        :raises RuntimeError: There is more than one listener, or the listener has no port.
        """
        if len(self._listeners) > 1:
            raise RuntimeError("there is more than one listener: see WebSocketServer.listeners")
        address = self._addresses[0]
        if isinstance(address, Endpoint):
            return address.port
        raise RuntimeError(f"this listener has no port: {address}")

    @property
    def listeners(self) -> list[Address]:
        """The addresses: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return list(self._addresses)

    @property
    def connections(self) -> set[WebSocketConnection]:
        """The connections that are open: accepted, and neither closed nor being closed.

        This is a new set each time. The server does not change it later.
        """
        connections = {client.open_connection for client in self._clients}
        return {connection for connection in connections if connection is not None}

    @trio.lowlevel.enable_ki_protection
    async def run(
        self, *, task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled or closed. See :func:`serve_websocket`.

        :param task_status: For ``nursery.start()``.
        """
        raise_error(await self._run(task_status))

    async def _run(self, task_status: trio.TaskStatus[WebSocketServer]) -> BaseException | None:
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._listen, listener, self._handler_nursery or nursery)
                task_status.started(self)
        except BaseException as exc:
            return unwrap_single(exc)
        return None

    @trio.lowlevel.enable_ki_protection
    async def aclose(self, code: int = 1001, reason: str | None = None) -> None:
        """Close the server: stop listening, close every connection, and wait for the handlers.

        A client whose request was not accepted yet gets status 503. In the handlers, calls on the
        connection raise :exc:`ConnectionClosed`. Handlers that take longer than
        ``shutdown_timeout`` are cancelled. If this call is cancelled, they are cancelled at once.
        A handler may call this; the call does not wait for that handler.

        :param code: The close code, as in :meth:`WebSocketConnection.aclose`.
        :param reason: The text to send with the code.
        :raises ValueError: The code must not be sent.
        """
        check_close_code(code)
        reason = check_reason(reason)
        self._is_closing = True
        for scope in self._accepting:
            cancel(scope, "the server is closed")
        clients = list(self._clients)
        for client in clients:
            client.start_shutdown(code, reason)  # even if shutdown_timeout is 0
        why = "aclose() was cancelled"
        try:
            with trio.move_on_after(self._shutdown_timeout) as waiting:
                with UnwrappingGroups():
                    async with trio.open_nursery() as nursery:
                        for client in clients:
                            nursery.start_soon(client.finish_shutdown)
                while self._others():
                    await self._clients.wait_removed()
            if waiting.cancelled_caught:
                why = f"the handler took longer than shutdown_timeout={self._shutdown_timeout} s"
        finally:
            for listener in self._listeners:
                await close_now(listener)
            for client in self._others():
                client.cancel(f"the server is closed: {why}")

    def _others(self) -> list[ClientTask]:
        """Return all clients, except the one whose handler, or a task of it, calls this."""
        calling = set()
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None:
            calling.add(task)
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return [client for client in self._clients if not client.is_one_of(calling)]

    @trio.lowlevel.enable_ki_protection
    async def _listen(
        self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery
    ) -> None:
        # Not trio.serve_listeners(): when that is cancelled, it loses the handlers' exceptions.
        with trio.CancelScope() as scope:
            self._accepting.add(scope)
            if self._is_closing:
                cancel(scope, "the server is closed")
            async with listener:
                while True:
                    await self._start_clients(nursery, await accept_clients(listener))

    async def _start_clients(self, nursery: trio.Nursery, streams: list[trio.abc.Stream]) -> None:
        while streams:
            try:
                await self._start_client(nursery, streams.pop())
            except BaseException:
                for stream in streams:
                    await close_now(stream)
                raise

    async def _start_client(self, nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
        try:
            if self._is_closing:
                await self._turn_away.start(nursery, stream, "the server is being closed")
            elif len(self._clients) >= self._max_connections:
                reason = f"max_connections={self._max_connections}"
                await self._turn_away.start(nursery, stream, reason)
            else:
                client = ClientTask(stream, self._service)
                client.start(nursery, has_own_nursery=self._handler_nursery is not None)
        except Exception as exc:
            await close_now(stream)
            if isinstance(exc, RuntimeError):  # the handlers' nursery is closed
                raise
            logger.error("can't serve a client", exc_info=exc)  # there may be no memory


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
