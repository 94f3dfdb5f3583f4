"""Valid and invalid URLs and arguments."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import trio

from trio_websocket import (
    WebSocketRequest,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    serve_websocket,
)


class Url:
    """An object whose str() is the URL, like yarl.URL."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


async def handler(request: WebSocketRequest) -> None:
    print("server", request.path)
    await request.accept()


PATHS = ["", "/", "/a/b", "/?", "/a?b=c&d=%20e", "?q", "/%D7%90?%D7%9D", "//x", "/a;b=c"]
BAD = ["http://host/", "host", "", "ws:", "ws://", "wss:///path", "ws://host:port/", "//host/"]


async def good(nursery: trio.Nursery, port: int) -> None:
    for path in PATHS:
        async with open_websocket_url(f"ws://127.0.0.1:{port}{path}") as ws:
            print("client", ws.path)
        await trio.sleep(0.01)
    url: Any = Url(f"ws://127.0.0.1:{port}/object")
    async with open_websocket_url(url) as ws:
        print("client", ws.path)
    async with await connect_websocket_url(nursery, url) as ws:
        print("client", ws.path)
    async with open_websocket_url(f"WS://LOCALHOST:{port}/case") as ws:
        print("client", ws.path)


async def bad(nursery: trio.Nursery) -> None:
    for text in BAD:
        try:
            open_websocket_url(text)
        except ValueError:
            print("bad", repr(text))
        try:
            await connect_websocket_url(nursery, text)
        except ValueError:
            print("bad", repr(text))
    try:
        open_websocket_url("ws://host/", ssl.create_default_context())
    except ValueError:
        print("ws with an ssl context")


async def wrong_types(nursery: trio.Nursery, port: int) -> None:
    wrong: list[Any] = [None, 1, "yes"]
    for use_ssl in wrong:
        try:
            async with open_websocket("127.0.0.1", port, "/", use_ssl=use_ssl):
                pass
        except TypeError:
            print("use_ssl", use_ssl)
        try:
            await connect_websocket(nursery, "127.0.0.1", port, "/", use_ssl=use_ssl)
        except TypeError:
            print("use_ssl", use_ssl)
    without_use_ssl: Any = open_websocket
    try:
        without_use_ssl("127.0.0.1", port, "/")
    except TypeError:
        print("use_ssl is required")
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as ws:
        messages: list[Any] = [None, 1, {"a": "b"}]
        for message in messages:
            try:
                await ws.send_message(message)
            except ValueError:
                print("message", repr(message))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_websocket, handler, "localhost", 0, None))
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        await good(nursery, server.port)
        await bad(nursery)
        await wrong_types(nursery, server.port)
        nursery.cancel_scope.cancel()


trio.run(main)
