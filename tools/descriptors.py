"""The limit on the file descriptors of a process (not on Windows)."""

from __future__ import annotations

import resource


def allow(needed: int) -> None:
    """Allow this process and its children this many file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
        except (ValueError, OSError):
            raise SystemExit(f"{needed} descriptors are needed, and {hard} allowed") from None
