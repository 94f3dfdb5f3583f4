"""Drive bounds and time-outs to their limits, and print a line with the measurement for each.

    python -m tools.soak_limits

The exit status is 1 if a bound was exceeded. The memory is the memory of a separate server process.
Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import subprocess
import sys
import time
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, NamedTuple

import trio

from support.connections import open_client, open_pair, open_server
from support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from support.peer import REQUEST, accepting, read_head, start_raw_server
from support.streams import tcp_pair, tls_contexts
from tools.memory import GIVE_BACK, KIB, resident
from trio_websocket import (
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
    connect_websocket,
    serve_websocket,
    wrap_server_stream,
)

HOST = "127.0.0.1"
MESSAGE = 2**20  # max_message_size
READ = 64 * KIB  # the bytes of one read
UNSENT = 64 * KIB  # max_unsent_bytes
HEAD = 64 * KIB  # max_header_size
CONNECTION = 64 * KIB  # the memory of any connection
PROCESS = 4 * 2**20  # memory that the process allocates once, and partly used pages
LINGER = 2.0  # seconds
GOODBYE = 0.05  # seconds

exceeded: list[str] = []


def show(what: str, figure: str, bound: str, is_well: bool) -> None:
    print(f"{'ok' if is_well else 'FAILED':6} {what:62} {figure:>30}   bound: {bound}", flush=True)
    if not is_well:
        exceeded.append(what)


# -- two peers that both send and ping


async def both_send_and_ping(kind: str, megabytes: int, limit: float) -> None:
    message = os.urandom(250_000)
    number = megabytes * 4
    pings = [0, 0]
    slowest = 0.0
    received = [0, 0]

    async def send(ws: WebSocketConnection) -> None:
        for _ in range(number):
            await ws.send_message(message)

    async def receive(ws: WebSocketConnection, index: int) -> None:
        for _ in range(number):
            assert await ws.get_message() == message
            received[index] += 1

    async def ping(ws: WebSocketConnection, index: int) -> None:
        nonlocal slowest
        while True:
            slowest = max(slowest, await ws.ping())
            pings[index] += 1

    start = time.monotonic()
    with trio.move_on_after(limit):
        async with trio.open_nursery() as nursery:
            peers = await open_pair(nursery, kind)
            async with trio.open_nursery() as pinging:
                async with trio.open_nursery() as sending:
                    for index, ws in enumerate(peers):
                        sending.start_soon(send, ws)
                        sending.start_soon(receive, ws, index)
                        pinging.start_soon(ping, ws, index)
                pinging.cancel_scope.cancel()
            await peers[0].aclose()
    seconds = time.monotonic() - start
    show(
        f"two peers send {megabytes} MB each and ping meanwhile, {kind.upper()}",
        f"{seconds:.1f} s",
        f"{limit:g} s ({pings[0]} and {pings[1]} pings answered, the slowest in {slowest:.2f} s)",
        received == [number, number] and min(pings) > 0 and seconds < limit,
    )


# -- memory


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, mask=True)


def fragmented(payload: bytes, size: int) -> bytes:
    """Return a text in frames of this size, without a final frame."""
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    opcodes = [TEXT] + [CONTINUATION] * (len(pieces) - 1)
    frames = (masked(opcode, piece, fin=False) for opcode, piece in zip(opcodes, pieces))
    return b"".join(frames)


class Scenario(NamedTuple):
    """A way for a peer to use memory."""

    what: str
    path: str  # selects the behaviour of the application
    data: bytes  # sent by the peer, which reads nothing
    bound: int  # the bound for each connection


def scenarios() -> Iterator[Scenario]:
    message = masked(BINARY, bytes(MESSAGE))
    yield Scenario(
        "peer never reads what the application sends",
        "/send",
        b"",
        UNSENT + MESSAGE,
    )
    yield Scenario(
        "peer sends more than the application reads",
        "/hold",
        message * 8,
        2 * MESSAGE + 2 * READ,  # a queued message, the next one, and data that was read with it
    )
    yield Scenario(
        "peer never reads the echoes of what it sends",
        "/echo",
        message * 8,
        UNSENT + 4 * MESSAGE + 2 * READ,  # the sum of both, and the application's message
    )
    yield Scenario(
        "peer sends pings and never reads",
        "/echo",
        masked(PING, bytes(125)) * 4000,
        UNSENT + 2 * READ,
    )
    yield Scenario(
        "peer never ends a text in many fragments",
        "/echo",
        fragmented("🦊".encode() + bytes(MESSAGE - 5), 64),
        9 * MESSAGE // 2 + 2 * READ,  # a str uses up to 4 bytes per byte, and spare room
    )
    yield Scenario(
        "peer never ends its request",
        "",
        REQUEST[:-2] + b"X: " + b"x" * 60_000,
        2 * HEAD,
    )


async def measure_memory(scenario: Scenario, connections: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.soak.memory_server"],
        env={**os.environ, **GIVE_BACK},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    port = int(process.stdout.readline())
    sent = 0

    async def be_peer() -> None:
        nonlocal sent
        async with await trio.open_tcp_stream(HOST, port) as stream:
            if scenario.path:
                await stream.send_all(REQUEST.replace(b"GET / ", f"GET {scenario.path} ".encode()))
                await read_head(stream)
            for start in range(0, len(scenario.data), READ):
                await stream.send_all(scenario.data[start : start + READ])
                sent += 1
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_peer)  # the first connection, for memory that is allocated once
        await trio.sleep(0.2)
        before = resident(process.pid)
        for _ in range(connections):
            nursery.start_soon(be_peer)
        last = 0, 0
        while last != (resident(process.pid), sent):  # until TCP stops the peers
            last = resident(process.pid), sent
            await trio.sleep(0.3)
        grown = resident(process.pid) - before
        nursery.cancel_scope.cancel()
    process.stdin.close()
    await trio.to_thread.run_sync(process.wait)
    process.stdout.close()
    bound = connections * (scenario.bound + CONNECTION) + PROCESS
    show(
        scenario.what,
        f"{grown / connections / KIB:.0f} KiB a connection",
        f"{bound / connections / KIB:.0f} KiB",
        grown <= bound and process.returncode == 0,
    )


# -- time-outs


class TimeOuts:
    """Concurrent peers that never do what the library waits for."""

    def __init__(self, timeout: float, late: float) -> None:
        """
        :param timeout: All time-outs, in seconds.
        :param late: The permitted delay of a time-out, in seconds.
        """
        self.timeout = timeout
        self.late = late
        self.options: dict[str, Any] = {
            "connect_timeout": timeout,
            "disconnect_timeout": timeout,
        }

    @contextlib.asynccontextmanager
    async def taking(
        self,
        what: str,
        seconds: float | None = None,
        error: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> AsyncIterator[None]:
        """Check the duration of the block, and its exception, if one is expected."""
        seconds = self.timeout if seconds is None else seconds
        start = trio.current_time()
        raised = ""
        with trio.move_on_after(seconds + 10):
            try:
                yield
            except error as exc:
                raised = f", {type(exc).__name__}"
        taken = trio.current_time() - start
        most = seconds + self.late
        is_well = seconds - 0.02 <= taken <= most and bool(raised) == bool(error)
        show(what, f"{taken:.2f} s{raised}", f"{seconds:g} to {most:g} s", is_well)

    async def run(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        checks: list[Callable[[trio.Nursery], Awaitable[None]]] = [
            getattr(self, name) for name in dir(self) if name.startswith(("client_", "server_"))
        ]
        async with trio.open_nursery() as nursery:
            for check in checks:
                nursery.start_soon(self.check, check)
        left = len(os.listdir("/proc/self/fd")) - before
        show("descriptors that are left of all these", str(left), "0", left == 0)

    @staticmethod
    async def check(check: Callable[[trio.Nursery], Awaitable[None]]) -> None:
        async with trio.open_nursery() as nursery:
            await check(nursery)
            nursery.cancel_scope.cancel()

    # -- servers

    async def serve(
        self, nursery: trio.Nursery, handler: Callable[[WebSocketRequest], Awaitable[object]]
    ) -> trio.SocketStream:
        """Start a server, and return a raw client of it."""
        server = await nursery.start(serve_websocket_with(handler, self.options))
        return await trio.open_tcp_stream(HOST, server.port)

    async def server_request(self, nursery: trio.Nursery) -> None:
        stream = await self.serve(nursery, hold)
        async with self.taking("server: peer never sends a request"), stream:
            await read_to_end(stream)

    async def server_request_dripping(self, nursery: trio.Nursery) -> None:
        stream = await self.serve(nursery, hold)
        async with self.taking("server: peer sends its request a byte at a time"), stream:
            nursery.start_soon(drip, stream, REQUEST, self.timeout / 20)
            await read_to_end(stream)

    async def server_tls(self, nursery: trio.Nursery) -> None:
        server = await nursery.start(serve_websocket_with(hold, self.options, tls_contexts()[1]))
        stream = await trio.open_tcp_stream(HOST, server.port)
        async with self.taking("server: peer never begins TLS"), stream:
            await read_to_end(stream)

    async def server_close(self, nursery: trio.Nursery) -> None:
        ws, peer = await open_server(nursery, "tcp", **self.options)
        async with self.taking("server: peer never answers Close", error=DisconnectionTimeout):
            await ws.aclose()
        await peer.aclose()

    async def server_handler(self, nursery: trio.Nursery) -> None:
        async def handler(request: WebSocketRequest) -> None:
            await request.accept()

        stream = await self.serve(nursery, handler)
        what = "server: peer never answers Close at the end of the handler"
        async with self.taking(what), stream:
            await stream.send_all(REQUEST)
            await read_to_end(stream)

    async def server_close_unread(self, nursery: trio.Nursery) -> None:
        ws, peer = await open_server(nursery, "tcp", **self.options)
        await fill(ws)
        async with self.taking("server: peer never reads the Close", error=DisconnectionTimeout):
            await ws.aclose()
        await peer.aclose()

    async def server_close_cancelled(self, nursery: trio.Nursery) -> None:
        ws, peer = await open_server(nursery, "tcp", **self.options)
        await fill(ws)
        async with self.taking("server: peer never reads, and aclose is cancelled", GOODBYE):
            with trio.move_on_after(0):
                await ws.aclose()
        await peer.aclose()

    async def server_linger(self, nursery: trio.Nursery) -> None:
        ws, peer = await open_server(
            nursery, "tcp", connect_timeout=self.timeout, disconnect_timeout=math.inf
        )
        await peer.send_close(1000)
        async with self.taking("server: peer closes and never ends its side", LINGER):
            await ws.aclose()
        await peer.aclose()

    async def server_rejection(self, nursery: trio.Nursery) -> None:
        client, stream = await tcp_pair()
        await client.send_all(REQUEST)
        request = await wrap_server_stream(nursery, stream, **self.options)
        async with self.taking("server: peer never reads its rejection"):
            await request.reject(403, body=bytes(10_000_000))
        await client.aclose()

    async def server_bad_request(self, nursery: trio.Nursery) -> None:
        client, stream = await tcp_pair()
        options = {**self.options, "disconnect_timeout": math.inf}
        await client.send_all(b"GARBAGE\r\n\r\n")
        what = "server: peer sends no HTTP and never ends its side"
        async with self.taking(what, LINGER, HandshakeError):
            await wrap_server_stream(nursery, stream, **options)
        await client.aclose()

    async def server_keep_alive(self, nursery: trio.Nursery) -> None:
        interval: dict[str, Any] = {"ping_interval": self.timeout / 2}
        interval["ping_timeout"] = self.timeout / 2
        async with self.taking("server: peer never answers the pings of the keep-alive"):
            ws, peer = await open_server(nursery, "tcp", **self.options, **interval)
            frames = await peer.receive_all()
            assert frames[-1].opcode == CLOSE
        await peer.aclose()
        await ws.wait_closed()

    # -- clients

    async def connect(
        self, nursery: trio.Nursery, handler: Callable[[Any], Awaitable[object]]
    ) -> None:
        port = await start_raw_server(nursery, handler)
        await connect_websocket(nursery, HOST, port, "/", use_ssl=False, **self.options)

    async def client_response(self, nursery: trio.Nursery) -> None:
        async with self.taking("client: peer never answers the request", error=ConnectionTimeout):
            await self.connect(nursery, hold)

    async def client_response_dripping(self, nursery: trio.Nursery) -> None:
        async def handler(stream: trio.SocketStream) -> None:
            request, _ = await read_head(stream)
            await drip(stream, accepting(request), self.timeout / 20)

        what = "client: peer answers a byte at a time"
        async with self.taking(what, error=ConnectionTimeout):
            await self.connect(nursery, handler)

    async def client_tls(self, nursery: trio.Nursery) -> None:
        port = await start_raw_server(nursery, hold)
        async with self.taking("client: peer never begins TLS", error=ConnectionTimeout):
            await connect_websocket(
                nursery, HOST, port, "/", use_ssl=tls_contexts()[0], **self.options
            )

    async def client_rejection(self, nursery: trio.Nursery) -> None:
        async def handler(stream: trio.SocketStream) -> None:
            await read_head(stream)
            await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\n")
            await trio.sleep_forever()

        what = "client: peer never sends its rejection's body"
        async with self.taking(what, error=ConnectionRejected):
            await self.connect(nursery, handler)

    async def client_close(self, nursery: trio.Nursery) -> None:
        ws, peer = await open_client(nursery, "tcp", **self.options)
        async with self.taking("client: peer never answers Close", error=DisconnectionTimeout):
            await ws.aclose()
        await peer.aclose()


def serve_websocket_with(
    handler: Callable[[WebSocketRequest], Awaitable[object]],
    options: dict[str, Any],
    context: Any = None,
) -> Callable[..., Awaitable[object]]:
    async def serve(*, task_status: Any) -> None:
        await serve_websocket(handler, HOST, 0, context, task_status=task_status, **options)

    return serve


async def hold(_: object) -> None:
    await trio.sleep_forever()


async def drip(stream: trio.abc.Stream, data: bytes, pause: float) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for byte in data:
            await stream.send_all(bytes([byte]))
            await trio.sleep(pause)


async def read_to_end(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for _ in stream:
            pass


async def fill(ws: WebSocketConnection) -> None:
    """Send until the buffers of the peer, which does not read, are full."""
    with trio.move_on_after(0.1):
        while True:
            await ws.send_message(bytes(100_000))


async def run(args: argparse.Namespace) -> None:
    await TimeOuts(args.timeout, args.late).run()
    async with trio.open_nursery() as nursery:
        for scenario in scenarios():
            nursery.start_soon(measure_memory, scenario, args.connections)
    for kind in ("tcp", "tls"):
        await both_send_and_ping(kind, args.megabytes, args.limit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100, help="that either peer sends")
    parser.add_argument("--limit", type=float, default=300, help="seconds that this may take")
    parser.add_argument("--connections", type=int, default=50, help="that share the memory")
    parser.add_argument("--timeout", type=float, default=2, help="seconds: all time-outs")
    parser.add_argument("--late", type=float, default=0.5, help="seconds that one may come late")
    args = parser.parse_args()
    trio.run(run, args)
    print(f"FAILED: {', '.join(exceeded)}" if exceeded else "all within their bounds")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
