"""The close codes of either side, as both sides see them."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket,
    serve_websocket,
)

CLOSINGS = [
    (1000, None),
    (1000, "done"),
    (1001, "going"),
    (1003, "unsupported"),
    (1008, "policy"),
    (1011, "x" * 123),
    (1012, "naïve"),
    (3000, "registered"),
    (4999, "private"),
]


async def drain(who: str, ws: WebSocketConnection) -> None:
    while True:
        try:
            print(who, "got", await ws.get_message())
        except ConnectionClosed as exc:
            print(who, "sees", repr(exc), ws.closed)
            break
    for operation in (ws.get_message(), ws.send_message("late"), ws.ping(), ws.pong()):
        try:
            await operation
        except ConnectionClosed as exc:
            print(who, "still", exc.reason)


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    if request.path == "/returns":
        return
    if request.path == "/drains":
        await drain("server", ws)
        return
    for message in ("last", b"words"):
        await ws.send_message(message)
    code, reason = CLOSINGS[int(request.path[1:])]
    if reason is None:
        await ws.aclose(code)
    else:
        await ws.aclose(code, reason)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_websocket, handler, "127.0.0.1", 0, None, message_queue_size=4)
        )
        connect = partial(open_websocket, "127.0.0.1", server.port, use_ssl=False)
        for i in range(len(CLOSINGS)):
            async with connect(f"/{i}", message_queue_size=4) as ws:
                await drain("client", ws)
        async with connect("/returns") as ws:
            await drain("client", ws)
        for code, reason in CLOSINGS:
            async with connect("/drains") as ws:
                await ws.send_message("unread")
                await ws.aclose(code=code, reason=reason)
                await ws.aclose()
                print("client has", ws.closed is not None)
                for operation in (ws.get_message(), ws.send_message("late")):
                    try:
                        await operation
                    except ConnectionClosed:
                        print("client is closed")
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


trio.run(main)
