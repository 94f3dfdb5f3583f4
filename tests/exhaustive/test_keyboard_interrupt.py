"""Send SIGINT in every scenario, at lines of the library that the main task runs.

At an unprotected line, KeyboardInterrupt is raised at once. At a protected line, Trio raises it at
the next checkpoint. In both cases a single KeyboardInterrupt is raised. The connection stays
usable, or is closed as after a cancellation. No task, stream or torn frame is left: see
`support.harness`.

With ``KI_EVERY_LINE=1`` in the environment, each scenario is interrupted at each of its lines,
which takes long. Otherwise each protected line is interrupted once in all scenarios.
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
# The files that depend on the transport. The rest is tested over memory streams, which are fast.
_FILES = {"transport.py", "send_queue.py", "receiver.py"}
_FILES_OF = {"tcp": _FILES | {"connect.py", "tcp.py"}, "tls": _FILES | {"tls.py"}}

_struck: set[tuple[str, Line]] = set()


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio-websocket")  # a record refers to the exception


def lines_to_strike(lines: Lines, transport: str) -> list[int]:
    """Yield the numbers of lines that were not interrupted yet."""
    chosen = []
    in_scenario: set[Line] = set()
    for at, line in enumerate(lines.seen):
        is_known = (transport, line) in _struck and line.is_protected
        if transport == "memory":
            is_wanted = line.file != "options.py" or not line.is_protected  # that file has no state
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
