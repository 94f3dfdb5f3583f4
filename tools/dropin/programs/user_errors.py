"""Exceptions that leave a block or a handler."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import AsyncIterator, Iterator

import trio

from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)


class AppError(Exception):
    """An exception of the application."""


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def hang_up(request: WebSocketRequest) -> None:
    await (await request.accept()).aclose(4000, "go away")


async def fail(request: WebSocketRequest) -> None:
    await request.accept()
    raise AppError("in the handler")


def leaves(exc: BaseException) -> Iterator[BaseException]:
    for part in getattr(exc, "exceptions", ()):
        yield from leaves(part)
    if not hasattr(exc, "exceptions"):
        yield exc


async def client_errors(url: str) -> None:
    error = AppError("mine")
    try:
        async with open_websocket_url(url) as ws:
            await ws.send_message("x")
            raise error
    except AppError as exc:
        print("same", exc is error, exc.__cause__, exc.__context__, ws.closed is not None)

    try:
        async with open_websocket_url(url):
            try:
                raise KeyError("first")
            except KeyError as first:
                raise AppError("second") from first
    except AppError as exc:
        print("chained", repr(exc.__cause__), repr(exc.__context__), exc.__suppress_context__)

    try:
        async with open_websocket_url(url):
            try:
                raise KeyError("first")
            except KeyError:
                raise AppError("second")  # noqa: B904 # what is tried
    except AppError as exc:
        print("context", exc.__cause__, repr(exc.__context__))

    try:
        async with open_websocket_url(url) as ws:
            await ws.aclose()
            await ws.send_message("late")
    except ConnectionClosed as exc:
        print("closed", exc.reason)

    try:
        async with open_websocket_url(url):
            raise KeyboardInterrupt
    except KeyboardInterrupt as exc:
        print("interrupt", exc.__cause__)

    try:
        async with open_websocket_url(url):
            raise HandshakeError("from the body")
    except HandshakeError as exc:
        print("handshake", exc)

    try:
        async with open_websocket_url(url), trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.sleep, -1))
    except BaseException as exc:
        print("group", [type(e).__name__ for e in leaves(exc)])


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[WebSocketConnection]:
    async with open_websocket_url(url) as ws:
        print("wrapped", await echoed(ws, "before"))
        try:
            yield ws
        finally:
            print("wrapped", await echoed(ws, "after"))


async def echoed(ws: WebSocketConnection, message: str) -> list[str | bytes]:
    await ws.send_message(message)
    return [await ws.get_message()]


async def returned(url: str) -> str:
    async with open_websocket_url(url):
        return "returned"


async def main() -> None:
    async with trio.open_nursery() as nursery:
        start = partial(partial, serve_websocket, host="127.0.0.1", port=0, ssl_context=None)
        server = await nursery.start(start(echo))
        url = f"ws://127.0.0.1:{server.port}"
        await client_errors(url)
        print(await returned(url))
        for i in range(3):
            async with open_websocket_url(url):
                if i == 1:
                    break
        print("left the loop at", i)
        try:
            async with opened(url) as ws:
                raise AppError("through a generator")
        except AppError as exc:
            print("wrapped", exc, exc.__cause__, exc.__context__)
        server = await nursery.start(start(hang_up))
        try:
            async with open_websocket_url(f"ws://127.0.0.1:{server.port}") as ws:
                await ws.get_message()
        except ConnectionClosed as exc:
            print("hung up", repr(exc))
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(start(fail))
            try:
                async with open_websocket_url(f"ws://127.0.0.1:{server.port}") as ws:
                    await ws.get_message()
            except ConnectionClosed:
                print("client is told")
            await trio.sleep(5)
            print("not reached")
    except BaseException as exc:
        print("out of the server", [repr(e) for e in leaves(exc)])


trio.run(main)
