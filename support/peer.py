"""Streams joined in memory, over TCP or over TLS, and raw peers that speak bytes and frames."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import socket
import ssl
import struct
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Generic,
    NamedTuple,
    Tuple,
    TypeVar,
)

import pytest
import trio
import trio.testing
import trustme

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._io.tls import TlsStream

if TYPE_CHECKING:
    from trio.abc import Stream

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

REQUEST = (
    b"GET / HTTP/1.1\r\n"
    b"Host: example.org\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)

T = TypeVar("T")

StreamPair = Tuple["Stream", "Stream"]

# -- streams

# Socket buffers of this size, and none that grow: a megabyte never fits in them.
_SOCKET_BUFFER = 2**16

_sockets: list[socket.socket] = []


async def memory_pair() -> StreamPair:
    """Streams that take everything at once."""
    return trio.testing.memory_stream_pair()


async def lockstep_pair() -> StreamPair:
    """Streams where a write waits until the peer has read all of it."""
    return trio.testing.lockstep_stream_pair()


async def tcp_pair() -> StreamPair:
    """TCP over loopback: the end that connected, the end that accepted."""
    with socket.socket() as listening:
        _shrink_buffers(listening)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        connecting = socket.socket()
        _shrink_buffers(connecting)
        connecting.connect(listening.getsockname())
        accepted, _ = listening.accept()
    return _socket_stream(connecting), _socket_stream(accepted)


async def socket_pair() -> StreamPair:
    """Sockets whose bytes arrive as they are sent, so that they go with autojump_clock."""
    ours, theirs = socket.socketpair()
    _shrink_buffers(ours)
    _shrink_buffers(theirs)
    return _socket_stream(ours), _socket_stream(theirs)


async def tls_pair() -> StreamPair:
    """TLS over TCP over loopback."""
    return await over_tls(*await tcp_pair())


async def own_tls_pair() -> StreamPair:
    """TLS over TCP over loopback, as the opening functions and the server have it."""
    return await over_tls(*await tcp_pair(), is_own=True)


async def tls_memory_pair(*, https_compatible: bool = True) -> StreamPair:
    """TLS over memory streams."""
    return await over_tls(*await memory_pair(), https_compatible=https_compatible)


PAIRS: dict[str, Callable[[], Awaitable[StreamPair]]] = {
    "memory": memory_pair,
    "lockstep": lockstep_pair,
    "socketpair": socket_pair,
    "tcp": tcp_pair,
    "tls": tls_pair,
    "own-tls": own_tls_pair,
    "tls-memory": tls_memory_pair,
}
# Lists for `@pytest.mark.streams`.
KINDS = ["memory", "socketpair", "tcp", "tls"]  # one of each
# Those where bytes arrive as they are sent, so that they go with a clock that jumps.
PROMPT = ["memory", "lockstep", "socketpair", "tls-memory"]
# Those where a peer that does not read stops a sender.
PUSHING_BACK = ["lockstep", "socketpair", "tcp", "tls"]


def in_memory(kind: str) -> bool:
    """True if this kind of streams needs no sockets."""
    return kind in {"memory", "lockstep", "tls-memory"}


class _OwnTls(TlsStream):
    """Gives no more than was asked for."""

    _rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = self._rest or await super().receive_some()
        data, self._rest = data[:max_bytes], data[len(data[:max_bytes]) :]
        return data


async def over_tls(
    client: Stream, server: Stream, *, https_compatible: bool = True, is_own: bool = False
) -> StreamPair:
    """TLS for ``example.org`` over a pair of streams.

    :param is_own: Whether an end on a socket is the library's TLS, and not Trio's.
    """
    contexts = tls_contexts()
    ends: list[_OwnTls | trio.SSLStream[Stream]] = []
    for stream, context, is_server in zip((client, server), contexts, (False, True)):
        keywords: Any = {
            "server_side": is_server,
            "server_hostname": None if is_server else "example.org",
        }
        if is_own and isinstance(stream, trio.SocketStream):
            ends.append(_OwnTls(stream, context, **keywords))
        else:
            keywords["https_compatible"] = https_compatible
            ends.append(trio.SSLStream(stream, context, **keywords))
    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(end.do_handshake)
    ours, theirs = ends
    return ours, theirs


@functools.lru_cache(maxsize=None)
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A context for clients, and one for servers at localhost, 127.0.0.1, ::1 and example.org."""
    authority = trustme.CA()
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    names = ("localhost", "127.0.0.1", "::1", "example.org")
    authority.issue_cert(*names).configure_cert(server)
    return client, server


def _shrink_buffers(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)


def _socket_stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    _sockets.append(sock)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def close_sockets() -> None:
    """Close what a test has left open."""
    while _sockets:
        _sockets.pop().close()


def reset(stream: Stream) -> None:
    """Close a TCP stream so that the peer gets a reset."""
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


class WrappedStream(trio.abc.Stream):
    """A stream that can't end one side; tests override what is to go wrong."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def receive_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = await stream.receive_some(size - len(data))
        assert received
        data += received
    return data


# -- calls


class Call(Generic[T]):
    """A call in a task of its own, which may be cancelled, and whose outcome can be asked for."""

    def __init__(
        self, nursery: trio.Nursery, function: Callable[..., Awaitable[T]], *args: Any
    ) -> None:
        self.scope = trio.CancelScope()
        self._over = trio.Event()
        self._value: list[T] = []
        self._error: Exception | None = None
        nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        try:
            with self.scope:
                self._value.append(await function(*args))
        except Exception as exc:
            self._error = exc
        finally:
            self._over.set()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def cancel(self) -> None:
        """Cancel it, and wait until it is over."""
        self.scope.cancel()
        await self._over.wait()
        assert self.scope.cancelled_caught, f"it was over: {self._value or self._error!r}"

    async def result(self) -> T:
        """Wait for it; what it returned, or raise what it raised."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        (value,) = self._value
        return value


@contextlib.asynccontextmanager
async def turns_of_another() -> AsyncIterator[Callable[[], int]]:
    """How often another task, which is always ready, has run since the block began."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        yield lambda: turns
        nursery.cancel_scope.cancel()


def system_tasks() -> int:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return sum(len(nursery.child_tasks) for nursery in root.child_nurseries)


async def closed_error(call: Awaitable[object]) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as excinfo:
        await call
    return excinfo.value


async def pieces_of(connection: WebSocketConnection, **options: Any) -> list[str | bytes]:
    """The next message, in pieces."""
    async with connection.receive_stream(**options) as pieces:
        return [piece async for piece in pieces]


class Source:
    """An async iterator of pieces that notes how many were asked for, and whether it was closed.

    An exception among the pieces is raised; ``None`` waits for ever.
    """

    def __init__(self, *pieces: Any) -> None:
        self._pieces = iter(pieces)
        self.asked = 0
        self.is_closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        try:
            piece = next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None
        if piece is None:
            await trio.sleep_forever()
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        assert not self.is_closed
        self.is_closed = True


# -- frames


class Frame(NamedTuple):
    """A frame (RFC 6455, 5.2) without its mask."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0

    def encode(self) -> bytes:
        """Its bytes as a server sends it."""
        return frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = False,
    key: bytes | None = None,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """The bytes of a frame (RFC 6455, 5.2), right or wrong.

    :param mask: Whether it is masked, with a random key if none is given.
    :param key: What it is masked with.
    :param length: The length that it announces, if not that of the payload.
    :param width: How many bytes the length has, if not the fewest.
    """
    if mask and key is None:
        key = os.urandom(4)
    length = len(payload) if length is None else length
    if width is None:
        width = 0 if length < 126 else 2 if length < 2**16 else 8
    short = {0: length, 2: 126, 8: 127}[width]
    head = bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
    head += length.to_bytes(width, "big") if width else b""
    return head + payload if key is None else head + key + _xor(payload, key)


def close_payload(code: int, reason: str = "") -> bytes:
    """What is in a Close frame."""
    return struct.pack("!H", code) + reason.encode()


def parse_frame(data: bytes) -> tuple[Frame, bool, int] | None:
    """The first frame, whether it was masked, and its size; None if it is not whole."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length > 125:
        size = 2 if length == 126 else 8
        if len(data) < 2 + size:
            return None
        length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    is_masked = bool(data[1] & 0x80)
    end = start + 4 * is_masked + length
    if len(data) < end:
        return None
    payload = data[end - length : end]
    if is_masked:
        payload = _xor(payload, data[start : start + 4])
    return Frame(data[0] & 0xF, payload, bool(data[0] & 0x80), data[0] >> 4 & 7), is_masked, end


def _xor(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


class RawPeer:
    """The far end of a connection of ours. It sends what it is told, and takes frames apart."""

    def __init__(self, stream: Stream, *, is_client: bool, received: bytes = b"") -> None:
        self.stream = stream
        self.is_client = is_client
        self._received = received

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        """The bytes of a frame, masked if this is the client."""
        return frame(opcode, payload, fin=fin, rsv=rsv, mask=self.is_client)

    def fragments(self, opcode: int, *payloads: bytes, rsv: int = 0) -> bytes:
        """The bytes of a message in as many frames, the first with these reserved bits."""
        return b"".join(
            self.frame(
                CONTINUATION if number else opcode,
                payload,
                fin=number == len(payloads) - 1,
                rsv=0 if number else rsv,
            )
            for number, payload in enumerate(payloads)
        )

    def texts(self, *messages: str) -> bytes:
        """The bytes of text messages of one frame each."""
        return b"".join(self.frame(TEXT, message.encode()) for message in messages)

    async def send(self, *data: bytes) -> None:
        """Send bytes in one write."""
        await self.stream.send_all(b"".join(data))

    async def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.send(self.frame(opcode, payload, fin=fin))

    async def send_close(self, code: int, reason: str = "") -> None:
        await self.send_frame(CLOSE, close_payload(code, reason))

    async def receive(self) -> Frame | None:
        """The next frame, or None at the end of the stream, which must not tear a frame."""
        while True:
            parsed = parse_frame(self._received)
            if parsed is not None:
                found, is_masked, end = parsed
                assert is_masked != self.is_client, "a client masks its frames, a server doesn't"
                self._received = self._received[end:]
                return found
            data = bytes(await self.stream.receive_some())
            if not data:
                assert not self._received, f"a torn frame: {self._received[:20]!r}"
                return None
            self._received += data

    async def receive_frame(self) -> Frame:
        """The next frame; there must be one."""
        found = await self.receive()
        assert found is not None, "the stream has ended"
        return found

    async def expect(self, opcode: int) -> bytes:
        """The payload of the next frame, which must be of that kind."""
        found = await self.receive_frame()
        assert found.opcode == opcode
        return found.payload

    async def receive_all(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        frames: list[Frame] = []
        while True:
            received = await self.receive()
            if received is None:
                return frames
            frames.append(received)

    async def aclose(self) -> None:
        await self.stream.aclose()


# -- connections


async def read_head(stream: Stream) -> tuple[bytes, bytes]:
    """The head of an HTTP request or response, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = await stream.receive_some()
        assert received, f"the end of the stream in a head: {data!r}"
        data += received
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def accepting(request: bytes, *headers: bytes) -> bytes:
    """The response that accepts a request, with more header lines."""
    key = request.lower().partition(b"sec-websocket-key:")[2].partition(b"\r\n")[0]
    at = request.lower().index(key)
    key = request[at : at + len(key)].strip()
    token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + token,
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def open_pair(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
) -> tuple[WebSocketConnection, WebSocketConnection]:
    """A client and a server connection of ours that talk to each other.

    :param kind: The kind of streams, a key of PAIRS; or see ``streams``.
    :param client: Options of the client.
    :param server: Options of the server.
    """
    client_stream, server_stream = streams or await PAIRS[kind]()
    opened: list[WebSocketConnection] = []

    async def accept() -> None:
        request = await wrap_server_stream(nursery, server_stream, **(server or {}))
        opened.append(await request.accept())

    async with trio.open_nursery() as opening:
        opening.start_soon(accept)
        connection = await wrap_client_stream(
            nursery, client_stream, "example.org", "/", **(client or {})
        )
    return connection, opened[0]


async def open_client(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    trailing: bytes = b"",
    **options: Any,
) -> tuple[WebSocketConnection, RawPeer]:
    """A client of ours, and the raw server it is connected to.

    :param trailing: What the server sends together with its response.
    """
    ours, theirs = streams or await PAIRS[kind]()
    peer = RawPeer(theirs, is_client=False)

    async def accept() -> None:
        request, _ = await read_head(theirs)
        await peer.send(accepting(request), trailing)

    async with trio.open_nursery() as opening:
        opening.start_soon(accept)
        connection = await wrap_client_stream(nursery, ours, "example.org", "/", **options)
    return connection, peer


async def open_server(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    trailing: bytes = b"",
    **options: Any,
) -> tuple[WebSocketConnection, RawPeer]:
    """A server connection of ours, and the raw client it is connected to.

    :param trailing: What the client sends together with its request.
    """
    theirs, ours = streams or await PAIRS[kind]()
    peer = RawPeer(theirs, is_client=True)

    async def shake_hands() -> None:
        nonlocal peer
        await peer.send(REQUEST, trailing)
        _, rest = await read_head(theirs)
        peer = RawPeer(theirs, is_client=True, received=rest)

    async with trio.open_nursery() as opening:
        opening.start_soon(shake_hands)
        request = await wrap_server_stream(nursery, ours, **options)
        connection = await request.accept()
    return connection, peer


async def start_raw_server(
    nursery: trio.Nursery, handler: Callable[[Stream], Awaitable[object]], *, use_tls: bool = False
) -> int:
    """Serve raw streams on 127.0.0.1; the port. The nursery is to be cancelled in the end."""
    listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    if use_tls:
        listeners = [
            trio.SSLListener(listener, tls_contexts()[1], https_compatible=True)
            for listener in listeners
        ]
    await nursery.start(trio.serve_listeners, handler, listeners)
    return port
