"""Hostile peers of the whole library, over streams in memory, socket pairs, TCP and TLS.

In memory and over socket pairs, time is virtual: a time-out expires at once if all tasks wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from random import Random
from typing import Any, Awaitable, Callable, Iterator, NamedTuple, Sequence

import trio
import trio.testing

from support import streams
from support.frames import PONG
from trio_websocket._io.transport import LINGER
from trio_websocket._sansio.options import Options

from . import grammar
from .model import Frame, Verdict, close_code, expect, judge
from .mutation import chunks

KINDS = ("memory", "lockstep", "socketpair", "tcp", "tls")
#: The kinds that need real time.
REAL = ("tcp", "tls")


class Attack(NamedTuple):
    """The actions of a hostile peer, and of our client."""

    data: bytes
    chunks: Sequence[bytes]
    #: Seconds before each chunk.
    pauses: Sequence[float]
    #: "eof", "close", "reset", or "stay" until the library hangs up.
    ending: str
    #: True if it reads.
    reads: bool
    #: True if it begins properly: with TLS, and as a server after the request.
    is_polite: bool
    #: How our client uses the connection.
    use: str

    @property
    def listens(self) -> bool:
        """True if it reads everything up to the end."""
        return self.reads and self.ending in ("eof", "stay")


def attack_by_client(rng: Random, kind: str) -> Attack:
    is_good = rng.random() < 0.6
    return _attack(rng, kind, (grammar.opened_by_client if is_good else grammar.from_client)(rng))


def attack_by_server(rng: Random, kind: str) -> Attack:
    is_good = rng.random() < 0.6
    return _attack(rng, kind, (grammar.opened_by_server if is_good else grammar.from_server)(rng))


def _attack(rng: Random, kind: str, data: bytes) -> Attack:
    pieces = chunks(rng, data)
    pause = rng.choice((0, 0, 0, 0, 0.001, _timeout(kind)))
    if kind in REAL and len(pieces) > 8:
        pause = 0
    return Attack(
        data=data,
        chunks=pieces,
        pauses=[pause * rng.random() for _ in pieces],
        ending=rng.choice(("eof", "eof", "eof", "close", "reset", "stay")),
        reads=rng.random() < 0.85,
        is_polite=rng.random() < 0.85,
        use=rng.choice(("read", "read", "read", "read", "leave", "talk", "ping", "idle")),
    )


def _timeout(kind: str) -> float:
    return 0.5 if kind in REAL else 5


@dataclasses.dataclass
class Setting:
    """The environment of a batch of cases."""

    kind: str
    options: Options
    #: The behaviour of the server's handler.
    handler: str
    max_connections: float
    #: True if the machine was too slow for real time-outs to be significant.
    is_slow: bool = False

    @property
    def keywords(self) -> dict[str, Any]:
        """The options as keywords."""
        return {f.name: getattr(self.options, f.name) for f in dataclasses.fields(Options)}

    @property
    def timeout(self) -> float:
        """The value of every time-out, in seconds."""
        return self.options.connect_timeout

    @property
    def slack(self) -> float:
        """The permitted delay of a time-out, in seconds."""
        return 5 if self.kind in REAL else 0.2

    @property
    def patience(self) -> float:
        """Seconds for data under way, before an end without another reason."""
        return 2 if self.kind in REAL else self.timeout

    @property
    def interval(self) -> float:
        """Seconds between the starts of two cases. Starting all at once would take too long."""
        return 0.005 if self.kind in REAL else 0

    @property
    def limit(self) -> float:
        """Seconds of silence after which the library must have ended the connection, if it must."""
        return 2 * self.timeout + self.patience + LINGER + self.slack

    def judge(self, data: bytes, *, masked: bool) -> Verdict:
        """Return the verdict on the frames, within the limits of the options."""
        sizes = self.options.max_message_size, self.options.max_fragments
        return judge(data, masked=masked, max_size=sizes[0], max_fragments=sizes[1])


def setting(rng: Random, kind: str) -> Setting:
    small_read = 1000 if kind in REAL else 7
    options = Options(
        message_queue_size=rng.choice((1, 1, 0, 5, math.inf)),
        max_message_size=rng.choice((2**20, 2**20, 1000, 126)),
        receive_buffer_size=rng.choice((4096, 4096, None, 1000, small_read)),
        max_fragments=rng.choice((2**17, 2**17, 3)),
        max_header_size=rng.choice((2**16, 2**16, 1000)),
        max_rejection_body=rng.choice((2**16, 2**16, 10)),
        message_queue_bytes=rng.choice((2**24, 2**24, 0, 100)),
        max_unsent_bytes=rng.choice((2**16, 2**16, 0, 100)),
        ping_interval=rng.choice((None, None, _timeout(kind))),
        ping_timeout=_timeout(kind),
        connect_timeout=_timeout(kind),
        disconnect_timeout=_timeout(kind),
    )
    handlers = ("echo", "echo", "echo", "echo", "slow", "leave", "reject", "ignore", "fail")
    max_connections = rng.choice((math.inf, math.inf, math.inf, math.inf, 10))
    return Setting(kind, options, rng.choice(handlers), max_connections)


class Attacker:
    """The hostile end: sends the attack, and keeps the received data."""

    def __init__(self, stream: trio.abc.Stream, attack: Attack, setting: Setting) -> None:
        self.stream = stream
        self.attack = attack
        self.setting = setting
        #: True if the library has a reason to end the connection.
        self.is_end_due = True
        self.received = bytearray()
        #: True if everything was sent before a time-out.
        self.has_sent = False
        #: Set when the library has ended the connection.
        self.end = trio.Event()
        self.is_reset = False

    @property
    def has_all(self) -> bool:
        """True if it has sent and received everything."""
        return self.has_sent and self.attack.listens and not self.setting.is_slow

    async def run(self, pieces: Sequence[bytes]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                if self.attack.reads:
                    nursery.start_soon(self._read)
                with ignoring_the_end():
                    await self._send(pieces)
                if self.attack.listens:
                    setting = self.setting
                    with trio.move_on_after(setting.limit if self.is_end_due else setting.patience):
                        await self.end.wait()
                elif self.attack.ending == "stay":
                    await trio.sleep(self.setting.timeout)
                nursery.cancel_scope.cancel()
        finally:
            if self.attack.ending == "reset" and isinstance(self.stream, trio.SocketStream):
                streams.reset(self.stream)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    async def _send(self, pieces: Sequence[bytes]) -> None:
        started = trio.current_time()
        with trio.move_on_after(sum(self.attack.pauses) + self.setting.limit):
            for piece, pause in zip(pieces, self.attack.pauses):
                if pause:
                    await trio.sleep(pause)
                await self.stream.send_all(piece)
            self.has_sent = trio.current_time() - started < 0.8 * self.setting.timeout
            if (
                isinstance(self.stream, trio.abc.HalfCloseableStream)
                and self.attack.ending == "eof"
            ):
                await self.stream.send_eof()

    async def _read(self) -> None:
        with ignoring_the_end():
            while not self.end.is_set():
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    self.is_reset = True
                    data = b""
                if not data:
                    self.end.set()
                self.received += data


@contextlib.contextmanager
def ignoring_the_end() -> Iterator[None]:
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


def check_pongs(frames: Sequence[Frame], verdict: Verdict) -> None:
    """Check that Pongs answer Pings, in their order. Not every Ping needs a Pong."""
    pings = verdict.pings
    pongs = [payload for opcode, payload in frames if opcode == PONG]
    remaining = iter(pings)
    expect(all(pong in remaining for pong in pongs), "a Pong for no Ping", pongs, pings)


def check_close(frames: Sequence[Frame], verdict: Verdict, *, otherwise: Sequence[int]) -> None:
    """Check the Close frame: it has the right code for the peer's behaviour.

    :param otherwise: The codes that the library may send if the peer gave no cause.
    """
    code = close_code(frames[-1].payload) if frames and frames[-1].opcode == 8 else None
    due = verdict.closed[0] if verdict.closed else verdict.failed
    if verdict.is_final:
        # A large text is checked when it is whole, which may be too late.
        is_late = due == 1007 and code in otherwise
        expect(code == due or is_late, "not the close code that is due", code, verdict)
    else:
        expect(code in (None, due, *otherwise), "a Close frame without a cause", code, verdict)


def run(
    scene: Callable[[Setting, Sequence[Attack]], Awaitable[None]],
    setting: Setting,
    attacks: Sequence[Attack],
) -> None:
    """Run a batch, and check that it leaves no task and no file descriptor."""
    clock = None if setting.kind in REAL else trio.testing.MockClock(autojump_threshold=0)
    descriptors = _descriptors()

    async def main() -> None:
        tasks = _tasks()
        async with trio.open_nursery() as nursery:
            if setting.kind in REAL:
                nursery.start_soon(_watch_lag, setting)
            await scene(setting, attacks)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(1):  # the idle monitor ends
            while _tasks() > tasks + 1:  # noqa: ASYNC110 # no event tells of it
                await trio.sleep(0.01)
        # The task of `DeferredFlush` lives until the end of the run.
        expect(_tasks() <= tasks + 1, "tasks are left", _tasks() - tasks)

    try:
        trio.run(main, clock=clock)
    finally:
        streams.close_sockets()
    left = _descriptors() - descriptors
    expect(left <= 0, "file descriptors are left", left)


async def _watch_lag(setting: Setting) -> None:
    interval = setting.timeout / 20
    while True:
        due = trio.current_time() + interval
        await trio.sleep_until(due)
        if trio.current_time() - due > setting.timeout / 5:
            setting.is_slow = True


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _descriptors() -> int:
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0
