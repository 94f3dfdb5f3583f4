from __future__ import annotations

import array
import contextlib
import functools
import io
import math
import mmap
import tracemalloc
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from support.connections import Source, open_client, open_pair, open_server, pieces_of
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, close_payload
from support.peer import RawPeer
from support.streams import KINDS, PAIRS, PROMPT, PUSHING_BACK
from support.tasks import Call
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    MessageStream,
    broadcast,
)
from trio_websocket._sansio.costs import WRITE_BATCH_BYTES

LARGE = bytes(range(256)) * 2**10  # 256 KiB, more than any socket of the tests takes
CHUNK = b"x" * 2**14
READ = 2**16 + 2**10

# The peer reads, so the connection has time to write its last frame on the busiest machine.
patient = pytest.mark.usefixtures("patient_writer")


async def generated(pieces: Any) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


def listed(pieces: Any) -> Any:
    return pieces


async def receive_frames(peer: RawPeer, count: int) -> list[Frame]:
    return [await peer.receive_frame() for _ in range(count)]


async def receive_until_close(peer: RawPeer) -> list[Frame]:
    frames = await peer.receive_all()
    assert frames[-1].opcode == CLOSE
    return frames


# -- streaming out: frames


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("make", [listed, iter, generated])
@pytest.mark.parametrize(
    ("pieces", "opcode"),
    [
        (["o", "n\u00e9", "\U0001f600"], TEXT),
        ([b"o", "n\u00e9".encode(), b"\xf0\x9f\x98\x80"], BINARY),
        (
            [bytearray(b"o"), memoryview(b"xnx\xc3x\xa9")[1::2], b"\xf0\x9f\x98\x80"],
            BINARY,
        ),
    ],
)
async def test_send_message_stream_each_chunk_is_a_fragment(
    nursery: trio.Nursery, kind: str, make: Callable[[Any], Any], pieces: list[Any], opcode: int
) -> None:
    client, peer = await open_client(nursery, kind)
    sending = Call(nursery, client.send_message, make(pieces))
    assert await receive_frames(peer, 4) == [
        Frame(opcode, b"o", fin=False),
        Frame(CONTINUATION, b"n\xc3\xa9", fin=False),
        Frame(CONTINUATION, b"\xf0\x9f\x98\x80", fin=False),
        Frame(CONTINUATION, b""),
    ]
    await sending.result()


async def test_send_message_array_is_one_and_list_is_stream(
    nursery: trio.Nursery,
) -> None:
    client, server = await open_pair(nursery)
    numbers = array.array("H", [1, 2])
    await client.send_message(numbers)
    await client.send_message([numbers, numbers])
    assert await server.get_message() == numbers.tobytes()
    assert await server.get_message() == numbers.tobytes() * 2


async def test_send_message_stream_of_server_is_unmasked(nursery: trio.Nursery) -> None:
    server, peer = await open_server(nursery)
    await server.send_message(["a", "b"])
    assert [frame.payload for frame in await receive_frames(peer, 3)] == [b"a", b"b", b""]


@pytest.mark.parametrize("make", [listed, generated])
@pytest.mark.parametrize(("text", "opcode"), [(None, BINARY), (False, BINARY), (True, TEXT)])
async def test_send_message_empty_iterable_is_empty_message(
    nursery: trio.Nursery, make: Callable[[Any], Any], text: bool | None, opcode: int
) -> None:
    client, peer = await open_client(nursery)
    await client.send_message(make([]), text=text)
    assert await peer.receive() == Frame(opcode, b"")


@pytest.mark.parametrize("pieces", [[""], ["", "a", "", "b", ""]])
async def test_send_message_stream_skips_empty_chunks(
    nursery: trio.Nursery, pieces: list[str]
) -> None:
    client, server = await open_pair(nursery)
    await client.send_message(pieces)
    assert await server.get_message() == "".join(pieces)


@pytest.mark.streams(KINDS)
async def test_send_message_generator_to_receive_stream(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    sending = Call(nursery, client.send_message, generated([CHUNK] * 32))
    assert b"".join(map(_bytes, await pieces_of(server))) == CHUNK * 32
    await sending.result()


def _bytes(piece: str | bytes) -> bytes:
    assert isinstance(piece, bytes)
    return piece


# -- streaming out: text


async def test_send_message_stream_bytes_as_text(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await client.send_message([b"a", bytearray(b"b")], text=True)
    assert [frame.opcode for frame in await receive_frames(peer, 3)] == [TEXT, 0, 0]


async def test_send_message_stream_str_as_binary(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    await client.send_message(["\u20ac", "b"], text=False)
    assert await server.get_message() == b"\xe2\x82\xacb"


async def test_send_message_stream_character_over_chunks(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    await client.send_message([b"\xe2", b"\x82", b"\xac"], text=True)
    assert await server.get_message() == "\u20ac"


async def test_send_message_stream_invalid_first_chunk_sends_nothing(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    with pytest.raises(UnicodeDecodeError):
        await client.send_message([b"\xff"], text=True)
    await client.send_message("next")
    assert await server.get_message() == "next"


@patient
@pytest.mark.parametrize("pieces", [[b"a", b"\xff"], [b"\xe2\x82"], [b"\xe2", b"a"]])
async def test_send_message_stream_invalid_utf_8_closes(
    nursery: trio.Nursery, pieces: list[bytes]
) -> None:
    client, peer = await open_client(nursery)
    with pytest.raises(UnicodeDecodeError):
        await client.send_message(pieces, text=True)
    frames = await receive_until_close(peer)
    assert frames[-1].payload[:2] == b"\x03\xf3"
    assert not any(frame.fin for frame in frames[:-1])


# -- streaming out: wrong messages


@pytest.mark.parametrize("message", [None, 1, 1.5, {"a": "b"}, object()])
@pytest.mark.parametrize("error", [TypeError, ValueError])
async def test_send_message_not_iterable_raises(
    nursery: trio.Nursery, message: Any, error: type[Exception]
) -> None:
    client, server = await open_pair(nursery)
    with pytest.raises(error, match="message must be str or bytes-like, or an iterable"):
        await client.send_message(message)
    await client.send_message("next")
    assert await server.get_message() == "next"


class Reader:
    """A file-like object, which is iterable like a file."""

    def read(self, size: int = -1) -> bytes:
        raise NotImplementedError

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "open_file",
    [
        lambda path: path.open("rb"),
        lambda path: path.open("rb", buffering=0),
        lambda path: path.open("r"),
        lambda path: trio.wrap_file(path.open("rb")),
        lambda path: io.BytesIO(b"data"),
        lambda path: io.StringIO("text"),
        lambda path: io.IOBase(),
        lambda path: Reader(),
    ],
)
async def test_send_message_file_object_raises_with_hint(
    nursery: trio.Nursery, tmp_path: Path, open_file: Callable[[Path], Any]
) -> None:
    client, server = await open_pair(nursery)
    path = tmp_path / "file"
    path.write_bytes(b"data")
    file = open_file(path)
    for send in (client.send_message, functools.partial(broadcast, [client])):
        with pytest.raises(TypeError, match=r"trio\.open_file") as caught:
            await send(file)
        assert isinstance(caught.value, ValueError)  # as in 0.12
        assert "await file.read(65536)" in str(caught.value)
    close = getattr(file, "aclose", None)
    if close is not None:
        assert not file.wrapped.closed
        await close()
    elif hasattr(file, "close"):
        file.close()
    await client.send_message("next")
    assert await server.get_message() == "next"


async def test_send_message_mapped_file_sends_its_bytes(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    client, server = await open_pair(nursery)
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        await client.send_message(mapped)
    assert await server.get_message() == b"data"


@pytest.mark.parametrize("make", [listed, generated])
@pytest.mark.parametrize("piece", [1, ["a"], object()])
async def test_send_message_stream_wrong_first_chunk_sends_nothing(
    nursery: trio.Nursery, make: Callable[[Any], Any], piece: Any
) -> None:
    client, server = await open_pair(nursery)
    with pytest.raises(TypeError, match="each chunk of a message must be str or bytes-like"):
        await client.send_message(make([piece, "a"]))
    await client.send_message("next")
    assert await server.get_message() == "next"


@patient
@pytest.mark.streams(KINDS)
@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        (["a", 1], "each chunk of a message must be"),
        (["a", b"b"], "all str, or all bytes-like"),
        ([b"a", "b"], "all str, or all bytes-like"),
    ],
)
async def test_send_message_stream_wrong_later_chunk_closes(
    nursery: trio.Nursery, kind: str, pieces: list[Any], match: str
) -> None:
    client, peer = await open_client(nursery, kind)
    sending = Call(nursery, client.send_message, pieces)
    frames = await receive_until_close(peer)
    with pytest.raises(TypeError, match=match):
        await sending.result()
    assert [frame.payload for frame in frames[:-1]] == [b"a"]
    assert frames[-1].payload[:2] == b"\x03\xf3"


async def test_send_message_stream_raises_at_once_sends_nothing(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    source = Source(LookupError("no data"))
    with pytest.raises(LookupError, match="no data"):
        await client.send_message(source)
    assert source.is_closed
    await client.send_message("next")
    assert await server.get_message() == "next"


@patient
@pytest.mark.streams(KINDS)
async def test_send_message_stream_raises_later_closes(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    source = Source("a", LookupError("no data"))
    sending = Call(nursery, client.send_message, source)
    frames = await receive_until_close(peer)
    with pytest.raises(LookupError, match="no data"):
        await sending.result()
    assert source.is_closed
    assert frames[0] == Frame(TEXT, b"a", fin=False)
    assert frames[1].payload[:2] == b"\x03\xf3"
    assert len(frames) == 2


async def test_send_message_stream_broken_off_next_call_says_so(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(LookupError):
        await client.send_message(Source("a", LookupError("no data")))
    for call in (client.send_message, client.ping):
        with pytest.raises(ConnectionClosed) as caught:
            await call(b"next")
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1011
        assert "broken off half-way" in (caught.value.reason.reason or "")
        assert isinstance(caught.value.__cause__, ConnectionAbortedError)
        assert "LookupError('no data')" in str(caught.value.__cause__)


@patient
async def test_send_message_stream_raises_hides_error_from_peer(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    with pytest.raises(LookupError):
        await client.send_message(Source("a", LookupError("secret")))
    frames = await receive_until_close(peer)
    assert b"secret" not in frames[-1].payload


# -- streaming out: cancelled


@patient
@pytest.mark.streams(KINDS)
async def test_send_message_stream_cancelled_later_closes(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    source = Source("a", None)
    sending = Call(nursery, client.send_message, source)
    assert await peer.receive() == Frame(TEXT, b"a", fin=False)
    await sending.cancel()
    assert source.is_closed
    (frame,) = await receive_until_close(peer)
    assert frame.payload[:2] == b"\x03\xf3"
    assert client.closed is not None
    with pytest.raises(ConnectionClosed) as caught:
        await client.send_message("next")
    assert "cancelled" in str(caught.value.__cause__)


@pytest.mark.streams(KINDS)
async def test_send_message_stream_cancelled_before_first_chunk(
    nursery: trio.Nursery, kind: str
) -> None:
    client, server = await open_pair(nursery, kind)
    source = Source(None)
    sending = Call(nursery, client.send_message, source)
    await wait_all_tasks_blocked()
    await sending.cancel()
    assert source.is_closed
    await client.send_message("next")
    assert await server.get_message() == "next"


async def test_send_message_stream_cancelled_before_asks_nothing(nursery: trio.Nursery) -> None:
    client, _ = await open_client(nursery)
    source = Source("a")
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_message(source)
    assert scope.cancelled_caught
    assert source.is_closed
    assert source.asked == 0
    await client.send_message("next")


async def test_send_message_stream_cancelled_waiting_sends_nothing(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    gate = trio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "a"
        await gate.wait()
        yield "b"

    first = Call(nursery, client.send_message, slow())
    await wait_all_tasks_blocked()
    source = Source("c")
    second = Call(nursery, client.send_message, source)
    await wait_all_tasks_blocked()
    await second.cancel()
    assert source.is_closed
    assert source.asked == 0
    gate.set()
    await first.result()
    assert await server.get_message() == "ab"
    await client.send_message("next")
    assert await server.get_message() == "next"


@pytest.mark.streams(PUSHING_BACK)
async def test_send_message_stream_cancelled_unread_closes(
    nursery: trio.Nursery, kind: str
) -> None:
    client, _ = await open_client(nursery, kind)
    source = Source(*[LARGE] * 10)
    sending = Call(nursery, client.send_message, source)
    await wait_all_tasks_blocked()
    await sending.cancel()
    assert source.is_closed
    assert client.closed is not None
    assert client.closed.code == 1011


# -- streaming out: the iterator is closed


@pytest.mark.parametrize("pieces", [[], ["a"], ["a", "b"]])
async def test_send_message_stream_exhausted_iterator_is_closed(
    nursery: trio.Nursery, pieces: list[str]
) -> None:
    client, _ = await open_client(nursery)
    source = Source(*pieces)
    await client.send_message(source)
    assert source.is_closed
    assert source.asked == len(pieces) + 1


@pytest.mark.parametrize("pieces", [[1], ["a", 1], ["a", b"b"]])
async def test_send_message_stream_wrong_chunk_closes_iterator(
    nursery: trio.Nursery, pieces: list[Any]
) -> None:
    client, _ = await open_client(nursery)
    source = Source(*pieces, None)
    with pytest.raises(TypeError):
        await client.send_message(source)
    assert source.is_closed


async def test_send_message_stream_closed_connection_closes_iterator(nursery: trio.Nursery) -> None:
    client, _ = await open_pair(nursery)
    await client.aclose()
    source = Source("a", "b")
    with pytest.raises(ConnectionClosed):
        await client.send_message(source)
    assert source.is_closed
    assert source.asked <= 1


@pytest.mark.streams(KINDS)
async def test_send_message_stream_peer_closes_closes_iterator(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    closed = trio.Event()

    async def pieces() -> AsyncIterator[str]:
        try:
            yield "a"
            await client.wait_closed()
            yield "b"
        finally:
            closed.set()

    sending = Call(nursery, client.send_message, pieces())
    assert await peer.receive() == Frame(TEXT, b"a", fin=False)
    await peer.send_close(1001)
    await peer.receive_all()
    await peer.aclose()
    with pytest.raises(ConnectionClosed) as caught:
        await sending.result()
    assert caught.value.reason == CloseReason(1001, None)
    assert closed.is_set()


async def test_send_message_stream_iterator_without_aclose(nursery: trio.Nursery) -> None:
    class Once:
        def __init__(self) -> None:
            self._pieces = ["a"]

        def __aiter__(self) -> Once:
            return self

        async def __anext__(self) -> str:
            if not self._pieces:
                raise StopAsyncIteration
            return self._pieces.pop()

    client, server = await open_pair(nursery)
    await client.send_message(Once())
    assert await server.get_message() == "a"


async def test_send_message_stream_of_trio_channel(nursery: trio.Nursery) -> None:
    client, server = await open_pair(nursery)
    feed, pieces = trio.open_memory_channel[str](2)
    async with feed:
        await feed.send("a")
        await feed.send("b")
    await client.send_message(pieces)
    assert await server.get_message() == "ab"
    with pytest.raises(trio.ClosedResourceError):
        await pieces.receive()


# -- streaming out: beside other calls


@pytest.mark.streams(KINDS)
async def test_send_message_waits_for_stream(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    gate = trio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "a"
        await gate.wait()
        yield "b"

    sending = Call(nursery, client.send_message, slow())
    await wait_all_tasks_blocked()
    others = []
    for message in ("one", ["t", "wo"], "three"):
        others.append(Call(nursery, client.send_message, message))
        await wait_all_tasks_blocked()
    assert not any(other.is_over for other in others)
    gate.set()
    assert [await server.get_message() for _ in range(4)] == ["ab", "one", "two", "three"]
    for call in (sending, *others):
        await call.result()


@pytest.mark.streams(KINDS)
async def test_send_message_stream_pings_between_chunks(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    getting = Call(nursery, client.get_message)
    feed, pieces = trio.open_memory_channel[str](0)
    sending = Call(nursery, client.send_message, pieces)
    await feed.send("a")
    assert await peer.receive() == Frame(TEXT, b"a", fin=False)
    await peer.send_frame(PING, b"theirs")
    assert await peer.receive() == Frame(PONG, b"theirs")
    pinging = Call(nursery, client.ping, b"ours")
    assert await peer.receive() == Frame(PING, b"ours")
    await peer.send_frame(PONG, b"ours")
    await pinging.result()
    await client.pong(b"alive")
    assert await peer.receive() == Frame(PONG, b"alive")
    await feed.send("b")
    assert await peer.receive() == Frame(CONTINUATION, b"b", fin=False)
    await feed.aclose()
    assert await peer.receive() == Frame(CONTINUATION)
    await sending.result()
    await getting.cancel()


@pytest.mark.streams(PUSHING_BACK)
async def test_ping_during_send_message_stream_waits_for_room(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    feed, pieces = trio.open_memory_channel[bytes](0)
    sending = Call(nursery, client.send_message, pieces)
    await feed.send(LARGE)
    await wait_all_tasks_blocked()
    ponging = Call(nursery, client.pong, b"alive")
    await wait_all_tasks_blocked()
    assert await peer.receive() == Frame(BINARY, LARGE, fin=False)
    with trio.fail_after(30):
        assert await peer.receive() == Frame(PONG, b"alive")
    await ponging.result()
    await feed.aclose()
    assert await peer.receive() == Frame(CONTINUATION)
    await sending.result()


@pytest.mark.streams(PUSHING_BACK)
async def test_send_message_stream_unread_stops_iterable(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    source = Source(*[CHUNK] * 64)
    sending = Call(nursery, client.send_message, source)
    await wait_all_tasks_blocked()
    asked = source.asked
    assert asked < 64
    await wait_all_tasks_blocked()
    assert source.asked == asked
    if kind == "lockstep":  # with sockets, the size of the kernel's buffers is unknown
        assert asked * len(CHUNK) <= WRITE_BATCH_BYTES + 3 * len(CHUNK)
    frames = await receive_frames(peer, 65)
    assert sum(len(frame.payload) for frame in frames) == 64 * len(CHUNK)
    await sending.result()


async def test_send_message_stream_lets_other_tasks_run(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery, "memory")
    sending = Call(nursery, client.send_message, ["a"] * 1000)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    assert not sending.is_over
    await sending.result()
    assert len(await receive_frames(peer, 1001)) == 1001


async def test_send_message_stream_aclose_between_chunks_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    feed, pieces = trio.open_memory_channel[str](0)
    sending = Call(nursery, client.send_message, pieces)
    await feed.send("a")
    assert await peer.receive() == Frame(TEXT, b"a", fin=False)
    closing = Call(nursery, client.aclose)
    assert await peer.expect(CLOSE) == close_payload(1000)
    await feed.send("b")
    with pytest.raises(ConnectionClosed):
        await sending.result()
    await peer.send_close(1000)
    await peer.aclose()
    await closing.result()


# -- streaming in: chunks


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize(("opcode", "message"), [(TEXT, "\u20ac message"), (BINARY, b"message")])
async def test_receive_stream_queued_message_is_one_chunk(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    kind: str,
    opcode: int,
    message: str | bytes,
) -> None:
    client, peer = await open_client(nursery, kind)
    payload = message.encode() if isinstance(message, str) else message
    await peer.send_frame(opcode, payload)
    await trio.sleep(1)
    assert client.statistics().messages_unread == 1
    assert await pieces_of(client) == [message]


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("is_text", [False, True])
async def test_receive_stream_fragments_as_they_arrive(
    nursery: trio.Nursery, kind: str, is_text: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    first = peer.frame(TEXT if is_text else BINARY, b"one", fin=False)
    sending = Call(nursery, peer.send, first)
    async with client.receive_stream() as pieces:
        await sending.result()
        assert pieces.is_text is is_text
        assert await pieces.__anext__() == ("one" if is_text else b"one")
        await peer.send_frame(CONTINUATION, b"two", fin=False)
        assert await pieces.__anext__() == ("two" if is_text else b"two")
        await peer.send_frame(CONTINUATION, b"three")
        assert await pieces.__anext__() == ("three" if is_text else b"three")
        with pytest.raises(StopAsyncIteration):
            await pieces.__anext__()


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("is_text", [False, True])
async def test_receive_stream_large_frame_as_it_arrives(
    nursery: trio.Nursery, kind: str, is_text: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    payload = b"0123456789abcdef" * 2**15
    nursery.start_soon(peer.send, peer.frame(TEXT if is_text else BINARY, payload))
    pieces = await pieces_of(client)
    assert all(0 < len(piece) <= READ for piece in pieces)
    if is_text:
        assert "".join(map(str, pieces)) == payload.decode()
    else:
        assert b"".join(map(_bytes, pieces)) == payload


async def test_receive_stream_by_server(nursery: trio.Nursery) -> None:
    server, peer = await open_server(nursery)
    nursery.start_soon(peer.send_frame, BINARY, LARGE)
    assert b"".join(map(_bytes, await pieces_of(server))) == LARGE


async def test_receive_stream_keeps_characters_whole(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.fragments(TEXT, b"a\xe2", b"\x82", b"\xac", b"b"))
    assert "".join(map(str, await pieces_of(client))) == "a\u20acb"


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_receive_stream_empty_message_has_no_chunks(
    nursery: trio.Nursery, kind: str, is_text: bool, count: int
) -> None:
    client, peer = await open_client(nursery, kind)
    opcode = TEXT if is_text else BINARY
    nursery.start_soon(peer.send, peer.fragments(opcode, *[b""] * count), peer.frame(TEXT, b"next"))
    async with client.receive_stream() as pieces:
        assert pieces.is_text is is_text
        assert [piece async for piece in pieces] == []
        assert [piece async for piece in pieces] == []
    assert await client.get_message() == "next"


async def test_receive_stream_invalid_utf_8_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.fragments(TEXT, b"a", b"\xff"))
    async with client.receive_stream() as pieces:
        assert await pieces.__anext__() == "a"
        with pytest.raises(ConnectionClosed) as caught:
            await pieces.__anext__()
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1007


@pytest.mark.streams(["lockstep", "tcp"])
async def test_receive_stream_huge_uses_bounded_memory(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind, receive_buffer_size=2**16)
    chunk = bytes(2**16)
    count = 800  # 50 MiB

    async def send() -> None:
        await peer.send(peer.frame(BINARY, bytes(2**16))[:2].replace(b"\x7f", b"\x7f"))
        await peer.send((len(chunk) * count).to_bytes(8, "big"))
        for _ in range(count):
            await peer.send(chunk)

    nursery.start_soon(send)
    size = 0
    tracemalloc.start()
    try:
        async with client.receive_stream(max_size=math.inf) as pieces:
            async for piece in pieces:
                size += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == len(chunk) * count
    assert peak < 2**20


@pytest.mark.streams(PROMPT)
async def test_receive_stream_unread_stops_peer(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=math.inf)
    nursery.start_soon(peer.send_frame, BINARY, LARGE * 8)
    async with client.receive_stream() as pieces:
        await trio.sleep(10)
        waiting = client.statistics()
        assert waiting.bytes_unread <= 3 * READ
        assert waiting.wire_bytes_received <= 4 * READ
        assert b"".join([_bytes(piece) async for piece in pieces]) == LARGE * 8


# -- streaming in: the limit


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("limit", "max_size"), [(1000, 2000), (4000, 2000), (4000, None)])
async def test_receive_stream_max_size_equal_is_received(
    nursery: trio.Nursery, kind: str, count: int, limit: int, max_size: int | None
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=limit)
    size = max_size or limit
    payloads = [b"x" * (size // count)] * count
    nursery.start_soon(peer.send, peer.fragments(BINARY, *payloads))
    pieces = await pieces_of(client, max_size=max_size)
    assert b"".join(map(_bytes, pieces)) == b"x" * size


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("limit", "max_size"), [(1000, 2000), (8000, 2000), (2000, None)])
async def test_receive_stream_max_size_exceeded_raises(
    nursery: trio.Nursery, kind: str, count: int, limit: int, max_size: int | None
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=limit)
    payloads = [b"x" * (2004 // count)] * count
    size = max_size or limit
    nursery.start_soon(_send_to_closing, peer, peer.fragments(BINARY, *payloads))
    with pytest.raises(ConnectionClosed) as caught:
        await pieces_of(client, max_size=max_size)
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009
    option = "max_message_size" if max_size is None else "max_size"
    assert caught.value.sent.reason is not None
    assert caught.value.sent.reason.endswith(f" bytes exceeds {option}={size}")
    assert (await peer.expect(CLOSE))[:2] == b"\x03\xf1"
    await peer.aclose()


async def _send_to_closing(peer: RawPeer, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await peer.send(data)


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("message", ["\u20ac" * 10, b"x" * 30])
async def test_receive_stream_queued_over_max_size_raises(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, message: str | bytes
) -> None:
    client, server = await open_pair(nursery, kind)
    await server.send_message(message)
    await trio.sleep(1)
    with pytest.raises(ConnectionClosed) as caught:
        await pieces_of(client, max_size=29)
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009
    assert caught.value.sent.reason == "message of 30 bytes exceeds max_size=29"
    await server.wait_closed()
    assert server.closed is not None
    assert server.closed.code == 1009


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("message", ["\u20ac" * 10, b"x" * 30])
async def test_receive_stream_queued_equal_to_max_size(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, message: str | bytes
) -> None:
    client, server = await open_pair(nursery, kind)
    await server.send_message(message)
    await trio.sleep(1)
    assert await pieces_of(client, max_size=30) == [message]


@pytest.mark.streams(PROMPT)
async def test_receive_stream_max_size_counts_earlier_fragments(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send(peer.frame(TEXT, b"x" * 30, fin=False))
    await trio.sleep(1)
    with pytest.raises(ConnectionClosed) as caught:
        await pieces_of(client, max_size=29)
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009
    assert caught.value.sent.reason == "message of 30 bytes exceeds max_size=29"


@pytest.mark.streams(PROMPT)
async def test_receive_stream_earlier_fragments_are_first_chunk(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    for is_text in (True, False):
        client, peer = await open_client(nursery, kind)
        await peer.send(peer.fragments(TEXT if is_text else BINARY, b"a", b"", b"b", b"c")[:-3])
        await trio.sleep(1)
        async with client.receive_stream() as pieces:
            assert pieces.is_text is is_text
            assert await pieces.__anext__() == ("ab" if is_text else b"ab")
            await peer.send_frame(CONTINUATION, b"c")
            assert [piece async for piece in pieces] == ["c" if is_text else b"c"]


async def test_receive_stream_max_fragments_holds(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_fragments=3)
    await peer.send(peer.fragments(TEXT, b"a", b"b", b"c", b"d"))
    with pytest.raises(ConnectionClosed, match="exceeds max_fragments=3"):
        await pieces_of(client, max_size=math.inf)


@pytest.mark.parametrize(
    ("size", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError)]
)
async def test_receive_stream_wrong_max_size_raises_at_call(
    nursery: trio.Nursery, size: Any, error: type[Exception]
) -> None:
    client, _ = await open_client(nursery)
    with pytest.raises(error, match="max_size must be"):
        client.receive_stream(max_size=size)


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("count", [1, 2])
async def test_receive_stream_message_over_limit_is_deferred(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, count: int
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=1000)
    nursery.start_soon(peer.send, peer.fragments(BINARY, *[b"x" * (2000 // count)] * count))
    await trio.sleep(1.9)
    assert client.closed is None
    pieces = await pieces_of(client, max_size=2000)
    assert b"".join(map(_bytes, pieces)) == b"x" * 2000
    await peer.send_frame(TEXT, b"next")
    assert await client.get_message() == "next"


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("count", [1, 3])
async def test_deferred_message_is_refused_after_2_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, count: int
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=1000)
    data = peer.fragments(BINARY, *[b"x" * (2000 // count)] * count)
    start = trio.current_time()
    nursery.start_soon(_send_to_closing, peer, data)
    assert (await peer.expect(CLOSE))[:2] == b"\x03\xf1"
    assert 2 <= trio.current_time() - start <= 2.05
    assert client.closed is not None
    assert client.closed.code == 1009


async def test_deferred_message_pings_do_not_extend_2_seconds(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, max_message_size=1000)
    await peer.send_frame(BINARY, b"x" * 2000)
    for _ in range(3):
        await trio.sleep(1)
        with trio.move_on_after(0.1), contextlib.suppress(ConnectionClosed):
            await client.ping()
    assert client.closed is not None
    assert client.closed.code == 1009


async def test_get_message_deferred_message_raises(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, max_message_size=1000)
    await peer.send_frame(BINARY, b"x" * 2000)
    await trio.sleep(1)
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009


async def test_aclose_with_deferred_message_closes(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, max_message_size=1000)
    await peer.send_frame(BINARY, b"x" * 2000)
    await trio.sleep(1)
    closing = Call(nursery, client.aclose)
    assert await peer.expect(CLOSE) == close_payload(1000)
    await peer.send_close(1000)
    await closing.result()
    assert client.closed == CloseReason(1000, None)


async def test_get_message_before_deferred_message_is_received(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, max_message_size=1000)
    await peer.send(peer.frame(TEXT, b"first"), peer.frame(BINARY, b"x" * 2000))
    await trio.sleep(1)
    assert await client.get_message() == "first"
    await trio.sleep(1)
    assert b"".join(map(_bytes, await pieces_of(client, max_size=2000))) == b"x" * 2000


# -- streaming in: leaving early


def _shapes(peer: RawPeer) -> dict[str, bytes]:
    return {
        "frame": peer.frame(BINARY, LARGE),
        "fragments": peer.fragments(
            BINARY, *[LARGE[at : at + 5000] for at in range(0, 2**18, 5000)]
        ),
    }


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize("shape", ["frame", "fragments"])
@pytest.mark.parametrize(
    ("taken", "exit_by"),
    [(0, "break"), (0, "cancel"), (1, "break"), (1, "exception"), (3, "cancel")],
)
async def test_receive_stream_left_early_skips_rest(
    nursery: trio.Nursery, kind: str, shape: str, taken: int, exit_by: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, _shapes(peer)[shape], peer.frame(TEXT, b"next"))
    with trio.CancelScope() as scope, contextlib.suppress(LookupError):
        async with client.receive_stream() as pieces:
            for _ in range(taken):
                await pieces.__anext__()
            if exit_by == "exception":
                raise LookupError
            if exit_by == "cancel":
                scope.cancel()
                await pieces.__anext__()
    assert scope.cancelled_caught is (exit_by == "cancel")
    assert await client.get_message() == "next"


@pytest.mark.streams(KINDS)
async def test_receive_stream_left_after_last_chunk_skips_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(
        peer.send, peer.fragments(TEXT, b"a", b"b"), peer.frame(TEXT, b"c"), peer.frame(TEXT, b"d")
    )
    async with client.receive_stream() as pieces:
        assert await pieces.__anext__() == "a"
        assert await pieces.__anext__() == "b"
    assert await client.get_message() == "c"
    assert await client.get_message() == "d"


@pytest.mark.streams(PROMPT)
async def test_receive_stream_left_early_keeps_later_messages(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, message_queue_size=10)
    await peer.send(
        peer.fragments(TEXT, b"a", b"b", b"c"), peer.frame(TEXT, b"d"), peer.frame(TEXT, b"e")
    )
    async with client.receive_stream():
        await trio.sleep(1)
    assert [await client.get_message() for _ in range(2)] == ["d", "e"]
    assert client.statistics().bytes_unread == 0


async def test_receive_stream_skips_rest_while_application_is_busy(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    client, peer = await open_client(nursery, "lockstep", max_message_size=100)
    async with trio.open_nursery() as sending:
        sending.start_soon(peer.send_frame, BINARY, LARGE)
        async with client.receive_stream(max_size=math.inf):
            pass
    await peer.send_frame(PING, b"still there?")
    assert await peer.receive() == Frame(PONG, b"still there?")
    assert client.statistics().bytes_unread == 0


@pytest.mark.streams(KINDS)
async def test_receive_stream_next_has_own_limit_while_skipping(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind, max_message_size=1000)
    nursery.start_soon(peer.send, peer.frame(BINARY, LARGE), peer.frame(TEXT, b"next"))
    async with client.receive_stream(max_size=math.inf):
        pass
    assert await pieces_of(client) == ["next"]


async def test_receive_stream_next_is_limited_after_skipping(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    nursery.start_soon(
        _send_to_closing, peer, peer.frame(BINARY, LARGE) + peer.frame(TEXT, b"x" * 11)
    )
    async with client.receive_stream():
        pass
    with pytest.raises(ConnectionClosed) as caught:
        await pieces_of(client, max_size=10)
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009


@pytest.mark.streams(KINDS)
async def test_receive_stream_twice_gives_both(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    data = [peer.fragments(TEXT, b"%d" % number, b"!" * 20) for number in range(6)]
    nursery.start_soon(peer.send, b"".join(data))
    for number in range(6):
        async with client.receive_stream() as pieces:
            if number % 2:
                assert "".join([str(piece) async for piece in pieces]) == f"{number}" + "!" * 20
            else:
                assert await pieces.__anext__() == f"{number}"


# -- streaming in: cancelled


@pytest.mark.streams(KINDS)
async def test_receive_stream_begin_cancelled_loses_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    for number in range(3):
        receiving = Call(nursery, pieces_of, client)
        await wait_all_tasks_blocked()
        await receiving.cancel()
        await peer.send_frame(TEXT, b"%d" % number)
        assert await client.get_message() == str(number)


@pytest.mark.streams(PROMPT)
@pytest.mark.parametrize("shape", ["message", "head", "fragment"])
async def test_receive_stream_cancelled_before_loses_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str, shape: str
) -> None:
    client, peer = await open_client(nursery, kind)
    data = peer.fragments(TEXT, b"mess", b"age")
    at = {"message": len(data), "head": 2, "fragment": 6}[shape]
    await peer.send(data[:at])
    await trio.sleep(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pieces_of(client)
    assert scope.cancelled_caught
    await peer.send(data[at:])
    assert await client.get_message() == "message"


@pytest.mark.streams(KINDS)
async def test_receive_stream_cancelled_in_head_loses_nothing(
    nursery: trio.Nursery, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    data = peer.frame(TEXT, b"m" * 200)
    for at in (1, 3, 4):
        await peer.send(data[:at])
        receiving = Call(nursery, pieces_of, client)
        await wait_all_tasks_blocked()
        await receiving.cancel()
        await peer.send(data[at:])
        assert await client.get_message() == "m" * 200


async def test_receive_stream_begin_cancelled_restores_limit(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery, max_message_size=1000)
    data = peer.frame(BINARY, b"x" * 2000)
    await peer.send(data[:4])
    receiving = Call(nursery, lambda: pieces_of(client, max_size=math.inf))
    await wait_all_tasks_blocked()
    await receiving.cancel()
    await peer.send(data[4:])
    with pytest.raises(ConnectionClosed) as caught:
        await client.get_message()
    assert caught.value.sent is not None
    assert caught.value.sent.code == 1009


async def test_receive_stream_cancelled_waiting_loses_nothing(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    getting = Call(nursery, client.get_message)
    await wait_all_tasks_blocked()
    receiving = Call(nursery, pieces_of, client)
    await wait_all_tasks_blocked()
    await receiving.cancel()
    await peer.send(peer.frame(TEXT, b"first"), peer.frame(TEXT, b"second"))
    assert await getting.result() == "first"
    assert await client.get_message() == "second"


@pytest.mark.streams(KINDS)
async def test_receive_stream_chunk_cancelled_is_not_lost(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.frame(TEXT, b"a", fin=False))
    async with client.receive_stream() as pieces:
        with trio.CancelScope() as scope:
            scope.cancel()
            await pieces.__anext__()
        assert scope.cancelled_caught
        assert await pieces.__anext__() == "a"
        waiting = Call(nursery, pieces.__anext__)
        await wait_all_tasks_blocked()
        await waiting.cancel()
        await peer.send_frame(CONTINUATION, b"b")
        assert [piece async for piece in pieces] == ["b"]


# -- streaming in: beside other calls


@pytest.mark.streams(KINDS)
async def test_get_message_waits_for_receive_stream(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.frame(TEXT, b"a", fin=False))
    async with client.receive_stream() as pieces:
        getting = Call(nursery, client.get_message)
        await wait_all_tasks_blocked()
        streaming = Call(nursery, pieces_of, client)
        await wait_all_tasks_blocked()
        nursery.start_soon(
            peer.send,
            peer.frame(CONTINUATION, b"b"),
            peer.frame(TEXT, b"second"),
            peer.frame(TEXT, b"third"),
        )
        assert [piece async for piece in pieces] == ["a", "b"]
        assert not getting.is_over
    assert await getting.result() == "second"
    assert await streaming.result() == ["third"]


@pytest.mark.streams(PROMPT)
async def test_receive_stream_unread_answers_ping(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.frame(TEXT, b"a", fin=False), peer.frame(PING, b"b"))
    async with client.receive_stream() as pieces:
        start = trio.current_time()
        assert await peer.receive() == Frame(PONG, b"b")
        assert trio.current_time() - start <= 0.04
        await peer.send_frame(CONTINUATION, b"c")
        assert [piece async for piece in pieces] == ["a", "c"]


@pytest.mark.streams(PROMPT)
async def test_receive_stream_unread_after_wait_answers_ping(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    async def send_later() -> None:
        await trio.sleep(1)
        await peer.send(peer.frame(CONTINUATION, b"b", fin=False), peer.frame(PING, b"ping"))

    client, peer = await open_client(nursery, kind)
    nursery.start_soon(send_later)
    await peer.send_frame(TEXT, b"a", fin=False)
    async with client.receive_stream() as pieces:
        assert [await pieces.__anext__(), await pieces.__anext__()] == ["a", "b"]
        assert await peer.receive() == Frame(PONG, b"ping")
        await peer.send_frame(CONTINUATION, b"c")
        assert [piece async for piece in pieces] == ["c"]


async def test_receive_stream_waiting_answers_ping(
    nursery: trio.Nursery,
) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(TEXT, b"a", fin=False))
    receiving = Call(nursery, pieces_of, client)
    await peer.send_frame(PING, b"b")
    assert await peer.receive() == Frame(PONG, b"b")
    await peer.send_frame(CONTINUATION, b"c")
    assert await receiving.result() == ["a", "c"]


@pytest.mark.streams(KINDS)
@pytest.mark.parametrize("is_away", [False, True])
async def test_receive_stream_aclose_in_another_task_raises(
    nursery: trio.Nursery, kind: str, is_away: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.send, peer.frame(TEXT, b"a", fin=False))
    async with client.receive_stream() as pieces:
        assert await pieces.__anext__() == "a"
        waiting = None if is_away else Call(nursery, pieces.__anext__)
        await wait_all_tasks_blocked()
        closing = Call(nursery, client.aclose)
        assert await peer.expect(CLOSE) == close_payload(1000)
        await peer.send_close(1000)
        with trio.fail_after(30):
            if not is_away:
                assert await peer.receive() is None
            await peer.aclose()
            await closing.result()
        with pytest.raises(ConnectionClosed) as caught:
            await (pieces.__anext__() if waiting is None else waiting.result())
        assert caught.value.reason == CloseReason(1000, None)


@pytest.mark.streams(KINDS)
async def test_receive_stream_in_tasks_shares_chunks(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    received: list[str | bytes] = []

    async def receive(pieces: MessageStream[str | bytes]) -> None:
        async for piece in pieces:
            received.append(piece)  # noqa: PERF401 # each at its time

    async def receive_all() -> None:
        async with client.receive_stream() as pieces, trio.open_nursery() as receiving:
            for _ in range(3):
                receiving.start_soon(receive, pieces)

    receiving = Call(nursery, receive_all)
    for number in range(10):
        opcode = CONTINUATION if number else TEXT
        await peer.send(peer.frame(opcode, b"%d" % number, fin=number == 9))
        await wait_all_tasks_blocked()
    await peer.send(peer.frame(TEXT, b"next"))
    await receiving.result()
    assert "".join(map(str, received)) == "0123456789"
    assert await client.get_message() == "next"


@pytest.mark.streams(PAIRS)
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_receive_stream_iterated_after_block_takes_nothing(
    nursery: trio.Nursery, kind: str, is_cancelled: bool
) -> None:
    client, peer = await open_client(nursery, kind)
    await peer.send(peer.frame(TEXT, b"first", fin=False))
    with trio.CancelScope() as scope:
        async with client.receive_stream() as pieces:
            assert await pieces.__anext__() == "first"
            iterating = []
            for _ in range(2):
                iterating.append(Call(nursery, pieces.__anext__))
                await wait_all_tasks_blocked()
            if is_cancelled:
                scope.cancel()
    for call in iterating:
        with pytest.raises(trio.ClosedResourceError, match="block"):
            await call.result()
    getting = Call(nursery, client.get_message)
    await peer.send(peer.frame(CONTINUATION, b"rest"), peer.frame(TEXT, b"next"))
    assert await getting.result() == "next"


async def test_get_message_after_stream_raises_at_end(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.frame(TEXT, b"a", fin=False))
    async with client.receive_stream():
        waiting = Call(nursery, client.get_message)
        await peer.send_close(1000)
        await peer.aclose()
        await client.wait_closed()
        await wait_all_tasks_blocked()
        assert not waiting.is_over
    with pytest.raises(ConnectionClosed):
        await waiting.result()


# -- streaming in: the end of the connection


@pytest.mark.streams(KINDS)
async def test_receive_stream_peer_closes_raises(nursery: trio.Nursery, kind: str) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(
        peer.send, peer.frame(TEXT, b"a", fin=False), peer.frame(CLOSE, close_payload(1000))
    )
    nursery.start_soon(peer.receive_all)
    with pytest.raises(ConnectionClosed) as caught:
        async with client.receive_stream() as pieces:
            assert await pieces.__anext__() == "a"
            await pieces.__anext__()
    assert caught.value.reason == CloseReason(1000, None)


@pytest.mark.streams(PROMPT)
async def test_receive_stream_chunks_before_end_are_given(
    nursery: trio.Nursery, autojump_clock: MockClock, kind: str
) -> None:
    client, peer = await open_client(nursery, kind)
    nursery.start_soon(peer.receive_all)
    await peer.send(peer.frame(TEXT, b"a", fin=False))
    async with client.receive_stream() as pieces:
        await peer.send(peer.frame(CONTINUATION, b"b"), peer.frame(CLOSE, close_payload(1000)))
        await client.wait_closed()
        assert [piece async for piece in pieces] == ["a", "b"]
    with pytest.raises(ConnectionClosed):
        await pieces_of(client)


@pytest.mark.streams(KINDS)
async def test_receive_stream_closed_connection_raises(nursery: trio.Nursery, kind: str) -> None:
    client, server = await open_pair(nursery, kind)
    await client.aclose()
    for connection in (client, server):
        await connection.wait_closed()
        with pytest.raises(ConnectionClosed) as caught:
            await pieces_of(connection)
        assert caught.value.reason == CloseReason(1000, None)


async def test_receive_stream_waiting_peer_closes_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    receiving = Call(nursery, pieces_of, client)
    await wait_all_tasks_blocked()
    await peer.send_close(1001)
    with pytest.raises(ConnectionClosed) as caught:
        await receiving.result()
    assert caught.value.reason == CloseReason(1001, None)


# -- streaming in: wrong use


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_receive_stream_is_for_one_message(nursery: trio.Nursery, taken: int) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.fragments(TEXT, b"a", b"b", b"c"), peer.frame(TEXT, b"next"))
    stream = client.receive_stream()
    async with stream as pieces:
        with pytest.raises(RuntimeError, match=r"receive_stream\(\)"):
            await stream.__aenter__()
        for _ in range(taken):
            await pieces.__anext__()
    with pytest.raises(RuntimeError, match=r"receive_stream\(\)"):
        await stream.__aenter__()
    assert await client.get_message() == "next"


async def test_receive_stream_outside_block_raises(nursery: trio.Nursery) -> None:
    client, peer = await open_client(nursery)
    await peer.send(peer.fragments(TEXT, b"a", b"b"))
    stream = client.receive_stream()
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError, match="block"):
            await stream.__anext__()
        if not stream.is_text:
            async with stream:
                pass
