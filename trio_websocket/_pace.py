"""When a task that need not wait lets the others run."""

from __future__ import annotations

from typing import Awaitable

import trio

# A full turn of the scheduler costs as much as several small messages. Work for so long, roughly
# counted in microseconds, and then a turn, keeps a task that always has something to do from
# holding up the others for longer than a millisecond or so.
TURN = 256
# Steps that take some ten microseconds each, in a row.
FAIRNESS = 32


class Pacer:
    """Checkpoints of the calls of a connection, which mostly have nothing to wait for."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        #: How much may be done until the others are to run.
        self.left: int = TURN

    def checkpoint(self, cost: int = 1) -> Awaitable[None]:
        """Raise if cancelled, each time; let other tasks run, when it is time to.

        :param cost: What follows, in microseconds or so. It may be more than is left: the next
            checkpoint lets the others run.
        """
        if self.left > 0:
            self.left -= cost
            return trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105 # by the caller
        self.left = TURN - cost
        return trio.lowlevel.checkpoint()  # noqa: ASYNC105 # likewise
