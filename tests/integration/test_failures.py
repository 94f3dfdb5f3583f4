"""Errors of this side, such as a MemoryError: each ends one connection, and nothing else."""

from __future__ import annotations

import logging
import os
from types import ModuleType
from typing import Any, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client
from support.faults import Fault, FaultyStream
from support.frames import CLOSE, PING
from support.streams import memory_pair, socket_pair
from support.tasks import Call
from trio_websocket import (
    ConnectionClosed,
    ConnectionFailed,
    WebSocketRequest,
    WebSocketServer,
    open_websocket_url,
    serve_websocket,
    wrap_server_stream,
)
from trio_websocket._connection.deferred_flush import DeferredFlush
from trio_websocket._connection.receiver import Receiver
from trio_websocket._connection.send_queue import SendQueue
from trio_websocket._io.transport import Transport
from trio_websocket._sansio.errors import describe, safe_repr
from trio_websocket._sansio.protocol import Protocol
from trio_websocket._server import client_task, listeners, server as server_module, turn_away


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


ERRORS = [MemoryError, UnprintableError]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*args: object, **keywords: object) -> Any:
        raise error

    return fail


def failing_once(error: Exception, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises at its first call."""
    errors = [error]

    def fail_or_call(*args: Any, **keywords: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*args, **keywords)

    return fail_or_call


class UnprintableStream(FaultyStream):
    def __repr__(self) -> str:
        raise ValueError("no text")


def test_describe_str_raises_returns_type() -> None:
    assert describe(UnprintableError()) == "UnprintableError"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("text")) == "text"


def test_safe_repr_repr_raises_names_type() -> None:
    assert safe_repr(UnprintableError()) == "<UnprintableError whose repr() failed>"
    assert safe_repr(1) == "1"


@pytest.mark.parametrize("kind", ERRORS)
async def test_get_message_read_raises_is_the_cause(
    nursery: trio.Nursery, kind: type[Exception]
) -> None:
    error = kind()
    ours, theirs = await memory_pair()
    stream = UnprintableStream(ours)
    client, peer = await open_client(nursery, streams=(stream, theirs))
    getting = Call(nursery, client.get_message)
    stream.faults.append(Fault.fail(error, direction="receive"))
    await peer.send(peer.texts("x"))
    with pytest.raises(ConnectionClosed, match=kind.__name__) as caught:
        await getting.result()
    assert caught.value.__cause__ is error
    assert client.remote == "<UnprintableStream whose repr() failed>"


@pytest.mark.parametrize("kind", ERRORS)
async def test_send_message_write_raises_is_the_cause(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: type[Exception]
) -> None:
    error = kind()
    ours, theirs = await memory_pair()
    stream = UnprintableStream(ours)
    client, _ = await open_client(nursery, streams=(stream, theirs))
    stream.faults.append(Fault.fail(error, direction="send"))
    await client.send_message("x")
    await client.wait_closed()
    with pytest.raises(ConnectionClosed, match=kind.__name__) as caught:
        await client.send_message("x")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("name", ["write_now", "read_now"])
async def test_direct_stream_raises_is_the_cause(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    error = MemoryError()
    client, peer = await open_client(nursery, "socketpair")
    await peer.send(peer.texts("x"))
    monkeypatch.setattr(Transport, name, failing(error))
    with pytest.raises(ConnectionClosed) as caught:
        if name == "write_now":
            await client.send_message("x")
        else:
            await client.get_message()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("is_awaited", [True, False])
async def test_get_message_decoding_raises_closes_with_1011(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    is_awaited: bool,
) -> None:
    error = kind()
    client, peer = await open_client(nursery, "socketpair", disconnect_timeout=1)
    with monkeypatch.context() as patch:
        patch.setattr(Protocol, "next_event", failing(error))
        if is_awaited:
            getting = Call(nursery, client.get_message)
            await peer.send_frame(PING)
            with pytest.raises(ConnectionClosed) as caught:
                await getting.result()
        else:
            await client.wait_closed()
            with pytest.raises(ConnectionClosed) as caught:
                await client.get_message()
    assert caught.value.__cause__ is error
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1011
    frames = await peer.receive_all()
    assert [frame.opcode for frame in frames] == [CLOSE]


@pytest.mark.parametrize("name", ["run", "read_in_background"])
async def test_connection_task_raises_ends_that_connection(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    # The system task of the idle monitor calls read_in_background().
    error = MemoryError("no memory")
    monkeypatch.setattr(Receiver, name, failing(error))
    client, _ = await open_client(nursery, "socketpair")
    await client.wait_closed()
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.__cause__ is error
    assert f"{client} failed: no memory" in caplog.text


async def test_connection_task_closing_raises_ends_that_connection(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    monkeypatch.setattr(Transport, "half_close_and_drain", failing(MemoryError()))
    await peer.send_close(1000)
    await client.wait_closed()
    assert client.closed is not None


async def test_on_write_error_raises_ends_that_connection(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await open_client(nursery, "socketpair")
    error = OSError("out of order")
    monkeypatch.setattr(Transport, "write_now", failing(error))
    monkeypatch.setattr(Receiver, "read_in_background", failing(MemoryError()))
    with pytest.raises(ConnectionClosed):
        await client.send_message("x")
    await client.wait_closed()


async def test_aclose_raises_nothing_without_memory(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await open_client(nursery, "socketpair")
    error = MemoryError()
    monkeypatch.setattr(SendQueue, "append", failing(error))
    await client.aclose()
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.__cause__ is error


async def test_keep_alive_raises_ends_that_connection(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = MemoryError()
    client, _ = await open_client(nursery, ping_interval=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", failing(error))
        await client.wait_closed()
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.__cause__ is error


async def test_watch_raises_starts_again(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = Receiver.begin_interval
    monkeypatch.setattr(Receiver, "begin_interval", failing_once(MemoryError(), original))
    client, peer = await open_client(nursery, "socketpair")
    await wait_all_tasks_blocked()
    assert "the monitor of idle connections failed" in caplog.text
    await peer.send(peer.texts("x", "y"))
    assert await client.get_message() == "x"
    await peer.send_close(1000)
    await client.wait_closed()  # it would never end if no task read


async def test_fail_inbox_stopped_does_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, "socketpair")
    await peer.send_close(1000)
    await client.wait_closed()
    client._receiver._fail(MemoryError())  # noqa: SLF001 # it happens if memory ends just then
    assert client.closed is not None
    assert client.closed.code == 1000


@pytest.mark.parametrize("where", ["outbox", "task"])
async def test_late_writes_raise_goes_on(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    ours, theirs = await socket_pair()
    outbox = SendQueue(Transport(ours, None), int)
    outbox.start(nursery)
    owner: type = SendQueue if where == "outbox" else DeferredFlush
    name = "uncork" if where == "outbox" else "_uncork"
    error = MemoryError()
    monkeypatch.setattr(owner, name, failing_once(error, getattr(owner, name)))
    outbox.append(b"a")
    outbox.append_message(b"b")  # corked
    await wait_all_tasks_blocked()
    if where == "outbox":
        assert outbox.broken is error
    else:
        assert "the task that flushes corked frames failed" in caplog.text
        outbox.append_message(b"c")
        await wait_all_tasks_blocked()
        assert await theirs.receive_some() == b"abc"
    outbox.stop()


@pytest.mark.parametrize("kind", ERRORS)
async def test_wrap_server_stream_read_raises_is_the_cause(
    nursery: trio.Nursery, kind: type[Exception]
) -> None:
    error = kind()
    ours, theirs = await memory_pair()
    stream = UnprintableStream(ours)
    stream.faults.append(Fault.fail(error, direction="receive"))
    await theirs.send_all(b"GET")
    with pytest.raises(ConnectionFailed, match=kind.__name__) as caught:
        await wrap_server_stream(nursery, stream)
    assert caught.value.__cause__ is error


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    await ws.send_message(await ws.get_message())


async def check_server(port: int) -> None:
    async with open_websocket_url(f"ws://127.0.0.1:{port}/") as ws:
        await ws.send_message("x")
        assert await ws.get_message() == "x"


async def check_closed(port: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (listeners, "accept_some"),
        (server_module, "ClientTask"),
        (client_task, "receive_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_serve_websocket_error_of_one_client_goes_on(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: ModuleType,
    name: str,
) -> None:
    server: WebSocketServer = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
    original = getattr(module, name)
    monkeypatch.setattr(module, name, failing_once(MemoryError(), original))
    if name == "accept_some":  # the call that is already waiting succeeds
        await check_server(server.port)
    else:
        await check_closed(server.port)
    await check_server(server.port)
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
    nursery.cancel_scope.cancel()


async def test_serve_websocket_turning_away_raises_goes_on(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server: WebSocketServer = await nursery.start(
        lambda task_status: serve_websocket(
            echo, "127.0.0.1", 0, None, max_connections=1, task_status=task_status
        )
    )
    async with open_websocket_url(f"ws://127.0.0.1:{server.port}/") as ws:
        with monkeypatch.context() as patch:
            patch.setattr(turn_away, "send_final_response", failing(MemoryError()))
            await check_closed(server.port)
        await ws.send_message("x")
        assert await ws.get_message() == "x"
    assert "can't turn away a client" in caplog.text
    nursery.cancel_scope.cancel()
