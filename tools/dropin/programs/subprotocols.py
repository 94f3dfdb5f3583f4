"""Subprotocols: offered, chosen, or ignored."""

from __future__ import annotations

from functools import partial
from typing import Iterable

import trio

from trio_websocket import WebSocketRequest, open_websocket, open_websocket_url, serve_websocket


async def choose(request: WebSocketRequest) -> None:
    offers = request.proposed_subprotocols
    print("offered", offers)
    chosen = offers[-1] if offers and request.path != "/none" else None
    ws = await request.accept(subprotocol=chosen)
    print("server has", ws.subprotocol)
    await ws.send_message(str(ws.subprotocol))


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, choose, "127.0.0.1", 0, None))
        many: Iterable[str] = ("a", "b.v1", "c")
        for path in ("/", "/none"):
            for offers in (None, [], ["chat"], many, iter(["x", "y"])):
                async with open_websocket(
                    "127.0.0.1", server.port, path, use_ssl=False, subprotocols=offers
                ) as ws:
                    print("client has", ws.subprotocol, await ws.get_message())
        url = f"ws://127.0.0.1:{server.port}/"
        async with open_websocket_url(url, subprotocols=["graphql-ws"]) as ws:
            print("client has", ws.subprotocol)
        nursery.cancel_scope.cancel()


trio.run(main)
