"""What a peer or an application does wrong, and what is right then: with real bytes, end to end.

One section for each kind of harm; each fault here was one of trio-websocket 0.12.2.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import tracemalloc
from typing import TYPE_CHECKING, Any, Callable

import pytest
import trio
import trio.testing

from support.connections import open_client, open_pair, open_server
from support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close_payload,
    frame,
)
from support.peer import REQUEST, RawPeer, accepting, read_head, start_raw_server
from support.servers import (
    Names,
    Script,
    ask,
    assert_serves,
    connect,
    echo,
    receive_to_end,
    start,
    start_accepting,
)
from support.streams import memory_pair, over_tls, reset, tcp_pair, tls_contexts
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    Endpoint,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
    wrap_server_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream


async def frames_to_end(peer: RawPeer) -> list[Frame]:
    async with peer.stream:
        with trio.fail_after(30):
            return await peer.receive_all()


def codes(frames: list[Frame]) -> list[int]:
    """The codes of the Close frames."""
    return [int.from_bytes(f.payload[:2], "big") for f in frames if f.opcode == CLOSE]


def with_header(line: bytes, request: bytes = REQUEST) -> bytes:
    """The request with a header in place of the one of its name, or with one more."""
    name = line.partition(b":")[0].lower()
    lines = [x for x in request.split(b"\r\n") if x and x.partition(b":")[0].lower() != name]
    return b"\r\n".join([*lines, line, b"", b""])


async def raw_server(nursery: trio.Nursery, script: Script, *headers: bytes) -> str:
    """A server that accepts, and then does what the script says; the URL."""
    return f"ws://127.0.0.1:{await start_accepting(nursery, script, *headers)}/"


async def answering(nursery: trio.Nursery, answer: bytes) -> str:
    """A server that gives one answer to every request, and leaves; the URL."""

    async def run(stream: Stream) -> None:
        async with stream:
            await read_head(stream)
            await stream.send_all(answer)

    return f"ws://127.0.0.1:{await start_raw_server(nursery, run)}/"


@contextlib.asynccontextmanager
async def peak_memory() -> Any:
    """A function that tells the peak of Python's memory since the block began, in bytes."""
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()


# == A remote peer must not end the server


@pytest.mark.parametrize(
    "header",
    [
        b"Host: ex\xe4mple.org",
        b"Connection: Upgrade, \xff",
        b"Sec-WebSocket-Protocol: ch\xe4t",
        b"Sec-WebSocket-Extensions: \xff",
    ],
)
async def test_a_byte_outside_ascii_in_a_header_is_answered_and_the_server_lives(
    nursery: trio.Nursery, header: bytes
) -> None:
    port = await start(nursery)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(with_header(header))
        head, _ = await read_head(stream)
    assert head[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 101 ")
    await assert_serves(port)


@pytest.mark.parametrize("late", [Frame(PING, b"too late"), Frame(BINARY, bytes(101))])
async def test_what_comes_after_our_close_is_ignored_and_the_server_lives(
    nursery: trio.Nursery, late: Frame
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/echo":
            await echo(request)
        await request.accept()

    port = await start(nursery, handler, max_message_size=100)
    peer = await connect(port)
    assert await peer.receive() == (CLOSE, close_payload(1000), True, 0)
    await peer.send(peer.frame(late.opcode, late.payload), peer.frame(CLOSE, close_payload(1000)))
    assert await frames_to_end(peer) == []
    await assert_serves(port)


async def test_two_oversize_messages_in_one_segment_get_one_1009_and_the_server_lives(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, max_message_size=100)
    peer = await connect(port)
    await peer.send(peer.frame(BINARY, bytes(101)), peer.frame(BINARY, bytes(101)))
    assert codes(await frames_to_end(peer)) == [1009]
    await assert_serves(port)


async def test_a_malformed_request_of_a_client_that_is_gone_leaves_the_server_alive(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"nonsense\r\n\r\n")
    reset(stream)
    await trio.testing.wait_all_tasks_blocked()
    await assert_serves(port)


async def test_a_reset_before_accept_is_a_lost_connection_and_the_server_lives(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/echo":
            await echo(request)
        await gone.wait()
        ws = await request.accept()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        errors.append(caught.value)
        assert ws.remote == request.remote
        assert isinstance(ws.remote, Endpoint)
        done.set()
        await ws.send_message("into the void")

    errors: list[ConnectionClosed] = []
    gone, done = trio.Event(), trio.Event()
    port = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(REQUEST)
    await trio.testing.wait_all_tasks_blocked()
    reset(stream)
    gone.set()
    with trio.fail_after(30):
        await done.wait()
    (error,) = errors
    assert error.reason is not None
    assert error.reason.code == 1006
    assert isinstance(error.__cause__, OSError)
    await assert_serves(port)


async def test_connection_closed_that_escapes_a_handler_leaves_the_server_alive(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery)
    reset((await connect(port)).stream)
    peer = await connect(port)
    await peer.send_close(1001)
    assert codes(await frames_to_end(peer)) == [1001]
    await assert_serves(port)


# == Nothing hangs, nothing is left behind


async def test_connect_timeout_fires_on_a_silent_server(nursery: trio.Nursery) -> None:
    port = await start_raw_server(nursery, receive_to_end)
    with trio.fail_after(30), pytest.raises(ConnectionTimeout):
        async with open_websocket("127.0.0.1", port, "/", use_ssl=False, connect_timeout=0.1):
            pytest.fail("it has opened")


async def test_the_end_of_tcp_before_the_response_ends_connect_websocket(
    nursery: trio.Nursery,
) -> None:
    url = await answering(nursery, b"")
    with trio.fail_after(30), pytest.raises(ConnectionFailed, match="closed the connection"):
        await connect_websocket_url(nursery, url)


async def test_a_certificate_that_does_not_verify_is_named(nursery: trio.Nursery) -> None:
    port = await start_raw_server(nursery, ignore_errors, use_tls=True)
    with trio.fail_after(30), pytest.raises(ConnectionFailed, match="certificate verify failed"):
        async with open_websocket("127.0.0.1", port, "/", use_ssl=True):
            pytest.fail("it has opened")


async def ignore_errors(stream: Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.receive_some()


async def test_a_cancelled_connect_leaves_no_task_in_the_nursery_of_the_caller(
    nursery: trio.Nursery,
) -> None:
    async def cancel_and_wait_for_end(stream: Stream) -> None:
        await read_head(stream)
        scope.cancel()
        with contextlib.suppress(trio.BrokenResourceError):
            await receive_to_end(stream)
        ended.set()

    ended = trio.Event()
    scope = trio.CancelScope()
    port = await start_raw_server(nursery, cancel_and_wait_for_end)
    with trio.fail_after(30):
        async with trio.open_nursery() as own:
            with scope:
                await connect_websocket(own, "127.0.0.1", port, "/", use_ssl=False)
            assert not own.child_tasks
        await ended.wait()


async def test_a_rejection_comes_out_of_connect_websocket_and_closes_the_stream(
    nursery: trio.Nursery,
) -> None:
    async def reject(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        ended.set()

    ended = trio.Event()
    port = await start_raw_server(nursery, reject)
    with trio.fail_after(30):
        async with trio.open_nursery() as own:
            with pytest.raises(ConnectionRejected) as caught:
                await connect_websocket(own, "127.0.0.1", port, "/", use_ssl=False)
            assert not own.child_tasks
        assert (caught.value.status_code, caught.value.body) == (403, b"no")
        await ended.wait()


async def test_leaving_the_block_after_the_server_closed_has_a_bound(
    nursery: trio.Nursery,
) -> None:
    async def close_and_stay(peer: RawPeer) -> None:
        await peer.send_close(1000)
        await trio.sleep_forever()

    url = await raw_server(nursery, close_and_stay)
    with trio.fail_after(30), contextlib.suppress(DisconnectionTimeout):
        async with open_websocket_url(url, disconnect_timeout=0.2) as ws:
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
    assert ws.closed == CloseReason(1000, None)


async def test_aclose_after_the_close_of_the_peer_closes_the_stream(
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


async def test_a_bad_frame_of_a_server_does_not_hang_the_exit(nursery: trio.Nursery) -> None:
    async def send_bad_frame(peer: RawPeer) -> None:
        await peer.send(b"\x83\x00")  # a reserved opcode
        received.extend(await peer.receive_all())

    received: list[Frame] = []
    url = await raw_server(nursery, send_bad_frame)
    with trio.fail_after(30):
        async with open_websocket_url(url) as ws:
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
    assert codes(received) == [1002]


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


async def test_a_second_aclose_at_the_same_time_waits_for_the_end_as_well(
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
async def test_a_ping_wakes_when_the_connection_ends(nursery: trio.Nursery, ending: str) -> None:
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


async def test_the_payload_of_a_cancelled_ping_may_be_used_again(nursery: trio.Nursery) -> None:
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
async def test_two_peers_that_ping_while_both_send_bulk_data_do_not_deadlock(
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


async def test_a_client_that_is_gone_during_the_handshake_holds_no_task(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as handlers:
        port = await start(nursery, handler_nursery=handlers)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(REQUEST[:-2])
        await trio.testing.wait_all_tasks_blocked()
        assert handlers.child_tasks
        await stream.aclose()
        with trio.fail_after(30):
            await no_tasks(handlers)


async def no_tasks(nursery: trio.Nursery) -> None:
    while nursery.child_tasks:
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_plain_http_is_answered_and_holds_no_task(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as handlers:
        port = await start(nursery, handler_nursery=handlers)
        answer = await ask(port, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 426 ")
        with trio.fail_after(30):
            await no_tasks(handlers)


# == No corruption, and no memory without a bound


async def test_a_cancelled_send_tears_no_frame(nursery: trio.Nursery) -> None:
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


async def test_what_is_sent_before_accept_is_stopped_by_the_kernel(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await trio.sleep_forever()

    port = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    chunk = frame(BINARY, bytes(2**16), mask=True)
    sent = 0
    async with stream, peak_memory() as peak:
        await stream.send_all(REQUEST)
        with trio.move_on_after(0.5):
            while sent < 200e6:
                await stream.send_all(chunk)
                sent += len(chunk)
        grown = peak()
    assert sent < 50e6, "the kernel's buffers hold no more"
    assert grown < 1e6


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 200000000\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nbebc200\r\n",
    ],
)
async def test_a_rejection_body_is_kept_up_to_its_limit(nursery: trio.Nursery, head: bytes) -> None:
    async def flood(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(head)
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(200):
                await stream.send_all(b"x" * 10**6)

    port = await start_raw_server(nursery, flood)
    with trio.fail_after(30):
        async with peak_memory() as peak:
            with pytest.raises(ConnectionRejected) as caught:
                await connect_websocket(nursery, "127.0.0.1", port, "/", use_ssl=False)
            grown = peak()
    assert caught.value.body == b"x" * 2**16
    assert grown < 5e6


async def test_empty_fragments_are_counted_and_refused(nursery: trio.Nursery) -> None:
    async def send_fragments() -> None:
        fragments = peer.frame(CONTINUATION, fin=False) * 1000
        await peer.send_frame(TEXT, fin=False)
        with contextlib.suppress(trio.BrokenResourceError):
            for _ in range(200):
                await peer.send(fragments)
        await peer.stream.aclose()

    ws, peer = await open_server(nursery, "tcp", max_fragments=1000)
    async with peak_memory() as peak:
        async with trio.open_nursery() as both:
            both.start_soon(send_fragments)
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
            assert await peer.receive() == (CLOSE, caught_close(caught.value), True, 0)
        grown = peak()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1009
    assert grown < 1e6


def caught_close(exc: ConnectionClosed) -> bytes:
    assert exc.sent is not None
    return close_payload(exc.sent.code, exc.sent.reason or "")


# == No wrong results


async def test_an_exception_comes_out_although_a_ping_comes_after_our_close(
    nursery: trio.Nursery,
) -> None:
    async def ping_late(peer: RawPeer) -> None:
        await peer.receive()
        await peer.send(peer.frame(PING, b"late"), peer.frame(CLOSE, close_payload(1011)))
        await peer.receive_all()

    url = await raw_server(nursery, ping_late)
    error = LookupError("the user's")
    with trio.fail_after(30), pytest.raises(LookupError) as caught:
        async with open_websocket_url(url):
            raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xfe\xfd\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \xff\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: \xff\r\nConnection: Upgrade\r\n\r\n",
        accepting(REQUEST).replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"\xff"),
        b"HTTP/1.1 101 X\r\nbad header\r\n\r\n",
    ],
)
async def test_a_bad_response_is_a_handshake_error(nursery: trio.Nursery, answer: bytes) -> None:
    url = await answering(nursery, answer)
    with trio.fail_after(30), pytest.raises(HandshakeError) as caught:
        await connect_websocket_url(nursery, url)
    assert type(caught.value) is HandshakeError


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"])
async def test_a_choice_outside_ascii_is_a_handshake_error(
    nursery: trio.Nursery, name: bytes
) -> None:
    url = await raw_server(nursery, RawPeer.receive_all, name + b": \xff")
    with trio.fail_after(30), pytest.raises(HandshakeError):
        await connect_websocket_url(nursery, url, subprotocols=["chat"])


BAD_FRAMES = {
    "a reserved opcode": (b"\x83\x00", 1002),
    "a reserved bit": (b"\xc1\x00", 1002),
    "a masked frame of a server": (b"\x81\x80abcd", 1002),
    "a fragmented ping": (b"\x09\x00", 1002),
    "a ping of 126 bytes": (b"\x89\x7e\x00\x7e", 1002),
    "a continuation of nothing": (b"\x80\x00", 1002),
    "a new message inside another": (b"\x01\x00\x81\x00", 1002),
    "a close code on one byte": (b"\x88\x01\x03", 1002),
    "a close code that must not be sent": (b"\x88\x02\x03\xee", 1002),
    "text that is not UTF-8": (b"\x81\x02\xc3\x28", 1007),
    "a close reason that is not UTF-8": (b"\x88\x04\x03\xe8\xc3\x28", 1007),
}


@pytest.mark.parametrize(("data", "code"), BAD_FRAMES.values(), ids=list(BAD_FRAMES))
async def test_a_protocol_error_is_told_to_the_peer(
    nursery: trio.Nursery, data: bytes, code: int
) -> None:
    ws, peer = await open_client(nursery, "tcp")
    await peer.send(data)
    with pytest.raises(ConnectionClosed) as caught:
        await ws.get_message()
    assert codes(await frames_to_end(peer)) == [code]
    assert caught.value.reason is not None
    assert caught.value.reason.code == code
    assert caught.value.__cause__ is not None


async def test_an_unmasked_frame_of_a_client_is_told_to_it(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    peer = await connect(port, b"\x81\x00")
    assert codes(await frames_to_end(peer)) == [1002]


@pytest.mark.parametrize("answer", [4001, 1000])
async def test_aclose_with_a_code_of_the_application_is_reported_with_it(
    nursery: trio.Nursery, answer: int
) -> None:
    ws, peer = await open_client(nursery, "tcp")
    async with trio.open_nursery() as closing:
        closing.start_soon(ws.aclose, 4001, "enough")
        assert await peer.receive() == (CLOSE, close_payload(4001, "enough"), True, 0)
        await peer.send_close(answer)
        assert await frames_to_end(peer) == []
    assert ws.closed == CloseReason(4001, "enough")


@pytest.mark.parametrize(("code", "reason"), [(4001, "enough"), (1014, None)])
async def test_the_peer_of_an_aclose_with_a_code_sees_it(
    nursery: trio.Nursery, code: int, reason: str | None
) -> None:
    client, server = await open_pair(nursery, "tcp")
    await client.aclose(code, reason)
    with pytest.raises(ConnectionClosed) as caught:
        await server.get_message()
    assert caught.value.reason == CloseReason(code, reason)


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1016, 2999, 5000, 70000])
async def test_a_close_code_that_must_not_be_sent_is_refused(
    nursery: trio.Nursery, code: int
) -> None:
    ws, peer = await open_client(nursery, "tcp")
    async with peer.stream:
        with pytest.raises(ValueError, match=str(code)):
            await ws.aclose(code)
        await ws.send_message("it still works")
        assert await peer.receive() == (TEXT, b"it still works", True, 0)


async def test_close_code_1014_is_accepted_from_a_peer(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    peer = await connect(port)
    await peer.send_close(1014, "bad gateway")
    assert codes(await frames_to_end(peer)) == [1014]


async def test_1006_says_that_the_connection_was_reset(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    reset(peer.stream)
    with pytest.raises(ConnectionClosed, match=r"1006.*reset") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_1006_says_that_the_stream_ended(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp")
    await peer.aclose()
    with pytest.raises(ConnectionClosed, match=r"1006.*without a Close") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, EOFError)


async def test_1006_says_that_tls_ended(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    ws, _ = await open_client(nursery, streams=await over_tls(ours, theirs))
    reset(theirs)
    with pytest.raises(ConnectionClosed, match=r"1006.*reset") as caught:
        await ws.get_message()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_1006_says_why_while_messages_wait_to_be_read(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ws, peer = await open_client(nursery, "socketpair")
    for _ in range(5):
        await peer.send_frame(TEXT, b"nobody reads this")
    await trio.sleep(1)  # until the connection has read what it has room for
    reset(peer.stream)
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await ws.send_message("into the void")
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006
    assert caught.value.sent is None
    assert isinstance(caught.value.__cause__, OSError)


async def test_an_error_of_a_handler_closes_with_1011() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise LookupError("the user's")

    async def be_client(port: int) -> None:
        peer = await connect(port)
        received = await peer.receive()
        assert received == (CLOSE, close_payload(1011), True, 0)
        await peer.send_close(1011)
        assert await frames_to_end(peer) == []

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(handler, listeners)
    async with trio.open_nursery() as clients:
        clients.start_soon(be_client, server.port)
        with pytest.raises(LookupError):
            await server.run()


async def test_a_cancelled_server_closes_with_1001() -> None:
    async with trio.open_nursery() as serving:
        peer = await connect(await start(serving))
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    assert codes(await frames_to_end(peer)) == [1001]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://example.org/", "example.org"),
        ("ws://example.org:80/", "example.org"),
        ("ws://example.org:443/", "example.org:443"),
        ("ws://example.org:8080/", "example.org:8080"),
        ("wss://example.org/", "example.org"),
        ("wss://example.org:443/", "example.org"),
        ("wss://example.org:80/", "example.org:80"),
        ("ws://BÜCHER.example:8080/", "xn--bcher-kva.example:8080"),
    ],
)
async def test_the_host_header_has_the_port_unless_it_is_the_default(
    nursery: trio.Nursery, url: str, host: str
) -> None:
    request = await sent_to_server(nursery, url)
    assert f"\r\nHost: {host}\r\n".encode() in request


async def sent_to_server(nursery: trio.Nursery, url: str, **keywords: Any) -> bytes:
    """The head of the request that opening the URL sends."""

    async def reject(stream: Stream) -> None:
        async with stream:
            request, _ = await read_head(stream)
            requests.append(request)
            await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    requests: list[bytes] = []
    is_secure = url.startswith("wss:")
    Names(("127.0.0.1", await start_raw_server(nursery, reject, use_tls=is_secure)))
    context = tls_contexts()[0] if is_secure else None
    with trio.fail_after(30), pytest.raises(ConnectionRejected):
        await connect_websocket_url(nursery, url, context, **keywords)
    return requests[0]


async def test_the_host_header_has_ipv6_addresses_in_brackets(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        headers.update(request.headers)
        await request.reject(403)

    headers: dict[bytes, bytes] = {}
    try:
        listeners = await trio.open_tcp_listeners(0, host="::1")
    except OSError as exc:
        pytest.skip(f"no IPv6: {exc}")
    server = WebSocketServer(handler, listeners)
    await nursery.start(server.run)
    with pytest.raises(ConnectionRejected):
        await connect_websocket_url(nursery, f"ws://[::1]:{server.port}/")
    assert headers[b"host"] == b"[::1]:%d" % server.port


async def test_extra_headers_replace_headers_of_the_handshake(nursery: trio.Nursery) -> None:
    request = await sent_to_server(
        nursery,
        "ws://user:password@example.org/",
        subprotocols=["chat"],
        extra_headers=[
            (b"host", b"other.example"),
            (b"Sec-WebSocket-Protocol", b"superchat"),
            (b"Authorization", b"Bearer token"),
        ],
    )
    assert request.lower().count(b"\r\nhost: ") == 1
    assert b"\r\nhost: other.example\r\n" in request
    assert request.lower().count(b"\r\nsec-websocket-protocol: ") == 1
    assert b"\r\nSec-WebSocket-Protocol: superchat\r\n" in request
    assert request.lower().count(b"\r\nauthorization: ") == 1
    assert b"\r\nAuthorization: Bearer token\r\n" in request


async def test_a_request_and_its_connection_have_all_headers(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        found.append([tuple(header) for header in request.headers])
        found.append(list(ws.handshake_headers))

    found: list[Any] = []
    port = await start(nursery, handler)
    request = with_header(b"Sec-WebSocket-Protocol: chat")
    request = with_header(b"Sec-WebSocket-Extensions: permessage-deflate", request)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        await read_head(stream)
    expected = {
        (b"host", b"example.org"),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
    }
    for headers in found:
        assert expected <= set(headers)
    assert len(found) == 2


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: keep-alive\r\nConnection: Upgrade",
        b"Connection: keep-alive, UPGRADE",
        b"Upgrade: h2c\r\nUpgrade: WebSocket\r\nConnection: Upgrade",
    ],
)
async def test_repeated_connection_and_upgrade_headers_are_accepted(
    nursery: trio.Nursery, lines: bytes
) -> None:
    port = await start(nursery)
    request = REQUEST.replace(b"Connection: Upgrade", lines)
    if b"Upgrade: h2c" in lines:
        request = request.replace(b"Upgrade: websocket\r\n", b"", 1)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 101 ")


async def test_repeated_connection_and_upgrade_headers_of_a_server_are_accepted(
    nursery: trio.Nursery,
) -> None:
    url = await raw_server(nursery, RawPeer.receive_all, b"Connection: keep-alive")
    async with trio.open_nursery() as own:
        await connect_websocket_url(own, url)
        own.cancel_scope.cancel()


@pytest.mark.parametrize(
    "change",
    [
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"not base64"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ=="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b""),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (
            b"Sec-WebSocket-Key: ",
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key: ",
        ),
        (b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["not base64", "short", "unpadded", "empty", "missing", "double", "HTTP/1.0"],
)
async def test_a_bad_key_and_http_1_0_are_refused(
    nursery: trio.Nursery, change: tuple[bytes, bytes]
) -> None:
    port = await start(nursery)
    answer = await ask(port, REQUEST.replace(*change))
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("/grüße", "/gr%C3%BC%C3%9Fe"),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/%20%C3%BC", "/%20%C3%BC"),
        ("/?q=ü&p=\u20ac", "/?q=%C3%BC&p=%E2%82%AC"),
        ("/#f?x", "/"),
        ("/a?b#f?x", "/a?b"),
        ("#f?x", "/"),
        ("?", "/?"),
        ("?#f", "/?"),
    ],
)
async def test_the_request_target_is_encoded_and_has_no_fragment(
    nursery: trio.Nursery, tail: str, target: str
) -> None:
    request = await sent_to_server(nursery, "ws://example.org" + tail)
    assert request.startswith(f"GET {target} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("user:pw", b"user:pw"),
        ("user", b"user:"),
        ("user:", b"user:"),
        (":pw", b":pw"),
        ("us%40er:p%3Aw", b"us@er:p:w"),
        ("j\u00fcrgen:pw", "j\u00fcrgen:pw".encode()),
    ],
)
async def test_user_and_password_of_a_url_become_an_authorization_header(
    nursery: trio.Nursery, userinfo: str, credentials: bytes
) -> None:
    request = await sent_to_server(nursery, f"ws://{userinfo}@example.org/")
    token = base64.b64encode(credentials)
    assert b"\r\nAuthorization: Basic " + token + b"\r\n" in request
    assert b"\r\nHost: example.org\r\n" in request


async def test_a_server_on_a_unix_domain_listener_runs_and_its_ends_have_names(
    nursery: trio.Nursery, tmp_path: Any
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        names.extend([request.local, request.remote, ws.local, ws.remote])
        await ws.aclose()
        names.extend([request.local, request.remote, ws.local, ws.remote])

    names: list[object] = []
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(tmp_path / "socket"))
    sock.listen()
    server = WebSocketServer(handler, [trio.SocketListener(sock)])
    await nursery.start(server.run)
    stream = await trio.open_unix_socket(str(tmp_path / "socket"))
    async with trio.open_nursery() as own:
        ws = await wrap_client_stream(own, stream, "localhost", "/")
        names.extend([ws.local, ws.remote])
        await ws.aclose()
        names.extend([ws.local, ws.remote])
    assert len(names) == 12
    assert all(isinstance(name, str) for name in names)


async def test_the_ends_of_a_tcp_connection_are_known_after_closing(
    nursery: trio.Nursery,
) -> None:
    client, server = await open_pair(nursery, "tcp")
    ends = (client.local, client.remote)
    await client.aclose()
    assert (client.local, client.remote) == ends == (server.remote, server.local)
    assert all(isinstance(end, Endpoint) for end in ends)


async def test_tls_over_another_transport_works(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery, "tls-memory")
    await client.send_message("hello")
    assert await server.get_message() == "hello"
    for ws in (client, server):
        assert isinstance(ws.local, str)
        assert isinstance(ws.remote, str)
    await client.aclose()


async def test_reject_leaves_the_headers_of_the_caller_alone(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST)
    request = await wrap_server_stream(nursery, ours)
    await theirs.aclose()
    headers = [(b"X-Why", b"because")]
    await request.reject(403, extra_headers=headers, body=b"no")
    assert headers == [(b"X-Why", b"because")]


async def test_opening_leaves_the_headers_of_the_caller_alone(nursery: trio.Nursery) -> None:
    headers = [(b"X-Extra", b"value")]
    await sent_to_server(nursery, "ws://user:pw@example.org/", extra_headers=headers)
    assert headers == [(b"X-Extra", b"value")]


@pytest.mark.parametrize(("characters", "fits"), [(50, True), (51, False)])
async def test_the_size_limit_counts_bytes(
    nursery: trio.Nursery, characters: int, fits: bool
) -> None:
    port = await start(nursery, max_message_size=100)
    text = ("\u00fc" * characters).encode()
    peer = await connect(port, frame(TEXT, text, mask=True))
    received = await peer.receive_frame()
    assert received.opcode == (TEXT if fits else CLOSE)
    assert received.payload == text if fits else codes([received]) == [1009]
    reset(peer.stream)


@pytest.mark.parametrize(("characters", "fits"), [(50, True), (51, False)])
async def test_the_size_limit_counts_the_bytes_of_fragments(
    nursery: trio.Nursery, characters: int, fits: bool
) -> None:
    port = await start(nursery, max_message_size=100)
    text = ("\u00fc" * characters).encode()
    first = frame(TEXT, text[:51], fin=False, mask=True)  # a character is cut in two
    peer = await connect(port, first, frame(CONTINUATION, text[51:], mask=True))
    received = await peer.receive_frame()
    assert received.opcode == (TEXT if fits else CLOSE)
    reset(peer.stream)


async def test_subprotocols_that_are_one_string_are_refused(nursery: trio.Nursery) -> None:
    with pytest.raises(TypeError, match="chat"):
        await connect_websocket_url(nursery, "ws://example.org/", subprotocols="chat")
    with pytest.raises(TypeError, match="chat"):
        async with open_websocket_url("ws://example.org/", subprotocols="chat"):
            pytest.fail("it has opened")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_everything_bytes_like_can_be_sent(
    nursery: trio.Nursery, kind: Callable[[bytes], bytes]
) -> None:
    client, server = await open_pair(nursery, "tcp")
    await client.send_message(kind(b"some bytes"))
    assert await server.get_message() == b"some bytes"
    await client.aclose()
