"""A benchmark of WebSocket libraries: `make bench`, or `python -m benchmarks --help`.

The benchmark creates an environment for each library below .venvs/ and runs the libraries in turn,
for several rounds. docs/performance.md says how each case is measured. It runs on Linux only,
because it reads the CPU time and the memory of other processes from the kernel.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import gc
import json
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple

from benchmarks import environments, report
from benchmarks.cases import CASES, Case, Run
from benchmarks.contestants import CONTESTANTS, PURE, Contestant
from benchmarks.environments import InstallError, environment
from tools import descriptors

TOOLS = ("matplotlib", "trustme")
DESCRIPTORS = 1700  # file descriptors that a process needs, one for each connection
# The cases that have a target in benchmarks/targets.py, and a few more.
QUICK = "pingpong,burst,64k,1m,tls-pingpong,tls-flood-*,open,memory,broadcast*"
SHOWN_PACKAGES = ("trio", "wsproto", "websockets", "aiohttp", "picows", "uvloop")

Samples = report.Samples
Installed = Dict[Contestant, Path]


class Count(NamedTuple):
    """One sample of one cell of the table."""

    case: Case
    side: str
    contestant: Contestant

    @property
    def name(self) -> str:
        return f"{self.case.name}, {self.side}, {self.contestant.title}"


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, metavar="N", help="5 by default")
    add("--seconds", type=float, metavar="S", help="for each count, 0.7 by default")
    add("--cases", help="pingpong,tls-*; all by default")
    add("--peers", default="*", help="ours,raw,websockets.*; all by default")
    add("--sides", default="*", help="server or client; both by default")
    add("--without-speedups", action="store_true", help="ours without its C extension, too")
    add("--spread", action="store_true", help="don't bind both sides to one CPU")
    add("--quick", action="store_true", help="fewer cases, 2 rounds of 0.15 s: 3 minutes in all")
    add("--list", action="store_true", help="the cases and the peers")
    add("--read", type=Path, metavar="JSON", help="show what an earlier run wrote")
    add("--json", type=Path, default=Path("bench.json"), help="every sample; bench.json by default")
    add("--markdown", type=Path, metavar="MD", help="the tables, which are printed anyway")
    add("--plot", type=Path, metavar="SVG", help="the ratios as a picture")
    options = parser.parse_args(given)
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.15 if options.quick else 0.7)
    options.cases = options.cases or (QUICK if options.quick else "*")
    return options


def is_chosen(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in patterns.split(","))


def install(options: argparse.Namespace) -> tuple[Installed, list[str]]:
    """Create the environments. Return them, and a note for each that could not be created."""
    installed: Installed = {}
    notes = []
    for each in CONTESTANTS:
        is_wanted = is_chosen(each.name, options.peers)
        if each is PURE:
            is_wanted = options.without_speedups
        if not is_wanted:
            continue
        try:
            is_ours = each.environment == "ours"
            installed[each] = environment(each.environment, each.requirements, ours=is_ours)
        except InstallError as exc:
            print(exc, file=sys.stderr)
            notes.append(f"Without {each.title}: it could not be installed.")
    return installed, notes


def counts(options: argparse.Namespace, installed: Installed) -> Iterator[Count]:
    """Yield the samples of one round, in order. The contestants take turns."""
    for case in CASES:
        if is_chosen(case.name, options.cases):
            for side in case.sides:
                if is_chosen(side, options.sides):
                    for contestant in installed:
                        if not case.needs & contestant.lacks:
                            yield Count(case, side, contestant)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the selected cases. Return the results in the form of the JSON file."""
    installed, notes = install(options)
    pythons = {each.name: python for each, python in installed.items()}
    ours = pythons.get("ours") or pythons.get("pure")
    if ours and not has(ours, "trio_websocket", "broadcast"):
        notes.append("We have no `broadcast` yet; it was not measured.")
        installed = {lacking_broadcast(each): python for each, python in installed.items()}
    samples: Samples = {}
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        if is_tls(options):
            make_certificates(folder)
        for number in range(1, options.rounds + 1):
            for count in counts(options, installed):
                tell(f"round {number} of {options.rounds}: {count.name}")
                python = pythons[count.contestant.name]
                how = Run(count.contestant, python, count.side, folder, options.seconds)
                try:
                    sample = count.case.run(how)
                except (AssertionError, EOFError, OSError, RuntimeError) as exc:
                    notes.append(f"Failed: {count.name}: {exc!r}")
                else:
                    of_case = samples.setdefault(count.case.name, {}).setdefault(count.side, {})
                    of_case.setdefault(count.contestant.name, []).append(sample)
                gc.collect()
    tell("")
    return {
        "machine": machine(),
        "spread": options.spread,
        "packages": packages(pythons),
        "extension": ours is not None and has(ours, "trio_websocket._sansio._speedups", "__name__"),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "notes": notes,
        "samples": samples,
    }


def has(python: Path, module: str, name: str) -> bool:
    """Return True if the module can be imported and has an attribute with this name."""
    command = f"import {module} as module; module.{name}"
    try:
        environments.run(python, "-I", "-c", command)
    except InstallError:
        return False
    return True


def lacking_broadcast(contestant: Contestant) -> Contestant:
    if contestant.environment != "ours":
        return contestant
    return dataclasses.replace(contestant, lacks=contestant.lacks | {"broadcast"})


def is_tls(options: argparse.Namespace) -> bool:
    return any("tls" in case.needs for case in CASES if is_chosen(case.name, options.cases))


def make_certificates(folder: str) -> None:
    environments.run(environment("tools", TOOLS), "-m", "tools.certificates", folder)


def machine() -> dict[str, str]:
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "cpus": str(os.cpu_count()),
        "cpu": cpu_name(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def packages(pythons: dict[str, Path]) -> dict[str, str]:
    """Return the versions of `SHOWN_PACKAGES`, which are the same in all environments."""
    found: dict[str, str] = {}
    for python in pythons.values():
        found.update(environments.versions(python))
    return {name: found[name] for name in SHOWN_PACKAGES if name in found}


def tell(text: str) -> None:
    """Show the progress if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def show_list() -> None:
    print("cases:")
    for case in CASES:
        print(f"    {case.name:20}{case.title} ({' and '.join(case.sides)})")
    print("peers:")
    for contestant in CONTESTANTS:
        print(f"    {contestant.name:20}{', '.join(contestant.requirements)}")


def main(given: list[str] | None = None) -> int:
    """Run the benchmark, or read earlier results. Print and write the tables."""
    options = arguments(given)
    if options.list:
        show_list()
        return 0
    try:
        return run(options)
    except InstallError as exc:
        raise SystemExit(f"bench: {exc}") from None


def run(options: argparse.Namespace) -> int:
    if options.read:
        results = json.loads(options.read.read_text("utf-8"))
    else:
        descriptors.allow(DESCRIPTORS)
        if not options.spread:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # child processes inherit it
        results = measure(options)
        results["targets"] = [report.as_data(each) for each in report.verdicts_on(results)]
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    plot = ""
    if options.plot:
        draw(options.read or options.json, options.plot)
        plot = os.path.relpath(options.plot, (options.markdown or options.plot).parent)
    text = report.markdown(results, plot)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    return int(any(note.startswith("Failed") for note in results["notes"]))


def draw(source: Path, target: Path) -> None:
    environments.run(environment("tools", TOOLS), "-m", "benchmarks.plot", source, target)


if __name__ == "__main__":
    sys.exit(main())
