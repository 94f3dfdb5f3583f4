"""Cancel operations at random: `make soak SECONDS=60 SEED=1`.

Each round is a scenario of the test suite that is interrupted at a random step, or a crowd: tasks
that send, receive and ping on one connection. Most of a crowd's calls are cancelled, and then the
connection ends in some way. After each round, the promises of `support.harness` must hold. Every
promised message must have arrived once, whole and in order.

The exit status is 1 if a promise was broken. The seed and the number of a round determine its
actions. Over sockets, the system also influences their order.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import math
import random
import sys
import time
from typing import Any, Awaitable, Callable

import trio

from support.frames import PING, PONG, close_payload
from support.harness import JUMP, TRANSPORTS, Scenario, Stage, perform
from support.interruptions import CANCELLATIONS, FAULTS, Interruption, Trigger
from support.scenarios import SCENARIOS
from support.strict_peer import Message, Violation
from trio_websocket import ConnectionClosed, DisconnectionTimeout, WebSocketConnection

CROWDS = 0.8  # the share of the rounds that are crowds

# How a crowd ends: by itself, by one of the calls below, or by a fault.
ENDS = ("by itself",) * 5 + ("close", "close at once", "be closed", "cancel", *FAULTS)

# The maximum size of a message's payload in bytes, and its weight.
SIZES = {5: 60, 130: 20, 5000: 14, 70_000: 5, 300_000: 1}

# Seconds on the jumping clock until a call is cancelled. Some are slightly before or after the time
# when the connection begins to read in the background.
DELAYS = (0, 0.0001, 0.001, 0.019, 0.021, 0.041, 0.1)

STUCK = 120  # the limit for a round, in real seconds
# The jumping clock jumps after this many real seconds without an event, when a round is repeated
# because a closing handshake timed out. The kernel's timers run in real time: TCP may need seconds
# to continue after its window was full.
PATIENCE = 5


class Tally:
    """The numbers of rounds and operations so far."""

    rounds = 0
    operations = 0
    cancelled = 0
    struck = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds:,} rounds, {self.operations:,} operations, "
            f"{self.cancelled:,} cancelled, {self.struck:,} struck by a fault"
        )


class Crowd:
    """Tasks on one connection."""

    def __init__(
        self, chance: random.Random, tally: Tally, end: str, *, is_patient: bool = False
    ) -> None:
        self._chance = chance
        self._tally = tally
        self._end = end
        self._is_patient = is_patient
        #: True if the closing handshake timed out, perhaps because of the kernel.
        self.is_late = False
        # For each sender: True for a message that was sent, False for one that was cancelled.
        self._sent: dict[int, list[bool]] = {}
        self._promised: list[Message] = []  # the messages of the peer
        self._received: list[Message] = []

    async def play(self, stage: Stage) -> None:
        chance = self._chance
        self._stage = stage
        stage.ends_abruptly = self._end in ("close at once", "cancel")
        queue_size = chance.choice((0, 1, 5, math.inf))
        self._connection, self._peer = await stage.open(
            lockstep=chance.random() < 0.3, message_queue_size=queue_size
        )
        try:
            with stage.hurrying():
                await self._work()
            if self._end == "by itself":
                self._received += await stage.converse(self._connection, self._peer)
                await stage.close(self._connection, self._peer)
            elif not stage.is_struck:
                await stage.bury()
                await self._peer.wait_over()
        finally:  # the promises also hold for a connection that was cancelled
            self._peer.change(reads=True)
            self._check()

    async def _work(self) -> None:
        chance = self._chance
        self._promised = [self._message(0, number) for number in range(chance.randrange(60))]
        async with trio.open_nursery() as nursery:
            if self._end != "by itself":
                nursery.start_soon(self._end_it)
            nursery.start_soon(self._receive_all, chance.randint(1, 3))
            nursery.start_soon(self._let_peer_talk)
            for sender in range(1, 1 + chance.randint(1, 3)):
                nursery.start_soon(self._send, sender, chance.randrange(60))
            for pinger in range(chance.randrange(3)):
                nursery.start_soon(self._ping, pinger, chance.randrange(60))

    # -- the tasks

    async def _send(self, sender: int, count: int) -> None:
        self._sent[sender] = []
        with contextlib.suppress(ConnectionClosed):
            for number in range(count):
                message = self._message(sender, number)
                is_sent = await self._attempt(self._connection.send_message, message)
                self._sent[sender].append(is_sent)
                await self._idle()

    async def _receive_all(self, count: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(self._receive, nursery.cancel_scope)

    async def _receive(self, all_are_received: trio.CancelScope) -> None:
        async def receive() -> None:
            self._received.append(await self._connection.get_message())

        with contextlib.suppress(ConnectionClosed):
            while len(self._received) < len(self._promised):
                await self._attempt(receive)
                await self._idle()
        all_are_received.cancel()

    async def _ping(self, pinger: int, count: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(count):
                payload = self._chance.choice((None, b"%d" % pinger))
                await self._attempt(self._connection.ping, payload)
                if self._chance.random() < 0.2:
                    await self._attempt(self._connection.pong, payload)
                await self._idle()

    async def _let_peer_talk(self) -> None:
        chance, peer = self._chance, self._peer
        for message in self._promised:
            peer.queue_message(message, pieces=chance.choice((1, 1, 1, 2, 5)))
            if chance.random() < 0.2:
                peer.queue(peer.frame(PING, b"peer"))
            if chance.random() < 0.1:
                peer.change(answers_pings=False)
            if chance.random() < 0.2:
                peer.change(reads=not peer.reads)
            await self._idle()
            if chance.random() < 0.3:
                self._answer_pings()
        self._answer_pings()
        peer.change(reads=True)

    def _answer_pings(self) -> None:
        # A Pong for the latest Ping is enough (RFC 6455, 5.5.3).
        peer = self._peer
        pings = [found.payload for found in peer.frames if found.opcode == PING]
        if not peer.answers_pings and pings:
            peer.queue(peer.frame(PONG, pings[-1]))
        peer.change(answers_pings=True)

    async def _end_it(self) -> None:
        await trio.sleep(self._chance.choice(DELAYS))
        if self._end == "close":
            await self._close()
        elif self._end == "close at once":
            await trio.aclose_forcefully(self._connection)
        elif self._end == "be closed":
            self._peer.queue_close(close_payload(4000))
        elif self._end == "cancel":
            self._stage.nursery.cancel_scope.cancel()
        else:
            self._tally.struck += 1
            self._stage.strike()

    async def _close(self) -> None:
        is_judged = self._is_patient or self._stage.transport == "memory"
        jump = PATIENCE if self._is_patient else JUMP[self._stage.transport]
        self._stage.clock.autojump_threshold = jump
        try:
            await self._connection.aclose(4000)
        except DisconnectionTimeout:
            if is_judged:
                raise
            self.is_late = True

    async def _idle(self) -> None:
        what = self._chance.random()
        if what < 0.05:
            await trio.sleep(self._chance.choice(DELAYS))
        elif what < 0.4:
            await trio.lowlevel.checkpoint()

    async def _attempt(self, call: Callable[..., Awaitable[object]], *args: Any) -> bool:
        """Call a function, and perhaps cancel it. Return True if it was not cancelled."""
        self._tally.operations += 1
        triggers = self._stage.steps.triggers
        with trio.CancelScope() as scope:
            what = self._chance.random()
            at = self._chance.choice((0, 1, 1, 1, 1, 2, 2, 3, 5, 8, 13))
            trigger = None
            if what < 0.1:
                scope.deadline = trio.current_time() + self._chance.choice(DELAYS)
            elif what < 0.85:
                trigger = Trigger(at, scope.cancel, at_any_turn=what < 0.5)
                triggers.append(trigger)
            try:
                await call(*args)
            finally:
                if trigger is not None:
                    triggers.remove(trigger)
        if scope.cancelled_caught:
            self._tally.cancelled += 1
        return not scope.cancelled_caught

    # -- the promises

    def _message(self, sender: int, number: int) -> Message:
        chance = random.Random(f"{sender} {number}")
        (size,) = chance.choices(list(SIZES), list(SIZES.values()))
        text = f"{sender} {number} " + "\N{SNOWMAN}" * chance.randrange(1 + size // 3)
        return text if chance.random() < 0.5 else text.encode()

    def _check(self) -> None:
        is_whole = self._end == "by itself"
        self._stage.expect(self._promised, self._received, is_done=is_whole)
        arrived: dict[int, list[int]] = {sender: [] for sender in self._sent}
        for message in self._peer.messages:
            text = message if isinstance(message, str) else message.decode()
            sender, number = map(int, text.split()[:2])
            if message != self._message(sender, number):
                raise Violation(f"{message!r:.100} was never sent")
            arrived[sender].append(number)
        for sender, numbers in arrived.items():
            sent = self._sent[sender]
            if numbers != sorted(set(numbers)):
                raise Violation(f"of sender {sender} arrived {numbers}")
            end = len(sent) if is_whole else max(numbers, default=0)
            lost = [number for number in range(end) if sent[number] and number not in numbers]
            if lost:
                raise Violation(f"of sender {sender} got lost {lost}")


def play_round(seed: int, number: int, tally: Tally, *, is_patient: bool = False) -> None:
    """Play one round.

    :param is_patient: True if the jumping clock waits for the kernel's timers.
    :raises Violation: A promise was broken.
    """
    chance = random.Random(f"{seed} {number}")
    transport = chance.choice(TRANSPORTS)
    trickles = chance.random() < 0.1
    crowd: Crowd | None = None
    if chance.random() < CROWDS:
        end = chance.choice(ENDS)
        role = chance.choice(("client", "server"))
        crowd = Crowd(chance, tally, end, is_patient=is_patient)
        scenario = Scenario(f"crowd, end: {end}", role, crowd.play)
        interruption = Interruption(end if end in FAULTS else "none", 0, trickles)
    else:
        scenario = chance.choice(list(SCENARIOS.values()))
        kind = chance.choice(CANCELLATIONS * 3 + FAULTS)
        interruption = Interruption(kind, int(chance.expovariate(0.05)), trickles)
        tally.operations += 1
    is_interrupted = perform(scenario, transport, interruption, seed=chance.randrange(2**32))
    tally.rounds += 1
    if is_interrupted and interruption.is_cancellation:
        tally.cancelled += 1
    elif is_interrupted:
        tally.struck += 1
    if crowd is not None and crowd.is_late:
        play_round(seed, number, tally, is_patient=True)


def check_nothing_kept() -> None:
    gc.collect()
    kept = sum(isinstance(item, WebSocketConnection) for item in gc.get_objects())
    if kept:
        raise Violation(f"{kept} connections are kept")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--round", type=int, help="play only this round")
    options = parser.parse_args(arguments)
    logging.getLogger("trio-websocket").addHandler(logging.NullHandler())  # failures are expected
    print(f"seed {options.seed}", flush=True)
    tally = Tally()
    end = time.monotonic() + options.seconds
    reported = time.monotonic()
    number = options.round or 0
    while True:
        faulthandler.dump_traceback_later(STUCK, exit=True, file=2)
        try:
            play_round(options.seed, number, tally)
            if not number % 100:
                check_nothing_kept()
        except Violation as exc:
            print(f"{tally}, 1 violation")
            print(f"To replay it: --seed {options.seed} --round {number}")
            print(exc)
            return 1
        finally:
            faulthandler.cancel_dump_traceback_later()
        number += 1
        if options.round is not None or time.monotonic() > end:
            break
        if time.monotonic() > reported + 60:
            reported = time.monotonic()
            print(tally, flush=True)
    print(f"{tally}, 0 violations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
