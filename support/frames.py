"""Frames of RFC 6455 as bytes, valid or not."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    """A frame (RFC 6455, 5.2) without its mask."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0

    def encode(self) -> bytes:
        """Return the bytes that a server sends."""
        return frame(self.opcode, self.payload, fin=self.fin, rsv=self.rsv)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = False,
    key: bytes | None = None,
    length: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return the bytes of a frame (RFC 6455, 5.2), valid or not.

    :param mask: Mask it, with a random key if none is given.
    :param key: The masking key; it implies ``mask``.
    :param length: The length in the head, if not the payload's.
    :param width: The size of the extended length, if not the smallest: 0, 2 or 8.
    """
    if mask and key is None:
        key = os.urandom(4)
    length = len(payload) if length is None else length
    if width is None:
        width = 0 if length < 126 else 2 if length < 2**16 else 8
    short = {0: length & 0x7F, 2: 126, 8: 127}[width]
    head = bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
    if width:
        head += (length % 256**width).to_bytes(width, "big")
    return head + payload if key is None else head + key + xor(payload, key)


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a Close frame."""
    return struct.pack("!H", code) + reason.encode()


def parse_frame(data: bytes) -> tuple[Frame, bool, int] | None:
    """Return the first frame, True if it is masked, and its size; or None if it is incomplete."""
    if len(data) < 2:
        return None
    length, start = data[1] & 0x7F, 2
    if length > 125:
        size = 2 if length == 126 else 8
        if len(data) < 2 + size:
            return None
        length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    is_masked = bool(data[1] & 0x80)
    end = start + 4 * is_masked + length
    if len(data) < end:
        return None
    payload = data[end - length : end]
    if is_masked:
        payload = xor(payload, data[start : start + 4])
    return Frame(data[0] & 0xF, payload, bool(data[0] & 0x80), data[0] >> 4 & 7), is_masked, end


def xor(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload (RFC 6455, 5.3)."""
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")
