"""Compute and draw when a thousand clients come back to a server that restarts."""

from __future__ import annotations

import collections
import random

from docs.drawing import WIDTH, Drawing
from trio_websocket import Backoff, CloseReason, ConnectionClosed, ConnectionFailed, Failure

CLIENTS = 1000
DOWN = 10  # seconds
SHOWN = 50  # seconds
SEED = 1

LEFT, RIGHT = 60, 20
HEIGHT = 130  # of a panel, in pixels
MOST = 150  # clients a second at the top of a panel
PER_SECOND = (WIDTH - LEFT - RIGHT) / SHOWN


def arrivals(lost: ConnectionClosed) -> list[int]:
    """Return how many clients connect in each second after the server has gone.

    The server is gone for `DOWN` seconds, and refuses all attempts in this time.
    """
    state = random.getstate()
    random.seed(SEED)
    try:
        counts = collections.Counter(int(arrival(lost)) for _ in range(CLIENTS))
    finally:
        random.setstate(state)
    return [counts[second] for second in range(max(counts) + 1)]


def arrival(lost: ConnectionClosed) -> float:
    """Return when a client with the default policy connects."""
    backoff = Backoff()
    failure = Failure(lost, open_seconds=3600, attempt=1, outage_seconds=0)
    while True:
        delay = backoff(failure)
        assert delay is not None
        now = failure.outage_seconds + delay
        if now >= DOWN:
            return now
        refused = ConnectionFailed("Connection refused")
        failure = Failure(refused, 0, attempt=failure.attempt + 1, outage_seconds=now)


def picture() -> str:
    killed = arrivals(ConnectionClosed(None))
    code = CloseReason(1012, None)
    closed = arrivals(ConnectionClosed(code, rcvd=code, sent=code))
    drawing = Drawing(
        "The arrivals of a thousand clients after a restart of their server",
        f"Two histograms of connections a second. The server is gone for {DOWN} seconds. If it was "
        f"killed, at most {max(killed)} clients connect in a second. If it sent code 1012, at "
        f"most {max(closed)} do.",
        2 * (HEIGHT + 70) + 20,
    )
    for number, (title, counts) in enumerate(
        [
            ("The server is killed: connections a second", killed),
            ("The server sends Close 1012: connections a second", closed),
        ]
    ):
        panel(drawing, 40 + number * (HEIGHT + 70), title, counts)
    return drawing.svg()


def panel(drawing: Drawing, top: float, title: str, counts: list[int]) -> None:
    """Draw a histogram."""
    base = top + HEIGHT
    drawing.text(LEFT, top - 14, title, "bold")
    for clients in range(0, MOST + 1, 50):
        y = base - clients / MOST * HEIGHT
        drawing.line((LEFT, y), (WIDTH - RIGHT, y), "line" if clients == 0 else "grid")
        drawing.text(LEFT - 8, y + 4, str(clients), "small", "end")
    for second, count in enumerate(counts[:SHOWN]):
        height = count / MOST * HEIGHT
        x = LEFT + second * PER_SECOND
        if count:
            drawing.bar(x + 1, base - height, PER_SECOND - 2, height)
    for second in range(0, SHOWN + 1, 10):
        x = LEFT + second * PER_SECOND
        unit = " s" if second == SHOWN else ""
        drawing.text(x, base + 18, f"{second}{unit}", "small", "middle")
    x = LEFT + DOWN * PER_SECOND
    drawing.line((x, top), (x, base), "grid")
    drawing.text(x - 6, top + 14, "the server is back", "small", "end")
