from __future__ import annotations

from typing import TYPE_CHECKING, Any, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import open_client, open_pair
from support.frames import BINARY, CLOSE, TEXT, Frame, close_payload
from support.streams import KINDS
from support.tasks import Call
from trio_websocket import CloseReason, ConnectionClosed

if TYPE_CHECKING:
    from trio.abc import Channel, ReceiveChannel, SendChannel


NORMAL = [close_payload(1000), close_payload(1000, "bye"), close_payload(1001), b""]
ABNORMAL = [close_payload(1002), close_payload(1011, "broken"), close_payload(4000)]


async def all_messages(channel: ReceiveChannel[str | bytes]) -> list[str | bytes]:
    return [message async for message in channel]


# -- iteration


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("payload", NORMAL)
async def test_iterate_normal_close_ends(nursery: trio.Nursery, kind: str, payload: bytes) -> None:
    client, peer = await open_client(nursery, kind)
    iterating = Call(nursery, all_messages, client)
    await peer.send(peer.frame(TEXT, b"one"), peer.frame(BINARY, b"two"))
    nursery.start_soon(peer.send_frame, CLOSE, payload)
    assert await peer.receive() == Frame(CLOSE, payload)
    assert await iterating.result() == ["one", b"two"]


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("payload", ABNORMAL)
async def test_iterate_other_close_raises(nursery: trio.Nursery, kind: str, payload: bytes) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.frame(TEXT, b"one"), peer.frame(CLOSE, payload))
    messages = []
    with pytest.raises(ConnectionClosed) as caught:
        async for message in client:
            messages.append(message)  # noqa: PERF401 # they are kept when it raises
    assert messages == ["one"]
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == int.from_bytes(payload[:2], "big")
    assert await peer.receive() == Frame(CLOSE, payload)


async def test_iterate_aclose_in_another_task_ends(nursery: trio.Nursery) -> None:
    client, _ = await open_pair(nursery)
    iterating = Call(nursery, all_messages, client)
    await wait_all_tasks_blocked()
    await client.aclose()
    assert await iterating.result() == []


async def test_iterate_again_after_break_goes_on(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    for message in ("one", "two"):
        await server.send_message(message)
        async for received in client:
            assert received == message
            break
    await server.aclose()
    assert await all_messages(client) == []
    assert await all_messages(client) == []


async def test_iterate_cancelled_loses_no_message(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    iterating = Call(nursery, all_messages, client)
    await wait_all_tasks_blocked()
    await iterating.cancel()
    await server.send_message("message")
    assert await client.get_message() == "message"


async def test_iterate_in_several_tasks_shares_messages(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    workers = [Call(nursery, all_messages, client) for _ in range(3)]
    for number in range(10):
        await server.send_message(str(number))
        await wait_all_tasks_blocked()
    await server.aclose()
    shared = [await worker.result() for worker in workers]
    assert sorted(str(message) for part in shared for message in part) == list("0123456789")


# -- send and receive


async def test_connection_is_a_trio_channel(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    assert isinstance(client, trio.abc.Channel)


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("message", ["text", b"binary", "", b""])
async def test_send_message_is_received(
    nursery: trio.Nursery, kind: str, message: str | bytes
) -> None:
    client, server = await open_pair(nursery, kind)
    sending = Call(nursery, client.send, message)
    assert await server.receive() == message
    await sending.result()


async def test_send_no_message_raises(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    wrong: Any = None
    with pytest.raises(TypeError):
        await client.send(wrong)


@pytest.mark.parametrize("payload", NORMAL)
async def test_receive_normal_close_raises_end_of_channel(
    nursery: trio.Nursery, payload: bytes
) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(TEXT, b"one"), peer.frame(CLOSE, payload))
    assert await client.receive() == "one"
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel) as caught:
            await client.receive()
        assert isinstance(caught.value.__cause__, ConnectionClosed)


@pytest.mark.parametrize("payload", ABNORMAL)
async def test_receive_other_close_raises_broken_resource(
    nursery: trio.Nursery, payload: bytes
) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(TEXT, b"one"), peer.frame(CLOSE, payload))
    assert await client.receive() == "one"
    code = int.from_bytes(payload[:2], "big")
    with pytest.raises(trio.BrokenResourceError, match=str(code)) as caught:
        await client.receive()
    assert isinstance(caught.value.__cause__, ConnectionClosed)


@pytest.mark.parametrize("payload", [*NORMAL, *ABNORMAL])
async def test_send_peer_closed_raises_broken_resource(
    nursery: trio.Nursery, payload: bytes
) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(CLOSE, payload)
    with pytest.raises(trio.EndOfChannel if payload in NORMAL else trio.BrokenResourceError):
        await client.receive()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.send("message")
    assert isinstance(caught.value.__cause__, ConnectionClosed)


async def test_receive_protocol_error_raises_broken_resource(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(0x3, b"reserved")
    with pytest.raises(trio.BrokenResourceError, match="1002"):
        await client.receive()


async def test_receive_keep_alive_timeout_raises_broken_resource(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, _ = await open_client(nursery, ping_interval=1, ping_timeout=1)
    with pytest.raises(trio.BrokenResourceError, match="keep-alive"):
        await client.receive()


async def test_send_broken_off_message_raises_broken_resource(
    nursery: trio.Nursery,
) -> None:
    client, _ = await open_client(nursery)
    wrong: Any = ["a", 1]
    with pytest.raises(TypeError):
        await client.send(wrong)
    with pytest.raises(trio.BrokenResourceError, match="broken off"):
        await client.send("next")
    with pytest.raises(trio.BrokenResourceError, match="broken off"):
        await client.receive()


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("code", [1000, 1011])
async def test_send_and_receive_after_aclose_raise_closed_resource(
    nursery: trio.Nursery, kind: str, code: int
) -> None:
    client, _ = await open_pair(nursery, kind)
    await client.aclose(code)
    with pytest.raises(trio.ClosedResourceError) as receiving:
        await client.receive()
    with pytest.raises(trio.ClosedResourceError) as sending:
        await client.send("message")
    for caught in (receiving, sending):
        assert isinstance(caught.value.__cause__, ConnectionClosed)


async def test_receive_aclose_in_another_task_raises_closed_resource(
    nursery: trio.Nursery,
) -> None:
    client, _ = await open_pair(nursery)
    receiving = Call(nursery, client.receive)
    await wait_all_tasks_blocked()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await receiving.result()


async def test_send_aclose_in_another_task_raises_closed_resource(
    nursery: trio.Nursery,
) -> None:
    client, _ = await open_client(nursery, "lockstep")
    sending = Call(nursery, client.send, bytes(2**20))
    await wait_all_tasks_blocked()
    waiting = Call(nursery, client.send, "message")
    await wait_all_tasks_blocked()
    await trio.aclose_forcefully(client)
    for call in (sending, waiting):
        with pytest.raises(trio.ClosedResourceError):
            await call.result()


async def test_aclose_after_peer_close_closes_channel(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    await peer.send_close(1000)
    with pytest.raises(trio.EndOfChannel):
        await client.receive()
    await peer.aclose()
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.receive()
    with pytest.raises(trio.ClosedResourceError):
        await client.send("message")


async def test_channel_block_cancelled_closes(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    with trio.CancelScope() as scope:
        async with client:
            scope.cancel()
            await client.receive()
    assert client.closed is not None
    with pytest.raises(trio.ClosedResourceError):
        await client.send("message")


async def test_receive_cancelled_loses_no_message(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    receiving = Call(nursery, client.receive)
    await wait_all_tasks_blocked()
    await receiving.cancel()
    await server.send("message")
    assert await client.receive() == "message"


@pytest.mark.parametrize("method", ["send", "receive"])
async def test_send_and_receive_are_checkpoints(nursery: trio.Nursery, method: str) -> None:
    client, peer = await open_client(nursery)
    await peer.send_frame(TEXT, b"message")
    await wait_all_tasks_blocked()
    call: Callable[[], Awaitable[Any]] = (
        client.receive if method == "receive" else lambda: client.send("message")
    )
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught
    assert await client.receive() == "message"


# -- in code written for channels


async def pump(source: ReceiveChannel[Any], target: SendChannel[Any]) -> None:
    """Pass on all values, then close the target."""
    async with target:
        async for value in source:
            await target.send(value)


async def exchange(channel: Channel[Any], values: list[Any]) -> list[Any]:
    """Send each value, and wait for one in return."""
    answers = []
    for value in values:
        await channel.send(value)
        answers.append(await channel.receive())
    return answers


@pytest.mark.streams(KINDS)
async def test_send_messages_of_another_connection(nursery: trio.Nursery, kind: str) -> None:
    source, front = await open_pair(nursery, kind)
    back, target = await open_pair(nursery, kind)
    nursery.start_soon(pump, front, back)
    receiving = Call(nursery, all_messages, target)
    values: list[str | bytes] = ["text", b"binary", "x" * 100_000, ""]
    for value in values:
        await source.send(value)
    await source.aclose()
    assert await receiving.result() == values
    assert target.closed == CloseReason(1000, None)


async def test_send_messages_of_memory_channel(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    feed, source = trio.open_memory_channel[str](0)
    drain, target = trio.open_memory_channel[str](0)
    nursery.start_soon(pump, source, client)
    nursery.start_soon(pump, server, drain)
    async with feed:
        for number in range(3):
            await feed.send(str(number))
            assert await target.receive() == str(number)
    assert [value async for value in target] == []


async def test_stapled_channel_exchanges_values(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)

    async def echo() -> None:
        async with server:
            async for value in server:
                await server.send(value)

    nursery.start_soon(echo)
    assert await exchange(client, ["a", b"b"]) == ["a", b"b"]
    await client.aclose()
