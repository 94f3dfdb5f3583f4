"""The process under test: `python -m tools.bench.peers MODULE TASK`."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys
import threading

from tools.bench.task import Task


def tidy() -> None:
    """Throw away what is not used, as often as a line comes."""
    libc = ctypes.CDLL(None)
    for _ in sys.stdin:
        gc.collect()
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        print(0, flush=True)


def main() -> None:
    module, text = sys.argv[1:]
    task = Task.load(text)
    if task.tidies:
        threading.Thread(target=tidy, daemon=True).start()
    importlib.import_module(f"tools.bench.peers.{module}").main(task)


if __name__ == "__main__":
    main()
