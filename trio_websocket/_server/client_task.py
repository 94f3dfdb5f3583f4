"""The task that serves one client: its request, its handler, and the end of its connection."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import logging
from typing import AbstractSet, Awaitable, Callable, Iterator

import trio

from .._connection.connection import WebSocketConnection
from .._io.cancel import cancel
from .._io.groups import split_exceptions, strip_closed, unwrap_single
from .._io.interrupt import call_unprotected, raise_error
from .._io.sync import LazyParkingLot
from .._io.transport import LINGER, Transport, close_now
from .._sansio.errors import HandshakeError, printable
from .._sansio.options import Options
from .exchange import Exchange, receive_request
from .request import WebSocketRequest

# A constant name saves memory: by default, Trio creates a string for each task.
_TASK = "trio_websocket: a client that is served"

Handler = Callable[[WebSocketRequest], Awaitable[object]]
ErrorHandler = Callable[[WebSocketRequest, Exception], object]

logger = logging.getLogger("trio-websocket")


class ClientTasks:
    """The clients that a server is currently serving."""

    def __init__(self) -> None:
        self._tasks: set[ClientTask] = set()
        self._waiting = LazyParkingLot()  # callers that are waiting for a task to end

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[ClientTask]:
        return iter(tuple(self._tasks))

    def add(self, task: ClientTask) -> None:
        """Note that a task has started."""
        self._tasks.add(task)

    def remove(self, task: ClientTask) -> None:
        """Note that a task has ended."""
        self._tasks.discard(task)
        self._waiting.unpark_all()

    async def wait_removed(self) -> None:
        """Wait until a task ends."""
        await self._waiting.park()


@dataclasses.dataclass(frozen=True)
class Service:
    """The settings that all clients of a server share."""

    handler: Handler
    on_handler_error: ErrorHandler | None
    options: Options
    clients: ClientTasks


class Stage(enum.Enum):
    """The current step of a `ClientTask`."""

    #: The request is being received.
    HANDSHAKE = enum.auto()
    #: Like HANDSHAKE, but the server is being closed, so the request gets status 503.
    LATE_HANDSHAKE = enum.auto()
    #: The handler runs, or has ended and its connection is being closed.
    HANDLER = enum.auto()


class ClientTask:
    """A client, from when it was accepted until its handler has ended.

    Invariants: `_exchange` is set if and only if the stage is HANDLER. `_task` is set while the
    task runs; it is reset at the end, because the task refers to this object.
    """

    __slots__ = ("_exchange", "_scope", "_service", "_stage", "_stream", "_task")

    def __init__(self, stream: trio.abc.Stream, service: Service) -> None:
        """
        :param stream: The client's stream. The task closes it.
        :param service: How to serve the client.
        """
        self._stream = stream
        self._service = service
        self._scope = trio.CancelScope()
        self._stage = Stage.HANDSHAKE
        self._exchange: Exchange | None = None
        self._task: trio.lowlevel.Task | None = None

    def start(self, nursery: trio.Nursery, *, has_own_nursery: bool) -> None:
        """Start the task.

        :param nursery: The nursery for the task.
        :param has_own_nursery: True if `nursery` belongs to the application. Then this is the
            client's only task in it, and it opens its own nursery for the connection's tasks.
        """
        self._service.clients.add(self)
        try:
            if has_own_nursery:
                nursery.start_soon(self._run_with_nursery, name=_TASK)
            else:
                nursery.start_soon(self._run, nursery, name=_TASK)
        except BaseException:
            self._service.clients.remove(self)
            raise

    @property
    def open_connection(self) -> WebSocketConnection | None:
        """The connection, unless it is not accepted yet, or is closed or being closed."""
        return None if self._exchange is None else self._exchange.open_connection

    def is_one_of(self, tasks: AbstractSet[trio.lowlevel.Task]) -> bool:
        """Return True if `tasks` contains the task of this client."""
        return self._task in tasks

    def start_shutdown(self, code: int, reason: str | None) -> None:
        """Start closing the connection because the server is being closed. Doesn't wait."""
        if self._exchange is not None:
            self._exchange.start_shutdown(code, reason)
        else:
            self._stage = Stage.LATE_HANDSHAKE
            self._scope.deadline = trio.current_time() + LINGER

    async def finish_shutdown(self) -> None:
        """Finish the shutdown that `start_shutdown` has started."""
        if self._exchange is not None:
            await self._exchange.finish_shutdown()

    def cancel(self, reason: str) -> None:
        """Cancel the handler, or the opening handshake."""
        cancel(self._scope, reason)

    @trio.lowlevel.enable_ki_protection
    async def _run_with_nursery(self) -> None:
        errors: list[BaseException | None] = [None]
        async with trio.open_nursery() as nursery:
            try:
                await self._run(nursery)
            except BaseException as exc:
                errors.append(exc)
            # The connection's tasks are about to end by themselves.
            nursery.cancel_scope.shield = True
        raise_error(errors.pop())

    @trio.lowlevel.enable_ki_protection
    async def _run(self, nursery: trio.Nursery) -> None:
        self._task = trio.lowlevel.current_task()
        try:
            with self._scope:
                exchange = await self._receive_request(nursery)
                if exchange is not None:
                    raise_error(await self._handle(exchange))
        finally:
            self._task = None
            self._service.clients.remove(self)

    async def _receive_request(self, nursery: trio.Nursery) -> Exchange | None:
        """Receive the request. If it is not valid, close the stream and return None."""
        options = self._service.options
        try:
            transport = Transport(self._stream, options.receive_buffer_size)
            return await receive_request(nursery, transport, options, has_handler=True)
        except HandshakeError as exc:
            if logger.isEnabledFor(logging.INFO):
                text = printable(str(exc))
                logger.info("opening handshake with %s failed: %s", transport.peer, text)
        except Exception:  # an error on this side, such as a MemoryError
            logger.exception("an opening handshake failed")
            await close_now(self._stream)
        return None

    async def _handle(self, exchange: Exchange) -> BaseException | None:
        """Call the handler, then close its connection. Return the error to raise."""
        request = WebSocketRequest(exchange)
        is_late = self._stage is Stage.LATE_HANDSHAKE
        self._stage, self._exchange = Stage.HANDLER, exchange
        try:
            if is_late:
                await exchange.reject(503)
            else:
                await call_unprotected(self._call_handler, request)
        except BaseException as exc:
            return await self._close(exchange, request, exc)
        return await self._close(exchange, request, None)

    def _call_handler(self, request: WebSocketRequest) -> Awaitable[object]:
        handler = self._service.handler
        result = handler(request)
        if not inspect.isawaitable(result):
            name = getattr(handler, "__qualname__", f"{handler!r:.100}")
            raise TypeError(
                f"the handler {name} must be an async function: "
                f"it returned {result!r:.100}, which can't be awaited"
            )
        return result

    async def _close(
        self, exchange: Exchange, request: WebSocketRequest, raised: BaseException | None
    ) -> BaseException | None:
        """Close the connection of a handler that has ended, and report its error.

        :param raised: The exception that the handler raised.
        :returns: The error to raise. A lost connection does not count as one.
        """
        error = _strip_closed(raised)
        if error is None:
            return _strip_closed(await exchange.close_after_handler(raised))
        to_report, rest = split_exceptions(error)
        if self._service.on_handler_error is None or to_report is None:
            await exchange.close_after_handler(raised)
            return error
        try:
            # Run both concurrently, because the peer and on_handler_error may both be slow.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    self._report, self._service.on_handler_error, request, exchange, to_report
                )
                await exchange.close_after_handler(raised)
        except BaseException as exc:  # a cancellation, or a KeyboardInterrupt
            return unwrap_single(exc) if rest is None else rest
        return rest

    async def _report(
        self,
        on_handler_error: ErrorHandler,
        request: WebSocketRequest,
        exchange: Exchange,
        error: Exception,
    ) -> None:
        try:
            logger.error("the handler failed on %s", exchange, exc_info=error)
            result = on_handler_error(request, error)
            if inspect.isawaitable(result):
                await result
        except Exception:
            logger.exception("on_handler_error failed on %s", exchange)


def _strip_closed(error: BaseException | None) -> BaseException | None:
    return None if error is None else strip_closed(error)
