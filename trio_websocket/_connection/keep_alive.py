"""Pings that keep a connection alive, and detect that the peer is gone (RFC 6455, 5.5.2)."""

from __future__ import annotations

import os
from typing import Protocol

import trio

from .._io.cancel import cancel
from .._sansio.errors import CloseCode
from .pings import PendingPing

# The time-out is counted in so many parts. A part in which we did not read is not counted, and
# bytes that come or go start the count again.
_PARTS = 20
# The shortest part, in seconds. While we do not read, there may be any number of parts.
_SHORTEST_PART = 0.01


class PingedConnection(Protocol):
    """A connection, as the keep-alive needs it."""

    @property
    def can_send(self) -> bool:
        """True if the connection is open."""

    @property
    def is_paused(self) -> bool:
        """True if nothing is read, because the application does not take its messages."""

    @property
    def bytes_queued(self) -> int:
        """The number of bytes of all frames so far, written or not."""

    def send_ping(self, payload: bytes) -> PendingPing:
        """Queue a Ping."""

    def forget_ping(self, payload: bytes, ping: PendingPing) -> None:
        """Stop waiting for a Pong."""

    def progress(self, limit: int) -> tuple[int, int]:
        """Return the numbers of bytes received, and of bytes written up to the limit."""

    def fail(self, code: int, text: str, cause: Exception) -> None:
        """Fail the WebSocket connection."""

    def on_failure(self, exc: Exception) -> None:
        """End the connection because of an error on this side."""


class KeepAlive:
    """Sends a Ping every so often, and fails a connection whose peer does not answer one."""

    def __init__(self, connection: PingedConnection, interval: float, timeout: float) -> None:
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
    async def run(self) -> None:
        """Run the task. It ends with `stop`, whatever else is cancelled."""
        with self._scope:
            try:
                await self._send_pings()
            except Exception as exc:  # a MemoryError, for example
                self._connection.on_failure(exc)

    async def _send_pings(self) -> None:
        is_answered = True
        while is_answered:
            await trio.sleep(self._interval)
            if self._connection.can_send:
                is_answered = await self._is_answered()
        if self._connection.can_send:
            text = f"keep-alive: no Pong within {self._timeout} s"
            self._connection.fail(CloseCode.INTERNAL_ERROR, text, TimeoutError(text))

    async def _is_answered(self) -> bool:
        connection = self._connection
        payload = os.urandom(4)
        # When so many bytes are written, the Ping is next. What we write after it is no sign of
        # life: the kernel takes a lot that a dead peer will never read.
        before_ping = connection.bytes_queued
        ping = connection.send_ping(payload)
        parts = _PARTS if self._timeout >= _PARTS * _SHORTEST_PART else 1
        parts_left, last_progress = parts, connection.progress(before_ping)
        try:
            while parts_left and not ping.is_over.is_set:
                was_paused = connection.is_paused
                with trio.move_on_after(max(self._timeout / parts, _SHORTEST_PART)):
                    await ping.is_over.wait()
                progress = connection.progress(before_ping)
                if progress != last_progress:
                    parts_left, last_progress = parts, progress
                elif not (was_paused or connection.is_paused):
                    parts_left -= 1
        finally:
            connection.forget_ping(payload, ping)
        return ping.is_over.is_set
