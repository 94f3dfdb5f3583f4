"""Stream one huge message from one process to another: `make stream-huge GIGABYTES=4`.

The first process sends an async generator over TCP. The second one receives it with
receive_stream. This runs with and without compression. It prints the duration, and the maximum
growth of each process after the connection was opened.

The exit status is 1 if a process grew by 8 MiB or more, or the received bytes differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import zlib
from typing import Any, AsyncIterator

import trio

from tools.memory import MIB, peak, reset_peak, resident
from trio_websocket import (
    PerMessageDeflate,
    WebSocketRequest,
    open_websocket,
    serve_websocket,
)

MAX_GROWTH = 8 * MIB
PIECE = 2**16


class Source:
    """Cheap chunks: slices of random bytes, the half of each zeros if it must be compressible."""

    def __init__(self, size: int, *, is_compressible: bool) -> None:
        self._random = os.urandom(MIB + PIECE)
        self._zeros = bytes(PIECE // 2) if is_compressible else b""
        self.left = size
        self.crc = 0

    async def __call__(self) -> AsyncIterator[bytes]:
        at = 0
        while self.left:
            size = min(PIECE, self.left)
            at = (at + 4099) % MIB
            piece = (self._zeros + self._random[at : at + PIECE - len(self._zeros)])[:size]
            self.left -= size
            self.crc = zlib.crc32(piece, self.crc)
            yield piece


async def send(size: int, compression: PerMessageDeflate | None) -> None:
    """Serve one connection, send the message, and print the results."""
    source = Source(size, is_compressible=compression is not None)
    async with trio.open_nursery() as nursery:

        async def handler(request: WebSocketRequest) -> None:
            ws = await request.accept()
            await ws.get_message()
            before = resident()
            reset_peak()
            await ws.send_message(source())
            tell({"growth": peak() - before, "crc": source.crc, "size": size - source.left})
            await ws.wait_closed()
            nursery.cancel_scope.cancel()

        server: Any = await nursery.start(
            lambda task_status: serve_websocket(
                handler, "127.0.0.1", 0, None, compression=compression, task_status=task_status
            )
        )
        tell({"port": server.port})


async def receive(port: int, compression: PerMessageDeflate | None) -> None:
    """Receive the message, and print the results."""
    size = crc = 0
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False, compression=compression) as ws:
        await ws.send_message("begin")
        before = resident()
        reset_peak()
        async with ws.receive_stream(max_size=math.inf) as pieces:
            async for piece in pieces:
                assert isinstance(piece, bytes)
                size += len(piece)
                crc = zlib.crc32(piece, crc)
    tell({"growth": peak() - before, "crc": crc, "size": size})


def tell(facts: dict[str, int]) -> None:
    """Print facts for the parent process."""
    print(json.dumps(facts), flush=True)


def stream(size: int, compression: str) -> bool:
    """Start both processes, and print the results. Return True if they are within the limits."""
    common = [sys.executable, "-m", "tools.stream_huge", "--compression", compression]
    started = time.perf_counter()
    with subprocess.Popen(
        [*common, "--send", str(size)], stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        port = json.loads(sender.stdout.readline())["port"]
        received = json.loads(
            subprocess.run(
                [*common, "--receive", str(port)], stdout=subprocess.PIPE, check=True
            ).stdout
        )
        sent = json.loads(sender.stdout.readline())
    seconds = time.perf_counter() - started
    is_whole = (sent["size"], sent["crc"]) == (size, received["crc"]) and received["size"] == size
    is_bounded = max(sent["growth"], received["growth"]) < MAX_GROWTH
    print(
        f"compression {compression:3}  {received['size']:,} bytes  {seconds:.1f} s  "
        f"sender {sent['growth'] / MIB:+.2f} MiB  receiver {received['growth'] / MIB:+.2f} MiB"
        f"{'' if is_whole else '  OTHER BYTES'}{'' if is_bounded else '  TOO MUCH'}"
    )
    return is_whole and is_bounded


def main(arguments: list[str] | None = None) -> int:
    """Stream with the given options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=4, help="the size in GiB")
    parser.add_argument("--compression", choices=("on", "off", "both"), default="both")
    parser.add_argument("--send", type=int, help="send this many bytes, in this process")
    parser.add_argument("--receive", type=int, help="receive from this port, in this process")
    options = parser.parse_args(arguments)
    settings = PerMessageDeflate() if options.compression == "on" else None
    if options.send is not None:
        trio.run(send, options.send, settings)
        return 0
    if options.receive is not None:
        trio.run(receive, options.receive, settings)
        return 0
    modes = ["off", "on"] if options.compression == "both" else [options.compression]
    size = int(options.gigabytes * 2**30)
    are_right = [stream(size, mode) for mode in modes]
    return int(not all(are_right))


if __name__ == "__main__":
    sys.exit(main())
