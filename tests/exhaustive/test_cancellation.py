"""Cancel every scenario at each of its checkpoints, and strike it by each fault, on each transport.

These tests do as much of this as a few seconds allow. `make soak` tests any role, step and order.
"""

from __future__ import annotations

import collections
import gc
import logging
import socket
from pathlib import Path
from typing import Awaitable, Callable, Iterator

import pytest
import trio

from support.frames import CLOSE, CONTINUATION, PING, TEXT, frame
from support.harness import TRANSPORTS, Scenario, Stage, perform, sweep
from support.interruptions import FAULTS, Interruption
from support.peer import accepting, read_head
from support.scenarios import SCENARIOS
from support.strict_peer import Violation
from trio_websocket import WebSocketConnection

# If both roles have the same scenario, only one of them runs over each transport.
_ROLES = {"memory": "client", "tcp": "server", "tls": "client"}
_roles_of = collections.Counter(scenario.play for scenario in SCENARIOS.values())

pytestmark = pytest.mark.no_cover

each = pytest.mark.parametrize(
    ("name", "transport"),
    [
        (name, transport)
        for name, scenario in SCENARIOS.items()
        for transport in TRANSPORTS
        if _roles_of[scenario.play] == 1 or scenario.role == _ROLES[transport]
    ],
)


def all_then_fewer(count: int) -> Iterator[int]:
    """Yield the first `count` steps, and then fewer and fewer."""
    yield from range(count)
    while True:
        yield count
        count += 2 * count + 1


@pytest.fixture(scope="module", autouse=True)
def _no_connection_is_left(frozen_heap: None) -> Iterator[None]:
    yield
    gc.collect()
    assert not [item for item in gc.get_objects() if isinstance(item, WebSocketConnection)]


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio-websocket")  # a record refers to the exception


@each
def test_scenario_undisturbed_keeps_promises(name: str, transport: str) -> None:
    assert not perform(SCENARIOS[name], transport)


@each
def test_scenario_one_byte_at_a_time_keeps_promises(name: str, transport: str) -> None:
    assert not perform(SCENARIOS[name], transport, Interruption(trickles=True))


@each
def test_scenario_cancelled_at_each_checkpoint(name: str, transport: str) -> None:
    assert sweep(SCENARIOS[name], transport, "cancel", all_then_fewer(15))


@each
def test_scenario_cancelled_while_waiting(name: str, transport: str) -> None:
    assert sweep(SCENARIOS[name], transport, "cancel at any turn", all_then_fewer(1))


@each
@pytest.mark.parametrize("fault", FAULTS)
def test_scenario_struck_by_network_fault(name: str, transport: str, fault: str) -> None:
    assert sweep(SCENARIOS[name], transport, fault, all_then_fewer(1))


# -- faults that the harness must find


def finds(play: Callable[[Stage], Awaitable[None]], kind: str = "none", at: int = 0) -> str:
    """Check that the harness finds this fault in a scenario."""
    scenario = Scenario("wrong", "server", play)
    with pytest.raises(Violation) as excinfo:
        perform(scenario, "memory", Interruption(kind, at))
    return str(excinfo.value)


async def shielded_sleep(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


def test_perform_finds_task_left() -> None:
    async def play(stage: Stage) -> None:
        stage.nursery.start_soon(trio.sleep_forever)

    assert "it hangs:\n" in finds(play)


def test_perform_finds_system_task_left() -> None:
    async def play(stage: Stage) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)

    assert "tasks are left" in finds(play)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="descriptors can't be counted")
def test_perform_finds_descriptor_left() -> None:
    kept = []

    async def play(stage: Stage) -> None:
        kept.append(socket.socket())

    assert "descriptors are left" in finds(play)
    kept.pop().close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_perform_finds_unraisable_exception() -> None:
    async def play(stage: Stage) -> None:
        trio.sleep(1)  # type: ignore[unused-coroutine] # noqa: ASYNC105 # as it says

    assert "was never awaited" in finds(play)


def test_perform_finds_error_instead_of_cancelled() -> None:
    async def play(stage: Stage) -> None:
        await stage.act(fail)

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("it")

    assert "KeyError: 'it'" in finds(play, "cancel", 1)


def test_perform_finds_cancelled_call_that_hangs() -> None:
    async def play(stage: Stage) -> None:
        await stage.act(lambda: shielded_sleep(1))

    assert "it ended 1.000 s after its cancellation" in finds(play, "cancel", 1)


def test_perform_finds_timeout_exceeded() -> None:
    async def play(stage: Stage) -> None:
        await stage.act(lambda: shielded_sleep(70), is_bounded=True)

    assert "it took 70.0 s" in finds(play, "silence")


def test_perform_finds_undocumented_error() -> None:
    async def play(stage: Stage) -> None:
        await stage.act(fail)

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    assert "BrokenResourceError" in finds(play, "reset")


@pytest.mark.parametrize(
    ("expected", "received"), [("ab", "a"), ("ab", "b"), ("ab", "ba"), ("a", "aa")]
)
def test_perform_finds_wrong_messages(expected: str, received: str) -> None:
    async def play(stage: Stage) -> None:
        stage.expect(list(expected), list(received))

    assert "arrived of" in finds(play)


def test_perform_finds_missing_close_frame() -> None:
    async def play(stage: Stage) -> None:
        await say(stage, b"")

    assert "the peer saw no Close frame" in finds(play)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (frame(TEXT, b"a", mask=True), "a mask"),
        (frame(TEXT, b"a", rsv=4), "reserved bits"),
        (b"\x81\x7e\x00\x01a", "not the shortest"),
        (frame(3), "an unknown opcode"),
        (frame(PING, bytes(126)), "a control frame"),
        (frame(PING, fin=False), "a control frame"),
        (frame(CONTINUATION), "a fragment astray"),
        (frame(TEXT, fin=False) + frame(TEXT), "a fragment astray"),
        (frame(TEXT, b"\xff"), "UnicodeDecodeError"),
        (frame(CLOSE) + frame(PING), "behind a Close frame"),
        (frame(CLOSE)[:1], "a torn frame"),
        (frame(TEXT, b"a", fin=False), "a torn frame or message"),
    ],
)
def test_perform_finds_bad_frame(data: bytes, finding: str) -> None:
    async def play(stage: Stage) -> None:
        await say(stage, data)

    assert finding in finds(play)


async def say(stage: Stage, data: bytes) -> None:
    """Be a server that sends the data, and ends the stream."""
    ours, theirs = await stage.streams()
    peer = stage.peer()
    stage.peers.start_soon(peer.run, theirs)
    request, _ = await read_head(ours)
    await ours.send_all(accepting(request) + data)
    await ours.aclose()
    stage.has_opened = True
