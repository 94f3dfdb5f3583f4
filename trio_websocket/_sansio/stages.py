"""The stages of a `FrameReader`, which say what the next received bytes belong to.

The stage is one of these:

- `BETWEEN`: the next byte starts a frame, and no message is incomplete. The fast paths start from
  this stage: `FrameReader.messages` decodes many small messages in one call, `next_event` one.
- A `LargeFrame`: a large single-frame message that has not arrived completely. It is decoded in one
  step once it is complete.
- An `Inflation`: a compressed single-frame message that is being inflated in steps.
- A `PartialMessage`: a message that wsproto has partly decoded. Control frames can arrive between
  its frames.
- An `InvalidFrame`: all bytes go to wsproto, which will report the right error.
"""

from __future__ import annotations

from typing import Union

from .assembler import PartialMessage
from .frames import LargeFrame
from .inflation import Inflation


class Between:
    """The stage in which no message is incomplete."""


class InvalidFrame:
    """A frame that wsproto will reject because it is invalid or out of order."""

    __slots__ = ("_left",)

    def __init__(self, size: float) -> None:
        self._left = size

    def take(self, available: int) -> int:
        """Return how many of the available bytes to pass to wsproto now."""
        size = int(min(self._left, available))
        self._left -= size
        return size


BETWEEN = Between()

Stage = Union[Between, InvalidFrame, LargeFrame, Inflation, PartialMessage]
