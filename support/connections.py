"""Open connections of the library, joined in pairs or with a raw peer."""

from __future__ import annotations

from typing import (
    Any,
    Awaitable,
)

import pytest
import trio
import trio.testing

from support.peer import REQUEST, RawPeer, accepting, read_head
from support.streams import PAIRS, StreamPair
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)


async def closed_error(call: Awaitable[object]) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as excinfo:
        await call
    return excinfo.value


async def pieces_of(connection: WebSocketConnection, **options: Any) -> list[str | bytes]:
    """Return the chunks of the next message."""
    async with connection.receive_stream(**options) as pieces:
        return [piece async for piece in pieces]


class Source:
    """An async iterator of chunks that counts requests and notes that it was closed.

    It raises a chunk that is an exception, and sleeps forever at ``None``.
    """

    def __init__(self, *pieces: Any) -> None:
        self._pieces = iter(pieces)
        self.asked = 0
        self.is_closed = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        try:
            piece = next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None
        if piece is None:
            await trio.sleep_forever()
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        assert not self.is_closed
        self.is_closed = True


async def open_pair(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
) -> tuple[WebSocketConnection, WebSocketConnection]:
    """Return a client and a server connection of the library, joined.

    :param kind: The kind of streams, a key of PAIRS, unless ``streams`` are given.
    :param client: Options of the client.
    :param server: Options of the server.
    """
    client_stream, server_stream = streams or await PAIRS[kind]()
    opened: list[WebSocketConnection] = []

    async def accept() -> None:
        request = await wrap_server_stream(nursery, server_stream, **(server or {}))
        opened.append(await request.accept())

    async with trio.open_nursery() as opening:
        opening.start_soon(accept)
        connection = await wrap_client_stream(
            nursery, client_stream, "example.org", "/", **(client or {})
        )
    return connection, opened[0]


async def open_client(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    trailing: bytes = b"",
    **options: Any,
) -> tuple[WebSocketConnection, RawPeer]:
    """Return a client of the library, and the raw server that it is connected to.

    :param trailing: Bytes that the server sends together with its response.
    """
    ours, theirs = streams or await PAIRS[kind]()
    peer = RawPeer(theirs, is_client=False)

    async def accept() -> None:
        request, _ = await read_head(theirs)
        await peer.send(accepting(request), trailing)

    async with trio.open_nursery() as opening:
        opening.start_soon(accept)
        connection = await wrap_client_stream(nursery, ours, "example.org", "/", **options)
    return connection, peer


async def open_server(
    nursery: trio.Nursery,
    kind: str = "memory",
    *,
    streams: StreamPair | None = None,
    trailing: bytes = b"",
    **options: Any,
) -> tuple[WebSocketConnection, RawPeer]:
    """Return a server connection of the library, and the raw client that it is connected to.

    :param trailing: Bytes that the client sends together with its request.
    """
    theirs, ours = streams or await PAIRS[kind]()
    peer = RawPeer(theirs, is_client=True)

    async def shake_hands() -> None:
        nonlocal peer
        await peer.send(REQUEST, trailing)
        _, rest = await read_head(theirs)
        peer = RawPeer(theirs, is_client=True, received=rest)

    async with trio.open_nursery() as opening:
        opening.start_soon(shake_hands)
        request = await wrap_server_stream(nursery, ours, **options)
        connection = await request.accept()
    return connection, peer
