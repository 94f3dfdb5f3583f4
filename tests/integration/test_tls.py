"""TLS: certificates, peers without TLS, and TLS over other transports."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from support.connections import open_client, open_pair
from support.frames import CLOSE, close_payload
from support.listeners import MemoryListener
from support.peer import REQUEST, RawPeer, read_head, start_raw_server
from support.servers import Handler, assert_fails, echo, serve
from support.streams import memory_pair, over_tls, reset, tcp_pair, tls_contexts
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    Endpoint,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
    wrap_server_stream,
)

if TYPE_CHECKING:
    from trio.abc import Stream


async def serve_tls(
    nursery: trio.Nursery,
    handler: Handler = echo,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> WebSocketServer:
    return await serve(nursery, handler, context or tls_contexts()[1], **options)


def url(server: WebSocketServer, host: str = "127.0.0.1") -> str:
    return f"wss://{host}:{server.port}/"


async def assert_serves(server: WebSocketServer) -> None:
    with trio.fail_after(30):
        async with open_websocket_url(url(server), tls_contexts()[0]) as ws:
            await ws.send_message("still there?")
            assert await ws.get_message() == "still there?"


# -- over TCP


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_open_websocket_url_wss_carries_messages(nursery: trio.Nursery, host: str) -> None:
    server = await serve_tls(nursery)
    async with open_websocket_url(url(server, host), tls_contexts()[0]) as ws:
        await ws.send_message("x" * 2**17)
        assert await ws.get_message() == "x" * 2**17


async def test_open_websocket_use_ssl_takes_context(nursery: trio.Nursery) -> None:
    server = await serve_tls(nursery)
    context = tls_contexts()[0]
    async with open_websocket("localhost", server.port, "/", use_ssl=context) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"


@pytest.mark.parametrize("as_url", [True, False])
async def test_open_websocket_url_trusts_system_certificates(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_url: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = await serve_tls(nursery, context=context)
    opening = (
        open_websocket_url(url(server))
        if as_url
        else open_websocket("127.0.0.1", server.port, "/", use_ssl=True)
    )
    async with opening as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"


async def test_open_websocket_url_wss_endpoints_are_secure(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        ends.extend([request.local, request.remote, ws.local, ws.remote])

    ends: list[object] = []
    server = await serve_tls(nursery, handler)
    here = Endpoint("127.0.0.1", server.port, True)
    assert server.listeners == [here]
    async with open_websocket_url(url(server), tls_contexts()[0]) as ws:
        assert ws.remote == here
        assert isinstance(ws.local, Endpoint)
        assert ws.local.is_ssl
        with pytest.raises(ConnectionClosed):
            await ws.get_message()
    assert ends == [here, ws.local, here, ws.local]


async def test_open_websocket_url_wss_sends_server_name(nursery: trio.Nursery) -> None:
    def note_name(tls: object, name: str, context: object) -> None:
        names.append(name)

    names: list[str] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.sni_callback = note_name
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = await serve_tls(nursery, context=context)
    async with open_websocket_url(url(server, "localhost"), trusting):
        pass
    assert names == ["localhost"]


async def test_connect_websocket_url_wss_rejection_is_received(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(403, body=b"no entry")

    server = await serve_tls(nursery, handler)
    with trio.fail_after(30), pytest.raises(ConnectionRejected) as caught:
        await connect_websocket_url(nursery, url(server), tls_contexts()[0])
    assert caught.value.body == b"no entry"


async def test_block_cancelled_over_tls_closes_with_1001(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        reasons.append(caught.value.reason)
        done.set()

    reasons: list[CloseReason | None] = []
    done = trio.Event()
    server = await serve_tls(nursery, handler)
    with trio.CancelScope() as scope:
        async with open_websocket_url(url(server), tls_contexts()[0]):
            scope.cancel()
            start = trio.current_time()
            await trio.sleep_forever()
    assert trio.current_time() - start < 30  # disconnect_timeout is 60 seconds
    with trio.fail_after(30):
        await done.wait()
    assert reasons == [CloseReason(1001, None)]


async def test_run_cancelled_over_tls_closes_with_1001() -> None:
    async with trio.open_nursery() as serving:
        server = await serve_tls(serving)
        async with trio.open_nursery() as own:
            ws = await connect_websocket_url(own, url(server), tls_contexts()[0])
            await ws.send_message("hello")
            await ws.get_message()
            serving.cancel_scope.cancel()
            with trio.CancelScope(shield=True), pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
    assert caught.value.reason == CloseReason(1001, None)


async def test_block_raises_over_tls_closes_with_1011(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        with pytest.raises(ConnectionClosed) as caught:
            await ws.get_message()
        reasons.append(caught.value.reason)

    reasons: list[CloseReason | None] = []
    server = await serve_tls(nursery, handler)
    with pytest.raises(LookupError):
        async with open_websocket_url(url(server), tls_contexts()[0]):
            raise LookupError
    assert reasons == [CloseReason(1011, None)]


# -- peers without TLS


async def test_open_websocket_url_unknown_authority_says_so(
    nursery: trio.Nursery,
) -> None:
    server = await serve_tls(nursery)
    error = await assert_fails(url(server))
    assert "certificate verify failed" in str(error)
    assert "issuer" in str(error)
    causes = [error.__cause__, getattr(error.__cause__, "__cause__", None)]
    assert any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes)
    await assert_serves(server)


async def test_open_websocket_url_certificate_of_other_host_says_so(
    nursery: trio.Nursery,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trusting = ssl.create_default_context()
    authority = trustme.CA()
    authority.issue_cert("other.example").configure_cert(context)
    authority.configure_trust(trusting)
    server = await serve_tls(nursery, context=context)
    error = await assert_fails(url(server, "localhost"), ssl_context=trusting)
    assert "certificate verify failed" in str(error)
    assert "localhost" in str(error)


async def test_open_websocket_url_wss_without_tls_says_so(nursery: trio.Nursery) -> None:
    async def speak_http(stream: Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some()

    port = await start_raw_server(nursery, speak_http)
    error = await assert_fails(f"wss://127.0.0.1:{port}/", ssl_context=tls_contexts()[0])
    assert "no TLS with 127.0.0.1" in str(error)
    assert "wrong version" in str(error).lower() or "record layer" in str(error).lower()


async def test_open_websocket_url_eof_during_tls_says_so(
    nursery: trio.Nursery,
) -> None:
    port = await start_raw_server(nursery, trio.abc.ReceiveStream.receive_some)
    error = await assert_fails(f"wss://127.0.0.1:{port}/", ssl_context=tls_contexts()[0])
    assert "no TLS with 127.0.0.1" in str(error)


async def test_open_websocket_url_reset_during_tls_says_so(nursery: trio.Nursery) -> None:
    async def fail(stream: Stream) -> None:
        await stream.receive_some()
        reset(stream)

    port = await start_raw_server(nursery, fail)
    error = await assert_fails(f"wss://127.0.0.1:{port}/", ssl_context=tls_contexts()[0])
    assert "Connection reset by peer" in str(error)


async def test_server_client_without_tls_is_closed(nursery: trio.Nursery) -> None:
    server = await serve_tls(nursery)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(REQUEST)
        with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
    await assert_serves(server)


async def test_server_client_silent_during_tls_is_closed(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    server = await serve_tls(nursery, connect_timeout=10)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(10)
        assert await stream.receive_some() == b""
    await assert_serves(server)


@pytest.mark.parametrize("moment", ["before TLS", "after TLS", "after the request"])
async def test_server_client_resets_goes_on(nursery: trio.Nursery, moment: str) -> None:
    server = await serve_tls(nursery)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    if moment != "before TLS":
        tls = trio.SSLStream(stream, tls_contexts()[0], server_hostname="localhost")
        await tls.do_handshake()
        if moment == "after the request":
            await tls.send_all(REQUEST)
            await read_head(tls)
    reset(stream)
    await trio.testing.wait_all_tasks_blocked()
    await assert_serves(server)


# -- mutual TLS


@contextlib.asynccontextmanager
async def mutual_server() -> Any:
    """Start a server that requires client certificates. Yield it, its CA and the messages."""

    async def handler(request: WebSocketRequest) -> None:
        called.append(request.path)
        await echo(request)

    called: list[str] = []
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with trio.open_nursery() as nursery:
        yield await serve_tls(nursery, handler, context), authority, called
        nursery.cancel_scope.cancel()


async def test_server_client_certificate_is_accepted() -> None:
    async with mutual_server() as (server, authority, called):
        context = ssl.create_default_context()
        authority.configure_trust(context)
        authority.issue_cert("client@example.org").configure_cert(context)
        async with open_websocket_url(url(server), context) as ws:
            await ws.send_message("hello")
            assert await ws.get_message() == "hello"
        assert called == ["/"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_server_client_without_certificate_is_refused(
    version: ssl.TLSVersion,
) -> None:
    async with mutual_server() as (server, authority, called):
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        authority.configure_trust(context)
        await assert_fails(url(server), ssl_context=context)
        authority.issue_cert("client@example.org").configure_cert(context)
        async with open_websocket_url(url(server), context):
            pass
        assert called == ["/"]


# -- over other transports


@pytest.mark.parametrize("https_compatible", [True, False])
async def test_wrap_streams_tls_in_memory_carries_messages(
    nursery: trio.Nursery, https_compatible: bool
) -> None:
    streams = await over_tls(*await memory_pair(), https_compatible=https_compatible)
    client, server = await open_pair(nursery, streams=streams)
    await client.send_message("x" * 2**17)
    assert await server.get_message() == "x" * 2**17
    await server.send_message(b"hello")
    assert await client.get_message() == b"hello"
    for ws in (client, server):
        assert isinstance(ws.local, str)
        assert isinstance(ws.remote, str)
    with trio.fail_after(30):
        await client.aclose()
    with pytest.raises(ConnectionClosed) as caught:
        await server.get_message()
    assert caught.value.reason == CloseReason(1000, None)


async def test_wrap_streams_do_tls_handshake(nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    ours, theirs = await memory_pair()
    client_stream = trio.SSLStream(ours, client_context, server_hostname="example.org")
    server_stream = trio.SSLStream(theirs, server_context, server_side=True)
    client, server = await open_pair(nursery, streams=(client_stream, server_stream))
    await client.send_message("hello")
    assert await server.get_message() == "hello"


async def test_wrap_client_stream_unverified_certificate_raises(
    nursery: trio.Nursery,
) -> None:
    ours, theirs = await memory_pair()
    stream = trio.SSLStream(ours, ssl.create_default_context(), server_hostname="example.org")
    served = trio.SSLStream(theirs, tls_contexts()[1], server_side=True)

    async def serve_it() -> None:
        with pytest.raises(ConnectionFailed):
            await wrap_server_stream(nursery, served)

    async with trio.open_nursery() as both:
        both.start_soon(serve_it)
        with pytest.raises(ConnectionFailed, match="certificate verify failed"):
            await wrap_client_stream(nursery, stream, "example.org", "/")


async def test_get_message_tls_eof_without_notify_says_why(nursery: trio.Nursery) -> None:
    ours, theirs = await tcp_pair()
    client, server = await over_tls(ours, theirs, https_compatible=False)
    ws, _ = await open_client(nursery, streams=(client, server))
    await theirs.aclose()
    with pytest.raises(ConnectionClosed) as caught:
        await ws.get_message()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006
    assert isinstance(caught.value.__cause__, (ssl.SSLError, EOFError))  # depends on OpenSSL


async def test_websocket_server_ssl_listener_on_memory_listener(nursery: trio.Nursery) -> None:
    client_context, server_context = tls_contexts()
    listener = MemoryListener()
    tls_listener = trio.SSLListener(listener, server_context)
    server: WebSocketServer = await nursery.start(WebSocketServer(echo, [tls_listener]).run)
    assert server.listeners == [repr(tls_listener)]
    with pytest.raises(RuntimeError, match="no port"):
        _ = server.port
    ours, theirs = await memory_pair()
    listener.connect(theirs)
    stream = trio.SSLStream(ours, client_context, server_hostname="example.org")
    async with trio.open_nursery() as own:
        ws = await wrap_client_stream(own, stream, "example.org", "/")
        assert ws.url == "wss://example.org/"
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        await ws.aclose()


@pytest.mark.usefixtures("patient_writer")
async def test_run_cancelled_ssl_listener_on_memory_sends_1001() -> None:
    client_context, server_context = tls_contexts()
    listener = MemoryListener()
    ours, theirs = await memory_pair()
    stream = trio.SSLStream(ours, client_context, server_hostname="example.org")
    async with trio.open_nursery() as serving:
        tls_listener = trio.SSLListener(listener, server_context)
        await serving.start(WebSocketServer(echo, [tls_listener]).run)
        listener.connect(theirs)
        await stream.send_all(REQUEST)
        _, rest = await read_head(stream)
        await trio.testing.wait_all_tasks_blocked()
        serving.cancel_scope.cancel()
    peer = RawPeer(stream, is_client=True, received=rest)
    assert await peer.receive() == (CLOSE, close_payload(1001), True, 0)
