"""Assemble messages from frames, and enforce the limits on them.

A message that is arriving is buffered until it is complete, delivered in chunks (`begin_stream`),
or discarded. If a streaming block ends early, the rest of its message is discarded. Messages that
arrive after this side has sent its Close frame are discarded, too.
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
    """A message that is decoded frame by frame, by wsproto."""

    def __init__(self, *, is_compressed: bool) -> None:
        """:param is_compressed: True if the first frame has RSV1 set (RFC 7692, 6)."""
        self.is_compressed: bool = is_compressed
        #: The number of frames whose head has been received.
        self.fragments: int = 0
        #: Bytes of the current frame, including its head, that have not been passed to wsproto
        #: yet. 0 between frames.
        self.frame_left: int = 0
        #: The total payload length of the frames so far, according to their heads. Always 0 for a
        #: compressed message.
        self.size: int = 0
        #: The number of payload bytes after decompression. Always 0 for an uncompressed message.
        self.inflated: int = 0
        #: True if the rest of the message will be discarded.
        self.is_skipped: bool = False
        self._data: io.StringIO | bytearray | None = None

    def begin_frame(self, head_size: int, length: int) -> None:
        """Record that the head of the next frame has been received."""
        self.fragments += 1
        self.frame_left = head_size + length
        if not self.is_compressed:
            self.size += length

    def advance(self, size: int) -> None:
        """Record that this many bytes of the frame have been passed to wsproto."""
        self.frame_left -= size

    def skip(self) -> None:
        """Discard the buffered data and the rest of the message."""
        self.is_skipped = True
        self._data = None

    def add(self, data: str | bytes | bytearray, inflated: int) -> None:
        """Buffer a part of the payload.

        :param inflated: The decompressed size of the message so far, if it is compressed.
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
        """True if a part of the payload is buffered."""
        return isinstance(self._data, io.StringIO) or bool(self._data)

    def take(self) -> str | bytes:
        """Remove and return the buffered part of the payload."""
        data, self._data = self._data, None
        return data.getvalue() if isinstance(data, io.StringIO) else bytes(data or b"")


class MessageAssembler:
    """Assembles messages or chunks of messages, and enforces the limits."""

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
        :param closing: The connection's state.
        :param options: The options that limit messages.
        """
        self._closing = closing
        self._max_message_size = _at_most(options.max_message_size)
        self._max_fragments = options.max_fragments
        #: The limit on the size of the next message.
        self.limit: int = self._max_message_size
        #: True if the next message is delivered in chunks.
        self.is_streaming: bool = False
        #: The number of complete messages received, and the total size of their payloads in bytes.
        self.messages_received: int = 0
        self.bytes_received: int = 0
        #: The number of characters or bytes decoded from messages that arrived in parts, including
        #: those that were discarded.
        self.decoded: int = 0

    def begin_stream(self, max_size: float | None, partial: PartialMessage | None) -> None:
        """Deliver the next message, or the rest of the current one, in chunks.

        :param max_size: The size limit for this message. It overrides `max_message_size`.
        :param partial: The message that is currently arriving, or None.
        """
        self.is_streaming = True
        if max_size is not None:
            self.limit = _at_most(max_size)
        if partial is not None and not partial.is_skipped:
            size = partial.inflated if partial.is_compressed else partial.size
            if not self.is_within_limits(size, partial.fragments):
                raise self.violation(size)

    def end_stream(self) -> None:
        """Deliver complete messages again, after the message's end or before its first chunk."""
        self.is_streaming = False
        self.limit = self._max_message_size

    def count(self, messages: int, size: int) -> None:
        """Count complete messages.

        :param size: The total size of their payloads in bytes.
        """
        self.messages_received += messages
        self.bytes_received += size

    def is_wanted(self, partial: PartialMessage) -> bool:
        """Return True if the application should receive the rest of the message."""
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

        :param inflated: The decompressed size of the message so far, if it is compressed.
        :param is_last: True if the message ends with this data.
        :returns: The message or chunk to deliver now, or None if there is nothing to deliver yet.
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
        """Count a message that was decoded in one step, and return its event."""
        if self._closing.sent is not None:
            return Status.PARTIAL
        self.count(1, size)
        if not self.is_streaming:
            return message
        self.end_stream()
        return MessageChunk(message, is_last=True)

    # -- limits

    def is_within_limits(self, size: int, fragments: int) -> bool:
        """Return True if a message of this many bytes and frames does not exceed the limits."""
        return size <= self.limit and fragments <= self._max_fragments

    def violation(self, size: int) -> ViolationError:
        """Return the error for a message that exceeds its limits."""
        if size > self.limit:
            text = f"message of {size} bytes exceeds {self.size_limit}"
        else:
            text = f"message exceeds max_fragments={self._max_fragments}"
        return ViolationError(CloseCode.MESSAGE_TOO_BIG, text)

    def inflated_violation(self) -> ViolationError:
        """Return the error for a compressed message, whose full size is unknown."""
        return ViolationError(CloseCode.MESSAGE_TOO_BIG, f"message exceeds {self.size_limit}")

    @property
    def size_limit(self) -> str:
        """The size limit for this message and the option that sets it, as ``name=value``."""
        is_own = self.is_streaming and self.limit != self._max_message_size
        return f"{'max_size' if is_own else 'max_message_size'}={self.limit}"


def _at_most(limit: float) -> int:
    return int(min(limit, sys.maxsize))
