"""Run the Autobahn test suite against this library's server and client, on loopback.

The exit status is 0 if every case ran, is OK (three are INFORMATIONAL by design), and got the close
code that the RFC requires. The README.md in this folder explains the results.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

HERE = Path(__file__).resolve().parent
SUITE = HERE / "suite.json"  # "exclude-cases" would list cases for features that we lack
REPORTS = HERE / "reports"
WSTEST_FOLDER = HERE.parent / ".venvs" / "wstest"

HOST = "127.0.0.1"
AGENT = "trio_websocket"  # our name in the suite's reports

INFORMATIONAL_CASES = {"7.1.6", "7.13.1", "7.13.2"}
# Each sends a thousand compressed messages of 8 KiB or more. They take most of a run.
LONG_CASES = [f"1{group}.*.{number}$" for group in "23" for number in (6, 7, 8, 9, *range(10, 19))]
EMPTY_CLOSE_CASES = {"7.3.1"}  # the suite's Close is empty, so our reply may be empty

OPCODES = {0: "CONTINUATION", 1: "TEXT", 2: "BINARY", 8: "CLOSE", 9: "PING", 10: "PONG"}
TIMERS = {"KLE": "suite has waited enough and fails the connection", "TIE": "suite closes"}

ROW = "{:8}{:>4}{:>8}{:>6}{:>15}{:>9}   {}"

running: list[subprocess.Popen[bytes]] = []

Report = Dict[str, Any]  # the suite's report on one case


class RunFailed(Exception):
    """The suite did not finish."""


@contextmanager
def started(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a new process group. Kill the group at the end of the block."""
    with open(log, "wb") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running.append(process)
    try:
        yield process
    finally:
        kill(process)
        process.wait()
        running.remove(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def stop(*_: object) -> None:
    """Kill all processes and exit. The threads end when their processes end."""
    for process in running.copy():
        kill(process)
    sys.exit(1)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_listener(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.05)
    raise RunFailed("the listening side did not start")


def wait_for_end(
    connector: subprocess.Popen[bytes],
    listener: subprocess.Popen[bytes],
    log: Path,
    args: argparse.Namespace,
) -> None:
    """Wait until the connecting side ends. wstest itself has no time-out for a case."""
    progress = start = time.monotonic()
    size = 0
    while connector.poll() is None and listener.poll() is None:
        now = time.monotonic()
        if log.stat().st_size != size:
            size, progress = log.stat().st_size, now
            if "\nCases = []\n" in log.read_text():
                raise RunFailed("no such case")
        if now - progress > args.stall:
            raise RunFailed(f"no progress for {args.stall:g} s; last: {last_line(log)}")
        if now - start > args.limit:
            raise RunFailed(f"not done after {args.limit:g} s; last: {last_line(log)}")
        time.sleep(0.05)
    if listener.poll() is not None:
        raise RunFailed(f"the listening side ended with status {listener.returncode}")
    if connector.returncode != 0:
        raise RunFailed(f"the connecting side ended with status {connector.returncode}")


def last_line(log: Path) -> str:
    return log.read_text().rstrip().rpartition("\n")[2]


def write_suite(side: str, url: str, folder: Path, args: argparse.Namespace) -> Path:
    suite = json.loads(SUITE.read_text())
    cases = args.cases
    if args.quick:
        suite["exclude-cases"] += LONG_CASES
    if cases:
        # wstest hangs on an unknown id, but accepts a pattern without a match.
        suite["cases"] = [case if "*" in case else f"{case}$*" for case in cases]
        suite["exclude-cases"] = []
    if side == "server":
        suite["servers"] = [{"agent": AGENT, "url": url}]
    else:
        suite["url"] = url
    suite["outdir"] = str(folder)
    path = folder / "suite.json"
    path.write_text(json.dumps(suite, indent=2))
    return path


def run_suite(side: str, folder: Path, wstest: str, args: argparse.Namespace) -> None:
    """Run wstest and the testee: one of them listens, the other one connects."""
    port = free_port()
    url = f"ws://{HOST}:{port}"
    suite = write_suite(side, url, folder, args)
    mode, address = ("fuzzingclient", str(port)) if side == "server" else ("fuzzingserver", url)
    # Web port 0 turns off wstest's web server on port 8080.
    wstest_argv = [wstest, "--mode", mode, "--spec", str(suite), "--webport", "0"]
    testee_argv = [sys.executable, "-u", str(HERE / f"testee_{side}.py"), address]
    if args.debug:
        testee_argv.append("--debug")
    commands = [(testee_argv, folder / "testee.log"), (wstest_argv, folder / "wstest.log")]
    if side == "client":
        commands.reverse()
    with started(*commands[0]) as listener:
        wait_for_listener(listener, port)
        with started(*commands[1]) as connector:
            wait_for_end(connector, listener, folder / "wstest.log", args)


def missing_cases(folder: Path, reports: dict[str, Report]) -> list[str]:
    log = folder / "wstest.log"
    found = log.exists() and re.search(r"^Cases = (\[.*\])$", log.read_text(), re.MULTILINE)
    expected = ast.literal_eval(found.group(1)) if found else []
    return [case for case in expected if case not in reports]


def read_reports(folder: Path) -> dict[str, Report]:
    if not (folder / "index.json").exists():
        return {}
    index = json.loads((folder / "index.json").read_text())[AGENT]
    cases = sorted(index, key=lambda case: [int(number) for number in case.split(".")])
    return {case: json.loads((folder / index[case]["reportfile"]).read_text()) for case in cases}


def faults(report: Report) -> list[str]:
    case = report["id"]
    wanted = "INFORMATIONAL" if case in INFORMATIONAL_CASES else "OK"
    found = []
    if report["behavior"] != wanted:
        found.append(report["behavior"])
    if report["behaviorClose"] != wanted:
        found.append(f"closing {report['behaviorClose']}")
    # wstest checks the code of a Close only if there is one.
    if report["remoteCloseCode"] is None and case not in EMPTY_CLOSE_CASES:
        found.append("no close code")
    return found


def describe(report: Report) -> Iterator[str]:
    """Yield lines that describe one case, frame by frame."""
    verdict = ", ".join(faults(report)) or report["behavior"]
    yield f"case {report['id']}: {verdict} ({report['result']} {report['resultClose']})"
    yield f"  wanted: {report['expectation']}"
    for kind, *entry in report["wirelog"]:
        if kind in ("RF", "TF"):
            (length, payload), opcode, fin, rsv = entry[:4]
            sender = "suite" if kind == "TF" else "we   "
            name = OPCODES.get(opcode, f"opcode {opcode}")
            flags = ("" if fin else " not final") + (f" RSV={rsv}" if rsv else "")
            yield f"  {sender} > {name}{flags}, {length} bytes: {payload!r}"
        elif kind in TIMERS:
            yield f"  ({TIMERS[kind]})"
    for sender, key in (("suite", "local"), ("we   ", "remote")):
        code, reason = report[f"{key}CloseCode"], report[f"{key}CloseReason"]
        yield f"  {sender} > close code {code}, reason {reason!r}"
    yield f"  end: {'clean' if report['wasClean'] else report['wasNotCleanReason']}"


def run_side(side: str, run: int, wstest: str, args: argparse.Namespace) -> bool:
    """Run the suite once against one side, and print the outcome. Return True if it is good."""
    folder = REPORTS / f"{side}-{run}"
    folder.mkdir(parents=True)
    problems: defaultdict[str, list[str]] = defaultdict(list)
    start = time.monotonic()
    try:
        run_suite(side, folder, wstest, args)
    except RunFailed as error:
        problems[str(error)] = [f"see {folder}/*.log"]
    seconds = time.monotonic() - start

    reports = read_reports(folder)
    if missing := missing_cases(folder, reports):
        problems[f"not run, {len(missing)} from"] = missing[:1]
    for case, report in reports.items():
        for fault in faults(report):
            problems[fault].append(case)
    behaviors = [report["behavior"] for report in reports.values()]
    counts = (len(reports), behaviors.count("OK"), behaviors.count("INFORMATIONAL"))
    good = bool(reports) and not problems
    verdict = "good" if good else "BAD"
    print(ROW.format(side, run, *counts, f"{seconds:.1f}", verdict), flush=True)
    for problem, where in problems.items():
        print(f"    {problem}: {' '.join(where)}", flush=True)
    if args.debug:
        for report in reports.values():
            print(*describe(report), sep="\n")
        print((folder / "testee.log").read_text(), end="", flush=True)
    return good


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["server", "client"], help="test only this side")
    parser.add_argument("--cases", nargs="+", default=[], help="such as 3.2 '6.*' (all: '*')")
    parser.add_argument("--quick", action="store_true", help="leave out the long cases")
    parser.add_argument("--runs", type=int, default=1, help="the number of runs")
    parser.add_argument("--debug", action="store_true", help="print frames and debug logs")
    parser.add_argument(
        "--limit", type=float, default=1800, help="seconds for a side (%(default)g)"
    )
    parser.add_argument(
        "--stall", type=float, default=180, help="seconds for one case (%(default)g)"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    installed = subprocess.run(
        [sys.executable, str(HERE / "install_wstest.py"), str(WSTEST_FOLDER)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if installed.returncode != 0:
        return 1
    wstest = installed.stdout.strip()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    sides = [args.side] if args.side else ["server", "client"]
    for side in sides:
        for old in REPORTS.glob(f"{side}-*"):
            shutil.rmtree(old)
    print(ROW.format("side", "run", "cases", "OK", "INFORMATIONAL", "seconds", "result"))
    good = True
    for run in range(1, args.runs + 1):
        # Both sides run at the same time, because each mostly waits for its peer.
        with ThreadPoolExecutor() as pool:
            outcomes = [pool.submit(run_side, side, run, wstest, args) for side in sides]
        good = good and all(outcome.result() for outcome in outcomes)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
