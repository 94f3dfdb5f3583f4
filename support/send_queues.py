"""A send queue at work."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Callable, Iterator

import trio

from trio_websocket._connection.send_queue import HIGH_WATER, SendQueue
from trio_websocket._io.transport import Transport

if TYPE_CHECKING:
    from trio.abc import Stream


LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes


@contextlib.contextmanager
def running(
    nursery: trio.Nursery,
    stream: Stream,
    on_broken: Callable[[], object] = int,
    *,
    max_unsent: float = HIGH_WATER,
) -> Iterator[SendQueue]:
    """An outbox at work."""
    outbox = SendQueue(Transport(stream, None), on_broken, max_unsent=max_unsent)
    outbox.start(nursery)
    try:
        yield outbox
    finally:
        outbox.stop()
