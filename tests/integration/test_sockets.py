"""Sockets configured by the application: time-outs, factories, forks, address families."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Iterator

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from support.connections import open_pair, open_server
from support.listeners import MemoryListener
from support.streams import PAIRS, tls_contexts
from trio_websocket import (
    ConnectionFailed,
    PerMessageDeflate,
    WebSocketRequest,
    WebSocketServer,
    open_websocket,
    open_websocket_url,
    serve_websocket,
)
from trio_websocket._io.sockets import Borrowed, end_name, is_direct

if TYPE_CHECKING:
    from trio.socket import SocketType


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    async for message in ws:
        await ws.send_message(message)


# -- socket.setdefaulttimeout()


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(1000)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("default_timeout")
async def test_borrowed_with_a_default_timeout_does_not_block() -> None:
    ours, _ = await PAIRS["tcp"]()
    assert isinstance(ours, trio.SocketStream)
    with Borrowed(ours.socket) as sock, pytest.raises(BlockingIOError):
        sock.recv(1)


@pytest.mark.usefixtures("default_timeout")
@pytest.mark.parametrize("is_tls", [False, True])
async def test_serve_websocket_default_timeout_does_not_block(
    nursery: trio.Nursery, is_tls: bool
) -> None:
    client_context, server_context = tls_contexts() if is_tls else (None, None)
    server: WebSocketServer = await nursery.start(
        serve_websocket, echo, "127.0.0.1", 0, server_context
    )
    url = f"{'wss' if is_tls else 'ws'}://localhost:{server.port}/"
    for _ in range(2):
        async with open_websocket_url(url, client_context) as ws:
            await ws.send_message("hello")
            assert await ws.get_message() == "hello"


# -- Trio's default thread limiter


async def test_send_message_all_threads_busy_compresses(
    nursery: trio.Nursery,
) -> None:
    settings = {"compression": PerMessageDeflate()}
    client, server = await open_pair(nursery, client=settings, server=settings)
    limiter = trio.to_thread.current_default_thread_limiter()
    for borrower in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(borrower)
    message = os.urandom(2**18)
    for _ in range(2):
        nursery.start_soon(client.send_message, message)
        assert await server.get_message() == message


# -- trio.abc.SocketFactory and trio.abc.HostnameResolver


class VirtualSocket(trio.socket.SocketType):
    """A socket over memory streams, without a file descriptor."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM
    proto = 0
    did_shutdown_SHUT_WR = False  # noqa: N815 # Trio's name

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *args: object) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 80

    getpeername = getsockname

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def recv(self, size: int, flags: int = 0) -> bytes:
        return bytes(await self._stream.receive_some(size))

    async def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override] # one of its forms
        await self._stream.send_all(bytes(data))
        return len(data)

    def shutdown(self, how: int) -> None:
        self._stream.send_stream.close()

    def close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class VirtualNetwork(trio.abc.SocketFactory, trio.abc.HostnameResolver):
    """A resolver for private names, and sockets to a server in memory."""

    def __init__(self, nursery: trio.Nursery, **options: Any) -> None:
        self._nursery = nursery
        self._options = options
        self.names: list[str] = []

    def socket(self, *args: object) -> SocketType:
        ours, theirs = trio.testing.memory_stream_pair()
        sock = VirtualSocket(ours)

        async def connect(address: object) -> None:
            await self._nursery.start(
                WebSocketServer(echo, [MemoryListener(theirs)], **self._options).run
            )

        sock.connect = connect  # type: ignore[method-assign]
        return sock

    async def getaddrinfo(self, host: Any, port: Any, *args: object) -> Any:
        self.names.append(host.decode() if isinstance(host, bytes) else host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_open_websocket_uses_socket_factory_and_resolver(
    nursery: trio.Nursery,
) -> None:
    network = VirtualNetwork(nursery)
    trio.socket.set_custom_socket_factory(network)
    trio.socket.set_custom_hostname_resolver(network)
    async with open_websocket("nowhere.example", 80, "/", use_ssl=False) as ws:
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
    assert network.names == ["nowhere.example"]


async def test_is_direct_of_a_virtual_socket_is_false() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    assert not is_direct(VirtualSocket(ours))


# -- descriptors that another process holds, too


@pytest.mark.parametrize("how", ["aclose", "cancelled"])
@pytest.mark.parametrize("kind", ["tcp", "own-tls"])
async def test_aclose_descriptor_held_by_child_ends_stream(
    nursery: trio.Nursery, kind: str, how: str
) -> None:
    ours, theirs = await PAIRS[kind]()
    wire: Any = getattr(ours, "transport_stream", ours)
    held = os.dup(wire.socket.fileno())  # as a forked child does
    try:
        server, peer = await open_server(nursery, streams=(ours, theirs))
        with trio.CancelScope() as scope:
            if how == "cancelled":
                scope.cancel()
            nursery.start_soon(peer.send_close, 1000)
            await server.aclose()
        while await peer.receive() is not None:
            pass
    finally:
        os.close(held)


async def test_open_websocket_url_failed_descriptor_held_ends_stream(
    nursery: trio.Nursery,
) -> None:
    async def serve() -> None:
        async with await listener.accept() as stream:
            await stream.send_all(b"this is no TLS")
            while await stream.receive_some():
                pass
            ended.set()

    async def open_and_hold(*args: Any, **kwargs: Any) -> trio.SocketStream:
        stream = await open_tcp_stream(*args, **kwargs)
        held.append(os.dup(stream.socket.fileno()))
        return stream

    held: list[int] = []
    ended = trio.Event()
    open_tcp_stream = trio.open_tcp_stream
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(serve)
    url = f"wss://127.0.0.1:{listener.socket.getsockname()[1]}/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio, "open_tcp_stream", open_and_hold)
        with pytest.raises(ConnectionFailed, match="TLS"):
            async with open_websocket_url(url, tls_contexts()[0]):
                pass
    await ended.wait()
    os.close(held[0])
    await listener.aclose()


# -- address families


class NamedSocket(VirtualSocket):
    def __init__(self, family: int, name: Any) -> None:
        self.family = family  # type: ignore[assignment] # of any kind
        self._name = name

    def getsockname(self) -> Any:
        return self._name


@pytest.mark.parametrize(
    ("family", "name", "shown"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), ("127.0.0.1", 80)),
        (socket.AF_INET6, ("::1", 80, 0, 0), ("::1", 80)),
        (1, "/run/app.sock", "/run/app.sock"),
        (1, "", "an unnamed Unix socket"),
        (1, b"\x00abstract", "@abstract"),
        (40, (2**32 - 1, 1234), "(4294967295, 1234)"),
    ],
)
def test_end_name_of_any_family_names_the_end(family: int, name: Any, shown: object) -> None:
    assert end_name(family, name) == shown


async def test_listeners_of_other_family_are_shown_by_name() -> None:
    class Listening(NamedSocket):
        def getsockopt(self, *args: object) -> Any:
            return 1

    listener = trio.SocketListener(Listening(40, (2**32 - 1, 1234)))
    server = WebSocketServer(echo, [listener])
    assert server.listeners == ["(4294967295, 1234)"]
    with pytest.raises(RuntimeError, match="no port"):
        _ = server.port
    await wait_all_tasks_blocked()
