"""The server of the soak: its handlers, and the measurement of its event loop."""

from __future__ import annotations

import collections
import contextlib
import gc
import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Counter
from urllib.parse import parse_qsl

import trio

from tools.soak.side import HOST, SOCKET_BUFFER, Cancelled, Incoming, Outgoing, Side
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, WebSocketServer


class Steps(trio.abc.Instrument):
    """Measure the longest step of a task, and the longest turn of all ready tasks.

    These times include the garbage collector, which is also measured separately.
    """

    def __init__(self) -> None:
        self._collected = 0.0  # CPU seconds of the garbage collector in the current step
        self.reset()
        gc.callbacks.append(self._on_collection)

    def reset(self) -> None:
        self.longest: dict[str, float] = collections.defaultdict(float)
        self.counts: Counter[str] = collections.Counter()
        self.culprit = ""
        self._turn = self._step = _times()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection = _times()
            return
        wall, cpu = _since(self._collection)
        self._collected += cpu
        self._note("collection", wall, cpu)
        self.counts["collected objects"] += info["collected"]

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._collected = 0.0
        self._step = _times()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        wall, cpu = _since(self._step)
        if cpu > self.longest["step, CPU"]:
            self.culprit = task.name
        self._note("step", wall, cpu)
        self._note("step without the collector", wall, cpu - self._collected)

    def after_io_wait(self, timeout: float) -> None:
        del timeout
        self._turn = _times()

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self._note("turn", *_since(self._turn))

    def _note(self, what: str, wall: float, cpu: float) -> None:
        self.counts[what] += 1
        self.longest[f"{what}, time"] = max(wall, self.longest[f"{what}, time"])
        self.longest[f"{what}, CPU"] = max(cpu, self.longest[f"{what}, CPU"])

    def report(self) -> dict[str, Any]:
        return {"longest": self.longest, "counts": self.counts, "culprit": self.culprit}


def _times() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def _since(times: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - times[0], time.thread_time() - times[1]


class HandlerFault(Exception):
    """The exception that handlers raise on purpose."""


class Unread(Exception):
    """The peer does not read."""


class Server(Side):
    """The handlers. The path of a request names its handler and contains its parameters."""

    def __init__(self, seed: str, timeout: float) -> None:
        super().__init__(seed, timeout)
        self.open = 0
        self.opened = 0  # in total
        self.most = 0
        self.bytes = 0

    async def handle(self, request: WebSocketRequest) -> None:
        name, _, query = request.path[1:].partition("?")
        values = dict(parse_qsl(query, keep_blank_values=True))
        self.open += 1
        self.opened += 1
        self.most = max(self.most, self.open)
        try:
            await getattr(self, f"serve_{name}")(request, values)
        except Unread:
            self.counts[f"gave up a peer that does not read: {name}"] += 1
        finally:
            self.open -= 1

    def on_error(self, request: WebSocketRequest, exc: Exception) -> None:
        if not isinstance(exc, HandlerFault):
            self.violate(f"server, {request.path:.20}", exc)

    async def receive(self, ws: WebSocketConnection, incoming: Incoming) -> str | bytes:
        while True:
            try:
                message = await self.attempt("get", self.rng, ws.get_message)
            except Cancelled:
                continue
            incoming.check(message)
            self.count_message(message)
            return message

    def count_message(self, message: str | bytes) -> None:
        self.counts["message"] += 1
        self.bytes += len(message)  # for text, the number of characters is close enough

    async def send(self, ws: WebSocketConnection, message: str | bytes) -> None:
        with trio.move_on_after(4 * self.timeout):
            await ws.send_message(message)
            self.count_message(message)
            return
        raise Unread

    async def serve_echo(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        ws = await request.accept()
        incoming = Incoming(int(values["id"]))
        while True:
            await self.send(ws, await self.receive(ws, incoming))

    async def serve_slow(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        await trio.sleep(self.rng.random() * self.timeout / 4)
        ws = await request.accept()
        incoming = Incoming(int(values["id"]))
        while True:
            message = await self.receive(ws, incoming)
            if self.rng.random() < 0.3:
                await trio.sleep(self.rng.expovariate(10))
            await self.send(ws, message)

    async def serve_relay(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """One task receives, another sends."""
        ws = await request.accept()
        incoming = Incoming(int(values["id"]))
        writing, reading = trio.open_memory_channel[Any](4)

        async def send() -> None:
            with contextlib.suppress(ConnectionClosed):
                async with reading:
                    async for message in reading:
                        await self.send(ws, message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with contextlib.suppress(ConnectionClosed, trio.BrokenResourceError):
                async with writing:
                    while True:
                        await writing.send(await self.receive(ws, incoming))

    async def serve_push(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """Send messages, and close."""
        ws = await request.accept()
        outgoing = Outgoing(int(values["id"]), self.rng)
        for _ in range(int(values["number"])):
            message = outgoing.next()
            with contextlib.suppress(Cancelled):
                await self.attempt("send", self.rng, self.send, ws, message)
                outgoing.promised += 1
            if "quick" not in values and self.rng.random() < 0.2:
                await trio.sleep(self.rng.expovariate(25 / self.timeout))
        await self.send(ws, outgoing.next())

    async def serve_close(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """Echo some messages, and close."""
        ws = await request.accept()
        incoming = Incoming(int(values["id"]))
        for _ in range(int(values["after"])):
            await self.send(ws, await self.receive(ws, incoming))
        if "code" in values:
            await ws.aclose(int(values["code"]), values["reason"])

    async def serve_fail(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """Echo some messages, and raise an exception."""
        ws = await request.accept()
        incoming = Incoming(int(values["id"]))
        for _ in range(int(values["after"])):
            await self.send(ws, await self.receive(ws, incoming))
        raise HandlerFault

    async def serve_any(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """Echo messages of any content."""
        del values
        ws = await request.accept()
        while True:
            message = await ws.get_message()
            self.count_message(message)
            await self.send(ws, message)

    async def serve_reject(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        await request.reject(int(values["status"]), body=values["body"].encode())

    async def serve_forget(self, request: WebSocketRequest, values: dict[str, str]) -> None:
        """Return without an answer, which sends status 500."""

    def report(self) -> dict[str, Any]:
        return {
            **super().report(),
            "open": self.open,
            "opened": self.opened,
            "most": self.most,
            "bytes": self.bytes,
        }


async def serve(seed: str, timeout: float, folder: Path, steps: Steps) -> None:
    """Run the server's process. It answers each line of input with a report."""
    gc.freeze()  # see "Many connections" in docs/servers.md
    gc.set_threshold(1000, 5, 1_000_000)
    server = Server(seed, timeout)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    listeners: list[Any] = []
    for _ in range(2):
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # connections inherit it
            listener.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        listeners.append(listener)
    ports = [listener.socket.getsockname()[1] for listener in listeners]
    listeners[1] = trio.SSLListener(listeners[1], context, https_compatible=True)
    websocket_server = WebSocketServer(
        server.handle,
        listeners,
        on_handler_error=server.on_error,
        ping_interval=2 * timeout,
        connect_timeout=timeout,
        disconnect_timeout=timeout,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_server.run)
        print(json.dumps({"ports": ports}), flush=True)
        requests = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        async for lines in requests:
            for line in lines.split():
                report = {**server.report(), "steps": steps.report()}
                if line == b"settled":  # all clients are gone
                    report = json.loads(json.dumps(report))
                    report["garbage"] = gc.collect()
                    report["objects"] = len(gc.get_objects())
                    report["blocks"] = sys.getallocatedblocks()
                    await trio.lowlevel.checkpoint()
                    steps.reset()  # exclude our own collection
                print(json.dumps(report), flush=True)
        nursery.cancel_scope.cancel()
