"""When a task that need not wait lets the others run, and what runs in other threads."""

from __future__ import annotations

import os
from typing import Awaitable, Callable, TypeVar

import trio

_T = TypeVar("_T")

# A full turn of the scheduler costs as much as several small messages. Work for so long, roughly
# counted in microseconds, and then a turn, keeps a task that always has something to do from
# holding up the others for longer than a millisecond or so.
TURN = 256
# Steps that take some ten microseconds each, in a row.
FAIRNESS = 32


class CheckpointBudget:
    """Checkpoints of the calls of a connection, which mostly have nothing to wait for."""

    __slots__ = ("remaining",)

    def __init__(self) -> None:
        #: How much may be done until the others are to run.
        self.remaining: int = TURN

    def checkpoint(self, cost: int = 1) -> Awaitable[None]:
        """Raise if cancelled, each time; let other tasks run, when it is time to.

        :param cost: What follows, in microseconds or so. It may be more than is left: the next
            checkpoint lets the others run.
        """
        if self.remaining > 0:
            self.remaining -= cost
            return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 # by the caller
        self.remaining = TURN - cost
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 # likewise

    def spend(self, cost: int) -> None:
        """Count work that was done since the last checkpoint."""
        self.remaining -= cost


async def run_in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Call a function that takes long, such as one that compresses, in another thread.

    It has a limiter of its own: threads of the application that wait for the connection may hold
    all tokens of Trio's default limiter. If cancelled while it waits for a thread, the function is
    not called; later, cancellation waits for the function.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(os.cpu_count() or 1)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(function, *args, limiter=limiter)


_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(
    "trio_websocket_thread_limiter"
)
