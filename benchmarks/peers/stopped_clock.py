"""A clock that moves only on request, so no timer expires while instructions are counted."""

from __future__ import annotations

import functools
import math
from typing import Any

import trio

FOREVER = 1e6  # seconds


class StoppedClock(trio.abc.Clock):
    """A clock for trio.run()."""

    def __init__(self) -> None:
        self._now = 0.0

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if deadline <= self._now:
            return 0
        return math.inf if math.isinf(deadline) else FOREVER


def install() -> StoppedClock:
    """Make trio.run() use a stopped clock from now on, and return that clock."""
    clock = StoppedClock()
    with_clock: Any = functools.partial(trio.run, clock=clock)
    trio.run = with_clock
    return clock
