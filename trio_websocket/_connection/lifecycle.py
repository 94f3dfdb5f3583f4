"""The life of a connection, from the opening handshake to the closed stream, and how it closes.

The connection's own task runs in the nursery that the connection was opened with. It reads when no
other task does (see `who_reads`), and finally closes the stream. The library's tasks never raise an
error: they record it in the protocol, and the application's next call raises it.

A connection closes in one of six ways, named as in RFC 6455 where it has a term:

- **close**: `start_close` starts the closing handshake (7.1.2). The Close frame is queued, and the
  task keeps reading until the peer's Close frame arrives. `close` also waits for this, but at most
  for `disconnect_timeout`. `close_slow` drops queued messages first, and does not wait.
- **answer**: the peer starts the closing handshake. The protocol creates the reply, and `on_ended`
  queues it.
- **fail** (7.1.7): this side sends a Close frame if the peer still accepts data, and expects no
  reply. The protocol fails the connection when the peer violates RFC 6455. After an error on this
  side (`on_failure`) or a failed write (`on_write_error`), the task keeps reading for up to
  `LINGER` seconds.
- **fail at once**: `fail_at_once` does the same, but closes the stream without reading any further.
- **cancel**: `_write_last_frame` writes a Close frame if the kernel accepts it, and the stream is
  closed at once.
- **lose**: the stream ends or fails before a Close frame arrives, and none is sent.

In each case, `_finish` closes the stream and sets `closed`.
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
from .pings import Pings
from .receiver import Receiver
from .send_queue import SendQueue
from .sender import Sender
from .statistics import ConnectionStatistics

logger = logging.getLogger("trio-websocket")

# The time in seconds that a cancelled connection has to write its Close frame. The kernel accepts
# the frame at once, unless the peer has stopped reading.
_WRITE_LAST_FRAME = 0.05
# A constant name saves memory: by default, Trio creates a string for each task.
_TASK = "trio_websocket: a connection"
_OPEN = State.OPEN


class Lifecycle:
    """The parts of a connection, and how it starts and closes."""

    __slots__ = (
        "_keep_alive",
        "_scope",
        "closed",
        "closing",
        "handshake",
        "is_closed_here",
        "number",
        "options",
        "pings",
        "protocol",
        "queue",
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
        #: The frames waiting to be written.
        self.queue = SendQueue(transport, self.on_write_error, max_unsent=options.max_unsent_bytes)
        self.receiver = Receiver(transport, self.protocol, self.queue, budget, self, options)
        received = self.receiver.queue
        self.sender = Sender(self.protocol, self.queue, budget, self.closed, received)
        self.pings = Pings(self.protocol, self.sender, self.receiver, options.max_unanswered_pings)
        #: True if this side started the closing handshake.
        self.is_closed_here: bool = False
        #: True if `close` was called, even if the connection had already ended.
        self.was_aclose_called: bool = False
        self._scope = trio.CancelScope()  # around the connection's task
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
        """Return statistics of the connection's traffic so far."""
        protocol, receiver = self.protocol, self.receiver
        messages_unread, bytes_unread = receiver.unread
        frames_unsent, bytes_unsent = self.queue.unsent
        return ConnectionStatistics(
            messages_sent=protocol.writer.messages_sent,
            messages_received=protocol.assembler.messages_received,
            bytes_sent=protocol.writer.bytes_sent,
            bytes_received=protocol.assembler.bytes_received,
            wire_bytes_sent=max(0, self.queue.written),
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
        """Start the connection's tasks.

        :param nursery: The nursery for the tasks.
        :param response: Bytes to write before the first frame.
        """
        nursery.start_soon(self._run, name=_TASK)
        options = self.options
        try:
            if options.ping_interval is not None:
                self._keep_alive = KeepAlive(self, options.ping_interval, options.ping_timeout)
                nursery.start_soon(self._keep_alive.run)
            self.closing.open()
            self.queue.start(nursery, response)
            self.protocol.reader.receive_data(self.handshake.trailing)
            self.receiver.start()
        except BaseException:  # such as a MemoryError; the task would otherwise never end
            cancel(self._scope, "the connection could not be started")
            raise

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt must go to an application task
    async def _run(self) -> None:
        with self._scope:
            try:
                try:
                    await self.receiver.run()
                except Exception as exc:
                    self.on_failure(exc)
                self.queue.uncork()
                if self.queue.unsent[1]:
                    with trio.move_on_after(self.options.disconnect_timeout):
                        await self.queue.flush()
                await self.transport.half_close_and_drain(peer_may_send=self.closing.rcvd is None)
            except trio.Cancelled:
                await self._write_last_frame()
                raise
            except Exception as exc:
                self.on_failure(exc)
            finally:
                await self._finish()

    def shield(self) -> None:
        """Shield the task from cancellation until `close_after_block`, which is always called.

        The block or handler thus decides when the connection ends. After a cancellation, it can
        still send a last message from a shielded scope.
        """
        self._scope.shield = True

    # -- closing

    def start_close(self, code: int, reason: str | None) -> None:
        """Start the closing handshake, unless the connection is already closing."""
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
        if self.closing.state is State.CONNECTING:  # constructed, but never started
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
                cancel(self._scope, "aclose() was cancelled, or disconnect_timeout has passed")
                with trio.CancelScope(shield=True):  # waits for at most `_WRITE_LAST_FRAME`
                    await self.closed.wait()
        if is_unanswered:
            raise DisconnectionTimeout(f"the closing handshake took longer than {timeout} s")

    def close_slow(self) -> None:
        """Start the closing handshake with a peer that does not read fast enough.

        A partly written frame is completed, followed by the Close frame. Queued messages are
        dropped. The connection closes within `disconnect_timeout`, and the caller does not wait for
        it.
        """
        self.queue.drop_messages()
        # Code 1013 would mean that this side is overloaded.
        self.start_close(CloseCode.POLICY_VIOLATION, "too slow")
        self._end_within(self.options.disconnect_timeout)

    async def wait_closed(self) -> None:
        """Wait until the stream is closed. If cancelled, nothing changes."""
        if self.closing.state is State.CONNECTING and not self.closed.is_set:
            self.closing.raise_closed()
        await self.closed.wait()

    def fail_at_once(self, text: str, cause: Exception) -> None:
        """Fail the connection with code 1011, and close the stream.

        :param text: The reason to send in the Close frame.
        """
        self.protocol.fail(CloseCode.INTERNAL_ERROR, text, cause)
        self.on_ended()
        cancel(self._scope, text)

    def _end_within(self, seconds: float) -> None:
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + seconds)

    async def _write_last_frame(self) -> None:
        """Write a Close frame if the peer is reading.

        Its code is 1001, unless a Close frame was queued earlier.
        """
        if self.can_send:
            self.is_closed_here = True
            with contextlib.suppress(Exception):
                self.sender.append_control(self.protocol.start_close(CloseCode.GOING_AWAY, None))
        with trio.move_on_after(_WRITE_LAST_FRAME) as scope:
            scope.shield = True
            await self.queue.flush()

    async def _finish(self) -> None:
        """Close the stream whatever happens, and wake the tasks that are waiting for this."""
        with contextlib.suppress(Exception):
            self.queue.stop()
            if not self.closing.ended:
                cause = self.queue.broken
                self.closing.lose(cause or ConnectionAbortedError("closed from here"))
                self.on_ended()
            self.receiver.stop()
            if self._keep_alive is not None:
                self._keep_alive.stop()
                self._keep_alive = None
        await self.transport.close_now()  # never raises
        self.closed.set()
        # The application's logging filters may raise exceptions.
        with contextlib.suppress(Exception):
            if logger.isEnabledFor(logging.DEBUG):
                peer, reason = self.transport.peer, self.closing.reason
                logger.debug("%s with %s is closed: %r", self.name, peer, reason)

    # -- events

    def on_control(self, event: Ping | Pong) -> None:
        """Answer a Ping, or record a Pong."""
        payload = bytes(event.payload)
        if isinstance(event, Ping):
            self.sender.append_pong(self.protocol.writer.pong(payload))
        else:
            self.pings.answer(payload)

    def on_ended(self) -> None:
        """Wake every task that is waiting for the peer, and queue the last frame."""
        self.pings.end()
        self.receiver.wake()
        frame = self.protocol.take_final_bytes()
        if frame:
            self.sender.append_control(frame)

    def on_failure(self, exc: Exception) -> None:
        """End this connection only, because of an error on this side.

        Memory may be exhausted, so a step that fails is skipped.
        """
        with contextlib.suppress(Exception):
            logger.error("%s failed: %s", self.name, describe(exc), exc_info=exc)
        exc.__traceback__ = None  # its frames refer to the connection; it was logged above
        self.protocol.fail(CloseCode.INTERNAL_ERROR, "internal error", exc)
        with contextlib.suppress(Exception):
            self._end_within(LINGER)  # the task may be waiting for data from the peer
            self.on_ended()

    def on_write_error(self) -> None:
        """End the connection, but first read the peer's last data, which may contain the reason."""
        self.protocol.note_write_error(self.queue.broken)
        self._end_within(LINGER)
        try:
            self.receiver.read_in_background()
        except Exception as exc:
            self.on_failure(exc)

    @property
    def is_urgent(self) -> bool:
        """True if reading must continue because a task is waiting for a Pong or a Close frame."""
        # `can_send` is inlined here, because this property is evaluated for each message.
        is_closing = self.closing.state is not _OPEN or self.queue.broken is not None
        return is_closing or bool(self.pings)
