"""The limits on the connections of a server, and clients above the limits."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import socket
from typing import TYPE_CHECKING, Any, Iterator

import pytest
import trio
import trio.testing

from support.frames import TEXT, close_payload
from support.peer import REQUEST, read_head
from support.servers import (
    ask,
    connect,
    echo,
    last_words,
    receive_to_end,
    reject,
    start,
    url,
)
from support.streams import memory_pair, reset, tls_contexts
from trio_websocket import (
    ConnectionRejected,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    serve_websocket,
)
from trio_websocket._server.turn_away import MAX_TURNED_AWAY

if TYPE_CHECKING:
    from trio.abc import Stream


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that returns its streams, or raises its errors, on request."""

    def __init__(self, *outcomes: Stream | Exception) -> None:
        self.outcomes = list(outcomes)
        self.go_on = trio.Event()

    async def accept(self) -> Stream:
        await self.go_on.wait()
        if not self.outcomes:
            await trio.sleep_forever()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def ask_until(answer: bytes, port: int, request: bytes = REQUEST) -> None:
    """Repeat a request until it gets this answer, and not status 503."""
    while True:
        received = await ask(port, request)
        if received.startswith(answer):
            return
        assert received.startswith(b"HTTP/1.1 503 ") or not received
        await trio.sleep(0.01)


async def assert_gets_place(port: int) -> None:
    """Check that the server has room for a client, now or soon."""
    await ask_until(b"HTTP/1.1 400 ", port, b"nonsense\r\n\r\n")


# -- max_connections


async def test_max_connections_serves_that_many(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=3)
    peers = [await connect(port) for _ in range(3)]
    for peer in peers:
        await peer.send_frame(TEXT, b"hi")
        assert await peer.receive() == (TEXT, b"hi", True, 0)
        await peer.aclose()


async def test_max_connections_exceeded_sends_503(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    async with (await connect(port)).stream:
        answer = await ask(port)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\nContent-Length: 0\r\n\r\n")


async def test_max_connections_serves_in_order(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    clients = [await trio.open_tcp_stream(*address) for _ in range(3)]
    server = WebSocketServer(echo, listeners, max_connections=1)
    nursery.start_soon(server.run)
    for client, answer in zip(clients, (b"101", b"503", b"503")):
        await client.send_all(REQUEST)
        head, _ = await read_head(client)
        assert head.startswith(b"HTTP/1.1 " + answer)
    for client in clients:
        await client.aclose()


async def test_max_connections_exceeded_raises_connection_rejected(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, max_connections=1)
    async with (await connect(port)).stream:
        with pytest.raises(ConnectionRejected) as caught:
            await connect_websocket_url(nursery, url(port))
    assert caught.value.status_code == 503


async def test_max_connections_exceeded_answers_before_request(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, max_connections=1)
    async with (await connect(port)).stream:
        assert (await ask(port, b"")).startswith(b"HTTP/1.1 503 ")


async def test_max_connections_exceeded_starts_no_handler(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        paths.append(request.path)
        await echo(request)

    paths: list[str] = []
    port = await start(nursery, handler, max_connections=1)
    async with (await connect(port)).stream:
        await ask(port, REQUEST.replace(b"/", b"/late", 1))
        assert paths == ["/"]


async def test_max_connections_exceeded_leaves_others_alone(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, max_connections=1)
    peer = await connect(port)
    for _ in range(20):
        await ask(port)
    await peer.send_frame(TEXT, b"hi")
    assert await peer.receive() == (TEXT, b"hi", True, 0)
    await peer.aclose()


async def test_max_connections_counts_clients_without_request(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    async with await trio.open_tcp_stream("127.0.0.1", port):
        assert (await ask(port)).startswith(b"HTTP/1.1 503 ")


async def test_max_connections_0_serves_nobody(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=0)
    assert (await ask(port)).startswith(b"HTTP/1.1 503 ")


async def test_max_connections_exceeded_over_tls_sends_503(nursery: trio.Nursery) -> None:
    ours, theirs = tls_contexts()
    server: WebSocketServer = await nursery.start(
        functools.partial(serve_websocket, echo, "127.0.0.1", 0, theirs, max_connections=0)
    )
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", server.port, ssl_context=ours, https_compatible=True
    )
    async with stream:
        head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 503 ")


async def test_max_connections_counts_tls_handshakes(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    second, its_end = await memory_pair()
    tls = trio.SSLStream(theirs, tls_contexts()[1], server_side=True, https_compatible=True)
    listeners = Listener(tls), Listener(its_end)
    await nursery.start(WebSocketServer(echo, listeners, max_connections=1).run)
    for listener in listeners:
        listener.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
    assert (await receive_to_end(second)).startswith(b"HTTP/1.1 503 ")
    client = trio.SSLStream(
        ours, tls_contexts()[0], server_hostname="example.org", https_compatible=True
    )
    await client.send_all(REQUEST)
    head, _ = await read_head(client)
    assert head.startswith(b"HTTP/1.1 101 ")


async def test_max_connections_holds_for_simultaneous_clients(
    nursery: trio.Nursery,
) -> None:
    pairs = [await memory_pair() for _ in range(5)]
    listeners = [Listener(theirs) for _, theirs in pairs]
    await nursery.start(WebSocketServer(echo, listeners, max_connections=1).run)
    for ours, _ in pairs:
        await ours.send_all(REQUEST)
    await trio.testing.wait_all_tasks_blocked()
    for listener in listeners:
        listener.go_on.set()
    heads = [(await read_head(ours))[0].partition(b"\r\n")[0] for ours, _ in pairs]
    assert sorted(head[9:12] for head in heads) == [b"101", b"503", b"503", b"503", b"503"]


# -- room for the next client


async def test_max_connections_connection_closed_frees_place(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    peer = await connect(port)
    await peer.send_close(1000)
    assert await last_words(peer) == [close_payload(1000)]
    await assert_gets_place(port)


async def test_max_connections_connection_lost_frees_place(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    reset((await connect(port)).stream)
    await assert_gets_place(port)


async def test_max_connections_request_rejected_frees_place(nursery: trio.Nursery) -> None:
    port = await start(nursery, reject, max_connections=1)
    assert (await ask(port)).startswith(b"HTTP/1.1 403 ")
    await ask_until(b"HTTP/1.1 403 ", port)


async def test_max_connections_bad_handshake_frees_place(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    assert (await ask(port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    await assert_gets_place(port)


async def test_max_connections_no_request_frees_place(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1, connect_timeout=0.1)
    async with await trio.open_tcp_stream("127.0.0.1", port) as silent:
        assert await receive_to_end(silent) == b""
        await assert_gets_place(port)


async def test_max_connections_handler_raises_frees_place(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/":
            await echo(request)
        raise LookupError("the user's")

    port = await start(
        nursery, handler, max_connections=1, on_handler_error=lambda request, exc: None
    )
    answer = await ask(port, REQUEST.replace(b"/", b"/bad", 1))
    assert answer.startswith(b"HTTP/1.1 500 ")
    await assert_gets_place(port)


async def test_max_connections_counts_until_handler_ends(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        if request.path == "/":
            await ws.wait_closed()
            await may_end.wait()

    may_end = trio.Event()
    port = await start(nursery, handler, max_connections=1)
    peer = await connect(port)
    await peer.send_close(1000)
    await last_words(peer)
    assert (await ask(port)).startswith(b"HTTP/1.1 503 ")
    may_end.set()
    await assert_gets_place(port)


# -- clients that are turned away


async def test_max_connections_limits_answers_to_turned_away(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=0)
    async with contextlib.AsyncExitStack() as stack:
        streams: list[Stream] = []
        for _ in range(MAX_TURNED_AWAY):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(await stack.enter_async_context(stream))
            assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")
        assert await ask(port, b"") == b""
        await streams.pop().aclose()
        await ask_until(b"HTTP/1.1 503 ", port)


async def test_turned_away_client_stays_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    listener = Listener(theirs)
    listener.go_on.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(WebSocketServer(echo, [listener], max_connections=0).run)
        assert (await receive_to_end(ours)).startswith(b"HTTP/1.1 503 ")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(b"x")
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 5


async def test_turned_away_client_does_not_read_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    listener = Listener(theirs)
    listener.go_on.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(WebSocketServer(echo, [listener], max_connections=0).run)
        await trio.sleep(5)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_turned_away_client_in_tls_handshake_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    listener = Listener(trio.SSLStream(theirs, tls_contexts()[1], server_side=True))
    listener.go_on.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(WebSocketServer(echo, [listener], max_connections=0).run)
        assert await receive_to_end(ours) == b""
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 5


async def test_turned_away_client_gone_is_no_error(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_connections=1)
    peer = await connect(port)
    for _ in range(5):
        reset(await trio.open_tcp_stream("127.0.0.1", port))
    await peer.send_close(1000)
    await last_words(peer)
    await assert_gets_place(port)


async def test_run_cancelled_does_not_wait_for_turned_away() -> None:
    async with trio.open_nursery() as nursery:
        port = await start(nursery, max_connections=0)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")
            started = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 30  # disconnect_timeout is 60 seconds


async def test_max_connections_exceeded_in_closed_nursery_ends_run() -> None:
    async with trio.open_nursery() as closed:
        pass
    ours, theirs = await memory_pair()
    listener = Listener(theirs)
    listener.go_on.set()
    server = WebSocketServer(echo, [listener], handler_nursery=closed, max_connections=0)
    with pytest.raises(RuntimeError, match="closed"):
        await server.run()
    assert await ours.receive_some() == b""


# -- descriptors


@pytest.fixture
def few_descriptors() -> Iterator[contextlib.ExitStack]:
    """Limit the process to a few more descriptors. Restore the limit in the end."""
    resource = pytest.importorskip("resource")  # missing on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 64, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield stack


def use_up(stack: contextlib.ExitStack) -> list[int]:
    """Use all descriptors that the limit allows."""
    used: list[int] = []
    stack.callback(give_back, used)
    with contextlib.suppress(OSError):
        while True:
            used.append(os.dup(0))
    return used


def give_back(used: list[int]) -> None:
    while used:
        os.close(used.pop())


async def test_run_out_of_descriptors_serves_accepted(
    nursery: trio.Nursery, few_descriptors: contextlib.ExitStack
) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    clients = [await trio.open_tcp_stream(*address) for _ in range(2)]
    server = WebSocketServer(echo, listeners)
    used = use_up(few_descriptors)
    os.close(used.pop())
    nursery.start_soon(server.run)
    for client in clients:
        await client.send_all(REQUEST)
        head, _ = await read_head(client)
        assert head.startswith(b"HTTP/1.1 101 ")
        give_back(used)  # for the second client
    for client in clients:
        await client.aclose()


async def test_run_out_of_descriptors_sleeps_and_goes_on(
    nursery: trio.Nursery, few_descriptors: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    port = await start(nursery)
    established = await connect(port)
    late = trio.socket.socket()
    used = use_up(few_descriptors)
    await late.connect(("127.0.0.1", port))
    stream = trio.SocketStream(late)
    await stream.send_all(REQUEST)
    await trio.sleep(0.35)
    assert 1 <= len(caplog.records) <= 5
    await established.send_frame(TEXT, b"hi")
    assert await established.receive() == (TEXT, b"hi", True, 0)
    give_back(used)
    head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 101 ")
    await stream.aclose()
    await established.aclose()
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert {record.name for record in caplog.records} == {"trio-websocket"}


async def test_run_out_of_descriptors_can_be_cancelled(
    few_descriptors: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        port = await start(nursery)
        with socket.socket() as late:
            use_up(few_descriptors)
            late.connect(("127.0.0.1", port))
            await trio.testing.wait_all_tasks_blocked()
            assert caplog.records
            started = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - started < 30  # disconnect_timeout is 60 seconds


# -- wrong arguments

WRONG: list[tuple[Any, type[Exception]]] = [
    (-1, ValueError),
    (math.nan, ValueError),
    ("1", TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize(("value", "error"), WRONG)
async def test_websocket_server_wrong_max_connections_raises(
    value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="max_connections"):
        WebSocketServer(echo, [Listener()], max_connections=value)


@pytest.mark.parametrize(("value", "error"), WRONG)
async def test_serve_websocket_wrong_max_connections_raises(
    value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="max_connections"):
        await serve_websocket(echo, "no such host", 0, None, max_connections=value)
