"""Cancelling with a reason, if Trio supports this."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_websocket
from support.connections import open_client
from trio_websocket import WebSocketRequest, open_websocket, serve_websocket
from trio_websocket._io import cancel as _cancel
from trio_websocket._io.cancel import cancel

has_reasons = pytest.mark.skipif(
    "reason" not in inspect.signature(trio.CancelScope.cancel).parameters,
    reason="needs Trio 0.31",
)


class Scope:
    """A scope that records how it is cancelled."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def cancel(self, **keywords: Any) -> None:
        self.calls.append(keywords)


@pytest.mark.parametrize(("takes_reason", "given"), [(True, {"reason": "why"}), (False, {})])
def test_cancel_gives_the_reason_where_trio_takes_one(
    monkeypatch: pytest.MonkeyPatch, takes_reason: bool, given: dict[str, str]
) -> None:
    monkeypatch.setattr(_cancel, "_TAKES_REASON", takes_reason)
    scope = Scope()
    cancel(scope, "why")  # type: ignore[arg-type] # it has the method
    assert scope.calls == [given]


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the reasons of all cancellations."""
    given: list[str] = []
    real = trio.CancelScope.cancel

    def note(self: trio.CancelScope, reason: str | None = None) -> None:
        if reason is not None:
            given.append(reason)
        real(self, reason=reason)

    monkeypatch.setattr(trio.CancelScope, "cancel", note)
    return given


@has_reasons
@pytest.mark.parametrize(
    ("shutdown_timeout", "why"),
    [
        (0, "the handler took longer than shutdown_timeout=0 s"),
        (60, "aclose() was cancelled"),
    ],
)
async def test_cancel_of_a_handler_by_aclose_of_the_server_says_why(
    shutdown_timeout: float, why: str
) -> None:
    reasons: list[str | None] = []
    is_accepted = trio.Event()

    async def handler(request: WebSocketRequest) -> None:
        await request.accept()
        is_accepted.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            reasons.append(exc.reason)
            raise

    async with trio.open_nursery() as serving:
        serve = functools.partial(
            serve_websocket, handler, "127.0.0.1", 0, None, shutdown_timeout=shutdown_timeout
        )
        server = await serving.start(serve)
        async with open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
            await is_accepted.wait()
            with trio.CancelScope() as scope:
                if shutdown_timeout:
                    scope.cancel()
                await server.aclose()
    assert reasons == [f"the server is closed: {why}"]


@has_reasons
async def test_cancel_by_keep_alive_says_that_no_pong_came(
    nursery: trio.Nursery, autojump_clock: MockClock, reasons: list[str]
) -> None:
    client, _ = await open_client(nursery, ping_interval=10)
    await client.wait_closed()
    assert "keep-alive: no Pong within 20 s" in reasons


@has_reasons
async def test_cancel_by_an_aclose_that_is_cancelled_says_so(
    nursery: trio.Nursery, reasons: list[str]
) -> None:
    client, _ = await open_client(nursery)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    assert "aclose() was cancelled, or disconnect_timeout has passed" in reasons


def test_cancel_of_every_scope_in_the_library_gives_a_reason() -> None:
    package = Path(trio_websocket.__file__).parent
    bare = [
        path.name
        for path in package.rglob("*.py")
        if path.name != "cancel.py" and ".cancel()" in path.read_text("utf-8")
    ]
    assert not bare
