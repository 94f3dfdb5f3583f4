"""Deflate codecs, the extension and protocols that use them."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, Iterable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from support import frames
from trio_websocket import (
    DeflateParameters,
    PerMessageDeflate,
)
from trio_websocket._sansio.deflate import (
    DeflateCodec,
    DeflateExtension,
)
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol

TAIL = b"\x00\x00\xff\xff"  # senders leave it out (RFC 7692, 7.2.1)
WIDE = PerMessageDeflate(window_bits=15)


def agreed(
    client_bits: int = 15, server_bits: int = 15, client_resets: bool = False, resets: bool = False
) -> DeflateParameters:
    return DeflateParameters(client_bits, server_bits, client_resets, resets)


def random_bytes(size: int) -> bytes:
    """Return bytes that can't be compressed, the same ones each time."""
    state, blocks = b"seed", []
    for _ in range(size // 64 + 1):
        state = hashlib.sha512(state).digest()
        blocks.append(state)
    return b"".join(blocks)[:size]


AGREED = agreed()

AGREED_WITHOUT_TAKEOVER = agreed(client_resets=True, resets=True)


def server(agreed: DeflateParameters = AGREED, settings: PerMessageDeflate = WIDE) -> DeflateCodec:
    return DeflateCodec(agreed, settings, is_client=False)


def client(agreed: DeflateParameters = AGREED, settings: PerMessageDeflate = WIDE) -> DeflateCodec:
    return DeflateCodec(agreed, settings, is_client=True)


def pieces(codec: DeflateCodec, data: Iterable[bytes], max_length: int) -> bytes:
    """Inflate a message in chunks, with at most ``max_length`` bytes of output at a time."""
    parts = []
    for piece, is_last in [*((piece, False) for piece in data), (b"", True)]:
        parts.append(codec.inflate_chunk(piece, is_last=is_last, max_length=max_length))
        while codec.has_more:
            parts.append(codec.inflate_chunk(b"", is_last=is_last, max_length=max_length))
    assert all(len(part) <= max_length for part in parts)
    return b"".join(parts)


RSV1, RSV2 = 4, 2

KEY = b"\x11\x22\x33\x44"

frame = functools.partial(frames.frame, key=KEY)  # a client's frame


def connection(
    max_size: float = math.inf, agreed: DeflateParameters = AGREED, *, is_client: bool = False
) -> Connection:
    extension = DeflateExtension(DeflateCodec(agreed, WIDE, is_client=is_client))
    extension.set_limit(max_size)
    side = ConnectionType.CLIENT if is_client else ConnectionType.SERVER
    return Connection(side, extensions=[extension])


def received(ws: Connection, data: bytes, *, size: int = 0) -> list[object]:
    """Return the messages, control frames and close code in the data, fed in chunks."""
    size = size or len(data)
    events: list[Event] = []
    for at in range(0, len(data), size):
        ws.receive_data(data[at : at + size])
        events += ws.events()
        if events and isinstance(events[-1], CloseConnection):
            break
    found: list[object] = []
    parts: list[Any] = []
    for event in events:
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data)
            if event.message_finished:
                found.append(parts[0][:0].join(parts))
                parts = []
        elif isinstance(event, (Ping, Pong)):
            found.append((type(event), bytes(event.payload)))
        else:
            assert isinstance(event, CloseConnection)
            found.append(event.code)
    return found


ALL = PerMessageDeflate(threshold=0)

MIB = 2**20

KINDS = [ConnectionType.CLIENT, ConnectionType.SERVER]


def open_two(
    side: ConnectionType,
    settings: PerMessageDeflate,
    bits: tuple[int, int],
    resets: tuple[bool, bool],
    *,
    fast: bool = True,
    **options: Any,
) -> tuple[Protocol, Protocol]:
    """Return the protocol under test, and one that sends to it."""
    agreed = DeflateParameters(*bits, *resets)
    found = []
    for kind in (side, KINDS[side is KINDS[0]]):
        codec = DeflateCodec(agreed, settings, is_client=kind is ConnectionType.CLIENT)
        extension = DeflateExtension(codec)
        bounds = Options(compression=settings, **options)
        found.append(Protocol(kind, bounds, extension, fast=fast))
    return found[0], found[1]


class Turns:
    """Values that are taken in turn, over and over."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._at = 0

    def next(self) -> Any:
        self._at += 1
        return self._values[self._at % len(self._values)]


def in_chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    found = []
    turns = Turns(sizes)
    at = 0
    while at < len(data):
        size = turns.next()
        found.append(data[at : at + size])
        at += size
    return found


def event_of(event: Any) -> Any:
    if isinstance(event, Ping):
        return "ping", bytes(event.payload)
    assert not isinstance(event, Pong)
    return event
