"""A client follows redirects, over TCP, TLS and Unix-domain sockets."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from support.peer import read_head, start_raw_server
from support.proxies import local, start_http_proxy
from support.servers import answering, receive_to_end, serve
from support.streams import tls_contexts
from support.tls_peer import HOST, contexts
from trio_websocket import (
    ConnectionFailed,
    PerMessageDeflate,
    ProxyError,
    RedirectError,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
    open_websocket_url,
)

if TYPE_CHECKING:
    from trio.abc import Stream

LOCAL = "127.0.0.1"


async def redirecting(
    nursery: trio.Nursery, location: str, context: ssl.SSLContext | None = None
) -> WebSocketServer:
    """Start a server of the library that redirects each client."""

    async def handler(request: WebSocketRequest) -> None:
        await request.reject(307, extra_headers=[(b"Location", location.encode())], body=b"there")

    return await serve(nursery, handler, context)


async def recording(
    nursery: trio.Nursery, requests: list[WebSocketRequest], context: ssl.SSLContext | None = None
) -> WebSocketServer:
    """Start a server of the library that echoes, and notes each request."""

    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        protocols = request.proposed_subprotocols
        ws = await request.accept(subprotocol=protocols[0] if protocols else None)
        while True:
            await ws.send_message(await ws.get_message())

    return await serve(nursery, handler, context, compression=PerMessageDeflate())


async def test_open_websocket_url_follows_to_other_server(nursery: trio.Nursery) -> None:
    requests: list[WebSocketRequest] = []
    second = await recording(nursery, requests)
    target = f"http://user:other@{LOCAL}:{second.port}/new?a=b"
    first = await redirecting(nursery, target)
    async with open_websocket_url(
        f"ws://user:secret@{LOCAL}:{first.port}/",
        subprotocols=["chat"],
        compression=PerMessageDeflate(),
        extra_headers=[(b"X-Key", b"secret"), (b"Cookie", b"secret")],
        max_redirects=1,
    ) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        assert ws.url == f"ws://{LOCAL}:{second.port}/new?a=b"
        assert ws.subprotocol == "chat"
        assert ws.compression is not None
    (request,) = requests
    assert request.path == "/new?a=b"
    names = {name for name, _ in request.headers}
    assert not names & {b"authorization", b"cookie", b"x-key"}
    assert b"secret" not in b"".join(value for _, value in request.headers)


async def test_open_websocket_url_same_origin_keeps_headers(nursery: trio.Nursery) -> None:
    requests: list[WebSocketRequest] = []

    async def handler(request: WebSocketRequest) -> None:
        requests.append(request)
        if request.path == "/old":
            await request.reject(301, extra_headers=[(b"Location", b"new")])
        else:
            await request.accept()

    server = await serve(nursery, handler)
    async with open_websocket_url(
        f"ws://user:secret@{LOCAL}:{server.port}/old",
        extra_headers=[(b"X-Key", b"1")],
        max_redirects=1,
    ) as ws:
        assert ws.path == "/new"
    for name in (b"authorization", b"x-key"):
        values = [dict(request.headers).get(name) for request in requests]
        assert values[0] == values[1] is not None


# TLS


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Return the context of a server that the default context of clients trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOCAL, "localhost").configure_cert(context)
    return context


async def test_open_websocket_url_follows_from_plain_to_tls(
    nursery: trio.Nursery, trusted: ssl.SSLContext
) -> None:
    second = await serve(nursery, context=trusted)
    first = await redirecting(nursery, f"https://localhost:{second.port}/")
    url = f"ws://{LOCAL}:{first.port}/"
    async with open_websocket_url(url, max_redirects=1) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        assert ws.url == f"wss://localhost:{second.port}/"


async def test_open_websocket_url_from_plain_to_tls_on_default_ports_keeps_headers(
    nursery: trio.Nursery, trusted: ssl.SSLContext
) -> None:
    requests: list[WebSocketRequest] = []
    second = await recording(nursery, requests, trusted)
    first = await redirecting(nursery, "https://localhost/")
    ports = {80: first.port, 443: second.port}

    async def stream(host: str, port: int) -> Stream:
        return await trio.open_tcp_stream(LOCAL, ports[port])

    url = "ws://user:secret@localhost/"
    async with open_websocket_url(url, stream=stream, max_redirects=1) as ws:
        assert ws.url == "wss://localhost/"
    assert (b"host", b"localhost") in requests[0].headers
    assert b"authorization" in dict(requests[0].headers)


async def test_open_websocket_url_from_tls_to_plain_raises(nursery: trio.Nursery) -> None:
    requests: list[WebSocketRequest] = []
    second = await recording(nursery, requests)
    first = await redirecting(nursery, f"http://{LOCAL}:{second.port}/", tls_contexts()[1])
    url = f"wss://{LOCAL}:{first.port}/"
    with pytest.raises(RedirectError, match="from TLS to the plain ws:") as caught:
        async with open_websocket_url(url, tls_contexts()[0], max_redirects=9):
            pytest.fail("it is open")
    assert (caught.value.status_code, caught.value.body) == (307, b"there")
    assert caught.value.urls == (url,)
    assert requests == []


def noting_names(names: list[str | None]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts for a client and a server. The server notes the SNI of each client."""
    client, server = contexts()

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    server.sni_callback = note
    return client, server


async def test_server_hostname_is_not_used_at_other_origin(nursery: trio.Nursery) -> None:
    names: list[str | None] = []
    client, server = noting_names(names)
    second = await serve(nursery, context=server)
    first = await redirecting(nursery, f"//localhost:{second.port}/", server)
    url = f"wss://{LOCAL}:{first.port}/"
    with pytest.raises(ConnectionFailed, match="certificate verify failed"):
        async with open_websocket_url(url, client, server_hostname=HOST, max_redirects=1):
            pytest.fail("it is open")
    assert names == [HOST, "localhost"]


async def test_server_hostname_is_used_at_same_origin(nursery: trio.Nursery) -> None:
    names: list[str | None] = []
    client, server = noting_names(names)

    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/new":
            await request.accept()
        else:
            await request.reject(302, extra_headers=[(b"Location", b"/new")])

    port = (await serve(nursery, handler, server)).port
    url = f"wss://{LOCAL}:{port}/"
    async with open_websocket_url(url, client, server_hostname=HOST, max_redirects=1) as ws:
        assert ws.url == f"{url}new"
    assert names == [HOST, HOST]


# Proxies


@pytest.mark.parametrize("variable", ["ws_proxy", "wss_proxy"])
async def test_proxy_env_is_chosen_for_each_url(
    nursery: trio.Nursery,
    trusted: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    proxy = await start_http_proxy(nursery)
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(variable, local(proxy.port))
    second = await serve(nursery, context=trusted)
    first = await redirecting(nursery, f"https://localhost:{second.port}/")
    url = f"ws://{LOCAL}:{first.port}/"
    async with open_websocket_url(url, proxy="env", max_redirects=1) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
    names = {"ws_proxy": f"{LOCAL}:{first.port}", "wss_proxy": f"localhost:{second.port}"}
    assert proxy.servers == [names[variable]]


async def test_redirect_of_a_proxy_is_not_followed(nursery: trio.Nursery) -> None:
    requests: list[WebSocketRequest] = []
    second = await recording(nursery, requests)
    answer = f"HTTP/1.1 302 Found\r\nLocation: http://{LOCAL}:{second.port}/\r\n\r\n"
    proxy = await start_http_proxy(nursery, answer.encode())
    with pytest.raises(ProxyError) as caught:
        async with open_websocket_url(
            f"ws://{LOCAL}:{second.port}/", proxy=local(proxy.port), max_redirects=5
        ):
            pytest.fail("it is open")
    assert caught.value.status_code == 302
    assert requests == []


# Unix-domain sockets


async def test_unix_socket_follows_on_same_origin_only(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    async def handler(request: WebSocketRequest) -> None:
        if request.path == "/new":
            await request.accept()
            return
        location = b"/new" if request.path == "/old" else b"http://other/new"
        await request.reject(302, extra_headers=[(b"Location", location)])

    path = tmp_path / "socket"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    await nursery.start(WebSocketServer(handler, [trio.SocketListener(listener)]).run)
    options: Any = {"unix_socket": path, "max_redirects": 1}
    async with open_websocket_url("ws://a/old", **options) as ws:
        assert ws.url == "ws://a/new"
    with pytest.raises(RedirectError, match="another origin, ws://other/new, and unix_socket"):
        async with open_websocket_url("ws://a/older", **options):
            pytest.fail("it is open")


# Hostile servers


async def test_redirects_without_end_are_bounded(nursery: trio.Nursery) -> None:
    count = 0

    async def run(stream: Stream) -> None:
        nonlocal count
        async with stream:
            await read_head(stream)
            count += 1
            head = f"HTTP/1.1 302 Found\r\nLocation: /{count}\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(head.encode())
            assert await receive_to_end(stream) == b""

    port = await start_raw_server(nursery, run)
    with pytest.raises(RedirectError, match="max_redirects=20") as caught:
        await connect_websocket_url(nursery, f"ws://{LOCAL}:{port}/", max_redirects=20)
    assert count == len(caught.value.urls) == 21


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Location: /a\r\nLocation: /b\r\n",
        b"Location:\r\n",
        b"Location: https://\xe4.example/\r\n",
        b"Location: ftp://127.0.0.1/\r\n",
        b"Location: ws://127.0.0.1:99999/\r\n",
        b"Location: ws://127.0.0.1%00/\r\n",
        b"Location: " + b"x" * 60_000 + b" \x7f\r\n",
    ],
)
async def test_redirect_with_bad_location_raises_redirect_error(
    nursery: trio.Nursery, lines: bytes
) -> None:
    answer = b"HTTP/1.1 302 Found\r\n" + lines + b"Content-Length: 5\r\n\r\nthere"
    url = await answering(nursery, answer)
    with pytest.raises(RedirectError) as caught:
        await connect_websocket_url(nursery, url, max_redirects=5)
    assert caught.value.body == b"there"
    assert len(str(caught.value)) < 500
