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
    """So many calls that wait, each behind the one before."""
    waiting = []
    for _ in range(count):
        waiting.append(Call(nursery, function))
        await wait_all_tasks_blocked()
    return waiting


def over(waiting: list[Call[None]]) -> list[int]:
    """Which of them are over."""
    return [number for number, call in enumerate(waiting) if call.is_over]


# -- LazyParkingLot


async def test_nobody_is_in_a_new_lot() -> None:
    lot = LazyParkingLot()
    assert len(lot) == 0
    lot.unpark()
    lot.unpark_all()
    assert not lot


async def test_it_tells_how_many_are_in_it(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    assert len(lot) == 3
    await waiting[1].cancel()
    assert len(lot) == 2
    lot.unpark()
    assert len(lot) == 1
    lot.unpark_all()
    assert len(lot) == 0


async def test_unpark_wakes_the_one_that_has_waited_longest(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    for number in range(3):
        lot.unpark()
        await wait_all_tasks_blocked()
        assert over(waiting) == list(range(number + 1))


async def test_unpark_all_wakes_all(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 3, lot.park)
    lot.unpark_all()
    for call in waiting:
        await call.result()


async def test_who_is_woken_and_parks_again_is_in_it_again(nursery: trio.Nursery) -> None:
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


async def test_who_was_woken_is_not_cancelled_any_more(nursery: trio.Nursery) -> None:
    for wake in (LazyParkingLot.unpark, LazyParkingLot.unpark_all):
        lot = LazyParkingLot()
        (call,) = await calls(nursery, 1, lot.park)
        wake(lot)
        call.scope.cancel()
        await call.result()


async def test_who_was_cancelled_takes_no_ones_place(nursery: trio.Nursery) -> None:
    lot = LazyParkingLot()
    waiting = await calls(nursery, 2, lot.park)
    waiting[0].scope.cancel()
    lot.unpark()
    await waiting[1].result()
    assert waiting[0].scope.cancelled_caught


# -- FairLock


async def test_a_turn_that_nobody_has_is_taken_at_once() -> None:
    turn = FairLock()
    assert not turn.is_taken
    with trio.CancelScope() as scope:
        scope.cancel()
        await turn.take()  # without a checkpoint
        assert turn.is_taken
        turn.pass_on()
    assert not turn.is_taken


async def test_one_task_has_the_turn_at_a_time_in_the_order_of_asking(
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


async def test_between_passing_a_turn_on_and_taking_it_nobody_else_gets_it(
    nursery: trio.Nursery,
) -> None:
    turn = FairLock()
    await turn.take()
    (first,) = await calls(nursery, 1, turn.take)
    turn.pass_on()
    late = Call(nursery, turn.take)  # may run before the one that was woken
    await wait_all_tasks_blocked()
    assert first.is_over
    assert not late.is_over


async def test_who_is_cancelled_while_it_waits_gets_no_turn(nursery: trio.Nursery) -> None:
    turn = FairLock()
    await turn.take()
    waiting = await calls(nursery, 2, turn.take)
    await waiting[0].cancel()
    turn.pass_on()
    await waiting[1].result()
    turn.pass_on()
    assert not turn.is_taken


async def test_who_is_cancelled_once_it_was_given_the_turn_has_it(nursery: trio.Nursery) -> None:
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
async def test_a_block_has_the_turn_until_its_end(
    nursery: trio.Nursery, error: Exception | None
) -> None:
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


async def test_a_flag_that_is_set_wakes_all(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    waiting = await calls(nursery, 3, flag.wait)
    assert not flag.is_set
    flag.set()
    assert flag.is_set
    for call in waiting:
        await call.result()


async def test_a_flag_stays_set(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    flag.set()
    flag.set()
    await flag.wait()
    assert flag.is_set


async def test_to_wait_for_a_flag_that_is_set_is_a_checkpoint() -> None:
    flag = LazyEvent()
    flag.set()
    with trio.testing.assert_checkpoints():
        await flag.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await flag.wait()
    assert scope.cancelled_caught


async def test_who_is_cancelled_does_not_wait_for_a_flag_any_more(nursery: trio.Nursery) -> None:
    flag = LazyEvent()
    first, second = await calls(nursery, 2, flag.wait)
    await first.cancel()
    assert len(flag) == 1
    flag.set()
    await second.result()


async def test_a_flag_that_is_set_before_a_wait_for_it_is_awaited_ends_that() -> None:
    flag = LazyEvent()
    waiting = flag.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flag.wait)  # called now, and awaited in the next turn
        flag.set()
    await waiting
