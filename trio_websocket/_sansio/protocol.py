"""The open connection (RFC 6455, 5 to 7): bytes in, events out; bytes out for what is to be sent.

wsproto is the judge. It gets the bytes of one frame at a time, so that between two frames every
byte that is not decoded yet is still here. There, a message of one frame, compressed or not, is
decoded on a fast path when the frame is whole; wsproto would take most of the time of a message.
"""

from __future__ import annotations

import contextlib
import enum
import io
import math
import sys
from typing import TYPE_CHECKING, NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from . import codec
from .closing import ClosingHandshake, State
from .deflate import DecompressedTooLarge, InvalidData
from .errors import CloseReason
from .frame_writer import FrameWriter
from .frames import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    CONTROL,
    FINAL,
    LARGE,
    MASKED,
    PING,
    PONG,
    TEXT,
    LargeFrame,
    check_utf8,
    cut_reason,
    is_shortest,
    sizes,
)

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from .deflate import DeflateExtension
    from .options import Options


class Signal(enum.Enum):
    """What there may be instead of an event."""

    #: All that was received is decoded.
    NEED_DATA = enum.auto()
    #: A part of a message was decoded; there may be more.
    PROGRESS = enum.auto()
    #: Likewise, and it took long, so that others are to run.
    BUSY = enum.auto()
    #: A message goes over the limit on its size. Whoever reads it decides what becomes of it.
    HELD = enum.auto()
    #: The connection has ended. `Protocol.take_final_bytes` has the last bytes to send.
    ENDED = enum.auto()


_OPEN = State.OPEN
NEED_DATA = Signal.NEED_DATA
PROGRESS = Signal.PROGRESS
BUSY = Signal.BUSY
HELD = Signal.HELD
ENDED = Signal.ENDED


class MessageChunk(NamedTuple):
    """A part of a message."""

    data: str | bytes
    is_last: bool


Event: TypeAlias = "str | bytes | MessageChunk | Ping | Pong | Signal"

_COMPRESSED = frozenset({FINAL | COMPRESSED | TEXT, FINAL | COMPRESSED | BINARY})
_FINAL_CONTROL = frozenset({FINAL | CLOSE, FINAL | PING, FINAL | PONG})
_PROTOCOL_ERROR = 1002
_INVALID_DATA = 1007
_TOO_BIG = 1009
# The registered code that wsproto does not know, and one that it does.
_UNKNOWN_TO_WSPROTO, _STAND_IN = 1014, 1013
# What inflates to more than a limit may not be decoded before somebody says what becomes of it; and
# what is given in pieces, or thrown away, takes little memory. DEFLATE makes 1032 bytes of one.
_MOST_INFLATED = 1032
# Compressed bytes that wsproto gets at once: so many that its own work is little beside inflating;
# and so few that what they inflate to takes little memory, where nothing else bounds it.
_PORTION, _SMALL_PORTION = 3 * 2**10, 2**9
# Bytes that are inflated in one step, which takes about half a millisecond. What is short, and may
# not become more than the default limit, is inflated in one step, whatever it is.
_STEP = 2**18 + 1
_SHORT, _MOST_OF_SHORT = 2**14, 2**20
# Bytes that are decoded and stay in memory while the connection waits for more: to free so few
# would take longer than it is worth.
_MOST_DECODED_KEPT = 2**12
# What wsproto says of every error that our extension finds.
_ERROR_IN_EXTENSION = "error in extension"


class Protocol(FrameWriter):
    """One side of an open connection: what it sends, and what it receives."""

    __slots__ = (
        "_at",
        "_binary",
        "_buffer",
        "_code_behind_stand_in",
        "_eof",
        "_expected_mask",
        "_fast",
        "_final_bytes",
        "_fragments",
        "_frame_left",
        "_inflating",
        "_is_compressed",
        "_is_skipping",
        "_is_streaming",
        "_large",
        "_limit",
        "_max_fragments",
        "_max_message_size",
        "_openings",
        "_side",
        "_size",
        "_text",
        "_write_error",
        "_wsproto",
        "bytes_received",
        "closing",
        "decoded",
        "messages_received",
        "wire_bytes_received",
    )

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
        :param side: Which side it is.
        :param options: The bounds.
        :param extension: What was agreed on about compression.
        :param fast: Whether to take the fast path; without it wsproto decodes every frame.
        :param state: The first state.
        """
        super().__init__(side, options, extension)
        self._side = side
        # A connection that has had nothing but messages in order has none: it takes memory.
        self._wsproto: Connection | None = None
        # What a data frame may begin with.
        self._openings = frozenset({TEXT, BINARY})
        if extension is not None:
            self._openings |= {COMPRESSED | TEXT, COMPRESSED | BINARY}
        self._fast = fast and options.max_fragments >= 1
        self._max_message_size = _at_most(options.max_message_size)
        self._max_fragments = options.max_fragments
        self._expected_mask = 0 if self._is_client else MASKED
        #: The state, and how the connection ended.
        self.closing: ClosingHandshake = ClosingHandshake(state)
        # The error of a write, which says more than the end of the stream that follows.
        self._write_error: Exception | None = None
        #: Whole messages that were received, and bytes of their payload.
        self.messages_received: int = 0
        self.bytes_received: int = 0
        #: Bytes from the peer.
        self.wire_bytes_received: int = 0
        #: Characters or bytes of parts of messages that were decoded, whatever became of them.
        self.decoded: int = 0
        self._final_bytes = b""
        self._buffer = b""
        self._at = 0  # what precedes it in the buffer is decoded
        # The large frame that is not decoded yet, if any; the buffer has what is behind it.
        self._large: LargeFrame | None = None
        # The large message of one frame that is inflated step by step: opcode, and what there is.
        self._inflating: tuple[int, io.BytesIO] | None = None
        self._eof: Exception | None = None
        # The frame under way in wsproto: what it still lacks.
        self._frame_left: float = 0
        # The limit on the size of the message that comes, and whether it is given in pieces.
        self._limit = self._max_message_size
        self._is_streaming = False
        self._is_skipping = False  # the rest of the message under way is thrown away
        # The message under way in wsproto: its frames, the size they announced, its payload.
        self._fragments = 0
        self._size = 0
        self._is_compressed = False
        self._text: io.StringIO | None = None
        self._binary: bytearray | None = None
        self._code_behind_stand_in: int | None = None

    # -- facts

    @property
    def undecoded(self) -> int:
        """How many bytes were received and not decoded."""
        return len(self._buffer) - self._at + (0 if self._large is None else self._large.received)

    @property
    def awaited(self) -> int:
        """How many bytes are known to come, of a large frame."""
        return 0 if self._large is None else self._large.left

    @property
    def inflating_work(self) -> int:
        """The cost of decompressing so far: see `DeflateCodec.work`."""
        return 0 if self._extension is None else self._extension.codec.work

    @property
    def has_eof(self) -> bool:
        """Whether the end of the stream was received."""
        return self._eof is not None

    # -- receiving

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self.wire_bytes_received += len(data)
        if self._large is not None:
            self._buffer += self._large.add(data)
        elif self._at < len(self._buffer):
            self._buffer = self._buffer[self._at :] + data
        else:
            self._buffer = data
        self._at = 0

    def free_decoded(self) -> None:
        """Free the memory of what is decoded. Call it before a wait that may be long."""
        if self._at > _MOST_DECODED_KEPT:
            self._buffer = self._buffer[self._at :]
            self._at = 0

    def receive_eof(self, cause: Exception | None = None) -> None:
        """Take the end of the stream, or its failure, which comes after what was received."""
        self._eof = (
            cause
            or self._write_error
            or EOFError("the peer ended the connection without a Close frame")
        )

    def note_write_error(self, exc: Exception | None) -> None:
        """Note the error of a write, as the reason for the end of the stream that follows."""
        self._write_error = exc

    def start_close(self, code: int, reason: str | None) -> bytes:
        """Start the closing handshake (RFC 6455, 7.1.2); return the Close frame."""
        sent = _close_reason(code, reason)
        self.closing.start(sent)
        return self.close(sent)

    def fail(self, code: int, text: str, cause: Exception) -> None:
        """Fail the connection (RFC 6455, 7.1.7). `take_final_bytes` has the Close frame."""
        sent = _close_reason(code, text)
        if self.closing.fail(cause, sent):
            # A MemoryError may strike again.
            with contextlib.suppress(Exception):
                self._final_bytes = self.close(sent)

    def begin_stream(self, max_size: float | None = None) -> None:
        """Give the next message, or the rest of the one under way, in chunks.

        :param max_size: The limit on its size, in place of that of the options.
        """
        self._is_streaming = True
        if self._large is not None:
            self._take_apart(self._large)
        if max_size is not None:
            self._limit = _at_most(max_size)
        size = self._size_so_far
        is_begun = self._fragments > 0 and not self._is_skipping
        if is_begun and not self._is_within_limits(size, self._fragments):
            self._refuse_message(size)

    def end_stream(self) -> None:
        """Give whole messages again: the message has ended, or no piece of it was given."""
        self._is_streaming = False
        self._limit = self._max_message_size

    def skip_rest(self) -> None:
        """Throw away what is left of the message that is given in pieces, if anything is."""
        if self._is_streaming:
            self._is_skipping = True
            self.end_stream()

    def next_event(self, *, raw: bool = False, is_wanted: bool = True) -> Event:
        """Decode one message, a piece of the one that is given so, or a control frame.

        After our Close, the only events are Pongs and the end.

        :param raw: Whether a text may be given as the bytes of its UTF-8, which is quicker.
        :param is_wanted: Whether somebody waits for a message. Otherwise one that is over its limit
            is left for whoever will.
        """
        if self.closing.ended:
            return ENDED
        event = self._without_wsproto(raw, is_wanted)
        if event is not None:
            return event
        if self._is_streaming and (self._binary or self._text is not None):
            return MessageChunk(self._take_kept(is_text=not self._binary), is_last=False)
        size = self._next_chunk(is_wanted)
        if size is None:
            return HELD
        if size:
            return self._feed(size)
        return self._need_data()

    def _without_wsproto(self, raw: bool, is_wanted: bool) -> Event | None:
        """What is next, if it is on the fast path."""
        if self._large is not None:
            if not self._large.left:
                return self._large_message(self._large, raw, is_wanted)
            if self._eof is None:
                return NEED_DATA
            self._take_apart(self._large)
        if not self._fast or self._frame_left or self._fragments:
            return None
        if self._inflating is not None:
            message = self._inflated(*self._inflating, b"", raw)
        else:
            message = self._whole_frame(raw, is_wanted)
        if self.closing.ended:
            return ENDED
        if message is None:
            return NEED_DATA if self._begins_large_frame() else None
        if isinstance(message, Signal):
            return message
        if self.closing.sent is not None:
            return PROGRESS
        if not self._is_streaming:
            return message
        self.end_stream()
        return MessageChunk(message, is_last=True)

    def messages(self, most: int, *, raw: bool = False) -> list[str | bytes]:
        """Decode messages that are next, without asking wsproto; none is no news.

        :param most: How many, at most.
        :param raw: As in `next_event`.
        """
        if self._at == len(self._buffer) or self._large is not None:
            return []
        if not self._fast or self._frame_left or self._fragments or self._is_streaming:
            return []
        if self._inflating is not None:
            return []
        if self.closing.state is not _OPEN:
            return []
        messages, self._at, size = codec.messages(
            self._buffer, self._at, self._expected_mask, self._limit, most, raw
        )
        self.messages_received += len(messages)
        self.bytes_received += size
        return messages

    def _need_data(self) -> Event:
        if self.closing.ended:
            return ENDED
        if self._eof is None:
            return NEED_DATA
        self.closing.lose(self._eof)
        return ENDED

    def take_final_bytes(self) -> bytes:
        """What is to be sent at the end: a Close frame, or nothing."""
        data, self._final_bytes = self._final_bytes, b""
        return data

    def _whole_frame(self, raw: bool, is_wanted: bool) -> str | bytes | Signal | None:
        """Decode a frame that is whole, final, valid, and within the limit."""
        messages, end, size = codec.messages(
            self._buffer, self._at, self._expected_mask, self._limit, 1, raw
        )
        if not messages:
            return self._compressed_frame(raw, is_wanted)
        self._at = end
        if self.closing.sent is None:
            self.messages_received += 1
            self.bytes_received += size
        return messages[0]

    def _compressed_frame(self, raw: bool, is_wanted: bool) -> str | bytes | Signal | None:
        """Decode a compressed message of one frame, if that is whole, and likely to be valid."""
        if self._extension is None or self._is_streaming or self.closing.sent is not None:
            return None
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2 or head[0] not in _COMPRESSED or not self._begins_well(head):
            return None
        head_size, size = sizes(head)
        if size is None or size > self._limit or not is_shortest(head, size):
            return None
        end = self._at + head_size + size
        if end > len(self._buffer):
            return None
        if not is_wanted and self._may_be_too_large(size):
            return None
        payload = self._buffer[self._at + head_size : end]
        if self._expected_mask:
            payload = codec.masked(payload, head[head_size - 4 : head_size])
        self._at = end
        return self._inflated(head[0] ^ FINAL, None, payload, raw)

    def _begins_large_frame(self) -> bool:
        """Whether the rest of a frame is to come before anything of it is decoded."""
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2 or head[0] ^ FINAL not in self._openings or not self._begins_well(head):
            return False
        head_size, size = sizes(head)
        if size is None or not LARGE <= size <= self._limit or not is_shortest(head, size):
            return False
        if len(head) < head_size:  # a part of the key is still to come
            return False
        if head_size + size <= self.undecoded or self._eof is not None:
            return False
        if self._is_streaming or self.closing.sent is not None:
            return False
        self._large = LargeFrame(head[:head_size], size)
        self._large.add(self._buffer[self._at + head_size :])
        self._buffer = b""
        self._at = 0
        return True

    def _large_message(self, large: LargeFrame, raw: bool, is_wanted: bool) -> str | bytes | Signal:
        """The message of a large frame that is whole now."""
        if self.closing.sent is not None:
            self._large = None
            if large.head[0] & COMPRESSED:
                self._take_apart(large)  # what follows may refer to it
            return PROGRESS
        opcode = large.head[0] ^ FINAL
        if opcode & COMPRESSED:
            if not is_wanted and self._may_be_too_large(large.received):
                self._take_apart(large)
                return PROGRESS
            self._large = None
            inflated = self._inflated(opcode, None, large.payload(), raw)
            return ENDED if inflated is None else inflated
        message: str | bytes
        message = payload = large.payload()
        try:
            if opcode == TEXT and raw:
                check_utf8(payload)
            elif opcode == TEXT:
                message = payload.decode()
        except UnicodeDecodeError:
            self._take_apart(large)
            return PROGRESS
        self._large = None
        self.messages_received += 1
        self.bytes_received += len(payload)
        return message

    def _take_apart(self, large: LargeFrame) -> None:
        """Let the frame be decoded as it comes."""
        self._large = None
        self._buffer = large.head + b"".join(large.parts) + self._buffer

    def _may_be_too_large(self, compressed_size: int) -> bool:
        return compressed_size * _MOST_INFLATED > self._limit

    def _inflated(
        self, opcode: int, parts: io.BytesIO | None, data: bytes, raw: bool
    ) -> str | bytes | Signal | None:
        """Take a step of decoding a message of one frame, mostly the only one.

        :param parts: What the steps before have inflated.
        :param data: Its payload in the first step, nothing in the others.
        :returns: None if the connection is failed.
        """
        assert self._extension is not None
        self._inflating = None
        try:
            if parts is None and len(data) <= _SHORT and self._limit <= _MOST_OF_SHORT:
                codec = self._extension.codec
                payload = codec.inflate_chunk(data, is_last=True, max_length=self._limit + 1)
                if len(payload) > self._limit:
                    raise DecompressedTooLarge
                if codec.has_more:  # it takes long
                    parts = io.BytesIO(payload)
                    parts.seek(0, io.SEEK_END)
                    self._inflating = opcode, parts
                    return BUSY
            else:
                parts = parts or io.BytesIO()
                if self._inflate_step(parts, data):
                    self._inflating = opcode, parts
                    return BUSY
                payload = parts.getvalue()  # it is not copied
            if self.closing.sent is not None:
                return b""  # nobody will get it
            decoded: str | bytes = payload
            if opcode == COMPRESSED | TEXT and raw:
                check_utf8(payload)
            elif opcode == COMPRESSED | TEXT:
                decoded = payload.decode()
            self.messages_received += 1
            self.bytes_received += len(payload)
            return decoded
        except DecompressedTooLarge:
            self._fail(_TOO_BIG, f"message exceeds {self._size_limit}")
        except (InvalidData, UnicodeDecodeError) as exc:
            self._fail(_INVALID_DATA, str(exc))
        return None

    def _inflate_step(self, parts: io.BytesIO, data: bytes) -> bool:
        """Add a part to a message that may be large; whether there may be more."""
        assert self._extension is not None
        codec = self._extension.codec
        if self.closing.sent is not None:
            parts.seek(0)
        left = self._limit - parts.tell()
        if left < 0:
            raise DecompressedTooLarge
        part = codec.inflate_chunk(data, is_last=True, max_length=min(left + 1, _STEP))
        if len(part) > left:
            raise DecompressedTooLarge
        parts.write(part)
        return codec.has_more

    def _next_chunk(self, is_wanted: bool) -> int | None:
        """How many bytes wsproto gets next: none of two frames, and no part of a control frame.

        A control frame is held back until it is whole because its Close code may need a look. None
        if it is up to the reader of the message what comes next.
        """
        available = self.undecoded
        if self._frame_left:
            size = int(min(self._frame_left, available))
            if size and self._is_kept and not self._is_within_limits(self._size, 0):
                # It was begun for a stream that allowed more, and did not take it.
                return self._refuse(is_wanted, self._size)
            if self._is_compressed and size:
                size = self._compressed_piece(size, is_wanted)
                if not size:
                    return None
            self._frame_left -= size
            return size
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2:
            return 0
        if not self._begins_well(head):
            self._frame_left = math.inf  # it is for wsproto to say what is wrong
            return available
        head_size, length = sizes(head)
        if length is None:
            return 0
        opcode = head[0] & 0x0F
        if opcode & CONTROL:
            if available < head_size + length:
                return 0
            if opcode == CLOSE and length >= 2:
                self._replace_unknown_code(head, head_size)
            return head_size + length
        return self._begin_data(head, head_size, length, is_wanted)

    def _begin_data(self, head: bytes, head_size: int, length: int, is_wanted: bool) -> int | None:
        """How many bytes of a data frame wsproto gets first, as in `_next_chunk`."""
        is_in_order = (head[0] & 0x0F == CONTINUATION) == bool(self._fragments)
        if not self._fragments:
            self._is_compressed = bool(head[0] & COMPRESSED)
            if self._extension is not None:
                self._extension.size = 0
        # What is compressed counts when it is decompressed.
        size = 0 if self._is_compressed else self._size + length
        fragments = self._fragments + 1
        if is_in_order and self._is_kept and not self._is_within_limits(size, fragments):
            if is_wanted and head[1] & 0x7F > 125:
                # Its length may be written in a wrong way; that counts for more, as wsproto says.
                self._feed(min(head_size, self.undecoded))
            return self._refuse(is_wanted, size)
        if is_in_order:
            self._size, self._fragments = size, fragments
        self._frame_left = head_size + length
        return self._next_chunk(is_wanted)

    @property
    def _is_kept(self) -> bool:
        """Whether the message under way is for the application."""
        return self.closing.sent is None and not self._is_skipping

    def _refuse(self, is_wanted: bool, size: int) -> int | None:
        if not is_wanted:
            return None
        self._refuse_message(size)
        return 0

    def _compressed_piece(self, size: int, is_wanted: bool) -> int:
        """How many of the next bytes of a compressed message wsproto may get now."""
        assert self._extension is not None
        if not self._is_kept:
            self._extension.max_size = math.inf
            return min(size, _SMALL_PORTION)
        self._extension.max_size = self._limit
        left = self._limit - self._extension.size
        if not self._is_streaming and not is_wanted:
            return int(min(size, _PORTION, left / _MOST_INFLATED))
        is_small = self._is_streaming and left > _MOST_OF_SHORT
        return min(size, _SMALL_PORTION if is_small else _PORTION)

    def _begins_well(self, head: bytes) -> bool:
        """Whether the first two bytes are those of a frame that may come (RFC 6455, 5.2)."""
        if head[1] & MASKED != self._expected_mask:
            return False
        if head[0] & 0x7F == CONTINUATION or head[0] & 0x7F in self._openings:
            return True
        return head[0] in _FINAL_CONTROL and head[1] & 0x7F <= 125

    @property
    def _size_so_far(self) -> int:
        """Bytes of the message under way in wsproto, or of the one that has just ended there."""
        if self._is_compressed and self._extension is not None:
            return self._extension.size
        return self._size

    def _is_within_limits(self, size: int, fragments: int) -> bool:
        return size <= self._limit and fragments <= self._max_fragments

    def refuse_message(self, size: int, max_size: float) -> None:
        """Fail the connection over a message that was received whole.

        :param size: Its size.
        :param max_size: The limit on it, which the caller of `receive_stream` set.
        """
        self._fail(_TOO_BIG, f"message of {size} bytes exceeds max_size={max_size}")

    def _refuse_message(self, size: int) -> None:
        if not self.closing.ended:
            if size > self._limit:
                text = f"message of {size} bytes exceeds {self._size_limit}"
            else:
                text = f"message exceeds max_fragments={self._max_fragments}"
            self._fail(_TOO_BIG, text)

    @property
    def _size_limit(self) -> str:
        """The limit on the size of this message, and the option that sets it."""
        is_own = self._is_streaming and self._limit != self._max_message_size
        return f"{'max_size' if is_own else 'max_message_size'}={self._limit}"

    def _replace_unknown_code(self, head: bytes, size: int) -> None:
        """Show wsproto a code that it knows in place of 1014, registered after it was written."""
        start = self._at + size
        code = self._buffer[start : start + 2]
        if head[1] & MASKED:
            code = codec.masked(code, head[size - 4 : size])
        if int.from_bytes(code, "big") == _UNKNOWN_TO_WSPROTO:
            self._code_behind_stand_in = _UNKNOWN_TO_WSPROTO
            frames = bytearray(self._buffer)
            frames[start + 1] ^= _UNKNOWN_TO_WSPROTO ^ _STAND_IN  # masked or not
            self._buffer = bytes(frames)

    def _feed(self, size: int) -> Event:
        """Give wsproto the next bytes. They are of one frame, so that there is one event at most.

        (Or of what begins with a bad frame, which has one event, too.)
        """
        if self._wsproto is None:
            extensions = [] if self._extension is None else [self._extension]
            self._wsproto = Connection(self._side, [*extensions])
        self._wsproto.receive_data(self._buffer[self._at : self._at + size])
        self._at += size
        for event in self._wsproto.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                message = self._join(event)
                if message is not None:
                    return message
            elif isinstance(event, CloseConnection):
                self._receive_close(event, self._wsproto.state)
                return ENDED
            elif isinstance(event, Pong) or self.closing.sent is None:
                assert isinstance(event, (Ping, Pong))
                return event
        return PROGRESS

    def _join(self, event: TextMessage | BytesMessage) -> str | bytes | MessageChunk | None:
        self.decoded += len(event.data)
        size = self._size_so_far
        is_last = event.message_finished
        is_read = self.closing.sent is None and not self._is_skipping
        if is_last:
            self._fragments = self._size = 0
            self._is_skipping = False
        if self.closing.sent is None and is_last:
            self.messages_received += 1
            self.bytes_received += size
        if not is_read:
            return None
        if isinstance(event, TextMessage):
            if self._text is None:
                self._text = io.StringIO()
            self._text.write(event.data)
        else:
            if self._binary is None:
                self._binary = bytearray()
            self._binary += event.data
        if not is_last and not self._is_streaming:
            return None
        data = self._take_kept(is_text=isinstance(event, TextMessage))
        if not self._is_streaming:
            return data
        if is_last:
            self.end_stream()
        return MessageChunk(data, is_last)

    def _take_kept(self, *, is_text: bool) -> str | bytes:
        kept: io.StringIO | bytearray | None
        if is_text:
            kept, self._text = self._text, None
            return "" if kept is None else kept.getvalue()
        kept, self._binary = self._binary, None
        return b"" if kept is None else bytes(kept)

    def _receive_close(self, event: CloseConnection, state: ConnectionState) -> None:
        if state is ConnectionState.OPEN:
            # No Close frame, but wsproto's verdict: it leaves its state as it was.
            self._fail(int(event.code), self._explained(event))
            return
        rcvd = CloseReason(self._code_behind_stand_in or int(event.code), event.reason or None)
        answer = _close_reason(rcvd.code, rcvd.reason)
        if self.closing.receive(rcvd, answer):
            self._final_bytes = self.close(answer)

    def _explained(self, event: CloseConnection) -> str:
        """Return why wsproto closes the connection."""
        if event.reason != _ERROR_IN_EXTENSION:
            return event.reason or ""
        if event.code == _TOO_BIG:
            return f"message exceeds {self._size_limit}"
        if event.code == _PROTOCOL_ERROR:
            return "a message begins within another"
        return "a message is compressed in a wrong way"

    def _fail(self, code: int, text: str) -> None:
        """Fail the connection because the peer violated the protocol, or a limit."""
        self.fail(code, text, RemoteProtocolError(text))


def _close_reason(code: int, text: str | None) -> CloseReason:
    return CloseReason(code, None if text is None else cut_reason(text))


def _at_most(limit: float) -> int:
    return int(min(limit, sys.maxsize))
