"""What the library needs of a Trio stream."""

from __future__ import annotations

import os
import socket
from typing import Any, Union

import trio

from ._url import Endpoint

# A peer that has been told that the connection is over gets this many seconds to end its side.
# It takes the peer one round trip; closing earlier may reset the connection, and a reset may
# overtake our last frame (RFC 6455, 7.1.1).
LINGER = 2.0

#: What a stream's end is called: streams other than TCP sockets have no address.
Address = Union[Endpoint, str]

_DEFAULT_RECEIVE_SIZE = 4096
_LARGE_RECEIVE_SIZE = 65536


class Transport:
    """A stream, read by one task and written by one task at a time."""

    def __init__(self, stream: trio.abc.Stream, receive_size: int | None) -> None:
        """
        :param stream: The stream; from now on nobody else uses it.
        :param receive_size: How many bytes to read at a time; by default, we choose.
        """
        self.stream = stream
        #: The two ends, kept for when the socket is closed.
        self.local: Address = _address(stream, "getsockname")
        self.remote: Address = _address(stream, "getpeername")
        if receive_size in (None, _DEFAULT_RECEIVE_SIZE):
            receive_size = _LARGE_RECEIVE_SIZE
        self._receive_size = receive_size
        #: Whether a read can be cancelled and loses nothing, and `write_now` works: a plain socket.
        self.is_socket: bool = type(stream) is trio.SocketStream and os.name == "posix"

    def write_now(self, data: bytes) -> int:
        """Write what the socket takes without blocking; say how much it was. Sockets only."""
        assert isinstance(self.stream, trio.SocketStream)
        try:
            return os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def write(self, data: bytes) -> None:
        """Write all of it. A cancelled write leaves the stream useless."""
        await self.stream.send_all(data)

    async def read(self) -> bytes:
        """Read some bytes; ``b""`` is the end."""
        return bytes(await self.stream.receive_some(self._receive_size))

    async def hang_up(self, *, peer_may_send: bool) -> None:
        """End our side, wait a short while for the peer to end its own, and close.

        A stream that can't end one side waits only where the peer may not know of the end yet.
        Never raises because of the peer. If cancelled, it closes at once.
        """
        try:
            with trio.move_on_after(LINGER), IgnoringErrors():
                if isinstance(self.stream, trio.abc.HalfCloseableStream):
                    await self.stream.send_eof()
                    peer_may_send = True
                while peer_may_send and await self.stream.receive_some():
                    pass  # what still comes is nobody's any more
                await self.stream.aclose()
        finally:
            await self.close_now()

    async def close_now(self) -> None:
        """Close without waiting for anything, and without an error."""
        await close_now(self.stream)


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close without waiting for anything, and without an error."""
    # Not trio.aclose_forcefully(): the shield keeps an outer cancellation from coming out.
    with trio.CancelScope(shield=True) as scope, IgnoringErrors():
        scope.cancel()
        await stream.aclose()


def cause_of(exc: Exception) -> Exception:
    """The network's error behind the one that Trio makes of it.

    It has no traceback: nobody asks where a reset came from, and the frames in it would keep the
    connection, and refer to the error, so that only the garbage collector would free both.
    """
    if isinstance(exc, trio.BrokenResourceError) and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    if isinstance(exc, (OSError, trio.BrokenResourceError, trio.ClosedResourceError)):
        exc.__traceback__ = None
    return exc


class IgnoringErrors:
    """A block where a stream of any kind may raise whatever it likes: nobody could act on it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        if not isinstance(exc, Exception):
            return False
        cause_of(exc)  # lets go of its traceback
        return True


def _address(stream: trio.abc.AsyncResource, get_name: str) -> Address:
    is_ssl = isinstance(stream, trio.SSLStream)
    transport: Any = stream
    while isinstance(transport, trio.SSLStream):  # TLS may be in TLS
        transport = transport.transport_stream
    if isinstance(transport, trio.SocketStream):
        sock = transport.socket
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            try:
                host, port = getattr(sock, get_name)()[:2]
            except OSError:  # the peer is gone already
                return repr(stream)
            return Endpoint(host.partition("%")[0], port, is_ssl)
    return repr(stream)
