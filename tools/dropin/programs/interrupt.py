"""Control-C in a server, and in a client."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any, Awaitable, Callable, Iterator

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
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
        await ws.get_message()
    except ConnectionClosed:
        print("server handler ends")


async def interrupt() -> None:
    await trio.sleep(0.2)
    trio.lowlevel.current_trio_token().run_sync_soon(signal.raise_signal, signal.SIGINT)


async def in_server() -> None:
    trio.lowlevel.spawn_system_task(interrupt)
    await serve_websocket(handler, "127.0.0.1", 0, None)


async def in_client() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        async with open_websocket_url(f"ws://127.0.0.1:{server.port}/") as ws:
            trio.lowlevel.spawn_system_task(interrupt)
            await ws.get_message()


def run(main: Callable[[], Awaitable[Any]]) -> None:
    try:
        trio.run(main)
    except BaseException as exc:
        print(main.__name__, [type(e).__name__ for e in leaves(exc)])


signal.signal(signal.SIGINT, signal.default_int_handler)
run(in_server)
run(in_client)
