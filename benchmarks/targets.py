"""The performance targets of the project, as ratios of medians of one run."""

from __future__ import annotations

import dataclasses
from typing import Dict

Medians = Dict[str, Dict[str, Dict[str, Dict[str, float]]]]  # case, side, contestant, metric

KIB = 2**10
C, PURE = "C", "pure"


@dataclasses.dataclass(frozen=True)
class Target:
    """Our `metric` must be at most `limit` times the metric of `peer`.

    Without a peer, `limit` is absolute. Rates are expressed as times: "twice the rate" is a wall
    time with the limit 0.5.

    :param than: The metric of the peer, if it differs from `metric`.
    :param only: `C` or `PURE` if the target holds only with or only without the C extension.
    """

    point: int
    what: str
    case: str
    metric: str
    limit: float
    peer: str = ""
    side: str = "server"
    than: str = ""
    only: str = ""


def _floods() -> list[Target]:
    titles = {
        "tls-pingpong": "TLS ping-pong",
        "tls-flood-receive": "TLS flood received",
        "tls-flood-send": "TLS flood sent",
    }
    return [
        Target(6, f"{title}, CPU", case, "cpu", 0.5, peer)
        for case, title in titles.items()
        for peer in ("0.12.2", "websockets.trio")
    ]


def _large() -> list[Target]:
    targets = []
    for case, title in {"64k": "64 KiB", "1m": "1 MiB"}.items():
        with_it, without = (f"{title}, wall time, {how} C" for how in ("with", "without"))
        targets += [
            Target(3, with_it, case, "wall", 1.0, "aiohttp", only=C),
            Target(3, with_it, case, "wall", 0.5, "websockets.trio", only=C),
            Target(3, without, case, "wall", 2.0, "websockets.trio", only=PURE),
        ]
    return targets


TARGETS = [
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 0.85, "raw"),
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 1.0, "aiohttp"),
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 0.25, "0.12.2"),
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 0.25, "websockets.trio"),
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 0.3, "0.12.2", "client"),
    Target(1, "ping-pong 32 B, CPU", "pingpong", "cpu", 0.3, "websockets.trio", "client"),
    Target(2, "bursts, wall time", "burst", "wall", 1 / 2, "picows"),
    Target(2, "bursts, wall time", "burst", "wall", 1 / 12, "websockets.trio"),
    *_large(),
    Target(4, "idle connection, KiB", "memory", "memory", 12 * KIB),
    Target(4, "opening, CPU", "open", "cpu", 0.5, "websockets.trio"),
    Target(5, "broadcast, wall time", "broadcast", "wall", 1 / 5, "websockets.trio"),
    # Two runs of the same program differ by more than 10 %.
    Target(5, "broadcast, 10 never read", "broadcast-stalled", "wall", 1.1, "ours", than="without"),
    # Each of the ten connections may have 64 KiB and one message unsent.
    Target(5, "growth meanwhile, KiB", "broadcast-stalled", "memory", 10 * 65 * KIB),
    *_floods(),
]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The measured ratio for a target, or None if a measurement is missing."""

    target: Target
    measured: float | None

    @property
    def holds(self) -> bool | None:
        return None if self.measured is None else self.measured <= self.target.limit


def judge(medians: Medians, *, has_extension: bool) -> list[Verdict]:
    """Return a verdict for each target."""
    verdicts = []
    for target in TARGETS:
        ours = "pure" if target.only == PURE and has_extension else "ours"
        measured = None
        if target.only != C or has_extension:
            contestants = medians.get(target.case, {}).get(target.side, {})
            measured = contestants.get(ours, {}).get(target.metric)
            if target.peer and measured is not None:
                theirs = contestants.get(target.peer, {}).get(target.than or target.metric)
                measured = measured / theirs if theirs else None
        verdicts.append(Verdict(target, measured))
    return verdicts
