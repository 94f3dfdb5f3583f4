"""Objects that exist once for each run of Trio."""

from __future__ import annotations

from typing import Callable, Generic, TypeVar

import trio

_T = TypeVar("_T")


class RunLocal(Generic[_T]):
    """An object that all tasks of a run share. It is created when a task first needs it."""

    def __init__(self, name: str, make: Callable[[], _T]) -> None:
        """
        :param name: The name to show in `repr()`.
        :param make: A function that creates the object.
        """
        self._variable: trio.lowlevel.RunVar[_T] = trio.lowlevel.RunVar(f"trio_websocket: {name}")
        self._make = make

    def get(self) -> _T:
        """Return the object of the current run."""
        try:
            return self._variable.get()
        except LookupError:
            value = self._make()
            self._variable.set(value)
            return value
