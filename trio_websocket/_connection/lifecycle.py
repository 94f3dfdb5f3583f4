"""The life of a connection, from the opening handshake to the closed stream, and how it closes.

The connection's own task runs in the nursery that the connection was opened with. It reads when
nobody else does (see `receiver`), and closes the stream in the end. Tasks of the library never
raise: they leave the reason in the protocol, where the next call of the application finds it.

There are five ways to an end, in the words of RFC 6455:

- `start_close` starts the closing handshake (7.1.2): the Close frame is queued, and the task reads
  on until the peer's Close arrives. `close` does so and waits, for `disconnect_timeout` at most.
  So does `close_slow`, which drops queued messages first and does not wait.
- The peer starts it. The protocol answers with a Close frame, which `on_ended` queues.
- `fail` fails the connection (7.1.7): a Close frame is written as far as the peer takes it, and
  nobody waits for an answer. The protocol fails it in the same way when the peer violates RFC
  6455. After an error of this side (`on_failure`), or a write that failed, what the peer sent is
  still read for `LINGER` seconds.
- Cancellation: code 1001 is written if the kernel takes it, and the stream is closed at once.
- `abort` closes the stream at once.

Whichever it was, `_finish` closes the stream, and sets `closed`.
"""

from __future__ import annotations

import contextlib
import logging

import trio
from wsproto import ConnectionType
from wsproto.events import Ping, Pong

from .._io.cancel import cancel
from .._io.pacing import CheckpointBudget
from .._io.sync import LazyEvent
from .._io.transport import LINGER, Transport
from .._sansio.closing import State
from .._sansio.errors import CloseCode, DisconnectionTimeout, describe
from .._sansio.handshake import HandshakeResult
from .._sansio.options import Options
from .._sansio.protocol import Protocol
from .keep_alive import KeepAlive
from .pings import PendingPing, Pings
from .receiver import Receiver
from .send_queue import SendQueue
from .sender import Sender
from .statistics import ConnectionStatistics

logger = logging.getLogger("trio-websocket")

# Seconds that a cancelled connection may take to write its Close frame: the kernel takes it at
# once, unless the peer does not read.
_GOING_AWAY = 0.05
# Without it, each task would have a name of its own.
_TASK = "trio_websocket: a connection"
_OPEN = State.OPEN


class Lifecycle:
    """The parts of a connection, and its end."""

    __slots__ = (
        "_keep_alive",
        "_queue",
        "_scope",
        "closed",
        "closing",
        "handshake",
        "is_closed_here",
        "number",
        "options",
        "pings",
        "protocol",
        "receiver",
        "sender",
        "transport",
        "was_aclose_called",
    )

    def __init__(
        self, transport: Transport, handshake: HandshakeResult, options: Options, number: int
    ) -> None:
        """
        :param transport: The stream.
        :param handshake: The outcome of the opening handshake.
        :param options: The options.
        :param number: The number of the connection, for log records.
        """
        self.options = options
        self.number = number
        self.handshake = handshake
        self.transport = transport
        self.protocol = Protocol(
            handshake.side, options, handshake.extension, state=State.CONNECTING
        )
        #: The state, and how the connection ended.
        self.closing = self.protocol.closing
        #: Set when the stream is closed.
        self.closed = LazyEvent()
        budget = CheckpointBudget()
        self._queue = SendQueue(transport, self.on_write_error, max_unsent=options.max_unsent_bytes)
        self.sender = Sender(self.closing, self.protocol.writer, self._queue, budget, self.closed)
        self.receiver = Receiver(
            transport,
            self.protocol,
            self._queue,
            budget,
            self,
            size=options.message_queue_size,
            max_bytes=options.message_queue_bytes,
        )
        self.pings = Pings(options.max_unanswered_pings)
        #: True if the closing handshake was started by this side.
        self.is_closed_here: bool = False
        #: True if `close` was called, also if the connection had ended before.
        self.was_aclose_called: bool = False
        self._scope = trio.CancelScope()  # of the connection's task
        self._keep_alive: KeepAlive | None = None

    @property
    def name(self) -> str:
        """The name of the connection in log records, such as ``server-3``."""
        side = "client" if self.handshake.side is ConnectionType.CLIENT else "server"
        return f"{side}-{self.number}"

    @property
    def can_send(self) -> bool:
        """True if a frame that is queued now can reach the peer."""
        return self.sender.can_send

    def statistics(self) -> ConnectionStatistics:
        """Return the traffic of the connection at this moment."""
        protocol, receiver = self.protocol, self.receiver
        messages_unread, bytes_unread = receiver.unread
        frames_unsent, bytes_unsent = self._queue.unsent
        return ConnectionStatistics(
            messages_sent=protocol.writer.messages_sent,
            messages_received=protocol.assembler.messages_received,
            bytes_sent=protocol.writer.bytes_sent,
            bytes_received=protocol.assembler.bytes_received,
            wire_bytes_sent=max(0, self._queue.written),
            wire_bytes_received=protocol.reader.wire_bytes_received,
            messages_unread=messages_unread,
            bytes_unread=bytes_unread,
            frames_unsent=frames_unsent,
            bytes_unsent=bytes_unsent,
            tasks_receiving=receiver.tasks_waiting,
            tasks_sending=self.sender.tasks_waiting,
            pings_in_flight=self.pings.count,
            latency=self.pings.latency,
        )

    # -- the connection's task

    def start(self, nursery: trio.Nursery, response: bytes = b"") -> None:
        """Start the tasks of the connection.

        :param nursery: Where the tasks run.
        :param response: Bytes to write before the first frame.
        """
        nursery.start_soon(self._run, name=_TASK)
        options = self.options
        try:
            if options.ping_interval is not None:
                self._keep_alive = KeepAlive(self, options.ping_interval, options.ping_timeout)
                nursery.start_soon(self._keep_alive.run)
            self.closing.open()
            self._queue.start(nursery, response)
            self.protocol.reader.receive_data(self.handshake.trailing)
            self.receiver.start()
        except BaseException:  # a MemoryError, for example: nobody else would end the task
            cancel(self._scope, "the connection could not be started")
            raise

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def _run(self) -> None:
        with self._scope:
            try:
                try:
                    await self.receiver.run()
                except Exception as exc:
                    self.on_failure(exc)
                self._queue.uncork()
                if self._queue.unsent[1]:
                    with trio.move_on_after(self.options.disconnect_timeout):
                        await self._queue.flush()
                await self.transport.half_close_and_drain(peer_may_send=self.closing.rcvd is None)
            except trio.Cancelled:
                await self._send_going_away()
                raise
            except Exception as exc:
                self.on_failure(exc)
            finally:
                await self._finish()

    def shield(self) -> None:
        """Let the task outlive a cancellation, until `close_after_block`, which is sure to come.

        So the block or handler decides when the connection ends, and a cancelled one can still send
        a last message from a shielded scope.
        """
        self._scope.shield = True

    # -- closing

    def start_close(self, code: int, reason: str | None) -> None:
        """Start the closing handshake, unless the connection is closing already."""
        if self.can_send:
            self.is_closed_here = True
            try:
                self.sender.append_control(self.protocol.start_close(code, reason))
                self.receiver.discard()
                self.receiver.read_in_background()
            except Exception as exc:
                self.on_failure(exc)

    async def close(self, code: int, reason: str | None) -> None:
        """Start the closing handshake, and wait until the stream is closed.

        If cancelled, the stream is closed at once.

        :raises DisconnectionTimeout: The peer did not answer within ``disconnect_timeout``.
        """
        self.is_closed_here = self.was_aclose_called = True
        if self.closing.state is State.CONNECTING:  # only constructed
            await self.transport.close_now()
            self.closed.set()
            return
        self.start_close(code, reason)
        timeout = self.options.disconnect_timeout
        is_unanswered = False
        try:
            with trio.move_on_after(timeout):
                await self.closed.wait()
        finally:
            if not self.closed.is_set:
                is_unanswered = not self.closing.ended
                await self.abort()
        if is_unanswered:
            raise DisconnectionTimeout(f"the closing handshake took longer than {timeout} s")

    def close_slow(self) -> None:
        """Start the closing handshake with a peer that does not read fast enough.

        A frame that is partly written is finished, and the Close follows it. Queued messages are
        dropped. `disconnect_timeout` bounds all of it, and no caller waits.
        """
        self._queue.drop_messages()
        # Code 1013 would mean that this side is overloaded.
        self.start_close(CloseCode.POLICY_VIOLATION, "too slow")
        self._end_within(self.options.disconnect_timeout)

    async def abort(self) -> None:
        """Close the stream now. A Close frame is sent if the kernel takes it at once."""
        cancel(self._scope, "aclose() was cancelled, or disconnect_timeout has passed")
        with trio.CancelScope(shield=True):  # for `_GOING_AWAY` at most
            await self.closed.wait()

    async def wait_closed(self) -> None:
        """Wait until the stream is closed. If cancelled, nothing has happened."""
        if self.closing.state is State.CONNECTING and not self.closed.is_set:
            self.closing.raise_closed()
        await self.closed.wait()

    def fail(self, code: int, text: str, cause: Exception) -> None:
        """Fail the connection: send a Close frame, and don't wait for the peer."""
        self.protocol.fail(code, text, cause)
        self.on_ended()
        cancel(self._scope, text)

    def break_off(self, cause: Exception) -> None:
        """Fail the connection, because a message can't be completed."""
        self.fail(CloseCode.INTERNAL_ERROR, "a message was broken off half-way", cause)

    def end_block(self) -> None:
        """Note that the connection is closed because its block, or its handler, has ended."""
        if self.can_send:
            self.closing.note_end_of_block()

    def _end_within(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    async def _send_going_away(self) -> None:
        if self.can_send:
            self.is_closed_here = True
            with contextlib.suppress(Exception):
                self.sender.append_control(self.protocol.start_close(CloseCode.GOING_AWAY, None))
        with trio.move_on_after(_GOING_AWAY) as scope:
            scope.shield = True
            await self._queue.flush()

    async def _finish(self) -> None:
        """Close the stream, whatever happens, and let everyone know that it is closed."""
        with contextlib.suppress(Exception):
            self._queue.stop()
            if not self.closing.ended:
                cause = self._queue.broken
                self.closing.lose(cause or ConnectionAbortedError("closed from here"))
                self.on_ended()
            self.receiver.stop()
            if self._keep_alive is not None:
                self._keep_alive.stop()
                self._keep_alive = None
        await self.transport.close_now()  # never raises
        self.closed.set()
        # A filter of the application may raise.
        with contextlib.suppress(Exception):
            if logger.isEnabledFor(logging.DEBUG):
                peer, reason = self.transport.peer, self.closing.reason
                logger.debug("%s with %s is closed: %r", self.name, peer, reason)

    # -- events

    def on_control(self, event: Ping | Pong) -> None:
        """Answer a Ping, or note a Pong."""
        payload = bytes(event.payload)
        if isinstance(event, Ping):
            self.sender.append_pong(self.protocol.writer.pong(payload))
        else:
            self.pings.answer(payload)

    def on_ended(self) -> None:
        """Let every waiting task know that the connection has ended, and queue the last frame."""
        self.pings.end()
        self.receiver.wake()
        frame = self.protocol.take_final_bytes()
        if frame:
            self.sender.append_control(frame)

    def on_failure(self, exc: Exception) -> None:
        """End the connection because of an error of this side, which ends nothing else.

        There may be no memory: what fails here is left out.
        """
        with contextlib.suppress(Exception):
            logger.error("%s failed: %s", self.name, describe(exc), exc_info=exc)
        exc.__traceback__ = None  # its frames would keep the connection; the log record has it
        self.protocol.fail(CloseCode.INTERNAL_ERROR, "internal error", exc)
        with contextlib.suppress(Exception):
            self._end_within(LINGER)  # the task may wait for data from the peer
            self.on_ended()

    def on_write_error(self) -> None:
        """Read what the peer sent before it left, which may say why, and then close."""
        self.protocol.note_write_error(self._queue.broken)
        self._end_within(LINGER)
        try:
            self.receiver.read_in_background()
        except Exception as exc:
            self.on_failure(exc)

    @property
    def is_urgent(self) -> bool:
        """True if reading must go on, because somebody waits for a Pong or a Close frame."""
        # As in `can_send`, without its calls: each message asks.
        is_closing = self.closing.state is not _OPEN or self._queue.broken is not None
        return is_closing or bool(self.pings)

    # -- pings

    async def ping(self, payload: bytes) -> float:
        """Send a Ping and wait for its Pong; return the round-trip time in seconds."""
        pings = self.pings
        pings.check_unused(payload)
        await self.sender.wait_control()
        while pings.is_full:
            await pings.wait_changed()
            await self.sender.check_open()
        pings.check_unused(payload)
        ping = self.send_ping(payload)
        try:
            await ping.is_over.wait()
        finally:
            pings.forget(payload, ping)
        if ping.round_trip is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            self.closing.raise_closed()
        return ping.round_trip

    def send_ping(self, payload: bytes) -> PendingPing:
        """Queue a Ping, and read until its Pong arrives."""
        ping = self.pings.add(payload)
        self.sender.append_control(self.protocol.writer.ping(payload))
        self.receiver.read_in_background()
        return ping

    def forget_ping(self, payload: bytes, ping: PendingPing) -> None:
        """Stop waiting for a Pong."""
        self.pings.forget(payload, ping)

    @property
    def is_paused(self) -> bool:
        """True if nothing is read, because the application does not take its messages."""
        return self.receiver.is_paused

    @property
    def bytes_queued(self) -> int:
        """The number of bytes of all frames so far, written or not."""
        return self._queue.written + self._queue.unsent[1]

    def progress(self, limit: int) -> tuple[int, int]:
        """Return the numbers of bytes received, and of bytes written up to the limit.

        They change while the peer shows that it is there.
        """
        return self.protocol.reader.wire_bytes_received, min(self._queue.written, limit)
