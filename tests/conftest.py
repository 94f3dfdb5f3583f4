from __future__ import annotations

import functools
import gc
import importlib
import inspect
import signal
from typing import Any, Awaitable, Callable, Iterator

import pytest
import trio

from support.streams import close_sockets, in_memory
from trio_websocket._sansio import deflate

# Seconds after which a test that hangs fails, and shows where. A busy machine takes ten times as
# long as a quiet one. With the clock that jumps it takes no time.
_LIMIT, _LIMIT_OF_JUMPING_CLOCK = 100, 1000

# What `-m quick` runs: mostly without sockets, and what differs between versions of Python.
_QUICK_FILES = {
    *("channel", "client", "codec", "connection", "deflate", "errors", "extensions", "frames"),
    *(
        "handshake",
        "impl",
        "receiver",
        "keep_alive",
        "sync",
        "options",
        "send_queue",
        "pacing",
        "pings",
    ),
    *("protocol", "server", "statistics", "tls", "tls_stream", "transport", "url"),
}


class _FailuresAtOnce:
    """Print the name of each test that fails when it fails; pytest does so at the end."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._reporter.ensure_newline()
            self._reporter.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)


@pytest.hookimpl(trylast=True)  # pytest makes its reporter in this hook, too
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.register(_FailuresAtOnce(reporter))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that are marked with kinds of streams over those that belong to the tier.

    tests/unit uses the streams in memory. tests/integration/test_unit_over_sockets.py runs the same
    functions over the rest.
    """
    is_unit = metafunc.module.__name__.startswith("tests.unit.")
    for mark in metafunc.definition.iter_markers("streams"):
        metafunc.parametrize("kind", [kind for kind in mark.args[0] if in_memory(kind) == is_unit])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem[len("test_") :] in _QUICK_FILES:
            item.add_marker("quick")
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


@pytest.fixture(params=["zlib", "zlib_ng.zlib_ng"], scope="module")
def zlib_library(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use each of the libraries that decompress."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(deflate, "zlib", importlib.import_module(request.param))
        except ImportError:
            pytest.skip("it is not installed")
        yield
