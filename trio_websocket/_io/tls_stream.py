"""TLS on a TCP socket, which can also be written without awaiting.

A `TlsStream` carries ciphertext between a `TlsEngine` and a socket; the engine's module explains
TLS. Unlike `trio.SSLStream`, a cancelled read loses nothing, and nothing here is in a cycle of
references.

The stream's only queue is `_unsent`: ciphertext that the socket has not taken. Plaintext that can't
be sent yet stays with the caller. One task at a time may write, and any task may read:

- The writer is either the task in `_write_unsent` (`_is_writing`), which may wait, or a call that
  doesn't wait (`send_now`, `_write_now`). While a task waits, it alone knows how much of the queue
  the socket has taken, so nobody else writes or appends.
- The reader may cause an answer of TLS. It writes the answer at once if the queue is empty and
  nobody writes. A task that is writing sends it after its own ciphertext. If the socket is full,
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

from .._sansio.costs import (
    TLS_CALL_BYTES,
    TLS_CALLS_PER_STEP,
    TLS_CALLS_PER_WRITE,
    TLS_READ_BYTES,
)
from .._sansio.tls_engine import TlsEngine, tls_slices
from .chunks import Unwritten, remaining_after
from .sockets import Borrowed, is_kernel_socket, shut_down


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS on a TCP socket, read by one task and written by one task at a time.

    Where the network fails, it raises `OSError`, as sockets do. Where TLS fails, it raises
    `ssl.SSLError`, which is an `OSError`, too.
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
        :param transport_stream: The socket. From now on nobody else reads or writes it.

        The other parameters, and the errors, are those of `TlsEngine`.
        """
        self.transport_stream = transport_stream
        #: What encrypts and decrypts. Its owner may ask it, but leaves all calls that change it to
        #: the stream.
        self.engine = TlsEngine(context, server_hostname, server_side=server_side)
        #: True if the handshake is over, and the last message of it is written.
        self.is_open = False
        # Ciphertext that the socket has not taken. If `_is_writing`, a task waits for the socket,
        # `_unsent` is out of date, and only that task may write.
        self._unsent = b""
        self._is_writing = False
        self._on_unsent: Callable[[], object] | None = None

    def on_unsent(self, callback: Callable[[], object] | None) -> None:
        """Set what is called when the socket did not take an answer of TLS.

        The callback sees to it that `send_all`, perhaps of ``b""``, is called. Without a callback,
        the answer precedes the next data.
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
        """Do the TLS handshake, unless it is done. If cancelled, the next call goes on with it.

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
            # Not receive_some of the SocketStream: its errors are in cycles with their tracebacks.
            plain = self.feed(await self.transport_stream.socket.recv(max_bytes or TLS_READ_BYTES))
        return plain or b""

    def feed(self, data: bytes) -> bytes | None:
        """Do what `TlsEngine.feed` does, and send the answer of TLS, if there is one."""
        plain = self.engine.feed(data)
        if self.engine.must_send:
            self._send_answer()
        return plain

    def feed_again(self) -> bytes | None:
        """Do what `TlsEngine.feed_again` does, and send the answer of TLS, if there is one."""
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
        """Write what the socket takes without blocking, after the handshake, on POSIX.

        What the socket does not take is not encrypted yet, except for up to 128 KiB. Of very large
        data a part is left in any case, so that other tasks can run.

        :returns: The rest: call `flush` if some of it is encrypted, and then `send_all`.
        :raises OSError: The connection is lost, or TLS has failed.
        """
        if self._unsent:  # an answer of TLS, which goes first
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
        for piece in tls_slices(data) or [
            memoryview(b"")
        ]:  # TLS may have something to send, even if we don't
            self._unsent += self.engine.encrypt(piece)
            await self._write_unsent()

    async def flush(self) -> None:
        """Write what is encrypted already. If cancelled, the next call goes on with it."""
        await self._write_unsent()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes something."""
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

        Unsent bytes and close_notify are written before that, as far as the socket takes them
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
        """Write the queue and what TLS has to send. If cancelled, the next call goes on."""
        unsent = memoryview(self._unsent + self.engine.take_ciphertext())
        sent = 0
        self._is_writing = True
        try:
            while sent < len(unsent):
                sent += await self.transport_stream.socket.send(unsent[sent:])
                if sent == len(unsent) and self.engine.has_ciphertext():
                    unsent = memoryview(self.engine.take_ciphertext())  # an answer, made meanwhile
                    sent = 0
        finally:
            self._unsent = bytes(unsent[sent:])
            self._is_writing = False

    def _write_now(self) -> None:
        """Write as `_write_unsent`, as far as the socket takes it without blocking."""
        if self._is_writing:
            return  # the peer could not read what came twice, or within a record
        self._unsent += self.engine.take_ciphertext()
        sock = self.transport_stream.socket
        if self._unsent and is_kernel_socket(sock) and sock.fileno() != -1:
            # If it is full, or broken, the task that reads it learns why.
            with contextlib.suppress(OSError), Borrowed(sock) as non_blocking:
                self._unsent = self._unsent[non_blocking.send(self._unsent) :]
