"""Arbitrary conversations: every path and every chunking against wsproto."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterable, NamedTuple

import pytest
from hypothesis import example, given, settings, strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from support.protocols import (
    SERVER,
    both_paths,
    both_sides,
    close_payload,
    events_of,
    open_protocol,
    received,
    sent_close,
)
from trio_websocket._sansio.events import Status
from trio_websocket._sansio.protocol import Protocol

ENDED = Status.ENDED
NEED_DATA = Status.NEED_DATA

deterministic = settings(derandomize=True, deadline=None, database=None, max_examples=60)


class Outcome(NamedTuple):
    """The outcome of a connection."""

    events: list[Any]
    rcvd: tuple[int, str] | None
    #: The close code that fails the connection.
    verdict: int | None


def outcome(protocol: Protocol, chunks: Iterable[bytes], *, several: int = 0) -> Outcome:
    """Return the outcome of the bytes in the library."""
    events = received(protocol, *chunks, several=several)
    assert (events[-1] is ENDED) == protocol.closing.ended
    rcvd = None
    if protocol.closing.rcvd is not None:
        rcvd = protocol.closing.rcvd.code, protocol.closing.rcvd.reason or ""
    said = protocol.take_final_bytes()
    verdict = None
    if protocol.closing.error is not None:
        verdict = -1  # unknown, because we had sent a Close before
        if said:
            assert protocol.closing.sent is not None
            verdict = protocol.closing.sent.code
    return Outcome(events, rcvd, verdict)


def reference(side: ConnectionType, data: bytes, *, closing: bool) -> Outcome:
    """Return the outcome of the bytes in wsproto, fed at once, in the terms of the library."""
    peer = Connection(side)
    if closing:
        peer.send(CloseConnection(code=1000))
    peer.receive_data(data)
    events: list[Any] = []
    parts: list[Any] = []
    for event in peer.events():
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data)
            if event.message_finished and not closing:
                empty: Any = "" if isinstance(event, TextMessage) else b""
                events.append(empty.join(parts))
            if event.message_finished:
                parts = []
        elif isinstance(event, Ping):
            if not closing:
                events.append(("ping", bytes(event.payload)))
        elif isinstance(event, Pong):
            events.append(("pong", bytes(event.payload)))
        else:
            assert isinstance(event, CloseConnection)
            events.append(ENDED)
            if peer.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
                return Outcome(events, None, -1 if closing else int(event.code))
            return Outcome(events, (int(event.code), event.reason or ""), None)
    return Outcome([*events, NEED_DATA], None, None)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Split the data into chunks of these sizes, repeatedly."""
    chunks = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
        turn += 1
    return chunks


chunkings = st.lists(st.integers(1, 40), min_size=1, max_size=6)

keys = st.binary(min_size=4, max_size=4)

sizes = st.one_of(st.integers(0, 20), st.sampled_from([125, 126, 127]))

payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    sizes.map(lambda size: b"x" * size),
    sizes.map(lambda size: b"\xc3\xa4" * (size // 2)),
)

short_payloads = payloads.map(lambda payload: payload[:125])

close_payloads = st.one_of(
    st.just(b""),
    st.binary(max_size=3),
    st.builds(
        close_payload,
        st.one_of(
            st.sampled_from([*range(998, 1017), 2999, 3000, 4999, 5000]), st.integers(0, 65535)
        ),
        st.text(max_size=10).map(str.encode),
    ),
)


@st.composite
def messages(draw: Any, masked: bool) -> bytes:
    """Draw a message in one or more frames, with control frames between them."""
    key = draw(keys) if masked else None
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    whole = draw(st.text(max_size=12)).encode() if opcode == TEXT else draw(payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    starts, ends = [0, *cuts], [*cuts, len(whole)]
    data = b""
    for number, (start, end) in enumerate(zip(starts, ends)):
        if number and draw(st.booleans()):
            data += frame(draw(st.sampled_from([PING, PONG])), draw(short_payloads), key=key)
        first, last = number == 0, number == len(cuts)
        data += frame(opcode if first else CONTINUATION, whole[start:end], fin=last, key=key)
    return data


def is_not_1014(payload: bytes) -> bool:
    """Return True unless the code is 1014, which wsproto does not know."""
    return payload[:2] != close_payload(1014)


def controls(masked: bool, closes: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    key = keys if masked else st.none()
    return st.one_of(
        st.builds(frame, st.sampled_from([PING, PONG]), short_payloads, key=key),
        st.builds(frame, st.just(CLOSE), closes, key=key),
    )


def odd_frames() -> st.SearchStrategy[bytes]:
    """Draw frames that are mostly malformed or out of order."""
    return st.builds(
        frame,
        st.integers(0, 15),
        payloads.filter(is_not_1014),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
        key=st.one_of(st.none(), keys),
    )


def long_lengths(masked: bool) -> st.SearchStrategy[bytes]:
    """Draw frames whose length is longer than necessary."""
    return st.builds(
        frame,
        st.sampled_from([CONTINUATION, TEXT, BINARY, PING]),
        payloads,
        width=st.sampled_from([2, 8]),
        key=keys if masked else st.none(),
    )


@st.composite
def conversations(
    draw: Any, masked: bool, closes: st.SearchStrategy[bytes] = close_payloads
) -> bytes:
    """Return bytes of a peer: mostly valid, sometimes not."""
    parts = st.one_of(messages(masked), messages(masked), controls(masked, closes))
    good = draw(st.lists(parts, max_size=6))
    bad = draw(st.one_of(st.just(b""), odd_frames(), long_lengths(masked)))
    at = draw(st.integers(0, len(good)))
    return b"".join([*good[:at], bad, *good[at:]])


def outcomes(
    side: ConnectionType,
    data: bytes,
    chunking: list[int],
    *,
    closing: bool,
    **options: Any,
) -> list[Outcome]:
    """Return an outcome for each path and for several ways to cut the data."""
    found = []
    for fast, several in ((True, 0), (True, 2), (False, 0)):
        for sizes_ in (chunking, [1], [max(len(data), 1)]):
            protocol = open_protocol(side, fast=fast, **options)
            if closing:
                protocol.start_close(1000, None)
            found.append(outcome(protocol, pieces(data, sizes_), several=several))
    return found


@both_sides
@deterministic
@pytest.mark.no_cover
@given(data=st.data(), chunking=chunkings, closing=st.booleans())
def test_protocol_any_path_and_chunks_as_wsproto(
    side: ConnectionType, data: Any, chunking: list[int], closing: bool
) -> None:
    stream = data.draw(conversations(side is SERVER, close_payloads.filter(is_not_1014)))
    wanted = reference(side, stream, closing=closing)
    for found in outcomes(side, stream, chunking, closing=closing):
        assert found == wanted


@both_sides
@deterministic
@pytest.mark.no_cover
@given(
    data=st.data(),
    chunking=chunkings,
    closing=st.booleans(),
    max_message_size=st.integers(0, 30),
    max_fragments=st.integers(1, 4),
)
def test_protocol_any_path_and_chunks_with_small_limits(
    side: ConnectionType,
    data: Any,
    chunking: list[int],
    closing: bool,
    max_message_size: int,
    max_fragments: int,
) -> None:
    stream = data.draw(conversations(side is SERVER))
    first, *others = outcomes(
        side,
        stream,
        chunking,
        closing=closing,
        max_message_size=max_message_size,
        max_fragments=max_fragments,
    )
    for other in others:
        assert other == first


@st.composite
def damaged(draw: Any, masked: bool) -> bytes:
    """Draw a conversation with some bytes changed, removed or inserted."""
    stream = bytearray(draw(conversations(masked)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream)))
        stream[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(stream)


@both_sides
@both_paths
@deterministic
@pytest.mark.no_cover
@given(data=st.data(), chunking=chunkings, closing=st.booleans(), eof=st.booleans())
@example(data=None, chunking=[1], closing=False, eof=True)
def test_protocol_any_bytes_give_events_or_end(
    side: ConnectionType, fast: bool, data: Any, chunking: list[int], closing: bool, eof: bool
) -> None:
    stream = b""
    if data is not None:
        stream = data.draw(st.one_of(st.binary(max_size=200), damaged(side is SERVER)))
    protocol = open_protocol(side, fast=fast, max_message_size=50, max_fragments=5)
    if closing:
        protocol.start_close(1000, None)
    events = received(protocol, *pieces(stream, chunking))
    # only a head or a control frame may stay undecoded
    assert protocol.closing.ended or protocol.reader.undecoded < 2 + 4 + 125
    if eof:
        protocol.receive_eof()
        events[-1:] = events_of(protocol)
        assert events[-1] is ENDED
    *before, last = events
    assert last in (NEED_DATA, ENDED)
    assert all(isinstance(event, (str, bytes, tuple)) for event in before)
    assert sum(len(event) for event in before if isinstance(event, bytes)) <= len(stream)
    farewell = protocol.take_final_bytes()
    if farewell:
        assert not closing
        assert protocol.closing.sent is not None
        said = sent_close(farewell, side) if protocol.closing.sent.code != 1014 else (1014, "")
        assert said[0] == protocol.closing.sent.code
        if protocol.closing.error is not None:
            assert said[0] in (1002, 1007, 1009)
        else:
            assert protocol.closing.sent == protocol.closing.rcvd
    elif protocol.closing.ended and not closing:
        assert protocol.closing.reason is not None
        assert protocol.closing.reason.code == 1006


# A separate process, because a process with threads should not fork.
_FORK = """
import os
from support.protocols import CLIENT, open_protocol

protocol = open_protocol(CLIENT)
protocol.writer.message(False, b"")
reader, writer = os.pipe()
child = os.fork()
frame = protocol.writer.message(False, b"")
if not child:
    os.write(writer, frame)
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reader, 100) != frame)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_masking_keys_of_child_process_differ() -> None:
    command = [sys.executable, "-c", _FORK]
    root = Path(__file__).parents[2]
    printed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, timeout=60, check=True)
    assert printed.stdout == b"True\n"
