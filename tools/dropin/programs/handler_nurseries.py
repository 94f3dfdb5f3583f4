"""Handlers that run in the application's nursery."""

from __future__ import annotations

from functools import partial
from typing import Iterator

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
)


def leaves(exc: BaseException) -> Iterator[BaseException]:
    for part in getattr(exc, "exceptions", ()):
        yield from leaves(part)
    if not hasattr(exc, "exceptions"):
        yield exc


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            message = await ws.get_message()
            if message == "fail":
                raise LookupError("in the handler")
            await ws.send_message(message)
    except trio.Cancelled:
        print("handler was cancelled")
        raise
    except ConnectionClosed:
        print("handler ends")


async def main() -> None:
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as handlers:
            server = await outer.start(
                partial(serve_websocket, handler, "127.0.0.1", 0, None, handler_nursery=handlers)
            )
            url = f"ws://127.0.0.1:{server.port}"
            async with open_websocket_url(url) as ws:
                await ws.send_message("hello")
                print(await ws.get_message(), "tasks", len(handlers.child_tasks))
            await trio.sleep(0.1)
            print("tasks", len(handlers.child_tasks))
            ws = await connect_websocket_url(outer, url)
            handlers.cancel_scope.cancel()
        print("cancelled", handlers.cancel_scope.cancelled_caught)
        try:
            await ws.get_message()
        except ConnectionClosed:
            print("client sees the end")
        await ws.aclose()
        outer.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as handlers, trio.open_nursery() as servers:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            made = WebSocketServer(handler, listeners, handler_nursery=handlers)
            server = await servers.start(made.run)
            print("same server", server is made)
            try:
                async with open_websocket_url(f"ws://127.0.0.1:{server.port}") as ws:
                    await ws.send_message("fail")
                    await ws.get_message()
            except ConnectionClosed:
                print("client is told")
            await trio.sleep(5)
            print("not reached")
    except BaseException as exc:
        print("out of the handlers' nursery", [repr(e) for e in leaves(exc)])


trio.run(main)
