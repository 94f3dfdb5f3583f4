"""Sending, receiving and closing on sockets that fail."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from support.connections import closed_error, open_client, open_pair, open_server
from support.frames import CLOSE, Frame, close_payload
from support.peer import REQUEST
from support.streams import PAIRS, reset
from support.tasks import Call
from trio_websocket import (
    wrap_server_stream,
)

LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes


async def test_a_connection_knows_both_ends(nursery: trio.Nursery) -> None:
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
async def test_a_cancelled_aclose_writes_the_close_over_a_network(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    assert await peer.receive_all() == [Frame(CLOSE, close_payload(1000))]


async def test_a_reset_is_told(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "tcp")
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    reset(peer.stream)
    error = await closed_error(getting.result())
    assert error.reason is not None
    assert error.reason.code == 1006
    assert isinstance(error.__cause__, ConnectionResetError)
