"""The process under test: `python -I -m tools.bench.peers MODULE TASK`."""

from __future__ import annotations

import importlib
import sys

from tools.bench.task import Task

if __name__ == "__main__":
    module, task = sys.argv[1:]
    importlib.import_module(f"tools.bench.peers.{module}").main(Task.load(task))
