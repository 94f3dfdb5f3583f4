"""The server under test by Autobahn. It echoes every message."""

from __future__ import annotations

import argparse
import logging

import trio

from trio_websocket import (
    ConnectionClosed,
    PerMessageDeflate,
    WebSocketRequest,
    serve_websocket,
)

# The largest message of the suite, in group 9. All other limits have their defaults.
MAX_MESSAGE_SIZE = 16 * 2**20


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def main(port: int) -> None:
    await serve_websocket(
        echo,
        "127.0.0.1",
        port,
        ssl_context=None,
        max_message_size=MAX_MESSAGE_SIZE,
        compression=PerMessageDeflate(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--debug", action="store_true", help="log everything")
    args = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if args.debug else logging.WARNING)
    trio.run(main, args.port)
