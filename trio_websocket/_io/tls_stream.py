"""TLS on a TCP socket, which can also be written without awaiting.

A `TlsStream` carries ciphertext between a `TlsEngine` and a socket; the engine's module explains
TLS. Unlike `trio.SSLStream`, a cancelled read loses nothing, and nothing here is in a cycle of
references.

The stream's only queue is `_unsent`: ciphertext that the socket has not taken. Plaintext that can't
be sent yet stays with the caller. One task at a time may write, and any task may read:

- The writer is either the task in `_write_unsent` (`_is_writing`), which may wait, or a call that
  doesn't wait (`send_now`, `_write_now`). While a task waits, it alone knows how much of the queue
  the socket has accepted, so no other call writes or appends.
  - Reading may make TLS answer. The reader writes the answer at once if the queue is empty and no
    task writes. A task that is writing sends it after its own ciphertext. If the socket is full,
    the answer enters the queue, and `on_unsent` asks the owner to have the queue written.
- Before it encrypts anything, a call that doesn't wait checks that the queue is empty, and a call
  that may wait appends to the queue. So ciphertext leaves in the order in which it was made.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from typing import Callable, Sequence

import trio

from .._sansio.costs import TLS_CALL_BYTES, TLS_CALLS_PER_STEP, TLS_CALLS_PER_WRITE, TLS_READ_BYTES
from .._sansio.tls_engine import TlsEngine, tls_slices
from .chunks import Unwritten, remaining_after
from .sockets import Borrowed, is_kernel_socket, shut_down


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS on a TCP socket, read by one task and written by one task at a time.

    If the network fails, it raises `OSError`, as sockets do. If TLS fails, it raises
    `ssl.SSLError`, which is a subclass of `OSError`.
    """

    def __init__(
        self,
        transport_stream: trio.SocketStream,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
    ) -> None:
        """
        :param transport_stream: The socket. Only this object may read and write it from now on.

        The other parameters, and the exceptions, are the same as for `TlsEngine`.
        """
        self.transport_stream = transport_stream
        #: The engine, which encrypts and decrypts. Only this stream may change it.
        self.engine = TlsEngine(context, server_hostname, server_side=server_side)
        #: True if the handshake is over, and the last message of it is written.
        self.is_open = False
        # Ciphertext that the socket has not taken. If `_is_writing`, a task waits for the socket,
        # `_unsent` is out of date, and only that task may write.
        self._unsent = b""
        self._is_writing = False
        self._on_unsent: Callable[[], object] | None = None

    def on_unsent(self, callback: Callable[[], object] | None) -> None:
        """Set the function to call when an answer of TLS does not fit into the socket.

        The function must cause a call of `send_all`, perhaps with ``b""``. Without a function, the
        answer precedes the next data.
        """
        self._on_unsent = callback

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """OpenSSL's part, which knows the certificates, the version and the cipher."""
        return self.engine.ssl_object

    @property
    def is_drained(self) -> bool:
        """True if only more data from the socket can give plaintext, an end, or a fault."""
        return self.is_open and self.engine.is_drained

    async def do_handshake(self) -> None:
        """Do the TLS handshake, unless it is done. If cancelled, the next call continues it.

        :raises ssl.SSLCertVerificationError: The peer's certificate is not trusted.
        :raises ssl.SSLError: The two sides don't agree, or the peer does not speak TLS.
        :raises OSError: The connection was lost, or the peer has closed it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        data = b""
        while not self.is_open:
            try:
                self.engine.do_handshake(data)
            except ssl.SSLError:
                self._write_now()  # the alert that tells the peer why
                raise
            if self.engine.must_send:
                await self._write_unsent()
            if self.engine.is_open:
                self.is_open = True
            elif self.engine.has_more:
                await trio.lowlevel.checkpoint()
                data = b""
            else:
                data = await self.transport_stream.socket.recv(TLS_CALL_BYTES)
                if not data:
                    text = "the peer closed the connection during the TLS handshake"
                    raise ConnectionAbortedError(text)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read some data; ``b""`` is the end. If cancelled, nothing is lost.

        :param max_bytes: The number of encrypted bytes to read at a time; by default, 64 KiB. All
            the data in them is returned.
        """
        if not self.is_open:
            await self.do_handshake()
        plain = None
        while not plain and not self.engine.is_ended:
            if not self.engine.is_drained:
                await trio.lowlevel.checkpoint()
                plain = self.feed_again()
                continue
            # SocketStream.receive_some is not used: its errors form cycles with their tracebacks.
            plain = self.feed(await self.transport_stream.socket.recv(max_bytes or TLS_READ_BYTES))
        return plain or b""

    def feed(self, data: bytes) -> bytes | None:
        """Call `TlsEngine.feed`, and send the answer of TLS, if there is one."""
        plain = self.engine.feed(data)
        if self.engine.must_send:
            self._send_answer()
        return plain

    def feed_again(self) -> bytes | None:
        """Call `TlsEngine.feed_again`, and send the answer of TLS, if there is one."""
        plain = self.engine.feed_again()
        if self.engine.must_send:
            self._send_answer()
        return plain

    def _send_answer(self) -> None:
        # If there are unsent bytes, or a task writes, the answer follows them.
        if not self._unsent and not self._is_writing:
            self._write_now()
            if self._unsent and self._on_unsent is not None:
                self._on_unsent()

    def send_now(self, chunks: Sequence[bytes]) -> Unwritten | None:
        """Write as much as the socket accepts without blocking. Only on POSIX, after the handshake.

        Of the rest, at most 128 KiB are encrypted already. Very large data is never written
        completely in one call, so that other tasks can run.

        :returns: The rest: call `flush` if some of it is encrypted, and then `send_all`.
        :raises OSError: The connection is lost, or TLS has failed.
        """
        if self._unsent:  # an answer of TLS, which must be written first
            return Unwritten(0, chunks)
        handle = self.transport_stream.socket.fileno()
        pieces: Sequence[bytes | memoryview] = chunks
        if len(chunks) > 1 or len(chunks[0]) > TLS_CALL_BYTES:
            pieces = [piece for chunk in chunks for piece in tls_slices(chunk)]
        for at in range(0, min(len(pieces), TLS_CALLS_PER_STEP), TLS_CALLS_PER_WRITE):
            batch = pieces[at : at + TLS_CALLS_PER_WRITE]
            wire = list(map(self.engine.encrypt, batch))
            try:
                written = os.writev(handle, wire)
            except BlockingIOError:
                written = 0
            if written < sum(map(len, wire)):
                self._unsent = b"".join(remaining_after(wire, written))
                return Unwritten(sum(map(len, batch)), pieces[at + TLS_CALLS_PER_WRITE :])
        rest = pieces[TLS_CALLS_PER_STEP:]
        return Unwritten(0, rest) if rest else None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt the data and write it. If cancelled, nothing more can be sent."""
        if not self.is_open:
            await self.do_handshake()
        # TLS may have something to send, even if we don't.
        for piece in tls_slices(data) or [memoryview(b"")]:
            self._unsent += self.engine.encrypt(piece)
            await self._write_unsent()

    async def flush(self) -> None:
        """Write the encrypted bytes. If cancelled, the next call continues."""
        await self._write_unsent()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket is writable."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End our side. If cancelled, the peer may not know of it.

        :raises trio.BusyResourceError: Another task is sending.
        """
        if self._is_writing:
            raise trio.BusyResourceError("another task is sending")
        self._end_tls()
        await self._write_unsent()
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket, at once.

        Unsent bytes and close_notify are written before that, as far as the socket accepts them
        without waiting, unless another task is sending.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the socket as `aclose` does, without a checkpoint."""
        self._end_tls()
        self._write_now()
        shut_down(self.transport_stream)
        self.transport_stream.socket.close()

    def _end_tls(self) -> None:
        if self.is_open:
            self.engine.send_close_notify()

    async def _write_unsent(self) -> None:
        """Write the queue and the answers of TLS. If cancelled, the next call continues."""
        unsent = memoryview(self._unsent + self.engine.take_ciphertext())
        sent = 0
        self._is_writing = True
        try:
            while sent < len(unsent):
                sent += await self.transport_stream.socket.send(unsent[sent:])
                if sent == len(unsent) and self.engine.has_ciphertext():
                    unsent = memoryview(self.engine.take_ciphertext())  # a new answer of TLS
                    sent = 0
        finally:
            self._unsent = bytes(unsent[sent:])
            self._is_writing = False

    def _write_now(self) -> None:
        """Do the work of `_write_unsent`, as far as the socket accepts data without blocking."""
        if self._is_writing:
            return  # that task would write the same bytes again
        self._unsent += self.engine.take_ciphertext()
        sock = self.transport_stream.socket
        if self._unsent and is_kernel_socket(sock) and sock.fileno() != -1:
            # If the socket is full or broken, the task that reads it gets the error.
            with contextlib.suppress(OSError), Borrowed(sock) as non_blocking:
                self._unsent = self._unsent[non_blocking.send(self._unsent) :]
