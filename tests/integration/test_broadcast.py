"""Broadcasting a message to many connections, and the connections of a server."""

from __future__ import annotations

import functools
import math
import signal
from typing import TYPE_CHECKING, Any, AsyncIterator, Iterable, NamedTuple

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from support.connections import open_client, open_pair, open_server
from support.frames import BINARY, CLOSE, CONTINUATION, TEXT, Frame, close_payload
from support.peer import REQUEST, RawPeer, read_head
from support.streams import KINDS, lockstep_pair, reset, tls_contexts
from support.tasks import Call, turns_of_another
from trio_websocket import (
    BroadcastResult,
    CloseReason,
    ConnectionClosed,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    broadcast,
    open_websocket,
    serve_websocket,
)
from trio_websocket._sansio import deflate as _deflate

if TYPE_CHECKING:
    from typing import Literal

ZLIB: Any = vars(_deflate)["zlib"]  # or zlib-ng
FILLING = bytes(70_000)  # fills a send queue
LARGE = bytes(range(256)) * 2**10  # 256 KiB
TEXT_OF_A_PAGE = "all work and no play " * 200


class Far(NamedTuple):
    """A connection of a server, and its peer."""

    connection: WebSocketConnection
    peer: RawPeer


async def open_some(nursery: trio.Nursery, count: int, kind: str = "memory") -> list[Far]:
    return [Far(*await open_server(nursery, kind)) for _ in range(count)]


async def open_full(nursery: trio.Nursery, **options: Any) -> Far:
    """Open a connection whose peer has not read, so that its send queue is full."""
    connection, peer = await open_server(nursery, streams=await lockstep_pair(), **options)
    await broadcast([connection], FILLING)
    return Far(connection, peer)


async def open_full_tcp(nursery: trio.Nursery, kind: str, message: bytes = FILLING) -> Far:
    connection, peer = await open_server(nursery, kind)
    while (await broadcast([connection], message, timeout=0)).sent:
        pass
    return Far(connection, peer)


def connections_of(ends: Iterable[Far]) -> list[WebSocketConnection]:
    return [end.connection for end in ends]


async def open_compressed(
    nursery: trio.Nursery, count: int, **settings: Any
) -> list[tuple[WebSocketConnection, WebSocketConnection]]:
    """Open clients and servers with compression."""
    compression = {"compression": PerMessageDeflate(**settings)}
    return [await open_pair(nursery, client=compression, server=compression) for _ in range(count)]


def expect_sent(result: BroadcastResult, connections: Iterable[WebSocketConnection]) -> None:
    assert result == BroadcastResult(frozenset(connections), {})


# -- receivers


@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_reaches_every_connection(nursery: trio.Nursery, kind: str) -> None:
    ends = await open_some(nursery, 3, kind)
    expect_sent(await broadcast(connections_of(ends), "h\u20acllo"), connections_of(ends))
    for end in ends:
        assert await end.peer.receive() == Frame(TEXT, "h\u20acllo".encode())


@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_large_message_reaches_every_connection(
    nursery: trio.Nursery, kind: str
) -> None:
    ends = await open_some(nursery, 3, kind)
    expect_sent(await broadcast(connections_of(ends), LARGE), connections_of(ends))
    for end in ends:
        assert await end.peer.receive() == Frame(BINARY, LARGE)


@pytest.mark.parametrize("size", [5, 1000, len(LARGE)])
async def test_broadcast_by_clients_masks_each_copy(nursery: trio.Nursery, size: int) -> None:
    ends = [Far(*await open_client(nursery)) for _ in range(3)]
    expect_sent(await broadcast(connections_of(ends), LARGE[:size]), connections_of(ends))
    for end in ends:
        assert await end.peer.receive() == Frame(BINARY, LARGE[:size])


async def test_broadcast_accepts_clients_and_servers(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    expect_sent(await broadcast({client, server}, "hello"), [client, server])
    assert await client.get_message() == "hello"
    assert await server.get_message() == "hello"


async def test_broadcast_repeated_connection_gets_one_message(nursery: trio.Nursery) -> None:
    (end,) = await open_some(nursery, 1)
    expect_sent(await broadcast([end.connection] * 2, "once"), [end.connection])
    await end.connection.send_message("next")
    assert await end.peer.expect(TEXT) == b"once"
    assert await end.peer.expect(TEXT) == b"next"


@pytest.mark.parametrize("is_empty", [True, False])
async def test_broadcast_is_a_checkpoint(nursery: trio.Nursery, is_empty: bool) -> None:
    ends = [] if is_empty else await open_some(nursery, 1)
    with assert_checkpoints():
        expect_sent(await broadcast(connections_of(ends), "hello"), connections_of(ends))


async def test_broadcast_reads_the_connections_once(nursery: trio.Nursery) -> None:
    (late,) = await open_some(nursery, 1)
    slow = await open_full(nursery)
    members = [slow.connection]
    sending: Call[BroadcastResult] = Call(nursery, broadcast, members, "hello")
    await wait_all_tasks_blocked()
    members.append(late.connection)
    assert await slow.peer.expect(BINARY) == FILLING
    assert await slow.peer.expect(TEXT) == b"hello"
    expect_sent(await sending.result(), [slow.connection])


async def test_broadcast_accepts_any_iterable(nursery: trio.Nursery) -> None:
    ends = await open_some(nursery, 2)
    expect_sent(await broadcast((end.connection for end in ends), "hello"), connections_of(ends))


# -- messages


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("text", [True, False, None])
async def test_broadcast_bytes_are_sent_as_told(
    nursery: trio.Nursery, make: Any, text: bool | None
) -> None:
    (end,) = await open_some(nursery, 1)
    await broadcast([end.connection], make("\u20ac".encode()), text=text)
    assert await end.peer.receive() == Frame(TEXT if text else BINARY, "\u20ac".encode())


@pytest.mark.parametrize("text", [True, False, None])
async def test_broadcast_str_is_sent_as_told(nursery: trio.Nursery, text: bool | None) -> None:
    (end,) = await open_some(nursery, 1)
    await broadcast([end.connection], "\u20ac", text=text)
    opcode = BINARY if text is False else TEXT
    assert await end.peer.receive() == Frame(opcode, "\u20ac".encode())


async def test_broadcast_copies_the_buffer(nursery: trio.Nursery) -> None:
    end = await open_full(nursery)
    message = bytearray(b"hello")
    sending: Call[BroadcastResult] = Call(nursery, broadcast, [end.connection], message)
    await wait_all_tasks_blocked()
    message[:] = b"spoilt"
    assert await end.peer.expect(BINARY) == FILLING
    assert await end.peer.expect(BINARY) == b"hello"
    expect_sent(await sending.result(), [end.connection])


@pytest.mark.parametrize("message", [["a", "b"], iter("a"), 5, None])
async def test_broadcast_iterable_message_raises(nursery: trio.Nursery, message: Any) -> None:
    (end,) = await open_some(nursery, 1)
    with pytest.raises(TypeError, match="message must be str or bytes-like"):
        await broadcast([end.connection], message)


async def test_broadcast_invalid_utf_8_as_text_raises(nursery: trio.Nursery) -> None:
    (end,) = await open_some(nursery, 1)
    with pytest.raises(UnicodeDecodeError):
        await broadcast([end.connection], b"\xff", text=True)
    assert end.connection.statistics().messages_sent == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": None}, TypeError),
        ({"on_slow": "wait"}, ValueError),
        ({"on_slow": None}, ValueError),
    ],
)
async def test_broadcast_wrong_options_raise(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await broadcast([], "hello", **options)


async def test_broadcast_to_no_connection_raises(nursery: trio.Nursery) -> None:
    (end,) = await open_some(nursery, 1)
    wrong: Any
    for wrong in (end.connection, None, "hello", [end.connection, None]):
        with pytest.raises(TypeError):
            await broadcast(wrong, "hello")
    assert end.connection.statistics().messages_sent == 0


@pytest.mark.parametrize("message", ["", "short", "x" * 1000, "x" * 100_000])
@pytest.mark.parametrize("open_end", [open_client, open_server])
@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_counts_as_message_sent(
    nursery: trio.Nursery, open_end: Any, kind: str, message: str
) -> None:
    ends = [Far(*await open_end(nursery, kind)) for _ in range(2)]
    for _ in range(2):
        nursery.start_soon(broadcast, connections_of(ends), message)
    for end in ends:
        for _ in range(2):
            assert await end.peer.expect(TEXT) == message.encode()
        await wait_all_tasks_blocked()
        statistics = end.connection.statistics()
        assert (statistics.messages_sent, statistics.bytes_sent) == (2, 2 * len(message))
        assert statistics.wire_bytes_sent > statistics.bytes_sent


# -- compression


class Compressors:
    """Replaces zlib's function and counts the compressors that are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._make = ZLIB.compressobj
        monkeypatch.setattr(ZLIB, "compressobj", self)

    def __call__(self, *args: Any) -> Any:
        self.count += 1
        return self._make(*args)


@pytest.fixture
def compressors(monkeypatch: pytest.MonkeyPatch) -> Compressors:
    return Compressors(monkeypatch)


@pytest.mark.parametrize("repeats", [1, 100])
async def test_broadcast_without_context_compresses_once(
    nursery: trio.Nursery, compressors: Compressors, repeats: int
) -> None:
    pairs = await open_compressed(nursery, 5, context_takeover=False)
    message = TEXT_OF_A_PAGE * repeats
    expect_sent(await broadcast([end for _, end in pairs], message), [end for _, end in pairs])
    assert compressors.count == 1
    for client, server in pairs:
        assert await client.get_message() == message
        statistics = server.statistics()
        assert (statistics.messages_sent, statistics.bytes_sent) == (1, len(message))
        assert statistics.wire_bytes_sent < len(message) / 10


async def test_broadcast_compresses_once_per_settings(
    nursery: trio.Nursery, compressors: Compressors
) -> None:
    pairs = [
        pair
        for settings in ({"window_bits": 9}, {"window_bits": 15}, {"level": 1}, {"mem_level": 1})
        for pair in await open_compressed(nursery, 2, context_takeover=False, **settings)
    ]
    await broadcast([end for _, end in pairs], TEXT_OF_A_PAGE)
    assert compressors.count == 4
    for client, _ in pairs:
        assert await client.get_message() == TEXT_OF_A_PAGE


@pytest.mark.parametrize("repeats", [1, 100])
async def test_broadcast_with_context_compresses_each(
    nursery: trio.Nursery, compressors: Compressors, repeats: int
) -> None:
    pairs = await open_compressed(nursery, 3)
    await pairs[0][1].send_message(TEXT_OF_A_PAGE)  # now its context differs
    for number in range(2):
        message = TEXT_OF_A_PAGE * repeats + str(number)
        expect_sent(await broadcast([end for _, end in pairs], message), [end for _, end in pairs])
    assert compressors.count == 3
    assert await pairs[0][0].get_message() == TEXT_OF_A_PAGE
    for client, _ in pairs:
        for number in range(2):
            assert await client.get_message() == TEXT_OF_A_PAGE * repeats + str(number)


@pytest.mark.parametrize(("message", "compress"), [("short", True), (TEXT_OF_A_PAGE, False)])
@pytest.mark.parametrize("context_takeover", [True, False])
async def test_broadcast_short_message_is_not_compressed(
    nursery: trio.Nursery,
    compressors: Compressors,
    context_takeover: bool,
    message: str,
    compress: bool,
) -> None:
    pairs = await open_compressed(nursery, 2, context_takeover=context_takeover)
    await broadcast([end for _, end in pairs], message, compress=compress)
    assert compressors.count == 0
    for client, _ in pairs:
        assert await client.get_message() == message


async def test_broadcast_at_threshold_compresses_where_negotiated(
    nursery: trio.Nursery,
) -> None:
    (pair,) = await open_compressed(nursery, 1, context_takeover=False, threshold=5)
    (end,) = await open_some(nursery, 1)
    await broadcast([pair[1], end.connection], "hello")
    assert await pair[0].get_message() == "hello"
    assert await end.peer.receive() == Frame(TEXT, b"hello")


async def test_broadcast_by_clients_compress_false_sends_plain(
    nursery: trio.Nursery,
) -> None:
    ((client, server),) = await open_compressed(nursery, 1, context_takeover=False)
    nursery.start_soon(functools.partial(broadcast, [client], LARGE, compress=False))
    assert await server.get_message() == LARGE
    assert server.statistics().wire_bytes_received > len(LARGE)


async def test_broadcast_by_clients_compresses_each(nursery: trio.Nursery) -> None:
    pairs = await open_compressed(nursery, 2, context_takeover=False)
    await broadcast([end for end, _ in pairs], TEXT_OF_A_PAGE)
    for _, server in pairs:
        assert await server.get_message() == TEXT_OF_A_PAGE


async def test_broadcast_during_a_compressed_stream_is_separate(
    nursery: trio.Nursery,
) -> None:
    pairs = await open_compressed(nursery, 2, context_takeover=False)
    go_on = trio.Event()

    async def pieces() -> AsyncIterator[str]:
        yield TEXT_OF_A_PAGE
        await go_on.wait()
        yield TEXT_OF_A_PAGE

    nursery.start_soon(pairs[0][1].send_message, pieces())
    await wait_all_tasks_blocked()
    sending: Call[BroadcastResult] = Call(
        nursery, broadcast, [end for _, end in pairs], TEXT_OF_A_PAGE
    )
    assert await pairs[1][0].get_message() == TEXT_OF_A_PAGE
    go_on.set()
    expect_sent(await sending.result(), [end for _, end in pairs])
    assert await pairs[0][0].get_message() == TEXT_OF_A_PAGE * 2
    assert await pairs[0][0].get_message() == TEXT_OF_A_PAGE


async def test_broadcast_closed_while_compressing_skips_connection(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((client, server),) = await open_compressed(nursery, 1)
    make = ZLIB.compressobj

    def close_and_make(*args: Any) -> Any:
        trio.from_thread.run(client.aclose, 4000)
        return make(*args)

    monkeypatch.setattr(ZLIB, "compressobj", close_and_make)
    result = await broadcast([server], TEXT_OF_A_PAGE * 100)
    error = result.failed[server]
    assert isinstance(error, ConnectionClosed)
    assert error.rcvd is not None
    assert error.rcvd.code == 4000


# -- slow connections


async def test_broadcast_10_of_50_never_read_does_not_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ends = await open_some(nursery, 40)
    slow = [await open_full(nursery) for _ in range(10)]
    start = trio.current_time()
    sending: Call[BroadcastResult] = Call(nursery, broadcast, connections_of(slow + ends), "hello")
    for end in ends:
        assert await end.peer.expect(TEXT) == b"hello"
    assert trio.current_time() == start
    result = await sending.result()
    assert trio.current_time() == start + 1
    assert result.sent == set(connections_of(ends))
    assert set(result.failed) == set(connections_of(slow))
    assert {type(error) for error in result.failed.values()} == {trio.TooSlowError}


@pytest.mark.parametrize("kind", ["socketpair", "tcp", "tls"])
async def test_broadcast_to_unread_sockets_does_not_wait(nursery: trio.Nursery, kind: str) -> None:
    slow = await open_full_tcp(nursery, kind)
    (end,) = await open_some(nursery, 1, kind)
    sending: Call[BroadcastResult] = Call(
        nursery, broadcast, [slow.connection, end.connection], "hello"
    )
    assert await end.peer.expect(TEXT) == b"hello"
    found = Frame(BINARY)
    while found.opcode == BINARY:
        found = await slow.peer.receive_frame()
    assert found == Frame(TEXT, b"hello")
    expect_sent(await sending.result(), [slow.connection, end.connection])


@pytest.mark.parametrize("kind", ["memory", "tcp", "tls"])
async def test_broadcast_slow_connection_uses_bounded_memory(
    nursery: trio.Nursery, kind: str
) -> None:
    message = bytes(10_000)
    slow = await (open_full(nursery) if kind == "memory" else open_full_tcp(nursery, kind))
    for _ in range(100):
        await broadcast([slow.connection], message, timeout=0)
    assert slow.connection.statistics().bytes_unsent <= 2**16 + len(FILLING) + 100


@pytest.mark.parametrize("timeout", [0, 0.5, 70])
async def test_broadcast_waits_for_slow_until_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock, timeout: float
) -> None:
    slow = [await open_full(nursery) for _ in range(3)]
    start = trio.current_time()
    result = await broadcast(connections_of(slow), "hello", timeout=timeout)
    assert trio.current_time() == start + timeout
    assert set(result.failed) == set(connections_of(slow))


async def test_broadcast_timeout_infinite_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    end = await open_full(nursery)
    sending: Call[BroadcastResult] = Call(nursery, _broadcast_for_ever, end.connection)
    await trio.sleep(900)
    assert await end.peer.expect(BINARY) == FILLING
    assert await end.peer.expect(TEXT) == b"hello"
    expect_sent(await sending.result(), [end.connection])


async def _broadcast_for_ever(connection: WebSocketConnection) -> BroadcastResult:
    return await broadcast([connection], "hello", timeout=math.inf)


async def test_broadcast_slow_that_reads_in_time_gets_message(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    late, never = [await open_full(nursery) for _ in range(2)]
    sending: Call[BroadcastResult] = Call(
        nursery, broadcast, [late.connection, never.connection], "hello"
    )
    await trio.sleep(0.9)
    assert await late.peer.expect(BINARY) == FILLING
    assert await late.peer.expect(TEXT) == b"hello"
    result = await sending.result()
    assert result.sent == {late.connection}
    assert set(result.failed) == {never.connection}


async def test_broadcast_skipped_connection_still_works(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    end = await open_full(nursery)
    assert end.connection in (await broadcast([end.connection], "skipped")).failed
    assert end.connection.statistics().messages_sent == 1
    assert await end.peer.expect(BINARY) == FILLING
    await broadcast([end.connection], "next")
    assert await end.peer.expect(TEXT) == b"next"


async def test_broadcast_slow_close_closes_the_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = await open_full(nursery)
    (end,) = await open_some(nursery, 1)
    getting: Call[str | bytes] = Call(nursery, slow.connection.get_message)
    start = trio.current_time()
    both = [slow.connection, end.connection]
    result = await broadcast(both, "hello", timeout=5, on_slow="close")
    assert trio.current_time() == start + 5
    assert result.sent == {end.connection}
    assert isinstance(result.failed[slow.connection], trio.TooSlowError)
    assert slow.connection.closed is not None
    assert (slow.connection.closed.code, slow.connection.closed.reason) == (1008, "too slow")
    with pytest.raises(ConnectionClosed) as caught:
        await getting.result()
    assert caught.value.reason == slow.connection.closed
    await slow.connection.wait_closed()
    assert trio.current_time() <= start + 5 + 60 + 0.1  # disconnect_timeout limits the Close
    assert end.connection.closed is None


@pytest.mark.parametrize("kind", ["socketpair", "tcp", "tls"])
async def test_broadcast_close_peer_reads_again_sends_1008(
    nursery: trio.Nursery, kind: str
) -> None:
    slow = await open_full_tcp(nursery, kind, bytes(20_000))
    queued = slow.connection.statistics().frames_unsent
    accepted = slow.connection.statistics().messages_sent
    assert queued == 4  # the smallest number that exceeds 64 KiB, unless one is partly written
    result = await broadcast([slow.connection], "hello", timeout=0, on_slow="close")
    assert isinstance(result.failed[slow.connection], trio.TooSlowError)
    frames: list[Frame] = []
    while not frames or frames[-1].opcode != CLOSE:
        received = await slow.peer.receive()
        assert received is not None
        frames.append(received)
    assert frames[-1].payload == close_payload(1008, "too slow")
    assert all(received == Frame(BINARY, bytes(20_000)) for received in frames[:-1])
    assert accepted - queued <= len(frames) - 1 < accepted  # whole messages were dropped
    await slow.peer.send_close(1008)
    await slow.peer.aclose()
    await slow.connection.wait_closed()
    assert slow.connection.closed == CloseReason(1008, "too slow")


async def test_broadcast_close_fails_queued_send_message(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = await open_full_tcp(nursery, "socketpair")
    accepted = slow.connection.statistics().messages_sent
    waiting: Call[None] = Call(nursery, slow.connection.send_message, FILLING)
    await wait_all_tasks_blocked()
    await broadcast([slow.connection], "hello", timeout=0, on_slow="close")
    with pytest.raises(ConnectionClosed) as caught:
        await waiting.result()
    assert caught.value.reason == CloseReason(1008, "too slow")
    assert slow.connection.statistics().messages_sent == accepted


async def test_broadcast_close_ends_at_disconnect_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = await open_full(nursery, disconnect_timeout=3)
    start = trio.current_time()
    await broadcast([slow.connection], "hello", timeout=0, on_slow="close")
    assert trio.current_time() == start
    await slow.connection.wait_closed()
    assert start + 3 <= trio.current_time() <= start + 3.1
    assert slow.connection.closed == CloseReason(1008, "too slow")


@pytest.mark.parametrize("on_slow", ["skip", "close"])
async def test_broadcast_room_at_timeout_sends_or_closes(
    nursery: trio.Nursery, on_slow: Literal["skip", "close"]
) -> None:
    for turns in range(10):
        slow = await open_full(nursery, disconnect_timeout=0)
        nursery.start_soon(slow.peer.receive_all)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        result = await broadcast([slow.connection], "hello", timeout=0, on_slow=on_slow)
        is_sent = slow.connection in result.sent
        assert turns < 9 or is_sent
        assert is_sent == (slow.connection not in result.failed)
        assert is_sent or on_slow == "skip" or slow.connection.closed is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_during_send_message_stream_follows_it(
    nursery: trio.Nursery, kind: str
) -> None:
    (busy,) = await open_some(nursery, 1, kind)
    pieces, coming = trio.open_memory_channel[str](0)
    nursery.start_soon(busy.connection.send_message, coming)
    await pieces.send("one ")
    sending: Call[BroadcastResult] = Call(nursery, broadcast, [busy.connection], "behind")
    await wait_all_tasks_blocked()
    await pieces.send("two")
    pieces.close()
    expect_sent(await sending.result(), [busy.connection])
    assert await busy.peer.receive() == Frame(TEXT, b"one ", fin=False)
    assert await busy.peer.receive() == Frame(CONTINUATION, b"two", fin=False)
    assert await busy.peer.receive() == Frame(CONTINUATION)
    assert await busy.peer.receive() == Frame(TEXT, b"behind")


async def test_broadcast_skip_during_stream_leaves_it_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    (busy,) = await open_some(nursery, 1)
    pieces, coming = trio.open_memory_channel[str](0)
    nursery.start_soon(busy.connection.send_message, coming)
    await pieces.send("one ")
    result = await broadcast([busy.connection], "skipped")
    assert isinstance(result.failed[busy.connection], trio.TooSlowError)
    assert busy.connection.closed is None
    pieces.close()


async def test_broadcast_close_during_stream_closes_connection(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    (busy,) = await open_some(nursery, 1)
    pieces, coming = trio.open_memory_channel[str](0)
    sending: Call[None] = Call(nursery, busy.connection.send_message, coming)
    await pieces.send("one ")
    result = await broadcast([busy.connection], "skipped", on_slow="close")
    assert isinstance(result.failed[busy.connection], trio.TooSlowError)
    assert await busy.peer.receive() == Frame(TEXT, b"one ", fin=False)
    assert await busy.peer.receive() == Frame(CLOSE, close_payload(1008, "too slow"))
    pieces.close()
    with pytest.raises(ConnectionClosed):
        await sending.result()


async def test_send_message_stream_dropped_by_broadcast_raises(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    # Only the last fragment, which is empty, exceeds the limit.
    slow = await open_full(nursery, max_unsent_bytes=2 * (10 + len(FILLING)))
    accepted = slow.connection.statistics().messages_sent
    sending: Call[None] = Call(nursery, slow.connection.send_message, [FILLING])
    await wait_all_tasks_blocked()
    assert slow.connection.statistics().messages_sent == accepted + 1
    await broadcast([slow.connection], "hello", timeout=0, on_slow="close")
    with pytest.raises(ConnectionClosed) as caught:
        await sending.result()
    assert caught.value.reason == CloseReason(1008, "too slow")
    assert slow.connection.statistics().messages_sent == accepted


async def test_broadcast_dropped_by_another_counts_as_failed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    full = await open_full(nursery)
    slow = await open_full(nursery, max_unsent_bytes=100_000)
    both = connections_of([full, slow])
    sending: Call[BroadcastResult] = Call(nursery, broadcast, both, FILLING)
    await wait_all_tasks_blocked()  # queued for one connection, waiting for the other one
    await broadcast([slow.connection], "hello", timeout=0, on_slow="close")
    result = await sending.result()
    assert not result.sent
    error = result.failed[slow.connection]
    assert isinstance(error, ConnectionClosed)
    assert error.reason == CloseReason(1008, "too slow")


# -- closed connections


async def closed_ones(nursery: trio.Nursery) -> list[WebSocketConnection]:
    here, there, lost = await open_some(nursery, 3)
    nursery.start_soon(here.connection.aclose, 4001)
    await there.peer.send_close(4002)
    await lost.peer.aclose()
    await trio.sleep(1)  # the connections notice, although no task receives
    return connections_of([here, there, lost])


@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_during_aclose_sends_nothing_after_close(
    nursery: trio.Nursery, kind: str
) -> None:
    (end,) = await open_some(nursery, 1, kind)
    closing = Call(nursery, end.connection.aclose)
    await wait_all_tasks_blocked()
    result = await broadcast([end.connection], "late")
    assert isinstance(result.failed[end.connection], ConnectionClosed)
    assert await end.peer.expect(CLOSE) == close_payload(1000)
    await end.peer.send_close(1000)
    assert await end.peer.receive_all() == []
    await closing.result()


async def test_broadcast_after_peer_close_keeps_the_reason(
    nursery: trio.Nursery,
) -> None:
    connection, peer = await open_server(nursery, "socketpair")
    await peer.send_close(4001)
    await peer.aclose()
    await broadcast([connection], "late")  # the first write finds out
    await connection.wait_closed()
    error = (await broadcast([connection], "later")).failed[connection]
    assert isinstance(error, ConnectionClosed)
    assert error.rcvd is not None
    assert error.rcvd.code == 4001


async def test_broadcast_skips_closed_connections(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    closed = await closed_ones(nursery)
    (end,) = await open_some(nursery, 1)
    result = await broadcast([*closed, end.connection], "hello")
    assert result.sent == {end.connection}
    codes = []
    for connection in closed:
        error = result.failed[connection]
        assert isinstance(error, ConnectionClosed)
        assert error.reason == connection.closed
        codes.append(error.reason.code)
        assert connection.statistics().messages_sent == 0
    assert codes == [4001, 4002, 1006]


@pytest.mark.parametrize("open_end", [open_client, open_server])
async def test_broadcast_skips_reset_connections(nursery: trio.Nursery, open_end: Any) -> None:
    ends = [Far(*await open_end(nursery, "tcp")) for _ in range(2)]
    reset(ends[0].peer.stream)
    for _ in range(2):  # the first write finds out
        result = await broadcast(connections_of(ends), "hello", timeout=0)
        assert result.sent == {ends[1].connection}
        error = result.failed[ends[0].connection]
        assert isinstance(error, ConnectionClosed)
        assert error.reason is not None
        assert error.reason.code == 1006
        assert isinstance(error.__cause__, ConnectionResetError)


async def test_broadcast_closed_while_waiting_is_skipped(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = await open_full(nursery)
    start = trio.current_time()
    sending: Call[BroadcastResult] = Call(nursery, broadcast, [slow.connection], "hello")
    await wait_all_tasks_blocked()
    await slow.peer.aclose()
    assert isinstance((await sending.result()).failed[slow.connection], ConnectionClosed)
    assert trio.current_time() == start


async def test_broadcast_closed_and_unread_is_not_slow(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    slow = await open_full(nursery)
    sending: Call[BroadcastResult] = Call(nursery, broadcast, [slow.connection], "hello")
    await wait_all_tasks_blocked()
    await slow.peer.send_close(4002)
    error = (await sending.result()).failed[slow.connection]
    assert isinstance(error, ConnectionClosed)
    assert error.rcvd is not None
    assert error.rcvd.code == 4002


# -- order


@pytest.mark.parametrize("kind", KINDS)
async def test_broadcast_and_send_message_keep_the_order(nursery: trio.Nursery, kind: str) -> None:
    ends = await open_some(nursery, 2, kind)
    for number in range(20):
        await broadcast(connections_of(ends), f"{number} to all")
        for end in ends:
            await end.connection.send_message(f"{number} to one")
    for end in ends:
        for number in range(20):
            assert await end.peer.expect(TEXT) == b"%d to all" % number
            assert await end.peer.expect(TEXT) == b"%d to one" % number


async def test_broadcast_to_slow_keeps_the_order(
    nursery: trio.Nursery,
) -> None:
    end = await open_full(nursery)
    calls: list[Call[Any]] = []
    for number in range(3):
        message = b"%d" % number + FILLING
        calls.append(Call(nursery, broadcast, [end.connection], message))
        await wait_all_tasks_blocked()
        calls.append(Call(nursery, end.connection.send_message, b"%d" % number))
        await wait_all_tasks_blocked()
    assert await end.peer.expect(BINARY) == FILLING
    for number in range(3):
        assert await end.peer.expect(BINARY) == b"%d" % number + FILLING
        assert await end.peer.expect(BINARY) == b"%d" % number
    for call in calls:
        await call.result()


async def test_broadcast_lets_other_tasks_run(nursery: trio.Nursery) -> None:
    ends = await open_some(nursery, 100)
    async with turns_of_another() as turns:
        await trio.lowlevel.checkpoint()
        before = turns()
        await broadcast(connections_of(ends), "hello")
        assert turns() - before >= 3


# -- cancellation


async def test_broadcast_cancelled_before_sends_nothing(nursery: trio.Nursery) -> None:
    (end,) = await open_some(nursery, 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await broadcast([end.connection], "never")
    assert scope.cancelled_caught
    await broadcast([end.connection], "next")
    assert await end.peer.expect(TEXT) == b"next"


async def test_broadcast_cancelled_while_waiting_sent_to_others(
    nursery: trio.Nursery,
) -> None:
    slow = [await open_full(nursery) for _ in range(2)]
    (end,) = await open_some(nursery, 1)
    sending: Call[BroadcastResult] = Call(nursery, broadcast, connections_of([*slow, end]), "hello")
    await wait_all_tasks_blocked()
    await sending.cancel()
    assert await end.peer.expect(TEXT) == b"hello"
    for each in slow:
        assert await each.peer.expect(BINARY) == FILLING
    await broadcast(connections_of([*slow, end]), "next")
    for each in [*slow, end]:
        assert await each.peer.expect(TEXT) == b"next"


@pytest.mark.parametrize("policy", ["skip", "close"])
async def test_broadcast_cancelled_closes_no_connection(nursery: trio.Nursery, policy: str) -> None:
    slow = await open_full(nursery)
    with trio.move_on_after(0.01) as scope:
        await broadcast([slow.connection], "never", on_slow=policy)  # type: ignore[arg-type] # a str of these
    assert scope.cancelled_caught
    assert slow.connection.closed is None


def test_broadcast_keyboard_interrupt_is_raised() -> None:
    async def interrupt() -> None:
        await wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            end = await open_full(nursery)
            trio.lowlevel.spawn_system_task(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await broadcast([end.connection], "never", timeout=60)
            nursery.cancel_scope.cancel()

    trio.run(main)


# -- the connections of a server


async def wait_closed(request: WebSocketRequest) -> None:
    connection = await request.accept()
    await connection.wait_closed()


async def start(nursery: trio.Nursery, handler: Any = wait_closed) -> WebSocketServer:
    server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, None)
    assert isinstance(server, WebSocketServer)
    return server


async def test_server_connections_are_the_open_ones(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    assert server.connections == set()
    address = "127.0.0.1", server.port, "/"
    async with open_websocket(*address, use_ssl=False) as first:
        await first.ping()
        (connection,) = server.connections
        assert connection.remote == first.local
        async with open_websocket(*address, use_ssl=False) as second:
            await second.ping()
            assert len(server.connections) == 2
        assert server.connections == {connection}
    assert server.connections == set()
    nursery.cancel_scope.cancel()


async def test_server_connections_without_unaccepted_requests(nursery: trio.Nursery) -> None:
    go_on, is_there = trio.Event(), trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        is_there.set()
        await go_on.wait()
        await request.accept()

    server = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await wait_all_tasks_blocked(0.01)
    assert server.connections == set()  # not even a request
    await stream.aclose()

    async def connect() -> None:
        async with open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
            pass

    connecting: Call[None] = Call(nursery, connect)
    await is_there.wait()
    assert server.connections == set()
    go_on.set()
    await connecting.result()
    nursery.cancel_scope.cancel()


async def test_server_connections_without_closing_ones(nursery: trio.Nursery) -> None:
    closing = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        connection = await request.accept()
        await closing.wait()
        await connection.aclose()

    server = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(REQUEST)
    await read_head(stream)
    peer = RawPeer(stream, is_client=True)
    assert len(server.connections) == 1
    closing.set()
    assert await peer.expect(CLOSE) == close_payload(1000)
    assert server.connections == set()
    await peer.aclose()
    nursery.cancel_scope.cancel()


async def test_server_connections_is_a_new_set(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    async with open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as client:
        await client.ping()
        connections = server.connections
        connections.clear()
        assert len(server.connections) == 1
    nursery.cancel_scope.cancel()


async def test_server_broadcast_reaches_its_connections(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    address = "127.0.0.1", server.port, "/"
    async with open_websocket(*address, use_ssl=False) as one, open_websocket(
        *address, use_ssl=False
    ) as other:
        await one.ping()
        await other.ping()
        assert len((await broadcast(server.connections, "hello")).sent) == 2
        assert await one.get_message() == "hello"
        assert await other.get_message() == "hello"
    nursery.cancel_scope.cancel()


async def test_server_broadcast_over_tls_reaches_connections(nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    server = await nursery.start(serve_websocket, wait_closed, "127.0.0.1", 0, server_context)
    async with open_websocket("127.0.0.1", server.port, "/", use_ssl=client_context) as client:
        await client.ping()
        (connection,) = server.connections
        messages = ["1", LARGE * 2, "2", "3", "4"]
        sending: Call[None] = Call(nursery, _send_both_ways, connection, messages)
        for message in messages:
            assert await client.get_message() == message
            assert await client.get_message() == "to one"
        await sending.result()
    nursery.cancel_scope.cancel()


async def _send_both_ways(connection: WebSocketConnection, messages: Iterable[str | bytes]) -> None:
    for message in messages:
        expect_sent(await broadcast([connection], message, timeout=5), [connection])
        await connection.send_message("to one")
