"""Compression of messages on open connections (permessage-deflate, RFC 7692).

The peers use zlib directly, so that both sides can't have the same bug.
"""

from __future__ import annotations

import functools
import math
import threading
import tracemalloc
import zlib
from typing import Any, Awaitable, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.connection import ConnectionType

from support.connections import open_pair
from support.deflating import (
    ALL,
    KINDS,
    MIB,
    TAIL,
    in_chunks,
    open_two,
    random_bytes,
)
from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload, frame
from support.peer import REQUEST, RawPeer, accepting, read_head
from support.streams import memory_pair
from support.tasks import Call, turns_of_another
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    DeflateParameters,
    HandshakeError,
    PerMessageDeflate,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)
from trio_websocket._sansio.deflate import DeflateCodec, DeflateExtension
from trio_websocket._sansio.events import MessageChunk, Status
from trio_websocket._sansio.extensions import offer
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol

YIELD = Status.YIELD
ENDED = Status.ENDED
OVER_LIMIT = Status.OVER_LIMIT
NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

RSV1, RSV2, RSV3 = 4, 2, 1
DEFAULT = PerMessageDeflate()
FORGETFUL = PerMessageDeflate(threshold=0, context_takeover=False)
WIDE = PerMessageDeflate(window_bits=15, threshold=0)
OFFER_WIDE = b"permessage-deflate; client_max_window_bits=15"
OFFER = b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
BOMB = 16 * MIB

both_sides = pytest.mark.parametrize("side", ["client", "server"])


class Codec:
    """The compressor and the decompressor of a peer."""

    def __init__(self, *, resets: bool = False, bits: int = 12) -> None:
        self._resets = resets
        self._bits = bits
        self._begin()

    def _begin(self) -> None:
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, -self._bits)
        self._decompressor = zlib.decompressobj(-self._bits)

    def deflate(self, payload: bytes) -> bytes:
        data = self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if self._resets:
            self._begin()
        return data[:-4]

    def inflate(self, payload: bytes) -> bytes:
        data = self._decompressor.decompress(payload + TAIL)
        if self._resets:
            self._begin()
        return data

    def inflate_chunk(self, payload: bytes) -> bytes:
        return self._decompressor.decompress(payload)


async def open_ours(
    nursery: trio.Nursery,
    side: str,
    *,
    compression: PerMessageDeflate | None = ALL,
    agreed: bytes | None = OFFER,
    **options: Any,
) -> tuple[WebSocketConnection, RawPeer]:
    """Open our client or server, and a raw peer that has negotiated compression with it.

    :param agreed: The offer or the answer of the peer.
    """
    ours, theirs = await memory_pair()
    peer = RawPeer(theirs, is_client=side == "server")
    header = [] if agreed is None else [b"Sec-WebSocket-Extensions: " + agreed]

    async def accept() -> None:
        request, _ = await read_head(theirs)
        await peer.send(accepting(request, *header))

    if side == "client":
        nursery.start_soon(accept)
        connection = await wrap_client_stream(
            nursery, ours, "example.org", "/", compression=compression, **options
        )
        return connection, peer
    await peer.send(b"\r\n".join([REQUEST[:-4], *header]) + b"\r\n\r\n")
    request = await wrap_server_stream(nursery, ours, compression=compression, **options)
    connection = await request.accept()
    _, rest = await read_head(theirs)
    return connection, RawPeer(theirs, is_client=True, received=rest)


async def open_compressing(
    nursery: trio.Nursery,
) -> tuple[WebSocketConnection, WebSocketConnection]:
    """Open our client and server, which compress all messages."""
    return await open_pair(nursery, client={"compression": ALL}, server={"compression": ALL})


def compressed(peer: RawPeer, opcode: int, *payloads: bytes) -> bytes:
    """Return the frames of a compressed message."""
    return peer.fragments(opcode, *payloads, rsv=RSV1)


def cut(data: bytes, count: int) -> list[bytes]:
    """Split the data into this number of chunks."""
    ends = [len(data) * number // count for number in range(count + 1)]
    return [data[start:end] for start, end in zip(ends, ends[1:])]


async def refused(call: Awaitable[object]) -> int:
    """Return the close code after our side has failed the connection."""
    with pytest.raises(ConnectionClosed) as caught:
        await call
    assert caught.value.sent is not None
    return caught.value.sent.code


# -- the opening handshake


async def test_compression_negotiated_by_both_is_used(nursery: trio.Nursery) -> None:
    client, server = await open_pair(
        nursery,
        client={"compression": DEFAULT},
        server={"compression": PerMessageDeflate(window_bits=10, context_takeover=False)},
    )
    assert client.compression == server.compression
    assert client.compression == DeflateParameters(
        client_max_window_bits=10,
        server_max_window_bits=10,
        client_no_context_takeover=True,
        server_no_context_takeover=True,
    )
    await client.send_message("a" * 1000)
    await server.send_message(b"b" * 1000)
    assert await server.get_message() == "a" * 1000
    assert await client.get_message() == b"b" * 1000
    statistics = client.statistics()
    assert statistics.wire_bytes_sent < 100
    assert statistics.wire_bytes_received < 100


@pytest.mark.parametrize("client_wants", [True, False])
@pytest.mark.parametrize("server_wants", [True, False])
async def test_compression_declined_by_one_is_not_used(
    nursery: trio.Nursery, client_wants: bool, server_wants: bool
) -> None:
    client, server = await open_pair(
        nursery,
        client={"compression": ALL if client_wants else None},
        server={"compression": ALL if server_wants else None},
    )
    is_agreed = client_wants and server_wants
    assert (client.compression is not None) is is_agreed
    assert (server.compression is not None) is is_agreed
    await client.send_message("a" * 1000)
    assert await server.get_message() == "a" * 1000
    assert (client.statistics().wire_bytes_sent < 100) is is_agreed


@both_sides
async def test_compression_not_negotiated_sends_plain(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side, agreed=None)
    assert ours.compression is None
    await ours.send_message("a" * 1000)
    assert await peer.receive() == (TEXT, b"a" * 1000, True, 0)
    await ours.send_message(["a", "b"])
    assert await peer.receive() == (TEXT, b"a", False, 0)


@pytest.mark.parametrize("compression", [DEFAULT, None])
async def test_compression_offer_in_request(compression: PerMessageDeflate | None) -> None:
    ours, theirs = await memory_pair()

    async def connect() -> None:
        await wrap_client_stream(nursery, ours, "example.org", "/", compression=compression)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        head, _ = await read_head(theirs)
        nursery.cancel_scope.cancel()
    lines = [line for line in head.split(b"\r\n") if b"Extensions" in line]
    assert lines == ([b"Sec-WebSocket-Extensions: " + offer(DEFAULT)] if compression else [])


@pytest.mark.parametrize(
    ("offers", "answers"),
    [
        ([], []),
        ([b"x-other, permessage-deflate"], [b"permessage-deflate; server_max_window_bits=12"]),
        ([b"x-other"], []),
        ([b"permessage-deflate; unknown"], []),
        (
            [b"permessage-deflate; unknown", b'permessage-deflate; client_max_window_bits="10"'],
            [b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=10"],
        ),
    ],
)
async def test_compression_answer_in_response(
    nursery: trio.Nursery, offers: list[bytes], answers: list[bytes]
) -> None:
    ours, theirs = await memory_pair()
    lines = [b"Sec-WebSocket-Extensions: " + value for value in offers]
    await theirs.send_all(b"\r\n".join([REQUEST[:-4], *lines]) + b"\r\n\r\n")
    request = await wrap_server_stream(nursery, ours, compression=DEFAULT)
    connection = await request.accept()
    head, _ = await read_head(theirs)
    values = [line.partition(b": ")[2] for line in head.split(b"\r\n") if b"Extensions" in line]
    assert values == answers
    assert (connection.compression is not None) is bool(answers)


@pytest.mark.parametrize("value", [b"permessage-deflate;", b"=", b'a; b="', b"\xe4"])
async def test_compression_malformed_offer_gets_400(
    nursery: trio.Nursery, autojump_clock: MockClock, value: bytes
) -> None:
    request = REQUEST[:-2] + b"Sec-WebSocket-Extensions: " + value + b"\r\n\r\n"
    for compression, status in ((DEFAULT, b"400"), (None, b"101")):
        ours, theirs = await memory_pair()
        await theirs.send_all(request)
        try:
            await (await wrap_server_stream(nursery, ours, compression=compression)).accept()
        except HandshakeError:
            assert compression is DEFAULT
        head, _ = await read_head(theirs)
        assert head.split()[1] == status


@pytest.mark.parametrize(
    "value",
    [
        b"permessage-deflate; server_max_window_bits=12; unknown",
        OFFER + b", " + OFFER,
        b"x-other",
        b"=",
    ],
)
async def test_compression_bad_answer_raises_handshake_error(
    nursery: trio.Nursery, value: bytes
) -> None:
    with pytest.raises(HandshakeError) as caught:
        await open_ours(nursery, "client", agreed=value)
    assert not isinstance(caught.value, ConnectionRejected)


async def test_compression_unrequested_answer_raises(nursery: trio.Nursery) -> None:
    with pytest.raises(HandshakeError, match="not offered"):
        await open_ours(nursery, "client", compression=None, agreed=OFFER)


# -- sending


@both_sides
@pytest.mark.parametrize(
    "message", ["", "a", "a" * 127, "ä" * 64, b"", b"\x00\xff" * 64, bytes(70_000)]
)
async def test_send_message_compresses_whole_message(
    nursery: trio.Nursery, side: str, message: str | bytes
) -> None:
    ours, peer = await open_ours(nursery, side)
    codec = Codec()
    for _ in range(2):
        await ours.send_message(message)
        sent = await peer.receive_frame()
        assert (sent.opcode, sent.fin, sent.rsv) == (
            TEXT if isinstance(message, str) else BINARY,
            True,
            RSV1,
        )
        payload = codec.inflate(sent.payload)
        assert (payload.decode() if isinstance(message, str) else payload) == message


async def test_send_message_window_of_8_bits_sends_plain(
    nursery: trio.Nursery,
) -> None:
    answer = b"permessage-deflate; server_max_window_bits=8; client_max_window_bits=8"
    ours, peer = await open_ours(nursery, "client", agreed=answer)
    assert ours.compression == DeflateParameters(8, 8, False, False)
    for message in ("", "a" * 1000, b"b" * 2**18):
        nursery.start_soon(ours.send_message, message)
        sent = await peer.receive_frame()
        assert (len(sent.payload), sent.rsv) == (len(message), 0)
    nursery.start_soon(ours.send_message, iter([b"a" * 1000, b"b" * 1000]))
    fragments = [await peer.receive_frame() for _ in range(2)]
    assert [(len(sent.payload), sent.rsv) for sent in fragments] == [(1000, 0), (1000, 0)]
    codec = Codec(bits=9)  # zlib uses 9 bits for 8
    for text in ("again " * 50, "and again " * 50):
        await peer.send(compressed(peer, TEXT, codec.deflate(text.encode())))
        assert await ours.get_message() == text


@both_sides
async def test_send_message_below_threshold_sends_plain(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side, compression=PerMessageDeflate(threshold=10))
    for message in ("a" * 9, "ä" * 4, b"b" * 9):
        await ours.send_message(message)
        payload = message.encode() if isinstance(message, str) else message
        sent = await peer.receive_frame()
        assert (sent.payload, sent.rsv) == (payload, 0)
    for message in ("a" * 10, "ä" * 5, b"b" * 10):
        await ours.send_message(message)
        assert (await peer.receive_frame()).rsv == RSV1


@both_sides
@pytest.mark.parametrize("size", [1000, 100_000])
async def test_send_message_compress_false_sends_plain(
    nursery: trio.Nursery, side: str, size: int
) -> None:
    ours, peer = await open_ours(nursery, side)
    codec = Codec()
    message = b"abc" * size
    await ours.send_message(message)
    assert codec.inflate((await peer.receive_frame()).payload) == message
    await ours.send_message(message, compress=False)
    assert await peer.receive() == (BINARY, message, True, 0)
    await ours.send_message([message, b""], compress=False)
    assert await peer.receive() == (BINARY, message, False, 0)
    assert await peer.receive() == (CONTINUATION, b"", False, 0)
    assert await peer.receive() == (CONTINUATION, b"", True, 0)
    await ours.send_message(message)
    assert codec.inflate((await peer.receive_frame()).payload) == message


@both_sides
async def test_compression_leaves_control_frames_plain(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side)
    pinging = Call(nursery, ours.ping, b"x" * 125)
    assert await peer.receive() == (PING, b"x" * 125, True, 0)
    await peer.send_frame(PONG, b"x" * 125)
    await peer.send_frame(PING, b"y" * 125)
    assert await peer.receive() == (PONG, b"y" * 125, True, 0)
    await pinging.result()
    nursery.start_soon(ours.aclose, 4000, "z" * 100)
    assert await peer.receive() == (CLOSE, close_payload(4000, "z" * 100), True, 0)
    await peer.send_close(4000)
    await peer.aclose()


@both_sides
async def test_send_message_with_context_takeover_is_smaller(
    nursery: trio.Nursery, side: str
) -> None:
    message = random_bytes(1000)
    sizes = []
    for settings, agreed in (
        (ALL, OFFER),
        (FORGETFUL, OFFER + b"; server_no_context_takeover; client_no_context_takeover"),
    ):
        ours, peer = await open_ours(nursery, side, compression=settings, agreed=agreed)
        for _ in range(2):
            await ours.send_message(message)
            sizes.append(len((await peer.receive_frame()).payload))
    assert sizes[1] < 20
    assert sizes[0] > 1000
    assert sizes[2] == sizes[3] > 1000


@both_sides
async def test_send_message_stream_compresses_each_chunk(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side, compression=DEFAULT)
    codec = Codec()
    more = trio.Event()

    async def pieces() -> Any:
        yield "first " * 10
        await more.wait()
        yield ""
        yield "second " * 10

    nursery.start_soon(ours.send_message, pieces())
    sent = await peer.receive_frame()
    assert (sent.opcode, sent.fin, sent.rsv) == (TEXT, False, RSV1)
    assert codec.inflate_chunk(sent.payload) == b"first " * 10  # before the second chunk is made
    more.set()
    rest = [await peer.receive_frame() for _ in range(3)]
    assert {(found.opcode, found.rsv) for found in rest} == {(CONTINUATION, 0)}
    assert [found.fin for found in rest] == [False, False, True]
    assert codec.inflate_chunk(rest[0].payload) == b""
    assert codec.inflate_chunk(rest[1].payload) == b"second " * 10
    assert codec.inflate(rest[2].payload) == b""
    await ours.send_message("first " * 100)
    assert codec.inflate((await peer.receive_frame()).payload) == b"first " * 100


@both_sides
async def test_send_message_empty_stream_is_empty_message(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side)
    await ours.send_message([])
    sent = await peer.receive_frame()
    assert (sent.opcode, sent.fin, sent.rsv) == (BINARY, True, RSV1)
    assert Codec().inflate(sent.payload) == b""


# -- sending large messages

LARGE = random_bytes(2**17) * 4


class Gate:
    """A gate that stops the thread that compresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        original = DeflateCodec.deflate_chunk

        def deflate_chunk(codec: DeflateCodec, data: bytes, *, is_last: bool) -> bytes:
            if len(data) == len(LARGE):
                assert threading.current_thread() is not threading.main_thread()
                self.is_reached.set()
                assert self.is_open.wait(5)
            return original(codec, data, is_last=is_last)

        monkeypatch.setattr(DeflateCodec, "deflate_chunk", deflate_chunk)

    async def reached(self) -> None:
        assert await trio.to_thread.run_sync(self.is_reached.wait, 5)


async def test_send_message_large_compresses_in_thread(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = await open_compressing(nursery)
    gate = Gate(monkeypatch)
    sending = Call(nursery, client.send_message, LARGE)
    await gate.reached()
    for text in "abc":
        nursery.start_soon(client.send_message, text)
        await wait_all_tasks_blocked()
    nursery.start_soon(server.send_message, "meanwhile")
    assert await client.get_message() == "meanwhile"
    getting: Call[str | bytes] = Call(nursery, server.get_message)
    await client.ping()
    assert not sending.is_over
    assert not getting.is_over
    gate.is_open.set()
    assert await getting.result() == LARGE
    assert [await server.get_message() for _ in "abc"] == list("abc")
    await sending.result()


async def test_send_message_stream_large_chunk_in_thread(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = await open_compressing(nursery)
    gate = Gate(monkeypatch)
    sending = Call(nursery, client.send_message, [LARGE, LARGE])
    await gate.reached()
    nursery.start_soon(server.send_message, "meanwhile")
    assert await client.get_message() == "meanwhile"
    gate.is_open.set()
    assert await server.get_message() == LARGE + LARGE
    await sending.result()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_send_message_large_cancelled_whole_or_nothing(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    client, server = await open_compressing(nursery)
    gate = Gate(monkeypatch)
    with trio.CancelScope() as scope:
        if when == "before":
            scope.cancel()
        async with trio.open_nursery() as inner:
            inner.start_soon(client.send_message, LARGE)
            if when == "meanwhile":
                await gate.reached()
                scope.cancel()
                gate.is_open.set()
    gate.is_open.set()
    nursery.start_soon(client.send_message, b"next" * 100)
    messages = [await server.get_message()]
    if messages == [LARGE]:
        assert when == "meanwhile"
        messages = [await server.get_message()]
    assert messages == [b"next" * 100]
    assert server.statistics().messages_received == client.statistics().messages_sent


@pytest.mark.parametrize("by", ["us", "the peer"])
async def test_send_message_large_aclose_meanwhile_raises(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    client, server = await open_compressing(nursery)
    gate = Gate(monkeypatch)
    sending = Call(nursery, client.send_message, LARGE)
    await gate.reached()
    await (client if by == "us" else server).aclose(4000)
    gate.is_open.set()
    with pytest.raises(ConnectionClosed) as caught:
        await sending.result()
    assert caught.value.reason is not None
    assert caught.value.reason.code == 4000


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_send_message_compressing_lets_other_tasks_run(
    nursery: trio.Nursery, in_pieces: bool
) -> None:
    ours, peer = await open_ours(nursery, "client")
    message = b"all work and no play" * 5000
    async with turns_of_another() as turns:
        if in_pieces:
            await ours.send_message([message] * 20)
        else:
            for _ in range(20):
                await ours.send_message(message)
        assert turns() >= 15
    codec = Codec()
    for number in range(20):
        sent = await peer.receive_frame()
        assert sent.rsv == (0 if in_pieces and number else RSV1)
        inflate = codec.inflate_chunk if in_pieces else codec.inflate
        assert inflate(sent.payload) == message


# -- receiving


@both_sides
async def test_get_message_compressed_fragments_with_pings(
    nursery: trio.Nursery, side: str
) -> None:
    ours, peer = await open_ours(nursery, side)
    codec = Codec()
    text = "grüß dich " * 50
    first, second, third = cut(codec.deflate(text.encode()), 3)
    await peer.send(
        peer.frame(TEXT, first, fin=False, rsv=RSV1),
        peer.frame(PING, b"1"),
        peer.frame(CONTINUATION, second, fin=False),
        peer.frame(CONTINUATION, b"", fin=False),
        peer.frame(PING, b"2"),
        peer.frame(CONTINUATION, third),
        peer.frame(BINARY, codec.deflate(text.encode()), rsv=RSV1),
    )
    assert await ours.get_message() == text
    assert await ours.get_message() == text.encode()
    assert {await peer.expect(PONG) for _ in range(1)} <= {b"1", b"2"}


@both_sides
async def test_get_message_compressed_and_plain_alternate(nursery: trio.Nursery, side: str) -> None:
    ours, peer = await open_ours(nursery, side)
    codec = Codec()
    messages: list[str | bytes] = ["", "a" * 300, b"", b"b" * 300, "ä" * 300]
    for number, message in enumerate(messages * 4):
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        if number % 4 == 0:
            await peer.send(peer.frame(opcode, payload))
        elif number % 4 == 1:
            await peer.send(compressed(peer, opcode, codec.deflate(payload)))
        elif number % 4 == 2:
            await peer.send(compressed(peer, opcode, *cut(codec.deflate(payload), 3)))
        else:
            await peer.send_frame(opcode, payload, fin=False)
            await peer.send_frame(CONTINUATION)
        assert await ours.get_message() == message


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("count", [1, 3])
async def test_get_message_compressed_decodes_as_told(
    nursery: trio.Nursery, decode: bool, count: int
) -> None:
    ours, peer = await open_ours(nursery, "client")
    codec = Codec()
    for opcode in (TEXT, BINARY):
        await peer.send(compressed(peer, opcode, *cut(codec.deflate("ä".encode() * 99), count)))
        message = await ours.get_message(decode=decode)
        assert message == ("ä" * 99 if decode else "ä".encode() * 99)


@both_sides
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("decode", [None, False])
async def test_get_message_compressed_invalid_utf_8_raises(
    nursery: trio.Nursery, side: str, count: int, decode: bool | None
) -> None:
    for payload in (b"a" * 500 + b"\xff", b"a" * 500 + b"\xc3"):
        ours, peer = await open_ours(nursery, side)
        await peer.send(compressed(peer, TEXT, *cut(Codec().deflate(payload), count)))
        assert await refused(ours.get_message(decode=decode)) == 1007
        assert ours.statistics().messages_received == 0


@both_sides
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("payload", [b"\xff" * 20, Codec().deflate(b"abc" * 99)[:-2]])
async def test_get_message_invalid_deflate_data_raises(
    nursery: trio.Nursery, side: str, count: int, payload: bytes
) -> None:
    ours, peer = await open_ours(nursery, side)
    await peer.send(compressed(peer, BINARY, *cut(payload, count)))
    assert await refused(ours.get_message()) == 1007
    assert await peer.expect(CLOSE)


@both_sides
@pytest.mark.parametrize(
    ("is_agreed", "frames"),
    [
        (True, [(BINARY, False, RSV1), (CONTINUATION, True, RSV1)]),
        (True, [(BINARY, False, 0), (CONTINUATION, True, RSV1)]),
        (True, [(CONTINUATION, True, RSV1)]),
        (True, [(BINARY, False, RSV1), (BINARY, True, RSV1)]),
        (True, [(BINARY, False, RSV1), (BINARY, True, 0)]),
        (True, [(PING, True, RSV1)]),
        (True, [(PONG, True, RSV1)]),
        (True, [(CLOSE, True, RSV1)]),
        (True, [(BINARY, True, RSV2)]),
        (True, [(BINARY, True, RSV1 | RSV2)]),
        (True, [(BINARY, True, RSV3)]),
        (True, [(BINARY, False, RSV1), (CONTINUATION, True, RSV2)]),
        (False, [(BINARY, True, RSV1)]),
        (False, [(TEXT, False, RSV1)]),
        (False, [(PING, True, RSV1)]),
    ],
)
async def test_get_message_reserved_bits_raise(
    nursery: trio.Nursery, side: str, is_agreed: bool, frames: list[tuple[int, bool, int]]
) -> None:
    ours, peer = await open_ours(nursery, side, agreed=OFFER if is_agreed else None)
    for opcode, fin, rsv in frames:
        payload = b"\x00" if opcode & 8 == 0 else b""
        await peer.send(peer.frame(opcode, payload, fin=fin, rsv=rsv))
    assert await refused(ours.get_message()) == 1002


async def test_get_message_new_message_inside_compressed_raises(nursery: trio.Nursery) -> None:
    ours, peer = await open_ours(nursery, "client")
    await peer.send_frame(TEXT, b"a", fin=False)
    await peer.send_frame(TEXT, b"b")
    assert await refused(ours.get_message()) == 1002
    assert b"compressed" not in await peer.expect(CLOSE)


@both_sides
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("content", ["zeros", "random", "text"])
@pytest.mark.parametrize("is_awaited", [True, False])
async def test_max_message_size_counts_decompressed_bytes(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    side: str,
    count: int,
    content: str,
    is_awaited: bool,
) -> None:
    limit = 5000
    whole = {"zeros": bytes(limit + 1), "random": random_bytes(limit + 1), "text": b"a" * 5001}
    opcode = TEXT if content == "text" else BINARY
    ours, peer = await open_ours(nursery, side, max_message_size=limit)
    codec = Codec()
    within, beyond = (codec.deflate(whole[content][:size]) for size in (limit, limit + 1))
    if content == "random":
        assert len(within) > limit
        _, beyond = Codec(), Codec().deflate(random_bytes(limit + 2)[1:])
    for payload in (within, beyond):
        await peer.send(compressed(peer, opcode, *cut(payload, count)))
        if not is_awaited:
            await trio.sleep(3)
        if payload is within:
            message = await ours.get_message(decode=False)
            assert message == whole[content][:limit]
    assert await refused(ours.get_message()) == 1009


async def test_max_message_size_0_with_compression(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, peer = await open_ours(nursery, "client", max_message_size=0)
    await peer.send(compressed(peer, TEXT, b"\x00"), compressed(peer, BINARY, b"", b"\x00"))
    await trio.sleep(10)
    assert await ours.get_message() == ""
    assert await ours.get_message() == b""
    await peer.send(compressed(peer, BINARY, Codec().deflate(b"a")))
    assert await refused(ours.get_message()) == 1009
    assert ours.closed is not None
    assert ours.closed.reason == "message exceeds max_message_size=0"


async def test_max_message_size_infinite_with_compression(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, peer = await open_ours(nursery, "client", max_message_size=math.inf)
    codec = Codec()
    for count in (1, 7):
        await peer.send(compressed(peer, BINARY, *cut(codec.deflate(bytes(3 * MIB)), count)))
        await trio.sleep(1)
        assert await ours.get_message() == bytes(3 * MIB)


@pytest.mark.parametrize("is_awaited", [True, False])
@pytest.mark.parametrize("limit", [20_000, math.inf])
async def test_get_message_large_compressed_frame(
    nursery: trio.Nursery, autojump_clock: MockClock, is_awaited: bool, limit: float
) -> None:
    ours, peer = await open_ours(nursery, "client", max_message_size=limit)
    message = random_bytes(15_000)
    data = compressed(peer, BINARY, Codec().deflate(message))
    getting = Call(nursery, ours.get_message) if is_awaited else None
    for part in (data[:6000], data[6000:]):
        await peer.send(part)
        await trio.sleep(1)
    assert await (ours.get_message() if getting is None else getting.result()) == message


async def test_get_message_large_invalid_frame_raises(nursery: trio.Nursery) -> None:
    ours, peer = await open_ours(nursery, "client")
    getting = Call(nursery, ours.get_message)
    data = compressed(peer, BINARY, b"\xff" * 10_000)
    for part in (data[:6000], data[6000:]):
        await peer.send(part)
        await wait_all_tasks_blocked()
    assert await refused(getting.result()) == 1007


@pytest.mark.parametrize("count", [1, 50])
async def test_get_message_compressed_while_unread(
    nursery: trio.Nursery, autojump_clock: MockClock, count: int
) -> None:
    ours, peer = await open_ours(nursery, "client", max_message_size=20_000)
    message = random_bytes(15_000)
    await peer.send(compressed(peer, BINARY, *cut(Codec().deflate(message), count)))
    await peer.send_frame(PING, b"behind it")
    assert await peer.expect(PONG) == b"behind it"
    assert ours.statistics().messages_unread == 1
    assert await ours.get_message() == message


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_max_fragments_limits_compressed_fragments(
    nursery: trio.Nursery, autojump_clock: MockClock, is_awaited: bool
) -> None:
    ours, peer = await open_ours(nursery, "client", max_fragments=3)
    codec = Codec()
    await peer.send(compressed(peer, TEXT, *cut(codec.deflate(b"a" * 500), 3)))
    assert await ours.get_message() == "a" * 500
    await peer.send(compressed(peer, BINARY, *cut(codec.deflate(random_bytes(500)), 4)))
    if not is_awaited:
        await trio.sleep(10)
    assert await refused(ours.get_message()) == 1009
    assert b"fragments" in await peer.expect(CLOSE)


@both_sides
@pytest.mark.parametrize("count", [1, 50])
async def test_aclose_ignores_compressed_message(
    nursery: trio.Nursery, side: str, count: int
) -> None:
    ours, peer = await open_ours(nursery, side, compression=WIDE, agreed=OFFER_WIDE)
    closing = Call(nursery, ours.aclose, 1000)
    assert await peer.expect(CLOSE)
    for payload in bomb(is_repeated=True):
        await peer.send(compressed(peer, TEXT, *cut(payload, count)))
    await peer.send_close(1000)
    assert await peer.receive() is None
    await peer.aclose()
    await closing.result()
    assert ours.closed is not None
    assert ours.closed.code == 1000
    assert ours.statistics().messages_received == 0


async def test_statistics_show_savings_of_compression(nursery: trio.Nursery) -> None:
    client, server = await open_compressing(nursery)
    await client.send_message("ä" * 1000)
    await client.send_message(["ä" * 400, "ä" * 600])
    await client.send_message(iter([bytes(500)]))
    for _ in range(3):
        await server.get_message()
    sent, received = client.statistics(), server.statistics()
    assert (sent.messages_sent, sent.bytes_sent) == (3, 4500)
    assert (received.messages_received, received.bytes_received) == (3, 4500)
    assert sent.wire_bytes_sent == received.wire_bytes_received < 300


# -- bombs


class Bomb(NamedTuple):
    """Compressed payloads: a message of 1 MiB of zeros, and one of 16 MiB after it."""

    allowed: bytes
    payload: bytes


@functools.lru_cache(maxsize=None)
def bomb(*, is_repeated: bool = False) -> Bomb:
    codec = Codec(bits=15)
    allowed = codec.deflate(bytes(MIB)) if is_repeated else b""
    payload = codec.deflate(bytes(BOMB))
    assert len(payload) < 2**14 + 200
    return Bomb(allowed, payload)


@both_sides
@pytest.mark.parametrize("kind", ["whole", "cut", "repeated"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("reader", ["waits", "stays away", "comes late"])
async def test_get_message_bomb_closes_with_1009(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    side: str,
    kind: str,
    opcode: int,
    reader: str,
) -> None:
    ours, peer = await open_ours(nursery, side, compression=WIDE, agreed=OFFER_WIDE)
    allowed, payload = bomb(is_repeated=kind == "repeated")
    wire = compressed(peer, opcode, *cut(payload, 1000 if kind == "cut" else 1))
    if kind == "repeated":
        await peer.send(compressed(peer, opcode, allowed))
        assert await ours.get_message(decode=False) == bytes(MIB)
    tracemalloc.start()
    try:
        if reader == "waits":
            receiving = Call(nursery, ours.get_message)
            await wait_all_tasks_blocked()
        await peer.send(wire)
        if reader == "comes late":
            await trio.sleep(1)
            assert ours.closed is None
        started = trio.current_time()
        if reader != "stays away":
            receiving = Call(nursery, ours.get_message)
        close = await peer.expect(CLOSE)
        waited = trio.current_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert close[:2] == close_payload(1009)
    assert peak < 4 * MIB
    if reader == "stays away":
        assert 2 <= waited < 2.1
        assert await refused(ours.get_message()) == 1009
    else:
        assert await refused(receiving.result()) == 1009


# -- receiving in chunks


@both_sides
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_receive_stream_compressed_gives_chunks(
    nursery: trio.Nursery, side: str, count: int, opcode: int
) -> None:
    ours, peer = await open_ours(nursery, side)
    codec = Codec()
    message = ("grüß dich " * 3000).encode() + random_bytes(9000).hex().encode()
    await peer.send(compressed(peer, opcode, *cut(codec.deflate(message), count)))
    await peer.send(compressed(peer, opcode, codec.deflate(message)))
    async with ours.receive_stream() as pieces:
        assert pieces.is_text is (opcode == TEXT)
        found = [piece async for piece in pieces]
    assert len(found) > 1
    assert b"".join(p.encode() if isinstance(p, str) else p for p in found) == message
    assert await ours.get_message(decode=False) == message


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("is_late", [False, True])
async def test_receive_stream_bomb_gives_bounded_chunks(
    nursery: trio.Nursery, autojump_clock: MockClock, count: int, is_late: bool
) -> None:
    ours, peer = await open_ours(nursery, "client", compression=WIDE, agreed=OFFER_WIDE)
    data = compressed(peer, BINARY, *cut(bomb().payload, count))
    size = 0
    tracemalloc.start()
    try:
        await peer.send(data)
        if is_late:
            await trio.sleep(1)
        async with ours.receive_stream(max_size=math.inf) as pieces:
            async for piece in pieces:
                size += len(piece)
                assert len(piece) <= MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == BOMB
    assert peak < 4 * MIB


async def test_receive_stream_compressed_has_own_limit(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, peer = await open_ours(nursery, "client", compression=WIDE, agreed=OFFER_WIDE)
    message = compressed(peer, BINARY, Codec(resets=True, bits=15).deflate(bytes(2 * MIB)))
    for turn in range(20):
        await trio.sleep(1)  # until the connection's task reads
        # Trio chooses the order of the runnable tasks at random.
        nursery.start_soon(peer.send, message)
        for _ in range(turn % 4):
            await trio.lowlevel.checkpoint()
        async with ours.receive_stream(max_size=2 * MIB) as pieces:
            assert sum([len(piece) async for piece in pieces]) == 2 * MIB


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("limit", [4999, 5000])
async def test_receive_stream_limit_counts_decompressed_bytes(
    nursery: trio.Nursery, autojump_clock: MockClock, count: int, is_late: bool, limit: int
) -> None:
    ours, peer = await open_ours(nursery, "client")
    payload = Codec().deflate(random_bytes(5000))
    await peer.send(compressed(peer, BINARY, *cut(payload, count)))
    if is_late:
        await trio.sleep(1)

    async def receive() -> int:
        async with ours.receive_stream(max_size=limit) as pieces:
            return sum([len(piece) async for piece in pieces])

    if limit == 5000:
        assert await receive() == 5000
    else:
        assert await refused(receive()) == 1009


async def test_receive_stream_limit_counts_earlier_bytes(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, peer = await open_ours(nursery, "client")
    first, _ = cut(Codec().deflate(random_bytes(5000)), 2)
    await peer.send(peer.frame(BINARY, first, fin=False, rsv=RSV1))
    await trio.sleep(1)

    async def receive() -> None:
        async with ours.receive_stream(max_size=100):
            raise AssertionError("a piece over the limit")

    assert await refused(receive()) == 1009


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_receive_stream_compressed_left_early_skips_rest(
    nursery: trio.Nursery, count: int, taken: int
) -> None:
    ours, peer = await open_ours(nursery, "client", compression=WIDE, agreed=OFFER_WIDE)
    allowed, payload = bomb(is_repeated=True)
    wire = compressed(peer, BINARY, *cut(allowed, count))
    await peer.send(wire, compressed(peer, BINARY, *cut(payload, count)))
    for _ in range(2):
        async with ours.receive_stream(max_size=math.inf) as pieces:
            for _ in range(taken):
                await pieces.__anext__()
    # Messages that refer to the window show that it is still right.
    codec = Codec(bits=15)
    for size in (MIB, BOMB // 4):
        codec.deflate(bytes(size))
    again = codec.deflate(bytes(50) + b"abc")
    await peer.send(compressed(peer, BINARY, again))
    assert await ours.get_message() == bytes(50) + b"abc"
    assert ours.statistics().bytes_received == MIB + BOMB + 53


# -- any messages, in any frames and chunks


# -- messages that take long to inflate

HUGE = ("grüß dich " * 280_000).encode()  # 3.2 MiB
IN_STEPS = [YIELD] * 12


def huge_pair(limit: float = math.inf) -> tuple[Protocol, Protocol]:
    """Return a client, and the server that sends to it."""
    return open_two(ConnectionType.CLIENT, WIDE, (15, 15), (False, False), max_message_size=limit)


def events(protocol: Protocol, **how: bool) -> list[Any]:
    """Return every event except `PARTIAL`, up to `NEED_DATA` or `ENDED`."""
    found: list[Any] = []
    while (event := protocol.next_event(**how)) not in (NEED_DATA, ENDED):
        found += [] if event is PARTIAL else [event]
    return [*found, ENDED] if event is ENDED else found


@pytest.mark.parametrize("size", [10**6, 5000])
@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("is_awaited", [True, False])
def test_protocol_huge_message_inflates_in_steps(
    size: int, is_text: bool, raw: bool, is_awaited: bool
) -> None:
    receiver, sender = huge_pair()
    data = sender.writer.message(is_text, HUGE) + sender.writer.message(is_text, HUGE[:500])
    found = []
    for chunk in in_chunks(data, [size]):
        receiver.reader.receive_data(chunk)
        found += events(receiver, raw=raw, is_awaited=is_awaited)
    messages: list[Any] = [HUGE, HUGE[:500]]
    if is_text and not raw:
        messages = [message.decode() for message in messages]
    assert found == [*IN_STEPS, *messages]
    assert (receiver.assembler.messages_received, receiver.assembler.bytes_received) == (
        2,
        len(HUGE) + 500,
    )


def test_protocol_messages_follow_inflated_one() -> None:
    receiver, sender = huge_pair()
    receiver.reader.receive_data(
        sender.writer.message(False, HUGE) + sender.writer.message(False, b"x", compress=False)
    )
    assert receiver.next_event() is YIELD
    assert receiver.reader.messages(9) == []
    assert events(receiver) == [*IN_STEPS[1:], HUGE, b"x"]


@pytest.mark.parametrize("side", KINDS)
def test_protocol_compressed_wrong_mask_fails(side: ConnectionType) -> None:
    receiver, _ = open_two(side, WIDE, (15, 15), (False, False))
    is_masked = side is ConnectionType.CLIENT  # the wrong mask bit
    payload = Codec(bits=15).deflate(b"payload")
    receiver.reader.receive_data(frame(BINARY, payload, rsv=RSV1, mask=is_masked))
    assert events(receiver) == [ENDED]
    assert receiver.closing.sent is not None
    assert receiver.closing.sent.code == 1002


def test_protocol_compressed_length_not_shortest_fails() -> None:
    receiver, _ = huge_pair()
    payload = Codec(bits=15).deflate(b"payload")
    receiver.reader.receive_data(bytes([0xC2, 126]) + len(payload).to_bytes(2, "big") + payload)
    assert events(receiver) == [ENDED]
    assert receiver.closing.sent is not None
    assert receiver.closing.sent.code == 1002


@pytest.mark.parametrize("payload", [bytes(1001), HUGE], ids=["little", "much"])
def test_protocol_after_close_compressed_over_limit_is_dropped(payload: bytes) -> None:
    receiver, sender = huge_pair(1000)
    receiver.start_close(1000, None)
    receiver.reader.receive_data(
        sender.writer.message(False, payload) + sender.start_close(1000, None)
    )
    assert events(receiver) == [ENDED]
    assert receiver.closing.error is None
    assert receiver.closing.rcvd == receiver.closing.sent


def test_protocol_large_compressed_waits_for_reader() -> None:
    receiver, sender = huge_pair(10_000)
    payload = random_bytes(5000) + bytes(50_000)
    for chunk in cut(sender.writer.message(False, payload), 3):
        receiver.reader.receive_data(chunk)
        while (event := receiver.next_event(is_awaited=False)) is PARTIAL:
            pass
    assert event is OVER_LIMIT
    assert receiver.closing.is_open
    receiver.begin_stream(len(payload))
    pieces = events(receiver)
    assert b"".join(piece.data for piece in pieces) == payload


def test_protocol_skipped_compressed_may_exceed_limit() -> None:
    receiver, sender = huge_pair(1000)
    receiver.begin_stream()
    receiver.reader.receive_data(
        sender.writer.fragment(False, b"x" * 10, is_first=True, is_last=False, compress=True)
    )
    assert b"".join(piece.data for piece in events(receiver)) == b"x" * 10
    receiver.reader.skip_rest()
    receiver.reader.receive_data(
        sender.writer.fragment(False, bytes(5000), is_first=False, is_last=True, compress=True)
    )
    receiver.reader.receive_data(sender.writer.message(False, b"next"))
    assert events(receiver) == [b"next"]


def test_receive_stream_limit_ignores_message_before_it() -> None:
    receiver, sender = huge_pair()
    for is_last in (False, True):
        receiver.reader.receive_data(
            sender.writer.fragment(
                False, bytes(100), is_first=not is_last, is_last=is_last, compress=True
            )
        )
    assert events(receiver) == [bytes(200)]
    receiver.begin_stream(10)
    receiver.reader.receive_data(sender.writer.message(False, b"x" * 10))
    assert b"".join(piece.data for piece in events(receiver)) == b"x" * 10


def test_protocol_short_message_inflates_in_one_step() -> None:
    receiver, sender = huge_pair(MIB)
    receiver.reader.receive_data(sender.writer.message(False, bytes(MIB)))
    assert events(receiver) == [bytes(MIB)]
    receiver.reader.receive_data(sender.writer.message(False, bytes(MIB + 1)))
    assert events(receiver) == [ENDED]


@pytest.mark.parametrize("excess", [0, 1])
def test_protocol_limit_counts_all_inflate_steps(excess: int) -> None:
    receiver, sender = huge_pair(len(HUGE) - excess)
    receiver.reader.receive_data(sender.writer.message(False, HUGE))
    assert events(receiver) == [*IN_STEPS, ENDED if excess else HUGE]
    assert receiver.closing.is_open is not bool(excess)
    if excess:
        assert receiver.closing.sent is not None
        assert receiver.closing.sent.code == 1009


def test_protocol_message_ends_at_limit_and_step() -> None:
    size = 5 * (2**18 + 1)
    receiver, sender = huge_pair(size)
    receiver.reader.receive_data(sender.writer.message(False, bytes(size)))
    assert events(receiver)[-1] == bytes(size)


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_protocol_error_at_end_is_found_in_last_step(is_cut_off: bool) -> None:
    receiver, _ = huge_pair()
    packed = Codec(bits=15).deflate(HUGE if is_cut_off else HUGE + b"\xff")
    packed = packed[:-1] if is_cut_off else packed
    receiver.reader.receive_data(bytes([0xC1, 126]) + len(packed).to_bytes(2, "big") + packed)
    assert events(receiver) == [*IN_STEPS, ENDED]
    assert receiver.closing.sent is not None
    assert receiver.closing.sent.code == 1007


def begun(limit: float = math.inf) -> tuple[Protocol, Protocol]:
    """Return a receiver that has taken the first step of a huge message, and its sender."""
    receiver, sender = huge_pair(limit)
    receiver.reader.receive_data(
        sender.writer.message(True, HUGE) + sender.writer.message(True, HUGE[:500])
    )
    assert receiver.next_event() is YIELD
    assert receiver.reader.messages(9) == []
    return receiver, sender


def test_protocol_stream_between_steps_gives_one_chunk() -> None:
    receiver, _ = begun()
    receiver.begin_stream()
    piece = MessageChunk(HUGE.decode(), is_last=True)
    assert events(receiver) == [*IN_STEPS[1:], piece, HUGE[:500].decode()]


@pytest.mark.parametrize("max_size", [10, 2 * MIB])
def test_protocol_stream_between_steps_has_own_limit(max_size: int) -> None:
    receiver, _ = begun()
    receiver.begin_stream(max_size)
    assert set(events(receiver)) <= {YIELD, ENDED}
    assert receiver.closing.sent is not None
    assert receiver.closing.sent.code == 1009


@pytest.mark.parametrize("limit", [math.inf, 2 * MIB])
def test_protocol_close_between_inflate_steps(limit: float) -> None:
    receiver, sender = begun(limit)
    receiver.start_close(1000, None)
    receiver.reader.receive_data(sender.writer.message(True, HUGE) + sender.start_close(1000, None))
    assert events(receiver)[-1] is ENDED
    assert receiver.closing.error is None
    assert receiver.assembler.messages_received == 0


def test_protocol_close_within_large_compressed_frame() -> None:
    receiver, sender = huge_pair()
    text = random_bytes(10_000)
    data = sender.writer.message(False, text)
    receiver.reader.receive_data(data[:6000])
    assert events(receiver) == []
    receiver.start_close(1000, None)
    receiver.reader.receive_data(
        data[6000:] + sender.writer.message(False, text) + sender.start_close(1000, None)
    )
    assert events(receiver) == [ENDED]
    assert receiver.closing.error is None


async def receive_huge(nursery: trio.Nursery) -> tuple[WebSocketConnection, RawPeer]:
    return await open_ours(
        nursery, "client", compression=WIDE, agreed=OFFER_WIDE, max_message_size=math.inf
    )


async def test_get_message_huge_inflating_lets_other_tasks_run(nursery: trio.Nursery) -> None:
    ours, peer = await receive_huge(nursery)
    await peer.send(compressed(peer, TEXT, Codec(bits=15).deflate(HUGE)))
    async with turns_of_another() as turns:
        assert await ours.get_message() == HUGE.decode()
        assert turns() >= len(IN_STEPS)


async def test_get_message_huge_inflates_while_unread(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ours, peer = await receive_huge(nursery)
    await peer.send(compressed(peer, TEXT, Codec(bits=15).deflate(HUGE)))
    await trio.sleep(1)
    assert ours.statistics().messages_unread == 1
    assert await ours.get_message() == HUGE.decode()


@pytest.mark.parametrize("turns", range(8))
async def test_get_message_huge_cancelled_loses_nothing(nursery: trio.Nursery, turns: int) -> None:
    ours, peer = await receive_huge(nursery)
    await peer.send(compressed(peer, TEXT, Codec(bits=15).deflate(HUGE)))
    found = []

    async def read() -> None:
        found.append(await ours.get_message())

    async with trio.open_nursery() as inner:
        inner.start_soon(read)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        inner.cancel_scope.cancel()
    if not found:
        await read()
    assert found == [HUGE.decode()]


# -- blocks without output

FINAL_BLOCKS = b"\x03\x00"
STORED_BLOCKS = b"\x00\x00\x00\xff\xff"
# Eight blocks of 90 bits without output, each with its own Huffman code (RFC 1951, 3.2.7).
DYNAMIC_BLOCKS = bytes.fromhex(
    "04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a"
    "04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a"
)
# About 3 milliseconds: see `DeflateCodec.work`.
STEP_OF_WORK = 2**15


def work_of_steps(data: bytes) -> list[int]:
    """Return the cost of each step of decoding the data, for a server with a waiting reader."""
    agreed = DeflateParameters(15, 15, False, False)
    extension = DeflateExtension(DeflateCodec(agreed, DEFAULT, is_client=False))
    protocol = Protocol(ConnectionType.SERVER, Options(compression=DEFAULT), extension)
    protocol.reader.receive_data(data)
    steps = []
    while True:
        before = protocol.reader.inflating_work
        event = protocol.next_event()
        steps.append(protocol.reader.inflating_work - before)
        if event is NEED_DATA or event is ENDED:
            return steps


@pytest.mark.parametrize("block", [FINAL_BLOCKS, STORED_BLOCKS, DYNAMIC_BLOCKS])
@pytest.mark.parametrize("size", [2**14, 2**19])
@pytest.mark.parametrize("is_fragmented", [False, True])
def test_next_event_of_empty_blocks_takes_short_steps(
    block: bytes, size: int, is_fragmented: bool
) -> None:
    payload = block * (size // len(block))
    if is_fragmented:
        data = frame(TEXT, payload, fin=False, rsv=4, mask=True) + frame(CONTINUATION, mask=True)
    else:
        data = frame(TEXT, payload, rsv=4, mask=True)
    steps = work_of_steps(data)
    assert sum(steps) >= len(payload)
    # A step may begin just below the bound, and then take one more slice or portion.
    assert max(steps) <= 2 * STEP_OF_WORK


async def test_get_message_of_empty_blocks_lets_other_tasks_run(nursery: trio.Nursery) -> None:
    server, peer = await open_ours(nursery, "server")
    payload = FINAL_BLOCKS * 2**15
    halves = [payload[: 2**15], payload[2**15 :]]
    data = frame(TEXT, halves[0], fin=False, rsv=4, mask=True)
    data += frame(CONTINUATION, halves[1], mask=True) + frame(TEXT, payload, rsv=4, mask=True)
    nursery.start_soon(peer.stream.send_all, data)
    for _ in range(2):
        async with turns_of_another() as turns:
            assert await server.get_message() == ""
            assert turns() >= 2**15 * 34 // (2 * STEP_OF_WORK)


@pytest.fixture(params=["zlib", "zlib_ng.zlib_ng"])
def each_zlib(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip(request.param)
    monkeypatch.setattr("trio_websocket._sansio.deflate.zlib", library)


def empty_message(block: bytes, is_fragmented: bool) -> bytes:
    """Return a message of 512 KiB that decompresses to nothing."""
    payload = block * (2**19 // len(block)) + b"\0"
    if not is_fragmented:
        return frame(TEXT, payload, rsv=RSV1, mask=True)
    data = frame(TEXT, payload[: 2**18], fin=False, rsv=RSV1, mask=True)
    return data + frame(CONTINUATION, payload[2**18 :], mask=True)


every_empty_message = pytest.mark.parametrize(
    "data",
    [
        empty_message(block, is_fragmented)
        for block in (STORED_BLOCKS, DYNAMIC_BLOCKS)
        for is_fragmented in (False, True)
    ],
    ids=["stored", "stored-fragmented", "dynamic", "dynamic-fragmented"],
)
# Each step may take twice the bound, and ends with a checkpoint.
LEAST_TURNS = 2**19 // (2 * STEP_OF_WORK)


@pytest.mark.usefixtures("each_zlib")
@every_empty_message
async def test_get_message_of_empty_blocks_returns_an_empty_message(
    nursery: trio.Nursery, data: bytes
) -> None:
    server, peer = await open_ours(nursery, "server")
    nursery.start_soon(peer.stream.send_all, data + frame(TEXT, b"next", mask=True))
    async with turns_of_another() as turns:
        assert await server.get_message() == ""
        assert turns() >= LEAST_TURNS
    assert await server.get_message() == "next"


@pytest.mark.usefixtures("each_zlib")
@every_empty_message
async def test_receive_stream_of_empty_blocks_lets_other_tasks_run(
    nursery: trio.Nursery, data: bytes
) -> None:
    server, peer = await open_ours(nursery, "server")
    nursery.start_soon(peer.stream.send_all, data + frame(TEXT, b"next", mask=True))
    async with turns_of_another() as turns:
        async with server.receive_stream() as stream:
            assert not any([chunk async for chunk in stream])
        assert turns() >= LEAST_TURNS
    assert await server.get_message() == "next"


@pytest.mark.usefixtures("each_zlib")
@every_empty_message
async def test_receive_stream_left_before_empty_blocks_skips_them(
    nursery: trio.Nursery, data: bytes
) -> None:
    server, peer = await open_ours(nursery, "server")
    nursery.start_soon(peer.stream.send_all, data + frame(TEXT, b"next", mask=True))
    async with turns_of_another() as turns:
        async with server.receive_stream():
            pass
        assert await server.get_message() == "next"
        assert turns() >= LEAST_TURNS


@pytest.mark.usefixtures("each_zlib")
@every_empty_message
async def test_aclose_skips_empty_blocks(nursery: trio.Nursery, data: bytes) -> None:
    server, peer = await open_ours(nursery, "server")
    async with turns_of_another() as turns:
        async with trio.open_nursery() as closing:
            closing.start_soon(server.aclose)
            assert (await peer.receive_frame()).opcode == CLOSE
            await peer.send(data + frame(CLOSE, close_payload(1000), mask=True))
            await peer.stream.aclose()
        assert turns() >= LEAST_TURNS
    assert server.closed is not None
    assert server.closed.code == 1000
