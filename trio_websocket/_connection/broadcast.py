"""One message for many connections, none of which waits for another."""

from __future__ import annotations

import dataclasses
import operator
from typing import Awaitable, Callable, Iterable, Literal, Mapping

import trio

from .._io.pacing import TURN, run_in_thread
from .._sansio.errors import (
    CloseReason,
    ConnectionClosed,
    MessageTypeError,
    describe,
    flatten_group,
)
from .._sansio.frame_writer import LONG_TO_COMPRESS
from .._sansio.options import check_number
from .._sansio.protocol import Protocol
from .connection import WebSocketConnection
from .fragments import Message, check_no_file, encoded

_POLICIES = ("skip", "close")
_ABNORMAL = 1006
# What it costs to send a message, in microseconds or so, and how many bytes of it cost one more:
# to write them, or to compress or mask them, too.
_MESSAGE, _BYTES, _BYTES_ALONE = 8, 2**12, 2**5


@dataclasses.dataclass(frozen=True)
class BroadcastResult:
    """Who got a message that was broadcast, and who did not: each connection is in one of them."""

    #: The connections that accepted it, as :meth:`WebSocketConnection.send_message` does.
    sent: frozenset[WebSocketConnection]
    #: The others, each with the reason: :exc:`ConnectionClosed`, or :exc:`trio.TooSlowError`.
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
    """Send a message to many connections, of which no slow one holds up another.

    Those that can take it get it at once. The others, where more than ``max_unsent_bytes`` wait for
    a peer that does not read, or another task is in the middle of a message, get it as soon as they
    can, if that is within the time-out. A connection that can't send never makes this raise; the
    result tells. For each connection, messages arrive in the order in which a task has sent them.

    If cancelled, the connections that have accepted the message get it whole, and the others do not
    get it; who they are is not told. All of them work on.

    :param connections: Connections, of servers or clients; those that there are at the call. One
        that is among them several times gets the message once.
    :param message: A str, bytes or another buffer.
    :param text: As in :meth:`WebSocketConnection.send_message`.
    :param compress: Likewise. What is the same for several connections is made once: the frame on a
        server where it is not compressed, or where it is by the same settings and without
        ``context_takeover``.
    :param timeout: Seconds that the slow connections have, all at the same time. 1 is several round
        trips to anywhere, in which a peer that reads makes room; 0 is not to wait for any.
    :param on_slow: What to do with a connection that had no room in time. ``"skip"``: do not send
        this message to it. ``"close"``: start to close it with code 1008, too. Its queued messages
        are dropped, and closing it takes ``disconnect_timeout`` at most, for which nobody waits.
    :returns: Who got it, who did not, and why.
    :raises TypeError: The message is neither str nor bytes-like, or what is given as a connection
        is none.
    :raises ValueError: Bytes that are to be text are not UTF-8; the time-out is less than 0; there
        is no such policy.
    """
    receivers = _snapshot(connections)
    check_number("timeout", timeout)
    if on_slow not in _POLICIES:
        raise ValueError(f"on_slow must be one of {_POLICIES}, not {on_slow!r:.100}")
    whole = encoded(message, text)
    if whole is None:
        check_no_file(message)
        raise MessageTypeError(f"message must be str or bytes-like, not {message!r:.100}")
    broadcasting = _Broadcast(*whole, compress)
    await trio.lowlevel.checkpoint()
    waiting = await broadcasting.send_at_once(receivers)
    if waiting:
        deadline = trio.current_time() + timeout
        await _in_parallel(broadcasting.send_late, waiting, deadline, on_slow)
        broadcasting.fail_dropped()
    return BroadcastResult(frozenset(broadcasting.sent), broadcasting.failed)


class _Broadcast:
    """A message on its way to many."""

    def __init__(self, is_text: bool, payload: bytes, compress: bool) -> None:
        self._is_text = is_text
        self._payload = payload
        self._compress = compress
        self._shared: dict[object, list[bytes]] = {}  # frames, by what they depend on
        self.sent: list[WebSocketConnection] = []
        self.failed: dict[WebSocketConnection, ConnectionClosed | trio.TooSlowError] = {}

    async def send_at_once(
        self, connections: Iterable[WebSocketConnection]
    ) -> list[WebSocketConnection]:
        """Send it wherever nothing is in the way; the connections where something is."""
        waiting = []
        compress, shared, size = self._compress, self._shared, len(self._payload)
        cost, cost_alone = _MESSAGE + size // _BYTES, _MESSAGE + size // _BYTES_ALONE
        left = TURN
        for connection in connections:
            if left <= 0:
                left = TURN
                await trio.lowlevel.checkpoint()
            protocol = connection._protocol
            kind = protocol.share_key(size, compress)
            if kind is None:
                left -= cost_alone
            else:
                left -= cost
                if kind not in shared:
                    shared[kind] = await self._make_shared(protocol)
                # This is all that most connections need, and much of the time is spent here.
                if (
                    protocol.is_open
                    and not connection._sender.is_taken
                    and connection._send_queue.try_write_now(shared[kind])
                ):
                    protocol.count_message(size)
                    self.sent.append(connection)
                    continue
            if not self._send(connection, kind):
                waiting.append(connection)
        return waiting

    def _send(self, connection: WebSocketConnection, kind: object) -> bool:
        """Send it, unless something is in the way."""
        protocol = connection._protocol
        if not connection._can_close:
            self.failed[connection] = _closed_error(connection)
        elif not _is_free(connection) or (kind is None and self._takes_long(protocol)):
            return False
        else:
            self._append(connection, self._frame(protocol, kind))
        return True

    @trio.lowlevel.enable_ki_protection  # a KeyboardInterrupt is the application's
    async def send_late(
        self, connection: WebSocketConnection, deadline: float, on_slow: str
    ) -> None:
        """Send it once nothing is in the way."""
        if not await _wait_turn(connection, deadline):
            self._give_up_waiting(connection, on_slow)
            return
        try:
            protocol = connection._protocol
            kind = protocol.share_key(len(self._payload), self._compress)
            frame: list[bytes] | None = None
            if kind is None and self._takes_long(protocol) and connection._can_close:
                deflated = await run_in_thread(protocol.deflate, self._payload)
                size = len(self._payload)
                if connection._can_close:
                    frame = [protocol.deflated_message(self._is_text, deflated, size)]
            if connection._can_close:
                self._append(connection, frame or self._frame(protocol, kind))
            else:
                self.failed[connection] = _closed_error(connection)
        finally:
            connection._sender.pass_on()

    def fail_dropped(self) -> None:
        """Move connections whose queue was dropped meanwhile from `sent` to `failed`."""
        for connection in self.sent:
            if connection._send_queue.has_dropped:
                self.failed[connection] = _closed_error(connection)
        self.sent = [connection for connection in self.sent if connection not in self.failed]

    def _takes_long(self, protocol: Protocol) -> bool:
        """Whether another thread had better make the frame."""
        size = len(self._payload)
        return self._compress and size >= max(LONG_TO_COMPRESS, protocol.threshold)

    async def _make_shared(self, protocol: Protocol) -> list[bytes]:
        message = self._is_text, self._payload, self._compress
        if self._takes_long(protocol):
            return await run_in_thread(protocol.shared_message, *message)
        return protocol.shared_message(*message)

    def _frame(self, protocol: Protocol, kind: object) -> list[bytes]:
        """The frame for a connection, which counts as sent from now on."""
        if kind is None:
            return [protocol.message(self._is_text, self._payload, self._compress)]
        protocol.count_message(len(self._payload))
        return self._shared[kind]

    def _append(self, connection: WebSocketConnection, frame: list[bytes]) -> None:
        connection._send_queue.append(*frame)
        if connection._send_queue.broken is None:
            self.sent.append(connection)
        else:
            connection._protocol.discount_message(len(self._payload))
            self.failed[connection] = _closed_error(connection)

    def _give_up_waiting(self, connection: WebSocketConnection, on_slow: str) -> None:
        """Send the message if there is room by now. Otherwise do what ``on_slow`` says."""
        if self._send(
            connection, connection._protocol.share_key(len(self._payload), self._compress)
        ):
            return
        text = "the connection had no room for the message in time"
        self.failed[connection] = trio.TooSlowError(text)
        if on_slow == "close":
            connection._close_slow()


def _snapshot(connections: Iterable[WebSocketConnection]) -> list[WebSocketConnection]:
    if isinstance(connections, WebSocketConnection):
        raise TypeError(f"connections must be an iterable of connections, not {connections}")
    receivers = list(connections)
    for connection in receivers:
        if not isinstance(connection, WebSocketConnection):
            raise TypeError(
                f"each connection must be a WebSocketConnection, not {connection!r:.100}"
            )
    # In the order in which they were opened, neighbours in memory are mostly next to each other.
    return sorted(set(receivers), key=operator.attrgetter("_id"))


def _is_free(connection: WebSocketConnection) -> bool:
    """Whether a message can be appended now."""
    return not connection._send_queue.is_full and not connection._sender.is_taken


async def _wait_turn(connection: WebSocketConnection, deadline: float) -> bool:
    """Lock the connection for other senders, once there is room; False if that takes too long."""
    with trio.CancelScope(deadline=deadline):
        await connection._sender.take()
        try:
            await connection._send_queue.wait_room()
        except trio.Cancelled:
            connection._sender.pass_on()
            raise
        return True
    return False


def _closed_error(connection: WebSocketConnection) -> ConnectionClosed:
    """Why nothing can be sent, as far as it is known by now."""
    broken = connection._send_queue.broken
    if broken is None or not connection._protocol.is_open:
        return connection._protocol.closed_error()
    reason = CloseReason(_ABNORMAL, describe(broken))
    exc = ConnectionClosed(reason)
    exc.__cause__ = broken
    return exc


async def _in_parallel(
    function: Callable[..., Awaitable[None]], each: Iterable[object], *args: object
) -> None:
    """Call the function with each, all at the same time; an interruption comes out as it is."""
    try:
        async with trio.open_nursery() as nursery:
            for one in each:
                nursery.start_soon(function, one, *args)
    except BaseException as exc:
        others = (leaf for leaf in flatten_group(exc) if not isinstance(leaf, trio.Cancelled))
        raise next(others, exc) from None
