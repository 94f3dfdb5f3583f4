"""Random mutations of bytes, regardless of their meaning."""

from __future__ import annotations

from random import Random
from typing import Callable

_TOKENS = (
    *(b"\x00", b"\xff", b"\x7f", b"\x80", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n"),
    *(b" ", b"\t", b":", b",", b"\x81\x80\0\0\0\0", b"\x88\x80\0\0\0\0", b"\x89\x00"),
    *(b"\x7e\x00\x7d", b"\x7f" + b"\xff" * 8),
)
_LONGEST = 300_000


def some_bytes(rng: Random, size: int) -> bytes:
    return rng.getrandbits(8 * size).to_bytes(size, "big") if size else b""


def cuts(rng: Random, data: bytes, number: int) -> list[bytes]:
    """Split the data into ``number`` + 1 chunks, some of them empty."""
    at = sorted(rng.randrange(len(data) + 1) for _ in range(number))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)])]


def chunks(rng: Random, data: bytes) -> list[bytes]:
    """Split the data into one chunk, a few chunks, or single bytes. No chunk is empty."""
    kind = rng.random()
    if kind < 0.3 or not data:
        return [data] if data else []
    if kind < 0.4 and len(data) <= 400:
        return [data[i : i + 1] for i in range(len(data))]
    return [piece for piece in cuts(rng, data, rng.choice((1, 2, 3, 8))) if piece]


def maybe_mutated(rng: Random, make: Callable[[], bytes]) -> bytes:
    """Make data, and return it unchanged or with a few mutations."""
    data = make()
    if rng.random() < 0.6:
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        if rng.random() < 0.1:
            data = data[:at] + make()
        else:
            data = rng.choice(_ACCIDENTS)(rng, data, at, end)
    return data[:_LONGEST]


def _flip(rng: Random, data: bytes, at: int, end: int) -> bytes:
    del end
    if at == len(data):
        return data
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _insert_token(rng: Random, data: bytes, at: int, end: int) -> bytes:
    del end
    return data[:at] + rng.choice(_TOKENS) + data[at:]


def _overwrite(rng: Random, data: bytes, at: int, end: int) -> bytes:
    del end
    token = rng.choice(_TOKENS)
    return data[:at] + token + data[at + len(token) :]


def _insert_noise(rng: Random, data: bytes, at: int, end: int) -> bytes:
    del end
    return data[:at] + some_bytes(rng, rng.choice((1, 2, 8, 40))) + data[at:]


def _delete(rng: Random, data: bytes, at: int, end: int) -> bytes:
    return data[:at] + data[min(end, at + rng.choice((1, 2, 4, 30))) :]


def _repeat(rng: Random, data: bytes, at: int, end: int) -> bytes:
    end = min(end, at + rng.choice((1, 2, 4, 30)))
    return data[:end] + data[at:end] * rng.choice((1, 2, 30)) + data[end:]


def _truncate(rng: Random, data: bytes, at: int, end: int) -> bytes:
    del rng, at
    return data[:end]


def _behead(rng: Random, data: bytes, at: int, end: int) -> bytes:
    return data[end:] + data[:end] if rng.random() < 0.2 else data[at:]


_ACCIDENTS = (
    *(_flip, _insert_token, _overwrite, _insert_noise),
    *(_delete, _repeat, _truncate, _behead),
)
