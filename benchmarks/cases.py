"""The cases, in the order of the table."""

from __future__ import annotations

import dataclasses
import itertools
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Callable

from benchmarks import load, wire
from benchmarks.contestants import Contestant
from benchmarks.crowd import Crowd
from benchmarks.load import Line, Sample
from benchmarks.process import Process
from benchmarks.task import Task

KIB, MIB = 2**10, 2**20
BOTH = ("server", "client")
PLAIN = Task()


@dataclasses.dataclass(frozen=True)
class Run:
    """The contestant, the side and the duration for a measurement of a case."""

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
    """A row of the table for each side: for the server and for the client."""

    name: str
    title: str
    measure: Callable[[Run, Task], Sample]
    task: Task = PLAIN
    sides: tuple[str, ...] = BOTH
    needs: frozenset[str] = frozenset()

    def run(self, run: Run) -> Sample:
        task = dataclasses.replace(self.task, side=run.side)
        if "tls" in self.needs:
            task = dataclasses.replace(task, tls=run.certificates)
        return self.measure(run, task)


def exchange(run: Run, task: Task) -> Sample:
    """Measure request and response: the client waits for each answer before it sends again."""
    work = "echo" if run.side == "server" else "exchange"
    return on_one_connection(run, dataclasses.replace(task, work=work), exchanging)


def receive(run: Run, task: Task) -> Sample:
    """Measure receiving: the load sends as fast as it can, with one answer for each batch."""
    return on_one_connection(run, dataclasses.replace(task, work="sink"), flooding)


def send(run: Run, task: Task) -> Sample:
    """Measure sending: the process under test sends as fast as it can."""
    return on_one_connection(run, dataclasses.replace(task, work="source"), draining)


def on_one_connection(
    run: Run, task: Task, make_step: Callable[[Run, Task, Line], Callable[[], float]]
) -> Sample:
    is_raw = run.contestant.is_raw
    with ExitStack() as stack:
        if run.side == "server":
            process = stack.enter_context(closing(Process(run.contestant, run.python, task)))
            line = load.connect(task, process.read(), is_raw=is_raw)
        else:
            listener = stack.enter_context(load.listen())
            task = dataclasses.replace(task, port=listener.getsockname()[1])
            process = stack.enter_context(closing(Process(run.contestant, run.python, task)))
            line = load.accept(task, listener, is_raw=is_raw)
        stack.callback(line.close)
        return count(run, process, make_step(run, task, line))


def count(run: Run, process: Process, step: Callable[[], float]) -> Sample:
    load.warm_up(run.warm_up, step)
    return load.Count(process).until(run.seconds, step)


def exchanging(run: Run, task: Task, line: Line) -> Callable[[], float]:
    is_client = run.side == "server"  # the load
    if task.deflate:
        return exchanging_compressed(run, task, line)
    data = ready_made(run, task) * task.batch
    expected = wire.frame_size(task.size, masked=not is_client) * task.batch
    if run.contestant.is_raw and is_client:
        expected = len(data)
    elif is_client:
        (message,) = task.messages()
        answer = wire.ready_made(message, masked=False, compressed=False)
        line.check(data, answer * task.batch)

    def ask() -> float:
        line.exchange(data, expected)
        return task.batch

    def reply() -> float:
        line.answer(expected, data)
        return task.batch

    return ask if is_client else reply


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


def open_and_close(run: Run, task: Task) -> Sample:
    """Measure the opening and the closing handshake of one connection after another."""
    is_raw = run.contestant.is_raw
    if run.side == "server":
        with closing(Process(run.contestant, run.python, task)) as process:
            port = process.read()

            def visit() -> float:
                load.connect(task, port, is_raw=is_raw).leave(is_raw=is_raw)
                return 1

            return count(run, process, visit)
    with load.listen() as listener:
        task = dataclasses.replace(task, work="connect", port=listener.getsockname()[1])
        with closing(Process(run.contestant, run.python, task)) as process:

            def host() -> float:
                load.accept(task, listener, is_raw=is_raw).see_off(is_raw=is_raw)
                return 1

            return count(run, process, host)


def open_only(run: Run, task: Task) -> Sample:
    """Measure opening one connection after another. The connections stay open."""
    is_raw = run.contestant.is_raw
    with closing(Process(run.contestant, run.python, task)) as process, ExitStack() as stack:
        port = process.read()

        def visit() -> None:
            load.connect(task, port, is_raw=is_raw).leave(is_raw=is_raw)

        load.warm_up(run.warm_up, visit)
        counted = load.Count(process)
        begin = time.perf_counter()
        for _ in range(CROWD):
            stack.callback(load.connect(task, port, is_raw=is_raw).close)
        wall = time.perf_counter() - begin
        process.wait_idle()  # without a handshake, the server may still be accepting
        return counted.sample(CROWD, wall)


def idle_memory(run: Run, task: Task) -> Sample:
    """Measure the server's memory for each open connection that has not exchanged a message."""
    is_raw = run.contestant.is_raw
    task = dataclasses.replace(task, tidies=True)
    with closing(Process(run.contestant, run.python, task)) as process, ExitStack() as stack:
        port = process.read()
        memory = []
        # The first connections use memory that the process has had free since its start.
        for connections in (CROWD // 2, CROWD):
            for _ in range(connections):
                stack.callback(load.connect(task, port, is_raw=is_raw).close)
            memory.append(process.tidy_memory())
        return {"memory": (memory[1] - memory[0]) / CROWD}


def talk_at_random(run: Run, task: Task) -> Sample:
    """Measure many connections: after each answer, a random connection sends a message."""
    is_raw = run.contestant.is_raw
    with closing(Process(run.contestant, run.python, task)) as process, ExitStack() as stack:
        crowd = stack.enter_context(closing(Crowd(task, process.read(), CROWD, is_raw=is_raw)))
        crowd.talk(ready_made(run, task), TALKING)
        return count(run, process, crowd.go_on)


def broadcast(run: Run, task: Task) -> Sample:
    """Measure a broadcast, from the request until all clients have the message."""
    task = dataclasses.replace(task, work="broadcast")
    with closing(Process(run.contestant, run.python, task)) as process, ExitStack() as stack:
        crowd = stack.enter_context(closing(Crowd(task, process.read(), CROWD, is_raw=False)))
        return count_broadcasts(run, process, crowd)


def broadcast_to_stalled(run: Run, task: Task) -> Sample:
    """Measure a broadcast without and with clients that never read.

    `without` is the wall time without these clients. `memory` is the growth of the process after
    the kernel's buffers for these clients were full.
    """
    task = dataclasses.replace(task, work="broadcast", tidies=True)
    with closing(Process(run.contestant, run.python, task)) as process, ExitStack() as stack:
        port = process.read()
        crowd = stack.enter_context(closing(Crowd(task, port, CROWD - STALLED, is_raw=False)))
        for _ in range(STALLS):
            crowd.broadcast()
        # With those clients, each broadcast waits for a time-out, and caches get cold. Pause too.
        without = count_broadcasts(run, process, crowd, pause=PAUSE)["wall"]
        for _ in range(STALLED):
            stack.callback(load.connect(task, port, is_raw=False, narrow=True).close)
        for _ in range(FITTING):
            crowd.broadcast()
        memory = process.tidy_memory()
        for _ in range(STALLS):
            crowd.broadcast()
        sample = count_broadcasts(run, process, crowd)
        return {**sample, "without": without, "memory": process.tidy_memory() - memory}


def count_broadcasts(run: Run, process: Process, crowd: Crowd, *, pause: float = 0) -> Sample:
    load.warm_up(run.warm_up, crowd.broadcast)
    counted = load.Count(process)
    deadline, walls = time.perf_counter() + run.seconds, []
    while time.perf_counter() < deadline:
        time.sleep(pause)
        walls.append(crowd.broadcast())
    return counted.sample(len(walls), sum(walls))


TLS = frozenset({"tls"})
TEXT = frozenset({"text"})
DEFLATE = frozenset({"deflate"})
BROADCAST = frozenset({"broadcast"})
MESSAGES = frozenset({"messages"})  # the contestant must tell messages apart
CROWD = 1000  # connections
TALKING = 100  # connections of the crowd that wait for an answer
STALLED = 10
PAUSE = 0.1  # seconds: our time-out for broadcasts, see peers/with_trio_websocket.py
FITTING = 20  # broadcasts that fit into the kernel's buffers for clients that never read
STALLS = 150  # broadcasts that exceed all buffers for these clients
SERVER = ("server",)
FLOOD = 4000  # messages between two answers
BURST = 64
CASES = [
    Case("pingpong", "ping-pong, 32 B", exchange),
    Case("pingpong-4k", "ping-pong, 4 KiB", exchange, Task(size=4 * KIB)),
    Case("burst", "bursts of 64 x 32 B", exchange, Task(batch=BURST)),
    Case("flood-receive", "flood received, 32 B", receive, Task(batch=FLOOD), needs=MESSAGES),
    Case("flood-send", "flood sent, 32 B", send),
    Case("64k", "echo, 64 KiB", exchange, Task(size=64 * KIB)),
    Case("1m", "echo, 1 MiB", exchange, Task(size=MIB)),
    Case("16m", "echo, 16 MiB", exchange, Task(size=16 * MIB)),
    Case("text", "ping-pong, text, 32 B", exchange, Task(text=True), needs=TEXT),
    Case(
        "text-64k",
        "echo, text, 64 KiB",
        exchange,
        Task(text=True, size=64 * KIB),
        needs=TEXT,
    ),
    Case("tls-pingpong", "TLS: ping-pong, 32 B", exchange, needs=TLS),
    Case("tls-burst", "TLS: bursts of 64 x 32 B", exchange, Task(batch=BURST), needs=TLS),
    Case(
        "tls-flood-receive",
        "TLS: flood received, 32 B",
        receive,
        Task(batch=FLOOD),
        needs=TLS | MESSAGES,
    ),
    Case("tls-flood-send", "TLS: flood sent, 32 B", send, needs=TLS),
    Case("tls-64k", "TLS: echo, 64 KiB", exchange, Task(size=64 * KIB), needs=TLS),
    Case("tls-1m", "TLS: echo, 1 MiB", exchange, Task(size=MIB), needs=TLS),
    Case(
        "json-1k",
        "compressed JSON, 1 KiB",
        exchange,
        Task(deflate=True, size=KIB),
        needs=DEFLATE,
    ),
    Case(
        "json-64k",
        "compressed JSON, 64 KiB",
        exchange,
        Task(deflate=True, size=64 * KIB),
        needs=DEFLATE,
    ),
    Case("connect", "a connection opened and closed", open_and_close),
    Case("open", "a connection opened", open_only, sides=SERVER),
    Case("memory", "memory of an idle connection, KiB", idle_memory, sides=SERVER),
    Case("crowd", "1,000 connections at random, 32 B", talk_at_random, sides=SERVER),
    Case(
        "broadcast",
        "broadcast of 1 KiB to 1,000 connections",
        broadcast,
        Task(size=KIB),
        sides=SERVER,
        needs=BROADCAST,
    ),
    Case(
        "broadcast-stalled",
        "the same, 10 of them never read",
        broadcast_to_stalled,
        Task(size=KIB),
        sides=SERVER,
        needs=BROADCAST | {"time-out"},
    ),
]
