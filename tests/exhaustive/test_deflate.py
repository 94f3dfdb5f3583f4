"""The deflate codec on arbitrary messages, settings and chunks."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings, strategies as st
from wsproto.frame_protocol import Opcode

from support.deflating import (
    AGREED,
    AGREED_WITHOUT_TAKEOVER,
    RSV1,
    TAIL,
    client,
    connection,
    frame,
    pieces,
    random_bytes,
    received,
)
from trio_websocket._sansio.deflate import (
    DeflateCodec,
    InvalidData,
)
from trio_websocket._sansio.extensions import (
    PerMessageDeflate,
    answer,
    check_answer,
    offer,
)

deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=60)

pytestmark = pytest.mark.usefixtures("zlib_library")


@deterministic
@pytest.mark.no_cover
@given(st.binary(), st.booleans())
def test_inflate_arbitrary_data_raises_invalid_data_only(data: bytes, takeover: bool) -> None:
    def message(codec: DeflateCodec, chunks: list[bytes], max_length: int) -> bytes | None:
        try:
            return pieces(codec, chunks, max_length)
        except InvalidData:
            return None

    agreed = AGREED if takeover else AGREED_WITHOUT_TAKEOVER
    whole = message(client(agreed), [data], 10**6)
    assert message(client(agreed), [data[:3], data[3:]], 10) == whole
    assert message(client(agreed), [data[i : i + 1] for i in range(len(data))], 1) == whole


SETTINGS = st.builds(
    PerMessageDeflate,
    window_bits=st.integers(9, 15),
    mem_level=st.integers(1, 9),
    level=st.integers(-1, 9),
    context_takeover=st.booleans(),
)

PAYLOADS = st.one_of(
    st.binary(),
    st.builds(bytes, st.integers(0, 70_000)),
    st.builds(lambda part, times: part * times, st.binary(max_size=100), st.integers(0, 300)),
    st.integers(0, 40_000).map(random_bytes),
)


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    """Split the data into chunks of these sizes, and the rest."""
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


@deterministic
@pytest.mark.no_cover
@given(st.data(), SETTINGS, SETTINGS, st.booleans())
def test_negotiated_settings_exchange_messages(
    data: st.DataObject, ours: PerMessageDeflate, theirs: PerMessageDeflate, to_server: bool
) -> None:
    result = answer([offer(ours)], theirs)
    assert result is not None
    value, agreed = result
    assert check_answer([value], ours) == agreed
    assert agreed.server_max_window_bits == min(ours.window_bits, theirs.window_bits)
    assert agreed.client_max_window_bits == agreed.server_max_window_bits
    takeover = ours.context_takeover and theirs.context_takeover
    assert agreed.server_no_context_takeover is not takeover
    assert agreed.client_no_context_takeover is not takeover
    sender = DeflateCodec(agreed, ours if to_server else theirs, is_client=to_server)
    receiver = DeflateCodec(agreed, theirs if to_server else ours, is_client=not to_server)
    # Plain zlib, which other libraries use, must accept the same data.
    plain = zlib.decompressobj(-agreed.client_max_window_bits)
    sizes = st.lists(st.integers(0, 1000), max_size=5)
    for payload in data.draw(st.lists(PAYLOADS, max_size=4)):
        parts = split(payload, data.draw(sizes))
        packed = b"".join(sender.deflate_chunk(part, is_last=False) for part in parts[:-1])
        packed += sender.deflate_chunk(parts[-1], is_last=True)
        assert packed
        assert plain.decompress(packed + TAIL) == payload
        if not takeover:
            plain = zlib.decompressobj(-agreed.client_max_window_bits)
        if data.draw(st.booleans()):
            assert receiver.inflate(packed, len(payload)) == payload
        else:
            max_length = data.draw(st.integers(100, 10**5))
            assert pieces(receiver, split(packed, data.draw(sizes)), max_length) == payload


FLUSHES = st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_BLOCK, zlib.Z_FINISH])


@deterministic
@pytest.mark.no_cover
@given(st.data(), st.booleans())
def test_inflate_any_output_of_zlib_is_read(data: st.DataObject, takeover: bool) -> None:
    receiver = client(AGREED if takeover else AGREED_WITHOUT_TAKEOVER)
    compressor = zlib.compressobj(wbits=-15)
    for parts in data.draw(st.lists(st.lists(st.tuples(PAYLOADS, FLUSHES), max_size=4))):
        packed = b""
        for payload, flush in parts:
            packed += compressor.compress(payload) + compressor.flush(flush)
            if flush == zlib.Z_FINISH:
                compressor = zlib.compressobj(wbits=-15)
        packed += compressor.compress(b"!") + compressor.flush(zlib.Z_SYNC_FLUSH)
        message = b"".join(payload for payload, _ in parts) + b"!"
        if data.draw(st.booleans()):
            assert receiver.inflate(packed[:-4], len(message)) == message
        else:
            sizes = data.draw(st.lists(st.integers(0, 1000), max_size=5))
            assert pieces(receiver, split(packed[:-4], sizes), 1000) == message
        if not takeover:
            compressor = zlib.compressobj(wbits=-15)


TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION

CONTROLS = st.sampled_from([b"", b"", frame(Opcode.PING, b"?"), frame(Opcode.PONG)])


@deterministic
@pytest.mark.no_cover
@given(st.data(), st.booleans())
def test_extension_any_messages_in_any_frames_are_read(data: st.DataObject, takeover: bool) -> None:
    agreed = AGREED if takeover else AGREED_WITHOUT_TAKEOVER
    sender = client(agreed)
    payloads = data.draw(st.lists(PAYLOADS, max_size=4))
    stream = b""
    for payload in payloads:
        is_compressed = data.draw(st.booleans())
        packed = sender.deflate(payload) if is_compressed else payload
        parts = split(packed, data.draw(st.lists(st.integers(0, 1000), max_size=4)))
        for number, part in enumerate(parts):
            stream += frame(
                CONTINUATION if number else BINARY,
                part,
                fin=number == len(parts) - 1,
                rsv=RSV1 if is_compressed and not number else 0,
            )
            stream += data.draw(CONTROLS)
    found = received(connection(agreed=agreed), stream, size=data.draw(st.integers(500, 10**5)))
    assert [item for item in found if not isinstance(item, tuple)] == payloads
