"""Parse the head of each received frame, and choose the decoder for the rest of the frame.

The head shows where the frame ends. The reader itself decodes the most frequent case, a complete
message in one frame, because decoding it with wsproto would take most of the time spent on a
message. wsproto decodes everything else: complete control frames, fragmented messages part by part,
and frames with an invalid head, because wsproto determines how errors are reported.

`_stage` says what the next bytes belong to: see `stages`. To add a fast path, add a stage, or
handle another case in the stage `BETWEEN` or `PartialMessage`.

Invariants: in the stage `LargeFrame`, `_at` is 0 and the buffer contains the bytes that follow the
frame. wsproto holds a partial frame only in the stages `PartialMessage` (if `frame_left` is not 0)
and `InvalidFrame`.
"""

from __future__ import annotations

import math

from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from . import codec
from .assembler import MessageAssembler, PartialMessage
from .closing import ClosingHandshake, State
from .costs import KEEP_DECODED_BYTES, MAX_INFLATE_RATIO, WAIT_FOR_WHOLE_FRAME_BYTES
from .deflate import DecompressedTooLarge, DeflateExtension, InvalidData
from .errors import CloseCode, CloseReason
from .events import (
    NEED_DATA,
    OVER_LIMIT,
    PARTIAL,
    YIELD,
    Event,
    MessageChunk,
    ViolationError,
)
from .frames import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    CONTROL,
    FINAL,
    MASKED,
    PING,
    PONG,
    TEXT,
    LargeFrame,
    decode_payload,
    is_shortest,
    sizes,
)
from .inflation import Inflation
from .stages import BETWEEN, InvalidFrame, Stage
from .wsproto_reader import WsprotoReader

_OPEN = State.OPEN
# The possible first bytes of a message, with FIN cleared.
_PLAIN = frozenset({TEXT, BINARY})
_PLAIN_OR_COMPRESSED = _PLAIN | {COMPRESSED | TEXT, COMPRESSED | BINARY}
_FINAL_CONTROL = frozenset({FINAL | CLOSE, FINAL | PING, FINAL | PONG})


class FrameReader:
    """Decodes the bytes that one side receives."""

    __slots__ = (
        "_assembler",
        "_at",
        "_buffer",
        "_closing",
        "_expected_mask",
        "_extension",
        "_is_fast",
        "_openings",
        "_stage",
        "_wsproto",
        "eof",
        "wire_bytes_received",
    )

    def __init__(
        self,
        side: ConnectionType,
        extension: DeflateExtension | None,
        closing: ClosingHandshake,
        assembler: MessageAssembler,
        *,
        is_fast: bool,
    ) -> None:
        """
        :param side: The side that receives the bytes.
        :param extension: The negotiated compression, or None.
        :param closing: The connection's state.
        :param assembler: The assembler for the messages.
        :param is_fast: False to decode every frame with wsproto.
        """
        self._closing = closing
        self._assembler = assembler
        self._extension = extension
        self._wsproto = WsprotoReader(side, extension, assembler)
        self._is_fast = is_fast
        self._expected_mask = 0 if side is ConnectionType.CLIENT else MASKED
        self._openings = _PLAIN if extension is None else _PLAIN_OR_COMPRESSED

        self._buffer = b""
        self._at = 0  # the bytes before this offset have been decoded
        self._stage: Stage = BETWEEN
        #: The reason why the stream ended after the received bytes, or None if it has not ended.
        self.eof: Exception | None = None
        #: The number of bytes received from the peer.
        self.wire_bytes_received: int = 0

    # -- bytes

    def receive_data(self, data: bytes) -> None:
        """Buffer bytes received from the peer."""
        self.wire_bytes_received += len(data)
        if isinstance(self._stage, LargeFrame):
            self._buffer += self._stage.add(data)
        elif self._at < len(self._buffer):
            self._buffer = self._buffer[self._at :] + data
        else:
            self._buffer = data
        self._at = 0

    def receive_eof(self, cause: Exception) -> None:
        """Record that the stream has ended.

        :param cause: The reason. When all received bytes have been decoded, it becomes the error
            that ends the connection.
        """
        self.eof = cause

    def free_decoded(self) -> None:
        """Free the memory of decoded bytes. Call this before a wait that could be long."""
        if self._at > KEEP_DECODED_BYTES:
            self._buffer = self._buffer[self._at :]
            self._at = 0

    @property
    def undecoded(self) -> int:
        """The number of bytes that have been received but not decoded."""
        large = self._stage.received if isinstance(self._stage, LargeFrame) else 0
        return len(self._buffer) - self._at + large

    @property
    def awaited(self) -> int:
        """The number of bytes of the current large frame that have not arrived yet."""
        return self._stage.left if isinstance(self._stage, LargeFrame) else 0

    @property
    def inflating_work(self) -> int:
        """The total cost of decompressing so far: see `DeflateCodec.work`."""
        return 0 if self._extension is None else self._extension.codec.work

    # -- messages

    def begin_stream(self, max_size: float | None) -> None:
        """Deliver the next message, or the rest of the current one, in chunks.

        :param max_size: The size limit for this message. It overrides `max_message_size`.
        :raises ViolationError: The message already exceeds its limits.
        """
        stage = self._stage
        if isinstance(stage, LargeFrame):
            self._return_to_buffer(stage)
        partial = stage if isinstance(stage, PartialMessage) else None
        self._assembler.begin_stream(max_size, partial)

    def skip_rest(self) -> None:
        """Discard the rest of the message that is being delivered in chunks, if there is one."""
        if self._assembler.is_streaming:
            if isinstance(self._stage, PartialMessage):
                self._stage.skip()
            self._assembler.end_stream()

    def messages(self, most: int, *, raw: bool = False) -> list[str | bytes]:
        """Decode the small messages at the start of the buffer: the hot path for receiving.

        An empty list means that nothing was decoded; call `next_event`.

        :param most: The maximum number of messages to decode.
        :param raw: True to return text as UTF-8 bytes, which is faster.
        """
        if (
            self._stage is not BETWEEN
            or self._at == len(self._buffer)
            or self._closing.state is not _OPEN
            or not self._is_fast
            or self._assembler.is_streaming
        ):
            return []
        messages, self._at, size = codec.messages(
            self._buffer, self._at, self._expected_mask, self._assembler.limit, most, raw
        )
        if messages:
            self._assembler.count(len(messages), size)
        return messages

    def next_event(self, *, raw: bool, is_awaited: bool) -> Event | CloseReason:
        """Decode one message, one chunk of a message, or one control frame.

        After this side has sent a Close frame, the only events are Pongs and the end.

        :param raw: True to return text as UTF-8 bytes, which is faster.
        :param is_awaited: True if a task is waiting for a message. If False, a message that might
            exceed its limit is not decoded until a reader asks for it.
        :raises ViolationError: The peer violated the protocol.
        """
        stage = self._stage
        if stage is BETWEEN:
            if self._at == len(self._buffer):
                return NEED_DATA
            event = self._decode_whole(raw, is_awaited) if self._is_fast else None
            return self._decode_part(is_awaited) if event is None else event
        if isinstance(stage, LargeFrame):
            if not stage.left:
                return self._decode_large(stage, raw, is_awaited)
            if self.eof is None:
                return NEED_DATA
            self._return_to_buffer(stage)
        elif isinstance(stage, Inflation):
            return self._inflate(stage, b"", raw)
        return self._decode_part(is_awaited)

    # -- messages of one frame

    def _decode_whole(self, raw: bool, is_awaited: bool) -> Event | None:
        """Decode a valid single-frame message; return None if wsproto must decode the frame."""
        messages, end, size = codec.messages(
            self._buffer, self._at, self._expected_mask, self._assembler.limit, 1, raw
        )
        if messages:
            self._at = end
            return self._assembler.whole(messages[0], size)
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2 or head[0] ^ FINAL not in self._openings or not self._is_valid_head(head):
            return None
        head_size, length = sizes(head)
        if length is None or length > self._assembler.limit or not is_shortest(head, length):
            return None
        if self._assembler.is_streaming or self._closing.sent is not None:
            return None
        if head_size + length <= self.undecoded:
            return self._decode_compressed(head, head_size, length, raw, is_awaited)
        return self._begin_large(head, head_size, length)

    def _decode_compressed(
        self, head: bytes, head_size: int, length: int, raw: bool, is_awaited: bool
    ) -> Event | None:
        """Inflate a single-frame message whose frame is complete."""
        if not head[0] & COMPRESSED or (not is_awaited and self._may_be_too_large(length)):
            return None
        assert self._extension is not None
        start = self._at + head_size
        payload = self._buffer[start : start + length]
        if self._expected_mask:
            payload = codec.masked(payload, head[head_size - 4 : head_size])
        self._at = start + length
        is_text = head[0] & 0x0F == TEXT
        return self._inflate(Inflation(self._extension.codec, is_text=is_text), payload, raw)

    def _begin_large(self, head: bytes, head_size: int, length: int) -> Event | None:
        """Start to collect a large frame, to decode it in one step; return None if it is small."""
        if length < WAIT_FOR_WHOLE_FRAME_BYTES or len(head) < head_size or self.eof is not None:
            return None
        large = LargeFrame(head[:head_size], length)
        large.add(self._buffer[self._at + head_size :])
        self._buffer = b""
        self._at = 0
        self._stage = large
        return NEED_DATA

    def _decode_large(self, large: LargeFrame, raw: bool, is_awaited: bool) -> Event:
        """Decode a large frame that is now complete."""
        self._stage = BETWEEN
        opcode = large.head[0] & 0x0F
        is_compressed = bool(large.head[0] & COMPRESSED)
        if self._closing.sent is not None:
            if is_compressed:
                self._return_to_buffer(large)  # later messages may refer to its content
            return PARTIAL
        if is_compressed:
            if not is_awaited and self._may_be_too_large(large.received):
                self._return_to_buffer(large)
                return PARTIAL
            assert self._extension is not None
            inflation = Inflation(self._extension.codec, is_text=opcode == TEXT)
            return self._inflate(inflation, large.payload(), raw)
        payload = large.payload()
        try:
            return self._assembler.whole(decode_payload(payload, opcode == TEXT, raw), len(payload))
        except UnicodeDecodeError:
            self._return_to_buffer(large)  # wsproto will report the position of the error
            return PARTIAL

    def _return_to_buffer(self, large: LargeFrame) -> None:
        """Put the frame back into the buffer, so that it is decoded part by part."""
        self._stage = BETWEEN
        self._buffer = large.head + b"".join(large.parts) + self._buffer

    def _may_be_too_large(self, compressed_size: int) -> bool:
        return compressed_size * MAX_INFLATE_RATIO > self._assembler.limit

    def _inflate(self, inflation: Inflation, data: bytes, raw: bool) -> Event:
        """Do one step of inflating a message. Most messages need only one step."""
        self._stage = BETWEEN
        is_discarded = self._closing.sent is not None
        try:
            payload = inflation.step(data, self._assembler.limit, is_discarded=is_discarded)
            if payload is None:
                self._stage = inflation
                return YIELD
            if is_discarded:
                return PARTIAL
            message = decode_payload(payload, inflation.is_text, raw)
            return self._assembler.whole(message, len(payload))
        except DecompressedTooLarge:
            raise self._assembler.inflated_violation() from None
        except (InvalidData, UnicodeDecodeError) as exc:
            raise ViolationError(CloseCode.INVALID_FRAME_PAYLOAD_DATA, str(exc)) from None

    # -- control frames, and messages of several frames

    def _decode_part(self, is_awaited: bool) -> Event | CloseReason:
        """Decode a control frame, or a part of a data frame."""
        stage = self._stage
        if isinstance(stage, PartialMessage):
            if self._assembler.is_streaming and stage.has_data:
                return MessageChunk(stage.take(), is_last=False)
            if stage.frame_left:
                return self._continue_frame(stage, is_awaited)
        if isinstance(stage, InvalidFrame):
            return self._feed(stage.take(self.undecoded))
        head = self._buffer[self._at : self._at + 14]
        if len(head) < 2:
            return NEED_DATA
        if not self._is_valid_head(head):
            return self._feed_invalid(math.inf)
        head_size, length = sizes(head)
        if length is None:
            return NEED_DATA
        if head[0] & CONTROL:
            return self._decode_control(head, head_size + length, head_size)
        if (head[0] & 0x0F == CONTINUATION) != isinstance(stage, PartialMessage):
            return self._feed_invalid(head_size + length)
        return self._begin_frame(stage, head, head_size, length, is_awaited)

    def _feed_invalid(self, size: float) -> Event | CloseReason:
        """Let wsproto find and report the error in the next ``size`` bytes."""
        self._stage = invalid = InvalidFrame(size)
        return self._feed(invalid.take(self.undecoded))

    def _decode_control(self, head: bytes, size: int, head_size: int) -> Event | CloseReason:
        """Decode a control frame once it is complete."""
        if len(self._buffer) - self._at < size:
            return NEED_DATA
        if head[0] & 0x0F != CLOSE or size < head_size + 2:
            return self._feed(size)
        frame = self._buffer[self._at : self._at + size]
        self._at += size
        return self._event(self._wsproto.with_known_code(frame, head_size))

    def _begin_frame(
        self, stage: object, head: bytes, head_size: int, length: int, is_awaited: bool
    ) -> Event | CloseReason:
        """Start to decode a data frame."""
        if isinstance(stage, PartialMessage):
            partial = stage
        else:
            partial = PartialMessage(is_compressed=bool(head[0] & COMPRESSED))
            if self._extension is not None:
                self._extension.begin_message()
        # The size of a compressed message is not known until it has been inflated.
        size = 0 if partial.is_compressed else partial.size + length
        is_allowed = self._assembler.is_within_limits(size, partial.fragments + 1)
        if not is_allowed and self._assembler.is_wanted(partial):
            if is_awaited and head[1] & 0x7F > 125:
                # If the length is not in its shortest form, wsproto must report that first.
                self._feed(min(head_size, self.undecoded))
            return self._over_limit(size, is_awaited)
        partial.begin_frame(head_size, length)
        self._stage = partial
        return self._feed_frame(partial, min(partial.frame_left, self.undecoded), is_awaited)

    def _continue_frame(self, partial: PartialMessage, is_awaited: bool) -> Event | CloseReason:
        """Decode the next part of a data frame."""
        size = min(partial.frame_left, self.undecoded)
        if not size:
            return NEED_DATA
        is_allowed = self._assembler.is_within_limits(partial.size, 0)
        if not is_allowed and self._assembler.is_wanted(partial):
            # The message started in a stream with a larger limit, which ended before any chunk of
            # the message was delivered.
            return self._over_limit(partial.size, is_awaited)
        return self._feed_frame(partial, size, is_awaited)

    def _feed_frame(
        self, partial: PartialMessage, size: int, is_awaited: bool
    ) -> Event | CloseReason:
        """Pass the next bytes of a data frame to wsproto, up to the limit for one step."""
        if partial.is_compressed:
            size = self._wsproto.portion(partial, size, is_awaited=is_awaited)
            if not size:
                return OVER_LIMIT
        partial.advance(size)
        return self._feed(size)

    def _over_limit(self, size: int, is_awaited: bool) -> Event:
        if not is_awaited:
            return OVER_LIMIT
        raise self._assembler.violation(size)

    def _feed(self, size: int) -> Event | CloseReason:
        """Pass the next bytes to wsproto."""
        if not size:
            return NEED_DATA
        data = self._buffer[self._at : self._at + size]
        self._at += size
        return self._event(data)

    def _event(self, data: bytes) -> Event | CloseReason:
        """Pass the data to wsproto, and return the resulting event."""
        event = self._wsproto.feed(data)
        if event is None:
            return PARTIAL
        kind = type(event)  # isinstance() is expensive: see `WsprotoReader.feed`
        if kind is Pong or kind is CloseReason:
            return event  # type: ignore[return-value] # mypy does not follow `kind`
        if kind is Ping:
            return event if self._closing.sent is None else PARTIAL  # type: ignore[return-value] # as above
        part: TextMessage | BytesMessage = event  # type: ignore[assignment] # as above
        partial = self._stage
        assert isinstance(partial, PartialMessage)
        is_last = part.message_finished
        if is_last:
            self._stage = BETWEEN
        inflated = 0 if self._extension is None else self._extension.size
        given = self._assembler.add(partial, part.data, inflated, is_last=is_last)
        return PARTIAL if given is None else given

    def _is_valid_head(self, head: bytes) -> bool:
        """Return True if the first two bytes of a frame's head are valid (RFC 6455, 5.2)."""
        if head[1] & MASKED != self._expected_mask:
            return False
        if head[0] & 0x7F == CONTINUATION or head[0] & 0x7F in self._openings:
            return True
        return head[0] in _FINAL_CONTROL and head[1] & 0x7F <= 125
