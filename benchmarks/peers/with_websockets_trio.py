"""The peer that uses websockets' API for Trio."""

from __future__ import annotations

from typing import Any

import trio
from websockets.trio.client import connect
from websockets.trio.connection import broadcast
from websockets.trio.server import ServerConnection, serve

from benchmarks import wire
from benchmarks.peers import websockets_sides
from benchmarks.task import HOST, Task


def main(task: Task) -> None:
    client = websockets_sides.Client
    trio.run(Server(task).run if task.side == "server" else client(task, connect).run)


class Server(websockets_sides.Server):
    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(self.serve)
            print(server.listeners[0].socket.getsockname()[1], flush=True)

    async def serve(self, task_status: Any) -> None:
        context = self.task.server_context()
        await serve(self.handle, 0, host=HOST, ssl=context, task_status=task_status, **self.options)

    async def broadcast(self, ws: ServerConnection) -> None:
        (message,) = self.messages
        while True:
            await ws.recv()
            await broadcast(self.connections, message)
            await ws.send(wire.DONE)
