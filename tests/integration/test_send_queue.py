"""The send queue of a connection over sockets."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.send_queues import (
    LARGE,
    running,
)
from support.streams import receive_exactly, reset, socket_pair, tcp_pair
from support.tasks import system_tasks
from trio_websocket._connection.send_queue import SendQueue
from trio_websocket._sansio.costs import STEPS_PER_TURN, WRITE_BATCH_BYTES

if TYPE_CHECKING:
    from support.streams import StreamPair


async def test_append_socket_has_room_writes_at_once(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(b"data")
        assert not nursery.child_tasks
        assert await receive_exactly(theirs, 4) == b"data"


async def test_append_starts_writer_only_while_data_waits(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        for _ in range(2):
            outbox.append(LARGE)
            assert len(nursery.child_tasks) == 1
            await receive_exactly(theirs, len(LARGE))
            await wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_flush_writes_corked_frames(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        await outbox.flush()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2) == b"12"


async def test_append_pong_after_partial_write_keeps_frame_whole(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        outbox.append_pong(b"pong")
        expected = LARGE + b"pong"
        assert await receive_exactly(theirs, len(expected)) == expected


async def test_append_reset_is_noticed(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    noted: list[None] = []
    with running(nursery, ours, lambda: noted.append(None)) as outbox:
        outbox.append(b"data")
        assert noted == [None]
        assert isinstance(outbox.broken, ConnectionResetError)


async def test_append_reset_while_waiting_is_noticed(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    noted: list[None] = []
    with running(nursery, ours, lambda: noted.append(None)) as outbox:
        outbox.append(LARGE)
        reset(theirs)
        await outbox.flush()
        assert noted == [None]
        assert isinstance(outbox.broken, ConnectionResetError)


async def test_stop_drops_corked_frames(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.stop()
        outbox.uncork()
    await ours.aclose()
    assert await receive_exactly(theirs, 1) == b"1"
    assert await theirs.receive_some() == b""


async def test_stop_does_not_count_unwritten_bytes(
    nursery: trio.Nursery,
) -> None:
    ours, _ = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        written = outbox.written
        assert 0 < written < len(LARGE)
        outbox.stop()
        assert outbox.written == written


async def test_append_failed_write_does_not_count(nursery: trio.Nursery) -> None:
    for before in ([], [b"1"], [b"1", b"2"]):
        ours, theirs = await socket_pair()
        with running(nursery, ours) as outbox:
            for data in before:
                outbox.append_message(data)
            await theirs.aclose()
            outbox.append(b"lost")
            assert outbox.written == len(before[:1])


async def test_append_message_first_is_written_others_are_corked(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        assert await theirs.receive_some() == b"1"
        for data in (b"2", b"3", b"4"):
            outbox.append_message(data)
        assert outbox.unsent == (3, 3)
        assert await theirs.receive_some() == b"234"
        assert outbox.unsent == (0, 0)


async def test_cork_ends_writes_corked_frames(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.uncork()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2) == b"12"


async def test_append_now_writes_corked_frames_first(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append(b"3")
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 3) == b"123"


async def test_cork_at_high_water_mark_writes(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(bytes(WRITE_BATCH_BYTES))
        assert outbox.unsent == (1, WRITE_BATCH_BYTES)
        outbox.append_message(b"2")
        assert outbox.unsent[1] < WRITE_BATCH_BYTES
        assert (
            await receive_exactly(theirs, WRITE_BATCH_BYTES + 2)
            == b"1" + bytes(WRITE_BATCH_BYTES) + b"2"
        )


@pytest.mark.parametrize("size", [11, 60])
async def test_cork_at_max_unsent_writes(nursery: trio.Nursery, size: int) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours, max_unsent=10) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append_message(bytes(size))
        await outbox.wait_room()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2 + size) == b"12" + bytes(size)


async def test_cork_beyond_one_write_writes(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await tcp_pair()
    with running(nursery, ours, max_unsent=10 * WRITE_BATCH_BYTES) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(bytes(WRITE_BATCH_BYTES))
        assert outbox.unsent == (1, WRITE_BATCH_BYTES)
        outbox.append_message(b"2")
        assert outbox.unsent[1] < WRITE_BATCH_BYTES
        assert (
            await receive_exactly(theirs, WRITE_BATCH_BYTES + 2)
            == b"1" + bytes(WRITE_BATCH_BYTES) + b"2"
        )


async def test_append_message_after_now_is_corked(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append(b"3")
        outbox.append_message(b"4")
        assert outbox.unsent == (1, 1)
        assert await receive_exactly(theirs, 4) == b"1234"


async def test_append_message_after_uncork_is_written_at_once(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        for turn in (b"12", b"34"):
            outbox.append_message(turn[:1])
            assert outbox.unsent == (0, 0)
            outbox.append_message(turn[1:])
            assert outbox.unsent == (1, 1)
            assert await receive_exactly(theirs, 2) == turn


@pytest.mark.parametrize("count", [2, 20], ids=["taken", "not taken"])
async def test_append_large_message_follows_corked_frames(
    nursery: trio.Nursery, count: int
) -> None:
    ours, theirs = await socket_pair()
    pieces = [bytes([number]) * (WRITE_BATCH_BYTES - 1) for number in range(count)]
    expected = b"".join([b"12", *pieces])
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append(*pieces)
        assert await receive_exactly(theirs, len(expected)) == expected


async def test_uncork_many_queues_lets_other_tasks_run(
    nursery: trio.Nursery,
) -> None:
    pairs = [await socket_pair() for _ in range(4 * STEPS_PER_TURN)]
    with contextlib.ExitStack() as stack:
        outboxes = [stack.enter_context(running(nursery, ours)) for ours, _ in pairs]
        for _ in range(2):
            for outbox in outboxes:
                outbox.append_message(b"1")
                outbox.append_message(b"2")
            turns = 0
            while any(outbox.unsent[1] for outbox in outboxes):
                await trio.lowlevel.checkpoint()
                turns += 1
            assert turns >= 4


async def test_uncork_one_task_writes_for_all_queues(nursery: trio.Nursery) -> None:
    pairs = [await socket_pair() for _ in range(3)]
    with contextlib.ExitStack() as stack:
        outboxes = [stack.enter_context(running(nursery, ours)) for ours, _ in pairs]
        before = system_tasks()
        for _ in range(2):
            for outbox in outboxes:
                outbox.append_message(b"1")
                outbox.append_message(b"2")
            assert system_tasks() == before + 1
            await wait_all_tasks_blocked()


async def test_uncork_frames_corked_meanwhile_are_written(nursery: trio.Nursery) -> None:
    pairs = [await socket_pair() for _ in range(STEPS_PER_TURN + 1)]
    ours, theirs = await socket_pair()
    with contextlib.ExitStack() as stack:
        outboxes = [stack.enter_context(running(nursery, ours)) for ours, _ in pairs]
        late = stack.enter_context(running(nursery, ours))
        for outbox in outboxes:
            outbox.append_message(b"1")
            outbox.append_message(b"2")
        while outboxes[0].unsent[1]:
            await trio.lowlevel.checkpoint()
        late.append_message(b"1")
        late.append_message(b"2")
        assert await receive_exactly(theirs, 2) == b"12"


def test_uncork_frames_corked_as_run_ends_are_written() -> None:
    async def work_on(is_at_work: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            pairs = [await socket_pair() for _ in range(STEPS_PER_TURN + 2)]
            with contextlib.ExitStack() as stack:
                outboxes = [stack.enter_context(running(nursery, ours)) for ours, _ in pairs]
                keep_back(*outboxes)
                await receive_each(pairs)
                is_at_work.set()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        for some in (outboxes[:1], outboxes[1:], outboxes):
                            keep_back(*some)
                            await trio.lowlevel.checkpoint()
                        await receive_each(pairs)
                        over.append(True)

    def keep_back(*outboxes: SendQueue) -> None:
        for outbox in outboxes:
            outbox.append_message(b"1")
            outbox.append_message(b"2")

    async def receive_each(pairs: list[StreamPair]) -> None:
        for _, theirs in pairs:
            data = await receive_exactly(theirs, 2)
            assert not data.strip(b"12")

    async def main() -> None:
        is_at_work = trio.Event()
        trio.lowlevel.spawn_system_task(work_on, is_at_work)
        await is_at_work.wait()

    over: list[bool] = []
    for _ in range(10):  # the order of Trio's system tasks is random
        trio.run(main)
    assert len(over) == 10


async def test_uncork_leaves_no_reference_to_queue(
    nursery: trio.Nursery,
) -> None:
    ours, _ = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        await wait_all_tasks_blocked()
    is_kept = weakref.ref(ours)
    del ours, outbox
    assert is_kept() is None


async def test_append_message_peer_gone_corks_nothing(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    broken: list[str] = []
    with running(nursery, ours, lambda: broken.append("broken")) as outbox:
        outbox.append_message(b"1")
        await theirs.aclose()
        outbox.append_message(b"2")
        outbox.uncork()
        outbox.append_message(b"3")
        outbox.append_message(b"4")
        outbox.cork()
        outbox.append_message(b"5")
        assert outbox.unsent == (0, 0)
        assert broken == ["broken"]


async def test_append_message_after_failed_write_corks_nothing(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    broken: list[str] = []
    with running(nursery, ours, lambda: broken.append("broken")) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        await theirs.aclose()
        outbox.append(b"3")
        outbox.append_message(b"4")
        assert outbox.unsent == (0, 0)
        assert broken == ["broken"]


async def test_append_message_after_stop_corks_nothing(nursery: trio.Nursery) -> None:
    ours, _ = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.stop()
        outbox.append_message(b"2")
        outbox.cork()
        outbox.append_message(b"3")
        assert outbox.unsent == (0, 0)
