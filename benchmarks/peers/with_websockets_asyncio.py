"""The peer that uses websockets' API for asyncio."""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.connection import broadcast
from websockets.asyncio.server import ServerConnection, serve

from benchmarks import wire
from benchmarks.peers import websockets_sides
from benchmarks.task import HOST, Task


def main(task: Task) -> None:
    client = websockets_sides.Client
    asyncio.run(Server(task).run() if task.side == "server" else client(task, connect).run())


class Server(websockets_sides.Server):
    async def run(self) -> None:
        context = self.task.server_context()
        async with serve(self.handle, HOST, 0, ssl=context, **self.options) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()

    async def broadcast(self, ws: ServerConnection) -> None:
        (message,) = self.messages
        while True:
            await ws.recv()
            broadcast(self.connections, message)
            await ws.send(wire.DONE)
