from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_payload
from support.peer import RawPeer
from support.streams import PAIRS, PROMPT, PUSHING_BACK
from support.tasks import Call, system_tasks
from trio_websocket import ConnectionClosed
from trio_websocket._sansio.costs import COST_PER_TURN, STEPS_PER_TURN


async def is_answered(peer: RawPeer, payload: bytes) -> bool:
    """Return True if a Ping of the peer is answered within a second."""
    await peer.send_frame(PING, payload)
    with trio.move_on_after(1):
        assert await peer.receive() == Frame(PONG, payload)
        return True
    return False


# -- the task in get_message reads


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize("in_one_write", [True, False])
async def test_get_message_in_tasks_keeps_the_order(
    nursery: trio.Nursery, kind: str, in_one_write: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    getting = []
    for _ in range(5):
        getting.append(Call(nursery, client.get_message))
        await wait_all_tasks_blocked()
    frames = [peer.texts(str(number)) for number in range(5)]
    for data in [b"".join(frames)] if in_one_write else frames:
        await peer.send(data)
    assert [await call.result() for call in getting] == ["0", "1", "2", "3", "4"]


@pytest.mark.streams(PAIRS)
async def test_get_message_decode_false_affects_one_message(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    getting: Call[object] = Call(nursery, client.get_message, False)
    await wait_all_tasks_blocked()
    await peer.send(peer.texts("1", "2", "3"))
    first: object = await getting.result()
    assert first == b"1"
    assert await client.get_message() == "2"
    async with client.receive_stream() as pieces:
        assert pieces.is_text


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize("leaving", [0, 1])
async def test_get_message_cancelled_passes_reading_on(
    nursery: trio.Nursery, kind: str, leaving: int
) -> None:
    client, peer = await open_client(nursery, kind)
    getting = []
    for _ in range(3):
        getting.append(Call(nursery, client.get_message))
        await wait_all_tasks_blocked()
    await getting.pop(leaving).cancel()
    await peer.send(peer.texts("first", "second"))
    assert [await call.result() for call in getting] == ["first", "second"]


# -- a cancelled get_message loses nothing


@pytest.mark.streams(PAIRS)
async def test_get_message_cancelled_waiting_loses_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    for number in range(3):
        getting = Call(nursery, client.get_message)
        await wait_all_tasks_blocked()
        await getting.cancel()
        await peer.send(peer.texts(str(number)))
        assert await client.get_message() == str(number)


@pytest.mark.streams(PAIRS)
async def test_get_message_cancelled_in_frame_loses_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    data = peer.texts("message")
    await peer.send(data[:4])
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    await getting.cancel()
    await peer.send(data[4:])
    assert await client.get_message() == "message"


@pytest.mark.streams(PAIRS)
async def test_get_message_cancelled_before_takes_nothing(nursery: trio.Nursery, kind: str) -> None:
    client, _ = await open_client(nursery, kind, trailing=Frame(TEXT, b"message").encode())
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.get_message()
    assert scope.cancelled_caught
    assert await client.get_message() == "message"


async def test_get_message_cancelled_decoding_loses_nothing(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(PING) * 10 * STEPS_PER_TURN, peer.texts("message"))
    getting = Call(nursery, client.get_message)
    while (await peer.receive()) != Frame(PONG):
        pass
    getting.scope.cancel()
    await wait_all_tasks_blocked()
    assert getting.scope.cancelled_caught
    assert await client.get_message() == "message"


# -- while no task is in get_message


@pytest.mark.streams(PROMPT)
async def test_idle_monitor_answers_ping_after_20_to_40_ms(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    _, peer = await open_client(nursery, kind)
    opened_at = trio.current_time()
    assert await is_answered(peer, b"1")
    assert 0.02 <= trio.current_time() - opened_at < 0.041


@pytest.mark.streams(PROMPT)
async def test_background_reading_answers_ping_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    _, peer = await open_client(nursery, kind)
    await trio.sleep(1)
    for payload in (b"1", b"2"):
        assert await is_answered(peer, payload)
        assert trio.current_time() == 1


@pytest.mark.streams(PROMPT)
async def test_idle_monitor_answers_ping_after_message_was_taken(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=0)
    await trio.sleep(1)
    await peer.send(peer.texts("message"), peer.frame(PING))
    await trio.sleep(1)
    assert await client.get_message() == "message"
    taken_at = trio.current_time()
    assert await peer.receive() == Frame(PONG)
    assert 0.02 <= trio.current_time() - taken_at < 0.041


@pytest.mark.streams(PROMPT)
async def test_get_message_waiting_answers_ping_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.texts("message"), peer.frame(PING))
    assert await client.get_message() == "message"
    Call(nursery, client.get_message)
    assert await peer.receive() == Frame(PONG)
    assert trio.current_time() == 0


@pytest.mark.parametrize("decode", [None, True])
@pytest.mark.streams(PROMPT)
async def test_get_message_now_and_then_can_answer_before_close(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, decode: Any
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=20)
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    await peer.send(peer.texts(*map(str, range(9))), peer.frame(CLOSE, close_payload(1000)))
    assert await getting.result() == "0"
    for number in range(1, 9):
        await trio.sleep(0.015)  # less than the shortest grace period
        assert await client.get_message(decode) == str(number)
        await client.send_message(b"answer")
        assert await peer.expect(BINARY) == b"answer"


@pytest.mark.streams(PROMPT)
async def test_get_message_cancelled_ping_is_answered(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    await peer.send(peer.texts("message"), peer.frame(PING))
    assert await getting.result() == "message"
    assert await peer.receive() == Frame(PONG)


@pytest.mark.streams(PROMPT)
async def test_idle_monitor_notices_close(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send_close(1000, "bye")
    assert await peer.receive() == Frame(CLOSE, close_payload(1000, "bye"))
    assert trio.current_time() < 0.041
    assert client.closed is not None


@pytest.mark.streams(PROMPT)
async def test_idle_monitor_notices_eof(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.aclose()
    await trio.sleep(0.041)
    assert client.closed is not None


async def test_idle_monitor_is_one_for_all_connections(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    before = system_tasks()
    peers = [(await open_client(nursery))[1] for _ in range(10)]
    assert system_tasks() == before + 1
    for peer in peers:
        assert await is_answered(peer, b"")


async def test_idle_monitor_ignores_background_reading(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    before = system_tasks()
    client, peer = await open_client(nursery)
    await trio.sleep(0.041)
    assert system_tasks() == before
    await peer.send(peer.texts("message"))
    await client.get_message()
    assert system_tasks() == before + 1


async def test_idle_monitor_ignores_waiting_get_message(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    before = system_tasks()
    client, _ = await open_client(nursery)
    Call(nursery, client.get_message)
    await trio.sleep(0.041)
    assert system_tasks() == before


# -- bounds


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize(("size", "room"), [(0, 1), (1, 2), (3, 4), (math.inf, 50)])
async def test_receive_queue_full_stops_decoding(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, size: float, room: int
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=size)
    answered = Call(nursery, peer.receive)
    nursery.start_soon(peer.send, peer.texts(*map(str, range(room))), peer.frame(PING))
    await trio.sleep(1)
    assert answered.is_over == (room < size)
    for number in range(room):
        assert await client.get_message() == str(number)
    assert await answered.result() == Frame(PONG)


@pytest.mark.streams(PUSHING_BACK)
async def test_receive_queue_full_stops_peer(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    message = "x" * 2**20
    sending = Call(nursery, peer.send, peer.texts(*[message] * 4))
    await wait_all_tasks_blocked()
    assert not sending.is_over
    for _ in range(4):
        assert await client.get_message() == message
    await sending.result()


FLOOD = 3000  # frames
FLOODS = {
    "pings": Frame(PING).encode() * FLOOD,
    "empty fragments": Frame(TEXT, fin=False).encode()
    + Frame(CONTINUATION, fin=False).encode() * FLOOD,
    "messages": Frame(TEXT).encode() * FLOOD,
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("is_waited_for", [True, False])
async def test_get_message_flood_lets_other_tasks_run(
    nursery: trio.Nursery, mock_clock: MockClock, flood: str, is_waited_for: bool
) -> None:
    client, peer = await open_client(nursery, message_queue_size=math.inf)

    async def get_messages() -> None:
        while True:
            await client.get_message()

    async def receive_last_pong() -> None:
        while await peer.receive() != Frame(PONG, b"last"):
            pass

    if is_waited_for:
        Call(nursery, get_messages)
    await peer.send(FLOODS[flood], peer.frame(PING, b"last"))
    receiving = Call(nursery, receive_last_pong)
    if not is_waited_for:
        mock_clock.jump(0.02)
    turns = 0
    while not receiving.is_over:
        await trio.lowlevel.checkpoint()
        turns += 1
        assert turns < 10 * FLOOD, "the last pong does not come"
    assert turns > FLOOD / COST_PER_TURN / 2


# -- the end


@pytest.mark.streams(PROMPT)
async def test_get_message_long_after_end_gives_messages(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=2)
    closing = peer.frame(CLOSE, close_payload(1000))
    nursery.start_soon(peer.send, peer.texts("1", "2", "3"), closing)
    await trio.sleep(1)
    for number in range(3):
        assert await client.get_message() == str(number + 1)
    with pytest.raises(ConnectionClosed):
        await client.get_message()


@pytest.mark.streams(PROMPT)
async def test_get_message_in_tasks_all_raise_at_end(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    getting = [Call(nursery, client.get_message) for _ in range(3)]
    await wait_all_tasks_blocked()
    await peer.send_close(4000)
    for call in getting:
        with pytest.raises(ConnectionClosed):
            await call.result()


async def test_receive_queue_memory_is_bounded(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(
        nursery, message_queue_size=math.inf, message_queue_bytes=10_000
    )
    await peer.send(peer.texts(*["x" * 3000] * 10), peer.frame(PING, b"behind"))
    await trio.sleep(1)
    answer = Call(nursery, peer.receive)
    for _ in range(5):
        await client.get_message()
    await trio.sleep(1)
    assert not answer.is_over
    for _ in range(5):
        await client.get_message()
    await trio.sleep(1)
    assert await answer.result() == Frame(PONG, b"behind")


async def test_receive_queue_counts_empty_messages(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(
        nursery, message_queue_size=math.inf, message_queue_bytes=10_000
    )
    await peer.send(peer.texts(*[""] * 1000))
    assert not await is_answered(peer, b"behind")
    for _ in range(1000):
        await client.get_message()
    assert await peer.receive() == Frame(PONG, b"behind")


async def test_receive_queue_taken_messages_make_room(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(
        nursery, message_queue_size=math.inf, message_queue_bytes=10_000
    )
    for _ in range(2):
        await peer.send(peer.texts(*["x" * 3000] * 3))
        await trio.sleep(1)
        assert await is_answered(peer, b"behind")
        for _ in range(2):
            await client.get_message()
        await trio.sleep(1)
        await peer.send(peer.texts(*["x" * 3000] * 2))
        assert await is_answered(peer, b"behind")
        for _ in range(3):
            await client.get_message()


async def test_receive_queue_skipped_chunks_make_room(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(
        nursery, message_queue_size=math.inf, message_queue_bytes=10_000
    )
    for _ in range(2):
        await peer.send_frame(TEXT, b"x", fin=False)
        async with client.receive_stream() as pieces:
            assert await pieces.__anext__() == "x"
            await trio.sleep(1)
            await peer.send_frame(CONTINUATION, b"x" * 9000)
            assert await is_answered(peer, b"behind")
        await peer.send(peer.texts(*["x" * 3000] * 2))
        await trio.sleep(1)
        assert await is_answered(peer, b"behind")
        for _ in range(2):
            await client.get_message()


@pytest.mark.streams(["memory", "socketpair"])
async def test_receive_queue_of_0_bytes_passes_one_message(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_bytes=0)
    await peer.send(peer.texts("1", "2"))
    await trio.sleep(1)
    assert [await client.get_message(), await client.get_message()] == ["1", "2"]
