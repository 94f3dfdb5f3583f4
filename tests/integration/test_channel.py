"""Connections as Trio's channels, where the network breaks the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from support.connections import open_client
from support.peer import RawPeer
from support.streams import reset
from trio_websocket import ConnectionClosed, WebSocketConnection

if TYPE_CHECKING:
    from trio.abc import ReceiveChannel


async def lost(nursery: trio.Nursery, *, by_reset: bool) -> tuple[WebSocketConnection, RawPeer]:
    """Return a client whose server has left without a Close."""
    client, peer = await open_client(nursery, "tcp")
    if by_reset:
        reset(peer.stream)
    else:
        await peer.aclose()
    return client, peer


async def all_messages(channel: ReceiveChannel[str | bytes]) -> list[str | bytes]:
    return [message async for message in channel]


@pytest.mark.parametrize("by_reset", [True, False])
async def test_iterate_connection_lost_raises(nursery: trio.Nursery, by_reset: bool) -> None:
    client, _ = await lost(nursery, by_reset=by_reset)
    with pytest.raises(ConnectionClosed) as caught:
        await all_messages(client)
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006


@pytest.mark.parametrize("by_reset", [True, False])
async def test_receive_connection_lost_raises_broken_resource(
    nursery: trio.Nursery, by_reset: bool
) -> None:
    client, _ = await lost(nursery, by_reset=by_reset)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive()
    with pytest.raises(trio.BrokenResourceError):
        await client.send("message")
