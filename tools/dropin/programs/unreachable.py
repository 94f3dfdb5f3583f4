"""Unreachable servers: the exceptions that old and new programs catch."""

from __future__ import annotations

import socket
from functools import partial

import trio

from trio_websocket import (
    HandshakeError,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
)


async def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        url = f"ws://127.0.0.1:{port}/"
        for opened in (
            open_websocket("127.0.0.1", port, "/", use_ssl=False),
            open_websocket("127.0.0.1", port, "/", use_ssl=True),
            open_websocket_url(url),
            open_websocket_url(url.replace("ws:", "wss:")),
            open_websocket_url("ws://no-such-host.invalid/"),
        ):
            try:
                async with opened:
                    print("not reached")
            except HandshakeError as exc:
                print("HandshakeError", isinstance(exc.__cause__, OSError))
        async with trio.open_nursery() as nursery:
            for connect in (
                partial(connect_websocket, nursery, "127.0.0.1", port, "/", use_ssl=False),
                partial(connect_websocket_url, nursery, url),
            ):
                try:
                    await connect()
                except OSError:
                    print("OSError")
            print("tasks left", len(nursery.child_tasks))


trio.run(main)
