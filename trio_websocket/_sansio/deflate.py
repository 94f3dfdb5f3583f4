"""Compression of messages, permessage-deflate (RFC 7692): bytes in, bytes out.

wsproto has this extension, too. Ours takes its place because wsproto's inflates without bound,
keeps parameters of offers that it declined, and takes the window of the wrong side.

Where the package zlib-ng is installed, it is used in place of zlib, unless the environment variable
TRIO_WEBSOCKET_NO_ZLIB_NG is set to anything but the empty string.
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
        pass  # it is not installed

_TAIL = b"\x00\x00\xff\xff"  # what a sender leaves out at the end of a message (7.2.1)
_PROBE = _TAIL + b"\x03\x00"  # the tail, and an empty block with BFINAL
_EMPTY = b"\x00"  # an empty message (7.2.3.6)


class DecompressedTooLarge(Exception):
    """A message that inflates to more than is allowed."""


class InvalidData(Exception):
    """A message that can't be inflated."""


class DeflateCodec:
    """Compresses and decompresses the messages of one connection.

    After an exception, the connection is to be failed.
    """

    def __init__(
        self, agreed: DeflateParameters, settings: PerMessageDeflate, *, is_client: bool
    ) -> None:
        """
        :param agreed: What was negotiated.
        :param settings: Our own, for what is not negotiated.
        :param is_client: Whether we are the client.
        """
        client = agreed.client_max_window_bits, agreed.client_no_context_takeover
        server = agreed.server_max_window_bits, agreed.server_no_context_takeover
        ours, theirs = (client, server) if is_client else (server, client)
        #: What was negotiated.
        self.agreed = agreed
        self._settings = settings
        self._is_client = is_client
        self._deflate_bits, self._deflate_resets = ours
        # Many a peer that agreed to 8 bits has zlib use 9.
        self._inflate_bits, self._inflate_resets = max(theirs[0], MIN_BITS), theirs[1]
        # They take memory, so they are there only while they are needed.
        self._compressor: zlib._Compress | None = None
        self._decompressor: zlib._Decompress | None = None
        # The message that is inflated: its input, and how much of it zlib has got ...
        self._input = memoryview(b"")
        self._at = 0
        self._slice = ZLIB_INPUT_BYTES
        # ... whether the decompressor has something of it, and may have output left, ...
        self._is_begun = False
        self._is_full = False
        # ... whether the input is the last.
        self._is_last = False
        #: The cost of decompressing so far: bytes of input, and 32 for each final block.
        self.work: int = 0

    # -- out

    @property
    def can_deflate(self) -> bool:
        """True if zlib has the window that was agreed on. If not, send messages uncompressed."""
        return self._deflate_bits >= MIN_BITS

    @property
    def share_key(self) -> tuple[int, int, int] | None:
        """What a compressed message depends on, or None if on the messages before it, too."""
        if not self._deflate_resets:
            return None
        return self._deflate_bits, self._settings.level, self._settings.mem_level

    def deflate_stateless(self, payload: bytes) -> bytes:
        """Compress a whole message as if there were no other; any thread may do it."""
        return DeflateCodec(self.agreed, self._settings, is_client=self._is_client).deflate(payload)

    def deflate(self, payload: bytes) -> bytes:
        """Compress a whole message."""
        return self.deflate_chunk(payload, is_last=True)

    def deflate_chunk(self, data: bytes, *, is_last: bool) -> bytes:
        """Compress the next piece of a message, so that the peer can decompress it by itself.

        :param data: The piece, which may be empty.
        :param is_last: Whether the message ends with it.
        :returns: The next piece of the compressed message, maybe nothing.
        """
        if self._compressor is None:
            self._compressor = zlib.compressobj(
                self._settings.level,
                zlib.DEFLATED,
                -self._deflate_bits,
                self._settings.mem_level,
            )
        if not data and not is_last:
            return b""
        output = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if not is_last:
            return output
        if self._deflate_resets:
            self._compressor = None
        # Without anything new since the last flush, zlib has nothing to flush.
        return output[: -len(_TAIL)] or _EMPTY

    # -- in

    def inflate(self, payload: bytes, max_size: float) -> bytes:
        """Decompress a whole message.

        :param payload: The compressed message.
        :param max_size: Bytes that it may have decompressed; ``math.inf`` is no limit.
        :raises TooLarge: It has more. No more of them than one were decompressed.
        :raises InvalidData: It is no compressed message.
        """
        message = self.inflate_all(payload, is_last=True, max_length=_beyond(max_size))
        if len(message) > max_size:
            raise DecompressedTooLarge(f"the message inflates to more than {max_size} bytes")
        return message

    def inflate_all(self, data: bytes, *, is_last: bool = False, max_length: int) -> bytes:
        """Decompress a piece of a message, however long it takes; otherwise as `inflate_chunk`."""
        output = self.inflate_chunk(data, is_last=is_last, max_length=max_length)
        while self.has_more and len(output) < max_length:
            room = max_length - len(output)
            output += self.inflate_chunk(b"", is_last=is_last, max_length=room)
        return output

    @property
    def has_more(self) -> bool:
        """Whether there may be more output of the input so far."""
        return self._is_full or self._at < len(self._input) or self._is_last

    def inflate_chunk(self, data: bytes, *, is_last: bool, max_length: int) -> bytes:
        """Decompress the next piece of a message, or go on with one that had more output.

        :param data: The piece, which may be empty; it must be if :attr:`has_more`.
        :param is_last: Whether the message ends with it.
        :param max_length: Bytes to return at most; 1 or more.
        :returns: Output, maybe none. While :attr:`has_more` is true, call again with ``b""``: there
            were ``max_length`` bytes, or the input took long. After the last piece, the message has
            ended when it is false.
        :raises InvalidData: It is no part of a compressed message.
        """
        assert max_length >= 1  # to zlib, 0 is no limit
        try:
            if is_last and data and not self._is_begun and len(data) <= ZLIB_INPUT_BYTES:
                return self._inflate_whole(data, max_length)
            return self._inflate_any(data, is_last, max_length)
        except zlib.error as exc:
            raise InvalidData(f"the message can't be inflated: {exc}") from exc

    def _inflate_whole(self, data: bytes, max_length: int) -> bytes:
        """Inflate a message that is here as a whole, and most likely fits, and has no final block.

        Nothing is noted down, and nothing joined, unless it turns out to be one of the others.
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
        """Note what a decompressor made of the data: how much of it is left, and where it is."""
        left = decompressor.unconsumed_tail
        self._is_full = is_full
        if decompressor.eof:
            # A final block ends a DEFLATE stream, not the message (7.2.3.4). What follows is
            # another stream, with a new window, as senders have it that must end streams.
            left = decompressor.unused_data
            self._decompressor = None
            self._is_begun = self._is_full = False
            self._slice = ZLIB_INPUT_BYTES_SMALL
            self.work += FINAL_BLOCK_WORK
        self._at += len(data) - len(left)
        self.work += len(data) - len(left)

    def _end_message(self) -> None:
        # A message that is empty, or has nothing behind a final block, needs no tail. Neither is
        # quite in order; many send them, and there is only one way to understand them.
        if self._decompressor is not None and self._is_begun:
            self._end_stream(self._decompressor)
        if self._inflate_resets:
            self._decompressor = None
        self._is_begun = self._is_last = False
        self._slice = ZLIB_INPUT_BYTES

    def _end_stream(self, decompressor: zlib._Decompress) -> None:
        """Give the decompressor the tail, behind which a block may begin.

        Without this check, a message that was cut off would end in garbage, and so would the next
        one. A copy takes as long as it takes to copy the window.
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
    """The least number of bytes that is over the limit, or the greatest that there is."""
    return int(min(max(max_size, 0), sys.maxsize - 1)) + 1


class DeflateExtension(Extension):
    """Shows wsproto messages decompressed. What is sent, it leaves as it is."""

    name = NAME

    def __init__(self, codec: DeflateCodec) -> None:
        """:param codec: That of the connection."""
        #: What compresses and decompresses.
        self.codec = codec
        self._max_size: float = math.inf  # of a message, decompressed
        #: Bytes that the latest message has so far, decompressed.
        self.size: int = 0
        # The message under way, and whether the frame under way is a part of it.
        self._in_message = False
        self._is_compressed = False
        self._is_control = False

    def set_limit(self, max_size: float) -> None:
        """Set the number of bytes that the message may have, decompressed."""
        self._max_size = max_size

    def begin_message(self) -> None:
        """Forget the size of the message before."""
        self.size = 0

    def enabled(self) -> bool:
        """Whether wsproto is to use the extension."""
        return True

    def offer(self) -> bool | str:
        """What wsproto would offer. It has no part in the handshake."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002 # likewise
    ) -> CloseReason | RsvBits:
        """Look at the head of a frame; wsproto may show the same one several times."""
        self._is_control = opcode.iscontrol()
        is_first = not self._is_control and opcode is not Opcode.CONTINUATION
        if is_first:
            if self._in_message:
                return CloseReason.PROTOCOL_ERROR
            self._is_compressed = rsv.rsv1
            self.size = 0
        return RsvBits(is_first, False, False)  # the bits that may be set

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 # wsproto's signature
        data: bytes,
    ) -> bytes | CloseReason:
        """Decompress a piece of a frame's payload."""
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
        """End a frame, and with a final one the message."""
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
