"""Exception groups, and which of several exceptions to raise."""

from __future__ import annotations

import sys
from typing import Sequence

import trio

from .._sansio.errors import ConnectionClosed, DisconnectionTimeout

if sys.version_info < (3, 11):  # pragma: no cover # coverage is measured on a newer one
    from exceptiongroup import BaseExceptionGroup


def group_members(exc: BaseException) -> Sequence[BaseException]:
    """The exceptions in a group; or the one that is no group."""
    return exc.exceptions if isinstance(exc, BaseExceptionGroup) else (exc,)


def flatten_group(exc: BaseException) -> list[BaseException]:
    """The exceptions in a group and in the groups in it; or the one that is no group."""
    if not isinstance(exc, BaseExceptionGroup):
        return [exc]
    return [leaf for member in exc.exceptions for leaf in flatten_group(member)]


def exception_to_raise(error: BaseException | None, later: BaseException) -> BaseException:
    """What is to be raised of what a block has raised, if anything, and what closing raised then.

    It is the first, but Ctrl-C gets through.
    """
    return later if error is None or isinstance(later, KeyboardInterrupt) else error


def strip_closed(exc: BaseException) -> BaseException | None:
    """What is left of ``exc``, or of the group it is, without the news of a lost connection."""
    lost = (ConnectionClosed, DisconnectionTimeout)
    if isinstance(exc, BaseExceptionGroup):
        news, rest = exc.split(lost)
        return exc if news is None else rest
    return None if isinstance(exc, lost) else exc


def split_exceptions(exc: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What in ``exc`` is an error, and what in it is not: a cancellation, an exit."""
    if isinstance(exc, Exception):
        return exc, None
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(Exception)
    return None, exc


def unwrap_single(exc: BaseException) -> BaseException:
    """Unwrap a nursery's exception group if it holds exactly one real error."""
    errors = [error for error in group_members(exc) if not isinstance(error, trio.Cancelled)]
    return errors[0] if len(errors) == 1 else exc


class UnwrappingGroups:
    """A block out of which a nursery's exception group comes unwrapped."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if exc is not None and unwrap_single(exc) is not exc:
            raise unwrap_single(exc) from None
