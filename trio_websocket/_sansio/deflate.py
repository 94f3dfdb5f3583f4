"""Message compression with permessage-deflate (RFC 7692): bytes in, bytes out.

This module replaces wsproto's extension, which inflates without a limit, keeps parameters from
offers that it declined, and uses the wrong side's window size.

Sending: zlib flushes at the end of each message (Z_SYNC_FLUSH), and the last four bytes of the
output, `_TAIL`, are removed (7.2.1). With context takeover, the compressor lives as long as the
connection, and later messages refer to earlier ones. Without it, each message has its own
compressor, and connections can share the frame of a broadcast message.

Receiving: inflating a short, complete message takes one call of zlib (`_inflate_whole`). Other
messages are inflated in steps (`_inflate_any`), because the peer determines how much memory and
time they take. A step ends at one of two limits, and then `has_more` is True:

- The caller's `max_length` limits the output.
- `INFLATE_STEP_WORK` limits the work. Empty blocks take time but produce no output.

A message can contain final blocks (BFINAL). Each ends a DEFLATE stream, and another stream with a
new window follows in the same message (7.2.3.4). At the end of a message, the tail must complete
the stream. `_end_stream` checks this by appending a final block. If the next message needs the
decompressor, `_end_stream` uses a copy of it. Without this check, a truncated message would be
accepted and would corrupt the next one.

If the zlib-ng package is installed, it replaces zlib, unless the environment variable
TRIO_WEBSOCKET_NO_ZLIB_NG is set and not empty.
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from .costs import FINAL_BLOCK_WORK, INFLATE_STEP_WORK, ZLIB_INPUT_BYTES, ZLIB_INPUT_BYTES_SMALL
from .extensions import MIN_BITS, NAME, DeflateParameters, PerMessageDeflate

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

if not TYPE_CHECKING and not os.environ.get("TRIO_WEBSOCKET_NO_ZLIB_NG"):
    try:
        from zlib_ng import zlib_ng as zlib
    except ImportError:
        pass  # zlib-ng is not installed

_TAIL = b"\x00\x00\xff\xff"  # the end of each flush, omitted on the wire (7.2.1)
_PROBE = _TAIL + b"\x03\x00"  # the tail, followed by an empty block with BFINAL
_EMPTY = b"\x00"  # the compressed form of an empty message (7.2.3.6)


class DecompressedTooLarge(Exception):
    """A decompressed message exceeds the limit."""


class InvalidData(Exception):
    """A message can't be decompressed."""


class DeflateCodec:
    """Compresses and decompresses the messages of one connection.

    If a method raises an exception, the caller must fail the connection.
    """

    def __init__(
        self, agreed: DeflateParameters, settings: PerMessageDeflate, *, is_client: bool
    ) -> None:
        """
        :param agreed: The negotiated parameters.
        :param settings: This side's settings, for everything that is not negotiated.
        :param is_client: True if this side is the client.
        """
        client = agreed.client_max_window_bits, agreed.client_no_context_takeover
        server = agreed.server_max_window_bits, agreed.server_no_context_takeover
        ours, theirs = (client, server) if is_client else (server, client)
        #: The negotiated parameters.
        self.agreed = agreed
        self._settings = settings
        self._is_client = is_client
        self._deflate_bits, self._deflate_resets = ours
        # Many peers that agreed to 8 bits actually use 9, because zlib does not support 8.
        self._inflate_bits, self._inflate_resets = max(theirs[0], MIN_BITS), theirs[1]
        # To save memory, these are None until they are needed. Without context takeover, they are
        # also None between messages.
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None
        # These describe the message that is being decompressed. Invariant: between messages,
        # `_input` is empty, `_at` is 0, and all flags are False.
        # The latest input, and the offset of the first byte that zlib has not consumed.
        self._input = memoryview(b"")
        self._at = 0
        # The number of bytes to pass to zlib in one call; smaller after a final block.
        self._slice = ZLIB_INPUT_BYTES
        # True if the decompressor has consumed a part of the message since the last final block.
        self._is_begun = False
        # True if the last call of zlib reached its output limit, so that more output may follow.
        self._is_full = False
        # True if the message ends with `_input`.
        self._is_last = False
        #: The total cost of decompressing: bytes of input, plus 32 for each final block.
        self.work: int = 0

    # -- out

    @property
    def can_deflate(self) -> bool:
        """True if zlib supports the negotiated window. If False, send messages uncompressed."""
        return self._deflate_bits >= MIN_BITS

    @property
    def share_key(self) -> tuple[int, int, int] | None:
        """A key that is equal for codecs that produce equal output; None with context takeover."""
        if not self._deflate_resets:
            return None
        return self._deflate_bits, self._settings.level, self._settings.mem_level

    def deflate_stateless(self, payload: bytes) -> bytes:
        """Compress a message independently of all others. Any thread can call this."""
        return DeflateCodec(self.agreed, self._settings, is_client=self._is_client).deflate(payload)

    def deflate(self, payload: bytes) -> bytes:
        """Compress a complete message."""
        return self.deflate_chunk(payload, is_last=True)

    def deflate_chunk(self, data: bytes, *, is_last: bool) -> bytes:
        """Compress the next chunk of a message. The peer can decompress it as soon as it arrives.

        :param data: The chunk, which may be empty.
        :param is_last: True if the message ends with this chunk.
        :returns: The next chunk of the compressed message, which may be empty.
        """
        if self._compressor is None:
            self._compressor = zlib.compressobj(
                self._settings.level, zlib.DEFLATED, -self._deflate_bits, self._settings.mem_level
            )
        if not data and not is_last:
            return b""
        output = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if not is_last:
            return output
        if self._deflate_resets:
            self._compressor = None
        # zlib returns nothing if it has had no input since the last flush.
        return output[: -len(_TAIL)] or _EMPTY

    # -- in

    def inflate(self, payload: bytes, max_size: float) -> bytes:
        """Decompress a complete message.

        :param payload: The compressed message.
        :param max_size: The maximum size of the decompressed message; ``math.inf`` for no limit.
        :raises DecompressedTooLarge: The message is larger. Decompression stopped at most one byte
            above the limit.
        :raises InvalidData: The message is not valid.
        """
        message = self.inflate_all(payload, is_last=True, max_length=_beyond(max_size))
        if len(message) > max_size:
            raise DecompressedTooLarge(f"the message inflates to more than {max_size} bytes")
        return message

    def inflate_all(self, data: bytes, *, is_last: bool = False, max_length: int) -> bytes:
        """Like `inflate_chunk`, but without a limit on the work."""
        output = self.inflate_chunk(data, is_last=is_last, max_length=max_length)
        while self.has_more and len(output) < max_length:
            room = max_length - len(output)
            output += self.inflate_chunk(b"", is_last=is_last, max_length=room)
        return output

    @property
    def has_more(self) -> bool:
        """True if the input so far may yield more output."""
        return self._is_full or self._at < len(self._input) or self._is_last

    def inflate_chunk(self, data: bytes, *, is_last: bool, max_length: int) -> bytes:
        """Decompress the next chunk of a message, or continue with the previous one.

        :param data: The chunk. It must be empty if :attr:`has_more` is True.
        :param is_last: True if the message ends with this chunk.
        :param max_length: The maximum number of bytes to return, at least 1.
        :returns: The output, which may be empty. If :attr:`has_more` is True, the output or the
            work reached a limit: call again with ``b""``. The message is complete when
            :attr:`has_more` is False after the last chunk.
        :raises InvalidData: The message is not valid.
        """
        assert max_length >= 1  # to zlib, 0 means no limit
        try:
            if is_last and data and not self._is_begun and len(data) <= ZLIB_INPUT_BYTES:
                return self._inflate_whole(data, max_length)
            return self._inflate_any(data, is_last, max_length)
        except zlib.error as exc:
            raise InvalidData(f"the message can't be inflated: {exc}") from exc

    def _inflate_whole(self, data: bytes, max_length: int) -> bytes:
        """Decompress a complete message that probably fits in the limit and has no final block.

        If it does not, `_inflate_any` decompresses the rest.
        """
        assert not self.has_more
        decompressor = self._decompressor
        if decompressor is None:
            decompressor = self._decompressor = zlib.decompressobj(-self._inflate_bits)
        output = decompressor.decompress(data, max_length)
        if len(output) < max_length and not decompressor.eof:
            self.work += len(data)
            self._end_stream(decompressor)
            self._slice = ZLIB_INPUT_BYTES
            return output
        self._input = memoryview(data)
        self._at = 0
        self._is_begun = self._is_last = True
        self._note(decompressor, data, is_full=len(output) == max_length)
        room = max_length - len(output)
        return output + self._inflate_any(b"", True, room) if room else output

    def _inflate_any(self, data: bytes, is_last: bool, max_length: int) -> bytes:
        if data:
            assert not self.has_more
            self._input = memoryview(data)
            self._at = 0
        self._is_last = self._is_last or is_last
        pieces: list[bytes] = []
        room = max_length
        end = self.work + INFLATE_STEP_WORK
        while room and (self._is_full or self._at < len(self._input)):
            if self.work >= end:
                return b"".join(pieces)
            piece = self._inflate_some(room)
            pieces.append(piece)
            room -= len(piece)
        if room:
            self._input = memoryview(b"")
            self._at = 0
            if self._is_last:
                self._end_message()
        return b"".join(pieces)

    def _inflate_some(self, room: int) -> bytes:
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(-self._inflate_bits)
        data = self._input[self._at : self._at + self._slice]
        self._is_begun = True
        output = self._decompressor.decompress(data, room)
        self._note(self._decompressor, data, is_full=len(output) == room)
        return output

    def _note(
        self, decompressor: zlib._Decompress, data: bytes | memoryview, *, is_full: bool
    ) -> None:
        """Record how much data the decompressor consumed, and whether its stream ended."""
        left = decompressor.unconsumed_tail
        self._is_full = is_full
        if decompressor.eof:
            # A final block ends a DEFLATE stream, not the message (7.2.3.4). Some senders can't
            # avoid ending their streams. Another stream with a new window follows.
            left = decompressor.unused_data
            self._decompressor = None
            self._is_begun = self._is_full = False
            self._slice = ZLIB_INPUT_BYTES_SMALL
            self.work += FINAL_BLOCK_WORK
        self._at += len(data) - len(left)
        self.work += len(data) - len(left)

    def _end_message(self) -> None:
        # Neither an empty message nor one that ends with a final block needs a tail. Strictly
        # speaking, both are invalid, but many peers send them, and the meaning is unambiguous.
        if self._decompressor is not None and self._is_begun:
            self._end_stream(self._decompressor)
        if self._inflate_resets:
            self._decompressor = None
        self._is_begun = self._is_last = False
        self._slice = ZLIB_INPUT_BYTES

    def _end_stream(self, decompressor: zlib._Decompress) -> None:
        """Pass the tail to the decompressor, and check that a new block can begin after it.

        Without this check, a truncated message would corrupt the next one. Copying the decompressor
        takes as long as copying its window.
        """
        probe = decompressor if self._inflate_resets else decompressor.copy()
        output = probe.decompress(_PROBE, 1)
        if output or not probe.eof or probe.unused_data:
            raise InvalidData("the message can't be inflated: it is cut off")
        if self._inflate_resets:
            self._decompressor = None
        else:
            decompressor.decompress(_TAIL)


def _beyond(max_size: float) -> int:
    """Return the smallest size that exceeds the limit, or `sys.maxsize` if there is no limit."""
    return int(min(max(max_size, 0), sys.maxsize - 1)) + 1


class DeflateExtension(Extension):
    """The wsproto extension that decompresses received frames. It does not compress any."""

    name = NAME

    def __init__(self, codec: DeflateCodec) -> None:
        """:param codec: The connection's codec."""
        #: The connection's codec.
        self.codec = codec
        self._max_size: float = math.inf  # the maximum size of a decompressed message
        #: The number of bytes decompressed from the current message so far, or from the last one.
        self.size: int = 0
        # The current message and the current frame have separate flags, because a control frame
        # can arrive between the fragments of a message.
        self._in_message = False
        self._is_compressed = False
        self._is_control = False

    def set_limit(self, max_size: float) -> None:
        """Set the maximum size of a decompressed message."""
        self._max_size = max_size

    def begin_message(self) -> None:
        """Reset the size, for a new message."""
        self.size = 0

    def enabled(self) -> bool:
        """Return True, so that wsproto uses the extension."""
        return True

    def offer(self) -> bool | str:
        """Return False, because wsproto takes no part in the handshake."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002 # wsproto's signature
    ) -> CloseReason | RsvBits:
        """Handle the head of a frame. wsproto may call this several times for one frame."""
        self._is_control = opcode.iscontrol()
        is_first = not self._is_control and opcode is not Opcode.CONTINUATION
        if is_first:
            if self._in_message:
                return CloseReason.PROTOCOL_ERROR
            self._is_compressed = rsv.rsv1
            self.size = 0
        return RsvBits(is_first, False, False)  # the reserved bits that are allowed

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        data: bytes,
    ) -> bytes | CloseReason:
        """Decompress a chunk of a frame's payload."""
        if self._is_control or not self._is_compressed:
            return data
        left = self._max_size - self.size
        try:
            output = self.codec.inflate_all(data, max_length=_beyond(left))
        except InvalidData:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if len(output) > left:
            return CloseReason.MESSAGE_TOO_BIG
        self.size += len(output)
        return output

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        fin: bool,
    ) -> bytes | CloseReason | None:
        """Handle the end of a frame, and of the message if the frame is final."""
        if self._is_control:
            return None
        self._in_message = not fin
        if fin and self._is_compressed:
            self._is_compressed = False
            try:
                self.codec.inflate_chunk(b"", is_last=True, max_length=1)
            except InvalidData:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return None
