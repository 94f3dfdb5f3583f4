"""Frames, as bytes (RFC 6455, 5.2 and 5.3)."""

from __future__ import annotations

import os

from . import codec
from .costs import JOIN_PARTS_BYTES, MASK_KEYS_PER_CALL

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
CONTROL = 0x8  # the bit that they have in common
FINAL = 0x80  # in the first byte: FIN
COMPRESSED = 0x40  # in the first byte: RSV1, of the first frame of a message (RFC 7692, 6)
MASKED = 0x80  # in the second byte

_MAX_REASON = 123  # a control frame has up to 125 bytes (RFC 6455, 5.5), and the code has two


class LargeFrame:
    """A whole message that is on its way."""

    def __init__(self, head: bytes, size: int) -> None:
        """
        :param head: The head of the frame, with the key if it is masked.
        :param size: Bytes of payload.
        """
        self.head = head
        #: Bytes that are still to come.
        self.left = size
        #: Bytes that have come.
        self.received = 0
        #: These bytes, as they came.
        self.parts: list[bytes] = []

    def add(self, data: bytes) -> bytes:
        """Take what has come of the frame; give back what follows it."""
        rest = b""
        if len(data) > self.left:
            data, rest = data[: self.left], data[self.left :]
        self.left -= len(data)
        self.received += len(data)
        if self.parts and len(self.parts[-1]) + len(data) <= JOIN_PARTS_BYTES:
            self.parts[-1] += data
        else:
            self.parts.append(data)
        return rest

    def payload(self) -> bytes:
        """The payload of the frame, which is whole."""
        return codec.unmasked(self.parts, self.head[-4:] if self.head[1] & MASKED else b"")


_keys: list[bytes] = []  # made, and not used yet


def new_key() -> bytes:
    """A key to mask a frame with, which nobody can predict (RFC 6455, 5.3)."""
    try:
        return _keys.pop()
    except IndexError:
        # Many at a time: to ask the system takes longer than to mask a small frame.
        random = os.urandom(4 * MASK_KEYS_PER_CALL)
        key, *others = [random[at : at + 4] for at in range(0, len(random), 4)]
        _keys.extend(others)
        return key


if hasattr(os, "register_at_fork"):  # pragma: no branch # Windows has none
    os.register_at_fork(after_in_child=_keys.clear)  # each process has its own


def sizes(head: bytes) -> tuple[int, int | None]:
    """The sizes of a frame's head and payload; the latter is None if the head has not told it.

    :param head: What there is of the head, 2 bytes at least.
    """
    length = head[1] & 0x7F
    size = 2
    if length > 125:
        size = 4 if length == 126 else 10
        if len(head) < size:
            return size, None
        length = int.from_bytes(head[2:size], "big")
    return size + (4 if head[1] & MASKED else 0), length


def long_head(first: int, size: int) -> bytes:
    """The head of a frame that is not masked and has 64 KiB of payload or more."""
    return bytes((first, 127)) + size.to_bytes(8, "big")


def cut_reason(reason: str) -> str:
    """The part of the text that fits in a Close frame."""
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")


def is_shortest(head: bytes, length: int) -> bool:
    """Whether the length of the payload is written in as few bytes as it can be."""
    return length >= {126: 126, 127: 0x10000}.get(head[1] & 0x7F, 0)


def check_utf8(payload: bytes) -> None:
    """Raise a UnicodeDecodeError, which is a ValueError, if the payload of a text is not UTF-8."""
    if not payload.isascii():
        payload.decode()


def check_reason(reason: str | None) -> str | None:
    """Return the part of a text that fits in a Close frame."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str or None, not {reason!r:.100}")
    return cut_reason(reason)
