"""The server that a client of `stay_connected` meets: a script for each attempt, in memory."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Awaitable, Callable, Union

import trio
import trio.testing

from support.peer import RawPeer, accepting, read_head

if TYPE_CHECKING:
    from trio.abc import Stream

#: The server's part of an attempt, or the exception that opening the stream raises.
Script = Union[Callable[["Stream"], Awaitable[object]], Exception]

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


class Attempts:
    """Opens the streams of a client: pass `open` as ``stream``.

    The scripts are used in turn, and the last one for all further attempts.
    """

    def __init__(self, nursery: trio.Nursery, *scripts: Script) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        #: The time of each attempt.
        self.times: list[float] = []

    async def open(self, host: str, port: int) -> Stream:
        """Return the client's end of a stream, and run the script at the server's end."""
        self.times.append(trio.current_time())
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await trio.lowlevel.checkpoint()
        if isinstance(script, Exception):
            raise script
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._run, script, theirs)
        return ours

    @staticmethod
    async def _run(script: Callable[[Stream], Awaitable[object]], stream: Stream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):  # the client may leave at any time
                await script(stream)


def answer(status_line: bytes, *headers: bytes) -> Script:
    """Answer the request with another status than 101."""

    async def run(stream: Stream) -> None:
        await read_head(stream)
        head = b"\r\n".join([b"HTTP/1.1 " + status_line, b"Content-Length: 0", *headers])
        await stream.send_all(head + b"\r\n\r\n")

    return run


def accept(script: Callable[[RawPeer], Awaitable[object]]) -> Script:
    """Accept the connection and run a script."""

    async def run(stream: Stream) -> None:
        request, rest = await read_head(stream)
        await stream.send_all(accepting(request))
        await script(RawPeer(stream, is_client=False, received=rest))

    return run


async def until_closed(peer: RawPeer) -> None:
    """Read until the client's Close frame, and answer it."""
    while True:
        found = await peer.receive()
        if found is None:
            return
        if found.opcode == 8:
            await peer.send_frame(8, found.payload)
            return
