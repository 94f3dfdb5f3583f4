"""The load: the peer of the process under test, with blocking sockets and prepared frames.

The load must cost little, because it must not limit the process under test. It sends prepared
bytes and counts the bytes of the answers. It parses frames only if the answers differ in size,
as compressed ones do.
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import ssl
import time
from pathlib import Path
from typing import Callable, Dict, Union

from benchmarks import wire
from benchmarks.process import Process
from benchmarks.task import HOST, Task
from support.frames import CLOSE

Socket = Union[socket.socket, ssl.SSLSocket]
Sample = Dict[str, float]  # "wall" and "cpu" for each message or connection, in s; or "memory" in B

NORMAL_CLOSURE = (1000).to_bytes(2, "big")
TIMEOUT = 30  # seconds until a contestant counts as hanging
LARGE = 2**16  # bytes; above, read while writing, because an echo may start before the end

COMPRESSED = 0x40  # RSV1
_buffer = bytearray(2**20)  # for data that is only counted


def connect(task: Task, port: int, *, is_raw: bool, narrow: bool = False) -> Line:
    """Return an open client connection. If it is narrow, the buffers to the server are small."""
    plain = socket.socket()
    if narrow:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    plain.settimeout(TIMEOUT)
    plain.connect((HOST, port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock: Socket = plain
    if task.tls:
        context = ssl.create_default_context(cafile=Path(task.tls) / "ca.pem")
        sock = context.wrap_socket(plain, server_hostname=HOST)
    line = Line(sock)
    if not is_raw:
        sock.sendall(wire.REQUEST.format(wire.DEFLATE if task.deflate else "").encode())
        response = line.read_head()
        assert response.startswith(b"HTTP/1.1 101"), response
        assert task.deflate == (b"permessage-deflate" in response), response
    return line


def listen() -> socket.socket:
    """Return a listening socket for clients under test."""
    listener = socket.create_server((HOST, 0))
    listener.settimeout(TIMEOUT)
    return listener


def accept(task: Task, listener: socket.socket, *, is_raw: bool) -> Line:
    """Accept a client and return the open connection."""
    plain, _ = listener.accept()
    plain.settimeout(TIMEOUT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock: Socket = plain
    if task.tls:
        sock = server_context(task).wrap_socket(plain, server_side=True)
    line = Line(sock)
    if not is_raw:
        request = line.read_head()
        assert task.deflate == (b"permessage-deflate" in request), request
        sock.sendall(response_to(request, wire.DEFLATE if task.deflate else ""))
    return line


def response_to(request: bytes, extensions: str) -> bytes:
    """Return the response 101, with the right Sec-WebSocket-Accept."""
    lines = request.decode().split("\r\n")
    (key,) = [line[18:].strip() for line in lines if line.lower().startswith("sec-websocket-key:")]
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n{extensions}\r\n"
    ).encode()


def server_context(task: Task) -> ssl.SSLContext:
    context = task.server_context()
    assert context is not None
    return context


class Line:
    """A connection on the side of the load."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self._rest = b""  # received, but not yet parsed

    def read_head(self) -> bytes:
        """Read the head of a request or response, including the empty line."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self.sock.recv(4096)
            if not more:
                raise EOFError("it closed the connection")
            head += more
        return head

    def exchange(self, data: bytes, expected: int) -> None:
        """Send the data, and read the expected number of bytes."""
        if len(data) > LARGE:
            self._exchange_at_once(data, expected)
        else:
            self.sock.sendall(data)
            self.read(expected)

    def check(self, data: bytes, expected: bytes) -> None:
        """Send the data, and check that the answer equals `expected`."""
        self.sock.sendall(data)
        parts, left = [], len(expected)
        while left:
            parts.append(self.sock.recv(left))
            if not parts[-1]:
                raise EOFError("it closed the connection")
            left -= len(parts[-1])
        assert b"".join(parts) == expected, "another answer than the message"

    def answer(self, expected: int, data: bytes) -> None:
        """Read the expected number of bytes, and send the data."""
        self.read(expected)
        self.sock.sendall(data)

    def read(self, size: int) -> None:
        sock, buffer = self.sock, _buffer
        while size > 0:
            got = sock.recv_into(buffer, min(size, 2**20))
            if not got:
                raise EOFError("it closed the connection")
            size -= got

    def read_some(self) -> int:
        """Read once. Return the number of bytes."""
        return self.sock.recv_into(_buffer)

    def read_frames(self, count: int) -> None:
        """Read this number of unfragmented, compressed messages of any size."""
        data = self._rest
        while count:
            size = whole_frame(data)
            while size is None or len(data) < size:
                more = self.sock.recv(2**18)
                if not more:
                    raise EOFError("it closed the connection")
                data += more
                size = whole_frame(data)
            assert data[0] & COMPRESSED, "an answer that is not compressed"
            data = data[size:]
            count -= 1
        self._rest = data

    def _exchange_at_once(self, data: bytes, expected: int) -> None:
        sock, buffer = self.sock, _buffer
        poll = select.poll()
        unsent = memoryview(data)
        sock.setblocking(False)
        while expected > 0:
            waits = True
            if unsent:
                try:
                    unsent = unsent[sock.send(unsent) :]
                    waits = False
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
            try:
                got = sock.recv_into(buffer, min(expected, 2**20))
                if not got:
                    raise EOFError("it closed the connection")
                expected -= got
                waits = False
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            if waits:
                poll.register(sock, select.POLLIN | (select.POLLOUT if unsent else 0))
                assert poll.poll(TIMEOUT * 1000), "it hangs"
        sock.settimeout(TIMEOUT)

    def leave(self, *, is_raw: bool) -> None:
        """Close the connection as a client, and wait until the server closes the socket."""
        if is_raw:
            self.sock.shutdown(socket.SHUT_WR)
        else:
            self.sock.sendall(wire.frame(NORMAL_CLOSURE, CLOSE, masked=True))
        while self.read_some():
            pass
        self.sock.close()

    def see_off(self, *, is_raw: bool) -> None:
        """As a server, wait for the client's Close, answer it, and close the socket."""
        self.read_some()
        if not is_raw:
            self.sock.sendall(wire.frame(NORMAL_CLOSURE, CLOSE, masked=False))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def whole_frame(data: bytes) -> int | None:
    """Return the size of the frame at the beginning, or None if its head is incomplete."""
    if len(data) < 2:
        return None
    code, masked = data[1] & 127, data[1] >> 7
    extended = {126: 2, 127: 8}.get(code, 0)
    if len(data) < 2 + extended:
        return None
    size = int.from_bytes(data[2 : 2 + extended], "big") if extended else code
    return 2 + extended + 4 * masked + size


class Count:
    """The time that a process needs for each operation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._cpu = process.settled_cpu()
        self._begin = time.perf_counter()

    def until(self, seconds: float, step: Callable[[], float]) -> Sample:
        """Repeat a step for this duration. The step returns its number of operations."""
        deadline, count = self._begin + seconds, 0.0
        now = self._begin
        while now < deadline:
            count += step()
            now = time.perf_counter()
        return self.sample(count, now - self._begin)

    def sample(self, count: float, wall: float) -> Sample:
        """Return the times per operation, for a number of operations and their wall time."""
        return {"wall": wall / count, "cpu": (self._process.settled_cpu() - self._cpu) / count}


def warm_up(seconds: float, step: Callable[[], object]) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        step()
