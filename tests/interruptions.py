"""Ways to interrupt a call at its n-th step: cancel it, or let the network fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Awaitable, Callable, NamedTuple

import trio

from .peer import WrappedStream

if TYPE_CHECKING:
    from trio.abc import Stream

CANCELLATIONS = ("cancel", "cancel at any turn")
FAULTS = ("reset", "eof", "silence")


class Interruption(NamedTuple):
    """What happens, and at which step."""

    kind: str = "none"  # or one of CANCELLATIONS or FAULTS
    at: int = 0
    trickles: bool = False  # whether the peer writes one byte at a time

    @property
    def is_cancellation(self) -> bool:
        return self.kind in CANCELLATIONS

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


class Trigger:
    """Acts at the n-th step; at step 0, at once."""

    def __init__(self, at: int, action: Callable[[], object], *, at_any_turn: bool = False) -> None:
        self.fired_at: float | None = None
        self._task = trio.lowlevel.current_task()
        self._at_any_turn = at_any_turn
        self._action = action
        self._left = at
        if not at:
            self._fire()

    def step(self) -> None:
        self._left -= 1
        if not self._left:
            self._fire()

    def before_turn(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.step()

    def after_turn(self, task: trio.lowlevel.Task) -> None:
        if task is self._task or self._at_any_turn:
            self.step()

    def _fire(self) -> None:
        self.fired_at = trio.current_time()
        self._action()


class Steps(trio.abc.Instrument):
    """Counts the steps of the scheduler for triggers."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        for trigger in self.triggers:
            trigger.before_turn(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for trigger in self.triggers:
            trigger.after_turn(task)


class CountedStream(WrappedStream):
    """Says when a read or a write begins."""

    def __init__(self, stream: Stream, on_operation: Callable[[], object]) -> None:
        super().__init__(stream)
        self._on_operation = on_operation

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._on_operation()
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._on_operation()
        return await super().receive_some(max_bytes)


class FaultyStream(CountedStream):
    """From some moment on it fails, or ends, or never returns."""

    def __init__(self, stream: Stream, on_operation: Callable[[], object]) -> None:
        super().__init__(stream, on_operation)
        self.fault: str | None = None
        self._waiting: list[trio.CancelScope] = []

    def strike(self, fault: str) -> None:
        self.fault = fault
        for scope in self._waiting:
            scope.cancel()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._unless_struck(super().send_all, data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        received: bytes | bytearray
        received = await self._unless_struck(super().receive_some, max_bytes)
        return received

    async def _unless_struck(self, operation: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        if self.fault is None:
            with trio.CancelScope() as scope:
                self._waiting.append(scope)
                try:
                    return await operation(*args)
                finally:
                    self._waiting.remove(scope)
        if self.fault == "silence":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.fault == "eof":
            return b""
        raise trio.BrokenResourceError from ConnectionResetError("as the harness wants it")
