"""A listener without a network, for servers in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Union

import trio

if TYPE_CHECKING:
    from trio.abc import Stream

Outcome = Union["Stream", Exception]


class MemoryListener(trio.abc.Listener["Stream"]):
    """Accept the streams that tests connect, in order.

    :param outcomes: Streams to accept, and exceptions to raise, before those that are connected.
    """

    def __init__(self, *outcomes: Outcome) -> None:
        self._waiting, self._accepted = trio.open_memory_channel[Outcome](math.inf)
        for outcome in outcomes:
            self._waiting.send_nowait(outcome)

    def connect(self, stream: Stream) -> None:
        """Let the server accept this end of a pair.

        :raises ConnectionRefusedError: The listener is closed.
        """
        try:
            self._waiting.send_nowait(stream)
        except trio.ClosedResourceError as exc:
            raise ConnectionRefusedError from exc

    async def accept(self) -> Stream:
        outcome = await self._accepted.receive()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        self._waiting.close()
        with trio.CancelScope(shield=True):
            async for outcome in self._accepted:
                if not isinstance(outcome, Exception):
                    await trio.aclose_forcefully(outcome)
        await trio.lowlevel.checkpoint()
