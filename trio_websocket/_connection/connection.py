"""`WebSocketConnection`: the API of one open connection.

The work is done by the parts of its `Lifecycle`: a `Sender`, a `Receiver` and `Pings`.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, AsyncIterable, Iterable, Iterator, Literal, Sequence, Union, overload

import trio
import wsproto
from trio.lowlevel import checkpoint_if_cancelled

from .._io.sockets import Address
from .._io.transport import Transport
from .._sansio.compat import Unpack
from .._sansio.costs import SEND_BYTES_PER_COST
from .._sansio.errors import (
    CloseReason,
    ConnectionClosed,
    is_normal,
    sendable_close,
)
from .._sansio.extensions import DeflateParameters
from .._sansio.frames import check_reason
from .._sansio.handshake import ExtraHeaders, HandshakeResult
from .._sansio.options import OptionKeywords, Options, check_number, with_option_signature
from .fragments import Message, encoded, send_fragments
from .lifecycle import Lifecycle
from .message_stream import MessageStream
from .receiver import Receiver
from .sender import Sender
from .statistics import ConnectionStatistics

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
        "_lifecycle",
        "_receiver",
        "_sender",
    )

    _lifecycle: Lifecycle
    _sender: Sender
    _receiver: Receiver

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
        transport = Transport(stream, bounds.receive_buffer_size)
        number = next(self.CONNECTION_ID)
        _set_lifecycle(self, Lifecycle(transport, opened, bounds, number))

    def __str__(self) -> str:
        return self._lifecycle.name

    # -- facts

    @property
    def closed(self) -> CloseReason | None:
        """Why the connection was closed, or None while messages can be sent.

        It is None, too, for a connection that was only constructed.
        """
        return self._lifecycle.protocol.closing.reason

    @property
    def is_client(self) -> bool:
        """Whether this is the client's side."""
        return self._lifecycle.handshake.side is wsproto.ConnectionType.CLIENT

    @property
    def is_server(self) -> bool:
        """Whether this is the server's side."""
        return not self.is_client

    @property
    def local(self) -> Address:
        """Our address: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._lifecycle.transport.local

    @property
    def remote(self) -> Address:
        """The peer's address: an :class:`Endpoint`, the path of a Unix socket, or a ``repr()``."""
        return self._lifecycle.transport.remote

    @property
    def path(self) -> str | None:
        """The request target of the opening handshake: the path and the query."""
        return self._lifecycle.handshake.path

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that both sides speak, or None (RFC 6455, 1.9)."""
        return self._lifecycle.handshake.subprotocol

    @property
    def compression(self) -> DeflateParameters | None:
        """What both sides agreed on about compression (RFC 7692), or None: there is none."""
        extension = self._lifecycle.handshake.extension
        return None if extension is None else extension.codec.agreed

    @property
    def handshake_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that the peer sent in the opening handshake, with names in lower case.

        On a client, those that make the handshake come last.
        """
        return self._lifecycle.handshake.headers

    @property
    def latency(self) -> float | None:
        """The round-trip time of the latest Ping that was answered, in seconds, or None."""
        return self._lifecycle.pings.latency

    def statistics(self) -> ConnectionStatistics:
        """The traffic of the connection at this moment."""
        return self._lifecycle.statistics()

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
        # A small message takes a microsecond, so this avoids calls.
        if type(message) is bytes and not text:
            is_text, payload = False, message
        elif type(message) is str and text is None:
            is_text, payload = True, message.encode()
        else:
            whole = encoded(message, text)
            if whole is None:
                break_off = self._lifecycle.break_off
                await send_fragments(self._sender, message, text, compress, break_off)
                return
            is_text, payload = whole
        sender = self._sender
        await sender.budget.checkpoint(1 + len(payload) // SEND_BYTES_PER_COST)
        waiting = sender.send_now(is_text, payload, compress, self._receiver.queue.messages)
        if waiting is not None:
            await waiting

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
        messages = self._receiver.try_begin_fast_take() if decode is None else None
        if messages is not None:
            await checkpoint_if_cancelled()
            return messages.popleft()  # type: ignore[return-value] # no chunk: those need the lock
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
            if self._lifecycle.is_closed_here:
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
            if self._lifecycle.is_closed_here:
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
        return await self._lifecycle.ping(payload)

    @trio.lowlevel.enable_ki_protection
    async def pong(self, payload: bytes | None = None) -> None:
        """Send a Pong that nobody asked for, as a sign of life (RFC 6455, 5.5.3).

        If cancelled, nothing is sent.

        :param payload: Up to 125 bytes; by default, none.
        :raises ConnectionClosed: The connection is closed, or is being closed.
        :raises ValueError: The payload is too long.
        """
        payload = b"" if payload is None else _control_payload(payload)
        await self._sender.wait_control()
        self._sender.append_control(self._lifecycle.protocol.writer.pong(payload))

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
        await self._lifecycle.close(*sendable_close(code, check_reason(reason)))

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, by whomever, and its stream, too.

        If cancelled, nothing has happened.
        """
        await self._lifecycle.wait_closed()


def lifecycle_of(self: WebSocketConnection) -> Lifecycle:
    """Return the parts of a connection, for the modules of this library.

    It is a method in all but name: outside of the class, applications don't see it.
    """
    return self._lifecycle


def _set_lifecycle(self: WebSocketConnection, lifecycle: Lifecycle) -> None:
    self._lifecycle = lifecycle
    self._sender = lifecycle.sender
    self._receiver = lifecycle.receiver


def start_connection(
    nursery: trio.Nursery,
    transport: Transport,
    handshake: HandshakeResult,
    options: Options,
    response: bytes = b"",
) -> WebSocketConnection:
    """Return an open connection, after the opening handshake.

    :param nursery: Where the connection's tasks run.
    :param transport: The stream.
    :param handshake: The outcome of the opening handshake.
    :param options: The options.
    :param response: Bytes to write before the first frame.
    """
    connection = WebSocketConnection.__new__(WebSocketConnection)
    number = next(WebSocketConnection.CONNECTION_ID)
    _set_lifecycle(connection, Lifecycle(transport, handshake, options, number))
    lifecycle_of(connection).start(nursery, response)
    return connection


def _control_payload(payload: Any) -> bytes:
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(f"payload must be bytes, not {payload!r:.100}")
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"payload must be at most 125 bytes, not {len(payload)}")
    return bytes(payload)
