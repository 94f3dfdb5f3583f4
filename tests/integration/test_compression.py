"""Compression with clients and servers over TCP."""

from __future__ import annotations

from typing import Any, Awaitable, Callable

import pytest
import trio
import wsproto
from wsproto.connection import ConnectionType

from support.streams import memory_pair
from trio_websocket import (
    WebSocketConnection,
    WebSocketServer,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)


@pytest.mark.parametrize("value", [True, "deflate", 15, {}])
async def test_compression_of_wrong_type_raises(nursery: trio.Nursery, value: Any) -> None:
    ours, _ = await memory_pair()
    listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    wrong: dict[str, Any] = {"compression": value}

    async def handler(request: object) -> None:
        raise AssertionError

    calls: list[Callable[[], object]] = [
        lambda: open_websocket("127.0.0.1", 9, "/", use_ssl=False, **wrong),
        lambda: open_websocket_url("ws://127.0.0.1:9", **wrong),
        lambda: WebSocketServer(handler, listeners, **wrong),
        lambda: WebSocketConnection(ours, wsproto.WSConnection(ConnectionType.CLIENT), **wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="compression"):
            call()
    awaitables: list[Callable[[], Awaitable[object]]] = [
        lambda: connect_websocket(nursery, "127.0.0.1", 9, "/", use_ssl=False, **wrong),
        lambda: connect_websocket_url(nursery, "ws://127.0.0.1:9", **wrong),
        lambda: wrap_client_stream(nursery, ours, "example.org", "/", **wrong),
        lambda: wrap_server_stream(nursery, ours, **wrong),
        lambda: serve_websocket(handler, "127.0.0.1", 0, None, **wrong),
    ]
    for awaitable in awaitables:
        with pytest.raises(TypeError, match="compression"):
            await awaitable()
    await listeners[0].aclose()
