"""TLS without a socket: plaintext in, ciphertext out, and the reverse.

How it works
============

An `ssl.SSLObject` holds OpenSSL's state for one connection. It does no I/O: it reads ciphertext
from one `ssl.MemoryBIO` and writes ciphertext to another. A BIO is a queue of bytes in memory. The
engine owns all three objects. The engine's owner, `TlsStream`, moves ciphertext between the engine
and the socket.

**Records.** TLS sends records of at most 16 KiB, each with a five-byte head that contains its
length. OpenSSL decrypts only complete records, and one call processes everything in its input BIO.
A record that contains a key update and no data costs as much as a full one. So 64 KiB of short
records would take tens of milliseconds. Therefore the engine parses the heads itself, and passes
`TLS_RECORDS_PER_STEP` complete records per step to OpenSSL. The rest stays in `_queued`. While
`has_more` is true, the owner doesn't read from the socket; it lets other tasks run and calls
`feed_again`. The last record is passed to OpenSSL even if it is incomplete, so `_queued` never
contains more bytes than one read returned. `_missing` is the number of bytes that are missing from
that record.

**The handshake** takes one or two round trips. The owner calls `do_handshake` with each chunk of
ciphertext until `is_open` is true. Each call can produce ciphertext. If the call raises, that
ciphertext is the alert that tells the peer the reason. After a TLS 1.3 handshake, a server has
session tickets to send. They are sent with its first data. If they were sent immediately, a client
that had already closed the connection would respond with a reset, which would destroy unread data.

**Reading and writing never wait for each other.** With a socket, OpenSSL may need to read in order
to write, and vice versa, because of renegotiation: in TLS 1.2, either side could start a new
handshake at any time. No data could be encrypted until that handshake ended, so a sender would have
to wait for the peer. TLS 1.3 has no renegotiation, browsers refuse it, and attackers have used it
to exhaust servers. Here, a request to renegotiate is a fault that ends the connection. That leaves
four rules:

- `encrypt` always succeeds immediately, and returns all of its output. The BIO grows as needed.
  OpenSSL's manual requires that a partially completed write be retried with the same data. A
  memory BIO has no partial writes, so nothing is ever retried.
- `feed` may need more ciphertext, but it never requires that something be sent first.
- `feed` may produce ciphertext: the reply to a KeyUpdate, or this side's certificate if a TLS 1.3
  server requests it after the handshake. Then `must_send` is true. The owner sends this ciphertext
  between two records of data, and continues to read in the meantime. If the socket's buffer is
  full, replies accumulate in the output BIO, up to `TLS_UNSENT_ANSWER_BYTES`. More than that is a
  fault.
- Ciphertext is sent in the order in which it was produced. Both sides number the records, so a
  single byte that is lost, repeated or out of order ends the connection. Encrypted data must be
  sent. So nothing is encrypted long before it is written, and a message can be dropped only while
  it is still plaintext.

**The end.** A close_notify alert ends one direction of a TLS connection. `send_close_notify`
produces it, and does not wait for the peer's. The peer's close_notify sets `is_ended`; any data
after it is ignored, but this side can still send. If the socket ends without close_notify, an
attacker may have cut off the end of the data (a truncation attack). The engine treats that as an
ordinary end: the layers above detect missing data. HTTP heads have lengths or end with an empty
line, and a WebSocket connection that ends without a Close frame is reported as lost.

**Faults.** A record that can't be decrypted ends the connection. The data from the records before
it is returned first; the fault is stored, and raised by the next call and all later ones. Each call
raises a copy without a traceback. The traceback of a stored exception would refer to stack frames
that refer to the engine, and only the garbage collector could free such a cycle.
"""

from __future__ import annotations

import contextlib
import copy
import ssl

from .costs import TLS_CALL_BYTES, TLS_RECORDS_PER_STEP, TLS_UNSENT_ANSWER_BYTES

_MAX_PLAINTEXT = 2**14  # bytes in a record (RFC 8446, 5.1)
#: The size of a record's head in bytes.
HEAD_SIZE = 5  # type, version, length (RFC 8446, 5.1)


class TlsEngine:
    """One side of a TLS connection, with ciphertext and plaintext in memory."""

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str | None, *, server_side: bool
    ) -> None:
        """
        :param context: The settings and certificates.
        :param server_hostname: For clients, the server's name or address. It is sent to the server
            (SNI), and if the context demands it, the server's certificate must be valid for it. It
            is passed through `tls_name`.
        :param server_side: True if this side is the server.
        :raises ValueError: The context and the name are incompatible. The exception can also be an
            `ssl.SSLError`.
        """
        if context.check_hostname and server_hostname is None and not server_side:
            raise ValueError("check_hostname of the context requires server_hostname")  # not of ssl
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: OpenSSL's object, which provides the certificates, the TLS version and the cipher.
        self.ssl_object: ssl.SSLObject = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_hostname is None else tls_name(server_hostname),
        )
        #: True once the handshake is complete.
        self.is_open = False
        #: True if no more plaintext will arrive: the peer sent close_notify, or the socket ended.
        self.is_ended = False
        #: True if `take_ciphertext` would return bytes that must not wait for the next data.
        self.must_send = False

        # Ciphertext that has not been passed to OpenSSL yet. It begins with a record's head.
        # If `_missing` is not 0, OpenSSL has the beginning of a record and needs that many more
        # bytes to complete it, and `_queued` is empty.
        self._queued = b""
        self._missing = 0
        # The fault that ended the connection. It has no traceback, which would refer to the engine.
        self._failure: ssl.SSLError | None = None

    @property
    def has_more(self) -> bool:
        """True if records are queued: call `feed_again` instead of reading from the socket."""
        return len(self._queued) >= HEAD_SIZE and not self.is_ended

    @property
    def is_drained(self) -> bool:
        """True if there is no plaintext, end or fault to report without more ciphertext."""
        if self._incoming.pending or self._failure is not None or self.has_more:
            return False
        return self.is_open and not self.is_ended

    def do_handshake(self, data: bytes) -> None:
        """Do the next step of the handshake. Send the ciphertext, even if this raises.

        :param data: Ciphertext from the socket. Pass ``b""`` in the first call, and as long as
            `has_more` is true.
        :raises ssl.SSLCertVerificationError: The peer's certificate is not trusted.
        :raises ssl.SSLError: The two sides can't agree on parameters, or the peer does not speak
            TLS.
        """
        self._incoming.write(self._next_records(data))
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self.must_send = True
            return
        self.is_open = True
        # A TLS 1.3 server has only session tickets left to send, which are not urgent.
        is_1_3_server = self.ssl_object.server_side and self.ssl_object.version() == "TLSv1.3"
        self.must_send = not is_1_3_server

    def feed(self, data: bytes) -> bytes | None:
        """Decrypt data from the socket. In the argument and in the result, ``b""`` means the end.

        Don't call this while `has_more` is true.

        :returns: The plaintext, or None if there is none yet. Then call `feed_again` if `has_more`
            is true, or else read more from the socket.
        :raises ssl.SSLError: There is no plaintext because of a fault in TLS.
        """
        if not data:
            self.is_ended = True  # perhaps without close_notify
        return self.decrypt(data) or (b"" if self.is_ended else None)

    def feed_again(self) -> bytes | None:
        """Continue with the data passed to `feed`: return more plaintext, an end, or a fault.

        :returns: The same as `feed`.
        :raises ssl.SSLError: The same as `feed`.
        """
        if self.is_drained:
            return None
        return self.decrypt(b"") or (b"" if self.is_ended else None)

    def decrypt(self, data: bytes) -> bytes:
        """Do one step of decrypting, and return its plaintext, which may be empty.

        If the plaintext is empty, check `is_ended`.

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
        """Return the records for the next step, and queue the rest.

        The last record may be incomplete, but an incomplete head stays in the queue.
        """
        data = self._queued + data
        end, self._missing = end_of_step(data, self._missing)
        self._queued = data[end:]
        return data if end >= len(data) else memoryview(data)[:end]

    def _decrypt(self, data: bytes | memoryview, chunks: list[bytes]) -> None:
        if self.is_ended or self._failure is not None:
            return
        pending = self._outgoing.pending  # session tickets, which are sent with the first data
        self._incoming.write(data)
        try:
            while True:
                chunk = self.ssl_object.read(_MAX_PLAINTEXT)
                if not chunk:
                    self.is_ended = True  # close_notify
                    break
                chunks.append(chunk)
                if not self._incoming.pending:
                    break  # cheaper than another call, which would raise SSLWantReadError
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        except ssl.SSLError as exc:
            self._failure = exc.with_traceback(None)
        if self._outgoing.pending > pending and self._failure is None:
            self._check_answer()

    def _check_answer(self) -> None:
        """Set `must_send` for TLS's own reply, or fail the connection if the peer asks too much."""
        if self.ssl_object.version() != "TLSv1.3":
            # Nothing could be encrypted until the end of the renegotiation.
            self._failure = _error("the peer asked to renegotiate TLS")
        elif self._outgoing.pending > TLS_UNSENT_ANSWER_BYTES:
            self._failure = _error("too many requests for new TLS keys")
        else:
            self.must_send = True

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Encrypt the data, and return the ciphertext, preceded by TLS's own replies.

        The handshake must be complete. The caller must send all of the ciphertext, in the order of
        the calls.

        :param data: The data; ``b""`` to get only TLS's own replies. The data can follow the
            replies without delay (RFC 8446, 4.6.3).
        :raises ssl.SSLError: TLS has failed, or this side has sent close_notify.
        """
        assert self.is_open
        if self._failure is not None:
            raise copy.copy(self._failure)
        if data:
            self.ssl_object.write(data)  # never a partial write, because it writes to memory
        self.must_send = False
        return self._outgoing.read()

    def take_ciphertext(self) -> bytes:
        """Return TLS's own messages, all of which the caller must send. Callable at any time."""
        self.must_send = False
        return self._outgoing.read()

    def has_ciphertext(self) -> bool:
        """Return True if `take_ciphertext` would return any bytes."""
        return bool(self._outgoing.pending)

    def send_close_notify(self) -> None:
        """Produce a close_notify for `take_ciphertext`. Does nothing if TLS has failed."""
        # unwrap() raises if the peer's close_notify has not arrived, or if TLS has failed.
        with contextlib.suppress(ssl.SSLError):
            self.ssl_object.unwrap()


def _error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, reason)
    error.library, error.reason = "SSL", reason  # errors from OpenSSL have these attributes
    return error


def end_of_step(data: bytes, missing: int) -> tuple[int, int]:
    """Find the end of the records that OpenSSL can process in one step.

    The last record may be incomplete, but an incomplete head is left out.

    :param data: The ciphertext: the rest of an incomplete record, and then further records.
    :param missing: The number of bytes in that rest.
    :returns: The offset where the step ends, and the number of bytes that are missing from the last
        record. If any are missing, the offset is at or after the end of the data.
    """
    size, end = len(data), missing
    for _ in range(TLS_RECORDS_PER_STEP):
        if end + HEAD_SIZE > size:
            break
        end += HEAD_SIZE + (data[end + 3] << 8 | data[end + 4])
    return end, max(0, end - size)


def tls_name(host: str) -> str:
    """Return a host without a trailing dot and without the zone of an IPv6 address.

    TLS and certificates use neither (RFC 6066, 3; RFC 6874, 4).
    """
    name = host.partition("%")[0]
    return name[:-1] if name.endswith(".") else name


def tls_slices(data: bytes | bytearray | memoryview) -> list[memoryview]:
    """Split the data into parts, each for one call of OpenSSL. Return an empty list for no data."""
    view = memoryview(data)
    return [view[at : at + TLS_CALL_BYTES] for at in range(0, len(view), TLS_CALL_BYTES)]
