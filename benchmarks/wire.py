"""Requests and frames as bytes. They are built once, so the load does no work per message."""

from __future__ import annotations

import json
import random
import zlib
from typing import Iterator

from support import frames
from support.frames import BINARY, TEXT

MASK = b"\x37\xfa\x21\x3d"
DONE = b"done"  # the answer to a flood
WINDOW_BITS, LEVEL, MEM_LEVEL = 12, 1, 8  # fixed in aiohttp, so all libraries get them

REQUEST = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{}\r\n"
)
DEFLATE = (
    "Sec-WebSocket-Extensions: permessage-deflate; "
    f"server_max_window_bits={WINDOW_BITS}; client_max_window_bits={WINDOW_BITS}\r\n"
)


def frame(payload: bytes, opcode: int, *, masked: bool, compressed: bool = False) -> bytes:
    """Return a whole frame. All masked frames have the same key."""
    return frames.frame(opcode, payload, rsv=4 * compressed, key=MASK if masked else None)


def frame_size(size: int, *, masked: bool) -> int:
    return size + (2 if size < 126 else 4 if size < 2**16 else 10) + 4 * masked


def messages(size: int, *, text: bool, compressible: bool) -> list[str | bytes]:
    """Return the messages to send in turn. They are the same for all libraries and runs."""
    chance = random.Random(size)
    if compressible:
        return list(documents(chance, size, max(4, 64 * 1024 // size)))
    if text:
        line = "Grüße! 3 µm, 12 °C, and much that is plain ASCII. "
        encoded = (line.encode() * (size // len(line) + 1))[:size]
        plain = encoded.decode("utf-8", "ignore")
        return [plain + "." * (size - len(plain.encode()))]
    return [chance.getrandbits(8 * size).to_bytes(size, "big")]


def documents(chance: random.Random, size: int, count: int) -> Iterator[str]:
    """Yield typical JSON of an application: the same keys, different values."""
    names = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia"]
    for _ in range(count):
        text = "["
        while len(text) < size:
            row = {
                "id": chance.getrandbits(32),
                "name": chance.choice(names),
                "active": chance.random() < 0.8,
                "score": round(chance.random() * 1000, 2),
                "tags": chance.sample(["new", "sale", "gift", "used"], 2),
            }
            text += json.dumps(row) + ", "
        yield text[:size]


def deflated(payload: bytes) -> bytes:
    """Compress a message without references to earlier ones, so it is valid in any order."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -WINDOW_BITS, MEM_LEVEL)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[:-4]


def ready_made(message: str | bytes, *, masked: bool, compressed: bool) -> bytes:
    """Return the frame of a message."""
    opcode = TEXT if isinstance(message, str) else BINARY
    payload = message.encode() if isinstance(message, str) else message
    if compressed:
        return frame(deflated(payload), opcode, masked=masked, compressed=True)
    return frame(payload, opcode, masked=masked)
