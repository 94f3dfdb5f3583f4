"""Measure the parts of sending a small message, in one process: `python -m benchmarks.profile`.

The parts show the lower bounds. An async function costs at least as much as an empty one, a call
that can be cancelled at least a check for cancellation, and a write at least a system call.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Awaitable, Callable

import trio

import trio_websocket

BURST = 64  # messages
REPEATS = 300
MESSAGE = bytes(32)
FRAME = bytes(1028)  # 1 KiB and the head of a server's frame


class Shortest:
    """The shortest times of each part, in microseconds."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}

    def note(self, part: str, seconds: float) -> None:
        micros = seconds / BURST * 1e6
        self._times[part] = min(micros, self._times.get(part, micros))

    async def time(
        self, part: str, function: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        begin = time.perf_counter()
        for _ in range(BURST):
            await function(*args)
        self.note(part, time.perf_counter() - begin)

    def show(self) -> None:
        for part, micros in self._times.items():
            print(f"| {part} | {micros:.2f} |")


async def nothing() -> None:
    pass


async def echo(request: trio_websocket.WebSocketRequest) -> None:
    ws = await request.accept()
    while True:
        await ws.send_message(await ws.get_message())


async def time_ours(shortest: Shortest) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, echo, "127.0.0.1", 0, None)
        async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{server.port}/") as ws:
            for _ in range(REPEATS):
                await shortest.time("an async function that does nothing", nothing)
                await shortest.time(
                    "`checkpoint_if_cancelled`", trio.lowlevel.checkpoint_if_cancelled
                )
                await shortest.time("a turn of the scheduler", trio.lowlevel.checkpoint)
                await shortest.time("`send_message`, 64 in a row", ws.send_message, MESSAGE)
                while ws.statistics().messages_received < ws.statistics().messages_sent - BURST + 1:
                    await ws.get_message()
                await ws.get_message()  # this call also decodes the rest of the burst
                waiting = ws.statistics().messages_unread
                if waiting >= BURST // 2:
                    begin = time.perf_counter()
                    for _ in range(waiting):
                        await ws.get_message()
                    took = time.perf_counter() - begin
                    shortest.note("`get_message`, of those that are here", took / waiting * BURST)
                while ws.statistics().messages_received < ws.statistics().messages_sent:
                    await ws.get_message()
                while ws.statistics().messages_unread:
                    await ws.get_message()
        nursery.cancel_scope.cancel()


def time_system(shortest: Shortest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(BURST):
            os.write(ours.fileno(), FRAME)
        shortest.note(
            "the system's write of 1 KiB to a TCP socket that nobody waits for",
            time.perf_counter() - begin,
        )
        received = 0
        while received < BURST * len(FRAME):
            received += len(theirs.recv(2**20))
    ours.close()
    theirs.close()


def main() -> None:
    shortest = Shortest()
    trio.run(time_ours, shortest)
    time_system(shortest)
    print("| part | µs |\n|---|---:|")
    shortest.show()


if __name__ == "__main__":
    main()
