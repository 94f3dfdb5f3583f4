from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.send_queues import (
    LARGE,
    running,
)
from support.streams import PAIRS, WrappedStream, lockstep_pair, memory_pair, receive_exactly
from support.tasks import Call
from trio_websocket._connection.send_queue import SendQueue
from trio_websocket._sansio.costs import WRITE_BATCH_BYTES

if TYPE_CHECKING:
    from trio.abc import Stream


class RecordingStream(WrappedStream):
    """A stream that records each write. A write continues when the test allows it."""

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
    """Return a send queue whose first write is blocked."""
    stream = RecordingStream((await memory_pair())[0])
    with running(nursery, stream) as outbox:
        outbox.append(first)
        await wait_all_tasks_blocked()
        assert stream.writes == [first]
        yield outbox, stream


# -- writing


@pytest.mark.streams(PAIRS)
async def test_append_is_written_in_order(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    pieces = [b"first", LARGE, b"third", LARGE[:50000], LARGE[:50000], b"last"]
    everything = b"".join(pieces)
    with running(nursery, ours) as outbox:
        for piece in pieces:
            outbox.append(piece)
        assert await receive_exactly(theirs, len(everything)) == everything
        outbox.append(b"later")
        assert await receive_exactly(theirs, 5) == b"later"


async def test_append_small_frames_share_a_write(nursery: trio.Nursery) -> None:
    large = bytes(WRITE_BATCH_BYTES)
    async with held(nursery, b"first") as (outbox, stream):
        for data in (b"a", b"b", large, b"c", b"d"):
            outbox.append(data)
        stream.gate.set()
        await outbox.flush()
        assert stream.writes == [b"first", b"ab", large, b"cd"]


@pytest.mark.streams(PAIRS)
async def test_append_nursery_cancelled_write_goes_on(kind: str) -> None:
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


@pytest.mark.parametrize(
    ("size", "is_full"), [(WRITE_BATCH_BYTES, False), (WRITE_BATCH_BYTES + 1, True)]
)
async def test_is_full_above_high_water_mark(
    nursery: trio.Nursery, size: int, is_full: bool
) -> None:
    async with held(nursery, b"x") as (outbox, _):
        outbox.append(bytes(size - 1))
        assert outbox.is_full == is_full


async def test_wait_room_waits_until_not_full(nursery: trio.Nursery) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        outbox.append(bytes(WRITE_BATCH_BYTES))
        await outbox.wait_room()
        outbox.append(b"x")
        waiting = Call(nursery, outbox.wait_room)
        await wait_all_tasks_blocked()
        assert not waiting.is_over
        await receive_exactly(theirs, WRITE_BATCH_BYTES)
        await waiting.result()


async def test_wait_room_waits_while_still_full(nursery: trio.Nursery) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        for _ in range(3):
            outbox.append(bytes(WRITE_BATCH_BYTES))
        waiting = Call(nursery, outbox.wait_room)
        await receive_exactly(theirs, WRITE_BATCH_BYTES)
        await wait_all_tasks_blocked()
        assert outbox.is_full
        assert not waiting.is_over
        await receive_exactly(theirs, WRITE_BATCH_BYTES)
        await waiting.result()


async def test_flush_waits_until_all_written(nursery: trio.Nursery) -> None:
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
async def test_flush_cancelled_keeps_frames(
    nursery: trio.Nursery, wait: Callable[[SendQueue], Awaitable[None]]
) -> None:
    ours, theirs = await lockstep_pair()
    with running(nursery, ours) as outbox:
        outbox.append(LARGE)
        waiting = Call(nursery, wait, outbox)
        await receive_exactly(theirs, 1000)
        await waiting.cancel()
        assert await receive_exactly(theirs, len(LARGE) - 1000) == LARGE[1000:]


# -- pongs


@pytest.mark.streams(PAIRS)
async def test_append_pong_empty_queue_writes_at_once(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        outbox.append_pong(b"pong")
        assert await receive_exactly(theirs, 4) == b"pong"


async def test_append_pong_replaces_waiting_pong(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"second")
        for number in range(1000):
            outbox.append_pong(b"[%d]" % number)
        stream.gate.set()
        await outbox.flush()
        written = b"".join(stream.writes)
        assert written.count(b"[") == 1
        assert b"[999]" in written


async def test_append_pong_unread_takes_no_room(
    nursery: trio.Nursery,
) -> None:
    async with held(nursery, b"first") as (outbox, _):
        for _ in range(1000):
            outbox.append_pong(bytes(127))
        assert not outbox.is_full


async def test_append_pong_overtakes_messages(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        for _ in range(3):
            outbox.append(bytes(WRITE_BATCH_BYTES))
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert b"pong" in stream.writes[1]


async def test_append_pong_waiting_is_written_once(nursery: trio.Nursery) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        for _ in range(3):
            outbox.append(bytes(WRITE_BATCH_BYTES - 1))
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert b"".join(stream.writes).count(b"pong") == 1


async def test_append_pong_goes_before_later_frames(
    nursery: trio.Nursery,
) -> None:
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"message")
        outbox.append_pong(b"pong")
        outbox.append(b"close")
        stream.gate.set()
        await outbox.flush()
        assert b"".join(stream.writes).endswith(b"close")


# -- the end


async def test_append_any_stream_error_breaks_queue(nursery: trio.Nursery) -> None:
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


async def test_append_after_error_keeps_nothing(nursery: trio.Nursery) -> None:
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
async def test_stop_writes_nothing_more(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        outbox.stop()
        outbox.append(b"data")
    nursery.start_soon(ours.aclose)
    assert await theirs.receive_some() == b""


async def test_stop_during_write_reports_no_error(nursery: trio.Nursery) -> None:
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


async def test_stop_during_write_that_ends_normally_counts_nothing(nursery: trio.Nursery) -> None:
    class Stubborn(WrappedStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep_forever()

    stream = Stubborn((await memory_pair())[0])
    with running(nursery, stream) as outbox:
        outbox.append(b"data")
        await wait_all_tasks_blocked()
        outbox.stop()
        await wait_all_tasks_blocked()
        assert outbox.written == 0
        assert outbox.unsent == (0, 0)


async def test_stop_ends_write_and_waits(nursery: trio.Nursery) -> None:
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


# -- corked frames


@pytest.mark.streams(PAIRS)
async def test_cork_is_written_without_another_message(nursery: trio.Nursery, kind: str) -> None:
    ours, theirs = await PAIRS[kind]()
    with running(nursery, ours) as outbox:
        await wait_all_tasks_blocked()
        outbox.cork()
        outbox.append_message(b"answer")
        assert await receive_exactly(theirs, 6) == b"answer"


async def test_append_pong_never_splits_a_frame(nursery: trio.Nursery) -> None:
    large = bytes(WRITE_BATCH_BYTES)
    async with held(nursery, b"first") as (outbox, stream):
        outbox.append(b"head", large)
        outbox.append_pong(b"pong")
        stream.gate.set()
        await outbox.flush()
        assert stream.writes == [b"first", b"ponghead", large]
