"""Exceptions that handlers raise, and `on_handler_error`."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import sys
from typing import Any, Awaitable, Callable

import pytest
import trio
import trio.testing

from support.frames import TEXT, close_payload
from support.listeners import MemoryListener
from support.peer import REQUEST, RawPeer
from support.servers import (
    Handler,
    ask,
    be_good,
    connect,
    echo,
    last_words,
    serve_while,
    start,
)
from support.streams import reset
from trio_websocket import (
    ConnectionClosed,
    ConnectionFailed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    serve_websocket,
)
from trio_websocket._io.groups import flatten_group

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

FAILURE = LookupError("the user's")


def failing(error: BaseException = FAILURE) -> Handler:
    """Return a handler that accepts and raises."""

    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise error

    return handler


class Errors:
    """The errors that on_handler_error gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[WebSocketRequest, Exception]] = []
        self.called = trio.Event()

    def __call__(self, request: WebSocketRequest, error: Exception) -> None:
        self.calls.append((request, error))
        self.called.set()

    @property
    def errors(self) -> list[Exception]:
        return [error for _, error in self.calls]


async def failing_port(nursery: trio.Nursery, handler: Handler, errors: Any, **options: Any) -> int:
    """Serve with a handler that raises, except that ``/echo`` still works."""

    async def either(request: WebSocketRequest) -> None:
        await (echo if request.path == "/echo" else handler)(request)

    return await start(nursery, either, on_handler_error=errors, **options)


async def assert_echoes(port: int) -> None:
    """Check that the server continues."""
    with trio.fail_after(30):
        peer = await connect(port, request=REQUEST.replace(b"/", b"/echo", 1))
        await peer.send_frame(TEXT, b"hi")
        assert await peer.receive() == (TEXT, b"hi", True, 0)
        await peer.send_close(1000)
        assert await last_words(peer) == [close_payload(1000)]


# -- without on_handler_error


async def test_handler_raises_without_on_handler_error_propagates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(LookupError) as caught:
        await serve_while(failing(), be_good)
    assert caught.value is FAILURE
    assert not caplog.records


async def test_handler_raises_closes_others_with_1001() -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        if request.path == "/fail":
            raise FAILURE
        await ws.get_message()

    async def be_clients(port: int) -> None:
        other = await connect(port)
        await be_good(port, REQUEST.replace(b"/", b"/fail", 1))
        payloads.extend(await last_words(other))

    payloads: list[bytes] = []
    with pytest.raises(LookupError):
        await serve_while(handler, be_clients)
    assert payloads == [close_payload(1001)]


async def test_on_handler_error_may_be_none() -> None:
    with pytest.raises(LookupError):
        await serve_while(failing(), be_good, on_handler_error=None)


# -- with on_handler_error


async def test_on_handler_error_gets_request_and_exception(
    nursery: trio.Nursery,
) -> None:
    errors = Errors()
    port = await failing_port(nursery, failing(), errors)
    await be_good(port, REQUEST.replace(b"/", b"/fail?really", 1))
    await assert_echoes(port)
    ((request, error),) = errors.calls
    assert request.path == "/fail?really"
    assert error is FAILURE


async def test_on_handler_error_may_be_async(nursery: trio.Nursery) -> None:
    async def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        errors.append((request.path, error))
        called.set()

    errors: list[tuple[str, Exception]] = []
    called = trio.Event()
    port = await failing_port(nursery, failing(), on_handler_error)
    await be_good(port)
    await called.wait()
    assert errors == [("/", FAILURE)]
    await assert_echoes(port)


async def test_on_handler_error_may_be_partial_of_async(
    nursery: trio.Nursery,
) -> None:
    async def on_handler_error(called: trio.Event, request: object, error: object) -> None:
        await trio.lowlevel.checkpoint()
        called.set()

    called = trio.Event()
    port = await failing_port(nursery, failing(), functools.partial(on_handler_error, called))
    await be_good(port)
    await called.wait()


async def test_on_handler_error_result_is_ignored(nursery: trio.Nursery) -> None:
    port = await failing_port(nursery, failing(), lambda request, error: "something")
    await be_good(port)
    await assert_echoes(port)


async def test_on_handler_error_slow_does_not_block_others(nursery: trio.Nursery) -> None:
    async def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        await trio.sleep_forever()

    port = await failing_port(nursery, failing(), on_handler_error)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)


async def test_on_handler_error_logs_traceback(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    port = await failing_port(nursery, failing(), Errors())
    await be_good(port, REQUEST.replace(b"/", b"/chat", 1))
    await assert_echoes(port)
    (record,) = caplog.records
    assert record.name == "trio-websocket"
    assert record.levelno == logging.ERROR
    assert "/chat" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is FAILURE
    assert "raise error" in caplog.text
    assert "LookupError: the user's" in caplog.text


async def test_on_handler_error_is_called_after_logging(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        logged.append(len(caplog.records))

    logged: list[int] = []
    port = await failing_port(nursery, failing(), on_handler_error)
    await be_good(port)
    await assert_echoes(port)
    assert logged == [1]


async def test_on_handler_error_closes_with_1011(nursery: trio.Nursery) -> None:
    port = await failing_port(nursery, failing(), Errors())
    assert await be_good(port) == [close_payload(1011)]


async def test_on_handler_error_before_accept_sends_500(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        raise FAILURE

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    assert (await ask(port)).startswith(b"HTTP/1.1 500 ")
    await assert_echoes(port)
    assert errors.errors == [FAILURE]


async def test_on_handler_error_after_reject_keeps_rejection(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403)
        raise FAILURE

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    assert (await ask(port)).startswith(b"HTTP/1.1 403 ")
    await assert_echoes(port)
    assert errors.errors == [FAILURE]


async def test_on_handler_error_after_aclose_keeps_code(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.aclose(4001, "enough")
        raise FAILURE

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    assert await be_good(port) == [close_payload(4001, "enough")]
    await assert_echoes(port)
    assert errors.errors == [FAILURE]


async def test_on_handler_error_client_gone_is_called(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.wait_closed()
        raise FAILURE

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    reset((await connect(port)).stream)
    await assert_echoes(port)
    await errors.called.wait()
    assert errors.errors == [FAILURE]


async def test_on_handler_error_many_errors_server_goes_on(nursery: trio.Nursery) -> None:
    errors = Errors()
    port = await failing_port(nursery, failing(), errors)
    for _ in range(20):
        assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    assert errors.errors == [FAILURE] * 20


async def test_on_handler_error_leaves_other_connections_open(nursery: trio.Nursery) -> None:
    port = await failing_port(nursery, failing(), Errors())
    peer = await connect(port, request=REQUEST.replace(b"/", b"/echo", 1))
    await be_good(port)
    await peer.send_frame(TEXT, b"hi")
    assert await peer.receive() == (TEXT, b"hi", True, 0)
    await peer.aclose()


async def test_on_handler_error_with_handler_nursery_ends_one(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as handlers:
        errors = Errors()
        port = await failing_port(nursery, failing(), errors, handler_nursery=handlers)
        assert await be_good(port) == [close_payload(1011)]
        await assert_echoes(port)
        handlers.cancel_scope.cancel()
    assert errors.errors == [FAILURE]


async def test_websocket_server_takes_on_handler_error(nursery: trio.Nursery) -> None:
    errors = Errors()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(failing(), listeners, on_handler_error=errors)
    await nursery.start(server.run)
    await be_good(server.port)
    await trio.testing.wait_all_tasks_blocked()
    assert errors.errors == [FAILURE]


async def test_on_handler_error_gets_exception_group_once(nursery: trio.Nursery) -> None:
    group = ExceptionGroup("several", [LookupError("1"), KeyError("2")])
    errors = Errors()
    port = await failing_port(nursery, failing(group), errors)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    assert errors.errors == [group]


async def test_on_handler_error_gets_connection_failed(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        async with trio.open_nursery() as own:
            await connect_websocket_url(own, f"ws://127.0.0.1:{closed.port}/")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    closed = WebSocketServer(echo, [listener])
    await listener.aclose()
    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    (error,) = errors.errors
    assert [type(leaf) for leaf in flatten_group(error)] == [ConnectionFailed]


async def test_on_handler_error_gets_error_from_connection_closed(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            await ws.get_message()
        except ConnectionClosed as exc:
            raise FAILURE from exc

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    await (await connect(port)).aclose()
    await errors.called.wait()
    assert errors.errors == [FAILURE]


def handle(request: WebSocketRequest) -> None:
    """Return None instead of an awaitable, as a handler must not do."""


@pytest.mark.parametrize(
    ("handler", "name"), [(handle, "handle"), (functools.partial(handle), "functools.partial(")]
)
async def test_on_handler_error_handler_not_async_names_it(
    nursery: trio.Nursery, handler: Any, name: str
) -> None:
    errors = Errors()
    port = await start(nursery, handler, on_handler_error=errors)
    assert b" 500 " in await ask(port)
    (error,) = errors.errors
    assert isinstance(error, TypeError)
    assert str(error).startswith(f"the handler {name}")
    assert str(error).endswith("async function: it returned None, which can't be awaited")


async def test_handler_not_async_raises() -> None:
    handler: Any = handle
    with pytest.raises(TypeError, match=r"^the handler handle must be an async function"):
        await serve_while(handler, ask)


@pytest.mark.parametrize(
    "handler", [lambda r: echo(request=r), functools.partial(echo)], ids=["lambda", "partial"]
)
async def test_handler_may_be_callable_returning_awaitable(
    nursery: trio.Nursery, handler: Handler
) -> None:
    await assert_echoes(await start(nursery, handler))


# -- on_handler_error that fails


async def raise_async(request: WebSocketRequest, error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("cannot report")


def raise_plain(request: WebSocketRequest, error: Exception) -> None:
    raise ValueError("cannot report")


@pytest.mark.parametrize("on_handler_error", [raise_plain, raise_async])
async def test_on_handler_error_raises_is_logged(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    on_handler_error: Callable[[WebSocketRequest, Exception], object],
) -> None:
    port = await failing_port(nursery, failing(), on_handler_error)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    first, second = caplog.records
    assert first.exc_info is not None
    assert first.exc_info[1] is FAILURE
    assert second.levelno == logging.ERROR
    assert second.exc_info is not None
    assert isinstance(second.exc_info[1], ValueError)
    assert "cannot report" in caplog.text


async def test_on_handler_error_wrong_signature_is_logged(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    port = await failing_port(nursery, failing(), lambda: None)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    assert "TypeError" in caplog.text


async def test_on_handler_error_exits_ends_server() -> None:
    def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        await serve_while(failing(), be_good, on_handler_error=on_handler_error)
    assert caught.value.code == 3


@pytest.mark.parametrize("wrong", ["log", True, b""])
async def test_on_handler_error_not_callable_raises_at_call(wrong: Any) -> None:
    with pytest.raises(TypeError, match="on_handler_error"):
        WebSocketServer(echo, [MemoryListener()], on_handler_error=wrong)
    with trio.fail_after(30), pytest.raises(TypeError, match="on_handler_error"):
        await serve_websocket(echo, "127.0.0.1", 0, None, on_handler_error=wrong)


# -- exceptions that are not errors


async def never_return(ws: WebSocketConnection) -> None:
    while True:
        await ws.get_message()


async def send(ws: WebSocketConnection) -> None:
    while True:
        await ws.send_message(bytes(1000))
        await trio.sleep(0.001)


async def ping(ws: WebSocketConnection) -> None:
    while True:
        await ws.ping()


async def pong(ws: WebSocketConnection) -> None:
    while True:
        await ws.pong()
        await trio.sleep(0.001)


async def close(ws: WebSocketConnection) -> None:
    await ws.aclose()


async def in_two_tasks(ws: WebSocketConnection) -> None:
    async with trio.open_nursery() as two:
        two.start_soon(never_return, ws)
        two.start_soon(ping, ws)


async def in_nested_groups(ws: WebSocketConnection) -> None:
    try:
        await in_two_tasks(ws)
    except BaseException as exc:
        raise BaseExceptionGroup("outer", [exc, ConnectionClosed(None)]) from None


CALLS = [never_return, send, ping, pong, close, in_two_tasks, in_nested_groups]


async def reset_peer(peer: RawPeer) -> None:
    reset(peer.stream)


async def leave(peer: RawPeer) -> None:
    await peer.aclose()


async def close_peer(peer: RawPeer) -> None:
    await peer.send_close(1001)
    await last_words(peer)


async def break_rules(peer: RawPeer) -> None:
    await peer.send(b"\xff\xff")
    await last_words(peer)


@pytest.mark.parametrize("end", [reset_peer, leave, close_peer, break_rules])
@pytest.mark.parametrize("call", CALLS)
async def test_on_handler_error_connection_closed_is_no_error(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    call: Callable[[WebSocketConnection], Awaitable[None]],
    end: Callable[[RawPeer], Awaitable[None]],
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            await call(ws)
        finally:
            handled.set()

    handled = trio.Event()
    errors = Errors()
    port = await failing_port(nursery, handler, errors, disconnect_timeout=0.05)
    with contextlib.suppress(trio.BrokenResourceError):
        await end(await connect(port))
    await handled.wait()
    await assert_echoes(port)
    assert not errors.calls
    assert not caplog.records


async def test_on_handler_error_group_without_connection_closed(
    nursery: trio.Nursery,
) -> None:
    group = ExceptionGroup("several", [ConnectionClosed(None), FAILURE])
    errors = Errors()
    port = await failing_port(nursery, failing(group), errors)
    assert await be_good(port) == [close_payload(1011)]
    await assert_echoes(port)
    (error,) = errors.errors
    assert flatten_group(error) == [FAILURE]


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]
)
async def test_on_handler_error_failed_handshake_is_no_error(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    errors = Errors()
    port = await failing_port(nursery, failing(), errors)
    assert (await ask(port, data)).startswith(b"HTTP/1.1 4")
    await assert_echoes(port)
    assert not errors.calls
    assert not caplog.records


async def test_on_handler_error_unanswered_request_is_no_error(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        pass

    errors = Errors()
    port = await failing_port(nursery, handler, errors)
    assert (await ask(port)).startswith(b"HTTP/1.1 500 ")
    assert not errors.calls


# -- errors that on_handler_error does not get


def test_handler_ctrl_c_raises() -> None:
    async def handler(request: WebSocketRequest) -> None:
        signal.raise_signal(signal.SIGINT)

    errors = Errors()
    with pytest.raises(KeyboardInterrupt):
        trio.run(functools.partial(serve_while, handler, ask, on_handler_error=errors))
    assert not errors.calls


async def test_handler_exits_raises() -> None:
    errors = Errors()
    with pytest.raises(SystemExit):
        await serve_while(failing(SystemExit()), be_good, on_handler_error=errors)
    assert not errors.calls


async def test_handler_group_with_exit_raises_and_reports() -> None:
    group = BaseExceptionGroup("several", [SystemExit(3), FAILURE])
    errors = Errors()
    with pytest.raises(BaseException) as caught:  # noqa: PT011 # alone, or in a group
        await serve_while(failing(group), be_good, on_handler_error=errors)
    assert [type(leaf) for leaf in flatten_group(caught.value)] == [SystemExit]
    assert [leaf for error in errors.errors for leaf in flatten_group(error)] == [FAILURE]


async def test_on_handler_error_server_cancelled_is_not_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = Errors()
    async with trio.open_nursery() as nursery:
        port = await failing_port(nursery, failing(), errors)
        peer = await connect(port, request=REQUEST.replace(b"/", b"/echo", 1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await last_words(peer) == [close_payload(1001)]
    assert not errors.calls
    assert not caplog.records


async def test_on_handler_error_server_cancelled_is_cancelled() -> None:
    async def on_handler_error(request: WebSocketRequest, error: Exception) -> None:
        called.set()
        await trio.sleep_forever()

    called = trio.Event()
    async with trio.open_nursery() as nursery:
        port = await failing_port(nursery, failing(), on_handler_error)
        await be_good(port)
        await called.wait()
        nursery.cancel_scope.cancel()


async def clean_up_alone(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        await ws.get_message()
    finally:
        raise FAILURE


async def clean_up_in_a_nursery(request: WebSocketRequest) -> None:
    async with trio.open_nursery() as two:
        two.start_soon(clean_up_alone, request)
        await trio.sleep_forever()


@pytest.mark.parametrize("handler", [clean_up_alone, clean_up_in_a_nursery])
async def test_on_handler_error_raised_while_cancelled_is_called(
    handler: Handler,
) -> None:
    errors = Errors()
    async with trio.open_nursery() as nursery:
        port = await failing_port(nursery, handler, errors)
        peer = await connect(port)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await last_words(peer)
    assert [leaf for error in errors.errors for leaf in flatten_group(error)] == [FAILURE]


async def test_on_handler_error_raised_during_aclose_is_called(
    nursery: trio.Nursery,
) -> None:
    errors = Errors()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(clean_up_alone, listeners, on_handler_error=errors)
    await nursery.start(server.run)
    async with trio.open_nursery() as clients:
        clients.start_soon(last_words, await connect(server.port))
        await server.aclose()
    assert errors.errors == [FAILURE]
