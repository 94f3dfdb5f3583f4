"""The process under test, and what the kernel says about it (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.task import Task

SETTLE = 0.005  # seconds for a process to finish its work and sleep
IDLE = 0.1  # seconds without work after which a process is idle


def environment() -> dict[str, str]:
    """Return the environment without variables that configure Python or a library."""
    names = ("PYTHON", "TRIO_WEBSOCKET", "AIOHTTP", "WEBSOCKETS", "MALLOC")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


class Process:
    """A process in which a contestant does its task until `close`."""

    def __init__(
        self, contestant: Contestant, python: Path, task: Task, wrapper: tuple[str, ...] = ()
    ) -> None:
        command = [str(python), "-m", "benchmarks.peers", contestant.module, task.dump()]
        command = [*wrapper, *command]
        self.process = subprocess.Popen(
            command,
            cwd="/",  # it must not import modules from the current directory
            env={**environment(), **dict(contestant.variables)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        # The clock of all threads of another process, in nanoseconds: clock_getcpuclockid(3).
        self._clock = ~self.process.pid << 3 | 2

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def read(self) -> int:
        """Return a number that the process prints: its port, or a confirmation."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self.process.wait()}")
        return int(line)

    def cpu(self) -> float:
        """Return the CPU time, user and system, in seconds. Call it while the process sleeps."""
        return time.clock_gettime(self._clock)

    def wait_idle(self) -> None:
        """Wait until the process has no more work."""
        last, now = 0.0, self.cpu()
        while now - last > IDLE / 100:
            time.sleep(IDLE)
            last, now = now, self.cpu()

    def settled_cpu(self) -> float:
        time.sleep(SETTLE)
        return self.cpu()

    def tidy_memory(self) -> int:
        """Return the memory of the process in bytes, after it has freed unused memory."""
        assert self.process.stdin is not None
        self.wait_idle()
        self.process.stdin.write(b"tidy\n")
        self.read()
        # This file is exact. The sums in /proc/PID/status and statm are not.
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 2**10
        raise LookupError("Rss")
