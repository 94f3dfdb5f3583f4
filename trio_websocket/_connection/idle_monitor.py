"""A monitor that detects connections whose application is not receiving."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from .._io.run_local import RunLocal

logger = logging.getLogger("trio-websocket")

# The length of an interval in seconds. If the application does not receive for one to two
# intervals, its connection reads in the background, so that Pings are answered. A longer interval
# would delay Pongs; a shorter one would leave less time to answer a message before the Close frame
# that follows it is decoded.
_INTERVAL = 0.02


class IdleReceiver(Protocol):
    """The part of a `Receiver` that the monitor uses."""

    def begin_interval(self) -> None:
        """Note that an interval begins."""

    def end_interval(self) -> bool:
        """Note that an interval has ended; return True to monitor the next one. Never raises."""


class IdleMonitor:
    """Notifies the receivers of one Trio run when an interval begins and ends.

    A single task does this for all receivers whose application has recently received a message. Its
    cost does not depend on the number of messages. The task ends when there are no such receivers.
    """

    def __init__(self) -> None:
        self._receivers: set[IdleReceiver] = set()
        self._is_running = False

    def add(self, receiver: IdleReceiver) -> None:
        """Monitor a receiver, beginning with the next interval."""
        self._receivers.add(receiver)
        if not self._is_running:
            trio.lowlevel.spawn_system_task(self._run)
            self._is_running = True

    async def _run(self) -> None:
        # An exception that propagated out of a system task would crash the run.
        try:
            while self._receivers:
                for receiver in self._receivers:
                    receiver.begin_interval()
                await trio.sleep(_INTERVAL)
                self._receivers = {one for one in self._receivers if one.end_interval()}
        except Exception:
            logger.exception(
                "the monitor of idle connections failed; the next call starts it again"
            )
        finally:
            self._is_running = False


idle_monitor = RunLocal("idle monitor", IdleMonitor)
