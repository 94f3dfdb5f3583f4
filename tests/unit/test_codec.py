"""Masking, framing, and decoding whole messages: in Python, and in C if it was built.

Each test runs with both versions, and compares them with the definition of RFC 6455, 5.3, or with
wsproto.
"""

from __future__ import annotations

import logging
import os
import sys
import tracemalloc
from types import SimpleNamespace
from typing import Any, Callable

import pytest

import trio_websocket
from support.codecs import (
    BINARY,
    IN_C,
    KEY,
    MASKED,
    PURE,
    TEXT,
    UNBOUNDED,
    frame,
    load,
    needs_c,
)
from support.frames import xor
from trio_websocket._sansio import codec as _codec

# Sizes around changes of the length's encoding, of words, and of the way to mask.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 124, 125, 126, 127, 128, 699, 700, 701, 702, 703]
SIZES += [4095, 65535, 65536, 65537, 2**20, 2**20 + 3]


FUNCTIONS = ("masked", "unmasked", "frame", "messages")


@pytest.fixture(params=["Python", pytest.param("C", marks=needs_c)])
def codec(request: pytest.FixtureRequest) -> Any:
    return PURE if request.param == "Python" else IN_C


def pattern(size: int) -> bytes:
    """Return bytes in which no two neighbouring words are equal."""
    return bytes(place * 7 % 251 for place in range(min(size, 1757))) * (size // 1757 + 1)


# -- the version in use


def test_codec_uses_c_if_built() -> None:
    in_c = SimpleNamespace(**{name: object() for name in FUNCTIONS})
    module = load(speedups=in_c)
    assert module.HAS_SPEEDUPS is True
    for name in FUNCTIONS:
        assert getattr(module, name) is getattr(in_c, name)


def test_codec_uses_python_without_c(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "trio-websocket"):
        module = load(speedups=None)
    assert module.HAS_SPEEDUPS is False
    assert module.masked(b"abcd", KEY) == xor(b"abcd", KEY)
    (message,) = caplog.messages
    assert "trio_websocket._sansio._speedups" in message
    assert "the log of the build may say why" in message


def test_codec_environment_variable_selects_python(caplog: pytest.LogCaptureFixture) -> None:
    in_c = SimpleNamespace(**{name: object() for name in FUNCTIONS})
    with caplog.at_level(logging.DEBUG, "trio-websocket"):
        module = load(no_extensions="1", speedups=in_c)
    assert caplog.messages == ["The C extension is not used: TRIO_WEBSOCKET_NO_EXTENSIONS is set"]
    assert module.HAS_SPEEDUPS is False
    assert module.masked(b"abcd", KEY) == xor(b"abcd", KEY)


def test_has_speedups_shows_which_is_used() -> None:
    assert trio_websocket.HAS_SPEEDUPS is _codec.HAS_SPEEDUPS
    is_wanted = not os.environ.get("TRIO_WEBSOCKET_NO_EXTENSIONS")
    assert trio_websocket.HAS_SPEEDUPS is (is_wanted and IN_C is not None)


# -- masking


@pytest.mark.parametrize("key", [KEY, bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\1"])
@pytest.mark.parametrize("size", SIZES)
def test_masked_is_xor_with_repeated_key(codec: Any, size: int, key: bytes) -> None:
    payload = pattern(size)[:size]
    number = int.from_bytes(payload, "big") ^ int.from_bytes((key * (size // 4 + 1))[:size], "big")
    assert codec.masked(payload, key) == number.to_bytes(size, "big")


def test_masked_twice_is_identity(codec: Any) -> None:
    for size in range(1100):
        payload = pattern(size)[:size]
        assert codec.masked(codec.masked(payload, KEY), KEY) == payload


def test_masked_does_not_change_payload(codec: Any) -> None:
    for size in (1, 4, 1000):
        payload = pattern(size)[:size]
        codec.masked(payload, KEY)
        assert payload == pattern(size)[:size]


@pytest.mark.parametrize("cuts", [[], [0], [1], [3, 4, 9], [2, 2, 2], [5, 1000], [999, 1000, 1001]])
def test_unmasked_joins_chunks(codec: Any, cuts: list[int]) -> None:
    payload = pattern(2005)[:2005]
    ends = [0, *cuts, len(payload)]
    chunks = [payload[start:stop] for start, stop in zip(ends, ends[1:])]
    assert codec.unmasked(chunks, KEY) == xor(payload, KEY)
    assert codec.unmasked(chunks, b"") == payload


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
def test_unmasked_nothing_is_empty(codec: Any, chunks: list[bytes], key: bytes) -> None:
    assert codec.unmasked(chunks, key) == b""


# -- framing


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("first", [TEXT, BINARY, 0x00, 0x01, 0x80, 0xC1, 0xFF])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 32, 125, 126, 127, 1000, 65535, 65536, 65537])
def test_frame_has_shortest_length(codec: Any, size: int, first: int, key: bytes) -> None:
    payload = pattern(size)[:size]
    assert codec.frame(first, payload, key) == frame(payload, first=first, key=key)


@pytest.mark.parametrize("first", [-1, 256, 2**70, -(2**70)])
@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("size", [0, 126, 65536])
def test_frame_wrong_first_byte_raises(codec: Any, first: int, key: bytes, size: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        codec.frame(first, bytes(size), key)


# -- decoding


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("size", SIZES)
def test_messages_decodes_message(codec: Any, size: int, key: bytes) -> None:
    payload = pattern(size)[:size]
    buffer = codec.frame(BINARY, payload, key)
    found = codec.messages(buffer, 0, MASKED if key else 0, UNBOUNDED, 1, False)
    assert found == ([payload], len(buffer), size)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize(
    "text", ["", "a", "hello", "\xe9\u20ac\U0001f600", "a" * 200, "\xe9" * 900]
)
def test_messages_text_is_str_or_bytes(codec: Any, text: str, key: bytes) -> None:
    payload = text.encode()
    buffer = frame(payload, first=TEXT, key=key)
    mask = MASKED if key else 0
    for raw, message in ((False, text), (True, payload)):
        found = codec.messages(buffer, 0, mask, UNBOUNDED, 1, raw)
        assert found == ([message], len(buffer), len(payload))
        assert type(found[0][0]) is type(message)


@pytest.mark.parametrize("mask", [MASKED, 0])
def test_messages_decodes_from_offset(codec: Any, mask: int) -> None:
    key = KEY if mask else b""
    skipped = frame(b"skipped", key=key)
    buffer = (
        skipped + frame(b"a", key=key, first=TEXT) + frame(b"", key=key) + frame(b"bc", key=key)
    )
    found = codec.messages(buffer, len(skipped), mask, UNBOUNDED, 10, False)
    assert found == (["a", b"", b"bc"], len(buffer), 3)


def test_messages_at_end_is_empty(codec: Any) -> None:
    buffer = frame(b"abc")
    for at in (len(buffer), len(buffer) - 1):
        assert codec.messages(buffer, at, MASKED, UNBOUNDED, 10, False) == ([], at, 0)
    assert codec.messages(b"", 0, MASKED, UNBOUNDED, 10, False) == ([], 0, 0)


def test_messages_decodes_at_most_max_count(codec: Any) -> None:
    one = frame(b"abc")
    for count in range(6):
        most = min(count, 4)
        found = codec.messages(one * 4, 0, MASKED, UNBOUNDED, count, False)
        assert found == ([b"abc"] * most, most * len(one), most * 3)
    assert codec.messages(one * 4, 0, MASKED, UNBOUNDED, 2**62, False)[1] == 4 * len(one)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("size", [0, 5, 125, 126, 1000, 65536])
def test_messages_leaves_incomplete_frame(codec: Any, size: int, key: bytes) -> None:
    whole, buffer = frame(b"ab", key=key), frame(pattern(size)[:size], key=key)
    mask = MASKED if key else 0
    for stop in [*range(min(len(buffer), 200)), len(buffer) - 1]:
        found = codec.messages(whole + buffer[:stop], 0, mask, UNBOUNDED, 10, False)
        assert found == ([b"ab"], len(whole), 2)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("size", [1, 125, 126, 1000, 65535, 65536])
def test_messages_leaves_message_over_max_size(codec: Any, size: int, key: bytes) -> None:
    payload = pattern(size)[:size]
    buffer, mask = frame(payload, key=key), MASKED if key else 0
    assert codec.messages(buffer, 0, mask, size, 10, False) == ([payload], len(buffer), size)
    assert codec.messages(buffer, 0, mask, size - 1, 10, False) == ([], 0, 0)
    assert codec.messages(buffer, 0, mask, 2**70, 10, False) == ([payload], len(buffer), size)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("size", [0, 4, 126])
def test_messages_leaves_fragments_and_control_frames(codec: Any, size: int, key: bytes) -> None:
    whole = frame(b"ab", key=key)
    for first in {*range(256)} - {TEXT, BINARY}:
        buffer = whole + frame(bytes(size), first=first, key=key) + whole
        found = codec.messages(buffer, 0, MASKED if key else 0, UNBOUNDED, 10, False)
        assert found == ([b"ab"], len(whole), 2)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65536])
def test_messages_leaves_wrong_mask_bit(codec: Any, size: int) -> None:
    for key, mask in ((KEY, 0), (b"", MASKED)):
        buffer = frame(bytes(size), key=key)
        assert codec.messages(buffer, 0, mask, UNBOUNDED, 10, False) == ([], 0, 0)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize(
    ("size", "width"), [(0, 2), (1, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)]
)
def test_messages_leaves_length_not_shortest(codec: Any, size: int, width: int, key: bytes) -> None:
    buffer = frame(bytes(size), key=key, width=width)
    assert codec.messages(buffer, 0, MASKED if key else 0, UNBOUNDED, 10, False) == ([], 0, 0)


@pytest.mark.parametrize("mask", [MASKED, 0])
@pytest.mark.parametrize(
    "size", [2**16, 2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 14, 2**64 - 20]
)
def test_messages_leaves_huge_length(codec: Any, size: int, mask: int) -> None:
    whole = frame(b"ab", key=KEY if mask else b"")
    buffer = whole + bytes((BINARY, mask | 127)) + size.to_bytes(8, "big") + bytes(100)
    for most in (0, 2, 100, UNBOUNDED, 2**64, 2**100):
        found = codec.messages(buffer, 0, mask, most, 10, False)
        assert found == (([b"ab"], len(whole), 2) if most else ([], 0, 0))


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize(
    "bad",
    [
        *(b"\x80", b"\xff", b"\xc0\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98"),
        *(b"\xf4\x90\x80\x80", b"a" * 130 + b"\x80", b"\x80" + b"a" * 5000, b"a" * 5000 + b"\xc3"),
    ],
)
def test_messages_leaves_invalid_utf_8(codec: Any, bad: bytes, key: bytes, raw: bool) -> None:
    whole = frame(b"ab", key=key)
    buffer = whole + frame(bad, first=TEXT, key=key) + whole
    found = codec.messages(buffer, 0, MASKED if key else 0, UNBOUNDED, 10, raw)
    assert found == ([b"ab"], len(whole), 2)


# -- in C: wrong calls, and memory

GOOD: dict[str, tuple[Any, ...]] = {
    "masked": (b"abc", KEY),
    "unmasked": ([b"abc", b"de"], KEY),
    "frame": (BINARY, b"abc", KEY),
    "messages": (frame(b"abc", first=TEXT), 0, MASKED, 10, 10, False),
}
BAD_BYTES = ["abc", bytearray(b"abcd"), memoryview(b"abcd"), None, 4]
WRONG_TYPES = [
    *(("masked", place, value) for place in (0, 1) for value in BAD_BYTES),
    *(("unmasked", 0, value) for value in (b"abc", (b"abc",), None, ["abc"], [b"abc", None])),
    *(("unmasked", 1, value) for value in BAD_BYTES),
    *(("frame", 0, value) for value in (b"\x82", None, 130.0)),
    *(("frame", place, value) for place in (1, 2) for value in BAD_BYTES),
    *(("messages", 0, value) for value in BAD_BYTES),
    *(("messages", place, value) for place in (1, 2, 3, 4) for value in ("0", None, 0.0, b"0")),
]
WRONG_VALUES: list[tuple[str, int, Any]] = [
    *((name, -1, key) for name in ("masked", "unmasked", "frame") for key in (b"abc", b"abcde")),
    *(("masked", 1, key) for key in (b"", KEY * 2)),
    *(("frame", 0, first) for first in (-1, 256, 2**70)),
    *(("messages", 1, at) for at in (-1, 10, 2**62, 2**63, -(2**63), 2**70)),
    *(("messages", 2, mask) for mask in (1, 0x7F, 0x81, -1, 2**31, 2**70)),
]


def changed(name: str, place: int, value: object) -> tuple[Any, ...]:
    arguments = [*GOOD[name]]
    arguments[place] = value
    return tuple(arguments)


@needs_c
@pytest.mark.parametrize(("name", "place", "value"), WRONG_TYPES)
def test_codec_in_c_wrong_type_raises(name: str, place: int, value: object) -> None:
    with pytest.raises(TypeError):
        getattr(IN_C, name)(*changed(name, place, value))


@needs_c
@pytest.mark.parametrize(("name", "place", "value"), WRONG_VALUES)
def test_codec_in_c_wrong_value_raises(name: str, place: int, value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        getattr(IN_C, name)(*changed(name, place, value))


@needs_c
@pytest.mark.parametrize("name", FUNCTIONS)
def test_codec_in_c_wrong_number_of_arguments_raises(name: str) -> None:
    for arguments in ((), GOOD[name][1:], (*GOOD[name], KEY)):
        with pytest.raises(TypeError):
            getattr(IN_C, name)(*arguments)


@needs_c
def test_codec_in_c_passes_on_error_of_bool() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise LookupError

    with pytest.raises(LookupError):
        IN_C.messages(*changed("messages", 5, Undecided()))


def make_calls() -> list[tuple[str, tuple[Any, ...]]]:
    """Return calls that cover each path of the functions, with arguments that are not shared."""
    text, bad = "caf\xe9".encode(), b"a\xff"
    long_text, long_bad = text * 1000, b"a" * 5000 + b"\xff"
    made: list[tuple[str, tuple[Any, ...]]] = []
    for key, mask in ((bytes(bytearray(KEY)), MASKED), (b"", 0)):
        for payload in (text, bad, long_text, long_bad):
            buffer = b"".join(frame(payload, first=first, key=key) for first in (BINARY, TEXT, 9))
            for raw in (False, True):
                made.append(("messages", (buffer, 0, mask, 100_000, 2**70, raw)))
                made.append(("messages", (buffer, len(buffer) - 1, mask, -(2**70), 10, raw)))
            made.append(("frame", (TEXT, payload, key)))
            made.append(("unmasked", ([payload, buffer], key)))
        made.append(("unmasked", ([], key)))
    made.append(("masked", (long_text, bytes(bytearray(KEY)))))
    return made


def make_bad_calls() -> list[tuple[str, tuple[Any, ...]]]:
    return [
        (name, changed(name, place, value)) for name, place, value in WRONG_TYPES + WRONG_VALUES
    ]


def make_all_calls(codec: Any) -> list[tuple[str, tuple[Any, ...]]]:
    return make_calls() + (make_bad_calls() if codec is IN_C else [])


def call_all(codec: Any, made: list[tuple[str, tuple[Any, ...]]]) -> None:
    for name, arguments in made:
        try:
            getattr(codec, name)(*arguments)
        except (TypeError, ValueError, OverflowError):
            pass


def references(made: list[tuple[str, tuple[Any, ...]]]) -> list[int]:
    """Return the numbers of references to these unshared objects."""
    found: list[int] = []
    for _, arguments in made:
        for argument in arguments:
            if isinstance(argument, (bytes, list)) and argument:
                found.append(sys.getrefcount(argument))
            if isinstance(argument, list):
                found += [sys.getrefcount(chunk) for chunk in argument if chunk is not None]
    return found


def test_codec_in_c_keeps_no_reference(codec: Any) -> None:
    made = make_all_calls(codec)
    before = references(made)
    for _ in range(20):
        call_all(codec, made)
    assert references(made) == before


def growth(function: Callable[[], None], rounds: int) -> float:
    """Return the bytes that are still allocated after each call, except the first."""
    tracemalloc.start()
    try:
        function()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(rounds):
            function()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / rounds


LESS_THAN_AN_OBJECT = 20


def test_codec_keeps_no_memory(codec: Any) -> None:
    made = make_all_calls(codec)
    assert growth(lambda: call_all(codec, made), rounds=50) < LESS_THAN_AN_OBJECT


def call_without_memory(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """Call a function with no memory, with memory for one object, and so on, until it succeeds."""
    testing: Any = pytest.importorskip("_testcapi")  # missing in some Pythons
    wanted = function(*arguments)
    result: object = None
    for enough in range(100):
        testing.set_nomemory(enough)
        try:
            result = function(*arguments)
        except MemoryError:
            continue
        finally:
            testing.remove_mem_hooks()
        break
    assert result == wanted


@needs_c
def test_codec_in_c_without_memory_raises() -> None:
    made = make_calls()

    def call_all_without_memory() -> None:
        for name, arguments in made:
            call_without_memory(getattr(IN_C, name), arguments)

    before = references(made)
    # Python 3.8 itself keeps some memory, less than one of the lists that each call makes.
    assert growth(call_all_without_memory, rounds=20) < LESS_THAN_AN_OBJECT * len(made)
    assert references(made) == before


# -- compared


@pytest.mark.parametrize(("max_size", "max_count"), [(-1, 1), (0, -1), (0, 0), (-(2**70), 1)])
def test_messages_no_size_or_count_is_empty(codec: Any, max_size: int, max_count: int) -> None:
    assert codec.messages(b"\x82\0", 0, 0, max_size, max_count, False) == ([], 0, 0)
