"""Memory that a block of a test allocates."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any


@contextlib.asynccontextmanager
async def peak_memory() -> Any:
    """Give a function that returns the peak of Python's memory since the block began, in bytes."""
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()
