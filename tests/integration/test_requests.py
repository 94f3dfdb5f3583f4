"""The request that a client sends, as a raw server receives it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from support.peer import (
    read_head,
    start_raw_server,
)
from support.servers import (
    Names,
)
from support.streams import tls_contexts
from trio_websocket import (
    ConnectionRejected,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket_url,
)

if TYPE_CHECKING:
    from trio.abc import Stream


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://example.org/", "example.org"),
        ("ws://example.org:80/", "example.org"),
        ("ws://example.org:443/", "example.org:443"),
        ("ws://example.org:8080/", "example.org:8080"),
        ("wss://example.org/", "example.org"),
        ("wss://example.org:443/", "example.org"),
        ("wss://example.org:80/", "example.org:80"),
        ("ws://BÜCHER.example:8080/", "xn--bcher-kva.example:8080"),
    ],
)
async def test_host_header_has_port_unless_default(
    nursery: trio.Nursery, url: str, host: str
) -> None:
    request = await sent_to_server(nursery, url)
    assert f"\r\nHost: {host}\r\n".encode() in request


async def sent_to_server(nursery: trio.Nursery, url: str, **keywords: Any) -> bytes:
    """Return the head of the request for this URL."""

    async def reject(stream: Stream) -> None:
        async with stream:
            request, _ = await read_head(stream)
            requests.append(request)
            await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    requests: list[bytes] = []
    is_secure = url.startswith("wss:")
    Names(("127.0.0.1", await start_raw_server(nursery, reject, use_tls=is_secure)))
    context = tls_contexts()[0] if is_secure else None
    with trio.fail_after(30), pytest.raises(ConnectionRejected):
        await connect_websocket_url(nursery, url, context, **keywords)
    return requests[0]


async def test_host_header_ipv6_is_in_brackets(nursery: trio.Nursery) -> None:
    async def handler(request: WebSocketRequest) -> None:
        headers.update(request.headers)
        await request.reject(403)

    headers: dict[bytes, bytes] = {}
    try:
        listeners = await trio.open_tcp_listeners(0, host="::1")
    except OSError as exc:
        pytest.skip(f"no IPv6: {exc}")
    server = WebSocketServer(handler, listeners)
    await nursery.start(server.run)
    with pytest.raises(ConnectionRejected):
        await connect_websocket_url(nursery, f"ws://[::1]:{server.port}/")
    assert headers[b"host"] == b"[::1]:%d" % server.port


async def test_extra_headers_replace_own_headers(nursery: trio.Nursery) -> None:
    request = await sent_to_server(
        nursery,
        "ws://user:password@example.org/",
        subprotocols=["chat"],
        extra_headers=[
            (b"host", b"other.example"),
            (b"Sec-WebSocket-Protocol", b"superchat"),
            (b"Authorization", b"Bearer token"),
        ],
    )
    assert request.lower().count(b"\r\nhost: ") == 1
    assert b"\r\nhost: other.example\r\n" in request
    assert request.lower().count(b"\r\nsec-websocket-protocol: ") == 1
    assert b"\r\nSec-WebSocket-Protocol: superchat\r\n" in request
    assert request.lower().count(b"\r\nauthorization: ") == 1
    assert b"\r\nAuthorization: Bearer token\r\n" in request


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("/grüße", "/gr%C3%BC%C3%9Fe"),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/%20%C3%BC", "/%20%C3%BC"),
        ("/?q=ü&p=\u20ac", "/?q=%C3%BC&p=%E2%82%AC"),
        ("/#f?x", "/"),
        ("/a?b#f?x", "/a?b"),
        ("#f?x", "/"),
        ("?", "/?"),
        ("?#f", "/?"),
    ],
)
async def test_request_target_is_encoded_without_fragment(
    nursery: trio.Nursery, tail: str, target: str
) -> None:
    request = await sent_to_server(nursery, "ws://example.org" + tail)
    assert request.startswith(f"GET {target} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("user:pw", b"user:pw"),
        ("user", b"user:"),
        ("user:", b"user:"),
        (":pw", b":pw"),
        ("us%40er:p%3Aw", b"us@er:p:w"),
        ("j\u00fcrgen:pw", "j\u00fcrgen:pw".encode()),
    ],
)
async def test_userinfo_becomes_authorization_header(
    nursery: trio.Nursery, userinfo: str, credentials: bytes
) -> None:
    request = await sent_to_server(nursery, f"ws://{userinfo}@example.org/")
    token = base64.b64encode(credentials)
    assert b"\r\nAuthorization: Basic " + token + b"\r\n" in request
    assert b"\r\nHost: example.org\r\n" in request


async def test_extra_headers_list_is_not_changed(nursery: trio.Nursery) -> None:
    headers = [(b"X-Extra", b"value")]
    await sent_to_server(nursery, "ws://user:pw@example.org/", extra_headers=headers)
    assert headers == [(b"X-Extra", b"value")]
