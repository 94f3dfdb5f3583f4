"""WebSockets over streams that aren't sockets."""

from __future__ import annotations

import ssl

import trio
import trustme
from trio.testing import (
    lockstep_stream_pair,
    memory_stream_one_way_pair,
    memory_stream_pair,
    open_stream_to_socket_listener,
)

from trio_websocket import ConnectionClosed, wrap_client_stream, wrap_server_stream


class Replayed(trio.abc.Stream):
    """A stream that first returns bytes that were read before."""

    def __init__(self, prefix: bytes, stream: trio.abc.Stream) -> None:
        self.prefix = prefix
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.prefix:
            data, self.prefix = (
                self.prefix[:max_bytes],
                self.prefix[max_bytes or len(self.prefix) :],
            )
            return data
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def serve(nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
    request = await wrap_server_stream(nursery, stream, 1, 2**20, None)
    print("request", request.path, request.proposed_subprotocols)
    print("remote is the repr", request.remote == repr(stream), request.local == repr(stream))
    headers = [(b"X-Answer", b"yes")]
    ws = await request.accept(subprotocol="chat", extra_headers=headers)
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed as exc:
        print("server ends with", exc.reason)
    await ws.aclose()


async def serve_peeked(nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
    peeked = b""
    while b"\r\n\r\n" not in peeked:
        peeked += await stream.receive_some(10)
    print("peeked", peeked.split(b"\r\n")[0])
    await serve(nursery, Replayed(peeked, stream))


async def talk(client: trio.abc.Stream, server: trio.abc.Stream, peek: bool = False) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_peeked if peek else serve, nursery, server)
        ws = await wrap_client_stream(
            nursery,
            client,  # type: ignore[arg-type, unused-ignore] # 0.12: sockets only
            "example.org",
            "/path",
            subprotocols=["chat"],
            extra_headers=[(b"X-Question", b"?")],
        )
        print("client", ws.subprotocol, ws.path, ws.handshake_headers[0])
        for message in ("text", b"bytes", "x" * 70_000):
            await ws.send_message(message)
            print(await ws.get_message() == message)
        await ws.ping()
        await ws.aclose()
        print("client ends with", ws.closed)


async def main() -> None:
    await talk(*memory_stream_pair())
    await talk(*memory_stream_pair(), peek=True)
    await talk(*lockstep_stream_pair())
    to_server, from_client = memory_stream_one_way_pair()
    to_client, from_server = memory_stream_one_way_pair()
    await talk(
        trio.StapledStream(to_server, from_server), trio.StapledStream(to_client, from_client)
    )
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("example.org").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    near, far = memory_stream_pair()
    tunnel = trio.SSLStream(near, context, server_hostname="example.org", https_compatible=True)
    async with trio.open_nursery() as nursery:
        end = trio.SSLStream(far, server_context, server_side=True, https_compatible=True)
        nursery.start_soon(end.do_handshake)
        await tunnel.do_handshake()
    await talk(Replayed(b"", tunnel), Replayed(b"", end))
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client = await open_stream_to_socket_listener(listener)
    await talk(client, Replayed(b"", await listener.accept()), peek=True)
    await listener.aclose()


trio.run(main)
