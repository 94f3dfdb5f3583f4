"""The queue of frames waiting to be written, and the tasks that write them.

All frames of an open connection go through its queue, in the order of the calls. Queueing a frame
never blocks. The state of `Writer` determines which task writes it:

- A socket accepts most frames at once, so the task that queues a frame also writes it (DIRECT). No
  other task has to be woken.
- When the socket's buffer is full, one of the connection's tasks writes the rest (TASK). The task
  ends when the queue is empty. The application's cancel scopes don't affect it, so cancelling a
  sender never truncates a frame.
- Writing to a stream that isn't a socket needs an await, so the task writes everything.

A direct writer corks the queue, as TCP_CORK does: after the first write in a turn of Trio's
scheduler, small frames are collected and sent with a single write. The queue is uncorked before its
connection waits for the peer, and no later than the end of the turn (`DeferredFlush`). So answering
several messages in a row takes one system call and one TCP segment. A caller that knows that more
frames will follow corks the queue before the first one.

The queue holds whole frames. A partly written frame is kept in `_partial`, so dropping the queue
never truncates a frame. Only the latest Pong is kept, in `_pong`, so a peer that sends Pings
without reading costs only one frame of memory.
"""

from __future__ import annotations

import enum
from typing import Callable, NamedTuple, Sequence

import trio

from .._io.cancel import cancel
from .._io.chunks import Unwritten, first_bytes, join_small
from .._io.sync import LazyParkingLot
from .._io.transport import Transport, unwrap_network_error
from .._sansio.costs import SCATTER_WRITE_BYTES, WRITE_BATCH_BYTES
from .deferred_flush import deferred_flush
from .queued_frame import ControlFrame, Frame, frame_parts, frame_size


class Writer(enum.Enum):
    """The writer of a queue's frames."""

    #: No writer yet: `SendQueue.start` has not been called.
    NOT_STARTED = enum.auto()
    #: The caller that queues a frame, because the socket has accepted all frames so far.
    DIRECT = enum.auto()
    #: A task: the socket is full, or the stream can't be written without awaiting.
    TASK = enum.auto()
    #: No writer any more: the queue was stopped, or a write failed.
    OVER = enum.auto()


_DIRECT, _TASK, _OVER = Writer.DIRECT, Writer.TASK, Writer.OVER


class _Partial(NamedTuple):
    """The unwritten remainder of a batch of frames, the first of which is partly written."""

    begun: int = 0  # bytes before the chunks that TLS has already encrypted: see `Unwritten`
    chunks: Sequence[bytes | memoryview] = ()
    frames: int = 0  # the number of frames that end in these bytes


_NOTHING = _Partial()


class SendQueue:
    """Frames on their way to the peer."""

    __slots__ = (
        "_frames",
        "_idle",
        "_most_corked",
        "_nursery",
        "_on_broken",
        "_partial",
        "_pong",
        "_progress",
        "_scope",
        "_transport",
        "_writer",
        "broken",
        "has_dropped",
        "is_corked",
        "max_unsent",
        "size",
        "written",
    )

    def __init__(
        self,
        transport: Transport,
        on_broken: Callable[[], object],
        *,
        max_unsent: float = WRITE_BATCH_BYTES,
    ) -> None:
        """
        :param transport: The stream to write to.
        :param on_broken: Called once, if a write fails.
        :param max_unsent: The number of bytes above which senders wait.
        """
        self._transport = transport
        self._on_broken: Callable[[], object] | None = on_broken  # None after stop()
        #: The number of bytes above which senders wait.
        self.max_unsent: float = max_unsent

        # The writer. `_nursery` is set between start() and stop(). `_scope` is the writer task's
        # cancel scope. It is set while that task runs: in state TASK, and for at most one step
        # after it.
        self._writer = Writer.NOT_STARTED
        self._nursery: trio.Nursery | None = None
        self._scope: trio.CancelScope | None = None

        # The frames. `size` is the number of bytes in `_frames` and `_partial`. In state OVER, both
        # are empty. `_pong` is set only while other frames are queued before it.
        self._frames: list[Frame] = []
        self._partial = _NOTHING
        self._pong: bytes | None = None
        #: The number of bytes waiting to be written.
        self.size: int = 0
        #: True while small frames are collected. Only in state DIRECT.
        self.is_corked: bool = False
        self._most_corked = min(max_unsent, WRITE_BATCH_BYTES)

        self._idle = LazyParkingLot()  # where the writer task waits while the queue is empty
        self._progress = LazyParkingLot()  # where tasks wait for frames to be written

        #: Bytes of frames written so far. Negative until the opening handshake's response is
        #: written.
        self.written: int = 0
        #: The error that prevents queued frames from being written. Set only in state OVER.
        self.broken: Exception | None = None
        #: True if messages were dropped: see `drop_messages`.
        self.has_dropped: bool = False

    def start(self, nursery: trio.Nursery, response: bytes = b"") -> None:
        """Start writing.

        :param nursery: The nursery for the writer task.
        :param response: Bytes that precede the first frame.
        """
        self._nursery = nursery
        self._transport.on_unsent(self._write_tls_answer)
        self._writer = _DIRECT
        if not self._transport.is_direct:
            self._start_task()
        if response:
            self.written = -len(response)
            self.append(response)

    def stop(self) -> None:
        """Stop writing, even if a frame is only partly written."""
        self._nursery = None
        self._on_broken = None  # break the reference cycle with the connection
        self._transport.on_unsent(None)
        if self.size:
            self.broken = ConnectionAbortedError("closed before all was written")
        self._end()
        if self._scope is not None:
            cancel(self._scope, "the connection has ended")

    # -- the state of the queue

    @property
    def is_full(self) -> bool:
        """True if a sender must wait."""
        return self.size > self.max_unsent

    @property
    def unsent(self) -> tuple[int, int]:
        """The number of frames that are not fully written, and the number of unwritten bytes."""
        count = len(self._frames) + self._partial.frames
        if count and self.written < 0:  # one "frame" is the response of the opening handshake
            count -= 1
        return count, self.size

    @property
    def tasks_waiting(self) -> int:
        """The number of tasks that are waiting for room."""
        return len(self._progress)

    # -- queueing

    def append_message(self, frame: bytes) -> bool:
        """Write a small frame within this scheduler turn, or as soon as the peer reads.

        :returns: True if there is room for more, and no write has failed.
        """
        size = self.size + len(frame)
        # Check the socket each time, because nothing else would report that this message was lost.
        if self.is_corked and size <= self._most_corked and self._transport.socket.fileno() != -1:
            if not self._frames:
                deferred_flush.get().add(self)
            self._frames.append(frame)
            self.size = size
            return True
        self.append(frame)
        return self.broken is None and self.size <= self.max_unsent

    def append(self, *parts: bytes) -> None:
        """Write a frame now, or as soon as the peer reads.

        :param parts: The frame, or its head and its payload.
        """
        if self.try_write_now(parts) or self._writer is _OVER:
            return
        if self._transport.is_closed:
            self._break(trio.ClosedResourceError("the application closed the stream"))
            return
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._enqueue(pong)  # the Pong must not follow a Close
        self._enqueue(parts[0] if len(parts) == 1 else parts)
        if self._writer is _TASK:
            self._idle.unpark()
        else:
            self._write_now()

    def try_write_now(self, parts: Sequence[bytes]) -> bool:
        """Write as much of a frame as the socket accepts now, unless other frames are waiting.

        :param parts: The frame, or its head and its payload.
        :returns: False if the frame was not queued: other frames are waiting, or nothing can be
            written.
        """
        if self.size or self._writer is not _DIRECT:
            return False
        self.is_corked = True
        try:
            rest = self._transport.write_now(parts)
            self.written += sum(map(len, parts))
            if rest is not None:
                self._keep_rest(rest, [parts])
        except Exception as exc:  # the frame may be partly written
            self._break(unwrap_network_error(exc))
            return False
        return True

    def append_pong(self, frame: bytes) -> None:
        """Write a Pong. It replaces a Pong that is still queued.

        Only the latest Ping needs an answer (RFC 6455, 5.5.3).
        """
        if self._frames:
            self._pong = frame
        else:
            self.append(frame)

    def cork(self) -> None:
        """Collect small frames, including the next one. Does nothing if frames are waiting."""
        if not self.size and self._writer is _DIRECT:
            self.is_corked = True

    def uncork(self) -> None:
        """Write the collected frames."""
        self.is_corked = False
        self._write_now()

    def drop_messages(self) -> None:
        """Drop the queued messages.

        A partly written frame is completed, and control frames are kept.
        """
        kept: list[Frame] = [frame for frame in self._frames if isinstance(frame, ControlFrame)]
        if len(kept) < len(self._frames):
            self.size += sum(map(frame_size, kept)) - sum(map(frame_size, self._frames))
            self._frames = kept
            self.has_dropped = True
            self._progress.unpark_all()

    # -- waiting

    async def wait_room(self) -> None:
        """Wait until the queue has room. If cancelled, nothing changes."""
        while self.is_full:
            await self._progress.park()

    async def flush(self) -> None:
        """Wait until all frames are written or dropped. If cancelled, writing continues."""
        self.uncork()
        while self.size > 0:
            await self._progress.park()

    # -- writing

    def _write_now(self) -> None:
        """Write as much as the socket accepts without blocking, if the writer is direct."""
        try:
            while self._frames and self._writer is _DIRECT:
                self._write_batch()
        except Exception as exc:  # a frame may be partly written
            self._break(unwrap_network_error(exc))

    def _write_batch(self) -> None:
        """Write as many of the next frames as the socket accepts."""
        frames, chunks = self._take_batch()
        rest = self._transport.write_now(chunks)
        self.written += sum(map(len, chunks))
        if rest is not None:
            self._keep_rest(rest, frames)

    def _keep_rest(self, rest: Unwritten, frames: Sequence[Frame]) -> None:
        """Keep the unwritten remainder of the frames, and let the task write it.

        Frames that are entirely unwritten return to the queue, except the first one, which the task
        uses to wait for the socket.
        """
        begun, chunks = rest
        size = begun + sum(map(len, chunks))
        self.written -= size
        self.size += size
        kept = list(frames)
        while len(kept) > 1 and size - frame_size(kept[-1]) >= begun:
            size -= frame_size(kept.pop())
        if len(kept) < len(frames):
            self._frames[:0] = frames[len(kept) :]
            chunks = first_bytes(chunks, size - begun)
        count = 0
        while size > 0:
            count += 1
            size -= frame_size(kept.pop())
        self._partial = _Partial(begun, chunks, count) if begun or chunks else _NOTHING
        if self._writer is _DIRECT:
            self._start_task()

    def _start_task(self) -> None:
        assert self._nursery is not None
        self.is_corked = False
        self._writer = _TASK
        self._scope = trio.CancelScope(shield=True)
        self._nursery.start_soon(self._write, self._scope)

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt must go to an application task
    async def _write(self, scope: trio.CancelScope) -> None:
        """Run the writer task."""
        with scope:
            try:
                while self._writer is _TASK and (self._has_work or not self._transport.is_direct):
                    await self._write_some()
            except Exception as exc:  # streams may raise any exception; after one, they are broken
                self._break(unwrap_network_error(exc))
        self._scope = None
        if self._writer is _TASK:
            self._writer = _DIRECT

    @property
    def _has_work(self) -> bool:
        """True if there is something to write, even without bytes: see `_write_tls_answer`."""
        return bool(self._frames) or self._partial is not _NOTHING

    async def _write_some(self) -> None:
        """Write part of the queue, or wait until there is a frame."""
        if not self._has_work:
            await self._idle.park()
            return
        if self._partial is _NOTHING:
            if self._transport.is_direct:
                self._write_batch()
                self._progress.unpark_all()
                await trio.lowlevel.checkpoint()
                return
            frames, batch = self._take_batch()
            self.size += sum(map(len, batch))
            self._partial = _Partial(0, batch, len(frames))
        begun, chunks, frame_count = self._partial
        if begun:
            await self._transport.finish_begun()
            written = begun
        else:
            chunk, *chunks = chunks
            written = await self._transport.write_some(chunk)
            if written < len(chunk):
                chunks = [memoryview(chunk)[written:], *chunks]
        if self._writer is _TASK:  # False if the queue was stopped in the meantime
            self.written += written
            self.size -= written
            self._partial = _Partial(0, chunks, frame_count) if chunks else _NOTHING
        self._progress.unpark_all()

    def _write_tls_answer(self) -> None:
        """Let TLS send its own record, such as an answer to a key update."""
        self.append(b"")

    def _enqueue(self, frame: Frame) -> None:
        self._frames.append(frame)
        self.size += frame_size(frame)

    def _take_batch(self) -> tuple[list[Frame], Sequence[bytes]]:
        """Remove frames from the queue, to write next, until they reach `WRITE_BATCH_BYTES`.

        :returns: The frames, and the chunks to write.
        """
        frames = self._frames
        size = self.size
        if size <= WRITE_BATCH_BYTES:
            self._frames = []
            self.size = 0
        else:
            count, size = 0, 0
            for frame in frames:
                if count and size >= WRITE_BATCH_BYTES:
                    break
                count += 1
                size += frame_size(frame)
            self._frames = frames[count:]
            frames = frames[:count]
            self.size -= size
        if self._pong is not None:
            # A large frame takes a long time to write, so the Pong goes before it.
            at = len(frames) - (frame_size(frames[-1]) >= SCATTER_WRITE_BYTES)
            frames.insert(at, self._pong)
            self._pong = None
        if size < SCATTER_WRITE_BYTES:  # no frame has a large payload
            return frames, [b"".join(frames)]  # type: ignore[arg-type] # each is bytes
        return frames, join_small(
            (part for frame in frames for part in frame_parts(frame)), SCATTER_WRITE_BYTES
        )

    # -- the end

    def fail(self, exc: Exception) -> None:
        """Stop writing because of an error."""
        self.broken = exc
        self._end()

    def _break(self, exc: Exception) -> None:
        if self._writer is not _OVER:
            self.fail(exc)
            assert self._on_broken is not None
            self._on_broken()

    def _end(self) -> None:
        self._writer = _OVER
        self._frames.clear()
        self._partial = _NOTHING
        self._pong = None
        self.size = 0
        self.is_corked = False
        self._progress.unpark_all()
