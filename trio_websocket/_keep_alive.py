"""Pings that keep a connection alive, and find out that the peer is gone (RFC 6455, 5.5.2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from ._cancel import cancel

if TYPE_CHECKING:
    from ._connection import WebSocketConnection

# The time-out is counted in so many parts, to leave out those in which we did not read.
_PARTS = 20


class KeepAlive:
    """Sends a Ping every so often, and gives up a connection whose peer does not answer one."""

    def __init__(self, connection: WebSocketConnection, interval: float, timeout: float) -> None:
        """
        :param connection: The connection.
        :param interval: Seconds from one Pong to the next Ping.
        :param timeout: Seconds for a Pong.
        """
        self._connection = connection
        self._interval = interval
        self._timeout = timeout
        self._scope = trio.CancelScope(shield=True)

    def stop(self) -> None:
        """End the task: the connection has ended."""
        cancel(self._scope, "keep-alive: the connection has ended")

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def run(self) -> None:
        """The task. It ends with `stop`, whatever else is cancelled."""
        with self._scope:
            try:
                await self._watch()
            except Exception as exc:  # a MemoryError, for example
                self._connection._on_failure(exc)

    async def _watch(self) -> None:
        is_answered = True
        while is_answered:
            await trio.sleep(self._interval)
            if self._connection._can_close:
                is_answered = await self._is_answered()
        if self._connection._can_close:
            text = f"keep-alive: no Pong within {self._timeout} s"
            self._connection._give_up(1011, text, TimeoutError(text))

    async def _is_answered(self) -> bool:
        payload = os.urandom(4)
        ping = self._connection._send_ping(payload)
        parts = _PARTS
        try:
            while parts and not ping.is_over.is_set:
                was_paused = self._connection._inbox.is_paused
                with trio.move_on_after(self._timeout / _PARTS):
                    await ping.is_over.wait()
                if not (was_paused or self._connection._inbox.is_paused):
                    parts -= 1
        finally:
            self._connection._pings.forget(payload, ping)
        return ping.is_over.is_set
