"""What the tests of compression have in common."""

from __future__ import annotations

import hashlib

from hypothesis import settings

from trio_websocket import DeflateParameters, PerMessageDeflate

TAIL = b"\x00\x00\xff\xff"  # which senders leave out (RFC 7692, 7.2.1)
WIDE = PerMessageDeflate(window_bits=15)

deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=60)


def agreed(
    client_bits: int = 15, server_bits: int = 15, client_resets: bool = False, resets: bool = False
) -> DeflateParameters:
    return DeflateParameters(client_bits, server_bits, client_resets, resets)


def random_bytes(size: int) -> bytes:
    """The same ones each time, which can't be compressed."""
    state, blocks = b"seed", []
    for _ in range(size // 64 + 1):
        state = hashlib.sha512(state).digest()
        blocks.append(state)
    return b"".join(blocks)[:size]
