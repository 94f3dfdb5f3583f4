"""Clients behind SOCKS proxies. tests/integration/test_proxy.py has what all proxies share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.peer import start_raw_server
from support.proxies import PASSWORD, USER, USERINFO, SocksProxy, fails, local, start_proxy
from support.servers import Names, assert_fails, start
from support.streams import receive_exactly, reset
from trio_websocket import ConnectionFailed, open_websocket, open_websocket_url

if TYPE_CHECKING:
    from trio.abc import Stream

pytest.importorskip("python_socks", reason="needs python-socks")

each_scheme = pytest.mark.parametrize("scheme", SocksProxy.schemes)
SEND_ADDRESS, SEND_NAME = ("socks4", "socks5"), ("socks4a", "socks5h")


async def sent_to_proxy(host: str, scheme: str, nursery: trio.Nursery) -> str:
    """Open a connection through a proxy. Return the host that the proxy is asked for."""
    port = await start(nursery)
    proxy = await start_proxy(nursery, scheme)
    async with open_websocket(host, port, "/", use_ssl=False, proxy=proxy.url(scheme)) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
    (server,) = proxy.servers
    asked, _, asked_port = server.rpartition(":")
    assert asked_port == str(port)
    return asked


# What the proxy is asked for


@pytest.mark.parametrize("scheme", SEND_NAME)
@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("example.com", "example.com"),
        ("straße.de", "xn--strae-oqa.de"),
        ("my_host.", "my_host."),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
async def test_socks_proxy_looks_up_name(
    nursery: trio.Nursery, scheme: str, host: str, sent: str
) -> None:
    resolver = Names()
    assert await sent_to_proxy(host, scheme, nursery) == sent
    assert not resolver.asked
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", SEND_ADDRESS)
async def test_socks_client_looks_up_name(nursery: trio.Nursery, scheme: str) -> None:
    resolver = Names(("192.0.2.1", 0))
    assert await sent_to_proxy("example.com", scheme, nursery) == "192.0.2.1"
    assert resolver.asked == [b"example.com"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize(("host", "sent"), [("::1", "::1"), ("fe80::1%lo", "fe80::1")])
async def test_socks5_sends_ipv6_address(
    nursery: trio.Nursery, scheme: str, host: str, sent: str
) -> None:
    assert await sent_to_proxy(host, scheme, nursery) == sent
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
async def test_socks4_with_ipv6_address_fails(nursery: trio.Nursery, scheme: str) -> None:
    proxy = await start_proxy(nursery, scheme)
    reason = f"can't ask the proxy 127.0.0.1, port {proxy.port}, for ::1: SOCKS4 has no IPv6"
    await fails("ws://[::1]/", reason, proxy=proxy.url(scheme))
    assert not proxy.clients
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", SEND_ADDRESS)
async def test_socks_name_of_server_not_found_is_no_proxy_error(
    nursery: trio.Nursery, scheme: str
) -> None:
    Names(error=OSError(-2, "unknown"))
    proxy = await start_proxy(nursery, scheme)
    reason = "can't find the address of example.com: unknown"
    exc = await assert_fails("ws://example.com/", reason, proxy=proxy.url(scheme))
    assert type(exc) is ConnectionFailed
    assert exc.errno == -2
    nursery.cancel_scope.cancel()


async def test_socks5_long_name_fails(nursery: trio.Nursery) -> None:
    proxy = await start_proxy(nursery, "socks5h")
    host = ".".join(["a" * 60] * 5)
    exc = await fails(f"ws://{host}/", f"for {host}:80: ValueError", proxy=proxy.url("socks5h"))
    assert exc.__cause__ is exc.__context__ is None
    nursery.cancel_scope.cancel()


# Credentials


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        (USERINFO, (USER, PASSWORD)),
        ("user@", (b"user", b"")),
        (":password@", (b"", b"password")),
        ("%ff:%00@", (b"\xff", b"\0")),
        ("u" * 255 + ":" + "p" * 255 + "@", (b"u" * 255, b"p" * 255)),
    ],
)
async def test_socks5_credentials_are_sent(
    nursery: trio.Nursery, userinfo: str, credentials: tuple[bytes, bytes]
) -> None:
    proxy = await start_proxy(nursery, "socks5", has_password=True)
    manager = open_websocket_url(
        f"ws://127.0.0.1:{await start(nursery)}/", proxy=proxy.url("socks5", userinfo)
    )
    if credentials == (USER, PASSWORD):
        async with manager:
            pass
    else:
        with pytest.raises(ConnectionFailed, match="password authentication failure"):
            async with manager:
                pass
    assert proxy.credentials == [credentials]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("userinfo", "user"), [("", b""), ("user@", b"user"), (USERINFO, USER), ("%ff:p@", b"\xff")]
)
@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
async def test_socks4_user_is_sent(
    nursery: trio.Nursery, scheme: str, userinfo: str, user: bytes
) -> None:
    proxy = await start_proxy(nursery, scheme)
    server = f"ws://127.0.0.1:{await start(nursery)}/"
    async with open_websocket_url(server, proxy=proxy.url(scheme, userinfo)):
        pass
    assert proxy.credentials == [(user, b"")]
    nursery.cancel_scope.cancel()


async def test_socks5_without_credentials_fails_if_proxy_wants_them(nursery: trio.Nursery) -> None:
    proxy = await start_proxy(nursery, "socks5", has_password=True)
    await fails("ws://127.0.0.1/", "No acceptable authentication", proxy=proxy.url("socks5"))
    nursery.cancel_scope.cancel()


# Refusals


@pytest.mark.parametrize(
    ("scheme", "reply", "reason"),
    [
        ("socks4", 0x5B, "Request rejected or failed"),
        ("socks4", 0x5C, "identd"),
        ("socks4a", 0x5D, "identd"),
        ("socks5", 1, "General SOCKS server failure"),
        ("socks5", 2, "Connection not allowed by ruleset"),
        ("socks5", 3, "Network unreachable"),
        ("socks5h", 4, "Host unreachable"),
        ("socks5h", 5, "Connection refused"),
        ("socks5h", 6, "TTL expired"),
        ("socks5", 7, "Command not supported"),
        ("socks5", 8, "Address type not supported"),
    ],
)
async def test_socks_refusal_has_reply(
    nursery: trio.Nursery, scheme: str, reply: int, reason: str
) -> None:
    proxy = await start_proxy(nursery, scheme, reply=reply)
    where = f"the proxy 127.0.0.1, port {proxy.port}, did not open a tunnel to 127.0.0.1:80: "
    exc = await fails("ws://127.0.0.1/", where, reason, proxy=proxy.url(scheme, "u:p@"))
    assert exc.socks_reply == reply
    assert type(exc.socks_reply) is int
    assert exc.proxy == proxy.url(scheme)
    assert exc.status_code is exc.errno is None
    assert exc.__cause__ is exc.__context__ is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("scheme", "answer", "reason"),
    [
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "Unexpected SOCKS version"),
        ("socks4", b"HTTP/1.1 400 Bad Request\r\n\r\n", "Unexpected reply version"),
        ("socks5", b"\5\0\5\xff\0\1" + bytes(6), "Invalid reply code"),
        ("socks4", b"\0\1" + bytes(6), "Invalid reply code"),
        ("socks5", b"\5\x07", "nvalid authentication method"),
        ("socks5", b"\5\2", "Unexpected SOCKS authentication method"),
        ("socks5", b"\5\0\5", "closed"),
        ("socks4", b"\0", "closed"),
        ("socks5h", b"", "closed"),
    ],
)
async def test_socks_bad_answer_raises_proxy_error(
    nursery: trio.Nursery, scheme: str, answer: bytes, reason: str
) -> None:
    async def run(client: Stream) -> None:
        assert isinstance(client, trio.SocketStream)
        async with client:
            await client.receive_some()
            await client.send_all(answer)
            await client.send_eof()
            while await client.receive_some():
                pass

    port = await start_raw_server(nursery, run)
    exc = await fails("ws://127.0.0.1/", reason, proxy=local(port, scheme))
    assert exc.socks_reply is None
    assert exc.__cause__ is exc.__context__ is None
    nursery.cancel_scope.cancel()


@each_scheme
async def test_socks_connection_reset_raises_proxy_error(
    nursery: trio.Nursery, scheme: str
) -> None:
    async def run(client: Stream) -> None:
        await receive_exactly(client, 3)
        reset(client)

    port = await start_raw_server(nursery, run)
    reason = f"the connection to the proxy 127.0.0.1, port {port}, was lost before it answered"
    exc = await fails("ws://127.0.0.1/", reason, proxy=local(port, scheme))
    assert exc.errno == 104
    assert isinstance(exc.__cause__, ConnectionResetError)
    assert exc.__context__ is None
    nursery.cancel_scope.cancel()


@each_scheme
def test_open_websocket_without_python_socks_names_extra(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "python_socks":
            monkeypatch.setitem(sys.modules, name, None)
    options: Any = {"use_ssl": False, "proxy": f"{scheme}://127.0.0.1"}
    with pytest.raises(ImportError, match=r"pip install trio-websocket\[proxy\]"):
        open_websocket("127.0.0.1", 1, "/", **options)
