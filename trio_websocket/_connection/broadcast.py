"""Broadcast a message to many connections. A slow connection does not delay the rest."""

from __future__ import annotations

import dataclasses
from typing import Iterable, Literal, Mapping

import trio

from .._io.groups import flatten_group
from .._sansio.costs import (
    BROADCAST_ALONE_BYTES_PER_COST,
    BROADCAST_BYTES_PER_COST,
    BROADCAST_COST,
    COST_PER_TURN,
)
from .._sansio.errors import ConnectionClosed, MessageTypeError
from .._sansio.options import check_number
from .connection import WebSocketConnection, lifecycle_of
from .fragments import Message, check_no_file, encoded
from .sender import Delivery, SharedMessage

_SENT, _BUSY = Delivery.SENT, Delivery.BUSY
_POLICIES = ("skip", "close")


@dataclasses.dataclass(frozen=True)
class BroadcastResult:
    """The result of a broadcast. Each connection is in either `sent` or `failed`."""

    #: The connections on which the message was queued.
    sent: frozenset[WebSocketConnection]
    #: The other connections, each with its :exc:`ConnectionClosed` or :exc:`trio.TooSlowError`.
    failed: Mapping[WebSocketConnection, ConnectionClosed | trio.TooSlowError]


@trio.lowlevel.enable_ki_protection
async def broadcast(
    connections: Iterable[WebSocketConnection],
    message: Message,
    *,
    text: bool | None = None,
    compress: bool = True,
    timeout: float = 1,
    on_slow: Literal["skip", "close"] = "skip",
) -> BroadcastResult:
    """Send a message to many connections. A slow connection does not delay the rest.

    A connection is slow if more than ``max_unsent_bytes`` are queued, or another task is sending a
    message in chunks. It gets the message if it becomes ready within ``timeout``; all other
    connections get the message at once. If a connection fails, the call does not raise an exception
    but returns it in the result. On each connection, the messages of one task arrive in the order
    in which it sent them.

    If cancelled, connections on which the message is already queued get it whole, and the rest
    don't get it. The call doesn't report which ones. All connections stay usable.

    :param connections: Connections on the server or client side. The iterable is copied when the
        call begins. A connection that is listed several times gets the message once.
    :param message: A str, bytes or another buffer.
    :param text: As in :meth:`WebSocketConnection.send_message`.
    :param compress: As in :meth:`WebSocketConnection.send_message`. Server connections share one
        frame if it is uncompressed, or if their compression settings are equal and don't include
        ``context_takeover``.
    :param timeout: Seconds for all slow connections together. The default of 1 covers several round
        trips on any network, which is enough for a peer that reads. With 0, the call does not wait.
    :param on_slow: ``"skip"`` does not send this message to a connection that is still slow after
        ``timeout``. ``"close"`` also drops its queued messages and starts to close it with code
        1008. Closing takes at most ``disconnect_timeout``, and the call does not wait for it.
    :returns: The connections on which the message was queued, and the others with their exceptions.
    :raises TypeError: The message is not str or bytes-like, or a connection is not a
        `WebSocketConnection`.
    :raises ValueError: Bytes to be sent as text are not valid UTF-8, ``timeout`` is less than 0, or
        ``on_slow`` is neither ``"skip"`` nor ``"close"``.
    """
    receivers = _snapshot(connections)
    check_number("timeout", timeout)
    if on_slow not in _POLICIES:
        raise ValueError(f"on_slow must be one of {_POLICIES}, not {on_slow!r:.100}")
    whole = encoded(message, text)
    if whole is None:
        check_no_file(message)
        raise MessageTypeError(f"message must be str or bytes-like, not {message!r:.100}")
    broadcasting = _Broadcast(SharedMessage(*whole, compress))
    await trio.lowlevel.checkpoint()
    waiting = await broadcasting.send_at_once(receivers)
    if waiting:
        deadline = trio.current_time() + timeout
        await broadcasting.send_late(waiting, deadline, on_slow)
    return broadcasting.result()


class _Broadcast:
    """A call to `broadcast` that is in progress."""

    def __init__(self, message: SharedMessage) -> None:
        self._message = message
        self._sent: list[WebSocketConnection] = []
        self._failed: dict[WebSocketConnection, ConnectionClosed | trio.TooSlowError] = {}

    async def send_at_once(
        self, connections: Iterable[WebSocketConnection]
    ) -> list[WebSocketConnection]:
        """Queue the message on the connections that are not slow; return the slow ones."""
        waiting = []
        message, sent = self._message, self._sent
        size, compress, frames = message.size, message.compress, message.frames
        cost = BROADCAST_COST + size // BROADCAST_BYTES_PER_COST
        cost_alone = BROADCAST_COST + size // BROADCAST_ALONE_BYTES_PER_COST
        left = COST_PER_TURN
        for connection in connections:
            if left <= 0:
                left = COST_PER_TURN
                await trio.lowlevel.checkpoint()
            sender = lifecycle_of(connection).sender
            key = sender.share_key(size, compress)
            left -= cost_alone if key is None else cost
            if key is not None and key not in frames:
                frames[key] = await sender.make_shared(message)
            delivery = sender.try_broadcast(message, key)
            if delivery is _SENT:
                sent.append(connection)
            elif delivery is _BUSY:
                waiting.append(connection)
            else:
                self._failed[connection] = sender.closed_error()
        return waiting

    async def send_late(
        self, connections: Iterable[WebSocketConnection], deadline: float, on_slow: str
    ) -> None:
        """Run `_send_late` for all connections concurrently. Raise one exception, not a group."""
        try:
            async with trio.open_nursery() as nursery:
                for connection in connections:
                    nursery.start_soon(self._send_late, connection, deadline, on_slow)
        except BaseException as exc:
            others = (leaf for leaf in flatten_group(exc) if not isinstance(leaf, trio.Cancelled))
            raise next(others, exc) from None

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt must go to the caller's task
    async def _send_late(
        self, connection: WebSocketConnection, deadline: float, on_slow: str
    ) -> None:
        """Queue the message as soon as possible. After the deadline, apply `on_slow`."""
        sender = lifecycle_of(connection).sender
        delivery = await sender.broadcast_late(self._message, deadline)
        if delivery is _SENT:
            self._sent.append(connection)
        elif delivery is _BUSY:
            text = "the connection had no room for the message in time"
            self._failed[connection] = trio.TooSlowError(text)
            if on_slow == "close":
                lifecycle_of(connection).close_slow()
        else:
            self._failed[connection] = sender.closed_error()

    def result(self) -> BroadcastResult:
        """Return the result. A connection that has since dropped its queued messages has failed."""
        for connection in self._sent:
            sender = lifecycle_of(connection).sender
            if sender.has_dropped:
                self._failed[connection] = sender.closed_error()
        sent = frozenset(self._sent).difference(self._failed)
        return BroadcastResult(sent, self._failed)


def _snapshot(connections: Iterable[WebSocketConnection]) -> list[WebSocketConnection]:
    if isinstance(connections, WebSocketConnection):
        raise TypeError(f"connections must be an iterable of connections, not {connections}")
    receivers = list(connections)
    for connection in receivers:
        if not isinstance(connection, WebSocketConnection):
            raise TypeError(
                f"each connection must be a WebSocketConnection, not {connection!r:.100}"
            )
    # Connections opened one after another are often neighbours in memory, so this order is faster.
    return sorted(set(receivers), key=lambda receiver: lifecycle_of(receiver).number)
