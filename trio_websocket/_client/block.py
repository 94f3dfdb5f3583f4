"""The `async with` block of a connection, and the cleanup at its end."""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import AsyncContextManager, Awaitable, Callable

import trio

from .._connection.block import close_after_block
from .._connection.connection import WebSocketConnection, lifecycle_of
from .._io.cancel import cancel
from .._io.groups import exception_to_raise, unwrap_single
from .._io.interrupt import raise_error
from .connect import connect
from .target import Target

Connect = Callable[[trio.Nursery], Awaitable[WebSocketConnection]]


def _no_stand_in() -> Connect | None:
    return None


class ConnectionBlock(AsyncContextManager[WebSocketConnection]):
    """Open a connection, run a block, and close the connection.

    The connection's tasks run in a nursery around the block. The nursery's exception groups are
    unwrapped, so the block's own exception propagates unchanged.
    """

    def __init__(
        self, target: Target, find_stand_in: Callable[[], Connect | None] = _no_stand_in
    ) -> None:
        """
        :param target: The server, and the request to send.
        :param find_stand_in: Called when the block begins. It returns the function that an
            application's test has substituted for `connect`, or None. By default, there is no
            substitute.
        """
        self._target = target
        self._find_stand_in = find_stand_in
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> WebSocketConnection:
        if self._nursery_manager is not None:
            raise RuntimeError("call open_websocket() again for each block")
        stand_in = self._find_stand_in()
        self._has_stand_in = stand_in is not None
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        try:
            opening = stand_in or functools.partial(connect, target=self._target)
            self._connection = await opening(self._nursery)
        except BaseException as exc:
            raise_error(await self._close_nursery(exc))
        if isinstance(self._connection, WebSocketConnection):
            lifecycle_of(self._connection).shield()
        return self._connection

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        raise_error(await self._close(exc), handled=exc)
        return False

    async def _close(self, error: BaseException | None) -> BaseException | None:
        return await self._close_nursery(await close_after_block(self._connection, error))

    async def _close_nursery(self, error: BaseException | None) -> BaseException | None:
        """Wait for the connection's tasks to end; return the error to raise, or None.

        :param error: The exception that the block or the attempt to connect raised, or None.
        """
        assert self._nursery_manager is not None
        if not self._has_stand_in:
            # The connection's tasks are about to end by themselves. Cancelling them would only add
            # an exception group.
            self._nursery.cancel_scope.shield = True
        elif error is not None:
            # A nursery cancels its tasks if its block raises, and a stand-in relies on that.
            cancel(self._nursery.cancel_scope, "the block of open_websocket() has raised")
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseException as exc:
            return exception_to_raise(error, unwrap_single(exc))
        return error
