"""The memory that a peer can make the process use: a test for each bound (docs/peers.md).

tracemalloc counts the memory of both ends, so the peer's data is made in advance.
"""

from __future__ import annotations

import contextlib
import gc
import math
import tracemalloc
from typing import Any, Awaitable, Callable, Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.connections import open_server
from support.frames import BINARY, CONTINUATION, PING, TEXT, frame
from support.peer import REQUEST, RawPeer, read_head
from support.streams import tcp_pair
from support.tasks import Call
from trio_websocket import (
    ConnectionRejected,
    HandshakeError,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._connection.pings import PendingPing

pytestmark = pytest.mark.no_cover  # measuring coverage takes memory

FLOOD = 2_500_000  # bytes that the peer sends
BOUND = 100_000
# With the bound, the memory holds as much, two copies of a read of 64 KiB, tasks and buffers.
# Without it, most of the flood.
LITTLE, MUCH = 800_000, 1_500_000


class Peak:
    """The maximum of memory in use."""

    bytes = 0


@contextlib.contextmanager
def measured() -> Iterator[Peak]:
    """Measure the peak of the memory that the block allocates."""
    peak = Peak()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield peak
        peak.bytes = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def send_until_stopped(peer: RawPeer, data: bytes) -> None:
    """Send until TCP or the other end stops the peer."""

    async def send() -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.stream.send_all(data)

    async with trio.open_nursery() as sending:
        sending.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.1)
        sending.cancel_scope.cancel()


def repeated(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a flood of a client's frames."""
    one = frame(opcode, payload, fin=fin, mask=True)
    return one * (FLOOD // len(one))


def unfinished_message(size: int) -> bytes:
    """Return fragments of this size, without a final one."""
    rest = repeated(CONTINUATION, b"x" * size, fin=False)
    return frame(TEXT, b"x" * size, fin=False, mask=True) + rest


async def flood_reader(nursery: trio.Nursery, data: bytes, options: dict[str, Any]) -> int:
    """Return the memory used while a task waits for a message."""
    ws, peer = await open_server(nursery, "tcp", **options)
    with measured() as peak:
        reading = Call(nursery, ws.get_message)
        await send_until_stopped(peer, data)
    reading.scope.cancel()
    return peak.bytes


async def flood_absent(nursery: trio.Nursery, data: bytes, options: dict[str, Any]) -> int:
    """Return the memory used while the application does not read."""
    _, peer = await open_server(nursery, "tcp", **options)
    with measured() as peak:
        await send_until_stopped(peer, data)
    return peak.bytes


Flood = Callable[[trio.Nursery, bytes, "dict[str, Any]"], Awaitable[int]]


@pytest.mark.parametrize(
    ("flood", "data", "bounds", "unbounded"),
    [
        (
            flood_reader,
            unfinished_message(1000),
            {"max_message_size": BOUND / 4},  # an incomplete str takes 4 bytes per byte
            {"max_message_size": math.inf},
        ),
        (
            flood_reader,
            unfinished_message(250),
            {"max_fragments": BOUND // 1000},
            {"max_fragments": 2**30, "max_message_size": math.inf},
        ),
        (
            flood_absent,
            repeated(BINARY, bytes(1000)),
            {"message_queue_size": BOUND / 1000},
            {"message_queue_size": math.inf},
        ),
        (
            flood_absent,
            repeated(BINARY, bytes(1000)),
            {"message_queue_size": math.inf, "message_queue_bytes": BOUND},
            {"message_queue_size": math.inf},
        ),
    ],
    ids=["max_message_size", "max_fragments", "message_queue_size", "message_queue_bytes"],
)
async def test_get_message_unread_uses_bounded_memory(
    nursery: trio.Nursery,
    flood: Flood,
    data: bytes,
    bounds: dict[str, Any],
    unbounded: dict[str, Any],
) -> None:
    assert await flood(nursery, data, bounds) < LITTLE
    assert await flood(nursery, data, unbounded) > MUCH


@pytest.mark.parametrize("flood", [flood_reader, flood_absent])
async def test_pong_to_unread_peer_uses_little_memory(nursery: trio.Nursery, flood: Flood) -> None:
    pings = repeated(PING, bytes(125))[: FLOOD // 5]
    assert await flood(nursery, pings, {}) < LITTLE


async def test_accept_data_before_it_uses_little_memory(nursery: trio.Nursery) -> None:
    theirs, ours = await tcp_pair()
    await theirs.send_all(REQUEST)
    await wrap_server_stream(nursery, ours)
    flood = repeated(BINARY, bytes(1000))
    with measured() as peak:
        await send_until_stopped(RawPeer(theirs, is_client=True), flood)
    assert peak.bytes < LITTLE


LONG_LINE = b"X: " + b"x" * FLOOD


@pytest.mark.parametrize(("size", "is_bounded"), [(BOUND, True), (2**30, False)])
async def test_wrap_server_stream_head_uses_bounded_memory(
    nursery: trio.Nursery, size: int, is_bounded: bool
) -> None:
    theirs, ours = await tcp_pair()
    request = REQUEST[:-2] + LONG_LINE
    with measured() as peak:
        opening = Call(nursery, lambda: wrap_server_stream(nursery, ours, max_header_size=size))
        await send_until_stopped(RawPeer(theirs, is_client=True), request)
    opening.scope.cancel()
    assert peak.bytes < LITTLE if is_bounded else peak.bytes > MUCH


HEAD = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"


@pytest.mark.parametrize(("size", "is_bounded"), [(BOUND, True), (2**30, False)])
@pytest.mark.parametrize(
    ("response", "option"),
    [
        (HEAD + LONG_LINE, "max_header_size"),
        (HEAD + b"\r\n" + bytes(FLOOD), "max_rejection_body"),
    ],
    ids=["head", "body"],
)
async def test_wrap_client_stream_rejection_uses_bounded_memory(
    nursery: trio.Nursery, response: bytes, option: str, size: int, is_bounded: bool
) -> None:
    ours, theirs = await tcp_pair()

    async def open_client() -> None:
        options: Any = {option: size}
        with contextlib.suppress(ConnectionRejected, HandshakeError):
            await wrap_client_stream(nursery, ours, "example.org", "/", **options)

    with measured() as peak:
        opening = Call(nursery, open_client)
        await read_head(theirs)
        await send_until_stopped(RawPeer(theirs, is_client=False), response)
    opening.scope.cancel()
    assert peak.bytes < LITTLE if is_bounded else peak.bytes > MUCH


@pytest.mark.parametrize(("limit", "is_bounded"), [(BOUND, True), (math.inf, False)])
async def test_send_message_unread_uses_bounded_memory(
    nursery: trio.Nursery, limit: float, is_bounded: bool
) -> None:
    ws, _ = await open_server(nursery, "tcp", max_unsent_bytes=limit)
    message = bytes(FLOOD // 50)
    with measured() as peak:
        async with trio.open_nursery() as sending:
            for _ in range(50):
                sending.start_soon(ws.send_message, message)
            await trio.testing.wait_all_tasks_blocked(0.05)
            sending.cancel_scope.cancel()
    assert peak.bytes < LITTLE if is_bounded else peak.bytes > MUCH


def pings_in_flight() -> set[PendingPing]:
    return {item for item in gc.get_objects() if type(item) is PendingPing}


@pytest.mark.parametrize(("limit", "count"), [(10, 10), (math.inf, 1000)])
async def test_ping_unanswered_uses_bounded_memory(
    nursery: trio.Nursery, limit: float, count: int
) -> None:
    # Count the pings: most of the memory belongs to the application's waiting tasks.
    ws, _ = await open_server(nursery, "tcp", max_unanswered_pings=limit)
    before = pings_in_flight()
    async with trio.open_nursery() as pinging:
        for _ in range(1000):
            pinging.start_soon(ws.ping)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pings_in_flight() - before) == count
        pinging.cancel_scope.cancel()


async def test_ping_cancelled_uses_no_memory(nursery: trio.Nursery) -> None:
    async def cancel_soon(scope: trio.CancelScope) -> None:
        scope.cancel()

    ws, peer = await open_server(nursery, "tcp")
    with measured() as peak:
        for _ in range(2000):
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_soon, scope)
                await ws.ping()
    await peer.expect(PING)
    assert peak.bytes < LITTLE


@pytest.mark.parametrize(("limit", "is_bounded"), [(5, True), (math.inf, False)])
async def test_max_connections_excess_uses_little_memory(
    nursery: trio.Nursery, limit: float, is_bounded: bool
) -> None:
    async def handle(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()

    async def run(*, task_status: trio.TaskStatus[WebSocketServer]) -> None:
        await serve_websocket(
            *(handle, "127.0.0.1", 0, None), max_connections=limit, task_status=task_status
        )

    server: WebSocketServer = await nursery.start(run)
    streams = []
    with measured() as peak:
        for _ in range(200):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            streams.append(stream)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert (peak.bytes < 1_600_000) == is_bounded  # 100 clients get a response
    for stream in streams:
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("tail", [0, 500])
@pytest.mark.parametrize("is_awaited", [True, False])
async def test_connection_idle_after_many_messages_keeps_little(
    nursery: trio.Nursery, tail: int, is_awaited: bool
) -> None:
    server, peer = await open_server(nursery, "tcp")
    messages = repeated(BINARY, bytes(1000))[: 60 * 1008]
    rest = frame(BINARY, bytes(1000), mask=True)
    with measured():
        await peer.stream.send_all(messages + rest[:tail])
        for _ in range(60):
            await server.get_message()
        # After a ping, the connection's task reads.
        waiting = Call(nursery, server.get_message if is_awaited else server.ping)
        await wait_all_tasks_blocked()
        kept, _ = tracemalloc.get_traced_memory()
    assert kept < 16_000  # mostly of waiting tasks
    assert not waiting.is_over
