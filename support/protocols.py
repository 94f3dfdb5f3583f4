"""The state of an open connection without I/O: both sides, fed with frames."""

from __future__ import annotations

import struct
from typing import Any, Iterator, Tuple, Union

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, Pong

from trio_websocket._sansio.events import MessageChunk, Status
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol

ENDED = Status.ENDED
NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER

both_sides = pytest.mark.parametrize("side", [CLIENT, SERVER], ids=["client", "server"])

both_paths = pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])

#: A message, or a control frame as ("ping", payload) or ("pong", payload).
Event = Union[str, bytes, Tuple[str, bytes]]


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack("!H", code) + reason


def open_protocol(side: ConnectionType, *, fast: bool = True, **options: Any) -> Protocol:
    return Protocol(side, Options(**options), fast=fast)


def events_of(protocol: Protocol, *, several: int = 0) -> Iterator[Event | Status]:
    """Give every event but `PARTIAL`. The last one is `NEED_DATA` or `ENDED`.

    :param several: The number of messages to ask for before each event.
    """
    while True:
        if several:
            yield from protocol.reader.messages(several)
        event = protocol.next_event()
        if isinstance(event, Ping):
            yield "ping", bytes(event.payload)
        elif isinstance(event, Pong):
            yield "pong", bytes(event.payload)
        elif event is not PARTIAL:
            assert not isinstance(event, MessageChunk)
            yield event
        if event in (NEED_DATA, ENDED):
            return


def received(protocol: Protocol, *chunks: bytes, several: int = 0) -> list[Event | Status]:
    """Return the events of these bytes, with `NEED_DATA` only at the end."""
    events: list[Event | Status] = [NEED_DATA]
    for chunk in chunks:
        protocol.reader.receive_data(chunk)
        events[-1:] = events_of(protocol, several=several)
    return events


def parsed(data: bytes, side: ConnectionType) -> list[Any]:
    """Return the events that wsproto makes of bytes that were sent to a side."""
    peer = Connection(side)
    peer.receive_data(data)
    return list(peer.events())


def peer_of(side: ConnectionType) -> ConnectionType:
    return CLIENT if side is SERVER else SERVER


def sent_close(data: bytes, side: ConnectionType) -> tuple[int, str | None]:
    """Return the code and the reason of the Close frame that a side sent."""
    (event,) = parsed(data, peer_of(side))
    assert isinstance(event, CloseConnection)
    return int(event.code), event.reason
