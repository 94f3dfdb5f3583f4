"""Keep-alive over sockets."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from support.connections import open_client
from support.streams import PAIRS, over_tls
from support.tasks import Call
from trio_websocket import open_websocket_url, serve_websocket


async def test_client_and_server_keep_each_other_alive() -> None:
    async def handler(request: Any) -> None:
        ws = await request.accept()
        connections.append(ws)
        await ws.wait_closed()

    connections: list[Any] = []
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_websocket(
                handler, "127.0.0.1", 0, None, ping_interval=0.01, task_status=task_status
            )
        )
        async with open_websocket_url(f"ws://127.0.0.1:{server.port}", ping_interval=0.01) as ws:
            while ws.latency is None or not connections or connections[0].latency is None:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


SIZE = 2**20  # more than a socket takes


@pytest.mark.parametrize("kind", ["socketpair", "lockstep", "own-tls"])
async def test_keep_alive_message_is_read_slowly_stays_open(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    streams = await PAIRS["socketpair" if kind == "own-tls" else kind]()
    if kind == "own-tls":
        streams = await over_tls(*streams, is_own=True)
    client, peer = await open_client(nursery, streams=streams, ping_interval=10, ping_timeout=20)
    sending = Call(nursery, client.send_message, bytes(SIZE))
    received = 0
    while received < SIZE:
        received += len(await peer.stream.receive_some(SIZE // 32))
        await trio.sleep(2)
        assert client.closed is None
    assert trio.current_time() > 40
    await sending.result()
