"""Measure how long a task that receives from a flooding peer blocks other tasks: `make fairness`.

A second process floods our server. One task of the server receives. Another task only makes
checkpoints, and measures the longest time between two of its turns. This is CPU time of the thread,
so other processes have no influence. It includes the garbage collector, whose share is shown.

Each flood runs three times. The median counts, and the worst time is shown, too. The exit status
is 1 if a median is more than 5 ms. In the last rows, the server floods its peer.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import json
import multiprocessing
import os
import socket
import ssl
import sys
import time
import zlib
from typing import Awaitable, Callable, Iterable, NamedTuple

import trio

from support.frames import BINARY, CONTINUATION, PING, PONG, TEXT, frame
from support.streams import tls_contexts
from trio_websocket import (
    HAS_SPEEDUPS,
    ConnectionClosed,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
)

HOST = "127.0.0.1"
LIMIT = 5.0  # milliseconds
ROUNDS = 3
BLOCK = 2**20  # the peer repeats a block of at least this many bytes
MIB = 2**20
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n\r\n"
)


class Flood(NamedTuple):
    """The frames that a peer sends repeatedly, and the function that receives them."""

    name: str
    frames: Callable[[], bytes]
    receive: Callable[[WebSocketConnection], Awaitable[None]]


# -- frames to send


def one(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a client's frame."""
    return frame(opcode, payload, fin=fin, rsv=rsv, mask=True)


def fragments(size: int, count: int) -> bytes:
    """Return a binary message in fragments."""
    opcodes = itertools.chain([BINARY], itertools.repeat(CONTINUATION))
    return b"".join(
        one(opcode, bytes(size), fin=at == count - 1) for at, opcode in zip(range(count), opcodes)
    )


def compressed(opcode: int, payload: bytes) -> bytes:
    """Return a message that decompresses to the payload."""
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return one(opcode, data[:-4], rsv=4)


def json_text(size: int) -> bytes:
    """Return JSON of about this size."""
    items = [{"id": number, "name": f"item {number * 7919 % 1000}"} for number in range(size // 32)]
    return json.dumps(items)[:size].encode()


# -- receivers


async def get_messages(connection: WebSocketConnection) -> None:
    """Receive each message, as usual."""
    while True:
        await connection.get_message()


async def get_bytes(connection: WebSocketConnection) -> None:
    """Receive each message as bytes."""
    while True:
        await connection.get_message(decode=False)


async def get_pieces(connection: WebSocketConnection) -> None:
    """Receive messages in chunks."""
    while True:
        async with connection.receive_stream(max_size=2**40) as pieces:
            async for _ in pieces:
                pass


async def get_first_pieces(connection: WebSocketConnection) -> None:
    """Receive the first chunk of each message. The rest is discarded."""
    while True:
        async with connection.receive_stream(max_size=2**40):
            pass


async def stay_away(_: WebSocketConnection) -> None:
    """Receive nothing. The connection answers Pings by itself."""
    await trio.sleep_forever()


async def close(connection: WebSocketConnection) -> None:
    """Close while the peer continues to send."""
    await connection.aclose()


async def echo(connection: WebSocketConnection) -> None:
    """Answer each message."""
    while True:
        await connection.send_message(await connection.get_message())


async def send_small(connection: WebSocketConnection) -> None:
    """Send messages of 8 bytes."""
    while True:
        await connection.send_message(b"8 bytes.")


async def send_large(connection: WebSocketConnection) -> None:
    """Send uncompressed messages of 60 KiB, which take the fast path."""
    message = bytes(60 * 2**10)
    while True:
        await connection.send_message(message, compress=False)


async def send_compressed(connection: WebSocketConnection) -> None:
    """Send compressed messages of 60 KiB. A thread would compress longer ones."""
    message = json_text(60 * 2**10)
    while True:
        await connection.send_message(message)


async def send_huge(connection: WebSocketConnection) -> None:
    """Send messages of 1 MiB."""
    message = bytes(MIB)
    while True:
        await connection.send_message(message, compress=False)


def nothing() -> bytes:
    """Return no frames."""
    return b""


FLOODS = [
    Flood("messages of 8 bytes", lambda: one(TEXT, b"8 bytes."), get_messages),
    Flood("the same, as bytes", lambda: one(TEXT, b"8 bytes."), get_bytes),
    Flood("the same, echoed", lambda: one(TEXT, b"8 bytes."), echo),
    Flood("messages of 1 KiB", lambda: one(TEXT, bytes(2**10)), get_messages),
    Flood("messages of 64 KiB", lambda: one(BINARY, bytes(2**16)), get_messages),
    Flood("the same, echoed", lambda: one(BINARY, bytes(2**16)), echo),
    Flood("texts of 64 KiB", lambda: one(TEXT, "é".encode() * 2**15), get_messages),
    Flood("messages of 1 MiB", lambda: one(BINARY, bytes(MIB)), get_messages),
    Flood("texts of 1 MiB", lambda: one(TEXT, "é".encode() * 2**19), get_messages),
    Flood("the same, in pieces", lambda: one(TEXT, "é".encode() * 2**19), get_pieces),
    Flood("fragments of 0 bytes", lambda: fragments(0, 1000), get_messages),
    Flood("fragments of 1 byte", lambda: fragments(1, 1000), get_messages),
    Flood("the same, in pieces", lambda: fragments(1, 1000), get_pieces),
    Flood("fragments of 64 KiB", lambda: fragments(2**16, 16), get_messages),
    Flood("the same, in pieces", lambda: fragments(2**16, 16), get_pieces),
    Flood("Pings", lambda: one(PING, bytes(125)), get_messages),
    Flood("the same, no task receives", lambda: one(PING, bytes(125)), stay_away),
    Flood("Pongs", lambda: one(PONG), get_messages),
    Flood("zeros that inflate to 1 MiB", lambda: compressed(BINARY, bytes(MIB)), get_messages),
    Flood("the same, in pieces", lambda: compressed(BINARY, bytes(MIB)), get_pieces),
    Flood("the same, discarded", lambda: compressed(BINARY, bytes(MIB)), get_first_pieces),
    Flood("the same, after our Close", lambda: compressed(BINARY, bytes(MIB)), close),
    Flood("JSON that inflates to 1 MiB", lambda: compressed(TEXT, json_text(MIB)), get_messages),
    Flood("JSON that inflates to 1 KiB", lambda: compressed(TEXT, json_text(2**10)), get_messages),
    Flood("nothing; we send 8 bytes", nothing, send_small),
    Flood("nothing; we send 60 KiB", nothing, send_large),
    Flood("nothing; we send 60 KiB of JSON", nothing, send_compressed),
    Flood("nothing; we send 1 MiB", nothing, send_huge),
]


# -- the peer


def flood(port: int, context: ssl.SSLContext | None, frames: bytes) -> None:
    """Send the frames repeatedly, and discard received data, until the connection ends."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)) as raw:
        sock = raw if context is None else context.wrap_socket(raw, server_hostname="localhost")
        sock.sendall(REQUEST)
        sock.recv(2**16)
        if os.fork() == 0:  # the child discards the data, even with TLS
            reader = socket.socket(fileno=os.dup(sock.fileno()))
            with contextlib.suppress(OSError):
                while reader.recv(2**20):
                    pass
            os._exit(0)
        while not frames:
            time.sleep(1)
        block = memoryview(frames * (1 + BLOCK // len(frames)))
        while True:
            sock.sendall(block)


# -- the server


class Watch:
    """A task that measures the longest time between two of its turns."""

    def __init__(self) -> None:
        self.longest = 0.0  # seconds
        self.of_collector = 0.0  # the garbage collector's share of it, in seconds
        self._collecting = 0.0

    def _note_collection(self, phase: str, _: object) -> None:
        self._collecting += time.thread_time() * (1 if phase == "stop" else -1)

    async def run(self) -> None:
        gc.callbacks.append(self._note_collection)
        try:
            while True:
                collected, began = self._collecting, time.thread_time()
                await trio.lowlevel.checkpoint()
                taken = time.thread_time() - began
                if taken > self.longest:
                    self.longest, self.of_collector = taken, self._collecting - collected
        finally:
            gc.callbacks.remove(self._note_collection)


class Outcome(NamedTuple):
    """The measurements of one flood."""

    longest: float  # milliseconds
    of_collector: float  # the garbage collector's share of it, in milliseconds
    wire_bytes: int  # in both directions


async def measure(flooding: Flood, use_tls: bool, seconds: float) -> Outcome:
    """Let a peer flood a server."""
    watch = Watch()
    wire_bytes = 0

    async def handler(request: WebSocketRequest) -> None:
        nonlocal wire_bytes
        connection = await request.accept()
        await trio.sleep(0.1)  # let the peer fill the buffers
        with contextlib.suppress(ConnectionClosed):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                with trio.move_on_after(seconds):
                    await flooding.receive(connection)
                nursery.cancel_scope.cancel()
        statistics = connection.statistics()
        wire_bytes = statistics.wire_bytes_received + statistics.wire_bytes_sent
        serving.cancel_scope.cancel()

    client_context, server_context = tls_contexts() if use_tls else (None, None)
    async with trio.open_nursery() as serving:
        serve = functools.partial(
            serve_websocket,
            handler,
            HOST,
            0,
            server_context,
            max_message_size=MIB,
            compression=PerMessageDeflate(),
        )
        server: WebSocketServer = await serving.start(serve)
        arguments = server.port, client_context, flooding.frames()
        peer = multiprocessing.get_context("fork").Process(target=flood, args=arguments)
        peer.start()
    peer.terminate()
    await trio.to_thread.run_sync(peer.join)
    return Outcome(watch.longest * 1e3, watch.of_collector * 1e3, wire_bytes)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2, help="the duration of each flood")
    parser.add_argument("--only", default="", help="run only floods with this text in their names")
    options = parser.parse_args(None if arguments is None else list(arguments))
    print(f"extension in C: {'yes' if HAS_SPEEDUPS else 'no'}; longest wait of another task, in ms")
    print(f"{'flood':34}{'over':>5}{'median':>8}{'worst':>8}{'collector':>11}{'MB/s':>8}")
    is_well = True
    for flooding, use_tls in itertools.product(FLOODS, (False, True)):
        if options.only not in flooding.name:
            continue
        seconds = options.seconds / ROUNDS
        outcomes = [trio.run(measure, flooding, use_tls, seconds) for _ in range(ROUNDS)]
        outcomes.sort()
        median, worst = outcomes[ROUNDS // 2], outcomes[-1]
        rate = sum(outcome.wire_bytes for outcome in outcomes) / options.seconds / 1e6
        is_slow = median.longest > LIMIT
        is_well = is_well and not is_slow
        print(
            f"{flooding.name:34}{'TLS' if use_tls else 'TCP':>5}"
            f"{median.longest:8.2f}{worst.longest:8.2f}{median.of_collector:11.2f}{rate:8.1f}"
            f"{'  FAILED' if is_slow else ''}",
            flush=True,
        )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
