"""The only code that writes to the stream of an open connection.

Frames are appended without awaiting, in the order of the calls. On a socket the kernel gets the
first at once, as far as it takes it. Messages that follow before the connection waits for the peer
are kept back to the end of their turn of the scheduler, or until that wait, and leave in one write.
What the kernel does not take, and everything on other streams, is written by one task of the
connection, which no user's cancel scope reaches: no frame is ever torn.
"""

from __future__ import annotations

import collections
from typing import Callable, Sequence, Sized

import trio

from ._lot import Lot
from ._outgoing import LONG
from ._pace import FAIRNESS
from ._transport import Transport, cause_of

# Bytes that leave in one write, unless one frame is larger, and by default as many may wait.
HIGH_WATER = 2**16


class Outbox:
    """Bytes on their way to the peer."""

    __slots__ = (
        "_chunks",
        "_idle",
        "_late_pong",
        "_max_unsent",
        "_may_hold",
        "_most_held",
        "_nursery",
        "_on_broken",
        "_progress",
        "_rest",
        "_size",
        "_transport",
        "_writer",
        "broken",
        "written",
    )

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
        self._most_held = min(max_unsent, HIGH_WATER)
        self._nursery: trio.Nursery | None = None
        self._chunks: list[bytes] = []
        self._rest: Sequence[bytes | memoryview] = ()  # of the write under way
        self._size = 0  # of both
        self._may_hold = False  # what follows in this turn
        self._late_pong: bytes | None = None
        self._writer: trio.CancelScope | None = None
        self._idle = Lot()  # the writer, while it has nothing to write
        self._progress = Lot()  # tasks that wait for room
        #: Bytes of frames that the stream has taken.
        self.written: int = 0
        #: Why something that was appended will never be written.
        self.broken: Exception | None = None

    def start(self, nursery: trio.Nursery, response: bytes = b"") -> None:
        """Let the writer run in ``nursery``.

        :param response: What precedes the first frame.
        """
        self._nursery = nursery
        if not self._transport.is_direct:
            self._start_writer()
        if response:
            self.written = -len(response)
            self.append(response)

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
        return len(self._progress)

    def append_message(self, data: bytes, unread: Sized = ()) -> bool:
        """Write the data within this turn of the scheduler, or as soon as the peer lets us.

        :param unread: Messages that the application has not read. If there are any, it may well
            answer them, too, so that the data waits for that.
        :returns: Whether there is room for more, and no error yet.
        """
        size = self._size + len(data)
        if unread and not self._size:
            can_write = self._on_broken is not None and self.broken is None
            self._may_hold = can_write and self._transport.is_direct
        if self._may_hold and size <= self._most_held:
            if not self._chunks:
                _LateWrites.of_this_run().add(self)
            self._chunks.append(data)
            self._size = size
            return True
        self.append(data)
        return self.broken is None and not self.is_full

    def append(self, *chunks: bytes) -> None:
        """Write the chunks now, or as soon as the peer lets us."""
        if self.append_first(chunks):
            return
        if self.broken is not None or self._on_broken is None:
            return
        if self._late_pong is not None:
            pong, self._late_pong = self._late_pong, None
            self._enqueue(pong)  # it may not come after what is appended later: a Close
        for data in chunks:
            self._enqueue(data)
        if self._writer is not None:
            self._idle.unpark()
        else:
            self._write_now()

    def append_first(self, chunks: Sequence[bytes]) -> bool:
        """Write the chunks now, as far as the peer lets us, if nothing waits to be written.

        False if something does, or if the chunks will never be written.
        """
        if self._size or self._writer is not None or self._on_broken is None or self.broken:
            return False
        self._may_hold = True
        try:
            self._hand_over(chunks)
        except OSError as exc:
            self._break(cause_of(exc))
            return False
        return True

    def append_pong(self, data: bytes) -> None:
        """Write a Pong; if another one waits still, in its place.

        Only the latest Ping needs an answer (RFC 6455, 5.5.3), so that a peer that sends Pings and
        does not read costs one Pong.
        """
        if self._chunks:
            self._late_pong = data
        else:
            self.append(data)

    def end_turn(self) -> None:
        """Write what was kept back: the turn of the scheduler is over, or about to be."""
        self._may_hold = False
        self._write_now()

    async def wait_room(self) -> None:
        """Wait until a sender need not wait. If cancelled, nothing has happened."""
        while self.is_full:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all is written, or can't be. If cancelled, the rest is still written."""
        self.end_turn()
        while self._size > 0:
            await self._progress.park()

    def _write_now(self) -> None:
        """Write what the socket takes without blocking; a task writes the rest."""
        try:
            while self._chunks and self._writer is None:
                self._hand_over(self._next_write())
        except OSError as exc:
            self._break(cause_of(exc))

    def _hand_over(self, chunks: Sequence[bytes]) -> None:
        """Write what the socket takes, and let the task write the rest."""
        rest = self._transport.write_now(chunks)
        self.written += sum(map(len, chunks))
        if rest:
            self.written -= sum(map(len, rest))
            self._keep(rest)
            self._start_writer()

    def _keep(self, rest: Sequence[bytes | memoryview]) -> None:
        self._rest = rest
        self._size += sum(map(len, rest))

    def _start_writer(self) -> None:
        assert self._nursery is not None
        self._may_hold = False
        self._writer = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._write, self._writer)

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                while self._size or not self._transport.is_direct:
                    if not self._size:
                        await self._idle.park()
                        continue
                    if not self._rest:
                        self._keep(self._next_write())
                    await self._transport.write(self._rest[0])
                    if self._rest:  # not stopped meanwhile
                        self.written += len(self._rest[0])
                        self._size -= len(self._rest[0])
                        self._rest = self._rest[1:]
                    self._progress.unpark_all()
            except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
                self._break(cause_of(exc))
        self._writer = None

    def _enqueue(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def _next_write(self) -> list[bytes]:
        """Take out what is written next: small chunks joined, and a large one as it is."""
        count, size = 1, len(self._chunks[0])
        for chunk in self._chunks[1:]:
            if size + len(chunk) > HIGH_WATER:
                break
            size += len(chunk)
            count += 1
        batch, large = self._chunks[:count], self._chunks[count : count + 1]
        if large and len(large[0]) >= LONG:
            # It may be the payload of a frame whose head precedes it: nothing may come between.
            size += len(large[0])
        else:
            large = []
        del self._chunks[: count + len(large)]
        self._size -= size
        if self._late_pong is not None:
            batch.insert(0 if large else len(batch), self._late_pong)
            self._late_pong = None
        return [b"".join(batch) if len(batch) > 1 else batch[0], *large]

    def _break(self, exc: Exception) -> None:
        if self._on_broken is not None:
            self.broken = exc
            self._discard()
            self._on_broken()

    def _discard(self) -> None:
        self._chunks.clear()
        self._rest = ()
        self._late_pong = None
        self._size = 0
        self._may_hold = False
        self._progress.unpark_all()


class _LateWrites:
    """Ends the turns of all outboxes of a run that have kept something back."""

    def __init__(self) -> None:
        self._outboxes: collections.deque[Outbox] = collections.deque()
        self._work = Lot()
        self._is_running = False

    @staticmethod
    def of_this_run() -> _LateWrites:
        try:
            return _late_writes.get()
        except LookupError:
            late_writes = _LateWrites()
            _late_writes.set(late_writes)
            return late_writes

    def add(self, outbox: Outbox) -> None:
        """The outbox has kept something back."""
        if not self._is_running:
            self._is_running = True
            trio.lowlevel.spawn_system_task(self._run)
        elif not self._outboxes:
            self._work.unpark()
        self._outboxes.append(outbox)

    async def _run(self) -> None:
        try:
            while True:
                self._end_turns(FAIRNESS)
                if self._outboxes:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._work.park()
        finally:  # the run ends
            self._is_running = False
            self._end_turns(len(self._outboxes))

    def _end_turns(self, most: int) -> None:
        for _ in range(min(most, len(self._outboxes))):
            self._outboxes.popleft().end_turn()


_late_writes: trio.lowlevel.RunVar[_LateWrites] = trio.lowlevel.RunVar("trio_websocket_late_writes")
