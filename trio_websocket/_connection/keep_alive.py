"""Pings that keep a connection alive, and find out that the peer is gone (RFC 6455, 5.5.2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from .._io.cancel import cancel

if TYPE_CHECKING:
    from .connection import WebSocketConnection

# The time-out is counted in so many parts, to leave out those in which we did not read, and to
# start again when bytes come or go.
_PARTS = 20
# Seconds of a part, at least: while we do not read, there may be any number of them.
_SHORTEST_PART = 0.01


class KeepAlive:
    """Sends a Ping every so often, and gives up a connection whose peer does not answer one."""

    def __init__(self, connection: WebSocketConnection, interval: float, timeout: float) -> None:
        """
        :param connection: The connection.
        :param interval: Seconds from one Pong to the next Ping.
        :param timeout: Seconds for a Pong, from the last sign of life.
        """
        self._connection = connection
        self._interval = interval
        self._timeout = timeout
        self._scope = trio.CancelScope(shield=True)

    def stop(self) -> None:
        """End the task: the connection has ended."""
        cancel(self._scope, "keep-alive: the connection has ended")

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    @trio.lowlevel.enable_ki_protection
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
        connection = self._connection
        payload = os.urandom(4)
        # When so many bytes are written, the Ping is next.
        ping_start = connection._send_queue.written + connection._send_queue.unsent[1]
        ping = connection._send_ping(payload)
        parts = _PARTS if self._timeout >= _PARTS * _SHORTEST_PART else 1
        parts_left, last_progress = parts, self._progress(ping_start)
        try:
            while parts_left and not ping.is_over.is_set:
                was_paused = connection._receiver.is_paused
                with trio.move_on_after(max(self._timeout / parts, _SHORTEST_PART)):
                    await ping.is_over.wait()
                progress = self._progress(ping_start)
                if progress != last_progress:
                    parts_left, last_progress = parts, progress
                elif not (was_paused or connection._receiver.is_paused):
                    parts_left -= 1
        finally:
            connection._pings.forget(payload, ping)
        return ping.is_over.is_set

    def _progress(self, ping_start: int) -> tuple[int, int]:
        """Return what changes while the peer shows that it is there.

        That is the number of bytes that it sent, and of those before our Ping that the
        stream took. What we write after them does not count: the kernel takes a lot that a
        dead peer will never read.
        """
        written = min(self._connection._send_queue.written, ping_start)
        return self._connection._protocol.wire_bytes_received, written
