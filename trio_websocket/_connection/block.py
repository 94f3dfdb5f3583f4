"""What happens to a connection when its block, or its handler, ends."""

from __future__ import annotations

import trio

from .._io.cancel import cancel
from .._io.groups import exception_to_raise, strip_closed
from .connection import WebSocketConnection, lifecycle_of


async def close_after_block(
    connection: WebSocketConnection, error: BaseException | None
) -> BaseException | None:
    """Close a connection whose block, or handler, is done.

    :param error: What the block raised.
    :returns: What is to be raised.
    """
    if isinstance(connection, WebSocketConnection):  # not what stands in for one
        lifecycle_of(connection).end_block()
    try:
        if error is None:
            await connection.aclose(1000)
        elif isinstance(error, Exception):
            is_lost = strip_closed(error) is None
            await connection.aclose(1000 if is_lost else 1011)
        else:
            with trio.CancelScope() as scope:
                cancel(scope, "the block or handler was cancelled")
                await connection.aclose(1001)
    except BaseException as exc:
        return exception_to_raise(error, exc)
    return error
