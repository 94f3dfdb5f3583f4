"""Build the frames that one side of a connection sends (RFC 6455, 5; RFC 7692, 7.2.1)."""

from __future__ import annotations

import math

from wsproto.connection import ConnectionType

from . import codec
from .costs import SCATTER_WRITE_BYTES
from .deflate import DeflateExtension
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
from .options import Options

_WHOLE_TEXT, _WHOLE_BINARY = FINAL | TEXT, FINAL | BINARY


class FrameWriter:
    """Builds frames: masked for a client, and compressed if compression was negotiated.

    Invariant: if `threshold` is finite, there is an extension, and it can compress. With context
    takeover, a compressed message refers to earlier ones, so frames must be sent in the order in
    which they were built.
    """

    __slots__ = ("_extension", "_is_client", "bytes_sent", "messages_sent", "threshold")

    def __init__(
        self, side: ConnectionType, options: Options, extension: DeflateExtension | None
    ) -> None:
        """
        :param side: The side that sends the frames.
        :param options: The connection's options.
        :param extension: The negotiated compression, or None.
        """
        self._is_client = side is ConnectionType.CLIENT
        self._extension = extension
        #: The minimum size in bytes of messages to compress. The caller can still decline, because
        #: the sender decides for each message (RFC 7692, 6). `math.inf` disables compression.
        self.threshold: float = math.inf
        if (
            extension is not None
            and options.compression is not None
            and extension.codec.can_deflate
        ):
            self.threshold = options.compression.threshold
        #: The number of complete messages sent, and the total size of their payloads in bytes
        #: before compression.
        self.messages_sent: int = 0
        self.bytes_sent: int = 0

    def message(self, is_text: bool, payload: bytes, compress: bool = True) -> bytes:
        """Return the frame of a complete message. Send frames in the order of the calls."""
        size = len(payload)
        self.messages_sent += 1
        self.bytes_sent += size
        first = _WHOLE_TEXT if is_text else _WHOLE_BINARY
        if compress and size >= self.threshold:
            first |= COMPRESSED
            payload = self.deflate(payload)
        return codec.frame(first, payload, new_key() if self._is_client else b"")

    def deflate(self, payload: bytes) -> bytes:
        """Compress a message for `deflated_message`. Any thread can call this, one at a time."""
        assert self._extension is not None
        return self._extension.codec.deflate(payload)

    def deflated_message(self, is_text: bool, deflated: bytes, size: int) -> bytes:
        """Return the frame of a complete message that `deflate` has compressed.

        Send frames in the order of the calls.

        :param size: The size of the message before compression.
        """
        self.count_message(size)
        return self._frame((_WHOLE_TEXT if is_text else _WHOLE_BINARY) | COMPRESSED, deflated)

    def large_message(self, is_text: bool, payload: bytes) -> list[bytes]:
        """Return the frame of a large uncompressed message, in parts to avoid copying the payload.

        Send frames in the order of the calls.
        """
        if self._is_client:
            return [self.message(is_text, payload, compress=False)]
        self.count_message(len(payload))
        return [long_head(_WHOLE_TEXT if is_text else _WHOLE_BINARY, len(payload)), payload]

    def share_key(self, size: int, compress: bool) -> object:
        """Return a key that is equal for connections that can share the frame of a message.

        None means that this connection needs a separate frame.
        """
        if self._is_client:  # each frame needs its own masking key
            return None
        if size < self.threshold or not compress:
            return ()
        assert self._extension is not None
        return self._extension.codec.share_key

    def shared_message(self, is_text: bool, payload: bytes, compress: bool) -> list[bytes]:
        """Return the frame of a message, in parts, for all connections with the same `share_key`.

        This changes no state, so any thread can call it. Call `count_message` for each connection
        that sends the frame.
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
        """Count a sent message whose frame has already been built."""
        self.messages_sent += 1
        self.bytes_sent += size

    def discount_message(self, size: int) -> None:
        """Undo `count_message` for a message that was not sent after all."""
        self.messages_sent -= 1
        self.bytes_sent -= size

    def fragment(
        self, is_text: bool, payload: bytes, *, is_first: bool, is_last: bool, compress: bool
    ) -> bytes:
        """Return the frame for one fragment of a message."""
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
        """Return a Ping frame."""
        return self._frame(FINAL | PING, payload)

    def pong(self, payload: bytes) -> bytes:
        """Return a Pong frame."""
        return self._frame(FINAL | PONG, payload)

    def close(self, reason: CloseReason) -> bytes:
        """Return a Close frame. With code 1005, the payload is empty and contains no code."""
        payload = b""
        if reason.code != CloseCode.NO_STATUS_RCVD:
            payload = reason.code.to_bytes(2, "big") + (reason.reason or "").encode()
        return self._frame(FINAL | CLOSE, payload)

    def _frame(self, first: int, payload: bytes) -> bytes:
        return codec.frame(first, payload, new_key() if self._is_client else b"")
