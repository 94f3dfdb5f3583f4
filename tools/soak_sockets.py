"""A soak over loopback sockets: one server, and clients that connect, leave, reset, stall and lie.

    python -m tools.soak_sockets --seconds 600 --connections 2000 --seed 1

The server runs in one process, and the clients in two. Each message contains the id of its
connection, its number, the number of earlier messages for which ``send_message`` had returned, its
length and a checksum. So either side notices a message that was lost, duplicated, reordered or
torn. A client that stays waits for its last echo.

If no client uses TLS, the server turns full garbage collections off, as docs/servers.md recommends
for many connections, and garbage collections count as blocking the event loop. With TLS, full
collections are needed, because Trio's TLS streams form reference cycles.

A warm-up of the same kind precedes the run. The memory, the descriptors and the tasks of the server
are measured after the clients of the warm-up have left, and again after the clients of the run have
left. The exit status is 1 if a promise was broken or a limit exceeded. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Counter, NamedTuple

import trio

import trio_websocket
from tools import certificates, descriptors, memory
from tools.soak import clients, raw_clients
from tools.soak.clients import Clients, Visit
from tools.soak.server import Steps, serve
from tools.soak.side import GRACE

CLIENT_PROCESSES = 2

LONGEST_STEP = 0.1  # seconds that a task may block the event loop
# The permitted growth of the memory. Allocators return whole pages only, and some stay partly used.
RSS_SHARE, RSS_MARGIN = 0.1, 8  # MiB

KINDS: dict[Visit, float] = {  # the kinds of clients, with their shares
    clients.stay_to_the_end: 40,
    clients.leave_cancelled: 6,
    clients.cancel_opening: 4,
    clients.reset_connection: 6,
    clients.read_what_is_pushed: 6,
    clients.be_closed: 6,
    clients.be_turned_away: 4,
    clients.stall: 1,
    raw_clients.touch: 4,
    raw_clients.never_finish_request: 3,
    raw_clients.never_finish_tls: 1,
    raw_clients.send_no_request: 4,
    raw_clients.send_bad_frame: 4,
    raw_clients.send_noise: 4,
    raw_clients.send_in_pieces: 4,
    raw_clients.never_answer_close: 2,
    raw_clients.never_read: 1,
    raw_clients.flood_with_pings: 1,
}


async def be_clients(args: argparse.Namespace) -> None:
    """Run a process with some of the clients. Print a report when they have left."""
    side = Clients(
        f"{args.seed}-{args.phase}-{args.index}",
        args.timeout,
        ports=args.ports,
        folder=args.folder,
        seconds=args.seconds,
        connections=args.connections,
        tls=args.tls,
    )
    if not args.tls:
        KINDS.pop(raw_clients.never_finish_tls)
    named = {kind.__name__.replace("_", " "): kind for kind in KINDS}
    chosen = [named[name] for name in args.kinds.split(",")] if args.kinds else KINDS
    await side.run(args.share, {kind: KINDS[kind] for kind in chosen})
    gc.collect()  # shows warnings about leaks
    print(json.dumps(side.report()))


class Sample(NamedTuple):
    """Measurements of the server, from outside and from its own report."""

    rss: int
    descriptors: int
    report: dict[str, Any]


class Soak:
    """The processes and their reports."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.server = self.start("server")
        self.ports: list[int] = self.read(self.server)["ports"]
        self.warm_up_rss = 0  # the peak of the warm-up
        self.rss = self.descriptors = 0  # the maximum of the run
        self.reports: list[dict[str, Any]] = []  # reports of the run's clients
        self.warm_up_reports: list[dict[str, Any]] = []

    def start(self, role: str, **values: object) -> subprocess.Popen[str]:
        values = {**vars(self.args), "role": role, "folder": str(self.folder), **values}
        command = [sys.executable, "-m", "tools.soak_sockets", "--process", json.dumps(values)]
        process = subprocess.Popen(
            command,
            env={**os.environ, **memory.GIVE_BACK},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    @staticmethod
    def read(process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {process.wait()}")
        return json.loads(line)

    def sample(self, word: str = "now") -> Sample:
        assert self.server.stdin is not None
        try:
            self.server.stdin.write(f"{word}\n")
            self.server.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"the server ended with status {self.server.wait()}") from None
        report = self.read(self.server)
        opened = len(os.listdir(f"/proc/{self.server.pid}/fd"))
        return Sample(memory.resident(self.server.pid), opened, report)

    def run_clients(self, phase: str, seconds: float) -> None:
        """Run clients for this duration, and wait until all have left."""
        self.warm_up_reports = self.reports
        self.warm_up_rss = self.rss
        self.rss = self.descriptors = 0
        processes = []
        for index in range(CLIENT_PROCESSES):
            share = (self.args.connections + index) // CLIENT_PROCESSES
            processes.append(
                self.start(
                    "clients",
                    phase=phase,
                    index=index,
                    share=share,
                    seconds=seconds,
                    ports=self.ports,
                )
            )
        start = told = time.monotonic()
        while any(process.poll() is None for process in processes):
            sample = self.sample()
            self.rss = max(self.rss, sample.rss)
            self.descriptors = max(self.descriptors, sample.descriptors)
            if time.monotonic() - told > min(30, seconds / 4):
                told = time.monotonic()
                print(f"{phase}, {told - start:4.0f} s: {brief(sample)}", flush=True)
            time.sleep(0.5)
        self.reports = [self.read(process) for process in processes]

    def settle(self, begin: Sample | None = None) -> Sample:
        """Wait until the server has noticed that its clients have left. Return its figures."""
        deadline = time.monotonic() + GRACE
        sample = self.sample()
        while time.monotonic() < deadline:
            last, sample = sample, self.sample()
            aim = last if begin is None else begin
            if sample.descriptors <= aim.descriptors and not sample.report["open"]:
                break
            time.sleep(0.2)
        time.sleep(0.2)
        return self.sample("settled")

    def stop(self) -> int:
        """End the server. Return its exit status."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        return self.server.wait(GRACE)

    def kill(self) -> None:
        """Kill the processes that have not ended by themselves."""
        for process in self.processes:
            process.kill()
            process.wait()


def brief(sample: Sample) -> str:
    report = sample.report
    return (
        f"{report['open']} handlers, {report['counts'].get('message', 0)} messages, "
        f"{sample.rss / 2**20:.0f} MiB, {sample.descriptors} descriptors, "
        f"{report['violation count']} violations on the server"
    )


def show(soak: Soak, begin: Sample, end: Sample) -> bool:
    """Print the measurements. Return True if all are within the limits."""
    counts: Counter[str] = collections.Counter()
    for report in [*soak.reports, end.report]:
        counts.update(report["counts"])
    counts.subtract(begin.report["counts"])
    opened, size = (end.report[name] - begin.report[name] for name in ("opened", "bytes"))
    cancelled = sum(count for name, count in counts.items() if name.startswith("cancelled "))
    show_counts("clients, by kind", counts, is_client=True)
    show_durations(soak.reports)
    lag = max(report["lag"] for report in soak.reports)
    print(f"the clients, or answers to them, were late by up to {lag:.2f} s")
    show_counts("counts", counts, is_client=False)
    print(
        f"connections    {counts['opened']} attempted, {opened} requests handled, "
        f"at most {soak.descriptors - begin.descriptors} at once\n"
        f"messages       {counts['message']} through the server, {size / 1e6:.0f} MB\n"
        f"cancelled      {cancelled} operations"
    )
    faults = [name for name, is_wrong in show_server(soak, begin, end).items() if is_wrong]
    reports = [*soak.warm_up_reports, *soak.reports, end.report]
    number = sum(report["violation count"] for report in reports)
    print(f"violations     {number}")
    for report in reports:
        for name, text in report["violations"].items():
            print(f"\n{name}\n{text}")
    if number:
        faults.append("violations")
    print(f"FAILED: {', '.join(faults)}" if faults else "all as it should be")
    return not faults


def show_counts(title: str, counts: Counter[str], *, is_client: bool) -> None:
    print(title)
    for name, count in sorted(counts.items()):
        if count and name.startswith("client: ") == is_client:
            print(f"  {count:9}  {name.replace('client: ', '')}")


def show_durations(reports: list[dict[str, Any]]) -> None:
    print("durations                        number  shortest   longest")
    for what in sorted({what for report in reports for what in report["durations"]}):
        found = [report["durations"][what] for report in reports if what in report["durations"]]
        number = sum(each[0] for each in found)
        shortest, longest = min(each[1] for each in found), max(each[2] for each in found)
        print(f"  {what:30} {number:6} {shortest:7.2f} s {longest:7.2f} s")


def show_server(soak: Soak, begin: Sample, end: Sample) -> dict[str, bool]:
    """Print the figures of the server. Return the limits, with True for those exceeded."""
    was, now = begin.report, end.report
    mebibytes = [rss / 2**20 for rss in (begin.rss, soak.rss, end.rss)]
    # The memory that the allocators keep grows with the peak.
    growth = max(1, soak.rss / soak.warm_up_rss) if soak.warm_up_rss else 1
    limit = mebibytes[0] * growth * (1 + RSS_SHARE) + RSS_MARGIN
    longest, counts = now["steps"]["longest"], now["steps"]["counts"]
    took = {
        what: f"{longest[f'{what}, CPU'] * 1e3:.1f} ms of CPU, "
        f"{longest[f'{what}, time'] * 1e3:.1f} ms of time"
        for what in ("step", "turn", "collection")
    }
    without_collector = longest["step without the collector, CPU"]
    print(
        f"descriptors    {begin.descriptors} at the beginning, {soak.descriptors} at most, "
        f"{end.descriptors} at the end\n"
        f"tasks          {was['tasks']} at the beginning, {now['tasks']} at the end\n"
        f"objects        {was['objects']} at the beginning, {now['objects']} at the end\n"
        f"memory blocks  {was['blocks']} at the beginning, {now['blocks']} at the end\n"
        f"memory         {mebibytes[0]:.1f} MiB at the beginning, {mebibytes[1]:.1f} at most, "
        f"{mebibytes[2]:.1f} at the end (limit {limit:.1f})\n"
        f"longest step   {took['step']} ({now['steps']['culprit']}), of {counts['step']}\n"
        f"               {without_collector * 1e3:.1f} ms of CPU without the garbage collector\n"
        f"               limit {LONGEST_STEP * 1e3:.0f} ms of CPU, with the collector\n"
        f"longest turn   {took['turn']} (all tasks that were ready), of {counts['turn']}\n"
        f"collector      {took['collection']} at most, of {counts['collection']}; "
        f"it found {counts.get('collected objects', 0)} objects"
    )
    return {
        "descriptors": end.descriptors > begin.descriptors,
        # The task of `DeferredFlush` starts with the first corked queue, and stays.
        "tasks": now["tasks"] > was["tasks"] + 1,
        "handlers": now["open"] > 0,
        "memory": mebibytes[2] > limit,
        "event loop": longest["step, CPU"] > LONGEST_STEP,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=5, help="the server's time-outs")
    parser.add_argument(
        "--warm-up", type=float, metavar="SECONDS", help="default: as long as the run, 300 at most"
    )
    parser.add_argument("--kinds", help="kinds of clients, such as be closed,touch")
    parser.add_argument("--tls", type=float, default=0, help="the share of clients with TLS")
    parser.add_argument("--process", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.warm_up is None:
        # It must reach the number of connections of the run, for the comparison of memory.
        args.warm_up = min(300, args.seconds)
    return args


def main() -> int:
    args = arguments()
    if args.process:
        args = argparse.Namespace(**args.process)
        args.folder = Path(args.folder)
        if args.role == "server":
            steps = Steps()
            seed = f"{args.seed}-server"
            trio.run(serve, seed, args.timeout, args.folder, steps, instruments=[steps])
        else:
            trio.run(be_clients, args)
        return 0
    descriptors.allow(args.connections + 500)  # child processes inherit it
    print(
        f"{args.connections} connections for {args.seconds:g} s after {args.warm_up:g} s of "
        f"warm-up, seed {args.seed}, time-outs of {args.timeout:g} s\n"
        f"Python {platform.python_version()}, trio {trio.__version__}, "
        f"trio-websocket {trio_websocket.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        certificates.make(Path(folder))
        soak = Soak(args, Path(folder))
        try:
            if args.warm_up:
                soak.run_clients("warm-up", args.warm_up)
            begin = soak.settle()
            soak.run_clients("run", args.seconds)
            end = soak.settle(begin)
            is_well = show(soak, begin, end)
            status = soak.stop()
        finally:
            soak.kill()
    return 0 if is_well and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
