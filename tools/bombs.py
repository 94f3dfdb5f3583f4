"""Send bombs to a connection with compression: `make bombs`.

A bomb is a message of 16 MiB of zeros that is compressed to 16 KiB. It is sent to our server with
the default max_message_size of 1 MiB. A fresh process tests each kind of bomb. It reports

- the close code;
- the maximum growth of its memory;
- the time until the Close, from the last byte of the bomb, or from the call of a late reader.

The exit status is 1 if a code is not 1009, or a process grew by 4 MiB or more, or took 50 ms or
more.
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
    """The compressor of the peer."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(9, zlib.DEFLATED, -15)

    def __call__(self, payload: bytes) -> bytes:
        data = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]


def frames(peer: RawPeer, opcode: int, payload: bytes, count: int) -> bytes:
    """Return a compressed message in this number of frames."""
    ends = [len(payload) * number // count for number in range(count + 1)]
    parts = [payload[start:end] for start, end in zip(ends, ends[1:])]
    return peer.fragments(opcode, *parts, rsv=RSV1)


async def explode(kind: str, opcode: int, reader: str) -> dict[str, float]:
    """Send one bomb. Return the close code, the growth in bytes and the milliseconds."""
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
    """Test each kind of bomb in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, help="test only this kind")
    parser.add_argument("--reader", choices=READERS, help="test only this reader")
    parser.add_argument("--type", choices=("text", "binary"), help="test only this type")
    parser.add_argument("--inside", action="store_true", help="test in this process, print JSON")
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
    """Return the measurements of a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.bombs", "--inside", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    sys.exit(main())
