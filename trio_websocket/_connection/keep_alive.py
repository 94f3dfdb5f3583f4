"""Pings that keep a connection alive and detect a vanished peer (RFC 6455, 5.5.2)."""

from __future__ import annotations

import os
import typing

import trio

from .._io.cancel import cancel
from .._sansio.protocol import Protocol
from .pings import Pings
from .receiver import Receiver
from .send_queue import SendQueue

# The time-out is divided into this many parts. A part during which reading was paused does not
# count, and progress in either direction restarts the count.
_PARTS = 20
# The minimum length of a part, in seconds. While reading is paused, any number of parts can pass.
_SHORTEST_PART = 0.01


class PingedConnection(typing.Protocol):
    """The part of a connection that the keep-alive uses."""

    protocol: Protocol
    pings: Pings
    queue: SendQueue
    receiver: Receiver

    @property
    def can_send(self) -> bool:
        """True if the connection is open."""

    def fail_at_once(self, text: str, cause: Exception) -> None:
        """Fail the WebSocket connection, and close the stream."""

    def on_failure(self, exc: Exception) -> None:
        """End the connection because of an error on this side."""


class KeepAlive:
    """Sends Pings at intervals, and fails the connection if the peer does not answer one."""

    def __init__(self, connection: PingedConnection, interval: float, timeout: float) -> None:
        """
        :param connection: The connection.
        :param interval: Seconds from one Pong to the next Ping.
        :param timeout: Seconds to wait for a Pong after the peer's last sign of life.
        """
        self._connection = connection
        self._interval = interval
        self._timeout = timeout
        self._scope = trio.CancelScope(shield=True)

    def stop(self) -> None:
        """Stop the task, because the connection has ended."""
        cancel(self._scope, "keep-alive: the connection has ended")

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt must go to an application task
    async def run(self) -> None:
        """Run the task. Only `stop` cancels it, because its scope is shielded."""
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
            self._connection.fail_at_once(text, TimeoutError(text))

    async def _is_answered(self) -> bool:
        pings, queue = self._connection.pings, self._connection.queue
        receiver = self._connection.receiver
        payload = os.urandom(4)
        # The total number of bytes written before the Ping.
        before_ping = queue.written + queue.size
        ping = pings.send(payload)
        parts = _PARTS if self._timeout >= _PARTS * _SHORTEST_PART else 1
        parts_left, last_progress = parts, self._progress(before_ping)
        try:
            while parts_left and not ping.is_over.is_set:
                was_paused = receiver.is_paused
                with trio.move_on_after(max(self._timeout / parts, _SHORTEST_PART)):
                    await ping.is_over.wait()
                progress = self._progress(before_ping)
                if progress != last_progress:
                    parts_left, last_progress = parts, progress
                elif not (was_paused or receiver.is_paused):
                    parts_left -= 1
        finally:
            pings.forget(payload, ping)
        return ping.is_over.is_set

    def _progress(self, before_ping: int) -> tuple[int, int]:
        """Return the number of bytes received, and the number of bytes written before the Ping.

        A change in either number is a sign of life. Writing bytes after the Ping is not, because
        the kernel accepts many bytes that a dead peer will never read.
        """
        connection = self._connection
        received = connection.protocol.reader.wire_bytes_received
        return received, min(connection.queue.written, before_ping)
