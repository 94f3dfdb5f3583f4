"""Pings and pongs."""

from __future__ import annotations

from functools import partial

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Pong, Request

from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    connect_websocket,
    open_websocket,
    serve_websocket,
)


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    await ws.ping()
    await ws.ping(b"from the server")
    print("server pinged")
    try:
        print("server got", await ws.get_message())
        await ws.get_message()
    except ConnectionClosed as exc:
        print("server ends with", exc.reason)


async def lazy_server(stream: trio.SocketStream) -> None:
    """Send a pong for a ping that was never sent, then answer only the last of three pings."""
    wire = WSConnection(ConnectionType.SERVER)
    pings = 0
    async for data in stream:
        wire.receive_data(bytes(data))
        for event in wire.events():
            if isinstance(event, Request):
                await stream.send_all(wire.send(AcceptConnection()))
                await stream.send_all(wire.send(Pong(b"unasked")))
            elif isinstance(event, Ping):
                pings += 1
                if pings == 3:
                    await stream.send_all(wire.send(Pong(bytes(event.payload))))
            elif isinstance(event, CloseConnection):
                await stream.send_all(wire.send(event.response()))
                return


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        async with open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as ws:
            await ws.ping()
            await ws.ping(b"payload")
            await ws.ping(payload=b"x" * 125)
            async with trio.open_nursery() as pings:
                for i in range(10):
                    pings.start_soon(ws.ping, b"%d" % i)
            await ws.pong()
            await ws.pong(b"unsolicited")
            await ws.send_message("done")
        for method in (ws.ping, ws.pong):
            try:
                await method()
            except ConnectionClosed as exc:
                print("closed", exc.reason)

        listeners = await nursery.start(partial(trio.serve_tcp, lazy_server, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        ws = await connect_websocket(nursery, "127.0.0.1", port, "/", use_ssl=False)
        with trio.fail_after(5):
            async with trio.open_nursery() as pings:
                pings.start_soon(ws.ping, b"1")
                await trio.sleep(0.05)
                pings.start_soon(ws.ping, b"2")
                await trio.sleep(0.05)
                try:
                    await ws.ping(b"1")
                except ValueError:
                    print("in flight")
                await ws.ping(b"3")
        print("the last pong answers all")
        await ws.aclose()
        nursery.cancel_scope.cancel()


trio.run(main)
