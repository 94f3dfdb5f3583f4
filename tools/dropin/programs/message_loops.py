"""Feeds, chats and JSON-RPC: loops over messages until the connection is closed."""

from __future__ import annotations

import json
from functools import partial

import trio

from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

room: set[WebSocketConnection] = set()


async def feed(ws: WebSocketConnection) -> None:
    for i in range(500):
        await ws.send_message(json.dumps({"tick": i}))


async def chat(ws: WebSocketConnection) -> None:
    room.add(ws)
    try:
        while True:
            message = await ws.get_message()
            for member in room:
                await member.send_message(message)
    except ConnectionClosed:
        room.remove(ws)


async def rpc(ws: WebSocketConnection) -> None:
    async def answer(call: dict[str, int]) -> None:
        await trio.sleep(0.01 * (5 - call["id"]))
        await ws.send_message(json.dumps({"id": call["id"], "result": call["n"] ** 2}))

    async with trio.open_nursery() as nursery:
        while True:
            try:
                nursery.start_soon(answer, json.loads(await ws.get_message()))
            except ConnectionClosed:
                break


async def handler(request: WebSocketRequest) -> None:
    await {"/feed": feed, "/chat": chat, "/rpc": rpc}[request.path](await request.accept())


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}"

        ticks = []
        async with open_websocket_url(url + "/feed") as ws:
            while True:
                try:
                    ticks.append(json.loads(await ws.get_message())["tick"])
                except ConnectionClosed as exc:
                    print("feed ends with", exc.reason)
                    break
        print(ticks == list(range(500)))

        async with open_websocket_url(url + "/chat") as ann, open_websocket_url(
            url + "/chat"
        ) as bob:
            await trio.sleep(0.1)
            for sender, text in ((ann, "hi"), (bob, "hello"), (ann, "bye")):
                await sender.send_message(text)
                print("ann", await ann.get_message(), "bob", await bob.get_message())

        results: dict[int, int] = {}
        async with open_websocket_url(url + "/rpc") as ws:

            async def collect() -> None:
                for _ in range(5):
                    answer = json.loads(await ws.get_message())
                    results[answer["id"]] = answer["result"]

            async with trio.open_nursery() as calls:
                calls.start_soon(collect)
                for i in range(5):
                    calls.start_soon(ws.send_message, json.dumps({"id": i, "n": i + 10}))
        print(sorted(results.items()))

        got: list[str | bytes] = []
        async with open_websocket_url(url + "/feed") as ws:

            async def take() -> None:
                got.extend([await ws.get_message() for _ in range(50)])

            async with trio.open_nursery() as takers:
                for _ in range(10):
                    takers.start_soon(take)
            print("ten tasks", sorted(json.loads(m)["tick"] for m in got) == list(range(500)))

        sizes = []
        async with open_websocket_url(url + "/chat") as ws, trio.open_nursery() as senders:
            for i in range(20):
                senders.start_soon(ws.send_message, bytes([i]) * (10_000 * i))
            for _ in range(20):
                message = await ws.get_message()
                sizes.append(len(message) if len(set(message)) <= 1 else -1)
        print("twenty senders", sorted(sizes))
        nursery.cancel_scope.cancel()


trio.run(main)
