"""Invalid requests that a server must answer or survive, end to end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from support.frames import (
    BINARY,
    frame,
)
from support.handshakes import (
    with_header,
)
from support.memory import (
    peak_memory,
)
from support.peer import (
    REQUEST,
    read_head,
)
from support.servers import (
    ask,
    assert_serves,
    start,
)
from support.streams import reset
from trio_websocket import (
    WebSocketRequest,
)


@pytest.mark.parametrize(
    "header",
    [
        b"Host: ex\xe4mple.org",
        b"Connection: Upgrade, \xff",
        b"Sec-WebSocket-Protocol: ch\xe4t",
        b"Sec-WebSocket-Extensions: \xff",
    ],
)
async def test_server_header_not_ascii_is_answered(nursery: trio.Nursery, header: bytes) -> None:
    port = await start(nursery)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(with_header(header))
        head, _ = await read_head(stream)
    assert head[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 101 ")
    await assert_serves(port)


async def test_server_malformed_request_of_gone_client_goes_on(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(b"nonsense\r\n\r\n")
    reset(stream)
    await trio.testing.wait_all_tasks_blocked()
    await assert_serves(port)


async def test_server_client_gone_during_handshake_leaves_no_task(
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


async def test_server_plain_http_is_answered(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as handlers:
        port = await start(nursery, handler_nursery=handlers)
        answer = await ask(port, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 426 ")
        with trio.fail_after(30):
            await no_tasks(handlers)


async def test_server_bytes_before_accept_are_not_read(nursery: trio.Nursery) -> None:
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
    "lines",
    [
        b"Connection: keep-alive\r\nConnection: Upgrade",
        b"Connection: keep-alive, UPGRADE",
        b"Upgrade: h2c\r\nUpgrade: WebSocket\r\nConnection: Upgrade",
    ],
)
async def test_server_repeated_upgrade_headers_are_accepted(
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
async def test_server_bad_key_or_http_1_0_gets_400(
    nursery: trio.Nursery, change: tuple[bytes, bytes]
) -> None:
    port = await start(nursery)
    answer = await ask(port, REQUEST.replace(*change))
    assert answer.startswith(b"HTTP/1.1 400 ")
