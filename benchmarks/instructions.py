"""Count the instructions of each operation: `make instructions`.

The process under test runs under valgrind's callgrind. Its peer, this process, does not. The
counts are the same on a busy machine as on a quiet one. They cover user space only: not the
kernel, not cache misses, and not the garbage collector, which is off.

Each case runs in windows of equal length. SIGUSR2 makes the process under test call getppid().
At this call, callgrind writes the count since the previous one. The count of an empty window is
subtracted. Trio's clock stands still within a window. Most operations begin when the process
sleeps. In one case, the next message arrives before the process sleeps.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import select
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Callable, Dict, Iterator

from benchmarks import load, wire
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.environments import ROOT, InstallError, environment
from benchmarks.load import Line
from benchmarks.process import Process
from benchmarks.task import Task
from support.frames import BINARY

NAMES = ("raw", "ours", "0.12.2", "websockets.trio")
BURST = 64
WINDOWS = 5  # the result is their median
STARTUP = 300  # seconds for an interpreter to start under callgrind, on a busy machine
ASLEEP = 0.001  # seconds between two checks that the process sleeps
LOOKS = 3  # checks in a row that must find the process asleep
TOLERANCE = 1.03  # --compare fails above this ratio

Results = Dict[str, Dict[str, float]]  # case, contestant, instructions for each operation


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table.

    :param operations: The number of operations in a step of the peer.
    :param steps: The number of steps in a window.
    :param data: Bytes that the peer sends in a step. If empty, a step opens a connection.
    :param first: Bytes that the peer sends once, before the first step.
    :param at_once: True if the next step follows the answer at once, without waiting until the
        process sleeps.
    """

    title: str
    steps: int
    operations: int = 1
    data: bytes = b""
    first: bytes = b""
    is_for_raw: bool = True
    at_once: bool = False


MESSAGE = wire.frame(bytes(32), BINARY, masked=True)
LARGE = wire.frame(bytes(2**16), BINARY, masked=True)
PING = b"\x89\x80" + wire.MASK
FIRST_FRAGMENT = b"\x02\x80" + wire.MASK
FRAGMENT = b"\x00\x80" + wire.MASK
SERVER_CASES = (
    Case("ping-pong, 32 B", 100, data=MESSAGE),
    Case("ping-pong, 32 B, next at once", 100, data=MESSAGE, at_once=True),
    Case("burst of 64 x 32 B, per message", 20, BURST, MESSAGE * BURST, is_for_raw=False),
    Case("empty Ping, of 64 in a row", 20, BURST, PING * BURST, is_for_raw=False),
    Case("echo, 64 KiB", 30, data=LARGE),
    Case("accepting a connection", 10),
    # This case is the last because it leaves an unfinished message.
    Case(
        "empty fragment, of 64 in a row",
        20,
        BURST,
        FRAGMENT * BURST,
        FIRST_FRAGMENT,
        is_for_raw=False,
    ),
)
CLIENT_CASE = Case("opening and closing as a client", 10)
CASES = (*SERVER_CASES, CLIENT_CASE)


class CountedProcess(Process):
    """A process under test whose instructions are counted."""

    def __init__(self, contestant: Contestant, python: Path, task: Task, folder: Path) -> None:
        variables = (*contestant.variables, ("PYTHONHASHSEED", "0"))
        contestant = dataclasses.replace(contestant, variables=variables)
        self._out = folder / "callgrind.out"
        self._dumps = 0
        wrapper = (
            *("valgrind", "--quiet", "--tool=callgrind", "--dump-before=getppid"),
            f"--callgrind-out-file={self._out}",
        )
        super().__init__(contestant, python, dataclasses.replace(task, counted=True), wrapper)

    def read(self) -> int:
        """Return a number that the process prints. It may take minutes."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], STARTUP)
        if not ready:
            raise RuntimeError(f"the process said nothing for {STARTUP} seconds")
        return super().read()

    def wait_asleep(self) -> None:
        """Wait until no thread of the process runs or could run."""
        deadline = time.monotonic() + load.TIMEOUT
        looks = 0
        while looks < LOOKS:
            time.sleep(ASLEEP)
            looks = looks + 1 if self._is_asleep() else 0
            if time.monotonic() > deadline:
                raise RuntimeError(f"the process has run for {load.TIMEOUT} seconds")

    def end_window(self) -> float:
        """Return the instructions since the last call."""
        self.wait_asleep()
        self.process.send_signal(signal.SIGUSR2)
        self.read()
        self.wait_asleep()
        self._dumps += 1
        dump = Path(f"{self._out}.{self._dumps}")
        lines = dump.read_text("utf-8", "replace").splitlines()
        dump.unlink()
        total = next(line.split()[1] for line in lines if line.startswith(("totals:", "summary:")))
        return float(total)

    def _is_asleep(self) -> bool:
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(each.read_text().rpartition(") ")[2].startswith("S") for each in threads)


def per_operation(process: CountedProcess, case: Case, step: Callable[[], object]) -> float:
    """Return the median of the windows, minus the count of an empty window.

    If `case.at_once`, return the minimum instead. On a busy machine the next step may come too
    late, so that the process sleeps first, which costs more instructions.
    """
    choose = min if case.at_once else statistics.median
    for _ in range(case.steps):  # warm up
        step()
    process.end_window()
    empty = process.end_window()
    counts = []
    for _ in range(WINDOWS):
        for _ in range(case.steps):
            step()
        counts.append(process.end_window())
    return (choose(counts) - empty) / (case.steps * case.operations)


def count_server(contestant: Contestant, python: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the title and the count of each case. All cases run in one process, in order."""
    is_raw = contestant.is_raw
    task = Task()
    with ExitStack() as stack:
        process = CountedProcess(contestant, python, task, folder)
        stack.enter_context(closing(process))
        port = process.read()

        def open_line() -> Line:
            line = load.connect(task, port, is_raw=is_raw)
            stack.callback(line.close)
            process.wait_asleep()
            return line

        line = open_line()

        def exchange(case: Case) -> None:
            line.sock.sendall(case.data)
            if case.at_once:
                line.read_some()
            else:
                process.wait_asleep()
                drain(line)

        for case in SERVER_CASES:
            if case.is_for_raw or not is_raw:
                line.sock.sendall(case.first)
                step = functools.partial(exchange, case) if case.data else open_line
                try:
                    yield case.title, per_operation(process, case, step)
                except EOFError as exc:  # this library has a limit that others lack
                    tell(f"{contestant.title}: {case.title}: {exc}")


def drain(line: Line) -> None:
    """Read all answers. Their number is not known: fewer Pongs than Pings are allowed."""
    line.sock.setblocking(False)
    try:
        while line.read_some():
            pass
        raise EOFError("it closed the connection")
    except BlockingIOError:
        pass
    line.sock.settimeout(load.TIMEOUT)


def count_client(contestant: Contestant, python: Path, folder: Path) -> float:
    is_raw = contestant.is_raw
    with load.listen() as listener:
        listener.settimeout(STARTUP)
        work = "visit" if is_raw else "connect"
        task = Task(side="client", work=work, port=listener.getsockname()[1])
        with closing(CountedProcess(contestant, python, task, folder)) as process:

            def host() -> None:
                line = load.accept(task, listener, is_raw=is_raw)
                process.wait_asleep()
                if is_raw:
                    line.close()
                else:
                    line.see_off(is_raw=False)
                process.wait_asleep()

            return per_operation(process, CLIENT_CASE, host)


def count(contestant: Contestant, checkout: Path) -> dict[str, float]:
    """Return the instructions of each case."""
    is_ours = contestant.environment == "ours"
    python = environment(
        contestant.environment, contestant.requirements, ours=is_ours, checkout=checkout
    )
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, instructions in count_server(contestant, python, Path(folder)):
            tell(f"{contestant.title}: {title}: {instructions:,.0f}")
            counts[title] = instructions
    with tempfile.TemporaryDirectory() as folder:
        counts[CLIENT_CASE.title] = count_client(contestant, python, Path(folder))
    return counts


def table(results: Results, before: Results) -> str:
    """Format the results in Markdown, with the change since earlier results if there are any."""
    names = [name for name in NAMES if any(name in row for row in results.values())]
    head = ["instructions per operation", *names, *(["ours before", "change"] if before else [])]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for title, row in results.items():
        cells = [f"{row[name]:,.0f}" if name in row else "-" for name in names]
        if before:
            change = changes(results, before).get(title)
            then = before.get(title, {}).get("ours")
            cells.append("-" if then is None else f"{then:,.0f}")
            cells.append("-" if change is None else f"{100 * (change - 1):+.1f} %")
        rows.append([title, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def changes(results: Results, before: Results) -> dict[str, float]:
    """Return the ratio of our new count to our old one, for each case that both results have."""
    return {
        title: row["ours"] / before[title]["ours"]
        for title, row in results.items()
        if "ours" in row and "ours" in before.get(title, {})
    }


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.instructions", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--peers", default=",".join(NAMES), help="all by default: %(default)s")
    add("--checkout", type=Path, default=ROOT, help="the tree whose package is ours; default: this")
    add("--json", type=Path, metavar="JSON", help="write the counts to a file")
    add("--compare", type=Path, metavar="JSON", help="fail if one of our cases takes 3 %% more")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if not shutil.which("valgrind"):
        print("skipped: valgrind is not installed; on Debian, run `apt-get install valgrind`")
        return 0
    if not Path("/proc/self/task").exists():
        print("skipped: the states of threads are read from Linux's /proc")
        return 0
    wanted = options.peers.split(",")
    by_name = {each.name: each for each in CONTESTANTS if each.name in NAMES}
    unknown = set(wanted) - by_name.keys()
    if unknown:
        raise SystemExit(f"--peers must be of {', '.join(NAMES)}, not {', '.join(unknown)}")
    before = json.loads(options.compare.read_text("utf-8")) if options.compare else {}
    # Both processes run on one CPU, so that data never arrives while the other process runs.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results: Results = {case.title: {} for case in CASES}
    for name in wanted:
        try:
            counts = count(by_name[name], options.checkout.resolve())
        except InstallError as exc:
            raise SystemExit(f"instructions: {exc}") from None
        for title, instructions in counts.items():
            results[title][name] = instructions
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(f"CPython {platform.python_version()}, {platform.machine()}, user space, when warm:\n")
    print(table(results, before))
    above = [title for title, change in changes(results, before).items() if change > TOLERANCE]
    for title in above:
        print(f"more than 3 % above before: {title}")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
