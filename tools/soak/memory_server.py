"""A server whose memory `tools/soak_limits.py` reads. The path selects the behaviour."""

from __future__ import annotations

import socket
import sys

import trio

from trio_websocket import WebSocketRequest, WebSocketServer

MESSAGE_SIZE = 2**20
SOCKET_BUFFER = 2**16  # larger ones would take longer to fill


async def handle(request: WebSocketRequest) -> None:
    ws = await request.accept()
    if request.path == "/send":
        message = bytes(MESSAGE_SIZE)
        while True:
            await ws.send_message(message)
    while request.path == "/echo":
        await ws.send_message(await ws.get_message())
    await trio.sleep_forever()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # connections inherit it
            listener.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        server = WebSocketServer(handle, [listener])
        await nursery.start(server.run)
        print(server.port, flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)  # until the end of stdin
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
