"""`WebSocketConnection`: the API of one open connection.

The parts of its `Lifecycle` do the work: a `Sender`, a `Receiver` and `Pings`.
"""

from __future__ import annotations

import itertools
import os
import ssl
from typing import Any, AsyncIterable, Iterable, Iterator, Literal, Sequence, Union, overload

import trio
import wsproto
from trio.lowlevel import checkpoint_if_cancelled

from .._io.sockets import Address
from .._io.transport import Transport
from .._sansio.compat import Unpack
from .._sansio.costs import SEND_BYTES_PER_COST
from .._sansio.errors import CloseReason, ConnectionClosed, is_normal, sendable_close
from .._sansio.extensions import DeflateParameters
from .._sansio.frames import check_control_payload, check_reason
from .._sansio.handshake import ExtraHeaders, HandshakeResult
from .._sansio.options import OptionKeywords, Options, check_number, with_option_signature
from .._sansio.replaceable import ReplaceableProperty
from .fragments import Message, encoded, send_fragments
from .lifecycle import Lifecycle
from .message_stream import MessageStream
from .receiver import Receiver
from .sender import Sender
from .statistics import ConnectionStatistics

# In old versions of Trio, the base class has a `__dict__`.
_HAS_DICT = any("__dict__" in vars(base) for base in trio.abc.Channel.__mro__)


class WebSocketConnection(trio.abc.Channel[Union[str, bytes]]):
    """A WebSocket connection, on the client or the server side.

    The functions that open connections and :meth:`WebSocketRequest.accept` return instances of this
    class. Any number of tasks can send and receive at the same time. A connection is an async
    context manager, which closes the connection on exit; an async iterator over the received
    messages; and a :class:`trio.abc.Channel`.
    """

    # Slots save memory. Applications can still set attributes of their own.
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
        Applications should use the functions that open connections, because they also start the
        connection's task. Without that task, `aclose` closes the stream, and the other methods
        raise a RuntimeError.

        :param stream: The stream of the connection.
        :param ws_connection: A wsproto connection. Only its side, client or server, is used.
        :param host: Not used, because the opening handshake is already complete.
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

    # -- properties

    @property
    def closed(self) -> CloseReason | None:
        """The reason why the connection was closed, or None while messages can be sent.

        It is also None for a connection that an application has constructed directly.
        """
        return self._lifecycle.protocol.closing.reason

    @property
    def is_client(self) -> bool:
        """True on the client side."""
        return self._lifecycle.handshake.side is wsproto.ConnectionType.CLIENT

    @property
    def is_server(self) -> bool:
        """True on the server side."""
        return not self.is_client

    @property
    def local(self) -> Address:
        """Our address: an :class:`Endpoint`, a Unix socket's path, or a ``repr()``."""
        return self._lifecycle.transport.local

    @property
    def remote(self) -> Address:
        """The peer's address: an :class:`Endpoint`, a Unix socket's path, or a ``repr()``."""
        return self._lifecycle.transport.remote

    @property
    def path(self) -> str | None:
        """The request target of the opening handshake: the path and the query."""
        return self._lifecycle.handshake.path

    @ReplaceableProperty
    def url(self) -> str | None:
        """The URL of the server, after all redirects and without credentials; None on a server.

        A server does not know which URL its client used. With :func:`wrap_client_stream`, the URL
        consists of `host` and `resource`; it is ``wss:`` if the stream is the library's TLS or a
        :class:`trio.SSLStream`. For a connection that an application has constructed directly, it
        is None.
        """
        handshake = self._lifecycle.handshake
        return None if handshake.origin is None else f"{handshake.origin}{handshake.path}"

    @ReplaceableProperty
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS object, which provides the peer's certificate and the cipher; None without TLS.

        It remains available after closing. With TLS inside TLS, it belongs to the inner layer,
        which encrypts the messages. Don't call its read, write or unwrap methods.
        """
        return self._lifecycle.transport.ssl_object

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None (RFC 6455, 1.9)."""
        return self._lifecycle.handshake.subprotocol

    @property
    def compression(self) -> DeflateParameters | None:
        """The negotiated compression parameters (RFC 7692), or None without compression."""
        extension = self._lifecycle.handshake.extension
        return None if extension is None else extension.codec.agreed

    @property
    def handshake_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that the peer sent in the opening handshake, with lower-case names.

        On a client, the headers that belong to the handshake itself come last.
        """
        return self._lifecycle.handshake.headers

    @property
    def latency(self) -> float | None:
        """The round-trip time of the latest answered Ping, in seconds, or None."""
        return self._lifecycle.pings.latency

    def statistics(self) -> ConnectionStatistics:
        """Return statistics of the connection's traffic so far."""
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
        """Send a message: str as text, bytes as binary. Pass it whole, or as an iterable of chunks.

        The call waits while more than ``max_unsent_bytes`` are queued for a peer that does not
        read. If cancelled before the message was queued, nothing is sent. If cancelled later, the
        whole message is still sent. In both cases, the connection stays usable.

        An iterable or async iterable of chunks is sent as one message, one fragment per chunk (RFC
        6455, 5.4). Other messages wait until the iterable is exhausted; Pings don't. An async
        iterator is always closed afterwards. If the iterable raises an exception or the call is
        cancelled after the first fragment was queued, the connection is closed with code 1011.

        :param message: A str, bytes or another buffer, or an iterable of either kind. For a file,
            use an async generator that reads chunks of it: iterating over a file object blocks.
        :param text: True to send a text message. By default, str is sent as text. Bytes that are
            sent as text must be UTF-8.
        :param compress: True to compress the message, provided that compression was negotiated and
            the message is long enough to benefit. Pass False for data that is already compressed,
            such as images.
        :raises ConnectionClosed: The connection is closed, or is being closed.
        :raises TypeError: The message is a file object, or is not a str, a bytes-like object or an
            iterable. Also raised if the chunks of an iterable are not all of the same type. The
            exception is also a ValueError, as in 0.12.
        :raises ValueError: Bytes to be sent as text are not valid UTF-8.
        """
        # Sending a small message takes about a microsecond, so avoid function calls here.
        if type(message) is bytes and not text:
            is_text, payload = False, message
        elif type(message) is str and text is None:
            is_text, payload = True, message.encode()
        else:
            whole = encoded(message, text)
            if whole is None:
                fail = self._lifecycle.fail_at_once
                await send_fragments(self._sender, message, text, compress, fail)
                return
            is_text, payload = whole
        sender = self._sender
        await sender.budget.checkpoint(1 + len(payload) // SEND_BYTES_PER_COST)
        waiting = sender.send_now(is_text, payload, compress)
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
        """Return the peer's next message: str if it is text, bytes if it is binary.

        Messages that arrived before the connection ended are still returned, unless this side
        closed it. In that case, a waiting call raises :exc:`ConnectionClosed` by the end of the
        closing handshake. If cancelled, no message is lost.

        :param decode: True to return every message as str; False to return every message as bytes,
            which avoids decoding them; None for the type that the peer sent.
        :raises ConnectionClosed: There is no further message.
        :raises UnicodeDecodeError: With ``decode=True``, the message is binary and not valid UTF-8.
            It remains the next message.
        """
        messages = self._receiver.try_begin_fast_take() if decode is None else None
        if messages is not None:
            await checkpoint_if_cancelled()
            return messages.popleft()  # type: ignore[return-value] # chunks need the lock
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
        """Receive the next message in chunks as they arrive, in an ``async with`` block.

        ::

            async with ws.receive_stream() as chunks:
                async for chunk in chunks:
                    ...

        The block begins when the message begins. If the block ends early, the rest of the message
        is discarded. No other task can receive a message during the block. If cancelled before the
        block has begun, no message is lost.

        :param max_size: The maximum size of the payload in bytes; by default, ``max_message_size``.
            If no task receives for 2 seconds, a message over ``max_message_size`` is refused
            regardless of this limit.
        :param decode: True for chunks of str; False for chunks of bytes; None for the type that the
            peer sent.
        :returns: An async context manager that is also an async iterator of str or bytes.
        :raises ConnectionClosed: When the block begins, there is no further message; or inside the
            block, the connection ended in the middle of the message.
        :raises ValueError: ``max_size`` is less than 0.
        """
        if max_size is not None:
            check_number("max_size", max_size)
        return MessageStream(self._receiver, max_size, decode)

    # -- as a channel

    async def __anext__(self) -> str | bytes:
        """Return the next message.

        The iteration ends when the connection closes normally: with code 1000, 1001 or no code.

        :raises ConnectionClosed: The connection ended in any other way.
        """
        try:
            return await self.get_message()
        except ConnectionClosed as exc:
            if not is_normal(exc):
                raise
        raise StopAsyncIteration

    async def send(self, value: Message) -> None:
        """Send a message; see :class:`trio.abc.SendChannel`.

        :param value: As in :meth:`send_message`.
        :raises trio.ClosedResourceError: This side closed the connection.
        :raises trio.BrokenResourceError: The connection ended in any other way.
        """
        try:
            await self.send_message(value)
        except ConnectionClosed as exc:
            if self._lifecycle.is_closed_here:
                raise trio.ClosedResourceError(str(exc)) from exc
            raise trio.BrokenResourceError(str(exc)) from exc

    async def receive(self) -> str | bytes:
        """Return the next message; see :class:`trio.abc.ReceiveChannel`.

        :raises trio.ClosedResourceError: This side closed the connection.
        :raises trio.EndOfChannel: The peer closed it with code 1000, 1001 or no code.
        :raises trio.BrokenResourceError: The connection ended in any other way.
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

        The Pong arrives after any messages that the peer sent before it, so some task must receive
        those messages. If cancelled, the payload can be used again.

        :param payload: Up to 125 bytes; by default, random bytes.
        :returns: The round-trip time in seconds.
        :raises ConnectionClosed: The connection is closed, or was closed before the Pong arrived.
        :raises ValueError: The payload is too long, or a Ping with the same payload is still
            unanswered.
        """
        payload = os.urandom(4) if payload is None else check_control_payload(payload)
        return await self._lifecycle.pings.ping(payload)

    @trio.lowlevel.enable_ki_protection
    async def pong(self, payload: bytes | None = None) -> None:
        """Send an unsolicited Pong as a heartbeat (RFC 6455, 5.5.3).

        If cancelled, nothing is sent.

        :param payload: Up to 125 bytes; by default, empty.
        :raises ConnectionClosed: The connection is closed, or is being closed.
        :raises ValueError: The payload is too long.
        """
        payload = b"" if payload is None else check_control_payload(payload)
        await self._sender.wait_control()
        self._sender.append_control(self._lifecycle.protocol.writer.pong(payload))

    # -- the end

    @trio.lowlevel.enable_ki_protection
    async def aclose(self, code: int | None = 1000, reason: str | None = None) -> None:
        """Close the connection: send a Close frame, wait for the peer's, and close the stream.

        Unread messages are discarded. If the connection is already closed or closing, the call only
        waits until it is closed. If cancelled, it closes the stream at once; the Close frame is
        still sent if the socket accepts it without blocking.

        :param code: The close code: 1000 to 1003, 1007 to 1014, or 3000 to 4999. For compatibility
            with 0.12, but deprecated: 1005, 1006 and 1015 are sent as 1000, and None sends a Close
            frame without a code.
        :param reason: The close reason. It is truncated to 123 bytes of UTF-8.
        :raises DisconnectionTimeout: The peer did not answer within ``disconnect_timeout``. The
            stream is closed.
        :raises ValueError: The code is not valid in a Close frame.
        """
        await self._lifecycle.close(*sendable_close(code, check_reason(reason)))

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and the stream is closed.

        If cancelled, nothing changes.
        """
        await self._lifecycle.wait_closed()


def lifecycle_of(self: WebSocketConnection) -> Lifecycle:
    """Return the parts of a connection, for other modules of this library.

    This is a function, not a method, so that it is not part of the public API.
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
    """Start a connection after its opening handshake, and return it.

    :param nursery: The nursery for the connection's tasks.
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
