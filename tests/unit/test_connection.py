from __future__ import annotations

from typing import Any, Awaitable, Callable

import pytest
import trio
import wsproto
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.utilities import RemoteProtocolError

from support.connections import closed_error, open_client, open_pair, open_server
from support.faults import Fault, FaultyStream
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_payload
from support.peer import RawPeer
from support.streams import PAIRS, PROMPT, PUSHING_BACK, memory_pair
from support.tasks import Call
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    DisconnectionTimeout,
    WebSocketConnection,
    broadcast,
)
from trio_websocket._io.transport import LINGER
from trio_websocket._sansio.costs import WRITE_BATCH_BYTES

LARGE = bytes(range(256)) * 2**13  # 2 MiB, more than any socket takes
OUT_OF_ORDER = OSError("out of order")


async def open_faulty(
    nursery: trio.Nursery,
) -> tuple[WebSocketConnection, RawPeer, FaultyStream]:
    ours, theirs = await memory_pair()
    stream = FaultyStream(ours)
    client, peer = await open_client(nursery, streams=(stream, theirs))
    return client, peer, stream


async def open_broken(nursery: trio.Nursery) -> tuple[WebSocketConnection, RawPeer]:
    """Return a client whose write has failed, and its silent peer."""
    client, peer, stream = await open_faulty(nursery)
    stream.faults.append(Fault.fail(OUT_OF_ORDER, direction="send"))
    await client.send_message("lost")
    await wait_all_tasks_blocked()
    return client, peer


async def open_full(
    nursery: trio.Nursery, kind: str = "lockstep", **options: Any
) -> tuple[WebSocketConnection, RawPeer, Call[None]]:
    """Return a client whose first, large message waits for a peer that does not read."""
    client, peer = await open_client(nursery, kind, **options)
    sending = Call(nursery, client.send_message, LARGE)
    await wait_all_tasks_blocked()
    assert not sending.is_over
    return client, peer, sending


def facts(
    error: ConnectionClosed,
) -> tuple[CloseReason | None, CloseReason | None, CloseReason | None, type | None]:
    cause = None if error.__cause__ is None else type(error.__cause__)
    return error.reason, error.rcvd, error.sent, cause


# -- properties


async def test_is_client_and_is_server_show_side(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    assert (client.is_client, client.is_server) == (True, False)
    assert (server.is_client, server.is_server) == (False, True)


async def test_repr_shows_side_and_number(nursery: trio.Nursery) -> None:
    names = {str(end) for _ in range(2) for end in await open_pair(nursery)}
    assert len(names) == 4
    assert {name.partition("-")[0] for name in names} == {"client", "server"}


async def test_handshake_headers_path_and_subprotocol_are_kept(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    assert client.path == server.path == "/"
    assert client.subprotocol is None
    assert (b"host", b"example.org") in server.handshake_headers
    assert (b"upgrade", b"websocket") in client.handshake_headers


async def test_url_is_of_client_only(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    assert client.url == "ws://example.org/"
    assert server.url is None


async def test_url_of_application_replaces_ours(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    client.url = server.url = "mine"
    assert client.url == server.url == "mine"
    await client.aclose()
    await server.aclose()
    assert WebSocketConnection.url.__doc__


async def test_closed_before_close_is_none(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    assert client.closed is None
    await peer.send_close(4000, "bye")
    await closed_error(client.get_message())
    assert client.closed == CloseReason(4000, "bye")


async def test_aclose_only_constructed_closes_stream() -> None:
    ours, theirs = await memory_pair()
    connection = WebSocketConnection(
        ours, wsproto.WSConnection(wsproto.ConnectionType.CLIENT), host="example.org", path="/"
    )
    assert connection.path == "/"
    await connection.aclose()
    assert await theirs.receive_some() == b""
    await connection.wait_closed()


async def receive_stream(connection: WebSocketConnection) -> None:
    async with connection.receive_stream():
        pass


USES: dict[str, Callable[[WebSocketConnection], Awaitable[object]]] = {
    "send_message": lambda ws: ws.send_message("x"),
    "send_message, large": lambda ws: ws.send_message(LARGE),
    "send_message, in pieces": lambda ws: ws.send_message(["x"]),
    "get_message": lambda ws: ws.get_message(),
    "get_message, decoded": lambda ws: ws.get_message(decode=True),
    "receive_stream": receive_stream,
    "send": lambda ws: ws.send("x"),
    "receive": lambda ws: ws.receive(),
    "__anext__": lambda ws: ws.__anext__(),
    "ping": lambda ws: ws.ping(),
    "pong": lambda ws: ws.pong(),
    "wait_closed": lambda ws: ws.wait_closed(),
}


@pytest.mark.parametrize("name", USES)
async def test_any_method_only_constructed_raises_runtime_error(name: str) -> None:
    stream, _ = await memory_pair()
    connection = WebSocketConnection(stream, wsproto.WSConnection(wsproto.ConnectionType.SERVER))
    with pytest.raises(RuntimeError, match="was only constructed, so it is not open: get"):
        await USES[name](connection)


async def test_properties_only_constructed_give_values() -> None:
    stream, _ = await memory_pair()
    connection = WebSocketConnection(stream, wsproto.WSConnection(wsproto.ConnectionType.SERVER))
    assert connection.is_server
    assert connection.closed is None
    assert (connection.subprotocol, connection.compression, connection.latency) == (None,) * 3
    assert connection.handshake_headers == ()
    assert connection.local == connection.remote == repr(stream)
    assert connection.statistics().wire_bytes_sent == 0
    assert str(connection).startswith("server-")


async def test_broadcast_only_constructed_fails_for_that_connection() -> None:
    stream, _ = await memory_pair()
    connection = WebSocketConnection(stream, wsproto.WSConnection(wsproto.ConnectionType.SERVER))
    result = await broadcast([connection], "x")
    assert isinstance(result.failed[connection].__cause__, RuntimeError)


# -- sending


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("", Frame(TEXT)),
        ("h\u00e9llo", Frame(TEXT, "h\u00e9llo".encode())),
        (b"\xff", Frame(BINARY, b"\xff")),
        (bytearray(b"ab"), Frame(BINARY, b"ab")),
        (memoryview(b"abcd")[::2], Frame(BINARY, b"ac")),
    ],
)
async def test_send_message_str_is_text_and_bytes_is_binary(
    nursery: trio.Nursery, kind: str, message: str | bytes, frame: Frame
) -> None:
    client, peer = await open_client(nursery, kind)
    await client.send_message(message)
    assert await peer.receive() == frame


@pytest.mark.parametrize("message", [None, 1, {"text": 1}])
@pytest.mark.parametrize("error", [TypeError, ValueError])
async def test_send_message_other_type_raises(
    nursery: trio.Nursery, message: Any, error: type[Exception]
) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(error, match="str or bytes-like"):
        await client.send_message(message)


@pytest.mark.streams(PUSHING_BACK)
async def test_send_message_unread_waits(nursery: trio.Nursery, kind: str) -> None:
    _, peer, sending = await open_full(nursery, kind)
    assert await peer.receive() == Frame(BINARY, LARGE)
    await sending.result()


async def test_send_message_below_64_kib_does_not_wait(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, "lockstep")
    message = bytes(WRITE_BATCH_BYTES - 14)
    await client.send_message(message)
    sending = Call(nursery, client.send_message, b"over")
    await wait_all_tasks_blocked()
    assert not sending.is_over
    assert await peer.receive() == Frame(BINARY, message)
    await sending.result()


@pytest.mark.streams(PUSHING_BACK)
async def test_send_message_in_tasks_keeps_the_order(nursery: trio.Nursery, kind: str) -> None:
    client, peer, _ = await open_full(nursery, kind)
    for number in range(5):
        Call(nursery, client.send_message, str(number))
        await wait_all_tasks_blocked()
    assert await peer.receive() == Frame(BINARY, LARGE)
    for number in range(5):
        assert await peer.receive() == Frame(TEXT, str(number).encode())


async def test_send_message_does_not_overtake(nursery: trio.Nursery) -> None:
    client, peer, sending = await open_full(nursery)
    Call(nursery, client.send_message, "second")
    await wait_all_tasks_blocked()
    await peer.receive()  # now the queue has room
    await client.send_message("third")
    assert await peer.receive() == Frame(TEXT, b"second")
    assert await peer.receive() == Frame(TEXT, b"third")
    await sending.result()


# -- a cancelled send_message


@pytest.mark.streams(PAIRS)
async def test_send_message_cancelled_before_it_began_sends_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_message("withdrawn")
    assert scope.cancelled_caught
    await client.send_message("next")
    assert await peer.receive() == Frame(TEXT, b"next")


@pytest.mark.streams(PUSHING_BACK)
@pytest.mark.parametrize("cancelled", [0, 1])
async def test_send_message_cancelled_while_waiting_sends_nothing(
    nursery: trio.Nursery, kind: str, cancelled: int
) -> None:
    client, peer, _ = await open_full(nursery, kind)
    waiting = []
    for text in ("first", "second", "third"):
        waiting.append(Call(nursery, client.send_message, text))
        await wait_all_tasks_blocked()
    await waiting.pop(cancelled).cancel()
    assert await peer.receive() == Frame(BINARY, LARGE)
    left = [b"second" if cancelled == 0 else b"first", b"third"]
    for payload in left:
        assert await peer.receive() == Frame(TEXT, payload)
    for call in waiting:
        await call.result()


@pytest.mark.streams(PAIRS)
async def test_send_message_cancelled_after_queued_sends_whole(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    sending = Call(nursery, client.send_message, LARGE)
    await wait_all_tasks_blocked()
    sending.scope.cancel()
    await wait_all_tasks_blocked()
    assert sending.is_over
    assert await peer.receive() == Frame(BINARY, LARGE)
    await client.send_message("next")
    assert await peer.receive() == Frame(TEXT, b"next")
    await peer.send_frame(TEXT, b"answer")
    assert await client.get_message() == "answer"


@pytest.mark.streams(PAIRS)
async def test_send_message_cancelled_any_time_tears_no_frame(
    nursery: trio.Nursery, kind: str
) -> None:
    server, peer = await open_server(nursery, kind)
    messages = [bytes([number]) * 300_000 for number in range(12)]
    sending = [Call(nursery, server.send_message, message) for message in messages]
    received: list[bytes] = []
    for call in sending[::2]:
        received.append((await peer.receive_frame()).payload)
        call.scope.cancel()
    await wait_all_tasks_blocked()
    nursery.start_soon(server.send_message, b"last")
    while received[-1] != b"last":
        received.append((await peer.receive_frame()).payload)
    assert set(received[:-1]) <= set(messages)
    assert len(set(received)) == len(received)
    assert set(messages[1::2]) <= set(received)


# -- pings and pongs


@pytest.mark.streams(PROMPT)
async def test_ping_returns_the_round_trip_time(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    pinging = Call(nursery, client.ping, b"payload")
    assert await peer.receive() == Frame(PING, b"payload")
    await trio.sleep(1.5)
    await peer.send_frame(PONG, b"payload")
    assert await pinging.result() == pytest.approx(1.5)


@pytest.mark.streams(PAIRS)
async def test_ping_during_get_message_returns(nursery: trio.Nursery, kind: str) -> None:
    client, _ = await open_pair(nursery, kind)
    Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    assert await client.ping() >= 0


@pytest.mark.streams(PROMPT)
async def test_ping_without_reader_returns_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    pinging = Call(nursery, client.ping, b"1")
    await peer.receive()
    await getting.cancel()
    await peer.send_frame(PONG, b"1")
    assert await pinging.result() == 0


async def test_ping_pong_answers_earlier_pings(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    pinging = []
    for payload in (b"1", b"2", b"3"):
        pinging.append(Call(nursery, client.ping, payload))
        await wait_all_tasks_blocked()
    await peer.send_frame(PONG, b"2")
    await pinging[0].result()
    await pinging[1].result()
    await wait_all_tasks_blocked()
    assert not pinging[2].is_over
    await peer.send_frame(PONG, b"3")
    await pinging[2].result()


async def test_pong_unsolicited_is_ignored(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    pinging = Call(nursery, client.ping, b"1")
    await wait_all_tasks_blocked()
    await peer.send(peer.frame(PONG, b"0"), peer.frame(TEXT, b"message"))
    assert await client.get_message() == "message"
    assert not pinging.is_over


async def test_ping_default_payloads_differ(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    for _ in range(2):
        Call(nursery, client.ping)
    assert await peer.receive() != await peer.receive()


async def test_ping_payload_in_use_raises(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    Call(nursery, client.ping, b"1")
    await wait_all_tasks_blocked()
    with pytest.raises(ValueError, match="already waiting for its Pong"):
        await client.ping(b"1")


async def test_ping_same_payload_twice_waiting_one_raises(
    nursery: trio.Nursery,
) -> None:
    client, peer, _ = await open_full(nursery)
    pinging = []
    for _ in range(2):
        pinging.append(Call(nursery, client.ping, b"1"))
        await wait_all_tasks_blocked()
    await peer.receive()
    assert await peer.receive() == Frame(PING, b"1")
    await wait_all_tasks_blocked()
    (refused,) = [call for call in pinging if call.is_over]
    with pytest.raises(ValueError, match="already waiting for its Pong"):
        await refused.result()


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_ping_or_pong_payload_over_125_bytes_raises(
    nursery: trio.Nursery, method: str
) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(ValueError, match="at most 125 bytes"):
        await getattr(client, method)(bytes(126))
    with pytest.raises(TypeError, match="must be bytes"):
        await getattr(client, method)("text")


async def test_ping_cancelled_forgets_payload(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    for _ in range(2):
        pinging = Call(nursery, client.ping, b"1")
        assert await peer.receive() == Frame(PING, b"1")
        await pinging.cancel()
    await peer.send(peer.frame(PONG, b"1"), peer.frame(TEXT, b"message"))
    assert await client.get_message() == "message"


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_ping_or_pong_cancelled_before_sends_nothing(
    nursery: trio.Nursery, method: str
) -> None:
    client, peer = await open_client(nursery)
    with trio.CancelScope() as scope:
        scope.cancel()
        await getattr(client, method)(b"1")
    assert scope.cancelled_caught
    await client.send_message("next")
    assert await peer.receive() == Frame(TEXT, b"next")


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_ping_or_pong_cancelled_waiting_sends_nothing(
    nursery: trio.Nursery, method: str
) -> None:
    client, peer, _ = await open_full(nursery)
    waiting = Call(nursery, getattr(client, method), b"1")
    await wait_all_tasks_blocked()
    await waiting.cancel()
    await peer.receive()
    await client.send_message("next")
    assert await peer.receive() == Frame(TEXT, b"next")


@pytest.mark.streams(PAIRS)
async def test_pong_sends_pong_frame(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    await client.pong()
    await client.pong(b"payload")
    assert await peer.receive() == Frame(PONG)
    assert await peer.receive() == Frame(PONG, b"payload")


@pytest.mark.streams(PUSHING_BACK)
async def test_pong_to_unread_peer_sends_few(nursery: trio.Nursery, kind: str) -> None:
    client, peer, _ = await open_full(nursery, kind)
    Call(nursery, client.get_message)
    for number in range(1000):
        await peer.send_frame(PING, b"%d" % number)
    await wait_all_tasks_blocked()
    assert await peer.receive() == Frame(BINARY, LARGE)
    nursery.start_soon(client.aclose)
    *pongs, last = [await peer.receive() for _ in range(3)][:-1]
    assert len(pongs) <= 1
    assert last == Frame(PONG, b"999")


@pytest.mark.streams(PAIRS)
async def test_ping_while_both_send_much_returns(nursery: trio.Nursery, kind: str) -> None:
    async def talk(connection: WebSocketConnection) -> None:
        async with trio.open_nursery() as talking:
            talking.start_soon(send, connection)
            for _ in range(5):
                talking.start_soon(connection.ping)
            for _ in range(5):
                assert len(await connection.get_message()) == 10**6

    async def send(connection: WebSocketConnection) -> None:
        for _ in range(5):
            await connection.send_message(bytes(10**6))
            await connection.ping()

    client, server = await open_pair(nursery, kind)
    async with trio.open_nursery() as talks:
        talks.start_soon(talk, client)
        talks.start_soon(talk, server)


# -- order


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize(
    ("last", "code"),
    [
        (Frame(CLOSE, close_payload(4000)), 4000),
        (Frame(CONTINUATION), 1002),
        (Frame(TEXT, b"\xff"), 1007),
        (Frame(BINARY, bytes(2**20 + 1)), 1009),
    ],
)
async def test_get_message_before_close_can_be_answered(
    nursery: trio.Nursery, kind: str, last: Frame, code: int
) -> None:
    server, peer = await open_server(nursery, kind)

    async def echo() -> None:
        while True:
            await server.send_message(await server.get_message())

    echoing = Call(nursery, echo)
    texts = [peer.frame(TEXT, text) for text in (b"1", b"2")]
    sending = Call(nursery, peer.send, *texts, peer.frame(last.opcode, last.payload))
    assert await peer.receive() == Frame(TEXT, b"1")
    assert await peer.receive() == Frame(TEXT, b"2")
    close = await peer.receive()
    assert close is not None
    assert (close.opcode, close.payload[:2]) == (CLOSE, close_payload(code))
    await closed_error(echoing.result())
    sending.scope.cancel()


@pytest.mark.streams(PAIRS)
async def test_get_message_after_aclose_raises(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=3)
    await peer.send(*[peer.frame(TEXT, b"message")] * 3)
    await client.get_message()
    closing = Call(nursery, client.aclose)
    assert await peer.receive() == Frame(CLOSE, close_payload(1000))
    await closed_error(client.get_message())
    await peer.send_frame(TEXT, b"too late")
    await wait_all_tasks_blocked()
    await closed_error(client.get_message())
    await peer.send_close(1000)
    nursery.start_soon(peer.aclose)
    await closing.result()
    await closed_error(client.get_message())


@pytest.mark.streams(PAIRS)
async def test_get_message_aclose_in_another_task_raises(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    getting = [Call(nursery, client.get_message) for _ in range(2)]
    await wait_all_tasks_blocked()
    nursery.start_soon(client.aclose, 4000)
    assert await peer.receive() == Frame(CLOSE, close_payload(4000))
    await peer.send_close(4000)
    for call in getting:
        assert (await closed_error(call.result())).reason == CloseReason(4000, None)


@pytest.mark.parametrize("method", ["send_message", "ping", "pong"])
async def test_send_message_after_aclose_raises(nursery: trio.Nursery, method: str) -> None:
    client, peer = await open_client(nursery)
    nursery.start_soon(client.aclose, 4000, "bye")
    await wait_all_tasks_blocked()
    error = await closed_error(getattr(client, method)(b"too late"))
    assert (error.reason, error.rcvd) == (CloseReason(4000, "bye"), None)
    await peer.send_close(4000)
    assert [frame.opcode for frame in await peer.receive_all()] == [CLOSE]


@pytest.mark.parametrize("method", ["send_message", "ping", "pong"])
async def test_send_message_waiting_at_aclose_sends_nothing(
    nursery: trio.Nursery, method: str
) -> None:
    client, peer, _ = await open_full(nursery)
    waiting = Call(nursery, getattr(client, method), b"too late")
    await wait_all_tasks_blocked()
    nursery.start_soon(client.aclose)
    await wait_all_tasks_blocked()
    assert await peer.receive() == Frame(BINARY, LARGE)
    assert await peer.receive() == Frame(CLOSE, close_payload(1000))
    await closed_error(waiting.result())


async def test_send_message_dropped_by_aclose_raises(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, _, sending = await open_full(nursery)
    with pytest.raises(DisconnectionTimeout):
        await client.aclose()
    await closed_error(sending.result())


@pytest.mark.parametrize("end", ["close", "lost", "aclose"])
async def test_ping_connection_ends_raises(nursery: trio.Nursery, end: str) -> None:
    client, peer = await open_client(nursery)
    pinging = Call(nursery, client.ping)
    await peer.receive()
    if end == "close":
        await peer.send_close(1000)
    elif end == "lost":
        await peer.aclose()
    else:
        nursery.start_soon(client.aclose)
        await peer.receive()
        await peer.send_close(1000)
    await closed_error(pinging.result())


async def test_ping_answered_after_aclose_returns(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    pinging = Call(nursery, client.ping, b"1")
    await peer.receive()
    nursery.start_soon(client.aclose)
    await peer.receive()
    await peer.send(peer.frame(PONG, b"1"))
    await pinging.result()


# -- aclose


@pytest.mark.streams(PAIRS)
async def test_aclose_waits_for_close_of_peer(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    closing = Call(nursery, client.aclose, 4000, "bye")
    assert await peer.receive() == Frame(CLOSE, close_payload(4000, "bye"))
    await wait_all_tasks_blocked()
    assert not closing.is_over
    await peer.send_close(4000, "bye")
    assert await peer.receive() is None
    await peer.aclose()
    await closing.result()


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize("unread", [0, 1, 5])
async def test_aclose_without_readers_returns(
    nursery: trio.Nursery, kind: str, unread: int
) -> None:
    client, server = await open_pair(nursery, kind, server={"message_queue_size": 10})
    for _ in range(unread):
        await server.send_message("message")
        await client.send_message("message")
    await client.aclose()
    await server.aclose()
    assert client.closed == server.closed == CloseReason(1000, None)


@pytest.mark.streams(PAIRS)
async def test_aclose_by_both_sides_returns(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 4000)
        closing.start_soon(server.aclose, 4001)


async def test_connection_block_ends_closes_with_1000(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    async with client:
        await client.send_message("message")
        await server.get_message()
    assert server.closed == CloseReason(1000, None)


@pytest.mark.parametrize("code", [0, 999, 1004, 2999, 5000])
async def test_aclose_wrong_code_raises(nursery: trio.Nursery, code: int) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(ValueError, match="must not be sent"):
        await client.aclose(code)
    assert client.closed is None


@pytest.mark.parametrize("code", [1005, 1006, 1015])
async def test_aclose_reserved_code_warns_and_sends_1000(nursery: trio.Nursery, code: int) -> None:
    client, server = await open_pair(nursery)
    text = rf"^aclose\({code}\) sends code 1000.*; use aclose\(1000\)$"
    with pytest.warns(DeprecationWarning, match=text) as caught:
        await client.aclose(code, "again")
    assert [warning.filename for warning in caught] == [__file__]
    assert client.closed == server.closed == CloseReason(1000, "again")


async def test_aclose_none_warns_and_sends_no_code(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    with pytest.warns(DeprecationWarning, match=r"^aclose\(None\).*; use aclose\(\)"):
        await client.aclose(None)
    assert client.closed == server.closed == CloseReason(1005, None)


async def test_aclose_none_with_a_reason_raises_type_error(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(TypeError, match="reason must be None without a code, not 'bye'"):
        await client.aclose(None, "bye")
    assert client.closed is None


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("", ""),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("x" + "\u00e9" * 62, "x" + "\u00e9" * 61),
        ("\u00e9" * 62, "\u00e9" * 61),
    ],
)
async def test_aclose_long_reason_is_cut_between_characters(
    nursery: trio.Nursery, reason: str, sent: str
) -> None:
    client, peer = await open_client(nursery)
    nursery.start_soon(client.aclose, 1000, reason)
    assert await peer.receive() == Frame(CLOSE, close_payload(1000, sent))


async def test_aclose_twice_waits_for_the_first(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    closing = [Call(nursery, client.aclose, code) for code in (4000, 4001)]
    await wait_all_tasks_blocked()
    assert not any(call.is_over for call in closing)
    await peer.send_close(4000)
    frames = await peer.receive_all()
    assert len(frames) == 1
    await peer.aclose()
    for call in closing:
        await call.result()


@pytest.mark.streams(PAIRS)
async def test_aclose_after_peer_close_waits_for_stream(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send_close(4000)
    await closed_error(client.get_message())
    closing = Call(nursery, client.aclose)
    assert await peer.receive_all() == [Frame(CLOSE, close_payload(4000))]
    await peer.aclose()
    await closing.result()
    assert client.closed == CloseReason(4000, None)


@pytest.mark.streams(PAIRS)
async def test_aclose_connection_lost_does_nothing(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.aclose()
    error = await closed_error(client.get_message())
    await client.aclose()
    assert client.closed == error.reason


@pytest.mark.parametrize("timeout", [0, 1])
async def test_aclose_closed_connection_does_not_time_out(
    nursery: trio.Nursery, autojump_clock: MockClock, timeout: float
) -> None:
    client, peer = await open_client(nursery, disconnect_timeout=timeout)
    await peer.aclose()
    await closed_error(client.get_message())
    await trio.sleep(1)
    await client.aclose()


# -- peers that don't cooperate


@pytest.mark.streams(PROMPT)
async def test_aclose_unanswered_times_out(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, disconnect_timeout=7)
    receiving = Call(nursery, peer.receive_all)
    with pytest.raises(DisconnectionTimeout, match="7 s"):
        await client.aclose()
    assert trio.current_time() == pytest.approx(7)
    assert await receiving.result() == [Frame(CLOSE, close_payload(1000))]


@pytest.mark.streams(["lockstep", "socketpair"])
async def test_aclose_unread_times_out(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, _, sending = await open_full(nursery, kind, disconnect_timeout=7)
    sending.scope.cancel()
    with pytest.raises(DisconnectionTimeout):
        await client.aclose()
    assert trio.current_time() == pytest.approx(7, abs=0.1)


async def test_aclose_peer_keeps_sending_times_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, "lockstep", disconnect_timeout=7)

    async def talk() -> None:
        while True:
            await peer.send(peer.frame(TEXT, b"message"), peer.frame(PING))
            await trio.sleep(0.5)

    talking = Call(nursery, talk)
    nursery.start_soon(peer.receive_all)
    with pytest.raises(DisconnectionTimeout):
        await client.aclose()
    assert trio.current_time() == pytest.approx(7)
    with pytest.raises(trio.BrokenResourceError):
        await talking.result()


@pytest.mark.streams(["memory", "lockstep", "socketpair"])
async def test_aclose_peer_does_not_half_close_waits_briefly(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send_close, 1000)
    nursery.start_soon(peer.receive_all)
    await client.aclose()
    assert trio.current_time() == pytest.approx(LINGER)


@pytest.mark.streams(["lockstep", "socketpair"])
async def test_aclose_after_unread_peer_close_times_out(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer, sending = await open_full(nursery, kind, disconnect_timeout=7)
    await peer.send_close(4000)
    await trio.sleep(7.5 + LINGER)
    assert sending.is_over
    await client.aclose()


# -- a cancelled aclose, a cancelled nursery


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("is_early", [True, False])
async def test_aclose_cancelled_sends_close_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, is_early: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    receiving = Call(nursery, peer.receive_all)
    with trio.CancelScope() as scope:
        if is_early:
            scope.cancel()
        nursery.start_soon(scope_cancel_when_blocked, scope)
        await client.aclose(4000)
    assert scope.cancelled_caught
    assert trio.current_time() == 0
    assert await receiving.result() == [Frame(CLOSE, close_payload(4000))]
    await closed_error(client.get_message())
    await client.aclose()


async def scope_cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.streams(["lockstep", "socketpair"])
async def test_aclose_cancelled_unread_waits_50_ms(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, _, _ = await open_full(nursery, kind)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    assert trio.current_time() == pytest.approx(0.05)


async def test_aclose_cancelled_ends_other_acloses(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    closing = [Call(nursery, client.aclose) for _ in range(2)]
    await wait_all_tasks_blocked()
    await closing[1].cancel()
    await closing[0].result()


@pytest.mark.streams(PROMPT)
async def test_nursery_cancelled_sends_close_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    async with trio.open_nursery() as its_nursery:
        client, peer = await open_client(its_nursery, kind)
        getting = Call(nursery, client.get_message)
        pinging = Call(nursery, client.ping, b"1")
        assert await peer.receive() == Frame(PING, b"1")
        receiving = Call(nursery, peer.receive_all)
        its_nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert await receiving.result() == [Frame(CLOSE, close_payload(1001))]
    await closed_error(getting.result())
    await closed_error(pinging.result())


@pytest.mark.streams(["lockstep", "socketpair"])
async def test_nursery_cancelled_unread_waits_50_ms(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    async with trio.open_nursery() as its_nursery:
        client, _ = await open_client(its_nursery, kind)
        sending = [Call(nursery, client.send_message, LARGE) for _ in range(2)]
        await wait_all_tasks_blocked()
        its_nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(0.05)
    for call in sending:
        await closed_error(call.result())


async def test_nursery_cancelled_during_close_returns(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as its_nursery:
        client, peer = await open_client(its_nursery)
        await peer.send_close(4000)
        error = await closed_error(client.get_message())
        its_nursery.cancel_scope.cancel()
    assert trio.current_time() == 0
    assert error.reason == client.closed == CloseReason(4000, None)


# -- the contents of ConnectionClosed


async def end_by_us(client: WebSocketConnection, peer: RawPeer) -> None:
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 1000, "bye")
        await peer.receive()
        await peer.send_close(1000, "bye")
        await peer.receive()
        await peer.aclose()


async def end_by_us_with_another_answer(client: WebSocketConnection, peer: RawPeer) -> None:
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 4000, "we")
        await peer.receive()
        await peer.send_close(4001, "they")
        await peer.receive()
        await peer.aclose()


async def end_by_peer(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send_close(4001, "why")


async def end_by_peer_without_code(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send_frame(CLOSE)


async def end_by_eof(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.aclose()


async def end_in_a_frame(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send(peer.frame(TEXT, b"message")[:-1])
    await peer.aclose()


async def end_by_eof_after_our_close(client: WebSocketConnection, peer: RawPeer) -> None:
    async with trio.open_nursery() as closing:
        closing.start_soon(client.aclose, 4000)
        await peer.receive()
        await peer.aclose()


async def end_by_protocol_error(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send_frame(0x3)


async def end_by_bad_text(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send_frame(TEXT, b"\xff")


async def end_by_size(client: WebSocketConnection, peer: RawPeer) -> None:
    await peer.send(peer.frame(TEXT, bytes(2**20 + 1))[:1000])


async def end_by_cancellation(client: WebSocketConnection, peer: RawPeer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose(1001)


async def end_by_timeout(client: WebSocketConnection, peer: RawPeer) -> None:
    with pytest.raises(DisconnectionTimeout):
        await client.aclose(1000)


def reason(code: int, text: str | None = None) -> CloseReason:
    return CloseReason(code, text)


NO_CLOSE = reason(1006, "the peer ended the connection without a Close frame")


@pytest.mark.streams(["memory", "socketpair", "tls-memory"])
@pytest.mark.parametrize(
    ("end", "expected", "rcvd", "sent", "cause"),
    [
        (end_by_us, reason(1000, "bye"), reason(1000, "bye"), reason(1000, "bye"), None),
        (
            end_by_us_with_another_answer,
            reason(4000, "we"),
            reason(4001, "they"),
            reason(4000, "we"),
            None,
        ),
        (end_by_peer, reason(4001, "why"), reason(4001, "why"), reason(4001, "why"), None),
        (end_by_peer_without_code, reason(1005), reason(1005), reason(1005), None),
        (end_by_eof, NO_CLOSE, None, None, EOFError),
        (end_in_a_frame, NO_CLOSE, None, None, EOFError),
        (end_by_eof_after_our_close, reason(4000), None, reason(4000), EOFError),
        (end_by_protocol_error, 1002, None, 1002, RemoteProtocolError),
        (end_by_bad_text, 1007, None, 1007, RemoteProtocolError),
        (end_by_size, 1009, None, 1009, RemoteProtocolError),
        (end_by_cancellation, reason(1001), None, reason(1001), ConnectionAbortedError),
        (end_by_timeout, reason(1000), None, reason(1000), ConnectionAbortedError),
    ],
)
async def test_connection_closed_says_how_it_ended(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    kind: str,
    end: Callable[[WebSocketConnection, RawPeer], Awaitable[None]],
    expected: CloseReason | int,
    rcvd: CloseReason | None,
    sent: CloseReason | int | None,
    cause: type[Exception] | None,
) -> None:
    client, peer = await open_client(nursery, kind)
    await end(client, peer)
    error = await closed_error(client.get_message())
    told = [error.reason, error.sent]
    for value, wanted in zip(told, [expected, sent]):
        assert wanted == (value.code if isinstance(wanted, int) and value else value)
    assert error.rcvd == rcvd
    assert (error.__cause__ and type(error.__cause__)) == cause
    assert client.closed == error.reason
    assert facts(await closed_error(client.send_message("too late"))) == facts(error)
    await client.aclose()
    assert facts(await closed_error(client.ping())) == facts(error)


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize(
    ("data", "code"),
    [(Frame(0x3), 1002), (Frame(TEXT, b"\xff"), 1007), (Frame(TEXT, bytes(101)), 1009)],
)
async def test_get_message_bad_frame_sends_close_and_closes(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, data: Frame, code: int
) -> None:
    server, peer = await open_server(nursery, kind, max_message_size=100)
    await peer.send_frame(data.opcode, data.payload)
    (close,) = await peer.receive_all()
    assert (close.opcode, close.payload[:2]) == (CLOSE, close_payload(code))
    await peer.aclose()
    await server.aclose()


# -- a write that fails


@pytest.mark.streams(["memory", "socketpair"])
@pytest.mark.parametrize("method", ["send_message", "ping"])
async def test_send_message_peer_left_shows_its_close(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, method: str
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send(peer.frame(PONG), peer.frame(CLOSE, close_payload(4001, "why")))
    await peer.aclose()
    if kind == "memory":  # here a task writes, and its error appears later
        await client.send_message("lost")
        await wait_all_tasks_blocked()
    error = await closed_error(getattr(client, method)(b"too late"))
    assert facts(error) == (reason(4001, "why"), reason(4001, "why"), reason(4001, "why"), None)


@pytest.mark.streams(["memory", "socketpair"])
async def test_get_message_after_failed_write_gives_messages(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send(*[peer.frame(TEXT, text) for text in (b"1", b"2", b"3")])
    await peer.aclose()
    Call(nursery, client.send_message, "lost")
    await wait_all_tasks_blocked()
    for text in ("1", "2", "3"):
        assert await client.get_message() == text
    assert (await closed_error(client.get_message())).rcvd is None


async def test_get_message_after_failed_write_raises_soon(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, _ = await open_broken(nursery)
    error = await closed_error(client.get_message())
    assert trio.current_time() == pytest.approx(LINGER)
    assert facts(error) == (reason(1006, "out of order"), None, None, OSError)


@pytest.mark.parametrize("method", ["send_message", "ping", "pong"])
async def test_call_after_failed_write_raises(
    nursery: trio.Nursery, autojump_clock: MockClock, method: str
) -> None:
    client, _ = await open_broken(nursery)
    error = await closed_error(getattr(client, method)(b"neither"))
    assert facts(error) == (reason(1006, "out of order"), None, None, OSError)


async def test_ping_write_fails_raises(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    client, _, stream = await open_faulty(nursery)
    stream.faults.append(Fault.fail(OUT_OF_ORDER, direction="send"))
    error = await closed_error(client.ping())
    assert error.__cause__ is OUT_OF_ORDER


async def test_aclose_after_failed_write_has_no_sent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, _ = await open_broken(nursery)
    await client.aclose()
    error = await closed_error(client.get_message())
    assert facts(error) == (reason(1006, "out of order"), None, None, OSError)


async def test_aclose_cancelled_after_failed_write_has_no_sent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, _ = await open_broken(nursery)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
    error = await closed_error(client.get_message())
    assert facts(error) == (reason(1006, "out of order"), None, None, OSError)


async def test_send_message_waiting_write_fails_raises(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer, sending = await open_full(nursery)
    waiting = [Call(nursery, client.send_message, "second") for _ in range(2)]
    await wait_all_tasks_blocked()
    await peer.aclose()
    for call in (sending, *waiting):
        reason_told = (await closed_error(call.result())).reason
        assert reason_told is not None
        assert reason_told.code == 1006


# -- bounds, and records of a connection


async def test_latency_is_of_latest_ping(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    client, peer = await open_client(nursery)
    assert client.latency is None
    for seconds in (3, 2):
        pinging = Call(nursery, client.ping)
        payload = await peer.expect(PING)
        await trio.sleep(seconds)
        await peer.send(peer.frame(PONG, payload))
        assert await pinging.result() == client.latency == pytest.approx(seconds)


async def test_ping_too_many_unanswered_waits(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=2)
    pings = []
    for payload in (b"1", b"2", b"3"):
        pings.append(Call(nursery, client.ping, payload))
        await wait_all_tasks_blocked()
    first, second, third = pings
    assert [await peer.expect(PING) for _ in range(2)] == [b"1", b"2"]
    await peer.send(peer.frame(PONG, b"1"))
    await first.result()
    assert await peer.receive() == Frame(PING, b"3")
    assert not second.is_over
    await peer.send(peer.frame(PONG, b"3"))
    await second.result()
    await third.result()


async def test_ping_cancelled_makes_room(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=1)
    first = Call(nursery, client.ping, b"1")
    assert await peer.receive() == Frame(PING, b"1")
    Call(nursery, client.ping, b"2")
    await wait_all_tasks_blocked()
    first.scope.cancel()
    assert await peer.receive() == Frame(PING, b"2")


async def test_ping_waiting_connection_ends_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=1)
    pings = [Call(nursery, client.ping, payload) for payload in (b"1", b"2")]
    await wait_all_tasks_blocked()
    await peer.send_close(1000)
    for ping in pings:
        await closed_error(ping.result())


async def test_max_unsent_bytes_limits_the_queue(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery, "lockstep", max_unsent_bytes=20)
    small = Call(nursery, client.send_message, b"12345678")
    await wait_all_tasks_blocked()
    assert small.is_over
    second = Call(nursery, client.send_message, b"9")
    await wait_all_tasks_blocked()
    assert not second.is_over


async def test_wait_closed_returns_at_the_end(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    waiting = [Call(nursery, client.wait_closed) for _ in range(2)]
    await wait_all_tasks_blocked()
    assert not any(call.is_over for call in waiting)
    await peer.send_close(1000)
    await peer.receive_all()
    await peer.aclose()
    for call in waiting:
        await call.result()
    await client.wait_closed()


async def test_wait_closed_cancelled_leaves_connection_open(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    with trio.move_on_after(0.01) as scope:
        await client.wait_closed()
    assert scope.cancelled_caught
    await client.send_message("hello")
    assert await peer.expect(TEXT) == b"hello"


@pytest.mark.streams(PROMPT)
async def test_aclose_forcefully_does_not_wait(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    receiving = Call(nursery, peer.receive_all)
    await trio.aclose_forcefully(client)
    assert trio.current_time() < 0.051
    assert await receiving.result() == [Frame(CLOSE, close_payload(1000))]


async def test_ping_cancelled_its_pong_answers_earlier(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    first = Call(nursery, client.ping, b"1")
    assert await peer.expect(PING) == b"1"
    second = Call(nursery, client.ping, b"2")
    assert await peer.expect(PING) == b"2"
    second.scope.cancel()
    await wait_all_tasks_blocked()
    await peer.send(peer.frame(PONG, b"2"))  # only the latest needs an answer
    await first.result()


async def test_ping_after_cancelled_answers_earlier(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    calls = []
    for payload in (b"1", b"2", b"2"):
        calls.append(Call(nursery, client.ping, payload))
        assert await peer.expect(PING) == payload
        if len(calls) == 2:
            calls[1].scope.cancel()
            await wait_all_tasks_blocked()
    await peer.send(peer.frame(PONG, b"2"))
    await calls[0].result()
    await calls[2].result()


async def test_ping_cancelled_in_any_order_is_forgotten(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=3)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)):
        calls = []
        for payload in (b"1", b"2", b"3"):
            calls.append(Call(nursery, client.ping, payload))
            assert await peer.expect(PING) == payload
        for number in order:
            calls[number].scope.cancel()
            await wait_all_tasks_blocked()


async def test_ping_cancelled_connection_ends(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    calls = []
    for payload in (b"1", b"2"):
        calls.append(Call(nursery, client.ping, payload))
        await peer.expect(PING)
    calls[1].scope.cancel()
    await wait_all_tasks_blocked()
    await peer.send(peer.frame(PONG, b"0"))
    await peer.send_close(1000)
    await closed_error(calls[0].result())


async def test_ping_answer_forgets_cancelled_pings(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_unanswered_pings=2)
    calls = []
    for payload in (b"1", b"2"):
        calls.append(Call(nursery, client.ping, payload))
        await peer.expect(PING)
    calls[1].scope.cancel()
    await wait_all_tasks_blocked()
    await peer.send(peer.frame(PONG, b"1"))
    await calls[0].result()
    for payload in (b"3", b"4"):
        Call(nursery, client.ping, payload)
        assert await peer.expect(PING) == payload
