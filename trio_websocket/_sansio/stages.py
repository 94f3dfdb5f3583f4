"""The stages of a `FrameReader`, which say what the next bytes belong to.

The stage of a `FrameReader` is one of these:

- `BETWEEN`: a frame begins, and no message is under way. This is the stage of the fast paths:
  `FrameReader.messages` decodes many small messages in one call, and `next_event` one.
- A `LargeFrame`: a long message in one frame, most of which is still to come. It is decoded when
  it is whole, in one step.
- An `Inflation`: a compressed message in one frame, which is inflated in steps.
- A `PartialMessage`: a message of which wsproto has a part. Control frames may come between its
  frames.
- `InvalidFrame`: wsproto gets the bytes, and will raise the right error.
"""

from __future__ import annotations

from typing import Union

from .assembler import PartialMessage
from .frames import LargeFrame
from .inflation import Inflation


class Between:
    """No message is under way."""


class InvalidFrame:
    """An invalid frame, or a valid one out of order, which wsproto will refuse."""

    __slots__ = ("_left",)

    def __init__(self, size: float) -> None:
        self._left = size

    def take(self, available: int) -> int:
        """Return how many of the available bytes wsproto gets now."""
        size = int(min(self._left, available))
        self._left -= size
        return size


BETWEEN = Between()

Stage = Union[Between, InvalidFrame, LargeFrame, Inflation, PartialMessage]
