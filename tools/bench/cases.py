"""What is measured, in the order of the table."""

from __future__ import annotations

import dataclasses
import itertools
import socket
from pathlib import Path
from typing import Callable

from tools.bench import load, wire
from tools.bench.contestants import Contestant
from tools.bench.load import Line, Sample
from tools.bench.process import Process
from tools.bench.task import HOST, Task

KIB, MIB = 2**10, 2**20
BOTH = ("server", "client")


@dataclasses.dataclass(frozen=True)
class Run:
    """How a case is to be measured: whom, and for how many seconds."""

    contestant: Contestant
    python: Path
    side: str
    certificates: str
    seconds: float

    @property
    def warm_up(self) -> float:
        return self.seconds / 4


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table, or two: for the server and for the client."""

    name: str
    title: str
    measure: Callable[[Run, Task], Sample]
    task: Task = Task()
    sides: tuple[str, ...] = BOTH
    needs: frozenset[str] = frozenset()

    def run(self, run: Run) -> Sample:
        task = dataclasses.replace(self.task, side=run.side)
        if "tls" in self.needs:
            task = dataclasses.replace(task, tls=run.certificates)
        return self.measure(run, task)


def exchange(run: Run, task: Task) -> Sample:
    """The load, or the client under test, waits for its answers before it goes on."""
    work = "echo" if run.side == "server" else "exchange"
    return on_one_connection(run, dataclasses.replace(task, work=work), exchanging)


def receive(run: Run, task: Task) -> Sample:
    """The load sends as fast as it can; an answer to every so many messages tells that they came."""
    return on_one_connection(run, dataclasses.replace(task, work="sink"), flooding)


def send(run: Run, task: Task) -> Sample:
    """The process under test sends as fast as it can."""
    return on_one_connection(run, dataclasses.replace(task, work="source"), draining)


def on_one_connection(
    run: Run, task: Task, make_step: Callable[[Run, Task, Line], Callable[[], float]]
) -> Sample:
    is_raw = run.contestant.is_raw
    if run.side == "server":
        with Process(run.contestant, run.python, task) as process:
            line = load.connect(task, process.read(), is_raw=is_raw)
            return load.repeat(make_step(run, task, line), process, run.warm_up, run.seconds)
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(load.TIMEOUT)
        task = dataclasses.replace(task, port=listener.getsockname()[1])
        with Process(run.contestant, run.python, task) as process:
            line = load.accept(task, listener, is_raw=is_raw)
            return load.repeat(make_step(run, task, line), process, run.warm_up, run.seconds)


def exchanging(run: Run, task: Task, line: Line) -> Callable[[], float]:
    is_client = run.side == "server"  # the load
    if task.deflate:
        return exchanging_compressed(run, task, line)
    data = ready_made(run, task) * task.batch
    expected = wire.frame_size(task.size, masked=not is_client) * task.batch
    if run.contestant.is_raw and is_client:
        expected = len(data)

    def ask() -> float:
        line.exchange(data, expected)
        return task.batch

    def answer() -> float:
        line.answer(expected, data)
        return task.batch

    return ask if is_client else answer


def exchanging_compressed(run: Run, task: Task, line: Line) -> Callable[[], float]:
    is_client = run.side == "server"
    frames = itertools.cycle(
        [wire.ready_made(each, masked=is_client, compressed=True) for each in task.messages()]
    )

    def ask() -> float:
        line.sock.sendall(next(frames))
        line.read_frames(1)
        return 1

    def answer() -> float:
        line.read_frames(1)
        line.sock.sendall(next(frames))
        return 1

    return ask if is_client else answer


def flooding(run: Run, task: Task, line: Line) -> Callable[[], float]:
    data = ready_made(run, task) * task.batch
    expected = wire.frame_size(len(wire.DONE), masked=run.side == "client")

    def step() -> float:
        line.exchange(data, expected)
        return task.batch

    return step


def draining(run: Run, task: Task, line: Line) -> Callable[[], float]:
    size = wire.frame_size(task.size, masked=run.side == "client")
    if run.side == "server":
        line.sock.sendall(ready_made(run, task))
    return lambda: line.read_some() / size


def ready_made(run: Run, task: Task) -> bytes:
    (message,) = task.messages()
    return wire.ready_made(message, masked=run.side == "server", compressed=False)


TLS = frozenset({"tls"})
FLOOD = 4000  # messages between two answers
BURST = 64
CASES = [
    Case("pingpong", "ping-pong, 32 B", exchange),
    Case("pingpong-4k", "ping-pong, 4 KiB", exchange, Task(size=4 * KIB)),
    Case("burst", "bursts of 64 x 32 B", exchange, Task(batch=BURST)),
    Case("flood-receive", "flood received, 32 B", receive, Task(batch=FLOOD)),
    Case("flood-send", "flood sent, 32 B", send),
    Case("64k", "echo, 64 KiB", exchange, Task(size=64 * KIB)),
    Case("1m", "echo, 1 MiB", exchange, Task(size=MIB)),
    Case("16m", "echo, 16 MiB", exchange, Task(size=16 * MIB)),
    Case("text", "ping-pong, text, 32 B", exchange, Task(text=True), needs=frozenset({"text"})),
    Case(
        "text-64k",
        "echo, text, 64 KiB",
        exchange,
        Task(text=True, size=64 * KIB),
        needs=frozenset({"text"}),
    ),
    Case("tls-pingpong", "TLS: ping-pong, 32 B", exchange, needs=TLS),
    Case("tls-burst", "TLS: bursts of 64 x 32 B", exchange, Task(batch=BURST), needs=TLS),
    Case("tls-flood-receive", "TLS: flood received, 32 B", receive, Task(batch=FLOOD), needs=TLS),
    Case("tls-flood-send", "TLS: flood sent, 32 B", send, needs=TLS),
    Case("tls-64k", "TLS: echo, 64 KiB", exchange, Task(size=64 * KIB), needs=TLS),
    Case("tls-1m", "TLS: echo, 1 MiB", exchange, Task(size=MIB), needs=TLS),
    Case(
        "json-1k",
        "compressed JSON, 1 KiB",
        exchange,
        Task(deflate=True, size=KIB),
        needs=frozenset({"deflate"}),
    ),
    Case(
        "json-64k",
        "compressed JSON, 64 KiB",
        exchange,
        Task(deflate=True, size=64 * KIB),
        needs=frozenset({"deflate"}),
    ),
]
