"""Time budgets of calls that do not block, and calls that run in other threads."""

from __future__ import annotations

import os
from typing import Awaitable, Callable, TypeVar

import trio

from .._sansio.costs import COST_PER_TURN
from .run_local import RunLocal

_T = TypeVar("_T")


class CheckpointBudget:
    """A connection's budget of work between two turns of Trio's scheduler.

    The methods of a connection seldom need to wait. `remaining` is the cost, in rough microseconds,
    that they may still spend until other tasks must run. It may become negative, because a call
    that costs more is not refused. The next checkpoint then lets the other tasks run.
    """

    __slots__ = ("remaining",)

    def __init__(self) -> None:
        #: The remaining budget, at most `COST_PER_TURN`. If it is 0 or less, other tasks must run.
        self.remaining: int = COST_PER_TURN

    def checkpoint(self, cost: int = 1) -> Awaitable[None]:
        """Raise if cancelled, each time; let other tasks run, if it is time to.

        :param cost: The cost of the work that follows.
        """
        if self.remaining > 0:
            self.remaining -= cost
            return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 # the caller awaits
        self.remaining = COST_PER_TURN - cost
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 # the caller awaits

    def spend(self, cost: int) -> None:
        """Count work that was done since the last checkpoint."""
        self.remaining -= cost

    def renew(self) -> None:
        """Start again, because other tasks have run."""
        self.remaining = COST_PER_TURN

    def exhaust(self) -> None:
        """Let other tasks run at the next checkpoint."""
        self.remaining = 0


async def run_in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Call a function that takes long, such as one that compresses, in another thread.

    If cancelled while it waits for a thread, the function is not called. Later, cancellation waits
    for the function to return.

    It uses a separate limiter. Threads of the application that wait for the connection may hold
    all tokens of Trio's default limiter.
    """
    return await trio.to_thread.run_sync(function, *args, limiter=_limiter.get())


_limiter = RunLocal("threads", lambda: trio.CapacityLimiter(os.cpu_count() or 1))
