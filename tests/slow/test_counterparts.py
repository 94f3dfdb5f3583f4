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
    WebSocketServer,
    connect_websocket_url,
    open_websocket_url,
)

SIZE = 2**23
pytestmark = pytest.mark.no_cover

#: Gives the keywords of a client that uses a route.
Route = AsyncContextManager["dict[str, Any]"]
#: Runs a program, and gives its port.
Start = Callable[..., AsyncContextManager[int]]


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
    """Give a folder for the programs. Skip the test if they are missing."""
    counterparts.require()
    with counterparts.public_folder() as path:
        yield path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


# -- routes


def through(start: Start, proxy: str, **options: Any) -> Callable[[Path, Certificates], Route]:
    """Return a route through a program.

    :param start: Starts it.
    :param proxy: The URL of the proxy, with ``{}`` for the port.
    """

    @contextlib.asynccontextmanager
    async def route(folder: Path, _: Certificates) -> AsyncIterator[dict[str, Any]]:
        async with start(folder, **options) as port:
            yield {"proxy": proxy.format(port)}

    return route


def through_tls(tls: Start, start: Start, proxy: str) -> Callable[[Path, Certificates], Route]:
    """Return a route through TLS in front of a proxy with a password."""

    @contextlib.asynccontextmanager
    async def route(folder: Path, certificates: Certificates) -> AsyncIterator[dict[str, Any]]:
        async with start(folder, has_password=True) as port, tls(
            folder, certificates.pem, port
        ) as tls_port:
            yield {"proxy": proxy.format(tls_port), "proxy_ssl_context": certificates.client}

    return route


NAMED = {"has_password": True}
ROUTES: dict[str, Callable[[Path, Certificates], Route]] = {
    "squid": through(counterparts.squid, "http://127.0.0.1:{}"),
    "squid, password": through(counterparts.squid, f"http://{USERINFO}127.0.0.1:{{}}", **NAMED),
    "tinyproxy": through(counterparts.tinyproxy, "http://127.0.0.1:{}"),
    "tinyproxy, password": through(
        counterparts.tinyproxy, f"http://{SIMPLE_USERINFO}127.0.0.1:{{}}", **NAMED
    ),
    "stunnel and tinyproxy": through_tls(
        counterparts.stunnel, counterparts.tinyproxy, f"https://{SIMPLE_USERINFO}localhost:{{}}"
    ),
    "haproxy and squid": through_tls(
        counterparts.haproxy, counterparts.squid, f"https://{USERINFO}127.0.0.1:{{}}"
    ),
    "microsocks": through(counterparts.microsocks, "socks5h://127.0.0.1:{}"),
    "microsocks, password": through(
        counterparts.microsocks, f"socks5://{USERINFO}127.0.0.1:{{}}", **NAMED
    ),
    "dante": through(counterparts.dante, "socks5h://127.0.0.1:{}"),
    "dante, password": through(counterparts.dante, f"socks5h://{USERINFO}127.0.0.1:{{}}", **NAMED),
    "dante, socks4": through(counterparts.dante, f"socks4://{USER}@127.0.0.1:{{}}"),
}


@contextlib.asynccontextmanager
async def socks4a() -> AsyncIterator[dict[str, Any]]:
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
async def process() -> AsyncIterator[dict[str, Any]]:
    """The pipes of a process."""
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
@pytest.mark.parametrize("name", ROUTES)
async def test_program_carries_a_conversation(
    nursery: trio.Nursery, folder: Path, certificates: Certificates, name: str, scheme: str
) -> None:
    server = Server()
    url, context = await server.start(nursery, scheme, certificates)
    async with ROUTES[name](folder, certificates) as keywords:
        await converse(server, url, context, **keywords)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("route", [socks4a, process])
async def test_route_without_program_carries_a_conversation(
    nursery: trio.Nursery, certificates: Certificates, route: Callable[[], Route], scheme: str
) -> None:
    server = Server()
    url, context = await server.start(nursery, scheme, certificates)
    async with route() as keywords:
        await converse(server, url, context, **keywords)


@pytest.mark.parametrize("name", ["squid", "tinyproxy", "stunnel and tinyproxy", "microsocks"])
async def test_program_reaches_ipv6_address(
    nursery: trio.Nursery, folder: Path, certificates: Certificates, name: str
) -> None:
    try:
        listeners = await trio.open_tcp_listeners(0, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = await nursery.start(WebSocketServer(Server().handle, listeners).run)
    url = f"ws://[::1]:{server.port}/"
    async with ROUTES[name](folder, certificates) as keywords, open_websocket_url(
        url, **keywords
    ) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"


@pytest.mark.parametrize("name", ROUTES)
async def test_program_killed_ends_the_connection(
    nursery: trio.Nursery, folder: Path, certificates: Certificates, name: str
) -> None:
    server = Server()
    url, context = await server.start(nursery, "wss", certificates)
    async with ROUTES[name](folder, certificates) as keywords:
        ws = await connect_websocket_url(nursery, url, context, **keywords)
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
    with trio.fail_after(10), pytest.raises(ConnectionClosed) as caught:
        await ws.get_message()
    assert caught.value.reason.code == 1006
    assert caught.value.__cause__ is not None
    assert await server.codes.receive() == 1006


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
async def test_socks_proxy_refuses(folder: Path, start: Start, scheme: str) -> None:
    async with start(folder) as port:
        exc = await refused(CLOSED, f"{scheme}://127.0.0.1:{port}")
        assert exc.socks_reply == 5  # connection refused (RFC 1928, 6)
        assert exc.proxy == f"{scheme}://127.0.0.1:{port}"


@pytest.mark.parametrize("userinfo", ["", f"{USER}:wrong@"])
@pytest.mark.parametrize("start", [counterparts.microsocks, counterparts.dante])
async def test_socks_proxy_asks_for_the_password(folder: Path, start: Start, userinfo: str) -> None:
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


class Web:
    """Two nginx, one with TLS, in front of a server."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self._folder = folder
        self._certificates = certificates
        self.server = Server()

    @contextlib.asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[tuple[str, str]]:
        """Run them, and give their URLs, without and with TLS. They end without a slash."""
        await self.server.start(nursery, "ws", self._certificates)
        tls_folder = self._folder / "tls"
        tls_folder.mkdir()
        async with counterparts.nginx(tls_folder, self._filled_in(NGINX_TLS)) as tls:
            text = self._filled_in(NGINX).replace("TLS", str(tls))
            async with counterparts.nginx(self._folder, text) as plain:
                yield f"ws://localhost:{plain}", f"wss://localhost:{tls}"

    def _filled_in(self, text: str) -> str:
        pem = str(self._certificates.pem)
        return text.replace("BACKEND", str(self.server.port)).replace("CERTIFICATE", pem)


@pytest.fixture
def web(folder: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Web:
    """Give the web servers. Clients trust their certificate by default."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    return Web(folder, certificates)


async def test_nginx_redirects_are_followed(nursery: trio.Nursery, web: Web) -> None:
    async with web.running(nursery) as (plain, tls):
        expected = {
            f"{plain}/301": f"{plain}/",
            f"{plain}/302": f"{plain}/",
            f"{plain}/303": f"{plain}/",
            f"{plain}/307": f"{tls}/",
            f"{plain}/308": f"ws://localhost:{web.server.port}/",
            f"{plain}/chain/x": f"{plain}/",
            f"{tls}/301": f"{tls}/",
        }
        for first, last in expected.items():
            async with open_websocket_url(first, max_redirects=2) as ws:
                assert ws.url == last
                await ws.send_message("hello")
                assert await ws.get_message() == "hello"


@pytest.mark.parametrize(
    ("tail", "rule"),
    [
        ("loop", "leads back to"),
        ("ftp", "must be ws, wss, http or https"),
        ("chain/x", "max_redirects=1"),
        ("300", None),
    ],
)
async def test_nginx_redirects_are_refused(
    nursery: trio.Nursery, web: Web, tail: str, rule: str | None
) -> None:
    async with web.running(nursery) as (plain, _):
        with pytest.raises(ConnectionRejected, match=rule) as caught:
            async with open_websocket_url(f"{plain}/{tail}", max_redirects=1):
                pytest.fail("it is open")
    assert isinstance(caught.value, RedirectError) == (rule is not None)


async def test_nginx_redirects_to_plain_are_refused(nursery: trio.Nursery, web: Web) -> None:
    async with web.running(nursery) as (_, tls):
        with pytest.raises(RedirectError, match="from TLS to the plain"):
            async with open_websocket_url(f"{tls}/plain", max_redirects=9):
                pytest.fail("it is open")


async def test_redirect_from_plain_to_tls_carries_a_conversation(
    nursery: trio.Nursery, folder: Path, web: Web
) -> None:
    async with web.running(nursery) as (plain, _), counterparts.tinyproxy(folder) as port:
        keywords = {"proxy": f"http://127.0.0.1:{port}", "max_redirects": 1}
        await converse(web.server, f"{plain}/307", None, **keywords)
