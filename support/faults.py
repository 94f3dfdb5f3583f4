"""A stream with faults: it splits, delays, stalls, resets, ends, corrupts or raises.

Each fault counts from a byte of one direction, so that a test can say where the network fails:

    stream = FaultyStream(ours, Fault.split(1), Fault.reset(at=300, direction="receive"))

A fault can also begin later, in the middle of a call: see `FaultyStream.strike`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Awaitable, Callable

import trio

from .streams import WrappedStream

if TYPE_CHECKING:
    from trio.abc import Stream

_FINAL = {"stall", "reset", "end", "fail"}  # after one of these no bytes pass


@dataclass(frozen=True)
class Fault:
    """A fault in one direction, or in both, from byte ``at`` on."""

    kind: str
    at: int = 0
    direction: str = "both"  # "send", "receive" or "both"
    size: int = 1
    seconds: float = 0
    error: Exception | None = None

    @classmethod
    def split(cls, size: int, **where: Any) -> Fault:
        """Pass at most ``size`` bytes at a time."""
        return cls("split", size=size, **where)

    @classmethod
    def delay(cls, seconds: float, **where: Any) -> Fault:
        """Sleep before each call."""
        return cls("delay", seconds=seconds, **where)

    @classmethod
    def corrupt(cls, **where: Any) -> Fault:
        """Change the byte ``at``."""
        return cls("corrupt", **where)

    @classmethod
    def stall(cls, **where: Any) -> Fault:
        """Never return."""
        return cls("stall", **where)

    @classmethod
    def reset(cls, **where: Any) -> Fault:
        """Raise `trio.BrokenResourceError`, as after a TCP reset."""
        return cls("reset", **where)

    @classmethod
    def end(cls, **where: Any) -> Fault:
        """Receive the end of the stream, and drop what is sent."""
        return cls("end", **where)

    @classmethod
    def fail(cls, error: Exception, **where: Any) -> Fault:
        """Raise an error of any kind."""
        return cls("fail", error=error, **where)


class FaultyStream(WrappedStream):
    """A stream that passes bytes on until one of its faults changes that."""

    def __init__(self, stream: Stream, *faults: Fault) -> None:
        super().__init__(stream)
        self.faults = list(faults)
        self._passed = {"send": 0, "receive": 0}
        self._calls: list[trio.CancelScope] = []

    def strike(self, fault: Fault) -> None:
        """Add a stall, reset, end or failure, and apply it to the calls in progress as well."""
        assert fault.kind in _FINAL
        self.faults.append(fault)
        for scope in self._calls:
            scope.cancel()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = bytes(data)
        while True:
            if await self._ends("send"):
                return
            chunk = rest[: self._limit("send", len(rest))]
            await self._call(self.stream.send_all, self._corrupted("send", chunk))
            if self._final_fault("send") is None:
                self._passed["send"] += len(chunk)
                rest = rest[len(chunk) :]
                if not rest:
                    return

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if await self._ends("receive"):
            return b""
        limit = self._limit("receive", max_bytes)
        data: bytes | bytearray | None = await self._call(self.stream.receive_some, limit)
        if await self._ends("receive"):  # it was struck meanwhile
            return b""
        assert data is not None
        data = self._corrupted("receive", data)
        self._passed["receive"] += len(data)
        return data

    def _active(self, direction: str, kinds: set[str]) -> list[Fault]:
        passed = self._passed[direction]
        return [
            fault
            for fault in self.faults
            if fault.kind in kinds and fault.direction in {direction, "both"} and fault.at <= passed
        ]

    def _final_fault(self, direction: str) -> Fault | None:
        return next(iter(self._active(direction, _FINAL)), None)

    async def _ends(self, direction: str) -> bool:
        """Apply delays and the first final fault; True at the end of the stream."""
        for fault in self._active(direction, {"delay"}):
            await trio.sleep(fault.seconds)
        final = self._final_fault(direction)
        if final is None:
            return False
        if final.kind == "stall":
            await trio.sleep_forever()
        if final.error is not None:
            raise final.error
        await trio.lowlevel.checkpoint()
        if final.kind == "reset":
            raise trio.BrokenResourceError from ConnectionResetError("the stream was reset")
        return True

    def _limit(self, direction: str, size: int | None) -> Any:
        """Return the size of a chunk that ends where the next fault begins."""
        passed = self._passed[direction]
        sizes = [fault.size for fault in self._active(direction, {"split"})]
        sizes += [
            fault.at - passed
            for fault in self.faults
            if fault.direction in {direction, "both"} and fault.at > passed
        ]
        return min([*sizes, *([] if size is None else [size])], default=None)

    def _corrupted(self, direction: str, data: bytes | bytearray) -> bytes | bytearray:
        changed = bytearray(data)
        for fault in self.faults:
            index = fault.at - self._passed[direction]
            is_here = fault.direction in {direction, "both"} and 0 <= index < len(data)
            if fault.kind == "corrupt" and is_here:
                changed[index] ^= 0xFF
        return bytes(changed) if changed != data else data

    async def _call(self, function: Callable[..., Awaitable[Any]], argument: Any) -> Any:
        """Call a function until it returns or a fault strikes; None in that case."""
        with trio.CancelScope() as scope:
            self._calls.append(scope)
            try:
                return await function(argument)
            finally:
                self._calls.remove(scope)
        return None
