"""The process under test, and what the kernel says about it (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.task import Task

SETTLE = 0.005  # seconds for a process to have done what it still does, and sleep
IDLE = 0.1  # seconds without work, after which there is none


def environment() -> dict[str, str]:
    """Without what would change how Python, or the library, runs."""
    names = ("PYTHON", "TRIO_WEBSOCKET", "AIOHTTP", "WEBSOCKETS", "MALLOC")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


class Process:
    """A contestant that does its task, until the block ends."""

    def __init__(
        self, contestant: Contestant, python: Path, task: Task, wrapper: tuple[str, ...] = ()
    ) -> None:
        command = [str(python), "-m", "benchmarks.peers", contestant.module, task.dump()]
        command = [*wrapper, *command]
        self.process = subprocess.Popen(
            command,
            cwd="/",  # where it finds no modules
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
        """A number that the process prints: its port, or that it has done as told."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self.process.wait()}")
        return int(line)

    def cpu(self) -> float:
        """Seconds that it ran, in the kernel and outside; call it while the process sleeps."""
        return time.clock_gettime(self._clock)

    def wait_idle(self) -> None:
        """Until it has done what it had to do."""
        last, now = 0.0, self.cpu()
        while now - last > IDLE / 100:
            time.sleep(IDLE)
            last, now = now, self.cpu()

    def settled_cpu(self) -> float:
        time.sleep(SETTLE)
        return self.cpu()

    def tidy_memory(self) -> int:
        """Bytes of memory, when it has thrown away what it can."""
        assert self.process.stdin is not None
        self.wait_idle()
        self.process.stdin.write(b"tidy\n")
        self.read()
        # Exact, as the sums in /proc/PID/status and statm are not.
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 2**10
        raise LookupError("Rss")
