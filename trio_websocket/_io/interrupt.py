"""Handle KeyboardInterrupt like a cancellation.

The library's functions are protected from KeyboardInterrupt. In a protected function, Trio raises
it only where the function waits, which is also where the function can be cancelled. So it never
interrupts two lines that belong together. Application functions are called without protection.
"""

from __future__ import annotations

import inspect
from typing import Any, Awaitable, Callable, TypeVar

import trio

_T = TypeVar("_T")


@trio.lowlevel.disable_ki_protection
async def call_unprotected(function: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
    """Call an application's function. KeyboardInterrupt can be raised at any line of it."""
    return await function(*args, **kwargs)


@trio.lowlevel.disable_ki_protection
async def call_sync_or_async(function: Callable[..., Any], *args: Any) -> Any:
    """Like `call_unprotected`, but the application's function can be sync or async."""
    # A KeyboardInterrupt between two lines could leave a coroutine that is never awaited.
    return await result if inspect.isawaitable(result := function(*args)) else result


def raise_error(error: BaseException | None, *, handled: BaseException | None = None) -> None:
    """Raise an error, if there is one, without creating a reference cycle.

    An exception's traceback refers to stack frames. If a local variable in one of these frames
    refers to the exception, only the garbage collector can free them. So pass the result of a call
    directly, and don't store it in a variable.

    :param handled: The exception that was passed to the caller's `__aexit__`. It is not raised
        here, because Python raises it again by itself.
    """
    try:
        if error is not None and error is not handled:
            raise error
    finally:
        del error, handled


def raise_interrupt(exc: BaseException, handled: BaseException | None) -> None:
    """Raise the KeyboardInterrupt that was being handled when ``exc`` was raised, if any.

    :param handled: The exception that was already being handled before that. This exception and its
        context are ignored.
    """
    found: BaseException | None = exc
    while found is not None and found is not handled:
        if isinstance(found, KeyboardInterrupt):
            raise found
        found = found.__context__
