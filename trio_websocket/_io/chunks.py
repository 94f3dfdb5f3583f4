"""Data in several chunks that are too large to join."""

from __future__ import annotations

import itertools
from typing import Iterable, NamedTuple, Sequence


class Unwritten(NamedTuple):
    """The data that a non-blocking write did not write."""

    #: The number of plaintext bytes that TLS has encrypted but the socket has not accepted. They
    #: precede the chunks, and must be written, so no frame that contains them can be dropped.
    begun: int
    #: The data that follows these bytes.
    chunks: Sequence[bytes | memoryview]


def join_small(parts: Iterable[bytes], limit: int) -> list[bytes]:
    """Join adjacent parts of less than `limit` bytes. Larger parts are left unchanged."""
    chunks: list[bytes] = []
    for is_large, group in itertools.groupby(parts, lambda part: len(part) >= limit):
        if is_large:
            chunks.extend(group)
        else:
            chunks.append(b"".join(group))
    return chunks


def first_bytes(chunks: Sequence[bytes | memoryview], size: int) -> list[bytes | memoryview]:
    """Return the first `size` bytes of the chunks, without copying."""
    first: list[bytes | memoryview] = []
    for chunk in chunks:
        first.append(memoryview(chunk)[: max(0, size)])
        size -= len(chunk)
    return [chunk for chunk in first if chunk]


def remaining_after(chunks: Sequence[bytes], size: int) -> list[bytes | memoryview]:
    """Return the chunks without their first `size` bytes, without copying."""
    rest: list[bytes | memoryview] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(memoryview(chunk)[size:])
        size = max(0, size - len(chunk))
    return rest
