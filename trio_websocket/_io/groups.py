"""Split and unwrap exception groups, and choose the exception to raise."""

from __future__ import annotations

import sys
from typing import Callable

import trio

from .._sansio.errors import ConnectionClosed, DisconnectionTimeout

if sys.version_info < (3, 11):  # pragma: no cover # coverage is measured on a newer version
    from exceptiongroup import BaseExceptionGroup


def flatten_group(exc: BaseException) -> list[BaseException]:
    """Return the exceptions in a group and its subgroups, or ``exc`` itself if it isn't a group."""
    if not isinstance(exc, BaseExceptionGroup):
        return [exc]
    return [leaf for member in exc.exceptions for leaf in flatten_group(member)]


def exception_to_raise(error: BaseException | None, later: BaseException) -> BaseException:
    """Pick the exception to raise: the block's own, unless closing raised KeyboardInterrupt.

    :param error: The exception that the block raised, if any.
    :param later: The exception that closing raised afterwards.
    """
    return later if error is None or isinstance(later, KeyboardInterrupt) else error


def strip_closed(exc: BaseException) -> BaseException | None:
    """Return ``exc`` without `ConnectionClosed` and `DisconnectionTimeout`.

    :returns: None if nothing is left; a smaller group if ``exc`` is a group and a part of it is
        left.
    """
    lost = (ConnectionClosed, DisconnectionTimeout)
    if isinstance(exc, BaseExceptionGroup):
        dropped, rest = exc.split(lost)
        return exc if dropped is None else rest
    return None if isinstance(exc, lost) else exc


def split_group(
    exc: BaseException, is_match: Callable[[BaseException], bool]
) -> tuple[BaseException | None, BaseException | None]:
    """Split ``exc``, which can be a group, into the exceptions that match and the rest.

    :param is_match: A function that is called with each exception, but not with groups.
    """
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(
            lambda member: not isinstance(member, BaseExceptionGroup) and is_match(member)
        )
    return (exc, None) if is_match(exc) else (None, exc)


def split_exceptions(exc: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split ``exc`` into its errors and the rest, such as a cancellation or SystemExit."""
    if isinstance(exc, Exception):
        return exc, None
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(Exception)
    return None, exc


def unwrap_single(exc: BaseException) -> BaseException:
    """Return the only real error in a nursery's exception group, or ``exc`` itself.

    `trio.Cancelled` does not count as a real error. If ``exc`` is not a group, or contains more
    than one real error, it is returned unchanged.
    """
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    errors = [error for error in exc.exceptions if not isinstance(error, trio.Cancelled)]
    return errors[0] if len(errors) == 1 else exc


class UnwrappingGroups:
    """A context manager that unwraps a nursery's exception group if it has only one real error."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if exc is not None and unwrap_single(exc) is not exc:
            raise unwrap_single(exc) from None
