"""The contestants: this library, its peers, and Trio's streams without WebSocket."""

from __future__ import annotations

import dataclasses

TRIO = "trio==0.35.0"
WEBSOCKETS = "websockets==17.4"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A library, and the program that runs it.

    :param name: The name on the command line.
    :param title: The title in the table.
    :param module: The program, a module of `benchmarks.peers`.
    :param requirements: Requirements for pip. Exact versions keep the figures comparable.
    :param lacks: The features of `Case.needs` that the library lacks. `time-out` means a
        broadcast with a time-out.
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
        """True if it has no handshake and sends all bytes back unchanged."""
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
