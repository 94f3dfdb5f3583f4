"""A simple model of the protocol, written from the RFCs without regard to speed.

`judge` returns the result of a peer's frames. `response_of` and `frames_of` parse the bytes that
the library writes, and raise a `Violation` if they are malformed.
"""

from __future__ import annotations

import base64
import codecs
import dataclasses
import hashlib
import math
import re
from typing import NamedTuple, Tuple, Union

from support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, xor

#: A message, ("ping", payload) or ("pong", payload).
Event = Union[str, bytes, Tuple[str, bytes]]

_OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
# The text of a frame with this many bytes of payload may be checked only when it is whole.
_LARGE = 2**12
_REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


class Violation(AssertionError):
    """The library broke a promise."""


def expect(condition: object, what: str, *details: object) -> None:
    if not condition:
        raise Violation(": ".join([what, *(f"{detail!r:.500}" for detail in details)]))


# -- received data


@dataclasses.dataclass
class Verdict:
    """The result of all bytes that a peer sends."""

    events: list[Event] = dataclasses.field(default_factory=list)
    #: The peer's Close frame: its code, 1005 for none, and its reason.
    closed: tuple[int, str] | None = None
    #: The code that fails the connection.
    failed: int | None = None
    #: True if the library need not fail yet, because the invalid frame is incomplete.
    is_early: bool = False

    @property
    def is_final(self) -> bool:
        """True if the connection must end."""
        return self.closed is not None or (self.failed is not None and not self.is_early)

    @property
    def messages(self) -> list[str | bytes]:
        return [event for event in self.events if isinstance(event, (str, bytes))]

    @property
    def pings(self) -> list[bytes]:
        return [
            event[1] for event in self.events if isinstance(event, tuple) and event[0] == "ping"
        ]


def judge(
    data: bytes,
    *,
    masked: bool,
    max_size: float,
    max_fragments: float,
    close_after: int | None = None,
) -> Verdict:
    """Return the result of the frames in ``data`` (RFC 6455, 5 to 8).

    :param close_after: The number of events before our own Close. After it, only Pongs count.
    """
    judging = _Judge(data, masked, max_size, max_fragments, close_after)
    while judging.take_frame():
        pass
    return judging.verdict


class _Head(NamedTuple):
    fin: int
    opcode: int
    size: int
    length: int
    is_bad: bool


def _head_of(data: bytes, masked: bool) -> _Head | None:
    """Return the head of a frame, or None if it is incomplete and valid so far."""
    if len(data) < 2:
        return None
    first, second = data[:2]
    fin, opcode, length = first >> 7, first & 0xF, second & 0x7F
    is_bad = (
        first & 0x70
        or second >> 7 != masked
        or opcode not in _OPCODES
        or (opcode & 8 and (not fin or length > 125))
    )
    width = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + width:
        if not is_bad:
            return None
    elif width:
        length = int.from_bytes(data[2 : 2 + width], "big")
        is_bad = is_bad or length < (126 if width == 2 else 0x10000) or length >> 63
    return _Head(fin, opcode, 2 + width + 4 * (second >> 7), length, bool(is_bad))


class _Judge:
    def __init__(
        self,
        data: bytes,
        masked: bool,
        max_size: float,
        max_fragments: float,
        close_after: int | None,
    ) -> None:
        self.verdict = Verdict()
        self._data = data
        self._at = 0
        self._masked = masked
        self._max_size = max_size
        self._max_fragments = max_fragments
        self._close_after = math.inf if close_after is None else close_after
        self._begin_message()

    def _begin_message(self) -> None:
        self._opcode: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._binary = "", b""
        self._fragments = self._size = 0

    @property
    def _has_closed(self) -> bool:
        return len(self.verdict.events) >= self._close_after

    def take_frame(self) -> bool:
        """Judge one frame. Return False if it is the last one."""
        head = _head_of(self._data[self._at : self._at + 14], self._masked)
        if head is None:
            return False
        available = len(self._data) - self._at
        is_data = not head.opcode & 8
        is_out_of_order = is_data and (head.opcode == CONTINUATION) == (self._opcode is None)
        if head.is_bad or is_out_of_order:
            self.verdict.is_early = available < head.size + min(head.length, 1)
            self.verdict.failed = 1002
            return False
        if is_data and not self._is_within_limits(head.length):
            self.verdict.failed = 1009
            return False
        if available < head.size:
            return False
        start = self._at + head.size
        payload = self._data[start : start + head.length]
        if self._masked:
            payload = xor(payload, self._data[start - 4 : start])
        is_whole = len(payload) == head.length
        self._at = start + head.length
        if is_data:
            return self._take_data(head, payload, is_whole) and is_whole
        return is_whole and self._take_control(head, payload)

    def _is_within_limits(self, length: int) -> bool:
        self._fragments += 1
        self._size += length
        are_kept = self._size <= self._max_size and self._fragments <= self._max_fragments
        return are_kept or self._has_closed

    def _take_data(self, head: _Head, payload: bytes, is_whole: bool) -> bool:
        if head.opcode != CONTINUATION:
            self._opcode = head.opcode
        if self._opcode == TEXT:
            try:
                self._text += self._decoder.decode(payload, bool(head.fin and is_whole))
            except UnicodeDecodeError:
                self.verdict.failed = 1007
                self.verdict.is_early = not is_whole and head.length >= _LARGE
                return False
        else:
            self._binary += payload
        if head.fin and is_whole:
            if not self._has_closed:
                is_text = self._opcode == TEXT
                self.verdict.events.append(self._text if is_text else self._binary)
            self._begin_message()
        return True

    def _take_control(self, head: _Head, payload: bytes) -> bool:
        if head.opcode == CLOSE:
            _judge_close(payload, self.verdict)
            return False
        if head.opcode == PONG or not self._has_closed:
            self.verdict.events.append(("ping" if head.opcode == PING else "pong", payload))
        return True


def _judge_close(payload: bytes, verdict: Verdict) -> None:
    if not payload:
        verdict.closed = (1005, "")
        return
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _REGISTERED_CODES or 3000 <= code <= 4999):
        verdict.failed = 1002
        return
    try:
        verdict.closed = (code, payload[2:].decode())
    except UnicodeDecodeError:
        verdict.failed = 1007


# -- sent data


class Frame(NamedTuple):
    opcode: int
    payload: bytes


def frames_of(data: bytes, *, masked: bool) -> tuple[list[Frame], bytes]:
    """Return the frames that the library wrote, and the beginning of an incomplete one.

    The library must not have written fragments or reserved bits.
    """
    frames: list[Frame] = []
    while len(data) >= 2:
        first, second = data[0], data[1]
        expect(first >> 4 == 8, "we sent a frame with odd bits", data[:20])
        opcode, length = first & 0xF, second & 0x7F
        expect(opcode in (TEXT, BINARY, CLOSE, PING, PONG), "we sent a bad opcode", data[:20])
        expect((second >> 7) == masked, "we sent a frame with a wrong mask bit", data[:20])
        head = 2 + {126: 2, 127: 8}.get(length, 0)
        if len(data) < head:
            break
        if length > 125:
            announced = int.from_bytes(data[2:head], "big")
            least = 126 if length == 126 else 0x10000
            expect(announced >= least and opcode < 8, "we sent a bad length", data[:20])
            length = announced
        start = head + 4 * masked
        if len(data) < start + length:
            break
        payload = data[start : start + length]
        if masked:
            payload = xor(payload, data[head:start])
        if opcode == TEXT:
            payload.decode()
        elif opcode == CLOSE:
            verdict = Verdict()
            _judge_close(payload, verdict)
            expect(verdict.closed, "we sent a bad Close frame", payload)
        expect(not frames or frames[-1].opcode != CLOSE, "we sent a frame after Close", data[:20])
        frames.append(Frame(opcode, payload))
        data = data[start + length :]
    return frames, data


def close_code(payload: bytes) -> int:
    """Return the code in a Close frame, or 1005 if there is none."""
    return int.from_bytes(payload[:2], "big") if payload else 1005


class Response(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    rest: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def tokens(self, name: bytes) -> list[bytes]:
        return [token.strip().lower() for value in self.values(name) for token in value.split(b",")]


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) [\x20-\x7e]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")


def response_of(data: bytes, *, to_head: bool = False) -> Response:
    """Parse a response that the library wrote (RFC 9112)."""
    head, end, rest = data.partition(b"\r\n\r\n")
    expect(end, "we sent a response whose head has no end", data)
    status_line, *lines = head.split(b"\r\n")
    matched = _STATUS_LINE.fullmatch(status_line)
    if matched is None:
        raise Violation(f"we sent a bad status line: {status_line!r:.200}")
    headers = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Violation(f"we sent a bad header: {line!r:.200}")
        headers.append((header.group(1).lower(), header.group(2) or b""))
    response = Response(int(matched.group(1)), headers, b"", rest)
    if response.status == 101 or response.status in (204, 304):
        expect(not response.values(b"content-length"), "a length where no body may be", head)
        return response
    lengths = response.values(b"content-length")
    expect(len(lengths) == 1, "a response has one Content-Length", head)
    size = int(lengths[0])
    if to_head and not rest:
        return response
    expect(len(rest) >= size, "the body is not whole", data)
    return response._replace(body=rest[:size], rest=rest[size:])


def check_refusal(data: bytes, *, to_head: bool = False) -> int:
    """Check the library's answer to an invalid request. Return the status."""
    response = response_of(data, to_head=to_head)
    expect(not response.rest, "something behind the refusal", response.rest)
    expect(response.status in (400, 405, 426, 431, 501), "an unfit status", response.status)
    expect(b"close" in response.tokens(b"connection"), "no 'Connection: close'", response)
    if response.status == 405:
        expect(response.values(b"allow"), "405 has Allow (RFC 9110, 15.5.6)", response)
    if response.status == 426:
        expect(response.values(b"upgrade") == [b"websocket"], "426 has Upgrade", response)
        expect(b"upgrade" in response.tokens(b"connection"), "426 has 'Connection: Upgrade'")
    return response.status


def accept_token(key: bytes) -> bytes:
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def check_acceptance(data: bytes, key: bytes) -> Response:
    """Check the library's response 101, and return it. Its ``rest`` is the data after it."""
    response = response_of(data)
    expect(response.status == 101, "not accepted", response)
    expect(response.tokens(b"upgrade") == [b"websocket"], "no Upgrade", response)
    expect(b"upgrade" in response.tokens(b"connection"), "no 'Connection: Upgrade'", response)
    token = response.values(b"sec-websocket-accept")
    expect(token == [accept_token(key)], "a wrong Sec-WebSocket-Accept", response)
    return response
