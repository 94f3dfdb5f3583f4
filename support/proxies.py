"""Proxies on 127.0.0.1, without the library: HTTP CONNECT, and SOCKS 4, 4a and 5.

They take any name for one of this machine. Cancel the nursery of a proxy in the end.
"""

from __future__ import annotations

import abc
import base64
import ipaddress
from typing import TYPE_CHECKING, Any

import trio

from support.peer import read_head, start_raw_server
from support.servers import assert_fails
from support.streams import receive_exactly
from trio_websocket import ProxyError

if TYPE_CHECKING:
    from trio.abc import Stream

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"
AUTH_REQUIRED = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'Proxy-Authenticate: Basic realm="proxy"\r\nContent-Length: 9\r\n\r\nno entry\n'
)
USER, PASSWORD = b"us\xc3\xa9r", b"s3cr3t:/@p\xc3\xa4ss"
#: The same in a URL.
USERINFO = "us%C3%A9r:s3cr3t%3A%2F%40p%C3%A4ss@"


class Proxy(abc.ABC):
    """A proxy, and what its clients asked for."""

    #: The schemes in URLs.
    schemes: tuple[str, ...]

    def __init__(self, *, has_password: bool = False, relay_to: int | None = None) -> None:
        """
        :param has_password: Require `USER` and `PASSWORD`.
        :param relay_to: The port to connect to, instead of the one that is asked for.
        """
        self.port = 0
        #: The servers, as ``host:port``; the host may be a name.
        self.servers: list[str] = []
        #: The first bytes of each client.
        self.requests: list[bytes] = []
        #: The user names and passwords that were received.
        self.credentials: list[tuple[bytes, bytes]] = []
        #: The number of clients that are connected.
        self.clients = 0
        #: The addresses of the clients.
        self.addresses: list[str] = []
        self._has_password = has_password
        self._relay_to = relay_to

    async def start(self, nursery: trio.Nursery, *, use_tls: bool = False) -> None:
        self.port = await start_raw_server(nursery, self._serve, use_tls=use_tls)

    def url(self, scheme: str, userinfo: str = "") -> str:
        return f"{scheme}://{userinfo}127.0.0.1:{self.port}"

    async def _serve(self, client: Stream) -> None:
        self.clients += 1
        if isinstance(client, trio.SocketStream):
            self.addresses.append(client.socket.getpeername()[0])
        try:
            async with client:
                await self.open_tunnel(client)
        except (trio.BrokenResourceError, AssertionError):
            pass  # clients can leave at once
        finally:
            self.clients -= 1

    @abc.abstractmethod
    async def open_tunnel(self, client: Stream) -> None:
        """Answer a client, and relay its bytes."""

    async def relay(self, client: Stream, host: str, port: int, answer: bytes) -> None:
        self.servers.append(f"{host}:{port}")
        async with await trio.open_tcp_stream("127.0.0.1", self._relay_to or port) as server:
            await client.send_all(answer)
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(_copy, client, server, scope)
                await _copy(server, client, scope)
                scope.cancel()


async def _copy(source: Stream, sink: Stream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        if isinstance(sink, trio.abc.HalfCloseableStream):
            await sink.send_eof()
    except trio.BrokenResourceError:
        scope.cancel()  # one end has left


class HttpProxy(Proxy):
    """A proxy that opens tunnels for CONNECT."""

    schemes = ("http", "https")

    def __init__(self, answer: bytes = OPENED, **options: Any) -> None:
        """:param answer: The answer to a valid request. Only a 2xx status opens a tunnel."""
        super().__init__(**options)
        self.answer = answer

    async def open_tunnel(self, client: Stream) -> None:
        head, rest = await read_head(client)
        assert not rest
        self.requests.append(head)
        method, target, version = head.partition(b"\r\n")[0].decode("ascii").split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        lines = head.split(b"\r\n")
        assert f"Host: {target}".encode("ascii") in lines
        if self._has_password and not self._is_authenticated(lines):
            await client.send_all(AUTH_REQUIRED)
        elif self.answer.rpartition(b"HTTP/1.")[2][2:3] != b"2":
            await client.send_all(self.answer)
        else:
            host, _, port = target.rpartition(":")
            await self.relay(client, host, int(port), self.answer)

    def _is_authenticated(self, lines: list[bytes]) -> bool:
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"Proxy-Authorization" and value.startswith(b"Basic "):
                user, _, password = base64.b64decode(value[6:]).partition(b":")
                self.credentials.append((user, password))
        return self.credentials[-1:] == [(USER, PASSWORD)]


class SocksProxy(Proxy):
    """A SOCKS proxy: RFC 1928, RFC 1929, and SOCKS 4 and 4a."""

    schemes = ("socks4", "socks4a", "socks5", "socks5h")

    def __init__(self, reply: int | None = None, **options: Any) -> None:
        """:param reply: The code of each reply; None opens a tunnel."""
        super().__init__(**options)
        self._reply = reply

    async def open_tunnel(self, client: Stream) -> None:
        version = await receive_exactly(client, 1)
        await {b"\4": self._open_4, b"\5": self._open_5}[version](client)

    async def _open_4(self, client: Stream) -> None:
        head = await receive_exactly(client, 7)
        assert head[0] == 1  # CONNECT
        port, address = int.from_bytes(head[1:3], "big"), head[3:]
        user = await _receive_to_nul(client)
        self.credentials.append((user, b""))
        host = str(ipaddress.IPv4Address(address))
        if address[:3] == b"\0\0\0":  # 4a
            host = (await _receive_to_nul(client)).decode("ascii")
        code = 0x5A if self._reply is None else self._reply
        if self._has_password and user != USER:
            code = 0x5D
        answer = bytes([0, code]) + bytes(6)
        if code == 0x5A:
            await self.relay(client, host, port, answer)
        else:
            await client.send_all(answer)

    async def _open_5(self, client: Stream) -> None:
        (count,) = await receive_exactly(client, 1)
        methods = await receive_exactly(client, count)
        method = 2 if self._has_password else 0
        if method not in methods:
            await client.send_all(b"\5\xff")
            return
        await client.send_all(bytes([5, method]))
        if self._has_password and not await self._authenticate(client):
            return
        assert await receive_exactly(client, 3) == b"\5\1\0"
        (kind,) = await receive_exactly(client, 1)
        if kind == 3:
            (size,) = await receive_exactly(client, 1)
            host = (await receive_exactly(client, size)).decode("ascii")
        else:
            host = str(ipaddress.ip_address(await receive_exactly(client, {1: 4, 4: 16}[kind])))
        port = int.from_bytes(await receive_exactly(client, 2), "big")
        if self._reply is None:
            await self.relay(client, host, port, b"\5\0\0\3\4name\0\1")
        else:
            await client.send_all(bytes([5, self._reply, 0, 1]) + bytes(6))

    async def _authenticate(self, client: Stream) -> bool:
        version, size = await receive_exactly(client, 2)
        assert version == 1
        user = await receive_exactly(client, size) if size else b""
        (size,) = await receive_exactly(client, 1)
        password = await receive_exactly(client, size) if size else b""
        self.credentials.append((user, password))
        is_right = (user, password) == (USER, PASSWORD)
        await client.send_all(b"\1\0" if is_right else b"\1\1")
        return is_right


async def _receive_to_nul(stream: Stream) -> bytes:
    data = b""
    while not data.endswith(b"\0"):
        data += await receive_exactly(stream, 1)
    return data[:-1]


async def start_proxy(nursery: trio.Nursery, scheme: str, **options: Any) -> Proxy:
    kind: type[Proxy] = HttpProxy if scheme in HttpProxy.schemes else SocksProxy
    proxy = kind(**options)
    await proxy.start(nursery, use_tls=scheme == "https")
    return proxy


async def start_http_proxy(
    nursery: trio.Nursery, answer: bytes = OPENED, *, has_password: bool = False
) -> Proxy:
    return await start_proxy(nursery, "http", answer=answer, has_password=has_password)


def local(port: int, scheme: str = "http") -> str:
    """Return the URL of a proxy at a port."""
    return f"{scheme}://127.0.0.1:{port}"


async def fails(server: str, *reasons: str, **options: Any) -> ProxyError:
    """Check that opening raises `ProxyError`, whose text has these reasons."""
    exc = await assert_fails(server, *reasons, **options)
    assert type(exc) is ProxyError
    return exc
