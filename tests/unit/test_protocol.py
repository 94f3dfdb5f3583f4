"""The open connection: frames in, events out, and frames out.

The encoder is independent of the library and of wsproto. The tests compare the library's events
with the events of wsproto alone.
"""

from __future__ import annotations

import math
from typing import Callable

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, Pong, TextMessage
from wsproto.utilities import RemoteProtocolError

from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from support.protocols import (
    CLIENT,
    SERVER,
    both_paths,
    both_sides,
    close_payload,
    events_of,
    open_protocol,
    parsed,
    peer_of,
    received,
    sent_close,
)
from trio_websocket import CloseReason, ConnectionClosed
from trio_websocket._sansio.costs import WAIT_FOR_WHOLE_FRAME_BYTES as LARGE
from trio_websocket._sansio.events import MessageChunk, Status
from trio_websocket._sansio.protocol import Protocol

ENDED = Status.ENDED
NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

KEY = b"\x01\x82\x00\xff"


def close_frame(code: int, reason: bytes = b"", key: bytes | None = None) -> bytes:
    return frame(CLOSE, close_payload(code, reason), key=key)


def key_to(side: ConnectionType) -> bytes | None:
    """Return the masking key of frames to this side."""
    return KEY if side is SERVER else None


# Receiving messages


@both_sides
@both_paths
@pytest.mark.parametrize(
    ("opcode", "payload", "message"),
    [
        (TEXT, b"", ""),
        (TEXT, b"hello", "hello"),
        (TEXT, "grüß 🙂".encode(), "grüß 🙂"),
        (TEXT, b"\0", "\0"),
        (BINARY, b"", b""),
        (BINARY, b"\x00\xff", b"\x00\xff"),
        (BINARY, b"x" * 125, b"x" * 125),
        (BINARY, b"x" * 126, b"x" * 126),
        (BINARY, b"x" * 1023, b"x" * 1023),
        (BINARY, b"x" * 1024, b"x" * 1024),
        (BINARY, b"x" * 65535, b"x" * 65535),
        (BINARY, b"x" * 65536, b"x" * 65536),
    ],
    ids=lambda value: f"{value!r:.12}",
)
def test_next_event_frame_is_message(
    side: ConnectionType, fast: bool, opcode: int, payload: bytes, message: str | bytes
) -> None:
    protocol = open_protocol(side, fast=fast)
    event, last = received(protocol, frame(opcode, payload, key=key_to(side)))
    assert (event, type(event), last) == (message, type(message), NEED_DATA)


@both_sides
@both_paths
def test_next_event_fragments_are_joined(side: ConnectionType, fast: bool) -> None:
    key = key_to(side)
    data = (
        frame(TEXT, b"gr\xc3", fin=False, key=key)
        + frame(CONTINUATION, b"", fin=False, key=key)
        + frame(CONTINUATION, b"\xbc\xc3\x9f", key=key)
    )
    assert received(open_protocol(side, fast=fast), data) == ["grüß", NEED_DATA]


@both_paths
def test_next_event_fragmented_messages_in_turn(fast: bool) -> None:
    data = b"".join(
        frame(opcode, text, fin=False) + frame(CONTINUATION, text)
        for opcode, text in [(BINARY, b"a"), (TEXT, b"b"), (BINARY, b"c"), (TEXT, b"d")]
    )
    events = received(open_protocol(CLIENT, fast=fast), data)
    assert events == [b"aa", "bb", b"cc", "dd", NEED_DATA]


@both_sides
@both_paths
def test_next_event_control_frames_between_fragments(side: ConnectionType, fast: bool) -> None:
    key = key_to(side)
    data = (
        frame(BINARY, b"a", fin=False, key=key)
        + frame(PING, b"1", key=key)
        + frame(PONG, b"2" * 125, key=key)
        + frame(CONTINUATION, b"b", key=key)
    )
    assert received(open_protocol(side, fast=fast), data) == [
        ("ping", b"1"),
        ("pong", b"2" * 125),
        b"ab",
        NEED_DATA,
    ]


def test_next_event_fragment_is_progress() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"a", fin=False))
    assert [protocol.next_event(), protocol.next_event()] == [PARTIAL, NEED_DATA]


def test_next_event_decodes_one_message() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b"))
    assert protocol.next_event() == "a"
    assert protocol.reader.undecoded == len(frame(TEXT, b"b"))
    assert protocol.next_event() == "b"
    assert protocol.reader.undecoded == 0


def test_receive_data_before_next_event() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b")[:1])
    protocol.reader.receive_data(frame(TEXT, b"b")[1:])
    assert list(events_of(protocol)) == ["a", "b", NEED_DATA]


@pytest.fixture
def _unfed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that wsproto gets no bytes."""

    def receive_data(connection: Connection, data: bytes | None) -> None:  # its signature
        assert not data, f"{data!r} did not take the fast path"

    monkeypatch.setattr(Connection, "receive_data", receive_data)


@pytest.mark.usefixtures("_unfed")
@both_sides
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 255, 256, 65535, 65536])
def test_next_event_whole_frame_takes_fast_path(
    side: ConnectionType, opcode: int, size: int
) -> None:
    protocol = open_protocol(side, max_message_size=size)
    data = frame(opcode, b"x" * size, key=key_to(side))
    message = "x" * size if opcode == TEXT else b"x" * size
    assert received(protocol, data + data[:1]) == [message, NEED_DATA]
    assert received(protocol, data[1:] + data) == [message, message, NEED_DATA]


@pytest.mark.usefixtures("_unfed")
@pytest.mark.parametrize(
    "data", [frame(TEXT, b"x"), frame(TEXT, b"x", fin=False), frame(PING)], ids=lambda data: data
)
def test_next_event_slow_path_is_wsproto(data: bytes) -> None:
    protocol = open_protocol(CLIENT, fast=False)
    protocol.reader.receive_data(data)
    with pytest.raises(AssertionError, match="did not take the fast path"):
        protocol.next_event()


# Errors of the peer

GOOD = "x" * 10
BAD_FRAMES = [
    (frame(0x3, b"x"), 1002),
    (frame(0x7), 1002),
    (frame(0xB, b"x"), 1002),
    (frame(0xF), 1002),
    (frame(TEXT, b"x", rsv=1), 1002),
    (frame(TEXT, b"x", rsv=2), 1002),
    (frame(BINARY, b"x", rsv=4), 1002),
    (frame(PING, rsv=4), 1002),
    (frame(PING, fin=False), 1002),
    (frame(PING, b"x" * 126), 1002),
    (frame(PONG, b"x" * 65536), 1002),
    (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    (frame(TEXT, b"x", width=2), 1002),
    (frame(TEXT, b"x", width=8), 1002),
    (frame(BINARY, b"", length=2**63), 1002),
    (frame(CONTINUATION, b"x"), 1002),
    (frame(CONTINUATION, b"x", fin=False), 1002),
    (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    (frame(TEXT, b"\xff"), 1007),
    (frame(TEXT, b"\xc3"), 1007),
    (frame(TEXT, b"\xed\xa0\x80"), 1007),
    (frame(TEXT, b"a\xff", fin=False), 1007),
    (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"x"), 1007),
    (frame(CLOSE, b"\x03"), 1002),
    (close_frame(0), 1002),
    (close_frame(999), 1002),
    (close_frame(1004), 1002),
    (close_frame(1005), 1002),
    (close_frame(1006), 1002),
    (close_frame(1015), 1002),
    (close_frame(1016), 1002),
    (close_frame(2999), 1002),
    (close_frame(5000), 1002),
    (close_frame(1000, b"\xff"), 1007),
    (close_frame(1014, b"\xff"), 1007),
]


@both_paths
@pytest.mark.parametrize(("data", "code"), BAD_FRAMES, ids=lambda value: f"{value!r:.30}")
def test_next_event_bad_frame_fails(fast: bool, data: bytes, code: int) -> None:
    protocol = open_protocol(CLIENT, fast=fast)
    events = received(protocol, frame(TEXT, b"before") + data + frame(TEXT, b"after"))
    assert events == ["before", ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == code


@both_paths
@pytest.mark.parametrize(
    ("side", "key"), [(SERVER, None), (CLIENT, KEY)], ids=["unmasked", "masked"]
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_next_event_wrong_mask_fails(
    side: ConnectionType, key: bytes | None, opcode: int, fast: bool
) -> None:
    protocol = open_protocol(side, fast=fast)
    assert received(protocol, frame(opcode, close_payload(1000, b"abcd"), key=key)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), side)[0] == 1002


@both_paths
@pytest.mark.parametrize(
    ("side", "data"),
    [
        (CLIENT, frame(0x3, length=5)),
        (CLIENT, frame(0xB, length=5)),
        (CLIENT, frame(TEXT, length=5, rsv=1)),
        (CLIENT, frame(TEXT, length=5, key=KEY)),
        (CLIENT, frame(PING, length=5, rsv=4)),
        (CLIENT, frame(PING, length=5, fin=False)),
        (CLIENT, frame(PING, length=126)),
        (CLIENT, frame(CLOSE, length=65536)),
        (CLIENT, frame(PING, length=5, key=KEY)),
        (SERVER, frame(TEXT, length=5)),
        (SERVER, frame(PING, length=5)),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_next_event_bad_first_two_bytes_fail(side: ConnectionType, data: bytes, fast: bool) -> None:
    protocol = open_protocol(side, fast=fast)
    assert received(protocol, data[:1]) == [NEED_DATA]
    assert received(protocol, data[1:2]) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), side)[0] == 1002


@both_paths
@pytest.mark.parametrize(
    ("side", "data"),
    [
        (SERVER, frame(BINARY, bytes(LARGE))),
        (CLIENT, frame(BINARY, bytes(LARGE), key=KEY)),
        (CLIENT, frame(BINARY, bytes(LARGE), width=8)),
    ],
    ids=["unmasked", "masked", "wide"],
)
def test_next_event_bad_large_frame_in_parts_fails(
    side: ConnectionType, data: bytes, fast: bool
) -> None:
    protocol = open_protocol(side, fast=fast)
    assert received(protocol, data[:LARGE], data[LARGE:])[-1] is ENDED
    assert sent_close(protocol.take_final_bytes(), side)[0] == 1002


@both_paths
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, PING])
def test_next_event_empty_frame_without_mask_fails(opcode: int, fast: bool) -> None:
    protocol = open_protocol(SERVER, fast=fast)
    assert received(protocol, frame(opcode) + bytes(200)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), SERVER)[0] == 1002


def test_error_of_failed_connection_says_why() -> None:
    protocol = open_protocol(CLIENT)
    received(protocol, frame(TEXT, b"\xff"))
    assert isinstance(protocol.closing.error, RemoteProtocolError)
    assert "invalid start byte" in str(protocol.closing.error)
    assert protocol.closing.sent == CloseReason(1007, str(protocol.closing.error))
    assert protocol.closing.rcvd is None
    assert protocol.closing.reason == protocol.closing.sent
    assert protocol.closing.ended
    assert not protocol.closing.is_open


def test_take_final_bytes_close_says_error() -> None:
    protocol = open_protocol(SERVER)
    received(protocol, frame(0x3, key=KEY))
    assert sent_close(protocol.take_final_bytes(), SERVER) == (1002, str(protocol.closing.error))


def test_next_event_invalid_text_fails_early() -> None:
    protocol = open_protocol(CLIENT)
    assert received(protocol, frame(TEXT, b"\xff" + b"x" * 1000)[:5]) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1007


def test_next_event_after_end_decodes_nothing() -> None:
    protocol = open_protocol(CLIENT)
    received(protocol, frame(0x3))
    assert received(protocol, frame(TEXT, b"late")) == [ENDED]


# Limits


@both_sides
@both_paths
def test_max_message_size_equal_is_accepted(side: ConnectionType, fast: bool) -> None:
    protocol = open_protocol(side, fast=fast, max_message_size=10)
    data = frame(TEXT, b"x" * 10, key=key_to(side))
    assert received(protocol, data) == ["x" * 10, NEED_DATA]


@both_sides
@both_paths
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [11, 200, 70000, 2**62])
def test_max_message_size_exceeded_fails_at_head(
    side: ConnectionType, fast: bool, opcode: int, length: int
) -> None:
    protocol = open_protocol(side, fast=fast, max_message_size=10)
    head = frame(opcode, length=length, key=key_to(side))
    if side is SERVER:
        head = head[:-4]  # the mask says nothing about the size
    assert received(protocol, head[:-1]) == [NEED_DATA]
    assert received(protocol, head[-1:]) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), side) == (
        1009,
        f"message of {length} bytes exceeds max_message_size=10",
    )


@both_paths
def test_max_message_size_counts_all_fragments(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=10)
    first = frame(TEXT, b"x" * 6, fin=False)
    assert received(protocol, first) == [NEED_DATA]
    assert received(protocol, frame(CONTINUATION, length=5)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1009


@both_paths
def test_max_message_size_is_per_message(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=10)
    message = frame(TEXT, b"x" * 6, fin=False) + frame(CONTINUATION, b"x" * 4)
    assert received(protocol, message * 3) == ["x" * 10] * 3 + [NEED_DATA]


@both_paths
def test_max_message_size_counts_bytes(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=10)
    assert received(protocol, frame(TEXT, ("ä" * 6).encode())) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1009


@both_paths
def test_max_message_size_0_accepts_empty_message(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=0)
    assert received(protocol, frame(TEXT), frame(BINARY, b"x")) == ["", ENDED]


def test_max_message_size_excludes_control_frames() -> None:
    protocol = open_protocol(CLIENT, max_message_size=0, max_fragments=1)
    assert received(protocol, frame(PING, b"x" * 125) * 3)[-1] is NEED_DATA


@pytest.mark.parametrize("width", [2, 8])
def test_max_message_size_after_length_not_shortest(width: int) -> None:
    protocol = open_protocol(CLIENT, max_message_size=10)
    assert received(protocol, frame(BINARY, length=100, width=width)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1002
    assert "limit" not in str(protocol.closing.error)


@pytest.mark.parametrize("last", [b"", b"x"])
def test_max_fragments_exceeded_fails(last: bytes) -> None:
    protocol = open_protocol(CLIENT, max_fragments=3, max_message_size=10)
    allowed = frame(TEXT, b"x" * 9, fin=False) + frame(CONTINUATION, fin=False) * 2
    assert received(protocol, allowed) == [NEED_DATA]
    assert received(protocol, frame(CONTINUATION, last)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT) == (
        1009,
        "message exceeds max_fragments=3",
    )


@both_paths
def test_max_fragments_is_per_message(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_fragments=3)
    message = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION)
    assert received(protocol, message * 3) == ["a"] * 3 + [NEED_DATA]


@both_paths
def test_max_fragments_0_accepts_no_message(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_fragments=0)
    assert received(protocol, frame(TEXT, b"x")) == [ENDED]


def test_max_fragments_200_000_empty_frames_fail() -> None:
    protocol = open_protocol(CLIENT, max_fragments=1000)
    protocol.reader.receive_data(frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 200_000)
    taken = 0
    while protocol.next_event() is PARTIAL:
        taken += 1
    assert taken == 1000
    assert protocol.closing.ended
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1009


def test_max_message_size_infinite_accepts_all() -> None:
    protocol = open_protocol(CLIENT, max_message_size=math.inf, max_fragments=math.inf)
    assert received(protocol, frame(BINARY, bytes(2**21))) == [bytes(2**21), NEED_DATA]


@both_paths
@pytest.mark.parametrize(
    "data",
    [
        frame(0x3, length=1000),
        frame(TEXT, length=1000, rsv=1),
        frame(PING, length=126),
        frame(PING, length=1000),
        frame(TEXT, length=1000, key=KEY),
        frame(TEXT, length=2**63),
        frame(CONTINUATION, b"x" * 20),  # of no message
        frame(TEXT, b"x" * 6, fin=False) + frame(TEXT, b"x" * 6),  # another message
    ],
)
def test_max_message_size_after_other_errors(fast: bool, data: bytes) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=10)
    assert received(protocol, data) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), CLIENT)[0] == 1002


def test_max_message_size_exceeded_twice_fails_once() -> None:
    protocol = open_protocol(SERVER, max_message_size=10)
    assert received(protocol, frame(BINARY, bytes(11), key=KEY) * 2) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), SERVER)[0] == 1009
    assert protocol.take_final_bytes() == b""
    assert protocol.next_event() is ENDED


def test_max_message_size_exceeded_gives_earlier_messages() -> None:
    protocol = open_protocol(CLIENT, max_message_size=10)
    data = frame(TEXT, b"first") + frame(PING, b"1") + frame(BINARY, bytes(11))
    assert received(protocol, data) == ["first", ("ping", b"1"), ENDED]


# Closing


def test_protocol_new_is_open() -> None:
    protocol = open_protocol(CLIENT)
    assert protocol.closing.is_open
    assert not protocol.closing.ended
    assert protocol.closing.reason is None
    assert protocol.take_final_bytes() == b""


VALID_CODES = [1000, 1001, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]


@both_sides
@pytest.mark.parametrize("code", VALID_CODES)
def test_receive_close_is_echoed(side: ConnectionType, code: int) -> None:
    protocol = open_protocol(side)
    data = close_frame(code, "grüß".encode(), key=key_to(side))
    assert received(protocol, data + frame(PING, key=key_to(side))) == [ENDED]
    assert (
        protocol.closing.rcvd
        == protocol.closing.sent
        == protocol.closing.reason
        == CloseReason(code, "grüß")
    )
    assert protocol.closing.error is None
    assert protocol.closing.ended
    assert not protocol.closing.is_open
    farewell = protocol.take_final_bytes()
    if side is SERVER:
        assert farewell == close_frame(code, "grüß".encode())
    else:
        assert farewell[:2] == bytes([0x88, 0x80 | 2 + len("grüß".encode())])


@both_sides
def test_receive_close_without_code_is_echoed(side: ConnectionType) -> None:
    protocol = open_protocol(side)
    assert received(protocol, frame(CLOSE, key=key_to(side))) == [ENDED]
    assert protocol.closing.rcvd == protocol.closing.sent == CloseReason(1005, None)
    assert sent_close(protocol.take_final_bytes(), side) == (1005, "")


def test_receive_close_without_reason_has_none() -> None:
    protocol = open_protocol(CLIENT)
    received(protocol, close_frame(1000))
    assert protocol.closing.rcvd == CloseReason(1000, None)


@both_sides
@both_paths
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
def test_receive_close_1014_is_accepted(side: ConnectionType, fast: bool, cut: int) -> None:
    protocol = open_protocol(side, fast=fast)
    data = close_frame(1014, b"upstream", key=key_to(side))
    assert received(protocol, data[:cut], data[cut:]) == [ENDED]
    assert protocol.closing.rcvd == CloseReason(1014, "upstream")


def test_receive_data_like_close_1014_is_data() -> None:
    protocol = open_protocol(CLIENT)
    code = close_payload(1014)
    data = frame(BINARY, code) + frame(PING, code) + close_frame(1014, b"in it: \x03")
    assert received(protocol, data) == [code, ("ping", code), ENDED]
    assert protocol.closing.rcvd == CloseReason(1014, "in it: \x03")


def test_receive_close_1014_as_answer() -> None:
    protocol = open_protocol(CLIENT)
    protocol.start_close(1000, None)
    assert received(protocol, close_frame(1014)) == [ENDED]
    assert protocol.closing.rcvd == CloseReason(1014, None)


@both_sides
@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (1000, None, (1000, "")),
        (4001, "out of credit", (4001, "out of credit")),
        (1011, "grüß", (1011, "grüß")),
        (1005, None, (1005, "")),
    ],
)
def test_close_sends_code_and_reason(
    side: ConnectionType, code: int, reason: str | None, said: tuple[int, str]
) -> None:
    protocol = open_protocol(side)
    assert sent_close(protocol.start_close(code, reason), side) == said
    assert protocol.closing.sent == protocol.closing.reason == CloseReason(code, reason)
    assert protocol.closing.rcvd is None
    assert not protocol.closing.is_open
    assert not protocol.closing.ended


def test_close_1014_is_sent() -> None:
    assert open_protocol(SERVER).start_close(1014, "upstream") == close_frame(1014, b"upstream")


def test_close_answered_ends() -> None:
    protocol = open_protocol(CLIENT)
    protocol.start_close(4001, "bye")
    assert received(protocol, close_frame(4001, b"bye")) == [ENDED]
    assert protocol.take_final_bytes() == b""
    assert protocol.closing.error is None


def test_close_crossing_keeps_both_reasons() -> None:
    protocol = open_protocol(CLIENT)
    protocol.start_close(4001, "ours")
    assert received(protocol, close_frame(4002, b"theirs")) == [ENDED]
    assert protocol.closing.reason == protocol.closing.sent == CloseReason(4001, "ours")
    assert protocol.closing.rcvd == CloseReason(4002, "theirs")
    assert protocol.take_final_bytes() == b""


@both_paths
def test_next_event_after_close_gives_only_pongs(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast)
    protocol.start_close(1000, None)
    data = (
        frame(TEXT, b"late")
        + frame(PING, b"1")
        + frame(PONG, b"2")
        + frame(BINARY, b"a", fin=False)
        + frame(PING, b"3")
        + frame(CONTINUATION, b"b")
        + close_frame(1000)
    )
    assert received(protocol, data) == [("pong", b"2"), ENDED]


def test_close_during_message_drops_it() -> None:
    protocol = open_protocol(CLIENT)
    assert received(protocol, frame(TEXT, b"a", fin=False)) == [NEED_DATA]
    protocol.start_close(1000, None)
    assert received(protocol, frame(CONTINUATION, b"b") + close_frame(1000)) == [ENDED]
    assert protocol.closing.rcvd == CloseReason(1000, None)


@both_paths
def test_close_then_oversize_message_is_dropped(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast, max_message_size=10, max_fragments=2)
    protocol.start_close(1000, None)
    fragments = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 5
    data = frame(BINARY, bytes(2000)) + fragments + frame(CONTINUATION, bytes(200))
    assert received(protocol, data, close_frame(1000)) == [ENDED]
    assert protocol.closing.rcvd == CloseReason(1000, None)
    assert protocol.closing.error is None


@both_paths
def test_close_then_bad_frame_ends(fast: bool) -> None:
    protocol = open_protocol(CLIENT, fast=fast)
    protocol.start_close(1000, "bye")
    assert received(protocol, frame(TEXT, b"\xff")) == [ENDED]
    assert protocol.take_final_bytes() == b""
    assert protocol.closing.sent == protocol.closing.reason == CloseReason(1000, "bye")
    assert protocol.closing.rcvd is None
    assert isinstance(protocol.closing.error, RemoteProtocolError)


def test_take_final_bytes_gives_them_once() -> None:
    protocol = open_protocol(CLIENT)
    received(protocol, close_frame(1000))
    assert protocol.take_final_bytes() != b""
    assert protocol.take_final_bytes() == b""


# The end of the stream


@pytest.mark.parametrize("data", [b"", frame(TEXT, b"abc")[:-1], frame(PING, b"abc")[:-1]])
def test_receive_eof_ends(data: bytes) -> None:
    protocol = open_protocol(CLIENT)
    assert received(protocol, data) == [NEED_DATA]
    protocol.receive_eof()
    assert protocol.reader.eof is not None
    assert protocol.next_event() is ENDED
    assert protocol.closing.reason == CloseReason(
        1006, "the peer ended the connection without a Close frame"
    )
    assert isinstance(protocol.closing.error, EOFError)
    assert protocol.take_final_bytes() == b""


def test_receive_eof_after_messages_gives_them() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"last") + frame(PING, b"1"))
    protocol.receive_eof()
    assert not protocol.closing.ended
    assert list(events_of(protocol)) == ["last", ("ping", b"1"), ENDED]


def test_receive_eof_after_close_is_closed() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(close_frame(1001))
    protocol.receive_eof()
    assert protocol.next_event() is ENDED
    assert protocol.closing.error is None
    assert protocol.closing.reason == CloseReason(1001, None)


def test_connection_lost_has_error_of_stream() -> None:
    protocol = open_protocol(CLIENT)
    cause = ConnectionResetError(104, "Connection reset by peer")
    protocol.receive_eof(cause)
    assert protocol.next_event() is ENDED
    assert protocol.closing.error is cause
    assert protocol.closing.reason == CloseReason(1006, str(cause))


def test_note_write_error_before_eof_is_the_error() -> None:
    protocol = open_protocol(CLIENT)
    error = BrokenPipeError("broken pipe")
    protocol.note_write_error(error)
    protocol.receive_eof()
    assert protocol.next_event() is ENDED
    assert protocol.closing.error is error


def test_note_write_error_read_error_takes_precedence() -> None:
    protocol = open_protocol(CLIENT)
    protocol.note_write_error(BrokenPipeError("broken pipe"))
    cause = ConnectionResetError("reset")
    protocol.receive_eof(cause)
    assert protocol.next_event() is ENDED
    assert protocol.closing.error is cause


def test_connection_lost_error_without_text_is_named() -> None:
    protocol = open_protocol(CLIENT)
    protocol.receive_eof(ConnectionResetError())
    protocol.next_event()
    assert protocol.closing.reason == CloseReason(1006, "ConnectionResetError")


def test_receive_eof_after_own_close_is_error() -> None:
    protocol = open_protocol(CLIENT)
    protocol.start_close(1000, None)
    protocol.receive_eof()
    assert protocol.next_event() is ENDED
    assert isinstance(protocol.closing.error, EOFError)
    assert protocol.closing.reason == CloseReason(1000, None)


def test_connection_lost_ends_despite_buffered_data() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"late"))
    cause = ConnectionAbortedError("gone")
    protocol.closing.lose(cause)
    assert protocol.next_event() is ENDED
    assert protocol.closing.error is cause
    assert protocol.closing.reason == CloseReason(1006, "gone")


def test_connection_lost_after_end_does_nothing() -> None:
    protocol = open_protocol(CLIENT)
    received(protocol, close_frame(1000))
    protocol.closing.lose(ConnectionAbortedError("gone"))
    assert protocol.closing.error is None


def test_exception_of_closed_has_both_closes() -> None:
    protocol = open_protocol(CLIENT)
    protocol.start_close(4001, "ours")
    received(protocol, close_frame(4002, b"theirs"))
    exc = protocol.closing.closed_error()
    assert isinstance(exc, ConnectionClosed)
    assert exc.reason == exc.sent == CloseReason(4001, "ours")
    assert exc.rcvd == CloseReason(4002, "theirs")
    assert exc.__cause__ is None


def test_exception_of_lost_has_cause() -> None:
    protocol = open_protocol(CLIENT)
    cause = ConnectionAbortedError("gone")
    protocol.closing.lose(cause)
    assert protocol.closing.closed_error().__cause__ is cause


# Sending

SIZES = [0, 1, 125, 126, 1023, 1024, 65535, 65536]


@both_sides
@pytest.mark.parametrize("size", SIZES)
def test_message_is_one_frame(side: ConnectionType, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    (event,) = parsed(open_protocol(side).writer.message(False, payload[:size]), peer_of(side))
    assert isinstance(event, BytesMessage)
    assert event.message_finished
    assert bytes(event.data) == payload[:size]


@both_sides
def test_message_str_is_text_frame(side: ConnectionType) -> None:
    (event,) = parsed(open_protocol(side).writer.message(True, "grüß".encode()), peer_of(side))
    assert isinstance(event, TextMessage)
    assert (event.data, event.message_finished) == ("grüß", True)


@pytest.mark.parametrize("size", SIZES)
def test_message_of_server_has_shortest_head(size: int) -> None:
    assert open_protocol(SERVER).writer.message(False, bytes(size)) == frame(BINARY, bytes(size))


@pytest.mark.parametrize("size", SIZES)
def test_message_of_client_has_shortest_head_and_mask(size: int) -> None:
    data = open_protocol(CLIENT).writer.message(False, bytes(size))
    head_size = len(frame(BINARY, bytes(size))) - size
    key = data[head_size : head_size + 4]
    assert data == frame(BINARY, bytes(size), key=key)


def test_message_of_client_masks_differ() -> None:
    protocol = open_protocol(CLIENT)
    assert len({protocol.writer.message(False, b"same") for _ in range(20)}) == 20


@both_sides
@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125])
def test_ping_is_sent(side: ConnectionType, payload: bytes) -> None:
    (event,) = parsed(open_protocol(side).writer.ping(payload), peer_of(side))
    assert isinstance(event, Ping)
    assert bytes(event.payload) == payload


@both_sides
@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 125])
def test_pong_is_sent(side: ConnectionType, payload: bytes) -> None:
    (event,) = parsed(open_protocol(side).writer.pong(payload), peer_of(side))
    assert isinstance(event, Pong)
    assert bytes(event.payload) == payload


# Any frames, in any chunks


@both_sides
@pytest.mark.parametrize(("limit", "code"), [(1, 1009), (2, 1007)])
def test_max_fragments_exceeded_before_text_is_checked(
    side: ConnectionType, limit: int, code: int
) -> None:
    key = key_to(side)
    # An empty fragment is complete when its head is complete.
    data = frame(TEXT, b"\xf0", fin=False, key=key) + frame(CONTINUATION, b"", key=key)
    for cut in range(len(data)):
        protocol = open_protocol(side, fast=True, max_fragments=limit)
        for chunk in (data[:cut], data[cut:]):
            received(protocol, chunk)
        assert sent_close(protocol.take_final_bytes(), side)[0] == code


# Large frames, which wait until they are whole


@both_sides
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 70_000])
@pytest.mark.parametrize("step", [1000, 4096, 65536])
def test_next_event_large_frame_when_complete(
    side: ConnectionType, raw: bool, size: int, step: int
) -> None:
    payload = b"large" * (size // 5 + 1)
    protocol = open_protocol(side)
    data = frame(TEXT, payload[:size], key=key_to(side)) + frame(PING, b"next", key=key_to(side))
    events: list[object] = []
    for start in range(0, len(data), step):
        protocol.reader.receive_data(data[start : start + step])
        events += [protocol.next_event(raw=raw), protocol.next_event(raw=raw)]
    events = [event for event in events if event is not NEED_DATA]
    expected = payload[:size] if raw else payload[:size].decode()
    assert events == [expected, Ping(payload=b"next")]
    assert (protocol.assembler.messages_received, protocol.assembler.bytes_received) == (1, size)


def test_large_frame_missing_bytes_are_known() -> None:
    protocol = open_protocol(CLIENT)
    data = frame(BINARY, bytes(10_000))
    protocol.reader.receive_data(data[:3000])
    assert protocol.next_event() is NEED_DATA
    assert protocol.reader.awaited == len(data) - 3000
    assert protocol.reader.undecoded == 3000 - 4
    protocol.reader.receive_data(data[3000:])
    assert protocol.reader.awaited == 0


def test_large_frame_keeps_bytes_after_it() -> None:
    protocol = open_protocol(CLIENT)
    data = frame(BINARY, bytes(10_000))
    protocol.reader.receive_data(data[:5000])
    assert protocol.next_event() is NEED_DATA
    protocol.reader.receive_data(data[5000:] + frame(TEXT, b"1"))
    protocol.reader.receive_data(frame(TEXT, b"2"))
    assert [protocol.next_event() for _ in range(4)] == [bytes(10_000), "1", "2", NEED_DATA]


def test_large_frame_delays_later_messages() -> None:
    protocol = open_protocol(CLIENT)
    data = frame(BINARY, bytes(10_000))
    protocol.reader.receive_data(data[:5000])
    assert protocol.reader.messages(9) == []
    assert protocol.next_event() is NEED_DATA
    protocol.reader.receive_data(data[5000:] + frame(TEXT, b"behind"))
    assert protocol.reader.messages(9) == []
    assert protocol.next_event() == bytes(10_000)
    assert protocol.reader.messages(9) == ["behind"]


@both_sides
def test_large_frame_invalid_utf_8_fails_when_complete(side: ConnectionType) -> None:
    protocol = open_protocol(side)
    data = frame(TEXT, b"\xff" + bytes(10_000), key=key_to(side))
    assert received(protocol, data[:5000], data[5000:]) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), side)[0] == 1007


@both_sides
def test_large_frame_invalid_utf_8_cut_off_fails(
    side: ConnectionType,
) -> None:
    protocol = open_protocol(side)
    data = frame(TEXT, b"\xff" + bytes(10_000), key=key_to(side))
    assert received(protocol, data[:5000]) == [NEED_DATA]
    protocol.receive_eof()
    assert list(events_of(protocol)) == [ENDED]
    assert sent_close(protocol.take_final_bytes(), side)[0] == 1007


@both_sides
@pytest.mark.parametrize("size", [LARGE, 70_000])
@pytest.mark.parametrize("cut", range(15))
def test_large_frame_head_cut_anywhere(side: ConnectionType, size: int, cut: int) -> None:
    payload = (b"large" * size)[:size]
    protocol = open_protocol(side)
    data = frame(BINARY, payload, key=key_to(side)) + frame(BINARY, b"next", key=key_to(side))
    events = received(protocol, data[:cut], data[cut:4000], data[4000:])
    assert [event for event in events if isinstance(event, bytes)] == [payload, b"next"]


def test_large_frame_after_close_is_dropped() -> None:
    protocol = open_protocol(CLIENT)
    data = frame(BINARY, bytes(10_000))
    protocol.reader.receive_data(data[:5000])
    assert protocol.next_event() is NEED_DATA
    protocol.start_close(1000, None)
    assert received(protocol, data[5000:], close_frame(1000)) == [ENDED]
    assert protocol.assembler.messages_received == 0


def test_large_frame_in_progress_becomes_stream() -> None:
    protocol = open_protocol(CLIENT)
    payload = b"0123456789" * 1000
    data = frame(BINARY, payload)
    protocol.reader.receive_data(data[:5000])
    assert protocol.next_event() is NEED_DATA
    protocol.begin_stream()
    pieces = []
    for chunk in (b"", data[5000:]):
        protocol.reader.receive_data(chunk)
        while isinstance(event := protocol.next_event(), MessageChunk) or event is PARTIAL:
            pieces.append(event)
    assert b"".join(piece.data for piece in pieces if isinstance(piece, MessageChunk)) == payload  # type: ignore[misc] # bytes, as it is binary


def test_receive_close_without_code_ignores_next_bytes() -> None:
    protocol = open_protocol(CLIENT)
    assert received(protocol, frame(CLOSE) + (1014).to_bytes(2, "big")) == [ENDED]
    assert protocol.closing.rcvd == CloseReason(1005, None)


@both_paths
@pytest.mark.parametrize("payload", [b"x", bytes(LARGE)], ids=["short", "large"])
@pytest.mark.parametrize("fin", [True, False], ids=["whole", "fragmented"])
def test_messages_received_excludes_those_after_close(
    fast: bool, payload: bytes, fin: bool
) -> None:
    protocol = open_protocol(CLIENT, fast=fast)
    protocol.start_close(1000, None)
    data = frame(BINARY, payload, fin=fin) + (b"" if fin else frame(CONTINUATION))
    assert received(protocol, data) == [NEED_DATA]
    assert (protocol.assembler.messages_received, protocol.assembler.bytes_received) == (0, 0)


# Several messages at once


@both_sides
def test_messages_stop_before_frames_for_wsproto(side: ConnectionType) -> None:
    protocol = open_protocol(side)
    key = key_to(side)
    data = [frame(TEXT, b"1", key=key), frame(BINARY, b"2", key=key), frame(PING, key=key)]
    protocol.reader.receive_data(b"".join([*data, frame(TEXT, b"3", key=key)]))
    assert protocol.reader.messages(9) == ["1", b"2"]
    assert protocol.reader.messages(9) == []
    assert protocol.next_event() == Ping(payload=b"")
    assert protocol.reader.messages(9, raw=True) == [b"3"]
    assert (protocol.assembler.messages_received, protocol.assembler.bytes_received) == (3, 3)


def test_messages_at_most_that_many() -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"x") * 3)
    assert protocol.reader.messages(2) == ["x", "x"]
    assert protocol.reader.messages(2) == ["x"]


@pytest.mark.parametrize(
    "prepare",
    [
        lambda protocol: protocol.start_close(1000, None),
        lambda protocol: protocol.closing.lose(OSError()),
        lambda protocol: protocol.begin_stream(),
    ],
    ids=["closed", "lost", "streaming"],
)
def test_messages_without_data_are_none(prepare: Callable[[Protocol], object]) -> None:
    protocol = open_protocol(CLIENT)
    protocol.reader.receive_data(frame(TEXT, b"x"))
    prepare(protocol)
    assert protocol.reader.messages(9) == []


def test_messages_max_fragments_0_are_none() -> None:
    protocol = open_protocol(CLIENT, max_fragments=0)
    protocol.reader.receive_data(frame(TEXT, b"x"))
    assert protocol.reader.messages(9) == []
    assert protocol.next_event() is ENDED


@pytest.mark.parametrize(
    "head",
    [frame(TEXT, length=300)[:2], frame(TEXT, length=2**16)[:2]],
    ids=["16-bit", "64-bit"],
)
def test_messages_bad_frame_are_none(head: bytes) -> None:
    protocol = open_protocol(SERVER)  # it accepts masked frames only
    assert received(protocol, head) == [NEED_DATA]  # wsproto checks the mask bit later
    protocol.reader.receive_data(frame(TEXT, b"a text", key=KEY))
    assert protocol.reader.messages(9) == []
    assert protocol.next_event() is ENDED


def test_messages_within_a_message_are_none() -> None:
    protocol = open_protocol(CLIENT)
    assert received(protocol, frame(TEXT, b"x", fin=False)) == [NEED_DATA]
    protocol.reader.receive_data(frame(TEXT, b"y"))
    assert protocol.reader.messages(9) == []


# Masking keys


def test_masking_keys_differ() -> None:
    protocol = open_protocol(CLIENT)
    keys = {protocol.writer.message(False, b"")[2:6] for _ in range(1000)}
    assert len(keys) == 1000


def test_skip_rest_after_invalid_frame_fails() -> None:
    protocol = open_protocol(CLIENT)
    protocol.begin_stream()
    protocol.reader.receive_data(frame(TEXT, b"begun", fin=False))
    assert protocol.next_event() == MessageChunk("begun", is_last=False)
    another = frame(TEXT, b"another")
    protocol.reader.receive_data(another[:2])
    assert protocol.next_event() is PARTIAL
    protocol.reader.skip_rest()
    protocol.reader.receive_data(another[2:])
    assert protocol.next_event() is ENDED
    assert protocol.closing.sent is not None
    assert protocol.closing.sent.code == 1002


@both_sides
@pytest.mark.parametrize("opcode", [TEXT, CONTINUATION], ids=["a message begun", "none begun"])
def test_undecoded_after_frame_out_of_order_counts_what_follows(
    side: ConnectionType, opcode: int
) -> None:
    protocol = open_protocol(side)
    key = key_to(side)
    first = frame(TEXT, b"begun", fin=False, key=key) if opcode == TEXT else b""
    wrong = frame(opcode, b"wrong", key=key)
    protocol.reader.receive_data(first + wrong + frame(TEXT, b"next", key=key))
    event = protocol.next_event()
    while event is PARTIAL:
        event = protocol.next_event()
    assert event is ENDED
    assert protocol.reader.undecoded == len(frame(TEXT, b"next", key=key))
