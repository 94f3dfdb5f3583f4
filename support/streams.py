"""Pairs of streams: in memory, over socket pairs, TCP and TLS."""

from __future__ import annotations

import functools
import socket
import ssl
import struct
from typing import (
    TYPE_CHECKING,
    Any,
    Awaitable,
    Callable,
    Tuple,
)

import trio
import trio.testing
import trustme

from trio_websocket._io.tls_stream import TlsStream

if TYPE_CHECKING:
    from trio.abc import Stream


StreamPair = Tuple["Stream", "Stream"]

# Socket buffers have this fixed size, so that they never hold a megabyte.
_SOCKET_BUFFER = 2**16

_sockets: list[socket.socket] = []


async def memory_pair() -> StreamPair:
    """Return streams that accept any amount of data at once."""
    return trio.testing.memory_stream_pair()


async def lockstep_pair() -> StreamPair:
    """Return streams where a write waits until the peer has read all of it."""
    return trio.testing.lockstep_stream_pair()


async def tcp_pair() -> StreamPair:
    """Return both ends of TCP over loopback: the one that connected, the one that accepted."""
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
    """Return sockets whose bytes arrive when they are sent, as autojump_clock needs."""
    ours, theirs = socket.socketpair()
    _shrink_buffers(ours)
    _shrink_buffers(theirs)
    return _socket_stream(ours), _socket_stream(theirs)


async def tls_pair() -> StreamPair:
    """Return Trio's TLS streams over TCP over loopback."""
    return await over_tls(*await tcp_pair())


async def own_tls_pair() -> StreamPair:
    """Return the library's TLS streams over TCP over loopback."""
    return await over_tls(*await tcp_pair(), is_own=True)


async def tls_memory_pair(*, https_compatible: bool = True) -> StreamPair:
    """Return Trio's TLS streams over memory streams."""
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
# Kinds whose bytes arrive when they are sent, as a jumping clock needs.
PROMPT = ["memory", "lockstep", "socketpair", "tls-memory"]
# Kinds where a sender has to wait if the peer does not read.
PUSHING_BACK = ["lockstep", "socketpair", "tcp", "tls"]


def in_memory(kind: str) -> bool:
    """True if this kind of streams needs no sockets."""
    return kind in {"memory", "lockstep", "tls-memory"}


class _OwnTls(TlsStream):
    """The library's TLS stream, which returns at most ``max_bytes``."""

    _rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = self._rest or await super().receive_some()
        data, self._rest = data[:max_bytes], data[len(data[:max_bytes]) :]
        return data


async def over_tls(
    client: Stream, server: Stream, *, https_compatible: bool = True, is_own: bool = False
) -> StreamPair:
    """Return TLS streams for ``example.org`` over a pair of streams.

    :param is_own: Use the library's TLS, instead of Trio's, for an end on a socket.
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
    """Return contexts for clients and for servers at localhost, 127.0.0.1, ::1, example.org."""
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
    """Close the sockets that a test left open."""
    while _sockets:
        _sockets.pop().close()


def reset(stream: Stream) -> None:
    """Close a TCP stream with a reset."""
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


class WrappedStream(trio.abc.Stream):
    """A stream without `send_eof`. Tests override methods that must fail."""

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
