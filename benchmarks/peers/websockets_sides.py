"""What both halves of websockets have: their settings, and calls of the same names."""

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

if TYPE_CHECKING:  # a process has one half only
    import websockets.asyncio.connection
    import websockets.trio.connection

    Connection = Union[
        websockets.asyncio.connection.Connection, websockets.trio.connection.Connection
    ]


def options(task: Task) -> dict[str, Any]:
    keywords: dict[str, Any] = {"compression": None, "max_size": MAX_SIZE, "ping_interval": None}
    if task.side == "client":
        keywords["proxy"] = None  # it would look for one in the environment each time
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
    """What both sides have."""

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
    """It serves until it is killed; `run` and `broadcast` are those of a half."""

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
    """One connection, or one after the other, by the `connect` of a half."""

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
