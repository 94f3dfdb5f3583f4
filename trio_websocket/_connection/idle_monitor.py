"""Notices connections whose application does not receive."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .receiver import Receiver

logger = logging.getLogger("trio-websocket")

# Seconds between two looks at who has been away from get_message. An application that is away for
# longer than two of them has its Pings answered for it.
_WATCH_INTERVAL = 0.02


class IdleMonitor:
    """Notices, for all connections of a run, whose application stays away from get_message.

    One look every interval, however many messages they take; none while all of them are waited
    for or tended.
    """

    def __init__(self) -> None:
        self._inboxes: set[Receiver] = set()  # those that are neither
        self._is_running = False

    @staticmethod
    def of_this_run() -> IdleMonitor:
        try:
            return _watch.get()
        except LookupError:
            watch = IdleMonitor()
            _watch.set(watch)
            return watch

    def add(self, receiver: Receiver) -> None:
        """The application took a message just now, or is about to begin."""
        self._inboxes.add(receiver)
        if not self._is_running:
            trio.lowlevel.spawn_system_task(self._run)
            self._is_running = True

    async def _run(self) -> None:
        # An exception that left a system task would end the run.
        try:
            while self._inboxes:
                for receiver in self._inboxes:
                    receiver.begin_interval()
                await trio.sleep(_WATCH_INTERVAL)
                self._inboxes = set(filter(self._end_interval, self._inboxes))
        except Exception:
            logger.exception("the watch of idle connections failed; the next call starts it again")
        finally:
            self._is_running = False

    @staticmethod
    def _end_interval(receiver: Receiver) -> bool:
        try:
            return receiver.end_interval()
        except Exception as exc:
            receiver.fail(exc)
            return False


_watch: trio.lowlevel.RunVar[IdleMonitor] = trio.lowlevel.RunVar("trio_websocket_watch")
