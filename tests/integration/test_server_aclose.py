"""Closing a server, with its listeners, clients, connections and handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.frames import CLOSE, TEXT, close_payload
from support.listeners import MemoryListener
from support.peer import REQUEST, RawPeer, read_head
from support.servers import (
    Handler,
    connect,
    echo,
    last_words,
    receive_to_end,
    serve,
    wait,
)
from support.streams import memory_pair, tls_contexts
from support.tasks import Call
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketRequest,
    WebSocketServer,
    serve_websocket,
)

if TYPE_CHECKING:
    from trio.abc import Stream

GONE = (OSError, trio.BrokenResourceError)


async def connect_raw(server: WebSocketServer, data: bytes = REQUEST) -> trio.SocketStream:
    """Return a client whose data the server has read."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(data)
    await trio.testing.wait_all_tasks_blocked(0.01)
    return stream


async def connect_tls(server: WebSocketServer, data: bytes) -> trio.SSLStream[trio.SocketStream]:
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", server.port, ssl_context=tls_contexts()[0], https_compatible=True
    )
    await stream.send_all(data)
    return stream


async def be_good_clients(nursery: trio.Nursery, *peers: RawPeer) -> list[Call[list[bytes]]]:
    """Answer the Close frames of the server. Return their payloads."""
    return [Call(nursery, last_words, peer) for peer in peers]


def staying(may_end: trio.Event) -> Handler:
    """Return a handler that ends when its connection is closed and the event is set."""

    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.wait_closed()
        await may_end.wait()

    return handler


def noting(cancelled: list[float]) -> Handler:
    """Return a handler that runs until it is cancelled, and records the time."""

    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    return handler


class Listener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that returns a stream on request."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.go_on = trio.Event()
        self.is_closed = False

    async def accept(self) -> Stream:
        await self.go_on.wait()
        self.go_on = trio.Event()
        return self.stream

    async def aclose(self) -> None:
        self.is_closed = True


# -- listening


async def test_server_aclose_stops_listening(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    await server.aclose()
    with pytest.raises(OSError, match=str(server.port)):
        await trio.open_tcp_stream("127.0.0.1", server.port)


async def test_server_aclose_in_progress_does_not_listen(nursery: trio.Nursery) -> None:
    may_end = trio.Event()
    server = await serve(nursery, staying(may_end))
    peer = await connect(server.port)
    closing = Call(nursery, server.aclose)
    await last_words(peer)
    with pytest.raises(OSError, match=str(server.port)):
        await trio.open_tcp_stream("127.0.0.1", server.port)
    assert not closing.is_over
    may_end.set()
    await closing.result()


async def test_server_aclose_closes_all_listeners(nursery: trio.Nursery) -> None:
    listeners = [Listener((await memory_pair())[1]) for _ in range(3)]
    server = WebSocketServer(echo, listeners)
    await nursery.start(server.run)
    await server.aclose()
    assert all(listener.is_closed for listener in listeners)


async def test_server_aclose_keeps_port_and_listeners(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    port = server.port
    await server.aclose()
    assert server.port == port


async def test_server_aclose_while_waiting_for_descriptors_returns(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    errors = [OSError(24, "too many open files") for _ in range(1000)]
    server = WebSocketServer(echo, [MemoryListener(*errors)])
    await nursery.start(server.run)
    await trio.sleep(0.5)
    await server.aclose()
    left = trio.current_time()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == left < 1


# -- run() and serve_websocket() return


async def test_serve_websocket_server_aclose_returns(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving)
        await server.aclose()
    assert not serving.cancel_scope.cancel_called


async def test_run_server_aclose_returns(nursery: trio.Nursery) -> None:
    server = WebSocketServer(echo, await trio.open_tcp_listeners(0, host="127.0.0.1"))
    running = Call(nursery, server.run)
    peer = await connect(server.port)
    (said,) = await be_good_clients(nursery, peer)
    await server.aclose()
    await running.result()
    assert await said.result() == [close_payload(1001)]


async def test_server_aclose_handler_raises_run_raises(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.wait_closed()
        raise LookupError("the user's")

    server = WebSocketServer(handler, await trio.open_tcp_listeners(0, host="127.0.0.1"))
    running = Call(nursery, server.run)
    await be_good_clients(nursery, await connect(server.port))
    await server.aclose()
    with pytest.raises(LookupError):
        await running.result()


# -- open connections


async def test_server_aclose_closes_all_with_1001(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    said = await be_good_clients(nursery, *[await connect(server.port) for _ in range(5)])
    await server.aclose()
    assert [await call.result() for call in said] == [[close_payload(1001)]] * 5


@pytest.mark.parametrize(("code", "reason"), [(1012, None), (4001, "moving house"), (1000, "\xe4")])
async def test_server_aclose_sends_code_and_reason(
    nursery: trio.Nursery, code: int, reason: str | None
) -> None:
    server = await serve(nursery)
    said = await be_good_clients(nursery, *[await connect(server.port) for _ in range(3)])
    await server.aclose(code, reason)
    assert [await call.result() for call in said] == [[close_payload(code, reason or "")]] * 3


async def test_server_aclose_cuts_long_reason(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    (said,) = await be_good_clients(nursery, await connect(server.port))
    await server.aclose(4000, "x" * 200)
    assert await said.result() == [close_payload(4000, "x" * 123)]


async def test_server_aclose_over_tls_closes_connections(nursery: trio.Nursery) -> None:
    server = await serve(nursery, context=tls_contexts()[1])
    stream = await connect_tls(server, REQUEST)
    _, rest = await read_head(stream)
    peer = RawPeer(stream, is_client=True, received=rest)
    (said,) = await be_good_clients(nursery, peer)
    await server.aclose(4001, "moving house")
    assert await said.result() == [close_payload(4001, "moving house")]


async def test_server_aclose_get_message_raises(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        reasons.append((caught.value.reason, caught.value.sent))

    reasons: list[object] = []
    server = await serve(nursery, handler)
    await be_good_clients(nursery, await connect(server.port))
    await server.aclose(4001, "moving house")
    reason = CloseReason(4001, "moving house")
    assert reasons == [(reason, reason)]


async def test_server_aclose_send_message_raises(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(ConnectionClosed):
            while True:
                await ws.send_message("x")
                await trio.sleep(0.001)
        ended.set()

    ended = trio.Event()
    server = await serve(nursery, handler)
    await be_good_clients(nursery, await connect(server.port))
    await server.aclose()
    assert ended.is_set()


async def test_server_aclose_queued_message_arrives(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message("last")
        sent.set()
        await ws.wait_closed()

    sent = trio.Event()
    server = await serve(nursery, handler)
    peer = await connect(server.port)
    await sent.wait()
    Call(nursery, server.aclose)
    assert await peer.receive() == (TEXT, b"last", True, 0)
    assert await last_words(peer) == [close_payload(1001)]


async def test_server_aclose_during_aclose_keeps_its_code(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.aclose(4000, "mine")

    server = await serve(nursery, handler)
    peer = await connect(server.port)
    await trio.testing.wait_all_tasks_blocked(0.01)
    (said,) = await be_good_clients(nursery, peer)
    await server.aclose()
    assert await said.result() == [close_payload(4000, "mine")]


async def test_server_aclose_closes_connections_at_once(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    peers = [await connect(server.port) for _ in range(5)]
    mute = peers.pop(0)
    said = await be_good_clients(nursery, *peers)
    closing = Call(nursery, server.aclose)
    assert [await call.result() for call in said] == [[close_payload(1001)]] * 4
    assert not closing.is_over
    await mute.aclose()
    await closing.result()


# -- late clients


async def test_server_aclose_client_in_handshake_gets_503(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        raise AssertionError("the handler was called")

    server = await serve(nursery, handler)
    stream = await connect_raw(server, REQUEST[:-2])
    closing = Call(nursery, server.aclose)
    await trio.testing.wait_all_tasks_blocked()
    async with stream:
        await stream.send_all(b"\r\n")
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")
    await closing.result()


async def test_server_aclose_unfinished_handshake_waits_2_seconds(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST[:-2])
    listener = Listener(ours)
    listener.go_on.set()
    server = WebSocketServer(echo, [listener])
    nursery.start_soon(server.run)
    await trio.testing.wait_all_tasks_blocked()
    start = trio.current_time()
    await server.aclose()
    assert trio.current_time() - start == 2


async def test_server_aclose_client_in_tls_handshake_gets_503(nursery: trio.Nursery) -> None:
    server = await serve(nursery, context=tls_contexts()[1])
    raw = await connect_raw(server, b"")
    closing = Call(nursery, server.aclose)
    await trio.testing.wait_all_tasks_blocked()
    stream = trio.SSLStream(
        raw, tls_contexts()[0], server_hostname="localhost", https_compatible=True
    )
    await stream.send_all(REQUEST)
    async with stream:
        head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 503 ")
    await closing.result()


async def test_server_aclose_bad_request_gets_400(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    stream = await connect_raw(server, b"")
    closing = Call(nursery, server.aclose)
    await trio.testing.wait_all_tasks_blocked()
    async with stream:
        await stream.send_all(b"nonsense\r\n\r\n")
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 400 ")
    await closing.result()


@pytest.mark.parametrize("use_tls", [False, True])
async def test_server_aclose_unanswered_request_gets_503(
    nursery: trio.Nursery, use_tls: bool
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        started.set()
        await may_end.wait()

    started, may_end = trio.Event(), trio.Event()
    server = await serve(nursery, handler, tls_contexts()[1] if use_tls else None)
    stream: Stream = await (connect_tls if use_tls else connect_raw)(server, REQUEST)
    await started.wait()
    closing = Call(nursery, server.aclose)
    async with stream:
        head, _ = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 503 ")
    may_end.set()
    await closing.result()


async def accept(request: WebSocketRequest) -> None:
    await request.accept()


async def reject(request: WebSocketRequest) -> None:
    await request.reject(403)


@pytest.mark.parametrize("answer", [accept, reject])
async def test_server_aclose_answered_accept_and_reject_raise(
    nursery: trio.Nursery, answer: Handler
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        started.set()
        await may_answer.wait()
        with pytest.raises(ConnectionClosed, match="the server is being closed") as caught:
            await answer(request)
        reasons.append(caught.value.reason)

    reasons: list[CloseReason | None] = []
    started, may_answer = trio.Event(), trio.Event()
    server = await serve(nursery, handler)
    stream = await connect_raw(server)
    await started.wait()
    closing = Call(nursery, server.aclose)
    async with stream:
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")
    may_answer.set()
    await closing.result()
    assert reasons == [CloseReason(1001, "the server is being closed")]


@pytest.mark.parametrize("answer", [accept, reject])
async def test_server_aclose_late_answer_is_no_error(
    nursery: trio.Nursery, answer: Handler
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        started.set()
        await may_answer.wait()
        await answer(request)

    errors: list[Exception] = []
    started, may_answer = trio.Event(), trio.Event()
    server = await serve(
        nursery, handler, on_handler_error=lambda request, error: errors.append(error)
    )
    stream = await connect_raw(server)
    await started.wait()
    closing = Call(nursery, server.aclose)
    async with stream:
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")
    may_answer.set()
    await closing.result()
    assert not errors


@pytest.mark.parametrize("is_handler_first", [True, False])
async def test_server_aclose_at_accept_closes_or_sends_503(
    nursery: trio.Nursery, is_handler_first: bool
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        started.set()
        await may_answer.wait()
        await echo(request)

    for _ in range(10):
        started, may_answer = trio.Event(), trio.Event()
        server = await serve(nursery, handler)
        stream = await connect_raw(server)
        await started.wait()
        if is_handler_first:
            may_answer.set()
        closing = Call(nursery, server.aclose)
        if not is_handler_first:
            may_answer.set()
        head, rest = await read_head(stream)
        if head.startswith(b"HTTP/1.1 101 "):
            peer = RawPeer(stream, is_client=True, received=rest)
            assert await last_words(peer) == [close_payload(1001)]
        else:
            assert head.startswith(b"HTTP/1.1 503 ")
        await stream.aclose()
        await closing.result()


async def test_server_aclose_at_reject_sends_rejection(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403)

    server = await serve(nursery, handler)
    stream = await connect_raw(server)
    closing = Call(nursery, server.aclose)
    async with stream:
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 403 ")
    await closing.result()


async def test_server_aclose_no_request_ends_at_shutdown_timeout(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving, shutdown_timeout=0.1)
        stream = await connect_raw(server, b"")
        with trio.fail_after(30):
            await server.aclose()
    async with stream:
        assert await receive_to_end(stream) == b""


async def test_server_aclose_late_client_does_not_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    listener = Listener(theirs)
    server = WebSocketServer(echo, [listener], shutdown_timeout=5)
    async with trio.open_nursery() as serving:
        await serving.start(server.run)
        await trio.testing.wait_all_tasks_blocked()
        listener.go_on.set()
        await server.aclose()
    assert trio.current_time() < 6
    assert (await receive_to_end(ours))[:13] in (b"HTTP/1.1 503 ", b"")


async def test_server_aclose_clients_over_limit_are_bounded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = await memory_pair()
    listener = Listener(theirs)
    listener.go_on.set()
    async with trio.open_nursery() as serving:
        server = await serving.start(WebSocketServer(echo, [listener], max_connections=0).run)
        assert (await receive_to_end(ours)).startswith(b"HTTP/1.1 503 ")
        await server.aclose()
    assert trio.current_time() < 4


# -- handlers


async def test_server_aclose_waits_for_handlers(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.wait_closed()
        await may_end.wait()
        ended.set()

    may_end, ended = trio.Event(), trio.Event()
    server = await serve(nursery, handler)
    peer = await connect(server.port)
    closing = Call(nursery, server.aclose)
    await last_words(peer)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not closing.is_over
    may_end.set()
    await closing.result()
    assert ended.is_set()


async def test_server_aclose_cancels_handlers_at_shutdown_timeout(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    cancelled: list[float] = []
    async with trio.open_nursery() as serving:
        server = await serve(serving, noting(cancelled), shutdown_timeout=30)
        said = await be_good_clients(nursery, *[await connect(server.port) for _ in range(2)])
        closing = Call(nursery, server.aclose, 4001, "moving house")
        assert [await call.result() for call in said] == [[close_payload(4001, "moving house")]] * 2
        mock_clock.jump(29)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not cancelled
        mock_clock.jump(1)
        await closing.result()
    assert cancelled == [30, 30]


async def test_server_aclose_cancels_unanswered_at_shutdown_timeout(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving, wait, shutdown_timeout=0.1)
        stream = await connect_raw(server)
        with trio.fail_after(30):
            await server.aclose()
    async with stream:
        assert (await receive_to_end(stream)).startswith(b"HTTP/1.1 503 ")


async def test_server_aclose_mute_client_ends_at_shutdown_timeout(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving, shutdown_timeout=0.1)
        async with (await connect(server.port)).stream:
            with trio.fail_after(30):
                await server.aclose()


async def test_server_aclose_mute_client_ends_at_disconnect_timeout(
    nursery: trio.Nursery,
) -> None:
    server = await serve(nursery, disconnect_timeout=0.1)
    async with (await connect(server.port)).stream:
        with trio.fail_after(30):
            await server.aclose()


async def test_server_aclose_flooding_client_does_not_wait(nursery: trio.Nursery) -> None:
    async def flood(peer: RawPeer) -> None:
        data = peer.frame(TEXT, b"x" * 1000) * 100
        while True:
            await peer.send(data)

    async with trio.open_nursery() as serving:
        server = await serve(serving, shutdown_timeout=0.2)
        peer = await connect(server.port)
        flooding = Call(nursery, flood, peer)
        await trio.sleep(0.05)
        with trio.fail_after(30):
            await server.aclose()
    with pytest.raises(GONE):
        await flooding.result()
    await peer.aclose()


async def test_server_aclose_unread_client_does_not_wait(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        while True:
            await ws.send_message(bytes(2**20))

    async with trio.open_nursery() as serving:
        server = await serve(serving, handler, shutdown_timeout=0.2)
        async with (await connect(server.port)).stream:
            await trio.sleep(0.05)
            with trio.fail_after(30):
                await server.aclose()


async def test_server_aclose_shutdown_timeout_0_sends_code(nursery: trio.Nursery) -> None:
    server = await serve(nursery, shutdown_timeout=0)
    peer = await connect(server.port)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await server.aclose(4001, "moving house")
    async with peer.stream:
        assert await peer.receive() == (CLOSE, close_payload(4001, "moving house"), True, 0)


async def test_server_aclose_in_handler_does_not_wait_for_it(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.get_message()
        await server.aclose()
        closed.set()

    closed = trio.Event()
    server = await serve(nursery, handler, shutdown_timeout=60)
    peer = await connect(server.port)
    await peer.send_frame(TEXT, b"close!")
    assert await last_words(peer) == [close_payload(1001)]
    with trio.fail_after(30):
        await closed.wait()


async def test_server_aclose_in_on_handler_error_does_not_wait(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise LookupError("the user's")

    async def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        await server.aclose()
        closed.set()

    closed = trio.Event()
    server = await serve(nursery, handler, on_handler_error=on_handler_error, shutdown_timeout=60)
    assert await last_words(await connect(server.port)) == [close_payload(1011)]
    with trio.fail_after(30):
        await closed.wait()


# -- cancelled


async def test_server_aclose_cancelled_cancels_handlers(nursery: trio.Nursery) -> None:
    cancelled: list[float] = []
    async with trio.open_nursery() as serving:
        server = await serve(serving, noting(cancelled))
        await be_good_clients(nursery, *[await connect(server.port) for _ in range(2)])
        closing = Call(nursery, server.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert not cancelled
        started = trio.current_time()
        await closing.cancel()
    assert len(cancelled) == 2
    assert all(at - started < 30 for at in cancelled)  # shutdown_timeout is 60 seconds


async def test_server_aclose_cancelled_mute_client_does_not_wait(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving)
        peer = await connect(server.port)
        closing = Call(nursery, server.aclose, 4001)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await closing.cancel()
    assert trio.current_time() - started < 30  # shutdown_timeout is 60 seconds
    async with peer.stream:
        assert await peer.receive() == (CLOSE, close_payload(4001), True, 0)


async def test_server_aclose_cancelled_before_sends_code(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving)
        peer = await connect(server.port)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.aclose(4001, "moving house")
    async with peer.stream:
        assert await peer.receive() == (CLOSE, close_payload(4001, "moving house"), True, 0)


async def test_server_aclose_cancelled_before_run_closes_listeners(nursery: trio.Nursery) -> None:
    listeners = [Listener((await memory_pair())[1]) for _ in range(3)]
    server = WebSocketServer(echo, listeners)
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.aclose()
    assert [listener.is_closed for listener in listeners] == [True] * 3


async def test_server_aclose_run_cancelled_ends_both(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving)
        async with (await connect(server.port)).stream:
            closing = Call(nursery, server.aclose)
            await trio.testing.wait_all_tasks_blocked()
            serving.cancel_scope.cancel()
            with trio.fail_after(30):
                await closing.result()


# -- repeated and early calls


async def test_server_aclose_twice_returns(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    (said,) = await be_good_clients(nursery, await connect(server.port))
    await server.aclose(4001)
    await server.aclose(4002)
    assert await said.result() == [close_payload(4001)]


async def test_server_aclose_in_two_tasks_first_code_counts(
    nursery: trio.Nursery,
) -> None:
    may_end = trio.Event()
    server = await serve(nursery, staying(may_end))
    peer = await connect(server.port)
    first = Call(nursery, server.aclose, 4001)
    await trio.testing.wait_all_tasks_blocked(0.01)
    second = Call(nursery, server.aclose, 4002)
    assert await last_words(peer) == [close_payload(4001)]
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not first.is_over
    assert not second.is_over
    may_end.set()
    await first.result()
    await second.result()


async def test_server_aclose_in_two_tasks_one_cancelled(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    async with (await connect(server.port)).stream:
        first = Call(nursery, server.aclose)
        second = Call(nursery, server.aclose)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await first.cancel()
        with trio.fail_after(30):
            await second.result()


async def test_server_aclose_in_two_tasks_answers_once(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        started.set()
        await may_end.wait()

    started, may_end = trio.Event(), trio.Event()
    server = await serve(nursery, handler, tls_contexts()[1])
    stream = await connect_tls(server, REQUEST)
    await started.wait()
    first = Call(nursery, server.aclose)
    second = Call(nursery, server.aclose)
    await trio.testing.wait_all_tasks_blocked(0.01)
    third = Call(nursery, server.aclose)
    head, rest = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert not rest
    assert await stream.receive_some() == b""
    await stream.aclose()
    may_end.set()
    for call in first, second, third:
        await call.result()


async def test_server_aclose_before_run_prevents_run() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, listeners)
    await server.aclose()
    with pytest.raises(OSError, match=str(server.port)):
        await trio.open_tcp_stream("127.0.0.1", server.port)
    with trio.fail_after(30):
        await server.run()


async def test_server_aclose_before_start_ends(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, listeners)
    await server.aclose()
    async with trio.open_nursery() as serving:
        assert await serving.start(server.run) is server


async def test_server_aclose_during_start_ends(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, listeners)
    with trio.fail_after(30):
        async with trio.open_nursery() as both:
            both.start_soon(server.run)
            both.start_soon(server.aclose)


async def test_server_aclose_without_connections_returns_at_once(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    server = WebSocketServer(echo, [MemoryListener()])
    await nursery.start(server.run)
    await server.aclose()
    assert trio.current_time() == 0


# -- arguments


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_server_aclose_wrong_code_raises(nursery: trio.Nursery, code: int) -> None:
    server = await serve(nursery)
    peer = await connect(server.port)
    with pytest.raises(ValueError, match=str(code)):
        await server.aclose(code)
    await peer.send_frame(TEXT, b"hi")
    assert await peer.receive() == (TEXT, b"hi", True, 0)
    await peer.aclose()
    await (await connect(server.port)).aclose()


async def test_server_aclose_code_not_int_raises(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    wrong: Any = "1001"
    with pytest.raises(TypeError, match="code must be an int"):
        await server.aclose(wrong)
    await (await connect(server.port)).aclose()


@pytest.mark.parametrize("reason", ["\ud800", b"bytes", 5])
async def test_server_aclose_wrong_reason_raises(nursery: trio.Nursery, reason: Any) -> None:
    server = await serve(nursery)
    peer = await connect(server.port)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        await server.aclose(1001, reason)
    await peer.send_frame(TEXT, b"hi")
    assert await peer.receive() == (TEXT, b"hi", True, 0)
    await peer.aclose()
    await (await connect(server.port)).aclose()


WRONG: list[tuple[Any, type[Exception]]] = [
    (-1, ValueError),
    (float("nan"), ValueError),
    ("1", TypeError),
    (None, TypeError),
]


@pytest.mark.parametrize(("value", "error"), WRONG)
async def test_shutdown_timeout_wrong_raises(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="shutdown_timeout"):
        WebSocketServer(echo, [MemoryListener()], shutdown_timeout=value)
    with pytest.raises(error, match="shutdown_timeout"):
        await serve_websocket(echo, "no such host", 0, None, shutdown_timeout=value)


async def test_shutdown_timeout_infinite_waits(nursery: trio.Nursery) -> None:
    server = await serve(nursery, shutdown_timeout=float("inf"))
    (said,) = await be_good_clients(nursery, await connect(server.port))
    await server.aclose()
    assert await said.result() == [close_payload(1001)]


# -- handler_nursery


async def test_server_aclose_with_handler_nursery_waits(
    nursery: trio.Nursery,
) -> None:
    may_end = trio.Event()
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as serving:
            server = await serve(serving, staying(may_end), handler_nursery=handlers)
            peer = await connect(server.port)
            closing = Call(nursery, server.aclose)
            assert await last_words(peer) == [close_payload(1001)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not closing.is_over
        may_end.set()
        await closing.result()
        assert not handlers.child_tasks
        assert not handlers.cancel_scope.cancel_called


async def test_server_aclose_with_handler_nursery_cancels_handlers(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        await trio.sleep_forever()

    async with trio.open_nursery() as handlers:
        server = await serve(nursery, handler, handler_nursery=handlers, shutdown_timeout=0.1)
        await be_good_clients(nursery, await connect(server.port))
        await server.aclose()
    assert not handlers.cancel_scope.cancel_called


async def test_server_aclose_after_cancel_with_handler_nursery(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as serving:
            server = await serve(serving, handler_nursery=handlers)
            (said,) = await be_good_clients(nursery, await connect(server.port))
            serving.cancel_scope.cancel()
        await server.aclose(4001)
    assert await said.result() == [close_payload(4001)]


@pytest.mark.parametrize("max_connections", [0, 1])
async def test_server_aclose_handler_nursery_closed_returns(
    nursery: trio.Nursery, max_connections: int
) -> None:
    async with trio.open_nursery() as closed:
        pass
    listener = Listener((await memory_pair())[1])
    listener.go_on.set()
    server = WebSocketServer(
        echo, [listener], handler_nursery=closed, max_connections=max_connections
    )
    with pytest.raises(RuntimeError, match="closed"):
        await server.run()
    with trio.fail_after(30):
        await server.aclose()


# -- nothing is left


async def test_server_aclose_leaves_no_task(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        server = await serve(serving)
        said = await be_good_clients(nursery, *[await connect(server.port) for _ in range(3)])
        half = await connect_raw(server, REQUEST[:-2])
        closing = Call(nursery, server.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await half.send_all(b"\r\n")
        assert (await receive_to_end(half)).startswith(b"HTTP/1.1 503 ")
        await half.aclose()
        await closing.result()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not serving.child_tasks
    assert [await call.result() for call in said] == [[close_payload(1001)]] * 3


async def test_server_aclose_frees_the_port(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    await be_good_clients(nursery, await connect(server.port))
    await server.aclose()
    again = await trio.open_tcp_listeners(server.port, host="127.0.0.1")
    for listener in again:
        await listener.aclose()
