"""TLS on a TCP socket, with writes that can also be non-blocking.

A `TlsStream` moves ciphertext between a `TlsEngine` and a socket; the engine's module explains TLS.
Unlike with `trio.SSLStream`, a cancelled read loses no data, and there are no reference cycles.

The stream's only queue is `_unsent`: ciphertext that the socket has not accepted. Plaintext that
can't be sent yet stays with the caller. Only one task at a time can write, and any task can read:

- The writer is either the task in `_write_unsent` (`_is_writing`), which can block, or a
  non-blocking call (`send_now`, `_write_now`). While a task is blocked there, only that task knows
  how much of the queue the socket has accepted, so no other call writes or appends.
- Reading can make TLS produce a reply. The reader writes the reply at once if the queue is empty
  and no task is writing. A task that is writing sends the reply after its own ciphertext. If the
  socket's buffer is full, the reply is queued, and `on_unsent` asks the owner to flush the queue.
- Before encrypting, a non-blocking call checks that the queue is empty. A call that can block
  appends its ciphertext to the queue. So ciphertext is sent in the order in which it was produced.
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

    If the network fails, methods raise `OSError`, as those of sockets do. If TLS fails, they raise
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
        :param transport_stream: The socket. Only this object can read and write it from now on.

        The other parameters and the exceptions are the same as for `TlsEngine`.
        """
        self.transport_stream = transport_stream
        #: The engine, which encrypts and decrypts. Only this stream changes its state.
        self.engine = TlsEngine(context, server_hostname, server_side=server_side)
        #: True once the handshake is complete and its last message has been written.
        self.is_open = False
        # Ciphertext that the socket has not accepted. If `_is_writing` is true, a task is waiting
        # for the socket, `_unsent` is out of date, and only that task can write.
        self._unsent = b""
        self._is_writing = False
        self._on_unsent: Callable[[], object] | None = None

    def on_unsent(self, callback: Callable[[], object] | None) -> None:
        """Set the function to call when the socket's buffer has no room for one of TLS's replies.

        The function must arrange for a call of `send_all`, even if only with ``b""``. Without such
        a function, the reply is sent before the next data.
        """
        self._on_unsent = callback

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """OpenSSL's object, which provides the certificates, the TLS version and the cipher."""
        return self.engine.ssl_object

    @property
    def is_drained(self) -> bool:
        """True if there is no plaintext, end or fault to report without more data from the socket.

        False before the end of the handshake.
        """
        return self.is_open and self.engine.is_drained

    async def do_handshake(self) -> None:
        """Do the TLS handshake, unless it is complete. If cancelled, the next call continues it.

        :raises ssl.SSLCertVerificationError: The peer's certificate is not trusted.
        :raises ssl.SSLError: The two sides can't agree on parameters, or the peer does not speak
            TLS.
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
        """Read some data; ``b""`` means the end. If cancelled, no data is lost.

        :param max_bytes: The maximum number of encrypted bytes to read at once; by default, 64 KiB.
            It does not limit the number of decrypted bytes that are returned.
        """
        if not self.is_open:
            await self.do_handshake()
        plain = None
        while not plain and not self.engine.is_ended:
            if not self.engine.is_drained:
                await trio.lowlevel.checkpoint()
                plain = self.feed_again()
                continue
            # Not SocketStream.receive_some(), whose exceptions form cycles with their tracebacks.
            plain = self.feed(await self.transport_stream.socket.recv(max_bytes or TLS_READ_BYTES))
        return plain or b""

    def feed(self, data: bytes) -> bytes | None:
        """Call `TlsEngine.feed`, and send TLS's reply, if there is one."""
        plain = self.engine.feed(data)
        if self.engine.must_send:
            self._send_answer()
        return plain

    def feed_again(self) -> bytes | None:
        """Call `TlsEngine.feed_again`, and send TLS's reply, if there is one."""
        plain = self.engine.feed_again()
        if self.engine.must_send:
            self._send_answer()
        return plain

    def _send_answer(self) -> None:
        # If there are unsent bytes, or a task is writing, the reply will be sent after them.
        if not self._unsent and not self._is_writing:
            self._write_now()
            if self._unsent and self._on_unsent is not None:
                self._on_unsent()

    def send_now(self, chunks: Sequence[bytes]) -> Unwritten | None:
        """Write as much as the socket accepts without blocking. Only on POSIX, after the handshake.

        At most 128 KiB of the rest have already been encrypted. One call never writes very large
        data completely, so that other tasks can run.

        :returns: The rest, or None if everything was written. Call `flush` if some of the rest has
            been encrypted, and then `send_all`.
        :raises OSError: The connection was lost, or TLS has failed.
        """
        if self._unsent:  # a reply from TLS, which must be written first
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
        # TLS itself may have something to send, even if there is no data.
        for piece in tls_slices(data) or [memoryview(b"")]:
            self._unsent += self.engine.encrypt(piece)
            await self._write_unsent()

    async def flush(self) -> None:
        """Write the bytes that have been encrypted. If cancelled, the next call continues."""
        await self._write_unsent()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket is writable."""
        await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Close this side's direction: send close_notify, and shut down the socket for writing.

        If cancelled, the peer may not be notified.

        :raises trio.BusyResourceError: Another task is sending.
        """
        if self._is_writing:
            raise trio.BusyResourceError("another task is sending")
        self._end_tls()
        await self._write_unsent()
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket without waiting.

        Before that, unsent bytes and close_notify are written, as far as the socket accepts them
        without blocking, unless another task is sending.
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
        """Write the queue and TLS's own messages. If cancelled, the next call continues."""
        unsent = memoryview(self._unsent + self.engine.take_ciphertext())
        sent = 0
        self._is_writing = True
        try:
            while sent < len(unsent):
                sent += await self.transport_stream.socket.send(unsent[sent:])
                if sent == len(unsent) and self.engine.has_ciphertext():
                    unsent = memoryview(self.engine.take_ciphertext())  # a new reply
                    sent = 0
        finally:
            self._unsent = bytes(unsent[sent:])
            self._is_writing = False

    def _write_now(self) -> None:
        """Like `_write_unsent`, but write only as much as the socket accepts without blocking."""
        if self._is_writing:
            return  # that task would write the same bytes again
        self._unsent += self.engine.take_ciphertext()
        sock = self.transport_stream.socket
        if self._unsent and is_kernel_socket(sock) and sock.fileno() != -1:
            # A full buffer is not an error. If the socket is broken, reading from it will fail too.
            with contextlib.suppress(OSError), Borrowed(sock) as non_blocking:
                self._unsent = self._unsent[non_blocking.send(self._unsent) :]
