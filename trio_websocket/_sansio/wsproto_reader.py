"""Decode rare and invalid frames with wsproto, which decides about errors.

wsproto gets bytes of one frame at a time, so it returns at most one event. Its errors become
`ViolationError`.
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

# The registered code that wsproto does not know, and a known code to replace it.
_UNKNOWN, _STAND_IN = CloseCode.BAD_GATEWAY, CloseCode.TRY_AGAIN_LATER
# wsproto's text for every error that our extension reports.
_ERROR_IN_EXTENSION = "error in extension"


class WsprotoReader:
    """Decodes a part of a frame, or a whole control frame."""

    __slots__ = ("_assembler", "_code", "_extension", "_side", "_wsproto")

    def __init__(
        self, side: ConnectionType, extension: DeflateExtension | None, assembler: MessageAssembler
    ) -> None:
        """
        :param side: The side that receives.
        :param extension: The outcome of the negotiation about compression.
        :param assembler: The assembler, which has the limits.
        """
        self._assembler = assembler
        self._side = side
        self._extension = extension
        # It takes memory, and a connection that receives only messages in order needs none.
        self._wsproto: Connection | None = None
        self._code: int | None = None  # the code that `_STAND_IN` stands for

    def portion(self, partial: PartialMessage, size: int, *, is_awaited: bool) -> int:
        """Return how many of the next bytes of a compressed message to feed now.

        The limit is passed on to the extension.
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
        """Return a Close frame with a code that wsproto knows.

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

        :param data: Bytes of one frame, or bytes that begin with an invalid frame. Both give at
            most one event.
        :raises ViolationError: The peer violated the protocol.
        """
        if self._wsproto is None:
            extensions = [] if self._extension is None else [self._extension]
            self._wsproto = Connection(self._side, [*extensions])
        self._wsproto.receive_data(data)
        # wsproto's events have an abstract base class, so isinstance() is expensive when it is
        # false.
        for event in self._wsproto.events():
            if type(event) is CloseConnection:
                if self._wsproto.state is ConnectionState.OPEN:
                    # Not a Close frame, but a verdict of wsproto, which leaves the state as it was.
                    raise ViolationError(int(event.code), _explained(event, self._assembler))
                code = self._code or int(event.code)
                return CloseReason(code, event.reason or None)
            return event  # type: ignore[return-value] # there are no others
        return None


def _explained(event: CloseConnection, assembler: MessageAssembler) -> str:
    """Return why wsproto closes the connection."""
    if event.reason != _ERROR_IN_EXTENSION:
        return event.reason or ""
    if event.code == CloseCode.MESSAGE_TOO_BIG:
        return f"message exceeds {assembler.size_limit}"
    if event.code == CloseCode.PROTOCOL_ERROR:
        return "a message begins within another"
    return "a message is compressed in a wrong way"
