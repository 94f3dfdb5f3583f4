"""A frame in the send queue."""

from __future__ import annotations

from typing import Sequence, Union


class ControlFrame(bytes):
    """A Ping, Pong or Close frame, which is kept when the queue's messages are dropped."""

    __slots__ = ()


# A whole frame as bytes, or the head and the payload of a large frame.
Frame = Union[bytes, Sequence[bytes]]


def frame_parts(frame: Frame) -> Sequence[bytes]:
    return [frame] if isinstance(frame, bytes) else frame


def frame_size(frame: Frame) -> int:
    return len(frame) if isinstance(frame, bytes) else sum(map(len, frame))
