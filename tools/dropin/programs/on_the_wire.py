"""The bytes that a raw peer receives: the opening handshake, and frames."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial

import trio

from trio_websocket import (
    WebSocketRequest,
    connect_websocket_url,
    open_websocket_url,
    serve_websocket,
)

REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Other: 1\r\n\r\n"
)


async def read_head(stream: trio.SocketStream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return head


def show_head(who: str, head: bytes) -> None:
    first, *lines = re.sub(rb"127\.0\.0\.1:\d+", b"ADDRESS", head).strip().split(b"\r\n")
    lines = [re.sub(rb"(?i)(?<=-key: ).*", b"KEY", line) for line in lines]
    print(who, first.decode()[:12])  # the reason phrase has no meaning
    for name, _, value in sorted(line.lower().partition(b":") for line in lines):
        print(who, name.decode(), value.strip().decode())


async def show_frames(who: str, stream: trio.SocketStream) -> None:
    data = b""
    async for chunk in stream:
        data += chunk
    while data:
        size = data[1] & 127
        long = {126: 2, 127: 8}.get(size, 0)
        start = 2 + long + (4 if data[1] & 128 else 0)
        size = int.from_bytes(data[2 : 2 + long], "big") if long else size
        print(who, f"{data[0]:08b} masked={data[1] >> 7} length={size}")
        data = data[start + size :]


async def listen(stream: trio.SocketStream) -> None:
    head = await read_head(stream)
    show_head("request", head)
    await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def handler(request: WebSocketRequest) -> None:
    if request.path == "/no":
        await request.reject(403, extra_headers=[(b"X-Why", b"because")], body=b"no")
        return
    ws = await request.accept(subprotocol="b", extra_headers=[(b"X-Name", b"Value")])
    for message in ("text", b"binary", "", "x" * 126, b"y" * 70_000):
        await ws.send_message(message)
    await ws.pong(b"pong")
    await ws.aclose(1001, "bye")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, listen, 0, host="127.0.0.1"))
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/path?query"
        own = [(b"X-Name", b"Value"), (b"Origin", b"http://example.org")]
        try:
            async with open_websocket_url(url, subprotocols=["a", "b"], extra_headers=own):
                print("not reached")
        except Exception as exc:
            print("client", repr(exc))

        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST)
            show_head("response", await read_head(stream))
            await stream.send_all(b"\x88\x82\0\0\0\0\x03\xe9")  # Close, 1001
            await show_frames("server", stream)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(REQUEST.replace(b"/chat", b"/no"))
            head = await read_head(stream)
            # 0.12 does not announce that it closes the connection.
            show_head("rejection", re.sub(rb"(?i)connection: close\r\n", b"", head))
            print("rejection", await stream.receive_some())
        nursery.cancel_scope.cancel()


async def frames_of_a_client() -> None:
    async def accept(stream: trio.SocketStream) -> None:
        key = re.search(rb"(?i)key: (.*)\r", await read_head(stream))
        assert key is not None
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_token(key[1]) + b"\r\n\r\n"
        )
        await trio.sleep(0.2)
        await stream.send_all(b"\x88\x02\x03\xe8")
        await show_frames("client", stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, accept, 0, host="127.0.0.1"))
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        ws = await connect_websocket_url(nursery, url)
        for message in ("text", b"binary", "", "x" * 126, b"y" * 70_000):
            await ws.send_message(message)
        await ws.pong(b"pong")
        await ws.aclose(4001, "bye")
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


def accept_token(key: bytes) -> bytes:
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


trio.run(main)
trio.run(frames_of_a_client)
