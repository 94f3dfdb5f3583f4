"""The clients of the soak that send raw bytes: slow, silent or lying, or without reading."""

from __future__ import annotations

import contextlib
import random
import socket

import trio

from support.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, Frame, frame
from support.peer import REQUEST, RawPeer
from support.streams import reset
from tools.soak.clients import Clients, new_id
from tools.soak.side import (
    GRACE,
    HOST,
    LINGER,
    SOCKET_BUFFER,
    Incoming,
    Outgoing,
    Violation,
)


async def touch(clients: Clients, rng: random.Random) -> None:
    """Connect and leave."""
    stream = await clients.connect()
    await trio.sleep(rng.choice([0, 0.01]))
    await leave(stream, rng)


async def leave(stream: trio.abc.Stream, rng: random.Random) -> None:
    if rng.random() < 0.5:
        reset(stream)
    else:
        await stream.aclose()


async def read_to_end(stream: trio.abc.Stream) -> bytes:
    received = b""
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            received += data
    return received


async def never_finish_request(clients: Clients, rng: random.Random) -> None:
    stream = await clients.connect()
    start = trio.current_time()
    request = REQUEST[: rng.randrange(len(REQUEST))]
    async with trio.open_nursery() as nursery, stream:

        async def drip() -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for byte in request:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(clients.timeout / 20)

        what = rng.choice(["request, one byte at a time", "request that ends early"])
        if what.endswith("time"):
            nursery.start_soon(drip)
        else:
            await stream.send_all(request)
        with trio.move_on_after(clients.timeout + 4 * clients.slack):
            await read_to_end(stream)
        nursery.cancel_scope.cancel()
    clients.took(what, start, clients.timeout, clients.timeout)


async def never_finish_tls(clients: Clients, rng: random.Random) -> None:
    del rng
    clients.counts["opened"] += 1
    stream = await trio.open_tcp_stream(HOST, clients.ports[1])
    start = trio.current_time()
    async with stream:
        await stream.send_all(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        with trio.move_on_after(clients.timeout + 4 * clients.slack):
            await read_to_end(stream)
    clients.took("TLS handshake", start, clients.timeout, clients.timeout)


async def send_no_request(clients: Clients, rng: random.Random) -> None:
    """Send garbage or a damaged request. The server ends the connection within its time-outs."""
    stream = await clients.connect()
    request = bytearray(REQUEST.replace(b"GET / ", b"GET /any "))
    kind = rng.randrange(3)
    if kind == 0:
        request = bytearray(rng.getrandbits(8) for _ in range(rng.randrange(1, 3000)))
    elif kind == 1:
        for _ in range(rng.randrange(1, 5)):
            request[rng.randrange(10, len(request))] = rng.getrandbits(8)
    else:
        request = bytearray(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
    start = trio.current_time()
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(request)
        with trio.move_on_after(clients.timeout + LINGER + 4 * clients.slack):
            with contextlib.suppress(trio.BrokenResourceError):
                response = bytes(await stream.receive_some())
                if response.startswith(b"HTTP/1.1 101 "):
                    reset(stream)
                    return
            await read_to_end(stream)
    clients.took("refused request", start, 0, clients.timeout + LINGER)


BAD_FRAMES = (
    (1002, frame(TEXT, b"not masked")),
    (1002, frame(3, b"an unknown opcode", mask=True)),
    (1002, frame(TEXT, b"a reserved bit", rsv=4, mask=True)),
    (1002, frame(CONTINUATION, b"of nothing", mask=True)),
    (1002, frame(PING, b"x" * 126, mask=True)),
    (1002, frame(PING, b"in pieces", fin=False, mask=True)),
    (1002, frame(CLOSE, b"\x03", mask=True)),
    (1002, frame(CLOSE, b"\x03\xe7", mask=True)),
    (1007, frame(TEXT, b"\xff\xfe", mask=True)),
    (1009, frame(BINARY, bytes(2**20 + 1), mask=True)),
)


async def send_bad_frame(clients: Clients, rng: random.Random) -> None:
    peer = await clients.open_raw("any")
    code, data = rng.choice(BAD_FRAMES)
    start = trio.current_time()
    async with peer.stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send(peer.frame(TEXT, b"before"), data)
        with trio.fail_after(LINGER + 4 * clients.slack):
            frames = await peer.receive_all()
        clients.took("peer that sent a bad frame", start, 0, LINGER)
    expected = [Frame(TEXT, b"before").encode(), CLOSE, code]
    close = frames[-1]
    found = [frames[0].encode(), close.opcode, int.from_bytes(close.payload[:2], "big")]
    if found != expected:
        raise Violation(f"{frames} instead of {expected}")


async def send_noise(clients: Clients, rng: random.Random) -> None:
    peer = await clients.open_raw("any")
    with contextlib.suppress(trio.BrokenResourceError):
        for _ in range(rng.randrange(1, 5)):
            await peer.send(bytes(rng.getrandbits(8) for _ in range(rng.randrange(1, 500))))
    with trio.move_on_after(rng.random()):
        await read_to_end(peer.stream)
    await leave(peer.stream, rng)


async def send_in_pieces(clients: Clients, rng: random.Random) -> None:
    """Send messages in fragments and chunks of any size, with Pings between; expect the echoes."""
    stream = new_id(rng)
    peer = await clients.open_raw("echo", id=stream)
    outgoing, incoming = Outgoing(stream, rng), Incoming(stream)
    async with peer.stream:
        for _ in range(rng.randrange(1, 10)):
            message = outgoing.next()
            opcode = TEXT if isinstance(message, str) else BINARY
            payload = message.encode() if isinstance(message, str) else message
            at = rng.randrange(len(payload) + 1)
            data = peer.frame(opcode, payload[:at], fin=False) + peer.frame(PING, b"?")
            data += peer.frame(CONTINUATION, payload[at:])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_pieces, peer.stream, data, rng)
                with trio.fail_after(GRACE):
                    received = await receive_message(peer)
            incoming.check(received)
            outgoing.promised += 1
        await peer.send_close(1000)
        with trio.fail_after(GRACE):
            if (await peer.receive_all())[-1].opcode != CLOSE:
                raise Violation("our Close was not answered")


async def send_pieces(stream: trio.abc.Stream, data: bytes, rng: random.Random) -> None:
    cuts = sorted(rng.randrange(len(data)) for _ in range(rng.choice([1, 3, 30])))
    for start, end in zip([0, *cuts], [*cuts, len(data)]):
        if start < end:
            await stream.send_all(data[start:end])
            await trio.lowlevel.checkpoint()


async def receive_message(peer: RawPeer) -> str | bytes:
    while True:
        received = await peer.receive()
        if received is None:
            raise Violation("the end in place of an echo")
        if received.opcode in (TEXT, BINARY):
            return received.payload.decode() if received.opcode == TEXT else received.payload


async def never_answer_close(clients: Clients, rng: random.Random) -> None:
    peer = await clients.open_raw("close", id=new_id(rng), after=0)
    start = trio.current_time()
    async with peer.stream:
        with trio.move_on_after(clients.timeout + 4 * clients.slack):
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.receive_all()
        clients.took("closing handshake", start, clients.timeout, clients.timeout)


async def never_read(clients: Clients, rng: random.Random) -> None:
    """Don't read the server's messages. When the server gives up, only buffered data remains."""
    tcp = await clients.connect()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    target = f"GET /push?id={new_id(rng)}&number=10000&quick=1 ".encode()
    seconds = 5 * clients.timeout + LINGER + clients.slack
    async with tcp:
        await tcp.send_all(REQUEST.replace(b"GET / ", target))
        if rng.random() < 0.5 and seconds < clients.time_left:
            await trio.sleep(seconds)
            with trio.fail_after(clients.slack):
                async with trio.open_nursery() as nursery:
                    # The kernel drops a closed socket whose last bytes the peer does not read.
                    nursery.start_soon(send_late_ping, tcp)
                    await read_to_end(tcp)
                    nursery.cancel_scope.cancel()
        else:
            await trio.sleep(min(seconds, clients.time_left) * rng.random())
        await leave(tcp, rng)


async def send_late_ping(stream: trio.abc.Stream) -> None:
    await trio.sleep(1)
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(frame(PING, mask=True))


async def flood_with_pings(clients: Clients, rng: random.Random) -> None:
    peer = await clients.open_raw("any")
    pings = peer.frame(PING, b"x" * 125) * 100
    with trio.move_on_after(rng.random()), contextlib.suppress(trio.BrokenResourceError):
        for _ in range(100):
            await peer.send(pings)
            await trio.sleep(rng.random() / 20)
    await leave(peer.stream, rng)
