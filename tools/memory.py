"""The memory of this or another process, from the kernel (Linux)."""

from __future__ import annotations

from pathlib import Path

KIB, MIB = 2**10, 2**20

# Environment variables that make a process return free memory to the system. By default, glibc
# keeps much of it, which would hide leaks.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


def resident(pid: int | str = "self") -> int:
    """Return the bytes in use now."""
    return _status("VmRSS", pid)


def peak() -> int:
    """Return the maximum of bytes in use since the start, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Reset the peak to the bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def _status(name: str, pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * KIB
    raise LookupError(name)
