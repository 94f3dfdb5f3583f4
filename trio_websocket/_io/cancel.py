"""Cancel a scope with a reason, if the Trio version supports reasons."""

from __future__ import annotations

import inspect

import trio

_TAKES_REASON = "reason" in inspect.signature(trio.CancelScope.cancel).parameters


def cancel(scope: trio.CancelScope, reason: str) -> None:
    """Cancel a scope. In Trio 0.31 and later, `trio.Cancelled` shows the reason."""
    if _TAKES_REASON:
        scope.cancel(reason=reason)
    else:
        scope.cancel()
