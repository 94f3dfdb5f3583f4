"""An open connection without I/O (RFC 6455, 5 to 7): bytes in, events out, and the reverse.

`Protocol` combines four parts. The `FrameReader` decodes bytes into frames, and the
`MessageAssembler` assembles frames into messages and chunks. The `FrameWriter` builds the frames
that this side sends. The `ClosingHandshake` holds the connection's state.

If the peer violates the protocol, the parts raise `ViolationError`. Only this module catches it,
and fails the connection.
"""

from __future__ import annotations

import contextlib

from wsproto.connection import ConnectionType
from wsproto.utilities import RemoteProtocolError

from .assembler import MessageAssembler
from .closing import ClosingHandshake, State
from .deflate import DeflateExtension
from .errors import CloseCode, CloseReason
from .events import ENDED, NEED_DATA, Event, ViolationError
from .frame_reader import FrameReader
from .frame_writer import FrameWriter
from .frames import cut_reason
from .options import Options

_CLOSED = State.CLOSED


class Protocol:
    """One side of a connection after the opening handshake."""

    __slots__ = ("_final_bytes", "_write_error", "assembler", "closing", "reader", "writer")

    def __init__(
        self,
        side: ConnectionType,
        options: Options,
        extension: DeflateExtension | None = None,
        *,
        fast: bool = True,
        state: State = State.OPEN,
    ) -> None:
        """
        :param side: This side.
        :param options: The options that set the limits.
        :param extension: The negotiated compression, or None.
        :param fast: False to decode every frame with wsproto.
        :param state: The initial state: CONNECTING or OPEN.
        """
        #: The connection's state, and how it ended.
        self.closing: ClosingHandshake = ClosingHandshake(state)
        #: Builds frames.
        self.writer: FrameWriter = FrameWriter(side, options, extension)
        #: Assembles messages.
        self.assembler: MessageAssembler = MessageAssembler(self.closing, options)
        #: Decodes frames.
        self.reader: FrameReader = FrameReader(
            side,
            extension,
            self.closing,
            self.assembler,
            is_fast=fast and options.max_fragments >= 1,
        )
        self._final_bytes = b""
        self._write_error: Exception | None = None

    # -- receiving

    def receive(self, data: bytes) -> None:
        """Buffer bytes received from the peer; ``b""`` means the end of the stream."""
        if data:
            self.reader.receive_data(data)
        else:
            self.receive_eof()

    def receive_eof(self, cause: Exception | None = None) -> None:
        """Record that the stream has ended or failed after the received bytes.

        :param cause: The error that ended the stream, or None if it ended normally.
        """
        # The error from a write says more than the end of the stream that followed it.
        text = "the peer ended the connection without a Close frame"
        self.reader.receive_eof(cause or self._write_error or EOFError(text))

    def note_write_error(self, exc: Exception | None) -> None:
        """Store the error from a write. If the stream then ends, this error is the reason."""
        self._write_error = exc

    def next_event(self, *, raw: bool = False, is_awaited: bool = True) -> Event:
        """Decode one message, one chunk of a message, or one control frame.

        After this side has sent a Close frame, the only events are Pongs and the end.

        :param raw: True to return text as UTF-8 bytes, which is faster.
        :param is_awaited: True if a task is waiting for a message. If False, a message that might
            exceed its limit is not decoded until a reader asks for it.
        """
        if self.closing.state is _CLOSED:
            return ENDED
        try:
            event = self.reader.next_event(raw=raw, is_awaited=is_awaited)
        except ViolationError as exc:
            self._fail(exc)
            return ENDED
        if isinstance(event, CloseReason):
            self._receive_close(event)
            return ENDED
        if event is NEED_DATA and self.reader.eof is not None:
            self.closing.lose(self.reader.eof)
            return ENDED
        return event

    def begin_stream(self, max_size: float | None = None) -> None:
        """Deliver the next message, or the rest of the current one, in chunks.

        :param max_size: The size limit for this message. It overrides `max_message_size`.
        """
        try:
            self.reader.begin_stream(max_size)
        except ViolationError as exc:
            self._fail(exc)

    def refuse_message(self, size: int, max_size: float) -> None:
        """Fail the connection because of a complete message that is too large.

        :param size: The size of the message in bytes.
        :param max_size: The limit that the caller of `receive_stream` set.
        """
        text = f"message of {size} bytes exceeds max_size={max_size}"
        self._fail(ViolationError(CloseCode.MESSAGE_TOO_BIG, text))

    # -- closing

    def start_close(self, code: int, reason: str | None) -> bytes:
        """Start the closing handshake (RFC 6455, 7.1.2); return the Close frame."""
        sent = _close_reason(code, reason)
        self.closing.start(sent)
        return self.writer.close(sent)

    def fail(self, code: int, text: str, cause: Exception) -> None:
        """Fail the connection (RFC 6455, 7.1.7). `take_final_bytes` returns the Close frame."""
        sent = _close_reason(code, text)
        if self.closing.fail(cause, sent):
            # Building the Close frame can fail if there is no memory.
            with contextlib.suppress(Exception):
                self._final_bytes = self.writer.close(sent)

    def take_final_bytes(self) -> bytes:
        """Return the last bytes to send, a Close frame or nothing, and clear them."""
        data, self._final_bytes = self._final_bytes, b""
        return data

    def _fail(self, violation: ViolationError) -> None:
        self.fail(violation.code, violation.text, RemoteProtocolError(violation.text))

    def _receive_close(self, rcvd: CloseReason) -> None:
        answer = _close_reason(rcvd.code, rcvd.reason)
        if self.closing.receive(rcvd, answer):
            self._final_bytes = self.writer.close(answer)


def _close_reason(code: int, text: str | None) -> CloseReason:
    return CloseReason(code, None if text is None else cut_reason(text))
