"""Many clients of one server that restarts, with the default policy."""

from __future__ import annotations

import collections

import pytest
import trio
import trio.testing

from docs import arrivals
from support.attempts import REFUSED, Attempts, accept
from support.peer import RawPeer
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, stay_connected

CLIENTS, DOWN = 200, 10

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("code", [None, 1012])
async def test_clients_of_restarted_server_arrive_spread(
    autojump_clock: trio.testing.MockClock, code: int | None
) -> None:
    restart = trio.Event()
    returned: list[float] = []

    async def until_restart(peer: RawPeer) -> None:
        await restart.wait()
        if code is not None:
            await peer.send_close(code)

    async def stay(peer: RawPeer) -> None:
        while await peer.receive() is not None:
            pass

    async def session(ws: WebSocketConnection) -> str | None:
        if restart.is_set():
            returned.append(trio.current_time() - restarted_at)
            return "done"
        async for _ in ws:
            pass
        return None

    async with trio.open_nursery() as servers:
        before = Attempts(servers, accept(until_restart))
        down = Attempts(servers, REFUSED)
        after = Attempts(servers, accept(stay))

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            if not restart.is_set():
                return await before.open(host, port)
            is_down = trio.current_time() < restarted_at + DOWN
            return await (down if is_down else after).open(host, port)

        async def run() -> None:
            await stay_connected(session, "ws://example.org/", stream=open_stream)

        async with trio.open_nursery() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(run)
            await trio.sleep(100)
            restarted_at = trio.current_time()
            restart.set()
        servers.cancel_scope.cancel()
    assert len(returned) == CLIENTS
    in_a_second = collections.Counter(int(when) for when in returned)
    assert min(in_a_second) >= DOWN
    assert max(in_a_second.values()) < CLIENTS / 4
    assert len(in_a_second) >= 20


def test_arrivals_in_the_picture_are_spread_and_fit() -> None:
    reason = CloseReason(1012, None)
    for lost in (ConnectionClosed(None), ConnectionClosed(reason, rcvd=reason)):
        counts = arrivals.arrivals(lost)
        assert sum(counts) == arrivals.CLIENTS
        assert max(counts) <= arrivals.MOST
        assert sum(counts[: arrivals.DOWN]) == 0
