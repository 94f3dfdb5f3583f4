"""Streams and listeners of other kinds: IPv6, Unix-domain sockets, memory, and wrappers."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, AsyncIterator

import pytest
import trio
import trio.testing

from support.connections import open_client, open_pair, open_server
from support.faults import Fault, FaultyStream
from support.frames import CLOSE, PING, PONG, TEXT, close_payload, frame
from support.peer import REQUEST
from support.servers import echo
from support.streams import PAIRS, StreamPair, lockstep_pair, memory_pair, tcp_pair, tls_contexts
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    Endpoint,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._io.tls_stream import TlsStream

if TYPE_CHECKING:
    from trio.abc import Stream

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix-domain sockets")


# -- any pair of streams


async def stapled_pair() -> StreamPair:
    """Return stapled streams, which can end one side."""
    to_server, from_client = trio.testing.memory_stream_one_way_pair()
    to_client, from_server = trio.testing.memory_stream_one_way_pair()
    return trio.StapledStream(to_server, from_server), trio.StapledStream(to_client, from_client)


class PlainStream(trio.abc.Stream):
    """A stream with the methods of `trio.abc.Stream` only. It can't end one side."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def plain_pair() -> StreamPair:
    """Return streams over TCP that can't end one side."""
    ours, theirs = await tcp_pair()
    return PlainStream(ours), PlainStream(theirs)


ALL_PAIRS = {**PAIRS, "stapled": stapled_pair, "plain": plain_pair}


@pytest.fixture(params=list(ALL_PAIRS))
async def streams(request: pytest.FixtureRequest) -> StreamPair:
    return await ALL_PAIRS[request.param]()


async def test_send_message_over_any_stream_arrives(
    nursery: trio.Nursery, streams: StreamPair
) -> None:
    client, server = await open_pair(nursery, streams=streams)
    for sender, receiver in ((client, server), (server, client)):
        for message in ("", "text", b"", b"bytes", "x" * 2**17):
            async with trio.open_nursery() as both:
                both.start_soon(sender.send_message, message)
                assert await receiver.get_message() == message


async def test_ping_unread_is_answered(nursery: trio.Nursery, streams: StreamPair) -> None:
    client, server = await open_pair(nursery, streams=streams)
    with trio.fail_after(30):
        assert await client.ping() >= 0
        assert await server.ping(b"payload") >= 0


async def test_aclose_unread_is_answered(nursery: trio.Nursery, streams: StreamPair) -> None:
    client, server = await open_pair(nursery, streams=streams)
    with trio.fail_after(30):
        await client.aclose(4000, "enough")
    assert server.closed == client.closed == CloseReason(4000, "enough")
    with pytest.raises(ConnectionClosed):
        await server.get_message()


async def test_aclose_during_get_message_is_answered(
    nursery: trio.Nursery, streams: StreamPair
) -> None:
    async def read() -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await client.get_message()
        assert caught.value.reason == CloseReason(4000, "enough")

    client, server = await open_pair(nursery, streams=streams)
    with trio.fail_after(30):
        async with trio.open_nursery() as reading:
            reading.start_soon(read)
            await server.aclose(4000, "enough")


async def test_aclose_by_both_sides_closes(nursery: trio.Nursery, streams: StreamPair) -> None:
    client, server = await open_pair(nursery, streams=streams)
    with trio.fail_after(30):
        async with trio.open_nursery() as closing:
            closing.start_soon(client.aclose)
            closing.start_soon(server.aclose)
    assert client.closed == server.closed == CloseReason(1000, None)


@pytest.mark.usefixtures("patient_writer")
async def test_connection_cancelled_sends_close(streams: StreamPair) -> None:
    async with trio.open_nursery() as serving:
        ours, theirs = streams
        reasons: list[CloseReason | None] = []

        async def serve() -> None:
            request = await wrap_server_stream(serving, theirs)
            ws = await request.accept()
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
            reasons.append(caught.value.reason)

        serving.start_soon(serve)
        async with trio.open_nursery() as own:
            await wrap_client_stream(own, ours, "example.org", "/")
            await trio.testing.wait_all_tasks_blocked()
            own.cancel_scope.cancel()
    assert reasons == [CloseReason(1001, None)]


async def test_get_message_eof_without_close_raises(
    nursery: trio.Nursery, streams: StreamPair
) -> None:
    ws, peer = await open_client(nursery, streams=streams)
    async with trio.open_nursery() as both:
        both.start_soon(peer.aclose)
        with trio.fail_after(30), pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006


async def test_aclose_closes_the_stream(nursery: trio.Nursery, streams: StreamPair) -> None:
    ours, _ = streams
    client, _ = await open_pair(nursery, streams=streams)
    with trio.fail_after(30):
        await client.aclose()
    if isinstance(ours, TlsStream):  # its receive_some() would report the end of TLS instead
        assert ours.transport_stream.socket.fileno() == -1
    else:
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()


# -- streams that replay what was read before


class ReplayingStream(PlainStream):
    """A stream that first returns bytes that were read before."""

    def __init__(self, stream: Stream, peeked: bytes) -> None:
        super().__init__(stream)
        self.peeked = peeked

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.peeked:
            data, self.peeked = self.peeked[:max_bytes], self.peeked[max_bytes or 10**9 :]
            return data
        return await super().receive_some(max_bytes)


@pytest.mark.parametrize("size", [1, 100, len(REQUEST)])
async def test_wrap_server_stream_replayed_bytes_are_read(nursery: trio.Nursery, size: int) -> None:
    theirs, ours = await tcp_pair()
    await theirs.send_all(REQUEST + frame(TEXT, b"hello", mask=True))
    peeked = bytes(await ours.receive_some(size))
    request = await wrap_server_stream(nursery, ReplayingStream(ours, peeked))
    ws = await request.accept()
    assert await ws.get_message() == "hello"


async def test_wrap_server_stream_all_replayed_at_once_is_read(nursery: trio.Nursery) -> None:
    _, ours = await memory_pair()
    data = REQUEST + frame(TEXT, b"1", mask=True) + frame(TEXT, b"2", mask=True)
    request = await wrap_server_stream(nursery, ReplayingStream(ours, data))
    ws = await request.accept()
    assert [await ws.get_message(), await ws.get_message()] == ["1", "2"]


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_get_message_bytes_in_any_chunks_arrives(nursery: trio.Nursery, size: int) -> None:
    ours, theirs = await memory_pair()
    dribble = Fault.split(size, direction="receive")
    streams = FaultyStream(ours, dribble), FaultyStream(theirs, dribble)
    client, server = await open_pair(nursery, streams=streams)
    await client.send_message("hello")
    assert await server.get_message() == "hello"
    with trio.fail_after(30):
        await client.aclose()


async def test_receive_buffer_size_limits_each_read(nursery: trio.Nursery) -> None:
    class Counting(PlainStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            sizes.add(max_bytes)
            return await super().receive_some(max_bytes)

    sizes: set[int | None] = set()
    ours, theirs = await memory_pair()
    await open_pair(nursery, streams=(Counting(ours), theirs), client={"receive_buffer_size": 10})
    await trio.testing.wait_all_tasks_blocked()
    assert sizes == {10}


# -- IPv6


async def listen_on_ipv6() -> trio.SocketListener:
    try:
        (listener,) = await trio.open_tcp_listeners(0, host="::1")
    except OSError as exc:
        pytest.skip(f"no IPv6: {exc}")
    return listener


@pytest.mark.parametrize("use_tls", [False, True])
async def test_open_websocket_url_ipv6_host_is_in_brackets(
    nursery: trio.Nursery, use_tls: bool
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        await request.accept()

    requests: list[WebSocketRequest] = []
    listener: trio.abc.Listener[trio.abc.Stream] = await listen_on_ipv6()
    context = None
    if use_tls:
        context, server_context = tls_contexts()
        listener = trio.SSLListener(listener, server_context)
    server: WebSocketServer = await nursery.start(WebSocketServer(handler, [listener]).run)
    here = Endpoint("::1", server.port, use_tls)
    assert server.listeners == [here]
    scheme = "wss" if use_tls else "ws"
    assert here.url == f"{scheme}://[::1]:{server.port}"
    async with open_websocket_url(here.url, context) as ws:
        assert ws.remote == requests[0].local == here
        assert ws.local == requests[0].remote
    assert dict(requests[0].headers)[b"host"] == b"[::1]:%d" % server.port


async def test_open_websocket_ipv6_host_without_brackets(nursery: trio.Nursery) -> None:
    listener = await listen_on_ipv6()
    server: WebSocketServer = await nursery.start(WebSocketServer(echo, [listener]).run)
    async with open_websocket("::1", server.port, "/", use_ssl=False) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"


# -- Unix-domain sockets


@pytest.fixture
async def unix_listener(tmp_path: Path) -> AsyncIterator[trio.SocketListener]:
    sock = trio.socket.socket(socket.AF_UNIX)
    with sock:
        await sock.bind(str(tmp_path / "socket"))
        sock.listen()
        yield trio.SocketListener(sock)


@unix
async def test_websocket_server_on_unix_listener_serves(
    nursery: trio.Nursery, unix_listener: trio.SocketListener
) -> None:
    await nursery.start(WebSocketServer(echo, [unix_listener]).run)
    stream = await trio.open_unix_socket(unix_listener.socket.getsockname())
    async with trio.open_nursery() as own:
        ws = await wrap_client_stream(own, stream, "localhost", "/")
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        await ws.aclose()


@unix
async def test_port_of_unix_listener_raises(unix_listener: trio.SocketListener) -> None:
    server = WebSocketServer(echo, [unix_listener])
    assert server.listeners == [unix_listener.socket.getsockname()]
    with pytest.raises(RuntimeError, match="no port"):
        _ = server.port


@unix
async def test_local_and_remote_of_unix_stream_are_names(
    nursery: trio.Nursery, unix_listener: trio.SocketListener
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        opened.append(await request.accept())
        await trio.sleep_forever()

    requests: list[WebSocketRequest] = []
    opened: list[WebSocketConnection] = []
    await nursery.start(WebSocketServer(handler, [unix_listener]).run)
    stream = await trio.open_unix_socket(unix_listener.socket.getsockname())
    client = await wrap_client_stream(nursery, stream, "localhost", "/")
    while not opened:
        await trio.testing.wait_all_tasks_blocked()
    before = [(ws.local, ws.remote) for ws in (client, opened[0], requests[0])]
    await client.aclose()
    after = [(ws.local, ws.remote) for ws in (client, opened[0], requests[0])]
    assert before == after
    assert all(isinstance(name, str) for pair in after for name in pair)


@unix
async def test_local_and_remote_of_unnamed_sockets_are_repr(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery, "socketpair")
    assert isinstance(client.local, str)
    assert isinstance(server.remote, str)
    await client.send_message("hello")
    assert await server.get_message() == "hello"


# -- streams in memory


async def test_local_and_remote_of_memory_stream_are_repr(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST)
    request = await wrap_server_stream(nursery, ours)
    ws = await request.accept()
    assert request.local == request.remote == ws.local == ws.remote == repr(ours)


async def test_wrap_client_stream_closed_stream_raises(nursery: trio.Nursery) -> None:
    ours, _ = await memory_pair()
    await ours.aclose()
    with pytest.raises(HandshakeError):
        await wrap_client_stream(nursery, ours, "example.org", "/")


async def test_get_message_stream_raises_any_error_is_lost(
    nursery: trio.Nursery,
) -> None:
    error = LookupError("odd")
    ours, theirs = await memory_pair()
    failing = FaultyStream(ours)
    ws, peer = await open_client(nursery, streams=(failing, theirs))
    failing.faults.append(Fault.fail(error, direction="receive"))
    await peer.send_frame(TEXT, b"hello")
    with pytest.raises(ConnectionClosed) as caught:
        await ws.get_message()
    assert caught.value.reason == CloseReason(1006, "odd")
    assert caught.value.__cause__ is error


async def test_wrap_client_stream_stream_raises_any_error_fails(
    nursery: trio.Nursery,
) -> None:
    ours, _ = await memory_pair()
    failing = FaultyStream(ours, Fault.fail(LookupError("odd"), direction="receive"))
    with pytest.raises(ConnectionFailed, match="odd"):
        await wrap_client_stream(nursery, failing, "example.org", "/")


@pytest.mark.parametrize("pair", [lockstep_pair, stapled_pair, plain_pair])
async def test_server_raw_client_over_any_stream_is_served(
    nursery: trio.Nursery, pair: object
) -> None:
    ws, peer = await open_server(nursery, streams=await pair())  # type: ignore[operator] # a function
    with trio.fail_after(30):
        async with trio.open_nursery() as both:
            both.start_soon(peer.send, peer.frame(TEXT, b"hello"), peer.frame(PING, b"ping"))
            assert await ws.get_message() == "hello"
            assert await peer.receive() == (PONG, b"ping", True, 0)
        async with trio.open_nursery() as both:
            both.start_soon(ws.aclose)
            assert await peer.receive() == (CLOSE, close_payload(1000), True, 0)
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.send_close(1000)
            assert await peer.receive() is None
            await peer.aclose()
