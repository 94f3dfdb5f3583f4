"""Our Pings and their Pongs (RFC 6455, 5.5.2 and 5.5.3)."""

from __future__ import annotations

import collections
from typing import Any

import trio

from .._io.sync import LazyEvent, LazyParkingLot
from .._sansio.protocol import Protocol
from .receiver import Receiver
from .sender import Sender

# To save memory, all connections that have not sent a Ping share this.
_NONE: collections.OrderedDict[bytes, Any] = collections.OrderedDict()


class PendingPing:
    """A Ping that is waiting for its Pong."""

    def __init__(self) -> None:
        self._sent_at = trio.current_time()
        #: The round-trip time in seconds, or None if no Pong has arrived.
        self.round_trip: float | None = None
        #: Set once the Pong has arrived, or can no longer arrive.
        self.is_over = LazyEvent()

    def answer(self) -> float:
        """Note that the Pong has arrived; return the round-trip time."""
        self.round_trip = trio.current_time() - self._sent_at
        self.is_over.set()
        return self.round_trip


class Pings:
    """The unanswered Pings, by payload, in the order in which they were sent."""

    __slots__ = ("_changed", "_limit", "_pings", "_protocol", "_receiver", "_sender", "latency")

    def __init__(
        self, protocol: Protocol, sender: Sender, receiver: Receiver, limit: float
    ) -> None:
        """
        :param protocol: Creates the frames.
        :param sender: Sends the frames.
        :param receiver: Reads in the background until the Pongs arrive.
        :param limit: The maximum number of unanswered Pings.
        """
        self._protocol = protocol
        self._sender = sender
        self._receiver = receiver
        self._limit = limit
        # Invariant: only the newest value can be None. No task is waiting for that Ping any more;
        # it is kept because its Pong also answers the Pings before it.
        self._pings: collections.OrderedDict[bytes, PendingPing | None] = _NONE
        self._changed = LazyParkingLot()
        #: The latest round-trip time in seconds, or None.
        self.latency: float | None = None

    def __bool__(self) -> bool:
        """Return True if there is a Ping that a Pong could answer."""
        return bool(self._pings)

    @property
    def count(self) -> int:
        """The number of Pings whose Pong a task is waiting for."""
        return sum(ping is not None for ping in self._pings.values())

    @property
    def is_full(self) -> bool:
        """True if no further Ping can be sent until one is answered or forgotten."""
        return len(self._pings) >= self._limit

    async def wait_changed(self) -> None:
        """Wait until a Ping is answered or forgotten. If cancelled, nothing changes."""
        await self._changed.park()

    async def ping(self, payload: bytes) -> float:
        """Send a Ping and wait for its Pong; return the round-trip time in seconds."""
        self.check_unused(payload)
        await self._sender.wait_control()
        while self.is_full:
            await self.wait_changed()
            await self._sender.check_open()
        self.check_unused(payload)
        ping = self.send(payload)
        try:
            await ping.is_over.wait()
        finally:
            self.forget(payload, ping)
        if ping.round_trip is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._protocol.closing.raise_closed()
        return ping.round_trip

    def send(self, payload: bytes) -> PendingPing:
        """Queue a Ping, and start reading in the background for its Pong."""
        ping = self.add(payload)
        self._sender.append_control(self._protocol.writer.ping(payload))
        self._receiver.read_in_background()
        return ping

    def check_unused(self, payload: bytes) -> None:
        """Raise a ValueError if a task is waiting for the Pong of a Ping with the same payload."""
        if self._pings.get(payload) is not None:
            raise ValueError(f"a ping with payload {payload!r} is already waiting for its Pong")

    def add(self, payload: bytes) -> PendingPing:
        """Register a Ping that is about to be sent."""
        if self._pings and next(reversed(self._pings.values())) is None:
            self._pings.popitem()  # the new Ping's Pong also answers the earlier Pings
        if self._pings is _NONE:
            self._pings = collections.OrderedDict()
        ping = self._pings[payload] = PendingPing()
        return ping

    def forget(self, payload: bytes, ping: PendingPing) -> None:
        """Stop waiting for a Ping's Pong. Does nothing if the Ping is over."""
        if self._pings.get(payload) is ping:
            if next(reversed(self._pings)) == payload:
                self._pings[payload] = None
            else:
                del self._pings[payload]
            self._drop_useless()
            # Wake all waiting tasks, because a single one might not send its Ping after all.
            self._changed.unpark_all()

    def answer(self, payload: bytes) -> None:
        """Handle a Pong. It also answers all Pings before the matching one (RFC 6455, 5.5.3)."""
        if payload not in self._pings:
            return
        answered: bytes | None = None
        while answered != payload:
            answered, ping = self._pings.popitem(last=False)
            if ping is not None:
                self.latency = ping.answer()
        self._drop_useless()
        self._changed.unpark_all()

    def end(self) -> None:
        """End all Pings, because no more Pongs will arrive."""
        for ping in self._pings.values():
            if ping is not None:
                ping.is_over.set()
        self._changed.unpark_all()

    def _drop_useless(self) -> None:
        """Drop the only remaining Ping if no task is waiting for it."""
        if len(self._pings) == 1 and None in self._pings.values():
            self._pings.clear()
