"""How many descriptors a process may have (not on Windows)."""

from __future__ import annotations

import resource


def allow(needed: int) -> None:
    """Let this process, and those that it starts, have as many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
        except (ValueError, OSError):
            raise SystemExit(f"{needed} descriptors are needed, and {hard} allowed") from None
