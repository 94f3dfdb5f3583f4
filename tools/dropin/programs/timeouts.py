"""connect_timeout and disconnect_timeout."""

from __future__ import annotations

import logging
from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketRequest,
    open_websocket,
    open_websocket_url,
    serve_websocket,
)

# A handler that returns without an answer is logged as an error now.
logging.getLogger("trio-websocket").setLevel(logging.CRITICAL)


async def slow(request: WebSocketRequest) -> None:
    print("server was asked for", request.path)
    if request.path == "/accept":
        await trio.sleep(0.5)
        return
    ws = await request.accept()
    await trio.sleep(0.6)
    try:
        while True:
            print("server got", await ws.get_message())
    except ConnectionClosed:
        print("server is done")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, slow, "127.0.0.1", 0, None)
        server = await nursery.start(partial(serve, message_queue_size=0))
        url = f"ws://127.0.0.1:{server.port}"

        try:
            async with open_websocket_url(url + "/accept", connect_timeout=0.1):
                print("not reached")
        except HandshakeError as exc:
            print("opening", isinstance(exc, ConnectionTimeout))

        try:
            async with open_websocket(
                "127.0.0.1", server.port, "/slow", use_ssl=False, disconnect_timeout=0.2
            ) as ws:
                await ws.send_message("one")
                await ws.send_message("two")
                print("body ends")
        except HandshakeError as exc:
            print("closing", isinstance(exc, DisconnectionTimeout))
        print("closed", ws.closed is not None)
        await trio.sleep(0.6)

        with trio.move_on_after(0.2) as scope:
            async with open_websocket_url(url + "/accept"):
                print("not reached")
        print("cancelled", scope.cancelled_caught)

        with trio.fail_after(5):
            async with open_websocket_url(url + "/slow", disconnect_timeout=10) as ws:
                await ws.send_message("three")
        print("in time", ws.closed)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websocket, slow, "127.0.0.1", 0, None, connect_timeout=0.2)
        server = await nursery.start(serve)
        silent = await trio.open_tcp_stream("127.0.0.1", server.port)
        with trio.fail_after(5):
            print("end of stream", await silent.receive_some() == b"")
        await silent.aclose()
        print("server lives", server.port > 0)
        nursery.cancel_scope.cancel()


trio.run(main)
