"""Bytes that a remote peer must not send on an open connection, end to end."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from support.connections import open_client, open_server
from support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    Frame,
    close_payload,
    frame,
)
from support.memory import (
    peak_memory,
)
from support.peer import (
    RawPeer,
    codes,
    frames_to_end,
)
from support.servers import (
    assert_serves,
    connect,
    echo,
    raw_server,
    start,
)
from support.streams import reset
from trio_websocket import (
    ConnectionClosed,
    WebSocketRequest,
    open_websocket_url,
)


@pytest.mark.parametrize("late", [Frame(PING, b"too late"), Frame(BINARY, bytes(101))])
async def test_server_frames_after_close_are_ignored(nursery: trio.Nursery, late: Frame) -> None:
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


async def test_server_two_oversize_messages_get_one_1009(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, max_message_size=100)
    peer = await connect(port)
    await peer.send(peer.frame(BINARY, bytes(101)), peer.frame(BINARY, bytes(101)))
    assert codes(await frames_to_end(peer)) == [1009]
    await assert_serves(port)


async def test_block_ends_after_bad_frame_does_not_hang(nursery: trio.Nursery) -> None:
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


async def test_max_fragments_counts_empty_fragments(nursery: trio.Nursery) -> None:
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


async def test_block_raises_despite_ping_after_close(
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
async def test_get_message_protocol_error_is_sent_to_peer(
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


async def test_server_unmasked_frame_gets_1002(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    peer = await connect(port, b"\x81\x00")
    assert codes(await frames_to_end(peer)) == [1002]


async def test_server_close_code_1014_is_echoed(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    peer = await connect(port)
    await peer.send_close(1014, "bad gateway")
    assert codes(await frames_to_end(peer)) == [1014]


@pytest.mark.parametrize(("characters", "fits"), [(50, True), (51, False)])
async def test_max_message_size_counts_bytes(
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
async def test_max_message_size_counts_bytes_of_fragments(
    nursery: trio.Nursery, characters: int, fits: bool
) -> None:
    port = await start(nursery, max_message_size=100)
    text = ("\u00fc" * characters).encode()
    first = frame(TEXT, text[:51], fin=False, mask=True)  # a character is cut in two
    peer = await connect(port, first, frame(CONTINUATION, text[51:], mask=True))
    received = await peer.receive_frame()
    assert received.opcode == (TEXT if fits else CLOSE)
    reset(peer.stream)
