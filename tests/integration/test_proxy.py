"""Clients behind proxies that speak HTTP, and what all proxies have in common."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import signal
import ssl
import traceback
import weakref
from typing import TYPE_CHECKING, Any, AsyncIterator, Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from support.interruptions import Steps, Trigger
from support.peer import read_head, start_raw_server
from support.proxies import (
    OPENED,
    PASSWORD,
    USER,
    USERINFO,
    HttpProxy,
    Proxy,
    SocksProxy,
    fails,
    local,
    start_http_proxy,
    start_proxy,
)
from support.servers import Names, assert_fails, echo, serve, url
from support.streams import receive_exactly, reset, tls_contexts
from trio_websocket import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    Endpoint,
    PerMessageDeflate,
    ProxyError,
    WebSocketRequest,
    open_websocket,
    open_websocket_url,
)
from trio_websocket._client.options import ClientOptions
from trio_websocket._client.proxy import open_proxy_stream
from trio_websocket._client.socks import import_python_socks
from trio_websocket._client.target import Target
from trio_websocket._io.tls_stream import TlsStream
from trio_websocket._sansio.proxy import parse_proxy

if TYPE_CHECKING:
    from trio.abc import Stream
    from trio.testing import MockClock

CLIENT, SERVER = tls_contexts()
SCHEMES = (*HttpProxy.schemes, *SocksProxy.schemes)

try:
    import_python_socks()
except ImportError:
    has_python_socks = False
else:
    has_python_socks = True
needs_python_socks = pytest.mark.skipif(not has_python_socks, reason="needs python-socks")
each_scheme = pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(scheme, marks=needs_python_socks if scheme.startswith("socks") else ())
        for scheme in SCHEMES
    ],
)
each_security = pytest.mark.parametrize("is_secure", [False, True], ids=["ws", "wss"])


def keywords(proxy: Proxy, scheme: str, userinfo: str = "") -> dict[str, Any]:
    """Return the options of a client for a proxy."""
    options: dict[str, Any] = {"proxy": proxy.url(scheme, userinfo)}
    if scheme == "https":
        options["proxy_ssl_context"] = CLIENT
    return options


@contextlib.asynccontextmanager
async def served(
    handler: Callable[[WebSocketRequest], Awaitable[None]] = echo, *, is_secure: bool = False
) -> AsyncIterator[tuple[trio.Nursery, str, ssl.SSLContext | None]]:
    """Run a server. Give a nursery for proxies, the server's URL, and the client's context."""
    async with trio.open_nursery() as nursery:
        server = await serve(nursery, handler, SERVER if is_secure else None)
        scheme = "wss" if is_secure else "ws"
        yield nursery, f"{scheme}://localhost:{server.port}/", CLIENT if is_secure else None
        nursery.cancel_scope.cancel()


# The tunnel


@each_security
@each_scheme
async def test_proxy_carries_messages_and_close_codes(scheme: str, is_secure: bool) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await ws.get_message()
                if message == "bye":
                    await ws.aclose(4001, "as you like")
                await ws.send_message(message)
        closed.append(ws.closed)

    closed: list[Any] = []
    async with served(handler, is_secure=is_secure) as (nursery, server, context):
        proxy = await start_proxy(nursery, scheme, has_password=True)
        options = keywords(proxy, scheme, USERINFO)
        large = os.urandom(2**20)
        async with open_websocket_url(
            server, context, compression=PerMessageDeflate(), **options
        ) as ws:
            for message in ("hello", large):
                await ws.send_message(message)
                assert await ws.get_message() == message
            await ws.ping()
            assert isinstance(ws.remote, Endpoint)
            assert ws.remote.port == proxy.port
            await ws.aclose(4000, "enough")
        async with open_websocket_url(server, context, **options) as ws:
            await ws.send_message("bye")
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
        assert (caught.value.reason.code, caught.value.reason.reason) == (4001, "as you like")
        await trio.testing.wait_all_tasks_blocked()
        assert [reason.code for reason in closed] == [4000, 4001]
        name = "127.0.0.1" if scheme in ("socks4", "socks5") else "localhost"
        assert proxy.servers == [server.split("/")[2].replace("localhost", name)] * 2
        password = b"" if scheme.startswith("socks4") else PASSWORD
        assert proxy.credentials == [(USER, password)] * 2


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("http", trio.SocketStream),
        pytest.param("socks5", trio.SocketStream, marks=needs_python_socks),
        ("https", TlsStream),
    ],
)
async def test_open_proxy_stream_adds_no_layer(scheme: str, kind: type) -> None:
    async with served() as (nursery, server, _):
        proxy = await start_proxy(nursery, scheme)
        options = ClientOptions(**keywords(proxy, scheme))
        port = int(server.strip("/").rpartition(":")[2])
        target = Target("localhost", port, "/", False, None, None, options)
        async with await open_proxy_stream(parse_proxy(proxy.url(scheme)), target) as stream:
            assert type(stream) is kind


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 299 x\r\nA: b\r\n\r\n"],
)
async def test_proxy_any_2xx_opens_tunnel(answer: bytes) -> None:
    async with served() as (nursery, server, _):
        proxy = await start_http_proxy(nursery, answer)
        async with open_websocket_url(server, proxy=proxy.url("http")) as ws:
            await ws.send_message("hello")
            assert await ws.get_message() == "hello"


async def test_proxy_answer_byte_by_byte_opens_tunnel(nursery: trio.Nursery) -> None:
    async def run(client: Stream) -> None:
        async with client:
            await read_head(client)
            for at in range(len(OPENED)):
                await client.send_all(OPENED[at : at + 1])
                await trio.testing.wait_all_tasks_blocked()
            await read_head(client)
            await client.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    port = await start_raw_server(nursery, run)
    with pytest.raises(ConnectionRejected) as caught:
        async with open_websocket("example.com", 80, "/", use_ssl=False, proxy=local(port)):
            pass
    assert caught.value.status_code == 404
    nursery.cancel_scope.cancel()


async def test_proxy_headers_are_sent() -> None:
    async with served() as (nursery, server, _):
        proxy = await start_http_proxy(nursery)
        headers = (("User-Agent", "x"), (b"Proxy-Authorization", b"Bearer y"))
        async with open_websocket_url(
            server, proxy=proxy.url("http", USERINFO), proxy_headers=headers
        ):
            pass
        (request,) = proxy.requests
        assert request.endswith(b"\r\nUser-Agent: x\r\nProxy-Authorization: Bearer y\r\n\r\n")
        assert request.count(b"uthorization") == 1


@each_scheme
async def test_proxy_connection_has_local_address(scheme: str) -> None:
    async with served() as (nursery, server, _):
        proxy = await start_proxy(nursery, scheme)
        options = keywords(proxy, scheme)
        async with open_websocket_url(server, local_address="127.0.0.2", **options) as ws:
            assert ws.local.address.compressed == "127.0.0.2"  # type: ignore[union-attr] # of TCP


async def test_proxy_is_used_for_each_redirect() -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/":
            await request.reject(307, extra_headers=[(b"Location", b"/new")])
        else:
            await request.accept()

    async with served(handler) as (nursery, server, _):
        proxy = await start_http_proxy(nursery)
        async with open_websocket_url(server, proxy=proxy.url("http"), max_redirects=1) as ws:
            assert ws.path == "/new"
        assert len(proxy.servers) == 2


async def test_proxy_early_answer_of_server_is_kept(nursery: trio.Nursery) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000

    async def run(client: Stream) -> None:
        async with client:
            await read_head(client)
            await client.send_all(OPENED + busy[:3000])
            await read_head(client)
            await client.send_all(busy[3000:])

    proxy = local(await start_raw_server(nursery, run))
    with pytest.raises(ConnectionRejected) as caught:
        async with open_websocket(
            "example.com", 80, "/", use_ssl=False, proxy=proxy, receive_buffer_size=100
        ):
            pass
    assert (caught.value.status_code, caught.value.body) == (503, b"x" * 5000)
    nursery.cancel_scope.cancel()


async def test_proxy_stream_after_early_bytes_is_usable(nursery: trio.Nursery) -> None:
    async def run(client: Stream) -> None:
        async with client:
            await read_head(client)
            await client.send_all(OPENED + b"early")
            await client.send_all(await receive_exactly(client, 4))

    proxy = local(await start_raw_server(nursery, run))
    options = ClientOptions(proxy=proxy)
    target = Target("example.com", 80, "/", False, None, None, options)
    async with await open_proxy_stream(parse_proxy(proxy), target) as stream:
        assert await receive_exactly(stream, 3) == b"ear"
        assert await receive_exactly(stream, 2) == b"ly"
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"late")
        assert await receive_exactly(stream, 4) == b"late"
    nursery.cancel_scope.cancel()


async def test_proxy_bytes_before_tls_are_refused(nursery: trio.Nursery) -> None:
    proxy = await start_answering(nursery, OPENED + b"hello")
    reason = "sent 5 bytes after its answer, before TLS began"
    exc = await assert_fails("wss://example.com/", reason, proxy=proxy)
    assert type(exc) is ProxyError
    nursery.cancel_scope.cancel()


async def start_answering(nursery: trio.Nursery, answer: bytes, *, use_tls: bool = False) -> str:
    """Start a server that reads a head and sends these bytes. Return its URL as a proxy."""

    async def run(client: Stream) -> None:
        async with client:
            await read_head(client)
            await client.send_all(answer)

    return local(await start_raw_server(nursery, run, use_tls=use_tls))


# Failures


async def test_proxy_refuses_raises_proxy_error(nursery: trio.Nursery) -> None:
    proxy = await start_http_proxy(nursery, has_password=True)
    for userinfo, hint in (("", "it wants"), ("u:p@", "it rejected the")):
        exc = await fails(
            "ws://example.com/",
            f"the proxy 127.0.0.1, port {proxy.port}, refused a tunnel to example.com:80: "
            f"HTTP status 407 Proxy Authentication Required ({hint} credentials)",
            proxy=proxy.url("http", userinfo),
        )
        assert exc.proxy == proxy.url("http")
        assert exc.status_code == 407
        assert (b"proxy-authenticate", b'Basic realm="proxy"') in exc.headers
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [101, 302, 403, 503])
async def test_proxy_status_not_2xx_raises_proxy_error(nursery: trio.Nursery, status: int) -> None:
    answer = b"HTTP/1.1 %d x\r\nLocation: ws://example.com/\r\nContent-Length: 0\r\n\r\n" % status
    proxy = await start_http_proxy(nursery, answer)
    exc = await fails("ws://example.com/", proxy=proxy.url("http"), max_redirects=3)
    assert exc.status_code == (None if status == 101 else status)
    assert len(proxy.requests) == 1
    nursery.cancel_scope.cancel()


async def test_proxy_error_page_is_awaited_a_second(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async def run(client: Stream) -> None:
        await read_head(client)
        await client.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nfirst")
        assert not await client.receive_some()  # it never sends the rest
        await client.aclose()

    mock_clock.autojump_threshold = 0.2
    proxy = local(await start_raw_server(nursery, run))
    exc = await fails("ws://example.com/", "HTTP status 403 No: first", proxy=proxy)
    assert exc.status_code == 403
    assert trio.current_time() == pytest.approx(1, abs=0.1)
    nursery.cancel_scope.cancel()


async def test_proxy_lost_in_error_page_raises_proxy_error(nursery: trio.Nursery) -> None:
    async def run(client: Stream) -> None:
        await read_head(client)
        await client.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        reset(client)

    proxy = local(await start_raw_server(nursery, run))
    exc = await fails("ws://example.com/", "HTTP status 403 No", proxy=proxy)
    assert exc.status_code == 403
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_unreachable_raises_proxy_error(unused_port: int, scheme: str) -> None:
    exc = await fails(
        "wss://example.com/",
        f"can't connect to the proxy 127.0.0.1, port {unused_port}: Connection refused",
        proxy=local(unused_port, scheme),
    )
    assert exc.errno == 111
    assert isinstance(exc.__cause__, ConnectionRefusedError)
    assert exc.proxy == local(unused_port, scheme)
    assert exc.status_code is exc.socks_reply is None


@pytest.fixture
async def unused_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


@each_scheme
async def test_proxy_name_not_found_raises_proxy_error(scheme: str) -> None:
    Names(error=OSError(-2, "unknown"))
    exc = await fails("ws://127.0.0.1/", "can't connect to the proxy", proxy=f"{scheme}://proxy")
    assert exc.errno == -2


@pytest.mark.parametrize("ends", ["eof", "reset"])
async def test_proxy_lost_before_answer_raises_proxy_error(
    nursery: trio.Nursery, ends: str
) -> None:
    async def run(client: Stream) -> None:
        await read_head(client)
        if ends == "reset":
            reset(client)
        else:
            await client.aclose()

    port = await start_raw_server(nursery, run)
    reason = "closed the connection" if ends == "eof" else "was lost before it answered: Connection"
    exc = await fails(
        "ws://example.com/", f"proxy 127.0.0.1, port {port}, {reason}", proxy=local(port)
    )
    assert isinstance(exc.__cause__, ConnectionResetError) == (ends == "reset")
    assert bool(exc.errno) == (ends == "reset")
    nursery.cancel_scope.cancel()


async def test_proxy_answer_before_request_is_taken(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(client: Stream) -> None:
        assert isinstance(client, trio.SocketStream)
        async with client:
            await client.socket.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    async def broken_pipe(self: object, data: object) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError from BrokenPipeError(32, "pipe")

    proxy = local(await start_raw_server(nursery, run))
    monkeypatch.setattr(trio.SocketStream, "send_all", broken_pipe)
    exc = await fails("ws://example.com/", "HTTP status 403 No", proxy=proxy)
    assert exc.status_code == 403
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("scheme", "answers_tls", "reason"),
    [
        ("https", False, " (does the proxy expect http:?)"),
        ("http", True, "(does the proxy expect https:?)"),
    ],
)
async def test_proxy_wrong_scheme_has_hint(
    nursery: trio.Nursery, scheme: str, answers_tls: bool, reason: str
) -> None:
    async def run(client: Stream) -> None:
        async with client:
            await client.receive_some()
            # An alert of TLS, or a response of HTTP.
            await client.send_all(
                b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"
                if answers_tls
                else b"HTTP/1.1 400 Bad\r\n\r\n"
            )

    proxy = local(await start_raw_server(nursery, run), scheme)
    await fails("ws://example.com/", reason, proxy=proxy)
    nursery.cancel_scope.cancel()


async def test_proxy_certificate_not_trusted_raises_proxy_error(nursery: trio.Nursery) -> None:
    proxy = await start_proxy(nursery, "https")
    exc = await fails(
        "ws://example.com/",
        f"no TLS with the proxy 127.0.0.1, port {proxy.port}: certificate verify failed",
        proxy=proxy.url("https"),
    )
    assert isinstance(exc.__cause__, ssl.SSLCertVerificationError)
    assert exc.errno is None
    assert not proxy.requests
    nursery.cancel_scope.cancel()


async def test_proxy_certificate_of_server_not_trusted_is_no_proxy_error() -> None:
    async with served(is_secure=True) as (nursery, server, _):
        for scheme in HttpProxy.schemes:
            proxy = await start_proxy(nursery, scheme)
            exc = await assert_fails(server, "no TLS with localhost", **keywords(proxy, scheme))
            assert type(exc) is ConnectionFailed


# Time-outs


@each_scheme
async def test_connect_timeout_while_proxy_hangs_in_tcp(mock_clock: MockClock, scheme: str) -> None:
    Names()  # this resolver never answers
    mock_clock.autojump_threshold = 0.01
    with pytest.raises(ConnectionTimeout) as caught:
        async with open_websocket(
            "127.0.0.1", 80, "/", use_ssl=True, proxy=f"{scheme}://proxy:1", connect_timeout=7
        ):
            pass
    expected = "no connection to 127.0.0.1:80 through the proxy proxy, port 1, within 7 s"
    assert str(caught.value) == expected


@each_scheme
async def test_connect_timeout_while_proxy_hangs_in_its_protocol(
    nursery: trio.Nursery, mock_clock: MockClock, scheme: str
) -> None:
    await hang(nursery, mock_clock, scheme, use_tls=scheme == "https")


async def test_connect_timeout_while_proxy_hangs_in_tls(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    await hang(nursery, mock_clock, "https", use_tls=False)


async def hang(nursery: trio.Nursery, mock_clock: MockClock, scheme: str, *, use_tls: bool) -> None:
    """Connect to a proxy that accepts TCP, and perhaps TLS, and sends nothing more."""

    async def run(client: Stream) -> None:
        async with client:
            with contextlib.suppress(trio.BrokenResourceError):
                while await client.receive_some():
                    pass
        is_closed.set()

    is_closed = trio.Event()
    port = await start_raw_server(nursery, run, use_tls=use_tls)
    mock_clock.autojump_threshold = 0.2
    options: Any = {"proxy_ssl_context": CLIENT} if scheme == "https" else {}
    with pytest.raises(ConnectionTimeout, match=f"through the proxy 127.0.0.1, port {port},"):
        async with open_websocket(
            "127.0.0.1",
            80,
            "/",
            use_ssl=False,
            proxy=local(port, scheme),
            connect_timeout=7,
            **options,
        ):
            pass
    assert trio.current_time() == pytest.approx(7, abs=0.1)
    await is_closed.wait()
    nursery.cancel_scope.cancel()


async def test_connect_timeout_of_server_does_not_name_proxy(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    proxy = await start_http_proxy(nursery)
    silent = await start_raw_server(nursery, _read_to_end)
    mock_clock.autojump_threshold = 0.2
    with pytest.raises(ConnectionTimeout) as caught:
        async with open_websocket_url(url(silent), proxy=proxy.url("http"), connect_timeout=7):
            pass
    assert str(caught.value) == f"no connection to 127.0.0.1:{silent} within 7 s"
    nursery.cancel_scope.cancel()


async def _read_to_end(stream: Stream) -> None:
    async with stream:
        while await stream.receive_some():
            pass


# Cancellation and KeyboardInterrupt


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


async def interrupt_at(
    step: int, action: Callable[[], object], opening: Callable[[], Awaitable[None]]
) -> bool:
    """Open a connection, and call the action at a checkpoint. Return True if it was reached."""
    steps = Steps()
    trigger = Trigger(step + 1, action)
    steps.triggers.append(trigger)
    trio.lowlevel.add_instrument(steps)
    try:
        await opening()
    finally:
        trio.lowlevel.remove_instrument(steps)
    return trigger.fired_at is not None


async def wait_nothing_left(proxy: Any, before: set[str]) -> None:
    """Wait until the proxy has no clients, and no descriptor is open that was not open before.

    The server, which is also in this process, and a thread that resolves a name, may end later than
    the proxy.
    """
    with trio.fail_after(30):
        while proxy.clients or not descriptors() <= before:
            await trio.lowlevel.checkpoint()


@pytest.mark.no_cover
@each_security
@each_scheme
async def test_open_websocket_cancelled_at_each_checkpoint_leaves_nothing(
    scheme: str, is_secure: bool
) -> None:
    async with served(is_secure=is_secure) as (nursery, server, context):
        proxy = await start_proxy(nursery, scheme, has_password=True)
        options = keywords(proxy, scheme, USERINFO)

        async def opening() -> None:
            with scope:
                async with open_websocket_url(server, context, **options):
                    pass

        before = descriptors()
        for step in itertools.count():
            scope = trio.CancelScope()
            is_reached = await interrupt_at(step, scope.cancel, opening)
            await wait_nothing_left(proxy, before)
            if not is_reached:
                break
        assert step > 10


@pytest.mark.no_cover
@each_scheme
def test_open_websocket_interrupted_at_each_checkpoint_leaves_nothing(scheme: str) -> None:
    async def main() -> None:
        async with served(is_secure=True) as (nursery, server, context):
            proxy = await start_proxy(nursery, scheme, has_password=True)
            options = keywords(proxy, scheme, USERINFO)

            async def opening() -> None:
                async with open_websocket_url(server, context, **options):
                    pass

            before = descriptors()
            for step in itertools.count():
                is_reached = False
                try:
                    is_reached = await interrupt_at(step, interrupt, opening)
                    await trio.lowlevel.checkpoint()  # if it came when the call did not wait again
                except KeyboardInterrupt:
                    is_reached = True
                await wait_nothing_left(proxy, before)
                if not is_reached:
                    break
            assert step > 10

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    trio.run(main)


# The environment


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


@each_security
async def test_proxy_env_uses_environment_at_each_attempt(
    environ: pytest.MonkeyPatch, is_secure: bool
) -> None:
    async with served(is_secure=is_secure) as (nursery, server, context):
        proxy = await start_http_proxy(nursery)
        used = []
        for name, value in (
            ("HTTP_PROXY", ""),
            ("HTTPS_PROXY" if is_secure else "HTTP_PROXY", f"127.0.0.1:{proxy.port}"),
            ("NO_PROXY", "localhost"),
        ):
            environ.setenv(name, value)
            async with open_websocket_url(server, context, proxy="env"):
                used.append(len(proxy.servers))
        assert used == [0, 1, 1]


async def test_proxy_env_is_chosen_for_each_hop(environ: pytest.MonkeyPatch) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/":
            location = f"ws://127.0.0.1:{port}/new".encode()
            await request.reject(307, extra_headers=[(b"Location", location)])
        else:
            await request.accept()

    async with served(handler) as (nursery, server, _):
        port = server.strip("/").rpartition(":")[2]
        proxy = await start_http_proxy(nursery)
        environ.setenv("all_proxy", proxy.url("http"))
        environ.setenv("no_proxy", "127.0.0.1")
        async with open_websocket_url(server, proxy="env", max_redirects=1) as ws:
            assert ws.remote.port == int(port)  # type: ignore[union-attr] # of TCP
        assert len(proxy.servers) == 1


@pytest.mark.parametrize("scheme", ["http", pytest.param("socks5", marks=needs_python_socks)])
async def test_proxy_env_ignores_options_that_do_not_apply(
    environ: pytest.MonkeyPatch, scheme: str
) -> None:
    async with served() as (nursery, server, _):
        proxy = await start_proxy(nursery, scheme)
        options: Any = {"proxy_headers": [("A", "b")], "proxy_ssl_context": CLIENT, "proxy": "env"}
        async with open_websocket_url(server, **options):
            pass
        environ.setenv("all_proxy", proxy.url(scheme))
        async with open_websocket_url(server, **options):
            pass
        assert len(proxy.servers) == 1


async def test_proxy_env_invalid_value_names_variable(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("http_proxy", "ftp://u:s3cr3t@proxy")
    with pytest.raises(ValueError, match="the environment variable http_proxy") as caught:
        async with open_websocket("127.0.0.1", 1, "/", use_ssl=False, proxy="env"):
            pass
    assert "s3cr3t" not in str(caught.value)


# Wrong options


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"proxy": "proxy:3128"}, "proxy must be the URL of a proxy, not 'proxy:3128'"),
        ({"proxy": "ENV"}, "proxy must be the URL of a proxy, not 'ENV'"),
        ({"proxy_headers": []}, "proxy_headers must go with an http: or https: proxy"),
        ({"proxy_ssl_context": CLIENT}, "proxy_ssl_context must go with an https: proxy"),
        (
            {"proxy": "http://p", "proxy_ssl_context": CLIENT},
            "proxy_ssl_context must go with an https: proxy, but the proxy is a http: one",
        ),
        (
            {"proxy": "http://p", "proxy_headers": [("a b", "s3cr3t")]},
            "proxy_headers can't be sent in an HTTP request: a b",
        ),
        (
            {"proxy": "http://p", "proxy_headers": [("a", "s3cr3t\xff")]},
            "proxy_headers must be a list of",
        ),
        ({"proxy": "http://p", "unix_socket": "/s"}, "pass at most one of"),
    ],
)
def test_open_websocket_wrong_proxy_options_raise(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        open_websocket("127.0.0.1", 1, "/", use_ssl=False, **options)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("option", [{"proxy_headers": []}, {"proxy_ssl_context": CLIENT}])
@needs_python_socks
def test_open_websocket_options_of_http_with_socks_raise(option: Any) -> None:
    with pytest.raises(ValueError, match="but the proxy is a socks5: one"):
        open_websocket("127.0.0.1", 1, "/", use_ssl=False, proxy="socks5://p", **option)


# Credentials

SECRET = "s3cr3t"


def reachable(exc: BaseException | None, seen: dict[int, object]) -> Iterator[str]:
    """Give the texts of everything that can be reached from an exception, without its frames."""
    found: list[object] = [exc]
    while found:
        item = found.pop()
        if id(item) in seen or isinstance(item, (type, type(os))):
            continue
        seen[id(item)] = item
        yield repr(item)
        yield str(item)
        if isinstance(item, BaseException):
            found += [item.args, vars(item), item.__cause__, item.__context__]
            found += [getattr(item, "object", None), getattr(item, "exceptions", None)]
        elif isinstance(item, dict):
            found += [*item, *item.values()]
        elif isinstance(item, (list, tuple)):
            found += item


@each_security
@each_scheme
@pytest.mark.parametrize("failure", ["unreachable", "wrong password", "refuses", "lost", "garbage"])
async def test_proxy_credentials_are_nowhere(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    unused_port: int,
    scheme: str,
    is_secure: bool,
    failure: str,
) -> None:
    async def misbehave(client: Stream) -> None:
        async with client:
            data = await client.receive_some()
            if failure == "garbage":
                await client.send_all(bytes(data) * 3 + b"\r\n\r\n" + bytes(100))

    caplog.set_level(logging.DEBUG)
    if failure == "unreachable":
        port = unused_port
    elif failure in ("lost", "garbage"):
        port = await start_raw_server(nursery, misbehave, use_tls=scheme == "https")
    else:
        answer: Any = b"HTTP/1.1 502 no\r\n\r\n" if scheme in HttpProxy.schemes else 0x5B
        arguments = {"has_password": True}
        if failure == "refuses":
            key = "answer" if scheme in HttpProxy.schemes else "reply"
            arguments = {key: answer}
        port = (await start_proxy(nursery, scheme, **arguments)).port
    options: Any = {"proxy_ssl_context": CLIENT} if scheme == "https" else {}
    proxy = f"{scheme}://{SECRET}user:{SECRET}p%C3%A4ss@127.0.0.1:{port}"
    manager = open_websocket(
        "127.0.0.1", 1, "/", use_ssl=is_secure, proxy=proxy, connect_timeout=30, **options
    )
    with pytest.raises(ProxyError) as caught:
        await manager.__aenter__()
    exc = caught.value
    texts = [*reachable(exc, {}), caplog.text, repr(ClientOptions(proxy=proxy, **options))]
    # Programs show the local variables of a traceback in a report.
    shown = traceback.TracebackException.from_exception(exc, capture_locals=True)
    for frame in shown.stack:
        if frame.filename != __file__ and failure != "garbage":
            texts += [f"{name}={value}" for name, value in (frame.locals or {}).items()]
    for text in texts:
        for secret in (SECRET, "czNjcjN0"):  # as it is, and how base64 of it begins
            assert secret not in text, text
    assert exc.proxy == f"{scheme}://127.0.0.1:{port}"
    nursery.cancel_scope.cancel()


@each_scheme
async def test_proxy_error_is_freed_without_garbage_collector(
    unused_port: int, scheme: str
) -> None:
    proxy = local(unused_port, scheme)
    gc.collect()
    gc.disable()
    try:
        try:
            async with open_websocket("127.0.0.1", 1, "/", use_ssl=False, proxy=proxy):
                pass
        except ProxyError as exc:
            error = weakref.ref(exc)
        assert error() is None
    finally:
        gc.enable()
