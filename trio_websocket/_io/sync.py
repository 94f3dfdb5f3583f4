"""Where tasks wait for one another."""

from __future__ import annotations

from typing import Awaitable

import trio


class LazyParkingLot:
    """A `trio.lowlevel.ParkingLot` that takes memory, and time, only while somebody is in it."""

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None

    def __len__(self) -> int:
        """How many tasks are in it."""
        return 0 if self._lot is None else len(self._lot)

    def park(self) -> Awaitable[None]:
        """Wait to be woken, once it is awaited, which is to be at once.

        If cancelled, nothing has happened.
        """
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        return self._lot.park()

    def unpark(self) -> None:
        """Wake the task that has waited longest."""
        if self._lot is not None:
            self._lot.unpark()

    def unpark_all(self) -> None:
        """Wake all of them."""
        if self._lot is not None:
            self._lot.unpark_all()
            self._lot = None


class FairLock(LazyParkingLot):
    """What one task has at a time; in it are those that wait for it.

    Unlike with a `trio.StrictFIFOLock`, no time is spent where nobody else has it.
    """

    __slots__ = ("is_taken",)

    def __init__(self) -> None:
        super().__init__()
        #: Whether some task has it.
        self.is_taken: bool = False

    async def take(self) -> None:
        """Wait for it. If cancelled, nothing has happened."""
        if self.is_taken:
            await self.park()  # until it is passed on
        self.is_taken = True

    def pass_on(self) -> None:
        """Give it to the task that has waited longest, if any."""
        if self:
            self.unpark()
        else:
            self.is_taken = False

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *exc_info: object) -> None:
        self.pass_on()


class LazyEvent(LazyParkingLot):
    """A `trio.Event` that takes memory only while somebody waits for it."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        super().__init__()
        #: Whether it is set, which stays so.
        self.is_set: bool = False

    def set(self) -> None:
        """Set it, and wake all who wait for it."""
        self.is_set = True
        self.unpark_all()

    async def wait(self) -> None:
        """Wait until it is set. If cancelled, nothing has happened."""
        if self.is_set:
            await trio.lowlevel.checkpoint()
        else:
            await self.park()
