"""Check the sans-IO half of the library.

Each check feeds the same bytes several times, cut in different places. The results must be equal
and within the bounds.
"""

from __future__ import annotations

import dataclasses
import math
from random import Random
from typing import Any, Sequence

from wsproto.connection import ConnectionType
from wsproto.events import Ping, Pong
from wsproto.utilities import RemoteProtocolError

from support.frames import CLOSE, PONG
from trio_websocket import (
    CloseReason,
    ConnectionRejected,
    DeflateParameters,
    HandshakeError,
    PerMessageDeflate,
)
from trio_websocket._sansio.client_handshake import ClientHandshake
from trio_websocket._sansio.deflate import DeflateCodec, DeflateExtension
from trio_websocket._sansio.errors import ConnectionFailed
from trio_websocket._sansio.events import Status
from trio_websocket._sansio.options import Options
from trio_websocket._sansio.protocol import Protocol
from trio_websocket._sansio.server_handshake import BadRequest, ServerHandshake

from . import deflated, handshakes
from .model import (
    Event,
    Verdict,
    check_acceptance,
    check_refusal,
    close_code,
    expect,
    frames_of,
    judge,
    response_of,
)
from .mutation import cuts

YIELD = Status.YIELD
ENDED = Status.ENDED
NEED_DATA = Status.NEED_DATA
PARTIAL = Status.PARTIAL

Chunks = Sequence[bytes]

# A control frame, or the head of a frame, may stay undecoded until it is complete.
_MOST_UNDECODED = 14 + 125

# -- the handshakes


def check_server_handshake(data: bytes, rng: Random) -> None:
    limit = rng.choice((65536, 65536, 65536, 1000, 200))
    subprotocol, status = rng.random() < 0.5, rng.choice((None, None, 200, 204, 403, 999))
    outcomes = [
        _serve(chunks, Options(max_header_size=limit), subprotocol, status)
        for chunks in _cut_differently(data, rng)
    ]
    _expect_same(outcomes, is_long=len(data) > limit)


def _serve(chunks: Chunks, options: Options, subprotocol: bool, status: int | None) -> Any:
    handshake = ServerHandshake(options)
    received = 0
    to_head = b"".join(chunks).lstrip(b"\r\n").startswith(b"HEAD ")
    for index, chunk in enumerate(chunks):
        handshake.receive_data(chunk)
        received += len(chunk)
        try:
            has_request = handshake.has_request()
        except BadRequest as exc:
            expect(len(str(exc)) < 500, "a long text", str(exc))
            return "refused", check_refusal(exc.response, to_head=to_head)
        if has_request:
            behind = b"".join(chunks[index + 1 :])
            return _answer(handshake, subprotocol, status, behind)
        expect(received <= options.max_header_size, "kept more than max_header_size", received)
    try:
        handshake.receive_data(b"")
    except ConnectionFailed:
        return ("incomplete",)
    raise AssertionError("the end of the stream is no error")


def _answer(
    handshake: ServerHandshake, subprotocol: bool, status: int | None, behind: bytes
) -> Any:
    headers = handshake.headers
    offers = handshake.proposed_subprotocols
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    expect(len(keys) == 1 and len(keys[0]) == 24, "accepts without a key", headers)
    for name, value in (
        (b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")
    ):  # fmt: skip
        values = b",".join(v for n, v in headers if n == name).lower().split(b",")
        expect(value in [v.strip() for v in values], "accepts without", name, headers)
    expect(
        sum(name == b"host" for name, _ in headers) == 1,
        "accepts with other than one Host",
        headers,
    )
    expect(handshake.path.isprintable(), "an odd path", handshake.path)
    if status is not None:
        response = response_of(handshake.reject(status, [], b"" if status == 204 else b"no"))
        expect(response.status == status and not response.rest, "not as told to reject", response)
        return "valid", handshake.path, headers, offers
    chosen = offers[0] if offers and subprotocol else None
    data, opened = handshake.accept(chosen, [(b"X", b"y")])
    accepted = check_acceptance(data, keys[0])
    expect(not accepted.rest, "something behind the response", accepted.rest)
    expect(opened.subprotocol == chosen, "another subprotocol", opened.subprotocol, chosen)
    return "valid", handshake.path, headers, offers, opened.trailing + behind


def check_client_handshake(data: bytes, rng: Random) -> None:
    limit, body = rng.choice((65536, 65536, 1000, 200)), rng.choice((65536, 65536, 0, 10, 1000))
    options = Options(max_header_size=limit, max_rejection_body=body)
    outcomes = [_connect(chunks, options) for chunks in _cut_differently(data, rng)]
    _expect_same(outcomes, is_long=len(data) > limit)


def _connect(chunks: Chunks, options: Options) -> Any:
    key = [(b"Sec-WebSocket-Key", handshakes.KEY)]
    handshake = ClientHandshake("example.org", "/", ("chat", "superchat"), key, options)
    received = 0
    for index, chunk in enumerate([*chunks, b""]):
        try:
            handshake.receive_data(chunk)
            opened = handshake.result()
        except ConnectionRejected as exc:
            size = len(exc.body or b"")
            expect(size <= options.max_rejection_body, "kept more than max_rejection_body", size)
            expect(100 <= exc.status_code <= 999 and exc.status_code != 101, "a status", exc)
            return "rejected", exc.status_code, exc.headers, exc.body
        except HandshakeError as exc:
            expect(len(str(exc)) < 1000, "a long text", str(exc))
            return "failed", type(exc)
        if opened is not None:
            expect(b"101" in b"".join(chunks), "opened without a 101", chunks)
            expect(handshakes.ACCEPT in b"".join(chunks), "opened without the token", chunks)
            rest = opened.trailing + b"".join(chunks[index + 1 :])
            return "opened", opened.subprotocol, opened.headers, rest
        received += len(chunk)
        if not handshake.has_response:
            expect(received <= options.max_header_size, "kept more than max_header_size", received)
    raise AssertionError("waits for more after the end of the stream")


def _expect_same(outcomes: list[Any], *, is_long: bool) -> None:
    first = outcomes[0]
    for other in outcomes[1:]:
        if other == first:
            continue
        # For a head, or a chunk's head, that is too long, the error depends on the part that was
        # seen.
        alike = first[0] == other[0] in ("refused", "failed")
        if first[0] == other[0] == "rejected" and first[1:3] == other[1:3]:
            alike = first[3].startswith(other[3]) or other[3].startswith(first[3])
        expect(is_long and alike, "it matters how the bytes are cut", first, other)


# -- the open connection


def check_client_protocol(data: bytes, rng: Random) -> None:
    _check_protocol(data, rng, ConnectionType.CLIENT)


def check_server_protocol(data: bytes, rng: Random) -> None:
    _check_protocol(data, rng, ConnectionType.SERVER)


def _check_protocol(data: bytes, rng: Random, side: ConnectionType) -> None:
    options = random_limits(rng)
    close_after = rng.randrange(4) if rng.random() < 0.15 else None
    cut = _cut_differently(data, rng)
    runs = [
        _Run(side, options, close_after, fast=fast).outcome(chunks)
        for chunks in cut
        for fast in (True, False)
    ]
    for run in runs[1:]:
        expect(run == runs[0], "path and cuts make a difference", runs[0], run)
    verdict = judge(
        data,
        masked=side is ConnectionType.SERVER,
        max_size=options.max_message_size,
        max_fragments=options.max_fragments,
        close_after=close_after,
    )
    _compare(runs[0], verdict)


def check_client_deflate(data: bytes, rng: Random) -> None:
    _check_deflate(data, rng, ConnectionType.CLIENT)


def check_server_deflate(data: bytes, rng: Random) -> None:
    _check_deflate(data, rng, ConnectionType.SERVER)


def _check_deflate(data: bytes, rng: Random, side: ConnectionType) -> None:
    options = dataclasses.replace(random_limits(rng), compression=PerMessageDeflate())
    close_after = rng.randrange(4) if rng.random() < 0.15 else None
    agreed = deflated.agreed(data[:1])
    runs = [
        _Run(side, options, close_after, agreed, fast=fast).outcome(chunks)
        for chunks in _cut_differently(data[1:], rng)
        for fast in (True, False)
    ]
    for run in map(_without_code, runs[1:]):
        expect(run == _without_code(runs[0]), "path and cuts make a difference", runs[0], run)


def _without_code(outcome: _Outcome) -> _Outcome:
    """Return the outcome without the code, if several errors are possible.

    If data is invalid in several ways, any error may be found first. For example, decompressed data
    may be checked after the head of the next frame.
    """
    if outcome.farewell in (1002, 1007, 1009):
        return dataclasses.replace(outcome, sent=None, error=None, farewell=1007)
    if outcome.has_closed and outcome.error is not None:  # then there is only a text, no code
        return dataclasses.replace(outcome, error=(outcome.error[0], ""))
    return outcome


def random_limits(rng: Random) -> Options:
    if rng.random() < 0.5:
        return Options()
    size = rng.choice((math.inf, 2**20, 0, 1, 10, 125, 126, 1000, 65535, 65536))
    return Options(max_message_size=size, max_fragments=rng.choice((2**17, math.inf, 0, 1, 2, 3)))


@dataclasses.dataclass
class _Outcome:
    """The events, and the facts about the end."""

    events: list[Event] = dataclasses.field(default_factory=list)
    #: True if we sent a Close before the peer's Close, or before an error.
    has_closed: bool = False
    sent: tuple[int, str] | None = None
    rcvd: tuple[int, str] | None = None
    error: tuple[type[Exception], str] | None = None
    #: The code in the Close frame of `take_final_bytes`.
    farewell: int | None = None


class _Run:
    """One run over the bytes, with given chunks."""

    def __init__(
        self,
        side: ConnectionType,
        options: Options,
        close_after: int | None,
        agreed: DeflateParameters | None = None,
        *,
        fast: bool,
    ) -> None:
        self._is_client = side is ConnectionType.CLIENT
        extension = None
        if agreed is not None and options.compression is not None:
            codec = DeflateCodec(agreed, options.compression, is_client=self._is_client)
            extension = DeflateExtension(codec)
        self._protocol = Protocol(side, options, extension, fast=fast)
        self._max_size = options.max_message_size
        # A large frame stays undecoded until it is whole.
        self._most_undecoded = max(_MOST_UNDECODED, self._max_size if fast else 0)
        self._close_after = close_after
        self._result = _Outcome()

    def outcome(self, chunks: Chunks) -> _Outcome:
        protocol, result = self._protocol, self._result
        self._close_if_due()
        for chunk in chunks:
            protocol.reader.receive_data(chunk)
            if self._decode(most=2 * len(chunk) + _MOST_UNDECODED):
                break
            expect(
                protocol.reader.undecoded <= self._most_undecoded,
                "kept undecoded",
                protocol.reader.undecoded,
            )
        else:
            protocol.receive_eof()
            most = 2 * _MOST_UNDECODED + sum(map(len, chunks))
            expect(self._decode(most), "no end after the end of the stream")
        farewell, torn = frames_of(protocol.take_final_bytes(), masked=self._is_client)
        expect(not torn and len(farewell) <= 1, "a bad farewell", farewell, torn)
        expect(not protocol.take_final_bytes(), "a second farewell")
        expect(protocol.closing.ended and not protocol.closing.is_open, "no end")
        expect(protocol.next_event() is ENDED, "an event after the end")
        expect(protocol.closing.closed_error().reason is not None, "no reason")
        result.sent, result.rcvd = (
            _said(protocol.closing.sent),
            _said(protocol.closing.rcvd),
        )
        if protocol.closing.error is not None:
            result.error = (
                type(protocol.closing.error),
                _without_place(str(protocol.closing.error)),
            )
        if farewell:
            expect(farewell[0].opcode == CLOSE, "a farewell that is no Close", farewell)
            result.farewell = close_code(farewell[0].payload)
        return result

    def _decode(self, most: int) -> bool:
        """Decode the available data. Return True if the connection has ended."""
        for _ in range(most):
            event = self._protocol.next_event()
            if event is NEED_DATA:
                return False
            if event is ENDED:
                return True
            if event is PARTIAL or event is YIELD:
                continue
            if isinstance(event, Ping):
                payload = bytes(event.payload)
                pong = frames_of(self._protocol.writer.pong(payload), masked=self._is_client)
                expect(pong == ([(PONG, payload)], b""), "not the right Pong", pong, payload)
                self._result.events.append(("ping", payload))
            elif isinstance(event, Pong):
                self._result.events.append(("pong", bytes(event.payload)))
            else:
                expect(isinstance(event, (str, bytes)), "an odd event", event)
                assert isinstance(event, (str, bytes))
                size = len(event.encode() if isinstance(event, str) else event)
                expect(size <= self._max_size, "larger than max_message_size", size)
                self._result.events.append(event)
            self._close_if_due()
        expect(False, "too many steps")
        return True

    def _close_if_due(self) -> None:
        is_due = self._close_after is not None and len(self._result.events) >= self._close_after
        if is_due and self._protocol.closing.is_open:
            self._protocol.start_close(4000, "enough")
            self._result.has_closed = True


def _said(close: CloseReason | None) -> tuple[int, str] | None:
    return None if close is None else (close.code, _without_place(close.reason or ""))


def _without_place(text: str) -> str:
    """Remove the position from a codec's error, because it depends on the chunks."""
    return text.partition("can't decode")[0]


def _compare(outcome: _Outcome, verdict: Verdict) -> None:
    expect(outcome.events == verdict.events, "not those events", outcome, verdict)
    expect(outcome.rcvd == verdict.closed, "not the Close that was received", outcome, verdict)
    error = outcome.error and outcome.error[0]
    code: int | None = None
    if verdict.closed is not None:
        expect(error is None, "an error", outcome)
        code = verdict.closed[0]
    elif verdict.failed is not None and not (verdict.is_early and error is EOFError):
        expect(error is RemoteProtocolError, "no failure", outcome, verdict)
        code = verdict.failed
    else:
        expect(error is EOFError, "not just the end of the stream", outcome)
    if outcome.has_closed:
        expect(outcome.farewell is None, "a second Close", outcome)
        expect(outcome.sent == (4000, "enough"), "our Close is forgotten", outcome)
    else:
        expect(outcome.farewell == code, "not the right Close", outcome, verdict)
        expect((outcome.sent and outcome.sent[0]) == code, "it says it sent another", outcome)


# -- cutting


def _cut_differently(data: bytes, rng: Random) -> list[Chunks]:
    ways: list[Chunks] = [[data] if data else []]
    ways.append([piece for piece in cuts(rng, data, rng.choice((1, 2, 5))) if piece])
    if len(data) <= 60 or (len(data) <= 600 and rng.random() < 0.1):
        ways.append([data[i : i + 1] for i in range(len(data))])
    elif rng.random() < 0.2:  # into the heads of large frames, too
        step = rng.choice((5, 7, 11, 13, 1000))
        ways.append([data[i : i + step] for i in range(0, len(data), step)])
    return ways
