"""Decode rare and invalid frames with wsproto, which determines how errors are reported.

Each call passes bytes from only one frame to wsproto, so it returns at most one event. wsproto's
errors are raised as `ViolationError`.
"""

from __future__ import annotations

import math

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from . import codec
from .assembler import MessageAssembler, PartialMessage
from .costs import (
    INFLATE_AT_ONCE_OUTPUT_BYTES,
    MAX_INFLATE_RATIO,
    WSPROTO_COMPRESSED_BYTES,
    WSPROTO_COMPRESSED_BYTES_SMALL,
)
from .deflate import DeflateExtension
from .errors import CloseCode, CloseReason
from .events import ViolationError
from .frames import MASKED

# The registered close code that wsproto does not know, and a known code to pass in its place.
_UNKNOWN, _STAND_IN = CloseCode.BAD_GATEWAY, CloseCode.TRY_AGAIN_LATER
# The text that wsproto uses for every error reported by an extension.
_ERROR_IN_EXTENSION = "error in extension"


class WsprotoReader:
    """Decodes parts of data frames, and complete control frames."""

    __slots__ = ("_assembler", "_code", "_extension", "_side", "_wsproto")

    def __init__(
        self, side: ConnectionType, extension: DeflateExtension | None, assembler: MessageAssembler
    ) -> None:
        """
        :param side: The side that receives the frames.
        :param extension: The negotiated compression, or None.
        :param assembler: The assembler, which knows the limits.
        """
        self._assembler = assembler
        self._side = side
        self._extension = extension
        # Created when it is first needed, because it takes memory. A connection that receives only
        # unfragmented messages never needs it.
        self._wsproto: Connection | None = None
        self._code: int | None = None  # the received code, if `_STAND_IN` has replaced it

    def portion(self, partial: PartialMessage, size: int, *, is_awaited: bool) -> int:
        """Return how many of the next bytes of a compressed message to pass to wsproto now.

        This also sets the size limit of the extension.
        """
        assert self._extension is not None
        assembler = self._assembler
        if not assembler.is_wanted(partial):
            self._extension.set_limit(math.inf)
            return min(size, WSPROTO_COMPRESSED_BYTES_SMALL)
        self._extension.set_limit(assembler.limit)
        left = assembler.limit - self._extension.size
        if not assembler.is_streaming and not is_awaited:
            return int(min(size, WSPROTO_COMPRESSED_BYTES, left / MAX_INFLATE_RATIO))
        is_small = assembler.is_streaming and left > INFLATE_AT_ONCE_OUTPUT_BYTES
        return min(size, WSPROTO_COMPRESSED_BYTES_SMALL if is_small else WSPROTO_COMPRESSED_BYTES)

    def with_known_code(self, frame: bytes, head_size: int) -> bytes:
        """Return the Close frame with a close code that wsproto knows.

        Code 1014 was registered after wsproto was written.
        """
        code = frame[head_size : head_size + 2]
        if frame[1] & MASKED:
            code = codec.masked(code, frame[head_size - 4 : head_size])
        if int.from_bytes(code, "big") != _UNKNOWN:
            return frame
        self._code = _UNKNOWN
        known = bytearray(frame)
        known[head_size + 1] ^= _UNKNOWN ^ _STAND_IN  # masked or not
        return bytes(known)

    def feed(self, data: bytes) -> TextMessage | BytesMessage | Ping | Pong | CloseReason | None:
        """Decode the next bytes.

        :param data: Bytes from one frame, or bytes that begin with an invalid frame. Both result in
            at most one event.
        :raises ViolationError: The peer violated the protocol.
        """
        if self._wsproto is None:
            extensions = [] if self._extension is None else [self._extension]
            self._wsproto = Connection(self._side, [*extensions])
        self._wsproto.receive_data(data)
        # wsproto's events have an abstract base class, so isinstance() is expensive when it returns
        # False.
        for event in self._wsproto.events():
            if type(event) is CloseConnection:
                if self._wsproto.state is ConnectionState.OPEN:
                    # This event reports an error: a Close frame would have changed the state.
                    raise ViolationError(int(event.code), _explained(event, self._assembler))
                code = self._code or int(event.code)
                return CloseReason(code, event.reason or None)
            return event  # type: ignore[return-value] # there are no others
        return None


def _explained(event: CloseConnection, assembler: MessageAssembler) -> str:
    """Return the reason why wsproto would close the connection."""
    if event.reason != _ERROR_IN_EXTENSION:
        return event.reason or ""
    if event.code == CloseCode.MESSAGE_TOO_BIG:
        return f"message exceeds {assembler.size_limit}"
    if event.code == CloseCode.PROTOCOL_ERROR:
        return "a message begins within another"
    return "a message is compressed in a wrong way"
