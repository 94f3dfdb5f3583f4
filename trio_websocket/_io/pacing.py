"""Checkpoint budgets for calls that do not block, and calls that run in worker threads."""

from __future__ import annotations

import os
from typing import Awaitable, Callable, TypeVar

import trio

from .._sansio.costs import COST_PER_TURN
from .run_local import RunLocal

_T = TypeVar("_T")


class CheckpointBudget:
    """The amount of work that a connection can do between two passes of Trio's scheduler.

    A connection's methods rarely need to wait. `remaining` is the cost, in rough microseconds, that
    they can still spend before other tasks must run. It can become negative, because a call that
    costs more is not refused; the next checkpoint then lets other tasks run.
    """

    __slots__ = ("remaining",)

    def __init__(self) -> None:
        #: The remaining budget, at most `COST_PER_TURN`. If it is 0 or less, other tasks must run.
        self.remaining: int = COST_PER_TURN

    def checkpoint(self, cost: int = 1) -> Awaitable[None]:
        """Check for cancellation, and let other tasks run if the budget is used up.

        :param cost: The cost of the work that follows.
        """
        if self.remaining > 0:
            self.remaining -= cost
            return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 # the caller awaits
        self.remaining = COST_PER_TURN - cost
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 # the caller awaits

    def spend(self, cost: int) -> None:
        """Spend the cost of work done since the last checkpoint."""
        self.remaining -= cost

    def renew(self) -> None:
        """Reset the budget, because other tasks have run."""
        self.remaining = COST_PER_TURN

    def exhaust(self) -> None:
        """Use up the budget, so that the next checkpoint lets other tasks run."""
        self.remaining = 0


async def run_in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Call a slow function, such as one that compresses a message, in a worker thread.

    If cancelled while waiting for a free thread, the function is not called. Once the function has
    started, cancellation takes effect when the function returns.

    The threads use a separate limiter, because application threads that wait for the connection
    could hold all tokens of Trio's default limiter.
    """
    return await trio.to_thread.run_sync(function, *args, limiter=_limiter.get())


_limiter = RunLocal("threads", lambda: trio.CapacityLimiter(os.cpu_count() or 1))
