"""Compression of messages (RFC 7692): the codec, and the extension for wsproto."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import sys
import time
import tracemalloc
import zlib
from types import SimpleNamespace
from typing import Any, Callable, Iterator
from unittest import mock

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason, Opcode

from support.deflating import (
    AGREED,
    AGREED_WITHOUT_TAKEOVER,
    RSV1,
    RSV2,
    TAIL,
    agreed,
    client,
    connection,
    frame,
    pieces,
    random_bytes,
    received,
    server,
)
from trio_websocket._sansio import deflate as _deflate
from trio_websocket._sansio.deflate import (
    DecompressedTooLarge,
    DeflateExtension,
    InvalidData,
)
from trio_websocket._sansio.extensions import (
    DeflateParameters,
    PerMessageDeflate,
)

pytestmark = pytest.mark.usefixtures("zlib_library")

HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")  # "Hello" (RFC 7692, 7.2.3.1)
HELLO_AGAIN = bytes.fromhex("f2 00 11 00 00")  # with the window of the first (7.2.3.2)
HELLO_STORED = bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")  # 7.2.3.3
HELLO_FINAL = bytes.fromhex("f3 48 cd c9 c9 07 00 00")  # 7.2.3.4
HELLO_IN_TWO = bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")  # 7.2.3.5
EMPTY = b"\x00"  # 7.2.3.6


BOTH = pytest.mark.parametrize("agreed", [AGREED, AGREED_WITHOUT_TAKEOVER])


# -- the zlib library in use


def library_of(*, no_zlib_ng: str = "", zlib_ng: object = None) -> object:
    """Return the library that the module uses in this environment, with this package installed."""
    spec = importlib.util.spec_from_file_location(
        "trio_websocket._sansio.deflate", _deflate.__file__
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    modules: dict[str, Any] = {"zlib_ng": zlib_ng}
    environment = {"TRIO_WEBSOCKET_NO_ZLIB_NG": no_zlib_ng}
    with mock.patch.dict(sys.modules, modules), mock.patch.dict(os.environ, environment):
        spec.loader.exec_module(module)
    return vars(module)["zlib"]


def test_deflate_uses_zlib_ng_if_installed() -> None:
    package = SimpleNamespace(zlib_ng=object())
    assert library_of(zlib_ng=package) is package.zlib_ng
    assert library_of(zlib_ng=None) is zlib


def test_deflate_environment_variable_selects_zlib() -> None:
    assert library_of(no_zlib_ng="1", zlib_ng=SimpleNamespace(zlib_ng=object())) is zlib


# -- negotiated parameters


def test_inflate_client_window_of_8_works() -> None:
    # The peer's messages can be decompressed, even if its zlib uses 9 bits for 8.
    text = random_bytes(300)
    packed = client(agreed(9, 9)).deflate(text * 2)
    assert server(agreed(8, 9)).inflate(packed, math.inf) == text * 2


def test_inflate_client_window_default_is_15() -> None:
    text = random_bytes(2**14)
    assert server(agreed(15, 10)).inflate(client().deflate(text * 2), math.inf) == text * 2


# -- compressing


@pytest.mark.parametrize("make", [client, server])
def test_deflate_examples_of_rfc(make: Any) -> None:
    codec = make()
    assert codec.deflate(b"Hello") == HELLO
    assert codec.deflate(b"Hello") == HELLO_AGAIN
    codec = make(AGREED_WITHOUT_TAKEOVER)
    assert codec.deflate(b"Hello") == HELLO
    assert codec.deflate(b"Hello") == HELLO


@BOTH
def test_deflate_empty_message_is_one_byte(agreed: DeflateParameters) -> None:
    codec = server(agreed)
    assert codec.deflate(b"") == EMPTY
    assert codec.deflate(b"") == EMPTY
    codec.deflate(b"Hello")
    assert codec.deflate(b"") == EMPTY
    assert codec.deflate_chunk(b"", is_last=False) == b""
    assert codec.deflate_chunk(b"", is_last=False) == b""
    assert codec.deflate_chunk(b"", is_last=True) == EMPTY


@pytest.mark.parametrize("level", [-1, *range(10)])
def test_deflate_at_all_levels(level: int) -> None:
    settings = PerMessageDeflate(level=level)
    sender, receiver = server(settings=settings), client()
    for payload in (b"", b"Hello", bytes(10**5), random_bytes(10**5), b"", b"Hello"):
        packed = sender.deflate(payload)
        assert not packed.endswith(TAIL)
        assert receiver.inflate(packed, len(payload)) == payload


def test_deflate_uses_own_window() -> None:
    # Data 2 KiB before is in a window of 12 bits, but not in one of 9.
    text = random_bytes(2**11) * 2
    narrow_client, narrow_server = agreed(9, 12), agreed(12, 9)
    assert (
        len(server(narrow_client).deflate(text)) < 3000 < len(client(narrow_client).deflate(text))
    )
    assert (
        len(client(narrow_server).deflate(text)) < 3000 < len(server(narrow_server).deflate(text))
    )


def test_inflate_uses_window_of_peer() -> None:
    codec = client(agreed(9, 12))
    text = random_bytes(2**11)
    sender = server(agreed(9, 12))
    for _ in range(3):
        assert codec.inflate(sender.deflate(text), math.inf) == text
    # A window of 9 bits does not contain data 2 KiB before.
    codec = server(agreed(9, 12))
    sender = server(agreed(9, 12))
    assert codec.inflate(sender.deflate(text), math.inf) == text
    with pytest.raises(InvalidData, match="too far back"):
        codec.inflate(sender.deflate(text), math.inf)


def test_deflate_context_takeover_per_side() -> None:
    codec = client(agreed(client_resets=True))
    assert [codec.deflate(b"Hello") for _ in range(2)] == [HELLO, HELLO]
    assert [codec.inflate(data, 5) for data in (HELLO, HELLO_AGAIN)] == [b"Hello"] * 2
    codec = server(agreed(client_resets=True))
    assert [codec.deflate(b"Hello") for _ in range(2)] == [HELLO, HELLO_AGAIN]
    assert codec.inflate(HELLO, 5) == b"Hello"
    with pytest.raises(InvalidData):
        codec.inflate(HELLO_AGAIN, 5)


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], tuple[int, int]]]:
    """Yield a function that returns the block's memory in Python: the current size and the peak."""
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


def test_deflate_codec_frees_memory() -> None:
    codec = client(AGREED_WITHOUT_TAKEOVER)
    with traced() as memory:
        codec.inflate(codec.deflate(bytes(10**5)), 10**5)
        assert memory()[0] < 1000
    # Python does not count the memory that zlib itself allocates.
    assert vars(codec)["_compressor"] is None
    assert vars(codec)["_decompressor"] is None
    assert vars(client())["_compressor"] is None
    assert vars(client())["_decompressor"] is None


# -- decompressing


@pytest.mark.parametrize("make", [client, server])
@BOTH
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (HELLO, b"Hello"),
        (HELLO_STORED, b"Hello"),
        (HELLO_FINAL, b"Hello"),
        (HELLO_IN_TWO, b"Hello"),
        (EMPTY, b""),
        (b"\x02\x00", b""),  # an empty block that is not stored
        (b"", b""),  # invalid, but has only one meaning
        (HELLO_FINAL[:-1], b"Hello"),  # invalid, but has only one meaning
        (HELLO_FINAL[:-1] + HELLO, b"HelloHello"),
        (HELLO_FINAL[:-1] + HELLO_FINAL, b"HelloHello"),
        (HELLO_FINAL[:-1] * 1000 + EMPTY, b"Hello" * 1000),
        (EMPTY + TAIL + HELLO, b"Hello"),
        (HELLO + TAIL + HELLO_AGAIN, b"HelloHello"),
        (HELLO + TAIL + EMPTY, b"Hello"),  # a sender that does not remove the tail
        (HELLO + (TAIL + EMPTY) * 1000, b"Hello"),
        (HELLO + TAIL + b"\x03\x00", b"Hello"),
        (b"\x01\x05\x00\xfa\xffHello", b"Hello"),  # stored and final
    ],
)
def test_inflate_valid_payloads(
    make: Any, agreed: DeflateParameters, payload: bytes, message: bytes
) -> None:
    codec = make(agreed)
    for _ in range(3):
        assert codec.inflate(payload, len(message)) == message
        assert not codec.has_more
        assert pieces(codec, [payload[i : i + 1] for i in range(len(payload))], 1) == message
        assert codec.inflate(HELLO, 5) == b"Hello"
        if not (agreed.client_no_context_takeover):
            assert codec.inflate(HELLO_AGAIN, 5) == b"Hello"


@BOTH
@pytest.mark.parametrize(
    "payload",
    [
        HELLO[:-1],
        HELLO[:-2],
        HELLO + TAIL,
        HELLO_STORED[:-3],
        HELLO_FINAL[:-2],
        HELLO_FINAL + TAIL,
        b"\xff",
        b"\x06",
        b"\x07",
        b"Hello",
        b"\x00\x05\x00\xfa\xfe",
        HELLO_AGAIN,
        HELLO_FINAL[:-1] + HELLO_AGAIN,
    ],
)
def test_inflate_invalid_payload_raises(agreed: DeflateParameters, payload: bytes) -> None:
    with pytest.raises(InvalidData, match=r"^the message can't be inflated: "):
        client(agreed).inflate(payload, math.inf)
    with pytest.raises(InvalidData, match=r"^the message can't be inflated: "):
        pieces(client(agreed), [payload[:1], payload[1:]], 100)


def test_inflate_up_to_max_length() -> None:
    for size in (0, 1, 1000, 2**16, 2**16 + 1):
        packed = server().deflate(bytes(size))
        assert client().inflate(packed, size) == bytes(size)
        assert client().inflate(packed, size + 0.5) == bytes(size)
        assert client().inflate(packed, math.inf) == bytes(size)
        if size:
            with pytest.raises(
                DecompressedTooLarge, match=f"inflates to more than {size - 1} bytes$"
            ):
                client().inflate(packed, size - 1)
            with pytest.raises(DecompressedTooLarge):
                client().inflate(packed, size - 0.5)


def test_inflate_bomb_uses_bounded_memory() -> None:
    bomb = server().deflate(bytes(2**24))
    assert len(bomb) < 2**15
    codec = client()
    start = time.process_time()
    with traced() as memory:
        with pytest.raises(DecompressedTooLarge):
            codec.inflate(bomb, 2**20)
        assert memory()[1] < 3 * 2**20
    assert time.process_time() - start < 0.5


def test_inflate_bombs_with_context_takeover() -> None:
    sender, receiver = server(), client()
    for _ in range(4):
        packed = sender.deflate(bytes(2**20))
        assert receiver.inflate(packed, 2**20) == bytes(2**20)
    with pytest.raises(DecompressedTooLarge):
        receiver.inflate(sender.deflate(bytes(2**20 + 1)), 2**20)


@pytest.mark.parametrize(
    ("blocks", "end"),
    [
        (b"\x03\x00", b""),  # final
        (b"\x00\x00\x00\xff\xff", EMPTY),  # stored
        (b"\x02\x00\x00\x00\xff\xff", EMPTY),  # with codes, and stored
    ],
)
def test_inflate_many_empty_blocks_in_linear_time(blocks: bytes, end: bytes) -> None:
    payload = blocks * 2**17 + end
    start = time.process_time()
    assert client().inflate(payload, 0) == b""
    assert pieces(client(), [payload], 1) == b""
    assert time.process_time() - start < 5


def test_inflate_chunk_small_chunks_in_linear_time() -> None:
    packed = server().deflate(bytes(2**22) + random_bytes(2**18))
    start = time.process_time()
    assert len(pieces(client(), [packed], 100)) == 2**22 + 2**18
    assert time.process_time() - start < 5


def test_inflate_chunk_uses_bounded_memory() -> None:
    sender, receiver = server(), client()
    size = 0
    with traced() as memory:
        for number in range(65):
            data = sender.deflate_chunk(bytes(2**20 if number < 64 else 0), is_last=number == 64)
            size += len(receiver.inflate_chunk(data, is_last=number == 64, max_length=2**14))
            while receiver.has_more:
                size += len(receiver.inflate_chunk(b"", is_last=number == 64, max_length=2**14))
        assert memory()[1] < 2**21
    assert size == 2**26
    assert receiver.inflate(sender.deflate(b"Hello"), 5) == b"Hello"


def test_inflate_chunk_is_last_once_is_enough() -> None:
    codec = client()
    parts = [codec.inflate_chunk(HELLO, is_last=True, max_length=2)]
    while codec.has_more:
        parts.append(codec.inflate_chunk(b"", is_last=False, max_length=2))
    assert [*filter(None, parts)] == [b"He", b"ll", b"o"]


@BOTH
def test_inflate_chunk_whole_message(agreed: DeflateParameters) -> None:
    sender, receiver = server(agreed), client(agreed)
    for text in (b"Hello" * 100, random_bytes(300), bytes(10**5), b"Hello", b"!"):
        packed = sender.deflate(text)
        parts = [receiver.inflate_chunk(packed, is_last=True, max_length=50)]
        while receiver.has_more:
            parts.append(receiver.inflate_chunk(b"", is_last=True, max_length=50))
        assert b"".join(parts) == text


@BOTH
def test_inflate_chunk_cut_off_message_raises(
    agreed: DeflateParameters,
) -> None:
    receiver = client(agreed)
    assert receiver.inflate_chunk(HELLO[:-1], is_last=True, max_length=2) == b"He"
    with pytest.raises(InvalidData):
        receiver.inflate_chunk(b"", is_last=True, max_length=50)


@BOTH
def test_inflate_chunk_after_final_block(agreed: DeflateParameters) -> None:
    codec = client(agreed)
    for _ in range(2):
        assert codec.inflate_chunk(HELLO_FINAL[:-1], is_last=False, max_length=50) == b"Hello"
        assert codec.inflate_chunk(HELLO, is_last=True, max_length=50) == b"Hello"
        assert codec.inflate(HELLO_FINAL, 5) == b"Hello"


def test_inflate_chunk_input_before_output_raises() -> None:
    codec = client()
    assert codec.inflate_chunk(HELLO, is_last=False, max_length=2) == b"He"
    with pytest.raises(AssertionError):
        codec.inflate_chunk(HELLO, is_last=False, max_length=2)
    with pytest.raises(AssertionError):
        codec.inflate_chunk(b"", is_last=False, max_length=0)


# -- the extension for wsproto


TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION


@pytest.mark.parametrize("size", [0, 1, 3])
def test_extension_mixed_frames_are_read(size: int) -> None:
    data = b"".join(
        [
            frame(TEXT, HELLO, rsv=RSV1),
            frame(TEXT, b"plain"),
            frame(BINARY, HELLO_AGAIN, rsv=RSV1),
            frame(BINARY, HELLO_FINAL[:3], fin=False, rsv=RSV1),
            frame(Opcode.PING, HELLO),
            frame(CONTINUATION, fin=False),
            frame(Opcode.PONG),
            frame(CONTINUATION, HELLO_FINAL[3:], fin=False),
            frame(CONTINUATION),
            frame(TEXT, b"pl", fin=False),
            frame(Opcode.PING, b""),
            frame(CONTINUATION, b"ain"),
            frame(TEXT, EMPTY, rsv=RSV1),
            frame(TEXT, fin=False, rsv=RSV1),
            frame(CONTINUATION, HELLO),
            frame(BINARY, b"", rsv=RSV1),
            frame(BINARY, b""),
            frame(TEXT, HELLO_IN_TWO, rsv=RSV1),
            frame(Opcode.CLOSE, b"\x03\xe8"),
        ]
    )
    assert received(connection(), data, size=size) == [
        "Hello",
        "plain",
        b"Hello",
        (Ping, HELLO),
        (Pong, b""),
        b"Hello",
        (Ping, b""),
        "plain",
        "",
        "Hello",
        b"",
        b"",
        "Hello",
        1000,
    ]


def test_extension_client_reads_server_messages() -> None:
    ws = connection(agreed=agreed(9, 15), is_client=True)
    text = random_bytes(2**14)
    sender = server(agreed(9, 15))
    data = b"".join(frame(BINARY, sender.deflate(text), rsv=RSV1, key=None) for _ in range(3))
    assert received(ws, data) == [text] * 3


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, HELLO, fin=False, rsv=RSV1) + frame(CONTINUATION, HELLO, rsv=RSV1),
        frame(TEXT, b"plain", fin=False) + frame(CONTINUATION, HELLO, rsv=RSV1),
        frame(CONTINUATION, HELLO, rsv=RSV1),
        frame(CONTINUATION, HELLO),
        frame(TEXT, HELLO, rsv=RSV1 | RSV2),
        frame(TEXT, HELLO, rsv=RSV2),
        frame(Opcode.PING, HELLO, rsv=RSV1),
        frame(Opcode.CLOSE, HELLO, rsv=RSV1),
        frame(TEXT, HELLO, fin=False, rsv=RSV1) + frame(Opcode.PONG, HELLO, rsv=RSV1),
        # The error is found before the payload of the second message is decompressed.
        frame(TEXT, HELLO, fin=False, rsv=RSV1) + frame(TEXT, b"\xff", rsv=RSV1),
        frame(TEXT, HELLO, fin=False, rsv=RSV1) + frame(TEXT, HELLO),
        frame(TEXT, b"plain", fin=False) + frame(BINARY, b"\xff", rsv=RSV1),
    ],
)
def test_extension_protocol_error_closes_with_1002(data: bytes, size: int) -> None:
    assert received(connection(), data, size=size) == [CloseReason.PROTOCOL_ERROR]


@BOTH
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    "data",
    [
        frame(BINARY, b"\xff", rsv=RSV1),
        frame(BINARY, HELLO[:-1], rsv=RSV1),
        frame(BINARY, HELLO[:3], fin=False, rsv=RSV1) + frame(CONTINUATION),
        frame(BINARY, HELLO_AGAIN, rsv=RSV1),
        frame(TEXT, server().deflate(b"\xe4"), rsv=RSV1),  # not UTF-8
    ],
)
def test_extension_bad_data_closes_with_1007(
    data: bytes, size: int, agreed: DeflateParameters
) -> None:
    codes = received(connection(agreed=agreed), data, size=size)
    assert codes == [CloseReason.INVALID_FRAME_PAYLOAD_DATA]


def test_extension_max_size_limits_each_message() -> None:
    data = frame(TEXT, HELLO, rsv=RSV1) + frame(TEXT, HELLO_AGAIN, rsv=RSV1)
    assert received(connection(5), data) == ["Hello", "Hello"]
    assert received(connection(5.5), data) == ["Hello", "Hello"]
    assert received(connection(4), data) == [CloseReason.MESSAGE_TOO_BIG]
    assert received(connection(0), data) == [CloseReason.MESSAGE_TOO_BIG]
    assert received(connection(0), frame(TEXT, EMPTY, rsv=RSV1)) == [""]


def test_extension_max_size_lowered_below_current() -> None:
    extension = DeflateExtension(server())
    ws = Connection(ConnectionType.SERVER, extensions=[extension])
    assert received(ws, frame(TEXT, HELLO, fin=False, rsv=RSV1)) == []
    extension.set_limit(3)
    assert received(ws, frame(CONTINUATION)) == [CloseReason.MESSAGE_TOO_BIG]


@pytest.mark.parametrize("size", [1, 16, 2**14])
def test_extension_bomb_in_fragments_is_refused(size: int) -> None:
    bomb = client().deflate(bytes(2**24))
    first, *rest = (bomb[at : at + size] for at in range(0, len(bomb), size))
    data = frame(BINARY, first, fin=False, rsv=RSV1)
    data += b"".join(frame(CONTINUATION, part, fin=False) for part in rest)
    ws = connection(2**20)
    with traced() as memory:
        assert received(ws, data, size=2**12)[-1:] == [CloseReason.MESSAGE_TOO_BIG]
        assert memory()[1] < 6 * 2**20  # wsproto copies what was decompressed


def test_extension_leaves_sent_frames_alone() -> None:
    ws = connection(is_client=True)
    plain = Connection(ConnectionType.SERVER)
    data = ws.send(TextMessage(data="Hello")) + ws.send(Ping(payload=b"!"))
    assert received(plain, bytes(data)) == ["Hello", (Ping, b"!")]


def test_extension_takes_no_part_in_handshake() -> None:
    extension = DeflateExtension(server())
    assert extension.enabled()
    assert extension.name == "permessage-deflate"
    assert extension.offer() is False
