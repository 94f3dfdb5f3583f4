"""The soaks, each for a moment and with few connections, so that they are known to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soaks read /proc")

# Not those that last as long as the server's patience.
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


def run(module: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=25,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_the_soak_over_sockets_keeps_its_promises() -> None:
    scale = ("--seconds=0.7", "--warm-up=0", "--connections=20", "--timeout=0.5")
    output = run("tools.soak_sockets", *scale, "--kinds", ",".join(KINDS))
    assert "violations     0" in output
    assert "promised messages echoed" in output
    assert output.endswith("all as it should be\n")


def test_every_limit_is_kept() -> None:
    output = run(
        "tools.soak_limits", "--megabytes=4", "--connections=2", "--timeout=0.5", "--late=5"
    )
    assert "FAILED" not in output
    assert output.endswith("all within their bounds\n")
