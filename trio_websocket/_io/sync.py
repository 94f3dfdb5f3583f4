"""Synchronization primitives that use no memory until a task waits.

A connection has about ten of these primitives, and usually no task waits for them. So a
`trio.lowlevel.ParkingLot`, which is an ordered dictionary, is created only when a task waits.

A call that need not wait makes no checkpoint, except `LazyEvent.wait`.
"""

from __future__ import annotations

from typing import Awaitable

import trio


class LazyParkingLot:
    """A `trio.lowlevel.ParkingLot` that is made when the first task parks."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None  # None or empty if no task waits

    def __len__(self) -> int:
        """Return the number of tasks that wait."""
        return 0 if self._lot is None else len(self._lot)

    def park(self) -> Awaitable[None]:
        """Wait to be woken. Await the result at once. If cancelled, nothing changes."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        return self._lot.park()

    def unpark(self) -> None:
        """Wake the task that has waited longest, if any."""
        if self._lot is not None:
            self._lot.unpark()

    def unpark_all(self) -> None:
        """Wake all tasks that wait."""
        if self._lot is not None:
            self._lot.unpark_all()
            self._lot = None


class FairLock(LazyParkingLot):
    """A FIFO lock; ``len()`` is the number of waiters.

    `pass_on` hands it to the first waiter, and `is_taken` stays True until that task runs. So no
    task that asks later can get ahead. Unlike `trio.StrictFIFOLock`, it doesn't know its owner, and
    costs nothing if no other task has it.
    """

    __slots__ = ("is_taken",)

    def __init__(self) -> None:
        super().__init__()
        #: True if a task has the lock, or is about to get it. If False, no task waits.
        self.is_taken: bool = False

    async def take(self) -> None:
        """Wait for the lock. If cancelled, nothing changes."""
        if self.is_taken:
            await self.park()  # until pass_on() in the task that has it
        self.is_taken = True

    def pass_on(self) -> None:
        """Release the lock: the task that has waited longest gets it."""
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
        #: True once the event is set; it is never reset. If True, no task waits.
        self.is_set: bool = False

    def set(self) -> None:
        """Set the event, and wake all tasks that wait for it."""
        self.is_set = True
        self.unpark_all()

    async def wait(self) -> None:
        """Wait until the event is set. If cancelled, nothing changes."""
        if self.is_set:
            await trio.lowlevel.checkpoint()
        else:
            await self.park()
