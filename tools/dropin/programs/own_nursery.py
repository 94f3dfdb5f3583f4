"""Connections whose tasks live in the caller's nursery."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    connect_websocket,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
)


async def echo(request: WebSocketRequest) -> None:
    async with await request.accept() as ws:
        try:
            while True:
                await ws.send_message(await ws.get_message())
        except ConnectionClosed:
            pass


async def receive(ws: WebSocketConnection) -> None:
    try:
        while True:
            print("received", await ws.get_message())
    except ConnectionClosed as exc:
        print("receiver ends with", exc.reason)


async def main() -> None:
    async with trio.open_nursery() as server_nursery:
        server = await server_nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}/"

        async with trio.open_nursery() as nursery:
            ws = await connect_websocket(nursery, "127.0.0.1", server.port, "/", use_ssl=False)
            await ws.send_message("one")
            print(await ws.get_message())
            await ws.aclose()
        print("nursery is empty")

        async with trio.open_nursery() as nursery, await connect_websocket_url(nursery, url) as ws:
            for i in range(3):
                await ws.send_message(f"message {i}")
                print(await ws.get_message())
        print("nursery is empty", ws.closed)

        async with trio.open_nursery() as nursery:
            ws = await connect_websocket_url(nursery, url)
            nursery.start_soon(receive, ws)
            await ws.send_message("to the other task")
            await trio.sleep(0.1)
            await ws.aclose()
        print("nursery is empty")

        async with trio.open_nursery() as nursery:
            many = [await connect_websocket_url(nursery, url) for _ in range(5)]
            for i, ws in enumerate(many):
                await ws.send_message(str(i))
            print([await ws.get_message() for ws in many])
            nursery.cancel_scope.cancel()
        print("cancelled")

        async with AsyncExitStack() as stack:
            ws = await stack.enter_async_context(open_websocket_url(url))
            await ws.send_message("stack")
            print(await ws.get_message())
        print(ws.closed)
        server_nursery.cancel_scope.cancel()


trio.run(main)
