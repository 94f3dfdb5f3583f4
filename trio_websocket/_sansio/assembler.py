"""From frames to messages: the limits, and messages that arrive in parts.

An arriving message is kept until it is whole, delivered in chunks (`begin_stream`), or discarded.
The rest of a stream whose block ended early is discarded, and so is everything after our Close.
"""

from __future__ import annotations

import io
import sys

from .closing import ClosingHandshake, State
from .errors import CloseCode
from .events import MessageChunk, Status, ViolationError
from .options import Options

_OPEN = State.OPEN


class PartialMessage:
    """A message that wsproto decodes frame by frame."""

    def __init__(self, *, is_compressed: bool) -> None:
        """:param is_compressed: True if RSV1 of the first frame is set (RFC 7692, 6)."""
        self.is_compressed: bool = is_compressed
        #: The number of frames that have begun.
        self.fragments: int = 0
        #: Bytes of the current frame, with its head, that wsproto has not got yet. 0 between
        #: frames.
        self.frame_left: int = 0
        #: Bytes of payload in the frames so far, as their heads say; 0 for a compressed message.
        self.size: int = 0
        #: Bytes of payload that were inflated; 0 for a message that is not compressed.
        self.inflated: int = 0
        #: True if the rest of the message is discarded.
        self.is_skipped: bool = False
        self._data: io.StringIO | bytearray | None = None

    def begin_frame(self, head_size: int, length: int) -> None:
        """Note the head of the next frame."""
        self.fragments += 1
        self.frame_left = head_size + length
        if not self.is_compressed:
            self.size += length

    def advance(self, size: int) -> None:
        """Note that wsproto gets this many bytes of the frame."""
        self.frame_left -= size

    def skip(self) -> None:
        """Discard the kept data and the rest of the message."""
        self.is_skipped = True
        self._data = None

    def add(self, data: str | bytes | bytearray, inflated: int) -> None:
        """Keep a part of the payload.

        :param inflated: The size of the message so far, if it is compressed.
        """
        self.inflated = inflated
        if self.is_skipped:
            return
        if isinstance(data, str):
            if not isinstance(self._data, io.StringIO):
                self._data = io.StringIO()
            self._data.write(data)
        else:
            if not isinstance(self._data, bytearray):
                self._data = bytearray()
            self._data += data

    @property
    def has_data(self) -> bool:
        """True if a part of the payload is kept."""
        return isinstance(self._data, io.StringIO) or bool(self._data)

    def take(self) -> str | bytes:
        """Take the kept part of the payload."""
        data, self._data = self._data, None
        return data.getvalue() if isinstance(data, io.StringIO) else bytes(data or b"")


class MessageAssembler:
    """Makes messages, or chunks of messages, and enforces the limits."""

    __slots__ = (
        "_closing",
        "_max_fragments",
        "_max_message_size",
        "bytes_received",
        "decoded",
        "is_streaming",
        "limit",
        "messages_received",
    )

    def __init__(self, closing: ClosingHandshake, options: Options) -> None:
        """
        :param closing: The state of the connection.
        :param options: The limits on messages.
        """
        self._closing = closing
        self._max_message_size = _at_most(options.max_message_size)
        self._max_fragments = options.max_fragments
        #: The limit on the size of the next message.
        self.limit: int = self._max_message_size
        #: True if the next message is delivered in chunks.
        self.is_streaming: bool = False
        #: The number of whole messages that were received, and the bytes of their payload.
        self.messages_received: int = 0
        self.bytes_received: int = 0
        #: Characters or bytes of partial messages that were decoded, delivered or not.
        self.decoded: int = 0

    def begin_stream(self, max_size: float | None, partial: PartialMessage | None) -> None:
        """Deliver the next message, or the rest of the one under way, in chunks.

        :param max_size: The size limit of this message. It overrides `max_message_size`.
        :param partial: The message under way.
        """
        self.is_streaming = True
        if max_size is not None:
            self.limit = _at_most(max_size)
        if partial is not None and not partial.is_skipped:
            size = partial.inflated if partial.is_compressed else partial.size
            if not self.is_within_limits(size, partial.fragments):
                raise self.violation(size)

    def end_stream(self) -> None:
        """Deliver whole messages again: the message has ended, or no chunk of it was taken."""
        self.is_streaming = False
        self.limit = self._max_message_size

    def count(self, messages: int, size: int) -> None:
        """Count messages that were received whole.

        :param size: The bytes of their payload.
        """
        self.messages_received += messages
        self.bytes_received += size

    def is_wanted(self, partial: PartialMessage) -> bool:
        """Return True if the rest of a message is for the application."""
        return self._closing.sent is None and not partial.is_skipped

    def add(
        self,
        partial: PartialMessage,
        data: str | bytes | bytearray,
        inflated: int,
        *,
        is_last: bool,
    ) -> str | bytes | MessageChunk | None:
        """Add decoded payload to a message.

        :param inflated: The size of the message so far, if it is compressed.
        :param is_last: True if the message ends with it.
        :returns: The message or chunk to deliver now, or None.
        """
        self.decoded += len(data)
        is_wanted = self._closing.sent is None and not partial.is_skipped  # `is_wanted`, inlined
        if not is_wanted:
            partial.skip()
        if data or partial.is_compressed:
            partial.add(data, inflated)
        if is_last and self._closing.sent is None:
            self.count(1, inflated if partial.is_compressed else partial.size)
        if not is_wanted or not (is_last or self.is_streaming):
            return None
        kept = partial.take() or ("" if isinstance(data, str) else b"")
        if not self.is_streaming:
            return kept
        if is_last:
            self.end_stream()
        return MessageChunk(kept, is_last)

    def whole(self, message: str | bytes, size: int) -> str | bytes | MessageChunk | Status:
        """Count a message that was decoded whole, and return the event for it."""
        if self._closing.sent is not None:
            return Status.PARTIAL
        self.count(1, size)
        if not self.is_streaming:
            return message
        self.end_stream()
        return MessageChunk(message, is_last=True)

    # -- limits

    def is_within_limits(self, size: int, fragments: int) -> bool:
        """Return True if a message may have this many bytes and frames."""
        return size <= self.limit and fragments <= self._max_fragments

    def violation(self, size: int) -> ViolationError:
        """Return the error for a message that is not within its limits."""
        if size > self.limit:
            text = f"message of {size} bytes exceeds {self.size_limit}"
        else:
            text = f"message exceeds max_fragments={self._max_fragments}"
        return ViolationError(CloseCode.MESSAGE_TOO_BIG, text)

    def inflated_violation(self) -> ViolationError:
        """Return the error for a compressed message, whose whole size is not known."""
        return ViolationError(CloseCode.MESSAGE_TOO_BIG, f"message exceeds {self.size_limit}")

    @property
    def size_limit(self) -> str:
        """The limit on the size of this message, and the option that sets it."""
        is_own = self.is_streaming and self.limit != self._max_message_size
        return f"{'max_size' if is_own else 'max_message_size'}={self.limit}"


def _at_most(limit: float) -> int:
    return int(min(limit, sys.maxsize))
