"""The peer that uses trio-websocket: this tree or 0.12.2, with the same calls."""

from __future__ import annotations

import itertools
from typing import Any

import trio

import trio_websocket
from benchmarks import wire
from benchmarks.task import HOST, MAX_SIZE, Task
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest

TIMEOUT = 0.1  # seconds that a broadcast waits for clients that don't read


def main(task: Task) -> None:
    trio.run(Server(task).run if task.side == "server" else Client(task).run)


class Side:
    """The common part of client and server."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.messages = task.messages()
        self.options: dict[str, Any] = {"max_message_size": MAX_SIZE}
        if task.deflate:
            self.options["compression"] = trio_websocket.PerMessageDeflate(
                window_bits=wire.WINDOW_BITS, level=wire.LEVEL, mem_level=wire.MEM_LEVEL
            )

    async def sink(self, ws: WebSocketConnection) -> None:
        while True:
            for _ in range(self.task.batch):
                await ws.get_message()
            await ws.send_message(wire.DONE)

    async def source(self, ws: WebSocketConnection) -> None:
        (message,) = self.messages
        while True:
            await ws.send_message(message)


class Server(Side):
    """A server that runs until it is killed."""

    async def run(self) -> None:
        self.server: Any = None
        self.connections: set[WebSocketConnection] = set()
        async with trio.open_nursery() as nursery:
            self.server = await nursery.start(self.serve)
            print(self.server.port, flush=True)

    async def serve(self, task_status: Any) -> None:
        await trio_websocket.serve_websocket(
            self.handle,
            HOST,
            0,
            self.task.server_context(),
            task_status=task_status,
            **self.options,
        )

    async def handle(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        self.connections.add(ws)
        try:
            await getattr(self, self.task.work)(ws)
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(ws)

    async def echo(self, ws: WebSocketConnection) -> None:
        while True:
            await ws.send_message(await ws.get_message())

    async def source(self, ws: WebSocketConnection) -> None:
        await ws.get_message()
        await super().source(ws)

    async def broadcast(self, ws: WebSocketConnection) -> None:
        (message,) = self.messages
        while True:
            await ws.get_message()
            if hasattr(trio_websocket, "broadcast"):
                await trio_websocket.broadcast(self.server.connections, message, timeout=TIMEOUT)
            else:
                async with trio.open_nursery() as nursery:
                    for each in self.connections:
                        nursery.start_soon(each.send_message, message)
            await ws.send_message(wire.DONE)


class Client(Side):
    """A client with one connection, or one after another."""

    async def run(self) -> None:
        if self.task.work == "connect":
            while True:
                async with self.open():
                    pass
        async with self.open() as ws:
            await getattr(self, self.task.work)(ws)

    def open(self) -> Any:
        context = self.task.client_context()
        return trio_websocket.open_websocket_url(self.task.url, context, **self.options)

    async def exchange(self, ws: WebSocketConnection) -> None:
        if self.task.batch == 1:
            for message in itertools.cycle(self.messages):
                await ws.send_message(message)
                await ws.get_message()
        (message,) = self.messages
        while True:
            for _ in range(self.task.batch):
                await ws.send_message(message)
            for _ in range(self.task.batch):
                await ws.get_message()
