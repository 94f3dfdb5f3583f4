"""Generate frames, valid and invalid."""

from __future__ import annotations

import struct
from random import Random

from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame as build

from .mutation import cuts, some_bytes

# At each of these sizes, the encoding changes or a limit of the targets is reached.
_SIZES = (0, 1, 2, 3, 4, 9, 10, 11, 50, 100, 123, 124, 125, 126, 127, 128, 200, 999, 1000, 1001)
_LARGE_SIZES = (1023, 1024, 4095, 4097, 65535, 65536, 65537, 70_000)
_LENGTHS = (
    *(0, 1, 125, 126, 127, 255, 256, 65535, 65536),
    *(2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
)
_CODES = (
    *(0, 1, 999, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1012, 1013, 1014, 1015, 1016),
    *(1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535),
)
TEXTS = (
    *("", "a", "Hello", "κόσμε", "\0", "\ufeff", "\U00010348" * 9, "x" * 125),
    "\ud7ff\ue000\U0010ffff",
)
BAD_UTF8 = (
    *(b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80"),
    *(b"\xce\xba\xe1\xbd", b"\xf0\x9f\x92", b"\xe2\x28\xa1", b"ok\xfe"),
)
_KEYS = (b"\0\0\0\0", b"\xff\xff\xff\xff")


def frame(
    rng: Random,
    opcode: int,
    payload: bytes,
    *,
    masked: bool,
    fin: bool = True,
    rsv: int = 0,
    announced: int | None = None,
    width: int | None = None,
) -> bytes:
    """Return the bytes of a frame with a random key.

    :param announced: The length in the head, if it differs from the payload's.
    :param width: The size of the extended length, if not the smallest.
    """
    return build(
        opcode,
        payload,
        fin=fin,
        rsv=rsv,
        key=rng.choice((*_KEYS, some_bytes(rng, 4))) if masked else None,
        length=announced,
        width=width,
    )


def frames(rng: Random, *, masked: bool) -> bytes:
    """Return frames for an open connection: mostly valid, sometimes not."""
    pieces = []
    for _ in range(rng.choice((1, 1, 2, 3, 3, 5, 8, 20))):
        kind = rng.random()
        if kind < 0.35:
            opcode, payload = _message(rng)
            pieces.append(frame(rng, opcode, payload, masked=masked))
        elif kind < 0.55:
            pieces.append(_fragmented(rng, masked=masked))
        elif kind < 0.75:
            payload = some_bytes(rng, rng.choice((0, 1, 4, 125)))
            pieces.append(frame(rng, rng.choice((PING, PONG)), payload, masked=masked))
        elif kind < 0.83:
            pieces.append(frame(rng, CLOSE, _close_payload(rng), masked=masked))
        else:
            pieces.append(_bad_frame(rng, masked=masked))
    if rng.random() < 0.1:
        at = rng.randrange(len(pieces))
        pieces[at:at] = [pieces[at]] * rng.choice((1, 2, 50))
    return b"".join(pieces)


def _message(rng: Random) -> tuple[int, bytes]:
    kind = rng.random()
    text = rng.choice(TEXTS).encode()
    if kind < 0.45:
        return TEXT, text
    if kind < 0.55:
        return TEXT, text * rng.choice((2, 20, 300)) + rng.choice(BAD_UTF8)
    return BINARY, some_bytes(rng, _size(rng))


def _size(rng: Random) -> int:
    return rng.choice(_SIZES) if rng.random() < 0.97 else rng.choice(_LARGE_SIZES)


def _fragmented(rng: Random, *, masked: bool) -> bytes:
    opcode, payload = _message(rng)
    *parts, last = cuts(rng, payload, rng.choice((0, 1, 1, 2, 5, 40)))
    data = b""
    for part in parts:
        data += frame(rng, opcode, part, masked=masked, fin=False)
        opcode = CONTINUATION
        if rng.random() < 0.2:
            data += frame(rng, rng.choice((PING, PONG)), b"between", masked=masked)
        if rng.random() < 0.02:
            data += frame(rng, rng.choice((CLOSE, TEXT, BINARY)), b"", masked=masked)
    return data + frame(rng, opcode, last, masked=masked)


def _close_payload(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.2:
        return b""
    if kind < 0.25:
        return b"\x03"
    reason = rng.choice((b"", b"bye", b"x" * 123, "ü".encode() * 61, rng.choice(BAD_UTF8)))
    return struct.pack("!H", rng.choice(_CODES)) + reason


def _bad_frame(rng: Random, *, masked: bool) -> bytes:
    payload = some_bytes(rng, _size(rng))
    kind = rng.randrange(8)
    opcode = rng.choice((CONTINUATION, TEXT, BINARY))
    fin = rng.random() < 0.5
    width = rng.choice((2, 8))
    if kind == 0:
        return frame(rng, rng.choice((3, 4, 7, 0xB, 0xF)), payload[:125], masked=masked)
    if kind == 1:
        rsv = rng.randrange(1, 8)
        return frame(rng, rng.randrange(16), payload[:125], masked=masked, rsv=rsv)
    if kind == 2:
        return frame(rng, rng.choice((TEXT, PING, CLOSE)), b"\x03\xe8", masked=not masked)
    if kind == 3:
        return frame(rng, rng.choice((PING, PONG, CLOSE)), payload, masked=masked, fin=fin)
    if kind == 4:
        announced = rng.choice(_LENGTHS)
        return frame(rng, opcode, payload, masked=masked, announced=announced, width=width)
    if kind == 5:
        return frame(rng, opcode, payload, masked=masked, width=width)
    if kind == 6:
        return frame(rng, CONTINUATION, payload, masked=masked, fin=fin)
    return frame(rng, TEXT, rng.choice(BAD_UTF8), masked=masked, fin=fin)
