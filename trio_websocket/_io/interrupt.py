"""KeyboardInterrupt as a cancellation.

The library's functions are protected. Trio raises KeyboardInterrupt only where a protected function
waits, which is where it can be cancelled, too. So it never comes between two lines that belong
together. The application's functions are called without protection.
"""

from __future__ import annotations

import inspect
from typing import Any, Awaitable, Callable, TypeVar

import trio

_T = TypeVar("_T")


@trio.lowlevel.disable_ki_protection
async def call_unprotected(function: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
    """Call a function of the application. A KeyboardInterrupt may come at any line of it."""
    return await function(*args, **kwargs)


@trio.lowlevel.disable_ki_protection
async def call_sync_or_async(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the application that may be async, as `call_unprotected` does."""
    # One line: a KeyboardInterrupt between two lines could leave a coroutine that is never awaited.
    return await result if inspect.isawaitable(result := function(*args)) else result


def raise_error(error: BaseException | None, *, handled: BaseException | None = None) -> None:
    """Raise an error, if there is one, without making a reference cycle.

    An exception refers to the frames that it passed, and a frame may refer to its callers' frames.
    If a variable of one of these refers to the exception, only the garbage collector frees them.
    So pass the result of a call directly, and don't keep it in a variable.

    :param handled: The exception that the caller's `__aexit__` was called with. It is not raised
        here, because Python raises it again.
    """
    try:
        if error is not None and error is not handled:
            raise error
    finally:
        del error, handled


def raise_interrupt(exc: BaseException, handled: BaseException | None) -> None:
    """Raise the KeyboardInterrupt that was being handled when ``exc`` was raised, if any.

    :param handled: The exception that was being handled before. It and its context are ignored.
    """
    found: BaseException | None = exc
    while found is not None and found is not handled:
        if isinstance(found, KeyboardInterrupt):
            raise found
        found = found.__context__
