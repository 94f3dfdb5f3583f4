"""Send messages, fragments, broadcasts, Pings, Pongs and Close frames.

A single flat function, `Sender.send_now`, sends small messages. A message waits for `turn` if it is
compressed or large, if the queue is full, or if another message is being sent. A fragmented message
holds the turn from its first fragment to its last (RFC 6455, 5.4). Control frames don't wait for
the turn, so they can be sent between fragments.

After its frame is queued, a sender still waits until the queue has room again. So if the peer does
not read, the queue holds at most `max_unsent_bytes` plus one message per task.
"""

from __future__ import annotations

import enum
import functools
import math
from typing import Any, Coroutine

import trio

from .._io.pacing import CheckpointBudget, run_in_thread
from .._io.sync import FairLock, LazyEvent
from .._sansio.closing import State
from .._sansio.costs import (
    COMPRESS_BYTES_PER_COST,
    COMPRESS_IN_THREAD_BYTES,
    FRAGMENT_COST,
    SCATTER_WRITE_BYTES,
)
from .._sansio.errors import CloseCode, CloseReason, ConnectionClosed, describe
from .._sansio.protocol import Protocol
from .message_queue import MessageQueue
from .queued_frame import ControlFrame
from .send_queue import SendQueue


class SharedMessage:
    """A message for several connections, and the frames that they share."""

    def __init__(self, is_text: bool, payload: bytes, compress: bool) -> None:
        """
        :param is_text: True for a text message.
        :param payload: The whole message.
        :param compress: True to allow compression.
        """
        self.is_text = is_text
        self.payload = payload
        self.compress = compress
        self.size: int = len(payload)
        #: The frames in parts, keyed by `Sender.share_key`.
        self.frames: dict[object, list[bytes]] = {}


class Delivery(enum.Enum):
    """The outcome of a broadcast for one connection."""

    #: The message is queued.
    SENT = enum.auto()
    #: The queue is full, or another message is being sent.
    BUSY = enum.auto()
    #: The connection is closed, or is being closed.
    CLOSED = enum.auto()


_OPEN = State.OPEN
_SENT, _BUSY, _CLOSED = Delivery.SENT, Delivery.BUSY, Delivery.CLOSED


class Sender:
    """Sends the frames of one connection, in the order of the calls."""

    __slots__ = ("_closed", "_closing", "_queue", "_received", "_writer", "budget", "turn")

    def __init__(
        self,
        protocol: Protocol,
        queue: SendQueue,
        budget: CheckpointBudget,
        closed: LazyEvent,
        received: MessageQueue,
    ) -> None:
        """
        :param protocol: The state of the connection, and the writer of frames.
        :param queue: The send queue, which writes the frames.
        :param budget: The connection's checkpoint budget.
        :param closed: Set when the stream is closed.
        :param received: The messages that the application has not received yet. It may answer each
            of them, so small frames are collected while there are any.
        """
        self._closing = protocol.closing
        self._writer = protocol.writer
        self._queue = queue
        #: The connection's checkpoint budget, which each call draws on.
        self.budget = budget
        self._closed = closed
        self._received = received
        #: The lock held by the task whose message is being sent.
        self.turn = FairLock()

    # -- the state

    @property
    def can_send(self) -> bool:
        """True if a frame that is queued now can reach the peer."""
        return self._closing.is_open and self._queue.broken is None

    @property
    def tasks_waiting(self) -> int:
        """The number of tasks that are waiting to send."""
        return len(self.turn) + self._queue.tasks_waiting

    @property
    def has_dropped(self) -> bool:
        """True if queued messages were dropped because the peer was too slow."""
        return self._queue.has_dropped

    def closed_error(self) -> ConnectionClosed:
        """Return the error that explains why nothing can be sent, as far as the reason is known."""
        broken = self._queue.broken
        if broken is None or not self._closing.is_open:
            return self._closing.closed_error()
        exc = ConnectionClosed(CloseReason(CloseCode.ABNORMAL_CLOSURE, describe(broken)))
        exc.__cause__ = broken
        return exc

    async def check_open(self) -> None:
        """Raise an exception if nothing can be sent; otherwise, return without a checkpoint.

        :raises ConnectionClosed: The connection is closed, or is being closed.
        """
        if self._queue.broken is not None:
            await self._closed.wait()  # the peer's last data is still being read
        if not self._closing.is_open:
            # If a cancellation has closed the connection, raise Cancelled, not ConnectionClosed.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._closing.raise_closed()

    # -- whole messages

    def send_now(
        self, is_text: bool, payload: bytes, compress: bool
    ) -> Coroutine[Any, Any, None] | None:
        """Queue a message unless it must wait. This is the hot path for sending.

        :returns: None if the message is queued and the next one need not wait; otherwise, an
            awaitable that the caller must await.
        """
        writer, queue = self._writer, self._queue
        size = len(payload)
        if (
            size >= SCATTER_WRITE_BYTES
            or (compress and size >= writer.threshold)
            or self.turn.is_taken
            or queue.size > queue.max_unsent  # `is_full`, inlined
        ):
            return self._send_in_turn(is_text, payload, compress)
        # `can_send`, inlined.
        if queue.broken is not None or self._closing.state is not _OPEN:
            return self.check_open()
        if not queue.is_corked and self._received.messages:
            queue.cork()
        # A keyword argument would cost as much as ten bytecodes, up to Python 3.13.
        if queue.append_message(writer.message(is_text, payload, False)):
            return None
        return self.wait_queued(size)

    async def _send_in_turn(self, is_text: bool, payload: bytes, compress: bool) -> None:
        """Send a message that takes time to encode, or must wait."""
        size, writer = len(payload), self._writer
        if compress and size >= writer.threshold:
            self.budget.spend(size // COMPRESS_BYTES_PER_COST)
        async with self.turn:
            await self._queue.wait_room()
            await self.check_open()
            if self._takes_long(size, compress):
                deflated = await run_in_thread(writer.deflate, payload)
                await self.check_open()
                frame = [writer.deflated_message(is_text, deflated, size)]
            elif size < SCATTER_WRITE_BYTES or (compress and size >= writer.threshold):
                frame = [writer.message(is_text, payload, compress)]
            else:
                frame = writer.large_message(is_text, payload)
            self._queue.append(*frame)
        await self.wait_queued(size)

    async def wait_queued(self, size: int) -> None:
        """Wait until the queue has room for the next message.

        :param size: The size of the queued message.
        :raises ConnectionClosed: The queued message was lost.
        """
        queue = self._queue
        await queue.wait_room()
        if queue.broken is not None or queue.has_dropped:
            self._writer.discount_message(size)
            await self.check_open()

    # -- messages in fragments

    async def send_fragment(
        self, is_text: bool, payload: bytes, *, is_first: bool, is_last: bool, compress: bool
    ) -> None:
        """Send a fragment of a message. The caller must hold the turn.

        If cancelled before the fragment is queued, it is not sent.

        :raises ConnectionClosed: The connection is closed, or is being closed.
        """
        await self.budget.checkpoint(FRAGMENT_COST)
        await self._queue.wait_room()
        await self.check_open()
        make_frame = functools.partial(
            self._writer.fragment,
            is_text,
            payload,
            is_first=is_first,
            is_last=is_last,
            compress=compress,
        )
        is_compressed = compress and self._writer.threshold < math.inf
        if is_compressed and len(payload) >= COMPRESS_IN_THREAD_BYTES:
            frame = await run_in_thread(make_frame)
            await self.check_open()
        else:
            frame = make_frame()
            if is_compressed:
                self.budget.spend(len(payload) // COMPRESS_BYTES_PER_COST)
        self._queue.append(frame)

    # -- messages to several connections

    def share_key(self, size: int, compress: bool) -> object:
        """Return a key for the settings on which a message's frame depends.

        Connections with equal keys can share the frame. None means that this connection can't.
        """
        return self._writer.share_key(size, compress)

    async def make_shared(self, message: SharedMessage) -> list[bytes]:
        """Return the frame, in parts, for all connections with an equal `share_key`."""
        arguments = message.is_text, message.payload, message.compress
        if self._takes_long(message.size, message.compress):
            return await run_in_thread(self._writer.shared_message, *arguments)
        return self._writer.shared_message(*arguments)

    def try_broadcast(self, message: SharedMessage, key: object) -> Delivery:
        """Queue a message unless it must wait. This is the hot path of broadcast.

        :param key: The result of `share_key`.
        """
        writer, queue = self._writer, self._queue
        is_free = not self.turn.is_taken
        if (
            key is not None
            and is_free
            and self._closing.state is _OPEN
            and queue.try_write_now(message.frames[key])
        ):
            writer.count_message(message.size)
            return _SENT
        if not self.can_send:
            return _CLOSED
        takes_long = key is None and self._takes_long(message.size, message.compress)
        if queue.is_full or not is_free or takes_long:
            return _BUSY
        return self._append(message, key)

    async def broadcast_late(self, message: SharedMessage, deadline: float) -> Delivery:
        """Wait until a message can be queued, and queue it.

        :param deadline: The time on Trio's clock at which to stop waiting.
        """
        key = self.share_key(message.size, message.compress)
        with trio.CancelScope(deadline=deadline) as waiting:
            await self.turn.take()
            try:
                await self._queue.wait_room()
            except trio.Cancelled:
                self.turn.pass_on()
                raise
        if waiting.cancelled_caught:
            return self.try_broadcast(message, key)
        try:
            deflated: bytes | None = None
            if key is None and self._takes_long(message.size, message.compress) and self.can_send:
                deflated = await run_in_thread(self._writer.deflate, message.payload)
            return self._append(message, key, deflated) if self.can_send else _CLOSED
        finally:
            self.turn.pass_on()

    def _append(
        self, message: SharedMessage, key: object, deflated: bytes | None = None
    ) -> Delivery:
        writer, size = self._writer, message.size
        if deflated is not None:
            frame = [writer.deflated_message(message.is_text, deflated, size)]
        elif key is None:
            frame = [writer.message(message.is_text, message.payload, message.compress)]
        else:
            writer.count_message(size)
            frame = message.frames[key]
        self._queue.append(*frame)
        if self._queue.broken is None:
            return _SENT
        writer.discount_message(size)
        return _CLOSED

    def _takes_long(self, size: int, compress: bool) -> bool:
        """Return True if a thread should compress the message."""
        return compress and size >= max(COMPRESS_IN_THREAD_BYTES, self._writer.threshold)

    # -- control frames (RFC 6455, 5.5)

    async def wait_control(self) -> None:
        """Wait until the application can send a control frame.

        :raises ConnectionClosed: The connection is closed, or is being closed.
        """
        await self.budget.checkpoint()
        await self._queue.wait_room()
        await self.check_open()

    def append_control(self, frame: bytes) -> None:
        """Queue a Ping, an unsolicited Pong, or a Close frame, which is always the last frame."""
        self._queue.append(ControlFrame(frame))

    def append_pong(self, frame: bytes) -> None:
        """Queue the answer to the latest Ping."""
        self._queue.append_pong(ControlFrame(frame))
