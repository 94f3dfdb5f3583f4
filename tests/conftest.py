from __future__ import annotations

import functools
import gc
import inspect
import signal
from typing import Any, Awaitable, Callable, Iterator

import pytest
import trio

from .peer import close_sockets

# Seconds after which a test that hangs fails, and shows where. With the clock that jumps it
# takes no time.
_LIMIT, _LIMIT_OF_JUMPING_CLOCK = 10, 1000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            is_jumping = "autojump_clock" in item.fixturenames
            item.obj = _limited(item.obj, _LIMIT_OF_JUMPING_CLOCK if is_jumping else _LIMIT)


def _limited(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        with trio.fail_after(seconds):
            await test(*args, **kwargs)

    return limited


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> Iterator[None]:
    """A shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """What was there before is not looked at each time that garbage is collected."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _sockets_are_closed() -> Iterator[None]:
    yield
    close_sockets()
