"""The log records: their levels, and the parts that come from a peer."""

from __future__ import annotations

import contextlib
import logging

import pytest
import trio
import trio.lowlevel
import trio.testing

from support.frames import CLOSE, TEXT
from support.peer import REQUEST, RawPeer, read_head
from support.servers import Handler, echo, receive_to_end, serve, start
from support.streams import WrappedStream, memory_pair, tls_contexts
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    wrap_server_stream,
)
from trio_websocket._sansio.errors import printable

BAD_REQUEST = REQUEST.replace(b"Upgrade: websocket\r\n", b"")
EVIL = "bye\nERROR root forged line \x1b[31m\u2028\u202e"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "trio-websocket")
    return caplog


class Client:
    """A client that sends a request, and its name in log records."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        host, port = stream.socket.getsockname()
        self.name = f"{host}:{port}"

    async def ask(self, request: bytes = REQUEST) -> bytes:
        await self.stream.send_all(request)
        return await receive_to_end(self.stream)


async def connect(nursery: trio.Nursery, port: int) -> Client:
    async def hold() -> None:
        async with stream:
            await trio.sleep_forever()

    stream = await trio.open_tcp_stream("127.0.0.1", port)
    nursery.start_soon(hold)
    return Client(stream)


async def logged(log: pytest.LogCaptureFixture, text: str) -> None:
    """Wait for a record with that text."""
    with trio.fail_after(30):
        while not any(  # noqa: ASYNC110 # a logger sets no event
            text in record.getMessage() for record in log.records
        ):
            await trio.sleep(0.01)


def found(log: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == level]


# -- records and levels


async def forget(request: WebSocketRequest) -> None:
    """Return without an answer."""


async def lose_another(request: WebSocketRequest) -> None:
    """Fail like a proxy that loses its other connection before it answers."""
    raise ConnectionClosed(CloseReason(1006, "the other connection is lost"))


@pytest.mark.parametrize("handler", [forget, lose_another])
async def test_handler_that_does_not_answer_is_logged_as_error(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture, handler: Handler
) -> None:
    client = await connect(nursery, await start(nursery, handler))
    assert b" 500 " in await client.ask(REQUEST.replace(b"GET /", b"GET /chat?a=1"))
    what = f"the request for /chat?a=1 from {client.name}"
    text = f"the handler ended without accepting or rejecting {what}"
    assert found(log, logging.ERROR) == [text]
    assert ("the other connection is lost" in log.text) is (handler is lose_another)


async def test_handler_that_fails_is_logged_with_path_and_address(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    async def fail(request: WebSocketRequest) -> None:
        raise LookupError("the user's")

    def fail_too(request: WebSocketRequest, exc: Exception) -> None:
        raise exc

    client = await connect(nursery, await start(nursery, fail, on_handler_error=fail_too))
    assert b" 500 " in await client.ask()
    await logged(log, "on_handler_error")
    assert found(log, logging.ERROR) == [
        f"the handler failed on the request for / from {client.name}",
        f"on_handler_error failed on the request for / from {client.name}",
    ]


async def test_accept_is_logged_at_debug(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    client = await connect(nursery, await start(nursery, echo))
    await client.stream.send_all(REQUEST)
    await read_head(client.stream)
    assert found(log, logging.DEBUG) == [f"accepted the request for / from {client.name}"]
    assert not found(log, logging.INFO)


async def test_reject_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403)

    client = await connect(nursery, await start(nursery, handler))
    await client.ask()
    text = f"rejected the request for / from {client.name} with status 403"
    assert found(log, logging.INFO) == [text]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (BAD_REQUEST, "the request lacks 'Upgrade: websocket'"),
        (b"\x16\x03\x01" + b"\x00" * 30 + b"\r\n\r\n", "this is no HTTP request"),
    ],
)
async def test_failed_handshake_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture, request_: bytes, text: str
) -> None:
    client = await connect(nursery, await start(nursery, echo))
    await client.ask(request_)
    await client.stream.aclose()
    await logged(log, "failed")
    (message,) = found(log, logging.INFO)
    assert message.startswith(f"opening handshake with {client.name} failed: ")
    assert text in message
    assert message.isprintable()


async def test_client_gone_before_request_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    client = await connect(nursery, await start(nursery, echo))
    await client.stream.send_eof()
    assert await receive_to_end(client.stream) == b""
    await logged(log, "failed")
    (message,) = found(log, logging.INFO)
    assert message.startswith(f"opening handshake with {client.name} failed: the client closed")


async def test_failed_tls_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    server = await serve(nursery, echo, tls_contexts()[1])
    client = await connect(nursery, server.port)
    with contextlib.suppress(trio.BrokenResourceError):
        await client.ask()
    await logged(log, "failed")
    (message,) = found(log, logging.INFO)
    assert message.startswith(f"opening handshake with {client.name} failed: the connection was")


async def test_client_over_max_connections_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    client = await connect(nursery, await start(nursery, echo, max_connections=0))
    assert b" 503 " in await client.ask()
    text = f"rejected {client.name} with status 503: max_connections=0"
    assert found(log, logging.INFO) == [text]


class LateListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that returns a client while the server is being closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._streams = [stream]
        self.is_late = trio.Event()

    async def accept(self) -> trio.abc.Stream:
        if not self._streams:
            await trio.sleep_forever()
        with trio.CancelScope(shield=True):
            await self.is_late.wait()
        return self._streams.pop()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_client_during_server_aclose_is_logged_at_info(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    ours, theirs = await memory_pair()
    listener = LateListener(ours)
    server = WebSocketServer(echo, [listener])
    nursery.start_soon(server.run)
    await trio.testing.wait_all_tasks_blocked()
    await server.aclose()
    listener.is_late.set()
    assert b" 503 " in await receive_to_end(theirs)
    (message,) = found(log, logging.INFO)
    assert message.startswith("rejected StapledStream(")
    assert message.endswith(" with status 503: the server is being closed")


async def test_server_aclose_logs_requests_that_it_rejects(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        is_called.set()
        await trio.sleep_forever()

    is_called = trio.Event()
    server = await serve(nursery, handler, shutdown_timeout=0)
    client = await connect(nursery, server.port)
    await client.stream.send_all(REQUEST)
    await is_called.wait()
    await server.aclose()
    text = f"rejected the request for / from {client.name} with status 503"
    assert found(log, logging.INFO) == [text]


async def test_log_record_of_client_names_its_address(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/":
            ws = await request.accept()
            await ws.get_message()
            raise LookupError
        await request.reject(404)

    port = await start(nursery, handler, on_handler_error=lambda request, exc: None)
    requests = {
        REQUEST: "is closed",
        REQUEST.replace(b"GET /", b"GET /other"): "rejected",
        BAD_REQUEST: "failed",
    }
    for request, last in requests.items():
        log.clear()
        client = await connect(nursery, port)
        await client.stream.send_all(request)
        head, rest = await read_head(client.stream)
        if head.startswith(b"HTTP/1.1 101 "):
            peer = RawPeer(client.stream, is_client=True, received=rest)
            await peer.send_frame(TEXT, b"hi")
            await peer.expect(CLOSE)
            await peer.send_close(1011)
        await client.stream.aclose()
        await logged(log, last)
        for record in log.records:
            assert client.name in record.getMessage()


async def test_log_disabled_formats_nothing(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "trio-websocket")
    monkeypatch.setattr("trio_websocket._io.transport.printable", None)  # a call would raise
    monkeypatch.setattr("trio_websocket._server.exchange.printable", None)
    port = await start(nursery, echo)
    client = await connect(nursery, port)
    await client.ask(BAD_REQUEST)
    client = await connect(nursery, port)
    await client.stream.send_all(REQUEST)
    _, rest = await read_head(client.stream)
    peer = RawPeer(client.stream, is_client=True, received=rest)
    await peer.send_close(1000)
    await peer.expect(CLOSE)
    await receive_to_end(client.stream)
    assert not caplog.records


# -- text from a peer


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("all is well: \u00e4\u20ac\U0001f600", "all is well: \u00e4\u20ac\U0001f600"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x00\x1b[31m\x7f\x9b", r"\x00\x1b[31m\x7f\x9b"),
        ("\u2028\u202e\ufeff", r"\u2028\u202e\ufeff"),
        ("\ud800", r"\ud800"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + "..."),
    ],
)
def test_printable_escapes_and_shortens(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_connection_closed_text_escapes_the_reason() -> None:
    reason = CloseReason(1000, EVIL)
    error = ConnectionClosed(reason)
    for text in (str(error), repr(error), repr(reason)):
        assert text.isprintable()
        assert r"bye\nERROR root forged line \x1b[31m\u2028\u202e" in text
    assert error.reason is not None
    assert error.reason.reason == EVIL


async def test_log_escapes_close_reason(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            await ws.get_message()
        except ConnectionClosed as exc:
            raise LookupError("the user's") from exc

    port = await start(nursery, handler, on_handler_error=lambda request, exc: None)
    client = await connect(nursery, port)
    await client.stream.send_all(REQUEST)
    _, rest = await read_head(client.stream)
    peer = RawPeer(client.stream, is_client=True, received=rest)
    await peer.send_frame(CLOSE, b"\x03\xe8" + EVIL.encode())
    await peer.expect(CLOSE)
    await receive_to_end(client.stream)
    await logged(log, "is closed")
    assert r"bye\nERROR root" in log.text
    assert "\x1b" not in log.text
    assert not any(line.startswith("ERROR root forged") for line in log.text.splitlines())


class Odd(WrappedStream):
    """A stream whose name has a line break, as the path of a Unix socket may have."""

    def __repr__(self) -> str:
        return "a\nb" + "c" * 1000


async def test_log_escapes_and_shortens_names_and_paths(
    nursery: trio.Nursery, log: pytest.LogCaptureFixture
) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(REQUEST.replace(b"GET /", b"GET /" + b"x" * 30000))
    request = await wrap_server_stream(nursery, Odd(ours))
    ws: WebSocketConnection = await request.accept()
    await trio.aclose_forcefully(ws)
    accepted, closed = found(log, logging.DEBUG)
    assert accepted.startswith(f"accepted the request for /{'x' * 199}... from a\\nbccc")
    assert f"{ws} with a\\nbccc" in closed
    for message in (accepted, closed):
        assert message.isprintable()
        assert len(message) < 600
