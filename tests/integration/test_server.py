"""Serving: the server, requests, handlers, time-outs."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.connections import open_server
from support.frames import (
    BINARY,
    CLOSE,
    TEXT,
    close_payload,
    frame,
)
from support.handshakes import (
    with_header,
)
from support.listeners import MemoryListener
from support.peer import (
    REQUEST,
    RawPeer,
    codes,
    frames_to_end,
    read_head,
)
from support.servers import (
    Handler,
    ask,
    assert_serves,
    be_good,
    connect,
    echo,
    last_words,
    receive_to_end,
    reject,
    serve_while,
    start,
    url,
    wait,
)
from support.streams import memory_pair, reset
from trio_websocket import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    Endpoint,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._io.groups import flatten_group

if TYPE_CHECKING:
    from trio.abc import Stream

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

if TYPE_CHECKING:
    from trio.abc import Stream


OFFER = REQUEST.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\n")


# -- the server


async def test_server_started_has_port_and_listeners(nursery: trio.Nursery) -> None:
    server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
    assert isinstance(server, WebSocketServer)
    assert server.listeners == [Endpoint("127.0.0.1", server.port, False)]
    await assert_serves(server.port)


async def test_websocket_server_uses_listeners_of_the_caller(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, listeners)
    port = server.port
    assert await nursery.start(server.run) is server
    await assert_serves(port)


async def test_websocket_server_serves_on_all_listeners(nursery: trio.Nursery) -> None:
    listeners = [
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
    ]
    server: WebSocketServer = await nursery.start(WebSocketServer(echo, listeners).run)
    for endpoint in server.listeners:
        assert isinstance(endpoint, Endpoint)
        await assert_serves(endpoint.port)


async def test_port_several_listeners_raises(nursery: trio.Nursery) -> None:
    listeners = [
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
        *await trio.open_tcp_listeners(0, host="127.0.0.1"),
    ]
    server: WebSocketServer = await nursery.start(WebSocketServer(echo, listeners).run)
    with pytest.raises(RuntimeError, match="more than one"):
        _ = server.port


def test_websocket_server_without_listener_raises() -> None:
    with pytest.raises(ValueError, match="listener"):
        WebSocketServer(echo, [])


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"disconnect_timeout": -1}, ValueError),
    ({"max_header_size": 1.5}, TypeError),
    ({"no_such_option": 1}, TypeError),
]


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
async def test_websocket_server_bad_option_raises(
    options: dict[str, Any], error: type[Exception]
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        with pytest.raises(error, match=next(iter(options))):
            WebSocketServer(echo, [listener], **options)


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
async def test_serve_websocket_bad_option_raises(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with trio.fail_after(30), pytest.raises(error, match=next(iter(options))):
        await serve_websocket(echo, "127.0.0.1", 0, None, **options)


async def test_serve_websocket_port_in_use_raises_os_error(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    with trio.fail_after(30), pytest.raises(OSError, match="in use"):
        await serve_websocket(echo, "127.0.0.1", port, None)


@pytest.mark.parametrize("error", [RuntimeError("out of order"), OSError(errno.EBADF, "closed")])
async def test_run_listener_fails_raises_its_error(
    error: Exception,
) -> None:
    with trio.fail_after(30), pytest.raises(type(error)) as caught:
        await WebSocketServer(echo, [MemoryListener(error)]).run()
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_run_out_of_resources_logs_and_goes_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    listener = MemoryListener(OSError(number, "too many open files"))
    ours, theirs = await memory_pair()
    listener.connect(theirs)
    async with trio.open_nursery() as nursery:
        await nursery.start(WebSocketServer(echo, [listener]).run)
        await ours.send_all(REQUEST)
        head, _ = await read_head(ours)
        nursery.cancel_scope.cancel()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert "too many open files" in caplog.text
    assert trio.current_time() > 0


async def test_run_cancelled_closes_all_with_1001(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        port = await start(serving)
        peers = [await connect(port) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    for peer in peers:
        async with peer.stream:
            assert await peer.receive() == (CLOSE, close_payload(1001), True, 0)


async def test_run_cancelled_does_not_wait_for_mute_clients(nursery: trio.Nursery) -> None:
    async def flood(request: WebSocketRequest) -> None:
        ws = await request.accept()
        while True:
            await ws.send_message(bytes(2**20))

    async with trio.open_nursery() as serving:
        port = await start(serving, flood)
        peers = [await connect(port) for _ in range(3)]
        await trio.sleep(0.2)
        start_time = trio.current_time()
        serving.cancel_scope.cancel()
    assert trio.current_time() - start_time < 30  # disconnect_timeout is 60 seconds
    for peer in peers:
        await peer.aclose()


async def test_run_cancelled_closes_listeners(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as serving:
        port = await start(serving)
        serving.cancel_scope.cancel()
    with pytest.raises(OSError, match=str(port)):
        await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.parametrize("value", [True, False, "cert.pem"])
async def test_serve_websocket_ssl_context_of_wrong_type_raises(value: Any) -> None:
    text = f"^ssl_context must be an ssl.SSLContext or None, not {value!r}$"
    with pytest.raises(TypeError, match=text):
        await serve_websocket(echo, "127.0.0.1", 0, value)


async def test_serve_websocket_ssl_context_of_client_raises() -> None:
    with pytest.raises(ValueError, match=r"must be a context for servers, not for clients"):
        await serve_websocket(echo, "127.0.0.1", 0, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.mark.parametrize("value", [None, "echo"])
async def test_serve_websocket_handler_not_callable_raises(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^handler must be an async function, not {value!r}$"):
        await serve_websocket(value, "127.0.0.1", 0, None)


async def test_serve_websocket_handler_is_coroutine_raises() -> None:
    called: Any = no_handler()
    with contextlib.closing(called):
        with pytest.raises(TypeError, match=r"; pass no_handler itself, without calling it$"):
            await serve_websocket(called, "127.0.0.1", 0, None)
        with pytest.raises(TypeError, match=r"^handler must be an async function"):
            WebSocketServer(called, [MemoryListener()])


async def no_handler() -> None: ...


async def test_serve_websocket_handler_nursery_of_wrong_type_raises() -> None:
    wrong: Any = trio.CancelScope
    with pytest.raises(TypeError, match=r"^handler_nursery must be a nursery or None, not <class"):
        await serve_websocket(echo, "127.0.0.1", 0, None, handler_nursery=wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8000, "listeners must be a list of Trio listeners, not 8000"),
        (MemoryListener(), "listeners must be a list of Trio listeners, not <"),
        ([8000], "each of listeners must be a Trio listener, not 8000"),
        ("listener", "each of listeners must be a Trio listener, not 'l'"),
        ([socket.socket], "each of listeners must be a Trio listener, not <class 'socket.socket'>"),
    ],
)
def test_websocket_server_listeners_of_wrong_type_raises(value: Any, text: str) -> None:
    with pytest.raises(TypeError, match=f"^{text}"):
        WebSocketServer(echo, value)


@pytest.mark.parametrize("context", [None, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)])
async def test_serve_websocket_port_in_use_names_host_and_port(
    nursery: trio.Nursery, context: ssl.SSLContext | None
) -> None:
    port = await start(nursery)
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1, port {port}: ") as caught:
        await serve_websocket(echo, b"127.0.0.1", port, context)
    assert type(caught.value) is OSError
    assert caught.value.errno == errno.EADDRINUSE
    assert isinstance(caught.value.__cause__, OSError)


async def test_serve_websocket_all_addresses_in_use_says_so(nursery: trio.Nursery) -> None:
    (listener, *others) = await trio.open_tcp_listeners(0)
    port = listener.socket.getsockname()[1]
    with pytest.raises(OSError, match=f"can't listen on all addresses, port {port}: "):
        await serve_websocket(echo, None, port, None)
    for each in (listener, *others):
        await each.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError(errno.EACCES, "not allowed"), PermissionError),
        (socket.gaierror(socket.EAI_NONAME, "no such name"), socket.gaierror),
        (OSError("odd"), OSError),
    ],
)
async def test_serve_websocket_cannot_listen_keeps_type_and_errno(
    monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[OSError]
) -> None:
    async def fail(*args: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr(trio, "open_tcp_listeners", fail)
    with pytest.raises(OSError, match=r"can't listen on example\.org, port 80: ") as caught:
        await serve_websocket(echo, "example.org", 80, None)
    assert type(caught.value) is kind
    assert caught.value.errno == error.errno
    assert (error.strerror or str(error)) in str(caught.value)


@pytest.mark.parametrize(
    ("port", "error", "text"),
    [
        ("8000", TypeError, "port must be an int, not '8000'"),
        (None, TypeError, "port must be an int, not None"),
        (-1, ValueError, "port must be between 0 and 65535, not -1"),
        (65536, ValueError, "port must be between 0 and 65535, not 65536"),
    ],
)
async def test_serve_websocket_wrong_port_raises(
    port: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^{text}$"):
        await serve_websocket(echo, "127.0.0.1", port, None)


# -- requests


async def test_request_has_path_headers_and_ends(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        await request.accept()

    requests: list[WebSocketRequest] = []
    port = await start(nursery, handler)
    headers = [(b"X-Extra", b"Value")]
    target = url(port, "/chat?room=1")
    async with open_websocket_url(target, subprotocols=["a", "b"], extra_headers=headers) as ws:
        (request,) = requests
        assert request.path == "/chat?room=1"
        assert request.proposed_subprotocols == ("a", "b")
        assert (b"x-extra", b"Value") in request.headers
        assert request.local == Endpoint("127.0.0.1", port, False)
        assert request.remote == ws.local


async def test_accept_connection_has_ends_and_subprotocol(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        opened.append(await request.accept(subprotocol="b"))
        await trio.sleep_forever()

    opened: list[WebSocketConnection] = []
    port = await start(nursery, handler)
    async with open_websocket_url(url(port, "/chat"), subprotocols=["a", "b"]) as client:
        (ws,) = opened
        assert ws.is_server
        assert not ws.is_client
        assert ws.path == "/chat"
        assert ws.subprotocol == client.subprotocol == "b"
        assert ws.local == client.remote == Endpoint("127.0.0.1", port, False)
        assert ws.remote == client.local


async def test_accept_sends_extra_headers(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept(extra_headers=[(b"Set-Cookie", b"a=b")])

    port = await start(nursery, handler)
    async with open_websocket_url(url(port)) as ws:
        assert ws.handshake_headers[0] == (b"set-cookie", b"a=b")


async def test_get_message_sent_with_the_request_is_received(nursery: trio.Nursery) -> None:
    ws, peer = await open_server(nursery, "tcp", trailing=frame(TEXT, b"hi", mask=True))
    async with peer.stream:
        assert await ws.get_message() == "hi"


async def open_request(nursery: trio.Nursery, request: bytes) -> tuple[WebSocketRequest, Stream]:
    """Return a request that is not answered yet, and the client's stream."""
    theirs, ours = trio.testing.memory_stream_pair()
    await theirs.send_all(request)
    await theirs.send_eof()
    return await wrap_server_stream(nursery, ours), theirs


async def test_accept_subprotocol_not_offered_raises(nursery: trio.Nursery) -> None:
    request, client = await open_request(nursery, OFFER)
    with pytest.raises(ValueError, match="other"):
        await request.accept(subprotocol="other")
    await request.accept(subprotocol="chat")
    head, _ = await read_head(client)
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in head


async def test_accept_impossible_header_raises(nursery: trio.Nursery) -> None:
    request, client = await open_request(nursery, REQUEST)
    with pytest.raises(ValueError, match="HTTP"):
        await request.accept(extra_headers=[(b"a", b"b\r\nc")])
    await request.accept()
    assert (await read_head(client))[0].startswith(b"HTTP/1.1 101 ")


async def test_accept_cancelled_sends_nothing(nursery: trio.Nursery) -> None:
    request, client = await open_request(nursery, REQUEST)
    with trio.CancelScope() as scope:
        scope.cancel()
        await request.accept()
    assert scope.cancelled_caught
    await request.reject(404)
    assert (await read_head(client))[0].startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("status_code", [0, 101, 199, 1000])
async def test_reject_status_not_final_raises(nursery: trio.Nursery, status_code: int) -> None:
    request, client = await open_request(nursery, REQUEST)
    with pytest.raises(ValueError, match=str(status_code)):
        await request.reject(status_code)
    await request.accept()
    assert (await read_head(client))[0].startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "header",
    [(b"a", b"b\r\nc"), (b"Content-Length", b"3"), (b"Content-Length", b"x"), (b"a b", b"c")],
)
async def test_reject_impossible_header_can_be_repeated(
    nursery: trio.Nursery, header: tuple[bytes, bytes]
) -> None:
    request, client = await open_request(nursery, REQUEST)
    with pytest.raises(ValueError, match=r"HTTP|Content-Length"):
        await request.reject(400, extra_headers=[header], body=b"too long")
    await request.reject(403, body=b"no")
    assert (await receive_to_end(client)).startswith(b"HTTP/1.1 403 ")


async def accept(request: WebSocketRequest) -> None:
    await request.accept()


@pytest.mark.parametrize("first", [accept, reject])
@pytest.mark.parametrize("second", [accept, reject])
async def test_accept_or_reject_second_answer_raises(
    nursery: trio.Nursery, first: Handler, second: Handler
) -> None:
    request, client = await open_request(nursery, REQUEST)
    await client.aclose()
    await first(request)
    with pytest.raises(RuntimeError, match="already"):
        await second(request)


async def test_accept_in_two_tasks_one_gets_connection(nursery: trio.Nursery) -> None:
    async def try_to_accept() -> None:
        try:
            outcomes.append(await request.accept())
        except RuntimeError as exc:
            outcomes.append(exc)

    outcomes: list[object] = []
    request, _ = await open_request(nursery, REQUEST)
    async with trio.open_nursery() as both:
        both.start_soon(try_to_accept)
        both.start_soon(try_to_accept)
    assert {type(outcome) for outcome in outcomes} == {WebSocketConnection, RuntimeError}


async def test_reject_sends_status_headers_and_body(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403, extra_headers=[(b"X-Why", b"because")], body=b"no entry")

    port = await start(nursery, handler)
    with pytest.raises(ConnectionRejected) as caught:
        await connect_websocket_url(nursery, url(port))
    assert caught.value.status_code == 403
    assert (b"x-why", b"because") in caught.value.headers
    assert caught.value.body == b"no entry"


async def test_reject_without_body_sends_content_length_0(nursery: trio.Nursery) -> None:
    port = await start(nursery, reject)
    assert b"\r\nContent-Length: 0\r\n" in await ask(port)


async def test_reject_chunked_body_is_received(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(
            403, extra_headers=[(b"Transfer-Encoding", b"chunked")], body=b"no entry"
        )

    port = await start(nursery, handler)
    with pytest.raises(ConnectionRejected) as caught:
        await connect_websocket_url(nursery, url(port))
    assert caught.value.body == b"no entry"


async def test_reject_closes_the_stream(nursery: trio.Nursery) -> None:
    port = await start(nursery, reject)
    assert (await ask(port)).startswith(b"HTTP/1.1 403 ")


async def test_reject_does_not_wait_for_client(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403)
        rejected.set()

    rejected = trio.Event()
    port = await start(nursery, handler, disconnect_timeout=0.1)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(REQUEST)
        with trio.fail_after(30):
            await rejected.wait()


async def test_reject_cancelled_closes_stream(nursery: trio.Nursery) -> None:
    request, client = await open_request(nursery, REQUEST)
    with trio.CancelScope() as scope:
        scope.cancel()
        await request.reject(403)
    assert await receive_to_end(client) == b""


# -- handlers


async def test_handler_returns_closes_with_1000(nursery: trio.Nursery) -> None:
    port = await start(nursery, accept)
    assert await be_good(port) == [close_payload(1000)]


async def test_handler_after_aclose_sends_one_close(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.aclose(4000, "enough")

    port = await start(nursery, handler)
    assert await be_good(port) == [close_payload(4000, "enough")]


async def test_handler_returns_waits_at_most_disconnect_timeout(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery, accept, disconnect_timeout=0.1)
    peer = await connect(port)
    async with peer.stream:
        with trio.fail_after(30):
            assert [frame.opcode for frame in await peer.receive_all()] == [CLOSE]


async def fail(request: WebSocketRequest) -> None:
    await request.accept()
    raise LookupError("the user's")


async def test_handler_raises_closes_with_1011() -> None:
    async def be_client(port: int) -> None:
        payloads.extend(await be_good(port))

    payloads: list[bytes] = []
    with pytest.raises(LookupError):
        await serve_while(fail, be_client)
    assert payloads == [close_payload(1011)]


async def test_handler_raises_run_raises_it_unchanged() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        try:
            raise context
        except LookupError:
            raise error from cause

    cause, context, error = ValueError("cause"), LookupError("context"), KeyError("the user's")
    with pytest.raises(KeyError) as caught:
        await serve_while(handler, be_good)
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is context


async def test_handlers_raise_run_raises_group() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        try:
            if request.path == "/1":
                is_there.set()
                await trio.sleep_forever()
            await is_there.wait()
        finally:
            raise LookupError(request.path)

    async def be_client(port: int) -> None:
        async with trio.open_nursery() as two:
            two.start_soon(be_good, port, REQUEST.replace(b"/", b"/1", 1))
            two.start_soon(be_good, port, REQUEST.replace(b"/", b"/2", 1))

    is_there = trio.Event()
    with pytest.raises(ExceptionGroup) as caught:
        await serve_while(handler, be_client)
    assert sorted(str(exc) for exc in flatten_group(caught.value)) == ["/1", "/2"]


async def test_handler_raises_while_cancelled_run_raises_it() -> None:
    async def handler(request: WebSocketRequest) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cleaning up has failed")

    async def be_client(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(REQUEST)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(handler, listeners)
    async with trio.open_nursery() as clients:
        clients.start_soon(be_client, server.port)
        with pytest.raises(LookupError), trio.CancelScope() as scope:
            await server.run()


async def test_handler_raises_before_answer_sends_500() -> None:
    async def handler(request: WebSocketRequest) -> None:
        raise LookupError("the user's")

    async def be_client(port: int) -> None:
        answers.append(await ask(port))

    answers: list[bytes] = []
    with pytest.raises(LookupError):
        await serve_while(handler, be_client)
    assert answers[0].startswith(b"HTTP/1.1 500 ")


async def test_handler_without_answer_sends_500(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path != "/":
            await echo(request)

    port = await start(nursery, handler)
    assert (await ask(port)).startswith(b"HTTP/1.1 500 ")
    assert (await ask(port)).startswith(b"HTTP/1.1 500 ")


async def test_handler_without_answer_client_gone_is_no_error(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await trio.sleep(0.05)
        if request.path == "/work":
            await echo(request)

    port = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(REQUEST)
    reset(stream)
    await trio.sleep(0.1)
    assert (await ask(port)).startswith(b"HTTP/1.1 500 ")


async def test_handler_cancelled_before_answer_closes_stream(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as serving:
        port = await start(serving, wait)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    async with stream:
        assert await receive_to_end(stream) == b""


async def test_handler_catches_own_cancellation(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with trio.move_on_after(0.05):
            await ws.get_message()

    port = await start(nursery, handler)
    assert await be_good(port) == [close_payload(1000)]


# -- lost connections


async def test_handler_raises_connection_closed_is_no_error(nursery: trio.Nursery) -> None:
    port = await start(nursery, echo)
    peer = await connect(port)
    await peer.send_close(1000)
    async with peer.stream:
        assert [frame.payload for frame in await peer.receive_all()] == [close_payload(1000)]
    await assert_serves(port)


async def test_handler_raises_connection_closed_of_other_1000(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise ConnectionClosed(None)

    port = await start(nursery, handler)
    assert await be_good(port) == [close_payload(1000)]


async def test_handler_raises_disconnection_timeout_is_no_error(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/echo":
            await echo(request)
        ws = await request.accept()
        with pytest.raises(DisconnectionTimeout):
            await ws.aclose()
        raise DisconnectionTimeout

    port = await start(nursery, handler, disconnect_timeout=0.1)
    peer = await connect(port)
    async with peer.stream:
        await peer.receive_all()
    await assert_serves(port)


async def test_handler_raises_group_of_connection_closed_is_no_error(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with trio.open_nursery() as two:
            two.start_soon(ws.get_message)
            two.start_soon(ws.get_message)

    port = await start(nursery, handler)
    peer = await connect(port)
    await peer.send_close(1000)
    assert await last_words(peer) == [close_payload(1000)]
    peer = await connect(port)  # the server continues
    await peer.aclose()


async def test_handler_raises_group_other_exceptions_propagate() -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        raise BaseExceptionGroup("several", [ConnectionClosed(None), error])

    error = LookupError("the user's")
    with pytest.raises((LookupError, ExceptionGroup)) as caught:
        await serve_while(handler, be_good)
    assert flatten_group(caught.value) == [error]


async def test_get_message_over_limit_closes_with_1009(nursery: trio.Nursery) -> None:
    port = await start(nursery, echo, max_message_size=10)
    peer = await connect(port)
    await peer.send_frame(BINARY, bytes(11))
    async with peer.stream:
        (close,) = await peer.receive_all()
    assert close.payload[:2] == close_payload(1009)


# -- handler_nursery


async def test_handler_nursery_outlives_server(
    nursery: trio.Nursery,
) -> None:
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as serving:
            port = await start(serving, echo, handler_nursery=handlers)
            peer = await connect(port)
            serving.cancel_scope.cancel()
        await peer.send_frame(TEXT, b"still there?")
        assert await peer.receive() == (TEXT, b"still there?", True, 0)
        await peer.send_close(1000)
        assert await last_words(peer) == [close_payload(1000)]


async def test_handler_nursery_has_one_task_per_connection(nursery: trio.Nursery) -> None:
    peers: list[RawPeer] = []
    async with trio.open_nursery() as handlers:
        port = await start(nursery, echo, handler_nursery=handlers)
        for count in (1, 2):
            peers.append(await connect(port))
            await peers[-1].send_frame(TEXT, b"are you there?")
            assert await peers[-1].receive() == (TEXT, b"are you there?", True, 0)
            assert len(handlers.child_tasks) == count
        handlers.cancel_scope.cancel()
    for peer in peers:
        await peer.aclose()


async def test_handler_nursery_raises_error_of_handler(
    nursery: trio.Nursery,
) -> None:
    async def serve_there() -> None:
        async with trio.open_nursery(strict_exception_groups=True) as handlers:
            await be_good(await start(nursery, fail, handler_nursery=handlers))

    with pytest.raises(ExceptionGroup) as caught:
        await serve_there()
    assert [type(exc) for exc in caught.value.exceptions] == [LookupError]


async def test_handler_nursery_cancelled_closes_with_1001(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as handlers:
        port = await start(nursery, echo, handler_nursery=handlers)
        peer = await connect(port)
        handlers.cancel_scope.cancel()
    async with peer.stream:
        assert await peer.receive() == (CLOSE, close_payload(1001), True, 0)


# -- streams of the caller


async def test_wrap_server_stream_takes_the_old_limits_by_position(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST)
    request = await wrap_server_stream(nursery, ours, 2, 10, None)
    ws = await request.accept()
    await read_head(theirs)
    peer = RawPeer(theirs, is_client=True)
    await peer.send_frame(BINARY, bytes(11))
    with pytest.raises(ConnectionClosed) as caught:
        await ws.get_message()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1009


async def test_wrap_server_stream_no_handshake_answers_and_raises(
    nursery: trio.Nursery,
) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(b"nonsense\r\n\r\n")
    await theirs.send_eof()  # type: ignore[attr-defined] # a memory stream can
    with pytest.raises(HandshakeError, match="HTTP") as caught:
        await wrap_server_stream(nursery, ours)
    assert not isinstance(caught.value, OSError)
    assert caught.value.__cause__ is not None
    assert (await receive_to_end(theirs)).startswith(b"HTTP/1.1 400 ")


async def test_wrap_server_stream_client_leaves_raises(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST[:-2])
    await theirs.aclose()
    with pytest.raises(ConnectionFailed, match="before"):
        await wrap_server_stream(nursery, ours)
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_wrap_server_stream_stream_breaks_raises(nursery: trio.Nursery) -> None:
    _, ours = await memory_pair()
    await ours.aclose()
    with pytest.raises(ConnectionFailed) as caught:
        await wrap_server_stream(nursery, ours)
    assert isinstance(caught.value.__cause__, trio.ClosedResourceError)


async def test_wrap_server_stream_waits_at_most_connect_timeout(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    theirs, ours = await memory_pair()
    with pytest.raises(ConnectionTimeout, match="10 s"):
        await wrap_server_stream(nursery, ours, connect_timeout=10)
    assert trio.current_time() == pytest.approx(10, abs=1)
    assert await theirs.receive_some() == b""


async def test_wrap_server_stream_cancelled_closes_stream(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    with trio.move_on_after(0.05) as scope:
        await wrap_server_stream(nursery, ours)
    assert scope.cancelled_caught
    assert await theirs.receive_some() == b""


async def test_wrap_server_stream_refusal_cancelled_closes_stream(nursery: trio.Nursery) -> None:
    theirs, ours = trio.testing.lockstep_stream_pair()
    with trio.move_on_after(0.05) as scope:
        async with trio.open_nursery() as both:
            both.start_soon(wrap_server_stream, nursery, ours)
            await theirs.send_all(b"nonsense\r\n\r\n")
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_wrap_server_stream_refusal_is_bounded(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    theirs, ours = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as both:
        both.start_soon(theirs.send_all, b"nonsense\r\n\r\n")
        with pytest.raises(HandshakeError):
            await wrap_server_stream(nursery, ours, disconnect_timeout=10)
    assert trio.current_time() == pytest.approx(10, abs=1)


class OddStream(trio.abc.Stream):
    """A stream that raises unusual exceptions."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._data:
            raise LookupError("odd")
        data, self._data = self._data, b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise LookupError("odd")

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed.set()


@pytest.mark.parametrize(
    "request_",
    [b"", b"nonsense\r\n\r\n", REQUEST],
    ids=["before the request", "after a bad one", "after the request"],
)
async def test_run_stream_raises_any_error_goes_on(
    request_: bytes,
) -> None:
    stream = OddStream(request_)
    listener = MemoryListener()
    listener.connect(stream)
    async with trio.open_nursery() as nursery:
        await nursery.start(WebSocketServer(reject, [listener]).run)
        with trio.fail_after(30):
            await stream.closed.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


# -- time-outs


async def test_run_no_request_in_time_starts_no_handler(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path != "/echo":
            raise AssertionError("the handler was called")
        await echo(request)

    port = await start(nursery, handler, connect_timeout=10)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(REQUEST[:-2])
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(10)
        assert await receive_to_end(stream) == b""
    await assert_serves(port)


async def test_run_unanswered_close_leaves_no_task(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.accept()

    async with trio.open_nursery() as handlers:
        port = await start(nursery, handler, handler_nursery=handlers, disconnect_timeout=0.1)
        async with (await connect(port)).stream:
            assert handlers.child_tasks
            with trio.fail_after(30):
                while handlers.child_tasks:  # noqa: ASYNC110 # nothing tells when
                    await trio.sleep(0.01)


async def test_run_client_leaves_before_request_sends_nothing(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_eof()
        assert await receive_to_end(stream) == b""


async def test_max_header_size_exceeded_sends_431(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_header_size=1000)
    head = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 2000)
    assert (await ask(port, head)).startswith(b"HTTP/1.1 431 ")


async def test_max_header_size_exceeded_by_whole_head_sends_431(nursery: trio.Nursery) -> None:
    port = await start(nursery, max_header_size=1000)
    head = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 2000 + b"\r\n\r\n")
    with trio.fail_after(30):
        assert (await ask(port, head)).startswith(b"HTTP/1.1 431 ")


# -- Ctrl-C


async def interrupt_soon() -> None:
    # Runs as a system task, so that the main task gets the interrupt.
    await trio.testing.wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)


def test_run_ctrl_c_while_waiting_raises_it_alone() -> None:
    async def main() -> None:
        trio.lowlevel.spawn_system_task(interrupt_soon)
        await serve_websocket(echo, "127.0.0.1", 0, None)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


def test_run_ctrl_c_in_handler_raises_it_alone() -> None:
    async def handler(request: WebSocketRequest) -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        await serve_while(handler, ask)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_handler_nursery_closed_ends_server() -> None:
    async with trio.open_nursery() as closed:
        pass
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, [listener], handler_nursery=closed)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as client:
        with pytest.raises(RuntimeError, match="closed"):
            await server.run()
        assert await client.receive_some() == b""


# -- accepting


async def test_run_waiting_clients_are_accepted_together(nursery: trio.Nursery) -> None:
    requests = 0

    async def handler(request: WebSocketRequest) -> None:
        nonlocal requests
        requests += 1
        await request.reject(404)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(handler, [listener])
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(40):
            connecting = await trio.open_tcp_stream("127.0.0.1", server.port)
            await (await stack.enter_async_context(connecting)).send_all(REQUEST)
        nursery.start_soon(server.run)
        turns = 0
        while requests < 40:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns < 20
        nursery.cancel_scope.cancel()


async def test_handler_nursery_closed_closes_accepted_streams() -> None:
    async with trio.open_nursery() as closed:
        pass
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(echo, [listener], handler_nursery=closed)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", server.port))
            for _ in range(3)
        ]
        with pytest.raises(RuntimeError, match="closed"):
            await server.run()
        for client in clients:
            with contextlib.suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""


async def test_accept_after_reset_gives_lost_connection(
    nursery: trio.Nursery,
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/echo":
            await echo(request)
        await gone.wait()
        ws = await request.accept()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        errors.append(caught.value)
        assert ws.remote == request.remote
        assert isinstance(ws.remote, Endpoint)
        done.set()
        await ws.send_message("into the void")

    errors: list[ConnectionClosed] = []
    gone, done = trio.Event(), trio.Event()
    port = await start(nursery, handler)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(REQUEST)
    await trio.testing.wait_all_tasks_blocked()
    reset(stream)
    gone.set()
    with trio.fail_after(30):
        await done.wait()
    (error,) = errors
    assert error.reason is not None
    assert error.reason.code == 1006
    assert isinstance(error.__cause__, OSError)
    await assert_serves(port)


async def test_handler_raises_connection_closed_server_goes_on(
    nursery: trio.Nursery,
) -> None:
    port = await start(nursery)
    reset((await connect(port)).stream)
    peer = await connect(port)
    await peer.send_close(1001)
    assert codes(await frames_to_end(peer)) == [1001]
    await assert_serves(port)


async def test_request_and_connection_have_all_headers(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        found.append([tuple(header) for header in request.headers])
        found.append(list(ws.handshake_headers))

    found: list[Any] = []
    port = await start(nursery, handler)
    request = with_header(b"Sec-WebSocket-Protocol: chat")
    request = with_header(b"Sec-WebSocket-Extensions: permessage-deflate", request)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        await read_head(stream)
    expected = {
        (b"host", b"example.org"),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
    }
    for headers in found:
        assert expected <= set(headers)
    assert len(found) == 2


async def test_websocket_server_on_unix_listener_names_ends(
    nursery: trio.Nursery, tmp_path: Any
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        names.extend([request.local, request.remote, ws.local, ws.remote])
        await ws.aclose()
        names.extend([request.local, request.remote, ws.local, ws.remote])

    names: list[object] = []
    sock = trio.socket.socket(socket.AF_UNIX)
    await sock.bind(str(tmp_path / "socket"))
    sock.listen()
    server = WebSocketServer(handler, [trio.SocketListener(sock)])
    await nursery.start(server.run)
    stream = await trio.open_unix_socket(str(tmp_path / "socket"))
    async with trio.open_nursery() as own:
        ws = await wrap_client_stream(own, stream, "localhost", "/")
        names.extend([ws.local, ws.remote])
        await ws.aclose()
        names.extend([ws.local, ws.remote])
    assert len(names) == 12
    assert all(isinstance(name, str) for name in names)


async def test_reject_does_not_change_extra_headers(nursery: trio.Nursery) -> None:
    theirs, ours = await memory_pair()
    await theirs.send_all(REQUEST)
    request = await wrap_server_stream(nursery, ours)
    await theirs.aclose()
    headers = [(b"X-Why", b"because")]
    await request.reject(403, extra_headers=headers, body=b"no")
    assert headers == [(b"X-Why", b"because")]
