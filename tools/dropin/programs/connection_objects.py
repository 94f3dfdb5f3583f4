"""Connections as objects: user attributes, names, sets and dict keys, weak references."""

from __future__ import annotations

import logging
import re
import weakref
from functools import partial
from typing import Any

import trio
from trio.testing import memory_stream_pair
from wsproto import ConnectionType, WSConnection

from trio_websocket import (
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

records: list[logging.LogRecord] = []


class Handler(logging.Handler):
    """A log handler that keeps the library's records."""

    def emit(self, record: logging.LogRecord) -> None:
        records.append(record)


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    print("server", re.sub(r"\d+", "N", str(ws)), f"{ws}" == str(ws))
    await ws.get_message()
    await ws.send_message("done")


async def main() -> None:
    logging.getLogger("trio-websocket").addHandler(Handler())
    logging.getLogger("trio-websocket").setLevel(logging.DEBUG)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}"
        async with open_websocket_url(url) as ws, open_websocket_url(url) as other:
            user: Any = ws
            user.user_id = 42
            user._mine = {"a": 1}
            print(user.user_id, user._mine, isinstance(ws, trio.abc.AsyncResource))
            print(re.sub(r"\d+", "N", str(ws)), str(ws) == str(ws), str(ws) != str(other))
            print(len({ws, other, ws}), {ws: "a"}[ws], ws == ws, ws == other)
            print(weakref.ref(ws)() is ws, bool(ws))
            for name in ("path", "closed", "subprotocol", "is_client", "handshake_headers"):
                try:
                    setattr(ws, name, None)
                    print(name, "was set")
                except AttributeError:
                    print(name, "is read-only")
            for connection in (ws, other):
                await connection.send_message("ping")
                print(await connection.get_message())
        nursery.cancel_scope.cancel()
    print("logged", len(records) > 0)

    made = WebSocketConnection(
        memory_stream_pair()[0],
        WSConnection(ConnectionType.CLIENT),
        host="example.org",
        path="/path",
        client_subprotocols=["a"],
        client_extra_headers=[(b"x", b"y")],
        message_queue_size=2,
        max_message_size=10,
        receive_buffer_size=None,
    )
    print(made.is_client, made.is_server, made.path, made.closed, made.subprotocol)
    print(re.sub(r"\d+", "N", str(made)), made.handshake_headers, type(made.remote).__name__)
    made = WebSocketConnection(memory_stream_pair()[0], WSConnection(ConnectionType.SERVER))
    print(made.is_client, made.is_server, made.path, re.sub(r"\d+", "N", str(made)))


trio.run(main)
