"""Calls in separate tasks."""

from __future__ import annotations

import contextlib
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Generic,
    TypeVar,
)

import trio
import trio.testing

T = TypeVar("T")


class Call(Generic[T]):
    """A call in a separate task. It can be cancelled, and its outcome can be awaited."""

    def __init__(
        self, nursery: trio.Nursery, function: Callable[..., Awaitable[T]], *args: Any
    ) -> None:
        self.scope = trio.CancelScope()
        self._over = trio.Event()
        self._value: list[T] = []
        self._error: Exception | None = None
        nursery.start_soon(self._run, function, args)

    async def _run(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        try:
            with self.scope:
                self._value.append(await function(*args))
        except Exception as exc:
            self._error = exc
        finally:
            self._over.set()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def cancel(self) -> None:
        """Cancel the call, and wait until it is over."""
        self.scope.cancel()
        await self._over.wait()
        assert self.scope.cancelled_caught, f"it was over: {self._value or self._error!r}"

    async def result(self) -> T:
        """Wait for the call. Return its result, or raise its exception."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        (value,) = self._value
        return value


@contextlib.asynccontextmanager
async def turns_of_another() -> AsyncIterator[Callable[[], int]]:
    """Give a function that counts how often another, always runnable task ran in the block."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        yield lambda: turns
        nursery.cancel_scope.cancel()


def system_tasks() -> int:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return sum(len(nursery.child_tasks) for nursery in root.child_nurseries)
