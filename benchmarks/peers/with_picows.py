"""The peer that uses picows, on uvloop, with its callback API."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvloop
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

from benchmarks import wire
from benchmarks.task import HOST, MAX_SIZE, Task


def main(task: Task) -> None:
    logging.getLogger("picows").setLevel(logging.ERROR)  # it logs a warning for each pause
    coroutine = serve(task) if task.side == "server" else be_client(task)
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(coroutine)
    else:
        uvloop.install()
        asyncio.run(coroutine)


async def serve(task: Task) -> None:
    connections: set[WSTransport] = set()

    def make(request: WSUpgradeRequest) -> Listener:  # noqa: ARG001 # its signature
        listener: Listener = LISTENERS[task.work](task, connections)
        return listener

    server = await ws_create_server(
        make, HOST, 0, ssl=task.server_context(), max_frame_size=MAX_SIZE
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def be_client(task: Task) -> None:
    while True:
        transport, _ = await ws_connect(
            lambda: LISTENERS[task.work](task, set()),
            task.url,
            ssl_context=task.client_context(),
            max_frame_size=MAX_SIZE,
        )
        if task.work == "connect":
            transport.send_close(WSCloseCode.OK)
        await transport.wait_disconnected()


class Listener(WSListener):  # type: ignore[misc] # no types if picows is not installed
    """The common part of all listeners: close when the peer closes."""

    def __init__(self, task: Task, connections: set[WSTransport]) -> None:
        self.task = task
        self.connections = connections
        (self.message,) = task.messages()
        self.type = WSMsgType.TEXT if isinstance(self.message, str) else WSMsgType.BINARY
        self.data = self.message.encode() if isinstance(self.message, str) else self.message
        self.count = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.connections.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.connections.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            if not transport.is_close_frame_sent:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            self.on_message(transport, frame)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        raise NotImplementedError

    def take(self, frame: WSFrame) -> str | bytes:
        """Return the message in the type that an application uses."""
        if frame.msg_type == WSMsgType.TEXT:
            text: str = frame.get_payload_as_utf8_text()
            return text
        data: bytes = frame.get_payload_as_bytes()
        return data


class Echo(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        message = self.take(frame)
        transport.send(frame.msg_type, message.encode() if isinstance(message, str) else message)


class Exchange(Listener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        self.send(transport)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        self.take(frame)
        self.count += 1
        if self.count == self.task.batch:
            self.count = 0
            self.send(transport)

    def send(self, transport: WSTransport) -> None:
        for _ in range(self.task.batch):
            message = self.message
            transport.send(self.type, message.encode() if isinstance(message, str) else message)


class Sink(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        self.take(frame)
        self.count += 1
        if self.count == self.task.batch:
            self.count = 0
            transport.send(WSMsgType.BINARY, wire.DONE)


class Source(Listener):
    """A listener that writes until the transport is paused."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.may_write = asyncio.Event()
        self.may_write.set()
        if self.task.side == "client":
            self.start(transport)

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        self.take(frame)
        self.start(transport)

    def start(self, transport: WSTransport) -> None:
        self.writer = asyncio.get_running_loop().create_task(self.write(transport))

    async def write(self, transport: WSTransport) -> None:
        while not transport.is_disconnected:
            await self.may_write.wait()
            transport.send(self.type, self.data)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()


class Broadcast(Listener):
    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        self.take(frame)
        for each in self.connections:
            each.send(self.type, self.data)
        transport.send(WSMsgType.BINARY, wire.DONE)


class Idle(Listener):
    """A listener for connections that are closed right after they are opened."""

    def on_message(self, transport: WSTransport, frame: WSFrame) -> None:
        pass


LISTENERS: dict[str, Any] = {
    "echo": Echo,
    "exchange": Exchange,
    "sink": Sink,
    "source": Source,
    "broadcast": Broadcast,
    "connect": Idle,
}
