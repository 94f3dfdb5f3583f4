"""Streaming messages over sockets."""

from __future__ import annotations

from typing import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import Source, open_client, open_pair, pieces_of
from support.frames import TEXT
from support.streams import reset, tcp_pair
from support.tasks import Call
from trio_websocket import (
    ConnectionClosed,
)

LARGE = bytes(range(256)) * 2**10  # 256 KiB, more than any socket of the tests takes


def _bytes(piece: str | bytes) -> bytes:
    assert isinstance(piece, bytes)
    return piece


async def test_send_message_stream_reset_raises(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    client, peer = await open_client(nursery, streams=(ours, theirs))
    sending = Call(nursery, client.send_message, Source(*[LARGE] * 10))
    await peer.stream.receive_some(1)
    reset(theirs)
    with pytest.raises(ConnectionClosed) as caught:
        await sending.result()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006


async def test_send_message_stream_last_write_fails_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "tcp")

    async def pieces() -> AsyncIterator[str]:
        yield "a"
        reset(peer.stream)

    with pytest.raises(ConnectionClosed):
        await client.send_message(pieces())


@pytest.mark.parametrize("text", ["\u20ac" * 40, "\U0001f600" * 30, "\u00e9a" * 50])
async def test_receive_stream_splits_no_character(nursery: trio.Nursery, text: str) -> None:
    client, peer = await open_client(nursery, "socketpair")
    data = peer.frame(TEXT, text.encode())

    async def trickle() -> None:
        for at in range(len(data)):
            await peer.send(data[at : at + 1])
            await wait_all_tasks_blocked()

    nursery.start_soon(trickle)
    pieces = await pieces_of(client)
    assert "".join(map(str, pieces)) == text
    assert "" not in pieces
    assert len(pieces) >= len(text) - 1


async def test_keep_alive_unread_receive_stream_stays_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, server = await open_pair(
        nursery, "socketpair", client={"ping_interval": 1, "ping_timeout": 1}
    )
    sending = Call(nursery, server.send_message, LARGE)
    async with client.receive_stream() as pieces:
        await trio.sleep(100)
        assert client.closed is None
        assert b"".join([_bytes(piece) async for piece in pieces]) == LARGE
    await sending.result()


async def test_receive_stream_reset_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "tcp")
    await peer.send(peer.frame(TEXT, b"a", fin=False))
    with pytest.raises(ConnectionClosed) as caught:
        async with client.receive_stream() as pieces:
            assert await pieces.__anext__() == "a"
            reset(peer.stream)
            await pieces.__anext__()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006
    assert isinstance(caught.value.__cause__, OSError)
