"""A system task that uncorks all corked queues at the end of a scheduler turn."""

from __future__ import annotations

import collections
import logging
from typing import Protocol

import trio

from .._io.run_local import RunLocal
from .._io.sync import LazyParkingLot
from .._sansio.costs import STEPS_PER_TURN

logger = logging.getLogger("trio-websocket")


class CorkedQueue(Protocol):
    """A queue that collects frames until it is uncorked."""

    def uncork(self) -> None:
        """Write the collected frames."""

    def fail(self, exc: Exception) -> None:
        """Stop writing because of an error."""


class DeferredFlush:
    """The task of one Trio run. It starts with the first corked queue and ends with the run."""

    def __init__(self) -> None:
        self._queues: collections.deque[CorkedQueue] = collections.deque()
        self._work = LazyParkingLot()
        self._is_running = False

    def add(self, queue: CorkedQueue) -> None:
        """Uncork a queue at the end of this turn."""
        if not self._is_running:
            trio.lowlevel.spawn_system_task(self._run)
            self._is_running = True
        elif not self._queues:
            self._work.unpark()
        self._queues.append(queue)

    async def _run(self) -> None:
        try:
            while True:
                self._uncork(STEPS_PER_TURN)
                if self._queues:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._work.park()
        except Exception:  # an exception in a system task would crash the run
            logger.exception("the task that flushes corked frames failed; it will be restarted")
        finally:  # the run is ending, or the task has failed
            self._is_running = False
            self._uncork(len(self._queues))

    def _uncork(self, most: int) -> None:
        for _ in range(min(most, len(self._queues))):
            queue = self._queues.popleft()
            try:
                queue.uncork()
            except Exception as exc:
                queue.fail(exc)


deferred_flush = RunLocal("deferred flush", DeferredFlush)
