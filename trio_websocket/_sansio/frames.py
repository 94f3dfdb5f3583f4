"""The byte layout of frames (RFC 6455, 5.2 and 5.3)."""

from __future__ import annotations

import os

from . import codec
from .costs import JOIN_PARTS_BYTES, MASK_KEYS_PER_CALL

CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA
CONTROL = 0x8  # the bit that is set in the opcodes of all control frames
FINAL = 0x80  # FIN, in the first byte
COMPRESSED = 0x40  # RSV1, in the first byte of the first frame of a message (RFC 7692, 6)
MASKED = 0x80  # the mask bit, in the second byte

_MAX_CONTROL_PAYLOAD = 125  # bytes (RFC 6455, 5.5)
_MAX_REASON = _MAX_CONTROL_PAYLOAD - 2  # the close code has two bytes


class LargeFrame:
    """A single-frame message that has partly arrived.

    Invariant: `parts` contains `received` bytes; `received + left` is the length of the payload.
    """

    def __init__(self, head: bytes, size: int) -> None:
        """
        :param head: The frame's head, including the masking key if there is one.
        :param size: The length of the payload in bytes.
        """
        self.head = head
        #: The number of payload bytes that have not arrived yet.
        self.left = size
        #: The number of payload bytes that have arrived.
        self.received = 0
        #: The part of the payload that has arrived, still masked, in chunks.
        self.parts: list[bytes] = []

    def add(self, data: bytes) -> bytes:
        """Add received bytes to the frame; return the bytes that follow the frame."""
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
        """Return the unmasked payload. Call this when `left` is 0."""
        return codec.unmasked(self.parts, self.head[-4:] if self.head[1] & MASKED else b"")


_keys: list[bytes] = []  # random keys that have not been used yet


def new_key() -> bytes:
    """Return an unpredictable masking key (RFC 6455, 5.3)."""
    try:
        return _keys.pop()
    except IndexError:
        # Generate many keys at once: calling urandom() takes longer than masking a small frame.
        random = os.urandom(4 * MASK_KEYS_PER_CALL)
        key, *others = [random[at : at + 4] for at in range(0, len(random), 4)]
        _keys.extend(others)
        return key


if hasattr(os, "register_at_fork"):  # pragma: no branch # not available on Windows
    os.register_at_fork(after_in_child=_keys.clear)  # processes must not use the same keys


def sizes(head: bytes) -> tuple[int, int | None]:
    """Return the sizes of a frame's head and payload.

    The payload size is None if not enough of the head has arrived to contain it.

    :param head: The beginning of the frame, at least 2 bytes.
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
    """Return the head of an unmasked frame with a payload of 64 KiB or more."""
    return bytes((first, 127)) + size.to_bytes(8, "big")


def cut_reason(reason: str) -> str:
    """Truncate a reason so that it fits in a Close frame."""
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")


def is_shortest(head: bytes, length: int) -> bool:
    """Return True if the head encodes the length in the fewest possible bytes (5.2)."""
    return length >= {126: 126, 127: 0x10000}.get(head[1] & 0x7F, 0)


def check_utf8(payload: bytes) -> None:
    """Raise UnicodeDecodeError if the payload of a text message is not UTF-8."""
    if not payload.isascii():
        payload.decode()


def check_control_payload(payload: object) -> bytes:
    """Return the payload that an application passed for a Ping or a Pong.

    :raises TypeError: It is not bytes-like.
    :raises ValueError: It is too long.
    """
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(f"payload must be bytes, not {payload!r:.100}")
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"payload must be at most 125 bytes, not {len(payload)}")
    return bytes(payload)


def check_reason(reason: str | None) -> str | None:
    """Check the type of a close reason, and truncate it so that it fits in a Close frame."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str or None, not {reason!r:.100}")
    return cut_reason(reason)


def decode_payload(payload: bytes, is_text: bool, raw: bool) -> str | bytes:
    """Convert a payload to a message; raise UnicodeDecodeError if a text is not UTF-8."""
    if not is_text:
        return payload
    if raw:
        check_utf8(payload)
        return payload
    return payload.decode()
