"""Per-byte work: masking, framing, and decoding unfragmented messages (RFC 6455, 5.2 and 5.3).

Each function has a C implementation (`_speedups.c`) and a Python implementation (here), with equal
results. The C functions are used if the extension was built and the environment variable
TRIO_WEBSOCKET_NO_EXTENSIONS is unset or empty.

In Python, the fastest way to mask a short payload is to XOR two long integers. The key and the
payload that follows it are read as one little-endian integer. Multiplying the key by
2**32 + 2**64 + 2**96 + ... repeats it over the payload; the XOR leaves the key itself unchanged.
These factors are precomputed for all short sizes. For a long payload, calling `bytes.translate()`
on every fourth byte is faster.
"""

from __future__ import annotations

import functools
import logging
import os

from .costs import TRANSLATE_MASK_BYTES

_logger = logging.getLogger("trio-websocket")
_from_bytes = int.from_bytes  # looking up the attribute takes as long as the call itself

_TEXT, _BINARY = 0x81, 0x82  # the first byte of an unfragmented message: FIN and the opcode
_MASKED = 0x80  # the mask bit in the second byte

# For each payload size: the factor that repeats a key over the payload that follows it, and the
# total size in bytes of key and payload, rounded up to whole words. All numbers are little-endian.
_REPEATED = [
    (int.from_bytes(bytes(4) + b"\1\0\0\0" * words, "little"), 4 + 4 * words)
    for words in ((size + 3) // 4 for size in range(126))
]
_WORD = 0xFFFFFFFF
# For the two length codes of longer payloads: the width of the length in bytes, and its minimum.
_LONG = {126: (2, 126), 127: (8, 0x10000)}
_HEADS = {
    first: [bytes((first, second)) for second in range(_MASKED + 126)] for first in (_TEXT, _BINARY)
}


def _masked(payload: bytes, key: bytes, /) -> bytes:
    """Mask or unmask a payload.

    :param payload: The payload.
    :param key: The 4 bytes of the key.
    """
    size = len(payload)
    if size >= TRANSLATE_MASK_BYTES:
        return _translated(bytearray(payload), key)
    keys = (key * (size // 4 + 1))[:size]
    number = _from_bytes(payload, "little") ^ _from_bytes(keys, "little")
    return number.to_bytes(size, "little")


def _unmasked(chunks: list[bytes], key: bytes, /) -> bytes:
    """Join and unmask a payload that arrived in several chunks.

    :param chunks: The payload, split at any offsets.
    :param key: The 4 bytes of the key, or b"" if the payload is not masked.
    """
    return _translated(bytearray().join(chunks), key) if key else b"".join(chunks)


def _frame(first: int, payload: bytes, key: bytes, /) -> bytes:
    """Build a frame.

    :param first: The first byte: FIN, the reserved bits and the opcode.
    :param payload: The unmasked payload.
    :param key: The 4 bytes of the key, or b"" for an unmasked frame.
    """
    size = len(payload)
    mask = _MASKED if key else 0
    if size < 126:
        heads = _HEADS.get(first)
        head = heads[mask | size] if heads else bytes((first, mask | size))
        if not key:
            return head + payload
        number = _from_bytes(key + payload, "little")
        repeated, words = _REPEATED[size]
        number ^= (number & _WORD) * repeated
        return head + number.to_bytes(words, "little")[: size + 4]
    if size < 0x10000:
        head = bytes((first, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    return head + key + _masked(payload, key) if key else head + payload


def _messages(  # noqa: C901, PLR0912 # the hot function: a call would cost more than its body
    buffer: bytes, at: int, mask: int, max_size: int, max_count: int, raw: bool, /
) -> tuple[list[str | bytes], int, int]:
    """Decode messages that have one frame each, and stop at the first other frame.

    Decoding stops before any of these:

    - a frame that is incomplete, invalid or too large;
    - a control frame, a fragment, or a frame with reserved bits;
    - text that is not UTF-8.

    :param buffer: The received bytes.
    :param at: The offset of the first frame.
    :param mask: The required mask bit: 0x80 if the frames must be masked, or else 0.
    :param max_size: The maximum payload size of a message, in bytes.
    :param max_count: The maximum number of messages.
    :param raw: True to return text as UTF-8 bytes, not as str.
    :return: The messages, the offset after the last one, and the total size of their payloads.
    """
    found: list[str | bytes] = []
    total = 0
    end = len(buffer)
    head = 6 if mask else 2
    try:
        for _ in range(max_count):
            size = buffer[at + 1] ^ mask
            start = at + head
            if size < 126:
                stop = start + size
                if stop > end or size > max_size:
                    break
                if mask:
                    number = _from_bytes(buffer[start - 4 : stop], "little")
                    repeated, words = _REPEATED[size]
                    number ^= (number & _WORD) * repeated
                    payload = number.to_bytes(words, "little")[4 : size + 4]
                else:
                    payload = buffer[start:stop]
            else:
                width, least = _LONG[size]
                size = _from_bytes(buffer[at + 2 : at + 2 + width], "big")
                start += width
                stop = start + size
                if stop > end or not least <= size <= max_size:
                    break
                payload = buffer[start:stop]
                if mask:
                    payload = _masked(payload, buffer[start - 4 : start])
            first = buffer[at]
            if first == _TEXT:
                if not raw:
                    found.append(payload.decode())
                else:
                    if not payload.isascii():
                        payload.decode()
                    found.append(payload)
            elif first == _BINARY:
                found.append(payload)
            else:
                break
            total += size
            at = stop
    except (IndexError, KeyError, UnicodeDecodeError):
        pass  # fewer than two bytes are left, the mask bit is wrong, or the text is not UTF-8
    return found, at, total


def _translated(payload: bytearray, key: bytes) -> bytes:
    """Mask or unmask a payload. This overwrites the argument."""
    for place, byte in enumerate(key):
        payload[place::4] = payload[place::4].translate(_translation(byte))
    return bytes(payload)


@functools.lru_cache(maxsize=None)
def _translation(byte: int) -> bytes:
    """Return the table that XORs every byte with this one, for `translate()`."""
    return bytes(byte ^ other for other in range(256))


masked = _masked
unmasked = _unmasked
frame = _frame
messages = _messages

#: True if the C functions are in use: they were built, and the environment variable
#: ``TRIO_WEBSOCKET_NO_EXTENSIONS`` is unset or empty.
HAS_SPEEDUPS: bool = False

if os.environ.get("TRIO_WEBSOCKET_NO_EXTENSIONS"):
    _logger.debug("The C extension is not used: TRIO_WEBSOCKET_NO_EXTENSIONS is set")
else:
    try:
        from ._speedups import frame, masked, messages, unmasked  # noqa: F401 # others use them
    except ImportError as exc:  # for example, the package was built without a compiler
        _logger.debug("The C extension is not used: %s (the log of the build may say why)", exc)
    else:
        HAS_SPEEDUPS = True
