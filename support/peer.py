"""A raw peer that speaks bytes and frames, and the opening handshake without the library."""

from __future__ import annotations

import base64
import hashlib
from typing import (
    TYPE_CHECKING,
    Any,
    Awaitable,
    Callable,
)

import trio
import trio.testing

from support.frames import (
    CLOSE,
    CONTINUATION,
    TEXT,
    Frame,
    close_payload,
    frame,
    parse_frame,
)
from support.streams import tls_contexts

if TYPE_CHECKING:
    from trio.abc import Stream

REQUEST = (
    b"GET / HTTP/1.1\r\n"
    b"Host: example.org\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


class RawPeer:
    """The peer of the connection under test. It sends any bytes, and parses frames."""

    def __init__(self, stream: Stream, *, is_client: bool, received: bytes = b"") -> None:
        self.stream = stream
        self.is_client = is_client
        self._received = received

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        """Return the bytes of a frame, masked if this is the client."""
        return frame(opcode, payload, fin=fin, rsv=rsv, mask=self.is_client)

    def fragments(self, opcode: int, *payloads: bytes, rsv: int = 0) -> bytes:
        """Return the bytes of a message in fragments, the first with these reserved bits."""
        return b"".join(
            self.frame(
                CONTINUATION if number else opcode,
                payload,
                fin=number == len(payloads) - 1,
                rsv=0 if number else rsv,
            )
            for number, payload in enumerate(payloads)
        )

    def texts(self, *messages: str) -> bytes:
        """Return the bytes of text messages of one frame each."""
        return b"".join(self.frame(TEXT, message.encode()) for message in messages)

    async def send(self, *data: bytes) -> None:
        """Send bytes in one write."""
        await self.stream.send_all(b"".join(data))

    async def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.send(self.frame(opcode, payload, fin=fin))

    async def send_close(self, code: int, reason: str = "") -> None:
        await self.send_frame(CLOSE, close_payload(code, reason))

    async def receive(self) -> Frame | None:
        """Return the next frame, or None at the end of the stream, which must not cut a frame."""
        while True:
            parsed = parse_frame(self._received)
            if parsed is not None:
                found, is_masked, end = parsed
                assert is_masked != self.is_client, "a client masks its frames, a server doesn't"
                self._received = self._received[end:]
                return found
            data = bytes(await self.stream.receive_some())
            if not data:
                assert not self._received, f"a torn frame: {self._received[:20]!r}"
                return None
            self._received += data

    async def receive_frame(self) -> Frame:
        """Return the next frame, which must exist."""
        found = await self.receive()
        assert found is not None, "the stream has ended"
        return found

    async def expect(self, opcode: int) -> bytes:
        """Return the payload of the next frame, which must have this opcode."""
        found = await self.receive_frame()
        assert found.opcode == opcode
        return found.payload

    async def receive_all(self) -> list[Frame]:
        """Return all frames up to the end of the stream."""
        frames: list[Frame] = []
        while True:
            received = await self.receive()
            if received is None:
                return frames
            frames.append(received)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def read_head(stream: Stream) -> tuple[bytes, bytes]:
    """Return the head of an HTTP request or response, and the bytes that came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = await stream.receive_some()
        assert received, f"the end of the stream in a head: {data!r}"
        data += received
    head, end, rest = data.partition(b"\r\n\r\n")
    return head + end, rest


def accepting(request: bytes, *headers: bytes) -> bytes:
    """Return the response that accepts a request, with more header lines."""
    key = request.lower().partition(b"sec-websocket-key:")[2].partition(b"\r\n")[0]
    at = request.lower().index(key)
    key = request[at : at + len(key)].strip()
    token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + token,
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def start_raw_server(
    nursery: trio.Nursery, handler: Callable[[Stream], Awaitable[object]], *, use_tls: bool = False
) -> int:
    """Serve raw streams on 127.0.0.1, and return the port. Cancel the nursery in the end."""
    listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    if use_tls:
        listeners = [
            trio.SSLListener(listener, tls_contexts()[1], https_compatible=True)
            for listener in listeners
        ]
    await nursery.start(trio.serve_listeners, handler, listeners)
    return port


async def frames_to_end(peer: RawPeer) -> list[Frame]:
    async with peer.stream:
        with trio.fail_after(30):
            return await peer.receive_all()


def codes(frames: list[Frame]) -> list[int]:
    """Return the codes of the Close frames."""
    return [int.from_bytes(f.payload[:2], "big") for f in frames if f.opcode == CLOSE]
