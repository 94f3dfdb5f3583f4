"""What one side of an open connection sends, as frames (RFC 6455, 5; RFC 7692, 7.2.1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wsproto.connection import ConnectionType

from . import codec
from .costs import SCATTER_WRITE_BYTES
from .errors import CloseCode, CloseReason
from .frames import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONTINUATION,
    FINAL,
    PING,
    PONG,
    TEXT,
    long_head,
    new_key,
)

if TYPE_CHECKING:
    from .deflate import DeflateExtension
    from .options import Options

_WHOLE_TEXT, _WHOLE_BINARY = FINAL | TEXT, FINAL | BINARY


class FrameWriter:
    """The frames that one side sends."""

    # With more than 30 names, Python would give each connection a dict, which is large and slow.
    __slots__ = (
        "_extension",
        "_is_client",
        "bytes_sent",
        "messages_sent",
        "threshold",
    )

    def __init__(
        self, side: ConnectionType, options: Options, extension: DeflateExtension | None
    ) -> None:
        """
        :param side: Which side it is.
        :param options: The bounds.
        :param extension: What was agreed on about compression.
        """
        self._is_client = side is ConnectionType.CLIENT
        self._extension = extension
        #: Bytes from which on a message is compressed, unless it is asked not to be. It is
        #: `math.inf` if none can be: the sender decides about each message (RFC 7692, 6).
        self.threshold: float = math.inf
        if (
            extension is not None
            and options.compression is not None
            and extension.codec.can_deflate
        ):
            self.threshold = options.compression.threshold
        #: Whole messages that were sent, and bytes of their payload.
        self.messages_sent: int = 0
        self.bytes_sent: int = 0

    def message(self, is_text: bool, payload: bytes, compress: bool = True) -> bytes:
        """The frame of a whole message. The frames must be sent in the order of the calls."""
        size = len(payload)
        self.messages_sent += 1
        self.bytes_sent += size
        first = _WHOLE_TEXT if is_text else _WHOLE_BINARY
        if compress and size >= self.threshold:
            first |= COMPRESSED
            payload = self.deflate(payload)
        return codec.frame(first, payload, new_key() if self._is_client else b"")

    def deflate(self, payload: bytes) -> bytes:
        """Compress a message for `deflated_message`. Another thread may do it, one at a time."""
        assert self._extension is not None
        return self._extension.codec.deflate(payload)

    def deflated_message(self, is_text: bool, deflated: bytes, size: int) -> bytes:
        """The frame of a whole message that `deflate` has compressed.

        The frames must be sent in the order of the calls.

        :param size: The size of the message before it was compressed.
        """
        self.count_message(size)
        return self._frame((_WHOLE_TEXT if is_text else _WHOLE_BINARY) | COMPRESSED, deflated)

    def large_message(self, is_text: bool, payload: bytes) -> list[bytes]:
        """The frame of a whole message, not compressed, in parts: the payload need not be copied.

        The frames must be sent in the order of the calls.
        """
        if self._is_client:
            return [self.message(is_text, payload, compress=False)]
        self.count_message(len(payload))
        return [long_head(_WHOLE_TEXT if is_text else _WHOLE_BINARY, len(payload)), payload]

    def share_key(self, size: int, compress: bool) -> object:
        """What the frame of a message depends on, beside the message.

        Where it is the same, frames are. None: they are for this connection alone.
        """
        if self._is_client:  # each frame has a key of its own
            return None
        if size < self.threshold or not compress:
            return ()
        assert self._extension is not None
        return self._extension.codec.share_key

    def shared_message(self, is_text: bool, payload: bytes, compress: bool) -> list[bytes]:
        """The frame of a message, in parts, for all where `share_key` is what it is here.

        It does nothing else, so any thread may call it. Who sends it calls `count_message`.
        """
        first = _WHOLE_TEXT if is_text else _WHOLE_BINARY
        if compress and len(payload) >= self.threshold:
            assert self._extension is not None
            payload = self._extension.codec.deflate_stateless(payload)
            return [self._frame(first | COMPRESSED, payload)]
        if len(payload) >= SCATTER_WRITE_BYTES:
            return [long_head(first, len(payload)), payload]
        return [self._frame(first, payload)]

    def count_message(self, size: int) -> None:
        """Count a message of so many bytes, whose frame was there already."""
        self.messages_sent += 1
        self.bytes_sent += size

    def discount_message(self, size: int) -> None:
        """Take back the count of a message of so many bytes: it is lost."""
        self.messages_sent -= 1
        self.bytes_sent -= size

    def fragment(
        self, is_text: bool, payload: bytes, *, is_first: bool, is_last: bool, compress: bool
    ) -> bytes:
        """The frame of a part of a message."""
        self.messages_sent += is_last
        self.bytes_sent += len(payload)
        first = (TEXT if is_text else BINARY) if is_first else CONTINUATION
        if compress and self.threshold != math.inf:
            assert self._extension is not None
            payload = self._extension.codec.deflate_chunk(payload, is_last=is_last)
            if is_first:
                first |= COMPRESSED
        return self._frame((FINAL if is_last else 0) | first, payload)

    def ping(self, payload: bytes) -> bytes:
        """The frame of a Ping."""
        return self._frame(FINAL | PING, payload)

    def pong(self, payload: bytes) -> bytes:
        """The frame of a Pong."""
        return self._frame(FINAL | PONG, payload)

    def close(self, reason: CloseReason) -> bytes:
        """Return a Close frame. Code 1005 stands for none."""
        payload = b""
        if reason.code != CloseCode.NO_STATUS_RCVD:
            payload = reason.code.to_bytes(2, "big") + (reason.reason or "").encode()
        return self._frame(FINAL | CLOSE, payload)

    def _frame(self, first: int, payload: bytes) -> bytes:
        return codec.frame(first, payload, new_key() if self._is_client else b"")
