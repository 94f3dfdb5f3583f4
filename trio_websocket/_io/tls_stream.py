"""TLS on a TCP socket, which can also be written without awaiting.

Unlike with ``trio.SSLStream``, a cancelled read loses nothing, and nothing here is in a cycle of
references.
"""

from __future__ import annotations

import contextlib
import copy
import os
import ssl
from typing import Callable, Sequence

import trio

from .sockets import Borrowed, is_kernel_socket, shut_down

_RECORD = 2**14  # the most that is in a record (RFC 8446, 5.1); a read takes one
# Bytes that go through OpenSSL's buffers at a time: they never shrink, and larger ones gain little.
_SLICE = 2**15
_SLICES = 4  # that leave in one write
_MOST_SLICES = 64  # that are encrypted in a row, which takes a millisecond
_RECEIVE_SIZE = 2**16
_RECORD_HEAD = 5  # bytes: type, version, length
# Records that the engine gets at a time. OpenSSL takes up to 10 microseconds for one, however short
# it is, and all that it has got go through it in one call: about 2 milliseconds at most.
_MOST_RECORDS = 2**8
# Bytes that the engine may want to send before the caller sends something. Each KeyUpdate that asks
# for one in return makes a few, so that a peer could fill the memory.
_MAX_UNSENT = 2**16


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS on a TCP socket, read by one task and written by one task at a time.

    Where the network fails, it raises `OSError`, as sockets do; where TLS does, `ssl.SSLError`,
    which is a kind of it.
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
        :param transport_stream: The socket. From now on nobody else reads it.
        :param context: What is wanted of TLS.
        :param server_hostname: The name or address of the server, for clients. The server is sent
            the name (SNI), and its certificate must be for it if the context says so. A final dot
            and the zone of an IPv6 address are left out (RFC 6066, 3; RFC 6874, 4).
        :param server_side: Whether this is the server.
        :raises ValueError: The context and the name don't go together; or `ssl.SSLError`.
        """
        if context.check_hostname and server_hostname is None and not server_side:
            raise ValueError("check_hostname of the context requires server_hostname")  # not of ssl
        if server_hostname is not None:
            server_hostname = server_hostname.partition("%")[0]
            if server_hostname.endswith("."):
                server_hostname = server_hostname[:-1]
        self.transport_stream = transport_stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: The engine, for who wants to know of certificates, versions and ciphers.
        self.ssl_object: ssl.SSLObject = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        #: Whether the handshake is over.
        self.is_open = False
        #: Whether the peer sends nothing more.
        self.is_ended = False
        self._encrypted = b""  # read from the socket, and not given to the engine
        self._record_left = 0  # bytes that the engine lacks of a record; 0 if `_encrypted` has any
        self._unsent = b""  # taken from the engine, and not yet by the socket
        #: Called when the socket did not take an answer of the engine: `send_all(b"")` sends it.
        #: With None, it goes with the next data.
        self.on_unsent: Callable[[], object] | None = None
        #: Bytes of the data to be sent next that are encrypted already, in what is unsent.
        self.committed: int = 0
        self._is_writing = False  # a task writes what is unsent, and alone knows how much is left
        # Why nothing more can be read. It has no traceback, which would lead back to us.
        self._failure: ssl.SSLError | None = None

    async def do_handshake(self) -> None:
        """Do the TLS handshake, unless it is done. If cancelled, the next call goes on with it.

        :raises ssl.SSLCertVerificationError: The peer's certificate is none that we trust.
        :raises ssl.SSLError: The two don't agree.
        :raises OSError: The connection was lost, or the peer has closed it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.is_open:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._write_now()  # the alert, so that the peer learns why
                raise
            else:
                # What a server of TLS 1.3 has still to send are session tickets. They go with its
                # first data: a client that has left already would answer them with a reset.
                if not self.ssl_object.server_side or self.ssl_object.version() != "TLSv1.3":
                    await self._write_unsent()
                self.is_open = True
                return
            await self._write_unsent()
            data = b""
            if self.has_more:
                await trio.lowlevel.checkpoint()
            else:
                data = await self.transport_stream.socket.recv(_SLICE)
                if not data:
                    text = "the peer closed the connection during the TLS handshake"
                    raise ConnectionAbortedError(text)
            self._incoming.write(self._next_records(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read some data; ``b""`` is the end. If cancelled, nothing is lost.

        :param max_bytes: How many encrypted bytes to read at a time; by default, 64 KiB. All the
            data in them is returned.
        """
        if not self.is_open:
            await self.do_handshake()
        plain = None
        while not plain and not self.is_ended:
            if not self.is_drained:
                await trio.lowlevel.checkpoint()
                plain = self.decrypt(b"")
                continue
            # Not receive_some of the SocketStream: its errors are in cycles with their tracebacks.
            plain = self.feed(await self.transport_stream.socket.recv(max_bytes or _RECEIVE_SIZE))
        return plain or b""

    @property
    def is_drained(self) -> bool:
        """True if only more data from the socket can give plain data."""
        if self._incoming.pending or self._failure is not None or self.has_more:
            return False
        return self.is_open and not self.is_ended

    @property
    def has_more(self) -> bool:
        """True if records from the socket wait for their turn in the engine: see `feed_again`."""
        return len(self._encrypted) >= _RECORD_HEAD and not self.is_ended

    def feed(self, data: bytes) -> bytes | None:
        """The plain data in what was read from the socket; ``b""`` is the end of both.

        Call it only if not `has_more`.

        :returns: None if there is no plain data yet: read more, unless `has_more`.
        :raises ssl.SSLError: There is none because of a fault in TLS.
        """
        # An end without close_notify may be an attacker's, who cuts off what came behind. It can't
        # pass for the end of a WebSocket connection: that is a Close frame.
        self.is_ended = self.is_ended or not data
        plain = self.decrypt(data)
        return plain if plain or self.is_ended else None

    def feed_again(self) -> bytes | None:
        """The plain data in what is left of what was fed, or the end or fault that follows it.

        :returns: As `feed`.
        :raises ssl.SSLError: As `feed`.
        """
        if self.is_drained:
            return None
        plain = self.decrypt(b"")
        return plain if plain or self.is_ended else None

    def decrypt(self, data: bytes) -> bytes:
        """The plain data in what was read from the socket, perhaps none; see also `is_ended`.

        ``b""`` gives what came together with the end of the handshake.

        :raises ssl.SSLError: There is none because of a fault in TLS.
        """
        chunks: list[bytes] = []
        records = self._next_records(data)
        if len(records) <= _SLICE:
            self._decrypt(records, chunks)
        else:
            for piece in _slices(records):
                self._decrypt(piece, chunks)
        if not chunks and self._failure is not None:
            raise copy.copy(self._failure)
        return b"".join(chunks)

    def _next_records(self, data: bytes) -> bytes | memoryview:
        """The next records for the engine: of ``data`` if nothing is left of what came before it.

        The rest is kept. A head of a record that is not whole is always kept.
        """
        data = self._encrypted + data
        size, end = len(data), self._record_left
        for _ in range(_MOST_RECORDS):
            if end + _RECORD_HEAD > size:
                break
            end += _RECORD_HEAD + (data[end + 3] << 8 | data[end + 4])
        self._record_left = max(0, end - size)
        self._encrypted = data[end:]
        return data if end >= size else memoryview(data)[:end]

    def _decrypt(self, data: bytes | memoryview, chunks: list[bytes]) -> None:
        if self.is_ended or self._failure is not None:
            return
        pending = self._outgoing.pending  # tickets of a server, which go with its first data
        self._incoming.write(data)
        try:
            while True:
                chunk = self.ssl_object.read(_RECORD)
                if not chunk:
                    self.is_ended = True  # close_notify
                    break
                chunks.append(chunk)
                if not self._incoming.pending:
                    break  # cheaper than to be told by an exception
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        except ssl.SSLError as exc:
            self._failure = exc.with_traceback(None)
        if self._outgoing.pending > pending and self._failure is None:
            self._send_answer()

    def _send_answer(self) -> None:
        """Send what the engine answers, or fail the connection if the peer asks for too much."""
        if self.ssl_object.version() != "TLSv1.3":
            # Until a renegotiation is over, nothing could be encrypted.
            self._failure = _error("the peer asked to renegotiate TLS")
        elif self._outgoing.pending > _MAX_UNSENT:
            self._failure = _error("too many requests for new TLS keys")
        elif not self._unsent and not self._is_writing:
            self._write_now()
            if self._unsent and self.on_unsent is not None:
                self.on_unsent()

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """The bytes to write for ``data``, behind what TLS has to say by itself.

        The handshake must be over. The caller writes all of it, in the order of the calls. ``b""``
        gives what TLS has to say; nothing comes of waiting with that (RFC 8446, 4.6.3).

        :raises ssl.SSLError: TLS has failed, or our side has ended.
        """
        assert self.is_open
        if self._failure is not None:
            raise copy.copy(self._failure)
        if data:
            self.ssl_object.write(data)  # into memory: it takes all
        return self._outgoing.read()

    def send_now(self, chunks: Sequence[bytes]) -> Sequence[bytes | memoryview]:
        """Write what the socket takes without blocking, after the handshake, on POSIX.

        What it does not take is not encrypted yet, but for the first 128 KiB. Of what is very large
        a part is left in any case, so that other tasks are not held up.

        :returns: What is left, for `send_all`, in this order and before anything else is sent.
        :raises OSError: The connection is lost, or TLS has failed.
        """
        if self._unsent:  # an answer of the engine
            return chunks
        handle = self.transport_stream.socket.fileno()
        pieces: Sequence[bytes | memoryview] = chunks
        if len(chunks) > 1 or len(chunks[0]) > _SLICE:
            pieces = [piece for chunk in chunks for piece in _slices(chunk)]
        for at in range(0, min(len(pieces), _MOST_SLICES), _SLICES):
            batch = pieces[at : at + _SLICES]
            wire = list(map(self.encrypt, batch))
            try:
                written = os.writev(handle, wire)
            except BlockingIOError:
                written = 0
            if written < sum(map(len, wire)):
                self._unsent = b"".join(remaining_after(wire, written))
                self.committed = sum(map(len, batch))
                return pieces[at:]
        return pieces[_MOST_SLICES:]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt the data and write it. If cancelled, nothing more can be sent."""
        if not self.is_open:
            await self.do_handshake()
        begun = min(self.committed, len(data))
        if begun:
            await self._write_unsent()
            self.committed -= begun
        rest = memoryview(data)[begun:]
        for piece in _slices(rest) or [rest]:  # TLS may have something to say, even if we have not
            self._unsent += self.encrypt(piece)
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

        What is unsent, and close_notify, precede that if no other task is sending, as far as the
        socket takes them without waiting.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, without a checkpoint."""
        self._end_tls()
        self._write_now()
        shut_down(self.transport_stream)
        self.transport_stream.socket.close()

    def _end_tls(self) -> None:
        if self.is_open:
            # It wants the peer's close_notify at once; or TLS is broken.
            with contextlib.suppress(ssl.SSLError):
                self.ssl_object.unwrap()

    async def _write_unsent(self) -> None:
        """Write what is unsent and what the engine says. If cancelled, the next call goes on."""
        unsent = memoryview(self._unsent + self._outgoing.read())
        sent = 0
        self._is_writing = True
        try:
            while sent < len(unsent):
                sent += await self.transport_stream.socket.send(unsent[sent:])
                if sent == len(unsent) and self._outgoing.pending:
                    unsent = memoryview(self._outgoing.read())  # answered meanwhile
                    sent = 0
        finally:
            self._unsent = bytes(unsent[sent:])
            self._is_writing = False

    def _write_now(self) -> None:
        """The same, as far as the socket takes it at once."""
        if self._is_writing:
            return  # the peer could not read what came twice, or within a record
        self._unsent += self._outgoing.read()
        sock = self.transport_stream.socket
        if self._unsent and is_kernel_socket(sock) and sock.fileno() != -1:
            # If it is full, or broken, the task that reads it learns why.
            with contextlib.suppress(OSError), Borrowed(sock) as non_blocking:
                self._unsent = self._unsent[non_blocking.send(self._unsent) :]


def _error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.library, error.reason = "SSL", reason  # as those of OpenSSL have them
    return error


def _slices(data: bytes | bytearray | memoryview) -> list[memoryview]:
    """The data, in parts as OpenSSL gets it."""
    view = memoryview(data)
    return [view[start : start + _SLICE] for start in range(0, len(view), _SLICE)]


def remaining_after(chunks: Sequence[bytes], size: int) -> list[bytes | memoryview]:
    """What is left of the chunks when so many bytes of them are written."""
    rest: list[bytes | memoryview] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(memoryview(chunk)[size:])
        size = max(0, size - len(chunk))
    return rest
