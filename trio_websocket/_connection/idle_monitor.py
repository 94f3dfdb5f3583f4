"""A monitor for connections whose application does not receive."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from .._io.run_local import RunLocal

logger = logging.getLogger("trio-websocket")

# Seconds of an interval. After one to two of them, a connection reads in the background, so that
# Pings are answered. Longer would delay Pongs; shorter would leave less time to answer a message
# before a Close frame after it is decoded.
_INTERVAL = 0.02


class IdleReceiver(Protocol):
    """A `Receiver`, as the monitor needs it."""

    def begin_interval(self) -> None:
        """Note that an interval begins."""

    def end_interval(self) -> bool:
        """Note that an interval has ended; return True to monitor the next one. Never raises."""


class IdleMonitor:
    """Tells the receivers of a run when an interval begins and ends.

    One task does this for all receivers whose application has recently taken a message. Its work
    does not depend on the number of messages. It ends when there are no such receivers.
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
        # An exception that left a system task would end the run.
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
