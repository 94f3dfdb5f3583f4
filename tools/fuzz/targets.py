"""The targets of fuzzing. Each makes its cases from a seed and a number, and runs them."""

from __future__ import annotations

import abc
import gc
from random import Random
from typing import Callable, Sequence

from . import codec, deflated, edge, grammar, on_client, on_server, proxies, redirects, sansio

# The number of cases in a batch. Batches that wait for real time-outs are larger.
_BATCH = {"memory": 50, "lockstep": 50, "socketpair": 50, "tcp": 200, "tls": 50}


class Target(abc.ABC):
    """A target, which is attacked case by case."""

    def __init__(self, name: str, batch: int) -> None:
        self.name = name
        #: The number of cases in a batch.
        self.batch = batch

    @abc.abstractmethod
    def run(self, seed: str, numbers: Sequence[int]) -> None:
        """Run the cases of a batch."""

    @abc.abstractmethod
    def show(self, seed: str, number: int) -> str:
        """Return the content of a case as text."""

    def _random(self, seed: str, case: object) -> Random:
        return Random(f"{self.name} {seed} {case}")


class SansIOTarget(Target):
    def __init__(
        self,
        name: str,
        make: Callable[[Random], bytes],
        check: Callable[[bytes, Random], None],
    ) -> None:
        super().__init__(name, batch=1)
        self.make = make
        self.check = check

    def run(self, seed: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            rng = self._random(seed, number)
            self.check(self.make(rng), rng)

    def show(self, seed: str, number: int) -> str:
        return repr(self.make(self._random(seed, number)))


class EdgeTarget(Target):
    def __init__(self, side: str, kind: str) -> None:
        super().__init__(f"{side}-{kind}", batch=_BATCH[kind])
        self.kind = kind
        is_server = side == "server"
        self.make = edge.attack_by_client if is_server else edge.attack_by_server
        self.scene = on_server.attack_server if is_server else on_client.attack_client

    def run(self, seed: str, numbers: Sequence[int]) -> None:
        attacks = [self.make(self._random(seed, number), self.kind) for number in numbers]
        edge.run(self.scene, self._setting(seed, numbers[0]), attacks)
        gc.collect()  # shows warnings about objects that were not closed or awaited

    def show(self, seed: str, number: int) -> str:
        attack = self.make(self._random(seed, number), self.kind)
        return f"{attack}\nin {self._setting(seed, number)}"

    def _setting(self, seed: str, number: int) -> edge.Setting:
        return edge.setting(self._random(seed, f"setting {number // self.batch}"), self.kind)


SANS_IO = (
    SansIOTarget("server-handshake", grammar.from_client, sansio.check_server_handshake),
    SansIOTarget("client-handshake", grammar.from_server, sansio.check_client_handshake),
    SansIOTarget("server-protocol", grammar.frames_from_client, sansio.check_server_protocol),
    SansIOTarget("client-protocol", grammar.frames_from_server, sansio.check_client_protocol),
    SansIOTarget("server-deflate", deflated.from_client, sansio.check_server_deflate),
    SansIOTarget("client-deflate", deflated.from_server, sansio.check_client_deflate),
    SansIOTarget("codec", codec.make_frames, codec.check_codec),
    SansIOTarget("location", redirects.make_location, redirects.check_location),
    SansIOTarget("tunnel", proxies.make_answer, proxies.check_answer),
    SansIOTarget("proxy-url", proxies.make_proxy_url, proxies.check_proxy_url),
)
EDGE = tuple(EdgeTarget(side, kind) for kind in edge.KINDS for side in ("server", "client"))
TARGETS = {target.name: target for target in (*SANS_IO, *EDGE)}
