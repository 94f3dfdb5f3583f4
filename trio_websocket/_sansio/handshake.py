"""The parts of the opening handshake that both sides share (RFC 6455, 4).

h11 parses and generates HTTP. This package checks the rules of RFC 6455 itself, because wsproto
accepts invalid requests (with a bad key), rejects valid ones (with a header on two lines), fails on
non-ASCII bytes, and does not limit the size of a head.
"""

from __future__ import annotations

import re
from typing import Iterable, List, Mapping, NamedTuple, Sequence, Tuple, Union

import h11
import wsproto

from .deflate import DeflateExtension

Headers = List[Tuple[bytes, bytes]]
#: Headers as users pass them. As in 0.12, names and values can also be str.
ExtraHeaders = Iterable[Tuple[Union[bytes, str], Union[bytes, str]]]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
VERSION = b"13"
# The maximum number of header lines in a head: 64 KiB of short lines would take 2 MiB of memory
# once they are parsed.
MAX_FIELDS = 256
_MAX_LINES = MAX_FIELDS + 2  # includes the start line and the empty line
_END_OF_HEAD = re.compile(rb"\n\r?\n")  # h11 uses the same pattern
MAX_INTERIM_RESPONSES = 10
# The maximum number of elements and parameters in all lines of a list header.
MAX_ELEMENTS = 100
_LISTS = (b"connection", b"upgrade", b"sec-websocket-protocol", b"sec-websocket-extensions")


class HandshakeResult(NamedTuple):
    """The outcome of an opening handshake."""

    #: This side.
    side: wsproto.ConnectionType
    #: The request target.
    path: str | None
    #: The subprotocol that the server chose.
    subprotocol: str | None
    #: The headers that the peer sent, with lower-case names.
    headers: tuple[tuple[bytes, bytes], ...]
    #: The bytes that were received after the peer's head: the beginning of the first frames.
    trailing: bytes
    #: The compression that both sides agreed on, or None.
    extension: DeflateExtension | None = None
    #: The part of the URL before the path, such as ``wss://example.org:8000``; None on a server.
    origin: str | None = None


def next_event(http: h11.Connection) -> object:
    """Return h11's next event.

    :raises h11.RemoteProtocolError: The input is not valid HTTP. h11 itself can raise other errors.
    """
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        # One of h11's stack frames refers to the exception. Break the cycle through the traceback.
        raise exc.with_traceback(None)  # noqa: B904 # it is the same exception
    except ValueError as exc:
        # h11 before 0.15 converts any Content-Length to an int; Python limits the number of digits.
        raise h11.RemoteProtocolError("bad Content-Length") from exc


class HeadBuffer:
    """Splits received bytes at the end of a head, and limits the head's size and number of lines.

    h11 takes about 3 microseconds per line, and parses a head in one step. It does not check the
    size of a head that arrives in one read.

    Invariant: `rest` is empty until the bytes have been split.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: The option ``max_header_size``, in bytes."""
        self._limit = limit
        self._size = 0  # includes the heads of interim responses
        #: The received bytes that follow the split.
        self.rest = b""
        self._begin()

    def _begin(self) -> None:
        self._lines = 0
        self._tail = b""  # the latest bytes, which may contain the start of the end marker
        #: True if the end of the head has been received.
        self.is_complete: bool = False

    def add(self, size: int) -> None:
        """Count bytes towards the size limit that are not passed to `take`."""
        self._size += size

    def take(self, data: bytes) -> bytes:
        """Add received bytes, and return those that should be parsed.

        The bytes are split at the end of the head, or before the first line over the limit.
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
        """Start the head that follows an interim response, and return the bytes to parse."""
        received, self.rest = self.rest, b""
        self._begin()
        return self.take(received)

    @property
    def is_over(self) -> bool:
        """True if the head exceeds a limit."""
        return self._size > self._limit or self._lines > _MAX_LINES

    @property
    def bounds(self) -> str:
        """The limits, as a phrase that follows "has more than"."""
        return f"max_header_size={self._limit} bytes, or more than {MAX_FIELDS} lines"


def merge_headers(headers: Headers, extra_headers: ExtraHeaders | None) -> Headers:
    """Combine the default headers with the user's, which replace defaults of the same name.

    :raises TypeError: The user's headers are not pairs of name and value.
    """
    pairs = check_headers(extra_headers) or ()
    extra = [(header_bytes(name), header_bytes(value)) for name, value in pairs]
    replaced = {name.lower() for name, _ in extra}
    return [pair for pair in headers if pair[0].lower() not in replaced] + extra


def check_headers(extra_headers: object) -> ExtraHeaders | None:
    """Check the headers that a user passed, and return them in a form that can be reused.

    :returns: The argument if it is a list or a tuple, or else a list of its items.
    :raises TypeError: The headers are not pairs of name and value.
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
    """Convert the name or value of a header that a user passed to bytes."""
    if isinstance(text, str):
        return text.encode("ascii")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"the name and value of a header must be bytes or str, not {text!r:.100}")


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of all headers with this name. Pass the name in lower case."""
    return [value for key, value in headers if key == name]


def group_headers(headers: Headers) -> dict[bytes, list[bytes]]:
    """Group the values of all headers by name."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        fields.setdefault(name, []).append(value)
    return fields


def check_elements(fields: Mapping[bytes, list[bytes]]) -> None:
    """Raise a ValueError if a list header has too many elements and parameters in total.

    Short elements take much more memory and time than their size suggests.
    """
    for name in _LISTS:
        lines = fields.get(name)
        if not lines or (len(lines) == 1 and len(lines[0]) < MAX_ELEMENTS):
            continue  # too short to contain so many elements
        count = sum(1 + line.count(b",") + line.count(b";") for line in lines)
        if count > MAX_ELEMENTS:
            raise ValueError(f"the header {name.decode()} has more than {MAX_ELEMENTS} elements")


def split_tokens(values: Iterable[bytes]) -> list[bytes]:
    """Return the non-empty elements of a list header (RFC 9110, 5.6.1).

    :param values: The values of all lines with this header, which together form one list.
    """
    return list(filter(None, map(bytes.strip, b",".join(values).split(b","))))


def has_token(values: Sequence[bytes], token: bytes) -> bool:
    """Return True if a list header contains this token. Pass the token in lower case."""
    is_only_one = len(values) == 1 and values[0].lower() == token  # a fast path for most headers
    return is_only_one or token in split_tokens_lower(values)


def split_tokens_lower(values: Iterable[bytes]) -> list[bytes]:
    """Like `split_tokens`, but in lower case, for case-insensitive headers."""
    return split_tokens(map(bytes.lower, values))
