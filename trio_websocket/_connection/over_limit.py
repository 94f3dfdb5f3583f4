"""A message over its limit that arrives while no task receives.

It is not refused at once, because `receive_stream` may allow a larger one. It stays undecoded, and
nothing after it is read, until a task receives or the time is over.
"""

from __future__ import annotations

import trio

from .._io.sync import LazyParkingLot

# Seconds that a message over its limit waits for a task that may allow it.
_HOLD = 2.0


class OverLimitHold:
    """The time in which a task may still allow a message that is over its limit."""

    __slots__ = ("_deadline",)

    def __init__(self) -> None:
        self._deadline = trio.current_time() + _HOLD

    async def wait(self, parking_lot: LazyParkingLot) -> bool:
        """Wait to be woken; return True if the time is over instead."""
        with trio.move_on_at(self._deadline) as scope:
            await parking_lot.park()
        return scope.cancelled_caught
