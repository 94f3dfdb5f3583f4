"""What the kernel says about the memory of a process, this one or another (Linux)."""

from __future__ import annotations

from pathlib import Path

KIB, MIB = 2**10, 2**20

# Variables of a process that is to give back what it does not use: by default glibc keeps much,
# which would hide what was forgotten.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


def resident(pid: int | str = "self") -> int:
    """Bytes in use now."""
    return _status("VmRSS", pid)


def peak() -> int:
    """The most bytes that were in use since the process began, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak be what is in use now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def _status(name: str, pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * KIB
    raise LookupError(name)
