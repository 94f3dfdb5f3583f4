"""A client that stays connected to a server process that is killed again and again.

    make soak-kills KILLS=100

The server is a process of its own on loopback. While client and server exchange messages, the
process gets SIGKILL, and a new one starts after a random pause. Each attempt must begin when the
delay of the policy has passed, and the client must be connected again with the first attempt after
the server listens. The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import trio

from trio_websocket import (
    Backoff,
    ConnectionClosed,
    Failure,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
    stay_connected,
)

ROOT = Path(__file__).resolve().parents[1]
READY = b"ready\n"
# Seconds that a busy machine may add to a delay.
SLACK = 0.5
MAX_PAUSE = 1  # seconds between two servers
MAX_BYTES = 100_000


# -- the server


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    while True:
        await ws.send_message(await ws.get_message())


async def serve(port: int) -> NoReturn:
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve_websocket, echo, "127.0.0.1", port, None))
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
    raise AssertionError


async def start_server(port: int) -> trio.Process:
    """Start a server. Return when it listens."""
    command = [sys.executable, "-m", "tools.soak_kills", "--serve", str(port)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    received = await process.stdout.receive_some(len(READY))
    assert received == READY, "the server could not start"
    return process


async def kill(process: trio.Process) -> None:
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
    assert process.stdout is not None
    await process.stdout.aclose()


# -- the client


class Client:
    """A client, and the times of what happened."""

    def __init__(self, port: int, backoff: Backoff) -> None:
        self._port = port
        self._backoff = backoff
        self._earliest = -math.inf
        self.opened = trio.Event()
        self.opened_at = math.nan
        self.lost = trio.Event()
        self.lost_at = math.nan
        self.messages = 0
        self.attempts = 0
        #: Seconds by which attempts came later than their delay.
        self.late: list[float] = []

    async def run(self) -> None:
        # Each connection ends the outage, as one that lasts a minute does by default.
        await stay_connected(
            self._session, self._url, retry=self._retry, on_retry=self._on_retry, reset_after=0
        )

    def _url(self) -> str:
        self.attempts += 1
        late = trio.current_time() - self._earliest
        assert late >= 0, f"an attempt came {-late} s too early"
        assert late <= SLACK or late == math.inf, f"an attempt came {late} s too late"
        if late < math.inf:
            self.late.append(late)
        return f"ws://127.0.0.1:{self._port}/"

    async def _session(self, ws: WebSocketConnection) -> None:
        self.opened_at = trio.current_time()
        self.opened.set()
        while True:
            message = bytes(random.randrange(MAX_BYTES))
            await ws.send_message(message)
            assert await ws.get_message() == message
            self.messages += 1

    def _retry(self, failure: Failure) -> float | None:
        if isinstance(failure.exception, ConnectionClosed):
            self.lost_at = trio.current_time()
            self.lost.set()
        delay = self._backoff(failure)
        assert delay is not None, failure
        assert delay <= self._backoff.maximum
        return delay

    def _on_retry(self, _: Failure, delay: float) -> None:
        self._earliest = trio.current_time() + delay


async def kill_servers(kills: int, backoff: Backoff) -> None:
    (probe,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = probe.socket.getsockname()[1]
    await probe.aclose()
    client = Client(port, backoff)
    noticed, returned = [], []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        process = await start_server(port)
        try:
            for _ in range(kills):
                ready_at = trio.current_time()
                await client.opened.wait()
                returned.append(max(0, client.opened_at - ready_at))
                limit = backoff.maximum + SLACK
                assert returned[-1] <= limit, f"connected {returned[-1]} s after the server"
                await trio.sleep(random.uniform(0, 0.2))
                client.opened, client.lost = trio.Event(), trio.Event()
                killed_at = trio.current_time()
                await kill(process)
                with trio.fail_after(SLACK):
                    await client.lost.wait()
                await trio.sleep(random.uniform(0, MAX_PAUSE))
                noticed.append(client.lost_at - killed_at)
                process = await start_server(port)
            await client.opened.wait()
        finally:
            nursery.cancel_scope.cancel()
            await kill(process)
    print(f"{kills} kills, {client.attempts} attempts, {client.messages} messages; seconds:")
    for name, seconds in (
        ("from the kill to the loss", noticed),
        ("from a server that listens to the connection", returned),
        ("by which attempts were later than their delay", client.late),
    ):
        middle, most = statistics.median(seconds), max(seconds)
        print(f"{name}: median {middle:.4f}, at most {most:.4f}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--initial", type=float, default=1, help="of Backoff")
    parser.add_argument("--maximum", type=float, default=60, help="of Backoff")
    parser.add_argument("--serve", type=int, metavar="PORT", help="be the server")
    options = parser.parse_args(arguments)
    if options.serve is not None:
        trio.run(serve, options.serve)
    random.seed(options.seed)
    backoff = Backoff(initial=options.initial, maximum=options.maximum)
    trio.run(kill_servers, options.kills, backoff)
    return 0


if __name__ == "__main__":
    sys.exit(main())
