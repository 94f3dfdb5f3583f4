"""websockets, its half for asyncio."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection, broadcast
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tools.bench import wire
from tools.bench.peers.websockets_options import options
from tools.bench.task import HOST, Task


def main(task: Task) -> None:
    asyncio.run(Server(task).run() if task.side == "server" else Client(task).run())


class Side:
    """What both have."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.messages = task.messages()
        self.options = options(task)

    async def sink(self, ws: Connection) -> None:
        while True:
            for _ in range(self.task.batch):
                await ws.recv()
            await ws.send(wire.DONE)

    async def source(self, ws: Connection) -> None:
        (message,) = self.messages
        while True:
            await ws.send(message)


class Server(Side):
    """It serves until it is killed."""

    async def run(self) -> None:
        self.connections: set[ServerConnection] = set()
        context = self.task.server_context()
        async with serve(self.handle, HOST, 0, ssl=context, **self.options) as server:
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()

    async def handle(self, ws: ServerConnection) -> None:
        self.connections.add(ws)
        try:
            await getattr(self, self.task.work)(ws)
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(ws)

    async def echo(self, ws: ServerConnection) -> None:
        while True:
            await ws.send(await ws.recv())

    async def source(self, ws: Connection) -> None:
        await ws.recv()
        await super().source(ws)

    async def broadcast(self, ws: ServerConnection) -> None:
        (message,) = self.messages
        while True:
            await ws.recv()
            broadcast(self.connections, message)
            await ws.send(wire.DONE)


class Client(Side):
    """One connection, or one after the other."""

    async def run(self) -> None:
        if self.task.work == "connect":
            while True:
                async with self.open():
                    pass
        async with self.open() as ws:
            await getattr(self, self.task.work)(ws)

    def open(self) -> Any:
        context = self.task.client_context()
        return connect(self.task.url, ssl=context, **self.options)

    async def exchange(self, ws: Connection) -> None:
        if self.task.batch == 1:
            for message in itertools.cycle(self.messages):
                await ws.send(message)
                await ws.recv()
        (message,) = self.messages
        while True:
            for _ in range(self.task.batch):
                await ws.send(message)
            for _ in range(self.task.batch):
                await ws.recv()
