"""Generate compressed messages (RFC 7692), valid and invalid.

The first byte of a case contains the negotiated parameters. Frames follow it.
"""

from __future__ import annotations

import zlib
from random import Random

from support.frames import BINARY, CONTINUATION, PING, TEXT
from trio_websocket import DeflateParameters

from .frames import BAD_UTF8, TEXTS, frame, frames
from .mutation import cuts, maybe_mutated, some_bytes

_RSV1 = 4
_TAIL = b"\x00\x00\xff\xff"
_BLOCKS = (b"\x00\x00\x00\xff\xff", b"\x02\x00\x00\x00\xff\xff", b"\x03\x00")  # empty ones


def agreed(first: bytes) -> DeflateParameters:
    """Return the parameters in the first byte of a case: window and context takeover."""
    number = first[0] if first else 0
    bits, resets = 9 + number % 7, bool(number & 0x80)
    return DeflateParameters(bits, bits, resets, resets)


def from_client(rng: Random) -> bytes:
    return _from_peer(rng, masked=True)


def from_server(rng: Random) -> bytes:
    return _from_peer(rng, masked=False)


def _from_peer(rng: Random, *, masked: bool) -> bytes:
    first = rng.randrange(256).to_bytes(1, "big")
    return first + maybe_mutated(rng, lambda: _Sender(rng, agreed(first), masked).frames())


class _Sender:
    """A peer that compresses most of its messages."""

    def __init__(self, rng: Random, parameters: DeflateParameters, masked: bool) -> None:
        self._rng = rng
        self._bits = parameters.client_max_window_bits
        self._resets = parameters.client_no_context_takeover
        self._masked = masked
        self._payload = b"Hello"
        self._renew()

    def _renew(self) -> None:
        level, memory = self._rng.choice((0, 1, 6, 6, 9)), self._rng.choice((1, 5, 9))
        self._compressor = zlib.compressobj(level, zlib.DEFLATED, -self._bits, memory)

    def frames(self) -> bytes:
        data = b""
        for _ in range(self._rng.choice((1, 1, 2, 3, 3, 5, 8))):
            kind = self._rng.random()
            if kind < 0.85:
                data += self._message()
            elif kind < 0.97:
                data += frames(self._rng, masked=self._masked)
            else:
                data += self._frame(self._rng.randrange(16), b"\x03\xe8", rsv=_RSV1)
        return data

    def _frame(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
        return frame(self._rng, opcode, payload, masked=self._masked, fin=fin, rsv=rsv)

    def _message(self) -> bytes:
        rng = self._rng
        opcode, self._payload = self._next_payload()
        number = rng.choice((0, 0, 0, 1, 2, 5))
        *parts, last = cuts(rng, self._compressed(self._payload), number)
        data, rsv = b"", _RSV1
        for part in parts:
            data += self._frame(opcode, part, fin=False, rsv=rsv)
            opcode, rsv = CONTINUATION, _RSV1 if rng.random() < 0.02 else 0
            if rng.random() < 0.2:
                data += self._frame(PING, b"between")
        return data + self._frame(opcode, last, rsv=rsv)

    def _next_payload(self) -> tuple[int, bytes]:
        rng, kind = self._rng, self._rng.random()
        if kind < 0.4:
            text = rng.choice(TEXTS).encode() * rng.choice((1, 1, 20, 300))
            return TEXT, text + (rng.choice(BAD_UTF8) if rng.random() < 0.1 else b"")
        if kind < 0.6:  # repeat data that is or was in the window
            return BINARY, self._payload[:5000] + some_bytes(rng, rng.choice((0, 10, 600, 5000)))
        if kind < 0.9:
            return BINARY, some_bytes(rng, rng.choice((0, 1, 10, 125, 126, 1000, 1001)))
        return BINARY, bytes(rng.choice((1000, 65536, 70_000, 2**20, 2**20 + 1)))

    def _compressed(self, payload: bytes) -> bytes:
        """Return a compressed message, which is sometimes invalid."""
        rng = self._rng
        if self._resets and rng.random() < 0.95:
            self._renew()
        data, kind = b"", rng.random()
        if kind < 0.05:
            return some_bytes(rng, rng.choice((0, 1, 5, 100)))
        if kind < 0.3:
            first, payload = cuts(rng, payload, 1)
            mode = rng.choice((zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH))
            data = self._compressor.compress(first) + self._compressor.flush(mode)
            if mode == zlib.Z_FINISH:
                self._renew()
            data += rng.choice((b"", *_BLOCKS)) * rng.choice((1, 1, 200))
        data += self._compressor.compress(payload)
        if rng.random() < 0.1:
            data += self._compressor.flush(zlib.Z_FINISH)
            self._renew()
            return data + rng.choice((b"\x00", b"", _TAIL))
        data += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return data if rng.random() < 0.03 else data[:-4] or b"\x00"
