from __future__ import annotations

import trio

from trio_websocket._io.pacing import CheckpointBudget
from trio_websocket._sansio.costs import COST_PER_TURN


async def test_checkpoint_some_let_other_tasks_run(nursery: trio.Nursery) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    nursery.start_soon(other)
    pacer = CheckpointBudget()
    for _ in range(10 * (COST_PER_TURN + 1)):
        await pacer.checkpoint()
    assert 9 <= turns <= 11


async def test_checkpoint_cancelled_raises() -> None:
    pacer = CheckpointBudget()
    for _ in range(2 * COST_PER_TURN):
        with trio.CancelScope() as scope:
            await pacer.checkpoint()
            scope.cancel()
            await pacer.checkpoint()
        assert scope.cancelled_caught
