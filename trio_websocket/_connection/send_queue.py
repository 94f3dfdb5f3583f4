"""The only code that writes to the stream of an open connection.

Frames are appended without awaiting, in the order of the calls. On a socket the kernel gets the
first at once, as far as it takes it. Messages that follow before the connection waits for the peer
are kept back to the end of their turn of the scheduler, or until that wait, and leave in one write.
What the kernel does not take, and everything on other streams, is written by one task of the
connection, which no user's cancel scope reaches: no frame is ever torn.

The queue holds whole frames. Frames that the stream may have a part of are in `_rest`, so that a
queue can be dropped without tearing a frame.
"""

from __future__ import annotations

import collections
import itertools
import logging
from typing import TYPE_CHECKING, Callable, Sequence, Sized

import trio

from .._io.cancel import cancel
from .._io.pacing import FAIRNESS
from .._io.sync import LazyParkingLot
from .._io.transport import Transport, unwrap_network_error
from .._sansio.frame_writer import LONG

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

logger = logging.getLogger("trio-websocket")

# A frame in one part, or the head and the payload of a large one.
_Frame: TypeAlias = "bytes | Sequence[bytes]"

# Bytes that leave in one write, unless one frame is larger, and by default as many may wait.
HIGH_WATER = 2**16


class SendQueue:
    """Bytes on their way to the peer."""

    __slots__ = (
        "_frames",
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
        "_writing",
        "broken",
        "has_dropped",
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
        self._frames: list[_Frame] = []  # the stream has nothing of them
        self._rest: Sequence[bytes | memoryview] = ()  # of the write under way
        self._writing = 0  # how many frames end in `_rest`; 0 if that is empty
        self._size = 0  # bytes in `_frames` and `_rest`
        self._may_hold = False  # what follows in this turn
        self._late_pong: bytes | None = None
        self._writer: trio.CancelScope | None = None
        self._idle = LazyParkingLot()  # the writer, while it has nothing to write
        self._progress = LazyParkingLot()  # tasks that wait for room
        #: Bytes of frames that the stream has taken.
        self.written: int = 0
        #: Why something that was appended will never be written.
        self.broken: Exception | None = None
        #: True if frames were dropped: see `drop_queued`.
        self.has_dropped: bool = False

    def start(self, nursery: trio.Nursery, response: bytes = b"") -> None:
        """Let the writer run in ``nursery``.

        :param response: What precedes the first frame.
        """
        self._nursery = nursery
        self._transport.on_unsent(self._write_answer)
        if not self._transport.is_direct:
            self._start_writer()
        if response:
            self.written = -len(response)
            self.append(response)

    def stop(self) -> None:
        """Write nothing more. The stream may have a part of a frame."""
        self._nursery = self._on_broken = None
        self._transport.on_unsent(None)
        if self._size:
            self.broken = ConnectionAbortedError("closed before all was written")
        self._discard()
        if self._writer is not None:
            cancel(self._writer, "the connection has ended")

    @property
    def is_full(self) -> bool:
        """Whether a sender has to wait."""
        return self._size > self._max_unsent

    @property
    def unsent(self) -> tuple[int, int]:
        """The number of frames that are not written yet, and the number of bytes."""
        count = len(self._frames) + self._writing
        if count and self.written < 0:  # one of them is the response of the opening handshake
            count -= 1
        return count, self._size

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
        # Each time, because nothing would report the failure of this message.
        if self._may_hold and size <= self._most_held and self._transport.socket.fileno() != -1:
            if not self._frames:
                _DeferredFlush.of_this_run().add(self)
            self._frames.append(data)
            self._size = size
            return True
        self.append(data)
        return self.broken is None and not self.is_full

    def append(self, *parts: bytes) -> None:
        """Write a frame now, or as soon as the peer lets us.

        :param parts: The frame, or its head and its payload.
        """
        if self.try_write_now(parts):
            return
        if self.broken is not None or self._on_broken is None:
            return
        if self._transport.is_closed:
            self._break(trio.ClosedResourceError("the application closed the stream"))
            return
        if self._late_pong is not None:
            pong, self._late_pong = self._late_pong, None
            self._enqueue(pong)  # it may not come after what is appended later: a Close
        self._enqueue(parts[0] if len(parts) == 1 else parts)
        if self._writer is not None:
            self._idle.unpark()
        else:
            self._write_now()

    def try_write_now(self, parts: Sequence[bytes]) -> bool:
        """Write a frame now, as far as the peer lets us, if nothing waits to be written.

        :param parts: The frame, or its head and its payload.
        :returns: False if something waits to be written, or if nothing can be written any more.
        """
        if self._size or self._writer is not None or self._on_broken is None or self.broken:
            return False
        self._may_hold = True
        try:
            rest = self._transport.write_now(parts)
            self.written += sum(map(len, parts))
            if rest:
                self._keep_rest(rest, [parts])
        except Exception as exc:  # the stream may have a part of the frame
            self._break(unwrap_network_error(exc))
            return False
        return True

    def append_pong(self, data: bytes) -> None:
        """Write a Pong; if another one waits still, in its place.

        Only the latest Ping needs an answer (RFC 6455, 5.5.3), so that a peer that sends Pings and
        does not read costs one Pong.
        """
        if self._frames:
            self._late_pong = data
        else:
            self.append(data)

    def flush_now(self) -> None:
        """Write what was kept back: the turn of the scheduler is over, or about to be."""
        self._may_hold = False
        self._write_now()

    def fail(self, exc: Exception) -> None:
        """Write nothing more, because of an error."""
        self.broken = exc
        self._discard()

    def drop_queued(self) -> None:
        """Drop the frames that the stream has nothing of. What is partly written is finished."""
        dropped = sum(map(_frame_size, self._frames))
        if dropped:
            self._frames.clear()
            self._size -= dropped
            self.has_dropped = True
            self._progress.unpark_all()

    async def wait_room(self) -> None:
        """Wait until a sender need not wait. If cancelled, nothing has happened."""
        while self.is_full:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all is written, or can't be. If cancelled, the rest is still written."""
        self.flush_now()
        while self._size > 0:
            await self._progress.park()

    def _write_now(self) -> None:
        """Write what the socket takes without blocking; a task writes the rest."""
        try:
            while self._frames and self._writer is None:
                self._write_batch()
        except Exception as exc:  # the stream may have a part of a frame
            self._break(unwrap_network_error(exc))

    def _write_batch(self) -> None:
        """Write the next frames, as far as the socket takes them."""
        frames, chunks = self._take_batch()
        rest = self._transport.write_now(chunks)
        self.written += sum(map(len, chunks))
        if rest:
            self._keep_rest(rest, frames)

    def _keep_rest(self, rest: Sequence[bytes | memoryview], frames: Sequence[_Frame]) -> None:
        """Keep what the socket did not take of the frames, and let the task write it.

        Frames that the socket took nothing of go back to the queue, except that the first frame
        stays, so that the task waits for the socket with it.
        """
        size = sum(map(len, rest))
        self.written -= size
        self._size += size
        kept = list(frames)
        committed = self._transport.committed
        while len(kept) > 1 and size - _frame_size(kept[-1]) >= committed:
            size -= _frame_size(kept.pop())
        if len(kept) < len(frames):
            self._frames[:0] = frames[len(kept) :]
            rest = _first_bytes(rest, size)
        self._rest = rest
        self._writing = 0
        while size > 0:
            self._writing += 1
            size -= _frame_size(kept.pop())
        if self._writer is None:
            self._start_writer()

    def _start_writer(self) -> None:
        assert self._nursery is not None
        self._may_hold = False
        self._writer = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._write, self._writer)

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                while self._frames or self._rest or not self._transport.is_direct:
                    if not self._frames and not self._rest:
                        await self._idle.park()
                        continue
                    if not self._rest and self._transport.is_direct:
                        self._write_batch()
                        self._progress.unpark_all()
                        await trio.lowlevel.checkpoint()
                        continue
                    if not self._rest:
                        frames, self._rest = self._take_batch()
                        self._writing = len(frames)
                        self._size += sum(map(len, self._rest))
                    chunk = self._rest[0]
                    count = await self._transport.write_some(chunk)
                    if self._rest:  # not stopped meanwhile
                        self.written += count
                        self._size -= count
                        self._rest = self._rest[1:]
                        if count < len(chunk):
                            self._rest = [memoryview(chunk)[count:], *self._rest]
                        if not self._rest:
                            self._writing = 0
                    self._progress.unpark_all()
            except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
                self._break(unwrap_network_error(exc))
        self._writer = None

    def _write_answer(self) -> None:
        """Let TLS send what it has to say by itself."""
        self.append(b"")

    def _enqueue(self, frame: _Frame) -> None:
        self._frames.append(frame)
        self._size += _frame_size(frame)

    def _take_batch(self) -> tuple[list[_Frame], list[bytes]]:
        """Take out the frames to write next: small ones, and a large one after them.

        :returns: The frames, and the chunks to write.
        """
        frames = self._frames
        size = self._size
        if size <= HIGH_WATER:
            self._frames = []
            self._size = 0
        else:
            count, size = 0, 0
            for frame in frames:
                if count and size >= HIGH_WATER:
                    break
                count += 1
                size += _frame_size(frame)
            self._frames = frames[count:]
            frames = frames[:count]
            self._size -= size
        if self._late_pong is not None:
            # A large frame takes long to write, so the Pong goes before it.
            at = len(frames) - (_frame_size(frames[-1]) >= LONG)
            frames.insert(at, self._late_pong)
            self._late_pong = None
        if size < LONG:  # so that none of them has a large payload
            return frames, [b"".join(frames)]  # type: ignore[arg-type] # each is bytes
        chunks: list[bytes] = []
        parts = (part for frame in frames for part in _parts(frame))
        for is_large, group in itertools.groupby(parts, lambda part: len(part) >= LONG):
            if is_large:
                chunks.extend(group)
            else:
                chunks.append(b"".join(group))
        return frames, chunks

    def _break(self, exc: Exception) -> None:
        if self._on_broken is not None:
            self.broken = exc
            self._discard()
            self._on_broken()

    def _discard(self) -> None:
        self._frames.clear()
        self._rest = ()
        self._writing = 0
        self._late_pong = None
        self._size = 0
        self._may_hold = False
        self._progress.unpark_all()


def _parts(frame: _Frame) -> Sequence[bytes]:
    return [frame] if isinstance(frame, bytes) else frame


def _frame_size(frame: _Frame) -> int:
    return sum(map(len, _parts(frame)))


def _first_bytes(chunks: Sequence[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    first: list[bytes | memoryview] = []
    for chunk in chunks:
        first.append(memoryview(chunk)[: max(0, size)])
        size -= len(chunk)
    return [chunk for chunk in first if chunk]


class _DeferredFlush:
    """Ends the turns of all outboxes of a run that have kept something back."""

    def __init__(self) -> None:
        self._outboxes: collections.deque[SendQueue] = collections.deque()
        self._work = LazyParkingLot()
        self._is_running = False

    @staticmethod
    def of_this_run() -> _DeferredFlush:
        try:
            return _deferred_flush.get()
        except LookupError:
            deferred_flush = _DeferredFlush()
            _deferred_flush.set(deferred_flush)
            return deferred_flush

    def add(self, send_queue: SendQueue) -> None:
        """The outbox has kept something back."""
        if not self._is_running:
            trio.lowlevel.spawn_system_task(self._run)
            self._is_running = True
        elif not self._outboxes:
            self._work.unpark()
        self._outboxes.append(send_queue)

    async def _run(self) -> None:
        try:
            while True:
                self._end_turns(FAIRNESS)
                if self._outboxes:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._work.park()
        except Exception:  # it would end the run
            logger.exception("the task that writes late failed; the next message starts it again")
        finally:  # the run ends
            self._is_running = False
            self._end_turns(len(self._outboxes))

    def _end_turns(self, most: int) -> None:
        for _ in range(min(most, len(self._outboxes))):
            send_queue = self._outboxes.popleft()
            try:
                send_queue.flush_now()
            except Exception as exc:
                send_queue.fail(exc)


_deferred_flush: trio.lowlevel.RunVar[_DeferredFlush] = trio.lowlevel.RunVar(
    "trio_websocket_deferred_flush"
)
