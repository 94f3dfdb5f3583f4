"""What is done to every byte: masking, framing, and decoding whole messages (RFC 6455, 5.2, 5.3).

There are two of each function. Those in C, which `_speedups.c` defines, are used if they could be
built, unless the environment variable TRIO_WEBSOCKET_NO_EXTENSIONS is set to anything but the empty
string; these here otherwise. They give the same.
"""

from __future__ import annotations

import functools
import logging
import os

from .costs import TRANSLATE_MASK_BYTES

_logger = logging.getLogger("trio-websocket")
_from_bytes = int.from_bytes  # looking it up takes as long as the call

_TEXT, _BINARY = 0x81, 0x82  # the first byte of a whole message: FIN, and the opcode
_MASKED = 0x80  # in the second byte

# By the size of a payload: what a key, as a number, is to be multiplied with to repeat it over a
# payload that follows the key, and the size of both in whole words. Least significant byte first.
_REPEATED = [
    (int.from_bytes(bytes(4) + b"\1\0\0\0" * words, "little"), 4 + 4 * words)
    for words in ((size + 3) // 4 for size in range(126))
]
_WORD = 0xFFFFFFFF
# By what stands in place of a longer size: how many bytes tell it, and the least that it may be.
_LONG = {126: (2, 126), 127: (8, 0x10000)}
_HEADS = {
    first: [bytes((first, second)) for second in range(_MASKED + 126)] for first in (_TEXT, _BINARY)
}


def _masked(payload: bytes, key: bytes, /) -> bytes:
    """The payload masked, or unmasked.

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
    """The payload that came in several chunks, unmasked.

    :param chunks: The payload, cut anywhere.
    :param key: The 4 bytes of the key, or none if it is not masked.
    """
    return _translated(bytearray().join(chunks), key) if key else b"".join(chunks)


def _frame(first: int, payload: bytes, key: bytes, /) -> bytes:
    """The bytes of a frame.

    :param first: Its first byte: FIN, the reserved bits, the opcode.
    :param payload: Its payload, not masked.
    :param key: The 4 bytes of the key, or none for a frame that is not masked.
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


def _messages(  # noqa: C901, PLR0912 # a call would take longer than what it does
    buffer: bytes, at: int, mask: int, max_size: int, max_count: int, raw: bool, /
) -> tuple[list[str | bytes], int, int]:
    """Decode messages of one frame each, up to the first frame that is anything else.

    Anything else is a frame that is not whole, or not valid, or too large, or a control frame, or
    a part of a message, or extended, or a text that is not UTF-8.

    :param buffer: What was received.
    :param at: Where in it the first frame begins.
    :param mask: The mask bit that the frames must have: 0x80 if they are masked, 0 if not.
    :param max_size: The most bytes of payload of a message.
    :param max_count: The most messages.
    :param raw: Whether a text is given as the bytes of its UTF-8, not as str.
    :return: The messages, where in the buffer the rest begins, and the bytes of their payloads.
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
                if size not in _LONG:
                    break  # the other mask bit
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
    except (IndexError, UnicodeDecodeError):  # there are less than two bytes; it is not UTF-8
        pass
    return found, at, total


def _translated(payload: bytearray, key: bytes) -> bytes:
    """The payload masked, or unmasked, which overwrites what was given."""
    for place, byte in enumerate(key):
        payload[place::4] = payload[place::4].translate(_translation(byte))
    return bytes(payload)


@functools.lru_cache(maxsize=None)
def _translation(byte: int) -> bytes:
    """What becomes of each byte when it is masked with this one."""
    return bytes(byte ^ other for other in range(256))


masked = _masked
unmasked = _unmasked
frame = _frame
messages = _messages

#: Whether the functions in C are in use: they were built, and the environment variable
#: ``TRIO_WEBSOCKET_NO_EXTENSIONS`` is not set, or empty.
HAS_SPEEDUPS: bool = False

if os.environ.get("TRIO_WEBSOCKET_NO_EXTENSIONS"):
    _logger.debug("The C extension is not used: TRIO_WEBSOCKET_NO_EXTENSIONS is set")
else:
    try:
        from ._speedups import frame, masked, messages, unmasked  # noqa: F401 # others use them
    except ImportError as exc:  # there was no compiler, for example
        _logger.debug("The C extension is not used: %s (the log of the build may say why)", exc)
    else:
        HAS_SPEEDUPS = True
