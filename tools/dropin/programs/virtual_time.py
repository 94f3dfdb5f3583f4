"""Tests of applications with a jumping clock and streams in memory."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import MockClock, memory_stream_pair

from trio_websocket import (
    ConnectionClosed,
    ConnectionTimeout,
    DisconnectionTimeout,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)


async def slow_echo(ws: WebSocketConnection) -> None:
    try:
        while True:
            message = await ws.get_message()
            await trio.sleep(5)
            await ws.send_message(message)
    except ConnectionClosed as exc:
        print("server ends with", exc.reason, "after", round(trio.current_time() - START))


async def memory() -> None:
    async def serve(nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
        await slow_echo(await (await wrap_server_stream(nursery, stream)).accept())

    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, nursery, server)
        stream: trio.SocketStream = client  # type: ignore[assignment] # 0.12: sockets only
        ws = await wrap_client_stream(nursery, stream, "localhost", "/")
        print("open after", round(trio.current_time() - START))
        for i in range(3):
            await ws.send_message(str(i))
            print(await ws.get_message(), "after", round(trio.current_time() - START))
        with trio.move_on_after(100) as scope:
            await ws.get_message()
        print(scope.cancelled_caught, "after", round(trio.current_time() - START))
        await trio.sleep(1000)
        await ws.ping()
        await ws.aclose()
        print("closed after", round(trio.current_time() - START))


async def late(request: WebSocketRequest) -> None:
    await trio.sleep(2)
    if request.path == "/too-late":
        return
    ws = await request.accept()
    await trio.sleep(30)
    try:
        while True:
            await ws.get_message()
    except ConnectionClosed:
        print("late server ends")


async def sockets(resource: str, connect_timeout: float) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, late, "127.0.0.1", 0, None, message_queue_size=0)
        server = await nursery.start(serve)
        url = f"ws://127.0.0.1:{server.port}{resource}"
        try:
            async with open_websocket_url(
                url, connect_timeout=connect_timeout, disconnect_timeout=10
            ) as ws:
                await ws.send_message("kept waiting")
                began = trio.current_time()
        except ConnectionTimeout:
            print("ConnectionTimeout")
        except DisconnectionTimeout:
            print("DisconnectionTimeout after", round(trio.current_time() - began))
        nursery.cancel_scope.cancel()


async def main() -> None:
    global START
    START = trio.current_time()
    await memory()
    await sockets("/too-late", connect_timeout=1)
    await sockets("/", connect_timeout=3)


START = 0.0
trio.run(main, clock=MockClock(autojump_threshold=0.01))
