"""Receive messages: from the stream, through the protocol, to the application.

**The path of a message.** Bytes go from the stream into the protocol, which decodes them into
messages, chunks of messages, and control frames. Messages and chunks go into a `MessageQueue`, from
which the application receives them. Control frames and the end of the connection are reported to
`ConnectionEvents`. Each step applies backpressure to the one before it: bytes are decoded only
while a task is waiting for a message or the queue has room for one, and more bytes are read only
when all earlier ones have been decoded. So an application that does not receive stops the peer from
sending, and a connection uses a bounded amount of memory.

`who_reads` explains which task reads, and when. `over_limit` explains how a message over its limit
is handled.

**A fast take** is the common case: the next message is in the queue, and no other task is waiting
for one. Then `get_message` removes it from the queue without acquiring the lock.
"""

from __future__ import annotations

import collections

import trio

from .._io.pacing import CheckpointBudget
from .._io.sync import FairLock, LazyParkingLot
from .._io.transport import Transport, unwrap_network_error
from .._sansio import protocol
from .._sansio.costs import (
    DECODE_BATCH_MESSAGES,
    DECODE_STEP_BYTES,
    EVENT_COST,
    INFLATE_WORK_PER_COST,
    READ_COST,
    RECEIVE_BYTES_PER_COST,
    RECEIVE_INFLATE_WORK,
    STEPS_PER_TURN,
)
from .._sansio.events import ENDED, NEED_DATA, OVER_LIMIT, YIELD, MessageChunk, Status
from .._sansio.options import Options
from .connection_events import ConnectionEvents
from .idle_monitor import IdleMonitor, idle_monitor
from .message_queue import MessageQueue, as_type, encoded_size, length
from .over_limit import OverLimitHold
from .send_queue import SendQueue
from .who_reads import APPLICATION, BACKGROUND, GRACE, GRACE_ENDS, STOPPED, Reader


class Receiver:
    """The receiving half of a connection."""

    __slots__ = (
        "_application_waits",
        "_budget",
        "_events",
        "_hold",
        "_is_reading",
        "_lock",
        "_monitor",
        "_protocol",
        "_reader",
        "_send_queue",
        "_task_waits",
        "_transport",
        "queue",
    )

    def __init__(
        self,
        transport: Transport,
        protocol: protocol.Protocol,
        send_queue: SendQueue,
        budget: CheckpointBudget,
        events: ConnectionEvents,
        options: Options,
    ) -> None:
        """
        :param transport: The stream to read from.
        :param protocol: The protocol, which decodes the bytes.
        :param send_queue: The send queue, which is uncorked before a task waits for the peer.
        :param budget: The connection's checkpoint budget.
        :param events: Notified of control frames and of the end of the connection.
        :param options: The options that limit the message queue.
        """
        self._transport = transport
        self._protocol = protocol
        self._send_queue = send_queue
        self._budget = budget
        #: The decoded messages.
        self.queue: MessageQueue = MessageQueue(options)
        # None after `stop`, so that no reference cycle outlives the connection.
        self._events: ConnectionEvents | None = events
        self._monitor: IdleMonitor | None = None  # set by `start`

        # The task that currently reads. Only `_set_reader` and the fast take change `_reader`. If
        # it is APPLICATION, the task that holds `_lock` is waiting for a message or a chunk.
        # Otherwise, `_lock` is free, or its holder is in a receive_stream() block and not waiting
        # for a chunk.
        self._reader = GRACE
        self._lock = FairLock()
        # True while either task is waiting in a read of the stream; no other task may start one
        # then. It can be True in every state: a background read continues when a task starts to
        # wait for a message.
        self._is_reading = False
        # If set, the next message is over its limit, and nothing is decoded in the background until
        # the hold expires. The next decoding step resets it.
        self._hold: OverLimitHold | None = None
        # The task that holds `_lock`, while the connection's task reads for it.
        self._application_waits = LazyParkingLot()
        self._task_waits = LazyParkingLot()  # the connection's task, while idle

    # -- properties

    @property
    def unread(self) -> tuple[int, int]:
        """The number of queued messages, and the size of all queued or not yet decoded data."""
        return len(self.queue.messages), self.queue.payload_size + self._protocol.reader.undecoded

    @property
    def tasks_waiting(self) -> int:
        """The number of tasks that are waiting for a message."""
        return len(self._lock) + (self._reader is APPLICATION)

    @property
    def is_paused(self) -> bool:
        """True if reading is paused because the application is not receiving its messages."""
        return self._reader is not APPLICATION and not self._has_room

    @property
    def _has_room(self) -> bool:
        return self._hold is None and self.queue.has_room

    # -- who reads

    def start(self) -> None:
        """Start reading in the background after a grace period."""
        self._monitor = idle_monitor.get()
        if self._reader is GRACE:
            self._monitor.add(self)

    def stop(self) -> None:
        """Drop the reference to the connection, which has ended, to break the reference cycle."""
        self._set_reader(STOPPED)
        self._events = None

    def read_in_background(self) -> None:
        """Let the connection's task read and decode, unless an application task does."""
        if self._reader is not APPLICATION:
            self._set_reader(BACKGROUND)

    def begin_interval(self) -> None:
        """Note that one of the idle monitor's intervals has begun."""
        if self._reader is GRACE:
            self._set_reader(GRACE_ENDS)

    def end_interval(self) -> bool:
        """Start to read in the background, or return True if a message renewed the grace period."""
        if self._reader is GRACE_ENDS:
            try:
                self.read_in_background()
            except Exception as exc:  # a MemoryError, for example
                self._fail(exc)
        return self._reader is GRACE

    def _set_reader(self, reader: Reader) -> None:
        if self._reader is STOPPED:
            return
        if reader is BACKGROUND:
            self.queue.measure()
        self._reader = reader
        if reader is BACKGROUND:
            self._task_waits.unpark_all()
        elif reader is GRACE and self._monitor is not None:
            self._monitor.add(self)

    def _leave(self) -> None:
        """Note that the application task has stopped waiting."""
        if self._events is not None:
            self._set_reader(BACKGROUND if self._events.is_urgent else GRACE)

    def _release_lock(self) -> None:
        """Pass the lock on to the next task that is waiting for a message, if any."""
        self._lock.pass_on()
        if self._lock.is_taken:
            self._set_reader(APPLICATION)
        else:
            self._leave()

    def _fail(self, exc: Exception) -> None:
        """End the connection because of an error on this side."""
        if self._events is not None:
            self._events.on_failure(exc)

    def discard(self) -> None:
        """Drop the queued messages, because the application has closed the connection."""
        self.queue.clear()
        self.wake()

    def wake(self) -> None:
        """Wake every waiting task, which then checks the state of the connection."""
        self._application_waits.unpark_all()
        self._task_waits.unpark_all()

    # -- whole messages, for the application

    def try_begin_fast_take(self) -> collections.deque[str | bytes | MessageChunk] | None:
        """Return the queue if its first item is a message that can be received at once, else None.

        The caller removes the message with ``popleft()``, after a checkpoint that does not yield to
        other tasks. `_decode_for_task` has already counted its cost.
        """
        if self._reader is not GRACE and self._reader is not GRACE_ENDS:
            return None
        queue = self.queue
        if self._lock.is_taken or queue.size is not None or self._budget.remaining <= 0:
            return None
        if not queue.messages:
            self._budget.spend(1)
            return None
        self._reader = GRACE  # skips `_set_reader`, because the monitor already has this receiver
        return queue.messages

    async def get(self, decode: bool | None = None) -> str | bytes:
        """Wait for the next message and return it. If cancelled, it remains the next message.

        :param decode: True for a str, False for bytes, None for the type that the peer sent.
        :raises ConnectionClosed: There is no further message.
        :raises UnicodeDecodeError: The message is binary and not valid UTF-8. It remains the next
            message.
        """
        await self._budget.checkpoint()
        await self._lock.take()
        self._set_reader(APPLICATION)
        try:
            message = await self._wait_next(decode is False)
            assert not isinstance(message, MessageChunk)  # only a stream gets chunks
            converted = message if decode is None else as_type(message, decode)
            self.queue.pop()
            return converted
        finally:
            self._release_lock()

    # -- messages in chunks, for a `MessageStream`

    async def begin_stream(self, max_size: float | None) -> MessageChunk:
        """Wait for the next message, to receive it in chunks. Other tasks wait until `end_stream`.

        If cancelled, the message remains the next one.

        :param max_size: The limit on the message's size; by default, the connection's limit.
        :returns: The first chunk.
        :raises ConnectionClosed: There is no further message.
        """
        await self._budget.checkpoint()
        await self._lock.take()
        self._set_reader(APPLICATION)
        try:
            messages = self.queue.messages
            if not messages:
                self._protocol.begin_stream(max_size)
            elif max_size is not None and (size := encoded_size(messages[0])) > max_size:
                self.discard()
                self._protocol.refuse_message(size, max_size)
            if self._protocol.closing.ended and self._events is not None:  # message over its limit
                self._events.on_ended()
            return await self.next_chunk()
        except BaseException:
            self._protocol.assembler.end_stream()
            self._release_lock()
            raise

    async def next_chunk(self) -> MessageChunk:
        """Wait for the message's next chunk and return it. If cancelled, it remains the next chunk.

        :raises ConnectionClosed: The connection ended in the middle of the message.
        """
        await self._budget.checkpoint()
        self._set_reader(APPLICATION)
        try:
            item = await self._wait_next()
            self.queue.pop()
            return item if isinstance(item, MessageChunk) else MessageChunk(item, is_last=True)
        finally:
            self._leave()

    def end_stream(self) -> None:
        """Let other tasks receive. The rest of the message is dropped when it arrives."""
        messages = self.queue.messages
        while messages and isinstance(messages[0], MessageChunk):
            self.queue.pop()
        self._protocol.reader.skip_rest()
        self._release_lock()

    # -- the two tasks that read

    async def _wait_next(self, raw: bool = False) -> str | bytes | MessageChunk:
        """Wait until the queue has an item; return the first one without removing it.

        Only the application task that holds the lock may call this.

        :param raw: True if a text message may be returned as its UTF-8 bytes.
        """
        while not self.queue.messages:
            if not self._protocol.closing.is_open:
                # If a cancellation has closed the connection, raise Cancelled here.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._protocol.closing.raise_closed()
            if self._decode_for_task(raw):
                if not self.queue.messages:
                    await self._let_others_run()  # only control frames so far, perhaps a flood
                continue
            self._send_queue.uncork()
            self.queue.clear()
            self._protocol.reader.free_decoded()
            if not self._transport.is_direct or self._is_reading:
                self._task_waits.unpark_all()
                await self._application_waits.park()
            elif self._budget.remaining <= 0:
                await self._budget.checkpoint()
            elif not self._read_now() and not self._transport.has_more:
                # A separate coroutine would use memory for as long as the task waits.
                self._is_reading = True
                try:
                    await self._transport.wait_readable()
                except Exception as exc:  # the stream was closed
                    self._protocol.receive_eof(unwrap_network_error(exc))
                finally:
                    self._is_reading = False
                self._budget.renew()
                self._read_now()
        return self.queue.messages[0]

    async def run(self) -> None:
        """Read and decode in the background, when necessary, until the connection ends."""
        while not self._protocol.closing.ended:
            if self._reader is BACKGROUND and self._decode_in_background():
                await self._let_others_run()
            # Decode everything possible first, because a read may block forever.
            elif self._must_read():
                self._protocol.reader.free_decoded()
                await self._read()
                self._application_waits.unpark_all()
            elif self._hold is not None:
                hold = self._hold
                if await hold.wait(self._task_waits) and self._hold is hold:
                    self._decode_in_background(refuse=True)
            else:
                self._protocol.reader.free_decoded()
                await self._task_waits.park()

    def _must_read(self) -> bool:
        """Return True if the connection's task must read. Only valid if nothing can be decoded."""
        if self._is_reading or self._protocol.reader.eof is not None:
            return False
        return bool(self._application_waits) or (self._reader is BACKGROUND and self._has_room)

    async def _let_others_run(self) -> None:
        self._budget.renew()
        await trio.lowlevel.checkpoint()

    # -- decoding

    def _decode_for_task(self, raw: bool) -> bool:
        """Decode for a task that found the queue empty; return False if more bytes are needed."""
        try:
            # Only one if raw: the next message may be for a task that wants text as str.
            messages = self._protocol.reader.messages(1 if raw else DECODE_BATCH_MESSAGES, raw=raw)
            if messages:
                self.queue.fill(messages)
                self._budget.spend(len(messages) - 1)  # the cost of the fast takes that follow
                return True
            return self._decode_events(raw=raw, is_wanted=True)
        except Exception as exc:  # a MemoryError, for example: the message may be incomplete
            self._fail(exc)
            return True

    def _decode_in_background(self, *, refuse: bool = False) -> bool:
        """Decode if the queue has room for a message; return False if it lacks room or input.

        :param refuse: True to refuse a message over its limit. Otherwise, the message is held.
        """
        try:
            return self.queue.has_room and self._decode_events(is_wanted=refuse)
        except Exception as exc:  # for example a MemoryError
            self._fail(exc)
            return True

    def _decode_events(self, *, raw: bool = False, is_wanted: bool) -> bool:
        """Decode at most one message or chunk, and the control frames before it.

        :param is_wanted: False to hold a message over its limit, True to refuse it.
        :returns: False if more bytes are needed, or a message is held.
        """
        hold, self._hold = self._hold, None
        protocol, events = self._protocol, self._events
        decoded, work = protocol.assembler.decoded, protocol.reader.inflating_work
        assert events is not None
        for _ in range(STEPS_PER_TURN):
            event = protocol.next_event(raw=raw, is_awaited=is_wanted)
            if isinstance(event, (str, bytes, MessageChunk)):
                self.queue.append(event)
                self._budget.spend(EVENT_COST + length(event) // RECEIVE_BYTES_PER_COST)
                self._budget.spend((protocol.reader.inflating_work - work) // INFLATE_WORK_PER_COST)
                return True
            if event is NEED_DATA:
                return False
            if event is OVER_LIMIT:
                self._hold = hold or OverLimitHold()
                return False
            if event is ENDED:
                events.on_ended()
                return True
            if not isinstance(event, Status):
                events.on_control(event)
            elif (
                event is YIELD
                or protocol.assembler.decoded > decoded + DECODE_STEP_BYTES
                or protocol.reader.inflating_work > work + RECEIVE_INFLATE_WORK
            ):
                break  # enough work for one step, although no message is complete
        return True

    # -- reading

    def _read_now(self) -> bool:
        """Read the available bytes without waiting; return False if there are none."""
        try:
            data = self._transport.read_now(self._protocol.reader.awaited)
            if self._transport.has_more:
                self._budget.exhaust()
            if data is None:
                return False
            self._budget.spend(READ_COST + len(data) // RECEIVE_BYTES_PER_COST)
            self._protocol.receive(data)
        except Exception as exc:  # bytes may have been lost
            self._protocol.receive_eof(unwrap_network_error(exc))
        return True

    async def _read(self) -> None:
        """Wait for bytes, and read them."""
        self._is_reading = True
        try:
            self._protocol.receive(await self._transport.read(self._protocol.reader.awaited))
            self._budget.renew()
        except Exception as exc:  # streams may raise any exception; after one, they are broken
            self._protocol.receive_eof(unwrap_network_error(exc))
        finally:
            self._is_reading = False
