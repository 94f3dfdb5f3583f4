"""Receiving from sockets."""

from __future__ import annotations

import contextlib
from typing import Iterator, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client
from support.streams import PAIRS
from support.tasks import Call
from trio_websocket._io.chunks import Unwritten
from trio_websocket._io.transport import Transport


class Steps(trio.abc.Instrument):
    """An instrument that records the tasks that run."""

    def __init__(self) -> None:
        self.tasks: set[trio.lowlevel.Task] = set()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.tasks.add(task)


@contextlib.contextmanager
def steps() -> Iterator[set[trio.lowlevel.Task]]:
    """Record the other tasks that run during the block."""
    instrument = Steps()
    trio.lowlevel.add_instrument(instrument)
    try:
        yield instrument.tasks
    finally:
        trio.lowlevel.remove_instrument(instrument)
        instrument.tasks.discard(trio.lowlevel.current_task())


async def test_get_message_on_socket_wakes_one_task(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    with steps() as tasks:
        await peer.send(peer.texts("message"))
        assert await getting.result() == "message"
    assert len(tasks) == 1


async def test_send_message_while_messages_are_unread_is_one_write(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    write_now = Transport.write_now
    writes: list[bytes] = []

    def note(transport: Transport, chunks: Sequence[bytes]) -> Unwritten | None:
        writes.append(b"".join(chunks))
        return write_now(transport, chunks)

    monkeypatch.setattr(Transport, "write_now", note)
    await peer.send(peer.texts("1", "2", "3"))
    for _ in range(3):
        await client.send_message(await client.get_message())
    assert [(await peer.receive_frame()).payload for _ in range(3)] == [b"1", b"2", b"3"]
    assert len(writes) == 1


async def test_get_message_cancelled_hands_reading_to_next_task(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    mock_clock.jump(0.02)
    await wait_all_tasks_blocked()  # now the connection's own task reads
    for number in range(2):  # that task may already decode the next message
        await peer.send(peer.texts(str(number)))
        assert await client.get_message() == str(number)
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    with steps() as tasks:
        await peer.send(peer.texts("2"))
        assert await getting.result() == "2"
    assert len(tasks) == 1


async def test_get_message_during_receive_stream_waits(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    await peer.send(peer.texts("1", "2", "3"))
    assert await client.get_message() == "1"
    async with client.receive_stream() as pieces:
        getting = Call(nursery, client.get_message)
        await wait_all_tasks_blocked()
        assert not getting.is_over
        assert [piece async for piece in pieces] == ["2"]
    assert await getting.result() == "3"


async def test_get_message_cancelled_at_arrival_loses_nothing(
    nursery: trio.Nursery,
) -> None:
    for kind in PAIRS:
        client, peer = await open_client(nursery, kind)
        getting = Call(nursery, client.get_message)
        await wait_all_tasks_blocked()
        nursery.start_soon(peer.send, peer.texts("message"))
        await trio.lowlevel.checkpoint()
        getting.scope.cancel()
        await wait_all_tasks_blocked()
        if getting.scope.cancelled_caught:
            assert await client.get_message() == "message"
        else:
            assert await getting.result() == "message"
