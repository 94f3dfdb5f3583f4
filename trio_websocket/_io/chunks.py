"""Bytes in several chunks, which are too large to join."""

from __future__ import annotations

import itertools
from typing import Iterable, NamedTuple, Sequence


class Unwritten(NamedTuple):
    """The rest of a write that did not block."""

    #: Bytes of the data that TLS has encrypted and the socket has not taken. They precede the
    #: chunks, and must be written: no frame that they are a part of can be dropped any more.
    begun: int
    #: The data after them.
    chunks: Sequence[bytes | memoryview]


def join_small(parts: Iterable[bytes], limit: int) -> list[bytes]:
    """Join neighbours of less than `limit` bytes. Larger parts stay as they are."""
    chunks: list[bytes] = []
    for is_large, group in itertools.groupby(parts, lambda part: len(part) >= limit):
        if is_large:
            chunks.extend(group)
        else:
            chunks.append(b"".join(group))
    return chunks


def first_bytes(chunks: Sequence[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """Return the first `size` bytes, without a copy."""
    first: list[bytes | memoryview] = []
    for chunk in chunks:
        first.append(memoryview(chunk)[: max(0, size)])
        size -= len(chunk)
    return [chunk for chunk in first if chunk]


def remaining_after(chunks: Sequence[bytes], size: int) -> list[bytes | memoryview]:
    """Return the rest of the chunks after their first `size` bytes, without a copy."""
    rest: list[bytes | memoryview] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(memoryview(chunk)[size:])
        size = max(0, size - len(chunk))
    return rest
