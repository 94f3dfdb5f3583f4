"""Send bombs to a connection with compression: `make bombs`.

A bomb is a message of 16 MiB of zeros that was compressed to 16 KiB, sent to a server of ours with
the default max_message_size of 1 MiB. For each kind a fresh process tells the close code that it
was refused with, what its memory grew by at most, and how long that took, from the last byte sent
to the Close, while a reader waits; or, if the reader comes late, from when it comes.

The exit status is 1 if a code is not 1009, or a process grew by 4 MiB, or took 50 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zlib
from typing import Any

import trio

from support.frames import BINARY, CLOSE, TEXT
from support.peer import REQUEST, RawPeer, read_head
from support.streams import close_sockets, tcp_pair
from tools.memory import MIB, peak, reset_peak, resident
from trio_websocket import ConnectionClosed, PerMessageDeflate, wrap_server_stream

SIZE = 16 * MIB
KINDS = {"one frame": 1, "sixteen fragments": 16, "a thousand fragments": 1000, "repeated": 1}
READERS = ("waits", "comes late")
MAX_GROWTH, MAX_MILLISECONDS = 4 * MIB, 50
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
RSV1 = 4


class Compressor:
    """That of the peer."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(9, zlib.DEFLATED, -15)

    def __call__(self, payload: bytes) -> bytes:
        data = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]


def frames(peer: RawPeer, opcode: int, payload: bytes, count: int) -> bytes:
    """A compressed message in so many frames."""
    ends = [len(payload) * number // count for number in range(count + 1)]
    parts = [payload[start:end] for start, end in zip(ends, ends[1:])]
    return peer.fragments(opcode, *parts, rsv=RSV1)


async def explode(kind: str, opcode: int, reader: str) -> dict[str, float]:
    """Send one bomb: the close code, the bytes grown, the milliseconds."""
    client, server = await tcp_pair()
    result: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        await client.send_all(REQUEST[:-2] + OFFER + b"\r\n\r\n")
        settings = PerMessageDeflate(window_bits=15)
        request = await wrap_server_stream(nursery, server, compression=settings)
        ws = await request.accept()
        _, rest = await read_head(client)
        peer = RawPeer(client, is_client=True, received=rest)
        deflate = Compressor()
        allowed = [frames(peer, opcode, deflate(b"hello " * 30), 1)]
        if kind == "repeated":
            allowed += [frames(peer, opcode, deflate(bytes(MIB)), 1) for _ in range(16)]
        bomb = frames(peer, opcode, deflate(bytes(SIZE)), KINDS[kind])
        started = 0.0

        async def read() -> None:
            nonlocal started
            if reader == "comes late":
                await trio.sleep(0.3)
                started = time.perf_counter()
            try:
                await ws.get_message()
            except ConnectionClosed:
                pass

        await peer.send(allowed[0])
        await ws.get_message()
        before = resident()
        reset_peak()
        for message in allowed[1:]:
            await peer.send(message)
            assert len(await ws.get_message()) == MIB
        nursery.start_soon(read)
        await trio.sleep(0.01)
        started = time.perf_counter()
        await peer.send(bomb)
        close = await peer.expect(CLOSE)
        result["milliseconds"] = (time.perf_counter() - started) * 1000
        result["growth"] = peak() - before
        result["code"] = int.from_bytes(close[:2], "big")
        await peer.aclose()
    close_sockets()
    return result


def main(arguments: list[str] | None = None) -> int:
    """Try each kind in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--type", choices=("text", "binary"), help="only this one")
    parser.add_argument("--inside", action="store_true", help="one, in this process, as JSON")
    options = parser.parse_args(arguments)
    if options.inside:
        opcode = TEXT if options.type == "text" else BINARY
        print(json.dumps(trio.run(explode, options.kind, opcode, options.reader)))
        return 0
    failed = False
    for kind in [options.kind] if options.kind else KINDS:
        for type_ in [options.type] if options.type else ("text", "binary"):
            for reader in [options.reader] if options.reader else READERS:
                found = run("--kind", kind, "--type", type_, "--reader", reader)
                growth, milliseconds = found["growth"], found["milliseconds"]
                is_bad = (
                    found["code"] != 1009
                    or growth >= MAX_GROWTH
                    or milliseconds >= MAX_MILLISECONDS
                )
                failed |= is_bad
                print(
                    f"{kind:20}  {type_:6}  reader {reader:10}  code {found['code']}  "
                    f"{growth / MIB:5.2f} MiB  {milliseconds:5.1f} ms"
                    f"{'  FAILED' if is_bad else ''}"
                )
    return int(failed)


def run(*arguments: str) -> Any:
    """What a fresh process found."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.bombs", "--inside", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    sys.exit(main())
