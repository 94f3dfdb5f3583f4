"""WebSocketServer: listeners, port, run."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import trio
import trustme
from trio.testing import memory_stream_pair

from trio_websocket import (
    ConnectionClosed,
    Endpoint,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    serve_websocket,
    wrap_client_stream,
)


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener for streams that aren't sockets."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[trio.abc.Stream](0)

    async def connect(self) -> trio.abc.Stream:
        client, server = memory_stream_pair()
        await self.send.send(server)
        return client

    async def accept(self) -> trio.abc.Stream:
        return await self.receive.receive()

    async def aclose(self) -> None:
        self.receive.close()


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


def show(server: WebSocketServer) -> None:
    for listener in server.listeners:
        if isinstance(listener, Endpoint):
            print(repr(listener).replace(str(listener.port), "PORT"), listener.url.split(":")[0])
        else:
            print(type(listener).__name__, "MemoryListener" in listener)
    try:
        print("port", server.port > 0)
    except RuntimeError:
        print("no port")


async def one(*args: Any, **kwargs: Any) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, *args, **kwargs))
        print(type(server).__name__)
        show(server)
        nursery.cancel_scope.cancel()


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    await one(echo, "127.0.0.1", 0, None)
    await one(echo, "127.0.0.1", 0, ssl_context=context)
    await one(handler=echo, host="::1", port=0, ssl_context=None)
    try:
        WebSocketServer(echo, [])
    except ValueError:
        print("no listeners")

    tcp = [(await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(2)]
    tls = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    show(WebSocketServer(echo, tcp))
    show(WebSocketServer(echo, tcp[:1]))
    show(WebSocketServer(echo, tls))
    memory = MemoryListener()
    kinds: Any = [memory]
    show(WebSocketServer(echo, kinds))
    kinds = [tcp[0], *tls, memory]
    show(WebSocketServer(echo, kinds))
    await tls[0].aclose()
    async with trio.open_nursery() as nursery:
        kinds = [*tcp, memory]
        server = WebSocketServer(echo, kinds, connect_timeout=10, disconnect_timeout=10)
        started = await nursery.start(server.run)
        print("same", started is server)
        for listener in started.listeners[:2]:
            async with open_websocket("127.0.0.1", listener.port, "/", use_ssl=False) as ws:
                await ws.send_message("tcp")
                print(await ws.get_message())
        stream: Any = await memory.connect()
        ws = await wrap_client_stream(nursery, stream, "localhost", "/")
        await ws.send_message("memory")
        print(await ws.get_message())
        await ws.aclose()
        nursery.cancel_scope.cancel()
    print("cancelled", [listener.socket.fileno() for listener in tcp])


trio.run(main)
