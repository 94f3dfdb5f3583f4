"""Clients that stay connected to a server that fails in every way, on a clock that jumps.

    make soak-stay-connected ROUNDS=10000 SEED=1

A round is one attempt to connect. Its fate is drawn at random: the server refuses, hangs, rejects,
or accepts and is lost later. Several rounds make one call of `stay_connected`. The call ends with a
session that is done or fails, with a permanent failure, or by cancellation at a random time.

For each round this checks the failure that `retry` gets, the delay, and that the next attempt comes
neither earlier nor later than the policy says. After each call, no task and no stream may be left.
The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import logging
import math
import random
import sys
from typing import TYPE_CHECKING, Awaitable, Callable, NamedTuple

import trio
import trio.testing
from trio._core._run import _r as scheduler  # it shuffles the runnable tasks

from support.frames import CLOSE, PING, PONG, TEXT
from support.peer import RawPeer, accepting, read_head
from support.streams import WrappedStream, tls_contexts
from trio_websocket import (
    Backoff,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    ConnectionTimeout,
    Failure,
    HandshakeError,
    Reconnect,
    WebSocketConnection,
    stay_connected,
)

if TYPE_CHECKING:
    from trio.abc import Stream

CONNECT_TIMEOUT = 10
RESET_AFTER = 60
# A cancelled call may take so long: the time to write a Close frame.
CANCELLED_WITHIN = 0.1
ROUNDING = 1e-6  # seconds: times are sums of floats
MAX_ROUNDS_PER_CALL = 20
# The tasks that live until the end of a run: this program's, and those of Trio and the library.
SYSTEM_TASKS = ("play", "DeferredFlush._run", "<TrioToken.run_sync_soon task>")
DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT"


class Violation(Exception):
    """A check failed."""


class SessionFailed(Exception):
    """The session's own error."""


class Fate(NamedTuple):
    """The outcome that is planned for an attempt."""

    error: type[Exception]
    serve: Callable[[RawPeer], Awaitable[object]] | None = None
    #: The response to the request; None for one that accepts.
    response: bytes | None = None
    retry_after: float | None = None
    is_overloaded: bool = False
    is_permanent: bool = False


# -- what an accepted client meets


async def answer_pings(peer: RawPeer, seconds: float) -> None:
    end = trio.current_time() + seconds
    while True:
        with trio.CancelScope(deadline=end) as scope:
            found = await peer.receive()
        if scope.cancelled_caught or found is None:
            return
        if found.opcode == PING:
            await peer.send_frame(PONG, found.payload)


async def read_to_end(peer: RawPeer) -> None:
    while True:
        found = await peer.receive()
        if found is None:
            return
        if found.opcode == CLOSE:
            await peer.send_frame(CLOSE, found.payload)
            return


async def close(peer: RawPeer, *, code: int) -> None:
    await peer.send_close(code)
    await read_to_end(peer)


async def die_in_message(peer: RawPeer) -> None:
    await peer.send(peer.frame(TEXT, b"x" * 200)[:100])


async def fall_silent(_: RawPeer) -> None:
    await trio.sleep_forever()


async def ask(peer: RawPeer, *, message: str) -> None:
    await peer.send(peer.texts(message))
    await read_to_end(peer)


def rejection(status: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, b"Content-Length: 0", *headers)) + b"\r\n\r\n"


# The first part of a name is where the attempt fails.
FATES = {
    "url fails": Fate(OSError),
    "tcp refuses": Fate(ConnectionFailed),
    "tcp hangs": Fate(ConnectionTimeout),
    "tls hangs": Fate(ConnectionTimeout),
    "tls garbage": Fate(ConnectionFailed),
    "handshake hangs": Fate(ConnectionTimeout),
    "handshake ends": Fate(ConnectionFailed),
    "handshake resets": Fate(ConnectionFailed),
    "handshake garbage": Fate(HandshakeError, response=b"SSH-2.0-OpenSSH\r\n\r\n"),
    "handshake 100": Fate(ConnectionRejected, response=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "handshake 500": Fate(ConnectionRejected, response=rejection(b"500 Error")),
    "handshake 503": Fate(
        ConnectionRejected,
        response=rejection(b"503 Busy", DATE, b"Retry-After: 30"),
        retry_after=30,
    ),
    "handshake 429": Fate(
        ConnectionRejected,
        response=rejection(b"429 Slow", DATE, b"Retry-After: Sun, 06 Nov 1994 08:49:57 GMT"),
        retry_after=20,
    ),
    "open dies in a message": Fate(ConnectionClosed, die_in_message),
    "open resets": Fate(ConnectionClosed, die_in_message),
    "open 1000": Fate(ConnectionClosed, functools.partial(close, code=1000)),
    "open 1011": Fate(ConnectionClosed, functools.partial(close, code=1011)),
    "open 1012": Fate(ConnectionClosed, functools.partial(close, code=1012), is_overloaded=True),
    "open 1013": Fate(ConnectionClosed, functools.partial(close, code=1013), is_overloaded=True),
    "open silence": Fate(ConnectionClosed, fall_silent),  # the keep-alive finds it
    "open asks": Fate(Reconnect, functools.partial(ask, message="reconnect")),
}
LAST_FATES = {
    "handshake 404": Fate(ConnectionRejected, response=rejection(b"404 None"), is_permanent=True),
    "handshake 501": Fate(ConnectionRejected, response=rejection(b"501 None"), is_permanent=True),
    "tls other name": Fate(ConnectionFailed, is_permanent=True),
    "url wrong": Fate(ValueError, is_permanent=True),
    "open done": Fate(Reconnect, functools.partial(ask, message="done")),
    "open fails": Fate(SessionFailed, functools.partial(ask, message="fail")),
}


# -- sessions


async def obey(message: str | bytes) -> str | None:
    """Do what the server asks for."""
    if message == "fail":
        raise SessionFailed
    if message == "reconnect":
        raise Reconnect
    return "done"


async def session_that_gets(ws: WebSocketConnection) -> str | None:
    return await obey(await ws.get_message())


async def session_that_iterates(ws: WebSocketConnection) -> str | None:
    async for message in ws:
        return await obey(message)
    return None


async def session_that_receives(ws: WebSocketConnection) -> str | None:
    return await obey(await ws.receive())


async def session_with_tasks(ws: WebSocketConnection) -> str | None:
    received: list[str | bytes] = []

    async def receive(scope: trio.CancelScope) -> None:
        received.append(await ws.get_message())
        scope.cancel()

    async with trio.open_nursery() as tasks:
        tasks.start_soon(ws.wait_closed)
        tasks.start_soon(receive, tasks.cancel_scope)
        tasks.start_soon(receive, tasks.cancel_scope)
    return await obey(received[0])


SESSIONS = (session_that_gets, session_that_iterates, session_that_receives, session_with_tasks)


class TrackedStream(WrappedStream):
    """A stream that notes that it was closed, and that the peer can reset."""

    is_closed = False
    is_reset = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if self.is_reset and not data:
            raise trio.BrokenResourceError from ConnectionResetError("reset")
        return data

    async def aclose(self) -> None:
        self.is_closed = True
        await super().aclose()


class Call:
    """One call of `stay_connected`, and its server."""

    def __init__(self, chance: random.Random, servers: trio.Nursery) -> None:
        self._chance = chance
        self._servers = servers
        self.is_tls = chance.random() < 0.2
        possible, last = (
            [name for name in fates if self.is_tls or not name.startswith("tls")]
            for fates in (FATES, LAST_FATES)
        )
        count = chance.randrange(MAX_ROUNDS_PER_CALL)
        self.fates = [*chance.choices(possible, k=count), chance.choice(last)]
        self.backoff = chance.choice(
            (Backoff(), Backoff(initial=0.1), Backoff(10, 1.5, 300), Backoff(initial=0))
        )
        self._wake = self._sleep_a_while if chance.random() < 0.3 else None
        self._streams: list[TrackedStream] = []
        #: The number of attempts so far.
        self.rounds = 0
        self._attempt = 0  # as in Failure
        self._times: tuple[float, float] = (0, 0)  # between which the next attempt must begin
        self._began = math.nan  # when the attempt began
        self._opened: float | None = None
        self._outage_began = trio.current_time()

    @property
    def _fate(self) -> str:
        return self.fates[self.rounds - 1]

    async def run(self) -> None:
        """Run the call, and check how it ends."""
        try:
            value = await stay_connected(
                self._session,
                self._url,
                tls_contexts()[0] if self.is_tls else None,
                stream=self._open,
                retry=self._retry,
                on_retry=self._on_retry,
                wake=self._wake,
                reset_after=RESET_AFTER,
                connect_timeout=CONNECT_TIMEOUT,
                disconnect_timeout=CONNECT_TIMEOUT,
                ping_interval=10,
                ping_timeout=5,
            )
        except Exception as exc:
            fate = LAST_FATES.get(self._fate)
            leaves = getattr(exc, "exceptions", (exc,))
            if fate is None or not all(isinstance(leaf, fate.error) for leaf in leaves):
                raise
        else:
            self._check(value == "done" and self._fate == "open done", f"it returned {value!r}")

    def check_streams(self) -> None:
        """Check that the client has closed all its streams."""
        left = [stream for stream in self._streams if not stream.is_closed]
        self._check(not left, f"{len(left)} streams are left")

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            raise Violation(f"round {self.rounds}, {self._fate}: {text}")

    # -- an attempt

    def _url(self) -> str:
        self.rounds += 1
        now = self._began = trio.current_time()
        earliest, latest = self._times
        is_in_time = earliest - ROUNDING <= now <= latest + ROUNDING
        self._check(is_in_time, f"an attempt at {now}, not in {earliest} to {latest}")
        self._opened = None
        if self._fate == "url fails":
            raise OSError("no URL")
        scheme = "wss" if self.is_tls else "ws"
        host = "example.net" if self._fate == "tls other name" else "example.org"
        return "https://example.org/" if self._fate == "url wrong" else f"{scheme}://{host}/"

    async def _open(self, *_: object) -> Stream:
        name = self._fate
        if name.startswith("tcp"):
            if name == "tcp hangs":
                await trio.sleep_forever()
            raise ConnectionRefusedError(name)
        await trio.sleep(self._chance.random())
        ours, theirs = trio.testing.memory_stream_pair()
        self._streams.append(TrackedStream(ours))
        self._streams[-1].is_reset = name.endswith("resets")
        self._servers.start_soon(self._serve, name, theirs, self._chance.expovariate(1 / 40))
        return self._streams[-1]

    async def _serve(self, name: str, stream: Stream, seconds: float) -> None:
        fate = FATES.get(name) or LAST_FATES[name]
        try:
            if name == "tls hangs":
                await trio.sleep_forever()
            if name == "tls garbage":
                await stream.send_all(b"SSH-2.0-OpenSSH\r\n")
                return
            if self.is_tls:
                stream = trio.SSLStream(
                    stream, tls_contexts()[1], server_side=True, https_compatible=True
                )
            if name == "handshake hangs":
                await trio.sleep_forever()
            request, rest = await read_head(stream)
            if name in ("handshake ends", "handshake resets"):
                return
            await stream.send_all(fate.response or accepting(request))
            if fate.serve is not None:
                peer = RawPeer(stream, is_client=False, received=rest)
                await answer_pings(peer, seconds)
                await fate.serve(peer)
        except trio.BrokenResourceError:
            pass  # the client was cancelled
        finally:
            await trio.aclose_forcefully(stream)

    async def _session(self, ws: WebSocketConnection) -> str | None:
        self._opened = trio.current_time()
        return await self._chance.choice(SESSIONS)(ws)

    # -- after a failure

    def _retry(self, failure: Failure) -> float | None:
        now = trio.current_time()
        fate = FATES.get(self._fate) or LAST_FATES[self._fate]
        duration = (now if self._opened is None else self._opened) - self._began
        self._check(duration <= CONNECT_TIMEOUT + ROUNDING, f"the attempt took {duration} s")
        open_seconds = 0 if self._opened is None else failure.open_seconds
        self._check(failure.open_seconds == open_seconds, f"it was never open: {failure}")
        self._attempt += 1
        if failure.open_seconds >= RESET_AFTER:
            self._attempt, self._outage_began = 1, now
        seen = (type(failure.exception), failure.retry_after, failure.is_permanent)
        expected = (fate.error, fate.retry_after, fate.is_permanent)
        self._check(seen == expected, f"{seen}, not {expected}")
        self._check(failure.attempt == self._attempt, f"{failure}, not attempt {self._attempt}")
        outage = now - self._outage_began
        self._check(abs(failure.outage_seconds - outage) < ROUNDING, f"{failure}, not {outage} s")
        return self.backoff(failure)

    async def _on_retry(self, _: Failure, delay: float) -> None:
        fate, backoff = FATES[self._fate], self.backoff
        growth = backoff.factor ** (self._attempt - 1)
        least = fate.retry_after or 0
        most = least + min(backoff.maximum, backoff.initial * growth)
        if fate.is_overloaded:
            least, most = max(least, 5), max(most, 30)
        self._check(least <= delay <= most, f"a delay of {delay}, not {least} to {most}")
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        self._times = now + (delay if self._wake is None else min(delay, 1)), now + delay

    async def _sleep_a_while(self) -> None:
        await trio.sleep(self._chance.expovariate(1 / 5))


async def play(chance: random.Random, tally: collections.Counter[str]) -> None:
    """Run one call of `stay_connected`, and check what is left."""
    deadline = chance.expovariate(1 / 300) if chance.random() < 0.3 else math.inf
    async with trio.open_nursery() as servers:
        call = Call(chance, servers)
        with trio.CancelScope(deadline=trio.current_time() + deadline) as scope:
            await call.run()
        late = trio.current_time() - scope.deadline
        if late > CANCELLED_WITHIN:
            raise Violation(f"it ended {late} s after it was cancelled")
        call.check_streams()
        servers.cancel_scope.cancel()
    if scope.cancelled_caught:
        tally["cancelled"] += 1
    for name in call.fates[: call.rounds - scope.cancelled_caught]:
        tally[name] += 1
    tally["rounds"] += call.rounds
    await trio.sleep(1)
    root = trio.lowlevel.current_root_task()
    assert root is not None
    running = [task.name for nursery in root.child_nurseries for task in nursery.child_tasks]
    left = [name for name in running if not name.endswith(SYSTEM_TASKS)]
    if left:
        raise Violation(f"tasks are left: {left}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--call", type=int, help="play only this one")
    options = parser.parse_args(arguments)
    logging.getLogger("trio-websocket").addHandler(logging.NullHandler())
    tally: collections.Counter[str] = collections.Counter()
    number = options.call or 0
    while tally["rounds"] < options.rounds:
        chance = random.Random(f"{options.seed} {number}")
        random.seed(chance.random())
        scheduler.seed(chance.random())
        try:
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(play, chance, tally, clock=clock)
        except BaseException as exc:
            print(f"To replay it: --seed {options.seed} --call {number}")
            if not isinstance(exc, Exception):
                raise
            print(*(repr(leaf) for leaf in getattr(exc, "exceptions", (exc,))))
            raise
        number += 1
        if options.call is not None:
            break
    gc.collect()
    kept = sum(isinstance(item, WebSocketConnection) for item in gc.get_objects())
    for name, count in sorted(tally.items()):
        print(f"{count:6} {name}")
    print(f"{number} calls, {kept} connections kept")
    return int(kept > 0)


if __name__ == "__main__":
    sys.exit(main())
