from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, AsyncIterator, Awaitable, Callable, Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.peer import (
    PAIRS,
    Call,
    WrappedStream,
    lockstep_pair,
    memory_pair,
    receive_exactly,
    reset,
    socket_pair,
    system_tasks,
    tcp_pair,
)
from trio_websocket._connection.send_queue import HIGH_WATER, SendQueue
from trio_websocket._io.pacing import FAIRNESS
from trio_websocket._io.transport import Transport

if TYPE_CHECKING:
    from trio.abc import Stream

    from tests.support.peer import StreamPair

LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes


@contextlib.contextmanager
def running(
    nursery: trio.Nursery,
    stream: Stream,
    on_broken: Callable[[], object] = int,
    *,
    max_unsent: float = HIGH_WATER,
) -> Iterator[SendQueue]:
    """An outbox at work."""
    outbox = SendQueue(Transport(stream, None), on_broken, max_unsent=max_unsent)
    outbox.start(nursery)
    try:
        yield outbox
    finally:
        outbox.stop()


class RecordingStream(WrappedStream):
    """Notes each write; a write goes on when it is allowed to."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.writes: list[bytes] = []
        self.gate = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        await self.gate.wait()


@contextlib.asynccontextmanager
async def held(
    nursery: trio.Nursery, first: bytes
) -> AsyncIterator[tuple[SendQueue, RecordingStream]]:
    """An outbox whose first write is under way and held up."""
    stream = RecordingStream((await memory_pair())[0])
    with running(nursery, stream) as outbox:
        outbox.append(first)
        await wait_all_tasks_blocked()
        assert stream.writes == [first]
        yield outbox, stream


# -- writing


@pytest.mark.streams(PAIRS)
async def test_what_is_appended_is_written_in_order(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    pieces = [b"first", LARGE, b"third", LARGE[:50000], LARGE[:50000], b"last"]
    everything = b"".join(pieces)
    with running(nursery, ours) as outbox:
        for piece in pieces:
            outbox.append(piece)
        assert await receive_exactly(theirs, len(everything)) == everything
        outbox.append(b"later")
        assert await receive_exactly(theirs, 5) == b"later"


async def test_what_a_socket_takes_is_written_without_another_task(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(b"data")
        assert not nursery.child_tasks
        assert await receive_exactly(theirs, 4) == b"data"


async def test_a_socket_has_a_writer_only_while_something_waits(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        for _ in range(2):
            outbox.append(LARGE)
            assert len(nursery.child_tasks) == 1
            await receive_exactly(theirs, len(LARGE))
            await wait_all_tasks_blocked()
            assert not nursery.child_tasks


async def test_small_frames_leave_in_one_write_and_large_ones_alone(nursery: trio.Nursery) -> None:
    large = bytes(HIGH_WATER)
    async with held(nursery, b"first") as (outbox, stream):
        for data in (b"a", b"b", large, b"c", b"d"):
            outbox.append(data)
        stream.gate.set()
        await outbox.flush()
        assert stream.writes == [b"first", b"ab", large, b"cd"]


@pytest.mark.streams(PAIRS)
async def test_a_cancelled_nursery_does_not_end_a_write(kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    async with trio.open_nursery() as nursery:
        with running(nursery, ours) as outbox, trio.CancelScope(shield=True):
            outbox.append(LARGE)
            await receive_exactly(theirs, 1000)
            nursery.cancel_scope.cancel()
            assert await receive_exactly(theirs, len(LARGE) - 1000) == LARGE[1000:]
            outbox.append(b"more")
            assert await receive_exactly(theirs, 4) == b"more"


# -- waiting


@pytest.mark.parametrize(("size", "is_full"), [(HIGH_WATER, False), (HIGH_WATER + 1, True)])
async def test_it_is_full_above_the_high_water_mark(
    nursery: trio.Nursery, size: int, is_full: bool
) -> None:
    async with held(nursery, b"x") as (outbox, _):
        outbox.append(bytes(size - 1))
        assert outbox.is_full == is_full


async def test_wait_room_waits_until_it_is_not_full(nursery: trio.Nursery) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        outbox.append(bytes(HIGH_WATER))
        await outbox.wait_room()
        outbox.append(b"x")
        waiting = Call(nursery, outbox.wait_room)
        await wait_all_tasks_blocked()
        assert not waiting.is_over
        await receive_exactly(theirs, HIGH_WATER)
        await waiting.result()


async def test_wait_room_waits_on_while_it_is_still_full(nursery: trio.Nursery) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        for _ in range(3):
            outbox.append(bytes(HIGH_WATER))
        waiting = Call(nursery, outbox.wait_room)
        await receive_exactly(theirs, HIGH_WATER)
        await wait_all_tasks_blocked()
        assert outbox.is_full
        assert not waiting.is_over
        await receive_exactly(theirs, HIGH_WATER)
        await waiting.result()


async def test_flush_waits_until_all_is_written(nursery: trio.Nursery) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        await outbox.flush()
        outbox.append(b"01")
        flushing = Call(nursery, outbox.flush)
        await receive_exactly(theirs, 1)
        await wait_all_tasks_blocked()
        assert not flushing.is_over
        await receive_exactly(theirs, 1)
        await flushing.result()


@pytest.mark.parametrize("wait", [SendQueue.wait_room, SendQueue.flush])
async def test_a_cancelled_wait_leaves_what_is_to_be_written(
    nursery: trio.Nursery, wait: Callable[[SendQueue], Awaitable[None]]
) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        waiting = Call(nursery, wait, outbox)
        await receive_exactly(theirs, 1000)
        await waiting.cancel()
        assert await receive_exactly(theirs, len(LARGE) - 1000) == LARGE[1000:]


async def test_flush_writes_what_is_kept_back(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        await outbox.flush()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2) == b"12"


# -- pongs


@pytest.mark.streams(PAIRS)
async def test_a_pong_is_written_at_once_where_nothing_waits(
    nursery: trio.Nursery, kind: str
) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        outbox.append_pong(b"pong")
        assert await receive_exactly(theirs, 4) == b"pong"


async def test_of_pongs_that_wait_only_the_latest_is_written(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"second")
        for number in range(1000):
            outbox.append_pong(b"[%d]" % number)
        stream.gate.set()
        await outbox.flush()
        written = b"".join(stream.writes)
        assert written.count(b"[") == 1
        assert b"[999]" in written


async def test_pongs_that_wait_for_a_peer_that_does_not_read_take_no_room(
    nursery: trio.Nursery,
) -> None:
    async with held(nursery, b"first") as (outbox, _):
        for _ in range(1000):
            outbox.append_pong(bytes(127))
        assert not outbox.is_full


async def test_a_pong_does_not_wait_behind_all_that_waits(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        for _ in range(3):
            outbox.append(bytes(HIGH_WATER))
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert b"pong" in stream.writes[1]


async def test_a_pong_that_had_to_wait_is_written_once(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        for _ in range(3):
            outbox.append(bytes(HIGH_WATER - 1))
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert b"".join(stream.writes).count(b"pong") == 1


async def test_a_pong_that_waits_leaves_before_what_was_appended_after_it(
    nursery: trio.Nursery,
) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"message")
        outbox.append_pong(b"pong")
        outbox.append(b"close")
        stream.gate.set()
        await outbox.flush()
        assert b"".join(stream.writes).endswith(b"close")


async def test_a_pong_does_not_tear_a_frame_of_which_a_socket_took_a_part(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        outbox.append_pong(b"pong")
        expected = LARGE + b"pong"
        assert await receive_exactly(theirs, len(expected)) == expected


# -- the end


async def test_a_reset_is_noticed_when_something_is_appended(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    reset(theirs)
    noted: list[None] = []
    with running(nursery, ours, lambda: noted.append(None)) as outbox:
        outbox.append(b"data")
        assert noted == [None]
        assert isinstance(outbox.broken, ConnectionResetError)


async def test_a_reset_is_noticed_while_something_waits(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    noted: list[None] = []
    with running(nursery, ours, lambda: noted.append(None)) as outbox:
        outbox.append(LARGE)
        reset(theirs)
        await outbox.flush()
        assert noted == [None]
        assert isinstance(outbox.broken, ConnectionResetError)


async def test_any_error_of_a_stream_breaks_it(nursery: trio.Nursery) -> None:
    error = RuntimeError("not one of Trio's")

    class Stream(WrappedStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise error

    noted: list[None] = []
    ours, _ = await memory_pair()
    with running(nursery, Stream(ours), lambda: noted.append(None)) as outbox:
        outbox.append(b"data")
        await outbox.flush()
        assert (noted, outbox.broken) == ([None], error)


async def test_nothing_is_kept_after_an_error(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    await theirs.aclose()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        outbox.append(LARGE)
        await outbox.wait_room()
        assert isinstance(outbox.broken, trio.BrokenResourceError)
        outbox.append(LARGE)
        assert not outbox.is_full


@pytest.mark.streams(PAIRS)
async def test_nothing_is_written_after_the_stop(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        outbox.stop()
        outbox.append(b"data")
    nursery.start_soon(ours.aclose)
    assert await theirs.receive_some() == b""


async def test_what_was_kept_back_is_not_written_after_the_stop(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.stop()
        outbox.uncork()
    await ours.aclose()
    assert await receive_exactly(theirs, 1) == b"1"
    assert await theirs.receive_some() == b""


async def test_what_was_not_written_before_the_stop_does_not_count_as_written(
    nursery: trio.Nursery,
) -> None:
    ours, _ = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        written = outbox.written
        assert 0 < written < len(LARGE)
        outbox.stop()
        assert outbox.written == written


async def test_what_can_not_be_written_does_not_count_as_written(nursery: trio.Nursery) -> None:
    for before in ([], [b"1"], [b"1", b"2"]):
        ours, theirs = await socket_pair()
        with running(nursery, ours) as outbox:
            for data in before:
                outbox.append_message(data)
            await theirs.aclose()
            outbox.append(b"lost")
            assert outbox.written == len(before[:1])


async def test_a_write_that_fails_because_of_the_stop_is_no_news(nursery: trio.Nursery) -> None:
    class Stubborn(WrappedStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise trio.BrokenResourceError from None

    news: list[str] = []
    stream = Stubborn((await memory_pair())[0])
    with running(nursery, stream, lambda: news.append("broken")) as outbox:
        outbox.append(b"data")
        await wait_all_tasks_blocked()
        outbox.stop()
        await wait_all_tasks_blocked()
    assert not news
    assert isinstance(outbox.broken, ConnectionAbortedError)


async def test_the_stop_ends_a_write_and_every_wait(nursery: trio.Nursery) -> None:
    ours, _ = await lockstep_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        waiting = Call(nursery, outbox.wait_room)
        flushing = Call(nursery, outbox.flush)
        await wait_all_tasks_blocked()
        outbox.stop()
        await waiting.result()
        await flushing.result()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks


# -- what is kept back


async def test_the_first_message_of_a_turn_is_written_at_once_and_others_together(
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


async def test_what_is_kept_back_is_written_when_the_turn_ends(nursery: trio.Nursery) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.uncork()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2) == b"12"


async def test_what_is_kept_back_is_written_before_what_is_written_now(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append(b"3")
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 3) == b"123"


async def test_no_more_is_kept_back_than_the_high_water_mark(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(bytes(HIGH_WATER))
        assert outbox.unsent == (1, HIGH_WATER)
        outbox.append_message(b"2")
        assert outbox.unsent[1] < HIGH_WATER
        assert await receive_exactly(theirs, HIGH_WATER + 2) == b"1" + bytes(HIGH_WATER) + b"2"


@pytest.mark.parametrize("size", [11, 60])
async def test_no_more_is_kept_back_than_may_wait(nursery: trio.Nursery, size: int) -> None:
    ours, theirs = await socket_pair()
    with running(nursery, ours, max_unsent=10) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append_message(bytes(size))
        await outbox.wait_room()
        assert outbox.unsent == (0, 0)
        assert await receive_exactly(theirs, 2 + size) == b"12" + bytes(size)


async def test_however_much_may_wait_no_more_is_kept_back_than_leaves_in_one_write(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await tcp_pair()
    with running(nursery, ours, max_unsent=10 * HIGH_WATER) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(bytes(HIGH_WATER))
        assert outbox.unsent == (1, HIGH_WATER)
        outbox.append_message(b"2")
        assert outbox.unsent[1] < HIGH_WATER
        assert await receive_exactly(theirs, HIGH_WATER + 2) == b"1" + bytes(HIGH_WATER) + b"2"


async def test_what_follows_in_the_turn_what_was_written_now_is_kept_back(
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


async def test_after_the_end_of_a_turn_the_first_message_is_written_at_once(
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


@pytest.mark.streams(PAIRS)
async def test_what_may_wait_for_another_answer_is_written_without_one(
    nursery: trio.Nursery, kind: str
) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        await wait_all_tasks_blocked()
        outbox.cork()
        outbox.append_message(b"answer")
        assert await receive_exactly(theirs, 6) == b"answer"


@pytest.mark.parametrize("count", [2, 20], ids=["taken", "not taken"])
async def test_what_is_too_much_for_one_write_follows_what_was_kept_back(
    nursery: trio.Nursery, count: int
) -> None:
    ours, theirs = await socket_pair()
    pieces = [bytes([number]) * (HIGH_WATER - 1) for number in range(count)]
    expected = b"".join([b"12", *pieces])
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.append_message(b"2")
        outbox.append(*pieces)
        assert await receive_exactly(theirs, len(expected)) == expected


async def test_many_outboxes_that_keep_something_back_do_not_hold_up_other_tasks(
    nursery: trio.Nursery,
) -> None:
    pairs = [await socket_pair() for _ in range(4 * FAIRNESS)]
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


async def test_one_task_writes_what_all_outboxes_keep_back(nursery: trio.Nursery) -> None:
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


async def test_what_another_outbox_keeps_back_meanwhile_is_written(nursery: trio.Nursery) -> None:
    pairs = [await socket_pair() for _ in range(FAIRNESS + 1)]
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


def test_what_is_kept_back_while_a_run_ends_is_written() -> None:
    async def work_on(is_at_work: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            pairs = [await socket_pair() for _ in range(FAIRNESS + 2)]
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
    for _ in range(10):  # which of the tasks of Trio's own runs first is a matter of chance
        trio.run(main)
    assert len(over) == 10


async def test_an_outbox_that_has_kept_something_back_is_free_after_it(
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


async def test_nothing_is_kept_back_when_the_peer_is_gone(nursery: trio.Nursery) -> None:
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


async def test_nothing_is_kept_back_behind_a_write_that_has_failed(nursery: trio.Nursery) -> None:
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


async def test_nothing_is_kept_back_after_the_stop(nursery: trio.Nursery) -> None:
    ours, _ = await socket_pair()
    with running(nursery, ours) as outbox:
        outbox.append_message(b"1")
        outbox.stop()
        outbox.append_message(b"2")
        outbox.cork()
        outbox.append_message(b"3")
        assert outbox.unsent == (0, 0)


async def test_a_pong_never_comes_between_the_parts_of_a_frame(nursery: trio.Nursery) -> None:
    large = bytes(HIGH_WATER)
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"head", large)
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert stream.writes == [b"first", b"ponghead", large]
