"""How a `stay_connected` session ends: it is done, its connection is lost, or it failed.

| the session | outcome |
|---|---|
| returned a value other than None | done |
| returned None after it called `ws.aclose()`, or while the connection was open | done |
| returned None after the connection had ended | lost |
| raised `Reconnect` | lost |
| raised its connection's `ConnectionClosed`, without having called `ws.aclose()` | lost |
| raised a Trio channel error whose cause is such a `ConnectionClosed` | lost |
| raised a group that contains only such exceptions | lost |
| raised a group that also contains other exceptions | failed, with a group of the others |
| raised anything else | failed, with that exception |
"""

from __future__ import annotations

import dataclasses
from typing import Awaitable, Callable, Generic, TypeVar

import trio

from .._connection.connection import WebSocketConnection, lifecycle_of
from .._io.groups import flatten_group, split_group
from .._io.interrupt import call_unprotected
from .._sansio.errors import ConnectionClosed, Reconnect

T = TypeVar("T")
Session = Callable[[WebSocketConnection], Awaitable[T]]

_CHANNEL_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)


@dataclasses.dataclass(frozen=True)
class Done(Generic[T]):
    """The session is complete."""

    value: T


@dataclasses.dataclass(frozen=True)
class Lost:
    """The connection was lost or could not be opened, so another attempt may follow."""

    exception: Exception
    #: How long the session lasted, in seconds, or None if no connection was opened.
    open_seconds: float | None


async def run_session(session: Session[T], ws: WebSocketConnection) -> Done[T] | Lost:
    """Run a session over an open connection.

    :raises BaseException: The session failed.
    """
    start = trio.current_time()
    try:
        value = await call_unprotected(session, ws)
    except BaseException as exc:
        lost, rest = split_group(exc, lambda leaf: _loss(leaf, ws) is not None)
        try:
            if lost is None:
                raise
            if rest is not None:
                raise rest from None
            return Lost(_reason(lost, ws), trio.current_time() - start)
        finally:
            del lost, rest  # break the reference cycle through the traceback
    lifecycle = lifecycle_of(ws)
    if value is not None or lifecycle.was_aclose_called or ws.closed is None:
        return Done(value)
    return Lost(lifecycle.closing.closed_error(), trio.current_time() - start)


def _reason(lost: BaseException, ws: WebSocketConnection) -> Exception:
    """Return the reason for the loss: a `ConnectionClosed` if there is one, else a `Reconnect`."""
    losses = [loss for leaf in flatten_group(lost) if (loss := _loss(leaf, ws)) is not None]
    return min(losses, key=lambda loss: isinstance(loss, Reconnect))


def _loss(exc: BaseException, ws: WebSocketConnection) -> Exception | None:
    """Return the exception that reports the lost connection, or None if `exc` does not."""
    if isinstance(exc, Reconnect):
        return exc
    if lifecycle_of(ws).was_aclose_called:
        return None
    closed = exc.__cause__ if isinstance(exc, _CHANNEL_ERRORS) else exc
    # A session may use other connections, too, so compare the close reasons by identity. All
    # exceptions that a connection raises share its `CloseReason` object. They have no reference to
    # the connection, because that would keep it alive.
    if isinstance(closed, ConnectionClosed) and closed.reason is ws.closed:
        return closed
    return None
