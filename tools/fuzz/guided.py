"""Hostile bytes for the sans-IO half of the library, guided by coverage, with atheris.

    python -m tools.fuzz.guided --seconds 60 --seed 1

Each target runs in a separate process, and begins with cases of the grammar. The first bytes of an
input choose limits and cuts. The rest is the data of the peer. An input that breaks a promise is
kept, and can be repeated:

    python -m tools.fuzz.guided --target server-protocol --input FILE
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Sequence

if TYPE_CHECKING:
    from .targets import SansIOTarget

NAMES = (
    *("server-handshake", "client-handshake", "server-protocol", "client-protocol"),
    *("server-deflate", "client-deflate", "codec", "location", "tunnel", "proxy-url"),
)
_ROOT = Path(__file__).resolve().parent.parent.parent
_FOLDER = _ROOT / "build" / "fuzz"
_SEEDS = 500  # initial cases, from the grammar
_CHOICES = 8  # bytes of an input that choose limits and cuts
_LONGEST = 4096


def _target(name: str) -> SansIOTarget:
    from .targets import SANS_IO  # noqa: PLC0415 # atheris must instrument this import

    (target,) = [target for target in SANS_IO if target.name == name]
    return target


def _run_input(target: SansIOTarget, data: bytes) -> None:
    target.check(data[_CHOICES:], Random(data[:_CHOICES].hex()))


def _write_corpus(name: str, seed: str) -> Path:
    folder = _FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    target, rng = _target(name), Random(f"{name} {seed}")
    for number in range(_SEEDS):
        data = rng.getrandbits(8 * _CHOICES).to_bytes(_CHOICES, "big") + target.make(rng)
        if len(data) <= _LONGEST:
            (folder / f"from-grammar-{number}").write_bytes(data)
    return folder


def _fuzz(name: str, arguments: Sequence[str]) -> None:
    """Run atheris, which ends the process."""
    atheris: Any = importlib.import_module("atheris")  # only in its own environment
    instrumented = atheris.instrument_imports(include=["trio_websocket", "wsproto", "h11"])
    with contextlib.redirect_stderr(io.StringIO()), instrumented:  # hide a line for each module
        target = _target(name)
    atheris.Setup([sys.argv[0], *arguments], lambda data: _run_input(target, data))
    atheris.Fuzz()


def _start(name: str, options: argparse.Namespace) -> int:
    """Fuzz a target in another process. Return the exit status."""
    corpus = _write_corpus(name, options.seed)
    seconds = max(1, int(options.seconds / len(options.target or NAMES)))
    command = [
        sys.executable, "-m", "tools.fuzz.guided", "--target", name, "--inside", str(corpus),
        f"-max_total_time={seconds}", f"-seed={Random(options.seed).randrange(1, 2**31)}",
        f"-max_len={_LONGEST}", f"-artifact_prefix={_FOLDER}{os.sep}{name}-", "-timeout=60",
        "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    print(f"{name}: {seconds} s", flush=True)
    return subprocess.run(command, cwd=_ROOT).returncode


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.fuzz.guided")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--target", action="append", choices=NAMES, help="all by default")
    parser.add_argument("--input", type=Path, help="run one target with this file only")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options, arguments = parser.parse_known_args(given)
    names = options.target or NAMES
    if options.inside:
        _fuzz(names[0], arguments)
    elif options.input is not None:
        _run_input(_target(names[0]), options.input.read_bytes())
        print("no promise is broken")
    else:
        failed = [name for name in names if _start(name, options)]
        print(f"found something: {', '.join(failed)}" if failed else "nothing found")
        return 1 if failed else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
