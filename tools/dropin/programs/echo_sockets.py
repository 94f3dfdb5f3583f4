"""An echo server and a client over TCP."""

from __future__ import annotations

from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    Endpoint,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket,
    open_websocket_url,
    serve_websocket,
)

MESSAGES: list[str | bytes] = [
    "hello",
    "",
    "naïve ☃ \U0001f600",
    b"",
    b"\x00\xff" * 3,
    "x" * 70_000,
    b"y" * 70_000,
]


async def echo(request: WebSocketRequest) -> None:
    print("request", request.path, request.proposed_subprotocols)
    assert isinstance(request.remote, Endpoint)
    ws = await request.accept()
    print("server", ws.path, ws.is_client, ws.is_server, ws.subprotocol, ws.closed)
    print("same peer", repr(ws.remote) == repr(request.remote), request.remote.address)
    while True:
        try:
            await ws.send_message(await ws.get_message())
        except ConnectionClosed as exc:
            print("ended with", exc.reason, ws.closed)
            break


async def talk(ws: WebSocketConnection, port: int) -> None:
    print("client", ws.path, ws.is_client, ws.is_server, ws.subprotocol, ws.closed)
    assert isinstance(ws.local, Endpoint)
    assert isinstance(ws.remote, Endpoint)
    print(ws.local.url.startswith("ws://127.0.0.1:"), ws.remote.url == f"ws://127.0.0.1:{port}")
    print(ws.remote.port == port, ws.local.port != port, ws.remote.is_ssl)
    for message in MESSAGES:
        await ws.send_message(message)
        answer = await ws.get_message()
        print(type(answer).__name__, len(answer), answer == message)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, None))
        port = server.port
        async with open_websocket("127.0.0.1", port, "/chat?room=1", use_ssl=False) as ws:
            await talk(ws, port)
        print("closed", ws.closed)
        async with open_websocket_url(f"ws://127.0.0.1:{port}") as ws:
            await talk(ws, port)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


trio.run(main)
