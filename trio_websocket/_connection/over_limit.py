"""A message that exceeds its size limit and arrives while no task is receiving.

It is not refused at once, because a call to `receive_stream` may set a higher limit. Until a task
receives or the hold expires, the message stays undecoded, and nothing after it is read.
"""

from __future__ import annotations

import trio

from .._io.sync import LazyParkingLot

# Seconds to hold a message over its limit for a task that may accept it.
_HOLD = 2.0


class OverLimitHold:
    """The period in which a task may still accept a message that is over its limit."""

    __slots__ = ("_deadline",)

    def __init__(self) -> None:
        self._deadline = trio.current_time() + _HOLD

    async def wait(self, parking_lot: LazyParkingLot) -> bool:
        """Wait until woken, or until the hold expires; return True if it has expired."""
        with trio.move_on_at(self._deadline) as scope:
            await parking_lot.park()
        return scope.cancelled_caught
