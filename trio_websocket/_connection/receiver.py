"""Messages that wait to be read, and who reads the stream.

On a socket the task in ``get_message`` reads by itself: no other task is woken, which is most of
the cost of a message. The connection's own task is parked meanwhile. It reads while nobody is in
``get_message``, so that Pings are answered and the end is noticed; but only a short while after the
last message was taken, so that the application's answer goes out before what came behind that
message, a Close for one, takes effect. Other streams are always read by the connection's task,
because a cancelled read may break them.

Bytes are decoded only when somebody wants a message or there is room for it, and more are read only
when all are decoded.
"""

from __future__ import annotations

import collections
import math
import sys
from typing import Any, Protocol, Sequence

import trio
from wsproto.events import Ping, Pong

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
from .._sansio.events import MessageChunk, Status
from .idle_monitor import IdleMonitor
from .send_queue import SendQueue

NEED_DATA, YIELD = Status.NEED_DATA, Status.YIELD
OVER_LIMIT, ENDED = Status.OVER_LIMIT, Status.ENDED

# Seconds that a message over its limit waits for an application that may allow a larger one, in
# receive_stream, before it is refused.
_HOLD = 2.0
# A queue takes memory while it has something only.
_NOTHING: collections.deque[Any] = collections.deque(maxlen=0)


class ReceiverCallbacks(Protocol):
    """Who is told of what was decoded."""

    def on_control(self, event: Ping | Pong) -> None:
        """A Ping or Pong came."""

    def on_ended(self) -> None:
        """The end of the connection came."""

    def on_failure(self, exc: Exception) -> None:
        """An error on this side, and not of the peer or the network, ends the connection."""

    @property
    def is_urgent(self) -> bool:
        """True if reading must go on, because somebody waits for a Pong or a Close frame."""


class Receiver:
    """Messages on their way to the application."""

    __slots__ = (
        "_arrival",
        "_budget",
        "_bytes",
        "_hold_end",
        "_is_away",
        "_is_reading",
        "_is_tended",
        "_is_untouched",
        "_max_bytes",
        "_owner",
        "_protocol",
        "_send_queue",
        "_size",
        "_transport",
        "_turn",
        "_watch",
        "_work",
        "messages",
    )

    def __init__(
        self,
        transport: Transport,
        protocol: protocol.Protocol,
        send_queue: SendQueue,
        budget: CheckpointBudget,
        owner: ReceiverCallbacks,
        *,
        size: float,
        max_bytes: float = math.inf,
    ) -> None:
        """
        :param transport: Where the bytes come from.
        :param protocol: What decodes them.
        :param outbox: What it keeps back is written before anything waits for the peer.
        :param pacer: That of the connection.
        :param owner: Who is told.
        :param size: How many messages may wait, beside the one in hand.
        :param max_bytes: How many bytes of memory they may have.
        """
        self._transport = transport
        self._protocol = protocol
        self._size = size + 1  # one is in hand while so many wait, as it was in 0.12
        self._max_bytes = max_bytes
        self._bytes = 0  # of the messages, once the connection's task decodes
        self._send_queue = send_queue
        self._owner: ReceiverCallbacks | None = owner  # None when stopped
        self._watch: IdleMonitor | None = None
        #: Those that are decoded.
        self.messages: collections.deque[str | bytes | MessageChunk] = _NOTHING
        # What comes next is left for a reader until this time; None if it is not.
        self._hold_end: float | None = None
        self._turn = FairLock()  # of the tasks in get(); who has it decodes
        self._is_away = False  # the holder is in a block of receive_stream, and busy
        self._arrival = LazyParkingLot()  # the holder, while another task reads
        self._work = LazyParkingLot()  # the connection's task, while it has no work
        self._is_reading = False  # some task is in a read
        self._is_tended = False  # the connection's task decodes, as nobody is in get()
        self._is_untouched = False  # nobody took anything since the watch looked
        self._budget = budget

    def start(self) -> None:
        """Begin to look after the messages."""
        self._watch = IdleMonitor.of_this_run()
        self._watch.add(self)

    def can_take(self) -> bool:
        """Whether the next message may be popped without a turn: it is here, for whoever comes."""
        if self._turn.is_taken or self._bytes or self._budget.remaining <= 0:
            return False
        self._budget.remaining -= 1  # as spend(), whose call would tell
        self._is_untouched = False
        return bool(self.messages)

    async def get(self, decode: bool | None = None) -> str | bytes:
        """The next message. If cancelled, it stays the next.

        :param decode: Whether it is to be str or bytes; by default, as the peer sent it.
        :raises ConnectionClosed: There is no further one.
        :raises UnicodeDecodeError: It is binary, and no text. It stays the next.
        """
        await self._budget.checkpoint()
        await self._turn.take()
        self._is_tended = False
        try:
            message = await self._next(decode is False)
            assert not isinstance(
                message, MessageChunk
            )  # only a stream gets those, and it has the turn
            converted = message if decode is None else _converted(message, decode)
            self._drop_first(message)
            return converted
        except UnicodeDecodeError:
            self._bytes = sum(map(_memory, self.messages))  # it waits now
            raise
        finally:
            self._pass_turn()

    async def _next(self, raw: bool = False) -> str | bytes | MessageChunk:
        """Wait until there is something in the queue; what it is."""
        while not self.messages:
            if not self._protocol.closing.is_open:
                # If what cancelled us has closed the connection first, that says more.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._protocol.closing.raise_closed()
            if self._decode(is_awaited=True, raw=raw):
                if not self.messages:
                    await self._take_turn()  # a flood of control frames
                continue
            self._send_queue.uncork()
            self.messages = _NOTHING
            self._protocol.reader.free_decoded()
            if not self._transport.is_direct or self._is_reading:
                self._work.unpark_all()
                await self._arrival.park()
            elif self._budget.remaining <= 0:
                await self._budget.checkpoint()
            elif not self._read_now() and not self._transport.has_more:
                # Not by _read(): a coroutine less that waits takes less memory.
                self._is_reading = True
                try:
                    await self._transport.wait_readable()
                except Exception as exc:  # it was closed
                    self._protocol.receive_eof(unwrap_network_error(exc))
                finally:
                    self._is_reading = False
                self._budget.renew()  # the others have run
        return self.messages[0]

    def _put(self, items: Sequence[str | bytes | MessageChunk]) -> None:
        if self.messages:
            self.messages.extend(items)
        else:
            self.messages = collections.deque(items)

    def _drop_first(self, item: str | bytes | MessageChunk) -> None:
        self.messages.popleft()
        if self._bytes:
            self._bytes -= _memory(item)

    def stop(self) -> None:
        """Nothing is decoded any more: forget who is told, so that no cycle of references is left.

        Without one, all that a connection had is free when it ends. The garbage collector would
        come late, and halt the program for longer the more connections there were.
        """
        self._watch = self._owner = None

    async def begin_stream(self, max_size: float | None) -> MessageChunk:
        """Wait for the next message, and take it in pieces. Others wait until `end_stream`.

        If cancelled, the message stays the next.

        :param max_size: The limit on its size; by default, that of the connection.
        :returns: The first piece.
        :raises ConnectionClosed: There is no further message.
        """
        await self._budget.checkpoint()
        await self._turn.take()
        self._is_tended = False
        try:
            if not self.messages:
                self._protocol.begin_stream(max_size)
            elif max_size is not None and (size := _size(self.messages[0])) > max_size:
                self.discard()
                self._protocol.refuse_message(size, max_size)
            if self._protocol.closing.ended and self._owner is not None:  # by what was done here
                self._owner.on_ended()
            return await self.next_chunk()
        except BaseException:
            self._protocol.assembler.end_stream()
            self._is_away = False
            self._pass_turn()
            raise

    async def next_chunk(self) -> MessageChunk:
        """The next piece of the message. If cancelled, it stays the next.

        :raises ConnectionClosed: The connection ended in the middle of the message.
        """
        await self._budget.checkpoint()
        self._is_away = self._is_tended = False
        try:
            item = await self._next()
            self._drop_first(item)
            return item if isinstance(item, MessageChunk) else MessageChunk(item, is_last=True)
        finally:
            self._is_away = True
            self._leave()

    def end_stream(self) -> None:
        """Let others read. What is left of the message is thrown away."""
        while self.messages and isinstance(self.messages[0], MessageChunk):
            self._drop_first(self.messages[0])
        self._protocol.reader.skip_rest()
        self._is_away = False
        self._pass_turn()

    def _pass_turn(self) -> None:
        self._turn.pass_on()
        if not self._turn.is_taken:
            self._leave()

    def tend(self) -> None:
        """Let the connection's task read and decode while nobody is in get()."""
        if not self._is_awaited:
            if not self._bytes:
                self._bytes = sum(map(_memory, self.messages))
            self._is_tended = True
            self._work.unpark_all()

    def begin_interval(self) -> None:
        """The watch will look again in a while."""
        self._is_untouched = True

    def end_interval(self) -> bool:
        """Tend the messages if none was taken in the interval; whether there is to be another."""
        if self._watch is None or self._is_awaited or self._is_tended:
            return False
        if self._is_untouched:
            self.tend()
        return not self._is_untouched

    def fail(self, exc: Exception) -> None:
        """End the connection because of an error."""
        if self._owner is not None:
            self._owner.on_failure(exc)

    def discard(self) -> None:
        """Throw away what was received: the application has closed the connection."""
        self.messages = _NOTHING
        self._bytes = 0
        self.wake()

    def wake(self) -> None:
        """Let every waiting task look at the state of the connection anew."""
        self._arrival.unpark_all()
        self._work.unpark_all()

    async def run(self) -> None:
        """The connection's task: reads and decodes when it falls to it, until the end."""
        while not self._protocol.closing.ended:
            if self._is_tended and self._decode(is_awaited=False):
                await self._take_turn()
            # Here all is decoded that can be: nothing waits behind a read that may take for ever.
            elif self._falls_to_connection():
                self._protocol.reader.free_decoded()
                await self._read()
                self._arrival.unpark_all()
            elif self._hold_end is not None:
                with trio.move_on_at(self._hold_end) as waiting:
                    await self._work.park()
                if waiting.cancelled_caught and self._hold_end is not None:
                    self._decode(is_awaited=False, is_wanted=True)
            else:
                self._protocol.reader.free_decoded()
                await self._work.park()

    @property
    def unread(self) -> tuple[int, int]:
        """How many messages wait, and how many bytes they have, with those not decoded yet."""
        size = sum(map(_length, self.messages)) + self._protocol.reader.undecoded
        return len(self.messages), size

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait for a message."""
        return len(self._turn) + self._is_awaited

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read because the application does not read."""
        return not self._is_awaited and not self._has_room

    @property
    def _is_awaited(self) -> bool:
        """Whether a task waits for a message, or for a piece of one."""
        return self._turn.is_taken and not self._is_away

    @property
    def _has_room(self) -> bool:
        if self._hold_end is not None:
            return False
        within_limits = len(self.messages) < self._size and self._bytes < self._max_bytes
        return within_limits or not self.messages  # one, whatever its size

    def _leave(self) -> None:
        if self._watch is None or self._owner is None:
            return  # all is over
        if self._owner.is_urgent:
            self.tend()
        else:
            self._is_untouched = False
            self._watch.add(self)

    def _decode(  # noqa: C901 # it runs for each message, and a further call would tell
        self, is_awaited: bool, *, raw: bool = False, is_wanted: bool = False
    ) -> bool:
        """Decode, up to a message; False if data, or room for a message, is needed.

        :param is_awaited: Whether the task that calls it waits for a message.
        :param raw: Whether a text may stay bytes.
        :param is_wanted: Whether a message over its limit is refused though nobody waits for one.
        """
        try:
            if is_awaited:
                # What follows a raw one may be for who wants a text as str.
                messages = self._protocol.reader.messages(
                    1 if raw else DECODE_BATCH_MESSAGES, raw=raw
                )
                if messages:
                    self._put(messages)
                    return True
            hold_end, self._hold_end = self._hold_end, None
            protocol, budget = self._protocol, self._budget
            decoded, work = protocol.assembler.decoded, protocol.reader.inflating_work
            for _ in range(STEPS_PER_TURN):
                if not is_awaited and not self._has_room:
                    return False
                event = protocol.next_event(raw=raw, is_awaited=is_awaited or is_wanted)
                if isinstance(event, (str, bytes, MessageChunk)):
                    self._put([event])
                    budget.spend(EVENT_COST + _length(event) // RECEIVE_BYTES_PER_COST)
                    budget.spend((protocol.reader.inflating_work - work) // INFLATE_WORK_PER_COST)
                    if not is_awaited:
                        self._bytes += _memory(event)
                    return True
                if event is NEED_DATA:
                    return False
                if event is OVER_LIMIT:
                    self._hold_end = hold_end or trio.current_time() + _HOLD
                    return False
                if event is ENDED:
                    assert self._owner is not None
                    self._owner.on_ended()
                    return True
                if not isinstance(event, Status):
                    assert self._owner is not None
                    self._owner.on_control(event)
                elif (
                    event is YIELD
                    or protocol.assembler.decoded > decoded + DECODE_STEP_BYTES
                    or protocol.reader.inflating_work > work + RECEIVE_INFLATE_WORK
                ):
                    break  # it was inflated, and is kept, or thrown away
            return True
        except Exception as exc:  # a MemoryError, for example: what was decoded may be incomplete
            self.fail(exc)
            return True

    async def _take_turn(self) -> None:
        """Let the others run: there is more to do, for whoever runs."""
        self._budget.renew()
        await trio.lowlevel.checkpoint()

    def _read_now(self) -> bool:
        """Take what is there; False if nothing is."""
        try:
            data = self._transport.read_now(self._protocol.reader.awaited)
            if self._transport.has_more:
                self._budget.exhaust()
            if data is None:
                return False
            self._budget.spend(READ_COST + len(data) // RECEIVE_BYTES_PER_COST)
            self._receive(data)
        except Exception as exc:  # the bytes may be lost
            self._protocol.receive_eof(unwrap_network_error(exc))
        return True

    def _receive(self, data: bytes) -> None:
        if data:
            self._protocol.reader.receive_data(data)
        else:
            self._protocol.receive_eof()

    def _falls_to_connection(self) -> bool:
        """Whether the connection's task is to read, now that nothing is left to decode."""
        if self._is_reading or self._protocol.reader.eof is not None:
            return False
        return bool(self._arrival) or (self._is_tended and self._has_room)

    async def _read(self) -> None:
        self._is_reading = True
        try:
            self._receive(await self._transport.read(self._protocol.reader.awaited))
            self._budget.renew()  # the others have run
        except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
            self._protocol.receive_eof(unwrap_network_error(exc))
        finally:
            self._is_reading = False


def _size(message: str | bytes | MessageChunk) -> int:
    """Bytes of payload."""
    data = message.data if isinstance(message, MessageChunk) else message
    return len(data.encode() if isinstance(data, str) else data)


def _length(item: str | bytes | MessageChunk) -> int:
    return len(item.data if isinstance(item, MessageChunk) else item)


def _memory(item: str | bytes | MessageChunk) -> int:
    return sys.getsizeof(item.data if isinstance(item, MessageChunk) else item)


def _converted(message: str | bytes, decode: bool) -> str | bytes:
    if decode:
        return message.decode() if isinstance(message, bytes) else message
    return message.encode() if isinstance(message, str) else message
