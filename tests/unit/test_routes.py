"""`stream=`: a client over any stream, with TLS or without, and who closes the stream."""

from __future__ import annotations

import errno
import functools
import ssl
from typing import TYPE_CHECKING, Any, Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from support.listeners import MemoryListener
from support.peer import read_head
from support.servers import echo
from support.streams import WrappedStream, memory_pair, over_tls, tls_contexts
from trio_websocket import (
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream

WS, WSS = "ws://example.org/chat", "wss://example.org/chat"
each_scheme = pytest.mark.parametrize("url", [WS, WSS])

Script = Callable[["Stream"], Awaitable[object]]


class WatchedStream(WrappedStream):
    """A stream that notes that it was closed."""

    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


async def peer(nursery: trio.Nursery, script: Script) -> WatchedStream:
    """Return our end of a pair of streams. The script runs on the other end."""
    ours, theirs = await memory_pair()
    nursery.start_soon(script, theirs)
    return WatchedStream(ours)


async def server(
    nursery: trio.Nursery,
    url: str,
    handler: Callable[[WebSocketRequest], Awaitable[object]] = echo,
) -> WatchedStream:
    """Return a stream to a server of the library."""
    ours, theirs = await memory_pair()
    if url.startswith("wss:"):
        theirs = trio.SSLStream(theirs, tls_contexts()[1], server_side=True, https_compatible=True)
    listener = MemoryListener(theirs)
    await nursery.start(WebSocketServer(handler, [listener]).run)
    return WatchedStream(ours)


def context(url: str) -> ssl.SSLContext | None:
    return tls_contexts()[0] if url.startswith("wss:") else None


async def check_echo(ws: WebSocketConnection) -> None:
    await ws.send_message("hello")
    assert await ws.get_message() == "hello"


# -- what works


@each_scheme
async def test_open_websocket_url_over_open_stream_carries_messages(
    nursery: trio.Nursery, url: str
) -> None:
    stream = await server(nursery, url)
    async with open_websocket_url(url, context(url), stream=stream) as ws:
        await check_echo(ws)
        await ws.send_message(b"x" * 2**17)
        assert await ws.get_message() == b"x" * 2**17
        assert ws.url == url
        assert not stream.is_closed
    assert stream.is_closed


@each_scheme
async def test_open_websocket_url_over_stream_function_carries_messages(
    nursery: trio.Nursery, url: str
) -> None:
    async def open_stream(host: str, port: int) -> Stream:
        calls.append((host, port))
        return stream

    calls: list[tuple[str, int]] = []
    stream = await server(nursery, url)
    opening = open_websocket_url(url, context(url), stream=open_stream)
    assert calls == []
    async with opening as ws:
        await check_echo(ws)
    assert calls == [("example.org", 443 if url == WSS else 80)]
    assert stream.is_closed


@each_scheme
async def test_connect_websocket_over_open_stream_carries_messages(
    nursery: trio.Nursery, url: str
) -> None:
    stream = await server(nursery, url)
    use_ssl = context(url) or False
    ws = await connect_websocket(nursery, "example.org", 1, "/", use_ssl=use_ssl, stream=stream)
    async with ws:
        await check_echo(ws)
    assert stream.is_closed


async def test_open_websocket_over_stream_that_is_not_trios_works(nursery: trio.Nursery) -> None:
    class OwnStream:  # not a trio.abc.Stream
        def __init__(self, stream: Stream) -> None:
            self.send_all = stream.send_all
            self.receive_some = stream.receive_some
            self.aclose = stream.aclose

    stream: Any = OwnStream(await server(nursery, WS))
    async with open_websocket("example.org", 80, "/", use_ssl=False, stream=stream) as ws:
        await check_echo(ws)


@each_scheme
async def test_block_over_stream_that_raises_raises_the_same(
    nursery: trio.Nursery, url: str
) -> None:
    stream = await server(nursery, url)
    error = LookupError("of the block")
    with pytest.raises(LookupError) as caught:
        async with open_websocket_url(url, context(url), stream=stream):
            raise error
    assert caught.value is error
    assert stream.is_closed


@each_scheme
async def test_block_over_stream_cancelled_closes_stream(nursery: trio.Nursery, url: str) -> None:
    stream = await server(nursery, url)
    with trio.CancelScope() as scope:
        async with open_websocket_url(url, context(url), stream=stream):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert stream.is_closed


# -- the stream is closed


async def reject(stream: Stream) -> None:
    await read_head(stream)
    await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


async def speak_ftp(stream: Stream) -> None:
    await stream.send_all(b"220 ready\r\n\r\n")


async def leave(stream: Stream) -> None:
    await stream.aclose()


async def leave_after_head(stream: Stream) -> None:
    await stream.receive_some()
    await stream.aclose()


async def keep_silent(stream: Stream) -> None:
    pass


FAILURES: list[tuple[str, Script, type[Exception], str]] = [
    (WS, reject, ConnectionRejected, "403"),
    (WS, speak_ftp, HandshakeError, "HTTP"),
    (WS, leave, ConnectionFailed, r"the server closed the connection .*expect wss:\?"),
    (WSS, speak_ftp, ConnectionFailed, r"no TLS with example.org, port 443: .*expect ws:\?"),
    (WSS, leave, ConnectionFailed, "no TLS with example.org, port 443: "),
    (
        WSS,
        leave_after_head,
        ConnectionFailed,
        "^no TLS with example.org, port 443: the peer closed the connection without ending TLS$",
    ),
]


@pytest.mark.parametrize(("url", "script", "error", "text"), FAILURES)
async def test_open_websocket_url_over_stream_failing_closes_stream(
    nursery: trio.Nursery, url: str, script: Script, error: type[Exception], text: str
) -> None:
    stream = await peer(nursery, script)
    with pytest.raises(error, match=text):
        async with open_websocket_url(url, context(url), stream=stream):
            pytest.fail("it has opened")
    assert stream.is_closed


async def test_open_websocket_url_wss_untrusted_certificate_closes_stream(
    nursery: trio.Nursery,
) -> None:
    stream = await server(nursery, WSS)
    with pytest.raises(ConnectionFailed, match="certificate verify failed") as caught:
        async with open_websocket_url(WSS, stream=stream):
            pytest.fail("it has opened")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert stream.is_closed


@each_scheme
async def test_open_websocket_url_over_failing_stream_is_connection_failed(
    nursery: trio.Nursery, url: str
) -> None:
    class FailingStream(WatchedStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise error

    error = LookupError("of the stream")
    stream = FailingStream(await peer(nursery, keep_silent))
    with pytest.raises(ConnectionFailed, match="of the stream") as caught:
        async with open_websocket_url(url, context(url), stream=stream):
            pytest.fail("it has opened")
    assert caught.value.__cause__ is error
    assert stream.is_closed


@each_scheme
@pytest.mark.parametrize("is_function", [False, True])
async def test_open_websocket_url_over_silent_stream_times_out(
    nursery: trio.Nursery, autojump_clock: MockClock, url: str, is_function: bool
) -> None:
    async def open_stream(host: str, port: int) -> Stream:
        await trio.sleep(3)
        return stream

    stream = await peer(nursery, keep_silent)
    start = trio.current_time()
    given = open_stream if is_function else stream
    with pytest.raises(ConnectionTimeout, match=r"^no connection to example\.org within 5 s$"):
        async with open_websocket_url(url, context(url), stream=given, connect_timeout=5):
            pytest.fail("it has opened")
    assert trio.current_time() - start == 5
    assert stream.is_closed


@each_scheme
@pytest.mark.parametrize("is_late", [False, True])
async def test_connect_websocket_url_over_stream_cancelled_closes_stream(
    nursery: trio.Nursery, url: str, is_late: bool
) -> None:
    stream = await peer(nursery, keep_silent)
    with trio.CancelScope() as scope:
        if is_late:
            nursery.start_soon(cancel_when_blocked, scope)
        else:
            scope.cancel()
        await connect_websocket_url(nursery, url, context(url), stream=stream)
    assert scope.cancelled_caught
    assert stream.is_closed


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


# -- wrong arguments


WRONG_CALLS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"colour": 1}, TypeError),
    ({"max_fragments": -1}, ValueError),
    ({"extra_headers": [("na me", "value")]}, ValueError),
    ({"extra_headers": 7}, TypeError),
]


@pytest.mark.parametrize(("wrong", "error"), WRONG_CALLS)
async def test_connect_websocket_wrong_argument_closes_stream(
    nursery: trio.Nursery, wrong: Any, error: type[Exception]
) -> None:
    calls: list[Callable[[Stream], Awaitable[object]]] = [
        lambda s: connect_websocket(nursery, "h", 1, "/", use_ssl=False, stream=s, **wrong),
        lambda s: connect_websocket_url(nursery, WS, stream=s, **wrong),
    ]
    for call in calls:
        stream = await peer(nursery, keep_silent)
        with pytest.raises(error):
            await call(stream)
        assert stream.is_closed


async def test_connect_websocket_wrong_argument_calls_no_stream_function(
    nursery: trio.Nursery,
) -> None:
    async def open_stream(host: str, port: int) -> Stream:
        pytest.fail("it was called")

    with pytest.raises(ValueError, match="URL"):
        await connect_websocket_url(nursery, "ftp://example.org", stream=open_stream)
    with pytest.raises(ValueError, match="header"):
        async with open_websocket_url(WS, stream=open_stream, extra_headers=[("na me", "")]):
            pytest.fail("it has opened")


async def test_open_websocket_wrong_argument_leaves_stream_to_its_owner(
    nursery: trio.Nursery,
) -> None:
    stream = await peer(nursery, keep_silent)
    with pytest.raises(ValueError, match="max_fragments"):
        open_websocket_url(WS, stream=stream, max_fragments=-1)
    assert not stream.is_closed
    opening = open_websocket_url(WS, stream=stream, extra_headers=[("na me", "value")])
    assert not stream.is_closed
    with pytest.raises(ValueError, match="header"):
        async with opening:
            pytest.fail("it has opened")
    assert stream.is_closed


async def test_open_websocket_url_context_that_fails_closes_stream(nursery: trio.Nursery) -> None:
    class FailingContext(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            raise ValueError("of the context")

    stream = await peer(nursery, keep_silent)
    with pytest.raises(ValueError, match="of the context"):
        async with open_websocket_url(WSS, FailingContext(ssl.PROTOCOL_TLS_CLIENT), stream=stream):
            pytest.fail("it has opened")
    assert stream.is_closed


@pytest.mark.parametrize("name", ["use_ssl", "proxy_ssl_context"])
def test_open_websocket_context_for_servers_raises(name: str) -> None:
    arguments: Any = {"use_ssl": True, name: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}
    text = f"{name} must be a context for clients, not for servers"
    with pytest.raises(ValueError, match=text):
        open_websocket("example.org", 443, "/", **arguments)


def test_open_websocket_url_context_for_servers_raises() -> None:
    text = "^ssl_context must be a context for clients, not for servers: use ssl.create_default_con"
    with pytest.raises(ValueError, match=text):
        open_websocket_url(WSS, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize("route", ["stream", "unix_socket"])
def test_open_websocket_url_local_address_without_tcp_raises(route: str) -> None:
    given: Any = {route: memory_pair if route == "stream" else "chat.sock"}
    text = f"local_address needs a TCP connection: don't pass it with {route}"
    with pytest.raises(ValueError, match=text):
        open_websocket_url(WS, local_address="127.0.0.1", **given)


def test_open_websocket_url_local_address_with_proxy_is_accepted() -> None:
    open_websocket_url(WS, local_address="127.0.0.1", proxy="env")


# -- stream functions that fail


@each_scheme
async def test_open_websocket_url_os_error_of_stream_function_is_connection_failed(
    url: str,
) -> None:
    async def open_stream(host: str, port: int) -> Stream:
        raise error

    error = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    port = 443 if url == WSS else 80
    text = f"^can't connect to example.org, port {port}: Connection refused$"
    with pytest.raises(ConnectionFailed, match=text) as caught:
        async with open_websocket_url(url, stream=open_stream):
            pytest.fail("it has opened")
    assert caught.value.__cause__ is error
    assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize(
    "error",
    [LookupError(), trio.BrokenResourceError(), ConnectionRejected(403, (), b""), SystemExit()],
)
async def test_open_websocket_url_other_error_of_stream_function_comes_out(
    error: BaseException,
) -> None:
    async def open_stream(host: str, port: int) -> Stream:
        raise error

    with pytest.raises(type(error)) as caught:
        async with open_websocket_url(WS, stream=open_stream):
            pytest.fail("it has opened")
    assert caught.value is error
    assert caught.value.__cause__ is None


async def test_open_websocket_url_stream_function_cancelled() -> None:
    async def open_stream(host: str, port: int) -> Stream:
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    with trio.CancelScope() as scope:
        async with open_websocket_url(WS, stream=open_stream):
            pytest.fail("it has opened")
    assert scope.cancelled_caught


async def test_open_websocket_url_stream_function_that_is_not_async_raises() -> None:
    def not_async(host: str, port: int) -> str:
        return "not a stream"

    async def returning_none(host: str, port: int) -> None:
        pass

    wrong: list[tuple[Any, str]] = [
        (not_async, "not_async returned 'not a stream'"),
        (returning_none, "returning_none returned None"),
        (functools.partial(returning_none), r"functools.partial.* returned None"),
    ]
    for function, text in wrong:
        with pytest.raises(TypeError, match=f"stream must be an open stream, or .*{text}"):
            async with open_websocket_url(WS, stream=function):
                pytest.fail("it has opened")


def test_open_websocket_url_stream_class_is_called() -> None:
    # A class has the methods of a stream, but is not an open one.
    open_websocket_url(WS, stream=WrappedStream)  # type: ignore[arg-type] # what is tested


# -- facts about TLS


async def test_ssl_object_without_tls_is_none(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        found.append(request.ssl_object)
        ws = await request.accept()
        found.append(ws.ssl_object)

    found: list[object] = []
    stream = await server(nursery, WS, handler)
    async with open_websocket_url(WS, stream=stream) as ws:
        await ws.wait_closed()
    assert ws.ssl_object is None
    assert found == [None, None]


async def test_ssl_object_over_memory_is_the_connections(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        assert request.ssl_object is ws.ssl_object
        found.append(ws.ssl_object)

    found: list[ssl.SSLObject | None] = []
    stream = await server(nursery, WSS, handler)
    async with open_websocket_url(WSS, tls_contexts()[0], stream=stream) as ws:
        while_open = ws.ssl_object
        await ws.wait_closed()
    assert isinstance(while_open, ssl.SSLObject)
    assert ws.ssl_object is while_open
    assert not while_open.server_side
    assert ("DNS", "example.org") in (while_open.getpeercert() or {})["subjectAltName"]
    (theirs,) = found
    assert theirs is not None
    assert theirs.server_side
    assert theirs.cipher() == while_open.cipher()


async def test_ssl_object_with_tls_in_tls_is_the_inner_one(nursery: trio.Nursery) -> None:
    ours, theirs = await over_tls(*await memory_pair())
    assert isinstance(ours, trio.SSLStream)
    inner = trio.SSLStream(theirs, tls_contexts()[1], server_side=True, https_compatible=True)
    await nursery.start(WebSocketServer(echo, [MemoryListener(inner)]).run)
    async with open_websocket_url(WSS, tls_contexts()[0], stream=ours) as ws:
        await check_echo(ws)
    assert isinstance(ws.ssl_object, ssl.SSLObject)
    assert ws.ssl_object.getpeercert()
    assert ws.ssl_object is not ours.pending.__self__


async def test_ssl_object_of_given_tls_stream_is_its_own(nursery: trio.Nursery) -> None:
    ours, theirs = await over_tls(*await memory_pair())
    nursery.start_soon(WebSocketServer(echo, [MemoryListener(theirs)]).run)
    ws = await wrap_client_stream(nursery, ours, "example.org", "/")
    assert isinstance(ws.ssl_object, ssl.SSLObject)
    assert ws.ssl_object.getpeercert()
    await ws.aclose()


async def test_ssl_object_can_be_overwritten(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        any_request: Any = request
        any_request.ssl_object = "the application's"
        assert any_request.ssl_object == "the application's"
        await echo(request)

    stream = await server(nursery, WSS, handler)
    async with open_websocket_url(WSS, tls_contexts()[0], stream=stream) as ws:
        any_ws: Any = ws
        any_ws.ssl_object = "the application's"
        assert any_ws.ssl_object == "the application's"
        await check_echo(ws)
