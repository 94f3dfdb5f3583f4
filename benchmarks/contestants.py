"""Who takes part: ourselves, the peers, and what Trio does without WebSocket."""

from __future__ import annotations

import dataclasses

TRIO = "trio==0.35.0"
WEBSOCKETS = "websockets==17.4"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A library, and how it runs.

    :param name: On the command line.
    :param title: In the table.
    :param module: The program, in `benchmarks.peers`.
    :param requirements: What pip is to install. Exact, so that the figures stay comparable.
    :param lacks: What cases may need that it does not have; `time-out` is that of a broadcast.
    """

    name: str
    title: str
    module: str
    environment: str
    requirements: tuple[str, ...]
    lacks: frozenset[str] = frozenset()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def is_raw(self) -> bool:
        """It has no handshake, and sends back what it got."""
        return self.module == "with_raw_trio"


OURS = Contestant("ours", "ours", "with_trio_websocket", "ours", (TRIO, "wsproto==1.3.2"))
PURE = dataclasses.replace(
    OURS,
    name="pure",
    title="ours, pure Python",
    variables=(("TRIO_WEBSOCKET_NO_EXTENSIONS", "1"),),
)
CONTESTANTS = (
    OURS,
    PURE,
    Contestant(
        "raw",
        "Trio streams",
        "with_raw_trio",
        "raw-trio",
        (TRIO,),
        frozenset({"messages", "text", "deflate", "broadcast"}),
    ),
    Contestant(
        "0.12.2",
        "trio-websocket 0.12.2",
        "with_trio_websocket",
        "0.12.2",
        (TRIO, "wsproto==1.3.2", "trio-websocket==0.12.2"),
        frozenset({"deflate", "time-out"}),
    ),
    Contestant(
        "websockets.trio",
        "websockets.trio",
        "with_websockets_trio",
        "websockets",
        (TRIO, WEBSOCKETS),
        frozenset({"time-out"}),
    ),
    Contestant(
        "websockets.asyncio",
        "websockets.asyncio",
        "with_websockets_asyncio",
        "websockets",
        (TRIO, WEBSOCKETS),
        frozenset({"time-out"}),
    ),
    Contestant(
        "aiohttp",
        "aiohttp",
        "with_aiohttp",
        "aiohttp",
        ("aiohttp==3.14.5",),
        frozenset({"time-out"}),
    ),
    Contestant(
        "picows",
        "picows, uvloop",
        "with_picows",
        "picows",
        ("picows==2.3.1", "uvloop==0.23.0"),
        frozenset({"deflate", "time-out"}),
    ),
)
