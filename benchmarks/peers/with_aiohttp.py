"""The peer that uses aiohttp."""

from __future__ import annotations

import asyncio
import itertools
from typing import Union

import aiohttp
from aiohttp import web

from benchmarks import wire
from benchmarks.task import HOST, MAX_SIZE, Task

Connection = Union[web.WebSocketResponse, aiohttp.ClientWebSocketResponse]


def main(task: Task) -> None:
    asyncio.run(Server(task).run() if task.side == "server" else Client(task).run())


async def send(ws: Connection, message: str | bytes) -> None:
    if isinstance(message, str):
        await ws.send_str(message)
    else:
        await ws.send_bytes(message)


class Side:
    """The common part of client and server."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.messages = task.messages()

    async def sink(self, ws: Connection) -> None:
        count = 0
        async for _ in ws:
            count += 1
            if count == self.task.batch:
                count = 0
                await ws.send_bytes(wire.DONE)

    async def source(self, ws: Connection) -> None:
        (message,) = self.messages
        assert isinstance(message, bytes)
        while True:
            await ws.send_bytes(message)


class Server(Side):
    """A server that runs until it is killed."""

    async def run(self) -> None:
        self.connections: set[web.WebSocketResponse] = set()
        app = web.Application()
        app.router.add_get("/", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0, ssl_context=self.task.server_context()).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=self.task.deflate, max_msg_size=MAX_SIZE)
        await ws.prepare(request)
        self.connections.add(ws)
        try:
            await getattr(self, self.task.work)(ws)
        except ConnectionError:
            pass
        finally:
            self.connections.discard(ws)
        return ws

    async def echo(self, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            else:
                await ws.send_bytes(message.data)

    async def source(self, ws: Connection) -> None:
        await ws.receive()
        await super().source(ws)

    async def broadcast(self, ws: web.WebSocketResponse) -> None:
        (data,) = self.messages
        assert isinstance(data, bytes)
        async for _ in ws:
            for each in self.connections:
                await each.send_bytes(data)
            await ws.send_bytes(wire.DONE)


class Client(Side):
    """A client with one connection, or one after another."""

    async def run(self) -> None:
        context = self.task.client_context()
        bits = wire.WINDOW_BITS if self.task.deflate else 0
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.ws_connect(
                    self.task.url, ssl=context or True, compress=bits, max_msg_size=MAX_SIZE
                ) as ws:
                    if self.task.work != "connect":
                        await getattr(self, self.task.work)(ws)

    async def exchange(self, ws: Connection) -> None:
        if self.task.batch == 1:
            for message in itertools.cycle(self.messages):
                await send(ws, message)
                await ws.receive()
        (message,) = self.messages
        while True:
            for _ in range(self.task.batch):
                await send(ws, message)
            for _ in range(self.task.batch):
                await ws.receive()
