"""A send queue at work."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Callable, Iterator

import trio

from trio_websocket._connection.send_queue import SendQueue
from trio_websocket._io.transport import Transport
from trio_websocket._sansio.costs import WRITE_BATCH_BYTES

if TYPE_CHECKING:
    from trio.abc import Stream


LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes


@contextlib.contextmanager
def running(
    nursery: trio.Nursery,
    stream: Stream,
    on_broken: Callable[[], object] = int,
    *,
    max_unsent: float = WRITE_BATCH_BYTES,
) -> Iterator[SendQueue]:
    """Run a send queue during the block."""
    outbox = SendQueue(Transport(stream, None), on_broken, max_unsent=max_unsent)
    outbox.start(nursery)
    try:
        yield outbox
    finally:
        outbox.stop()
