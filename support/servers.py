"""Servers on 127.0.0.1, of the library and raw ones, and their clients.

Cancel the nursery of a server in the end.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from typing import TYPE_CHECKING, Any, Awaitable, Callable, NoReturn

import pytest
import trio
import trio.testing

from support.frames import (
    CLOSE,
)
from support.peer import REQUEST, RawPeer, accepting, read_head, start_raw_server
from trio_websocket import (
    ConnectionFailed,
    HandshakeError,
    WebSocketRequest,
    WebSocketServer,
    open_websocket_url,
    serve_websocket,
)

if TYPE_CHECKING:
    import ssl

    from trio.abc import Stream

Handler = Callable[[WebSocketRequest], Awaitable[object]]
Script = Callable[[RawPeer], Awaitable[object]]


# -- the library's


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    while True:
        await ws.send_message(await ws.get_message())


async def reject(request: WebSocketRequest) -> None:
    await request.reject(403)


async def wait(request: WebSocketRequest) -> None:
    await trio.sleep_forever()


async def serve(
    nursery: trio.Nursery,
    handler: Handler = echo,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> WebSocketServer:
    server: WebSocketServer = await nursery.start(
        functools.partial(serve_websocket, handler, "127.0.0.1", 0, context, **options)
    )
    return server


async def start(nursery: trio.Nursery, handler: Handler = echo, **options: Any) -> int:
    """Serve without TLS, and return the port."""
    return (await serve(nursery, handler, **options)).port


async def serve_while(
    handler: Handler, client: Callable[[int], Awaitable[object]], **options: Any
) -> None:
    """Serve a client until the server raises. Raise the same exception, in no further group."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = WebSocketServer(handler, listeners, **options)
    async with trio.open_nursery() as clients:
        clients.start_soon(client, server.port)
        try:
            await server.run()
        except BaseException as exc:
            error = exc
    raise error


# -- their clients


def url(port: int, tail: str = "/") -> str:
    return f"ws://127.0.0.1:{port}{tail}"


async def assert_serves(port: int) -> None:
    """Check that the server still echoes at ``/echo``."""
    with trio.fail_after(30):
        async with open_websocket_url(url(port, "/echo")) as ws:
            await ws.send_message("still there?")
            assert await ws.get_message() == "still there?"


async def connect(port: int, *data: bytes, request: bytes = REQUEST) -> RawPeer:
    """Return a raw client that was accepted. It sends the data together with its request."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(request + b"".join(data))
    head, rest = await read_head(stream)
    assert head.startswith(b"HTTP/1.1 101 ")
    return RawPeer(stream, is_client=True, received=rest)


async def ask(port: int, request: bytes = REQUEST) -> bytes:
    """Send a request. Return the response, up to the end of the stream."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return await receive_to_end(stream)


async def receive_to_end(stream: Stream) -> bytes:
    data = b""
    with trio.fail_after(30):
        while True:
            received = await stream.receive_some()
            if not received:
                return data
            data += received


async def last_words(peer: RawPeer) -> list[bytes]:
    """Return the payloads of the server's Close frames, and answer them."""
    payloads = []
    async with peer.stream:
        with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
            received = await peer.receive()
            while received is not None:
                if received.opcode == CLOSE:
                    payloads.append(received.payload)
                    await peer.send_frame(CLOSE, received.payload)
                received = await peer.receive()
    return payloads


async def be_good(port: int, request: bytes = REQUEST) -> list[bytes]:
    """Connect and wait for the server to close. Return the payloads of its Close frames."""
    return await last_words(await connect(port, request=request))


# -- raw ones


async def assert_fails(url: str, *reasons: str, **keywords: Any) -> ConnectionFailed:
    """Check that opening raises `ConnectionFailed`, whose text has these reasons."""
    with trio.fail_after(30), pytest.raises(ConnectionFailed) as caught:
        async with open_websocket_url(url, **keywords):
            pytest.fail("the body has run")
    assert isinstance(caught.value, HandshakeError)
    assert isinstance(caught.value, OSError)
    for reason in reasons:
        assert reason in str(caught.value)
    return caught.value


async def start_accepting(nursery: trio.Nursery, script: Script, *headers: bytes) -> int:
    """Accept each client with more header lines, and run the script. Return the port."""

    async def run(stream: Stream) -> None:
        async with stream:
            request, rest = await read_head(stream)
            await stream.send_all(accepting(request, *headers))
            with contextlib.suppress(trio.BrokenResourceError):  # clients can leave at once
                await script(RawPeer(stream, is_client=False, received=rest))

    return await start_raw_server(nursery, run)


class Names(trio.abc.HostnameResolver):
    """A resolver with one outcome for every name. Without addresses, it never returns."""

    def __init__(self, *addresses: tuple[str, int], error: OSError | None = None) -> None:
        self.addresses = addresses
        self.error = error
        self.asked: list[str | bytes] = []
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *hints: Any, **_: Any) -> Any:
        self.asked.append(host)
        if self.error is not None:
            raise self.error
        if not self.addresses:
            await trio.sleep_forever()
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in self.addresses]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> NoReturn:
        raise NotImplementedError


async def raw_server(nursery: trio.Nursery, script: Script, *headers: bytes) -> str:
    """Start a server that accepts and runs the script. Return its URL."""
    return f"ws://127.0.0.1:{await start_accepting(nursery, script, *headers)}/"


async def answering(nursery: trio.Nursery, answer: bytes) -> str:
    """Start a server that gives one answer to each request, and closes. Return its URL."""

    async def run(stream: Stream) -> None:
        async with stream:
            await read_head(stream)
            await stream.send_all(answer)

    return f"ws://127.0.0.1:{await start_raw_server(nursery, run)}/"
