"""Draw the results as an SVG: `python -m benchmarks.plot JSON SVG`. It needs matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot

from benchmarks import report
from benchmarks.cases import BOTH, CASES
from benchmarks.contestants import CONTESTANTS
from benchmarks.targets import Medians

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLORS = ("#000000", "#999999", "#56b4e9", "#d55e00", "#e69f00", "#f0e442", "#009e73", "#cc79a7")
MARKERS = ("o", "o", "x", "s", "^", "v", "D", "P")
PANELS = (("cpu", "CPU time"), ("wall", "wall time"))


def main(source: Path, target: Path) -> None:
    medians = report.medians_of(json.loads(source.read_text("utf-8"))["samples"])
    mpl.rcParams["svg.hashsalt"] = "bench"  # makes the file reproducible
    mpl.rcParams["svg.fonttype"] = "none"  # text, not paths
    sides = [side for side in BOTH if rows(medians, side)]
    if not sides:
        raise SystemExit("there is nothing of ours to compare with")
    heights = [2 + 1.1 * len(rows(medians, side)) for side in sides]
    figure, all_axes = pyplot.subplots(
        len(sides),
        len(PANELS),
        figsize=(11, 0.27 * sum(heights) + 1),
        height_ratios=heights,
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for axes_of_side, side in zip(all_axes, sides):
        for axes, (metric, title) in zip(axes_of_side, PANELS):
            draw(axes, medians, side, metric)
            axes.set_title(f"{side}: {title}, ours = 1")
    handles: dict[str, Any] = {}
    for axes in all_axes.flat:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4)
    figure.savefig(target, metadata={"Date": None})


def rows(medians: Medians, side: str) -> list[Any]:
    return [
        case
        for case in CASES
        if "ours" in medians.get(case.name, {}).get(side, {}) and case.name != "broadcast-stalled"
    ]


def draw(axes: Any, medians: Medians, side: str, metric: str) -> None:
    """Draw a row for each case, with a mark for each contestant's ratio to ours."""
    cases = rows(medians, side)
    for contestant, color, marker in zip(CONTESTANTS, COLORS, MARKERS):
        points = []
        for index, case in enumerate(cases):
            found = medians[case.name][side]
            shown = "memory" if metric == "cpu" and case.name == "memory" else metric
            value = found.get(contestant.name, {}).get(shown)
            if value and shown in found["ours"]:
                points.append((value / found["ours"][shown], index))
        if points:
            axes.plot(
                *zip(*points),
                linestyle="",
                color=color,
                marker=marker,
                markersize=6,
                label=contestant.title,
            )
    axes.set_yticks(range(len(cases)), [case.title for case in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.grid(visible=True, color="#dddddd")
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
