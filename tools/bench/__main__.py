"""A benchmark of WebSocket libraries: `make bench`, or `python -m tools.bench --help`."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

from tools.bench import environments
from tools.bench.cases import BOTH, CASES, Case, Run
from tools.bench.contestants import CONTESTANTS, Contestant
from tools.bench.environments import InstallError, environment
from tools.bench.load import Sample

TOOLS = ("matplotlib", "trustme")
Samples = Dict[Tuple[str, str, str], List[Sample]]  # by case, side and contestant


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="for each count")
    parser.add_argument("--cases", default="*", help="such as pingpong,tls-*")
    parser.add_argument("--peers", default="*", help="such as raw,ours")
    parser.add_argument("--sides", default="*", help="server or client")
    return parser.parse_args()


def chosen(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in patterns.split(","))


def certificates(folder: str) -> None:
    python = environment("tools", TOOLS)
    environments.run(python, "-m", "tools.bench.certificates", folder)


def main() -> int:
    options = arguments()
    pythons = {}
    for contestant in CONTESTANTS:
        if not chosen(contestant.name, options.peers) or contestant.name == "pure":
            continue
        try:
            python = environment(
                contestant.environment,
                contestant.requirements,
                ours=contestant.environment == "ours",
            )
        except InstallError as exc:
            print(f"without {contestant.name}: {exc}", file=sys.stderr)
        else:
            pythons[contestant] = python
    samples: Samples = {}
    gc.disable()
    with tempfile.TemporaryDirectory() as folder:
        certificates(folder)
        for _ in range(options.rounds):
            for case in CASES:
                if not chosen(case.name, options.cases):
                    continue
                for side in case.sides:
                    if not chosen(side, options.sides):
                        continue
                    for contestant, python in pythons.items():
                        if case.needs & contestant.lacks:
                            continue
                        run = Run(contestant, python, side, folder, options.seconds)
                        sample = case.run(run)
                        samples.setdefault((case.name, side, contestant.name), []).append(sample)
                        gc.collect()
    for case in CASES:
        for side in case.sides:
            for contestant in pythons:
                found = samples.get((case.name, side, contestant.name))
                if found:
                    cpu = statistics.median(each.cpu for each in found) * 1e6
                    wall = statistics.median(each.wall for each in found) * 1e6
                    print(f"{case.name:18} {side:7} {contestant.name:20} {cpu:9.1f} {wall:9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
