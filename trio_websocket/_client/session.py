"""How a session of `stay_connected` ends: it is done, its connection is lost, or it failed.

| the session | outcome |
|---|---|
| returned a value other than None | done |
| returned None after it called `ws.aclose()`, or while the connection was open | done |
| returned None after the connection had ended | lost |
| raised `Reconnect` | lost |
| raised `ConnectionClosed` of its connection, without having called `ws.aclose()` | lost |
| raised an error of a Trio channel whose cause is such a `ConnectionClosed` | lost |
| raised a group of such exceptions only | lost |
| raised a group of such exceptions and others | failed, with a group of the others |
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
    """There is no connection now, and another attempt may be made."""

    exception: Exception
    #: The number of seconds that the session lasted, or None if there was no connection.
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
            del lost, rest  # no reference cycle through the traceback
    lifecycle = lifecycle_of(ws)
    if value is not None or lifecycle.was_aclose_called or ws.closed is None:
        return Done(value)
    return Lost(lifecycle.closing.closed_error(), trio.current_time() - start)


def _reason(lost: BaseException, ws: WebSocketConnection) -> Exception:
    """Return the reason for a loss: a `ConnectionClosed` if there is one, or a `Reconnect`."""
    losses = [loss for leaf in flatten_group(lost) if (loss := _loss(leaf, ws)) is not None]
    return min(losses, key=lambda loss: isinstance(loss, Reconnect))


def _loss(exc: BaseException, ws: WebSocketConnection) -> Exception | None:
    """Return the reason why the connection was lost, if a single exception means this."""
    if isinstance(exc, Reconnect):
        return exc
    if lifecycle_of(ws).was_aclose_called:
        return None
    closed = exc.__cause__ if isinstance(exc, _CHANNEL_ERRORS) else exc
    # A session may use other connections, too. All exceptions of one connection have the same
    # object as their reason, and each connection has its own object. A reference from the exception
    # to the connection would keep the connection alive.
    if isinstance(closed, ConnectionClosed) and closed.reason is ws.closed:
        return closed
    return None
