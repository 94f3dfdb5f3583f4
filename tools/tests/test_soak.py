"""Short soaks with few connections, which show that the tools run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soaks read /proc")

# The kinds of clients that don't wait for the server's time-outs.
KINDS = (
    "stay to the end",
    "leave cancelled",
    "cancel opening",
    "reset connection",
    "read what is pushed",
    "be closed",
    "be turned away",
    "touch",
    "send bad frame",
    "send noise",
    "send in pieces",
    "flood with pings",
)


ARGUMENTS = {
    "tools.soak_sockets": (
        *("--seconds=0.7", "--warm-up=0", "--connections=20", "--timeout=3"),
        *("--kinds", ",".join(KINDS)),
    ),
    "tools.soak_limits": ("--megabytes=4", "--connections=2", "--timeout=2", "--late=30"),
}


@pytest.fixture(scope="module")
def soaks() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start all soaks at the same time, because they wait most of the time."""
    with contextlib.ExitStack() as stack:
        running = {}
        for module, arguments in ARGUMENTS.items():
            running[module] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.enter_context(running[module])
            stack.callback(running[module].kill)
        yield running


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def test_soak_sockets_keeps_promises(soaks: dict[str, subprocess.Popen[str]]) -> None:
    output = output_of(soaks["tools.soak_sockets"])
    assert "violations     0" in output
    assert "promised messages echoed" in output
    assert output.endswith("all as it should be\n")


def test_soak_limits_are_kept(soaks: dict[str, subprocess.Popen[str]]) -> None:
    output = output_of(soaks["tools.soak_limits"])
    assert "FAILED" not in output
    assert output.endswith("all within their bounds\n")
