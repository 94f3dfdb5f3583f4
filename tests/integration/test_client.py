"""Opening a connection as a client, and leaving its block."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any, Awaitable, Callable

import pytest
import trio
import trio.testing

from support.connections import open_client
from support.frames import (
    BINARY,
    CLOSE,
    TEXT,
    close_payload,
)
from support.peer import (
    RawPeer,
    read_head,
    start_raw_server,
)
from support.servers import (
    Names,
    Script,
    answering,
    assert_fails,
    raw_server,
    receive_to_end,
    start,
    start_accepting,
    url,
)
from support.streams import memory_pair, reset
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    Endpoint,
    HandshakeError,
    WebSocketRequest,
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream

Opening = Callable[..., Awaitable[None]]


async def answer_close(peer: RawPeer) -> None:
    """Be a correct server: echo the Close frame, and end the stream."""
    while True:
        received = await peer.receive()
        if received is None:
            return
        if received.opcode == CLOSE:
            await peer.send_frame(CLOSE, received.payload)


async def be_mute(peer: RawPeer) -> None:
    await trio.sleep_forever()


async def start_server(
    nursery: trio.Nursery, script: Script = answer_close, *headers: bytes
) -> int:
    return await start_accepting(nursery, script, *headers)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# -- opening


async def test_open_websocket_local_and_remote_are_endpoints(nursery: trio.Nursery) -> None:
    port = await start_server(nursery, answer_close, b"X-Served-By: us")
    async with open_websocket("127.0.0.1", port, "/chat?room=1", use_ssl=False) as ws:
        assert ws.is_client
        assert not ws.is_server
        assert ws.path == "/chat?room=1"
        assert ws.remote == Endpoint("127.0.0.1", port, False)
        assert isinstance(ws.local, Endpoint)
        assert ws.closed is None
        assert ws.handshake_headers[0] == (b"x-served-by", b"us")


@pytest.mark.parametrize(
    ("resource", "target"),
    [("", "/"), ("?", "/?"), ("/?", "/?"), ("/a?b=c", "/a?b=c"), ("a", "/a"), ("?b", "/?b")],
)
async def test_open_websocket_target_has_slash_and_query(resource: str, target: str) -> None:
    assert (await sent_request(resource=resource)).startswith(f"GET {target} HTTP/1.1\r\n".encode())


async def sent_request(resource: str = "/", **keywords: Any) -> bytes:
    """Return the request that a client sends."""
    ours, theirs = await memory_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            functools.partial(
                wrap_client_stream, nursery, ours, "example.org", resource, **keywords
            )
        )
        head, rest = await read_head(theirs)
        nursery.cancel_scope.cancel()
    assert rest == b""
    return head


async def test_open_websocket_extra_headers_are_sent_unchanged() -> None:
    request = await sent_request(extra_headers=[(b"X-Extra", b"One"), (b"x-EXTRA", b"two")])
    assert b"\r\nX-Extra: One\r\nx-EXTRA: two\r\n" in request


async def test_open_websocket_subprotocols_are_sent_in_order() -> None:
    request = await sent_request(subprotocols=["chat", "superchat"])
    assert b"\r\nSec-WebSocket-Protocol: chat, superchat\r\n" in request


async def test_open_websocket_url_server_chooses_subprotocol(nursery: trio.Nursery) -> None:
    port = await start_server(nursery, answer_close, b"Sec-WebSocket-Protocol: superchat")
    async with open_websocket_url(url(port), subprotocols=["chat", "superchat"]) as ws:
        assert ws.subprotocol == "superchat"


async def test_connect_websocket_url_subprotocol_not_offered_raises(nursery: trio.Nursery) -> None:
    port = await start_server(nursery, answer_close, b"Sec-WebSocket-Protocol: other")
    with pytest.raises(HandshakeError, match="other"):
        await connect_websocket_url(nursery, url(port), subprotocols=["chat"])


async def test_open_websocket_url_accepts_objects_with_str(nursery: trio.Nursery) -> None:
    class URL:
        def __str__(self) -> str:
            return url(port, "/there")

    port = await start_server(nursery)
    async with open_websocket_url(URL()) as ws:
        assert ws.path == "/there"


async def test_get_message_sent_with_the_response_is_received(nursery: trio.Nursery) -> None:
    ws, peer = await open_client(nursery, "tcp", trailing=b"\x81\x02hi")
    async with peer.stream:
        assert await ws.get_message() == "hi"


async def test_connect_websocket_keeps_nursery_open_until_aclose(
    nursery: trio.Nursery,
) -> None:
    port = await start_server(nursery)
    with trio.fail_after(30):
        async with trio.open_nursery() as own:
            ws = await connect_websocket(own, "127.0.0.1", port, "/", use_ssl=False)
            own.start_soon(ws.aclose)
    assert ws.closed is not None
    assert ws.closed.code == 1000


async def test_connect_websocket_url_as_context_manager_closes(
    nursery: trio.Nursery,
) -> None:
    port = await start_server(nursery)
    async with trio.open_nursery() as own:
        async with await connect_websocket_url(own, url(port)) as ws:
            pass
        assert ws.closed is not None


async def test_wrap_client_stream_failed_closes_stream(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ConnectionRejected):
        await wrap_client_stream(nursery, ours, "example.org", "/")
    await read_head(theirs)
    assert await theirs.receive_some() == b""


async def test_wrap_client_stream_cancelled_closes_stream() -> None:
    ours, theirs = await memory_pair()
    async with trio.open_nursery() as own:
        own.start_soon(wrap_client_stream, own, ours, "example.org", "/")
        await read_head(theirs)
        own.cancel_scope.cancel()
    assert await theirs.receive_some() == b""


# -- arguments


@pytest.mark.parametrize("use_ssl", [None, 1, "yes", ssl])
def test_open_websocket_use_ssl_of_wrong_type_raises_at_call(use_ssl: Any) -> None:
    text = f"^`use_ssl` argument must be bool or ssl.SSLContext, not {re.escape(repr(use_ssl))}"
    with pytest.raises(TypeError, match=text):
        open_websocket("example.org", 80, "/", use_ssl=use_ssl)


async def test_connect_websocket_use_ssl_of_wrong_type_raises(nursery: trio.Nursery) -> None:
    with pytest.raises(TypeError, match="use_ssl"):
        await connect_websocket(nursery, "example.org", 80, "/", use_ssl="yes")  # type: ignore[arg-type] # what is tested


BAD_URLS = {
    "http://example.org/": "ws: or wss:",
    "//example.org/": "ws: or wss:",
    "example.org": "ws: or wss:",
    "": "ws: or wss:",
    "ws:///path": "no host",
    "ws://example.org:65536/": "[Pp]ort",
}


@pytest.mark.parametrize("bad", BAD_URLS)
def test_open_websocket_url_other_scheme_raises_at_call(bad: str) -> None:
    with pytest.raises(ValueError, match=BAD_URLS[bad]):
        open_websocket_url(bad)


@pytest.mark.parametrize("bad", BAD_URLS)
async def test_connect_websocket_url_other_scheme_raises(nursery: trio.Nursery, bad: str) -> None:
    with pytest.raises(ValueError, match=BAD_URLS[bad]):
        await connect_websocket_url(nursery, bad)


def test_open_websocket_url_context_without_wss_raises_at_call() -> None:
    with pytest.raises(ValueError, match="SSL context"):
        open_websocket_url("ws://example.org/", ssl.create_default_context())


async def test_connect_websocket_url_context_without_wss_raises(
    nursery: trio.Nursery,
) -> None:
    with pytest.raises(ValueError, match="SSL context"):
        await connect_websocket_url(nursery, "ws://example.org/", ssl.create_default_context())


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"connect_timeout": -1}, ValueError),
    ({"max_message_size": float("nan")}, ValueError),
    ({"message_queue_size": "1"}, TypeError),
    ({"no_such_option": 1}, TypeError),
]


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
def test_open_websocket_bad_option_raises_at_call(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        open_websocket("example.org", 80, "/", use_ssl=False, **options)


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
def test_open_websocket_url_bad_option_raises_at_call(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        open_websocket_url("ws://example.org/", **options)


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS)
async def test_connect_websocket_url_bad_option_raises(
    nursery: trio.Nursery, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        await connect_websocket_url(nursery, "ws://example.org/", **options)


# A label over 63 characters, an empty label, an empty name, a NUL.
@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "ä" * 64, "\0"])
async def test_open_websocket_impossible_host_raises_with_reason(host: str) -> None:
    with pytest.raises((HandshakeError, ValueError)) as caught:
        async with open_websocket(host, 80, "/", use_ssl=False):
            pytest.fail("it has opened")
    assert not isinstance(caught.value, UnicodeError)


async def test_open_websocket_port_0_tries_to_connect() -> None:
    with pytest.raises(ConnectionFailed, match=r"^can't connect to 127\.0\.0\.1, port 0: "):
        async with open_websocket("127.0.0.1", 0, "/", use_ssl=False):
            pytest.fail("it has opened")


async def test_open_websocket_url_as_host_raises_at_the_call(nursery: trio.Nursery) -> None:
    text = r"not the URL 'ws://127\.0\.0\.1:1/'; use open_websocket_url\(\) or connect"
    with pytest.raises(ValueError, match=text):
        open_websocket("ws://127.0.0.1:1/", 1, "/", use_ssl=False)
    with pytest.raises(ValueError, match=text):
        await connect_websocket(nursery, "ws://127.0.0.1:1/", 1, "/", use_ssl=False)


async def test_open_websocket_url_non_ascii_host_uses_idna_2008(
    nursery: trio.Nursery,
) -> None:
    heads = []

    async def serve(stream: Stream) -> None:
        heads.append((await read_head(stream))[0])
        await stream.send_all(b"HTTP/1.1 403 \r\nContent-Length: 0\r\n\r\n")

    names = Names(("127.0.0.1", await start_raw_server(nursery, serve)))
    with pytest.raises(ConnectionRejected):
        await connect_websocket_url(nursery, "ws://fa\xdf.example/")
    assert names.asked == [b"xn--fa-hia.example"]
    assert b"\r\nHost: xn--fa-hia.example\r\n" in heads[0]


@pytest.mark.parametrize("port", [-1, 65536, 99999])
async def test_connect_websocket_port_out_of_range_raises(nursery: trio.Nursery, port: int) -> None:
    Names(("127.0.0.1", 1))
    with pytest.raises(ValueError, match="port"):
        await connect_websocket(nursery, "example.org", port, "/", use_ssl=False)


CALLS: list[Callable[..., object]] = [
    functools.partial(open_websocket, "127.0.0.1", 1, "/", use_ssl=False),
    functools.partial(open_websocket_url, "ws://127.0.0.1:1"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("subprotocols", "chat", "subprotocols must be a list of str, not 'chat'"),
        ("subprotocols", 5, "subprotocols must be a list of str, not 5"),
        ("subprotocols", [b"chat"], "each of subprotocols must be a str, not b'chat'"),
        ("extra_headers", {"a": "b"}, "extra_headers must be a list of (name, value) pairs"),
        ("extra_headers", [(b"a", 1)], "the name and value of a header must be bytes or str"),
    ],
)
def test_open_websocket_wrong_argument_raises_at_the_call(
    call: Callable[..., object], keyword: str, value: object, text: str
) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        call(**{keyword: value})


@pytest.mark.parametrize("value", [True, False, "context"])
async def test_open_websocket_url_ssl_context_of_wrong_type_raises(
    nursery: trio.Nursery, value: Any
) -> None:
    text = f"^ssl_context must be an ssl.SSLContext or None, not {value!r}$"
    with pytest.raises(TypeError, match=text):
        open_websocket_url("wss://127.0.0.1:1", value)
    with pytest.raises(TypeError, match=text):
        await connect_websocket_url(nursery, "wss://127.0.0.1:1", value)


async def test_open_websocket_url_iterators_are_read_once(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        await request.reject(403)

    requests: list[WebSocketRequest] = []
    port = await start(nursery, handler)
    names, headers = iter(["chat", "superchat"]), iter([(b"X", b"1")])
    with pytest.raises(ConnectionRejected):
        async with open_websocket_url(url(port), subprotocols=names, extra_headers=headers):
            pytest.fail("the body has run")
    assert requests[0].proposed_subprotocols == ("chat", "superchat")
    assert (b"x", b"1") in requests[0].headers


# -- an opening that fails


async def test_open_websocket_url_refused_says_so() -> None:
    error = await assert_fails(url(unused_port()), "Connection refused")
    assert error.errno is not None
    assert isinstance(error.__cause__, OSError)


async def test_open_websocket_url_unknown_name_says_so() -> None:
    Names(error=socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    error = await assert_fails("ws://no-such-host.invalid/", "Name or service not known")
    assert "no-such-host.invalid" in str(error)
    assert error.errno == socket.EAI_NONAME
    assert isinstance(error.__cause__, socket.gaierror)


async def test_open_websocket_url_all_refused_gives_reason_once() -> None:
    port = unused_port()
    Names(("127.0.0.1", port), ("127.0.0.2", port))
    error = await assert_fails("ws://example.org/")
    assert str(error).count("Connection refused") == 1
    assert error.errno is not None


async def test_open_websocket_url_different_failures_gives_all_reasons() -> None:
    Names(("127.0.0.1", unused_port()), ("255.255.255.255", 80))
    error = await assert_fails("ws://example.org/", "Connection refused", ", ")
    assert error.errno is None


async def test_open_websocket_url_server_ends_first_says_so(nursery: trio.Nursery) -> None:
    async def leave(stream: Stream) -> None:
        await read_head(stream)
        await stream.aclose()

    port = await start_raw_server(nursery, leave)
    await assert_fails(url(port), "closed the connection before")


async def test_open_websocket_url_reset_says_so(nursery: trio.Nursery) -> None:
    async def fail(stream: Stream) -> None:
        await read_head(stream)
        reset(stream)

    port = await start_raw_server(nursery, fail)
    error = await assert_fails(url(port), "Connection reset by peer")
    assert error.errno is not None


async def test_wrap_client_stream_peer_leaves_while_written_says_so(nursery: trio.Nursery) -> None:
    ours, theirs = await memory_pair()
    await theirs.aclose()
    with pytest.raises(ConnectionFailed, match="before"):
        await wrap_client_stream(nursery, ours, "example.org", "/")


async def test_wrap_client_stream_answer_before_reading_counts(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await memory_pair()
    await theirs.send_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    await theirs.aclose()
    with pytest.raises(ConnectionRejected) as caught:
        await wrap_client_stream(nursery, ours, "example.org", "/")
    assert caught.value.status_code == 503


async def test_open_websocket_url_rejected_has_status_headers_body(nursery: trio.Nursery) -> None:
    async def serve(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(
            b"HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: 5\r\n\r\nno en"
        )

    port = await start_raw_server(nursery, serve)
    with pytest.raises(ConnectionRejected) as caught:
        async with open_websocket_url(url(port)):
            pytest.fail("the body has run")
    assert caught.value.status_code == 403
    assert (b"x-why", b"because") in caught.value.headers
    assert caught.value.body == b"no en"
    assert not isinstance(caught.value, OSError)


async def test_connect_websocket_url_rejected_then_reset_is_rejection(
    nursery: trio.Nursery,
) -> None:
    async def serve(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nno")
        await trio.testing.wait_all_tasks_blocked()  # a reset discards unread data
        reset(stream)

    port = await start_raw_server(nursery, serve)
    with pytest.raises(ConnectionRejected) as caught:
        await connect_websocket_url(nursery, url(port))
    assert (caught.value.status_code, caught.value.body) == (403, b"no")


async def test_connect_websocket_url_1xx_is_rejection_without_body(nursery: trio.Nursery) -> None:
    async def serve(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    port = await start_raw_server(nursery, serve)
    with pytest.raises(ConnectionRejected) as caught:
        await connect_websocket_url(nursery, url(port))
    assert (caught.value.status_code, caught.value.body) == (103, None)


async def test_connect_websocket_url_head_over_limit_raises(nursery: trio.Nursery) -> None:
    async def serve(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 2000)

    port = await start_raw_server(nursery, serve)
    with trio.fail_after(30), pytest.raises(HandshakeError, match="max_header_size=1000"):
        await connect_websocket_url(nursery, url(port), max_header_size=1000)


# -- an opening that takes too long, or is cancelled

STAGES = ["name", "tcp", "tls", "handshake"]


class StuckServer:
    """A server that stops at one stage of the opening."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.left = trio.Event()

    async def start(self, nursery: trio.Nursery, stage: str) -> str:
        """Start the server. Return the URL to open."""
        if stage == "name":
            Names()
            self.reached.set()
            self.left.set()
            return "ws://example.org/"
        if stage == "tcp":
            self.reached.set()
            self.left.set()
            return url(await nursery.start(self._be_busy))
        scheme = "wss" if stage == "tls" else "ws"
        return f"{scheme}://127.0.0.1:{await start_raw_server(nursery, self._be_silent)}/"

    async def _be_busy(self, task_status: trio.TaskStatus[int]) -> None:
        # A full backlog of one connection: further connections wait.
        with socket.socket() as listener, socket.socket() as first:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            first.connect(listener.getsockname())
            task_status.started(listener.getsockname()[1])
            await trio.sleep_forever()

    async def _be_silent(self, stream: Stream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    self.reached.set()
        self.left.set()

    async def jump_when_reached(self, clock: trio.testing.MockClock, seconds: float) -> None:
        """Let the time-out expire when the server has reached its stage."""
        await self.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(seconds)


async def open_in_block(url: str, **options: Any) -> None:
    async with open_websocket_url(url, **options):
        pytest.fail("the body has run")


@pytest.mark.parametrize("stage", STAGES)
async def test_connect_timeout_bounds_every_stage(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, stage: str
) -> None:
    server = StuckServer()
    target = await server.start(nursery, stage)
    nursery.start_soon(server.jump_when_reached, mock_clock, 0.1)
    with pytest.raises(ConnectionTimeout, match=r"0\.1 s") as caught:
        await open_in_block(target, connect_timeout=0.1)
    assert isinstance(caught.value, HandshakeError)
    assert isinstance(caught.value, TimeoutError)
    await server.left.wait()


@pytest.mark.parametrize("stage", STAGES)
async def test_connect_timeout_bounds_connect_websocket_url(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, stage: str
) -> None:
    server = StuckServer()
    target = await server.start(nursery, stage)
    nursery.start_soon(server.jump_when_reached, mock_clock, 0.1)
    async with trio.open_nursery() as own:
        with pytest.raises(ConnectionTimeout):
            await connect_websocket_url(own, target, connect_timeout=0.1)
        assert not own.child_tasks


async def test_connect_timeout_bounds_wrap_client_stream(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    ours, _ = await memory_pair()
    with pytest.raises(ConnectionTimeout):
        await wrap_client_stream(nursery, ours, "example.org", "/", connect_timeout=10)
    assert trio.current_time() == pytest.approx(10, abs=1)


def count_files() -> int:
    return len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0


@pytest.mark.parametrize("stage", STAGES)
async def test_connect_websocket_url_cancelled_leaves_nothing(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, stage: str
) -> None:
    server = StuckServer()
    target = await server.start(nursery, stage)
    files = count_files()
    nursery.start_soon(server.jump_when_reached, mock_clock, 0.1)
    async with trio.open_nursery() as own:
        with trio.move_on_after(0.1):
            await connect_websocket_url(own, target)
            pytest.fail("it has opened")
        assert not own.child_tasks
    await server.left.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert count_files() == files


@pytest.mark.parametrize("stage", STAGES)
async def test_open_websocket_url_cancelled_leaves_no_socket(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, stage: str
) -> None:
    server = StuckServer()
    target = await server.start(nursery, stage)
    files = count_files()
    nursery.start_soon(server.jump_when_reached, mock_clock, 0.1)
    with trio.move_on_after(0.1) as scope:
        await open_in_block(target)
    assert scope.cancelled_caught
    await server.left.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert count_files() == files


# -- leaving the block


@pytest.fixture
async def closes(nursery: trio.Nursery) -> Closes:
    """A server that answers Close frames and records their payloads."""
    closes = Closes()
    closes.url = url(await start_server(nursery, closes.note))
    return closes


class Closes:
    def __init__(self) -> None:
        self.url = ""
        self.is_mute = False
        self._payloads: list[bytes] = []
        self._end = trio.Event()

    async def note(self, peer: RawPeer) -> None:
        try:
            received = await peer.receive()
            while received is not None:
                if received.opcode == CLOSE:
                    self._payloads.append(received.payload)
                    if not self.is_mute:
                        await peer.send_frame(CLOSE, received.payload)
                received = await peer.receive()
        finally:
            self._end.set()

    async def said(self) -> list[bytes]:
        """Wait for the end of a connection. Return the payloads of its Close frames."""
        with trio.fail_after(30):
            await self._end.wait()
        return self._payloads


async def test_block_ends_closes_with_1000(closes: Closes) -> None:
    async with open_websocket_url(closes.url) as ws:
        pass
    assert ws.closed is not None
    assert ws.closed.code == 1000
    assert await closes.said() == [close_payload(1000)]


async def test_block_raises_closes_with_1011(closes: Closes) -> None:
    with pytest.raises(LookupError):
        async with open_websocket_url(closes.url):
            raise LookupError
    assert await closes.said() == [close_payload(1011)]


async def test_block_cancelled_closes_with_1001(closes: Closes) -> None:
    with trio.CancelScope() as scope:
        async with open_websocket_url(closes.url):
            scope.cancel()
            await trio.sleep_forever()
    assert await closes.said() == [close_payload(1001)]


async def test_connect_websocket_url_nursery_cancelled_sends_1001(closes: Closes) -> None:
    async with trio.open_nursery() as own:
        await connect_websocket_url(own, closes.url)
        own.cancel_scope.cancel()
    assert await closes.said() == [close_payload(1001)]


async def test_block_cancelled_mute_server_does_not_wait(closes: Closes) -> None:
    closes.is_mute = True
    with trio.CancelScope() as scope:
        async with open_websocket_url(closes.url):
            scope.cancel()
            start = trio.current_time()
            await trio.sleep_forever()
    assert trio.current_time() - start < 30  # disconnect_timeout is 60 seconds
    assert await closes.said() == [close_payload(1001)]


async def test_block_cancelled_unread_does_not_wait(
    nursery: trio.Nursery,
) -> None:
    port = await start_server(nursery, be_mute)
    with trio.CancelScope() as scope:
        async with open_websocket_url(url(port)) as ws:
            with trio.move_on_after(0.2):
                while True:
                    await ws.send_message(bytes(2**20))
            start = trio.current_time()
            scope.cancel()
            await trio.sleep_forever()
    assert trio.current_time() - start < 30  # disconnect_timeout is 60 seconds


async def test_block_ends_after_aclose_sends_one_close(closes: Closes) -> None:
    async with open_websocket_url(closes.url) as ws:
        await ws.aclose(4000, "enough")
    assert await closes.said() == [close_payload(4000, "enough")]


async def test_block_ends_waits_at_most_disconnect_timeout(closes: Closes) -> None:
    closes.is_mute = True
    with trio.fail_after(30), pytest.raises(DisconnectionTimeout, match=r"0\.1 s"):
        async with open_websocket_url(closes.url, disconnect_timeout=0.1):
            pass
    assert await closes.said() == [close_payload(1000)]


async def test_block_ends_after_answer_is_no_timeout(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async def keep_the_stream(peer: RawPeer) -> None:
        await peer.receive()
        await peer.send_close(1000)
        await trio.testing.wait_all_tasks_blocked()  # the client has read it
        mock_clock.jump(0.3)
        await trio.sleep_forever()

    port = await start_server(nursery, keep_the_stream)
    async with open_websocket_url(url(port), disconnect_timeout=0.3) as ws:
        pass
    assert ws.closed is not None
    assert ws.closed.code == 1000


async def test_block_raises_exception_unchanged(closes: Closes) -> None:
    cause, context = ValueError("cause"), LookupError("context")
    error = KeyError("the user's")

    def fail() -> None:
        try:
            raise context
        except LookupError:
            raise error from cause

    with pytest.raises(KeyError) as caught:
        async with open_websocket_url(closes.url):
            fail()
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is context


async def test_block_raises_exception_without_context(closes: Closes) -> None:
    error = KeyError("the user's")
    with pytest.raises(KeyError) as caught:
        async with open_websocket_url(closes.url):
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_block_raises_exception_despite_closing_timeout(closes: Closes) -> None:
    closes.is_mute = True
    error = KeyError("the user's")
    with trio.fail_after(30), pytest.raises(KeyError) as caught:
        async with open_websocket_url(closes.url, disconnect_timeout=0.1):
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_block_raises_false_exception(closes: Closes) -> None:
    class NothingFoundError(Exception):
        def __len__(self) -> int:
            return 0

    closes.is_mute = True
    with pytest.raises(NothingFoundError):
        async with open_websocket_url(closes.url, disconnect_timeout=0.1):
            raise NothingFoundError


@pytest.mark.parametrize("error", [StopAsyncIteration(), StopIteration(), KeyboardInterrupt()])
async def test_block_raises_base_exception(closes: Closes, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_websocket_url(closes.url):
            raise error
    assert caught.value is error


async def test_block_raises_connection_closed(nursery: trio.Nursery) -> None:
    port = await start_server(nursery, lambda peer: peer.send_close(4000))
    with pytest.raises(ConnectionClosed) as caught:
        async with open_websocket_url(url(port)) as ws:
            await ws.get_message()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 4000


async def test_block_raises_and_is_cancelled_keeps_exception(
    closes: Closes,
) -> None:
    closes.is_mute = True
    error = KeyError("the user's")
    with pytest.raises(KeyError) as caught, trio.CancelScope() as scope:
        async with open_websocket_url(closes.url):
            scope.deadline = trio.current_time() + 0.1
            raise error
    assert caught.value is error


async def test_get_message_over_limit_closes_with_1009(nursery: trio.Nursery) -> None:
    received = []

    async def send_too_much(peer: RawPeer) -> None:
        await peer.send_frame(BINARY, bytes(11))
        received.extend(await peer.receive_all())
        done.set()

    done = trio.Event()
    port = await start_server(nursery, send_too_much)
    async with open_websocket_url(url(port), max_message_size=10) as ws:
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1009
    await done.wait()
    assert [(frame.opcode, frame.payload[:2]) for frame in received] == [
        (CLOSE, close_payload(1009))
    ]


async def test_get_message_before_the_end_is_received(nursery: trio.Nursery) -> None:
    async def serve(peer: RawPeer) -> None:
        await peer.send(peer.frame(TEXT, b"1"), peer.frame(TEXT, b"2"))
        await peer.send_close(1000)
        await peer.receive_all()

    port = await start_server(nursery, serve)
    async with open_websocket_url(url(port)) as ws:
        assert [await ws.get_message(), await ws.get_message()] == ["1", "2"]
        with pytest.raises(ConnectionClosed):
            await ws.get_message()


# -- Ctrl-C


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


async def interrupt_soon() -> None:
    # Runs as a system task, so that the main task gets the interrupt.
    await trio.testing.wait_all_tasks_blocked()
    interrupt()


def assert_interrupted(block: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Check that Ctrl-C ends a block in a server's nursery, and is raised without a group."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt):
                await block(nursery)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_block_ctrl_c_raises() -> None:
    async def block(nursery: trio.Nursery) -> None:
        async with open_websocket_url(url(await start_server(nursery))):
            interrupt()

    assert_interrupted(block)


def test_block_ctrl_c_while_waiting_raises() -> None:
    async def block(nursery: trio.Nursery) -> None:
        async with open_websocket_url(url(await start_server(nursery))) as ws:
            trio.lowlevel.spawn_system_task(interrupt_soon)
            await ws.get_message()

    assert_interrupted(block)


@pytest.mark.parametrize("error", [None, ValueError()])
def test_block_ctrl_c_while_closing_raises(error: Exception | None) -> None:
    async def block(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, RawPeer.receive_all)
        async with open_websocket_url(url(port)):
            trio.lowlevel.spawn_system_task(interrupt_soon)
            if error is not None:
                raise error

    assert_interrupted(block)


def test_block_ctrl_c_while_opening_raises() -> None:
    async def block(nursery: trio.Nursery) -> None:
        target = await StuckServer().start(nursery, "handshake")
        trio.lowlevel.spawn_system_task(interrupt_soon)
        await open_in_block(target)

    assert_interrupted(block)


async def test_connect_websocket_url_eof_before_response_raises(
    nursery: trio.Nursery,
) -> None:
    url = await answering(nursery, b"")
    with trio.fail_after(30), pytest.raises(ConnectionFailed, match="closed the connection"):
        await connect_websocket_url(nursery, url)


async def test_open_websocket_unverified_certificate_is_named(nursery: trio.Nursery) -> None:
    port = await start_raw_server(nursery, ignore_errors, use_tls=True)
    with trio.fail_after(30), pytest.raises(ConnectionFailed, match="certificate verify failed"):
        async with open_websocket("127.0.0.1", port, "/", use_ssl=True):
            pytest.fail("it has opened")


async def ignore_errors(stream: Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.receive_some()


async def test_connect_websocket_cancelled_leaves_no_task(
    nursery: trio.Nursery,
) -> None:
    async def cancel_and_wait_for_end(stream: Stream) -> None:
        await read_head(stream)
        scope.cancel()
        with contextlib.suppress(trio.BrokenResourceError):
            await receive_to_end(stream)
        ended.set()

    ended = trio.Event()
    scope = trio.CancelScope()
    port = await start_raw_server(nursery, cancel_and_wait_for_end)
    with trio.fail_after(30):
        async with trio.open_nursery() as own:
            with scope:
                await connect_websocket(own, "127.0.0.1", port, "/", use_ssl=False)
            assert not own.child_tasks
        await ended.wait()


async def test_connect_websocket_rejected_closes_stream(
    nursery: trio.Nursery,
) -> None:
    async def reject(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        ended.set()

    ended = trio.Event()
    port = await start_raw_server(nursery, reject)
    with trio.fail_after(30):
        async with trio.open_nursery() as own:
            with pytest.raises(ConnectionRejected) as caught:
                await connect_websocket(own, "127.0.0.1", port, "/", use_ssl=False)
            assert not own.child_tasks
        assert (caught.value.status_code, caught.value.body) == (403, b"no")
        await ended.wait()


async def test_block_ends_after_server_close_is_bounded(
    nursery: trio.Nursery,
) -> None:
    async def close_and_stay(peer: RawPeer) -> None:
        await peer.send_close(1000)
        await trio.sleep_forever()

    url = await raw_server(nursery, close_and_stay)
    with trio.fail_after(30), contextlib.suppress(DisconnectionTimeout):
        async with open_websocket_url(url, disconnect_timeout=0.2) as ws:
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
    assert ws.closed == CloseReason(1000, None)


async def test_open_websocket_url_subprotocols_str_raises(nursery: trio.Nursery) -> None:
    with pytest.raises(TypeError, match="chat"):
        await connect_websocket_url(nursery, "ws://example.org/", subprotocols="chat")
    with pytest.raises(TypeError, match="chat"):
        async with open_websocket_url("ws://example.org/", subprotocols="chat"):
            pytest.fail("it has opened")
