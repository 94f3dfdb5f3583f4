"""The scenarios that the harness interrupts at every step."""

from __future__ import annotations

import contextlib
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator

import trio
from trio.lowlevel import checkpoint
from trio.testing import wait_all_tasks_blocked

from support.frames import CLOSE, PING, PONG, close_payload
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    DisconnectionTimeout,
    Failure,
    HandshakeError,
    PerMessageDeflate,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    broadcast,
    stay_connected,
    wrap_server_stream,
)

from .harness import Errors, Scenario, Stage
from .strict_peer import Gone, Message, StrictPeer, Violation

LARGE = bytes(range(256)) * 2**11  # 512 KiB: more than the buffers of both sides hold

# More calls than this let other tasks run at least once, even if no call has to wait.
MANY = 12

SCENARIOS: dict[str, Scenario] = {}


def scenario(*roles: str) -> Callable[[Callable[[Stage], Awaitable[None]]], None]:
    """Add a scenario that tests a client, a server, or each."""

    def add(play: Callable[[Stage], Awaitable[None]]) -> None:
        for role in roles:
            name = f"{role}: {play.__name__.replace('_', ' ')}"
            SCENARIOS[name] = Scenario(name, role, play)

    return add


@contextlib.contextmanager
def leaving_no_task(stage: Stage) -> Iterator[None]:
    """Check that no task is left if there is no connection in the end."""
    try:
        yield
    finally:
        if not stage.connections and stage.nursery.child_tasks:
            raise Violation(f"it left {stage.nursery.child_tasks}")


# -- opening


@scenario("client")
async def open_a_block(stage: Stage) -> None:
    await _open_a_block(stage, await stage.raw_server(echoes=True), None)


@scenario("client")
async def open_a_block_over_a_stream_function(stage: Stage) -> None:
    await _open_a_block(stage, await stage.raw_server(echoes=True), stage.open_stream)


@scenario("client")
async def open_a_block_over_an_open_stream(stage: Stage) -> None:
    peer = await stage.raw_server(echoes=True)
    await _open_a_block(stage, peer, await stage.given_stream())


async def _open_a_block(stage: Stage, peer: StrictPeer, stream: Any) -> None:
    async def block() -> None:
        async with stage.client_block(stream) as connection:
            await connection.send_message("hello")
            assert await connection.get_message() == "hello"

    is_done = await stage.act(block, struck_raises=(HandshakeError, ConnectionClosed))
    if is_done and not stage.is_interrupted:
        stage.expect([close_payload(1000)], [peer.frames[-1].payload])


@scenario("client")
async def open_a_block_that_raises(stage: Stage) -> None:
    peer = await stage.raw_server()

    async def block() -> None:
        async with stage.client_block():
            raise LookupError

    is_done = await stage.act(
        block, raises=(LookupError,), struck_raises=(HandshakeError,), is_bounded=True
    )
    if is_done and not stage.is_interrupted:
        stage.expect([close_payload(1011)], [peer.frames[-1].payload])


async def connect_to(stage: Stage, peer: StrictPeer) -> None:
    """Connect, converse and close, with `connect` as the interrupted call."""

    async def call() -> None:
        stage.keep(await stage.connect())

    with leaving_no_task(stage):
        await stage.act(call, struck_raises=(HandshakeError,), is_bounded=True)
    for connection in stage.connections:
        await stage.converse(connection, peer)
        await stage.close(connection, peer)


@scenario("client")
async def connect(stage: Stage) -> None:
    await connect_to(stage, await stage.raw_server())


@scenario("client")
async def connect_through_a_proxy(stage: Stage) -> None:
    async with stage.server_behind_proxy() as peer:
        await connect_to(stage, peer)


@scenario("client")
async def be_rejected(stage: Stage) -> None:
    def response(request: bytes) -> bytes:
        return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever"

    await stage.raw_server(response=response)
    with leaving_no_task(stage):
        await stage.act(
            stage.connect,
            raises=(ConnectionRejected,),
            struck_raises=(HandshakeError,),
            is_bounded=True,
        )


@scenario("client")
async def follow_a_redirect(stage: Stage) -> None:
    await connect_to(stage, await stage.redirecting_server())


@scenario("client")
async def stay_connected_to_a_server_that_restarts(stage: Stage) -> None:
    """The first connection is lost, the second attempt is rejected, and the third succeeds."""
    first, busy, third = peers = stage.peer(), stage.peer(), stage.peer(echoes=True)
    busy.response = lambda request: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    url = await stage.servers(*peers)
    delay = 1 if stage.transport == "memory" else 0
    opened: list[StrictPeer] = []

    async def session(ws: WebSocketConnection) -> str | None:
        opened.append(third if opened else first)
        if not first.is_over:
            first.queue_close(close_payload(1012))
        await ws.send_message("hello")
        assert await ws.get_message() == "hello"
        return "done"

    async def on_retry(failure: Failure, delay: float) -> None:
        await checkpoint()

    async def wake() -> None:
        await trio.sleep(delay / 2)

    async def call() -> None:
        value = await stay_connected(
            session,
            url,
            retry=lambda failure: delay if failure.attempt <= 2 else None,
            on_retry=on_retry,
            wake=wake,
            **stage.client_options,
        )
        assert value == "done"
        assert stage.is_struck or opened == [first, third]

    await stage.act(call, struck_raises=(HandshakeError, ConnectionClosed))
    if not stage.is_struck:
        for peer in opened:
            await peer.wait_over()
            if CLOSE not in [found.opcode for found in peer.frames]:
                raise Violation(f"a connection ended without a Close frame: {peer.frames}")


@scenario("server")
async def accept(stage: Stage) -> None:
    ours, theirs = await stage.streams()
    peer = stage.peer()
    stage.peers.start_soon(peer.run, theirs)
    requests: list[WebSocketRequest] = []

    async def call() -> None:
        requests.append(await wrap_server_stream(stage.nursery, ours))
        stage.keep(await requests[0].accept())

    with leaving_no_task(stage):
        await stage.act(call, struck_raises=(HandshakeError,), is_bounded=True)
    if requests and not stage.connections:  # the request can still be answered
        stage.keep(await requests[0].accept())
    for connection in stage.connections:
        await stage.converse(connection, peer)
        await stage.close(connection, peer)


@scenario("server")
async def reject(stage: Stage) -> None:
    ours, theirs = await stage.streams()
    peer = stage.peer()
    stage.peers.start_soon(peer.run, theirs)
    request = await wrap_server_stream(stage.nursery, ours)
    await stage.act(lambda: request.reject(403, body=b"never"), struck_raises=(), is_bounded=True)
    await peer.wait_over()
    if not stage.is_interrupted:
        stage.expect([b"never"], [peer.body])


# -- serving

Handler = Callable[[WebSocketRequest], Awaitable[object]]
Conversation = Callable[[StrictPeer], Awaitable[object]]


async def serve(
    stage: Stage, handler: Handler, talk: Conversation, raises: Errors = (), **options: Any
) -> None:
    """Serve a client, and another one if a fault hit the first."""
    started, server = trio.open_memory_channel[WebSocketServer](1)

    class Status:
        def started(self, value: WebSocketServer | None = None) -> None:
            assert value is not None
            started.send_nowait(value)

    async def talk_to_it() -> None:
        port = await server.receive()
        try:
            await talk(await stage.raw_client(port))
        except (Gone, OSError):
            if not stage.is_interrupted:
                raise
        if stage.is_struck and not stage.is_over:
            await talk(await stage.raw_client(port))
        stage.finish()

    stage.peers.start_soon(talk_to_it)
    await stage.act(
        lambda: stage.serve(handler, options, Status()), raises=raises, struck_raises=()
    )


@scenario("server")
async def serve_an_echo(stage: Stage) -> None:
    async def handler(request: WebSocketRequest) -> None:
        connection = await request.accept()
        stage.has_opened = True
        while True:
            await connection.send_message(await connection.get_message())

    async def talk(peer: StrictPeer) -> None:
        await peer.wait(lambda: peer.is_open)
        peer.queue_message("hello")
        peer.queue(peer.frame(PING, b"1"))
        peer.queue_message(b"world")
        await peer.wait(lambda: len(peer.messages) == 2 and peer.pongs)
        peer.queue_close(close_payload(1000))
        await peer.wait_over()
        stage.expect(["hello", b"world"], peer.messages)

    await serve(stage, handler, talk)


@scenario("server")
async def serve_what_is_large_and_return(stage: Stage) -> None:
    async def handler(request: WebSocketRequest) -> None:
        connection = await request.accept()
        stage.has_opened = True
        await connection.send_message(LARGE)

    async def talk(peer: StrictPeer) -> None:
        await peer.wait_over()
        if not stage.is_interrupted:
            stage.expect([LARGE], peer.messages)

    await serve(stage, handler, talk)


@scenario("server")
async def serve_and_say_nothing(stage: Stage) -> None:
    async def handler(request: WebSocketRequest) -> None:
        await trio.lowlevel.checkpoint()

    await serve(stage, handler, StrictPeer.wait_over)


@scenario("server")
async def serve_and_fail(stage: Stage) -> None:
    reported: list[Exception] = []

    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        stage.has_opened = True
        raise LookupError

    async def report(request: WebSocketRequest, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        reported.append(error)

    async def talk(peer: StrictPeer) -> None:
        await peer.wait_over()
        if not stage.is_interrupted:
            stage.expect([close_payload(1011)], [peer.frames[-1].payload])

    await serve(stage, handler, talk, on_handler_error=report)
    if not stage.is_interrupted:
        stage.expect([LookupError], [type(error) for error in reported])


@scenario("server")
async def close_the_server(stage: Stage) -> None:
    async def handler(request: WebSocketRequest) -> None:
        connection = await request.accept()
        stage.has_opened = True
        while True:
            await connection.send_message(await connection.get_message())

    server = await stage.nursery.start(stage.serve, handler, {})
    peer = await stage.raw_client(server)
    await peer.wait(lambda: peer.is_open)
    await stage.act(lambda: server.aclose(4001), struck_raises=(), is_bounded=True)
    await check_closed(stage, peer, close_payload(4001))


# -- sending


async def send_large(connection: WebSocketConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        await connection.send_message(LARGE)


@scenario("client", "server")
async def send(stage: Stage) -> None:
    connection, peer = await stage.open()
    messages: list[Message] = ["hello", b"world" * 1000, ""] * MANY

    async def call() -> None:
        for message in messages:
            await connection.send_message(message)

    is_done = await stage.act(call)
    await stage.converse(connection, peer)
    stage.expect(messages, peer.messages, is_done=is_done)
    await stage.close(connection, peer)


@scenario("client", "server")
async def send_more_than_all_buffers_hold(stage: Stage) -> None:
    connection, peer = await stage.open(lockstep=True)
    is_done = await stage.act(lambda: connection.send_message(LARGE))
    await stage.converse(connection, peer)
    stage.expect([LARGE], peer.messages, is_done=is_done)
    await stage.close(connection, peer)


@scenario("client", "server")
async def send_behind_another_sender(stage: Stage) -> None:
    connection, peer = await stage.open(lockstep=True)
    peer.change(reads=False)

    async def let_it_read() -> None:
        await wait_all_tasks_blocked()
        peer.change(reads=True)

    stage.nursery.start_soon(send_large, connection)
    await wait_all_tasks_blocked()
    stage.peers.start_soon(let_it_read)
    is_done = await stage.act(lambda: connection.send_message("behind"))
    await stage.converse(connection, peer)
    stage.expect([LARGE, "behind"], peer.messages, is_done=is_done)
    await stage.close(connection, peer)


@scenario("server")
async def broadcast_to_slow_and_quick(stage: Stage) -> None:
    slow, slow_peer = await stage.open(lockstep=True)
    quick, quick_peer = await stage.open()
    slow_peer.change(reads=False)

    async def let_it_read() -> None:
        await wait_all_tasks_blocked()
        slow_peer.change(reads=True)

    async def call() -> None:
        result = await broadcast([slow, quick], "to all", timeout=80)
        if not stage.is_struck and result.failed:
            raise Violation(f"{result.failed}")

    stage.nursery.start_soon(send_large, slow)
    await wait_all_tasks_blocked()
    stage.peers.start_soon(let_it_read)
    is_done = await stage.act(call)
    await stage.converse(slow, slow_peer)
    await stage.converse(quick, quick_peer)
    stage.expect([LARGE, "to all"], slow_peer.messages, is_done=is_done)
    stage.expect(["to all"], quick_peer.messages, is_done=is_done)
    await stage.close(slow, slow_peer)
    await quick_peer.wait_over()


@scenario("client", "server")
async def send_in_pieces(stage: Stage) -> None:
    await _send_in_pieces(stage, ["one ", "t\N{SNOWMAN} ", "three " * 1000])


@scenario("client", "server")
async def send_in_pieces_what_is_large(stage: Stage) -> None:
    await _send_in_pieces(stage, [LARGE[at : at + 70_000] for at in range(0, len(LARGE), 70_000)])


@scenario("client", "server")
async def send_in_pieces_compressed(stage: Stage) -> None:
    await _send_in_pieces(stage, [b"one ", b"two " * 100, b"three " * 10_000], compression=True)


async def _send_in_pieces(stage: Stage, pieces: list[Any], *, compression: bool = False) -> None:
    # We offer compression. The peer declines it.
    settings = PerMessageDeflate() if compression else None
    connection, peer = await stage.open(lockstep=True, compression=settings)
    peer.may_be_broken_off = True

    async def slowly() -> AsyncIterator[Any]:
        for piece in pieces:
            yield piece
            await trio.lowlevel.checkpoint()

    is_done = await stage.act(lambda: connection.send_message(slowly()))
    if connection.closed is not None:  # a message that was begun can't be taken back
        text = "a message was broken off half-way"
        await check_closed(stage, peer, close_payload(1011, text))
        return
    await stage.converse(connection, peer)
    stage.expect([pieces[0][:0].join(pieces)], peer.messages, is_done=is_done)
    await stage.close(connection, peer)


# -- receiving


@scenario("client", "server")
async def receive(stage: Stage) -> None:
    await _receive(stage, ["hello", b"a message in pieces", "", b"world", "bye"])


@scenario("client", "server")
async def receive_what_is_large(stage: Stage) -> None:
    await _receive(stage, [LARGE])


async def _receive(stage: Stage, messages: list[Message]) -> None:
    connection, peer = await stage.open()
    received: list[Message] = []

    async def send_all() -> None:
        for pieces, message in enumerate(messages, 1):
            await wait_all_tasks_blocked()
            peer.queue_message(message, pieces)
            peer.queue(peer.frame(PING))

    async def call() -> None:
        for _ in messages:
            received.append(await connection.get_message())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        await stage.act(call)
    received += await stage.converse(connection, peer)
    stage.expect(messages, received)
    await stage.close(connection, peer)


@scenario("client", "server")
async def receive_in_pieces(stage: Stage) -> None:
    connection, peer = await stage.open()
    messages: list[Any] = ["h\N{SNOWMAN}llo" * 100, LARGE, "", "bye"]
    received: list[Any] = []
    thrown_away = 0

    async def send_all() -> None:
        for pieces, message in enumerate(messages, 1):
            await wait_all_tasks_blocked()
            peer.queue_message(message, pieces)
            peer.queue(peer.frame(PING))

    async def call() -> None:
        nonlocal thrown_away
        for _ in messages:
            async with connection.receive_stream() as stream:
                thrown_away = 1
                pieces: list[Any] = [piece async for piece in stream]
                received.append("".join(pieces) if stream.is_text else b"".join(pieces))
                thrown_away = 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        await stage.act(call)
    rest = await stage.converse(connection, peer)
    stage.expect(messages, received + messages[len(received) :][:thrown_away] + rest)
    await stage.close(connection, peer)


@scenario("client", "server")
async def receive_what_is_there(stage: Stage) -> None:
    connection, peer = await stage.open(message_queue_size=2)
    messages: list[Message] = ["1", b"2", "3"] * MANY
    received: list[Message] = []
    for message in messages:
        peer.queue_message(message)
    with stage.hurrying():
        await trio.sleep(0.1)  # the connection notices that no task reads

    async def call() -> None:
        for _ in messages:
            received.append(await connection.get_message())

    await stage.act(call)
    received += await stage.converse(connection, peer)
    stage.expect(messages, received)
    await stage.close(connection, peer)


@scenario("client", "server")
async def receive_behind_another_receiver(stage: Stage) -> None:
    connection, peer = await stage.open()
    messages: list[Message] = ["1", b"2", "3"]
    received: list[Message] = []

    async def receive_one() -> None:
        received.append(await connection.get_message())

    async def send_all() -> None:
        for message in messages:
            await wait_all_tasks_blocked()
            peer.queue_message(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_one)
        await wait_all_tasks_blocked()
        nursery.start_soon(send_all)
        await stage.act(receive_one)
    received += await stage.converse(connection, peer)
    stage.expect(messages, received)
    await stage.close(connection, peer)


@scenario("client", "server")
async def receive_while_kept_alive(stage: Stage) -> None:
    connection, peer = await stage.open(ping_interval=1, ping_timeout=2)
    received: list[Message] = []

    async def send_late() -> None:
        for message in ("1", "2"):
            await trio.sleep(2.5)
            peer.queue_message(message)

    async def call() -> None:
        for _ in range(2):
            received.append(await connection.get_message())

    with stage.hurrying():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_late)
            await stage.act(call, is_bounded=True)
    received += await stage.converse(connection, peer)
    stage.expect(["1", "2"], received)
    await stage.close(connection, peer)


# -- control frames


@scenario("client", "server")
async def ping(stage: Stage) -> None:
    connection, peer = await stage.open()

    async def call() -> None:
        await connection.ping(b"payload")
        await connection.ping(b"payload")

    await stage.act(call)
    await connection.ping(b"payload")  # forgotten if it was cancelled
    await stage.converse(connection, peer)
    await stage.close(connection, peer)


@scenario("client", "server")
async def ping_beside_another(stage: Stage) -> None:
    connection, peer = await stage.open()
    peer.change(answers_pings=False)

    async def answer_the_latest() -> None:  # allowed by RFC 6455, 5.5.3
        await wait_all_tasks_blocked()
        pings = [found.payload for found in peer.frames if found.opcode == PING]
        peer.change(answers_pings=True)
        peer.queue(peer.frame(PONG, pings[-1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.ping, b"first")
        await wait_all_tasks_blocked()
        nursery.start_soon(answer_the_latest)
        await stage.act(lambda: connection.ping(b"second"))
    await stage.converse(connection, peer)
    await stage.close(connection, peer)


@scenario("client", "server")
async def pong(stage: Stage) -> None:
    connection, peer = await stage.open()

    async def call() -> None:
        for _ in range(3 * MANY):
            await connection.pong(b"alive")

    is_done = await stage.act(call)
    await stage.converse(connection, peer)
    pongs = [payload for payload in peer.pongs if payload == b"alive"]
    stage.expect([b"alive"] * 3 * MANY, pongs, is_done=is_done)
    await stage.close(connection, peer)


# -- closing


async def check_closed(stage: Stage, peer: StrictPeer, payload: bytes) -> None:
    await peer.wait_over()
    await stage.bury()
    if not stage.is_struck:
        stage.expect([payload], [found.payload for found in peer.frames if found.opcode == CLOSE])


@scenario("client", "server")
async def close(stage: Stage) -> None:
    connection, peer = await stage.open()
    peer.queue_message("never read")
    await stage.act(
        lambda: connection.aclose(4001, "why"),
        struck_raises=(DisconnectionTimeout,),
        is_bounded=True,
    )
    await check_closed(stage, peer, close_payload(4001, "why"))


@scenario("client", "server")
async def close_at_once(stage: Stage) -> None:
    connection, peer = await stage.open()

    async def call() -> None:
        await trio.aclose_forcefully(connection)

    await stage.act(call, is_bounded=True)
    await check_closed(stage, peer, close_payload(1000))


@scenario("client", "server")
async def wait_for_the_end(stage: Stage) -> None:
    connection, peer = await stage.open()

    async def close_soon() -> None:
        await wait_all_tasks_blocked()
        peer.queue_close(close_payload(4002))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_soon)
        with stage.hurrying():
            await stage.act(connection.wait_closed)
            await connection.wait_closed()
    await check_closed(stage, peer, close_payload(4002))


@scenario("client", "server")
async def close_behind_a_large_message(stage: Stage) -> None:
    connection, peer = await stage.open(lockstep=True)
    stage.nursery.start_soon(send_large, connection)
    await stage.act(connection.aclose, struck_raises=(DisconnectionTimeout,), is_bounded=True)
    await check_closed(stage, peer, close_payload(1000))


@scenario("client", "server")
async def close_a_block(stage: Stage) -> None:
    connection, peer = await stage.open()

    async def block() -> None:
        async with connection:
            await connection.send_message("hello")

    is_done = await stage.act(
        block, struck_raises=(ConnectionClosed, DisconnectionTimeout), is_bounded=True
    )
    await check_closed(stage, peer, close_payload(1000))
    stage.expect(["hello"], peer.messages, is_done=is_done)


@scenario("client", "server")
async def be_closed(stage: Stage) -> None:
    connection, peer = await stage.open()
    received: list[Message] = []

    async def close_soon() -> None:
        await wait_all_tasks_blocked()
        peer.queue_message("last words")
        peer.queue_close(close_payload(4002, "theirs"))

    async def call() -> None:
        while True:
            received.append(await connection.get_message())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_soon)
        await stage.act(call, raises=(ConnectionClosed,))
    with contextlib.suppress(ConnectionClosed):
        await call()
    stage.expect(["last words"], received)
    await check_closed(stage, peer, close_payload(4002, "theirs"))


@scenario("client", "server")
async def close_at_the_same_time(stage: Stage) -> None:
    connection, peer = await stage.open()
    peer.queue_close(close_payload(4002))
    await stage.act(
        lambda: connection.aclose(4001), struck_raises=(DisconnectionTimeout,), is_bounded=True
    )
    await peer.wait_over()
    await stage.bury()
