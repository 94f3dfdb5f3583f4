from __future__ import annotations

import tracemalloc

import pytest

from support.frames import frame
from trio_websocket._sansio.frames import (
    BINARY,
    FINAL,
    LargeFrame,
    check_utf8,
    cut_reason,
    is_shortest,
    long_head,
    sizes,
)

KEY = b"\1\2\3\4"
HEAD = long_head(FINAL | BINARY, 10_000)
MASKED_HEAD = b"\x82\xfe\x27\x10" + KEY  # 10,000 bytes


# -- heads

LENGTHS = [0, 1, 125, 126, 127, 0xFFFF, 0x10000, 2**31, 2**63 - 1, 2**64 - 1]


def head(length: int, *, is_masked: bool) -> bytes:
    """Return the head of a binary frame, without the key."""
    mask = is_masked << 7
    if length < 126:
        return bytes((0x82, mask | length))
    if length < 0x10000:
        return bytes((0x82, mask | 126)) + length.to_bytes(2, "big")
    return bytes((0x82, mask | 127)) + length.to_bytes(8, "big")


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_sizes_of_head_and_payload(length: int, is_masked: bool) -> None:
    data = head(length, is_masked=is_masked)
    size = len(data) + (len(KEY) if is_masked else 0)
    assert sizes(data) == (size, length)
    assert sizes(data + KEY + b"payload") == (size, length)


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("length", [126, 0xFFFF, 0x10000, 2**63])
def test_sizes_incomplete_head_gives_missing_size(length: int, is_masked: bool) -> None:
    data = head(length, is_masked=is_masked)
    for end in range(2, len(data)):
        assert sizes(data[:end]) == (len(data), None)


@pytest.mark.parametrize("length", LENGTHS)
def test_is_shortest_minimal_length_is_true(length: int) -> None:
    assert is_shortest(head(length, is_masked=False), length)
    assert is_shortest(head(length, is_masked=True), length)


@pytest.mark.parametrize(
    ("form", "length"), [(126, 0), (126, 125), (127, 0), (127, 126), (127, 0xFFFF)]
)
@pytest.mark.parametrize("mask", [0, 0x80])
def test_is_shortest_longer_length_is_false(form: int, length: int, mask: int) -> None:
    assert not is_shortest(bytes((0x82, mask | form)), length)


@pytest.mark.parametrize("size", [0x10000, 2**20, 2**40])
def test_long_head_of_frame_of_this_size(size: int) -> None:
    assert long_head(FINAL | BINARY, size) == head(size, is_masked=False)
    assert sizes(long_head(FINAL | BINARY, size)) == (10, size)


# -- texts


@pytest.mark.parametrize(
    ("reason", "cut"),
    [
        ("", b""),
        ("x" * 123, b"x" * 123),
        ("x" * 124, b"x" * 123),
        ("\N{SNOWMAN}" * 41, "\N{SNOWMAN}".encode() * 41),  # 123 bytes
        ("x" + "\N{SNOWMAN}" * 41, b"x" + "\N{SNOWMAN}".encode() * 40),
        ("xx" + "\N{SNOWMAN}" * 41, b"xx" + "\N{SNOWMAN}".encode() * 40),
    ],
)
def test_cut_reason_between_characters(reason: str, cut: bytes) -> None:
    assert cut_reason(reason).encode() == cut


@pytest.mark.parametrize("text", ["", "ASCII", "\x7f", "\x80", "\N{SNOWMAN}", "\U0010ffff"])
def test_utf_8_valid_is_no_error(text: str) -> None:
    check_utf8(text.encode())


@pytest.mark.parametrize(
    "payload", [b"\x80", b"\xff", b"x\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
)
def test_utf_8_invalid_is_error(payload: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        check_utf8(payload)


# -- LargeFrame


def payload(size: int = 10_000) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("step", [1, 7, 4095, 4096, 4097, 9_999, 10_000])
@pytest.mark.parametrize("is_masked", [False, True])
def test_large_frame_joins_parts(step: int, is_masked: bool) -> None:
    data = frame(BINARY, payload(), mask=True) if is_masked else frame(BINARY, payload())
    head_size, size = sizes(data)
    assert size == 10_000
    large = LargeFrame(data[:head_size], size)
    for start in range(head_size, len(data), step):
        assert large.left > 0
        assert large.add(data[start : start + step]) == b""
    assert large.payload() == payload()


def test_large_frame_counts_received_and_missing() -> None:
    large = LargeFrame(HEAD, 10_000)
    assert (large.received, large.left) == (0, 10_000)
    large.add(bytes(10))
    assert (large.received, large.left) == (10, 9_990)
    large.add(b"")
    assert (large.received, large.left) == (10, 9_990)
    large.add(bytes(9_990))
    assert (large.received, large.left) == (10_000, 0)


def test_large_frame_returns_bytes_after_it() -> None:
    large = LargeFrame(HEAD, 10_000)
    assert large.add(bytes(9_999)) == b""
    assert large.add(b"xbehind") == b"behind"
    assert large.add(b"more") == b"more"
    assert large.payload() == bytes(9_999) + b"x"
    assert (large.received, large.left) == (10_000, 0)


def test_large_frame_key_is_end_of_head() -> None:
    large = LargeFrame(MASKED_HEAD, 10_000)
    large.add(KEY * 2_500)
    assert large.payload() == bytes(10_000)


def test_large_frame_many_short_parts_use_little_memory() -> None:
    large = LargeFrame(long_head(FINAL | BINARY, 100_000), 100_000)
    data = payload(100_000)
    tracemalloc.start()
    try:
        for at in range(100_000):
            large.add(data[at : at + 1])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * 100_000
    assert large.payload() == data


def test_large_frame_large_part_is_not_copied() -> None:
    large = LargeFrame(HEAD, 10_000)
    parts = [bytes(4096), b"x" * 4096]
    for part in parts:
        large.add(part)
    assert all(kept is part for kept, part in zip(large.parts, parts))
