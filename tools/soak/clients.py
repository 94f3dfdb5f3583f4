"""The clients of the soak that use the library."""

from __future__ import annotations

import contextlib
import random
import ssl
from pathlib import Path
from typing import Awaitable, Callable, Iterator, Sequence
from urllib.parse import urlencode

import trio

from support.peer import REQUEST, RawPeer, read_head
from support.streams import reset
from tools.soak.side import GRACE, HOST, Cancelled, Incoming, Outgoing, Side, Violation
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    open_websocket_url,
    wrap_client_stream,
)

Visit = Callable[["Clients", random.Random], Awaitable[None]]


class Clients(Side):
    """The clients of one process. They connect and leave until the end."""

    def __init__(
        self,
        seed: str,
        timeout: float,
        *,
        ports: Sequence[int],
        folder: Path,
        seconds: float,
        connections: int,
        tls: float,
    ) -> None:
        """
        :param seed: The seed for random choices.
        :param timeout: The server's time-outs in seconds.
        :param ports: The server's ports, without and with TLS.
        :param folder: The folder with the certificates.
        :param seconds: The duration of the run.
        :param connections: The number of connections in all processes.
        :param tls: The share of connections with TLS.
        """
        super().__init__(seed, timeout)
        self.ports = ports
        self.tls = tls
        self.context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        self.end = trio.current_time() + seconds
        # With more connections, each one is quieter, so that together they keep one CPU busy: about
        # 30 new connections and 200 messages or bursts a second.
        self.lifetime = min(connections / 12, seconds / 4)
        self._shortest_pause = connections / 100
        self._delay = 0.0  # the seconds that the server takes for an answer at present

    @property
    def pause(self) -> float:
        """The mean number of seconds between two messages, longer while the server is late."""
        return self._shortest_pause * (1 + self._delay)

    async def run(self, number: int, kinds: dict[Visit, float]) -> None:
        """Run this number of clients at a time."""
        with trio.move_on_after(self.end - trio.current_time() + GRACE * 2) as scope:
            async with trio.open_nursery() as watching:
                watching.start_soon(self.watch_lag)
                watching.start_soon(self.probe_server)
                async with trio.open_nursery() as nursery:
                    for _ in range(number):
                        rng = random.Random(self.rng.random())
                        nursery.start_soon(self.visit_again_and_again, rng, kinds)
                watching.cancel_scope.cancel()
        if scope.cancelled_caught:
            self.violate("clients", Violation("some did not come to their end"))

    async def probe_server(self) -> None:
        """Measure how long the server takes for its simplest answer, until cancelled.

        A server that gets too little CPU time is late with everything. Then all clients are
        quieter, or else ever more would wait.
        """
        while True:
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_delay, start)
                async with await self.connect() as stream:
                    start_line = b"GET /reject?status=404&body= "
                    await stream.send_all(REQUEST.replace(b"GET / ", start_line))
                    await read_head(stream)
                nursery.cancel_scope.cancel()
            await trio.sleep(1)

    async def _watch_delay(self, since: float) -> None:
        while True:
            self._delay = trio.current_time() - since
            self.lag = max(self.lag, self._delay)
            await trio.sleep(0.1)

    async def visit_again_and_again(self, rng: random.Random, kinds: dict[Visit, float]) -> None:
        await trio.sleep(rng.random() * self.lifetime)
        while trio.current_time() < self.end:
            await trio.sleep(min(2 * self._delay * rng.random(), self.time_left))
            visit = rng.choices(list(kinds), list(kinds.values()))[0]
            name = visit.__name__
            self.counts[f"client: {name.replace('_', ' ')}"] += 1
            try:
                await visit(self, rng)
            except Exception as exc:
                self.violate(name, exc)
                await trio.sleep(0.1)

    def time_to_stay(self, rng: random.Random, mean: float) -> float:
        return min(rng.expovariate(1 / mean), self.time_left)

    @property
    def time_left(self) -> float:
        return max(0.0, self.end - trio.current_time())

    def url(self, rng: random.Random, handler: str, **values: object) -> str:
        is_tls = rng.random() < self.tls
        scheme = "wss" if is_tls else "ws"
        return f"{scheme}://{HOST}:{self.ports[is_tls]}/{handler}?{urlencode(values)}"

    def open(
        self, rng: random.Random, handler: str, **values: object
    ) -> contextlib.AbstractAsyncContextManager[WebSocketConnection]:
        url = self.url(rng, handler, **values)
        self.counts["opened"] += 1
        return open_websocket_url(
            url,
            self.context if url.startswith("wss") else None,
            message_queue_size=rng.choice([1, 1, 1, 8]),
            disconnect_timeout=GRACE,
        )

    async def connect(self) -> trio.SocketStream:
        self.counts["opened"] += 1
        return await trio.open_tcp_stream(HOST, self.ports[0])

    async def open_raw(self, handler: str, **values: object) -> RawPeer:
        stream = await self.connect()
        try:
            start = trio.current_time()
            target = f"GET /{handler}?{urlencode(values)} ".encode()
            await stream.send_all(REQUEST.replace(b"GET / ", target))
            head, rest = await read_head(stream)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Violation(f"no 101: {head!r}")
            self.took("opening handshake", start, 0, self.timeout)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return RawPeer(stream, is_client=True, received=rest)


class Talk:
    """The messages of a client on a connection that echoes."""

    def __init__(
        self, clients: Clients, rng: random.Random, ws: WebSocketConnection, stream: int
    ) -> None:
        self.clients = clients
        self.rng = rng
        self.ws = ws
        self.outgoing = Outgoing(stream, rng)
        self.incoming = Incoming(stream)
        self.heard = trio.Event()
        self.may_end = False  # True if the connection may be lost

    async def go_on(self, seconds: float) -> None:
        """Talk for this number of seconds."""
        async with trio.open_nursery() as nursery:
            for _ in range(self.rng.choice([1, 1, 2])):
                nursery.start_soon(self.listen)
            if self.rng.random() < 0.3:
                nursery.start_soon(self.ping)
            with trio.move_on_after(seconds):
                await self.speak()
            nursery.cancel_scope.cancel()

    async def finish(self) -> None:
        """Send a last message, and wait until all promised messages have come back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen)
            with trio.fail_after(GRACE):
                await self.ws.send_message(self.outgoing.next())
                self.outgoing.promised += 1
                while self.incoming.last < self.outgoing.number:
                    self.heard = trio.Event()
                    await self.heard.wait()
            nursery.cancel_scope.cancel()

    async def speak(self) -> None:
        with self.expecting_end():
            while True:
                for _ in range(self.rng.choice([1, 1, 1, 2, 4, 20])):
                    message = self.outgoing.next()
                    with contextlib.suppress(Cancelled):
                        await self.clients.attempt("send", self.rng, self.ws.send_message, message)
                        self.outgoing.promised += 1
                await trio.sleep(self.rng.expovariate(1 / self.clients.pause))

    async def listen(self) -> None:
        with self.expecting_end():
            while True:
                try:
                    message = await self.clients.attempt("get", self.rng, self.ws.get_message)
                except Cancelled:
                    continue
                self.incoming.check(message)
                self.heard.set()
                if self.rng.random() < 0.02:
                    await trio.sleep(self.rng.random() * self.clients.timeout / 4)

    async def ping(self) -> None:
        with self.expecting_end():
            while True:
                with contextlib.suppress(Cancelled):
                    await self.clients.attempt("ping", self.rng, self.ws.ping)
                await trio.sleep(self.rng.expovariate(0.5))

    @contextlib.contextmanager
    def expecting_end(self) -> Iterator[None]:
        try:
            yield
        except ConnectionClosed:
            if not self.may_end:
                raise


def new_id(rng: random.Random) -> int:
    return rng.getrandbits(60)


async def stay_to_the_end(clients: Clients, rng: random.Random) -> None:
    """Talk, and check that all promises are kept, in whatever way the client leaves."""
    stream = new_id(rng)
    handler = rng.choice(["echo", "echo", "echo", "slow", "relay"])
    async with clients.open(rng, handler, id=stream) as ws:
        talk = Talk(clients, rng, ws, stream)
        await talk.go_on(clients.time_to_stay(rng, clients.lifetime))
        await talk.finish()
        if rng.random() < 0.5:
            await ws.aclose(rng.choice([1000, 3000, 4001]), "done")
    clients.counts["promised messages echoed to clients that stayed"] += talk.outgoing.promised


async def leave_cancelled(clients: Clients, rng: random.Random) -> None:
    stream = new_id(rng)
    seconds = clients.time_to_stay(rng, 3)
    with trio.move_on_after(seconds):
        async with clients.open(rng, "echo", id=stream) as ws:
            await Talk(clients, rng, ws, stream).go_on(1000)
    clients.counts["cancelled blocks"] += 1


async def cancel_opening(clients: Clients, rng: random.Random) -> None:
    with trio.move_on_after(rng.choice([0, 0.0001, 0.001, 0.003, 0.01])) as scope:
        async with clients.open(rng, "slow", id=new_id(rng)):
            pass
    clients.counts["cancelled openings"] += scope.cancelled_caught


async def reset_connection(clients: Clients, rng: random.Random) -> None:
    stream = new_id(rng)
    tcp = await clients.connect()
    async with trio.open_nursery() as nursery:
        ws = await wrap_client_stream(nursery, tcp, HOST, f"/echo?id={stream}")
        talk = Talk(clients, rng, ws, stream)
        talk.may_end = True
        with trio.move_on_after(clients.time_to_stay(rng, 3) + clients.timeout):
            async with trio.open_nursery() as talking:
                talking.start_soon(talk.go_on, 1000)
                await trio.sleep(clients.time_to_stay(rng, 3))
                reset(tcp)
                await trio.sleep(rng.choice([0, 0.01]))
                talking.cancel_scope.cancel()
        with trio.fail_after(clients.timeout + clients.slack):
            await ws.aclose()


async def read_what_is_pushed(clients: Clients, rng: random.Random) -> None:
    """Receive up to the server's close, with pauses."""
    stream = new_id(rng)
    number = rng.randrange(100)
    incoming = Incoming(stream)
    patience = clients.timeout / 2  # for the server: all pauses may come at the very end
    async with clients.open(rng, "push", id=stream, number=number) as ws:
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(Cancelled):
                    incoming.check(await clients.attempt("get", rng, ws.get_message))
                    if rng.random() < 0.02:
                        pause = rng.random() * patience
                        patience -= pause
                        await trio.sleep(pause)
    if ws.closed is None or ws.closed.code != 1000 or incoming.last != number + 1:
        raise Violation(f"{ws.closed} after message {incoming.last} of {number + 1}")


async def be_closed(clients: Clients, rng: random.Random) -> None:
    """Talk until the server closes, or its handler returns or raises."""
    stream, after = new_id(rng), rng.randrange(20)
    handler, code, values = rng.choice(
        [
            ("close", 4002, {"code": 4002, "reason": "enough"}),
            ("close", 1000, {}),
            ("fail", 1011, {}),
        ]
    )
    async with clients.open(rng, handler, id=stream, after=after, **values) as ws:
        talk = Talk(clients, rng, ws, stream)
        talk.may_end = True

        async def speak() -> None:
            with talk.expecting_end():
                for _ in range(after + rng.randrange(3)):
                    await ws.send_message(talk.outgoing.next())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak)
            with trio.fail_after(GRACE):
                await talk.listen()
        if ws.closed is None or ws.closed.code != code or talk.incoming.count != after:
            raise Violation(f"{ws.closed} after {talk.incoming.count} echoes, not {after}")


async def be_turned_away(clients: Clients, rng: random.Random) -> None:
    body = "no room " * rng.choice([0, 1, 1000])
    status = rng.choice([403, 404, 503])
    handler = rng.choice(["reject", "forget"])
    try:
        async with clients.open(rng, handler, status=status, body=body):
            raise Violation("accepted")
    except ConnectionRejected as exc:
        expected = (status, body.encode()) if handler == "reject" else (500, b"")
        if (exc.status_code, exc.body) != expected:
            raise Violation(f"{exc.status_code} {exc.body!r} instead of {expected}") from exc


async def stall(clients: Clients, rng: random.Random) -> None:
    """Open a connection, and neither read nor leave until the server has given up."""
    async with clients.open(rng, "push", id=new_id(rng), number=10_000, quick=1):
        await trio.sleep(min(6 * clients.timeout, clients.time_left))
