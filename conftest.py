from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import inspect
import os
import signal
import threading
import time
from typing import Any, Awaitable, Callable, Iterator

import pytest
import trio

from support import counterparts
from support.streams import close_sockets, in_memory
from trio_websocket._connection import lifecycle
from trio_websocket._sansio import deflate

# Seconds after which a test that hangs fails and shows where. A busy machine can take ten times as
# long as an idle one. With `autojump_clock` these are virtual seconds.
_LIMIT, _LIMIT_OF_JUMPING_CLOCK = 100, 1000

# How long the tests of each folder take on two idle cores, without coverage.
_SECONDS = {
    "tests/unit": 20,
    "tests/integration": 60,
    "tests/exhaustive": 65,
    "tests/slow": 45,
    "tools/tests": 20,
    "benchmarks/tests": 5,
}
# The additional time of tests/slow if `make counterparts` has unpacked the programs.
_SECONDS_OF_COUNTERPARTS = 30


class _Progress:
    """Print the expected duration, failures when they happen, and tests that take seconds.

    pytest prints failures at the end, and nothing while a test runs.
    """

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._stdout = os.dup(1)  # while a test runs, pytest captures what is written to 1

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        root = session.config.rootpath
        folders = {item.path.parent.relative_to(root).as_posix() for item in session.items}
        seconds = sum(_SECONDS.get(folder, 0) for folder in folders)
        if "tests/slow" in folders and counterparts.reason_to_skip() is None:
            seconds += _SECONDS_OF_COUNTERPARTS
        if len(session.items) > 1000 and not session.config.option.collectonly:
            self._reporter.write_line(
                f"Expected duration on two idle cores: {seconds} s, {2 * seconds} s with coverage"
            )

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.monotonic()

        def show() -> None:
            line = f"\n{time.monotonic() - start:.0f} s: {item.nodeid} "
            os.write(self._stdout, line.encode())

        # Unit tests are short, and a thread for each would take longer.
        with contextlib.nullcontext() if "unit" in item.path.parts else _every(5, show):
            yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._reporter.ensure_newline()
            self._reporter.write_line(f"FAILED {report.nodeid} ({report.when})", red=True)


@contextlib.contextmanager
def _every(seconds: float, function: Callable[[], object]) -> Iterator[None]:
    """Call a function in a thread at intervals until the block ends."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(seconds):
            function()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.hookimpl(trylast=True)  # pytest makes its reporter in this hook, too
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.register(_Progress(reporter))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that is marked with kinds of streams over the kinds that belong to its tier.

    tests/unit uses the streams in memory. tests/integration/test_unit_over_sockets.py runs the same
    functions over the rest.
    """
    is_unit = metafunc.module.__name__.startswith("tests.unit.")
    for mark in metafunc.definition.iter_markers("streams"):
        metafunc.parametrize("kind", [kind for kind in mark.args[0] if in_memory(kind) == is_unit])


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
    """Let Ctrl-C raise KeyboardInterrupt. A shell ignores SIGINT for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """Exclude the objects that exist already from garbage collection, which is then faster."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _sockets_are_closed() -> Iterator[None]:
    yield
    close_sockets()


@pytest.fixture
def patient_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection that fails write its last frame, however busy the machine is."""
    monkeypatch.setattr(lifecycle, "_WRITE_LAST_FRAME", 10)


@pytest.fixture(params=["zlib", "zlib_ng.zlib_ng"], scope="module")
def zlib_library(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test with each library that can decompress."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setattr(deflate, "zlib", importlib.import_module(request.param))
        except ImportError:
            pytest.skip("it is not installed")
        yield
