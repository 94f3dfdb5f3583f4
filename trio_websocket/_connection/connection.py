"""`WebSocketConnection`: one side of an open connection.

The connection's own task runs in the nursery that the connection was opened with, and ends when the
stream is closed. It reads when nobody else does (`receiver`), and closes the stream in the end.
Tasks of the library never raise: they leave the reason in `protocol`, where the next call finds it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from typing import Any, AsyncIterable, Iterable, Iterator, Literal, Sequence, Union, overload

import trio
import wsproto
from trio.lowlevel import checkpoint_if_cancelled
from wsproto.events import Ping, Pong

from .._io.cancel import cancel
from .._io.pacing import CheckpointBudget, run_in_thread
from .._io.sockets import Address
from .._io.sync import FairLock, LazyEvent
from .._io.transport import LINGER, Transport
from .._sansio.compat import Unpack
from .._sansio.errors import (
    CloseReason,
    ConnectionClosed,
    DisconnectionTimeout,
    describe,
    exception_to_raise,
    is_normal,
    sendable_close,
    strip_closed,
)
from .._sansio.extensions import DeflateParameters
from .._sansio.frame_writer import COMPRESSED_AT_ONCE, LONG, LONG_TO_COMPRESS
from .._sansio.frames import cut_reason
from .._sansio.handshake import ExtraHeaders, HandshakeResult
from .._sansio.options import OptionKeywords, Options, check_number, with_option_signature
from .._sansio.protocol import NOT_OPENED, Protocol
from .fragments import Message, encoded, send_fragments
from .keep_alive import KeepAlive
from .message_stream import MessageStream
from .pings import PendingPing, Pings
from .receiver import Receiver
from .send_queue import SendQueue
from .statistics import ConnectionStatistics

logger = logging.getLogger("trio-websocket")

# Seconds that a cancelled connection may take to write its Close frame: the kernel takes it at
# once, unless the peer does not read.
_GOODBYE = 0.05
# Otherwise each task has a name of its own, which says the same.
_TASK = "trio_websocket: a connection"
# Bytes that take as long to send as a `CheckpointBudget` counts one.
_PER_UNIT = 2**11
_TOO_SLOW = 1008  # 1013 would say that it is us who have too much to do
_MAX_CONTROL_PAYLOAD = 125  # RFC 6455, 5.5


# The base class has one in old versions of Trio.
_HAS_DICT = any("__dict__" in vars(base) for base in trio.abc.Channel.__mro__)


class WebSocketConnection(trio.abc.Channel[Union[str, bytes]]):
    """A WebSocket connection, of a client or of a server.

    It comes out of the opening functions and of :meth:`WebSocketRequest.accept`. Any number of
    tasks may send and receive at the same time. As an async context manager it closes itself; as an
    async iterator it gives the messages that come. It is a :class:`trio.abc.Channel`, too.
    """

    # Those of ours take less memory so; applications may add what they like.
    __slots__ = (
        *(() if _HAS_DICT else ("__dict__", "__weakref__")),
        "_gone",
        "_id",
        "_receiver",
        "_is_closed_here",
        "_is_started",
        "_keep_alive",
        "_opened",
        "_options",
        "_send_queue",
        "_budget",
        "_pings",
        "_protocol",
        "_scope",
        "_sender",
        "_transport",
    )

    CONNECTION_ID = itertools.count()

    @with_option_signature
    def __init__(
        self,
        stream: trio.abc.Stream,
        ws_connection: wsproto.WSConnection,
        *,
        host: str | None = None,
        path: str | None = None,
        client_subprotocols: Iterable[str] | None = None,
        client_extra_headers: ExtraHeaders | None = None,
        **options: Unpack[OptionKeywords],
    ) -> None:
        """
        Applications use the opening functions instead: the connection needs a task of its own,
        which those start. On one that was only constructed, `aclose` closes the stream; the other
        methods raise a RuntimeError.

        :param stream: The stream that the connection is on.
        :param ws_connection: Tells which side this is.
        :param host: Not used; the opening handshake comes before the connection.
        :param path: The request target.
        :param client_subprotocols: Not used.
        :param client_extra_headers: Not used.
        """
        del host, client_subprotocols, client_extra_headers
        bounds = Options.of_call(WebSocketConnection.__init__, options)
        sides = wsproto.ConnectionType.SERVER, wsproto.ConnectionType.CLIENT
        side = sides[ws_connection.client]
        opened = HandshakeResult(side, path, subprotocol=None, headers=(), trailing=b"")
        self._set_up(Transport(stream, bounds.receive_buffer_size), opened, bounds)
        self._protocol.lose(NOT_OPENED)

    def _set_up(self, transport: Transport, opened: HandshakeResult, options: Options) -> None:
        self._options = options
        self._id = next(self.CONNECTION_ID)
        self._opened = opened
        self._transport = transport
        self._protocol = Protocol(opened.side, options, opened.extension)
        self._budget = CheckpointBudget()
        self._send_queue = SendQueue(
            self._transport, self._on_write_error, max_unsent=options.max_unsent_bytes
        )
        self._receiver = Receiver(
            self._transport,
            self._protocol,
            self._send_queue,
            self._budget,
            self,
            size=options.message_queue_size,
            max_bytes=options.message_queue_bytes,
        )
        self._sender = FairLock()  # of the tasks that wait for room in the outbox
        self._pings = Pings(options.max_unanswered_pings)
        self._is_closed_here = False  # the closing handshake was begun from here
        self._scope = trio.CancelScope()  # of the connection's task
        self._keep_alive: KeepAlive | None = None
        self._is_started = False
        self._gone = LazyEvent()  # the stream is closed

    def __str__(self) -> str:
        return f"{'client' if self.is_client else 'server'}-{self._id}"

    # -- facts

    @property
    def closed(self) -> CloseReason | None:
        """Why the connection was closed, or None while messages can be sent.

        It is None, too, for a connection that was only constructed.
        """
        return self._protocol.reason

    @property
    def is_client(self) -> bool:
        """Whether this is the client's side."""
        return self._opened.side is wsproto.ConnectionType.CLIENT

    @property
    def is_server(self) -> bool:
        """Whether this is the server's side."""
        return not self.is_client

    @property
    def local(self) -> Address:
        """Our address: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._transport.local

    @property
    def remote(self) -> Address:
        """The peer's address: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._transport.remote

    @property
    def path(self) -> str | None:
        """The request target of the opening handshake: the path and the query."""
        return self._opened.path

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that both sides speak, or None (RFC 6455, 1.9)."""
        return self._opened.subprotocol

    @property
    def compression(self) -> DeflateParameters | None:
        """What both sides agreed on about compression (RFC 7692), or None: there is none."""
        extension = self._opened.extension
        return None if extension is None else extension.codec.agreed

    @property
    def handshake_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that the peer sent in the opening handshake, with names in lower case.

        On a client, those that make the handshake come last.
        """
        return self._opened.headers

    @property
    def latency(self) -> float | None:
        """The round-trip time of the latest Ping that was answered, in seconds, or None."""
        return self._pings.latency

    def statistics(self) -> ConnectionStatistics:
        """The traffic of the connection at this moment."""
        protocol, send_queue, receiver = self._protocol, self._send_queue, self._receiver
        messages_unread, bytes_unread = receiver.unread
        frames_unsent, bytes_unsent = send_queue.unsent
        return ConnectionStatistics(
            messages_sent=protocol.messages_sent,
            messages_received=protocol.messages_received,
            bytes_sent=protocol.bytes_sent,
            bytes_received=protocol.bytes_received,
            wire_bytes_sent=max(0, send_queue.written),
            wire_bytes_received=protocol.wire_bytes_received,
            messages_unread=messages_unread,
            bytes_unread=bytes_unread,
            frames_unsent=frames_unsent,
            bytes_unsent=bytes_unsent,
            tasks_receiving=receiver.tasks_waiting,
            tasks_sending=len(self._sender) + send_queue.tasks_waiting,
            pings_in_flight=self._pings.count,
            latency=self._pings.latency,
        )

    # -- messages

    @trio.lowlevel.enable_ki_protection
    async def send_message(
        self,
        message: Message | Iterator[Message] | Sequence[Message] | AsyncIterable[Message],
        *,
        text: bool | None = None,
        compress: bool = True,
    ) -> None:
        """Send a message: str as text, bytes as binary; whole, or in pieces as they come.

        It waits while more than ``max_unsent_bytes`` wait for a peer that does not read. If
        cancelled before the message was accepted, nothing is sent; after, the message still goes
        out whole. The connection works on either way.

        An iterable, or async iterable, of pieces is sent as one message in as many fragments
        (RFC 6455, 5.4), each when it comes; other messages wait meanwhile, pings do not. An async
        iterator is closed in the end, whatever happens. If the iterable raises, or the call is
        cancelled, when a part is on its way, the connection is closed with code 1011.

        :param message: A str, bytes or another buffer, or an iterable of either kind. For a file,
            use an async generator that reads chunks of it: iterating over a file object blocks.
        :param text: Whether it is a text; by default, str is. Bytes that are sent as text must be
            UTF-8.
        :param compress: Whether it is compressed if that was agreed on, and it is not too short. To
            compress what is compressed already, an image for one, takes time and gains nothing.
        :raises ConnectionClosed: The connection is closed, or is being closed.
        :raises TypeError: The message is neither str nor bytes-like nor an iterable, or one of str
            and bytes, or it is a file object. (0.12 raised a ValueError; this is one, too.)
        :raises ValueError: Bytes that are to be text are not UTF-8.
        """
        # A small message takes a microsecond: each call and each check here tells.
        if type(message) is bytes and not text:
            is_text, payload = False, message
        elif type(message) is str and text is None:
            is_text, payload = True, message.encode()
        else:
            whole = encoded(message, text)
            if whole is None:
                await send_fragments(self, message, text, compress=compress)
                return
            is_text, payload = whole
        send_queue, protocol, budget = self._send_queue, self._protocol, self._budget
        size = len(payload)
        is_compressed = compress and size >= protocol.threshold
        cost = 1 + size // (COMPRESSED_AT_ONCE if is_compressed else _PER_UNIT)
        if budget.remaining > 0:
            budget.remaining -= cost
            await checkpoint_if_cancelled()
        else:
            await budget.checkpoint(cost)
        if is_compressed or size >= LONG or self._sender.is_taken or send_queue.is_full:
            await self._send_in_turn(is_text, payload, is_compressed)
            return
        # As in `is_open`, whose call would tell.
        if send_queue.broken is not None or protocol.sent is not None or protocol.error is not None:
            await self._check_open()
        frame = protocol.message(is_text, payload, compress=False)
        if not send_queue.append_message(frame, self._receiver.messages):
            await self._wait_accepted(size)

    async def _send_in_turn(self, is_text: bool, payload: bytes, is_compressed: bool) -> None:
        """Send a message that takes time, or has to wait."""
        size, protocol = len(payload), self._protocol
        async with self._sender:
            await self._send_queue.wait_room()
            await self._check_open()
            if is_compressed and size >= LONG_TO_COMPRESS:
                deflated = await run_in_thread(protocol.deflate, payload)
                await self._check_open()
                frame = [protocol.deflated_message(is_text, deflated, size)]
            elif is_compressed or size < LONG:
                frame = [protocol.message(is_text, payload, is_compressed)]
            else:
                frame = protocol.large_message(is_text, payload)
            self._send_queue.append(*frame)
        await self._wait_accepted(size)

    async def _wait_accepted(self, size: int) -> None:
        """Wait until the next message need not wait. Raise if this one, of that size, is lost."""
        send_queue = self._send_queue
        await send_queue.wait_room()
        if send_queue.broken is not None or send_queue.has_dropped:
            self._protocol.discount_message(size)
            await self._check_open()

    @overload
    async def get_message(self, decode: Literal[True]) -> str: ...

    @overload
    async def get_message(self, decode: Literal[False]) -> bytes: ...

    @overload
    async def get_message(self, decode: bool | None = None) -> str | bytes: ...

    @trio.lowlevel.enable_ki_protection
    async def get_message(self, decode: bool | None = None) -> str | bytes:
        """The next message that the peer sent: str if it is text, bytes if it is binary.

        Messages that came before the end of the connection are still given out, unless it was
        closed from here. Then a call that waits already raises when the closing handshake is over,
        at the latest. If cancelled, no message is lost.

        :param decode: True for a str, also of a binary message; False for bytes, also of a text,
            which saves the time of decoding; None for whichever the peer sent.
        :raises ConnectionClosed: There is no further message.
        :raises UnicodeDecodeError: A binary message is to be a str, and is not UTF-8. It stays the
            next message.
        """
        if decode is None and self._receiver.can_take():
            await checkpoint_if_cancelled()
            return self._receiver.messages.popleft()  # type: ignore[return-value] # there are pieces only while a stream has the turn
        return await self._receiver.get(decode)

    @overload
    def receive_stream(
        self, *, max_size: float | None = None, decode: Literal[True]
    ) -> MessageStream[str]: ...

    @overload
    def receive_stream(
        self, *, max_size: float | None = None, decode: Literal[False]
    ) -> MessageStream[bytes]: ...

    @overload
    def receive_stream(
        self, *, max_size: float | None = None, decode: bool | None = None
    ) -> MessageStream[str | bytes]: ...

    def receive_stream(
        self, *, max_size: float | None = None, decode: bool | None = None
    ) -> MessageStream[Any]:
        """The next message, in pieces as they arrive, for an ``async with`` block.

        ::

            async with ws.receive_stream() as pieces:
                async for piece in pieces:
                    ...

        The block begins with the message. What is left of it at the end of the block is thrown
        away as it comes, and the next message is that behind it. No other task gets a message
        meanwhile. If cancelled before the block has begun, no message is lost.

        :param max_size: Bytes of payload that the message may have; by default,
            ``max_message_size``. An application that does not receive at all for 2 seconds finds
            a message over ``max_message_size`` refused.
        :param decode: True for chunks of str, also of a binary message; False for chunks of bytes,
            also of a text; None for whichever the peer sent.
        :returns: An async context manager, and async iterator of str or bytes.
        :raises ConnectionClosed: At the beginning of the block: there is no further message. In it:
            the connection ended in the middle of the message.
        :raises ValueError: The size is less than 0.
        """
        if max_size is not None:
            check_number("max_size", max_size)
        return MessageStream(self._receiver, max_size, decode)

    # -- as a channel

    async def __anext__(self) -> str | bytes:
        """The next message; the iteration ends when the connection was closed in form.

        :raises ConnectionClosed: It ended in another way than by code 1000, 1001 or none.
        """
        try:
            return await self.get_message()
        except ConnectionClosed as exc:
            if not is_normal(exc):
                raise
        raise StopAsyncIteration

    async def send(self, value: Message) -> None:
        """Send a message, as :class:`trio.abc.SendChannel` has it.

        :param value: As in :meth:`send_message`.
        :raises trio.ClosedResourceError: The connection was closed from here.
        :raises trio.BrokenResourceError: It was closed in another way.
        """
        try:
            await self.send_message(value)
        except ConnectionClosed as exc:
            if self._is_closed_here:
                raise trio.ClosedResourceError(str(exc)) from exc
            raise trio.BrokenResourceError(str(exc)) from exc

    async def receive(self) -> str | bytes:
        """The next message, as :class:`trio.abc.ReceiveChannel` has it.

        :raises trio.ClosedResourceError: The connection was closed from here.
        :raises trio.EndOfChannel: The peer closed it with code 1000, 1001 or none.
        :raises trio.BrokenResourceError: It ended in another way.
        """
        try:
            return await self.get_message()
        except ConnectionClosed as exc:
            if self._is_closed_here:
                raise trio.ClosedResourceError(str(exc)) from exc
            if is_normal(exc):
                raise trio.EndOfChannel from exc
            raise trio.BrokenResourceError(str(exc)) from exc

    # -- control frames

    @trio.lowlevel.enable_ki_protection
    async def ping(self, payload: bytes | None = None) -> float:
        """Send a Ping and wait for its Pong, or for the Pong of a later Ping (RFC 6455, 5.5.2).

        The Pong comes behind the messages that the peer sent before it, so somebody must read
        those. If cancelled, the payload is forgotten, and may be used again.

        :param payload: Up to 125 bytes; by default, random ones.
        :returns: The round-trip time in seconds.
        :raises ConnectionClosed: The connection is closed, or was closed before the Pong came.
        :raises ValueError: A Ping with this payload is under way, or it is too long.
        """
        payload = os.urandom(4) if payload is None else _control_payload(payload)
        self._pings.check_unused(payload)
        await self._wait_turn()
        while self._pings.is_full:
            await self._pings.wait_changed()
            await self._check_open()
        self._pings.check_unused(payload)
        ping = self._send_ping(payload)
        try:
            await ping.is_over.wait()
        finally:
            self._pings.forget(payload, ping)
        if ping.round_trip is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._protocol.raise_closed()
        return ping.round_trip

    def _send_ping(self, payload: bytes) -> PendingPing:
        ping = self._pings.add(payload)
        self._send_queue.append(self._protocol.ping(payload))
        self._receiver.tend()
        return ping

    @trio.lowlevel.enable_ki_protection
    async def pong(self, payload: bytes | None = None) -> None:
        """Send a Pong that nobody asked for, as a sign of life (RFC 6455, 5.5.3).

        If cancelled, nothing is sent.

        :param payload: Up to 125 bytes; by default, none.
        :raises ConnectionClosed: The connection is closed, or is being closed.
        :raises ValueError: The payload is too long.
        """
        payload = b"" if payload is None else _control_payload(payload)
        await self._wait_turn()
        self._send_queue.append(self._protocol.pong(payload))

    # -- the end

    @trio.lowlevel.enable_ki_protection
    async def aclose(self, code: int | None = 1000, reason: str | None = None) -> None:
        """Close the connection: send a Close frame, wait for the peer's, and close the stream.

        Messages that were not read are thrown away. If the connection is closed already, or is
        being closed, it waits for the end of that, whichever it is. If cancelled, the Close frame
        is written, as far as the peer lets us, and the stream is closed at once.

        :param code: The close code: 1000 to 1003, 1007 to 1014, or 3000 to 4999. Deprecated, and
            as in 0.12: 1005, 1006 and 1015 send 1000, and None sends a Close frame without a code.
        :param reason: A text of up to 123 bytes of UTF-8; a longer one is cut.
        :raises DisconnectionTimeout: The peer did not answer within ``disconnect_timeout``. The
            stream is closed.
        :raises ValueError: The code must not be sent.
        """
        code, reason = sendable_close(code, check_reason(reason))
        self._is_closed_here = True
        if not self._is_started:
            await self._transport.close_now()
            self._gone.set()
            return
        self._begin_to_close(code, reason)
        timeout = self._options.disconnect_timeout
        is_unanswered = False
        try:
            with trio.move_on_after(timeout):
                await self._gone.wait()
        finally:
            if not self._gone.is_set:
                is_unanswered = not self._protocol.ended
                await self._abort()
        if is_unanswered:
            raise DisconnectionTimeout(f"the closing handshake took longer than {timeout} s")

    def _begin_to_close(self, code: int, reason: str | None) -> None:
        if self._can_close:
            self._is_closed_here = True
            try:
                self._send_queue.append(self._protocol.close(code, reason))
                self._receiver.discard()
                self._receiver.tend()
            except Exception as exc:
                self._on_failure(exc)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by whomever, and its stream, too.

        If cancelled, nothing has happened.
        """
        if not (self._is_started or self._gone.is_set):
            self._protocol.raise_closed()
        await self._gone.wait()

    @property
    def _can_close(self) -> bool:
        return self._protocol.is_open and self._send_queue.broken is None

    async def _abort(self) -> None:
        cancel(self._scope, "aclose() was cancelled, or disconnect_timeout has passed")
        with trio.CancelScope(shield=True):  # it takes no longer than a goodbye
            await self._gone.wait()

    # -- the connection's task

    @classmethod
    def _start(
        cls,
        nursery: trio.Nursery,
        transport: Transport,
        opened: HandshakeResult,
        options: Options,
        response: bytes = b"",
    ) -> WebSocketConnection:
        """A connection that works, after the opening handshake.

        :param nursery: Where the connection's tasks run.
        :param transport: The stream.
        :param opened: The outcome of the opening handshake.
        :param options: The options.
        :param response: What is to be written first.
        """
        self = cls.__new__(cls)
        self._set_up(transport, opened, options)
        nursery.start_soon(self._run, name=_TASK)
        try:
            if options.ping_interval is not None:
                self._keep_alive = KeepAlive(self, options.ping_interval, options.ping_timeout)
                nursery.start_soon(self._keep_alive.run)
            self._is_started = True
            self._send_queue.start(nursery, response)
            self._protocol.receive_data(opened.trailing)
            self._receiver.start()
        except BaseException:  # a MemoryError, say: nobody else would end the task
            cancel(self._scope, "the connection could not be started")
            raise
        return self

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def _run(self) -> None:
        with self._scope:
            try:
                try:
                    await self._receiver.run()
                except Exception as exc:
                    self._on_failure(exc)
                self._send_queue.flush_now()
                if self._send_queue.unsent[1]:
                    with trio.move_on_after(self._options.disconnect_timeout):
                        await self._send_queue.flush()
                await self._transport.half_close_and_drain(
                    peer_may_send=self._protocol.rcvd is None
                )
            except trio.Cancelled:
                await self._say_goodbye()
                raise
            except Exception as exc:
                self._on_failure(exc)
            finally:
                await self._end()

    async def _end(self) -> None:
        """Close the stream, whatever happens, and let everyone know that it is closed."""
        with contextlib.suppress(Exception):
            self._send_queue.stop()
            if not self._protocol.ended:
                cause = self._send_queue.broken
                self._protocol.lose(cause or ConnectionAbortedError("closed from here"))
                self._on_ended()
            self._receiver.stop()
            if self._keep_alive is not None:
                self._keep_alive.stop()
                self._keep_alive = None
        await self._transport.close_now()  # never raises
        self._gone.set()
        # A filter of the application may raise.
        with contextlib.suppress(Exception):
            if logger.isEnabledFor(logging.DEBUG):
                peer, reason = self._transport.peer, self._protocol.reason
                logger.debug("%s with %s is closed: %r", self, peer, reason)

    def _on_failure(self, exc: Exception) -> None:
        """End the connection because of an error of this side, which ends nothing else.

        There may be no memory: what fails here is left out.
        """
        with contextlib.suppress(Exception):
            logger.error("%s failed: %s", self, describe(exc), exc_info=exc)
        exc.__traceback__ = None  # its frames would keep the connection; the log record has it
        self._protocol.fail(exc)
        with contextlib.suppress(Exception):
            # The connection's task may wait for data from the peer.
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + LINGER)
            self._on_ended()

    def _give_up(self, code: int, text: str, cause: Exception) -> None:
        """Close without waiting for a peer that is not there."""
        self._protocol.give_up(code, text, cause)
        self._on_ended()
        cancel(self._scope, text)

    def _close_slow(self) -> None:
        """Start the closing handshake with a peer that does not read fast enough.

        A frame that is partly written is finished, and the Close follows it. Queued messages are
        dropped. `disconnect_timeout` bounds all of it, and no caller waits.
        """
        self._send_queue.drop_queued()
        self._begin_to_close(_TOO_SLOW, "too slow")
        deadline = trio.current_time() + self._options.disconnect_timeout
        self._scope.deadline = min(self._scope.deadline, deadline)

    def _end_block(self) -> None:
        """Note that the connection is closed because its block, or its handler, has ended."""
        if self._can_close:
            self._protocol.block_has_ended = True

    def _outlive_cancellation(self) -> None:
        """Work until `close_after_block`, which is sure to come, also in a scope that is cancelled.

        So it is the block or handler that decides when the connection ends, and a cancelled one can
        still send a last message from a shielded scope.
        """
        self._scope.shield = True

    async def _say_goodbye(self) -> None:
        if self._can_close:
            self._is_closed_here = True
            with contextlib.suppress(Exception):
                self._send_queue.append(self._protocol.close(1001, None))
        with trio.move_on_after(_GOODBYE) as scope:
            scope.shield = True
            await self._send_queue.flush()

    def _on_control(self, event: Ping | Pong) -> None:
        payload = bytes(event.payload)
        if isinstance(event, Ping):
            self._send_queue.append_pong(self._protocol.pong(payload))
        else:
            self._pings.answer(payload)

    def _on_ended(self) -> None:
        self._pings.end()
        self._receiver.wake()
        farewell = self._protocol.take_final_bytes()
        if farewell:
            self._send_queue.append(farewell)

    def _on_write_error(self) -> None:
        # What the peer sent before it left may say why, so it is read; but all is over soon.
        self._protocol.write_error = self._send_queue.broken
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + LINGER)
        try:
            self._receiver.tend()
        except Exception as exc:
            self._on_failure(exc)

    def _is_urgent(self) -> bool:
        return (
            bool(self._pings) or not self._protocol.is_open or self._send_queue.broken is not None
        )

    # -- helpers

    async def _check_open(self) -> None:
        """Raise if nothing can be sent. Otherwise it does not wait."""
        if self._send_queue.broken is not None:
            await self._gone.wait()  # what the peer said before it left is still being read
        if not self._protocol.is_open:
            # If what cancelled us has closed the connection first, that says more.
            await trio.lowlevel.checkpoint_if_cancelled()
            self._protocol.raise_closed()

    async def _wait_turn(self) -> None:
        """Wait until a control frame of the application may be sent."""
        await self._budget.checkpoint()
        await self._send_queue.wait_room()
        await self._check_open()


async def close_after_block(
    connection: WebSocketConnection, error: BaseException | None
) -> BaseException | None:
    """Close a connection whose block, or handler, is done.

    :param error: What the block raised.
    :returns: What is to be raised.
    """
    if isinstance(connection, WebSocketConnection):  # not what stands in for one
        connection._end_block()
    try:
        if error is None:
            await connection.aclose(1000)
        elif isinstance(error, Exception):
            is_lost = strip_closed(error) is None
            await connection.aclose(1000 if is_lost else 1011)
        else:
            with trio.CancelScope() as scope:
                cancel(scope, "the block or handler was cancelled")
                await connection.aclose(1001)
    except BaseException as exc:
        return exception_to_raise(error, exc)
    return error


def _control_payload(payload: Any) -> bytes:
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(f"payload must be bytes, not {payload!r:.100}")
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"payload must be at most 125 bytes, not {len(payload)}")
    return bytes(payload)


def check_reason(reason: str | None) -> str | None:
    """The part of the text that fits in a Close frame."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str or None, not {reason!r:.100}")
    return cut_reason(reason)
