"""The routes of a client over sockets: Unix sockets, local addresses, and names for TLS."""

from __future__ import annotations

import functools
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import pytest
import trio
import trio.testing
import trustme

from support.relay import RELAY
from support.servers import Handler, assert_fails, echo, serve
from support.streams import socket_pair, tls_contexts
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    Endpoint,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    open_websocket_url,
)

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix-domain sockets")
WS, WSS = "ws://example.org/", "wss://example.org/"
each_scheme = pytest.mark.parametrize("url", [WS, WSS])


def context(url: str) -> ssl.SSLContext | None:
    return tls_contexts()[0] if url == WSS else None


async def check_echo(ws: WebSocketConnection) -> None:
    await ws.send_message(b"x" * 2**17)
    assert await ws.get_message() == b"x" * 2**17


# -- Unix sockets


async def serve_unix(
    nursery: trio.Nursery, path: str | bytes, url: str, handler: Handler = echo
) -> None:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(path)
    sock.listen()
    listener: trio.abc.Listener[trio.abc.Stream] = trio.SocketListener(sock)
    if url == WSS:
        listener = trio.SSLListener(listener, tls_contexts()[1], https_compatible=True)
    await nursery.start(WebSocketServer(handler, [listener]).run)


@unix
@each_scheme
@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_open_websocket_url_unix_socket_carries_messages(
    nursery: trio.Nursery, tmp_path: Path, url: str, kind: Callable[[str], Any]
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        hosts.extend(value for name, value in request.headers if name == b"host")
        await echo(request)

    hosts: list[bytes] = []
    path = str(tmp_path / "chat.sock")
    await serve_unix(nursery, path, url, handler)
    async with open_websocket_url(url, context(url), unix_socket=kind(path)) as ws:
        await check_echo(ws)
        assert ws.remote == path
        assert ws.url == url
        assert (ws.ssl_object is not None) == (url == WSS)
    assert hosts == [b"example.org"]


@unix
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
@pytest.mark.parametrize("kind", [str, os.fsencode])
async def test_open_websocket_url_unix_socket_abstract_name_works(
    nursery: trio.Nursery, kind: Callable[[str], Any]
) -> None:
    name = f"\0trio-websocket-{os.getpid()}"
    await serve_unix(nursery, name, WS)
    async with open_websocket_url(WS, unix_socket=kind(name)) as ws:
        await check_echo(ws)
        assert ws.remote == "@" + name[1:]


@unix
@each_scheme
async def test_open_websocket_url_unix_socket_missing_names_it(tmp_path: Path, url: str) -> None:
    path = tmp_path / "chat.sock"
    error = await assert_fails(url, ssl_context=context(url), unix_socket=path)
    assert str(error) == f"can't connect to {str(path)!r}: No such file or directory"
    assert error.errno == 2


@unix
async def test_open_websocket_url_unix_socket_name_too_long_is_connection_failed() -> None:
    await assert_fails(WS, "path too long", unix_socket="x" * 200)


# -- pipes of a process


@pytest.mark.parametrize("is_tls", [False, True])
async def test_open_websocket_url_over_pipes_of_process_carries_messages(
    nursery: trio.Nursery, is_tls: bool
) -> None:
    async def open_pipes(host: str, port: int) -> trio.abc.Stream:
        command = [sys.executable, "-c", RELAY, "-W", f"{host}:{port}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = await processes.start(functools.partial(trio.run_process, command, **pipes))
        return trio.StapledStream(process.stdin, process.stdout)

    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message(await ws.get_message())
        await ws.aclose(4000, await ws.get_message(decode=True))

    compression = PerMessageDeflate()
    options: Any = {"compression": compression, "max_message_size": 2**23}
    serving, trusting = (tls_contexts()[1], tls_contexts()[0]) if is_tls else (None, None)
    server = await serve(nursery, handler, serving, **options)
    url = f"{'wss' if is_tls else 'ws'}://127.0.0.1:{server.port}/"
    message = os.urandom(2**20) * 8
    async with trio.open_nursery() as processes:  # each process ends by itself
        async with open_websocket_url(url, trusting, stream=open_pipes, **options) as ws:
            await ws.send_message(message)
            assert await ws.get_message() == message
            await ws.send_message("enough")
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
        assert caught.value.reason == CloseReason(4000, "enough")
        with pytest.raises(LookupError):
            async with open_websocket_url(url, trusting, stream=open_pipes):
                raise LookupError
        with trio.CancelScope() as scope:
            async with open_websocket_url(url, trusting, stream=open_pipes):
                scope.cancel()
                await trio.lowlevel.checkpoint()


# -- kernel sockets as streams


@each_scheme
async def test_open_websocket_url_over_socket_pair_carries_messages(
    nursery: trio.Nursery, url: str
) -> None:
    ours, theirs = await socket_pair()
    if url == WSS:
        theirs = trio.SSLStream(theirs, tls_contexts()[1], server_side=True, https_compatible=True)

    class Once(trio.abc.Listener[trio.abc.Stream]):
        has_accepted = False

        async def accept(self) -> trio.abc.Stream:
            if self.has_accepted:
                await trio.sleep_forever()
            self.has_accepted = True
            return theirs

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    await nursery.start(WebSocketServer(echo, [Once()]).run)
    assert isinstance(ours, trio.SocketStream)
    async with open_websocket_url(url, context(url), stream=ours) as ws:
        await check_echo(ws)
        assert isinstance(ws.ssl_object, ssl.SSLObject) == (url == WSS)
    assert ours.socket.fileno() == -1


async def test_open_websocket_url_over_tcp_stream_function_reports_endpoints(
    nursery: trio.Nursery,
) -> None:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        assert (host, port) == ("example.org", 443)
        return await trio.open_tcp_stream("127.0.0.1", server.port)

    server = await serve(nursery, echo, tls_contexts()[1])
    async with open_websocket_url(WSS, tls_contexts()[0], stream=open_stream) as ws:
        await check_echo(ws)
        assert ws.remote == Endpoint("127.0.0.1", server.port, True)


async def test_open_websocket_url_tls_in_tls_over_tcp_reports_endpoints(
    nursery: trio.Nursery,
) -> None:
    async def open_tls(host: str, port: int) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(host, port)
        outer = trio.SSLStream(stream, trusting, server_hostname="localhost")
        opened.append(outer)
        return outer

    opened: list[Any] = []
    trusting, serving = tls_contexts()
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = tcp.socket.getsockname()[1]
    listener: Any = tcp
    for _ in range(2):
        listener = trio.SSLListener(listener, serving, https_compatible=True)
    await nursery.start(WebSocketServer(echo, [listener]).run)
    async with open_websocket_url(f"wss://127.0.0.1:{port}/", trusting, stream=open_tls) as ws:
        await check_echo(ws)
        assert ws.remote == Endpoint("127.0.0.1", port, True)
        assert ws.ssl_object is not opened[0].pending.__self__
    assert opened[0].transport_stream.socket.fileno() == -1


# -- local addresses


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only 127.0.0.1")
async def test_open_websocket_url_local_address_is_where_it_comes_from(
    nursery: trio.Nursery,
) -> None:
    server = await serve(nursery)
    url = f"ws://127.0.0.1:{server.port}/"
    async with open_websocket_url(url, local_address="127.0.0.2") as ws:
        assert str(ws.local).startswith("127.0.0.2:")
        await check_echo(ws)


async def test_open_websocket_url_local_address_of_another_machine_is_connection_failed(
    nursery: trio.Nursery,
) -> None:
    server = await serve(nursery)
    url = f"ws://127.0.0.1:{server.port}/"
    error = await assert_fails(url, local_address="192.0.2.1")
    assert f"can't connect to 127.0.0.1, port {server.port}" in str(error)


async def test_open_websocket_url_without_local_address_passes_none(
    nursery: trio.Nursery,
) -> None:
    server = await serve(nursery)
    opening = mock.AsyncMock(side_effect=trio.open_tcp_stream)
    with mock.patch("trio.open_tcp_stream", opening):
        async with open_websocket_url(f"ws://127.0.0.1:{server.port}/"):
            pass
    opening.assert_awaited_once_with("127.0.0.1", server.port)


# -- names for TLS


async def serve_names(nursery: trio.Nursery, *names: str) -> tuple[str, ssl.SSLContext, list[Any]]:
    """Serve TLS with a certificate for the names. Return the URL, a context, and the SNI seen."""
    seen: list[Any] = []
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.sni_callback = lambda tls, name, context: seen.append(name)
    authority = trustme.CA()
    authority.issue_cert(*names).configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = await serve(nursery, echo, serving)
    return f"wss://127.0.0.1:{server.port}/", trusting, seen


@pytest.mark.parametrize(
    ("given", "certified", "sent"),
    [
        ("chat.example", "chat.example", "chat.example"),
        ("chat.example.", "chat.example", "chat.example"),
        ("straße.example", "xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("192.0.2.1", "192.0.2.1", None),
        ("2001:db8::1", "2001:db8::1", None),
        ("fe80::1%lo", "fe80::1", None),
    ],
)
@pytest.mark.parametrize("is_socket", [True, False])
async def test_open_websocket_url_server_hostname_is_sent_and_checked(
    nursery: trio.Nursery, given: str, certified: str, sent: str | None, is_socket: bool
) -> None:
    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        socket_stream = await trio.open_tcp_stream(host, port)
        return trio.StapledStream(socket_stream, socket_stream)

    url, trusting, seen = await serve_names(nursery, certified)
    keywords: Any = {} if is_socket else {"stream": open_stream}
    async with open_websocket_url(url, trusting, server_hostname=given, **keywords) as ws:
        await check_echo(ws)
        assert isinstance(ws.remote, Endpoint) == is_socket
    assert seen == [sent]


async def test_open_websocket_url_server_hostname_wrong_fails(nursery: trio.Nursery) -> None:
    url, trusting, seen = await serve_names(nursery, "127.0.0.1")
    text = "certificate is not valid for 'chat.example'"
    await assert_fails(url, text, ssl_context=trusting, server_hostname="chat.example")
    assert seen == ["chat.example"]


# -- the default context


async def test_open_websocket_url_default_context_is_made_once(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(authority: trustme.CA) -> ssl.SSLContext:
        path = tmp_path / f"{id(authority)}.pem"
        authority.cert_pem.write_to_path(str(path))
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(serving)
        server: WebSocketServer = await serve(nursery, echo, serving)
        async with open_websocket_url(f"wss://127.0.0.1:{server.port}/") as ws:
            assert ws.ssl_object is not None
            return ws.ssl_object.context

    one, other = trustme.CA(), trustme.CA()
    context_of_one = await connect(one)
    assert await connect(one) is context_of_one
    # Tests of applications set these variables, or replace the function.
    assert await connect(other) is not context_of_one
    special = ssl.create_default_context(cadata=one.cert_pem.bytes().decode())
    with mock.patch("ssl.create_default_context", return_value=special):
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        one.issue_cert("127.0.0.1").configure_cert(serving)
        server = await serve(nursery, echo, serving)
        async with open_websocket_url(f"wss://127.0.0.1:{server.port}/") as ws:
            assert ws.ssl_object is not None
            assert ws.ssl_object.context is special
