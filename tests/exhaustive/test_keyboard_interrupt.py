"""SIGINT strikes every scenario at lines of the library that the main task runs.

Where the line is not protected, a KeyboardInterrupt is raised there at once; where it is, Trio
raises it at the next checkpoint. Either way one KeyboardInterrupt comes out, the connection works
on or is closed as after a cancellation, and no task, stream or torn frame is left: see `harness`.

With ``KI_EVERY_LINE=1`` in the environment, each scenario is struck at each of its lines, which
takes long. Otherwise a line is struck once in all scenarios if it is protected.
"""

from __future__ import annotations

import logging
import os

import pytest

from support.harness import TRANSPORTS, perform
from support.interruptions import SIGNAL, Interruption, Line, Lines
from support.scenarios import SCENARIOS

pytestmark = pytest.mark.no_cover

_EVERY_LINE = bool(os.environ.get("KI_EVERY_LINE"))
# What depends on the transport. The rest is struck over memory streams, which take no time.
_FILES = {"transport.py", "send_queue.py", "receiver.py"}
_FILES_OF = {"tcp": _FILES | {"connect.py", "tcp.py"}, "tls": _FILES | {"tls.py"}}

_struck: set[tuple[str, Line]] = set()


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio-websocket")  # a record keeps what has failed


def lines_to_strike(lines: Lines, transport: str) -> list[int]:
    """The numbers of lines that were not struck yet."""
    chosen = []
    in_scenario: set[Line] = set()
    for at, line in enumerate(lines.seen):
        is_known = (transport, line) in _struck and line.is_protected
        if transport == "memory":
            is_wanted = line.file != "options.py" or not line.is_protected  # it keeps no state
        else:
            is_wanted = line.file in _FILES_OF[transport]
        if _EVERY_LINE or (line not in in_scenario and not is_known and is_wanted):
            chosen.append(at)
            in_scenario.add(line)
            _struck.add((transport, line))
    return chosen


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_sigint_at_each_line_ends_the_call(name: str, transport: str) -> None:
    undisturbed = Lines()
    assert not perform(SCENARIOS[name], transport, lines=undisturbed)
    for at in lines_to_strike(undisturbed, transport):
        perform(SCENARIOS[name], transport, Interruption(SIGNAL, at), lines=Lines(at))
