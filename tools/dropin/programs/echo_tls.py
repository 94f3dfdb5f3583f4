"""An echo server and a client over TLS, with a new certificate authority."""

from __future__ import annotations

import ssl
from functools import partial

import trio
import trustme

from trio_websocket import (
    ConnectionClosed,
    Endpoint,
    WebSocketRequest,
    connect_websocket,
    open_websocket,
    open_websocket_url,
    serve_websocket,
)


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    assert isinstance(ws.local, Endpoint)
    print("server", ws.local.is_ssl, ws.local.url.startswith("wss://127.0.0.1:"))
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed as exc:
        print("ended with", exc.reason)


async def main() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, echo, "127.0.0.1", 0, server_context))
        print(server.listeners[0].is_ssl)
        for opened in (
            open_websocket("127.0.0.1", server.port, "/", use_ssl=context),
            open_websocket_url(f"wss://localhost:{server.port}/", context),
            open_websocket_url(f"wss://127.0.0.1:{server.port}/", ssl_context=context),
        ):
            async with opened as ws:
                assert isinstance(ws.remote, Endpoint)
                print("client", ws.remote.is_ssl)
                for message in ("hello", b"\x00" * 100_000, "x" * 100_000):
                    await ws.send_message(message)
                    print(await ws.get_message() == message)
                await ws.ping()
            print("closed", ws.closed)
        ws = await connect_websocket(nursery, "localhost", server.port, "/", use_ssl=context)
        await ws.send_message("own nursery")
        print(await ws.get_message())
        await ws.aclose()
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


trio.run(main)
