"""The process under test, and what the kernel says about it (Linux)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tools.bench.contestants import Contestant
from tools.bench.task import Task

SETTLE = 0.005  # seconds for a process to have done what it still does, and sleep
START_LIMIT = 20  # seconds


class Process:
    """A contestant that does its task, until the block ends."""

    def __init__(self, contestant: Contestant, python: Path, task: Task) -> None:
        command = [str(python), "-I", "-m", "tools.bench.peers", contestant.module, task.dump()]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **dict(contestant.variables)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        # The clock of all threads of another process, in nanoseconds: clock_getcpuclockid(3).
        self._clock = ~self.process.pid << 3 | 2

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

    def settled_cpu(self) -> float:
        time.sleep(SETTLE)
        return self.cpu()
