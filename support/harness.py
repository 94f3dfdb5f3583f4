"""Perform a scenario, interrupt it at a given step, and check the promises of the library.

An interruption is a cancellation of the call under test, or a network fault. For a cancellation,
the steps are the checkpoints of the call: once when it begins to wait, and once after it was
woken but before it runs. Cancellations of a waiting call count each turn of any task as a step.
For a network fault, the steps are the reads and writes of the stream.

After each performance, the peer must have seen whole, valid frames and every promised message.
A connection that was not closed must work in both directions. No task, socket or connection may
be left, no undocumented exception raised, and nothing may hang, measured by a jumping clock.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import time
import traceback
import unittest.mock
import warnings
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Sequence,
    Tuple,
    Type,
)

import trio
import trio.testing
from trio._core._run import _r as scheduler  # it shuffles the runnable tasks

from support.frames import CLOSE, PING, close_payload
from support.listeners import MemoryListener
from support.peer import accepting
from support.streams import (
    WrappedStream,
    close_sockets,
    lockstep_pair,
    memory_pair,
    over_tls,
    tcp_pair,
    tls_contexts,
)
from trio_websocket import (
    ConnectionClosed,
    DisconnectionTimeout,
    WebSocketConnection,
    WebSocketRequest,
    WebSocketServer,
    connect_websocket,
    open_websocket,
    serve_websocket,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._io.groups import flatten_group

from .faults import Fault, FaultyStream
from .interruptions import CountedStream, Interruption, Lines, Steps, Trigger
from .strict_peer import Gone, Message, StrictPeer, Violation

if TYPE_CHECKING:
    import ssl

    from trio.abc import Stream

TRANSPORTS = ("memory", "tcp", "tls")

# Seconds of the jumping clock.
CANCELLED_WITHIN = 0.1  # limit for a cancelled call: time for a Close frame
BOUND = 60 + 3  # a time-out of the library, lingering and a Close frame
PATIENCE = 100  # limit for a call without a time-out
# The only task that lives until the end of a run.
_STAYS = "DeferredFlush._run"
HANG = 4 * PATIENCE  # limit for a performance

# The clock jumps after this many real seconds without an event. Over sockets, the peer can read
# data some time after it was written. Scenarios shorten the wait when that does not matter, for
# example after a fault.
JUMP = {"memory": 0, "tcp": 0.25, "tls": 0.25}
JUMP_WHEN_HURRYING = 0.0005

# Network faults of streams in memory.
FAULT = {"reset": Fault.reset(), "eof": Fault.end(), "silence": Fault.stall()}

TOKEN = "token"

Errors = Tuple[Type[BaseException], ...]


class Over(Exception):
    """A fault ended the scenario, which is allowed."""


class Scenario(NamedTuple):
    """A scenario: one call under test, and what happens around it."""

    name: str
    role: str  # the end under test: "client" or "server"
    play: Callable[[Stage], Awaitable[None]]


# -- the stage


class Stage:
    """The stage of a scenario: the call under test, and both ends of connections."""

    def __init__(
        self,
        role: str,
        transport: str,
        interruption: Interruption,
        steps: Steps,
        nursery: trio.Nursery,
        peers: trio.Nursery,
        clock: trio.testing.MockClock,
        lines: Lines | None = None,
    ) -> None:
        self.role = role
        self.lines = lines
        self.transport = transport
        self.interruption = interruption
        self.steps = steps
        self.nursery = nursery  # of the connections; it must become empty by itself
        self.peers = peers
        self.connections: list[WebSocketConnection] = []
        self.far_ends: list[StrictPeer] = []
        self.has_opened = False  # True if the peer must get a Close frame
        self.trigger: Trigger | None = None
        self._operations: Trigger | None = None
        self.is_struck = False
        self.ends_abruptly = False  # True if the last frames may be lost
        self._is_finished = False
        self._was_raised = False  # the KeyboardInterrupt
        self._scope = trio.CancelScope()
        self.clock = clock
        self._near: Stream | None = None  # our end, if it is in memory
        self._unused: Stream | None = None  # our end, until the library owns it
        self._listener = MemoryListener()
        self._port = 1  # any number, if nothing listens
        self._options: dict[str, Any] = {}  # of a client that is redirected

    # -- the call under test

    @property
    def is_interrupted(self) -> bool:
        return self.trigger is not None and self.trigger.fired_at is not None

    @property
    def is_over(self) -> bool:
        """True after the call under test was cancelled, given up or finished."""
        return self._scope.cancel_called

    async def act(
        self,
        call: Callable[[], Awaitable[object]],
        *,
        raises: Errors = (),
        struck_raises: Errors = (ConnectionClosed,),
        is_bounded: bool = False,
    ) -> bool:
        """Perform the call under test. Return False if it was cancelled.

        :param raises: The exceptions that it raises when nothing interrupts it.
        :param struck_raises: The exceptions that it may raise after a fault.
        :param is_bounded: True if it has a time-out.
        :raises Over: A fault prevented the call.
        """
        start = trio.current_time()
        with self._scope:
            self._arm()
            try:
                with self._tracing():
                    await call()
                if raises:
                    raise Violation(f"it did not raise any of {raises}")
            except raises:
                pass
            except KeyboardInterrupt:
                if not self.is_interrupted:
                    raise
                self._was_raised = True
            except struck_raises as exc:
                if not self.is_struck:
                    raise
                self._check_duration(start, is_bounded=is_bounded)
                raise Over from exc
            finally:
                self.steps.triggers.clear()
                self._check_promptness()
        self._check_duration(start, is_bounded=is_bounded)
        if self.interruption.is_by_signal and self.is_interrupted:
            if not self._was_raised:
                await _take_interrupt()
            elif self._unused is not None:
                await trio.aclose_forcefully(self._unused)
            return not self._was_raised
        if self._is_finished or not self._scope.cancelled_caught:
            return True
        if self.interruption.is_fault:
            raise Over
        return False

    def finish(self) -> None:
        """End a call that never ends by itself, unless it will be cancelled."""
        if self.interruption.is_fault or not self.is_interrupted:
            self._is_finished = True
            self.steps.triggers.clear()
            self._scope.cancel()

    def _arm(self) -> None:
        kind, at, _ = self.interruption
        if self.interruption.is_cancellation:
            at_any_turn = kind != "cancel"
            self.trigger = Trigger(at, self._scope.cancel, at_any_turn=at_any_turn)
            self.steps.triggers.append(self.trigger)
        elif self.interruption.is_fault:
            self._scope.deadline = trio.current_time() + PATIENCE
            self.trigger = self._operations = Trigger(at, self.strike)

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[None]:
        """Count the lines of the library in a block, if `lines` is set."""
        if self.lines is None:
            yield
            return
        with self.lines.counting():
            self.trigger = self.lines.trigger
            yield

    def disarm(self) -> None:
        """Stop interrupting."""
        self.steps.triggers.clear()
        self._operations = None

    def operation(self) -> None:
        """Note that a read or a write begins."""
        if self._operations is not None:
            self._operations.step()

    def strike(self) -> None:
        """Apply the fault."""
        self.is_struck = True
        self.clock.autojump_threshold = min(self.clock.autojump_threshold, JUMP_WHEN_HURRYING)
        if isinstance(self._near, FaultyStream):
            self._near.strike(FAULT[self.interruption.kind])
        elif self.far_ends and self.transport != "memory":
            current = next((peer for peer in self.far_ends if not peer.is_over), self.far_ends[0])
            current.strike(self.interruption.kind)

    def _check_duration(self, start: float, *, is_bounded: bool) -> None:
        duration = trio.current_time() - start
        if is_bounded and duration > BOUND:
            raise Violation(f"it took {duration:.1f} s")

    def _check_promptness(self) -> None:
        if self.trigger is None or not self.interruption.is_cancellation:
            return
        if self.trigger.fired_at is not None:
            duration = trio.current_time() - self.trigger.fired_at
            if duration > CANCELLED_WITHIN:
                raise Violation(f"it ended {duration:.3f} s after its cancellation")

    # -- both ends

    def peer(self, *, echoes: bool = False) -> StrictPeer:
        trickles = self.interruption.trickles
        peer = StrictPeer(is_client=self.role == "server", echoes=echoes, trickles=trickles)
        if self.is_struck and not self.far_ends and self.transport != "memory":
            peer.strike(self.interruption.kind)
        self.far_ends.append(peer)
        return peer

    async def streams(self, *, lockstep: bool = False) -> tuple[Stream, Stream]:
        """Return our end and the peer's end.

        :param lockstep: In memory, make a write wait until the peer has read it.
        """
        if self.transport == "memory":
            ours, theirs = await (lockstep_pair() if lockstep else memory_pair())
            if self._options:  # the stream before is closed
                self._near = None
            if self.interruption.is_fault and self._near is None:
                ours = FaultyStream(CountedStream(ours, self.operation))
                if self.is_struck:
                    ours.strike(FAULT[self.interruption.kind])
            self._near = self._near or ours
            return ours, theirs
        client, server = await tcp_pair()
        if self.role == "client":
            server = CountedStream(server, self.operation)
        else:
            client = CountedStream(client, self.operation)
        if self.transport == "tls":
            client, server = await over_tls(client, server, is_own=True)
        return (client, server) if self.role == "client" else (server, client)

    async def open(
        self, *, lockstep: bool = False, **options: Any
    ) -> tuple[WebSocketConnection, StrictPeer]:
        """Return an open connection and its peer."""
        ours, theirs = await self.streams(lockstep=lockstep)
        peer = self.peer()
        self.peers.start_soon(peer.run, theirs)
        if self.role == "client":
            connection = await wrap_client_stream(self.nursery, ours, "example.org", "/", **options)
        else:
            request = await wrap_server_stream(self.nursery, ours, **options)
            connection = await request.accept()
        self.keep(connection)
        await peer.wait(lambda: peer.is_open)
        return connection, peer

    def keep(self, connection: WebSocketConnection) -> None:
        """Note an open connection, which must be closed in the end."""
        self.connections.append(connection)
        self.has_opened = True

    @contextlib.contextmanager
    def hurrying(self) -> Iterator[None]:
        """Let the clock jump soon in a block that waits for long."""
        usual = self.clock.autojump_threshold
        self.clock.autojump_threshold = min(usual, JUMP_WHEN_HURRYING)
        try:
            yield
        finally:
            if not self.is_struck:
                self.clock.autojump_threshold = usual

    # -- clients under test

    @property
    def _client_context(self) -> ssl.SSLContext | bool:
        return tls_contexts()[0] if self.transport == "tls" else False

    async def raw_server(
        self, *, echoes: bool = False, response: Callable[[bytes], bytes] | None = None
    ) -> StrictPeer:
        """Start the peer of a client that will connect."""
        peer = self.peer(echoes=echoes)
        if response is not None:
            peer.response = response
        if self.transport == "memory":
            self._unused, theirs = await self.streams()
            self.peers.start_soon(peer.run, theirs)
        else:
            self._port = await self._listen(peer)
        return peer

    async def _listen(
        self,
        peer: StrictPeer,
        run: Callable[[Stream, StrictPeer], Awaitable[None]] | None = None,
    ) -> int:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.peers.start_soon(self._accept, listener, peer, run or self._run_peer)
        return int(listener.socket.getsockname()[1])

    async def _accept(
        self,
        listener: trio.SocketListener,
        peer: StrictPeer,
        run: Callable[[Stream, StrictPeer], Awaitable[None]],
    ) -> None:
        async with listener:
            stream: Stream = CountedStream(await listener.accept(), self.operation)
        await run(stream, peer)

    async def _run_peer(self, stream: Stream, peer: StrictPeer) -> None:
        if self.transport == "tls":
            context = tls_contexts()[1]
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await peer.run(stream)

    async def connect(self) -> WebSocketConnection:
        """Connect to `raw_server`."""
        self._unused = None
        if self._near is not None and not self._options:
            return await wrap_client_stream(self.nursery, self._near, "example.org", "/")
        use_ssl, options = self._client_context, self._options
        return await connect_websocket(
            self.nursery, "127.0.0.1", self._port, "/", use_ssl=use_ssl, **options
        )

    async def redirecting_server(self) -> StrictPeer:
        """Start a peer that redirects a client to another one, which this returns."""
        peers = [self.peer(), self.peer()]
        second = peers[1]
        ports = [1, 2]
        if self.transport == "memory":

            async def open_stream(host: str, port: int) -> Stream:
                ours, theirs = await self.streams()
                self.peers.start_soon(peers.pop(0).run, theirs)
                return ours

            self._options["stream"] = open_stream
        else:
            ports = [await self._listen(peer) for peer in peers]
        scheme = "wss" if self.transport == "tls" else "ws"
        location = f"{scheme}://127.0.0.1:{ports[1]}/".encode()
        peers[0].response = lambda request: (
            b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location
        )
        self._port = ports[0]
        self._options["max_redirects"] = 1
        return second

    @contextlib.asynccontextmanager
    async def server_behind_proxy(self) -> AsyncIterator[StrictPeer]:
        """Start a peer that the client reaches through an HTTP proxy."""
        peer = self.peer()
        port = 1
        patch: Any = contextlib.nullcontext()
        if self.transport == "memory":

            async def open_tcp_stream(*_: object) -> Stream:
                ours, theirs = await self.streams()
                self.peers.start_soon(self._open_tunnel, theirs, peer)
                return ours

            patch = unittest.mock.patch("trio.open_tcp_stream", open_tcp_stream)
        else:
            port = await self._listen(peer, self._open_tunnel)
        self._options["proxy"] = f"http://user:password@127.0.0.1:{port}"
        with patch:
            yield peer

    async def _open_tunnel(self, stream: Stream, peer: StrictPeer) -> None:
        """Act as a proxy and then, through the tunnel, as the server."""
        head = b""
        with contextlib.suppress(trio.BrokenResourceError):  # the client has left
            while not head.endswith(b"\r\n\r\n"):
                received = await stream.receive_some()
                if not received or self.is_struck:
                    break
                head += received
            else:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        await self._run_peer(stream, peer)

    async def servers(self, *peers: StrictPeer) -> Callable[[], str]:
        """Start a server for each attempt of a client. Return a function for its URL.

        The client takes `client_options`.
        """
        waiting = list(peers)
        ports = [1] * len(peers)
        if self.transport == "memory":

            async def open_stream(host: str, port: int) -> Stream:
                ours, theirs = await self.streams()
                self.peers.start_soon(waiting.pop(0).run, theirs)
                return ours

            self._options["stream"] = open_stream
        else:
            ports = [await self._listen(peer) for peer in peers]
        if self.transport == "tls":
            self._options["ssl_context"] = tls_contexts()[0]
        scheme = "wss" if self.transport == "tls" else "ws"
        return lambda: f"{scheme}://127.0.0.1:{ports.pop(0)}/"

    @property
    def client_options(self) -> dict[str, Any]:
        """The keywords for a client of `servers`."""
        return self._options

    async def open_stream(self, *_: object) -> Stream:
        """Open a stream to `raw_server` that is not a socket, as an application may do."""
        if self._near is None:
            return WrappedStream(await trio.open_tcp_stream("127.0.0.1", self._port))
        self._unused = None
        return self._near

    async def given_stream(self) -> Stream:
        """Return an open stream to `raw_server`, which an application passes to `open_websocket`.

        It is the application's if a KeyboardInterrupt comes before the block begins.
        """
        self._unused = await self.open_stream()
        return self._unused

    @contextlib.asynccontextmanager
    async def client_block(
        self, stream: Stream | Callable[[str, int], Awaitable[Stream]] | None = None
    ) -> AsyncIterator[WebSocketConnection]:
        """Connect to `raw_server` for a block, over TCP or the stream."""
        if self._near is not None:
            stream = stream or self.open_stream
        use_ssl = self._client_context
        async with open_websocket(
            "127.0.0.1", self._port, "/", use_ssl=use_ssl, stream=stream
        ) as connection:
            self.has_opened = True
            yield connection

    # -- servers under test

    async def serve(
        self,
        handler: Callable[[WebSocketRequest], Awaitable[object]],
        options: Mapping[str, Any],
        task_status: trio.TaskStatus[WebSocketServer],
    ) -> None:
        """Serve until the server is cancelled or closed."""
        if self.transport == "memory":
            server = WebSocketServer(handler, [self._listener], **options)
            await server.run(task_status=task_status)
        else:
            context = tls_contexts()[1] if self.transport == "tls" else None
            address = "127.0.0.1", 0, context
            await serve_websocket(handler, *address, **options, task_status=task_status)

    async def raw_client(self, server: WebSocketServer) -> StrictPeer:
        """Connect a raw client to the server."""
        peer = self.peer()
        stream: Stream
        if self.transport == "memory":
            ours, stream = await self.streams()
            self._listener.connect(ours)
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            stream = CountedStream(stream, self.operation)
            if self.transport == "tls":
                context, name = tls_contexts()[0], "127.0.0.1"
                stream = trio.SSLStream(
                    stream, context, server_hostname=name, https_compatible=True
                )
        self.peers.start_soon(peer.run, stream)
        return peer

    # -- what must hold

    def expect(
        self, sent: Sequence[object], received: Sequence[object], *, is_done: bool = True
    ) -> None:
        """Check that all messages, or a prefix after an interruption, arrived in order."""
        is_done = is_done and not self.is_struck
        if received != sent[: len(received)] or (is_done and received != sent):
            raise Violation(f"{received!r:.200} arrived of {sent!r:.200}")

    async def converse(self, connection: WebSocketConnection, peer: StrictPeer) -> list[Message]:
        """Exchange messages and pings. Return the messages that the connection received before."""
        peer.queue(peer.frame(PING, b"theirs"))
        peer.queue_message(TOKEN)
        received: list[Message] = []
        while TOKEN not in received:
            received.append(await connection.get_message())
        await connection.send_message(TOKEN)
        await connection.ping(b"ours")
        await peer.wait(lambda: TOKEN in peer.messages and b"theirs" in peer.pongs)
        if peer.messages.pop() != TOKEN:
            raise Violation(f"{peer.messages} arrived late")
        return received[:-1]

    async def close(self, connection: WebSocketConnection, peer: StrictPeer) -> None:
        """Close the connection with the whole closing handshake."""
        await connection.aclose()
        await self.bury()
        await peer.wait_over()
        self.expect([close_payload(1000)], [f.payload for f in peer.frames if f.opcode == CLOSE])

    async def bury(self) -> None:
        """Check that the connection can be closed in time, and is unusable afterwards."""
        for connection in self.connections:
            start = trio.current_time()
            with contextlib.suppress(DisconnectionTimeout):
                await connection.aclose()
            self._check_duration(start, is_bounded=True)
            if connection.closed is None:
                raise Violation("it does not know that it is closed")
            await self._check_dead(connection, connection.get_message)
            await self._check_dead(connection, connection.ping)
            await self._check_dead(connection, connection.send_message, "")

    async def _check_dead(
        self, connection: WebSocketConnection, call: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        try:
            await call(*args)
        except ConnectionClosed as exc:
            if exc.reason is not connection.closed and exc.reason != connection.closed:
                raise
            if exc.reason.code == 1006 and exc.__cause__ is None:
                raise
        else:
            raise Violation(f"{call} works on a closed connection")

    async def clear(self) -> None:
        """Wait until all peers have ended, which never happens if we leave our end open."""
        for peer in self.far_ends if self.interruption.kind != "silence" else ():
            if peer.is_started:
                await peer.wait_over()
        for peer in self.far_ends if not (self.is_struck or self.ends_abruptly) else ():
            if peer.is_torn:
                raise Violation(f"the peer saw a torn frame or message behind {peer.frames[-3:]}")
            must_close = self.has_opened and peer.response is accepting
            if must_close and not any(found.opcode == CLOSE for found in peer.frames):
                raise Violation(f"the peer saw no Close frame, but {peer.frames[-3:]}")
        self.peers.cancel_scope.cancel()


# -- performances


def perform(
    scenario: Scenario,
    transport: str,
    interruption: Interruption = Interruption(),  # noqa: B008 # it is immutable
    *,
    seed: int = 0,
    lines: Lines | None = None,
) -> bool:
    """Perform a scenario. Return True if it was interrupted before it ended.

    :param lines: A counter of the library's lines, for interruptions by a signal.
    :param seed: The seed of the order in which tasks run.
    :raises Violation: A promise was broken.
    """
    steps = Steps()
    clock = trio.testing.MockClock(autojump_threshold=JUMP[transport])
    scheduler.seed(seed)
    try:
        with _nothing_left():
            main = functools.partial(_main, scenario, transport, interruption, steps, clock, lines)
            return trio.run(main, clock=clock, instruments=[steps])
    except BaseException as exc:
        error = min(flatten_group(exc), key=lambda leaf: not isinstance(leaf, Violation))
        if not isinstance(error, Exception):
            raise
        trace = traceback.format_exception(type(error), error, error.__traceback__, limit=-4)
        what = f"{scenario.name}, {transport}, {interruption}, seed={seed}"
        raise Violation(f"{what}:\n{''.join(trace)}") from None


async def _main(
    scenario: Scenario,
    transport: str,
    interruption: Interruption,
    steps: Steps,
    clock: trio.testing.MockClock,
    lines: Lines | None,
) -> bool:
    tasks = _all_tasks()
    async with trio.open_nursery() as watching:
        watching.start_soon(_watch, transport)
        async with trio.open_nursery() as peers:
            async with trio.open_nursery() as nursery:
                stage = Stage(
                    scenario.role, transport, interruption, steps, nursery, peers, clock, lines
                )
                await _play(scenario.play, stage)
            await stage.clear()
        watching.cancel_scope.cancel()
    clock.autojump_threshold = 0
    await trio.sleep(1)
    left = {task for task in _all_tasks() - tasks if not task.name.endswith(_STAYS)}
    if left:
        raise Violation(f"tasks are left: {left}")
    return stage.is_interrupted


async def _play(play: Callable[[Stage], Awaitable[None]], stage: Stage) -> None:
    if not stage.interruption.is_fault:
        await play(stage)
        return
    try:
        with trio.move_on_after(1.5 * PATIENCE) as scope:
            await play(stage)
    except Exception as exc:
        ends = (Over, Gone, ConnectionClosed, DisconnectionTimeout)
        if not stage.is_struck or not all(isinstance(leaf, ends) for leaf in flatten_group(exc)):
            raise
    if scope.cancelled_caught and not stage.is_struck:
        raise Violation("it hangs undisturbed")
    stage.disarm()
    await stage.bury()


async def _watch(transport: str) -> None:
    # Small steps, with some real time between them, because sockets can be slow.
    end = time.monotonic() + 4 * JUMP[transport]
    while trio.current_time() < HANG or time.monotonic() < end:  # noqa: ASYNC110 # as it says
        await trio.sleep(50)
    lines = ["it hangs:"]
    for task in _all_tasks():
        waiting_at: Any = getattr(task, "iter_await_frames", list)()  # not in trio 0.22
        frames = [f"{Path(f.f_code.co_filename).name}:{line}" for f, line in waiting_at]
        lines.append(f"{task.name} at {' '.join(frames)}")
    raise Violation("\n".join(lines))


async def _take_interrupt() -> None:
    """Let Trio raise a KeyboardInterrupt that was pending at the end of a call."""
    try:
        await trio.lowlevel.checkpoint()
    except KeyboardInterrupt:
        return
    raise Violation("the KeyboardInterrupt was lost")


def _all_tasks() -> set[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found = [root]
    for task in found:
        for nursery in task.child_nurseries:
            found += nursery.child_tasks
    return set(found)


@contextlib.contextmanager
def _nothing_left() -> Iterator[None]:
    """Check that no descriptor is left, and that there was no warning or unraisable exception."""
    before = _descriptors()
    unraisable: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: unraisable.append(f"{args.object!r}: {args.exc_value!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
        left = _descriptors() - before
    finally:
        sys.unraisablehook = hook
        close_sockets()
    if left:
        raise Violation(f"descriptors are left: {left}")
    if unraisable:
        raise Violation(f"nobody could catch {unraisable}")


def _descriptors() -> set[str]:
    try:
        return set(os.listdir("/dev/fd"))
    except OSError:  # this system does not list them
        return set()


def sweep(scenario: Scenario, transport: str, kind: str, steps: Iterable[int] | None = None) -> int:
    """Interrupt a scenario at each step in turn. Return the number of interruptions.

    :param steps: The steps to use, instead of all.
    """
    performed = 0
    for at in itertools.count() if steps is None else steps:
        if not perform(scenario, transport, Interruption(kind, at), seed=at):
            break
        performed += 1
    return performed
