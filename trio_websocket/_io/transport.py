"""Read, write and close a Trio stream, with or without blocking.

A stream is *direct* if it is a kernel socket on POSIX, with or without a `TlsStream` on top. Then
the library reads and writes the file descriptor itself, and waits only if the call would block:

- Sending a small message takes one system call, and no checkpoint.
- A read first waits until the socket is readable. If this wait is cancelled, no data is lost.
- A write passes as many bytes as the socket accepts. The rest stays in the send queue.

All other streams are used through the interface `trio.abc.Stream`. The task that writes such a
stream is cancelled only at the end of the connection. A cancelled read can lose data, unless the
stream guarantees otherwise.

If a direct stream uses TLS, bytes from the socket go through `TlsStream.feed`, and one read can
require several steps of work: see `Transport.has_more`.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from typing import Any, Awaitable, Callable, Sequence

import trio

from .._sansio.costs import MAX_READ_BYTES, READ_BYTES, STREAM_WRITE_BYTES
from .._sansio.errors import printable, safe_repr
from .cancel import cancel
from .chunks import Unwritten, remaining_after
from .interrupt import raise_interrupt
from .record_stream import RecordStream
from .sockets import Address, EndName, address, end_names, is_direct, shut_down
from .tls_stream import TlsStream

# Seconds to wait for the peer to close its side after this side has been closed. The peer needs one
# round trip. If the socket were closed earlier, the kernel could send a reset, which could overtake
# the last frame (RFC 6455, 7.1.1).
LINGER = 2.0

# The default of the option `receive_buffer_size`. With this value, this module chooses the size.
_DEFAULT_RECEIVE_SIZE = 4096


def is_tls(stream: trio.abc.Stream) -> bool:
    """Return True if the stream is a TLS stream, either the library's or Trio's."""
    return isinstance(stream, (TlsStream, trio.SSLStream))


class Transport:
    """A stream, read by one task and written by one task at a time."""

    __slots__ = (
        "_local_name",
        "_most",
        "_receive_size",
        "_remote_name",
        "_tls",
        "is_direct",
        "socket",
        "stream",
    )

    def __init__(self, stream: trio.abc.Stream, receive_size: int | None) -> None:
        """
        :param stream: The stream. Only this object can use it from now on.
        :param receive_size: The number of bytes to read at a time. With None or the option's
            default, the number depends on how many bytes are expected.
        """
        self.stream: trio.abc.Stream = stream
        # Stored now, because the addresses of a closed socket are not available.
        self._local_name, self._remote_name = _end_names(stream)
        self._receive_size, self._most = receive_size or 0, receive_size or 0
        if receive_size in (None, _DEFAULT_RECEIVE_SIZE):
            self._receive_size, self._most = READ_BYTES, MAX_READ_BYTES
        self._tls = stream if isinstance(stream, TlsStream) else None
        wire = stream if self._tls is None else self._tls.transport_stream
        #: True if the stream is a kernel socket on POSIX, with or without a `TlsStream`. Only then
        #: is `socket` set, and only then do `write_now`, `wait_readable` and `read_now` work.
        self.is_direct: bool = type(wire) is trio.SocketStream and is_direct(wire.socket)
        if self.is_direct:
            assert isinstance(wire, trio.SocketStream)
            #: The socket. Call its `fileno()` for each operation: once the socket is closed, its
            #: number can be reused for another socket.
            self.socket: trio.socket.SocketType = wire.socket

    @property
    def local(self) -> Address:
        """The local address."""
        return self._address(self._local_name)

    @property
    def remote(self) -> Address:
        """The peer's address."""
        return self._address(self._remote_name)

    @property
    def peer(self) -> str:
        """The peer's address as a printable str, for log records."""
        return printable(str(self.remote))

    def _address(self, name: EndName | None) -> Address:
        if name is None:
            return safe_repr(self.stream)
        return address(name, is_ssl=is_tls(self.stream))

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """OpenSSL's object for the innermost TLS layer, also after closing; None without TLS."""
        if isinstance(self.stream, trio.SSLStream):
            # SSLStream has no public attribute for the object, but forwards some of its methods.
            found: ssl.SSLObject = self.stream.pending.__self__
            return found
        return None if self._tls is None else self._tls.ssl_object

    @property
    def is_closed(self) -> bool:
        """True if the stream is direct and closed. Always False for other streams."""
        return self.is_direct and self.socket.fileno() == -1

    def write_now(self, chunks: Sequence[bytes]) -> Unwritten | None:
        """Write as much as the socket accepts without blocking. Only for direct streams.

        :returns: The rest, or None if everything was written. To write the rest, call
            `finish_begun` if `begun` is not 0, and then `write_some`.
        """
        if self._tls is not None:
            return self._tls.send_now(chunks)
        try:
            if len(chunks) > 1:
                written = os.writev(self.socket.fileno(), chunks)
            else:
                written = os.write(self.socket.fileno(), chunks[0])
                if written == len(chunks[0]):
                    return None
        except BlockingIOError:
            return Unwritten(0, chunks)
        rest = remaining_after(chunks, written)
        return Unwritten(0, rest) if rest else None

    async def finish_begun(self) -> None:
        """Write the bytes that TLS has already encrypted. If cancelled, the stream is unusable."""
        assert self._tls is not None
        await self._tls.flush()

    def on_unsent(self, callback: Callable[[], object] | None) -> None:
        """Set the function to call when TLS itself has bytes to send: see `TlsStream.on_unsent`."""
        if self._tls is not None:
            self._tls.on_unsent(callback)

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of the data. If cancelled, the stream is unusable."""
        await self.stream.send_all(data)

    async def write_some(self, data: bytes | memoryview) -> int:
        """Write some of the data, so that the caller can track progress. Call again for the rest.

        If cancelled, the stream is unusable.

        :returns: The number of bytes written.
        """
        if self.is_direct and self._tls is None:
            await trio.lowlevel.wait_writable(self.socket.fileno())
            try:
                return os.write(self.socket.fileno(), data)
            except BlockingIOError:
                return 0
        if len(data) > STREAM_WRITE_BYTES:
            data = memoryview(data)[:STREAM_WRITE_BYTES]
        await self.stream.send_all(data)
        return len(data)

    async def read(self, awaited: int = 0) -> bytes:
        """Wait for bytes, and read them; ``b""`` means the end. Lets other tasks run.

        If cancelled, a direct stream loses no data.

        :param awaited: The number of bytes that are expected.
        """
        if not self.is_direct or (self._tls is not None and not self._tls.is_drained):
            return bytes(await self.stream.receive_some(self._receive_size))
        while True:
            if self.has_more:
                await trio.lowlevel.checkpoint()
            else:
                await self.wait_readable()
            data = self.read_now(awaited)
            if data is not None:
                return data

    @property
    def has_more(self) -> bool:
        """True if `read_now` can do work without more bytes from the socket.

        One step of TLS decrypts a limited number of records. Let other tasks run before the next
        step.
        """
        return self._tls is not None and self._tls.engine.has_more

    def wait_readable(self) -> Awaitable[None]:
        """Wait until a direct stream's socket is readable. If cancelled, no data is lost."""
        return trio.lowlevel.wait_readable(self.socket.fileno())  # noqa: ASYNC105 # the caller awaits

    def read_now(self, awaited: int = 0) -> bytes | None:
        """Read the bytes that have arrived. Only for direct streams.

        :param awaited: The number of bytes that are expected.
        :returns: The bytes; ``b""`` at the end of the stream, or None if nothing has arrived.
        """
        if self._tls is not None and self._tls.engine.has_more:
            return self._tls.feed_again()
        size = self._receive_size
        if awaited > size:
            size = min(awaited, self._most)
        try:
            data = os.read(self.socket.fileno(), size)
        except BlockingIOError:
            return None if self._tls is None else self._tls.feed_again()
        return data if self._tls is None else self._tls.feed(data)

    async def half_close_and_drain(self, *, peer_may_send: bool) -> None:
        """Close this side, wait up to `LINGER` seconds for the peer's side, and close the stream.

        Never raises because of the peer. If cancelled, the stream is closed immediately.

        :param peer_may_send: True if the peer might not know yet that the connection has ended. If
            the stream does not support half-closing, this method waits only in that case.
        """
        try:
            with trio.move_on_after(LINGER), IgnoringErrors():
                if self.is_direct and self._tls is None:
                    self.socket.shutdown(socket.SHUT_WR)
                    peer_may_send = True
                elif isinstance(self.stream, trio.abc.HalfCloseableStream):
                    await self.stream.send_eof()
                    peer_may_send = True
                while peer_may_send and await self.read():
                    pass  # discard the data
                if not self.is_direct:
                    await self.stream.aclose()
        finally:
            await self.close_now()

    async def close_now(self) -> None:
        """Close the stream without waiting, ignoring errors."""
        if not self.is_direct:
            await close_now(self.stream)
            return
        with IgnoringErrors():
            if self._tls is None:
                shut_down(self.stream)
                self.socket.close()
            else:
                self._tls.close()


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close a stream without waiting, ignoring errors."""
    # Not trio.aclose_forcefully(): without a shield, an outer cancellation would be raised here.
    with trio.CancelScope(shield=True) as scope, IgnoringErrors():
        cancel(scope, "the stream is closed without waiting")
        shut_down(stream)
        handled = sys.exc_info()[1]
        try:
            await stream.aclose()
        except trio.Cancelled as exc:
            # A stapled stream closes both halves: the first may have raised KeyboardInterrupt, and
            # the second Cancelled.
            raise_interrupt(exc, handled)
            raise


def unwrap_network_error(exc: Exception) -> Exception:
    """Return the network error that caused one of Trio's exceptions, or the exception itself.

    The traceback of a network error is removed. The stack frames in it would refer to the
    connection and to the error, so that only the garbage collector could free both. Where a network
    error was raised is not useful to know.
    """
    if isinstance(exc, trio.BrokenResourceError) and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    if isinstance(exc, (OSError, trio.BrokenResourceError, trio.ClosedResourceError)):
        exc.with_traceback(None)
    return exc


class IgnoringErrors:
    """Suppress all exceptions from closing a stream, because no caller could act on them."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        if not isinstance(exc, Exception):
            return False
        unwrap_network_error(exc)  # removes the traceback
        return True


def _end_names(stream: trio.abc.AsyncResource) -> tuple[EndName | None, EndName | None]:
    """Return the names of both ends of a stream, the local one first; None if there is no name."""
    transport: Any = stream
    # There can be TLS inside TLS.
    while isinstance(transport, (RecordStream, TlsStream, trio.SSLStream)):
        transport = transport.transport_stream
    return end_names(transport.socket) if isinstance(transport, trio.SocketStream) else (None, None)
