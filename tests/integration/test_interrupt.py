"""KeyboardInterrupt while the library waits, and while it calls the application."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, AsyncIterator
from unittest import mock

import pytest
import trio
import trio.testing

import trio_websocket
from support.peer import REQUEST, accepting, read_head
from support.servers import start
from support.streams import memory_pair
from trio_websocket import (
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
)
from trio_websocket._connection.receiver import Receiver
from trio_websocket._io.interrupt import raise_interrupt
from trio_websocket._io.transport import close_now

if TYPE_CHECKING:
    from types import FrameType

LIBRARY = Path(trio_websocket.__file__).parent


@trio.lowlevel.enable_ki_protection  # so that the main task is interrupted
async def interrupt() -> None:
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)


class StandIn:
    """A replacement of a connection, as an application's tests may have one."""

    async def aclose(self, *args: object) -> None:
        await trio.lowlevel.checkpoint()


async def stand_in(nursery: trio.Nursery, *args: object, **options: object) -> StandIn:
    assert not trio.lowlevel.currently_ki_protected()
    nursery.start_soon(trio.sleep_forever)
    return StandIn()


replaced = mock.patch("trio_websocket._impl.connect_websocket", stand_in)


@replaced
async def test_open_websocket_with_stand_in_is_cancelled(autojump_clock: object) -> None:
    with trio.move_on_after(1) as scope:
        async with open_websocket("host", 80, "/", use_ssl=False):
            pass
    assert scope.cancelled_caught


@replaced
async def test_open_websocket_with_stand_in_raises_error_of_block() -> None:
    with trio.fail_after(30), pytest.raises(LookupError):
        async with open_websocket("host", 80, "/", use_ssl=False):
            raise LookupError


@replaced
def test_open_websocket_with_stand_in_is_interrupted() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                async with open_websocket("host", 80, "/", use_ssl=False):
                    pass

    trio.run(main)


def test_open_websocket_interrupted_connecting_no_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def open_tcp_stream(*args: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                async with open_websocket("host", 80, "/", use_ssl=False):
                    raise AssertionError

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    trio.run(main)


def test_server_aclose_interrupted_raises_no_group() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await (await request.accept()).wait_closed()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server = WebSocketServer(handler, listeners)
            nursery.start_soon(server.run)
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(REQUEST)
            await stream.receive_some()  # the client never answers the Close
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await server.aclose()
            await stream.aclose()

    trio.run(main)


async def test_handler_runs_unprotected(nursery: trio.Nursery) -> None:
    protected: list[bool] = []

    async def handler(request: WebSocketRequest) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())
        await request.accept()

    port = await start(nursery, handler)
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as connection:
        await connection.wait_closed()
    assert protected == [False]


async def test_block_and_chunks_of_a_message_run_unprotected(nursery: trio.Nursery) -> None:
    protected: list[bool] = []

    async def chunks() -> AsyncIterator[str]:
        protected.append(trio.lowlevel.currently_ki_protected())
        yield "chunk"

    port = await start(nursery)
    async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as connection:
        protected.append(trio.lowlevel.currently_ki_protected())
        await connection.send_message(chunks())
        assert await connection.get_message() == "chunk"
    assert protected == [False, False]


async def test_wrap_client_stream_without_memory_leaves_no_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(inbox: Receiver) -> None:
        raise MemoryError

    async def answer() -> None:
        request, _ = await read_head(theirs)
        await theirs.send_all(accepting(request))

    monkeypatch.setattr(Receiver, "start", fail)
    ours, theirs = await memory_pair()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(MemoryError):
                await wrap_client_stream(nursery, ours, "host", "/")


def test_close_now_interrupted_in_first_half_raises() -> None:
    async def main() -> None:
        ours, _ = await memory_pair()
        with pytest.raises(KeyboardInterrupt):
            await interrupted(ours)

    @trio.lowlevel.enable_ki_protection
    async def interrupted(stream: trio.abc.Stream) -> None:
        signal.raise_signal(signal.SIGINT)
        await close_now(stream)

    trio.run(main)


def test_raise_interrupt_ignores_what_was_handled_before() -> None:
    handled = KeyboardInterrupt()
    exc = ValueError()
    exc.__context__ = handled
    raise_interrupt(exc, handled)
    with pytest.raises(KeyboardInterrupt):
        raise_interrupt(exc, None)


@pytest.mark.parametrize("is_apart", [False, True])
async def test_server_around_its_handler_is_protected(
    nursery: trio.Nursery, is_apart: bool
) -> None:
    # The running task gets the signal, unless it is protected.
    unprotected: set[str] = set()
    seen: set[str] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if LIBRARY not in Path(frame.f_code.co_filename).parents:
            return None
        seen.add(frame.f_code.co_name)
        if event == "line" and not trio.lowlevel.currently_ki_protected():
            unprotected.add(frame.f_code.co_name)
        return trace

    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        assert not trio.lowlevel.currently_ki_protected()
        await ws.send_message(await ws.get_message())

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(handler, listeners, handler_nursery=nursery if is_apart else None)
    await nursery.start(server.run)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        async with open_websocket_url(f"ws://127.0.0.1:{server.port}/") as ws:
            await ws.send_message("hello")
            assert await ws.get_message() == "hello"
        await server.aclose()
    finally:
        sys.settrace(before)
    steps = {"_handle", "_close", "receive_request", "accept", "start", "_run"}
    assert ("_run_with_nursery" in seen) == is_apart
    assert steps <= seen
    steps.add("_run_with_nursery")
    assert not steps & unprotected
