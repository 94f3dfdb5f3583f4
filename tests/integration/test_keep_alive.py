"""Keep-alive over TCP."""

from __future__ import annotations

from typing import Any

import trio

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
