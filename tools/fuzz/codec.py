"""Check the functions of `_sansio/codec.py`, in Python and, if built, in C."""

from __future__ import annotations

import importlib
from random import Random
from types import SimpleNamespace
from typing import Any

from support.frames import BINARY, TEXT, xor
from trio_websocket._sansio.codec import _frame, _masked, _messages, _unmasked

from .frames import frame, frames
from .model import expect
from .mutation import cuts, maybe_mutated, some_bytes

FINAL, MASKED = 0x80, 0x80
_BOUNDS = (0, 1, 125, 126, 1000, 65535, 65536, 2**62, 2**63, 2**64)
_SIZES = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 125, 126, 127, 699, 700, 701)
_LARGE_SIZES = (1023, 1024, 1025, 65535, 65536, 65537)
# A cut after every byte takes long, so their number is limited.
_MOST_CUTS = 300

# The functions in Python, even if the functions in C are in use.
IN_PYTHON = SimpleNamespace(masked=_masked, unmasked=_unmasked, frame=_frame, messages=_messages)
CODECS: list[Any] = [IN_PYTHON]
try:
    CODECS.append(importlib.import_module("trio_websocket._sansio._speedups"))
except ImportError:
    pass  # there was no compiler


def make_frames(rng: Random) -> bytes:
    """Return many messages of one frame each, followed by arbitrary frames."""
    is_masked = rng.random() < 0.6
    return maybe_mutated(
        rng, lambda: _some_messages(rng, is_masked) + frames(rng, masked=is_masked)
    )


def _some_messages(rng: Random, is_masked: bool) -> bytes:
    pieces = []
    for _ in range(rng.choice((0, 1, 2, 5, 70))):
        payload = some_bytes(rng, rng.choice(_SIZES if rng.random() < 0.99 else _LARGE_SIZES))
        opcode = rng.choice((TEXT, BINARY))
        if opcode == TEXT:
            text = payload.decode("latin-1") if rng.random() < 0.3 else payload.hex()
            payload = text.encode()
        pieces.append(frame(rng, opcode, payload, masked=is_masked))
    return b"".join(pieces)


def check_codec(data: bytes, rng: Random) -> None:
    _check_messages(data, rng)
    _check_masking(data, rng)


def _check_messages(data: bytes, rng: Random) -> None:
    at = rng.choice((0, 0, 0, rng.randrange(len(data) + 1)))
    mask_bit = rng.choice((MASKED, 0)) if rng.random() < 0.1 else (data[at : at + 2] or b"\0")[-1]
    arguments = (mask_bit & MASKED, rng.choice(_BOUNDS), rng.choice((0, 1, 2, 64, 2**62, 2**64)))
    raw = rng.random() < 0.5
    stops = [*range(at, min(len(data), at + rng.choice((0, 20, _MOST_CUTS)))), len(data)]
    for stop in stops:
        # A new object, so that a read beyond its end is an error.
        buffer = data[:stop]
        found, end, total = _same("messages", buffer, at, *arguments, raw)
        payloads = [m.encode() if isinstance(m, str) else m for m in found]
        expect(at <= end <= stop, "not in the buffer", at, end, stop)
        expect(total == sum(map(len, payloads)), "not their size", total)
        expect(len(found) <= arguments[2], "too many", len(found))
        expect(all(len(p) <= arguments[1] for p in payloads), "too large")


def _check_masking(data: bytes, rng: Random) -> None:
    key = some_bytes(rng, 4)
    payload = data[rng.randrange(len(data) + 1) :]
    wanted = xor(payload, key)
    expect(_same("masked", payload, key) == wanted, "not masked")
    chunks = cuts(rng, payload, rng.choice((0, 1, 5, 30)))
    expect(_same("unmasked", chunks, key) == wanted, "not unmasked")
    expect(_same("unmasked", chunks, b"") == payload, "not joined")
    for used, mask_bit in ((key, MASKED), (b"", 0)):
        whole = _same("frame", FINAL | BINARY, payload, used)
        found = _same("messages", whole, 0, mask_bit, len(payload), 2, False)
        expect(found == ([payload], len(whole), len(payload)), "not what was framed")


def _same(name: str, *arguments: Any) -> Any:
    """Call the function of each codec, and return the result, which must be the same."""
    first, *others = [getattr(codec, name)(*arguments) for codec in CODECS]
    for other in others:
        expect(first == other, f"{name}: C gives another", first, other, arguments)
    return first
