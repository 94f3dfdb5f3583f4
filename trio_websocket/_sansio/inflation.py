"""Inflate a compressed single-frame message in steps, without wsproto."""

from __future__ import annotations

import io

from .costs import INFLATE_AT_ONCE_BYTES, INFLATE_AT_ONCE_OUTPUT_BYTES, INFLATE_STEP_BYTES
from .deflate import DecompressedTooLarge, DeflateCodec


class Inflation:
    """A message that is being inflated."""

    __slots__ = ("_codec", "_parts", "is_text")

    def __init__(self, codec: DeflateCodec, *, is_text: bool) -> None:
        """
        :param codec: The connection's codec.
        :param is_text: True for a text message.
        """
        self._codec = codec
        self._parts: io.BytesIO | None = None  # the output of the previous steps; None before them
        self.is_text = is_text

    def step(self, data: bytes, limit: int, *, is_discarded: bool) -> bytes | None:
        """Inflate a part of the message.

        :param data: The frame's payload in the first step; ``b""`` in later steps.
        :param limit: The maximum size of the message in bytes.
        :param is_discarded: True to inflate the message only to update the decompressor's window.
        :returns: The complete message, or None if another step is needed.
        :raises DecompressedTooLarge: The message exceeds the limit.
        :raises InvalidData: The payload is not a compressed message.
        """
        codec = self._codec
        if self._parts is None:
            if len(data) <= INFLATE_AT_ONCE_BYTES and limit <= INFLATE_AT_ONCE_OUTPUT_BYTES:
                payload = codec.inflate_chunk(data, is_last=True, max_length=limit + 1)
                if len(payload) > limit:
                    raise DecompressedTooLarge
                if not codec.has_more:
                    return payload
                self._parts = io.BytesIO()
                self._parts.write(payload)
                return None
            self._parts = io.BytesIO()
        parts = self._parts
        if is_discarded:
            parts.seek(0)
        left = limit - parts.tell()
        if left < 0:
            raise DecompressedTooLarge
        part = codec.inflate_chunk(data, is_last=True, max_length=min(left + 1, INFLATE_STEP_BYTES))
        if len(part) > left:
            raise DecompressedTooLarge
        parts.write(part)
        return None if codec.has_more else parts.getvalue()  # getvalue() does not copy
