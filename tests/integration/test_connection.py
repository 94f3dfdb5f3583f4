"""Sending, receiving and closing on sockets that fail."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from support.connections import closed_error, open_client, open_pair, open_server
from support.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    close_payload,
)
from support.peer import (
    REQUEST,
    codes,
    frames_to_end,
)
from support.servers import (
    connect,
    start,
)
from support.streams import PAIRS, over_tls, reset, tcp_pair
from support.tasks import Call
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    DisconnectionTimeout,
    Endpoint,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes


async def test_local_and_remote_are_both_ends(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery, "tcp")
    assert client.local == server.remote
    assert client.remote == server.local


def close_socket(stream: Any) -> None:
    getattr(stream, "transport_stream", stream).socket.close()


@pytest.mark.parametrize("kind", ["socketpair", "tcp", "own-tls"])
@pytest.mark.parametrize("sent_before", [0, 1, 2])
@pytest.mark.parametrize("message", ["x", LARGE, ["x"]], ids=["small", "large", "pieces"])
async def test_send_message_stream_closed_directly_raises(
    nursery: trio.Nursery, kind: str, sent_before: int, message: Any
) -> None:
    streams = await PAIRS[kind]()
    server, _ = await open_server(nursery, streams=streams)
    for _ in range(sent_before):
        await server.send_message("before")
    close_socket(streams[1])  # in the same turn of the scheduler
    exc = await closed_error(server.send_message(message))
    assert exc.reason.code == 1006


@pytest.mark.parametrize("kind", ["tcp", "own-tls"])
async def test_send_message_stream_closed_directly_while_full_raises(
    nursery: trio.Nursery, kind: str
) -> None:
    streams = await PAIRS[kind]()
    server, _ = await open_server(nursery, streams=streams, max_unsent_bytes=10**8)
    await server.send_message(LARGE)
    assert server.statistics().bytes_unsent
    close_socket(streams[1])
    await closed_error(server.send_message("x"))


async def test_send_message_stream_closed_directly_after_accept_raises(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await PAIRS["tcp"]()
    nursery.start_soon(theirs.send_all, REQUEST)
    request = await wrap_server_stream(nursery, ours)
    connection = await request.accept()
    await ours.aclose()
    await closed_error(connection.send_message("x"))


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_aclose_cancelled_sends_close(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    assert await peer.receive_all() == [Frame(CLOSE, close_payload(1000))]


async def test_get_message_reset_raises_with_cause(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "tcp")
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    reset(peer.stream)
    error = await closed_error(getting.result())
    assert error.reason is not None
    assert error.reason.code == 1006
    assert isinstance(error.__cause__, ConnectionResetError)


async def test_aclose_after_peer_close_closes_stream(
    nursery: trio.Nursery,
) -> None:
    ws, peer = await open_client(nursery, "tcp")
    await peer.send_close(1000)
    with pytest.raises(ConnectionClosed):
        await ws.get_message()
    async with trio.open_nursery() as both:
        both.start_soon(ws.aclose)
        assert codes(await frames_to_end(peer)) == [1000]
    assert ws.closed == CloseReason(1000, None)


async def test_aclose_in_a_handler_obeys_disconnect_timeout(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(DisconnectionTimeout):
            await ws.aclose()
        done.set()

    done = trio.Event()
    port = await start(nursery, handler, disconnect_timeout=0.1)
    peer = await connect(port)
    with trio.fail_after(30):
        await done.wait()
    assert codes(await frames_to_end(peer)) == [1000]


async def test_aclose_twice_at_once_both_wait(
    nursery: trio.Nursery,
) -> None:
    async def close() -> None:
        await ws.aclose()
        closed.append(True)

    closed: list[bool] = []
    ws, peer = await open_client(nursery, "tcp")
    async with trio.open_nursery() as both:
        both.start_soon(close)
        both.start_soon(close)
        await peer.receive_frame()
        await trio.testing.wait_all_tasks_blocked()
        assert closed == []
        await peer.send_close(1000)
        assert await frames_to_end(peer) == []
    assert closed == [True, True]


@pytest.mark.parametrize("ending", ["reset", "eof", "close", "aclose", "bad frame"])
async def test_ping_connection_ends_raises(nursery: trio.Nursery, ending: str) -> None:
    async def ping() -> None:
        with pytest.raises(ConnectionClosed):
            await ws.ping()
        woken.set()

    woken = trio.Event()
    ws, peer = await open_client(nursery, "tcp")
    with trio.fail_after(30):
        async with peer.stream, trio.open_nursery() as pinging:
            pinging.start_soon(ping)
            received = await peer.receive_frame()
            assert received.opcode == PING
            if ending == "reset":
                reset(peer.stream)
            elif ending == "eof":
                await peer.stream.aclose()
            elif ending == "close":
                await peer.send_close(1000)
                await peer.stream.aclose()
            elif ending == "bad frame":
                await peer.send(b"\x83\x00")
                await peer.stream.aclose()
            else:
                pinging.start_soon(ws.aclose)
                await peer.receive()
                await peer.send_close(1000)
                await peer.stream.aclose()
            await woken.wait()


async def test_ping_cancelled_payload_can_be_reused(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    async with peer.stream:
        async with trio.open_nursery() as pinging:
            pinging.start_soon(ws.ping, b"again")
            assert await peer.receive() == (PING, b"again", True, 0)
            pinging.cancel_scope.cancel()
        assert pinging.cancel_scope.cancelled_caught
        async with trio.open_nursery() as pinging:
            pinging.start_soon(ws.ping, b"again")
            assert await peer.receive() == (PING, b"again", True, 0)
            await peer.send_frame(PONG, b"again")


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_ping_while_both_send_much_does_not_deadlock(
    nursery: trio.Nursery, kind: str
) -> None:
    async def send(ws: WebSocketConnection) -> None:
        for _ in range(5):
            await ws.send_message(bytes(2**20))

    async def receive(ws: WebSocketConnection) -> None:
        for _ in range(5):
            assert await ws.get_message() == bytes(2**20)

    async def ping(ws: WebSocketConnection) -> None:
        for _ in range(5):
            await ws.ping()

    with trio.fail_after(30):
        client, server = await open_pair(nursery, kind)
        async with trio.open_nursery() as busy:
            for ws in (client, server):
                for job in (send, receive, ping):
                    busy.start_soon(job, ws)
        async with trio.open_nursery() as closing:
            closing.start_soon(client.aclose)
            closing.start_soon(server.aclose)


async def test_send_message_cancelled_tears_no_frame(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    with trio.move_on_after(0.1) as scope:
        while True:
            await ws.send_message(bytes(2**20))
    assert scope.cancelled_caught
    async with peer.stream, trio.open_nursery() as sending:
        sending.start_soon(ws.send_message, "after")
        with trio.fail_after(30):
            received = await peer.receive()
            while received is not None and received.opcode == BINARY:
                assert received == (BINARY, bytes(2**20), True, 0)
                received = await peer.receive()
    assert received == (TEXT, b"after", True, 0)


@pytest.mark.parametrize("answer", [4001, 1000])
async def test_aclose_code_of_application_is_in_closed(nursery: trio.Nursery, answer: int) -> None:
    ws, peer = await open_client(nursery, "tcp")
    async with trio.open_nursery() as closing:
        closing.start_soon(ws.aclose, 4001, "enough")
        assert await peer.receive() == (CLOSE, close_payload(4001, "enough"), True, 0)
        await peer.send_close(answer)
        assert await frames_to_end(peer) == []
    assert ws.closed == CloseReason(4001, "enough")


@pytest.mark.parametrize(("code", "reason"), [(4001, "enough"), (1014, None)])
async def test_aclose_code_is_seen_by_peer(
    nursery: trio.Nursery, code: int, reason: str | None
) -> None:
    client, server = await open_pair(nursery, "tcp")
    await client.aclose(code, reason)
    with pytest.raises(ConnectionClosed) as caught:
        await server.get_message()
    assert caught.value.reason == CloseReason(code, reason)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1016, 2999, 5000, 70000])
async def test_aclose_code_that_must_not_be_sent_raises(nursery: trio.Nursery, code: int) -> None:
    ws, peer = await open_client(nursery, "tcp")
    async with peer.stream:
        with pytest.raises(ValueError, match=str(code)):
            await ws.aclose(code)
        await ws.send_message("it still works")
        assert await peer.receive() == (TEXT, b"it still works", True, 0)


async def test_get_message_reset_says_1006_and_reset(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    reset(peer.stream)
    with pytest.raises(ConnectionClosed, match=r"1006.*reset") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_get_message_stream_ended_says_1006_and_eof(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    await peer.aclose()
    with pytest.raises(ConnectionClosed, match=r"1006.*without a Close") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, EOFError)


async def test_get_message_tls_reset_says_1006_and_reset(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    ws, _ = await open_client(nursery, streams=await over_tls(ours, theirs))
    reset(theirs)
    with pytest.raises(ConnectionClosed, match=r"1006.*reset") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_send_message_reset_with_unread_messages_says_why(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_client(nursery, "socketpair")
    for _ in range(5):
        await peer.send_frame(TEXT, b"nobody reads this")
    await trio.sleep(1)  # wait until the connection has filled its queue
    reset(peer.stream)
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await ws.send_message("into the void")
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006
    assert caught.value.sent is None
    assert isinstance(caught.value.__cause__, OSError)


async def test_local_and_remote_after_aclose_are_kept(
    nursery: trio.Nursery,
) -> None:
    client, server = await open_pair(nursery, "tcp")
    ends = (client.local, client.remote)
    await client.aclose()
    assert (client.local, client.remote) == ends == (server.remote, server.local)
    assert all(isinstance(end, Endpoint) for end in ends)


async def test_send_message_over_tls_in_memory_arrives(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery, "tls-memory")
    await client.send_message("hello")
    assert await server.get_message() == "hello"
    for ws in (client, server):
        assert isinstance(ws.local, str)
        assert isinstance(ws.remote, str)
    await client.aclose()
