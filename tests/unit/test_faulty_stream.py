"""The stream in support/faults.py, which tests of failing networks use."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from support.faults import Fault, FaultyStream
from support.streams import memory_pair
from support.tasks import Call


async def test_split_passes_chunks_of_that_size_from_that_byte() -> None:
    ours, theirs = await memory_pair()
    stream = FaultyStream(ours, Fault.split(2, at=3, direction="receive"))
    await theirs.send_all(b"abcdefg")
    assert [await stream.receive_some() for _ in range(3)] == [b"abc", b"de", b"fg"]


async def test_delay_sleeps_before_each_call(autojump_clock: MockClock) -> None:
    ours, theirs = await memory_pair()
    stream = FaultyStream(ours, Fault.delay(5, direction="send"))
    await stream.send_all(b"a")
    assert await theirs.receive_some() == b"a"
    assert trio.current_time() == 5


async def test_corrupt_changes_one_byte_of_each_direction() -> None:
    ours, theirs = await memory_pair()
    stream = FaultyStream(ours, Fault.corrupt(at=1))
    await stream.send_all(b"\0\0\0")
    await theirs.send_all(b"\0\0\0")
    assert [await theirs.receive_some(1) for _ in range(3)] == [b"\0", b"\xff", b"\0"]
    assert [await stream.receive_some(1) for _ in range(3)] == [b"\0", b"\xff", b"\0"]


async def test_reset_raises_after_the_bytes_before_it() -> None:
    ours, theirs = await memory_pair()
    stream = FaultyStream(ours, Fault.reset(at=2))
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"abc")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert await theirs.receive_some() == b"ab"
    await theirs.send_all(b"abc")
    assert await stream.receive_some() == b"ab"
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


async def test_strike_ends_a_call_in_progress(nursery: trio.Nursery) -> None:
    stream = FaultyStream((await memory_pair())[0])
    receiving = Call(nursery, stream.receive_some)
    await trio.testing.wait_all_tasks_blocked()
    stream.strike(Fault.end())
    assert await receiving.result() == b""
    await stream.send_all(b"dropped")


async def test_stall_never_returns(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    stream = FaultyStream((await memory_pair())[0], Fault.stall())
    sending = Call(nursery, stream.send_all, b"x")
    await trio.sleep(100)
    await sending.cancel()


async def test_fail_raises_its_error() -> None:
    error = LookupError("odd")
    stream = FaultyStream((await memory_pair())[0], Fault.fail(error, direction="send"))
    with pytest.raises(LookupError) as caught:
        await stream.send_all(b"x")
    assert caught.value is error
