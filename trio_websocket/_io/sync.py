"""Synchronization primitives that use no memory until a task waits.

A connection has about ten of these primitives, and usually no task is waiting for them. So a
`trio.lowlevel.ParkingLot`, which contains an ordered dictionary, is created only when a task waits.

A call that does not have to wait does not execute a checkpoint, except `LazyEvent.wait`.
"""

from __future__ import annotations

from typing import Awaitable

import trio


class LazyParkingLot:
    """A `trio.lowlevel.ParkingLot` that is created when the first task parks."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None  # None or empty if no task is waiting

    def __len__(self) -> int:
        """Return the number of waiting tasks."""
        return 0 if self._lot is None else len(self._lot)

    def park(self) -> Awaitable[None]:
        """Wait until another task unparks this one. Await the result immediately.

        If cancelled, nothing changes.
        """
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        return self._lot.park()

    def unpark(self) -> None:
        """Wake the task that has been waiting longest, if any."""
        if self._lot is not None:
            self._lot.unpark()

    def unpark_all(self) -> None:
        """Wake all waiting tasks."""
        if self._lot is not None:
            self._lot.unpark_all()
            self._lot = None


class FairLock(LazyParkingLot):
    """A FIFO lock; ``len()`` is the number of waiters.

    `pass_on` hands the lock to the first waiter, and `is_taken` stays True in the meantime. So no
    task that calls `take` later can get ahead. Unlike `trio.StrictFIFOLock`, this lock doesn't
    record its owner, and taking it costs nothing if no other task holds it.
    """

    __slots__ = ("is_taken",)

    def __init__(self) -> None:
        super().__init__()
        #: True if a task holds the lock or is about to get it. If False, no task is waiting.
        self.is_taken: bool = False

    async def take(self) -> None:
        """Wait for the lock. If cancelled, nothing changes."""
        if self.is_taken:
            await self.park()  # until the task that holds the lock calls pass_on()
        self.is_taken = True

    def pass_on(self) -> None:
        """Release the lock, and hand it to the task that has been waiting longest, if any."""
        if self:
            self.unpark()
        else:
            self.is_taken = False

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *exc_info: object) -> None:
        self.pass_on()


class LazyEvent(LazyParkingLot):
    """A `trio.Event` that uses no memory until a task waits for it."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        super().__init__()
        #: True once the event has been set; it is never cleared. If True, no task is waiting.
        self.is_set: bool = False

    def set(self) -> None:
        """Set the event, and wake all tasks that are waiting for it."""
        self.is_set = True
        self.unpark_all()

    async def wait(self) -> None:
        """Wait until the event is set. If cancelled, nothing changes."""
        if self.is_set:
            await trio.lowlevel.checkpoint()
        else:
            await self.park()
