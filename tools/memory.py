"""What the kernel says about the memory of this process (Linux)."""

from __future__ import annotations

from pathlib import Path

KIB, MIB = 2**10, 2**20


def resident() -> int:
    """Bytes in use now."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that were in use since the process began, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak be what is in use now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * KIB
    raise LookupError(name)
