"""The common part of the peers that use websockets' APIs for asyncio and Trio."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Union

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from benchmarks import wire
from benchmarks.task import MAX_SIZE, Task

if TYPE_CHECKING:  # a process uses one API only
    import websockets.asyncio.connection
    import websockets.trio.connection

    Connection = Union[
        websockets.asyncio.connection.Connection, websockets.trio.connection.Connection
    ]


def options(task: Task) -> dict[str, Any]:
    keywords: dict[str, Any] = {"compression": None, "max_size": MAX_SIZE, "ping_interval": None}
    if task.side == "client":
        keywords["proxy"] = None  # otherwise it searches the environment each time
    if task.deflate:
        factory: Any = ServerPerMessageDeflateFactory
        if task.side == "client":
            factory = ClientPerMessageDeflateFactory
        deflate = factory(
            server_max_window_bits=wire.WINDOW_BITS,
            client_max_window_bits=wire.WINDOW_BITS,
            compress_settings={"level": wire.LEVEL, "memLevel": wire.MEM_LEVEL},
        )
        keywords["extensions"] = [deflate]
    return keywords


class Side:
    """The common part of client and server."""

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
    """A server that runs until it is killed. A subclass defines `run` and `broadcast`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.connections: set[Any] = set()

    async def handle(self, ws: Connection) -> None:
        self.connections.add(ws)
        try:
            await getattr(self, self.task.work)(ws)
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(ws)

    async def echo(self, ws: Connection) -> None:
        while True:
            await ws.send(await ws.recv())

    async def source(self, ws: Connection) -> None:
        await ws.recv()
        await super().source(ws)


class Client(Side):
    """A client with one connection, or one after another. A subclass defines `connect`."""

    def __init__(self, task: Task, connect: Any) -> None:
        super().__init__(task)
        self.connect = connect
        self.context = task.client_context()

    async def run(self) -> None:
        if self.task.work == "connect":
            while True:
                async with self.open():
                    pass
        async with self.open() as ws:
            await getattr(self, self.task.work)(ws)

    def open(self) -> Any:
        return self.connect(self.task.url, ssl=self.context, **self.options)

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
