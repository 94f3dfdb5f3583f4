"""Print a table of the cost and the gain of compression settings: `make measure-compression`.

A fresh process measures each row. For the memory, many codecs compress or decompress one message
of 64 KiB of JSON each. The growth of the process is divided by their number. The times are medians
over messages of JSON on one connection.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Callable

from tools.memory import KIB, resident
from trio_websocket import DeflateParameters, PerMessageDeflate
from trio_websocket._sansio.deflate import DeflateCodec

SIZES = {"1 KiB": 1 * KIB, "64 KiB": 64 * KIB}
COLUMNS = (
    "`window_bits`",
    "`mem_level`",
    "`context_takeover`",
    "KiB to compress",
    "KiB to decompress",
    *(f"{size}: {what}" for size in SIZES for what in ("ratio", "compress", "decompress")),
)


def documents(size: int, count: int) -> list[bytes]:
    """Return typical JSON of an application: the same keys, different values."""
    chance = random.Random(1)
    names = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia"]

    def document() -> bytes:
        rows: list[object] = []
        text = b""
        while len(text) < size:
            rows += [
                {
                    "id": chance.getrandbits(32),
                    "name": chance.choice(names),
                    "active": chance.random() < 0.8,
                    "score": round(chance.random() * 1000, 2),
                    "tags": chance.sample(["new", "sale", "gift", "used"], 2),
                }
                for _ in range(1 + size // 200)
            ]
            text = json.dumps(rows).encode()
        return text[:size]

    return [document() for _ in range(count)]


def measure(settings: PerMessageDeflate, codecs: int, messages: int) -> list[str]:
    """Return a row of the table, measured in this process."""
    resets = not settings.context_takeover
    bits = settings.window_bits
    agreed = DeflateParameters(bits, bits, resets, resets)

    def make() -> DeflateCodec:
        return DeflateCodec(agreed, settings, is_client=False)

    (large,) = documents(64 * KIB, 1)
    compressed = make().deflate(large)
    kept = [[make() for _ in range(count)] for count in (100, codecs, codecs)]
    for codec in kept[0]:  # these use memory that the process already has
        codec.deflate(large)
        codec.inflate(compressed, len(large))
    start = resident()
    for codec in kept[1]:
        codec.deflate(large)
    middle = resident()
    for codec in kept[2]:
        codec.inflate(compressed, len(large))
    end = resident()
    yes_or_no = "yes" if settings.context_takeover else "no"
    row = [str(bits), str(settings.mem_level), yes_or_no]
    row += [f"{grown / codecs / KIB:.0f}" for grown in (middle - start, end - middle)]
    for size in SIZES.values():
        payloads = documents(size, max(1, messages * KIB // size))
        codec = make()
        outputs, out = timed(codec.deflate, payloads)
        _, into = timed(lambda output: codec.inflate(output, size), outputs)  # noqa: B023 # called at once
        ratio = sum(map(len, payloads)) / sum(map(len, outputs))
        row += [f"{ratio:.1f}", f"{out * 1e6:,.0f} µs", f"{into * 1e6:,.0f} µs"]
    return row


def timed(call: Callable[[bytes], bytes], inputs: list[bytes]) -> tuple[list[bytes], float]:
    """Return the results for the inputs, and the median of the durations in seconds."""
    outputs, seconds = [], []
    for data in inputs:
        start = time.perf_counter()
        outputs.append(call(data))
        seconds.append(time.perf_counter() - start)
    return outputs, statistics.median(seconds)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--window-bits", type=int, nargs="+", default=[9, 12, 15])
    parser.add_argument("--mem-level", type=int, nargs="+", default=[1, 5, 9])
    parser.add_argument("--level", type=int, default=6)
    parser.add_argument("--zlib-ng", action="store_true", help="use zlib-ng instead of zlib")
    parser.add_argument("--takeover", choices=("yes", "no"), nargs="+", default=["yes", "no"])
    parser.add_argument("--codecs", type=int, default=500, help="codecs for the memory")
    parser.add_argument("--messages", type=int, default=1000, help="KiB in messages of each size")
    parser.add_argument("--inside", action="store_true", help="measure one row here, print JSON")
    options = parser.parse_args(arguments)
    if options.inside:
        settings = PerMessageDeflate(
            window_bits=options.window_bits[0],
            mem_level=options.mem_level[0],
            level=options.level,
            context_takeover=options.takeover == ["yes"],
        )
        print(json.dumps(measure(settings, options.codecs, options.messages)))
        return 0
    if options.zlib_ng:
        importlib.import_module("zlib_ng")  # fail if it is missing, instead of measuring zlib
    environment = {**os.environ, "TRIO_WEBSOCKET_NO_ZLIB_NG": "" if options.zlib_ng else "1"}
    print_row(COLUMNS)
    print_row(["---:"] * len(COLUMNS))
    for takeover in options.takeover:
        for bits in options.window_bits:
            for level in options.mem_level:
                command = [sys.executable, "-m", "tools.measure_compression", "--inside"]
                command += ["--window-bits", str(bits), "--mem-level", str(level)]
                command += ["--takeover", takeover, "--codecs", str(options.codecs)]
                command += ["--messages", str(options.messages), "--level", str(options.level)]
                found = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, env=environment
                ).stdout
                print_row(json.loads(found))
    return 0


def print_row(cells: list[str] | tuple[str, ...]) -> None:
    """Print a row in Markdown."""
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
