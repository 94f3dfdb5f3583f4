"""Unusual answers to an opening handshake, and the texts of the errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_pair
from support.frames import CLOSE, TEXT, close_payload, frame
from support.peer import accepting, read_head, start_raw_server
from support.streams import memory_pair, reset, tcp_pair
from support.tasks import Call
from trio_websocket import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    async for message in ws:
        await ws.send_message(message)


async def answering(nursery: trio.Nursery, *data: bytes) -> str:
    """Start a server that answers each request with these bytes, and closes. Return its URL."""

    async def serve(stream: Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            await read_head(stream)
            for piece in data:
                await stream.send_all(piece)
            await stream.send_eof()
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.receive_some()

    return f"ws://127.0.0.1:{await start_raw_server(nursery, serve)}/"


async def test_open_websocket_url_after_interim_responses_opens(nursery: trio.Nursery) -> None:
    async def serve(stream: Stream) -> None:
        async with stream:
            head, _ = await read_head(stream)
            await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            await stream.send_all(accepting(head) + frame(TEXT, b"hello"))
            await stream.receive_some()
            await stream.send_all(frame(CLOSE, close_payload(1000)))

    url = f"ws://127.0.0.1:{await start_raw_server(nursery, serve)}/"
    async with open_websocket_url(url) as ws:
        assert await ws.get_message() == "hello"


async def test_open_websocket_url_interim_only_is_rejected(
    nursery: trio.Nursery,
) -> None:
    url = await answering(nursery, b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n")
    with pytest.raises(ConnectionRejected) as caught:
        async with open_websocket_url(url):
            pass
    assert (caught.value.status_code, caught.value.body) == (102, None)
    assert caught.value.headers == ((b"x", b"y"),)


async def test_wrap_client_stream_interim_only_named_at_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
    with pytest.raises(ConnectionTimeout, match="only the interim status 102"):
        await wrap_client_stream(nursery, ours, "localhost", "/")


async def test_wrap_client_stream_reset_after_interim_is_rejected(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await tcp_pair()
    opening: Call[object] = Call(nursery, wrap_client_stream, nursery, ours, "localhost", "/")
    await read_head(theirs)
    await theirs.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    await wait_all_tasks_blocked()
    reset(theirs)
    with pytest.raises(ConnectionRejected) as caught:
        await opening.result()
    assert caught.value.status_code == 100


@pytest.mark.parametrize("data", [b"", b"\x15\x03\x01\x00\x02\x02\x46"])
async def test_open_websocket_url_ws_to_tls_hints_at_wss(
    nursery: trio.Nursery, data: bytes
) -> None:
    url = await answering(nursery, data)
    with pytest.raises(HandshakeError, match=r"\(does the server expect wss:\?\)$"):
        async with open_websocket_url(url):
            pass


async def test_open_websocket_url_wss_to_http_hints_at_ws(
    nursery: trio.Nursery,
) -> None:
    async def serve(stream: Stream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some()

    url = f"wss://127.0.0.1:{await start_raw_server(nursery, serve)}/"
    with pytest.raises(ConnectionFailed, match=r"\(does the server expect ws:\?\)$"):
        async with open_websocket_url(url):
            pass


async def test_send_message_after_the_block_says_that_it_has_ended(nursery: trio.Nursery) -> None:
    server: WebSocketServer = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
    async with open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as ws:
        pass
    text = r"^1000 NORMAL_CLOSURE \(closed by this side: the block has ended\)$"
    with pytest.raises(ConnectionClosed, match=text):
        await ws.send_message("late")


async def test_send_message_after_aclose_says_who_closed(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    nursery.start_soon(client.aclose, 4000, "bye")
    with pytest.raises(ConnectionClosed, match=r"4000 .*: bye \(closed by the peer\)$"):
        await server.get_message()
    with pytest.raises(ConnectionClosed, match=r"4000 .*: bye \(closed by this side\)$"):
        await client.send_message("late")


async def test_wrap_client_stream_half_rejection_rejected_at_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nno")
    with pytest.raises(ConnectionRejected) as caught:
        await wrap_client_stream(nursery, ours, "localhost", "/", connect_timeout=5)
    assert trio.current_time() == 5
    assert (caught.value.status_code, caught.value.body) == (403, b"no")
