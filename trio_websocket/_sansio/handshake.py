"""The parts of the opening handshake that both sides share (RFC 6455, 4).

h11 parses and writes HTTP. The rules of RFC 6455 are checked here and not by wsproto, for four
reasons: wsproto accepts invalid requests (a bad key), refuses valid ones (a header in two lines),
fails on bytes outside ASCII, and has no limit for the size of a head.
"""

from __future__ import annotations

import re
from typing import Iterable, List, Mapping, NamedTuple, Sequence, Tuple, Union

import h11
import wsproto

from .deflate import DeflateExtension

Headers = List[Tuple[bytes, bytes]]
#: Headers as users pass them: str, too, as in 0.12.
ExtraHeaders = Iterable[Tuple[Union[bytes, str], Union[bytes, str]]]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
VERSION = b"13"
# Header lines in a head: 64 KiB of short lines would take 2 MiB of memory as header fields.
MAX_FIELDS = 256
_MAX_LINES = MAX_FIELDS + 2  # includes the start line and the empty line
_END_OF_HEAD = re.compile(rb"\n\r?\n")  # h11 uses the same pattern
MAX_INTERIM_RESPONSES = 10
# Elements of a list header, with their parameters, in all of its lines.
MAX_ELEMENTS = 100
_LISTS = (b"connection", b"upgrade", b"sec-websocket-protocol", b"sec-websocket-extensions")


class HandshakeResult(NamedTuple):
    """The outcome of an opening handshake."""

    #: Our side.
    side: wsproto.ConnectionType
    #: The request target.
    path: str | None
    #: The subprotocol that the server chose.
    subprotocol: str | None
    #: The headers that the peer sent, with names in lower case.
    headers: tuple[tuple[bytes, bytes], ...]
    #: The bytes that were received after the peer's head: the first frames.
    trailing: bytes
    #: The compression that both sides agreed on, or None.
    extension: DeflateExtension | None = None
    #: The URL up to the path, such as ``wss://example.org:8000``; None on a server.
    origin: str | None = None


def next_event(http: h11.Connection) -> object:
    """Return the next event, also for input on which h11 raises other errors.

    :raises h11.RemoteProtocolError: The peer does not speak HTTP.
    """
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        # A frame of h11's refers to the exception: break the reference cycle through the traceback.
        raise exc.with_traceback(None)  # noqa: B904 # it is the same exception
    except ValueError as exc:
        # h11 before 0.15 converts any Content-Length to an int; Python limits the number of digits.
        raise h11.RemoteProtocolError("bad Content-Length") from exc


class HeadBuffer:
    """Cuts received bytes at the end of a head, and limits its size and the number of its lines.

    h11 needs about 3 microseconds for a line, and parses a head in one step. It does not check the
    size of a head that arrives in one read.

    Invariant: `rest` is empty until the head is cut.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: The option ``max_header_size``, in bytes."""
        self._limit = limit
        self._size = 0  # includes the heads of interim responses
        #: The bytes that were received after the cut.
        self.rest = b""
        self._begin()

    def _begin(self) -> None:
        self._lines = 0
        self._tail = b""  # the latest bytes, where the end of the head may have begun
        #: True if the end of the head was received.
        self.is_complete: bool = False

    def add(self, size: int) -> None:
        """Count bytes that `take` does not get."""
        self._size += size

    def take(self, data: bytes) -> bytes:
        """Take received bytes, and return the bytes to parse.

        The head is cut at its end, or before the first line over the limit.
        """
        if self.is_complete or self._lines > _MAX_LINES:
            self.rest += data
            return b""
        text = self._tail + data
        end = _END_OF_HEAD.search(text)
        self.is_complete = end is not None
        part = data if end is None else data[: end.end() - len(self._tail)]
        lines = part.split(b"\n", _MAX_LINES - self._lines + 1)
        self._lines += len(lines) - 1
        if self._lines > _MAX_LINES:
            self.is_complete = False
            part = part[: len(part) - len(lines[-1])]
        self._size += len(part)
        self._tail = text[-2:]
        self.rest = data[len(part) :]
        return part

    def begin_next(self) -> bytes:
        """Begin with the head that follows an interim response. Return the bytes to parse."""
        received, self.rest = self.rest, b""
        self._begin()
        return self.take(received)

    @property
    def is_over(self) -> bool:
        """True if the head exceeds a limit."""
        return self._size > self._limit or self._lines > _MAX_LINES

    @property
    def bounds(self) -> str:
        """The limits, in words that follow "has more than"."""
        return f"max_header_size={self._limit} bytes, or more than {MAX_FIELDS} lines"


def merge_headers(headers: Headers, extra_headers: ExtraHeaders | None) -> Headers:
    """Return our headers and the user's. A header of the user's replaces ours of that name.

    :raises TypeError: The user's headers are not pairs of name and value.
    """
    pairs = check_headers(extra_headers) or ()
    extra = [(header_bytes(name), header_bytes(value)) for name, value in pairs]
    replaced = {name.lower() for name, _ in extra}
    return [pair for pair in headers if pair[0].lower() not in replaced] + extra


def check_headers(extra_headers: object) -> ExtraHeaders | None:
    """Return the headers that a user passed, as a list if they are an iterator.

    :raises TypeError: They are not pairs of name and value.
    :raises ValueError: A name or value that is a str is not ASCII.
    """
    if extra_headers is None:
        return None
    wanted = "extra_headers must be a list of (name, value) pairs"
    if isinstance(extra_headers, Mapping):
        raise TypeError(f"{wanted}, not a {type(extra_headers).__name__}")
    if isinstance(extra_headers, (str, bytes)) or not isinstance(extra_headers, Iterable):
        raise TypeError(f"{wanted}, not {extra_headers!r:.100}")
    pairs = extra_headers if isinstance(extra_headers, (list, tuple)) else list(extra_headers)
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{wanted}, and one element is {pair!r:.100}")
        for text in pair:
            header_bytes(text)
    return pairs


def header_bytes(text: bytes | str) -> bytes:
    """Return the name or value of a header that a user passed, as bytes."""
    if isinstance(text, str):
        return text.encode("ascii")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"the name and value of a header must be bytes or str, not {text!r:.100}")


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of all headers with this name. Pass the name in lower case."""
    return [value for key, value in headers if key == name]


def group_headers(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values of all headers, by name."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields


def check_elements(fields: Mapping[bytes, list[bytes]]) -> None:
    """Raise a ValueError if a list header has too many elements, counting their parameters.

    Short elements take much more memory and time than their bytes suggest.
    """
    for name in _LISTS:
        lines = fields.get(name)
        if not lines or (len(lines) == 1 and len(lines[0]) < MAX_ELEMENTS):
            continue  # too short for that many elements
        count = sum(1 + line.count(b",") + line.count(b";") for line in lines)
        if count > MAX_ELEMENTS:
            raise ValueError(f"the header {name.decode()} has more than {MAX_ELEMENTS} elements")


def split_tokens(values: Iterable[bytes]) -> list[bytes]:
    """Return the elements of a list header that are not empty (RFC 9110, 5.6.1).

    :param values: The values of the header: the list may stand in several lines.
    """
    return list(filter(None, map(bytes.strip, b",".join(values).split(b","))))


def has_token(values: Sequence[bytes], token: bytes) -> bool:
    """Return True if an element of a list header is this token. Pass it in lower case."""
    is_only_one = len(values) == 1 and values[0].lower() == token  # most are, which is faster
    return is_only_one or token in split_tokens_lower(values)


def split_tokens_lower(values: Iterable[bytes]) -> list[bytes]:
    """Return `split_tokens` in lower case, for headers where case does not matter."""
    return split_tokens(map(bytes.lower, values))
