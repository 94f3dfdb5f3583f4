"""Close a connection when its block or handler ends."""

from __future__ import annotations

import trio

from .._io.cancel import cancel
from .._io.groups import exception_to_raise, strip_closed
from .._sansio.errors import CloseCode
from .connection import WebSocketConnection, lifecycle_of


async def close_after_block(
    connection: WebSocketConnection, error: BaseException | None
) -> BaseException | None:
    """Close a connection whose block or handler has ended.

    :param error: The exception that the block or handler raised, or None.
    :returns: The exception to raise, or None.
    """
    if isinstance(connection, WebSocketConnection):  # False for a test's stand-in
        lifecycle = lifecycle_of(connection)
        if lifecycle.can_send:
            lifecycle.closing.note_end_of_block()
    try:
        if error is None or strip_closed(error) is None:
            await connection.aclose(CloseCode.NORMAL_CLOSURE)
        elif isinstance(error, Exception):
            await connection.aclose(CloseCode.INTERNAL_ERROR)
        else:
            with trio.CancelScope() as scope:
                cancel(scope, "the block or handler was cancelled")
                await connection.aclose(CloseCode.GOING_AWAY)
    except BaseException as exc:
        return exception_to_raise(error, exc)
    return error
