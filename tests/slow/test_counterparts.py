"""Real proxies, a real web server that redirects, and the pipes of a real process.

`make counterparts` unpacks the programs. Without them, and in CI, these tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from pathlib import Path
from typing import Any, AsyncContextManager, AsyncIterator, Callable, Iterator

import pytest
import trio
import trustme

from support import counterparts
from support.counterparts import PASSWORD, SIMPLE_USERINFO, USER, USERINFO
from support.proxies import start_proxy
from support.servers import serve
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    Endpoint,
    PerMessageDeflate,
    ProxyError,
    RedirectError,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
)

SIZE = 2**23
pytestmark = pytest.mark.no_cover

#: The keywords of a client that uses a route.
Route = AsyncContextManager["dict[str, Any]"]


class Certificates:
    """A certificate for 127.0.0.1 and localhost, and contexts that use and trust it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        self.pem = folder / "server.pem"
        leaf.private_key_and_cert_chain_pem.write_to_path(str(self.pem))
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.client = ssl.create_default_context(cafile=str(self.ca))
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        leaf.configure_cert(self.server)


@pytest.fixture
def folder() -> Iterator[Path]:
    with counterparts.public_folder() as path:
        yield path


@pytest.fixture
def certificates(folder: Path) -> Certificates:
    return Certificates(folder)


# -- routes


@contextlib.asynccontextmanager
async def squid(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.squid(folder) as port:
        yield {"proxy": f"http://127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def squid_with_password(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.squid(folder, has_password=True) as port:
        yield {"proxy": f"http://{USERINFO}127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def tinyproxy(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.tinyproxy(folder) as port:
        yield {"proxy": f"http://127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def tinyproxy_with_password(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.tinyproxy(folder, has_password=True) as port:
        yield {"proxy": f"http://{SIMPLE_USERINFO}127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def stunnel(folder: Path, certificates: Certificates) -> AsyncIterator[dict[str, Any]]:
    """TLS to the proxy, by stunnel in front of tinyproxy."""
    async with counterparts.tinyproxy(folder, has_password=True) as port, counterparts.stunnel(
        folder, certificates.pem, port
    ) as tls_port:
        proxy = f"https://{SIMPLE_USERINFO}localhost:{tls_port}"
        yield {"proxy": proxy, "proxy_ssl_context": certificates.client}


@contextlib.asynccontextmanager
async def haproxy(folder: Path, certificates: Certificates) -> AsyncIterator[dict[str, Any]]:
    """TLS to the proxy, by haproxy in front of squid."""
    async with counterparts.squid(folder, has_password=True) as port, counterparts.haproxy(
        folder, certificates.pem, port
    ) as tls_port:
        proxy = f"https://{USERINFO}127.0.0.1:{tls_port}"
        yield {"proxy": proxy, "proxy_ssl_context": certificates.client}


@contextlib.asynccontextmanager
async def microsocks(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.microsocks(folder) as port:
        yield {"proxy": f"socks5h://127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def microsocks_with_password(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.microsocks(folder, has_password=True) as port:
        yield {"proxy": f"socks5://{USERINFO}127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def dante(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.dante(folder) as port:
        yield {"proxy": f"socks5h://127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def dante_with_password(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.dante(folder, has_password=True) as port:
        yield {"proxy": f"socks5h://{USERINFO}127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def dante_socks4(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    async with counterparts.dante(folder) as port:
        yield {"proxy": f"socks4://{USER}@127.0.0.1:{port}"}


@contextlib.asynccontextmanager
async def socks4a(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    """The tests' own server, because Debian has none for SOCKS 4a."""
    async with trio.open_nursery() as nursery:
        server = await start_proxy(nursery, "socks4a")
        yield {"proxy": server.url("socks4a")}
        nursery.cancel_scope.cancel()


# Like `ssh -W`: it connects its standard input and output to a port.
RELAY = """
import os, socket, sys, threading
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""


@contextlib.asynccontextmanager
async def process(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
    """The pipes of a process."""
    del folder
    async with trio.open_nursery() as nursery:

        async def stream(host: str, port: int) -> trio.abc.Stream:
            command = [sys.executable, "-c", RELAY, host, str(port)]
            pipes: dict[str, Any] = {"stdin": -1, "stdout": -1}
            running = await trio.lowlevel.open_process(command, **pipes)
            nursery.start_soon(running.wait)
            assert running.stdin is not None
            assert running.stdout is not None
            return trio.StapledStream(running.stdin, running.stdout)

        yield {"stream": stream}


ROUTES: dict[str, Callable[[Path, Certificates], Route]] = {
    route.__name__: route
    for route in (
        *(squid, squid_with_password, tinyproxy, tinyproxy_with_password, stunnel, haproxy),
        *(microsocks, microsocks_with_password, dante, dante_with_password, dante_socks4),
        *(socks4a, process),
    )
}
each_route = pytest.mark.parametrize("name", ROUTES)


# -- a conversation


class Server:
    """Echoes. At the message "close" it closes with code 4001."""

    def __init__(self) -> None:
        self._notes, self.codes = trio.open_memory_channel[int](9)

    async def handle(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            while True:
                message = await ws.get_message()
                if message == "close":
                    await ws.aclose(4001, "bye")
                await ws.send_message(message)
        except ConnectionClosed as exc:
            await self._notes.send(exc.reason.code)

    async def start(
        self, nursery: trio.Nursery, scheme: str, certificates: Certificates
    ) -> tuple[str, ssl.SSLContext | None]:
        """Return the URL, and the client's context."""
        is_tls = scheme == "wss"
        server = await serve(
            nursery,
            self.handle,
            certificates.server if is_tls else None,
            compression=PerMessageDeflate(),
            max_message_size=SIZE,
        )
        url = f"{scheme}://localhost:{server.port}/"
        self.port = server.port
        return url, certificates.client if is_tls else None

    def check(self, ws: WebSocketConnection, keywords: dict[str, Any]) -> None:
        """Check that the connection goes through the proxy, if there is one."""
        assert isinstance(ws.remote, Endpoint) == ("proxy" in keywords)
        assert not isinstance(ws.remote, Endpoint) or ws.remote.port != self.port


async def converse(
    server: Server, url: str, context: ssl.SSLContext | None, **keywords: Any
) -> None:
    """Exchange small and large messages, and close from each side."""
    keywords = {"compression": PerMessageDeflate(), "max_message_size": SIZE, **keywords}
    with trio.fail_after(60):
        async with open_websocket_url(url, context, **keywords) as ws:
            server.check(ws, keywords)
            assert ws.compression is not None
            for message in ("hello", b"", os.urandom(SIZE), "ab" * (SIZE // 2)):
                await ws.send_message(message)
                assert await ws.get_message() == message
            await ws.ping()
            await ws.send_message("close")
            with pytest.raises(ConnectionClosed) as caught:
                await ws.get_message()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "bye")
        async with open_websocket_url(url, context, **keywords) as ws:
            await ws.aclose(4002)
        async with open_websocket_url(url, context, **keywords):
            pass
        for code in (4001, 4002, 1000):
            assert await server.codes.receive() == code


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@each_route
async def test_route_carries_a_conversation(
    nursery: trio.Nursery, folder: Path, certificates: Certificates, name: str, scheme: str
) -> None:
    server = Server()
    url, context = await server.start(nursery, scheme, certificates)
    async with ROUTES[name](folder, certificates) as keywords:
        await converse(server, url, context, **keywords)


# -- proxies that refuse


async def refused(url: str, proxy: str, **keywords: Any) -> ProxyError:
    with trio.fail_after(60), pytest.raises(ProxyError) as caught:
        async with open_websocket_url(url, proxy=proxy, **keywords):
            pytest.fail("it is open")
    assert PASSWORD not in str(caught.value)
    assert "@" not in caught.value.proxy
    return caught.value


CLOSED = "ws://127.0.0.1:1/"  # nobody listens there


@pytest.mark.parametrize(
    ("userinfo", "is_known"),
    [("", False), (f"{USER}@", False), (f"{USER}:wrong@", False), (USERINFO, True)],
)
async def test_squid_asks_for_the_password(folder: Path, userinfo: str, is_known: bool) -> None:
    async with counterparts.squid(folder, has_password=True) as port:
        exc = await refused(CLOSED, f"http://{userinfo}127.0.0.1:{port}")
        assert exc.proxy == f"http://127.0.0.1:{port}"
        assert exc.status_code == (503 if is_known else 407)
        assert (b"proxy-authenticate" in dict(exc.headers)) is not is_known


@pytest.mark.parametrize(
    ("userinfo", "status"), [("", 407), (f"{USER}:wrong@", 401), (SIMPLE_USERINFO, 500)]
)
async def test_tinyproxy_asks_for_the_password(folder: Path, userinfo: str, status: int) -> None:
    async with counterparts.tinyproxy(folder, has_password=True) as port:
        exc = await refused(CLOSED, f"http://{userinfo}127.0.0.1:{port}")
        assert exc.status_code == status


async def test_tinyproxy_refuses_other_ports(folder: Path) -> None:
    async with counterparts.tinyproxy(folder, allows=443) as port:
        exc = await refused(CLOSED, f"http://127.0.0.1:{port}")
        assert exc.status_code == 403


async def test_https_proxy_with_unknown_certificate_is_refused(
    folder: Path, certificates: Certificates
) -> None:
    async with counterparts.tinyproxy(folder) as port, counterparts.stunnel(
        folder, certificates.pem, port
    ) as tls_port:
        exc = await refused(CLOSED, f"https://localhost:{tls_port}")
        assert isinstance(exc.__cause__, ssl.SSLCertVerificationError)


async def test_http_proxy_named_as_https_proxy_gives_a_hint(folder: Path) -> None:
    async with counterparts.squid(folder) as port:
        exc = await refused(CLOSED, f"https://localhost:{port}")
        assert "does the proxy expect http:" in str(exc)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("start", [counterparts.microsocks, counterparts.dante])
async def test_socks_proxy_refuses(
    folder: Path, start: Callable[..., AsyncContextManager[int]], scheme: str
) -> None:
    async with start(folder) as port:
        exc = await refused(CLOSED, f"{scheme}://127.0.0.1:{port}")
        assert exc.socks_reply == 5  # connection refused (RFC 1928, 6)
        assert exc.proxy == f"{scheme}://127.0.0.1:{port}"


@pytest.mark.parametrize("userinfo", ["", f"{USER}:wrong@"])
@pytest.mark.parametrize("start", [counterparts.microsocks, counterparts.dante])
async def test_socks_proxy_asks_for_the_password(
    folder: Path, start: Callable[..., AsyncContextManager[int]], userinfo: str
) -> None:
    async with start(folder, has_password=True) as port:
        await refused(CLOSED, f"socks5h://{userinfo}127.0.0.1:{port}")


async def test_socks4_proxy_refuses(folder: Path) -> None:
    async with counterparts.dante(folder) as port:
        exc = await refused(CLOSED, f"socks4://127.0.0.1:{port}")
        assert exc.socks_reply == 0x5B


async def test_server_rejects_through_a_proxy(nursery: trio.Nursery, folder: Path) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await request.reject(407, body=b"not the proxy")

    server = await serve(nursery, handler)
    async with counterparts.tinyproxy(folder) as port:
        with pytest.raises(ConnectionRejected) as caught:
            async with open_websocket_url(
                f"ws://localhost:{server.port}/", proxy=f"http://127.0.0.1:{port}"
            ):
                pytest.fail("it is open")
    assert not isinstance(caught.value, ProxyError)
    assert caught.value.body == b"not the proxy"


# -- a web server that redirects, and is itself a proxy in front of the server

NGINX = """
listen 127.0.0.1:PORT;
location / {
    proxy_pass http://127.0.0.1:BACKEND;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
}
location = /301 { return 301 /; }
location = /302 { return 302 http://localhost:PORT/; }
location = /303 { return 303 $scheme://$http_host/; }
location = /307 { return 307 https://localhost:TLS/; }
location = /308 { return 308 ws://localhost:BACKEND/; }
location /docs { return 301 $uri/; }
location /chain/ { rewrite ^/chain/(.*)$ /301 redirect; }
location = /loop { return 302 /loop2; }
location = /loop2 { return 302 /loop; }
location = /ftp { return 301 ftp://localhost/; }
location = /300 { return 300; }
"""
NGINX_TLS = """
listen 127.0.0.1:PORT ssl;
ssl_certificate CERTIFICATE;
ssl_certificate_key CERTIFICATE;
location = /plain { return 301 http://localhost:BACKEND/; }
location = /301 { return 301 /; }
location = / {
    proxy_pass http://127.0.0.1:BACKEND;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
}
"""


@contextlib.asynccontextmanager
async def web_servers(
    nursery: trio.Nursery,
    folder: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Server, int, int]]:
    """Run two nginx, one with TLS, in front of the server. Give their ports."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    server = Server()
    await server.start(nursery, "ws", certificates)

    def filled_in(text: str, tls: int = 0) -> str:
        for name, value in (
            ("BACKEND", server.port),
            ("TLS", tls),
            ("CERTIFICATE", certificates.pem),
        ):
            text = text.replace(name, str(value))
        return text

    (folder / "tls").mkdir()
    async with counterparts.nginx(folder / "tls", filled_in(NGINX_TLS)) as tls, counterparts.nginx(
        folder, filled_in(NGINX, tls)
    ) as plain:
        yield server, plain, tls


async def test_nginx_redirects_are_followed(
    nursery: trio.Nursery,
    folder: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_servers(nursery, folder, certificates, monkeypatch) as (server, plain, tls):
        expected = {
            "301": f"ws://localhost:{plain}/",
            "302": f"ws://localhost:{plain}/",
            "303": f"ws://localhost:{plain}/",
            "307": f"wss://localhost:{tls}/",
            "308": f"ws://localhost:{server.port}/",
            "chain/x": f"ws://localhost:{plain}/",
        }
        for path, url in expected.items():
            first = f"ws://localhost:{plain}/{path}"
            async with open_websocket_url(first, max_redirects=2) as ws:
                assert ws.url == url
                await ws.send_message("hello")
                assert await ws.get_message() == "hello"


@pytest.mark.parametrize(
    ("tail", "rule"),
    [
        ("loop", "leads back to"),
        ("ftp", "none of ws, wss, http and https"),
        ("chain/x", "max_redirects=1"),
        ("300", None),
    ],
)
async def test_nginx_redirects_are_refused(
    nursery: trio.Nursery,
    folder: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tail: str,
    rule: str | None,
) -> None:
    async with web_servers(nursery, folder, certificates, monkeypatch) as (_, plain, __):
        with pytest.raises(ConnectionRejected, match=rule) as caught:
            async with open_websocket_url(f"ws://localhost:{plain}/{tail}", max_redirects=1):
                pytest.fail("it is open")
    assert isinstance(caught.value, RedirectError) == (rule is not None)


async def test_nginx_redirects_to_plain_are_refused(
    nursery: trio.Nursery,
    folder: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_servers(nursery, folder, certificates, monkeypatch) as (_, __, tls):
        with pytest.raises(RedirectError, match="from TLS to the plain"):
            async with open_websocket_url(f"wss://localhost:{tls}/plain", max_redirects=9):
                pytest.fail("it is open")
        async with open_websocket_url(f"wss://localhost:{tls}/301", max_redirects=1) as ws:
            assert ws.url == f"wss://localhost:{tls}/"


async def test_redirect_from_plain_to_tls_carries_a_conversation(
    nursery: trio.Nursery,
    folder: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with web_servers(nursery, folder, certificates, monkeypatch) as (
        server,
        plain,
        _,
    ), counterparts.tinyproxy(folder) as port:
        await converse(
            server,
            f"ws://localhost:{plain}/307",
            None,
            max_redirects=1,
            proxy=f"http://127.0.0.1:{port}",
        )
