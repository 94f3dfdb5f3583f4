"""The open connection (RFC 6455, 5 to 7): bytes in, events out; bytes out for what is to be sent.

wsproto is the engine and the judge. It gets the bytes of one frame at a time, so that between two
frames every byte that is not decoded yet is still here. There, a whole, final, unextended data
frame is decoded on a fast path, without wsproto, which spends most of the time of a message.

States are told by facts: the connection is open until a Close frame was sent or received, or an
error came; it has ended when Close frames went both ways, or an error came.
"""

from __future__ import annotations

import enum
import io
import math
import os
from typing import TYPE_CHECKING

from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import XorMaskerSimple
from wsproto.utilities import RemoteProtocolError

from ._errors import CloseReason, ConnectionClosed

if TYPE_CHECKING:
    import wsproto
    from typing_extensions import TypeAlias

    from ._options import Options


class Signal(enum.Enum):
    """What there may be instead of an event."""

    #: All that was received is decoded.
    NEED_DATA = enum.auto()
    #: A part of a message was decoded; there may be more.
    PROGRESS = enum.auto()
    #: The connection has ended. `Protocol.take_farewell` has the last bytes to send.
    ENDED = enum.auto()


NEED_DATA = Signal.NEED_DATA
PROGRESS = Signal.PROGRESS
ENDED = Signal.ENDED

Event: TypeAlias = "str | bytes | Ping | Pong | Signal"

_CONTINUATION, _TEXT, _BINARY = 0x0, 0x1, 0x2
_CONTROL = 0x8
_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA
_FINAL = 0x80
_FINAL_CONTROL = frozenset({_FINAL | _CLOSE, _FINAL | _PING, _FINAL | _PONG})
_MASKED = 0x80
_NO_STATUS = 1005
_ABNORMAL = 1006
_TOO_BIG = 1009
# The registered code that wsproto does not know, and one that it does.
_UNKNOWN_TO_WSPROTO, _STAND_IN = 1014, 1013
# From this size on, wsproto's byte tables mask faster than one long integer operation.
_LARGE = 1024


class Protocol:
    """One side of an open connection."""

    def __init__(self, ws: wsproto.WSConnection, options: Options, *, fast: bool = True) -> None:
        """
        :param ws: The state machine, at the beginning of an open connection.
        :param options: The bounds.
        :param fast: Whether to take the fast path; without it wsproto decodes every frame.
        """
        self._ws = ws
        self._fast = fast and options.max_fragments >= 1
        self._max_message_size = options.max_message_size
        self._max_fragments = options.max_fragments
        self._expected_mask = 0 if ws.client else _MASKED
        #: The Close frame that was sent, received; the error that ended the connection.
        self.sent: CloseReason | None = None
        self.rcvd: CloseReason | None = None
        self.error: Exception | None = None
        #: The error of a write, which says more than the end of the stream that follows.
        self.write_error: Exception | None = None
        self._farewell = b""
        self._buffer = b""
        self._at = 0  # what precedes it in the buffer is decoded
        self._eof: Exception | None = None
        # The frame under way in wsproto: what it still lacks.
        self._frame_left: float = 0
        # The message under way in wsproto: its frames, the size they announced, its payload.
        self._fragments = 0
        self._size = 0
        self._text = io.StringIO()
        self._binary = bytearray()
        self._code_behind_stand_in: int | None = None

    # -- facts

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self.sent is None and self.rcvd is None and self.error is None

    @property
    def ended(self) -> bool:
        """Whether nothing more will be sent or received."""
        return self.error is not None or (self.sent is not None and self.rcvd is not None)

    @property
    def undecoded(self) -> int:
        """How many bytes were received and not decoded."""
        return len(self._buffer) - self._at

    @property
    def has_eof(self) -> bool:
        """Whether the end of the stream was received."""
        return self._eof is not None

    @property
    def reason(self) -> CloseReason | None:
        """Why the connection is closed, or None while it is open.

        Who answers a Close repeats it, so that what was sent is the first that was said.
        """
        if self.error is not None and self.sent is None and self.rcvd is None:
            return CloseReason(_ABNORMAL, str(self.error) or type(self.error).__name__)
        return self.sent or self.rcvd

    def closed_error(self) -> ConnectionClosed:
        """The exception for whoever uses the connection now."""
        exc = ConnectionClosed(self.reason, rcvd=self.rcvd, sent=self.sent)
        exc.__cause__ = self.error
        return exc

    # -- sending

    def message(self, is_text: bool, payload: bytes) -> bytes:
        """The frame of a whole message."""
        return self._frame(_TEXT if is_text else _BINARY, payload)

    def ping(self, payload: bytes) -> bytes:
        """The frame of a Ping."""
        return self._ws.send(Ping(payload=payload))

    def pong(self, payload: bytes) -> bytes:
        """The frame of a Pong."""
        return self._ws.send(Pong(payload=payload))

    def close(self, code: int, reason: str | None) -> bytes:
        """The frame that begins or completes the closing handshake; code 1005 stands for none."""
        self.sent = CloseReason(code, reason)
        none = code == _NO_STATUS
        event = CloseConnection(code=None if none else code, reason=reason)  # type: ignore[arg-type] # a Close frame without a code, which wsproto can write
        return self._ws.send(event)

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        length = len(payload)
        mask = self._expected_mask ^ _MASKED  # the peer expects what we don't
        if length < 126:
            head = bytes((_FINAL | opcode, mask | length))
        elif length < 0x10000:
            head = bytes((_FINAL | opcode, mask | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((_FINAL | opcode, mask | 127)) + length.to_bytes(8, "big")
        if not mask:
            return head + payload
        key = os.urandom(4)  # unpredictable (RFC 6455, 5.3)
        return head + key + _masked(payload, key)

    # -- receiving

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer = self._buffer[self._at :] + data if self.undecoded else data
        self._at = 0

    def receive_eof(self, cause: Exception | None = None) -> None:
        """Take the end of the stream, or its failure, which comes after what was received."""
        self._eof = (
            cause
            or self.write_error
            or EOFError("the peer ended the connection without a Close frame")
        )

    def give_up(self, code: int, text: str, cause: Exception) -> None:
        """End a connection that is open with a Close that nobody is expected to answer."""
        self._farewell = self.close(code, text)
        self.error = cause

    def lose(self, cause: Exception) -> None:
        """The connection is gone, whatever was received."""
        if not self.ended:
            self.error = cause

    def next_event(self) -> Event:
        """Decode one message or control frame.

        After our Close, the only events are Pongs and the end.
        """
        if self.ended:
            return ENDED
        if self._fast and not self._frame_left and not self._fragments:
            message = self._whole_frame()
            if message is not None:
                return message if self.sent is None else PROGRESS
        size = self._next_piece()
        if size:
            return self._feed(size)
        if self.ended:
            return ENDED
        if self._eof is None:
            return NEED_DATA
        self.error = self._eof
        return ENDED

    def take_farewell(self) -> bytes:
        """What is to be sent at the end: a Close frame, or nothing."""
        data, self._farewell = self._farewell, b""
        return data

    def _whole_frame(self) -> str | bytes | None:
        """Decode a frame that is whole, final, without extension, valid, and within the limit."""
        buffer, at = self._buffer, self._at
        available = len(buffer) - at
        if available < 2:
            return None
        opcode = buffer[at] ^ _FINAL  # anything but FIN and an opcode makes it another number
        length = buffer[at + 1] ^ self._expected_mask
        if opcode not in (_TEXT, _BINARY) or length > 127:
            return None
        start = at + 2
        if length == 126:
            length = int.from_bytes(buffer[start : start + 2], "big")
            start += 2
            if length < 126:
                return None
        elif length == 127:
            length = int.from_bytes(buffer[start : start + 8], "big")
            start += 8
            if length < 0x10000:
                return None
        if self._expected_mask:
            key = buffer[start : start + 4]
            start += 4
        end = start + length
        if end > len(buffer) or length > self._max_message_size:
            return None
        payload = buffer[start:end]
        if self._expected_mask:
            payload = _masked(payload, key)
        if opcode == _TEXT:
            try:
                message: str | bytes = payload.decode()
            except UnicodeDecodeError:
                return None
        else:
            message = payload
        self._at = end
        return message

    def _next_piece(self) -> int:
        """How many bytes wsproto gets next: none of two frames, and no part of a control frame.

        A control frame is held back until it is whole because its Close code may need a look.
        """
        available = self.undecoded
        if self._frame_left:
            size = int(min(self._frame_left, available))
            self._frame_left -= size
            return size
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2:
            return 0
        if not self._begins_well(head):
            self._frame_left = math.inf  # it is for wsproto to say what is wrong
            return available
        head_size, length = _sizes(head)
        if length is None:
            return 0
        opcode = head[0] & 0x0F
        if opcode & _CONTROL:
            if available < head_size + length:
                return 0
            if opcode == _CLOSE and length >= 2:
                self._replace_unknown_code(head, head_size)
            return head_size + length
        is_in_order = (opcode == _CONTINUATION) == bool(self._fragments)
        self._fragments += 1
        self._size += length
        if is_in_order and self.sent is None and not self._within_limits:
            self._refuse_message(head, head_size)
            return 0
        self._frame_left = head_size + length
        return self._next_piece()

    def _begins_well(self, head: bytes) -> bool:
        """Whether the first two bytes are those of a frame that may come (RFC 6455, 5.2)."""
        if head[1] & _MASKED != self._expected_mask:
            return False
        if head[0] & 0x7F in (_CONTINUATION, _TEXT, _BINARY):
            return True
        return head[0] in _FINAL_CONTROL and head[1] & 0x7F <= 125

    @property
    def _within_limits(self) -> bool:
        return self._size <= self._max_message_size and self._fragments <= self._max_fragments

    def _refuse_message(self, head: bytes, head_size: int) -> None:
        if head[1] & 0x7F > 125:
            # Its length may be written in a wrong way; that counts for more, as wsproto says.
            self._feed(min(head_size, self.undecoded))
        if not self.ended:
            what = "size" if self._size > self._max_message_size else "number of fragments"
            self._fail(_TOO_BIG, f"the message is over the limit on its {what}")

    def _replace_unknown_code(self, head: bytes, size: int) -> None:
        """Show wsproto a code that it knows in place of 1014, registered after it was written."""
        start = self._at + size
        code = self._buffer[start : start + 2]
        if head[1] & _MASKED:
            code = _masked(code, head[size - 4 : size])
        if int.from_bytes(code, "big") == _UNKNOWN_TO_WSPROTO:
            self._code_behind_stand_in = _UNKNOWN_TO_WSPROTO
            frames = bytearray(self._buffer)
            frames[start + 1] ^= _UNKNOWN_TO_WSPROTO ^ _STAND_IN  # masked or not
            self._buffer = bytes(frames)

    def _feed(self, size: int) -> Event:
        """Give wsproto the next bytes. They are of one frame, so that there is one event at most.

        (Or of what begins with a bad frame, which has one event, too.)
        """
        self._ws.receive_data(self._buffer[self._at : self._at + size])
        self._at += size
        for event in self._ws.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._join(event)
                if message is not None:
                    return message
            elif isinstance(event, CloseConnection):
                self._receive_close(event)
                return ENDED
            elif isinstance(event, Pong) or self.sent is None:
                assert isinstance(event, (Ping, Pong))
                return event
        return PROGRESS

    def _join(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        if event.message_finished:
            self._fragments = self._size = 0
        if self.sent is not None:
            return None  # nobody will read it
        if isinstance(event, TextMessage):
            self._text.write(event.data)
        else:
            self._binary += event.data
        if not event.message_finished:
            return None
        message: str | bytes
        if isinstance(event, TextMessage):
            message = self._text.getvalue()
            self._text = io.StringIO()
        else:
            message = bytes(self._binary)
            self._binary = bytearray()
        return message

    def _receive_close(self, event: CloseConnection) -> None:
        if self._ws.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # No Close frame, but wsproto's verdict: it leaves its state as it was.
            self._fail(int(event.code), event.reason or "")
            return
        code = self._code_behind_stand_in or int(event.code)
        self.rcvd = CloseReason(code, event.reason or None)
        if self.sent is None:
            self._farewell = self.close(code, event.reason or None)

    def _fail(self, code: int, text: str) -> None:
        """Fail the connection (RFC 6455, 7.1.7)."""
        if self.sent is None:
            self._farewell = self.close(code, text)
        self.error = RemoteProtocolError(text)


def _sizes(head: bytes) -> tuple[int, int | None]:
    """The sizes of a frame's head and payload; the latter is None if the head has not told it."""
    length = head[1] & 0x7F
    size = 2
    if length > 125:
        size = 4 if length == 126 else 10
        if len(head) < size:
            return size, None
        length = int.from_bytes(head[2:size], "big")
    return size + (4 if head[1] & _MASKED else 0), length


def _masked(payload: bytes, key: bytes) -> bytes:
    """The payload masked, or unmasked, with the key (RFC 6455, 5.3)."""
    size = len(payload)
    if size >= _LARGE:
        return bytes(XorMaskerSimple(key).process(bytearray(payload)))
    keys = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return number.to_bytes(size, "big")
