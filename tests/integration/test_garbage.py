"""The memory of a connection is freed at its end, without the garbage collector.

The collector runs late, so buffers would pile up, and it stops the event loop.
"""

from __future__ import annotations

import contextlib
import gc
import traceback
from typing import Any, Awaitable, Callable

import pytest
import trio

from support.frames import frame
from support.peer import REQUEST, accepting, read_head, start_raw_server
from support.streams import reset, tls_contexts
from trio_websocket import (
    ConnectionClosed,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    serve_websocket,
)

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("frozen_heap")]

OURS = "trio_websocket"
_TRIO = tuple(map(int, trio.__version__.split(".")[:2]))

# The behaviour of our client and of our handler; one of them ends the connection.
Client = Callable[[WebSocketConnection], Awaitable[object]]
Handler = Callable[[WebSocketConnection], Awaitable[object]]


def check(play: Callable[[], Awaitable[object]]) -> None:
    """Play a scene, and check that no object of the library is left in a reference cycle."""

    async def main() -> None:
        await play()
        await trio.sleep(0.05)  # the idle monitor ends
        gc.collect()

    gc.collect()
    gc.freeze()  # ignore the objects of earlier tests
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        trio.run(main)
        found = [item for item in gc.garbage if type(item).__module__.startswith(OURS)]
        found += [item for item in gc.garbage if isinstance(item, BaseException)]
        assert [describe(item) for item in found] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def describe(item: object) -> str:
    if isinstance(item, BaseException):
        return "".join(traceback.format_exception(type(item), item, item.__traceback__))
    return repr(item)


class Fault(Exception):
    """The exception that a block or a handler raises."""


async def receive(ws: WebSocketConnection) -> None:
    while True:
        await ws.get_message()


async def leave(ws: WebSocketConnection) -> None:
    del ws


async def fail(ws: WebSocketConnection) -> None:
    await ws.send_message("x")
    raise Fault


async def talk(ws: WebSocketConnection) -> None:
    await ws.send_message("x" * 1_000_000)
    await ws.ping()
    with trio.move_on_after(0):
        await ws.ping()


async def close(ws: WebSocketConnection) -> None:
    await ws.aclose(4001, "why")


async def cancel(ws: WebSocketConnection) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.get_message()


CONVERSATIONS: dict[str, tuple[Client, Handler]] = {
    "the client leaves": (leave, receive),
    "the client fails": (fail, receive),
    "the client closes": (close, receive),
    "the client is cancelled": (cancel, receive),
    "the handler returns": (receive, leave),
    "the handler fails": (receive, fail),
    "the handler closes": (receive, close),
    "both talk": (talk, receive),
}


@pytest.mark.parametrize("use_ssl", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_connection_closed_leaves_no_garbage(name: str, use_ssl: bool) -> None:
    client, handler = CONVERSATIONS[name]
    contexts: Any = tls_contexts() if use_ssl else (False, None)

    async def handle(request: WebSocketRequest) -> None:
        await handler(await request.accept())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, handle, contexts[1], 60)
            with contextlib.suppress(Fault, ConnectionClosed):
                async with open_websocket(
                    "127.0.0.1", server.port, "/", use_ssl=contexts[0], ping_interval=5
                ) as ws:
                    await client(ws)
            await server.aclose()

    check(main)


@pytest.mark.parametrize(
    ("handler", "is_apart"),
    [
        (leave, False),
        (leave, True),
        pytest.param(
            fail,
            False,
            marks=pytest.mark.xfail(
                _TRIO < (0, 23),
                reason="Trio before 0.23 may leave a cycle if an error in a child cancels a block",
                strict=False,
            ),
        ),
    ],
    ids=["returns", "returns, handler nursery", "fails"],
)
def test_a_server_whose_client_answers_no_close_leaves_none(
    handler: Handler, is_apart: bool
) -> None:
    async def handle(request: WebSocketRequest) -> None:
        await handler(await request.accept())

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        with contextlib.suppress(BaseException):  # a group
            async with trio.open_nursery() as nursery, trio.open_nursery() as apart:
                server = WebSocketServer(
                    handle,
                    listeners,
                    handler_nursery=apart if is_apart else None,
                    disconnect_timeout=0.02,
                )
                await nursery.start(server.run)
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                    await stream.send_all(REQUEST)
                    await trio.sleep(0.1)
                nursery.cancel_scope.cancel()

    check(main)


async def serve(
    handler: Callable[[WebSocketRequest], Awaitable[object]],
    ssl_context: Any = None,
    timeout: float = 0.02,
    *,
    task_status: trio.TaskStatus[WebSocketServer],
) -> None:
    await serve_websocket(
        handler,
        "127.0.0.1",
        0,
        ssl_context,
        on_handler_error=lambda request, exc: None,
        ping_interval=5,
        connect_timeout=timeout,
        disconnect_timeout=timeout,
        task_status=task_status,
    )


async def handle_any(request: WebSocketRequest) -> None:
    if request.path == "/reject":
        await request.reject(403, body=b"no")
    elif request.path == "/fail":
        raise Fault
    elif request.path != "/forget":
        ws = await request.accept()
        while True:
            await ws.send_message(await ws.get_message())


ASKING = {
    "/": REQUEST,
    **{path: REQUEST.replace(b"/", path.encode(), 1) for path in ("/reject", "/fail", "/forget")},
    "no request": b"",
    "half a request": REQUEST[:50],
    "a bad request": b"GARBAGE\r\n\r\n",
    "a bad frame": REQUEST + b"\xff\xff",
    "a message": REQUEST + frame(1, b"x", mask=True),
    "a text that is none": REQUEST + frame(1, b"\xff", mask=True),
    "half a message": REQUEST + frame(1, b"x", fin=False, mask=True),
}


@pytest.mark.parametrize("ending", ["reset", "stay"])
@pytest.mark.parametrize("name", ASKING)
def test_server_receiving_makes_no_garbage(name: str, ending: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, handle_any)
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(ASKING[name])
            if name == "/":
                await read_head(stream)
            if ending == "reset":
                reset(stream)
            if ending != "stay":
                await stream.aclose()
            await trio.sleep(0.02 if ending == "reset" else 0.03)
            await server.aclose()
            await stream.aclose()

    check(main)


ANSWERS = {
    "nothing": b"",
    "half a response": b"HTTP/1.1 101 Swit",
    "garbage": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a rejection": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    "a redirect to a closed port": b"HTTP/1.1 302 Found\r\nLocation: //127.0.0.1:1/\r\n"
    b"Content-Length: 2\r\n\r\nno",
    "a bad redirect": b"HTTP/1.1 302 Found\r\nContent-Length: 2\r\n\r\nno",
    "half a rejection": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nn",
}


@pytest.mark.parametrize("ending", ["reset", "stay"])
@pytest.mark.parametrize("name", [*ANSWERS, "acceptance"])
def test_client_receiving_makes_no_garbage(name: str, ending: str) -> None:
    async def answer(stream: trio.abc.Stream) -> None:
        request, _ = await read_head(stream)
        await stream.send_all(ANSWERS.get(name, accepting(request)))
        if ending == "reset":
            reset(stream)
        if ending == "stay":
            await trio.sleep(0.1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await start_raw_server(nursery, answer)
            with contextlib.suppress(HandshakeError, ConnectionClosed, DisconnectionTimeout):
                async with open_websocket(
                    *("127.0.0.1", port, "/"),
                    use_ssl=False,
                    connect_timeout=0.02,
                    disconnect_timeout=0.02,
                    max_redirects=1,
                ) as ws:
                    with trio.move_on_after(0.05):
                        await ws.get_message()
            nursery.cancel_scope.cancel()

    check(main)
