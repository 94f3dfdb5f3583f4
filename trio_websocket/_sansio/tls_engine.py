"""TLS without a socket: plaintext in, ciphertext out, and the reverse.

How it works
============

An `ssl.SSLObject` is OpenSSL's state of one connection. It does no input or output. It takes
ciphertext from one `ssl.MemoryBIO` and puts ciphertext into another; a BIO is a queue of bytes in
memory. The engine owns all three. Its owner, `TlsStream`, carries ciphertext between the engine and
the socket.

**Records.** TLS sends records of at most 16 KiB, each with a head of five bytes that holds its
length. OpenSSL decrypts whole records only, and in one call it works through everything in its
input BIO. A record with a key update and no data costs as much as a full one. So 64 KiB of short
records would take tens of milliseconds. The engine therefore reads the heads itself
and hands over `TLS_RECORDS_PER_STEP` whole records per step. The rest waits in `_queued`. While
`has_more` is true, the owner lets other tasks run, then calls `feed_again`, and doesn't read from
the socket. The last record goes to OpenSSL even if it is incomplete, so that `_queued` never holds
more than one read returned. `_missing` is the number of bytes which that record lacks.

**The handshake** takes one or two round trips. `do_handshake` is called with each chunk of
ciphertext until `is_open`. Each call may produce ciphertext, even a call that raises: then it is
the alert that tells the peer the reason. After the handshake of TLS 1.3, a server has session
tickets to send. They should wait for its first data: a client that has left by then would answer
them with a reset, which would destroy data that is still unread.

**Reading and writing never wait for each other.** With a socket, OpenSSL may need to read in order
to write, and the reverse, because of renegotiation: either side of TLS 1.2 could start a new
handshake at any time. Data could not be encrypted until that ended, so a sender would have to wait
for the peer. TLS 1.3 has no renegotiation, browsers refuse it, and peers have used it to exhaust
servers. Here a request to renegotiate is a fault that ends the connection. That leaves four rules:

- `encrypt` always succeeds at once, and all of its output exists when it returns. The BIO grows as
  needed. Nothing is ever retried with the same data, as OpenSSL's manual demands after a write that
  failed half-way, since with a BIO in memory no write does.
- `feed` may need more ciphertext, but never needs us to send something first.
- `feed` may produce ciphertext: the answer to a KeyUpdate, or our certificate if a server of
  TLS 1.3 asks for it late. `must_send` is true then. The owner sends it between two records of
  data, and reads on without waiting for that. If the socket is full, answers collect in the output
  BIO, up to `TLS_UNSENT_ANSWER_BYTES`. More is a fault.
- Ciphertext leaves in the order in which it was made. Each record has a number that both sides
  count, so that one byte lost, repeated or out of order ends the connection. Once data is
  encrypted, it must be sent. So nothing is encrypted long before it is written, and a message
  can be dropped only while it is plaintext.

**The end.** close_notify is TLS's own end of one direction. `send_close_notify` makes it, and does
not wait for the peer's. The peer's sets `is_ended`; data after it is ignored, and we may still
send. If the socket ends without close_notify, an attacker may have cut off the end of the data
(a truncation attack). The engine treats that as an ordinary end: HTTP heads have lengths or end in
an empty line, and a WebSocket connection that ends without a Close frame is reported as lost.

**Faults.** A record that can't be decrypted ends the connection. Data of the records before it is
returned first; the fault is kept and raised by the next call, and by all later ones. Each call
raises a copy without a traceback. The traceback of a kept exception would refer to frames that
refer to the engine, and only the garbage collector could free such a cycle.
"""

from __future__ import annotations

import contextlib
import copy
import ssl

from .costs import TLS_CALL_BYTES, TLS_RECORDS_PER_STEP, TLS_UNSENT_ANSWER_BYTES

_MAX_PLAINTEXT = 2**14  # bytes in a record (RFC 8446, 5.1)
#: Bytes of the head of a record.
HEAD_SIZE = 5  # type, version, length (RFC 8446, 5.1)


class TlsEngine:
    """One side of a TLS connection, as ciphertext and plaintext in memory."""

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str | None, *, server_side: bool
    ) -> None:
        """
        :param context: The settings and certificates.
        :param server_hostname: For clients, the name or address of the server. It is sent to the
            server (SNI), and the server's certificate must be valid for it if the context demands
            that. It goes through `tls_name`.
        :param server_side: True if this side is the server.
        :raises ValueError: The context and the name don't go together. May be an `ssl.SSLError`.
        """
        if context.check_hostname and server_hostname is None and not server_side:
            raise ValueError("check_hostname of the context requires server_hostname")  # not of ssl
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: OpenSSL's part, which knows the certificates, the version and the cipher.
        self.ssl_object: ssl.SSLObject = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_hostname is None else tls_name(server_hostname),
        )
        #: True if the handshake is over.
        self.is_open = False
        #: True if no more plaintext will come: the peer sent close_notify, or the socket ended.
        self.is_ended = False
        #: True if `take_ciphertext` has something that must not wait for the next data.
        self.must_send = False

        # Ciphertext that was fed, and that OpenSSL has not got. It begins with a record's head.
        # If `_missing` is not 0, OpenSSL has got the beginning of a record and lacks that many
        # bytes, and `_queued` is empty.
        self._queued = b""
        self._missing = 0
        # The fault that ends the connection. Without a traceback, which would lead back to us.
        self._failure: ssl.SSLError | None = None

    @property
    def has_more(self) -> bool:
        """True if records wait for the next step: call `feed_again`, and don't read the socket."""
        return len(self._queued) >= HEAD_SIZE and not self.is_ended

    @property
    def is_drained(self) -> bool:
        """True if only more ciphertext can give plaintext, an end, or a fault."""
        if self._incoming.pending or self._failure is not None or self.has_more:
            return False
        return self.is_open and not self.is_ended

    def do_handshake(self, data: bytes) -> None:
        """Take the next step of the handshake. Send the ciphertext, even if this raises.

        :param data: Ciphertext from the socket. ``b""`` in the first call, and while `has_more`.
        :raises ssl.SSLCertVerificationError: The peer's certificate is not trusted.
        :raises ssl.SSLError: The two sides don't agree, or the peer does not speak TLS.
        """
        self._incoming.write(self._next_records(data))
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self.must_send = True
            return
        self.is_open = True
        # A server of TLS 1.3 has only session tickets left to send, which are not urgent.
        is_1_3_server = self.ssl_object.server_side and self.ssl_object.version() == "TLSv1.3"
        self.must_send = not is_1_3_server

    def feed(self, data: bytes) -> bytes | None:
        """Return the plaintext of data from the socket. In both, ``b""`` means the end.

        Call it only if not `has_more`.

        :returns: None if there is no plaintext yet: read more, unless `has_more`.
        :raises ssl.SSLError: There is no plaintext because of a fault in TLS.
        """
        if not data:
            self.is_ended = True  # perhaps without close_notify
        return self.decrypt(data) or (b"" if self.is_ended else None)

    def feed_again(self) -> bytes | None:
        """Return more plaintext of the data that was fed before, or the end or fault after it.

        :returns: As `feed`.
        :raises ssl.SSLError: As `feed`.
        """
        if self.is_drained:
            return None
        return self.decrypt(b"") or (b"" if self.is_ended else None)

    def decrypt(self, data: bytes) -> bytes:
        """Return the plaintext of one step, which may be empty: see also `is_ended`.

        :param data: Ciphertext from the socket; ``b""`` to continue with earlier data.
        :raises ssl.SSLError: There is no plaintext because of a fault in TLS.
        """
        chunks: list[bytes] = []
        records = self._next_records(data)
        if len(records) <= TLS_CALL_BYTES:
            self._decrypt(records, chunks)
        else:
            for piece in tls_slices(records):
                self._decrypt(piece, chunks)
        if not chunks and self._failure is not None:
            raise copy.copy(self._failure)
        return b"".join(chunks)

    def _next_records(self, data: bytes) -> bytes | memoryview:
        """Return the records of the next step, and queue the rest of them.

        The last record may be incomplete, but a head that is incomplete stays in the queue.
        """
        data = self._queued + data
        end, self._missing = end_of_step(data, self._missing)
        self._queued = data[end:]
        return data if end >= len(data) else memoryview(data)[:end]

    def _decrypt(self, data: bytes | memoryview, chunks: list[bytes]) -> None:
        if self.is_ended or self._failure is not None:
            return
        pending = self._outgoing.pending  # session tickets, which go with the first data
        self._incoming.write(data)
        try:
            while True:
                chunk = self.ssl_object.read(_MAX_PLAINTEXT)
                if not chunk:
                    self.is_ended = True  # close_notify
                    break
                chunks.append(chunk)
                if not self._incoming.pending:
                    break  # cheaper than an exception that says so
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        except ssl.SSLError as exc:
            self._failure = exc.with_traceback(None)
        if self._outgoing.pending > pending and self._failure is None:
            self._check_answer()

    def _check_answer(self) -> None:
        """Have an answer sent, or fail the connection if the peer asks for too much."""
        if self.ssl_object.version() != "TLSv1.3":
            # Nothing could be encrypted until the renegotiation is over.
            self._failure = _error("the peer asked to renegotiate TLS")
        elif self._outgoing.pending > TLS_UNSENT_ANSWER_BYTES:
            self._failure = _error("too many requests for new TLS keys")
        else:
            self.must_send = True

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the ciphertext of the data, after the answers of TLS itself.

        The handshake must be over. The caller sends all of it, in the order of the calls.

        :param data: With ``b""``, only the answers of TLS itself are returned. The data may follow
            them without delay (RFC 8446, 4.6.3).
        :raises ssl.SSLError: TLS has failed, or our side has ended.
        """
        assert self.is_open
        if self._failure is not None:
            raise copy.copy(self._failure)
        if data:
            self.ssl_object.write(data)  # always complete, because it writes to memory
        self.must_send = False
        return self._outgoing.read()

    def take_ciphertext(self) -> bytes:
        """Return the answers of TLS itself, at any time. The caller sends all of them."""
        self.must_send = False
        return self._outgoing.read()

    def has_ciphertext(self) -> bool:
        """Return True if `take_ciphertext` has something."""
        return bool(self._outgoing.pending)

    def send_close_notify(self) -> None:
        """End our side: see `take_ciphertext`. Does nothing if TLS has failed."""
        # It raises because the peer's close_notify has not arrived, or because TLS has failed.
        with contextlib.suppress(ssl.SSLError):
            self.ssl_object.unwrap()


def _error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.library, error.reason = "SSL", reason  # OpenSSL's errors have these attributes
    return error


def end_of_step(data: bytes, missing: int) -> tuple[int, int]:
    """Find the end of the records that OpenSSL may get in one step.

    The last record may be incomplete, but a head that is incomplete is left out.

    :param data: Ciphertext. The rest of a record, and then the heads of others.
    :param missing: The size of that rest.
    :returns: The end of the step in the data, and the number of bytes that the last record lacks.
        If it lacks any, the end is at or after the end of the data.
    """
    size, end = len(data), missing
    for _ in range(TLS_RECORDS_PER_STEP):
        if end + HEAD_SIZE > size:
            break
        end += HEAD_SIZE + (data[end + 3] << 8 | data[end + 4])
    return end, max(0, end - size)


def tls_name(host: str) -> str:
    """Return a host without a final dot and without the zone of an IPv6 address.

    TLS and certificates have neither (RFC 6066, 3; RFC 6874, 4).
    """
    name = host.partition("%")[0]
    return name[:-1] if name.endswith(".") else name


def tls_slices(data: bytes | bytearray | memoryview) -> list[memoryview]:
    """Split the data into parts for one call of OpenSSL each. Return an empty list for no data."""
    view = memoryview(data)
    return [view[at : at + TLS_CALL_BYTES] for at in range(0, len(view), TLS_CALL_BYTES)]
