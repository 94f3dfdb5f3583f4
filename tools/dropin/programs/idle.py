"""Connections that the application does not read: pings are answered, the end is noticed."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    if request.path == "/message":
        await ws.send_message("unread")
    with trio.move_on_after(5) as scope:
        for _ in range(3):
            await ws.ping()
            await trio.sleep(0.1)
        await ws.aclose(4000, "enough")
    print("server", request.path, "answered in time", not scope.cancelled_caught)


async def watch(ws: WebSocketConnection) -> None:
    with trio.move_on_after(5):
        while ws.closed is None:  # noqa: ASYNC110 # 0.12 has no event for it
            await trio.sleep(0.05)
    print("client sees", ws.closed)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        for path in ("/", "/message"):
            async with open_websocket_url(f"ws://127.0.0.1:{server.port}{path}") as ws:
                await watch(ws)
                try:
                    print("client got", await ws.get_message())
                    await ws.get_message()
                except ConnectionClosed as exc:
                    print("client ends with", exc.reason)
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


trio.run(main)
