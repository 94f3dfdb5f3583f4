"""The peer that uses Trio's streams without WebSocket: it copies bytes and does not parse them."""

from __future__ import annotations

import functools

import trio

from benchmarks import wire
from benchmarks.task import HOST, Task
from support.frames import BINARY

CHUNK = 2**16


def main(task: Task) -> None:
    trio.run(serve if task.side == "server" else be_client, task)


async def serve(task: Task) -> None:
    context = task.server_context()
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    print(listeners[0].socket.getsockname()[1], flush=True)
    handler = functools.partial(WORKS[task.work], task)
    if context is None:
        await trio.serve_listeners(handler, listeners)
    else:
        secure = [trio.SSLListener(each, context, https_compatible=True) for each in listeners]
        await trio.serve_listeners(handler, secure)


async def be_client(task: Task) -> None:
    if task.work == "connect":
        while True:
            await (await connect(task)).aclose()
    if task.work == "visit":
        while True:
            async with await connect(task) as stream:
                await stream.receive_some(CHUNK)
    stream = await connect(task)
    await WORKS[task.work](task, stream)


async def connect(task: Task) -> trio.abc.Stream:
    context = task.client_context()
    if context is None:
        return await trio.open_tcp_stream(HOST, task.port)
    return await trio.open_ssl_over_tcp_stream(
        HOST, task.port, ssl_context=context, https_compatible=True
    )


async def echo(task: Task, stream: trio.abc.Stream) -> None:  # noqa: ARG001 # signature of a work
    while data := await stream.receive_some(CHUNK):
        await stream.send_all(data)


async def exchange(task: Task, stream: trio.abc.Stream) -> None:
    sent, received = (
        task.batch * wire.frame_size(task.size, masked=masked) for masked in (True, False)
    )
    data = bytes(sent)
    while True:
        await stream.send_all(data)
        await receive(stream, received)


async def sink(task: Task, stream: trio.abc.Stream) -> None:
    is_server = task.side == "server"
    expected = task.batch * wire.frame_size(task.size, masked=is_server)
    answer = wire.frame(wire.DONE, BINARY, masked=not is_server)
    while True:
        await receive(stream, expected)
        await stream.send_all(answer)


async def receive(stream: trio.abc.Stream, size: int) -> None:
    while size:
        data = await stream.receive_some(min(size, CHUNK))
        if not data:
            raise trio.BrokenResourceError
        size -= len(data)


async def source(task: Task, stream: trio.abc.Stream) -> None:
    is_server = task.side == "server"
    if is_server:
        await stream.receive_some(CHUNK)
    data = bytes(wire.frame_size(task.size, masked=not is_server))
    while True:
        await stream.send_all(data)


WORKS = {"echo": echo, "exchange": exchange, "sink": sink, "source": source}
