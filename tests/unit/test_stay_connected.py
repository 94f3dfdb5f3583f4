"""`stay_connected`, over streams in memory and on a clock that jumps."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import signal
import ssl
import sys
import weakref
from typing import Any, Awaitable, Callable, Iterator, NoReturn

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from support.attempts import REFUSED, Attempts, Script, accept, answer, until_closed
from support.connections import open_pair
from support.frames import CLOSE, TEXT
from support.peer import RawPeer, codes, read_head
from trio_websocket import (
    Backoff,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRejected,
    DisconnectionTimeout,
    Failure,
    HandshakeError,
    Reconnect,
    WebSocketConnection,
    stay_connected,
)
from trio_websocket._io.groups import flatten_group

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

URL = "ws://example.org:8000/chat"


class Client:
    """A call of `stay_connected`, and what it has met."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script, delay: float | None = 3) -> None:
        self.server = Attempts(nursery, *scripts)
        self.failures: list[Failure] = []
        self._delay = delay

    def retry(self, failure: Failure) -> float | None:
        self.failures.append(failure)
        return self._delay

    async def run(
        self, session: Callable[[WebSocketConnection], Awaitable[Any]], url: object = URL, **kw: Any
    ) -> Any:
        return await stay_connected(
            session, url, **{"stream": self.server.open, "retry": self.retry, **kw}
        )


class Server:
    """A raw server that accepts, and records the frames of each client."""

    def __init__(self, act: Callable[[RawPeer], Awaitable[object]] | None = None) -> None:
        self.frames: list[Any] = []
        self._act = act

    async def __call__(self, peer: RawPeer) -> None:
        if self._act is not None:
            await self._act(peer)
        while True:
            found = await peer.receive()
            if found is None:
                break
            self.frames.append(found)
            if found.opcode == CLOSE:
                await peer.send_frame(CLOSE, found.payload)
                break

    @property
    def codes(self) -> list[int]:
        return codes(self.frames)


async def close_with_1001(peer: RawPeer) -> None:
    await peer.send_close(1001)


async def die(peer: RawPeer) -> None:
    """End the stream in the middle of a frame."""
    await peer.send(peer.frame(TEXT, b"hello")[:3])
    await peer.stream.aclose()


async def ignore(peer: RawPeer) -> None:
    await trio.sleep_forever()


async def stay_silent(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


CLOSES = accept(Server(close_with_1001))
DIES = accept(die)
STAYS = accept(until_closed)


async def read(ws: WebSocketConnection) -> None:
    """Read until the connection ends. Return if it was closed normally."""
    async for _ in ws:
        pass


async def get(ws: WebSocketConnection) -> NoReturn:
    """Read until `ConnectionClosed`."""
    while True:
        await ws.get_message()


async def finish(ws: WebSocketConnection) -> str:
    return "done"


def first(
    session: Callable[[WebSocketConnection], Awaitable[Any]],
) -> Callable[[WebSocketConnection], Awaitable[Any]]:
    """Return a session that is done when it is called a second time."""
    calls = iter([session])

    async def run(ws: WebSocketConnection) -> Any:
        current = next(calls, None)
        return "done" if current is None else await current(ws)

    return run


# -- done


async def test_session_returns_value_done(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    server = Server()
    client = Client(nursery, accept(server))
    assert await client.run(finish) == "done"
    assert server.codes == [1000]
    assert client.failures == []


@pytest.mark.parametrize("value", [0, False, ""])
async def test_session_returns_value_after_end_done(
    nursery: trio.Nursery, autojump_clock: MockClock, value: object
) -> None:
    async def session(ws: WebSocketConnection) -> object:
        await read(ws)
        return value

    assert await Client(nursery, CLOSES).run(session) is value


async def test_session_returns_none_while_open_done(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        await ws.send_message("hello")

    server = Server()
    assert await Client(nursery, accept(server)).run(session) is None
    assert server.codes == [1000]


@pytest.mark.parametrize("script", [STAYS, CLOSES])
async def test_session_returns_none_after_aclose_done(
    nursery: trio.Nursery, autojump_clock: MockClock, script: Script
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        if script is CLOSES:
            await read(ws)
        await ws.aclose(4000)

    client = Client(nursery, script)
    assert await client.run(session) is None
    assert client.failures == []


# -- lost


@pytest.mark.parametrize(
    ("script", "session", "code"),
    [(CLOSES, read, 1001), (CLOSES, get, 1001), (DIES, get, 1006), (DIES, read, 1006)],
)
async def test_connection_ends_lost(
    nursery: trio.Nursery, autojump_clock: MockClock, script: Script, session: Any, code: int
) -> None:
    client = Client(nursery, script, STAYS)
    assert await client.run(first(session)) == "done"
    (failure,) = client.failures
    assert isinstance(failure.exception, ConnectionClosed)
    assert failure.exception.reason.code == code
    assert client.server.times == [0, 3]


@pytest.mark.parametrize(
    ("script", "error"),
    [(CLOSES, trio.EndOfChannel), (DIES, trio.BrokenResourceError)],
)
async def test_channel_error_lost(
    nursery: trio.Nursery, autojump_clock: MockClock, script: Script, error: type[Exception]
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        with pytest.raises(error) as caught:
            await ws.receive()
        raise caught.value

    client = Client(nursery, script, STAYS)
    assert await client.run(first(session)) == "done"
    assert isinstance(client.failures[0].exception, ConnectionClosed)


async def test_group_of_losses_lost(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def session(ws: WebSocketConnection) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as tasks:
            tasks.start_soon(get, ws)
            tasks.start_soon(ws.receive)
            outer.start_soon(get, ws)

    client = Client(nursery, CLOSES, STAYS)
    assert await client.run(first(session)) == "done"
    assert isinstance(client.failures[0].exception, ConnectionClosed)


async def raise_reconnect(ws: WebSocketConnection) -> NoReturn:
    raise Reconnect


async def raise_reconnect_in_task(ws: WebSocketConnection) -> None:
    async with trio.open_nursery() as tasks:
        tasks.start_soon(get, ws)
        tasks.start_soon(raise_reconnect, ws)


async def raise_reconnect_after_aclose(ws: WebSocketConnection) -> NoReturn:
    await ws.aclose()
    raise Reconnect


@pytest.mark.parametrize(
    "session", [raise_reconnect, raise_reconnect_in_task, raise_reconnect_after_aclose]
)
async def test_reconnect_closes_with_1000_and_is_lost(
    nursery: trio.Nursery, autojump_clock: MockClock, session: Any
) -> None:
    server = Server()
    client = Client(nursery, accept(server), STAYS)
    assert await client.run(first(session)) == "done"
    assert server.codes == [1000]
    assert [type(failure.exception) for failure in client.failures] == [Reconnect]


async def test_reconnect_beside_connection_closed_reports_the_latter(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        try:
            await get(ws)
        except ConnectionClosed as exc:
            raise ExceptionGroup("", [Reconnect(), ExceptionGroup("", [exc])]) from None

    client = Client(nursery, CLOSES, STAYS)
    assert await client.run(first(session)) == "done"
    assert isinstance(client.failures[0].exception, ConnectionClosed)


# -- failed


@pytest.mark.parametrize("error", [OSError, HandshakeError, ValueError])
async def test_session_raises_comes_out_and_closes_with_1011(
    nursery: trio.Nursery, autojump_clock: MockClock, error: type[Exception]
) -> None:
    raised = error("the session's own")

    async def session(ws: WebSocketConnection) -> NoReturn:
        raise raised

    server = Server()
    with pytest.raises(error) as caught:
        await Client(nursery, accept(server)).run(session)
    assert caught.value is raised
    assert server.codes == [1011]


async def test_group_of_losses_and_others_raises_the_others(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def fail() -> NoReturn:
        raise ValueError

    async def session(ws: WebSocketConnection) -> None:
        await ws.wait_closed()
        async with trio.open_nursery() as tasks:
            tasks.start_soon(get, ws)
            tasks.start_soon(fail)
            tasks.start_soon(raise_reconnect, ws)

    with pytest.raises(BaseException) as caught:  # noqa: PT011 # a group
        await Client(nursery, CLOSES).run(session)
    assert [type(leaf) for leaf in flatten_group(caught.value)] == [ValueError]
    assert caught.value.__suppress_context__


async def test_connection_closed_after_own_aclose_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        await ws.aclose()
        await get(ws)

    with pytest.raises(ConnectionClosed):
        await Client(nursery, STAYS).run(session)


async def test_closed_resource_error_after_own_aclose_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        await ws.aclose()
        await ws.receive()

    with pytest.raises(trio.ClosedResourceError):
        await Client(nursery, STAYS).run(session)


async def test_connection_closed_of_other_connection_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    other, _ = await open_pair(nursery)

    async def session(ws: WebSocketConnection) -> None:
        await ws.wait_closed()
        await other.aclose(1001)
        await get(other)

    with pytest.raises(ConnectionClosed) as caught:
        await Client(nursery, CLOSES).run(session)
    assert caught.value.reason is other.closed


async def test_channel_error_of_other_channel_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> None:
        await ws.wait_closed()
        sender, receiver = trio.open_memory_channel[None](0)
        sender.close()
        await receiver.receive()

    with pytest.raises(trio.EndOfChannel):
        await Client(nursery, CLOSES).run(session)


async def test_session_not_async_raises_type_error(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    session: Any = lambda ws: None  # noqa: E731 # what is tested
    with pytest.raises(TypeError, match="await"):
        await Client(nursery, STAYS).run(session)


# -- DisconnectionTimeout


async def test_disconnection_timeout_of_own_aclose_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> str:
        await ws.aclose()
        return "done"

    with pytest.raises(DisconnectionTimeout):
        await Client(nursery, accept(ignore)).run(session)


@pytest.mark.parametrize("is_done", [True, False])
async def test_disconnection_timeout_after_session_is_logged(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    is_done: bool,
) -> None:
    async def session(ws: WebSocketConnection) -> str:
        if not is_done:
            raise Reconnect
        return "done"

    caplog.set_level(logging.INFO, "trio-websocket")
    client = Client(nursery, accept(ignore), STAYS)
    assert await client.run(session if is_done else first(session)) == "done"
    text = "example.org:8000: the closing handshake took longer than 60 s"
    assert caplog.messages[0] == text
    assert client.server.times == ([0] if is_done else [0, 63])
    nursery.cancel_scope.cancel()


# -- failed attempts


async def test_attempt_fails_is_retried(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def reset(stream: trio.abc.Stream) -> None:
        await read_head(stream)

    busy = answer(b"503 Service Unavailable", b"Retry-After: 7")
    client = Client(nursery, REFUSED, reset, busy, stay_silent, STAYS)
    assert await client.run(finish, connect_timeout=10) == "done"
    assert [type(failure.exception).__name__ for failure in client.failures] == [
        "ConnectionFailed",
        "ConnectionFailed",
        "ConnectionRejected",
        "ConnectionTimeout",
    ]
    assert client.server.times == [0, 3, 6, 9, 22]
    assert [failure.attempt for failure in client.failures] == [1, 2, 3, 4]
    assert [failure.outage_seconds for failure in client.failures] == [0, 3, 6, 19]
    assert [failure.open_seconds for failure in client.failures] == [0, 0, 0, 0]
    assert client.failures[2].retry_after == 7
    nursery.cancel_scope.cancel()


async def test_retry_returns_none_raises_exception(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client(nursery, REFUSED, delay=None)
    with pytest.raises(ConnectionFailed) as caught:
        await client.run(finish)
    assert caught.value is client.failures[0].exception


async def test_default_retry_gives_up_on_permanent_failure(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client(nursery, answer(b"503 Busy"), answer(b"404 Not Found"))
    with pytest.raises(ConnectionRejected) as caught:
        await client.run(finish, retry=Backoff())
    assert caught.value.status_code == 404
    assert len(client.server.times) == 2


# -- the outage


async def test_failure_counts_start_anew_after_long_session(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    durations = iter([59, 60, 5])

    async def session(ws: WebSocketConnection) -> str | None:
        duration = next(durations, None)
        if duration is None:
            return "done"
        await trio.sleep(duration)
        raise Reconnect

    client = Client(nursery, REFUSED, STAYS, STAYS, REFUSED, STAYS, STAYS)
    assert await client.run(session) == "done"
    found = [
        (failure.open_seconds, failure.attempt, failure.outage_seconds)
        for failure in client.failures
    ]
    assert found == [(0, 1, 0), (59, 2, 62), (60, 1, 0), (0, 2, 3), (5, 3, 11)]


async def test_reset_after_zero_ignores_attempts_that_never_opened(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client(nursery, REFUSED, REFUSED, CLOSES, STAYS)
    assert await client.run(first(read), reset_after=0) == "done"
    assert [failure.attempt for failure in client.failures] == [1, 2, 1]


# -- functions for the URL and the headers


def as_async(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def run() -> Any:
        await trio.sleep(1)
        return function()

    return run


@pytest.mark.parametrize("is_async", [False, True])
async def test_url_and_headers_functions_are_called_for_each_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock, is_async: bool
) -> None:
    requests: list[bytes] = []

    async def record(stream: trio.abc.Stream) -> None:
        requests.append((await read_head(stream))[0])

    urls = iter(f"ws://example.org/{number}" for number in range(9))
    tokens = iter([[("Token", "a")], None, [("Token", "b")]])
    url: Any = functools.partial(next, urls)
    headers: Any = functools.partial(next, tokens)
    if is_async:
        url, headers = as_async(url), as_async(headers)
    subprotocols = iter(["chat"])
    client = Client(nursery, record, record, record, answer(b"404 Not Found"))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await client.run(
            finish,
            url,
            extra_headers=headers,
            subprotocols=subprotocols,
            retry=lambda failure: None if failure.is_permanent else 3,
        )
    assert [request.split()[1] for request in requests] == [b"/0", b"/1", b"/2"]
    assert [request.count(b"Token: ") for request in requests] == [1, 0, 1]
    assert all(b"Sec-WebSocket-Protocol: chat" in request for request in requests)
    assert client.server.times == ([2, 7, 12] if is_async else [0, 3, 6])


async def test_headers_from_iterator_are_sent_with_each_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    requests: list[bytes] = []

    async def record(stream: trio.abc.Stream) -> None:
        requests.append((await read_head(stream))[0])

    client = Client(nursery, record, record, STAYS)
    assert await client.run(finish, extra_headers=iter([("Token", "a")])) == "done"
    assert [request.count(b"Token: a") for request in requests] == [1, 1]


@pytest.mark.parametrize("name", ["url", "extra_headers"])
async def test_function_raises_is_failed_attempt(
    nursery: trio.Nursery, autojump_clock: MockClock, name: str
) -> None:
    results = iter([ConnectionResetError("no token"), DisconnectionTimeout("no token"), None])

    def function() -> Any:
        result = next(results)
        if result is not None:
            raise result
        return URL if name == "url" else [("Token", "a")]

    client = Client(nursery, STAYS)
    assert await client.run(finish, **{name: function}) == "done"
    assert [str(failure.exception) for failure in client.failures] == ["no token", "no token"]
    assert client.server.times == [6]


async def test_url_function_returns_wrong_url_is_permanent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client = Client(nursery, STAYS)
    with pytest.raises(ValueError, match="http"):
        await client.run(finish, lambda: "http://example.org/", retry=Backoff())
    assert client.server.times == []


# -- arguments


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"session": None}, "^session must be a function, not None"),
        ({"url": "http://example.org/"}, "http"),
        ({"ssl_context": 1}, "^ssl_context must be"),
        ({"subprotocols": "chat"}, "^subprotocols must be"),
        ({"extra_headers": {"a": "b"}}, "^extra_headers must be a list"),
        ({"extra_headers": [("a", "b\n")]}, "header"),
        ({"retry": 3}, "^retry must be a function, not 3"),
        ({"reset_after": "60"}, "^reset_after must be a number"),
        ({"reset_after": -1}, "^reset_after must be 0 or more"),
        ({"on_retry": 3}, "^on_retry must be a function, not 3"),
        ({"wake": trio.Event()}, "^wake must be a function, not <trio"),
        ({"ping_intervall": 3}, r"^stay_connected\(\) got an unexpected .*'ping_interval'\?$"),
        ({"ping_interval": 0}, "^ping_interval must be"),
        ({"stream": 3}, "^stream must be"),
    ],
)
async def test_wrong_argument_raises_at_call(keywords: dict[str, Any], text: str) -> None:
    def retry(failure: Failure) -> NoReturn:
        raise AssertionError(failure)

    arguments = {"session": finish, "url": URL, "retry": retry, **keywords}
    with pytest.raises((TypeError, ValueError), match=text):
        await stay_connected(arguments.pop("session"), arguments.pop("url"), **arguments)


async def test_wrong_argument_beside_url_function_raises_at_call() -> None:
    def url() -> NoReturn:
        raise AssertionError

    with pytest.raises(TypeError, match=r"^extra_headers must be a list"):
        await stay_connected(finish, url, extra_headers=3)  # type: ignore[arg-type] # is tested


async def test_session_that_was_called_raises_with_hint() -> None:
    session: Any = finish(None)  # type: ignore[arg-type] # what is tested
    try:
        with pytest.raises(TypeError, match=r"; pass finish itself, without calling it$"):
            await stay_connected(session, URL)
    finally:
        session.close()


async def test_ssl_context_with_ws_url_raises_without_password() -> None:
    with pytest.raises(ValueError, match=r"^an SSL context goes with wss:") as caught:
        await stay_connected(finish, "ws://user:secret@example.org/", ssl.create_default_context())
    assert "secret" not in str(caught.value)


async def test_open_stream_raises_type_error() -> None:
    stream, _ = trio.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=r"^stream must be an async function .* new stream, not "):
        await stay_connected(finish, URL, stream=stream)


# -- retry, on_retry, wake


async def test_retry_async_is_awaited(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def retry(failure: Failure) -> float:
        await trio.sleep(2)
        return 5

    client = Client(nursery, REFUSED, STAYS)
    assert await client.run(finish, retry=retry) == "done"
    assert client.server.times == [0, 7]


@pytest.mark.parametrize(
    ("delay", "error", "text"),
    [
        (True, TypeError, r"^retry\(\) must return a number of seconds or None, not True"),
        ("3", TypeError, r"^retry\(\) must return a number of seconds or None, not '3'"),
        (-1, ValueError, r"^the delay that retry\(\) returned must be 0 or more"),
        (math.nan, ValueError, r"^the delay that retry\(\) returned must be 0 or more"),
    ],
)
async def test_retry_returns_no_delay_raises(
    nursery: trio.Nursery, autojump_clock: MockClock, delay: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await Client(nursery, REFUSED, delay=delay).run(finish)


async def fail_async(*args: object) -> NoReturn:
    raise LookupError


def fail(*args: object) -> NoReturn:
    raise LookupError


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("retry", fail),
        ("retry", fail_async),
        ("on_retry", fail),
        ("on_retry", fail_async),
        ("wake", fail_async),
    ],
)
async def test_function_raises_comes_out(
    nursery: trio.Nursery, autojump_clock: MockClock, name: str, function: Any
) -> None:
    with pytest.raises(LookupError):
        await Client(nursery, REFUSED).run(finish, **{name: function})


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_retry_comes_after_log_record_and_before_wait(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    is_async: bool,
) -> None:
    calls: list[tuple[Failure, float, int, float]] = []

    def on_retry(failure: Failure, delay: float) -> None:
        calls.append((failure, delay, len(caplog.messages), trio.current_time()))

    async def on_retry_async(failure: Failure, delay: float) -> None:
        on_retry(failure, delay)
        await trio.sleep(1)

    caplog.set_level(logging.INFO, "trio-websocket")
    client = Client(nursery, REFUSED, STAYS)
    await client.run(finish, on_retry=on_retry_async if is_async else on_retry)
    assert calls == [(client.failures[0], 3, 1, 0)]
    assert client.server.times == [0, 4 if is_async else 3]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "example.org:8000: failure 1: can't connect to example.org, port 8000: "
        "Connection refused; next attempt in 3.0 s"
    )


async def test_log_record_escapes_and_has_no_credentials(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def headers() -> None:
        if not caplog.messages:
            raise OSError("line\nbreak" + "x" * 1000)

    caplog.set_level(logging.INFO, "trio-websocket")
    client = Client(nursery, REFUSED, STAYS)
    await client.run(finish, "ws://user:secret@example.org/", extra_headers=headers)
    first_message, second = caplog.messages
    assert first_message.startswith(r"the server: failure 1: line\nbreakxxx")
    assert first_message.endswith("xxx...; next attempt in 3.0 s")
    assert second.startswith("example.org: failure 2: ")
    assert "secret" not in caplog.text


async def wake_after(seconds: float) -> None:
    await trio.sleep(seconds)


@pytest.mark.parametrize(
    ("delay", "woken", "waited"),
    [(10, 4, 4), (10, 0, 1), (10, 20, 10), (0.5, 0, 0.5), (0, 4, 0), (math.inf, 100, 100)],
)
async def test_wake_ends_wait(
    nursery: trio.Nursery, autojump_clock: MockClock, delay: float, woken: float, waited: float
) -> None:
    ended: list[float] = []

    async def wake() -> None:
        try:
            await trio.sleep(woken)
        finally:
            ended.append(trio.current_time())

    client = Client(nursery, REFUSED, REFUSED, STAYS, delay=delay)
    assert await client.run(finish, wake=wake) == "done"
    assert client.server.times == [0, waited, 2 * waited]
    until = min(delay, woken)
    assert ended == [until, waited + until]


# -- cancellation


async def test_session_cancelled_closes_with_1001_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    server = Server()
    with trio.move_on_after(5) as scope:
        await Client(nursery, accept(server)).run(get)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    await trio.testing.wait_all_tasks_blocked()
    assert server.codes == [1001]


@pytest.mark.parametrize("wake", [None, trio.sleep_forever])
async def test_wait_cancelled_ends_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, wake: Any
) -> None:
    with trio.move_on_after(5) as scope:
        await Client(nursery, REFUSED, delay=100).run(finish, wake=wake)
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_no_delay_is_cancelled(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    calls = 0

    def url() -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            scope.cancel()
        raise OSError

    with trio.CancelScope() as scope:
        await Client(nursery, STAYS, delay=0).run(finish, url)
    assert scope.cancelled_caught
    assert calls == 3


async def test_session_interrupted_closes_with_1001(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def session(ws: WebSocketConnection) -> NoReturn:
        raise KeyboardInterrupt

    server = Server()
    with pytest.raises(KeyboardInterrupt):
        await Client(nursery, accept(server)).run(session)
    assert server.codes == [1001]


@pytest.mark.parametrize("name", ["session", "url", "retry", "on_retry", "wake"])
def test_functions_are_not_protected_from_keyboard_interrupt(name: str) -> None:
    def interrupt(*args: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append(name)

    async def interrupt_async(*args: Any) -> None:
        interrupt()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            is_async = name in {"session", "wake"}
            script = STAYS if name == "session" else REFUSED
            arguments: dict[str, Any] = {"session": finish}
            arguments[name] = interrupt_async if is_async else interrupt
            await Client(nursery, script).run(**arguments)

    reached: list[str] = []
    with pytest.raises(BaseException) as caught:  # noqa: PT011 # may be in the nursery's group
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [type(leaf) for leaf in flatten_group(caught.value)] == [KeyboardInterrupt]
    assert not reached


# -- memory


class Marker:
    """A variable of a session."""


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_wait_keeps_no_variables_of_session(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    markers: list[weakref.ref[Marker]] = []

    async def session(ws: WebSocketConnection) -> str | None:
        if len(markers) == 2:
            return "done"
        marker = Marker()
        markers.append(weakref.ref(marker))
        if len(markers) == 1:
            await get(ws)
        await read(ws)
        return None

    async def wake() -> None:
        assert [marker() for marker in markers] == [None] * len(markers)
        await trio.sleep_forever()

    with without_collector():
        server = Attempts(nursery, DIES, CLOSES, STAYS)
        retry: Callable[[Failure], float] = lambda failure: 3  # noqa: E731 # keeps no failure
        done = await stay_connected(session, URL, stream=server.open, retry=retry, wake=wake)
    assert done == "done"


def give_up(failure: Failure) -> None:
    return None


async def test_giving_up_leaves_no_reference_cycle(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    markers: list[weakref.ref[Marker]] = []

    async def session(ws: WebSocketConnection) -> None:
        marker = Marker()
        markers.append(weakref.ref(marker))
        await get(ws)

    with without_collector():
        server = Attempts(nursery, DIES)
        with contextlib.suppress(ConnectionClosed):
            await stay_connected(session, URL, stream=server.open, retry=give_up)
        assert [marker() for marker in markers] == [None]
