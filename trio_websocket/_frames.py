"""Frames, as bytes (RFC 6455, 5.2 and 5.3)."""

from __future__ import annotations

import os

from wsproto.frame_protocol import XorMaskerSimple

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
CONTROL = 0x8  # the bit that they have in common
FINAL = 0x80  # in the first byte: FIN
COMPRESSED = 0x40  # in the first byte: RSV1, of the first frame of a message (RFC 7692, 6)
MASKED = 0x80  # in the second byte

# From this size on, wsproto's byte tables mask faster than one long integer operation.
_LARGE = 1024


def frame(first: int, payload: bytes, *, is_masked: bool) -> bytes:
    """The bytes of a frame.

    :param first: Its first byte: FIN, the reserved bits, the opcode.
    :param payload: The payload.
    :param is_masked: Whether it is masked, as a client's frames are.
    """
    length = len(payload)
    mask = MASKED if is_masked else 0
    if length < 126:
        head = bytes((first, mask | length))
    elif length < 0x10000:
        head = bytes((first, mask | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + length.to_bytes(8, "big")
    if not is_masked:
        return head + payload
    key = os.urandom(4)  # unpredictable (RFC 6455, 5.3)
    return head + key + masked(payload, key)


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


def masked(payload: bytes, key: bytes) -> bytes:
    """The payload masked, or unmasked, with the key (RFC 6455, 5.3)."""
    size = len(payload)
    if size >= _LARGE:
        return bytes(XorMaskerSimple(key).process(bytearray(payload)))
    keys = (key * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")
    return number.to_bytes(size, "big")


def check_utf8(payload: bytes) -> None:
    """Raise a UnicodeDecodeError, which is a ValueError, if the payload of a text is not UTF-8."""
    if not payload.isascii():
        payload.decode()
