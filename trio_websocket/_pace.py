"""When a task that need not wait lets the others run."""

from __future__ import annotations

import trio

# A full turn of the scheduler costs as much as several small messages. One in so many steps keeps
# a task that always has something to do from holding up the others for longer than a millisecond.
FAIRNESS = 32


class Pacer:
    """Checkpoints of calls that mostly have nothing to wait for."""

    def __init__(self) -> None:
        self._left = FAIRNESS

    async def checkpoint(self) -> None:
        """Raise if cancelled, each time; let other tasks run, every so many times."""
        if self._left:
            self._left -= 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._left = FAIRNESS
            await trio.lowlevel.checkpoint()
