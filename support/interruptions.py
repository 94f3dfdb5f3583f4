"""Interruptions of a call at its n-th step: cancellation, a signal or a network fault."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple

import trio

import trio_websocket
from support.streams import WrappedStream

if TYPE_CHECKING:
    from types import FrameType

    from trio.abc import Stream

CANCELLATIONS = ("cancel", "cancel at any turn")
FAULTS = ("reset", "eof", "silence")
SIGNAL = "signal"  # SIGINT raises KeyboardInterrupt, at once or at the next checkpoint
_LIBRARY = str(Path(trio_websocket.__file__).parent)


class Interruption(NamedTuple):
    """An interruption and its step."""

    kind: str = "none"  # or one of CANCELLATIONS or FAULTS
    at: int = 0
    trickles: bool = False  # True if the peer writes one byte at a time

    @property
    def is_cancellation(self) -> bool:
        return self.kind in CANCELLATIONS

    @property
    def is_by_signal(self) -> bool:
        return self.kind == SIGNAL

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


class Trigger:
    """Call a function at the n-th step, or at once for step 0."""

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
    """Count the steps of the scheduler for triggers."""

    def __init__(self) -> None:
        self.triggers: list[Trigger] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        for trigger in self.triggers:
            trigger.before_turn(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        for trigger in self.triggers:
            trigger.after_turn(task)


class Line(NamedTuple):
    """A line of the library, and True if KeyboardInterrupt is deferred there."""

    file: str
    number: int
    is_protected: bool


class Lines:
    """Count the lines of the library that a task runs, and send SIGINT at the n-th."""

    def __init__(self, at: int | None = None) -> None:
        """:param at: The number of the line, from 0; None to send no signal."""
        self.seen: list[Line] = []
        self.trigger: Trigger | None = None
        self._at = at
        self._task: trio.lowlevel.Task | None = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count the lines that the current task runs in a block."""
        self._task = trio.lowlevel.current_task()
        if self._at is not None:
            self.trigger = Trigger(self._at + 1, self._interrupt)
        previous = sys.gettrace()
        # Without this reference, `_interrupt` would free the bound method that is calling it.
        trace_call = self._trace_call
        sys.settrace(trace_call)
        try:
            yield
        finally:
            sys.settrace(previous)

    @staticmethod
    def _interrupt() -> None:
        sys.settrace(None)  # tracing is slow
        signal.raise_signal(signal.SIGINT)

    def _trace_call(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename.startswith(_LIBRARY):
            return self._trace_line
        return None

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and trio.lowlevel.current_task() is self._task:
            if self.trigger is not None:
                self.trigger.step()
            else:
                is_protected = trio.lowlevel.currently_ki_protected()
                file = Path(frame.f_code.co_filename).name
                self.seen.append(Line(file, frame.f_lineno, is_protected))
        return self._trace_line


class CountedStream(WrappedStream):
    """Call a function when a read or a write begins."""

    def __init__(self, stream: Stream, on_operation: Callable[[], object]) -> None:
        super().__init__(stream)
        self._on_operation = on_operation

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._on_operation()
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._on_operation()
        return await super().receive_some(max_bytes)
