"""Pings that wait for their Pongs: answers, forgotten Pings, and waiting tasks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client
from support.frames import PING
from support.tasks import Call
from trio_websocket._connection.pings import PendingPing, Pings


def new_pings(limit: float = math.inf) -> Pings:
    """Pings of no connection: tests add them, and send nothing."""
    part: Any = None
    return Pings(part, part, part, limit)


def sent(*payloads: bytes, limit: float = math.inf) -> tuple[Pings, list[PendingPing]]:
    """Pings with these payloads, sent in this order."""
    pings = new_pings(limit)
    return pings, [pings.add(payload) for payload in payloads]


def over(flights: list[PendingPing]) -> list[bool]:
    return [ping.is_over.is_set for ping in flights]


# -- a single Ping


async def test_ping_in_flight_is_not_over() -> None:
    _, (ping,) = sent(b"1")
    assert ping.round_trip is None
    assert not ping.is_over.is_set


async def test_ping_pong_sets_round_trip(autojump_clock: MockClock) -> None:
    pings, (ping,) = sent(b"1")
    await trio.sleep(0.25)
    pings.answer(b"1")
    assert ping.is_over.is_set
    assert ping.round_trip == pytest.approx(0.25)


async def test_resolve_returns_round_trip(autojump_clock: MockClock) -> None:
    ping = PendingPing()
    await trio.sleep(0.5)
    assert ping.answer() == ping.round_trip == pytest.approx(0.5)
    assert ping.is_over.is_set


async def test_resolve_wakes_waiting_task(nursery: trio.Nursery) -> None:
    pings, flights = sent(b"1")
    calls = [Call(nursery, ping.is_over.wait) for ping in flights * 2]
    await wait_all_tasks_blocked()
    assert not any(call.is_over for call in calls)
    pings.answer(b"1")
    for call in calls:
        await call.result()


# -- several Pings


async def test_resolve_answers_earlier_pings(autojump_clock: MockClock) -> None:
    pings = new_pings()
    flights = []
    for payload in (b"1", b"2", b"3"):
        flights.append(pings.add(payload))
        await trio.sleep(1)
    pings.answer(b"2")
    assert over(flights) == [True, True, False]
    assert [ping.round_trip for ping in flights] == [pytest.approx(3), pytest.approx(2), None]
    pings.answer(b"3")
    assert over(flights) == [True, True, True]


async def test_resolve_unsolicited_answers_nothing() -> None:
    pings, flights = sent(b"1", b"2")
    pings.answer(b"3")
    pings.answer(b"")
    assert over(flights) == [False, False]
    assert pings.latency is None


async def test_resolve_same_pong_twice_counts_once(autojump_clock: MockClock) -> None:
    pings, _ = sent(b"1", b"2")
    await trio.sleep(1)
    pings.answer(b"1")
    await trio.sleep(1)
    pings.answer(b"1")
    assert pings.latency == pytest.approx(1)
    assert pings.count == 1


async def test_add_payload_answered_can_be_reused() -> None:
    pings, (first,) = sent(b"1")
    pings.answer(b"1")
    pings.check_unused(b"1")
    second = pings.add(b"1")
    assert over([first, second]) == [True, False]
    pings.answer(b"1")
    assert second.is_over.is_set


async def test_add_payload_in_use_raises() -> None:
    pings, _ = sent(b"1", b"2")
    pings.check_unused(b"3")
    for payload in (b"1", b"2"):
        text = f"^a ping with payload {payload!r} is already waiting for its Pong$"
        with pytest.raises(ValueError, match=text):
            pings.check_unused(payload)


# -- latency, count, useful Pongs


async def test_latency_is_of_latest_answered_ping(
    autojump_clock: MockClock,
) -> None:
    pings, _ = sent(b"1")
    assert pings.latency is None
    await trio.sleep(1)
    pings.add(b"2")
    await trio.sleep(2)
    pings.answer(b"2")
    assert pings.latency == pytest.approx(2)
    pings.add(b"3")
    assert pings.latency == pytest.approx(2)


async def test_latency_pong_of_abandoned_sets_earlier(
    autojump_clock: MockClock,
) -> None:
    pings, _ = sent(b"1")
    await trio.sleep(1)
    pings.forget(b"2", pings.add(b"2"))
    await trio.sleep(1)
    pings.answer(b"2")
    assert pings.latency == pytest.approx(2)


async def test_resolve_is_useful_while_ping_waits() -> None:
    pings, (first, second) = sent(b"1", b"2")
    assert (bool(pings), pings.count) == (True, 2)
    pings.forget(b"2", second)
    assert (bool(pings), pings.count) == (True, 1)  # the Pong of the second answers the first
    pings.forget(b"1", first)
    assert (bool(pings), pings.count) == (False, 0)


async def test_pings_new_is_empty() -> None:
    pings = new_pings()
    assert (bool(pings), pings.count, pings.is_full) == (False, 0, False)


# -- forgotten Pings


async def test_abandon_ping_is_not_answered() -> None:
    for payload in (b"1", b"2"):
        pings, flights = sent(b"1", b"2")
        given_up = flights[int(payload) - 1]
        pings.forget(payload, given_up)
        pings.answer(b"2")
        assert given_up.round_trip is None
        assert not given_up.is_over.is_set


async def test_abandon_its_pong_answers_earlier() -> None:
    pings, (first, second) = sent(b"1", b"2")
    pings.forget(b"2", second)
    pings.answer(b"2")
    assert over([first, second]) == [True, False]
    assert not pings


async def test_abandon_payload_can_be_reused() -> None:
    for number, payload in enumerate((b"1", b"2")):
        pings, flights = sent(b"1", b"2")
        pings.forget(payload, flights[number])
        pings.check_unused(payload)
        again = pings.add(payload)
        pings.answer(payload)
        assert over([*flights, again]) == [number == 1, number == 0, True]


async def test_abandon_later_pong_answers_earlier() -> None:
    pings, (first, second) = sent(b"1", b"2")
    pings.forget(b"2", second)
    third = pings.add(b"3")
    pings.answer(b"2")  # late, and of no use
    assert over([first, third]) == [False, False]
    pings.answer(b"3")
    assert over([first, third]) == [True, True]


async def test_abandon_finished_leaves_same_payload() -> None:
    pings, (first,) = sent(b"1")
    pings.answer(b"1")
    second = pings.add(b"1")
    pings.forget(b"1", first)
    assert pings.count == 1
    pings.answer(b"1")
    assert second.is_over.is_set


async def test_abandon_finished_does_nothing() -> None:
    pings, (ping,) = sent(b"1")
    pings.answer(b"1")
    pings.forget(b"1", ping)
    assert not pings
    assert ping.round_trip is not None


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
async def test_abandon_all_leaves_nothing(order: tuple[int, ...]) -> None:
    payloads = (b"1", b"2", b"3")
    pings, flights = sent(*payloads, limit=3)
    for number in order:
        pings.forget(payloads[number], flights[number])
    assert (bool(pings), pings.count, pings.is_full) == (False, 0, False)


async def test_resolve_forgets_abandoned_before() -> None:
    pings, (_, second) = sent(b"1", b"2")
    pings.forget(b"2", second)
    pings.answer(b"1")
    assert not pings


# -- the limit, and waiting tasks


async def test_add_at_limit_waits() -> None:
    pings, _ = sent(b"1", limit=2)
    assert not pings.is_full
    pings.add(b"2")
    assert pings.is_full
    pings.answer(b"1")
    assert not pings.is_full


async def test_add_without_limit_has_room() -> None:
    pings, _ = sent(*(b"%d" % number for number in range(2000)))
    assert pings.count == 2000
    assert not pings.is_full


async def test_abandon_makes_room() -> None:
    for number in (0, 1):
        pings, flights = sent(b"1", b"2", b"3", limit=3)
        assert pings.is_full
        pings.forget(b"%d" % (number + 1), flights[number])
        assert not pings.is_full


@pytest.mark.parametrize("how", ["answer", "forget", "end"])
async def test_wait_change_wakes_all(nursery: trio.Nursery, how: str) -> None:
    pings, (ping,) = sent(b"1")
    calls = [Call(nursery, pings.wait_changed) for _ in range(2)]
    await wait_all_tasks_blocked()
    assert not any(call.is_over for call in calls)
    if how == "answer":
        pings.answer(b"1")
    elif how == "forget":
        pings.forget(b"1", ping)
    else:
        pings.end()
    for call in calls:
        await call.result()


async def test_wait_change_unused_room_goes_to_next(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=2)
    calls = []
    for payload in (b"1", b"2", b"3", b"3", b"4"):
        calls.append(Call(nursery, client.ping, payload))
        await wait_all_tasks_blocked()
    for call in calls[:2]:
        await call.cancel()
        await wait_all_tasks_blocked()
    # The tasks wake in any order. One of the two Pings with the same payload is not sent.
    assert {await peer.expect(PING) for _ in range(4)} == {b"1", b"2", b"3", b"4"}


async def test_wait_change_unsolicited_pong_is_no_change(nursery: trio.Nursery) -> None:
    pings, (ping,) = sent(b"1")
    call = Call(nursery, pings.wait_changed)
    await wait_all_tasks_blocked()
    pings.answer(b"2")
    pings.forget(b"2", ping)
    await wait_all_tasks_blocked()
    assert not call.is_over


async def test_wait_change_cancelled_changes_nothing() -> None:
    pings, (ping,) = sent(b"1")
    with trio.move_on_after(0) as scope:
        await pings.wait_changed()
    assert scope.cancelled_caught
    assert pings.count == 1
    pings.answer(b"1")
    assert ping.is_over.is_set


# -- the end


async def test_pings_connection_ends_has_no_round_trip() -> None:
    pings, flights = sent(b"1", b"2", b"3")
    pings.forget(b"3", flights[2])
    pings.end()
    assert over(flights) == [True, True, False]
    assert [ping.round_trip for ping in flights] == [None, None, None]
    assert pings.latency is None


async def test_abandon_after_connection_ends() -> None:
    pings, (ping,) = sent(b"1")
    pings.end()
    pings.forget(b"1", ping)
    assert not pings
