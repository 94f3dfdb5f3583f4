"""The results as Markdown: tables of medians, and the targets."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any, Dict, List

from benchmarks.cases import BOTH, CASES
from benchmarks.contestants import CONTESTANTS
from benchmarks.load import Sample
from benchmarks.targets import KIB, Medians, Target, Verdict, judge

Samples = Dict[str, Dict[str, Dict[str, List[Sample]]]]  # by case, side and contestant

TITLES = {"cpu": "CPU time", "wall": "wall time"}


def medians_of(samples: Samples) -> Medians:
    return {
        case: {
            side: {name: median(found) for name, found in contestants.items()}
            for side, contestants in sides.items()
        }
        for case, sides in samples.items()
    }


def median(found: list[Sample]) -> Sample:
    return {metric: statistics.median(each[metric] for each in found) for metric in found[0]}


def markdown(results: dict[str, Any], plot: str = "") -> str:
    """Return the whole report. `plot` is the address of an image to include."""
    medians = medians_of(results["samples"])
    parts = [f"![The medians, divided by ours]({plot})"] if plot else []
    parts.append(about(results))
    for side in BOTH:
        for metric, title in TITLES.items():
            rows = table(medians, side, metric)
            if rows:
                heading = f"{side.capitalize()}, {title} in µs (and divided by ours):"
                parts.append(f"{heading}\n\n{rows}")
    parts.append("Targets:\n\n" + verdicts(verdicts_on(results)))
    parts += results["notes"]
    return "\n\n".join(parts) + "\n"


def about(results: dict[str, Any]) -> str:
    machine = results["machine"]
    peers = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    return (
        f"Measured on {machine['date']} with `{machine['command']}`, {results['rounds']} rounds of "
        f"{results['seconds']:g} s, {'over' if results['spread'] else 'on one of'} "
        f"{machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['system']}, with {machine['python']}; {peers}; ours "
        f"{'with' if results['extension'] else 'without'} the C extension."
    )


def table(medians: Medians, side: str, metric: str) -> str:
    """Return the table of one side and metric: cases as rows, contestants as columns."""
    cases = [case for case in CASES if side in medians.get(case.name, {})]
    taking_part = {name for case in cases for name in medians[case.name][side]}
    columns = [each for each in CONTESTANTS if each.name in taking_part]
    rows = []
    for case in cases:
        found = medians[case.name][side]
        shown = "memory" if metric == "cpu" and case.name == "memory" else metric
        cells = [cell(found, each.name, shown) for each in columns]
        if any(cells):
            rows.append([case.title, *cells])
    if not rows:
        return ""
    head = [["", *(each.title for each in columns)], ["---", *["---:"] * len(columns)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def cell(found: dict[str, Sample], name: str, metric: str) -> str:
    if metric not in found.get(name, {}):
        return ""
    value = found[name][metric]
    text = figure(value / KIB if metric == "memory" else value * 1e6)
    ours = found.get("ours", {}).get(metric)
    return f"{text} ({value / ours:.2f})" if ours and name != "ours" else text


def figure(value: float) -> str:
    """Format a number with three significant digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdicts_on(results: dict[str, Any]) -> list[Verdict]:
    return judge(medians_of(results["samples"]), has_extension=results["extension"])


def verdicts(found: list[Verdict]) -> str:
    rows = [
        "| | ours | divided by | at most | measured | holds |",
        "| ---: | --- | --- | ---: | ---: | --- |",
    ]
    rows += [row_of(verdict) for verdict in found]
    return "\n".join(rows)


def as_data(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict in the form of the JSON file."""
    target = dataclasses.asdict(verdict.target)
    return {**target, "measured": verdict.measured, "holds": verdict.holds}


def row_of(verdict: Verdict) -> str:
    target = verdict.target
    if target.than:
        divisor = "the same without them"
    else:
        divisor = {each.name: each.title for each in CONTESTANTS}.get(target.peer, "")
    cells = [
        str(target.point),
        f"{target.what}, {target.side}",
        divisor,
        scaled(target, target.limit),
        "" if verdict.measured is None else scaled(target, verdict.measured),
        {None: "not measured", True: "yes", False: "**no**"}[verdict.holds],
    ]
    return f"| {' | '.join(cells)} |"


def scaled(target: Target, value: float) -> str:
    return f"{value / KIB:.1f}" if target.metric == "memory" else f"{value:.3f}"
