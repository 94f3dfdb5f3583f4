"""The process under test: `python -m benchmarks.peers MODULE TASK`."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import sys
import threading

from benchmarks.task import Task

TICK = 0.05  # seconds: enough for idle timers to expire, too short for any time-out


def tidy() -> None:
    """Free unused memory for each line on stdin."""
    libc = ctypes.CDLL(None)
    for _ in sys.stdin:
        gc.collect()
        if hasattr(libc, "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        print(0, flush=True)


def count() -> None:
    """Prepare for instructions.py, which ends its windows by SIGUSR2."""
    clock = importlib.import_module("benchmarks.peers.stopped_clock").install()

    def end_window(*_: object) -> None:
        os.getppid()  # callgrind writes its counts at this call
        clock.advance(TICK)
        os.write(1, b"0\n")

    gc.disable()
    signal.signal(signal.SIGUSR2, end_window)


def main() -> None:
    module, text = sys.argv[1:]
    task = Task.load(text)
    if task.tidies:
        threading.Thread(target=tidy, daemon=True).start()
    if task.counted:
        count()
    importlib.import_module(f"benchmarks.peers.{module}").main(task)


if __name__ == "__main__":
    main()
