"""A task that receives from a flooding peer lets other tasks run.

These tests count the bytes of frames that are taken between two turns of another task, so they do
not depend on time. `tools/fairness.py` measures the milliseconds.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import Any, AsyncIterator, Awaitable, Callable, NamedTuple

import pytest
import trio
from trio.testing import open_stream_to_socket_listener, wait_all_tasks_blocked

from support.frames import BINARY, CONTINUATION, PING, TEXT, frame
from support.peer import RawPeer, accepting, read_head
from support.streams import StreamPair, over_tls
from support.tasks import Call
from trio_websocket import (
    ConnectionClosed,
    PerMessageDeflate,
    WebSocketConnection,
    wrap_client_stream,
)
from trio_websocket._sansio.costs import COST_PER_TURN, STEPS_PER_TURN

KIB, MIB = 2**10, 2**20
BITS = 12  # the window that our client requests
READ = 66 * KIB  # the maximum of one read


class Flood(NamedTuple):
    """The frames that a peer sends."""

    frames: bytes
    most: int  # the maximum of bytes of frames taken in one turn of the scheduler


def many(frame: bytes, count: int, most: float) -> Flood:
    """Return a flood of frames, of which at most ``most`` may be taken in a turn."""
    return Flood(frame * count, int(most * len(frame)))


def fragments(size: int, count: int, most: int) -> Flood:
    """Return a message in this number of fragments."""
    first, last = frame(BINARY, bytes(size), fin=False), frame(CONTINUATION, bytes(size))
    between = frame(CONTINUATION, bytes(size), fin=False)
    return Flood(first + between * (count - 2) + last, most * len(between))


def bomb(size: int = MIB) -> bytes:
    """Return a compressed message that decompresses to this size."""
    compressor = zlib.compressobj(wbits=-BITS)
    data = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, data[:-4], rsv=4)


async def get_messages(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def get_pieces(connection: WebSocketConnection) -> None:
    while True:
        async with connection.receive_stream(max_size=2 * MIB) as pieces:
            async for _ in pieces:
                pass


async def stay_away(connection: WebSocketConnection) -> None:
    await trio.sleep_forever()


async def close(connection: WebSocketConnection) -> None:
    await connection.aclose()


FLOODS: dict[str, tuple[Flood, Callable[[WebSocketConnection], Awaitable[None]]]] = {
    "messages of 8 bytes": (many(frame(TEXT, bytes(8)), 20_000, COST_PER_TURN + 64), get_messages),
    "messages of 1 KiB": (many(frame(TEXT, bytes(KIB)), 2_000, COST_PER_TURN), get_messages),
    "messages of 64 KiB": (many(frame(BINARY, bytes(64 * KIB)), 30, 5), get_messages),
    "messages of 1 MiB": (many(frame(BINARY, bytes(MIB)), 4, 1.5), get_messages),
    "a message of 1 MiB in pieces": (
        Flood(frame(BINARY, bytes(MIB)) * 2, COST_PER_TURN * KIB + READ),
        get_pieces,
    ),
    "fragments of 1 byte": (fragments(1, 1_000, 2 * STEPS_PER_TURN), get_messages),
    "fragments of 1 byte in pieces": (fragments(1, 1_000, STEPS_PER_TURN), get_pieces),
    "fragments of 64 KiB": (fragments(64 * KIB, 16, 6), get_messages),
    "pings": (many(frame(PING, bytes(125)), 2_000, 2 * STEPS_PER_TURN), get_messages),
    "pings while nobody receives": (
        many(frame(PING, bytes(125)), 2_000, STEPS_PER_TURN),
        stay_away,
    ),
    "messages that inflate to 1 MiB": (many(bomb(), 20, 1), get_messages),
    "messages that inflate to 1 MiB in pieces": (many(bomb(), 20, 1.5), get_pieces),
    "messages that inflate to 1 MiB after our Close": (many(bomb(), 20, 1), close),
}


async def stream_pair(kind: str) -> StreamPair:
    """Return TCP streams with the largest buffers, so that much data arrives at once."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await open_stream_to_socket_listener(listener)
        theirs = await listener.accept()
    return await over_tls(ours, theirs, is_own=True) if kind == "TLS" else (ours, theirs)


@contextlib.asynccontextmanager
async def compressing_client(
    kind: str, **options: Any
) -> AsyncIterator[tuple[trio.Nursery, WebSocketConnection, RawPeer]]:
    """Open a connection, its peer, and a nursery for the test."""
    ours, theirs = await stream_pair(kind)

    async def accept() -> None:
        request, _ = await read_head(theirs)
        extension = b"permessage-deflate; server_max_window_bits=%d" % BITS
        await theirs.send_all(accepting(request, b"Sec-WebSocket-Extensions: " + extension))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        settings = PerMessageDeflate()
        client = await wrap_client_stream(
            nursery, ours, "example.org", "/", compression=settings, **options
        )
        async with trio.open_nursery() as working:
            yield working, client, RawPeer(theirs, is_client=False)
            working.cancel_scope.cancel()
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(theirs)


def taken(connection: WebSocketConnection) -> int:
    """Return the number of bytes of frames that were received and taken from the queue."""
    statistics = connection.statistics()
    return statistics.wire_bytes_received - statistics.bytes_unread


@pytest.mark.parametrize("kind", ["TCP", "TLS"])
@pytest.mark.parametrize("name", FLOODS)
async def test_get_message_flood_lets_other_tasks_run(name: str, kind: str) -> None:
    flood, receive = FLOODS[name]

    async def run() -> None:
        with contextlib.suppress(ConnectionClosed):
            await receive(client)

    steps = []
    async with compressing_client(kind) as (nursery, client, peer):
        nursery.start_soon(peer.send, flood.frames)
        nursery.start_soon(peer.receive_all)
        await wait_all_tasks_blocked()
        nursery.start_soon(run)
        before = taken(client)
        while before < len(flood.frames):
            await trio.lowlevel.checkpoint()
            now = taken(client)
            steps.append(now - before)
            before = now
    assert max(steps) <= 2 * flood.most  # Trio shuffles the tasks, so one may run twice in a row


@pytest.mark.parametrize("kind", ["TCP", "TLS"])
async def test_get_message_inflating_lets_other_tasks_run(kind: str) -> None:
    size = 16 * MIB
    async with compressing_client(kind, max_message_size=size) as (nursery, client, peer):
        nursery.start_soon(peer.send, bomb(size))
        getting: Call[str | bytes] = Call(nursery, client.get_message)
        turns = 0
        while not getting.is_over:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert await getting.result() == bytes(size)
    assert turns >= size // 2**18 - 1


@pytest.mark.parametrize("kind", ["TCP", "TLS"])
async def test_receive_stream_small_reads_let_other_tasks_run(kind: str) -> None:
    size = 20_000
    async with compressing_client(kind, receive_buffer_size=10) as (nursery, client, peer):
        await peer.send(frame(BINARY, bytes(size)))
        getting: Call[str | bytes] = Call(nursery, client.get_message)
        turns = 0
        while not getting.is_over:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert await getting.result() == bytes(size)
    assert turns >= size / 10 / COST_PER_TURN


@pytest.mark.parametrize("kind", ["TCP", "TLS"])
@pytest.mark.parametrize(
    ("size", "is_compressed", "most"),
    [
        (8, False, COST_PER_TURN),
        (60 * KIB, False, 9),
        (8 * KIB, True, 4),
        (60 * KIB, True, 1),
        (MIB, False, 1),
    ],
)
async def test_send_message_repeated_lets_other_tasks_run(
    kind: str, size: int, is_compressed: bool, most: int
) -> None:
    sent = 0
    count = 4 * COST_PER_TURN if size == 8 else 20

    async def send() -> None:
        nonlocal sent
        for _ in range(count):
            await client.send_message(bytes(size), compress=is_compressed)
            sent += 1

    steps = []
    async with compressing_client(kind) as (nursery, client, peer):
        nursery.start_soon(peer.receive_all)
        nursery.start_soon(send)
        before = 0
        while before < count:
            await trio.lowlevel.checkpoint()
            now = sent
            steps.append(now - before)
            before = now
    assert max(steps) <= 2 * most
