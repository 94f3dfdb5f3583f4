"""The codec on arbitrary frames: Python against wsproto, C against Python, whole against chunks."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st
from wsproto.frame_protocol import FrameDecoder, Opcode, ParseFailed

from support.codecs import (
    BINARY,
    IN_C,
    KEY,
    MASKED,
    PING,
    PURE,
    TEXT,
    UNBOUNDED,
    frame,
    needs_c,
)


def judged(
    buffer: bytes, at: int, mask: int, max_size: int, max_count: int, raw: bool
) -> tuple[list[str | bytes], int, int]:
    """Return the events that wsproto decodes."""
    decoder = FrameDecoder(client=not mask)
    decoder.receive_bytes(buffer[at:])
    found: list[str | bytes] = []
    total = 0
    while len(found) < max_count:
        try:
            decoded = decoder.process_buffer()
        except ParseFailed:
            break
        if decoded is None or not (decoded.frame_finished and decoded.message_finished):
            break
        payload = bytes(decoded.payload)  # type: ignore[arg-type] # a Close has another
        if decoded.opcode not in (Opcode.TEXT, Opcode.BINARY) or len(payload) > max_size:
            break
        message: str | bytes = payload
        if decoded.opcode is Opcode.TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                break
            message = payload if raw else text
        found.append(message)
        total += len(payload)
        at = len(buffer) - len(decoder.buffer)
    return found, at, total


deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=100)

sizes = st.one_of(st.integers(0, 40), st.sampled_from([124, 125, 126, 127, 130, 700, 65535, 65536]))

keys = st.sampled_from([KEY, bytes(4), b"\x80\x00\xff\x7f", b"abcd"])

firsts = st.sampled_from(
    [TEXT] * 4 + [BINARY] * 4 + [0x00, 0x01, 0x02, 0x80, PING, 0x88, 0xC1, 0xB2]
)


@st.composite
def one_frame(draw: st.DrawFn, is_masked: bool) -> bytes:
    size = draw(sizes)
    kind = draw(st.sampled_from(["zeros", "bytes", "text"]))
    payload = bytes(size)
    if kind == "bytes" and size <= 40:
        payload = draw(st.binary(min_size=size, max_size=size))
    elif kind == "text" and size <= 40:
        payload = draw(st.text(max_size=size)).encode()
    least = 0 if len(payload) < 126 else 2 if len(payload) < 0x10000 else 8
    width = least
    if draw(st.integers(0, 15)) == 0:
        width = draw(st.sampled_from([w for w in (0, 2, 8) if w >= least]))
    is_masked ^= draw(st.integers(0, 15)) == 0
    key = draw(keys) if is_masked else b""
    return frame(payload, first=draw(firsts), key=key, width=width)


@st.composite
def calls(draw: st.DrawFn) -> tuple[bytes, int, int, int, int, bool]:
    """Draw arguments for `messages`: frames, some of them invalid, cut off anywhere."""
    mask = draw(st.sampled_from([MASKED, 0]))
    buffer = b"".join(draw(st.lists(st.one_of(one_frame(bool(mask)), st.binary(max_size=4)))))
    if draw(st.booleans()):
        buffer = buffer[: draw(st.integers(0, len(buffer)))]
    at = draw(st.one_of(st.just(0), st.integers(0, len(buffer))))
    max_size = draw(st.one_of(st.just(UNBOUNDED), sizes))
    max_count = draw(st.sampled_from([0, 1, 2, 1000]))
    return buffer, at, mask, max_size, max_count, draw(st.booleans())


@deterministic
@given(call=calls())
def test_messages_in_python_decodes_as_wsproto(
    call: tuple[bytes, int, int, int, int, bool],
) -> None:
    assert PURE.messages(*call) == judged(*call)


@needs_c
@deterministic
@given(call=calls())
def test_messages_in_c_decodes_as_python(call: tuple[bytes, int, int, int, int, bool]) -> None:
    assert IN_C.messages(*call) == PURE.messages(*call)


@deterministic
@given(call=calls(), chunk=st.integers(1, 20))
def test_messages_in_chunks_decodes_as_whole(
    call: tuple[bytes, int, int, int, int, bool], chunk: int
) -> None:
    buffer, at, mask, max_size, _, raw = call
    wanted = PURE.messages(buffer, at, mask, max_size, UNBOUNDED, raw)
    for codec in (PURE, IN_C or PURE):
        found, total, place = [], 0, at
        for stop in [*range(at, min(len(buffer), at + 500), chunk), len(buffer)]:
            more, place, size = codec.messages(buffer[:stop], place, mask, max_size, UNBOUNDED, raw)
            found += more
            total += size
        assert (found, place, total) == wanted


@needs_c
@deterministic
@given(payload=st.binary(max_size=3000), key=st.binary(min_size=4, max_size=4), cut=st.data())
def test_masked_in_c_masks_as_python(payload: bytes, key: bytes, cut: st.DataObject) -> None:
    assert IN_C.masked(payload, key) == PURE.masked(payload, key)
    assert IN_C.frame(BINARY, payload, key) == PURE.frame(BINARY, payload, key)
    assert IN_C.frame(BINARY, payload, b"") == PURE.frame(BINARY, payload, b"")
    places = sorted(cut.draw(st.lists(st.integers(0, len(payload)))))
    ends = [0, *places, len(payload)]
    chunks = [payload[start:stop] for start, stop in zip(ends, ends[1:])]
    assert IN_C.unmasked(chunks, key) == PURE.unmasked(chunks, key)
