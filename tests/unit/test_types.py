from __future__ import annotations

import array
import ctypes
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client, open_pair, open_server
from support.frames import BINARY, TEXT, Frame
from support.peer import RawPeer
from support.streams import KINDS
from support.tasks import Call
from trio_websocket import ConnectionClosed

TEXTS = ["plain", "\u20ac \U0001f600", ""]


async def give(peer: RawPeer, opcode: int, payload: bytes, *, fragments: int = 1) -> None:
    """Send a message in one write, so that fragments are cut anywhere."""
    size = -(-len(payload) // fragments) or 1
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    await peer.send(peer.fragments(opcode, *parts))


# -- receiving


@pytest.mark.parametrize("is_queued", [True, False])
@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("decode", [True, False, None])
async def test_get_message_gives_requested_type(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    decode: bool | None,
    opcode: int,
    text: str,
    fragments: int,
    is_queued: bool,
) -> None:
    client, peer = await open_client(nursery)
    if is_queued:
        await give(peer, opcode, text.encode(), fragments=fragments)
        await trio.sleep(1)
        assert client.statistics().messages_unread == 1
    getting = Call(nursery, client.get_message, decode)
    if not is_queued:
        await wait_all_tasks_blocked()
        await give(peer, opcode, text.encode(), fragments=fragments)
    is_str = opcode == TEXT if decode is None else decode
    message = await getting.result()
    assert message == (text if is_str else text.encode())
    assert type(message) is (str if is_str else bytes)


@pytest.mark.streams(KINDS)
async def test_get_message_types_in_turn(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    for sender, receiver in ((client, server), (server, client)):
        for decode in (True, False):
            for message in ("\u20ac", "\u20ac".encode()):
                await sender.send_message(message)
                received = await receiver.get_message(decode=decode)
                assert received == ("\u20ac" if decode else b"\xe2\x82\xac")


@pytest.mark.parametrize("is_queued", [True, False])
async def test_get_message_invalid_text_stays_next_message(
    nursery: trio.Nursery, autojump_clock: MockClock, is_queued: bool
) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(BINARY, b"\xff"), peer.frame(TEXT, b"next"))
    if is_queued:
        await trio.sleep(1)
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError):
            await client.get_message(decode=True)
    assert [await client.get_message() for _ in range(2)] == [b"\xff", "next"]


async def test_get_message_invalid_text_goes_to_next_task(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    decoding = Call(nursery, client.get_message, True)
    await wait_all_tasks_blocked()
    getting: Call[str | bytes] = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    await peer.send_frame(BINARY, b"\xff")
    with pytest.raises(UnicodeDecodeError):
        await decoding.result()
    assert await getting.result() == b"\xff"


async def test_receive_stream_after_invalid_text_gives_it(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(BINARY, b"\xff")
    with pytest.raises(UnicodeDecodeError):
        await client.get_message(decode=True)
    async with client.receive_stream() as pieces:
        assert [piece async for piece in pieces] == [b"\xff"]


async def test_statistics_count_invalid_text_as_queued(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, message_queue_size=100, message_queue_bytes=4000)
    data = peer.frame(BINARY, b"\xff" * 1000) * 40
    await peer.send(data)
    for _ in range(3):
        with pytest.raises(UnicodeDecodeError):
            await client.get_message(decode=True)
        await trio.sleep(1)
        assert client.statistics().messages_unread == 40  # all messages of one read
    await peer.send(data)
    await trio.sleep(1)
    assert client.statistics().messages_unread == 40
    for _ in range(39):
        assert await client.get_message() == b"\xff" * 1000
    await trio.sleep(1)
    assert client.statistics().messages_unread == 4


@pytest.mark.parametrize("side", [open_client, open_server])
@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("decode", [True, False, None])
async def test_get_message_invalid_utf_8_raises(
    nursery: trio.Nursery, side: Any, decode: bool | None, fragments: int
) -> None:
    connection, peer = await side(nursery)
    await give(peer, TEXT, b"a\xff", fragments=fragments)
    with pytest.raises(ConnectionClosed) as caught:
        await connection.get_message(decode)
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1007


# -- receiving in chunks


@pytest.mark.parametrize("fragments", [1, 3, 7])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("decode", [True, False, None])
async def test_receive_stream_gives_requested_type(
    nursery: trio.Nursery, decode: bool | None, opcode: int, text: str, fragments: int
) -> None:
    client, peer = await open_client(nursery)
    await give(peer, opcode, text.encode(), fragments=fragments)
    async with client.receive_stream(decode=decode) as stream:
        assert stream.is_text == (opcode == TEXT)
        chunks = [chunk async for chunk in stream]
    is_str = opcode == TEXT if decode is None else decode
    assert all(type(chunk) is (str if is_str else bytes) for chunk in chunks)
    assert all(chunks)  # none is empty
    received = "".join(map(str, chunks)).encode() if is_str else b"".join(map(bytes_of, chunks))
    assert received == text.encode()


def bytes_of(chunk: str | bytes) -> bytes:
    assert isinstance(chunk, bytes)
    return chunk


@pytest.mark.parametrize("payload", [b"ab\xffcdef", b"abcdef\xe2\x82"])
async def test_receive_stream_invalid_text_raises_next_follows(
    nursery: trio.Nursery, payload: bytes
) -> None:
    client, peer = await open_client(nursery)
    await give(peer, BINARY, payload, fragments=4)
    await peer.send_frame(TEXT, b"next")
    async with client.receive_stream(decode=True) as stream:
        assert await stream.__anext__() == "ab"
        for _ in range(2):
            with pytest.raises(UnicodeDecodeError):
                async for _chunk in stream:
                    pass
    assert await client.get_message() == "next"


# -- sending


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("as_text", [True, False, None])
async def test_send_message_str_is_sent_as_told(
    nursery: trio.Nursery, kind: str, text: str, as_text: bool | None
) -> None:
    client, peer = await open_client(nursery, kind)
    await client.send_message(text, text=as_text)
    assert await peer.receive() == Frame(BINARY if as_text is False else TEXT, text.encode())


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("as_text", [True, False, None])
async def test_send_message_bytes_are_sent_as_told(
    nursery: trio.Nursery, make: Any, text: str, as_text: bool | None
) -> None:
    client, peer = await open_client(nursery)
    await client.send_message(make(text.encode()), text=as_text)
    assert await peer.receive() == Frame(TEXT if as_text else BINARY, text.encode())


@pytest.mark.parametrize("message", [b"\xff", bytearray(b"a\xff"), memoryview(b"\xe2\x82")])
async def test_send_message_invalid_utf_8_as_text_raises(
    nursery: trio.Nursery, message: Any
) -> None:
    client, peer = await open_client(nursery)
    with pytest.raises(UnicodeDecodeError):
        await client.send_message(message, text=True)
    await client.send_message(message, text=False)
    assert await peer.receive() == Frame(BINARY, bytes(message))


async def test_send_message_surrogates_raise(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    with pytest.raises(UnicodeEncodeError):
        await client.send_message("\ud800")
    await client.send_message("next")
    assert await peer.receive() == Frame(TEXT, b"next")


@pytest.mark.parametrize(
    "message",
    [
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"axbxcxdx")[::2],
        memoryview(b"abcd").cast("H"),
        memoryview(b"abcd").cast("B", (2, 2)),
        array.array("B", b"abcd"),
        array.array("H", b"abcd"),
        (ctypes.c_ubyte * 4)(*b"abcd"),
    ],
)
async def test_send_message_any_buffer_is_sent(nursery: trio.Nursery, message: Any) -> None:
    client, peer = await open_client(nursery)
    await client.send_message(message)
    assert await peer.receive() == Frame(BINARY, b"abcd")


async def test_send_message_copies_the_buffer(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    message = bytearray(b"abcd")
    await client.send_message(message)
    message[:] = b"efghi"
    assert await peer.receive() == Frame(BINARY, b"abcd")


async def test_send_message_subclasses_are_sent(nursery: trio.Nursery) -> None:
    class Text(str):
        __slots__ = ()

    class Data(bytes):
        __slots__ = ()

    client, peer = await open_client(nursery)
    await client.send_message(Text("text"))
    await client.send_message(Data(b"data"))
    assert await peer.receive() == Frame(TEXT, b"text")
    assert await peer.receive() == Frame(BINARY, b"data")
