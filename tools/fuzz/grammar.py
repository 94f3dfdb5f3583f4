"""Generate the bytes of a hostile peer, from valid handshakes to garbage.

One `random.Random` makes all choices, so its seed determines a case.
"""

from __future__ import annotations

from random import Random

from .frames import frames
from .handshakes import PREFACES, rejection, request, response
from .mutation import maybe_mutated, some_bytes


def from_client(rng: Random) -> bytes:
    """Return the first bytes of a client: a request and the data after it, or something else."""
    return maybe_mutated(rng, lambda: _from_client(rng))


def _from_client(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(PREFACES)
    data = request(rng)
    if kind < 0.25:
        data += frames(rng, masked=True)
    elif kind < 0.3:
        data += request(rng)
    elif kind < 0.35:
        data += some_bytes(rng, 40)
    return data


def from_server(rng: Random) -> bytes:
    """Return the first bytes of a server."""
    return maybe_mutated(rng, lambda: _from_server(rng))


def _from_server(rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(PREFACES)
    data = rejection(rng) if kind < 0.35 else response(rng)
    if rng.random() < 0.2:
        data += frames(rng, masked=False)
    elif rng.random() < 0.05:
        data = response(rng) + data
    return data


def frames_from_client(rng: Random) -> bytes:
    return maybe_mutated(rng, lambda: frames(rng, masked=True))


def frames_from_server(rng: Random) -> bytes:
    return maybe_mutated(rng, lambda: frames(rng, masked=False))


def opened_by_client(rng: Random) -> bytes:
    """Return a valid request, and frames."""
    return request(rng, faults=0) + frames_from_client(rng)


def opened_by_server(rng: Random) -> bytes:
    """Return a valid response, and frames."""
    return response(rng, faults=0) + frames_from_server(rng)
