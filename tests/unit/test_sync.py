from __future__ import annotations

from typing import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.tasks import Call
from trio_websocket._io.sync import FairLock, LazyEvent, LazyParkingLot


async def calls(
    nursery: trio.Nursery, count: int, function: Callable[[], Awaitable[None]]
) -> list[Call[None]]:
    """Start this number of calls, which wait one after another."""
    waiting = []
    for _ in range(count):
        waiting.append(Call(nursery, function))
        await wait_all_tasks_blocked()
    return waiting


def over(waiting: list[Call[None]]) -> list[int]:
    """Return True for each call that has ended."""
    return [number for number, call in enumerate(waiting) if call.is_over]


# -- LazyParkingLot


async def test_lazy_parking_lot_new_is_empty() -> None:
    lot = LazyParkingLot()
    assert len(lot) == 0
    lot.unpark()
    lot.unpark_all()
    assert not lot


async def test_lazy_parking_lot_len_is_number_of_tasks(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    assert len(lot) == 3
    await waiting[1].cancel()
    assert len(lot) == 2
    lot.unpark()
    assert len(lot) == 1
    lot.unpark_all()
    assert len(lot) == 0


async def test_unpark_wakes_longest_waiting(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    for number in range(3):
        lot.unpark()
        await wait_all_tasks_blocked()
        assert over(waiting) == list(range(number + 1))


async def test_unpark_all_wakes_all_tasks(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    lot.unpark_all()
    for call in waiting:
        await call.result()


async def test_unpark_all_task_can_park_again(nursery: trio.Nursery) -> None:
    async def park_twice() -> None:
        await lot.park()
        await lot.park()

    lot = LazyParkingLot()
    waiting = await calls(nursery, 2, park_twice)
    lot.unpark_all()
    await wait_all_tasks_blocked()
    assert len(lot) == 2
    lot.unpark()
    lot.unpark()
    for call in waiting:
        await call.result()


async def test_park_woken_is_not_cancelled(nursery: trio.Nursery) -> None:
    for wake in (LazyParkingLot.unpark, LazyParkingLot.unpark_all):
        lot = LazyParkingLot()
        (call,) = await calls(nursery, 1, lot.park)
        wake(lot)
        call.scope.cancel()
        await call.result()


async def test_park_cancelled_frees_its_place(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 2, lot.park)
    waiting[0].scope.cancel()
    lot.unpark()
    await waiting[1].result()
    assert waiting[0].scope.cancelled_caught


# -- FairLock


async def test_fair_lock_free_is_acquired_at_once() -> None:
    turn = FairLock()
    assert not turn.is_taken
    with trio.CancelScope() as scope:
        scope.cancel()
        await turn.take()  # without a checkpoint
        assert turn.is_taken
        turn.pass_on()
    assert not turn.is_taken


async def test_fair_lock_is_acquired_in_order(
    nursery: trio.Nursery,
) -> None:
    turn = FairLock()
    await turn.take()
    waiting = await calls(nursery, 3, turn.take)
    assert len(turn) == 3
    for number in range(3):
        turn.pass_on()
        assert turn.is_taken
        await wait_all_tasks_blocked()
        assert over(waiting) == list(range(number + 1))
    turn.pass_on()
    assert not turn.is_taken


async def test_fair_lock_released_goes_to_next_only(
    nursery: trio.Nursery,
) -> None:
    turn = FairLock()
    await turn.take()
    (first,) = await calls(nursery, 1, turn.take)
    turn.pass_on()
    late = Call(nursery, turn.take)  # may run before the task that was woken
    await wait_all_tasks_blocked()
    assert first.is_over
    assert not late.is_over


async def test_fair_lock_cancelled_waiting_gets_no_lock(nursery: trio.Nursery) -> None:
    turn = FairLock()
    await turn.take()
    waiting = await calls(nursery, 2, turn.take)
    await waiting[0].cancel()
    turn.pass_on()
    await waiting[1].result()
    turn.pass_on()
    assert not turn.is_taken


async def test_fair_lock_cancelled_after_handover_has_lock(nursery: trio.Nursery) -> None:
    turn = FairLock()
    await turn.take()
    first, second = await calls(nursery, 2, turn.take)
    turn.pass_on()
    first.scope.cancel()
    await first.result()
    assert not second.is_over
    turn.pass_on()
    await second.result()


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_fair_lock_block_holds_it(nursery: trio.Nursery, error: Exception | None) -> None:
    turn = FairLock()
    try:
        async with turn:
            assert turn.is_taken
            (waiting,) = await calls(nursery, 1, turn.take)
            if error is not None:
                raise error
    except ValueError as exc:
        assert exc is error  # noqa: PT017 # it comes out
    await waiting.result()
    assert turn.is_taken


# -- LazyEvent


async def test_lazy_event_set_wakes_all(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    waiting = await calls(nursery, 3, flag.wait)
    assert not flag.is_set
    flag.set()
    assert flag.is_set
    for call in waiting:
        await call.result()


async def test_lazy_event_stays_set(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    flag.set()
    flag.set()
    await flag.wait()
    assert flag.is_set


async def test_lazy_event_wait_when_set_is_checkpoint() -> None:
    flag = LazyEvent()
    flag.set()
    with trio.testing.assert_checkpoints():
        await flag.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await flag.wait()
    assert scope.cancelled_caught


async def test_lazy_event_wait_cancelled_is_removed(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    first, second = await calls(nursery, 2, flag.wait)
    await first.cancel()
    assert len(flag) == 1
    flag.set()
    await second.result()


async def test_lazy_event_set_before_await_ends_wait() -> None:
    flag = LazyEvent()
    waiting = flag.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flag.wait)  # called now, and awaited in the next turn
        flag.set()
    await waiting
