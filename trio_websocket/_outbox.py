"""The only code that writes to the stream of an open connection.

Frames are appended without awaiting, in the order of the calls. On a plain socket the kernel gets
at once what it takes; the rest, and everything on other streams, is written by one task of the
connection, which no user's cancel scope reaches: no frame is ever torn.
"""

from __future__ import annotations

import collections
from typing import Callable

import trio

from ._transport import Transport, cause_of

# Bytes that leave in one write, unless one frame is larger, and by default as many may wait.
HIGH_WATER = 2**16


class Outbox:
    """Bytes on their way to the peer."""

    def __init__(
        self,
        transport: Transport,
        on_broken: Callable[[], object],
        *,
        max_unsent: float = HIGH_WATER,
    ) -> None:
        """
        :param transport: Where the bytes go.
        :param on_broken: Called, once, when a write has failed.
        :param max_unsent: How many bytes may wait before a sender does.
        """
        self._transport = transport
        self._on_broken: Callable[[], object] | None = on_broken  # None when stopped
        self._max_unsent = max_unsent
        self._nursery: trio.Nursery | None = None
        self._chunks: collections.deque[bytes] = collections.deque()
        self._size = 0  # of the chunks, and of what the writer is at
        self._late_pong: bytes | None = None
        self._writer: trio.CancelScope | None = None
        self._idle = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()
        #: Bytes that the stream has taken.
        self.written = 0
        #: Why something that was appended will never be written.
        self.broken: Exception | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Let the writer run in ``nursery``."""
        self._nursery = nursery
        if not self._transport.is_socket:
            self._start_writer()

    def stop(self) -> None:
        """Write nothing more. The stream may have a part of a frame."""
        self._nursery = self._on_broken = None
        if self._size:
            self.broken = ConnectionAbortedError("closed before all was written")
        self._discard()
        if self._writer is not None:
            self._writer.cancel()

    @property
    def is_full(self) -> bool:
        """Whether a sender has to wait."""
        return self._size > self._max_unsent

    @property
    def unsent(self) -> tuple[int, int]:
        """How many frames wait to be written, at least, and how many bytes."""
        return len(self._chunks) or int(self._size > 0), self._size

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait for room."""
        return self._progress.statistics().tasks_waiting

    def append(self, data: bytes) -> None:
        """Write the data now, or as soon as the peer lets us."""
        if self.broken is not None or self._on_broken is None:
            return
        if self._transport.is_socket and not self._size:
            try:
                written = self._transport.write_now(data)
            except OSError as exc:
                self._break(cause_of(exc))
                return
            self.written += written
            if written == len(data):
                return
            data = data[written:]
        if self._late_pong is not None:
            pong, self._late_pong = self._late_pong, None
            self._enqueue(pong)  # it may not come after what is appended later: a Close
        self._enqueue(data)
        if self._writer is None:
            self._start_writer()
        self._idle.unpark()

    def append_pong(self, data: bytes) -> None:
        """Write a Pong; if another one waits still, in its place.

        Only the latest Ping needs an answer (RFC 6455, 5.5.3), so that a peer that sends Pings and
        does not read costs one Pong.
        """
        if self._chunks:
            self._late_pong = data
        else:
            self.append(data)

    async def wait_room(self) -> None:
        """Wait until a sender need not wait. If cancelled, nothing has happened."""
        while self.is_full:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all is written, or can't be. If cancelled, the rest is still written."""
        while self._size > 0:
            await self._progress.park()

    def _start_writer(self) -> None:
        assert self._nursery is not None
        self._writer = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._write, self._writer)

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                while self._chunks or not self._transport.is_socket:
                    if not self._chunks:
                        await self._idle.park()
                        continue
                    data = self._take_batch()
                    await self._transport.write(data)
                    self._size -= len(data)
                    self.written += len(data)
                    self._progress.unpark_all()
            except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
                self._break(cause_of(exc))
        self._writer = None

    def _enqueue(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def _take_batch(self) -> bytes:
        """What goes out in one write: small frames together, a large one by itself."""
        batch = [self._chunks.popleft()]
        size = len(batch[0])
        while self._chunks and size + len(self._chunks[0]) <= HIGH_WATER:
            size += len(self._chunks[0])
            batch.append(self._chunks.popleft())
        if self._late_pong is not None:
            batch.append(self._late_pong)
            self._size += len(self._late_pong)
            self._late_pong = None
        return b"".join(batch)

    def _break(self, exc: Exception) -> None:
        if self._on_broken is not None:
            self.broken = exc
            self._discard()
            self._on_broken()

    def _discard(self) -> None:
        self._chunks.clear()
        self._late_pong = None
        self._size = 0
        self._progress.unpark_all()
