"""Compressed conversations on every path, in every chunking, with every limit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st
from wsproto.connection import ConnectionType

from support.deflating import (
    ALL,
    KINDS,
    MIB,
    Turns,
    event_of,
    in_chunks,
    open_two,
    random_bytes,
)
from trio_websocket import (
    PerMessageDeflate,
)
from trio_websocket._sansio.events import MessageChunk, Status
from trio_websocket._sansio.protocol import Protocol

ENDED = Status.ENDED
OVER_LIMIT = Status.OVER_LIMIT
NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

deterministic = hypothesis_settings(derandomize=True, deadline=None, database=None, max_examples=20)


class Sent(NamedTuple):
    """A message, and the way in which it is sent."""

    is_text: bool
    #: The payload of each frame. With a single one, the message is sent whole.
    parts: tuple[bytes, ...]
    compress: bool
    #: True for a Ping before each frame.
    pings: tuple[bytes | None, ...]

    @property
    def message(self) -> str | bytes:
        payload = b"".join(self.parts)
        return payload.decode() if self.is_text else payload

    def encode(self, sender: Protocol) -> bytes:
        data = b""
        for number, (part, ping) in enumerate(zip(self.parts, self.pings)):
            if ping is not None:
                data += sender.writer.ping(ping)
            if len(self.parts) == 1:
                data += sender.writer.message(self.is_text, part, self.compress)
            else:
                data += sender.writer.fragment(
                    self.is_text,
                    part,
                    is_first=number == 0,
                    is_last=number == len(self.parts) - 1,
                    compress=self.compress,
                )
        return data

    def events(self) -> list[Any]:
        return [("ping", ping) for ping in self.pings if ping is not None] + [self.message]


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["a" * 300, "grüß dich 🙂 " * 30, "🙂" * 99, "\0" * 3000]),
)

blobs = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([bytes(5000), random_bytes(700), random_bytes(90) * 30, b"abc" * 50]),
)


@st.composite
def sendings(draw: Any) -> Sent:
    is_text = draw(st.booleans())
    payload = draw(texts).encode() if is_text else draw(blobs)
    ends = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = tuple(payload[a:b] for a, b in zip([0, *ends], [*ends, len(payload)]))
    pings = draw(
        st.lists(
            st.one_of(st.none(), st.none(), st.binary(max_size=3)),
            min_size=len(parts),
            max_size=len(parts),
        )
    )
    return Sent(is_text, parts, draw(st.booleans()), tuple(pings))


conversations = st.lists(sendings(), max_size=6)

chunk_sizes = st.lists(st.integers(1, 400), min_size=1, max_size=5)

choices = st.lists(st.booleans(), min_size=1, max_size=12)

bits_of_both = st.tuples(st.integers(9, 15), st.integers(9, 15))

resets_of_both = st.tuples(st.booleans(), st.booleans())

any_settings = st.builds(
    PerMessageDeflate,
    window_bits=st.integers(9, 15),
    mem_level=st.integers(1, 9),
    level=st.integers(-1, 9),
    context_takeover=st.booleans(),
    threshold=st.sampled_from([0, 1, 20, 128]),
)


def received(protocol: Protocol, chunks: list[bytes], wanted: list[bool]) -> list[Any]:
    """Return messages, Pings, and the code of a Close. A held message is requested again."""
    turns = Turns(wanted)
    found: list[Any] = []
    for chunk in chunks:
        protocol.reader.receive_data(chunk)
        is_awaited = turns.next()
        while True:
            event = protocol.next_event(is_awaited=is_awaited)
            is_awaited = turns.next()
            if event is OVER_LIMIT:
                is_awaited = True
            elif event is NEED_DATA:
                break
            elif event is ENDED:
                assert protocol.closing.sent is not None
                return [*found, protocol.closing.sent.code]
            elif event is not PARTIAL:
                found.append(event_of(event))
    return found


@pytest.mark.parametrize("side", KINDS)
@deterministic
@pytest.mark.no_cover
@given(
    settings=any_settings,
    bits=bits_of_both,
    resets=resets_of_both,
    sent=conversations,
    sizes=chunk_sizes,
    wanted=choices,
    limit=st.sampled_from([5000, 10_000, 2**20, math.inf]),
)
def test_compression_any_messages_arrive_unchanged(
    side: ConnectionType,
    settings: PerMessageDeflate,
    bits: tuple[int, int],
    resets: tuple[bool, bool],
    sent: list[Sent],
    sizes: list[int],
    wanted: list[bool],
    limit: float,
) -> None:
    expected = [event for one in sent for event in one.events()]
    for fast in (True, False):
        for chunking in (sizes, [100_000]):
            for turns in ([True], [False], wanted):
                receiver, sender = open_two(
                    side, settings, bits, resets, fast=fast, max_message_size=limit
                )
                data = b"".join([one.encode(sender) for one in sent])
                assert received(receiver, in_chunks(data, chunking), turns) == expected
                assert (
                    receiver.assembler.messages_received == sender.writer.messages_sent == len(sent)
                )
                assert receiver.assembler.bytes_received == sender.writer.bytes_sent


@pytest.mark.parametrize("side", KINDS)
@deterministic
@pytest.mark.no_cover
@given(
    resets=resets_of_both,
    sent=conversations,
    sizes=chunk_sizes,
    wanted=choices,
    limit=st.integers(0, 3000),
    fragments=st.integers(1, 4),
)
def test_compression_every_path_has_the_same_limits(
    side: ConnectionType,
    resets: tuple[bool, bool],
    sent: list[Sent],
    sizes: list[int],
    wanted: list[bool],
    limit: int,
    fragments: int,
) -> None:
    expected: list[Any] = []
    for one in sent:
        if len(b"".join(one.parts)) > limit or len(one.parts) > fragments:
            break
        expected += one.events()
    outcomes = []
    for fast in (True, False):
        for chunking in (sizes, [100_000]):
            for turns in ([True], [False], wanted):
                receiver, sender = open_two(
                    side,
                    ALL,
                    (15, 15),
                    resets,
                    fast=fast,
                    max_message_size=limit,
                    max_fragments=fragments,
                )
                data = b"".join([one.encode(sender) for one in sent])
                found = received(receiver, in_chunks(data, chunking), turns)
                outcomes.append([e for e in found if not isinstance(e, tuple)])
    messages = [event for event in expected if not isinstance(event, tuple)]
    whole = len(messages) == len(sent)
    assert all(outcome == messages + ([] if whole else [1009]) for outcome in outcomes)


class Reader:
    """Receives messages whole or in chunks, as `turns` says, and leaves some early."""

    def __init__(self, protocol: Protocol, turns: list[bool]) -> None:
        self._protocol = protocol
        self._turns = Turns(turns)
        self._pieces: list[Any] | None = None  # the chunks of the current message
        #: Each message, or the part that was taken, with True if it is the whole message.
        self.found: list[tuple[Any, bool]] = []
        self.pings: list[bytes] = []

    def read(self) -> None:
        """Take all available messages."""
        protocol = self._protocol
        while True:
            if self._pieces is None and self._turns.next():
                protocol.begin_stream(math.inf if self._turns.next() else None)
                self._pieces = []
            elif self._pieces == [] and self._turns.next():
                protocol.assembler.end_stream()  # as after a cancellation
                self._pieces = None
            elif self._pieces and self._turns.next():
                self._leave()
            is_away = self._pieces is None and self._turns.next()
            event = protocol.next_event(is_awaited=not is_away)
            if event is OVER_LIMIT:
                event = protocol.next_event(is_awaited=True)
            if event is NEED_DATA:
                return
            assert event is not ENDED
            assert event is not OVER_LIMIT
            if isinstance(event, MessageChunk):
                assert self._pieces is not None
                assert len(event.data) <= MIB
                self._pieces.append(event.data)
                if event.is_last:
                    self.found.append((self._pieces[0][:0].join(self._pieces), True))
                    self._pieces = None
            elif isinstance(event, (str, bytes)):
                assert self._pieces is None
                self.found.append((event, True))
            elif event is not PARTIAL:
                self.pings.append(event_of(event)[1])

    def _leave(self) -> None:
        assert self._pieces
        self.found.append((self._pieces[0][:0].join(self._pieces), False))
        self._pieces = None
        self._protocol.reader.skip_rest()


@pytest.mark.parametrize("side", KINDS)
@deterministic
@pytest.mark.no_cover
@given(
    resets=resets_of_both,
    sent=conversations,
    sizes=chunk_sizes,
    turns=choices,
    fast=st.booleans(),
)
def test_receive_stream_left_early_loses_nothing_else(
    side: ConnectionType,
    resets: tuple[bool, bool],
    sent: list[Sent],
    sizes: list[int],
    turns: list[bool],
    fast: bool,
) -> None:
    if all(turns):
        turns = [*turns, False]  # otherwise it would begin and cancel for ever
    receiver, sender = open_two(side, ALL, (15, 15), resets, fast=fast)
    reader = Reader(receiver, turns)
    for chunk in in_chunks(b"".join([one.encode(sender) for one in sent]), sizes):
        receiver.reader.receive_data(chunk)
        reader.read()
    assert len(reader.found) == len(sent)
    for (message, is_whole), one in zip(reader.found, sent):
        assert type(message) is type(one.message)
        assert message == one.message if is_whole else one.message.startswith(message)  # type: ignore[arg-type] # of one type
    assert reader.pings == [ping for one in sent for ping in one.pings if ping is not None]
    assert receiver.assembler.messages_received == len(sent)
    assert receiver.assembler.bytes_received == sender.writer.bytes_sent
