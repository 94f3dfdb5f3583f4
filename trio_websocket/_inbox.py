"""Messages that wait to be read, and who reads the stream.

On a plain socket the task in ``get_message`` reads by itself: no other task is woken, which is most
of the cost of a message. The connection's own task is parked meanwhile. It reads while nobody is in
``get_message``, so that Pings are answered and the end is noticed; but only a short while after the
last message was taken, so that the application's answer goes out before what came behind that
message, a Close for one, takes effect. Other streams are always read by the connection's task,
because a cancelled read may break a TLS stream.

Bytes are decoded only when somebody wants a message or there is room for it, and more are read only
when all are decoded.
"""

from __future__ import annotations

import collections
import math
import sys
from typing import Callable

import trio
from wsproto.events import Ping, Pong

from ._pace import FAIRNESS, Pacer
from ._protocol import ENDED, NEED_DATA, Protocol, Signal
from ._transport import Transport, cause_of

# Seconds between two looks at who has been away from get_message. An application that is away for
# longer than two of them has its Pings answered for it.
_WATCH_INTERVAL = 0.02


class Inbox:
    """Messages on their way to the application."""

    def __init__(
        self,
        transport: Transport,
        protocol: Protocol,
        *,
        size: float,
        max_bytes: float = math.inf,
        on_control: Callable[[Ping | Pong], None],
        on_ended: Callable[[], None],
        is_urgent: Callable[[], bool],
    ) -> None:
        """
        :param transport: Where the bytes come from.
        :param protocol: What decodes them.
        :param size: How many messages may wait, beside the one in hand.
        :param max_bytes: How many bytes of memory they may have.
        :param on_control: Called for each Ping and Pong.
        :param on_ended: Called when the end of the connection was decoded.
        :param is_urgent: Whether somebody waits for a Pong or a Close, so that reading goes on.
        """
        self._transport = transport
        self._protocol = protocol
        self._size = size + 1  # one is in hand while so many wait, as it was in 0.12
        self._max_bytes = max_bytes
        self._bytes = 0  # of the messages that the connection's task has decoded
        self._on_control = on_control
        self._on_ended = on_ended
        self._is_urgent = is_urgent
        self._watch: _Watch | None = None
        self._messages: collections.deque[str | bytes] = collections.deque()
        self._turn = trio.StrictFIFOLock()  # of the tasks in get(); its holder decodes
        self._arrival = trio.lowlevel.ParkingLot()  # the holder, while another task reads
        self._work = trio.lowlevel.ParkingLot()  # the connection's task, while it has no work
        self._is_reading = False  # some task is in a read
        self._is_tended = False  # the connection's task decodes, as nobody is in get()
        self._pacer = Pacer()

    def start(self) -> None:
        """Begin to look after the messages."""
        self._watch = _Watch.of_this_run()
        self._watch.add(self)

    async def get(self) -> str | bytes:
        """The next message. If cancelled, it stays the next.

        :raises ConnectionClosed: There is no further one.
        """
        await self._pacer.checkpoint()
        if self._turn.locked():
            await self._turn.acquire()
        else:
            self._turn.acquire_nowait()
        self._is_tended = False
        try:
            while not self._messages:
                if not self._protocol.is_open:
                    # If what cancelled us has closed the connection first, that says more.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    raise self._protocol.closed_error()
                if not await self._decode():
                    await self._wait_for_data()
            message = self._messages.popleft()
            if self._bytes:
                self._bytes -= sys.getsizeof(message)
            return message
        finally:
            self._turn.release()
            if not self._turn.locked() and not self._protocol.ended:
                self._leave()

    def stop(self) -> None:
        """Nothing is decoded any more: forget who was told, so that no cycle of references is left.

        Without one, all that a connection had is free when it ends. The garbage collector would
        come late, and halt the program for longer the more connections there were.
        """
        self._watch = None
        del self._on_control, self._on_ended, self._is_urgent

    def tend(self) -> None:
        """Let the connection's task read and decode while nobody is in get()."""
        if not self._turn.locked():
            self._is_tended = True
            self._work.unpark_all()

    def discard(self) -> None:
        """Throw away what was received: the application has closed the connection."""
        self._messages.clear()
        self._bytes = 0
        self.wake()

    def wake(self) -> None:
        """Let every waiting task look at the state of the connection anew."""
        self._arrival.unpark_all()
        self._work.unpark_all()

    async def run(self) -> None:
        """The connection's task: reads and decodes when it falls to it, until the end."""
        while not self._protocol.ended:
            if self._is_tended and await self._decode():
                await self._pacer.checkpoint()
            # Here all is decoded that can be: nothing waits behind a read that may take for ever.
            elif self._falls_to_connection():
                await self._read()
                self._arrival.unpark_all()
            else:
                await self._work.park()

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read because the application does not read."""
        return not self._turn.locked() and not self._has_room

    @property
    def _has_room(self) -> bool:
        within_limits = len(self._messages) < self._size and self._bytes < self._max_bytes
        return within_limits or not self._messages  # one, whatever its size

    def _leave(self) -> None:
        assert self._watch is not None
        if self._is_urgent():
            self.tend()
        else:
            self._watch.add(self)

    async def _decode(self) -> bool:
        """Decode, up to a message; False if data, or room for a message, is needed."""
        holds_turn = self._turn.locked()
        until_checkpoint = FAIRNESS
        while holds_turn == self._turn.locked() and self._has_room:
            event = self._protocol.next_event()
            if isinstance(event, (str, bytes)):
                self._messages.append(event)
                if not holds_turn:
                    self._bytes += sys.getsizeof(event)
                return True
            if event is NEED_DATA:
                return False
            if event is ENDED:
                self._on_ended()
                return True
            if not isinstance(event, Signal):
                self._on_control(event)
            until_checkpoint -= 1
            if not until_checkpoint:
                await trio.lowlevel.checkpoint()
                return True
        return False

    async def _wait_for_data(self) -> None:
        if self._transport.is_socket and not self._is_reading:
            await self._read()
        else:
            self._work.unpark_all()
            await self._arrival.park()

    def _falls_to_connection(self) -> bool:
        """Whether the connection's task is to read, now that nothing is left to decode."""
        if self._is_reading or self._protocol.has_eof:
            return False
        return bool(self._arrival) or (self._is_tended and self._has_room)

    async def _read(self) -> None:
        self._is_reading = True
        try:
            data = await self._transport.read()
        except Exception as exc:  # a stream of any kind: whatever it raises, it is broken
            self._protocol.receive_eof(cause_of(exc))
        else:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
        finally:
            self._is_reading = False


class _Watch:
    """Notices, for all connections of a run, whose application stays away from get_message.

    One look every interval, however many connections there are and however many messages they
    take; none while all of them are waited for or tended.
    """

    def __init__(self) -> None:
        self._left: set[Inbox] = set()  # since the last look
        self._is_running = False

    @staticmethod
    def of_this_run() -> _Watch:
        try:
            return _watch.get()
        except LookupError:
            watch = _Watch()
            _watch.set(watch)
            return watch

    def add(self, inbox: Inbox) -> None:
        """The application took a message just now, or is about to begin."""
        self._left.add(inbox)
        if not self._is_running:
            self._is_running = True
            trio.lowlevel.spawn_system_task(self._run)

    async def _run(self) -> None:
        try:
            while self._left:
                away, self._left = self._left, set()
                await trio.sleep(_WATCH_INTERVAL)
                for inbox in away - self._left:
                    inbox.tend()
        finally:
            self._is_running = False


_watch: trio.lowlevel.RunVar[_Watch] = trio.lowlevel.RunVar("trio_websocket_watch")
