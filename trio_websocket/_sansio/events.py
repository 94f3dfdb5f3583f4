"""The results of decoding: messages, chunks of messages, control frames, and statuses."""

from __future__ import annotations

import enum
from typing import NamedTuple, Union

from wsproto.events import Ping, Pong


class Status(enum.Enum):
    """The result of decoding when there is no event."""

    #: All received bytes have been decoded.
    NEED_DATA = enum.auto()
    #: A part of a message was decoded. The received bytes may contain more.
    PARTIAL = enum.auto()
    #: Like PARTIAL, but expensive: checkpoint before the next step.
    YIELD = enum.auto()
    #: The next message exceeds its limit, or might exceed it. A reader decides what happens to it.
    OVER_LIMIT = enum.auto()
    #: The connection has ended. `Protocol.take_final_bytes` returns the last bytes to send.
    ENDED = enum.auto()


# Receiving a message compares these with `is`; looking up the enum member would take longer.
NEED_DATA, PARTIAL, YIELD = Status.NEED_DATA, Status.PARTIAL, Status.YIELD
OVER_LIMIT, ENDED = Status.OVER_LIMIT, Status.ENDED


class MessageChunk(NamedTuple):
    """A part of a message."""

    data: str | bytes
    is_last: bool


class ViolationError(Exception):
    """The peer violated the protocol or exceeded a limit (RFC 6455, 7.1.7).

    The handler must fail the connection.
    """

    def __init__(self, code: int, text: str) -> None:
        """
        :param code: The close code.
        :param text: The text of the Close frame.
        """
        super().__init__(text)
        self.code = code
        self.text = text


Event = Union[str, bytes, MessageChunk, Ping, Pong, Status]
