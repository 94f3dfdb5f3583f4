from __future__ import annotations

import dataclasses
import os

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client, open_pair, open_server
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from support.peer import REQUEST
from support.streams import KINDS, PROMPT, lockstep_pair, memory_pair
from support.tasks import Call
from trio_websocket import (
    ConnectionClosed,
    ConnectionStatistics,
    PerMessageDeflate,
    WebSocketConnection,
    wrap_server_stream,
)

NOTHING = ConnectionStatistics(
    messages_sent=0,
    messages_received=0,
    bytes_sent=0,
    bytes_received=0,
    wire_bytes_sent=0,
    wire_bytes_received=0,
    messages_unread=0,
    bytes_unread=0,
    frames_unsent=0,
    bytes_unsent=0,
    tasks_receiving=0,
    tasks_sending=0,
    pings_in_flight=0,
    latency=None,
)


def expect(connection: WebSocketConnection, **changed: float) -> None:
    """Check the statistics: the given values, and zero for the rest."""
    assert connection.statistics() == dataclasses.replace(NOTHING, **changed)  # type: ignore[arg-type] # mypy knows each field


@pytest.mark.streams(KINDS)
async def test_statistics_new_connection_is_zero(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    await wait_all_tasks_blocked()
    expect(client)
    expect(server)


@pytest.mark.streams(["memory", "tcp"])
async def test_statistics_exclude_response_of_server(nursery: trio.Nursery, kind: str) -> None:
    server, _ = await open_server(nursery, kind)
    expect(server)


async def test_statistics_exclude_unwritten_response(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(REQUEST)
    request = await wrap_server_stream(nursery, ours)
    server = await request.accept()
    assert server.statistics().wire_bytes_sent == 0
    await wait_all_tasks_blocked()
    assert server.statistics().wire_bytes_sent == 0


async def test_statistics_are_frozen(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(dataclasses.FrozenInstanceError):
        client.statistics().messages_sent = 1  # type: ignore[misc] # what is tested


# -- traffic


@pytest.mark.streams(KINDS)
async def test_statistics_count_messages_of_both_sides(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    for message in ("\u20ac", b"x" * 200, b"y" * 70_000, ""):
        sending = Call(nursery, client.send_message, message)
        assert await server.get_message() == message
        await sending.result()
    await server.send_message("\u20ac")
    assert await client.get_message() == "\u20ac"
    await wait_all_tasks_blocked()
    # A masked frame has 4 bytes more.
    to_server = (6 + 3) + (8 + 200) + (14 + 70_000) + 6
    to_client = 2 + 3
    expect(
        client,
        messages_sent=4,
        bytes_sent=70_203,
        wire_bytes_sent=to_server,
        messages_received=1,
        bytes_received=3,
        wire_bytes_received=to_client,
    )
    expect(
        server,
        messages_sent=1,
        bytes_sent=3,
        wire_bytes_sent=to_client,
        messages_received=4,
        bytes_received=70_203,
        wire_bytes_received=to_server,
    )


@pytest.mark.streams(KINDS)
async def test_statistics_fragmented_message_is_one(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    getting = Call(nursery, server.get_message)
    feed, pieces = trio.open_memory_channel[str](0)
    sending = Call(nursery, client.send_message, pieces)
    await feed.send("one")
    await feed.send("two")
    await wait_all_tasks_blocked()
    sent = client.statistics()
    assert (sent.messages_sent, sent.bytes_sent, sent.wire_bytes_sent) == (0, 6, 18)
    assert server.statistics().messages_received == 0
    await feed.aclose()
    await sending.result()
    assert await getting.result() == "onetwo"
    expect(client, messages_sent=1, bytes_sent=6, wire_bytes_sent=24)
    expect(server, messages_received=1, bytes_received=6, wire_bytes_received=24)


async def test_statistics_count_queued_large_frames(nursery: trio.Nursery) -> None:
    server, _ = await open_server(nursery, streams=await lockstep_pair(), max_unsent_bytes=10**9)
    for count in (1, 2, 3):
        await server.send_message(bytes(2**17))
        await wait_all_tasks_blocked()
        assert server.statistics().frames_unsent == count


async def test_statistics_unwritten_response_counts_frames_only(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await lockstep_pair()
    nursery.start_soon(theirs.send_all, REQUEST)
    server = await (await wrap_server_stream(nursery, ours)).accept()
    await server.send_message("hello")
    await wait_all_tasks_blocked()
    assert server.statistics().frames_unsent == 1


async def test_statistics_exclude_message_that_raised(
    nursery: trio.Nursery,
) -> None:
    settings = {"compression": PerMessageDeflate()}
    server, client = await open_pair(nursery, client=settings, server=settings)
    sending: Call[None] = Call(nursery, server.send_message, os.urandom(2**20))
    await trio.lowlevel.checkpoint()  # another thread compresses it
    nursery.start_soon(client.aclose)
    await server.aclose()
    with pytest.raises(ConnectionClosed):
        await sending.result()
    assert server.statistics().messages_sent == server.statistics().bytes_sent == 0


@pytest.mark.streams(KINDS)
async def test_statistics_count_head_of_large_frame(nursery: trio.Nursery, kind: str) -> None:
    server, peer = await open_server(nursery, kind)
    sending = Call(nursery, server.send_message, bytes(70_000))
    assert len(await peer.expect(BINARY)) == 70_000
    await sending.result()
    await wait_all_tasks_blocked()
    expect(server, messages_sent=1, bytes_sent=70_000, wire_bytes_sent=10 + 70_000)


@pytest.mark.streams(KINDS)
async def test_statistics_received_stream_is_one(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    frames = peer.frame(TEXT, b"one", fin=False) + peer.frame(CONTINUATION, b"two")
    nursery.start_soon(peer.send, frames)
    async with client.receive_stream() as pieces:
        assert [piece async for piece in pieces] == ["one", "two"]
    expect(client, messages_received=1, bytes_received=6, wire_bytes_received=len(frames))


async def test_statistics_count_skipped_message(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    frames = [
        peer.frame(TEXT, b"one", fin=False) + peer.frame(CONTINUATION, b"two"),
        peer.frame(TEXT, b"three"),
    ]
    await peer.send(*frames)
    async with client.receive_stream():
        pass
    assert await client.get_message() == "three"
    expect(
        client, messages_received=2, bytes_received=11, wire_bytes_received=len(b"".join(frames))
    )


async def test_statistics_exclude_refused_message(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_message_size=10)
    await peer.send(peer.frame(TEXT, b"small"), peer.frame(TEXT, b"x" * 11))
    assert await client.get_message() == "small"
    with pytest.raises(ConnectionClosed):
        await client.get_message()
    counted = client.statistics()
    assert (counted.messages_received, counted.bytes_received) == (1, 5)


async def test_statistics_control_frames_are_wire_bytes(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    getting = Call(nursery, client.get_message)
    await peer.send_frame(PING, b"12345")
    assert await peer.expect(PONG) == b"12345"
    await client.pong(b"123")
    assert await peer.expect(PONG) == b"123"
    await getting.cancel()
    expect(client, wire_bytes_received=2 + 5, wire_bytes_sent=6 + 5 + 6 + 3)
    await peer.send_close(1000)
    assert await peer.expect(CLOSE) == b"\x03\xe8"
    await peer.aclose()
    await client.wait_closed()
    expect(client, wire_bytes_received=2 + 5 + 2 + 2, wire_bytes_sent=6 + 5 + 6 + 3 + 6 + 2)


async def test_statistics_count_frames_with_handshake(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery, trailing=b"\x81\x05hello")
    assert await client.get_message() == "hello"
    expect(client, messages_received=1, bytes_received=5, wire_bytes_received=7)


# -- waiting messages and tasks


@pytest.mark.streams(PROMPT)
async def test_statistics_messages_queued(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=1)
    messages = [
        peer.frame(TEXT, "\u20ac".encode()),
        peer.frame(BINARY, b"12345"),
        peer.frame(TEXT, b"rest"),
    ]
    await peer.send(*messages)
    await trio.sleep(1)
    received = len(b"".join(messages))
    expect(
        client,
        messages_received=2,
        bytes_received=3 + 5,
        wire_bytes_received=received,
        messages_unread=2,
        bytes_unread=1 + 5 + len(messages[2]),
    )
    for _ in range(3):
        await client.get_message()
    expect(client, messages_received=3, bytes_received=3 + 5 + 4, wire_bytes_received=received)


async def test_statistics_unsent_bytes(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "lockstep")
    await client.send_message(b"x" * 1000)
    await wait_all_tasks_blocked()
    expect(client, messages_sent=1, bytes_sent=1000, frames_unsent=1, bytes_unsent=1008)
    await client.send_message(b"y" * 100)
    await client.send_message(b"z" * 100)
    await wait_all_tasks_blocked()
    counted = client.statistics()
    assert counted.bytes_unsent == 1008 + 2 * 106
    assert counted.frames_unsent >= 2
    for _ in range(3):
        await peer.expect(BINARY)
    await wait_all_tasks_blocked()
    expect(client, messages_sent=3, bytes_sent=1200, wire_bytes_sent=1008 + 2 * 106)


@pytest.mark.streams(KINDS)
async def test_statistics_tasks_in_get_message(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    getting = []
    for count in range(1, 4):
        getting.append(Call(nursery, client.get_message))
        await wait_all_tasks_blocked()
        assert client.statistics().tasks_receiving == count
    await getting.pop().cancel()
    assert client.statistics().tasks_receiving == 2
    await peer.send(peer.frame(TEXT, b"one"), peer.frame(TEXT, b"two"))
    for call in getting:
        await call.result()
    assert client.statistics().tasks_receiving == 0


async def test_statistics_tasks_after_cancelled_receive_stream(
    nursery: trio.Nursery,
) -> None:
    async def receive_stream() -> None:
        async with client.receive_stream():
            pass

    client, peer = await open_client(nursery)
    beginning = Call(nursery, receive_stream)
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_receiving == 1
    await beginning.cancel()
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_receiving == 1
    await peer.send_frame(TEXT, b"one")
    assert await getting.result() == "one"


async def test_statistics_tasks_waiting_after_stream(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(TEXT, b"one")
    async with client.receive_stream() as pieces:
        assert [piece async for piece in pieces] == ["one"]
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_receiving == 1
    await getting.cancel()


async def test_statistics_tasks_waiting_for_chunk(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(TEXT, b"a", fin=False)
    async with client.receive_stream() as pieces:
        assert client.statistics().tasks_receiving == 0
        assert await pieces.__anext__() == "a"
        waiting = Call(nursery, pieces.__anext__)
        await wait_all_tasks_blocked()
        assert client.statistics().tasks_receiving == 1
        await waiting.cancel()
        assert client.statistics().tasks_receiving == 0
        getting = Call(nursery, client.get_message)
        await wait_all_tasks_blocked()
        assert client.statistics().tasks_receiving == 1
    await getting.cancel()


async def test_statistics_tasks_in_send_message(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "lockstep")
    sending = []
    for count in range(1, 4):
        sending.append(Call(nursery, client.send_message, bytes(2**17)))
        await wait_all_tasks_blocked()
        assert client.statistics().tasks_sending == count
    await sending.pop().cancel()
    assert client.statistics().tasks_sending == 2
    for _ in sending:
        await peer.expect(BINARY)
    for call in sending:
        await call.result()
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_sending == 0


async def test_statistics_tasks_in_send_message_after_stream(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    feed, pieces = trio.open_memory_channel[str](0)
    sending = Call(nursery, client.send_message, pieces)
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_sending == 0  # it waits for its iterable
    behind = Call(nursery, client.send_message, "message")
    await wait_all_tasks_blocked()
    assert client.statistics().tasks_sending == 1
    await feed.aclose()
    await sending.result()
    await behind.result()
    assert client.statistics().tasks_sending == 0


# -- pings


@pytest.mark.streams(PROMPT)
async def test_statistics_pings_and_latency(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    pinging = [Call(nursery, client.ping, b"1")]
    await wait_all_tasks_blocked()
    pinging.append(Call(nursery, client.ping, b"2"))
    await wait_all_tasks_blocked()
    assert client.statistics().pings_in_flight == 2
    assert client.statistics().latency is None
    await pinging.pop().cancel()
    assert client.statistics().pings_in_flight == 1
    assert await peer.expect(PING) == b"1"
    await trio.sleep(3)
    await peer.send_frame(PONG, b"1")
    assert await pinging[0].result() == pytest.approx(3)
    assert client.statistics().pings_in_flight == 0
    assert client.statistics().latency == client.latency == pytest.approx(3)


@pytest.mark.streams(KINDS)
async def test_statistics_after_close_are_kept(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    await client.send_message("message")
    assert await server.get_message() == "message"
    await client.aclose()
    await server.wait_closed()
    expect(
        client,
        messages_sent=1,
        bytes_sent=7,
        wire_bytes_sent=6 + 7 + 6 + 2,
        wire_bytes_received=2 + 2,
    )
    expect(
        server,
        messages_received=1,
        bytes_received=7,
        wire_bytes_received=6 + 7 + 6 + 2,
        wire_bytes_sent=2 + 2,
    )
