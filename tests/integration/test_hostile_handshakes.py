"""Slow, absurd or invalid opening handshakes, over TCP and TLS."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Awaitable, Callable

import pytest
import trio
import trio.testing

from support.frames import (
    CLOSE,
    PING,
    TEXT,
    Frame,
    frame,
)
from support.memory import (
    peak_memory,
)
from support.peer import (
    REQUEST,
    RawPeer,
    accepting,
    read_head,
    start_raw_server,
)
from support.servers import (
    answering,
    raw_server,
)
from support.streams import socket_pair, tls_contexts
from support.tasks import Call
from trio_websocket import (
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream

REST = REQUEST[:-2]  # a request to which header lines can be added
HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)


def client_hello() -> bytes:
    """Return the first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls_contexts()[0].wrap_bio(incoming, outgoing, server_hostname="example.org")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# -- servers

BAD_REQUESTS = {
    "a head of a megabyte": (431, REST + b"X: " + b"x" * 10**6 + b"\r\n\r\n"),
    "10,000 header lines": (431, REST + b"X: 1\r\n" * 10_000 + b"\r\n"),
    "257 header lines": (431, REST + b"X: 1\r\n" * 252 + b"\r\n"),
    "an absurd Content-Length": (400, REST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "a Content-Length of 5,000 digits": (
        400,
        REST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    ),
    "a negative Content-Length": (400, REST + b"Content-Length: -1\r\n\r\n"),
    "a body in chunks": (400, REST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "HTTP/1.0": (400, REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0")),
    "the preface of HTTP/2": (405, HTTP_2_PREFACE),
    "TLS": (400, client_hello()),
    "zeros": (400, bytes(1000)),
}


async def start(nursery: trio.Nursery, *, use_tls: bool) -> WebSocketServer:
    """A server that sends back a first message."""

    async def echo(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message(await ws.get_message())

    async def run(*, task_status: trio.TaskStatus[WebSocketServer]) -> None:
        context = tls_contexts()[1] if use_tls else None
        await serve_websocket(
            *(echo, "127.0.0.1", 0, context),
            connect_timeout=30,
            disconnect_timeout=30,
            task_status=task_status,
        )

    server: WebSocketServer = await nursery.start(run)
    return server


async def connect(server: WebSocketServer, *, use_tls: bool) -> Stream:
    stream: Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if use_tls:
        context = tls_contexts()[0]
        stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    return stream


async def read_to_end(stream: Stream) -> bytes:
    data = b""
    async for received in stream:
        data += received
    return data


async def check_it_serves(server: WebSocketServer, *, use_tls: bool) -> None:
    context = tls_contexts()[0] if use_tls else False
    async with open_websocket("127.0.0.1", server.port, "/", use_ssl=context) as ws:
        await ws.send_message("x")
        assert await ws.get_message() == "x"


@pytest.mark.parametrize("use_tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_server_bad_request_is_answered(
    nursery: trio.Nursery, name: str, use_tls: bool
) -> None:
    status, data = BAD_REQUESTS[name]
    server = await start(nursery, use_tls=use_tls)
    stream = await connect(server, use_tls=use_tls)
    async with trio.open_nursery() as sending:
        sending.start_soon(stream.send_all, data)
        response = await read_to_end(stream)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    await stream.aclose()
    await check_it_serves(server, use_tls=use_tls)


async def test_server_256_header_lines_are_accepted(nursery: trio.Nursery) -> None:
    server = await start(nursery, use_tls=False)
    stream = await connect(server, use_tls=False)
    await stream.send_all(REST + b"X: 1\r\n" * 251 + b"\r\n")
    head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 101 ")
    await stream.aclose()


@pytest.mark.parametrize("data", [REQUEST, HTTP_2_PREFACE], ids=["HTTP", "HTTP/2"])
async def test_server_plain_bytes_to_tls_end_connection(nursery: trio.Nursery, data: bytes) -> None:
    server = await start(nursery, use_tls=True)
    stream = await connect(server, use_tls=False)
    await stream.send_all(data)
    assert not (await read_to_end(stream)).startswith(b"HTTP")
    await stream.aclose()
    await check_it_serves(server, use_tls=True)


async def test_connect_timeout_cuts_off_slow_request(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    theirs, ours = await socket_pair()
    opening = Call(nursery, lambda: wrap_server_stream(nursery, ours, connect_timeout=59.5))
    nursery.start_soon(drip, theirs, REQUEST)
    with pytest.raises(ConnectionTimeout):
        await opening.result()
    assert trio.current_time() == pytest.approx(59.5, abs=0.1)
    assert await theirs.receive_some() == b""


async def drip(stream: Stream, data: bytes) -> None:
    """Send one byte a second until the peer closes."""
    with contextlib.suppress(trio.BrokenResourceError):
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)


async def test_server_pipelined_request_is_no_frame(nursery: trio.Nursery) -> None:
    server = await start(nursery, use_tls=False)
    stream = await connect(server, use_tls=False)
    await stream.send_all(REQUEST + REQUEST)
    _, rest = await read_head(stream)
    (close,) = await RawPeer(stream, is_client=True, received=rest).receive_all()
    assert (close.opcode, close.payload[:2]) == (CLOSE, (1002).to_bytes(2, "big"))
    await stream.aclose()
    await check_it_serves(server, use_tls=False)


async def test_server_frames_before_101_are_received(nursery: trio.Nursery) -> None:
    server = await start(nursery, use_tls=False)
    stream = await connect(server, use_tls=False)
    await stream.send_all(REQUEST + frame(TEXT, b"early", mask=True) + frame(PING, mask=True))
    _, rest = await read_head(stream)
    peer = RawPeer(stream, is_client=True, received=rest)
    assert await peer.receive() == Frame(TEXT, b"early")
    await stream.aclose()


# -- clients

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n"
REFUSED = b"HTTP/1.1 403 Forbidden\r\n"

BAD_RESPONSES: dict[str, tuple[type[HandshakeError], bytes]] = {
    "a head of a megabyte": (HandshakeError, HEAD + b"X: " + b"x" * 10**6 + b"\r\n\r\n"),
    "10,000 header lines": (HandshakeError, HEAD + b"X: 1\r\n" * 10_000 + b"\r\n"),
    "257 header lines": (HandshakeError, REFUSED + b"X: 1\r\n" * 257 + b"\r\n"),
    "an absurd Content-Length": (
        ConnectionRejected,
        REFUSED + b"Content-Length: 99999999999999999999\r\n\r\nno",
    ),
    "a Content-Length of 5,000 digits": (
        ConnectionRejected,
        REFUSED + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nno",
    ),
    "HTTP/1.0": (HandshakeError, b"HTTP/1.0 101 Switching Protocols\r\n\r\n"),
    "HTTP/2": (HandshakeError, b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
    "a request": (HandshakeError, REQUEST),
    "TLS": (HandshakeError, b"\x15\x03\x01\x00\x02\x02\x46"),
    "a frame": (ConnectionFailed, frame(TEXT, b"early")),
    "zeros": (HandshakeError, bytes(1000)),
    "nothing": (ConnectionFailed, b""),
}


async def answer_with(
    nursery: trio.Nursery, respond: Callable[[bytes], bytes], *, use_tls: bool
) -> int:
    """Start a server that answers a request with this response and closes. Return its port."""

    async def handle(stream: Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            request, _ = await read_head(stream)
            await stream.send_all(respond(request))

    return await start_raw_server(nursery, handle, use_tls=use_tls)


@pytest.mark.parametrize("use_tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("name", BAD_RESPONSES)
async def test_open_websocket_bad_response_raises_handshake_error(
    nursery: trio.Nursery, name: str, use_tls: bool
) -> None:
    error, data = BAD_RESPONSES[name]
    port = await answer_with(nursery, lambda request: data, use_tls=use_tls)
    context: Any = tls_contexts()[0] if use_tls else False
    with pytest.raises(HandshakeError) as caught:
        async with open_websocket("127.0.0.1", port, "/", use_ssl=context):
            pass
    assert type(caught.value) is error
    nursery.cancel_scope.cancel()


async def test_connect_timeout_cuts_off_slow_acceptance(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = await socket_pair()

    def open_it() -> Awaitable[object]:
        return wrap_client_stream(nursery, ours, "example.org", "/", connect_timeout=59.5)

    opening = Call(nursery, open_it)
    request, _ = await read_head(theirs)
    nursery.start_soon(drip, theirs, accepting(request))
    with pytest.raises(ConnectionTimeout):
        await opening.result()
    assert trio.current_time() == pytest.approx(59.5, abs=0.1)


async def test_open_websocket_second_response_is_no_frame(nursery: trio.Nursery) -> None:
    def respond(request: bytes) -> bytes:
        return accepting(request) * 2

    port = await answer_with(nursery, respond, use_tls=False)
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as ws:
        await ws.wait_closed()
    assert ws.closed is not None
    assert ws.closed.code == 1002
    nursery.cancel_scope.cancel()


async def test_open_websocket_frame_before_101_raises(nursery: trio.Nursery) -> None:
    def respond(request: bytes) -> bytes:
        return frame(TEXT, b"early") + accepting(request)

    port = await answer_with(nursery, respond, use_tls=False)
    with pytest.raises(HandshakeError, match="did not answer in HTTP"):
        async with open_websocket("127.0.0.1", port, "/", use_ssl=False):
            pass
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 200000000\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\nbebc200\r\n",
    ],
)
async def test_connect_websocket_rejection_body_is_limited(
    nursery: trio.Nursery, head: bytes
) -> None:
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
async def test_connect_websocket_url_bad_response_raises(
    nursery: trio.Nursery, answer: bytes
) -> None:
    url = await answering(nursery, answer)
    with trio.fail_after(30), pytest.raises(HandshakeError) as caught:
        await connect_websocket_url(nursery, url)
    assert type(caught.value) is HandshakeError


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"])
async def test_connect_websocket_url_choice_not_ascii_raises(
    nursery: trio.Nursery, name: bytes
) -> None:
    url = await raw_server(nursery, RawPeer.receive_all, name + b": \xff")
    with trio.fail_after(30), pytest.raises(HandshakeError):
        await connect_websocket_url(nursery, url, subprotocols=["chat"])


async def test_connect_websocket_url_repeated_headers_are_accepted(
    nursery: trio.Nursery,
) -> None:
    url = await raw_server(nursery, RawPeer.receive_all, b"Connection: keep-alive")
    async with trio.open_nursery() as own:
        await connect_websocket_url(own, url)
        own.cancel_scope.cancel()
