"""Cancel a scope with a reason, if this version of Trio takes one."""

from __future__ import annotations

import inspect

import trio

_TAKES_REASON = "reason" in inspect.signature(trio.CancelScope.cancel).parameters


def cancel(scope: trio.CancelScope, reason: str) -> None:
    """Cancel a scope. Trio 0.31 and later show the reason in `trio.Cancelled`."""
    if _TAKES_REASON:
        scope.cancel(reason=reason)
    else:
        scope.cancel()
