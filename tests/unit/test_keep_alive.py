from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client
from support.frames import CLOSE, PING, PONG, TEXT, close_payload
from support.streams import PROMPT
from support.tasks import Call
from trio_websocket import CloseReason, ConnectionClosed

SIZE = 2**20  # more than a socket takes
SILENT = "keep-alive: no Pong within 20 s"


async def test_ping_interval_none_sends_no_ping(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    _, peer = await open_client(nursery)
    receiving = Call(nursery, peer.receive)
    await trio.sleep(900)
    assert not receiving.is_over


@pytest.mark.streams(PROMPT)
async def test_ping_interval_sends_pings(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, ping_interval=10)
    for number in (1, 2, 3):
        payload = await peer.expect(PING)
        assert trio.current_time() == pytest.approx(10 * number)
        await peer.send(peer.frame(PONG, payload))
        await wait_all_tasks_blocked()
    assert client.closed is None


async def test_keep_alive_pong_sets_latency(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10)
    payload = await peer.expect(PING)
    assert client.latency is None
    await trio.sleep(0.25)
    await peer.send(peer.frame(PONG, payload))
    await wait_all_tasks_blocked()
    assert client.latency == pytest.approx(0.25)


@pytest.mark.streams(PROMPT)
async def test_keep_alive_no_pong_closes_with_1011(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, ping_interval=10)
    getting = Call(nursery, client.get_message)
    frames = await peer.receive_all()
    assert trio.current_time() == pytest.approx(30)
    assert [frame.opcode for frame in frames] == [PING, CLOSE]
    assert frames[1].payload == close_payload(1011, SILENT)
    with pytest.raises(ConnectionClosed) as caught:
        await getting.result()
    assert caught.value.reason == caught.value.sent == CloseReason(1011, SILENT)
    assert caught.value.rcvd is None
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert str(caught.value.__cause__) == SILENT


async def test_keep_alive_no_pong_keeps_received_messages(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10)
    await peer.send(peer.texts("last"))
    await client.wait_closed()
    assert await client.get_message() == "last"
    with pytest.raises(ConnectionClosed):
        await client.get_message()


async def test_keep_alive_pauses_while_application_is_busy(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, message_queue_size=1, ping_interval=10)
    await peer.send(peer.texts("1", "2", "3"))
    payload = await peer.expect(PING)
    nursery.start_soon(peer.send, peer.frame(PONG, payload))
    await trio.sleep(500)
    assert client.closed is None
    for text in ("1", "2", "3"):
        assert await client.get_message() == text
    Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    assert client.latency == pytest.approx(500, abs=1)


async def test_keep_alive_resumes_when_application_reads(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, message_queue_size=1, ping_interval=10)
    await peer.send(peer.texts("1", "2", "3"))
    await trio.sleep(500)
    for _ in range(3):
        await client.get_message()
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.reason == CloseReason(1011, SILENT)
    assert trio.current_time() == pytest.approx(520, abs=1.1)


@pytest.mark.streams(["memory", "socketpair"])
async def test_keep_alive_message_arrives_slowly_stays_open(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, ping_interval=10, ping_timeout=20)
    getting = Call(nursery, client.get_message)
    frame = peer.frame(TEXT, bytes(100_000))
    for start in range(0, len(frame), 10_000):
        await peer.send(frame[start : start + 10_000])
        await trio.sleep(15)
    assert len(await getting.result()) == 100_000
    assert client.closed is None


@pytest.mark.streams(["socketpair", "lockstep"])
async def test_keep_alive_peer_reads_nothing_closes_within_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, _ = await open_client(nursery, kind, ping_interval=10, ping_timeout=20)
    Call(nursery, client.get_message)
    sending = Call(nursery, client.send_message, bytes(SIZE))
    with pytest.raises(ConnectionClosed) as caught:
        await sending.result()
    assert caught.value.reason == CloseReason(1011, SILENT)
    assert trio.current_time() < 32


async def test_keep_alive_tiny_timeout_while_paused_does_not_spin(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=1, ping_timeout=1e-9)
    await peer.send(peer.texts("1", "2", "3"))
    await trio.sleep(2)  # if the keep-alive spun, this would take for ever
    assert client.closed is None


async def test_ping_timeout_infinite_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10, ping_timeout=math.inf)
    await peer.receive()
    await trio.sleep(900)
    assert client.closed is None


async def test_keep_alive_connection_ends_leaves_no_task(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as its_nursery:
        client, peer = await open_client(its_nursery, ping_interval=1000)
        nursery.start_soon(client.aclose)
        await peer.receive()
        await peer.send_close(1000)
    assert trio.current_time() < 3


async def test_keep_alive_during_aclose_sends_no_ping(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10, disconnect_timeout=100)
    closing = Call(nursery, client.aclose)
    await peer.receive()
    await trio.sleep(50)
    await peer.send_close(1000)
    await closing.result()
    assert await peer.receive_all() == []


async def test_keep_alive_no_pong_during_aclose_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10, disconnect_timeout=100)
    await peer.expect(PING)
    closing = Call(nursery, client.aclose)
    await trio.sleep(60)
    assert not closing.is_over
    await peer.send_close(1000)
    await closing.result()


async def test_keep_alive_pong_just_in_time_stays_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, ping_interval=10, ping_timeout=20)
    payload = await peer.expect(PING)
    await trio.sleep(19.9)
    await peer.send(peer.frame(PONG, payload))
    await trio.sleep(1)
    assert client.closed is None
