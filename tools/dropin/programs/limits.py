"""max_message_size, message_queue_size and receive_buffer_size."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


def code_of(exc: ConnectionClosed) -> str:
    assert exc.reason is not None
    return f"{exc.reason.code:d} {exc.reason.name}"


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        if request.path == "/burst":
            for i in range(50):
                await ws.send_message(str(i))
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed as exc:
        print("server ends with", code_of(exc))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, handler, "127.0.0.1", 0, None)
        small = await nursery.start(partial(serve, max_message_size=100))
        url = f"ws://127.0.0.1:{small.port}"
        for message in ("x" * 100, b"x" * 100, "x" * 101, b"x" * 5000):
            async with open_websocket_url(url) as ws:
                await ws.send_message(message)
                try:
                    print("client got", len(await ws.get_message()))
                except ConnectionClosed as exc:
                    print("client sees", code_of(exc))
            await trio.sleep(0.05)

        choices: list[dict[str, Any]] = [
            {},
            {"message_queue_size": 0},
            {"message_queue_size": 10},
            {"message_queue_size": math.inf},
            {"max_message_size": math.inf},
            {"receive_buffer_size": None},
            {"receive_buffer_size": 1},
            {"receive_buffer_size": 2**20},
        ]
        for options in choices:
            server = await nursery.start(partial(serve, **options))
            url = f"ws://127.0.0.1:{server.port}"
            async with open_websocket_url(url, **options) as ws:
                for size in (10, 20_000):
                    await ws.send_message("x" * size)
                    print("client", options, len(await ws.get_message()))
                await ws.ping()
            async with open_websocket_url(url + "/burst", **options) as ws:
                await trio.sleep(0.1)
                numbers = [int(await ws.get_message()) for _ in range(50)]
                print("burst", numbers == list(range(50)))
            await trio.sleep(0.05)

        server = await nursery.start(partial(serve, max_message_size=math.inf))
        url = f"ws://127.0.0.1:{server.port}"
        for limit in (99, 2**21, math.inf):
            any_limit: Any = limit
            async with open_websocket_url(url, max_message_size=any_limit) as ws:
                await ws.send_message(b"x" * 2**21)
                try:
                    print("big", len(await ws.get_message()))
                except ConnectionClosed as exc:
                    print("big", code_of(exc), ws.closed == exc.reason)
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


trio.run(main)
