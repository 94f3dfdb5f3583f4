"""The common part of both sides of the soak: messages with checksums, and counters."""

from __future__ import annotations

import collections
import logging
import os
import random
import re
import struct
import sys
import traceback
import warnings
import zlib
from typing import Any, Awaitable, Callable, Counter, TypeVar

import trio

HOST = "127.0.0.1"

# The permitted delay of a time-out on a busy machine, in seconds. A turn of the server's event
# loop is long if many tasks have work.
SLACK = 10.0
LINGER = 2.0  # seconds that a server gives a peer to end its side (docs/peers.md)
GRACE = 30.0  # seconds for the last echo, and for the clients to end after the run

SOCKET_BUFFER = 2**16  # bytes; a larger buffer would hide a peer that does not read

_SIZES = (0, 1, 30, 125, 126, 1000, 5000, 70_000, 300_000, 1_000_000)
_WEIGHTS = (5, 5, 40, 10, 10, 20, 7, 2.5, 0.4, 0.1)
_BYTES = os.urandom(2**20)
_TEXT = "The quick brown fox, der flinke Fuchs, 狐, 🦊. " * 25_000
_HEAD = struct.Struct("!QIIII")

_CANCELLED_SHARE = 0.2  # the share of calls that are cancelled
_DEADLINES = (0, 0, 0.0001, 0.001, 0.01)  # seconds from now

T = TypeVar("T")


class Violation(Exception):
    """A promise was broken."""


def encode(stream: int, number: int, promised: int, body: str | bytes) -> str | bytes:
    data = body.encode() if isinstance(body, str) else body
    head = _HEAD.pack(stream, number, promised, len(data), zlib.crc32(data, number))
    return head.hex() + body if isinstance(body, str) else head + body


class Outgoing:
    """Messages that are sent on a connection."""

    def __init__(self, stream: int, rng: random.Random) -> None:
        self.stream = stream
        self.number = 0
        self.promised = 0
        self._rng = rng

    def next(self) -> str | bytes:
        size = self._rng.choices(_SIZES, _WEIGHTS)[0]
        is_text = self._rng.random() < 0.5
        start = self._rng.randrange(1000)
        self.number += 1
        body = _TEXT[start : start + size // 2] if is_text else _BYTES[start : start + size]
        return encode(self.stream, self.number, self.promised, body)


class Incoming:
    """Messages that arrive on a connection."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.last = 0
        self.count = 0

    def check(self, message: str | bytes) -> None:
        if isinstance(message, str):
            head, body = (
                bytes.fromhex(message[: 2 * _HEAD.size]),
                message[2 * _HEAD.size :].encode(),
            )
        else:
            head, body = message[: _HEAD.size], message[_HEAD.size :]
        stream, number, promised, length, checksum = _HEAD.unpack(head)
        if stream != self.stream:
            raise Violation(f"a message of connection {stream} on connection {self.stream}")
        if len(body) != length or zlib.crc32(body, number) != checksum:
            raise Violation(f"message {number} is not whole: {len(body)} of {length} bytes")
        if number <= self.last:
            raise Violation(f"message {number} came after {self.last}")
        if self.count < promised:
            raise Violation(f"{self.count} of {promised} messages came before message {number}")
        self.last = number
        self.count += 1


class Cancelled(Exception):
    """A call was cancelled by `Side.attempt`."""


class Side:
    """The counters of a process."""

    def __init__(self, seed: str, timeout: float) -> None:
        self.rng = random.Random(seed)
        self.timeout = timeout
        self.counts: Counter[str] = collections.Counter()
        self.violation_count = 0
        self.violations: dict[str, str] = {}
        self.durations: dict[str, list[float]] = {}
        # The longest delay of this process, or of an answer of the server, in seconds.
        self.lag = 0.0
        warnings.simplefilter("error", ResourceWarning)  # report leaks
        sys.unraisablehook = self._on_unraisable
        logger = logging.getLogger("trio-websocket")
        logger.addHandler(_Counting(self.counts))
        logger.propagate = False

    def _on_unraisable(self, unraisable: Any) -> None:
        self.violate("nobody", unraisable.exc_value)

    def violate(self, who: str, exc: BaseException) -> None:
        self.violation_count += 1
        while hasattr(exc, "exceptions"):  # a group
            exc = exc.exceptions[0]
        kind = re.sub(r"[0-9.]+", "#", f"{who}: {exc!r:.100}")
        if kind not in self.violations and len(self.violations) < 15:
            lines = traceback.format_exception(type(exc), exc, exc.__traceback__, limit=-4)
            self.violations[kind] = "".join(lines)[-3000:]

    @property
    def slack(self) -> float:
        """The number of seconds that everything may take longer on this machine at this time."""
        return SLACK + self.lag

    def took(self, what: str, since: float, least: float, most: float) -> None:
        """Record the duration of a time-out, and check it."""
        seconds = trio.current_time() - since
        self.durations.setdefault(what, []).append(seconds)
        if not least / 2 <= seconds <= most + self.slack:
            raise Violation(f"{what} took {seconds:.2f} s instead of {least:g} to {most:g} s")

    async def attempt(
        self, what: str, rng: random.Random, call: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """Call a function, and sometimes cancel it.

        :raises Cancelled: It was cancelled.
        """
        self.counts[what] += 1
        with trio.CancelScope() as scope:
            if rng.random() < _CANCELLED_SHARE:
                scope.deadline = trio.current_time() + rng.choice(_DEADLINES)
            return await call(*args)
        self.counts[f"cancelled {what}"] += 1
        raise Cancelled

    async def watch_lag(self) -> None:
        """Measure the delays of this process, until cancelled."""
        while True:
            due = trio.current_time() + 0.1
            await trio.sleep_until(due)
            self.lag = max(self.lag, trio.current_time() - due)

    def report(self) -> dict[str, Any]:
        return {
            "lag": self.lag,
            "counts": self.counts,
            "violations": self.violations,
            "violation count": self.violation_count,
            "durations": {
                name: (len(values), min(values), max(values))
                for name, values in self.durations.items()
            },
            "tasks": trio.lowlevel.current_statistics().tasks_living,
        }


class _Counting(logging.Handler):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        self._counts[f"logged: {record.msg}"] += 1
