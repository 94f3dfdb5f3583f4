"""Cancelled calls, blocks and servers."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
)


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def ticks(request: WebSocketRequest) -> None:
    ws = await request.accept()
    for i in range(20):
        await ws.send_message(str(i))
        await trio.sleep(0.02)


async def blocks(url: str) -> None:
    async with open_websocket_url(url) as ws:
        for i in range(3):
            with trio.move_on_after(0.05) as scope:
                await ws.get_message()
            print("get_message", scope.cancelled_caught)
            await ws.send_message(str(i))
            print(await ws.get_message())

    with trio.CancelScope() as scope:
        async with open_websocket_url(url):
            scope.cancel()
            await trio.sleep_forever()
    print("block", scope.cancelled_caught)

    for _ in range(50):  # cancel at arbitrary points
        with trio.move_on_after(0.01) as scope:
            async with open_websocket_url(url) as ws:
                while True:
                    await ws.send_message("again")
                    await ws.get_message()
        assert scope.cancelled_caught


async def nurseries(url: str) -> None:
    async with trio.open_nursery() as nursery:
        await connect_websocket_url(nursery, url)
        nursery.cancel_scope.cancel()
    print("nursery", nursery.cancel_scope.cancelled_caught)

    try:
        with trio.fail_after(0.1):
            async with trio.open_nursery() as nursery:
                await connect_websocket_url(nursery, url)
    except trio.TooSlowError:
        print("nobody closed it in time")

    async with trio.open_nursery() as nursery:
        ws = await connect_websocket_url(nursery, url)
        with trio.move_on_after(0.1):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await ws.send_message("goodbye")
                    await ws.aclose()
    print("closed", ws.closed)


async def polling(url: str) -> None:
    polled: list[str | bytes] = []
    async with open_websocket_url(url) as ws:
        try:
            while True:
                with trio.move_on_after(0.005):
                    polled.append(await ws.get_message())
        except ConnectionClosed as exc:
            print("polled", len(polled), polled == sorted(polled, key=int), exc.reason)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}/"
        await blocks(url)
        await nurseries(url)
        server = await nursery.start(partial(serve_websocket, ticks, "127.0.0.1", 0, None))
        await polling(f"ws://127.0.0.1:{server.port}/")
        ws = await connect_websocket_url(nursery, url)
        await ws.send_message("x")
        print(await ws.get_message())
        nursery.cancel_scope.cancel()
    print("everything", nursery.cancel_scope.cancelled_caught)

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as servers:
            server = await servers.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
            ws = await connect_websocket_url(clients, f"ws://127.0.0.1:{server.port}/")
            servers.cancel_scope.cancel()
        try:
            await ws.get_message()
        except ConnectionClosed:
            print("the server is gone")
        await ws.aclose()


trio.run(main)
